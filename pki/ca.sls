# The certificate authority: its keys, its certificates, its revocation lists; two of each
# while one CA takes the place of another.
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

pki-ca-layout:
  goose_pki.laid_out:
    - name: {{ ca_dir }}
    - require:
      - file: pki-ca-directory

# Before anything is made or dropped: whether all hosts are that far.
pki-ca-step:
  goose_pki.stepped:
    - name: {{ ca_dir }}/trusted.crt
    - signing: {{ pki.ca.signing }}
    - trusted: {{ pki.ca.trusted | tojson }}
    - require:
      - goose_pki: pki-ca-layout

{%- for number in pki.ca.trusted %}
{%- set own = ca_dir ~ '/' ~ number %}

pki-ca-directory-{{ number }}:
  file.directory:
    - name: {{ own }}
    - user: root
    - group: root
    - mode: '0700'
    - require:
      - goose_pki: pki-ca-step

pki-ca-key-{{ number }}:
  x509.private_key_managed:
    - name: {{ own }}/ca.key
    - algo: {{ pki.ca_key.algo }}
    - keysize: {{ pki.ca_key.keysize }}
    - user: root
    - group: root
    - mode: '0600'
    - require:
      - file: pki-ca-directory-{{ number }}

# Each with a name of its own: not every program tells two of one name apart by their keys.
pki-ca-certificate-{{ number }}:
  x509.certificate_managed:
    - name: {{ own }}/ca.crt
    - signing_private_key: {{ own }}/ca.key
    - CN: {{ pillar['site']['name'] }} CA{{ ' ' ~ number if number != 1 else '' }}
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
      - x509: pki-ca-key-{{ number }}
    - require_in:
      - goose_pki: pki-ca-certificates

# An empty list too: Apache refuses every client where the list is missing.
pki-ca-crl-{{ number }}:
  goose_pki.crl:
    - name: {{ own }}/crl.pem
    - key: {{ own }}/ca.key
    - certificate: {{ own }}/ca.crt
    - days_valid: {{ pki.crl_days }}
    - days_remaining: {{ pki.crl_days_remaining }}
    - require:
      - x509: pki-ca-certificate-{{ number }}
    - require_in:
      - goose_pki: pki-ca-crls
{%- endfor %}

# What hosts fetch.
{%- for id, name, part in (('certificates', 'trusted.crt', 'ca.crt'), ('crls', 'trusted.crl', 'crl.pem')) %}
{%- set files = [] %}
{%- for number in pki.ca.trusted %}
{%- do files.append(ca_dir ~ '/' ~ number ~ '/' ~ part) %}
{%- endfor %}

pki-ca-{{ id }}:
  goose_pki.joined:
    - name: {{ ca_dir }}/{{ name }}
    - files: {{ files | tojson }}
    - require:
      - goose_pki: pki-ca-step
{%- endfor %}

# The one that signs. A link, because key and certificate change hands in one moment.
pki-ca-signing:
  goose_pki.signing:
    - name: {{ ca_dir }}/current
    - number: {{ pki.ca.signing }}
    - require:
      - goose_pki: pki-ca-certificates
      - goose_pki: pki-ca-crls

{%- for name in ('ca.key', 'ca.crt', 'crl.pem') %}
pki-ca-link-{{ name | replace('.', '-') }}:
  file.symlink:
    - name: {{ ca_dir }}/{{ name }}
    - target: current/{{ name }}
    - force: true
    - require:
      - goose_pki: pki-ca-signing
{%- endfor %}

# Whose certificates are revoked, by pillar and by `goose_pki.revoke`: the hub ends their sessions.
pki-ca-revoked:
  goose_pki.revoked:
    - name: {{ ca_dir }}/trusted-revoked.json
    - require:
      - goose_pki: pki-ca-layout

pki-ca-published:
  goose_pki.published:
    - names:
      - pki_ca_certificate: [path: {{ ca_dir }}/trusted.crt]
      - pki_ca_crl: [path: {{ ca_dir }}/trusted.crl]
      - pki_ca_revoked: [path: {{ ca_dir }}/trusted-revoked.json]
    - require:
      - goose_pki: pki-ca-certificates
      - goose_pki: pki-ca-crls
      - goose_pki: pki-ca-revoked
