#!/usr/bin/python3
"""Make the source RPM of the distribution's release package; see goose/release.py."""

import sys

from goose.release import main

if __name__ == "__main__":
    sys.exit(main())
