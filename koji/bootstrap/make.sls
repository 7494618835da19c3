# Makes the embedded build root: needs this host's package sources, and neither the hub
# nor what else is on this host. Beside the other states, because it takes a minute or two.
{%- from "koji/map.jinja" import koji with context %}
{%- from "koji/bootstrap/map.jinja" import buildroot with context %}
{%- if buildroot.enabled %}

include:
  - common

koji-bootstrap-packages:
  pkg.installed:
    - pkgs: {{ buildroot.host_packages | tojson }}
    - install_recommends: false
    - require:
      - sls: common

{%- for file in ('koji_buildroot.py', 'goose/__init__.py', 'goose/buildroot.py') %}
koji-bootstrap-program-{{ file | replace('/', '-') }}:
  file.managed:
    - name: {{ buildroot.program_dir }}/{{ file }}
    - source: salt://scripts/{{ file }}
    - mode: '{{ '0644' if '/' in file else '0755' }}'
    - makedirs: true
    - require_in:
      - cmd: koji-bootstrap-make
{%- endfor %}

koji-bootstrap-overlay:
  file.recurse:
    - name: {{ buildroot.overlay_dir }}
    - source: salt://koji/bootstrap/files/overlay
    - clean: true
    - dir_mode: '0755'
    - file_mode: '0644'

koji-bootstrap-config:
  file.serialize:
    - name: {{ buildroot.config_file }}
    - serializer: json
    - dataset: {{ buildroot.data | tojson }}
    - mode: '0644'
    - makedirs: true

# The hub says whether the build is there; made and not yet imported is enough here.
koji-bootstrap-make:
  cmd.run:
    - name: {{ buildroot.program }} make
    - unless: {{ buildroot.program }} status --made
    - parallel: true
    - require:
      - pkg: koji-bootstrap-packages
      - file: koji-bootstrap-overlay
      - file: koji-bootstrap-config
{%- else %}

koji-bootstrap-make:
  test.succeed_without_changes:
    - name: No embedded build root is made; see koji-bootstrap-import.
{%- endif %}
