#!/usr/bin/python3 -B
"""Write a live Koji hub's content as pillar data; see --help."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from goose.export import main

sys.exit(main())
