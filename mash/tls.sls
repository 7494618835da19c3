# The certificate that mash logs in to Koji with; a renewal applies this alone.
{%- from "mash/map.jinja" import mash with context %}
{%- from "pki/map.jinja" import pki with context %}

include:
  - pki

mash-tls-directory:
  file.directory:
    - name: {{ mash.config_dir }}
    - mode: '0755'

{%- if mash.identity %}

mash-tls-group:
  group.present:
    - name: {{ mash.group }}
    - system: true

mash-tls:
  koji_file.copied:
    - name: {{ mash.conf.cert }}
    - source: {{ pki.dir }}/{{ mash.identity }}.pem
    - user: root
    - group: {{ mash.group }}
    - mode: '0640'
    - require:
      - group: mash-tls-group
      - file: mash-tls-directory
      - goose_pki: pki-{{ mash.identity }}-pem
{%- endif %}
