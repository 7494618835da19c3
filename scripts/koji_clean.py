#!/usr/bin/python3 -B
"""Remove what Koji leaves on its volume and on builders; see --help."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from goose.koji_clean import main

sys.exit(main())
