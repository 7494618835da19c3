# Apache's module for Python, which hub and web share.
{%- from "koji/map.jinja" import koji with context %}
{%- from "common/map.jinja" import httpd with context %}

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

# Across a reload: a request that an Apache process of before has taken by then finds the programs that run
# now. With sockets of their own for each reload it finds none, and is answered 503.
koji-wsgi-apache:
  file.managed:
    - name: {{ httpd.fragments }}/goose-wsgi.conf
    - contents: WSGISocketRotation Off
    - mode: '0644'
    - require:
      - pkg: koji-wsgi-packages
    - watch_in:
      - service: common-httpd-service
