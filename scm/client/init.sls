# The packager's command, on a host where packagers work.
{%- from "koji/map.jinja" import koji with context %}
{%- from "pki/map.jinja" import pki with context %}
{%- from "scm/map.jinja" import scm with context %}
{%- from "common/lib.jinja" import required with context %}
{%- set _ = required('scm:branches', "a mapping of branches to Koji's targets, as in pillar/scm.sls") %}
{%- for branch, what in scm.branches | dictsort if what is not mapping or not what.get('target') %}
{{- raise("Pillar 'scm:branches:" ~ branch ~ "' names no target: give {target: …, dist: …}.") }}
{%- endfor %}
{%- if not scm.urls.push %}
{{- raise("pillar/hosts.yaml gives the role 'scm' to no host, and pillar 'scm:kind' is " ~ scm.kind ~ ": give a host the role, or set scm:kind to forge with scm:urls.") }}
{%- endif %}
{%- set admin_cert = koji.pki_dir ~ '/' ~ koji.administrator ~ '.pem' if 'koji.content' in pillar.get('roles', []) else '' %}
{%- set options = {
      'lookaside': scm.lookaside.files,
      'lookaside_cgi': scm.lookaside.upload,
      'lookaside_namespaced': 'True',
      'gitbaseurl': scm.urls.push,
      'anongiturl': scm.urls.anonymous,
      'branchre': '.*',
      'default_branch': scm.default_branch,
      'distgit_namespaced': 'True',
      'distgit_namespaces': scm.namespace,
      'kojiprofile': pillar['site']['id'],
      'client_cert': scm.client.cert or admin_cert or '~/.koji/client.pem',
      'ca_cert': pki.dir ~ '/ca.crt',
      'skip_hooks': 'True',
    } %}
{%- do options.update(scm.client.options) %}
{%- set push_host = scm.urls.push.split('://', 1)[1].split('/', 1)[0].split('@') | last %}

include:
  - common
  - pki
  - koji.client
  - scm.programs

scm-client-packages:
  pkg.installed:
    - pkgs: {{ scm.client.packages | tojson }}
    - install_recommends: false
    - require:
      - sls: common
      - koji-library-software

{%- if scm.source %}
scm-client-pyrpkg:
  koji_source.installed:
    - name: pyrpkg
    - parts: [rpkg]
    - source: {{ scm.source | tojson }}
    - require:
      - pkg: scm-client-packages
    - require_in:
      - file: scm-client-program
{%- endif %}

scm-client-program:
  file.managed:
    - name: /usr/local/bin/goosepkg
    - source: salt://scm/client/files/goosepkg.py
    - mode: '0755'
    - require:
      - pkg: scm-client-packages

# The server has a hook of its own for what pyrpkg's would look at in each clone (skip_hooks).
scm-client-config:
  file.managed:
    - name: /etc/rpkg/goosepkg.conf
    - source: salt://scm/client/files/goosepkg.conf.jinja
    - template: jinja
    - mode: '0644'
    - makedirs: true
    - context: {{ {'options': options, 'branches': scm.branches} | tojson }}
    - require:
      - pkg: scm-client-packages

# Whom this host takes for the server: the keys of pillar, or else the first that it shows.
scm-client-ssh:
  file.managed:
    - name: /etc/ssh/ssh_config.d/goose.conf
    - source: salt://scm/client/files/ssh.conf.jinja
    - template: jinja
    - mode: '0644'
    - makedirs: true
    - context: {{ {'host': push_host.split(':') | first, 'keys': scm.host_keys} | tojson }}
    - require:
      - pkg: scm-client-packages

scm-client-known-hosts:
  file.{{ 'managed' if scm.host_keys else 'absent' }}:
    - name: /etc/ssh/goose_known_hosts
{%- if scm.host_keys %}
    - contents:
{%- for key in scm.host_keys %}
      - '{{ push_host.split(':') | first }} {{ key }}'
{%- endfor %}
    - mode: '0644'
    - require:
      - pkg: scm-client-packages
{%- endif %}
