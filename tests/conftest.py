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


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a run of several processes: the lab's tests all in one, for they share it; of others each file in one."""
    if not hasattr(config, "workerinput"):
        return
    for item in items:
        path = item.path.relative_to(config.rootpath)
        item.add_marker(pytest.mark.xdist_group("lab" if path.parts[:2] == ("tests", "lab") else str(path)))


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return Path(__file__).resolve().parents[1]
