# The monitoring host: Prometheus, its rules, and its page behind Apache.
{%- from "monitoring/map.jinja" import monitoring, need_prometheus with context %}
{%- from "common/map.jinja" import httpd with context %}
{%- set _ = need_prometheus() %}
{%- set selinux = monitoring.selinux if grains.get('selinux', {}).get('enabled') else {} %}
{%- import_yaml 'monitoring/dashboard.yaml' as dashboard %}

include:
  - common
  - common.httpd
  - pki
  - monitoring.exporter

# Its group comes with Prometheus's package.
extend:
  pki-prometheus-pem:
    goose_pki:
      - require:
        - pkg: monitoring-packages

# Before the package, which starts what it brings: without this it would listen on all addresses.
monitoring-unit:
  file.managed:
    - name: /etc/systemd/system/prometheus.service
    - source: salt://monitoring/files/prometheus.service.jinja
    - template: jinja
    - mode: '0644'
    - context: {{ {'path': monitoring.path, 'url': monitoring.url, 'retention': monitoring.retention} | tojson }}

monitoring-packages:
  pkg.installed:
    - pkgs: [{{ monitoring.prometheus.package }}]
    - install_recommends: false
    - require:
      - sls: common
      - file: monitoring-unit

# systemd does not see by itself that a unit which it has loaded from elsewhere is here now.
monitoring-unit-read:
  cmd.run:
    - name: systemctl daemon-reload
    - unless: systemctl show --property=FragmentPath prometheus | grep -q =/etc/systemd/system/
    - require:
      - pkg: monitoring-packages

monitoring-directory:
  file.directory:
    - name: {{ monitoring.path }}
    - user: prometheus
    - group: prometheus
    - mode: '0750'
    - makedirs: true
    - require:
      - pkg: monitoring-packages

monitoring-rules:
  file.managed:
    - name: /etc/prometheus/goose-rules.yaml
    - source: salt://monitoring/files/rules.yaml.jinja
    - template: jinja
    - mode: '0644'
    - check_cmd: /usr/bin/promtool check rules
    - context: {{ {'alerts': monitoring.alerts} | tojson }}
    - require:
      - pkg: monitoring-packages

monitoring-config:
  file.managed:
    - name: /etc/prometheus/prometheus.yml
    - source: salt://monitoring/files/prometheus.yml.jinja
    - template: jinja
    - mode: '0644'
    - check_cmd: /usr/bin/promtool check config --syntax-only
    - context: {{ {'hosts': monitoring.hosts, 'port': monitoring.port, 'interval': monitoring.interval, 'ca': monitoring.ca,
                   'certificate': monitoring.certificate, 'alertmanagers': monitoring.alertmanagers,
                   'rules': '/etc/prometheus/goose-rules.yaml'} | tojson }}
    - require:
      - pkg: monitoring-packages

monitoring-service:
  service.running:
    - name: prometheus
    - enable: true
    - unmask: true
    - require:
      - file: monitoring-directory
      - goose_pki: pki-prometheus-pem
    - watch:
      - pkg: monitoring-packages
      - file: monitoring-rules
      - file: monitoring-config
      - file: monitoring-unit
      - cmd: monitoring-unit-read

monitoring-current:
  koji_service.current:
    - name: prometheus
    - files:
      - /etc/prometheus/goose-rules.yaml
      - /etc/prometheus/prometheus.yml
      - /etc/systemd/system/prometheus.service
    - require:
      - service: monitoring-service

# For a Grafana of the site, to import.
monitoring-dashboard:
  file.managed:
    - name: /usr/local/share/goose/grafana-dashboard.json
    - source: salt://monitoring/files/dashboard.json.jinja
    - template: jinja
    - mode: '0644'
    - makedirs: true
    - context: {{ {'title': pillar['site']['name'], 'panels': dashboard.panels} | tojson }}

{%- for module in monitoring.httpd_modules %}
monitoring-module-{{ module }}:
  file.symlink:
    - name: /etc/apache2/mods-enabled/{{ module }}
    - target: ../mods-available/{{ module }}
    - require:
      - pkg: common-httpd-packages
    - require_in:
      - file: monitoring-apache
    - watch_in:
      - service: common-httpd-service
{%- endfor %}

monitoring-apache:
  file.managed:
    - name: {{ httpd.fragments }}/prometheus.conf
    - source: salt://monitoring/files/httpd.conf.jinja
    - template: jinja
    - mode: '0644'
    - context: {{ {'readers': monitoring.readers} | tojson }}
    - require:
      - pkg: common-httpd-packages
    - watch_in:
      - service: common-httpd-service

monitoring-apache-current:
  koji_service.current:
    - name: {{ httpd.service }}
    - reload: true
    - files:
      - {{ httpd.fragments }}/prometheus.conf
    - require:
      - service: common-httpd-service

{%- if selinux %}

monitoring-selinux-packages:
  pkg.installed:
    - pkgs: {{ selinux.packages | tojson }}
    - require:
      - sls: common

{%- for boolean in selinux.booleans %}
monitoring-selinux-{{ boolean }}:
  cmd.run:
    - name: setsebool -P {{ boolean }} on
    - unless: getsebool {{ boolean }} | grep -q -- '--> on$'
    - require:
      - pkg: monitoring-selinux-packages
{%- endfor %}
{%- endif %}
