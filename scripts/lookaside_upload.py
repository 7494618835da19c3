"""The lookaside cache's upload endpoint, as mod_wsgi loads it."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from goose.lookaside_upload import make

application = make()
