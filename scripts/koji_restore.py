#!/usr/bin/python3 -B
"""Bring back what koji_backup.py keeps; see --help."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from goose.koji_restore import main

sys.exit(main())
