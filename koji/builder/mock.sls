# Mock: the real one where the platform, or a package repository of the site, has it,
# else the stand-in.
{%- from "koji/map.jinja" import koji with context %}
{%- from "common/map.jinja" import common with context %}
{%- set mock = koji.builder.mock %}
{%- set kind = common.repository_file.kind %}
{%- set offers = [] %}
{%- for repo in pillar.get('package_repos', {}).values() if kind in repo %}
{%- do offers.extend(repo.get('offers', [])) %}
{%- endfor %}

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
