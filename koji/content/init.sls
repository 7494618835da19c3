# What the hub holds (users, hosts, tags, targets …), as pillar koji:content says.
# Applied from one host, as the administrator, over the hub's API.
{%- from "koji/map.jinja" import koji with context %}
{%- from "common/lib.jinja" import hosts_with with context %}
{%- set content = koji.get('content') or {} %}
{%- set arches = koji.get('arches') or ['x86_64'] %}

{#- A host does the builds of i686 as i386, the base architecture that Koji gives the tasks. -#}
{%- set base = {'i486': 'i386', 'i586': 'i386', 'i686': 'i386', 'armv7hl': 'armhfp',
                'x86_64_v2': 'x86_64', 'x86_64_v3': 'x86_64', 'x86_64_v4': 'x86_64'} %}
{%- set host_arches = [] %}
{%- for arch in arches %}
{%- do host_arches.append(base.get(arch, arch)) %}
{%- endfor %}

{#- Every host with the role koji.builder is a builder; koji:content:hosts says what is special about one. -#}
{%- set builders = {'arches': host_arches | unique | list, 'capacity': 2.0, 'channels': ['default', 'createrepo']} %}
{%- do builders.update(koji.get('builders') or {}) %}
{%- set hosts = content.get('hosts') or {} %}
{%- for id in hosts_with('koji.builder') | load_json %}
{%- set own = builders | tojson | load_json %}
{%- do own.update(hosts.get(id) or {}) %}
{%- if id in hosts_with('koji.image') | load_json %}
{%- do own.update({'channels': (own.channels + koji.image.channels) | unique | list}) %}
{%- endif %}
{%- do hosts.update({id: own}) %}
{%- endfor %}
{%- do content.update({'hosts': hosts}) %}

{#- koji-gc deletes builds, by way of a tag. -#}
{%- if hosts_with('koji.gc') | load_json %}
{%- if content.setdefault('users', {}) is mapping %}
{%- do content.users.setdefault(koji.gc.user, {'permissions': ['admin']}) %}
{%- endif %}
{%- if content.setdefault('tags', {}) is mapping %}
{%- do content.tags.setdefault(koji.gc.trashcan, {}) %}
{%- endif %}
{%- endif %}

{#- The embedded build root (role koji.bootstrap) has a tag of its own, and one package for each
    group; a tag with `buildroot: true` is built from it where it is made. -#}
{%- set root = koji.get('buildroot') or {} %}
{%- set embedded = root.get('enabled') %}
{%- if embedded is none %}
{%- set embedded = grains['os_family'] == 'Debian' and hosts_with('koji.bootstrap') | load_json | length > 0 %}
{%- endif %}
{%- set tags = content.get('tags') or {} %}
{%- for name, tag in (tags.items() if tags is mapping else []) | list if tag is mapping %}
{%- if tag.get('arches') == 'default' %}
{%- do tag.update({'arches': arches}) %}
{%- endif %}
{%- if tag.pop('buildroot', false) and embedded and root %}
{%- for key in ('inheritance', 'groups') if tag.get(key, {}) is not mapping %}
{{ raise("Pillar 'koji:content:tags:" ~ name ~ ":" ~ key ~ "' is no map, and the embedded build root has to be added to it: write it as 'name: {options}'.") }}
{%- endfor %}
{%- do tag.setdefault('inheritance', {}).update({root.tag: {'priority': 100}}) %}
{%- do tags.setdefault(root.tag, {}) %}
{%- for group in root.get('groups') or {} %}
{%- do tag.setdefault('groups', {}).update({group: {'packages': [root.name ~ '-' ~ group]}}) %}
{%- endfor %}
{#- Real mock has no bootstrap chroot to make from Debian, and no nspawn inside of nspawn. -#}
{%- for key in ('mock.use_bootstrap', 'mock.new_chroot') %}
{%- do tag.setdefault('extra', {}).setdefault(key, 0) %}
{%- endfor %}
{%- endif %}
{%- endfor %}

{#- What image tasks make their build roots of. -#}
{%- for name in koji.image.tags %}
{%- if tags is not mapping or name not in tags %}
{{ raise("Pillar 'koji:image:tags' names the tag '" ~ name ~ "', which pillar koji:content:tags does not have.") }}
{%- endif %}
{%- for group, packages in koji.image.groups | dictsort %}
{%- do tags[name].setdefault('groups', {}).setdefault(group, {'packages': packages}) %}
{%- endfor %}
{%- endfor %}

include:
  - common
  - pki
  - koji.client
{%- if 'koji.hub' in pillar.get('roles', []) %}
  - koji.hub
{%- endif %}

koji-content:
  koji_content.managed:
    - data: {{ content | tojson }}
    - server: {{ koji.urls.hub }}
    - cert: {{ koji.pki_dir }}/{{ koji.administrator }}.pem
    - serverca: {{ koji.serverca }}
    - timeout: {{ koji.wait }}
    - require:
      - koji-library-software
      - goose_pki: pki-{{ koji.administrator }}-pem
{%- if 'koji.hub' in pillar.get('roles', []) %}
      - service: common-httpd-service
{%- endif %}
