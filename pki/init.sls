# On every host: the CA that it trusts, its keys, and the certificates that the
# CA host signs for it.
{%- from "common/map.jinja" import common with context %}
{%- from "pki/map.jinja" import pki, identities, uses with context %}
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
    - ca_path: {{ pki.ca_dir }}/trusted.crt
    - require:
      - file: pki-directory
{%- if pki.is_ca_host %}
      - goose_pki: pki-ca-certificates
{%- endif %}

pki-crl:
  goose_pki.fetched:
    - name: {{ pki.dir }}/crl.pem
    - entry: pki_ca_crl
    - ca_host: {{ pki.ca_host }}
    - ca_path: {{ pki.ca_dir }}/trusted.crl
    - require:
      - file: pki-directory
{%- if pki.is_ca_host %}
      - goose_pki: pki-ca-crls
{%- endif %}

# Into the system's store: dnf, git and browsers fetch over HTTPS.
pki-trust:
  goose_pki.anchored:
    - name: {{ trust.anchors }}
    - prefix: {{ pillar['site']['id'] }}-ca
    - ca: {{ pki.dir }}/ca.crt
    - bundle: {{ trust.bundle }}
    - command: {{ trust.command }}
    - require:
      - pkg: common-packages
      - goose_pki: pki-ca-certificate

# Who reads which file, for `goose_pki.certificates`.
pki-uses:
  file.serialize:
    - name: /etc/goose/pki.json
    - serializer: json
    - dataset: {{ {'uses': uses} | tojson }}
    - mode: '0644'
    - makedirs: true

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
      - goose_pki: pki-ca-signing
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

# Each host renews by itself: nobody has to apply anything for it.
{%- for kind in ('service', 'timer') %}
pki-renew-{{ kind }}-unit:
  file.managed:
    - name: /etc/systemd/system/goose-pki-renew.{{ kind }}
    - source: salt://pki/files/renew.{{ kind }}.jinja
    - template: jinja
    - mode: '0644'
    - context: {{ {'every': (pki.renew.every * 86400) | round | int, 'jitter': (pki.renew.jitter * 86400) | round | int} | tojson }}
{%- endfor %}

pki-renew-timer:
  service.running:
    - name: goose-pki-renew.timer
    - enable: true
    - unmask: true
    - require:
      - file: pki-renew-service-unit
    - watch:
      - file: pki-renew-timer-unit
