#!/usr/bin/python3 -B
"""Fetch the archives that a checkout's `sources` names; see --help."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from goose.fetch_sources import main

sys.exit(main())
