# Apache's module for Python, which hub, web and lookaside cache share.
{%- from "koji/map.jinja" import koji with context %}

include:
  - common.httpd

koji-wsgi-packages:
  pkg.installed:
    - pkgs: {{ koji.wsgi.packages | tojson }}
    - install_recommends: false
    - require:
      - pkg: common-httpd-packages
    - watch_in:
      - service: common-httpd-service

{%- for module in koji.wsgi.modules %}
koji-wsgi-module-{{ module }}:
  file.symlink:
    - name: /etc/apache2/mods-enabled/{{ module }}
    - target: ../mods-available/{{ module }}
    - require:
      - pkg: koji-wsgi-packages
    - watch_in:
      - service: common-httpd-service
{%- endfor %}
