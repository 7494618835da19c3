{%- import_yaml 'site.yaml' as site %}
site: {{ site | tojson }}
