# Repositories of what tags have: the program, its configuration, a timer each, and Apache that
# serves them.
{%- from "mash/map.jinja" import mash with context %}
{%- from "koji/map.jinja" import koji with context %}
{%- from "common/map.jinja" import httpd with context %}
{%- from "common/selinux.jinja" import labelled with context %}
{%- set modules = ['mash', 'mash_closure', 'mash_config', 'mash_dist_repo', 'mash_multilib', 'mash_parents', 'mash_plan',
                   'mash_publish', 'mash_records', 'mash_repodata', 'mash_tag', 'koji_call', 'content', 'content_live',
                   'content_plan', '__init__'] %}
{%- set files = [] %}
{%- for module in modules %}
{%- do files.append('goose/' ~ module ~ '.py') %}
{%- endfor %}
{%- set files = ['mash_repo.py'] + files %}

include:
  - common
  - common.httpd
  - common.selinux
  - pki
  - koji.library
  - koji.volume
  - mash.tls

mash-packages:
  pkg.installed:
    - pkgs: {{ mash.packages | tojson }}
    - install_recommends: false
    - require:
      - sls: common

mash-group:
  group.present:
    - name: {{ mash.group }}
    - system: true

mash-user:
  user.present:
    - name: {{ mash.user }}
    - gid: {{ mash.group }}
    - system: true
    - createhome: false
    - home: {{ mash.home }}
    - shell: /usr/sbin/nologin
    - password: '!'
    - require:
      - group: mash-group

{%- for path in (mash.output, mash.cache) %}
mash-directory-{{ path | replace('/', '-') }}:
  file.directory:
    - name: {{ path }}
    - user: {{ mash.user }}
    - group: {{ mash.group }}
    - mode: '0755'
    - makedirs: true
    - require:
      - user: mash-user
    - require_in:
      - service: common-httpd-service
{%- endfor %}

{%- for file in files %}
mash-program-{{ file | replace('/', '-') }}:
  file.managed:
    - name: {{ mash.program_dir }}/{{ file }}
    - source: salt://scripts/{{ file }}
    - mode: '{{ '0755' if file == 'mash_repo.py' else '0644' }}'
    - makedirs: true
{%- endfor %}

mash-config:
  file.managed:
    - name: {{ mash.config_dir }}/mash.conf
    - source: salt://koji/files/sections.conf.jinja
    - template: jinja
    - mode: '0644'
    - makedirs: true
    - context: {{ {'sections': {'defaults': mash.conf}} | tojson }}

{%- for name, repository in mash.repositories | dictsort %}

mash-config-{{ name }}:
  file.managed:
    - name: {{ mash.config_dir }}/{{ name }}.mash
    - source: salt://koji/files/sections.conf.jinja
    - template: jinja
    - mode: '0644'
    - makedirs: true
    - context: {{ {'sections': {name: repository.lines}} | tojson }}

# What people put into /etc/yum.repos.d.
mash-client-{{ name }}:
  file.managed:
    - name: {{ mash.output }}/{{ name }}.repo
    - source: salt://mash/files/client.repo.jinja
    - template: jinja
    - mode: '0644'
    - context: {{ dict(repository.client, name=name) | tojson }}
    - require:
      - file: mash-directory-{{ mash.output | replace('/', '-') }}

mash-service-{{ name }}:
  file.managed:
    - name: /etc/systemd/system/mash-{{ name }}.service
    - source: salt://mash/files/mash.service.jinja
    - template: jinja
    - mode: '0644'
    - context: {{ {'name': name, 'user': mash.user, 'group': mash.group, 'volume': koji.volume.path, 'output': mash.output,
                   'writable': [mash.output, mash.cache] + mash.writable,
                   'program': mash.program_dir ~ '/mash_repo.py'} | tojson }}

{%- if repository.get('calendar') %}

mash-timer-{{ name }}:
  file.managed:
    - name: /etc/systemd/system/mash-{{ name }}.timer
    - source: salt://mash/files/mash.timer.jinja
    - template: jinja
    - mode: '0644'
    - context: {{ {'name': name, 'calendar': repository.calendar} | tojson }}

mash-running-{{ name }}:
  service.running:
    - name: mash-{{ name }}.timer
    - enable: true
    - unmask: true
    - require:
      - file: mash-service-{{ name }}
      - file: mash-config
      - file: mash-config-{{ name }}
      - file: mash-directory-{{ mash.output | replace('/', '-') }}
      - file: mash-directory-{{ mash.cache | replace('/', '-') }}
      - pkg: mash-packages
      - koji-library-software
      - koji-volume
{%- for file in files %}
      - file: mash-program-{{ file | replace('/', '-') }}
{%- endfor %}
    - watch:
      - file: mash-timer-{{ name }}
{%- else %}

# A timer that pillar no longer has.
mash-stopped-{{ name }}:
  service.dead:
    - name: mash-{{ name }}.timer
    - enable: false
    # Of a unit that is not there Salt says in test mode that it would be stopped.
    - onlyif: test -e /etc/systemd/system/mash-{{ name }}.timer

mash-timer-{{ name }}:
  file.absent:
    - name: /etc/systemd/system/mash-{{ name }}.timer
    - require:
      - service: mash-stopped-{{ name }}
{%- endif %}
{%- endfor %}

mash-apache:
  file.managed:
    - name: {{ httpd.fragments }}/mash.conf
    - source: salt://mash/files/mash.conf.jinja
    - template: jinja
    - mode: '0644'
    - context: {{ {'output': mash.output} | tojson }}
    - require:
      - pkg: common-httpd-packages
      - file: mash-directory-{{ mash.output | replace('/', '-') }}
    - watch_in:
      - service: common-httpd-service

mash-current:
  koji_service.current:
    - name: {{ httpd.service }}
    - reload: true
    - files:
      - {{ httpd.fragments }}/mash.conf
    - require:
      - service: common-httpd-service
{{ labelled('mash', mash.output, mash.selinux.get('type'), require=[{'file': 'mash-directory-' ~ mash.output | replace('/', '-')}],
            require_in=[{'service': 'common-httpd-service'}]) }}
