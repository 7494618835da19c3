#!/usr/bin/python3 -B
"""Check the lookaside cache, and mend it; see --help."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from goose.lookaside_fsck import main

sys.exit(main())
