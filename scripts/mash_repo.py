#!/usr/bin/python3 -B
"""Make repositories of what tags have; see --help."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from goose.mash import main

sys.exit(main())
