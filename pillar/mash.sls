{%- import_yaml 'site.yaml' as site %}
{%- set release = site.get('id', '') ~ '-' ~ site.get('version', '') %}
# Repositories that tags become. Everything that can be set, with its default: mash/defaults.yaml;
# keys of a repository: mash/README.rst.
mash:
  repositories:
    {{ release }}:
      title: {{ site.get('name', '') }} {{ site.get('version', '') }}
      tag: {{ release }}
      inherit: true
      arches: [x86_64]
      # 32-bit libraries, and what is needed to build with them.
      multilib: true
      multilib_method: devel
      # Of pillar signing:keys, by preference. Unsigned packages refuse the repository.
      keys: [{{ release }}]
      # repomd.xml is signed too, by this host's signing service. Empty where mash is on another host
      # than the role sigul.client: then clients check packages alone.
      repomd_sign: /usr/local/lib/goose/sign_file.py {{ release }} {repomd} {asc}
      # As in `*:0/30`: every half hour. null: only when somebody starts mash-{{ release }}.
      calendar: null
