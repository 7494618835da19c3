# kojira read its certificate when it logged in; a renewal applies this alone.
{%- from "koji/map.jinja" import koji with context %}

include:
  - pki

koji-kojira-tls:
  koji_service.current:
    - name: kojira
    - files:
      - {{ koji.pki_dir }}/kojira.pem
    - require:
      - goose_pki: pki-kojira-pem
