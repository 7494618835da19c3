package_repos:
  site-mock:
    offers: [mock, sigul, sigul-server, sigul-bridge, prometheus]
    apt: {Types: deb, URIs: 'https://repo.example.org/mock', Suites: ./, Signed-By: /etc/apt/keyrings/site.asc}
    yum: {name: Site, baseurl: 'https://repo.example.org/el$releasever', gpgcheck: 1, enabled: 1}

common:
  names: dns

pki:
  revoked:
    - serial_number: '1A:2B:3C:4D'
      revocation_date: '2026-01-02 03:04:05'

koji:
  backup:
    path: /mnt/backup
    keep: {daily: 14, monthly: 0}
    calendar: hourly
    recipients:
      alice: |
        -----BEGIN PGP PUBLIC KEY BLOCK-----

        mDMEZAAAABYJKwYBBAHaRw8BAQdA
        -----END PGP PUBLIC KEY BLOCK-----
      safe-2026: |
        -----BEGIN PGP PUBLIC KEY BLOCK-----

        mDMEZAAAABYJKwYBBAHaRw8BAQdA
        -----END PGP PUBLIC KEY BLOCK-----
  image:
    tags: [goose-1-build]
    kickstarts:
      live: |
        lang en_US.UTF-8
        %packages
        @core
        %end
  volume:
    kind: provided
    path: /srv/koji
  db:
    settings: {max_connections: 200}
    hba: ['hostssl koji report 192.0.2.70/32 scram-sha-256']
  hub:
    plugins: [save_failed_tree, sidetag_hub]
    plugin_configs:
      save_failed_tree: {permissions: {allowed_methods: '*'}}
    options:
      SMTPHost: mail.example.org
      DBPass: canary-database
  web:
    options:
      Secret: canary-web
  builder:
    options:
      allowed_scms: ['git.example.org:/*']
      plugin: [save_failed_tree]
      smtp_pass: canary-mail
    plugin_configs:
      save_failed_tree: {filters: {paths: /etc}}

lookaside:
  path: /srv/lookaside
  hashtypes: [sha512, md5]
  namespaces: [rpms, modules]
  uploaders: [alice]
  koji_permission: null
  repositories: [/srv/git]
  fsck: {mirror: 'https://mirror.example.org/lookaside', rate: 0}
scm:
  users:
    alice: ['ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA alice@example.org']
    bob: ['ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB', 'ecdsa-sha2-nistp256 AAAAE2VjZHNh bob@laptop']
  administrators: [alice]
  packagers: [bob]
  rules:
    docs/[a-z]+: ['RW+C = @administrators', 'R = @all']
  host_keys: ['ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC']
  also_allowed: ['svn.example.org:/repos/*:no:']

sigul:
  server:
    administrator: alice
    administrator_passphrase: canary-administrator
    verbosity: 2
    options:
      server: {lenient-username-check: true, proxy-usernames: 'robot'}
      gnupg: {gnupg-home: /srv/sigul-gnupg}
      binding: {enabled: tpm, tpm_pin: canary-tpm}
  bridge:
    options:
      bridge: {required-fas-group: signers, fas-user-name: bridge, fas-password: canary-fas}

signing:
  koji:
    second:
      server: https://koji.example.org/kojihub
      topurl: https://koji.example.org/kojifiles
      authtype: ssl
  keys:
    site-2023:
      uid: Site <security@example.org>
      state: retiring
    site-2026:
      uid: Site 100% <security@example.org>
      key_id: 0123456789abcdef
      koji: second
      tags: [dist-2026]
      inherit: true
      passphrase_file: /root/site-2026
      timer: {calendar: hourly}
    old:
      uid: Old <security@example.org>
      state: retired
  public_keys:
    old: |
      -----BEGIN PGP PUBLIC KEY BLOCK-----

      mQINBGQ=
      -----END PGP PUBLIC KEY BLOCK-----
  batch: {count: 20}

mash:
  output: /srv/www/repos
  compression: zstd
  keys_url: https://keys.example.org
  cert: /etc/pki/goose/mash.pem
  options: {hash: sha512}
  writable: [/var/lib/goose-sign]
  repositories:
    goose-1:
      calendar: '*:0/30'
      arches: [i386, x86_64]
      keys: [goose-1, '0x12345678']
      parent_repos: ['https://mirror.example.org/%(arch)s/os']
      distro_tags: ['cpe:/o:goose:1,GoOSe 1', 'second line']
      repomd_sign: gpg --batch --armor --detach-sign --output {asc} {repomd}
      allow: ['broken-deps:kernel']
    updates:
      tag: goose-1-testing
      arches: [x86_64]
      debuginfo: false
      source: false
      rpm_path: '%(arch)s'

pungi:
  name: GoOSe Linux
  user: mash
  repositories:
    - {binary: 'https://mash.example.org/repos/goose/{arch}/os', source: 'https://mash.example.org/repos/goose/source/SRPMS'}
  sigkeys: [0123abcd]
  variants:
    BaseOS: {environments: [minimal-environment], packages: [kernel]}
    AppStream: {groups: [development], exclude: ['*-debug'], requires: [BaseOS]}
  isos: [{variants: [BaseOS, AppStream]}]
  medium: {size: bluray, split: false}
  sign: [sigul, --batch, sign-text, --output, '{signed}', goose, '{file}']
  timer: {calendar: 'Mon 02:00', version: '1', stage: testing, release: nightly, publish: true}
  targets:
    web: {to: /srv/www/goose}
    mirror: {to: 'mirror@mirror.example.org:/srv/goose', stages: [Final], options: [--bwlimit=10M]}
  known_hosts: ['mirror.example.org ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAID']

monitoring:
  port: 9100
  clients: [grafana]
  interval: 30
  readers: everybody
  alertmanagers: ['alerts.example.org:9093']
  tags: {dist-2026: true}
  disks: [/srv]
  backups: [/srv/backup]
  retention: {time: 1y}
  alerts: {mash_old: null, disk_full: {under: 0.05}, koji_down: {for: 10m}}
