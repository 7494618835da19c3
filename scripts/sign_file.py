#!/usr/bin/python3 -B
"""Have a file signed by the signing service of this host; see --help."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from goose.signing_file import main

sys.exit(main())
