{%- import_yaml 'site.yaml' as site %}
{%- set release = site.get('id', '') ~ '-' ~ site.get('version', '') %}
# This site's composes: what variants hold, and where they go. Everything that can be set, with its
# default: pungi/defaults.yaml; what variants may say: pungi/README.rst.
pungi:
  # One variant of all packages and one DVD of it. Later, as in
  #   BaseOS: {environments: [minimal-environment], packages: [kernel]}
  #   AppStream: {groups: [development], requires: [BaseOS]}
  variants: null

  # CHECKSUM files, by the same service as repomd.xml; []: unsigned.
  sign: [/usr/local/lib/goose/sign_file.py, --clear, {{ release }}, '{file}', '{signed}']

  # mirror: {to: 'mirror@mirror.example.org:/srv/goose', stages: [Final]}
  targets: {}
