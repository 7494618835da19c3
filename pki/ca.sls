# The certificate authority: its key, its certificate, its revocation list.
{%- from "pki/map.jinja" import pki with context %}
{%- set ca_dir = pki.ca_dir %}

# By itself, because `makedirs` gives the parent the mode of the directory.
pki-ca-parent:
  file.directory:
    - name: {{ salt['file.dirname'](ca_dir) }}
    - mode: '0755'

pki-ca-directory:
  file.directory:
    - name: {{ ca_dir }}
    - user: root
    - group: root
    - mode: '0700'
    - require:
      - file: pki-ca-parent

pki-ca-issued:
  file.directory:
    - name: {{ ca_dir }}/issued
    - user: root
    - group: root
    - mode: '0700'
    - require:
      - file: pki-ca-directory

pki-ca-key:
  x509.private_key_managed:
    - name: {{ ca_dir }}/ca.key
    - algo: {{ pki.ca_key.algo }}
    - keysize: {{ pki.ca_key.keysize }}
    - user: root
    - group: root
    - mode: '0600'
    - require:
      - file: pki-ca-directory

pki-ca-own-certificate:
  x509.certificate_managed:
    - name: {{ ca_dir }}/ca.crt
    - signing_private_key: {{ ca_dir }}/ca.key
    - CN: {{ pillar['site']['name'] }} CA
    - O: {{ pillar['site']['name'] }}
    - basicConstraints: critical, CA:TRUE, pathlen:0
    - keyUsage: critical, keyCertSign, cRLSign
    - subjectKeyIdentifier: hash
    - digest: sha256
    - days_valid: {{ pki.ca_days }}
    - days_remaining: 90
    - user: root
    - group: root
    - mode: '0644'
    - require:
      - x509: pki-ca-key

# An empty list too: Apache refuses every client where the list is missing.
pki-ca-own-crl:
  x509.crl_managed:
    - name: {{ ca_dir }}/crl.pem
    - signing_private_key: {{ ca_dir }}/ca.key
    - signing_cert: {{ ca_dir }}/ca.crt
    - revoked: {{ pki.revoked | tojson }}
    - days_valid: {{ pki.crl_days }}
    - days_remaining: {{ pki.crl_days_remaining }}
    - digest: sha256
    - extensions:
        authorityKeyIdentifier: keyid:always
        cRLNumber: auto
    - mode: '0644'
    - require:
      - x509: pki-ca-own-certificate

pki-ca-published:
  goose_pki.published:
    - names:
      - pki_ca_certificate: [path: {{ ca_dir }}/ca.crt]
      - pki_ca_crl: [path: {{ ca_dir }}/crl.pem]
    - require:
      - x509: pki-ca-own-certificate
      - x509: pki-ca-own-crl
