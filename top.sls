# A host's roles -> its states, and nothing else. The order below is the order
# in which a host with several roles is converged; `roles` itself is unordered.
{%- set known = [
  'salt.master',
  'pki.ca',
  'common',
  'pki',
  'scm',
  'koji.nfs',
  'koji.db',
  'koji.hub',
  'koji.web',
  'koji.client',
  'scm.client',
  'koji.content',
  'koji.kojira',
  'koji.bootstrap',
  'koji.builder',
] %}
{%- set every_host = ['common', 'pki'] %}
{%- set roles = pillar.get('roles', []) %}
{%- for role in roles if role not in known or role in every_host %}
{{ raise("pillar/hosts.yaml gives " ~ grains['id'] ~ " the role '" ~ role ~ "', which is no role: choose from " ~ (known | reject('in', every_host) | join(', ')) ~ ".") }}
{%- endfor %}
base:
  '{{ grains['id'] }}':
{%- for role in known if role in roles or role in every_host %}
    - {{ role }}
{%- if role == 'pki' and 'koji.bootstrap' in roles %}
    # Early, because it takes minutes and runs beside what follows.
    - koji.bootstrap.make
{%- endif %}
{%- endfor %}
