# Hub and kojiweb run in Apache's own processes: a reload lets each finish the request that it has, and there is
# no moment without one. mod_wsgi's daemons are ended by a reload, with what they do, and a request that comes
# then is answered 503.
{%- from "koji/map.jinja" import koji with context %}
{%- from "common/map.jinja" import httpd with context %}
{%- set prefork = koji.prefork %}
{%- set unit = '/etc/systemd/system/' ~ httpd.service ~ '.service.d/goose-koji.conf' %}
{%- set files = [unit, httpd.fragments ~ '/goose-koji.conf'] %}

include:
  - koji.wsgi

{%- for module in prefork.unwanted %}
koji-httpd-unwanted-{{ module }}:
  file.absent:
    - name: /etc/apache2/mods-enabled/{{ module }}
    - require:
      - pkg: koji-wsgi-packages
    - require_in:
      - koji_service: koji-httpd-ended
{%- endfor %}

{%- for module in prefork.modules %}
{%- do files.append('/etc/apache2/mods-enabled/' ~ module) %}
koji-httpd-module-{{ module }}:
  file.symlink:
    - name: /etc/apache2/mods-enabled/{{ module }}
    - target: ../mods-available/{{ module }}
    - require:
      - pkg: koji-wsgi-packages
    - require_in:
      - koji_service: koji-httpd-ended
{%- endfor %}

{%- if prefork.file %}
{%- do files.append(prefork.file) %}
koji-httpd-prefork:
  file.managed:
    - name: {{ prefork.file }}
    - contents: LoadModule mpm_prefork_module modules/mod_mpm_prefork.so
    - mode: '0644'
    - require:
      - pkg: koji-wsgi-packages
    - require_in:
      - koji_service: koji-httpd-ended
{%- endif %}

koji-httpd-config:
  file.managed:
    - name: {{ httpd.fragments }}/goose-koji.conf
    - source: salt://koji/files/httpd.conf.jinja
    - template: jinja
    - mode: '0644'
    - context: {{ {'workers': koji.httpd.workers, 'spare': koji.httpd.spare} | tojson }}
    - require:
      - pkg: koji-wsgi-packages

# Python's locale must be UTF-8, or kojiweb's templates cannot be read. Debian's apachectl sets LANG.
koji-httpd-unit:
  file.managed:
    - name: {{ unit }}
    - contents: |
        [Service]
        Environment=LC_ALL=C.UTF-8
    - mode: '0644'
    - makedirs: true
    - require:
      - pkg: koji-wsgi-packages

# These it takes when it starts, and by no reload.
koji-httpd-ended:
  koji_service.ended:
    - name: {{ httpd.service }}
    - files: {{ files | tojson }}
    - require:
      - file: koji-httpd-config
      - file: koji-httpd-unit
    - require_in:
      - service: common-httpd-service
