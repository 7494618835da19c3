# PostgreSQL for the hub: the cluster, its access, the role, the database, the schema.
{%- from "koji/map.jinja" import koji with context %}
{%- from "common/selinux.jinja" import port with context %}
{%- set db = koji.db %}
{%- set service = db.services | last %}
{%- set conf = db.config_dir %}
{%- if not db.address or not koji.hub.address %}
{{ raise("Pillar 'hosts' gives no address for " ~ (koji.hub.host if db.address else db.host) ~ ": PostgreSQL lets in the hub's address alone, so add it to pillar/hosts.yaml or set koji:hub:address and koji:db:address.") }}
{%- endif %}

include:
  - common
  - common.selinux
  - pki
  - koji.db.tls
  - koji.library

koji-db-packages:
  pkg.installed:
    - pkgs: {{ db.packages | tojson }}
    - install_recommends: false
    - require:
      - koji-library-software

koji-db-cluster:
  cmd.run:
    - name: {{ db.initdb | tojson }}
    - unless: test -s {{ db.data_dir }}/PG_VERSION
    - require:
      - pkg: koji-db-packages
    - require_in:
      - file: koji-db-tls-directory

koji-db-config:
  file.managed:
    - name: {{ conf }}/postgresql.conf
    - source: salt://koji/db/files/postgresql.conf.jinja
    - template: jinja
    - user: postgres
    - group: postgres
    - mode: '0644'
    - context: {{ {'settings': db.base_settings} | tojson }}
    - require:
      - cmd: koji-db-cluster

koji-db-settings-directory:
  file.directory:
    - name: {{ conf }}/conf.d
    - user: postgres
    - group: postgres
    - mode: '0755'
    - require:
      - cmd: koji-db-cluster

koji-db-settings:
  file.managed:
    - name: {{ conf }}/conf.d/90-koji.conf
    - source: salt://koji/db/files/settings.conf.jinja
    - template: jinja
    - user: postgres
    - group: postgres
    - mode: '0644'
    - context: {{ {'memory': grains['mem_total'], 'percent': db.memory_percent, 'settings': db.settings,
                   'listen': db.listen or [db.address], 'port': db.port, 'tls_dir': db.tls_dir} | tojson }}
    - require:
      - file: koji-db-settings-directory

# ALTER SYSTEM writes here and would win over everything above.
koji-db-settings-auto:
  file.managed:
    - name: {{ db.data_dir }}/postgresql.auto.conf
    - contents: "# Settings belong into pillar koji:db:settings; ALTER SYSTEM's are removed from here."
    - user: postgres
    - group: postgres
    - mode: '0600'
    - require:
      - cmd: koji-db-cluster

koji-db-access:
  file.managed:
    - name: {{ conf }}/pg_hba.conf
    - source: salt://koji/db/files/pg_hba.conf.jinja
    - template: jinja
    - user: postgres
    - group: postgres
    - mode: '0640'
    - context: {{ {'database': db.name, 'user': db.user, 'hub': koji.hub.address, 'site': db.hba} | tojson }}
    - require:
      - cmd: koji-db-cluster

koji-db-identities:
  file.managed:
    - name: {{ conf }}/pg_ident.conf
    - source: salt://koji/db/files/pg_ident.conf.jinja
    - template: jinja
    - user: postgres
    - group: postgres
    - mode: '0640'
    - context: {{ {'user': db.user, 'hub': koji.hub.host, 'site': db.ident} | tojson }}
    - require:
      - cmd: koji-db-cluster

koji-db-unit:
  file.managed:
    - name: /etc/systemd/system/{{ service }}.service.d/goose.conf
    - source: salt://koji/db/files/unit.conf
    - mode: '0644'
    - makedirs: true

# A page that the disk has changed is an error then, and no wrong answer, and no part of a backup. Debian's package
# makes its cluster without. It takes as long as reading the database, and once only.
koji-db-checksums:
  cmd.run:
    - name: >-
        systemctl start {{ service }} && systemctl stop {{ service }} &&
        runuser -u postgres -- {{ db.programs }}/pg_checksums --enable --pgdata={{ db.data_dir }}
    - unless: >-
        LC_ALL=C runuser -u postgres -- {{ db.programs }}/pg_controldata --pgdata={{ db.data_dir }} |
        grep -q '^Data page checksum version: *[1-9]'
    - require:
      - file: koji-db-access
      - file: koji-db-identities
      - file: koji-db-unit
      - file: koji-db-config
      - file: koji-db-settings
      - file: koji-db-settings-auto
{%- for name in ('host.key', 'host.crt', 'ca.crt', 'crl.pem') %}
      - koji_file: koji-db-tls-{{ name | replace('.', '-') }}
{%- endfor %}
    - require_in:
      - service: koji-db-service

{%- for name in db.services[:-1] %}
koji-db-service-{{ name }}:
  service.running:
    - name: {{ name }}
    - enable: true
    - unmask: true
    - require:
      - cmd: koji-db-checksums
    - require_in:
      - service: koji-db-service
{%- endfor %}

{{- port('koji-db', db.port, 'postgresql_port_t', require_in=[{'service': 'koji-db-service'}]) }}

koji-db-service:
  service.running:
    - name: {{ service }}
    - enable: true
    - unmask: true
    - require:
      - cmd: koji-db-checksums
    - require_in:
      - koji_db: koji-db-tls

# Reloaded, or restarted where a setting needs that: PostgreSQL itself is asked.
koji-db-current:
  koji_db.current:
    - name: {{ service }}
    - files:
      - {{ conf }}/postgresql.conf
      - {{ conf }}/conf.d/90-koji.conf
      - {{ conf }}/pg_hba.conf
      - {{ conf }}/pg_ident.conf
      - {{ db.data_dir }}/postgresql.auto.conf
    - require:
      - service: koji-db-service

koji-db-role:
  koji_db.role:
    - name: {{ db.user }}
    - require:
      - koji_db: koji-db-current

koji-db-database:
  koji_db.database:
    - name: {{ db.name }}
    - owner: {{ db.user }}
    - require:
      - koji_db: koji-db-role

koji-db-schema:
  koji_db.schema:
    - name: {{ db.name }}
    - owner: {{ db.user }}
    - schema: {{ koji.hub.schema }}
    - administrator: {{ koji.administrator }}
    - require:
      - koji_db: koji-db-database

koji-db-dumps:
  file.directory:
    - name: {{ db.dumps }}
    - user: postgres
    - group: postgres
    - mode: '0700'
    - require:
      - cmd: koji-db-cluster

# The schema of an older hub; the new one does not start before this.
koji-db-upgrade:
  koji_db.upgraded:
    - name: {{ db.name }}
    - owner: {{ db.user }}
    - schema: {{ koji.hub.schema }}
    - dumps: {{ db.dumps }}
    - require:
      - file: koji-db-dumps
      - koji_db: koji-db-schema

koji-db-rights:
  koji_db.owned:
    - name: {{ db.name }}
    - owner: {{ db.user }}
    - require:
      - koji_db: koji-db-upgrade
