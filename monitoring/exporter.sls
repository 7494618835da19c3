# On every host of a site that has a monitoring host: what it tells about itself.
{%- from "monitoring/map.jinja" import monitoring with context %}
{%- from "pki/map.jinja" import pki with context %}
{%- set programs = ['goose_exporter.py', 'goose/__init__.py', 'goose/exporter.py', 'goose/exporter_checks.py',
                    'goose/exporter_koji.py', 'goose/koji_call.py', 'goose/content.py', 'goose/content_live.py',
                    'goose/content_plan.py'] %}
{%- set asks_koji = 'koji_hub' in monitoring.exporter %}

include:
  - common
  - monitoring.tls
  - pki
{%- if asks_koji %}
  - koji.library
{%- endif %}

monitoring-exporter-packages:
  pkg.installed:
    - pkgs: {{ monitoring.exporter_packages | tojson }}
    - install_recommends: false
    - require:
      - sls: common

monitoring-exporter-user:
  user.present:
    - name: {{ monitoring.exporter_user }}
    - usergroup: true
    - system: true
    - createhome: false
    - home: /nonexistent
    - shell: /usr/sbin/nologin
    - password: '!'

{%- for file in programs %}
monitoring-exporter-program-{{ file | replace('/', '-') }}:
  file.managed:
    - name: {{ monitoring.program_dir }}/{{ file }}
    - source: salt://scripts/{{ file }}
    - mode: '{{ '0755' if file == 'goose_exporter.py' else '0644' }}'
    - makedirs: true
    - watch_in:
      - service: monitoring-exporter-service
{%- endfor %}

monitoring-exporter-config:
  file.serialize:
    - name: {{ monitoring.config_file }}
    - serializer: json
    - dataset: {{ monitoring.exporter | tojson }}
    - mode: '0644'
    - makedirs: true

monitoring-exporter-unit:
  file.managed:
    - name: /etc/systemd/system/goose-exporter.service
    - source: salt://monitoring/files/exporter.service.jinja
    - template: jinja
    - mode: '0644'
    - context: {{ {'program': monitoring.program_dir ~ '/goose_exporter.py', 'config': monitoring.config_file,
                   'user': monitoring.exporter_user, 'key': pki.dir ~ '/host.key', 'disks': monitoring.exporter.disks} | tojson }}

# A certificate that is renewed is read again by itself; its key is handed over at the start.
monitoring-exporter-service:
  service.running:
    - name: goose-exporter
    - enable: true
    - unmask: true
    - require:
      - pkg: monitoring-exporter-packages
      - user: monitoring-exporter-user
      - x509: pki-host-certificate
      - goose_pki: pki-ca-certificate
      - goose_pki: pki-crl
{%- if asks_koji %}
      - koji-library-software
{%- endif %}
    - require_in:
      - koji_service: monitoring-tls
    - watch:
      - file: monitoring-exporter-config
      - file: monitoring-exporter-unit
      - x509: pki-host-key

monitoring-exporter-current:
  koji_service.current:
    - name: goose-exporter
    - files:
      - {{ monitoring.config_file }}
      - /etc/systemd/system/goose-exporter.service
{%- for file in programs %}
      - {{ monitoring.program_dir }}/{{ file }}
{%- endfor %}
    - require:
      - service: monitoring-exporter-service
