{%- import_yaml 'site.yaml' as site %}
{%- set release = site.get('id', '') ~ '-' ~ site.get('version', '') %}
# Who signs what, and with which key. Everything that can be set, with its default:
# sigul/defaults.yaml, below `signing`.
signing:
  # sigul, rpmsign (keys on the signing host itself), or unset: sigul where it can be had.
  backend: null

  keys:
    {{ release }}:
      uid: {{ site.get('name', '') }} {{ site.get('version', '') }} <security@{{ site.get('domain', '') }}>
      tags: [{{ release }}]

# The daemons. Firewalls: the bridge takes TCP 44333 from the server and 44334 from clients, and
# reaches the hub by HTTPS. The server takes nothing from anybody: it dials the bridge, and the
# Salt master. Close all ports of its host, ssh too where a console serves.
sigul: {}
