# koji_clean.py and what it reads, on the hub's host and on builders.
{%- from "koji/map.jinja" import koji with context %}
{%- set gc = koji.gc %}
{%- for key in ('scratch_days', 'work_days', 'roots_days') if gc[key] is not number or gc[key] is boolean or gc[key] < 0 %}
{{ raise("Pillar 'koji:gc:" ~ key ~ "' is '" ~ gc[key] ~ "': give a number of days.") }}
{%- endfor %}

include:
  - common

{%- for file in ('koji_clean.py', 'goose/__init__.py', 'goose/koji_clean.py', 'goose/koji_call.py', 'goose/content.py',
                 'goose/content_live.py', 'goose/content_plan.py') %}
koji-gc-program-{{ file | replace('/', '-') }}:
  file.managed:
    - name: {{ gc.program_dir }}/{{ file }}
    - source: salt://scripts/{{ file }}
    - mode: '{{ '0644' if '/' in file else '0755' }}'
    - makedirs: true
{%- endfor %}

koji-gc-program-config:
  file.serialize:
    - name: /etc/goose/koji-clean.json
    - serializer: json
    - dataset: {{ {'topdir': koji.volume.path, 'mockdir': koji.builder.options.mockdir, 'server': koji.urls.hub,
                   'serverca': koji.serverca, 'scratch_days': gc.scratch_days, 'work_days': gc.work_days,
                   'roots_days': gc.roots_days, 'dry_run': gc.dry_run} | tojson }}
    - mode: '0644'
    - makedirs: true
