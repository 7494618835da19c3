#!/usr/bin/python3 -B
"""Koji's builders: take in, try, drain, update, retire; see --help."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from goose.koji_builder import main

sys.exit(main())
