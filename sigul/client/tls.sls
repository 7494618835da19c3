# The certificates that signing shows to Koji and to Sigul; a renewal applies this alone.
{%- from "sigul/map.jinja" import sigul, signing, identity_of with context %}
{%- from "koji/map.jinja" import koji with context %}
{%- set client = sigul.client %}
{%- set identity = identity_of('sigul.client') | trim %}

include:
  - pki

sigul-client-cert:
  koji_file.copied:
    - name: /etc/goose/signing/{{ identity }}.pem
    - source: {{ koji.pki_dir }}/{{ identity }}.pem
    - user: root
    - group: {{ client.group }}
    - mode: '0640'
    - require:
      - goose_pki: pki-{{ identity }}-pem
{%- if signing.backend == 'sigul' %}

sigul-client-nss:
  sigul.nss:
    - name: {{ client.nss_dir }}
    - nickname: {{ client.options.client['client-cert-nickname'] }}
    - certificate: {{ koji.pki_dir }}/{{ identity }}.crt
    - private_key: {{ koji.pki_dir }}/{{ identity }}.key
    - ca: {{ koji.serverca }}
    - password_file: {{ client.secret_file }}
    - user: {{ client.user }}
    - group: {{ client.group }}
    - require:
      - x509: pki-{{ identity }}-certificate
      - goose_pki: pki-ca-certificate
{%- endif %}
