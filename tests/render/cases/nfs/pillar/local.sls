koji:
  volume:
    kind: nfs
    path: /mnt/koji

scm:
  kind: forge
  urls:
    anonymous: https://forge.example.org/goose/%(repo)s.git
    push: ssh://git@forge.example.org/goose/%(repo)s.git
  lookaside:
    files: https://sources.example.org/lookaside
    upload: https://sources.example.org/lookaside-upload
  client:
    cert: ~/.goosepkg.pem
