# The certificates that the hub reads; a renewal applies this alone, with Apache's own.
{%- from "koji/map.jinja" import koji with context %}
{%- from "common/map.jinja" import httpd with context %}
{%- set db_dir = '/etc/koji-hub/db' %}

include:
  - common.httpd
  - pki

koji-hub-db-directory:
  file.directory:
    - name: {{ db_dir }}
    - user: root
    - group: {{ httpd.group }}
    - mode: '0750'
    - require:
      - pkg: common-httpd-packages

# The hub runs as Apache's user and shows the database the certificate of its host.
{%- for name, state in (('host.crt', 'pki-host-certificate'), ('host.key', 'pki-host-key')) %}
koji-hub-db-{{ name.replace('.', '-') }}:
  koji_file.copied:
    - name: {{ db_dir }}/{{ name }}
    - source: {{ koji.pki_dir }}/{{ name }}
    - user: root
    - group: {{ httpd.group }}
    - mode: '0640'
    - require:
      - file: koji-hub-db-directory
      - x509: {{ state }}
    - watch_in:
      - service: common-httpd-service
{%- endfor %}

koji-hub-tls:
  koji_service.current:
    - name: {{ httpd.service }}
    - reload: true
    - files:
      - {{ db_dir }}/host.crt
    - require:
      - service: common-httpd-service
