# The certificates that the hub reads, and the sessions of people whose certificate is revoked; a
# renewal applies this alone, with Apache's own.
{%- from "koji/map.jinja" import koji with context %}
{%- from "common/map.jinja" import httpd with context %}
{%- from "pki/map.jinja" import pki with context %}
{%- set db_dir = koji.hub.db_dir %}

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

koji-hub-revoked:
  goose_pki.fetched:
    - name: {{ db_dir }}/revoked.json
    - entry: pki_ca_revoked
    - ca_host: {{ pki.ca_host }}
    - ca_path: {{ pki.ca_dir }}/trusted-revoked.json
    - require:
      - file: koji-hub-db-directory
      - goose_pki: pki-crl

# When Apache lets nobody in any more who is revoked: a session needs no certificate.
koji-hub-sessions:
  koji_db.sessions_ended:
    - name: {{ koji.hub.dsn }}
    - revoked: {{ db_dir }}/revoked.json
    - record: {{ db_dir }}/sessions-ended.json
    - user: {{ httpd.user }}
    - require:
      - goose_pki: koji-hub-revoked
      - koji_file: koji-hub-db-host-crt
      - koji_file: koji-hub-db-host-key
      - koji_service: common-httpd-current
