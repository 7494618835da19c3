# Build roots on a builder that kojid has lost sight of: by pillar koji:gc, which removes nothing at first.
{%- from "koji/map.jinja" import koji with context %}
{%- set gc = koji.gc %}

include:
  - koji.gc.program

koji-gc-roots-service:
  file.managed:
    - name: /etc/systemd/system/koji-clean-roots.service
    - source: salt://koji/gc/files/clean.service.jinja
    - template: jinja
    - mode: '0644'
    - context: {{ {'what': 'roots', 'program_dir': gc.program_dir, 'path': koji.builder.options.mockdir,
                   'network': false} | tojson }}

koji-gc-roots-timer:
  file.managed:
    - name: /etc/systemd/system/koji-clean-roots.timer
    - source: salt://koji/gc/files/clean.timer.jinja
    - template: jinja
    - mode: '0644'
    - context: {{ {'what': 'old build roots', 'calendar': gc.clean_calendar} | tojson }}

koji-gc-roots:
  service.running:
    - name: koji-clean-roots.timer
    - enable: true
    - unmask: true
    - require:
      - file: koji-gc-roots-service
      - sls: koji.gc.program
    - watch:
      - file: koji-gc-roots-timer
