# What a host's timer applies, and `goose_pki.renew`: certificates, and all that uses them.
{%- from "pki/map.jinja" import pki, followers with context %}

include:
  - pki
{%- for states in followers %}
  - {{ states }}
{%- endfor %}

# Last, and only where all went well: the CA host goes by it when the CA is replaced.
pki-held:
  goose_pki.reported:
    - name: {{ pki.dir }}/held.json
    - require:
      - sls: pki
{%- for states in followers %}
      - sls: {{ states }}
{%- endfor %}
