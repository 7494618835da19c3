#!/usr/bin/python3
"""Make the embedded builder's build root and bring it into Koji; see goose/buildroot.py."""

import sys

from goose.buildroot import main

if __name__ == "__main__":
    sys.exit(main())
