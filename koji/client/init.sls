# The command line client, with this Koji as its default.
{%- from "koji/map.jinja" import koji with context %}
{%- set options = {
      'server': koji.urls.hub,
      'weburl': koji.urls.web,
      'topurl': koji.urls.files,
      'topdir': koji.volume.path,
      'authtype': 'ssl',
      'serverca': koji.serverca,
    } %}
{%- if 'koji.content' in pillar.get('roles', []) %}
{%- do options.update({'cert': koji.pki_dir ~ '/' ~ koji.administrator ~ '.pem'}) %}
{%- endif %}
{%- do options.update(koji.client.options) %}

include:
  - common
  - pki
  - koji.library

koji-client-packages:
  pkg.installed:
    - pkgs: {{ koji.client.packages | tojson }}
    - install_recommends: false
    - require:
      - sls: common

koji-client-profile:
  file.managed:
    - name: /etc/koji.conf.d/goose.conf
    - source: salt://koji/client/files/koji.conf.jinja
    - template: jinja
    - mode: '0644'
    - makedirs: true
    - context: {{ {'profiles': {pillar['site']['id']: options}} | tojson }}
    - require:
      - koji-library-software

# EPEL's points at Fedora's Koji.
koji-client-default:
  file.managed:
    - name: /etc/koji.conf
    - source: salt://koji/client/files/koji.conf.jinja
    - template: jinja
    - mode: '0644'
    - context: {{ {'profiles': {'koji': options}} | tojson }}
    - require:
      - koji-library-software

# For image tasks: a kickstart is sent from where the command is given.
{%- for name, text in koji.image.kickstarts | dictsort %}
{%- if not name | regex_match('([A-Za-z0-9][A-Za-z0-9._-]*)$') %}
{{ raise("Pillar 'koji:image:kickstarts' has a name '" ~ name ~ "': use letters, digits, dots and hyphens.") }}
{%- endif %}

koji-client-kickstart-{{ name }}:
  file.managed:
    - name: /etc/goose/kickstarts/{{ name }}.ks
    - contents: {{ text | tojson }}
    - mode: '0644'
    - makedirs: true
{%- endfor %}
