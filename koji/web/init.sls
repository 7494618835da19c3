# Kojiweb: pages for people, who log in with their certificate.
{%- from "koji/map.jinja" import koji with context %}
{%- from "koji/software.jinja" import software %}
{%- from "common/map.jinja" import httpd with context %}
{%- set web = koji.web %}
{%- set options = {
      'SiteName': pillar['site']['id'],
      'KojiHubURL': koji.urls.hub,
      'KojiFilesURL': koji.urls.files,
      'WebCert': koji.pki_dir ~ '/kojiweb.pem',
      'KojiHubCA': koji.serverca,
      'LibPath': '/usr/share/koji-web/lib',
    } %}
{%- do options.update(web.options) %}

include:
  - common
  - common.httpd
  - pki
  - koji.library
  - koji.selinux
  - koji.httpd

# Its group comes with Apache's packages.
extend:
  pki-kojiweb-pem:
    goose_pki:
      - require:
        - pkg: common-httpd-packages

{{ software(koji, 'web', require_in=[{'service': 'common-httpd-service'}]) }}

koji-web-directory:
  file.directory:
    - name: /etc/kojiweb/web.conf.d
    - user: root
    - group: root
    - mode: '0755'
    - makedirs: true
    - require:
      - koji-web-software

# May hold a secret that a site has set itself: never shown.
koji-web-config:
  file.managed:
    - name: /etc/kojiweb/web.conf
    - source: salt://koji/web/files/web.conf.jinja
    - template: jinja
    - user: root
    - group: {{ httpd.group }}
    - mode: '0640'
    - show_changes: false
    - context: {{ {'options': options} | tojson }}
    - require:
      - file: koji-web-directory
      - pkg: common-httpd-packages
    - watch_in:
      - service: common-httpd-service

# Signs the cookies of those who are logged in; made here, known nowhere else.
koji-web-secret:
  koji_file.secret:
    - name: /etc/kojiweb/web.conf.d/secret.conf
    - section: web
    - line: Secret
    - user: root
    - group: {{ httpd.group }}
    - mode: '0640'
    - require:
      - file: koji-web-directory
      - pkg: common-httpd-packages
    - watch_in:
      - service: common-httpd-service

koji-web-apache:
  file.managed:
    - name: {{ httpd.fragments }}/kojiweb.conf
    - source: salt://koji/web/files/kojiweb.conf
    - mode: '0644'
    - require:
      - pkg: koji-wsgi-packages
      - file: koji-web-config
      - koji_file: koji-web-secret
    - watch:
      - goose_pki: pki-kojiweb-pem
    - watch_in:
      - service: common-httpd-service

koji-web-current:
  koji_service.current:
    - name: {{ httpd.service }}
    - reload: true
    - files:
      - /etc/kojiweb/web.conf
      - /etc/kojiweb/web.conf.d/secret.conf
      - {{ koji.pki_dir }}/kojiweb.pem
      - {{ httpd.fragments }}/kojiweb.conf
    - require:
      - service: common-httpd-service
