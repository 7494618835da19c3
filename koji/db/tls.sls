# The certificates that PostgreSQL reads; a renewal applies this alone.
{%- from "koji/map.jinja" import koji with context %}
{%- set db = koji.db %}

include:
  - pki

koji-db-tls-directory:
  file.directory:
    - name: {{ db.tls_dir }}
    - user: root
    - group: postgres
    - mode: '0750'

# PostgreSQL starts as postgres and so cannot read root's key; it takes a copy that
# belongs to root and that its group may read.
{%- for name, mode, state in (
      ('host.key', '0640', {'x509': 'pki-host-key'}),
      ('host.crt', '0644', {'x509': 'pki-host-certificate'}),
      ('ca.crt', '0644', {'goose_pki': 'pki-ca-certificate'}),
      ('crl.pem', '0644', {'goose_pki': 'pki-crl'}),
    ) %}
koji-db-tls-{{ name.replace('.', '-') }}:
  koji_file.copied:
    - name: {{ db.tls_dir }}/{{ name }}
    - source: {{ koji.pki_dir }}/{{ name }}
    - user: root
    - group: postgres
    - mode: '{{ mode }}'
    - require:
      - file: koji-db-tls-directory
      - {{ state | tojson }}
    - require_in:
      - koji_db: koji-db-tls
{%- endfor %}

koji-db-tls:
  koji_db.current:
    - name: {{ db.services | last }}
    - restart: false
    - files:
{%- for name in ('host.key', 'host.crt', 'ca.crt', 'crl.pem') %}
      - {{ db.tls_dir }}/{{ name }}
{%- endfor %}
