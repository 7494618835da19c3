"""Shared by all suites. What a lab needs is in tests/lab."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

try:
    import salt  # noqa: F401
except ImportError:  # the suites of a host run without
    pass
else:
    # Salt adds a finder of the kind that Python 3.12 dropped; pytest asks each for find_spec.
    sys.meta_path[:] = [finder for finder in sys.meta_path if hasattr(finder, "find_spec")]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """In a run of several processes: the lab's tests all in one, for they share it; of others each file in one."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "lab" if nodeid.startswith("tests/lab/") else nodeid.split("::", 1)[0]

    return Scheduling(config, log)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return Path(__file__).resolve().parents[1]
