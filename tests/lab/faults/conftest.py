"""What every fault has in common: what there was before must be there afterwards, and a row of the table says so.

``scripts/test tests/lab/faults --write-table`` puts the rows into RELIABILITY.rst, a table for each file.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from estate import Estate, Note
from goose.lab import lab as labs
from koji_client import Hub

if TYPE_CHECKING:
    from conftest import Command

TREE = Path(__file__).resolve().parents[3]
PAGE = TREE / "RELIABILITY.rst"
BEGIN, END = ".. The tables begin: tests/lab/faults write them.", ".. The tables end."
HEADER = ("Fault", "Where", "What comes of it", "What brings it back", "Lost")

_rows: dict[str, list[tuple[str, ...]]] = {}
"""By file."""
_spoilt: set[str] = set()
"""Files of which not all was run, or not all passed."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-table", action="store_true", help="write what was seen into RELIABILITY.rst")


def table(rows: list[tuple[str, ...]]) -> str:
    """A list table of reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in [HEADER, *rows]:
        lines += [f"   {'* -' if not place else '  -'} {cell}".rstrip() for place, cell in enumerate(row)]
    return "\n".join(lines)


def written(page: str, tables: dict[str, str]) -> str:
    """The page with these tables, by file; those of other files stay as they are."""
    before, _, rest = page.partition(BEGIN)
    middle, _, after = rest.partition(END)
    parts = re.split(r"^\.\. (test_\w+)\n", middle, flags=re.MULTILINE)
    every = {**dict(zip(parts[1::2], (part.strip() for part in parts[2::2]))), **tables}
    text = "".join(f".. {name}\n\n{every[name]}\n\n" for name in sorted(every))
    return f"{before}{BEGIN}\n\n{text}{END}{after}"


def pytest_deselected(items: list[pytest.Item]) -> None:
    _spoilt.update(item.path.stem for item in items)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if not report.passed:
        _spoilt.add(Path(report.location[0]).stem)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """The table of a file is all of it or nothing: rows of one in which something failed are not written."""
    if _rows:
        print("\n" + "\n".join(" | ".join(row) for rows in _rows.values() for row in rows))
    if session.config.getoption("--write-table", default=False):
        if any("::" in word for word in session.config.args):
            raise pytest.UsageError("--write-table goes with whole files.")
        tables = {name: table(rows) for name, rows in _rows.items() if name not in _spoilt}
        PAGE.write_text(written(PAGE.read_text(), tables))


@pytest.fixture(scope="session")
def dice() -> random.Random:
    """Random points, the same again for who sets GOOSE_FAULT_SEED to what was printed."""
    seed = os.environ.get("GOOSE_FAULT_SEED", str(time.time_ns()))
    print(f"\nGOOSE_FAULT_SEED={seed}")
    return random.Random(seed)


@pytest.fixture(scope="session")
def rebuilt(command: Command) -> dict[str, Any]:
    """The samples go the whole line: there is something that can be lost."""
    result: dict[str, Any] = command.json("rebuild")
    return result


@pytest.fixture
def estate(rebuilt: dict[str, Any], lab: labs.Lab, hub: Hub, command: Command) -> Estate:
    return Estate(lab, hub, command)


@pytest.fixture
def note(estate: Estate, request: pytest.FixtureRequest) -> Iterator[Note]:
    """Notes rows of the table; once the test is over all that there was must be there, or it fails."""
    before = estate.look()
    rows: list[tuple[str, ...]] = []

    def add(fault: str, where: str, seen: str, back: str) -> None:
        rows.append((fault, where, seen, back))

    yield add
    lost = before.lost(estate.look())
    assert not lost, "\n".join(lost)
    _rows.setdefault(request.path.stem, []).extend((*row, "nothing") for row in rows)
