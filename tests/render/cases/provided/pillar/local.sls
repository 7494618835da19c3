koji:
  volume:
    kind: provided
    path: /mnt/koji
scm:
  kind: local
