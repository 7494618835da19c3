# A builder that makes images, beside packages: what kojid needs of the host itself. What livecd, appliance and
# livemedia tasks run is in their build roots, which koji.content gives the groups for.
{%- from "koji/map.jinja" import koji with context %}
{%- from "koji/software.jinja" import software %}
{%- set image = koji.image %}
{%- if 'koji.builder' not in pillar.get('roles', []) %}
{{ raise("pillar/hosts.yaml gives " ~ grains['id'] ~ " the role koji.image without koji.builder: give it both, for the tasks are kojid's.") }}
{%- endif %}

include:
  - common
  - koji.builder

{#- kojid looks for these when it starts, and refuses the tasks where they are missing. -#}
{{ software(koji, 'image', watch_in=[{'service': 'koji-builder-service'}]) }}

{%- if 'image' in image.channels %}
koji-image-oz:
  pkg.installed:
    - pkgs: {{ image.oz_packages | tojson }}
    - install_recommends: false
    - require:
      - koji-image-software
    - watch_in:
      - service: koji-builder-service
{%- endif %}
