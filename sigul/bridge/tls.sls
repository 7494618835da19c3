# The certificates that the bridge has in its NSS database and at Koji; a renewal applies this alone.
{%- from "sigul/map.jinja" import sigul, identity_of with context %}
{%- from "koji/map.jinja" import koji with context %}
{%- set bridge = sigul.bridge %}
{%- set identity = identity_of('sigul.bridge') | trim %}

include:
  - pki

sigul-bridge-nss:
  sigul.nss:
    - name: {{ bridge.nss_dir }}
    - nickname: {{ bridge.options.bridge['bridge-cert-nickname'] }}
    - certificate: {{ koji.pki_dir }}/host.crt
    - private_key: {{ koji.pki_dir }}/host.key
    - ca: {{ koji.serverca }}
    - password_file: {{ bridge.secret_file }}
    - user: {{ bridge.user }}
    - group: {{ bridge.group }}
    - require:
      - x509: pki-host-certificate
      - goose_pki: pki-ca-certificate

# It logs in to Koji in the name of those who sign: the hub has it in ProxyDNs.
sigul-bridge-cert:
  koji_file.copied:
    - name: /etc/sigul/{{ identity }}.pem
    - source: {{ koji.pki_dir }}/{{ identity }}.pem
    - user: root
    - group: {{ bridge.group }}
    - mode: '0640'
    - require:
      - goose_pki: pki-{{ identity }}-pem

sigul-bridge-tls:
  koji_service.current:
    - name: sigul_bridge
    - files:
      - {{ bridge.nss_dir }}
    - require:
      - sigul: sigul-bridge-nss
