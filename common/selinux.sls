# The programs that selinux.jinja's states need; nothing where the platform has no SELinux.
{%- from "common/map.jinja" import common with context %}

include:
  - common
{%- if grains.get('selinux', {}).get('enabled') %}

common-selinux-packages:
  pkg.installed:
    - pkgs: {{ common.selinux_packages | tojson }}
    - require:
      - pkg: common-packages
{%- endif %}
