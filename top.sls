# A host's roles -> its states, and nothing else. The order below is the order
# in which a host with several roles is converged; `roles` itself is unordered.
{%- import_yaml 'common/roles.yaml' as known %}
{%- set every_host = ['common', 'pki'] %}
{#- A host that watches has something to watch on each. -#}
{%- for host in pillar.get('hosts', {}).values() if 'monitoring' in host.get('roles', []) %}
{%- do every_host.append('monitoring.exporter') %}
{%- endfor %}
{%- set roles = pillar.get('roles', []) %}
base:
  '{{ grains['id'] }}':
{%- for role in known if role in roles or role in every_host %}
    - {{ role }}
{%- if role == 'pki' and 'koji.bootstrap' in roles %}
    # Early, because it takes minutes and runs beside what follows.
    - koji.bootstrap.make
{%- endif %}
{%- endfor %}
