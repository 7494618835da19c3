# Composes: variants and media out of the repositories that mash makes, on the web at /compose,
# handed to mirrors, by a timer where pillar sets one.
{%- from "pungi/map.jinja" import pungi with context %}
{%- from "common/map.jinja" import httpd with context %}
{%- from "common/selinux.jinja" import labelled with context %}
{%- set programs = ['compose_iso.py', 'publish_compose.py', 'goose/__init__.py', 'goose/compose.py', 'goose/compose_boot.py',
                    'goose/compose_config.py', 'goose/compose_gather.py', 'goose/compose_input.py', 'goose/compose_media.py',
                    'goose/compose_publish.py', 'goose/compose_pungi.py', 'goose/compose_store.py', 'goose/compose_tree.py'] %}
{%- set lorax = pungi.boot.get('kind') == 'lorax' and '/usr/local/bin/goose-lorax' in pungi.boot.get('command', []) %}

include:
  - common
  - common.httpd
  - common.selinux
  - pki

pungi-packages:
  pkg.installed:
    - pkgs: {{ pungi.packages | tojson }}
    - install_recommends: false
    - require:
      - sls: common

{%- if pungi.source %}

pungi-productmd:
  koji_source.installed:
    - name: productmd
    - parts: [productmd]
    - source: {{ pungi.source | tojson }}
    - require:
      - pkg: pungi-packages
{%- endif %}

pungi-group:
  group.present:
    - name: {{ pungi.group }}
    - system: true

pungi-user:
  user.present:
    - name: {{ pungi.user }}
    - gid: {{ pungi.group }}
    - system: true
    - createhome: false
    - home: {{ pungi.home }}
    - shell: /usr/sbin/nologin
    - password: '!'
    - require:
      - group: pungi-group

{%- for path, mode in ((pungi.path, '0755'), (pungi.path ~ '/.compose', '0755'), (pungi.cache, '0755'), (pungi.home, '0750'), (pungi.home ~ '/.ssh', '0700')) %}
pungi-directory-{{ path | replace('/', '-') }}:
  file.directory:
    - name: {{ path }}
    - user: {{ pungi.user }}
    - group: {{ pungi.group }}
    - mode: '{{ mode }}'
    - makedirs: true
    - require:
      - user: pungi-user
    - require_in:
      - service: common-httpd-service
{%- endfor %}

