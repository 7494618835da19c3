package_repos:
  sigul:
    offers: [sigul, sigul-server, sigul-bridge]
    apt: {Types: deb, URIs: 'https://repo.example.org/sigul', Suites: ./, Trusted: 'yes'}
    yum: {name: Sigul, baseurl: 'https://repo.example.org/el$releasever', gpgcheck: 1, enabled: 1}

koji:
  backup:
    recipients:
      safe: |
        -----BEGIN PGP PUBLIC KEY BLOCK-----

        mDMEZAAAABYJKwYBBAHaRw8BAQdA
        -----END PGP PUBLIC KEY BLOCK-----
  volume:
    kind: provided
    path: /mnt/koji

signing:
  backend: sigul
