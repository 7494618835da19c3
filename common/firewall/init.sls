# The firewall of a host, whatever its roles: it opens what they serve, and drops the rest.
{%- from "common/firewall/map.jinja" import firewall, opened, peers with context %}
{%- set rules = {'opened': opened, 'peers': peers} %}

include:
  - common
{%- if firewall.enabled %}

common-firewall-packages:
  pkg.installed:
    - pkgs: {{ firewall.packages | tojson }}
    - install_recommends: false
    - require:
      - pkg: common-packages
{%- endif %}

{%- if firewall.kind == 'nftables' %}
{%- if firewall.enabled %}

common-firewall-rules:
  file.managed:
    - name: /etc/nftables.conf
    - source: salt://common/firewall/files/nftables.conf.jinja
    - template: jinja
    - mode: '0755'
    - check_cmd: /usr/sbin/nft --check --file
    - context: {{ rules | tojson }}
    - require:
      - pkg: common-firewall-packages

# Debian's unit takes everybody's tables away when it stops; this one takes its own.
common-firewall-unit:
  file.managed:
    - name: /etc/systemd/system/nftables.service.d/goose.conf
    - contents: |
        [Service]
        ExecStop=
        ExecStop=-/usr/sbin/nft delete table inet goose
    - mode: '0644'
    - makedirs: true

common-firewall-service:
  service.running:
    - name: nftables
    - enable: true
    - unmask: true
    - require:
      - file: common-firewall-rules
      - file: common-firewall-unit

# The kernel's rules against the file's, loaded where nobody is: a rule that somebody added or
# deleted by hand is seen, too. Loading is one transaction.
common-firewall-loaded:
  cmd.run:
    - name: /usr/sbin/nft --file /etc/nftables.conf
    - unless: >-
        test "$(nft --stateless list table inet goose)" =
        "$(unshare --net sh -c 'nft --file /etc/nftables.conf && nft --stateless list table inet goose')"
    - require:
      - service: common-firewall-service
{%- else %}

common-firewall-service:
  service.dead:
    - name: nftables
    - enable: false
    - onlyif: test -e /etc/systemd/system/nftables.service.d/goose.conf

{%- for path in ('/etc/systemd/system/nftables.service.d/goose.conf', '/etc/nftables.conf') %}
common-firewall-{{ path | replace('/', '-') }}:
  file.absent:
    - name: {{ path }}
    - onlyif: test -e /etc/systemd/system/nftables.service.d/goose.conf
    - require:
      - service: common-firewall-service
{%- endfor %}
{%- endif %}

{%- else %}
{%- set zone = '/etc/firewalld/zones/goose.xml' %}
{%- if firewall.enabled %}

common-firewall-rules:
  file.managed:
    - name: {{ zone }}
    - source: salt://common/firewall/files/zone.xml.jinja
    - template: jinja
    - mode: '0644'
    - context: {{ rules | tojson }}
    - require:
      - pkg: common-firewall-packages

common-firewall-service:
  service.running:
    - name: firewalld
    - enable: true
    - unmask: true
    - require:
      - file: common-firewall-rules

# What firewalld runs with against the file itself, which firewalld may not have read yet: a rule
# that somebody added or deleted by hand is seen, too. Reloading keeps connections, and a file that
# is wrong is not loaded.
common-firewall-loaded:
  cmd.run:
    - name: firewall-cmd --check-config && firewall-cmd --reload
    - unless: >-
        for what in ports services protocols rich-rules forward-ports source-ports; do
        test "$(firewall-cmd --zone=goose --list-$what | tr ' ' '\n' | sort)" =
        "$(firewall-offline-cmd --zone=goose --list-$what | tr ' ' '\n' | sort)" || exit 1; done
    - require:
      - service: common-firewall-service

common-firewall-zone:
  cmd.run:
    - name: firewall-cmd --set-default-zone=goose
    - unless: test "$(firewall-cmd --get-default-zone)" = goose
    - require:
      - cmd: common-firewall-loaded
{%- else %}

common-firewall-zone:
  cmd.run:
    - name: firewall-cmd --set-default-zone=public
    - onlyif: test "$(firewall-cmd --get-default-zone)" = goose

common-firewall-rules:
  file.absent:
    - name: {{ zone }}
    - require:
      - cmd: common-firewall-zone
{%- endif %}
{%- endif %}
