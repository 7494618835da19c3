# What this tree needs of its Salt master, beside what Salt's own package brings.
# Apply it with `salt-call` on the master itself: the service restarts.
{%- from "salt/map.jinja" import salt_settings with context %}
{%- from "pki/map.jinja" import pki with context %}
{%- set identities = pki.identities %}

{#- A peer rule a host: it may ask the CA for the certificates of its own roles alone.
    Salt matches the asking host, functions and arguments as patterns that are anchored
    at their start only, hence the escapes and the `$`; the CA host is a plain target. -#}
{%- set ca_host = pki.ca_host %}
{%- set peer = {} %}
{%- for id, host in pillar['hosts'] | dictsort if id != ca_host %}
{%- set names = ['host'] %}
{%- for role in host.roles if role in identities %}
{%- do names.append(identities[role].name) %}
{%- endfor %}
{%- do peer.update({(id | regex_escape) ~ '$': [{ca_host: [
      {'x509\\.sign_remote_certificate$': {'args': ['(' ~ (names | unique | join('|')) ~ ')-' ~ (id | regex_escape) ~ '$']}},
    ]}]}) %}
{%- endfor %}

salt-master-config:
  file.managed:
    - name: /etc/salt/master.d/goose.conf
    - source: salt://salt/files/master.conf.jinja
    - template: jinja
    - mode: '0644'
    - makedirs: true
    - context: {{ {'settings': salt_settings, 'peer': peer,
                   'worker_threads': salt_settings.worker_threads or pillar['hosts'] | length + 5} | tojson }}

{%- set keydir = salt_settings.gpg_keydir %}
{%- set public = salt_settings.gpg_public %}
{%- set uid = 'Pillar of ' ~ pillar['site']['name'] ~ ' <salt@' ~ grains['id'] ~ '>' %}
{%- set gpg = 'runuser -u ' ~ salt_settings.user ~ ' -- gpg --homedir ' ~ keydir ~ ' --batch' %}

salt-master-gpg-packages:
  pkg.installed:
    - pkgs: {{ salt_settings.gpg_packages | tojson }}
    - install_recommends: false

salt-master-gpg-home:
  file.directory:
    - name: {{ keydir }}
    - user: {{ salt_settings.user }}
    - group: {{ salt_settings.user }}
    - mode: '0700'
    - makedirs: true

# Made here, and leaves this host never. Without a passphrase: the master reads pillar by itself.
salt-master-gpg-key:
  cmd.run:
    - name: >-
        cd / && {{ gpg }} --pinentry-mode loopback --passphrase '' --quick-generate-key '{{ uid }}' future-default default never;
        status=$?; runuser -u {{ salt_settings.user }} -- gpgconf --homedir {{ keydir }} --kill all; exit $status
    - unless: cd / && {{ gpg }} --list-secret-keys '={{ uid }}'
    - require:
      - pkg: salt-master-gpg-packages
      - file: salt-master-gpg-home

salt-master-gpg-public:
  cmd.run:
    - name: cd / && umask 022 && {{ gpg }} --armor --export '={{ uid }}' >{{ public }}.new && mv {{ public }}.new {{ public }}
    - unless: cd / && {{ gpg }} --armor --export '={{ uid }}' | cmp -s - {{ public }}
    - require:
      - cmd: salt-master-gpg-key

salt-master-service:
  service.running:
    - name: {{ salt_settings.service }}
    - enable: true
    - unmask: true
    - watch:
      - file: salt-master-config
