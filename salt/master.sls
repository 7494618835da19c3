# What this tree needs of its Salt master, beside what Salt's own package brings.
# Apply it with `salt-call` on the master itself: the service restarts.
{%- from "salt/map.jinja" import salt_settings with context %}
{%- from "pki/map.jinja" import pki with context %}
{%- set identities = pki.identities %}

{#- A peer rule a host: it may ask the CA for the certificates of its own roles alone.
    Salt matches the asking host, functions and arguments as patterns that are anchored
    at their start only, hence the escapes and the `$`; the CA host is a plain target. -#}
{%- set ca_host = pki.ca_host %}
{%- set peer = {} %}
{%- for id, host in pillar['hosts'] | dictsort if id != ca_host %}
{%- set names = ['host'] %}
{%- for role in host.roles if role in identities %}
{%- do names.append(identities[role].name) %}
{%- endfor %}
{%- do peer.update({(id | regex_escape) ~ '$': [{ca_host: [
      {'x509\\.sign_remote_certificate$': {'args': ['(' ~ (names | unique | join('|')) ~ ')-' ~ (id | regex_escape) ~ '$']}},
    ]}]}) %}
{%- endfor %}

salt-master-config:
  file.managed:
    - name: /etc/salt/master.d/goose.conf
    - source: salt://salt/files/master.conf.jinja
    - template: jinja
    - mode: '0644'
    - makedirs: true
    - context: {{ {'settings': salt_settings, 'peer': peer} | tojson }}

salt-master-service:
  service.running:
    - name: {{ salt_settings.service }}
    - enable: true
    - unmask: true
    - watch:
      - file: salt-master-config
