# What a site without an Enterprise Linux mirror builds in: Debian packages made into
# RPMs (koji.bootstrap.make), imported here as one Koji build into the bootstrap tag.
{%- from "koji/map.jinja" import koji with context %}
{%- from "koji/bootstrap/map.jinja" import buildroot with context %}

include:
  - koji.bootstrap.make
{%- if buildroot.enabled %}
  - pki
  - koji.client
  - koji.content

# Waits for the hub and for the tag, which koji.content makes.
koji-bootstrap-import:
  cmd.run:
    - name: {{ buildroot.program }} import --wait {{ koji.wait }}
    - unless: {{ buildroot.program }} status
    - require:
      - cmd: koji-bootstrap-make
      - koji-library-software
      - file: koji-client-profile
      - goose_pki: pki-{{ koji.administrator }}-pem
      - sls: koji.content
{%- else %}

koji-bootstrap-import:
  test.succeed_without_changes:
    - name: Nothing is imported, because this site builds from the external repositories that pillar koji:content names. Set koji:buildroot:enabled on a Debian host for the embedded build root.
{%- endif %}
