# A builder: kojid, mock, and the host's own certificate.
{%- from "koji/map.jinja" import koji with context %}
{%- from "koji/software.jinja" import software %}
{%- from "scm/map.jinja" import scm with context %}
{%- set builder = koji.builder %}
{%- set cert = koji.pki_dir ~ '/kojid.pem' %}
{%- set options = {
      'server': koji.urls.hub,
      'topurl': koji.urls.files,
      'topdir': koji.volume.path,
      'cert': cert,
      'serverca': koji.serverca,
      'mockuser': builder.user,
    } %}
{%- do options.update(builder.options) %}
{%- if options.allowed_scms is none %}
{%- do options.update({'allowed_scms': scm.allowed_scms}) %}
{%- endif %}
{%- set plugins = options.get('plugin') or [] %}
{%- set parts = ['builder'] + (builder.plugin_parts if plugins else []) %}
{%- if plugins %}
{%- do builder.update({'packages': builder.packages + builder.plugin_packages}) %}
{%- endif %}
{%- set own_plugins = '/usr/local/lib/goose/kojid' %}
{%- if scm.urls.anonymous %}
{%- do options.update({
      'plugin': plugins + ['goose_sources'],
      'pluginpath': options.get('pluginpath', '/usr/lib/koji-builder-plugins') ~ ':' ~ own_plugins,
    }) %}
{%- endif %}

include:
  - common
  - pki
  - koji.builder.mock
  - koji.gc.buildroots
  - koji.library
  - koji.volume
{%- if scm.urls.anonymous %}
  - scm.programs
{%- endif %}
{%- if 'koji.hub' in pillar.get('roles', []) %}
  - koji.hub
{%- endif %}

# Before the packages: EL9's make neither the user nor, at that moment, the group.
koji-builder-mock-group:
  group.present:
    - name: mock
    - system: true
{%- if builder.mock_group_gid %}
    - gid: {{ builder.mock_group_gid }}
{%- endif %}

koji-builder-group:
  group.present:
    - name: {{ builder.group }}
    - system: true

koji-builder-user:
  user.present:
    - name: {{ builder.user }}
    - gid: {{ builder.group }}
    - groups: [mock]
    - system: true
    - createhome: false
    - home: /builddir
    - shell: {{ builder.shell }}
    - password: '!'
    - require:
      - group: koji-builder-mock-group
      - group: koji-builder-group

{{ software(koji, 'builder', parts, require=[{'user': 'koji-builder-user'}]) }}

{%- for path, owner, group, mode in (
      ('/etc/mock', 'root', 'root', '0755'),
      ('/etc/mock/koji', builder.user, builder.group, '0755'),
      (options.mockdir, 'root', 'mock', builder.mock_dir_mode),
      ('/var/cache/mock', 'root', 'mock', builder.mock_dir_mode),
      (options.workdir, 'root', 'root', '0755'),
      ('/etc/kojid', 'root', 'root', '0755'),
      ('/etc/kojid/plugins', 'root', 'root', '0755'),
    ) %}
koji-builder-directory-{{ path | replace('/', '-') }}:
  file.directory:
    - name: {{ path }}
    - user: {{ owner }}
    - group: {{ group }}
    - mode: '{{ mode }}'
    - require:
      - koji-builder-software
      - sls: koji.builder.mock
    - require_in:
      - service: koji-builder-service
{%- endfor %}

# Puts RPMs of earlier builds into build roots, and ships enabled.
koji-builder-dnf-local:
  file.managed:
    - name: /etc/dnf/plugins/local.conf
    - contents: |
        [main]
        enabled = false
    - mode: '0644'
    - makedirs: true
    - require:
      - koji-builder-software
    - require_in:
      - service: koji-builder-service

{%- if builder.rpm_macros %}
koji-builder-rpm-macros:
  file.managed:
    - name: /etc/rpm/macros.koji
    - source: salt://koji/builder/files/macros.jinja
    - template: jinja
    - mode: '0644'
    - makedirs: true
    - context: {{ {'macros': builder.rpm_macros} | tojson }}
    - require:
      - koji-builder-software
    - require_in:
      - service: koji-builder-service
{%- endif %}

{%- for plugin, sections in builder.plugin_configs | dictsort %}
koji-builder-plugin-{{ plugin }}:
  file.managed:
    - name: /etc/kojid/plugins/{{ plugin }}.conf
    - source: salt://koji/files/sections.conf.jinja
    - template: jinja
    - mode: '0640'
    - context: {{ {'sections': sections} | tojson }}
    - require:
      - koji-builder-directory--etc-kojid-plugins
    - watch_in:
      - service: koji-builder-service
{%- endfor %}

{%- if scm.urls.anonymous %}

koji-builder-sources:
  file.managed:
    - name: {{ own_plugins }}/goose_sources.py
    - source: salt://koji/builder/files/goose_sources.py
    - mode: '0644'
    - makedirs: true
    - require:
      - sls: scm.programs
    - watch_in:
      - service: koji-builder-service

koji-builder-sources-config:
  file.managed:
    - name: /etc/kojid/plugins/goose_sources.conf
    - source: salt://koji/files/sections.conf.jinja
    - template: jinja
    - mode: '0644'
    - context: {{ {'sections': {'sources': {'scms': scm.allowed_scms[0]}}} | tojson }}
    - require:
      - koji-builder-directory--etc-kojid-plugins
    - require_in:
      - service: koji-builder-service
{%- endif %}

# May hold smtp_pass: never shown.
koji-builder-config:
  file.managed:
    - name: /etc/kojid/kojid.conf
    - source: salt://koji/builder/files/kojid.conf.jinja
    - template: jinja
    - mode: '0640'
    - show_changes: false
    - context: {{ {'options': options} | tojson }}
    - require:
      - koji-builder-directory--etc-kojid

koji-builder-unit:
  file.managed:
    - name: /etc/systemd/system/kojid.service.d/goose.conf
    - source: salt://koji/builder/files/unit.conf.jinja
    - template: jinja
    - mode: '0644'
    - makedirs: true
    - context: {{ {'volume': koji.volume.path} | tojson }}

# A builder that logs in before it is known gets no host entry that works.
koji-builder-wait:
  koji_wait.host_registered:
    - name: {{ grains['id'] }}
    - server: {{ koji.urls.hub }}
    - cert: {{ cert }}
    - serverca: {{ koji.serverca }}
    - timeout: {{ koji.wait }}
    # One that runs has logged in, and holds the session of its user.
    - unless: systemctl --quiet is-active kojid
    - require:
      - koji-builder-software
      - goose_pki: pki-kojid-pem
{%- if 'koji.hub' in pillar.get('roles', []) %}
      - service: common-httpd-service
{%- endif %}

# Reloading is kojid's graceful restart: it ends the builds that run, then reads
# its configuration again.
koji-builder-service:
  service.running:
    - name: kojid
    - enable: true
    - unmask: true
    - reload: true
    - require:
      - koji_wait: koji-builder-wait
      - koji-volume
      - sls: koji.builder.mock
      - file: koji-builder-unit
    - watch:
      - koji-builder-software
      - file: koji-builder-config
      - goose_pki: pki-kojid-pem

koji-builder-current:
  koji_service.current:
    - name: kojid
    - reload: true
    - files:
      - /etc/kojid/kojid.conf
      - {{ cert }}
{%- if scm.urls.anonymous %}
      - {{ own_plugins }}/goose_sources.py
{%- endif %}
    - require:
      - service: koji-builder-service
