#!/usr/bin/python3 -B
"""Build source RPMs in Koji in the order in which they need each other; see --help."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from goose.rebuild import main

sys.exit(main())
