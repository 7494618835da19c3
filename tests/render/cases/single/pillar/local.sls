# EPEL has no Prometheus.
package_repos:
  site:
    offers: [prometheus]
    yum: {name: Site, baseurl: 'https://repo.example.org/el$releasever', gpgcheck: 1, enabled: 1}
koji:
  backup:
    mounted: false
    recipients:
      safe: |
        -----BEGIN PGP PUBLIC KEY BLOCK-----

        mDMEZAAAABYJKwYBBAHaRw8BAQdA
        -----END PGP PUBLIC KEY BLOCK-----
