{%- import_yaml 'hosts.yaml' as hosts %}
{#- opts.id is the id that the master has authenticated; grains are the minion's own words. #}
hosts: {{ hosts | tojson }}
roles: {{ hosts.get(opts['id'], {}).get('roles', []) | tojson }}
