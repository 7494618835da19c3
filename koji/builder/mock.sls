# Mock: the real one where the platform, or a package repository of the site, has it,
# else the stand-in.
{%- from "koji/map.jinja" import koji with context %}
{%- from "common/map.jinja" import offers with context %}
{%- set mock = koji.builder.mock %}

include:
  - common
  - koji.builder

{%- if mock.available or mock.package in offers %}
koji-builder-mock:
  pkg.installed:
    - pkgs: [{{ mock.package }}]
    - require:
      - user: koji-builder-user

koji-builder-mock-sudo:
  file.absent:
    - name: /etc/sudoers.d/koji-mock

{%- else %}
koji-builder-mock:
  file.managed:
    - name: /usr/bin/mock
    - source: salt://koji/files/mock
    - mode: '0755'
    - require:
      - koji-builder-software

# kojid calls mock as its own user; the stand-in makes file systems and so is root.
koji-builder-mock-sudo:
  file.managed:
    - name: /etc/sudoers.d/koji-mock
    - contents: '{{ koji.builder.user }} ALL=(root) NOPASSWD: /usr/bin/mock'
    - mode: '0440'
    - check_cmd: /usr/sbin/visudo -c -f
    - require:
      - koji-builder-software
{%- endif %}
