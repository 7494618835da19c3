# The certificate that the signing server has in its NSS database; a renewal applies this alone.
{%- from "sigul/map.jinja" import sigul with context %}
{%- from "koji/map.jinja" import koji with context %}
{%- set server = sigul.server %}

include:
  - pki

sigul-server-nss:
  sigul.nss:
    - name: {{ server.nss_dir }}
    - nickname: {{ server.options.server['server-cert-nickname'] }}
    - certificate: {{ koji.pki_dir }}/host.crt
    - private_key: {{ koji.pki_dir }}/host.key
    - ca: {{ koji.serverca }}
    - password_file: {{ server.secret_file }}
    - user: {{ server.user }}
    - group: {{ server.group }}
    - require:
      - x509: pki-host-certificate
      - goose_pki: pki-ca-certificate

sigul-server-tls:
  koji_service.current:
    - name: sigul_server
    - files:
      - {{ server.nss_dir }}
    - require:
      - sigul: sigul-server-nss
