# kojid read its certificate when it logged in; a renewal applies this alone.
{%- from "koji/map.jinja" import koji with context %}

include:
  - pki

koji-builder-tls:
  koji_service.current:
    - name: kojid
    - reload: true
    - files:
      - {{ koji.pki_dir }}/kojid.pem
    - require:
      - goose_pki: pki-kojid-pem
