# The exporter is handed its key at its start; a renewal applies this alone.
{%- from "pki/map.jinja" import pki with context %}

include:
  - pki

monitoring-tls:
  koji_service.current:
    - name: goose-exporter
    - files:
      - {{ pki.dir }}/host.key
    - require:
      - x509: pki-host-key
