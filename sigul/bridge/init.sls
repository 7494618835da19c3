# The bridge: server and clients dial it, and it brings RPMs from Koji and signatures back.
{%- from "sigul/map.jinja" import sigul, signing, need_package, identity_of with context %}
{%- from "common/map.jinja" import common with context %}
{%- from "koji/map.jinja" import koji with context %}
{{- need_package('bridge') }}
{%- set bridge = sigul.bridge %}
{%- set identity = identity_of('sigul.bridge') | trim %}
{%- set cert = '/etc/sigul/' ~ identity ~ '.pem' %}
{%- set instances = {'koji-config': '/etc/sigul/koji-' ~ signing.default_koji ~ '.conf',
                     'koji-instances': signing.koji | sort | join(' ')} %}
{%- for name in signing.koji %}
{%- do instances.update({'koji-config-' ~ name: '/etc/sigul/koji-' ~ name ~ '.conf'}) %}
{%- endfor %}
{%- set sections = salt['slsutil.merge']({'koji': instances, 'nss': {'nss-dir': bridge.nss_dir}}, bridge.options, strategy='recurse') %}

include:
  - common
  - pki
  - sigul.bridge.tls
  - koji.library

sigul-bridge-group:
  group.present:
    - name: {{ bridge.group }}
    - system: true

# A user of its own: on a host with several roles it must not see the server's keys.
sigul-bridge-user:
  user.present:
    - name: {{ bridge.user }}
    - gid: {{ bridge.group }}
    - system: true
    - createhome: false
    - home: {{ bridge.home }}
    - shell: /usr/sbin/nologin
    - password: '!'
    - require:
      - group: sigul-bridge-group

sigul-bridge-packages:
  pkg.installed:
    - pkgs: {{ [sigul.packages.bridge] | tojson }}
    - install_recommends: false
    - require:
      - sls: common

sigul-bridge-directory:
  file.directory:
    - name: {{ bridge.home }}
    - user: {{ bridge.user }}
    - group: {{ bridge.group }}
    - mode: '0700'
    - require:
      - user: sigul-bridge-user
    - require_in:
      - sigul: sigul-bridge-nss

# May hold the password of an account: never shown.
sigul-bridge-config:
  file.managed:
    - name: /etc/sigul/bridge.conf
    - source: salt://sigul/files/sigul.conf.jinja
    - template: jinja
    - user: root
    - group: {{ bridge.group }}
    - mode: '0640'
    - show_changes: false
    - context: {{ {'sections': sections} | tojson }}
    - require:
      - pkg: sigul-bridge-packages
      - user: sigul-bridge-user

sigul-bridge-secret:
  koji_file.secret:
    - name: {{ bridge.secret_file }}
    - section: nss
    - line: nss-password
    - group: {{ bridge.group }}
    - mode: '0640'
    - require:
      - pkg: sigul-bridge-packages
      - user: sigul-bridge-user
    - require_in:
      - sigul: sigul-bridge-nss
      - koji_file: sigul-bridge-cert

{%- for name, options in signing.koji | dictsort %}
{%- set own = {'cert': cert} %}
{%- do own.update(options) %}
sigul-bridge-koji-{{ name }}:
  file.managed:
    - name: /etc/sigul/koji-{{ name }}.conf
    - source: salt://koji/client/files/koji.conf.jinja
    - template: jinja
    - user: root
    - group: {{ bridge.group }}
    - mode: '0640'
    - show_changes: false
    - context: {{ {'profiles': {'koji': own}} | tojson }}
    - require:
      - pkg: sigul-bridge-packages
      - user: sigul-bridge-user
    - require_in:
      - service: sigul-bridge-service
{%- endfor %}

sigul-bridge-logrotate:
  file.managed:
    - name: /etc/logrotate.d/sigul-bridge
    - source: salt://sigul/files/logrotate.jinja
    - template: jinja
    - mode: '0644'
    - context: {{ {'name': 'sigul-bridge', 'user': bridge.user, 'group': bridge.group} | tojson }}

sigul-bridge-unit:
  file.managed:
    - name: /etc/systemd/system/sigul_bridge.service.d/goose.conf
    - source: salt://sigul/files/unit.conf.jinja
    - template: jinja
    - mode: '0644'
    - makedirs: true
    - context: {{ {'name': 'sigul-bridge', 'program': '/usr/sbin/sigul_bridge', 'user': bridge.user, 'group': bridge.group,
                   'verbosity': bridge.verbosity, 'secret_file': bridge.secret_file, 'stop_seconds': bridge.stop_seconds,
                   'before_it': '',
                   'settings': {'Environment': 'REQUESTS_CA_BUNDLE=' ~ common.ca_trust.bundle, 'PrivateDevices': 'yes'},
                   'paths': [bridge.home]} | tojson }}
    - require:
      - pkg: sigul-bridge-packages

sigul-bridge-service:
  service.running:
    - name: sigul_bridge
    - enable: true
    - unmask: true
    - require:
      - koji-library-software
      - koji_file: sigul-bridge-cert
    - watch:
      - pkg: sigul-bridge-packages
      - file: sigul-bridge-config
      - koji_file: sigul-bridge-secret
      - sigul: sigul-bridge-nss
      - file: sigul-bridge-unit
    - require_in:
      - koji_service: sigul-bridge-tls

# Koji's files it reads anew for each request.
sigul-bridge-current:
  koji_service.current:
    - name: sigul_bridge
    - files:
      - /etc/sigul/bridge.conf
      - {{ bridge.secret_file }}
      - {{ bridge.nss_dir }}
      - /etc/systemd/system/sigul_bridge.service.d/goose.conf
    - require:
      - service: sigul-bridge-service

sigul-bridge-ready:
  sigul.ready:
    - name: sigul_bridge
    - pid_file: /run/sigul-bridge/sigul_bridge.pid
    - require:
      - koji_service: sigul-bridge-current
