# The lookaside cache: who may upload, and how much. Everything that can be set, with its
# default: lookaside/defaults.yaml.
lookaside:
  # Users, by the common name of their certificate, beside those that may build in Koji.
  uploaders: []
