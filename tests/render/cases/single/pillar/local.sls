koji:
  backup:
    mounted: false
    recipients:
      safe: |
        -----BEGIN PGP PUBLIC KEY BLOCK-----

        mDMEZAAAABYJKwYBBAHaRw8BAQdA
        -----END PGP PUBLIC KEY BLOCK-----
