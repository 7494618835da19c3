#!/usr/bin/python3 -B
"""Compose variants and media of repositories; see --help."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from goose.compose import main

sys.exit(main())
