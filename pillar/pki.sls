{#- Settings from pki.yaml; and for the CA host alone a signing policy for each certificate
    that a host may ask for. One policy a host and a name, with everything fixed that a
    request could otherwise set: a shared policy lets any host have any name. -#}
{%- import_yaml 'hosts.yaml' as hosts %}
{%- import_yaml 'pki.yaml' as pki %}
{%- import_yaml 'site.yaml' as site %}

{#- Lifetimes in days from here on, whatever unit they were written in. What is none stays as
    it is, for pki/map.jinja: of an error here Salt tells nobody but its log. -#}
{%- set units = {'m': 1440, 'h': 24, 'd': 1} %}
{%- macro in_days(value) -%}
{%- set text = value | string | trim -%}
{%- if text | regex_match('([0-9]+([.][0-9]+)?[mhd])$') -%}
{{- ((text[:-1] | float) / units[text[-1]]) | tojson -}}
{%- else -%}
{{- value | tojson -}}
{%- endif -%}
{%- endmacro %}
{%- for key in ('ca_days', 'leaf_days', 'leaf_days_remaining', 'user_days', 'crl_days', 'crl_days_remaining') if key in pki %}
{%- do pki.update({key: in_days(pki[key]) | load_json}) %}
{%- endfor %}
{%- for key in ('every', 'jitter') if key in (pki.get('renew') or {}) %}
{%- do pki.renew.update({key: in_days(pki.renew[key]) | load_json}) %}
{%- endfor %}
pki: {{ pki | tojson }}

mine_functions:
  # What a host trusts and holds: the CA is replaced by steps, each when all hosts are ready.
  pki_held:
    - mine_function: file.read
    - /etc/pki/goose/held.json
{%- if 'pki.ca' in hosts.get(opts['id'], {}).get('roles', []) %}

  pki_ca_certificate:
    - mine_function: file.read
    - /etc/pki/goose-ca/trusted.crt
  pki_ca_crl:
    - mine_function: file.read
    - /etc/pki/goose-ca/trusted.crl
  pki_ca_revoked:
    - mine_function: file.read
    - /etc/pki/goose-ca/trusted-revoked.json

x509_signing_policies:
{%- for id, host in hosts | dictsort %}
{%- set names = [{'name': 'host', 'cn': id}] %}
{%- for role in host.roles if role in pki.identities %}
{%- set identity = pki.identities[role] %}
{%- do names.append({'name': identity.name, 'cn': id if identity.get('common_name') == 'host' else identity.name}) %}
{%- endfor %}
{%- for leaf in names %}
  {{ leaf.name }}-{{ id }}:
    minions: '{{ id }}'
    signing_private_key: /etc/pki/goose-ca/current/ca.key
    signing_cert: /etc/pki/goose-ca/current/ca.crt
    # A string replaces what the request asks for; a mapping would be merged with it.
    subject: 'CN={{ leaf.cn }},O={{ site.get('name', '') }}'
    subjectAltName: 'DNS:{{ leaf.cn }}'
    basicConstraints: critical, CA:FALSE
    keyUsage: critical, digitalSignature, keyEncipherment
    extendedKeyUsage: {{ 'serverAuth, clientAuth' if leaf.name == 'host' else 'clientAuth' }}
    subjectKeyIdentifier: hash
    authorityKeyIdentifier: keyid:always
    digest: sha256
    days_valid: {{ pki.leaf_days }}
    # Each of these in a request would otherwise win over the policy.
    not_before: null
    not_after: null
    serial_number: null
    copypath: /etc/pki/goose-ca/issued
    prepend_cn: false
{%- endfor %}
{%- endfor %}
{%- endif %}
