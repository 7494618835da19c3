#!/usr/bin/python3 -B
"""Make repositories of what tags have; see --help."""

import gc
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from goose.mash import main

# What is made lives until the end: looking through it for garbage takes time, and finds none.
gc.disable()
sys.exit(main())
