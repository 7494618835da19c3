#!/usr/bin/python3 -B
"""Hand a compose to the web server and to mirrors; see --help."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from goose.compose_publish import main

sys.exit(main())
