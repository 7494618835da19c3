# What is in Koji, as data: role koji.content makes the hub hold it, and
# `state.apply koji.content test=True` says what would change. `scripts/koji_export.py` writes
# this of a hub that is already there. Named things are maps, so that local.sls can add to them;
# a list does too (`packages: [bash, {gcc: {type: default}}]`). What is not said has its default.
{%- import_yaml 'site.yaml' as site %}
{#- A value that is missing is named by the states, which see what a host needs; here only the log would know. -#}
{%- set id, version = site.get('id', ''), site.get('version', '') %}
{%- set release = id ~ '-' ~ version %}
koji:
  content:
    # What is on the hub and not here is reported. It is removed for the kinds that are true here:
    # users and hosts (disabled: Koji forgets neither), channels, grants, host_channels, tags,
    # inheritance, extra, groups, group_packages, external_repos, tag_repos, targets. A tag that
    # holds builds is kept.
    purge:
      grants: true
      inheritance: true
      extra: true
      group_packages: true

    # Made where the hub has not got them, beside Koji's own (admin, repo, tag, target, sign …).
    permissions:
      build: Build packages from source RPMs and source control.

    # name: {permissions, status: normal|blocked, krb_principals}. Builders are no users here.
    users:
      kojiadmin: {permissions: [admin]}
      kojira: {permissions: [repo]}
      # Signs: what the certificate of the role sigul.client says.
      signer: {permissions: [sign]}
      # Has repositories made by Koji: what the certificate of the role mash says.
      mash: {permissions: [dist-repo]}

    # Beside Koji's own, name: {description, comment, enabled}.
    channels: {}

    # Every host with the role koji.builder is here by itself, with koji:builders (arches, capacity,
    # channels) for what is not said: builder2.goose.example: {capacity: 4, enabled: false, comment: disk is full}
    hosts: {}

    # name: URL. What a site without the embedded build root builds from:
    # el-baseos: https://mirror.example/9/BaseOS/$arch/os/
    external_repos: {}

    tags:
      # A build goes from {{ release }} to candidate, testing, release, each by being tagged. Each
      # inherits from the next, so that a package listed in {{ release }}-release is in all of them.
      {{ release }}-release:
        arches: default
        # at-least: packages may be added by hand, too. exact: all others are removed.
        packages:
          mode: at-least
          owner: kojiadmin
          list:
            {{ id }}-release: {}
      {{ release }}-testing:
        arches: default
        inheritance: {{ '{' }}{{ release }}-release: {priority: 0}}
      {{ release }}-candidate:
        arches: default
        inheritance: {{ '{' }}{{ release }}-testing: {priority: 0}}
      {{ release }}:
        arches: default
        inheritance: {{ '{' }}{{ release }}-candidate: {priority: 0}}
      {{ release }}-build:
        # koji:arches, x86_64 where it is not set
        arches: default
        # Built from the embedded build root where there is one; its packages then replace the
        # groups here, and its tag is inherited.
        buildroot: true
        inheritance: {{ '{' }}{{ release }}: {priority: 0}}
        # name: {priority, merge_mode: koji|simple|bare, arches}
        external_repos: {}
        extra:
          mock.package_manager: dnf
          rpm.macro.dist: .{{ site.get('dist', 'el' ~ version) }}
        groups:
          build:
            packages: [bash, bzip2, coreutils, cpio, diffutils, findutils, gawk, gcc, gcc-c++, glibc-minimal-langpack,
                       grep, gzip, info, make, patch, redhat-rpm-config, rpm-build, sed, shadow-utils, system-release,
                       tar, unzip, util-linux, which, xz]
          srpm-build:
            packages: [bash, coreutils, cpio, findutils, gawk, git-core, glibc-minimal-langpack, grep, gzip, make,
                       redhat-rpm-config, rpm-build, sed, shadow-utils, system-release, tar, unzip, util-linux, xz]

    targets:
      {{ release }}: {build_tag: {{ release }}-build, dest_tag: {{ release }}}
