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


# It has a lab of its own.
ALONE = "tests/lab/test_single.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Last, what takes minutes and shares nothing: in a run of several processes it is done beside the lab's tests."""
    items.sort(key=lambda item: item.nodeid.startswith(ALONE))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """In a run of several processes: the lab's tests all in one, for they share it; of others each file in one."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            return "lab" if file.startswith("tests/lab/") and file != ALONE else file

    return Scheduling(config, log)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return Path(__file__).resolve().parents[1]
