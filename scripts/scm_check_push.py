#!/usr/bin/python3 -B
"""Refuse a push whose `sources` names what the lookaside cache lacks: a pre-receive hook."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from goose.check_push import main

sys.exit(main())
