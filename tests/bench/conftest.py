"""What the benchmarks share."""

from __future__ import annotations

import pytest

from bench_table import Table


@pytest.fixture(scope="session")
def table(request: pytest.FixtureRequest) -> Table:
    found = Table()
    request.config.pluginmanager.register(found, "goose-bench")
    return found
