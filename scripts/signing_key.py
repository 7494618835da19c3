#!/usr/bin/python3 -B
"""Make, publish, list, rotate and retire signing keys; see --help."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from goose.signing_key import main

sys.exit(main())
