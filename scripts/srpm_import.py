#!/usr/bin/python3 -B
"""Split source RPMs into git repositories and the lookaside cache; see --help."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from goose.srpm_import import main

sys.exit(main())
