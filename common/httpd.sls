# One Apache for all that a host serves: a TLS virtual host with the host's
# certificate. Roles add fragments to httpd.fragments, with
# `watch_in: [{service: common-httpd-service}]`.
{%- from "common/map.jinja" import httpd with context %}
{%- from "pki/map.jinja" import pki, identities with context %}

include:
  - pki

common-httpd-packages:
  pkg.installed:
    - pkgs: {{ httpd.packages | tojson }}

{%- for path in httpd.unwanted %}
common-httpd-unwanted-{{ path.split('/') | last }}:
  file.absent:
    - name: {{ path }}
    - require:
      - pkg: common-httpd-packages
    - watch_in:
      - service: common-httpd-service
{%- endfor %}

{%- for module in httpd.modules %}
common-httpd-module-{{ module }}:
  file.symlink:
    - name: /etc/apache2/mods-enabled/{{ module }}
    - target: ../mods-available/{{ module }}
    - require:
      - pkg: common-httpd-packages
    - require_in:
      - file: common-httpd-vhost
    - watch_in:
      - service: common-httpd-service
{%- endfor %}

common-httpd-vhost:
  file.managed:
    - name: {{ httpd.vhost }}
    - source: salt://common/files/httpd-vhost.conf.jinja
    - template: jinja
    - mode: '0644'
    - context: {{ {'name': grains['id'], 'pki_dir': pki.dir, 'log_dir': httpd.log_dir,
                   'own_ssl_globals': httpd.own_ssl_globals} | tojson }}
    - require:
      - pkg: common-httpd-packages

# Reloaded, not restarted: running requests are finished, and Apache checks the
# whole configuration first and keeps the old one where it is wrong.
common-httpd-service:
  service.running:
    - name: {{ httpd.service }}
    - enable: true
    - unmask: true
    - reload: true
    - watch:
      - file: common-httpd-vhost
      - x509: pki-host-certificate
      - x509: pki-host-key
      - goose_pki: pki-ca-certificate
      - goose_pki: pki-crl

common-httpd-current:
  koji_service.current:
    - name: {{ httpd.service }}
    - reload: true
    - files:
{%- for name in ('host.crt', 'host.key', 'ca.crt', 'crl.pem') %}
      - {{ pki.dir }}/{{ name }}
{%- endfor %}
{%- for identity in identities if identity.group == pki.groups.httpd %}
      - {{ pki.dir }}/{{ identity.name }}.pem
{%- endfor %}
    - require:
      - service: common-httpd-service
