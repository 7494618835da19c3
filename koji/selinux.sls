# What SELinux must allow Apache. Included by roles; nothing where the platform has none.
{%- from "koji/map.jinja" import koji with context %}
{%- set selinux = koji.selinux if grains.get('selinux', {}).get('enabled') else {} %}

{%- if selinux %}
include:
  - common

koji-selinux-packages:
  pkg.installed:
    - pkgs: {{ selinux.packages | tojson }}
    - require:
      - sls: common

{%- set booleans = selinux.booleans + (selinux.nfs_booleans if koji.volume.kind == 'nfs' else [])
      + (selinux.nfs_server_booleans if 'koji.nfs' in pillar.get('roles', []) else []) %}
{%- for boolean in booleans %}
koji-selinux-{{ boolean }}:
  cmd.run:
    - name: setsebool -P {{ boolean }} on
    - unless: getsebool {{ boolean }} | grep -q -- '--> on$'
    - require:
      - pkg: koji-selinux-packages
{%- endfor %}
{%- endif %}
