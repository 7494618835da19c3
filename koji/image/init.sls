# A builder that makes images, beside packages: what kojid needs of the host itself. What livecd, appliance and
# livemedia tasks run is in their build roots, which koji.content gives the groups for.
{%- from "koji/map.jinja" import koji with context %}
{%- set image = koji.image %}
{%- if 'koji.builder' not in pillar.get('roles', []) %}
{{ raise("pillar/hosts.yaml gives " ~ grains['id'] ~ " the role koji.image without koji.builder: give it both, for the tasks are kojid's.") }}
{%- endif %}

include:
  - common
  - koji.builder

koji-image-packages:
  pkg.installed:
    - pkgs: {{ (image.packages + (image.oz_packages if 'image' in image.channels else [])) | tojson }}
    - install_recommends: false
    - require:
      - sls: common
    # kojid looks for them when it starts, and refuses the tasks where they are missing.
    - watch_in:
      - service: koji-builder-service
