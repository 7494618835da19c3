# What SELinux must allow Apache, and an NFS server. Included by roles.
{%- from "koji/map.jinja" import koji with context %}
{%- from "common/selinux.jinja" import booleans with context %}
{%- set selinux = koji.selinux %}

include:
  - common.selinux
{{ booleans('koji', selinux.get('booleans', []) + (selinux.get('nfs_booleans', []) if koji.volume.kind == 'nfs' else [])
      + (selinux.get('nfs_server_booleans', []) if 'koji.nfs' in pillar.get('roles', []) else [])) }}
