# Who may do what, by gitolite: rules, keys and hooks, all rendered here.
#
# There is no admin repository: its one task is to bring these files here and to compile them,
# and what it brings would then stand beside pillar, where the next apply could not see it.
{%- from "scm/map.jinja" import scm with context %}
{%- set server = scm.gitolite %}
{%- set share = '/usr/local/share/goose-scm' %}
{%- set shell = '/usr/share/gitolite3/gitolite-shell' %}

{%- for name, keys in scm.users | dictsort %}
{%- if not name | regex_match('([a-z][a-z0-9_.-]*)$') %}
{{- raise("Pillar 'scm:users' names '" ~ name ~ "': a user's name has lower-case letters, digits and . _ -.") }}
{%- endif %}
{%- for key in [keys] if keys is string or keys is not iterable %}
{{- raise("Pillar 'scm:users:" ~ name ~ "' is no list: give the public ssh keys as a list, even of one.") }}
{%- endfor %}
{%- for key in keys if not key | regex_match('((?:ssh|ecdsa|sk)-[a-z0-9@.-]+ [A-Za-z0-9+/]+=*(?: [^\\n"]*)?)$') %}
{{- raise("Pillar 'scm:users:" ~ name ~ "' has a key that is none (" ~ (key | string | truncate(40)) ~ "): give the line of a .pub file.") }}
{%- endfor %}
{%- endfor %}
{%- for group in ('administrators', 'packagers') %}
{%- for name in scm[group] if name not in scm.users %}
{{- raise("Pillar 'scm:" ~ group ~ "' names " ~ name ~ ", whom scm:users does not know: add the user and their ssh keys.") }}
{%- endfor %}
{%- endfor %}

include:
  - scm

# Debian's package wants the file here, and moves it where it finds it elsewhere.
scm-gitolite-rc:
  file.managed:
    - name: /etc/gitolite3/gitolite.rc
    - source: salt://scm/files/gitolite.rc.jinja
    - template: jinja
    - mode: '0644'
    - makedirs: true
    - check_cmd: perl -c
    - context: {{ {'local_code': share ~ '/gitolite'} | tojson }}
    - require:
      - pkg: scm-packages

scm-gitolite-rc-link:
  file.symlink:
    - name: {{ server.home }}/.gitolite.rc
    - target: /etc/gitolite3/gitolite.rc
    - force: true
    - require:
      - file: scm-directory{{ server.home | replace('/', '-') }}
      - file: scm-gitolite-rc

{%- for path in ('/.gitolite', '/.gitolite/conf', '/.gitolite/logs', '/.ssh') %}
scm-gitolite-directory{{ path | replace('/', '-') }}:
  file.directory:
    - name: {{ server.home }}{{ path }}
    - user: {{ server.user }}
    - group: {{ server.user }}
    - mode: '{{ '0700' if path == '/.ssh' else '0750' }}'
    - require:
      - file: scm-directory{{ server.home | replace('/', '-') }}
{%- endfor %}

scm-gitolite-hook:
  file.symlink:
    - name: {{ share }}/gitolite/hooks/common/pre-receive
    - target: /usr/local/lib/goose/scm_check_push.py
    - makedirs: true
    - require:
      - sls: scm.programs

scm-gitolite-rules:
  file.managed:
    - name: {{ server.home }}/.gitolite/conf/gitolite.conf
    - source: salt://scm/files/gitolite.conf.jinja
    - template: jinja
    - user: {{ server.user }}
    - group: {{ server.user }}
    - mode: '0640'
    - context: {{ {'administrators': scm.administrators, 'packagers': scm.packagers, 'namespace': scm.namespace,
                   'rules': scm.rules} | tojson }}
    - require:
      - file: scm-gitolite-directory-.gitolite-conf

# Gitolite reads rules in their compiled form. Wild repositories are matched when they are used,
# so that this takes the same moment for one as for thousands.
scm-gitolite-compiled:
  cmd.run:
    - name: gitolite compile
    - runas: {{ server.user }}
    - cwd: {{ server.home }}
    - env: [HOME: {{ server.home }}]
    - unless: test {{ server.home }}/.gitolite/conf/gitolite.conf-compiled.pm -nt {{ server.home }}/.gitolite/conf/gitolite.conf
    - require:
      - file: scm-gitolite-rules
      - file: scm-gitolite-rc-link
      - file: scm-gitolite-directory-.gitolite-logs
      - file: scm-git-config
      - file: scm-directory{{ server.repositories | replace('/', '-') }}

# A new repository gets its hooks when it is made. This is for those that came or were damaged
# otherwise. Gitolite writes its own hook, which all others link to, only where it finds a
# repository: so there is one for the moment.
scm-gitolite-hooks:
  cmd.run:
    - name: >-
        first={{ server.repositories }}/hooks-only.git;
        git init --quiet --bare --template= $first && mkdir -p $first/hooks && gitolite setup --hooks-only;
        status=$?; rm -rf $first; exit $status
    - runas: {{ server.user }}
    - cwd: {{ server.home }}
    - env: [HOME: {{ server.home }}]
    - unless:
      - test -x {{ server.home }}/.gitolite/hooks/common/update
      - >-
        for repository in {{ server.repositories }}/*/*.git; do
        test -x $repository/hooks/update -a -x $repository/hooks/pre-receive -o ! -e $repository || exit 1; done
    - require:
      - cmd: scm-gitolite-compiled
      - file: scm-gitolite-hook

# Not by gitolite's own trigger: here, a plan shows who comes and who goes.
scm-gitolite-keys:
  file.managed:
    - name: {{ server.home }}/.ssh/authorized_keys
    - source: salt://scm/files/authorized_keys.jinja
    - template: jinja
    - user: {{ server.user }}
    - group: {{ server.user }}
    - mode: '0600'
    - context: {{ {'users': scm.users, 'shell': shell} | tojson }}
    - require:
      - file: scm-gitolite-directory-.ssh
      - cmd: scm-gitolite-compiled
      - cmd: scm-gitolite-hooks
