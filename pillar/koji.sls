# This site's Koji. Everything that can be set, with its default: koji/defaults.yaml.
# What is in Koji (tags, targets, users, hosts) stands in koji_content.
koji:
  # local, nfs (with the role koji.nfs on a host) or provided. A builder on a host of
  # its own needs one of the last two to make repos.
  volume:
    kind: local
    path: /mnt/koji
