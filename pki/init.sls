# On every host: the CA that it trusts, its keys, and the certificates that the
# CA host signs for it.
{%- from "common/map.jinja" import common with context %}
{%- from "pki/map.jinja" import pki, identities with context %}
{%- set trust = common.ca_trust %}

include:
  - common
{%- if pki.is_ca_host %}
  - pki.ca
{%- endif %}

pki-directory:
  file.directory:
    - name: {{ pki.dir }}
    - user: root
    - group: root
    - mode: '0755'
    - makedirs: true

pki-ca-certificate:
  goose_pki.fetched:
    - name: {{ pki.dir }}/ca.crt
    - entry: pki_ca_certificate
    - ca_host: {{ pki.ca_host }}
    - ca_path: {{ pki.ca_dir }}/ca.crt
    - require:
      - file: pki-directory
{%- if pki.is_ca_host %}
      - x509: pki-ca-own-certificate
{%- endif %}

pki-crl:
  goose_pki.fetched:
    - name: {{ pki.dir }}/crl.pem
    - entry: pki_ca_crl
    - ca_host: {{ pki.ca_host }}
    - ca_path: {{ pki.ca_dir }}/crl.pem
    - require:
      - file: pki-directory
{%- if pki.is_ca_host %}
      - x509: pki-ca-own-crl
{%- endif %}

# Into the system's store: dnf, git and browsers fetch over HTTPS.
pki-trust-anchor:
  goose_pki.fetched:
    - name: {{ trust.anchors }}/{{ pillar['site']['id'] }}-ca.crt
    - entry: pki_ca_certificate
    - ca_host: {{ pki.ca_host }}
    - ca_path: {{ pki.ca_dir }}/ca.crt
    - require:
      - pkg: common-packages
      - goose_pki: pki-ca-certificate

# Asks the bundle that programs read, not the time stamp of a file.
pki-trust:
  cmd.run:
    - name: {{ trust.command }}
    - unless: openssl verify -CAfile {{ trust.bundle }} -no-CApath -no-CAstore {{ pki.dir }}/ca.crt
    - require:
      - goose_pki: pki-trust-anchor

{%- for identity in identities %}
{%- set path = pki.dir ~ '/' ~ identity.name %}

pki-{{ identity.name }}-key:
  x509.private_key_managed:
    - name: {{ path }}.key
    - algo: {{ pki.leaf_key.algo }}
    - keysize: {{ pki.leaf_key.keysize }}
    - user: root
    - group: root
    - mode: '0600'
    - require:
      - file: pki-directory

pki-{{ identity.name }}-certificate:
  x509.certificate_managed:
    - name: {{ path }}.crt
{%- if not pki.is_ca_host %}
    - ca_server: {{ pki.ca_host }}
    # On the way to the CA host Salt itself fails now and then ("dictionary keys changed
    # during iteration"), and asking again is all that it takes.
    - retry: {attempts: 4, interval: 3}
{%- endif %}
    - signing_policy: {{ identity.name }}-{{ grains['id'] }}
    - private_key: {{ path }}.key
    - CN: {{ identity.common_name }}
    - days_valid: {{ pki.leaf_days }}
    - days_remaining: {{ pki.leaf_days_remaining }}
    - user: root
    - group: root
    - mode: '0644'
    - require:
      - x509: pki-{{ identity.name }}-key
      - goose_pki: pki-ca-certificate
{%- if pki.is_ca_host %}
      - x509: pki-ca-own-certificate
      - file: pki-ca-issued
{%- endif %}

{%- if identity.pem %}

# Koji wants certificate and key in one file.
pki-{{ identity.name }}-pem:
  goose_pki.pem:
    - name: {{ path }}.pem
    - certificate: {{ path }}.crt
    - private_key: {{ path }}.key
    - user: root
    - group: {{ identity.group }}
    - mode: '{{ '0600' if identity.group == 'root' else '0640' }}'
    - require:
      - x509: pki-{{ identity.name }}-certificate
{%- endif %}
{%- endfor %}
