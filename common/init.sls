# What every host has: package repositories, names, journal, logrotate, a firewall.
{%- from "common/map.jinja" import common with context %}
{%- set repo_file = common.repository_file %}

{#- Names go into certificates, Apache and /etc/hosts: refuse what is none. -#}
{%- for id, host in pillar.get('hosts', {}) | dictsort %}
{%- if id | length > 64 or not id | regex_match('([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?([.][a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)+)$') %}
{{ raise("pillar/hosts.yaml names a host '" ~ id ~ "', which is no full host name: use lower-case letters, digits and hyphens with at least one dot, 64 characters at most (a certificate's common name holds no more).") }}
{%- endif %}
{%- if not host.get('address') %}
{{ raise("pillar/hosts.yaml gives " ~ id ~ " no address: add `address:` with its IP address.") }}
{%- endif %}
{%- endfor %}
{#- Not in top.sls: of an error there Salt tells nobody but its log. -#}
{%- import_yaml 'common/roles.yaml' as known %}
{%- for role in pillar.get('roles', []) if role not in known or role in ('common', 'pki') %}
{{ raise("pillar/hosts.yaml gives " ~ grains['id'] ~ " the role '" ~ role ~ "', which is no role: choose from " ~ (known | reject('in', ('common', 'pki')) | join(', ')) ~ ".") }}
{%- endfor %}
{%- if grains['id'] not in pillar.get('hosts', {}) %}
{{ raise("Pillar 'hosts' has no entry for " ~ grains['id'] ~ ": add this host, its address and its roles to pillar/hosts.yaml (the minion id is the full host name).") }}
{%- endif %}


include:
  - common.firewall

{%- for name, repo in pillar.get('package_repos', {}) | dictsort if repo_file.kind in repo %}
common-package-repo-{{ name }}:
  file.managed:
    - name: {{ repo_file.directory }}/{{ name }}{{ repo_file.suffix }}
    - source: salt://common/files/package_repo.{{ repo_file.kind }}.jinja
    - template: jinja
    - mode: '0644'
    - context: {{ {'name': name, 'fields': repo[repo_file.kind]} | tojson }}
    - require_in:
      - pkg: common-packages
{%- endfor %}

{%- if common.repository_packages %}
common-repository-packages:
  pkg.installed:
    - pkgs: {{ common.repository_packages | tojson }}
    - require_in:
      - pkg: common-packages
{%- endif %}

{%- for id in common.enabled_repositories %}
common-enabled-repository-{{ id }}:
  pkgrepo.managed:
    - name: {{ id }}
    - enabled: true
    - require_in:
      - pkg: common-packages
{%- endfor %}

common-packages:
  pkg.installed:
    - pkgs: {{ common.packages | tojson }}

common-hostname:
  cmd.run:
    - name: hostnamectl set-hostname {{ grains['id'] }}
    - unless: test "$(cat /etc/hostname)" = {{ grains['id'] }}

{%- if common.names == 'hosts' %}
common-names:
  file.blockreplace:
    - name: /etc/hosts
    - marker_start: '# Hosts of pillar/hosts.yaml: changes between these lines are lost'
    - marker_end: '# End of the hosts of pillar/hosts.yaml'
    - append_if_not_found: true
    - content: |
{%- for id, host in pillar['hosts'] | dictsort %}
        {{ host.address }} {{ id }} {{ id.split('.') | first }}
{%- endfor %}
{%- endif %}

common-journal:
  file.managed:
    - name: /etc/systemd/journald.conf.d/goose.conf
    - source: salt://common/files/journald.conf.jinja
    - template: jinja
    - mode: '0644'
    - makedirs: true
    - context: {{ {'max_use': common.journal_max} | tojson }}

common-journal-service:
  service.running:
    - name: systemd-journald
    - watch:
      - file: common-journal

common-logrotate-timer:
  service.running:
    - name: logrotate.timer
    - enable: true
    - unmask: true
    - require:
      - pkg: common-packages
