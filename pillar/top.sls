# Everything under '*' goes to every host: it holds no secret.
base:
  '*':
    - roles
    - site
    - common
    - pki
    - koji
    - koji_buildroot
    - koji_content
    - lookaside
    - mash
    - scm
    - pungi
    - sigul
    - monitoring
  # From a second pillar root, where there is one: a site's own values, which win,
  # and the secrets of this host alone (secrets/hub_goose_example.sls).
  '{{ opts['id'] }}':
    - ignore_missing: true
    - local
    - secrets.{{ opts['id'] | replace('.', '_') }}
