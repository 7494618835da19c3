# The signing server: it alone holds keys, and dials the bridge; nothing dials it.
{%- from "sigul/map.jinja" import sigul, signing, need_package, identity_of with context %}
{%- from "common/lib.jinja" import host_with with context %}
{%- from "koji/map.jinja" import koji with context %}
{{- need_package('server') }}
{%- set server = sigul.server %}
{%- set bridge_here = 'sigul.bridge' in pillar.get('roles', []) %}
{%- set sections = salt['slsutil.merge']({
      'server': {'bridge-hostname': host_with('sigul.bridge') | trim},
      'database': {'database-path': server.database},
      'gnupg': {'gnupg-home': server.gnupg_home},
      'keys': {'keys-storage': server.keys_storage},
      'nss': {'nss-dir': server.nss_dir},
    }, server.options, strategy='recurse') %}

include:
  - common
  - pki
  - sigul.server.tls
  - koji.library
{%- if bridge_here %}
  - sigul.bridge
{%- endif %}

# Before the package, which makes the same: its scriptlets then find it.
sigul-server-group:
  group.present:
    - name: {{ server.group }}
    - system: true

sigul-server-user:
  user.present:
    - name: {{ server.user }}
    - gid: {{ server.group }}
    - system: true
    - createhome: false
    - home: {{ server.home }}
    - shell: /usr/sbin/nologin
    - password: '!'
    - require:
      - group: sigul-server-group

sigul-server-packages:
  pkg.installed:
    - pkgs: {{ [sigul.packages.server] | tojson }}
    - install_recommends: false
    - require:
      - sls: common
      - user: sigul-server-user

{%- for path in (server.home, server.gnupg_home, server.keys_storage) %}
sigul-server-directory-{{ path | replace('/', '-') }}:
  file.directory:
    - name: {{ path }}
    - user: {{ server.user }}
    - group: {{ server.group }}
    - mode: '0700'
    - require:
      - pkg: sigul-server-packages
    - require_in:
      - sigul: sigul-server-nss
      - sigul: sigul-server-database
{%- endfor %}

# May hold what a site seals keys with: never shown.
sigul-server-config:
  file.managed:
    - name: /etc/sigul/server.conf
    - source: salt://sigul/files/sigul.conf.jinja
    - template: jinja
    - user: root
    - group: {{ server.group }}
    - mode: '0640'
    - show_changes: false
    - context: {{ {'sections': sections} | tojson }}
    - require:
      - pkg: sigul-server-packages

sigul-server-secret:
  koji_file.secret:
    - name: {{ server.secret_file }}
    - section: nss
    - line: nss-password
    - group: {{ server.group }}
    - mode: '0640'
    - require:
      - pkg: sigul-server-packages
    - require_in:
      - sigul: sigul-server-nss

# Both before the first key: what they say is built into it.
{%- for name, lines in (('gpg.conf', server.gpg_conf), ('gpg-agent.conf', server.gpg_agent_conf)) %}
sigul-server-{{ name | replace('.', '-') }}:
  file.managed:
    - name: {{ server.gnupg_home }}/{{ name }}
    - contents: {{ lines | tojson }}
    - user: {{ server.user }}
    - group: {{ server.group }}
    - mode: '0600'
    - require:
      - file: sigul-server-directory-{{ server.gnupg_home | replace('/', '-') }}
    - require_in:
      - service: sigul-server-service
{%- endfor %}

sigul-server-database:
  sigul.database:
    - name: {{ server.database }}
    - config: {{ server.secret_file }}
    - user: {{ server.user }}
    - group: {{ server.group }}
    - require:
      - koji-library-software
      - file: sigul-server-config
      - sigul: sigul-server-nss

sigul-server-administrator:
  sigul.administrator:
    - name: {{ server.administrator or identity_of('sigul.client') }}
    - config: {{ server.secret_file }}
    - database: {{ server.database }}
    - passphrase_file: {{ server.administrator_passphrase_file }}
    - pillar_key: sigul:server:administrator_passphrase
    - user: {{ server.user }}
    - require:
      - sigul: sigul-server-database

sigul-server-logrotate:
  file.managed:
    - name: /etc/logrotate.d/sigul-server
    - source: salt://sigul/files/logrotate.jinja
    - template: jinja
    - mode: '0644'
    - context: {{ {'name': 'sigul-server', 'user': server.user, 'group': server.group} | tojson }}

sigul-server-unit:
  file.managed:
    - name: /etc/systemd/system/sigul_server.service.d/goose.conf
    - source: salt://sigul/files/unit.conf.jinja
    - template: jinja
    - mode: '0644'
    - makedirs: true
    - context: {{ {'name': 'sigul-server', 'program': '/usr/sbin/sigul_server', 'user': server.user, 'group': server.group,
                   'verbosity': server.verbosity, 'secret_file': server.secret_file, 'stop_seconds': server.stop_seconds,
                   'before_it': 'sigul_bridge.service' if bridge_here else '',
                   'settings': {},
                   'paths': [server.home, server.gnupg_home, server.keys_storage] | unique | list} | tojson }}
    - require:
      - pkg: sigul-server-packages

sigul-server-service:
  service.running:
    - name: sigul_server
    - enable: true
    - unmask: true
    - require:
      - sigul: sigul-server-administrator
{%- if bridge_here %}
      - service: sigul-bridge-service
{%- endif %}
    - watch:
      - pkg: sigul-server-packages
      - file: sigul-server-config
      - koji_file: sigul-server-secret
      - sigul: sigul-server-nss
      - file: sigul-server-unit
    - require_in:
      - koji_service: sigul-server-tls

sigul-server-current:
  koji_service.current:
    - name: sigul_server
    - files:
      - /etc/sigul/server.conf
      - {{ server.secret_file }}
      - {{ server.nss_dir }}
      - /etc/systemd/system/sigul_server.service.d/goose.conf
    - require:
      - service: sigul-server-service

sigul-server-ready:
  sigul.ready:
    - name: sigul_server
    - pid_file: /run/sigul-server/sigul_server.pid
    - require:
      - koji_service: sigul-server-current
