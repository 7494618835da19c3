"""Shared by all suites. What a lab needs is in tests/lab."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

try:
    import salt  # noqa: F401
except ImportError:  # the suites of a host run without
    pass
else:
    # Salt adds a finder of the kind that Python 3.12 dropped; pytest asks each for find_spec.
    sys.meta_path[:] = [finder for finder in sys.meta_path if hasattr(finder, "find_spec")]


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return Path(__file__).resolve().parents[1]
