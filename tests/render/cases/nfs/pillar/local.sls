koji:
  volume:
    kind: nfs
    path: /mnt/koji
