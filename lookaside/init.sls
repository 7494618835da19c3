# The lookaside cache: archives over HTTPS, the endpoint that takes uploads, and the timer
# that hashes everything again.
{%- from "lookaside/map.jinja" import lookaside with context %}
{%- from "common/map.jinja" import httpd with context %}
{%- from "common/selinux.jinja" import booleans, labelled with context %}
{%- set programs = ['lookaside_upload.py', 'lookaside_fsck.py', 'goose/__init__.py', 'goose/sources.py',
                    'goose/lookaside.py', 'goose/lookaside_upload.py', 'goose/lookaside_fsck.py'] %}

include:
  - common
  - common.httpd
  - common.selinux
  - pki
  - koji.wsgi

lookaside-packages:
  pkg.installed:
    - pkgs: {{ lookaside.packages | tojson }}
    - install_recommends: false
    - require:
      - sls: common
    - require_in:
      - service: common-httpd-service

lookaside-group:
  group.present:
    - name: {{ lookaside.group }}
    - system: true

lookaside-user:
  user.present:
    - name: {{ lookaside.user }}
    - gid: {{ lookaside.group }}
    - system: true
    - createhome: false
    - home: {{ lookaside.path }}
    - shell: /usr/sbin/nologin
    - password: '!'
    - require:
      - group: lookaside-group

# Apache's user reads the archives, and sees nothing of what is not whole yet.
{%- for path, mode in ((lookaside.path, '0755'), (lookaside.path ~ '/archives', '0755'), (lookaside.path ~ '/incoming', '0700')) %}
lookaside-directory-{{ path | replace('/', '-') }}:
  file.directory:
    - name: {{ path }}
    - user: {{ lookaside.user }}
    - group: {{ lookaside.group }}
    - mode: '{{ mode }}'
    - makedirs: true
    - require:
      - user: lookaside-user
    - require_in:
      - service: common-httpd-service
{%- endfor %}

# What a killed upload has left. One that still comes in is written to, and so is young.
lookaside-tmpfiles:
  file.managed:
    - name: /etc/tmpfiles.d/lookaside.conf
    - contents: |
        e {{ lookaside.path }}/incoming - - - 1d
    - mode: '0644'
    - makedirs: true

{#- The hub is asked who may upload. -#}
{{ booleans('lookaside', lookaside.selinux.get('booleans', [])) }}
{%- set places = [lookaside.path, lookaside.path ~ '/archives', lookaside.path ~ '/incoming'] %}
{%- set made = [] %}
{%- for place in places %}
{%- do made.append({'file': 'lookaside-directory-' ~ place | replace('/', '-')}) %}
{%- endfor %}
{{- labelled('lookaside', lookaside.path, lookaside.selinux.get('type'), places=places, require=made,
             require_in=[{'service': 'common-httpd-service'}]) }}

{%- for file in programs %}
lookaside-program-{{ file | replace('/', '-') }}:
  file.managed:
    - name: {{ lookaside.program_dir }}/{{ file }}
    - source: salt://scripts/{{ file }}
    - mode: '{{ '0755' if file == 'lookaside_fsck.py' else '0644' }}'
    - makedirs: true
    - watch_in:
      - service: common-httpd-service
{%- endfor %}

lookaside-config:
  file.serialize:
    - name: {{ lookaside.config_file }}
    - serializer: json
    - dataset: {{ lookaside.config | tojson }}
    - mode: '0644'
    - makedirs: true
    - watch_in:
      - service: common-httpd-service

lookaside-apache:
  file.managed:
    - name: {{ httpd.fragments }}/lookaside.conf
    - source: salt://lookaside/files/lookaside.conf.jinja
    - template: jinja
    - mode: '0644'
    - context: {{ {'path': lookaside.path, 'user': lookaside.user, 'group': lookaside.group,
                   'processes': lookaside.processes, 'threads': lookaside.threads,
                   'max_size': lookaside.config.max_size,
                   'program_dir': lookaside.program_dir} | tojson }}
    - require:
      - pkg: koji-wsgi-packages
      - pkg: lookaside-packages
      - user: lookaside-user
      - file: lookaside-config
    - watch_in:
      - service: common-httpd-service

lookaside-current:
  koji_service.current:
    - name: {{ httpd.service }}
    - reload: true
    - files:
      - {{ lookaside.config_file }}
      - {{ httpd.fragments }}/lookaside.conf
{%- for file in programs if file not in ('lookaside_fsck.py', 'goose/lookaside_fsck.py') %}
      - {{ lookaside.program_dir }}/{{ file }}
{%- endfor %}
    - require:
      - service: common-httpd-service

{%- for kind in ('service', 'timer') %}
lookaside-fsck-{{ kind }}:
  file.managed:
    - name: /etc/systemd/system/lookaside-fsck.{{ kind }}
    - source: salt://lookaside/files/fsck.{{ kind }}.jinja
    - template: jinja
    - mode: '0644'
    - context: {{ {'path': lookaside.path, 'fsck': lookaside.fsck,
                   'program': lookaside.program_dir ~ '/lookaside_fsck.py'} | tojson }}
{%- endfor %}

lookaside-fsck:
  service.running:
    - name: lookaside-fsck.timer
    - enable: true
    - unmask: true
    - require:
      - file: lookaside-fsck-service
      - file: lookaside-config
      - file: lookaside-program-lookaside_fsck.py
      - pkg: lookaside-packages
    - watch:
      - file: lookaside-fsck-timer
