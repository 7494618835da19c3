# Housekeeping of the hub: koji-gc for builds that no tag holds, koji-sweep-db for the database, and what
# neither of them nor kojira removes from the volume.
{%- from "koji/map.jinja" import koji with context %}
{%- from "koji/software.jinja" import software %}
{%- from "common/map.jinja" import httpd with context %}
{%- set gc = koji.gc %}
{%- set cert = koji.pki_dir ~ '/' ~ gc.user ~ '.pem' %}
{%- if 'koji.hub' not in pillar.get('roles', []) %}
{{ raise(grains['id'] ~ " has the role koji.gc and not koji.hub: give both to one host in pillar/hosts.yaml. It reads the hub's configuration and writes the hub's part of the volume.") }}
{%- endif %}
{%- if gc.dry_run not in (true, false) %}
{{ raise("Pillar 'koji:gc:dry_run' is '" ~ gc.dry_run ~ "': say true or false.") }}
{%- endif %}
{%- if gc.policy is not none and gc.policy is not string %}
{{ raise("Pillar 'koji:gc:policy' is no text: give its lines as a block (policy: |).") }}
{%- endif %}
{%- for key in ('sessions_days', 'reservations_days') if gc.sweep_db[key] is not integer or gc.sweep_db[key] < 1 %}
{{ raise("Pillar 'koji:gc:sweep_db:" ~ key ~ "' is '" ~ gc.sweep_db[key] ~ "': give a whole number of days from 1 on.") }}
{%- endfor %}
{%- set options = {
      'server': koji.urls.hub,
      'weburl': koji.urls.web,
      'cert': cert,
      'serverca': koji.serverca,
      'test': gc.dry_run,
      'trashcan_tag': gc.trashcan,
      'delay': gc.delay,
      'grace_period': gc.grace_period,
      'unprotected_keys': gc.unprotected_keys | join(' '),
    } %}
{%- do options.update(gc.options) %}

include:
  - common
  - pki
  - koji.hub
  - koji.library
  - koji.volume
  - koji.gc.program

{{ software(koji, 'gc') }}

koji-gc-config-check:
  file.managed:
    - name: /usr/local/sbin/koji-check-gc-conf
    - source: salt://koji/gc/files/koji-check-gc-conf
    - mode: '0755'
    - require:
      - koji-gc-software
      - koji-library-software

koji-gc-config:
  file.managed:
    - name: /etc/koji-gc/koji-gc.conf
    - source: salt://koji/gc/files/koji-gc.conf.jinja
    - template: jinja
    - mode: '0644'
    - makedirs: true
    - check_cmd: /usr/local/sbin/koji-check-gc-conf
    - context: {{ {'options': options, 'key_aliases': gc.key_aliases, 'policy': gc.policy} | tojson }}
    - require:
      - file: koji-gc-config-check

{%- set sweep_db = ['--verbose', '--sessions-age=' ~ gc.sweep_db.sessions_days,
                    '--reservations-age=' ~ gc.sweep_db.reservations_days] + gc.sweep_db.options
      + (['--test'] if gc.dry_run else []) %}
{%- for unit, context in (
      ('koji-gc', {'command': '/usr/sbin/koji-gc --lock-file=/run/lock/koji-gc.lock --exit-on-lock', 'user': none}),
      ('koji-sweep-db', {'command': '/usr/sbin/koji-sweep-db ' ~ sweep_db | join(' '), 'user': httpd.user}),
    ) %}
koji-gc-unit-{{ unit }}:
  file.managed:
    - name: /etc/systemd/system/{{ unit }}.service.d/goose.conf
    - source: salt://koji/gc/files/unit.conf.jinja
    - template: jinja
    - mode: '0644'
    - makedirs: true
    - context: {{ context | tojson }}
    - require:
      - koji-gc-software
      - koji-hub-software

koji-gc-timer-{{ unit }}:
  file.managed:
    - name: /etc/systemd/system/{{ unit }}.timer.d/goose.conf
    - source: salt://koji/gc/files/timer.conf.jinja
    - template: jinja
    - mode: '0644'
    - makedirs: true
    - context: {{ {'calendar': gc.calendar if unit == 'koji-gc' else gc.sweep_db.calendar} | tojson }}

koji-gc-running-{{ unit }}:
  service.running:
    - name: {{ unit }}.timer
    - enable: true
    - unmask: true
    - require:
      - koji-gc-software
      - koji-hub-software
      - file: koji-gc-config
      - file: koji-gc-unit-{{ unit }}
      - goose_pki: pki-{{ gc.user }}-pem
      - service: common-httpd-service
    - watch:
      - file: koji-gc-timer-{{ unit }}
{%- endfor %}

koji-gc-clean-service:
  file.managed:
    - name: /etc/systemd/system/koji-clean.service
    - source: salt://koji/gc/files/clean.service.jinja
    - template: jinja
    - mode: '0644'
    - context: {{ {'what': 'volume', 'program_dir': gc.program_dir, 'path': koji.volume.path, 'network': true} | tojson }}

koji-gc-clean-timer:
  file.managed:
    - name: /etc/systemd/system/koji-clean.timer
    - source: salt://koji/gc/files/clean.timer.jinja
    - template: jinja
    - mode: '0644'
    - context: {{ {'what': 'the volume of Koji', 'calendar': gc.clean_calendar} | tojson }}

koji-gc-clean:
  service.running:
    - name: koji-clean.timer
    - enable: true
    - unmask: true
    - require:
      - file: koji-gc-clean-service
      - sls: koji.gc.program
      - koji-library-software
      - koji-volume
    - watch:
      - file: koji-gc-clean-timer
