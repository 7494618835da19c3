# Koji's volume, by pillar koji:volume.
{%- from "koji/map.jinja" import koji with context %}
{%- from "common/lib.jinja" import host_with with context %}
{%- set volume = koji.volume %}
{%- set roles = pillar.get('roles', []) %}
{%- set writes = volume.nfs.writers | select('in', roles) | list != [] %}

{%- set label = koji.selinux.get('volume_type') if grains.get('selinux', {}).get('enabled') and volume.kind != 'nfs' else none %}

include:
  - common
{%- if label %}
  - koji.selinux
{%- endif %}

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

{%- if label %}

# The policy says <<none>> for /mnt/*/…, so restorecon would leave it as it is.
koji-volume-context:
  cmd.run:
    - name: semanage fcontext --add --type {{ label }} '{{ volume.path }}(/.*)?'
    - unless: semanage fcontext --list --locallist | grep -qF '{{ volume.path }}(/.*)?'
    - require:
      - pkg: koji-selinux-packages

# The top alone: what is made below inherits it, and a full volume takes hours.
koji-volume-label:
  cmd.run:
    - name: restorecon {{ volume.path }}
    - unless: matchpathcon -V {{ volume.path }}
    - require:
      - cmd: koji-volume-context
      - koji-volume
{%- endif %}
