#!/usr/bin/python3
"""Make source RPMs of real packages to build; see goose/samples.py."""

import sys

from goose.samples import main

if __name__ == "__main__":
    sys.exit(main())
