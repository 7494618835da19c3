# Backups of what this host has, by its other roles: the programs, what they read, and two timers.
{%- from "koji/backup/map.jinja" import backup with context %}
{%- set programs = ['koji_backup.py', 'koji_restore.py', 'goose/__init__.py', 'goose/koji_backup.py', 'goose/koji_backup_config.py',
                    'goose/koji_backup_database.py', 'goose/koji_backup_files.py', 'goose/koji_backup_seal.py',
                    'goose/koji_restore.py'] %}

include:
  - common

koji-backup-packages:
  pkg.installed:
    - pkgs: {{ backup.packages | tojson }}
    - install_recommends: false
    - require:
      - sls: common

# Whose it is and who may read it is said where it is mounted from.
koji-backup-path:
  file.directory:
    - name: {{ backup.path }}
    - makedirs: true

{%- for file in programs %}
koji-backup-program-{{ file | replace('/', '-') }}:
  file.managed:
    - name: {{ backup.program_dir }}/{{ file }}
    - source: salt://scripts/{{ file }}
    - mode: '{{ '0644' if '/' in file else '0755' }}'
    - makedirs: true
    - require_in:
      - file: koji-backup-config
{%- endfor %}

koji-backup-recipients:
  file.directory:
    - name: {{ backup.recipients_dir }}
    - mode: '0755'
    - makedirs: true

{%- for name, key in backup.recipients | dictsort %}
koji-backup-recipient-{{ name }}:
  file.managed:
    - name: {{ backup.recipients_dir }}/{{ name }}.asc
    - contents: {{ key | tojson }}
    - mode: '0644'
    - require:
      - file: koji-backup-recipients
    - require_in:
      - file: koji-backup-recipients-only
{%- endfor %}

# Who is taken out of pillar can open no backup that is made from then on.
koji-backup-recipients-only:
  file.directory:
    - name: {{ backup.recipients_dir }}
    - clean: true
    - require:
      - file: koji-backup-recipients
    - require_in:
      - file: koji-backup-config

koji-backup-config:
  file.serialize:
    - name: {{ backup.config_file }}
    - serializer: json
    - dataset: {{ backup.config | tojson }}
    - mode: '0644'
    - makedirs: true
    - require:
      - pkg: koji-backup-packages

{%- for unit, what, commands, calendar in (
      ('koji-backup', 'Back up what this host has of the build environment', ['run'], backup.calendar),
      ('koji-backup-verify', 'Read the newest backup in full, and hold this host against it', ['verify', 'verify --live'], backup.verify_calendar),
    ) %}
{%- for kind in ('service', 'timer') %}
{{ unit }}-{{ kind }}:
  file.managed:
    - name: /etc/systemd/system/{{ unit }}.{{ kind }}
    - source: salt://koji/backup/files/backup.{{ kind }}.jinja
    - template: jinja
    - mode: '0644'
    - context: {{ {'what': what, 'commands': commands, 'calendar': calendar, 'path': backup.path,
                   'program': backup.program_dir ~ '/koji_backup.py'} | tojson }}
{%- endfor %}

{{ unit }}-timing:
  service.running:
    - name: {{ unit }}.timer
    - enable: true
    - unmask: true
    - require:
      - file: {{ unit }}-service
      - file: koji-backup-config
      - file: koji-backup-path
    - watch:
      - file: {{ unit }}-timer
{%- endfor %}
