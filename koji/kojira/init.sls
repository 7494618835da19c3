# Kojira: asks for new repos when tags change, and removes old ones.
{%- from "koji/map.jinja" import koji with context %}
{%- from "koji/software.jinja" import software %}
{%- set cert = koji.pki_dir ~ '/kojira.pem' %}
{%- set options = {
      'server': koji.urls.hub,
      'topdir': koji.volume.path,
      'cert': cert,
      'serverca': koji.serverca,
    } %}
{%- do options.update(koji.kojira.options) %}

include:
  - common
  - pki
  - koji.library
  - koji.volume
{%- if 'koji.hub' in pillar.get('roles', []) %}
  - koji.hub
{%- endif %}

{{ software(koji, 'kojira') }}

koji-kojira-config:
  file.managed:
    - name: /etc/kojira/kojira.conf
    - source: salt://koji/kojira/files/kojira.conf.jinja
    - template: jinja
    - mode: '0640'
    - makedirs: true
    - check_cmd: /usr/sbin/kojira --show-config --config
    - context: {{ {'options': options} | tojson }}
    - require:
      - koji-kojira-software

koji-kojira-unit:
  file.managed:
    - name: /etc/systemd/system/kojira.service.d/goose.conf
    - source: salt://koji/kojira/files/unit.conf.jinja
    - template: jinja
    - mode: '0644'
    - makedirs: true
    - context: {{ {'volume': koji.volume.path, 'log_dir': options.logfile.rsplit('/', 1)[0]} | tojson }}

# kojira's user and its permission are data, which another host may still be making.
koji-kojira-wait:
  koji_wait.hub:
    - server: {{ koji.urls.hub }}
    - cert: {{ cert }}
    - serverca: {{ koji.serverca }}
    - permission: repo
    - timeout: {{ koji.wait }}
    # One that runs has logged in, and holds the session of its user.
    - unless: systemctl --quiet is-active kojira
    - require:
      - koji-kojira-software
      - goose_pki: pki-kojira-pem
{%- if 'koji.hub' in pillar.get('roles', []) %}
      - service: common-httpd-service
{%- endif %}

koji-kojira-service:
  service.running:
    - name: kojira
    - enable: true
    - unmask: true
    - require:
      - koji_wait: koji-kojira-wait
      - koji-volume
    - watch:
      - koji-kojira-software
      - file: koji-kojira-config
      - file: koji-kojira-unit
      - goose_pki: pki-kojira-pem

koji-kojira-current:
  koji_service.current:
    - name: kojira
    - files:
      - /etc/kojira/kojira.conf
      - /etc/systemd/system/kojira.service.d/goose.conf
      - {{ cert }}
    - require:
      - service: koji-kojira-service
