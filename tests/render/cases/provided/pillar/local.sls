koji:
  volume:
    kind: provided
    path: /mnt/koji