{#- A hard link has its file's own label. -#}
{{ labelled('pungi', pungi.path, pungi.selinux.get('type'), places=[pungi.path, pungi.path ~ '/.compose'],
            require=[{'file': 'pungi-directory-' ~ (pungi.path ~ '/.compose') | replace('/', '-')}],
            require_in=[{'service': 'common-httpd-service'}]) }}

{%- for file in programs %}
pungi-program-{{ file | replace('/', '-') }}:
  file.managed:
    - name: {{ pungi.program_dir }}/{{ file }}
    - source: salt://scripts/{{ file }}
    - mode: '{{ '0644' if '/' in file else '0755' }}'
    - makedirs: true
{%- endfor %}

# A mistake in it is found here, and not at night: the program itself reads it first.
pungi-config:
  file.serialize:
    - name: {{ pungi.config_file }}
    - serializer: json
    - dataset: {{ pungi.config | tojson }}
    - mode: '0644'
    - makedirs: true

pungi-config-check:
  cmd.run:
    - name: >-
        python3 -B -c 'import sys; sys.path[:0] = ["{{ pungi.program_dir }}"]; from pathlib import Path;
        from goose import compose_config as c; c.read(Path("{{ pungi.config_file }}"))'
    - onchanges:
      - file: pungi-config
    - require:
{%- for file in programs %}
      - file: pungi-program-{{ file | replace('/', '-') }}
{%- endfor %}

pungi-apache:
  file.managed:
    - name: {{ httpd.fragments }}/compose.conf
    - source: salt://pungi/files/compose.conf.jinja
    - template: jinja
    - mode: '0644'
    - context: {{ {'path': pungi.path} | tojson }}
    - require:
      - pkg: common-httpd-packages
    - watch_in:
      - service: common-httpd-service

{%- if lorax %}

pungi-lorax:
  file.managed:
    - name: /usr/local/bin/goose-lorax
    - source: salt://pungi/files/lorax.sh
    - mode: '0755'

# What it may make boot media of: the repositories' places, up to the first placeholder.
pungi-lorax-repositories:
  file.managed:
    - name: /etc/goose/lorax-repositories
    - contents: {{ pungi.repositories | map(attribute='binary') | map('regex_replace', '[{].*', '') | list | tojson }}
    - mode: '0644'
    - makedirs: true

pungi-lorax-sudo:
  file.managed:
    - name: /etc/sudoers.d/goose-lorax
    - contents: |
        {{ pungi.user }} ALL=(root) NOPASSWD: /usr/local/bin/goose-lorax
    - mode: '0440'
    - check_cmd: visudo -c -f
    - require:
      - pkg: pungi-packages
{%- endif %}

{%- if pungi.by_ssh %}

# Made here, and goes nowhere: its public half is what a mirror's administrator gets.
pungi-ssh-key:
  cmd.run:
    - name: ssh-keygen -q -t ed25519 -N '' -C {{ pungi.user }}@{{ grains['id'] }} -f {{ pungi.home }}/.ssh/id_ed25519
    - runas: {{ pungi.user }}
    - unless: ssh-keygen -y -P '' -f {{ pungi.home }}/.ssh/id_ed25519
    - require:
      - pkg: pungi-packages
      - file: pungi-directory-{{ (pungi.home ~ '/.ssh') | replace('/', '-') }}

pungi-ssh-known-hosts:
  file.managed:
    - name: {{ pungi.home }}/.ssh/known_hosts
    - contents: {{ pungi.known_hosts | tojson }}
    - user: {{ pungi.user }}
    - group: {{ pungi.group }}
    - mode: '0644'
    - require:
      - file: pungi-directory-{{ (pungi.home ~ '/.ssh') | replace('/', '-') }}
{%- endif %}

{%- if pungi.timer %}
{%- set timer = pungi.timer %}
{%- set stage = timer.version ~ ('/' ~ timer.stage if timer.release == 'Final' and timer.stage == 'Final' else '/' ~ timer.stage ~ '-' ~ timer.release) %}
{%- set place = 'testing/' ~ timer.version ~ '-' ~ timer.release if timer.stage == 'testing' else stage %}
{%- set local = [] %}
{%- for target in pungi.targets.values() if target.to.startswith('/') %}
{%- do local.append(target.to) %}
{%- endfor %}

{%- for kind in ('service', 'timer') %}
pungi-unit-{{ kind }}:
  file.managed:
    - name: /etc/systemd/system/goose-compose.{{ kind }}
    - source: salt://pungi/files/compose.{{ kind }}.jinja
    - template: jinja
    - mode: '0644'
    - context: {{ {'timer': timer, 'path': pungi.path, 'user': pungi.user, 'group': pungi.group, 'sudo': lorax,
                   'program_dir': pungi.program_dir, 'targets': pungi.targets, 'place': place,
                   'writes': [pungi.path, pungi.cache] + local} | tojson }}
{%- endfor %}

pungi-timer:
  service.running:
    - name: goose-compose.timer
    - enable: true
    - unmask: true
    - require:
      - file: pungi-unit-service
      - cmd: pungi-config-check
      - pkg: pungi-packages
{%- if pungi.source %}
      - koji_source: pungi-productmd
{%- endif %}
    - watch:
      - file: pungi-unit-timer
{%- else %}

pungi-timer:
  service.dead:
    - name: goose-compose.timer
    - enable: false
    - onlyif: systemctl cat goose-compose.timer
{%- for kind in ('service', 'timer') %}

pungi-unit-{{ kind }}:
  file.absent:
    - name: /etc/systemd/system/goose-compose.{{ kind }}
    - require:
      - service: pungi-timer
{%- endfor %}
{%- endif %}
