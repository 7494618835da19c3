# Koji's volume, by pillar koji:volume.
{%- from "koji/map.jinja" import koji with context %}
{%- from "common/lib.jinja" import host_with with context %}
{%- from "common/selinux.jinja" import labelled with context %}
{%- set volume = koji.volume %}
{%- set roles = pillar.get('roles', []) %}
{%- set writes = volume.nfs.writers | select('in', roles) | list != [] %}

include:
  - common
  - common.selinux

{%- if volume.kind == 'provided' %}
koji-volume:
  koji_volume.provided:
    - name: {{ volume.path }}
    - writable: {{ writes | tojson }}

{%- elif volume.kind == 'local' or 'koji.nfs' in roles %}
koji-volume:
  file.directory:
    - name: {{ volume.path }}
    - user: root
    - group: root
    - mode: '0755'
    - makedirs: true

{%- else %}
{%- set server = host_with('koji.nfs') | trim %}
{%- set unit = volume.path[1:] | replace('-', '\\x2d') | replace('/', '-') ~ '.mount' %}
koji-volume-packages:
  pkg.installed:
    - pkgs: {{ koji.nfs.client_packages | tojson }}

koji-volume-unit:
  file.managed:
    - name: {{ '/etc/systemd/system/' ~ unit }}
    - source: salt://koji/files/volume.mount.jinja
    - template: jinja
    - mode: '0644'
    - context: {{ {'server': server, 'path': volume.path,
                   'options': [('rw' if writes else 'ro')] + volume.nfs.options} | tojson }}
    - require:
      - pkg: koji-volume-packages

# Mounted again only by hand or at boot: builds are running on it.
koji-volume:
  service.running:
    - name: {{ unit }}
    - enable: true
    - unmask: true
    - require:
      - file: koji-volume-unit
{%- endif %}

{%- if volume.kind != 'nfs' %}
{#- The policy says <<none>> for /mnt/*/…, so restorecon would leave it as it is. -#}
{{ labelled('koji-volume', volume.path, koji.selinux.get('volume_type'), require=['koji-volume']) }}
{%- endif %}
