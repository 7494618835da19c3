#!/usr/bin/python3 -B
"""Sign what is unsigned in Koji; see --help."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from goose.signing import main

sys.exit(main())
