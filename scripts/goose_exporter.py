#!/usr/bin/python3 -B
"""Tell Prometheus how this host does; see --help."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from goose.exporter import main

sys.exit(main())
