# The NFS server of Koji's volume.
{%- from "koji/map.jinja" import koji with context %}
{%- set volume = koji.volume %}
{%- if volume.kind != 'nfs' %}
{{ raise(grains['id'] ~ " has the role koji.nfs, and pillar 'koji:volume:kind' is '" ~ volume.kind ~ "': set it to nfs, or take the role away in pillar/hosts.yaml.") }}
{%- endif %}

{#- The hub's host must be root, to give files to the web server's user. -#}
{%- set clients = [] %}
{%- for id, host in pillar['hosts'] | dictsort if id != grains['id'] %}
{%- if volume.nfs.writers | select('in', host.roles) | list %}
{%- do clients.append({'address': host.address, 'options': 'rw,sync,no_subtree_check,no_root_squash'}) %}
{%- elif volume.nfs.readers | select('in', host.roles) | list %}
{%- do clients.append({'address': host.address, 'options': 'ro,sync,no_subtree_check,root_squash'}) %}
{%- endif %}
{%- endfor %}

include:
  - common
  - koji.selinux
  - koji.volume

koji-nfs-packages:
  pkg.installed:
    - pkgs: {{ koji.nfs.server_packages | tojson }}

koji-nfs-exports:
  file.managed:
    - name: /etc/exports.d/koji.exports
    - source: salt://koji/nfs/files/koji.exports.jinja
    - template: jinja
    - mode: '0644'
    - makedirs: true
    - context: {{ {'export': volume.path, 'clients': clients} | tojson }}
    - require:
      - pkg: koji-nfs-packages

koji-nfs-service:
  service.running:
    - name: {{ koji.nfs.service }}
    - enable: true
    - unmask: true
    - reload: true
    - require:
      - koji-volume
    - watch:
      - file: koji-nfs-exports
