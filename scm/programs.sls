# Programs that know the file `sources`: for builders, for the hook of the repositories, for people.
# Run by the system's Python, as EL and Debian have it.
{%- from "scm/map.jinja" import scm with context %}
{%- from "pki/map.jinja" import pki with context %}

include:
  - common
  - pki

{%- for file in ('goose_fetch_sources.py', 'scm_check_push.py', 'goose/__init__.py', 'goose/check_push.py',
                 'goose/fetch_sources.py', 'goose/lookaside_client.py', 'goose/sources.py') %}
scm-program-{{ file | replace('/', '-') }}:
  file.managed:
    - name: /usr/local/lib/goose/{{ file }}
    - source: salt://scripts/{{ file }}
    - mode: '{{ '0644' if '/' in file else '0755' }}'
    - makedirs: true
{%- endfor %}

scm-program-fetch-sources:
  file.symlink:
    - name: /usr/local/bin/goose-fetch-sources
    - target: ../lib/goose/goose_fetch_sources.py
    - require:
      - file: scm-program-goose_fetch_sources.py

scm-program-config:
  file.serialize:
    - name: /etc/goose/sources.json
    - serializer: json
    - dataset: {{ {'files': scm.lookaside.files, 'upload': scm.lookaside.upload, 'ca': pki.dir ~ '/ca.crt'} | tojson }}
    - mode: '0644'
    - makedirs: true
