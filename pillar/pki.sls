{#- Settings from pki.yaml; and for the CA host alone a signing policy for each certificate
    that a host may ask for. One policy a host and a name, with everything fixed that a
    request could otherwise set: a shared policy lets any host have any name. -#}
{%- import_yaml 'hosts.yaml' as hosts %}
{%- import_yaml 'pki.yaml' as pki %}
{%- import_yaml 'site.yaml' as site %}
pki: {{ pki | tojson }}
{%- if 'pki.ca' in hosts.get(opts['id'], {}).get('roles', []) %}

mine_functions:
  pki_ca_certificate:
    - mine_function: file.read
    - /etc/pki/goose-ca/ca.crt
  pki_ca_crl:
    - mine_function: file.read
    - /etc/pki/goose-ca/crl.pem

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
    signing_private_key: /etc/pki/goose-ca/ca.key
    signing_cert: /etc/pki/goose-ca/ca.crt
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
