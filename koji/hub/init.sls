# The hub: Koji's XML-RPC server in Apache, its policy, and its part of the volume.
{%- from "koji/map.jinja" import koji with context %}
{%- from "koji/software.jinja" import software %}
{%- from "common/map.jinja" import httpd with context %}
{%- from "common/lib.jinja" import hosts_with with context %}
{%- from "pki/map.jinja" import pki with context %}
{%- set hub = koji.hub %}

{#- Who may log in in another's name: the web pages, and Sigul's bridge where there is one.
    mod_ssl writes a subject as RFC 2253 does, the last part first; which of the two
    orders a certificate has is up to the CA, and both are the same identity. -#}
{%- set o = pillar['site']['name'] | regex_replace('([,+"\\\\<>;])', '\\\\\\1') %}
{%- set proxy_dns = [] %}
{%- for role in ('koji.web', 'sigul.bridge') if role == 'koji.web' or hosts_with(role) | load_json %}
{%- set cn = pki.identities.get(role, {}).get('name') %}
{%- if cn %}
{%- do proxy_dns.extend(['CN=' ~ cn ~ ',O=' ~ o, 'O=' ~ o ~ ',CN=' ~ cn]) %}
{%- endif %}
{%- endfor %}
{%- set options = {
      'DBConnectionString': hub.dsn,
      'KojiDir': koji.volume.path,
      'KojiWebURL': koji.urls.web,
      'ProxyDNs': proxy_dns | join('|'),
      'Plugins': hub.plugins | join(' '),
    } %}
{%- do options.update(hub.options) %}
{%- for name, lines in hub.policy | dictsort if lines is not string %}
{%- for line in lines if line is not string %}
{{ raise("Pillar 'koji:hub:policy:" ~ name ~ "' has a line that YAML takes for a mapping (" ~ line ~ "): put it in quotes, or give the policy as a block of text (" ~ name ~ ": |).") }}
{%- endfor %}
{%- endfor %}
{%- set parts = ['hub'] + (hub.plugin_parts if hub.plugins else []) %}
{%- if hub.plugins %}
{%- do hub.update({'packages': hub.packages + hub.plugin_packages}) %}
{%- endif %}

include:
  - common
  - common.httpd
  - pki
  - koji.hub.tls
  - koji.library
  - koji.selinux
  - koji.volume
  - koji.httpd
{%- if 'koji.db' in pillar.get('roles', []) %}
  - koji.db
{%- endif %}

{{ software(koji, 'hub', parts, require_in=[{'service': 'common-httpd-service'}]) }}

{%- for path in ('/etc/koji-hub', '/etc/koji-hub/hub.conf.d', '/etc/koji-hub/plugins') %}
koji-hub-directory-{{ path | replace('/', '-') }}:
  file.directory:
    - name: {{ path }}
    - user: root
    - group: root
    - mode: '0755'
    - require:
      - koji-hub-software
    - require_in:
      - file: koji-hub-db-directory
{%- endfor %}

koji-hub-config-check:
  file.managed:
    - name: /usr/local/sbin/koji-check-hub-conf
    - source: salt://koji/hub/files/koji-check-hub-conf
    - mode: '0755'
    - require:
      - koji-hub-software

# May hold a password where a site's database wants one: never shown.
koji-hub-config:
  file.managed:
    - name: /etc/koji-hub/hub.conf
    - source: salt://koji/hub/files/hub.conf.jinja
    - template: jinja
    - user: root
    - group: {{ httpd.group }}
    - mode: '0640'
    - show_changes: false
    - check_cmd: /usr/local/sbin/koji-check-hub-conf
    - context: {{ {'options': options} | tojson }}
    - require:
      - file: koji-hub-config-check
      - koji-hub-directory--etc-koji-hub
      - pkg: common-httpd-packages
    - watch_in:
      - service: common-httpd-service

koji-hub-policy:
  file.managed:
    - name: /etc/koji-hub/hub.conf.d/policy.conf
    - source: salt://koji/hub/files/policy.conf.jinja
    - template: jinja
    - mode: '0644'
    - check_cmd: /usr/local/sbin/koji-check-hub-conf
    - context: {{ {'policy': hub.policy} | tojson }}
    - require:
      - file: koji-hub-config-check
      - koji-hub-directory--etc-koji-hub-hub.conf.d
    - watch_in:
      - service: common-httpd-service

{%- for plugin, sections in hub.plugin_configs | dictsort %}
koji-hub-plugin-{{ plugin }}:
  file.managed:
    - name: /etc/koji-hub/plugins/{{ plugin }}.conf
    - source: salt://koji/files/sections.conf.jinja
    - template: jinja
    - user: root
    - group: {{ httpd.group }}
    - mode: '0640'
    - show_changes: false
    - context: {{ {'sections': sections} | tojson }}
    - require:
      - koji-hub-directory--etc-koji-hub-plugins
    - watch_in:
      - service: common-httpd-service
{%- endfor %}

{%- for directory in ('packages', 'repos', 'repos-dist', 'scratch', 'work') %}
koji-hub-volume-{{ directory }}:
  file.directory:
    - name: {{ koji.volume.path }}/{{ directory }}
    - user: {{ httpd.user }}
    - group: {{ httpd.group }}
    - mode: '0755'
    - require:
      - koji-volume
      - pkg: common-httpd-packages
    - require_in:
      - service: common-httpd-service
{%- endfor %}

# Before Apache starts with it: a hub that is newer than its database fails late.
koji-hub-schema:
  koji_db.fits:
    - name: {{ hub.dsn }}
    - schema: {{ hub.schema }}
    - user: {{ httpd.user }}
    - timeout: {{ koji.wait }}
    - require:
      - koji-hub-software
      - koji-library-software
      - koji_file: koji-hub-db-host-crt
      - koji_file: koji-hub-db-host-key
{%- if 'koji.db' in pillar.get('roles', []) %}
      - koji_db: koji-db-rights
{%- endif %}
    - require_in:
      - koji_db: koji-hub-sessions
      - service: common-httpd-service

koji-hub-unit:
  file.managed:
    - name: /etc/systemd/system/{{ httpd.service }}.service.d/koji.conf
    - source: salt://koji/hub/files/unit.conf.jinja
    - template: jinja
    - mode: '0644'
    - makedirs: true
    - context: {{ {'volume': koji.volume.path} | tojson }}
    - require_in:
      - service: common-httpd-service

koji-hub-apache:
  file.managed:
    - name: {{ httpd.fragments }}/kojihub.conf
    - source: salt://koji/hub/files/kojihub.conf.jinja
    - template: jinja
    - mode: '0644'
    - context: {{ {'script': hub.script, 'volume': koji.volume.path} | tojson }}
    - require:
      - pkg: koji-wsgi-packages
      - koji_db: koji-hub-schema
      - file: koji-hub-config
      - file: koji-hub-policy
    - watch_in:
      - service: common-httpd-service

koji-hub-current:
  koji_service.current:
    - name: {{ httpd.service }}
    - reload: true
    - files:
      - /etc/koji-hub/hub.conf
      - /etc/koji-hub/hub.conf.d/policy.conf
      - {{ httpd.fragments }}/kojihub.conf
{%- for plugin in hub.plugin_configs %}
      - /etc/koji-hub/plugins/{{ plugin }}.conf
{%- endfor %}
    - require:
      - service: common-httpd-service
