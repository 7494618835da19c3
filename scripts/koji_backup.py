#!/usr/bin/python3 -B
"""Back this host's part of the build environment up, and check backups; see --help."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from goose.koji_backup import main

sys.exit(main())
