{%- import_yaml 'site.yaml' as site %}
{%- set version = site.get('version', '') %}
{%- set release = site.get('id', '') ~ '-' ~ version %}
# This site's SCM: who may push what, and which branch is built for what. Everything that can be
# set, with its default: scm/defaults.yaml.
scm:
  # gitolite, local, or forge with `urls`.
  kind: gitolite

  # name: [public ssh keys]. The name is that of the person's certificate and Koji user.
  # alice: ['ssh-ed25519 AAAA… alice@example']
  users: {}
  administrators: []
  packagers: []

  # branch: {target, dist}. A build of the branch goes to the target; dist is the target's %{dist}.
  branches:
    {{ release }}: {target: {{ release }}, dist: .{{ site.get('dist', 'el' ~ version) }}}
