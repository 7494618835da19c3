# The packages' git repositories: served to everybody over HTTPS, pushed to by ssh alone.
{%- from "scm/map.jinja" import scm with context %}
{%- from "common/lib.jinja" import required with context %}
{%- from "common/map.jinja" import httpd with context %}
{%- from "common/selinux.jinja" import labelled with context %}
{%- if scm.kind == 'forge' %}
{{- raise("pillar/hosts.yaml gives " ~ grains['id'] ~ " the role 'scm', and pillar 'scm:kind' is forge: then no host has it.") }}
{%- endif %}
{%- set server = scm[scm.kind] %}
{%- set _ = required('scm:branches', "a mapping of branches to Koji's targets, as in pillar/scm.sls") %}
{%- set share = '/usr/local/share/goose-scm' %}

include:
  - common
  - common.httpd
  - common.selinux
  - pki
  - scm.programs
{%- if scm.kind == 'gitolite' %}
  - scm.gitolite
{%- endif %}

# Before the package: EL's makes the same, and Debian's none unless it is asked questions.
scm-group:
  group.present:
    - name: {{ server.user }}
    - system: true

scm-user:
  user.present:
    - name: {{ server.user }}
    - gid: {{ server.user }}
    - system: true
    - home: {{ server.home }}
    - createhome: false
    # gitolite's programs are run by it.
    - shell: /bin/sh
    # No password, and no lock: sshd takes `!` for an account that is closed to keys, too.
    - password: '*'
    - require:
      - group: scm-group

scm-packages:
  pkg.installed:
    - pkgs: {{ scm.packages[scm.kind] | tojson }}
    - install_recommends: false
    - require:
      - sls: common
      - user: scm-user

# Apache reads the repositories, and writes none.
scm-readers:
  group.present:
    - name: {{ server.user }}
    - addusers: [{{ httpd.user }}]
    - require:
      - pkg: scm-packages
      - pkg: common-httpd-packages
    - watch_in:
      - service: common-httpd-service

{%- for path, mode in (
      (server.home, '0750'),
      (server.repositories, '0750' if scm.kind == 'gitolite' else '2775'),
      (server.repositories ~ '/' ~ scm.namespace, '0750' if scm.kind == 'gitolite' else '2775'),
    ) %}
scm-directory{{ path | replace('/', '-') }}:
  file.directory:
    - name: {{ path }}
    - user: {{ server.user }}
    - group: {{ server.user }}
    - mode: '{{ mode }}'
    - makedirs: true
    - require:
      - pkg: scm-packages
    - require_in:
      - file: scm-apache
{%- endfor %}
{{- labelled('scm', server.repositories, scm.selinux.get('type'), places=[server.repositories, server.repositories ~ '/' ~ scm.namespace],
             require=[{'file': 'scm-directory' ~ (server.repositories ~ '/' ~ scm.namespace) | replace('/', '-')}],
             require_in=[{'file': 'scm-apache'}]) }}

# What a new repository begins with, whoever makes it on this host.
scm-git-config:
  file.managed:
    - name: {{ server.home }}/.gitconfig
    - source: salt://scm/files/gitconfig.jinja
    - template: jinja
    - user: {{ server.user }}
    - group: {{ server.user }}
    - mode: '0644'
    - context: {{ {'branch': scm.default_branch, 'template': share ~ '/template'} | tojson }}
    - require:
      - file: scm-directory{{ server.home | replace('/', '-') }}

{%- set hooks = {'pre-receive': '/usr/local/lib/goose/scm_check_push.py'} %}
{%- if scm.kind == 'gitolite' %}
{%- do hooks.update({'update': server.home ~ '/.gitolite/hooks/common/update'}) %}
{%- endif %}
{%- for name, target in hooks.items() %}
scm-template-{{ name }}:
  file.symlink:
    - name: {{ share }}/template/hooks/{{ name }}
    - target: {{ target }}
    - makedirs: true
    - require:
      - sls: scm.programs
{%- endfor %}

{%- if scm.kind == 'local' %}
# Git takes this also as a word against rewinding, for all.
scm-template-config:
  file.managed:
    - name: {{ share }}/template/config
    - contents: |
        [core]
            sharedRepository = group
    - mode: '0644'
    - makedirs: true
{%- endif %}

scm-sshd:
  service.running:
    - name: {{ scm.sshd }}
    - enable: true
    - unmask: true
    - require:
      - pkg: scm-packages

{%- for module in scm.modules %}
scm-apache-module-{{ module }}:
  file.symlink:
    - name: /etc/apache2/mods-enabled/{{ module }}
    - target: ../mods-available/{{ module }}
    - require:
      - pkg: common-httpd-packages
    - require_in:
      - file: scm-apache
    - watch_in:
      - service: common-httpd-service
{%- endfor %}

scm-apache:
  file.managed:
    - name: {{ httpd.fragments }}/scm.conf
    - source: salt://scm/files/scm.conf.jinja
    - template: jinja
    - mode: '0644'
    - context: {{ {'repositories': server.repositories, 'namespace': scm.namespace,
                   'backend': scm.http_backend} | tojson }}
    - require:
      - pkg: scm-packages
      - pkg: common-httpd-packages
    - watch_in:
      - service: common-httpd-service
