# The signing host: the programs that sign what is in Koji, by Sigul or with keys of its own, the
# published keys, and a timer for each key.
{%- from "sigul/map.jinja" import sigul, signing, need_package, identity_of with context %}
{%- from "common/map.jinja" import httpd with context %}
{%- from "common/selinux.jinja" import labelled with context %}
{%- from "common/lib.jinja" import host_with with context %}
{%- from "koji/map.jinja" import koji with context %}
{%- set client = sigul.client %}
{%- set by_sigul = signing.backend == 'sigul' %}
{%- if by_sigul %}
{{- need_package('client') }}
{%- endif %}
{%- set identity = identity_of('sigul.client') | trim %}
{%- set cert = '/etc/goose/signing/' ~ identity ~ '.pem' %}
{%- set programs = ['signing_key.py', 'sigulsign_unsigned.py', 'goose/__init__.py', 'goose/signing.py',
                    'goose/signing_backends.py', 'goose/signing_config.py', 'goose/signing_gpg.py', 'goose/signing_key.py',
                    'goose/signing_file.py', 'goose/signing_koji.py', 'sign_file.py'] %}
{#- A directory of this host is Koji's volume only where the hub is here. -#}
{%- set volume_here = koji.volume.kind != 'local' or 'koji.hub' in pillar.get('roles', []) %}

{%- set profiles = {} %}
{%- set instances = {} %}
{%- set names = {} %}
{%- for name, options in signing.koji | dictsort %}
{%- set own = {'cert': cert} %}
{%- do own.update(options) %}
{%- do profiles.update({name: own}) %}
{%- do instances.update({name: {'config': signing.koji_file, 'profile': name}}) %}
{%- do names.update({name: name}) %}
{%- endfor %}
{%- set keys = {} %}
{%- for name, key in signing['keys'] | dictsort %}
{%- set row = {} %}
{%- for word in ('key_id', 'name', 'uid', 'type', 'koji', 'tags', 'inherit', 'arches', 'state', 'credential', 'passphrase_file') %}
{%- do row.update({word: key[word]}) %}
{%- endfor %}
{%- do keys.update({name: row}) %}
{%- endfor %}
{%- set config = {
      'backend': signing.backend,
      'koji': instances,
      'default_koji': signing.default_koji,
      'keys': keys,
      'rpmsign': {'gnupg_home': client.home ~ '/gnupg'},
      'sigul': {'command': 'sigul', 'config': client.secret_file, 'instance': names},
      'batch': signing.batch,
      'keys_dir': signing.keys_dir,
      'state_dir': client.home,
    } %}

include:
  - common
  - common.httpd
  - common.selinux
  - pki
  - sigul.client.tls
  - koji.library
{%- if volume_here %}
  - koji.volume
{%- endif %}

sigul-client-packages:
  pkg.installed:
    - pkgs: {{ (sigul.packages.tools + ([sigul.packages.client] if by_sigul else [])) | tojson }}
    - install_recommends: false
    - require:
      - sls: common

sigul-client-group:
  group.present:
    - name: {{ client.group }}
    - system: true

{#- Who makes repositories has it from mash's state, where that is applied here too. #}
sigul-client-files-group:
  group.present:
    - name: {{ signing.files_group }}
    - system: true

sigul-client-user:
  user.present:
    - name: {{ client.user }}
    - gid: {{ client.group }}
    - system: true
    - createhome: false
    - home: {{ client.home }}
    - shell: /usr/sbin/nologin
    - password: '!'
    - require:
      - group: sigul-client-group

{%- for path, owner, mode in ((client.home, client.user, '0700'), (client.home ~ '/gnupg', client.user, '0700'),
                              (signing.keys_dir, client.user, '0755'), ('/etc/goose', 'root', '0755'),
                              ('/etc/goose/signing', 'root', '0755')) %}
sigul-client-directory-{{ path | replace('/', '-') }}:
  file.directory:
    - name: {{ path }}
    - user: {{ owner }}
    - group: {{ client.group if owner == client.user else 'root' }}
    - mode: '{{ mode }}'
    - require:
      - user: sigul-client-user
    - require_in:
      - koji_file: sigul-client-cert
{%- if by_sigul %}
      - sigul: sigul-client-nss
{%- endif %}
      - file: sigul-client-config
{%- endfor %}

{%- for file in programs %}
sigul-client-program-{{ file | replace('/', '-') }}:
  file.managed:
    - name: {{ signing.program_dir }}/{{ file }}
    - source: salt://scripts/{{ file }}
    - mode: '{{ '0644' if '/' in file else '0755' }}'
    - makedirs: true
    - require_in:
      - file: sigul-client-config
{%- endfor %}

sigul-client-koji:
  file.managed:
    - name: {{ signing.koji_file }}
    - source: salt://koji/client/files/koji.conf.jinja
    - template: jinja
    - mode: '0644'
    - context: {{ {'profiles': profiles} | tojson }}
    - require:
      - file: sigul-client-directory--etc-goose-signing
      - koji_file: sigul-client-cert

sigul-client-config:
  file.serialize:
    - name: {{ signing.config_file }}
    - serializer: json
    - dataset: {{ config | tojson }}
    - mode: '0644'
    - require:
      - koji-library-software
      - pkg: sigul-client-packages
      - file: sigul-client-koji

{%- if by_sigul %}
{%- set koji_options = {'koji-config': '/etc/goose/signing/koji-' ~ signing.default_koji ~ '.conf', 'koji-instances': signing.koji | sort | join(' ')} %}
{%- for name, own in profiles | dictsort %}
{%- do koji_options.update({'koji-config-' ~ name: '/etc/goose/signing/koji-' ~ name ~ '.conf'}) %}

# Sigul's client wants each Koji in a file of its own.
sigul-client-koji-{{ name }}:
  file.managed:
    - name: /etc/goose/signing/koji-{{ name }}.conf
    - source: salt://koji/client/files/koji.conf.jinja
    - template: jinja
    - mode: '0644'
    - context: {{ {'profiles': {'koji': own}} | tojson }}
    - require:
      - file: sigul-client-directory--etc-goose-signing
{%- endfor %}
{%- set sections = salt['slsutil.merge']({
      'client': {'bridge-hostname': host_with('sigul.bridge') | trim, 'server-hostname': host_with('sigul.server') | trim,
                 'user-name': identity},
      'koji': koji_options,
      'nss': {'nss-dir': client.nss_dir},
    }, client.options, strategy='recurse') %}

sigul-client-sigul-config:
  file.managed:
    - name: /etc/sigul/client.conf
    - source: salt://sigul/files/sigul.conf.jinja
    - template: jinja
    - user: root
    - group: {{ client.group }}
    - mode: '0640'
    - show_changes: false
    - context: {{ {'sections': sections} | tojson }}
    - require:
      - pkg: sigul-client-packages
      - user: sigul-client-user

sigul-client-secret:
  koji_file.secret:
    - name: {{ client.secret_file }}
    - section: nss
    - line: nss-password
    - group: {{ client.group }}
    - mode: '0640'
    - require:
      - pkg: sigul-client-packages
      - user: sigul-client-user
    - require_in:
      - sigul: sigul-client-nss
{%- endif %}

sigul-client-apache:
  file.managed:
    - name: {{ httpd.fragments }}/keys.conf
    - source: salt://sigul/files/keys.conf.jinja
    - template: jinja
    - mode: '0644'
    - context: {{ {'path': signing.keys_dir} | tojson }}
    - require:
      - file: sigul-client-directory-{{ signing.keys_dir | replace('/', '-') }}
      - pkg: common-httpd-packages
    - watch_in:
      - service: common-httpd-service

sigul-client-apache-current:
  koji_service.current:
    - name: {{ httpd.service }}
    - reload: true
    - files:
      - {{ httpd.fragments }}/keys.conf
    - require:
      - service: common-httpd-service

{{- labelled('sigul-client', signing.keys_dir, sigul.selinux.get('keys_type'),
             require=[{'file': 'sigul-client-directory-' ~ signing.keys_dir | replace('/', '-')}]) }}

{%- for name, key in signing['keys'] | dictsort %}
{%- set program = signing.program_dir ~ '/signing_key.py' %}
{%- set public = signing.keys_dir ~ '/RPM-GPG-KEY-' ~ name %}
{%- set made = not by_sigul and key.create and key.state == 'active' %}
{%- set served = key.state != 'retired' %}
{%- set timed = key.timer.enabled and key.state == 'active' and key.tags != [] %}
{%- if made %}

# Its passphrase is made with it, sealed for this host, and known to nobody.
sigul-client-key-{{ name }}:
  cmd.run:
    - name: {{ program }} create {{ name }}
    - unless: {{ program }} create {{ name }} --dry-run --json | grep -qE 'created.:.false'
    - require:
      - file: sigul-client-config

sigul-client-public-{{ name }}:
  cmd.run:
    - name: {{ program }} publish {{ name }}
    - unless: {{ program }} export {{ name }} | cmp -s - {{ public }}
    - require:
      - cmd: sigul-client-key-{{ name }}
{%- endif %}

{%- if not made and name in signing.public_keys %}

sigul-client-public-{{ name }}:
  file.managed:
    - name: {{ public }}
    - contents: {{ signing.public_keys[name] | tojson }}
    - user: {{ client.user }}
    - group: {{ client.group }}
    - mode: '0644'
    - require:
      - file: sigul-client-directory-{{ signing.keys_dir | replace('/', '-') }}
{%- endif %}

{%- set unit = {'key': name, 'user': client.user, 'group': client.group, 'home': client.home, 'timer': key.timer, 'config': signing.config_file,
               'credential': key.credential if not key.passphrase_file else '', 'credstore': signing.credstore} %}
{%- if served %}

sigul-client-files-service-{{ name }}:
  file.managed:
    - name: /etc/systemd/system/signing-{{ name }}-files@.service
    - source: salt://sigul/files/signing.service.jinja
    - template: jinja
    - mode: '0644'
    - context: {{ dict(unit, program=signing.program_dir ~ '/sign_file.py', serve=true) | tojson }}

sigul-client-files-unit-{{ name }}:
  file.managed:
    - name: /etc/systemd/system/signing-{{ name }}-files.socket
    - source: salt://sigul/files/signing-files.socket.jinja
    - template: jinja
    - mode: '0644'
    - context: {{ {'key': name, 'group': signing.files_group} | tojson }}

sigul-client-files-{{ name }}:
  service.running:
    - name: signing-{{ name }}-files.socket
    - enable: true
    - unmask: true
    - require:
      - group: sigul-client-files-group
      - file: sigul-client-config
      - file: sigul-client-files-service-{{ name }}
    - watch:
      - file: sigul-client-files-unit-{{ name }}
{%- else %}

sigul-client-files-{{ name }}:
  service.dead:
    - name: signing-{{ name }}-files.socket
    - enable: false
    - onlyif: test -e /etc/systemd/system/signing-{{ name }}-files.socket

{%- for unit_file in ('files.socket', 'files@.service') %}

sigul-client-{{ 'files-unit' if unit_file == 'files.socket' else 'files-service' }}-{{ name }}:
  file.absent:
    - name: /etc/systemd/system/signing-{{ name }}-{{ unit_file }}
    - require:
      - service: sigul-client-files-{{ name }}
{%- endfor %}
{%- endif %}
{%- if timed %}
{%- for kind in ('service', 'timer') %}
sigul-client-{{ kind }}-{{ name }}:
  file.managed:
    - name: /etc/systemd/system/signing-{{ name }}.{{ kind }}
    - source: salt://sigul/files/signing.{{ kind }}.jinja
    - template: jinja
    - mode: '0644'
    - context: {{ dict(unit, program=signing.program_dir ~ '/sigulsign_unsigned.py', serve=false) | tojson }}
{%- endfor %}

sigul-client-timing-{{ name }}:
  service.running:
    - name: signing-{{ name }}.timer
    - enable: true
    - unmask: true
    - require:
      - file: sigul-client-config
      - file: sigul-client-service-{{ name }}
{%- if made %}
      - cmd: sigul-client-public-{{ name }}
{%- endif %}
{%- if by_sigul %}
      - sigul: sigul-client-nss
{%- endif %}
    - watch:
      - file: sigul-client-timer-{{ name }}
{%- else %}

sigul-client-timing-{{ name }}:
  service.dead:
    - name: signing-{{ name }}.timer
    - enable: false
    # Of a unit that is not there Salt says in test mode that it would be stopped.
    - onlyif: test -e /etc/systemd/system/signing-{{ name }}.timer

{%- for kind in ('service', 'timer') %}
sigul-client-{{ kind }}-{{ name }}:
  file.absent:
    - name: /etc/systemd/system/signing-{{ name }}.{{ kind }}
    - require:
      - service: sigul-client-timing-{{ name }}
{%- endfor %}
{%- endif %}
{%- endfor %}
