# The embedded builder's build root, for a site that has no Enterprise Linux mirror to
# build from: Debian packages made into RPMs, imported as one Koji build. Name one more
# Debian package under `packages`, and the next apply makes and imports a new release.
koji:
  buildroot:
    # true, false, or unset: made where role koji.bootstrap runs on Debian, and not on EL,
    # where a site's external repositories serve.
    enabled: null
    name: debian-bootstrap
    version: '12'
    # Raise it to take in what the suite has updated since.
    release: '1'
    tag: goose-bootstrap
    suite: bookworm
    # Empty: those of koji:arches, and x86_64 where that is not set.
    arches: []

    packages:
      # rpmbuild and what every spec file takes for granted
      - rpm
      - rpm-common
      - debugedit
      - elfutils
      - bzip2
      - cpio
      - file
      - gawk
      - make
      - passwd
      - patch
      - procps
      - unzip
      - xz-utils
      - zip
      - zstd
      # C and C++
      - autoconf
      - automake
      - autopoint
      - bison
      - flex
      - g++
      - gcc
      - gettext
      - groff-base
      - libc6-dev
      - libfl-dev
      - libtool
      - libtool-bin
      - m4
      - pkgconf
      - swig
      # Python and Perl
      - libperl-dev
      - perl
      - python3-build
      - python3-dev
      # What rpm's generator of python3dist() names imports.
      - python3-packaging
      - python3-pip
      - python3-setuptools
      - python3-wheel
      # libraries
      - libacl1-dev
      - libattr1-dev
      - libaudit-dev
      - libblkid-dev
      - libbz2-dev
      - libcap-dev
      - libexpat1-dev
      - libffi-dev
      - libgdbm-dev
      - libgmp-dev
      - liblzma-dev
      - libmnl-dev
      - libmount-dev
      - libncurses-dev
      - libpam0g-dev
      - libpcre2-dev
      - libpopt-dev
      - libreadline-dev
      - libselinux1-dev
      - libsqlite3-dev
      - libssl-dev
      - libsystemd-dev
      - libudev-dev
      - libxml2-dev
      - libzstd-dev
      - uuid-dev
      - zlib1g-dev
    packages_by_arch: {}

    # What a build root starts with, beside Debian's Essential packages; each group is one RPM,
    # debian-bootstrap-GROUP, which the tag's group of that name lists.
    groups:
      build:
        [bzip2, cpio, debugedit, elfutils, file, g++, gawk, gcc, libc6-dev, make, passwd, patch, perl, pkgconf, procps, python3,
         python3-packaging, rpm, unzip, xz-utils, zip, zstd]
      srpm-build: [bzip2, cpio, file, gawk, make, passwd, patch, rpm, unzip, xz-utils, zstd]

    # EL's names for Debian's packages, where the rules (libX-dev is libX-devel and X-devel, libX1
    # is libX) do not find them. A name takes the package's version unless it brings its own.
    provides:
      config:
        - redhat-rpm-config = 200
        - epel-rpm-macros = 9
        - systemd = 252
        - systemd-rpm-macros = 252
        - systemd-units = 252
        - python-rpm-macros = 3.11
        - python-srpm-macros = 3.11
        - python3-rpm-macros = 3.11
        - python3-rpm-generators = 13
        - pyproject-rpm-macros = 1
        - perl-macros = 4:5.36
        - perl-srpm-macros = 1
        - perl-generators = 1.13
        - cmake-rpm-macros = 3.25
        - multilib-rpm-config = 1
        - glibc-minimal-langpack = 2.36
        - glibc-langpack-en = 2.36
        - glibc-all-langpacks = 2.36
      filesystem: [filesystem = 3.16, setup = 2.13, system-release = 12, redhat-release = 12]
      util-linux: [util-linux-core]
      debianutils: [which]
      g++: [gcc-c++, libstdc++-devel]
      gettext: [gettext-devel, gettext-libs]
      autopoint: [gettext-common-devel]
      groff-base: [groff]
      libaudit-dev: [audit-libs-devel]
      libbz2-dev: [bzip2-devel]
      libbz2-1.0: [bzip2-libs]
      libc6: [glibc, glibc-common, rtld(GNU_HASH)]
      libc6-dev: [glibc-devel, glibc-headers, glibc-static]
      libc-bin: [glibc-gconv-extra]
      libcap2: [libcap]
      libelf1: [elfutils-libelf, elfutils-libs]
      libelf-dev: [elfutils-libelf-devel, elfutils-devel]
      libexpat1: [expat]
      libfl-dev: [flex-devel, flex-static]
      liblzma5: [xz-libs]
      liblzma-dev: [xz-devel]
      libmount-dev: [util-linux-devel]
      libncurses-dev: [ncurses-devel, ncurses-static]
      libncursesw6: [ncurses-libs]
      libpam0g: [pam, pam-libs]
      libpam0g-dev: [pam-devel]
      libpcre2-8-0: [pcre2]
      libperl-dev: [perl-devel, perl-ExtUtils-Embed]
      libpopt0: [popt]
      libreadline8: [readline]
      libsqlite3-0: [sqlite-libs]
      libsqlite3-dev: [sqlite-devel]
      libssl-dev: [openssl-devel]
      libssl3: [openssl-libs]
      libsystemd-dev: [systemd-devel]
      libsystemd0: [systemd-libs]
      linux-libc-dev: [kernel-headers]
      passwd: [shadow-utils]
      perl:
        - perl-interpreter = 4:{version}
        - perl-libs = 4:{version}
        - perl(:VERSION) = {version}
        - perl(:MODULE_COMPAT_{version}) = {version}
        - perl-ExtUtils-MakeMaker = 2:7.64
        - perl-ExtUtils-ParseXS = 1:3.45
        - perl-Test-Simple = 3:1.30
        - perl-Test-Harness = 1:3.44
      pkgconf: [pkgconfig, pkgconf-pkg-config, pkgconf-m4]
      procps: [procps-ng]
      python3-dev: [python3-devel, 'platform-python-devel', python-unversioned-command]
      python3-minimal: [platform-python]
      rpm: [rpm-build, rpm-sign]
      rpm-common: [rpm-build-libs, rpm-libs]
      uuid-dev: [libuuid-devel]
      xz-utils: [xz]
      zlib1g: [zlib]
      zlib1g-dev: [zlib-devel, zlib-static]

    # EL's shell is bash; scripts and kojid's runroot count on it.
    links:
      /bin/sh: bash

    # Left out of the build root: documents, what only misleads (a build system takes a host with
    # /etc/debian_version for a multiarch one), and the largest files that no build needs.
    exclude:
      - /usr/share/doc/*
      - /usr/share/info/*
      - /usr/share/lintian/*
      - /usr/share/locale/*
      - /usr/share/man/*
      - /etc/debian_version
      - /usr/lib/python3*/EXTERNALLY-MANAGED
      - /usr/bin/*-lto-dump-*
      - /usr/bin/lto-dump-*
      - /usr/lib/*/libicu*.a
      - /usr/lib/*/libperl.a
      - /usr/lib/python3*/config-*/libpython*.a
      - /usr/lib/*/libpython3*.a

    # RPM macros of the site, {name: value}.
    macros: {}
