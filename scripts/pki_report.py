#!/usr/bin/python3 -B
"""Every certificate of every host, and what is wrong with it; see --help."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from goose.pki_report import main

sys.exit(main())
