"""What every fault has in common: what there was before must be there afterwards, and a row of the table says so.

``scripts/test tests/lab/faults --write-table`` puts the rows into RELIABILITY.rst.
"""

from __future__ import annotations

import os
import random
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
BEGIN, END = ".. The table begins: tests/lab/faults write it.", ".. The table ends."
HEADER = ("Fault", "Where", "What comes of it", "What brings it back", "Lost")

_rows: list[tuple[str, ...]] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-table", action="store_true", help="write what was seen into RELIABILITY.rst")


def table(rows: list[tuple[str, ...]]) -> str:
    """A list table of reStructuredText."""
    lines = [BEGIN, "", ".. list-table::", "   :header-rows: 1", ""]
    for row in [HEADER, *rows]:
        lines += [f"   {'* -' if not place else '  -'} {cell}".rstrip() for place, cell in enumerate(row)]
    return "\n".join([*lines, "", END])


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """The table is all of it or nothing: rows of a run in which something failed are not written."""
    if not _rows:
        return
    print("\n" + "\n".join(" | ".join(row) for row in _rows))
    if session.config.getoption("--write-table", default=False) and exitstatus == 0:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(before + table(_rows) + rest.partition(END)[2])


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
def note(estate: Estate) -> Iterator[Note]:
    """Notes rows of the table; once the test is over all that there was must be there, or it fails."""
    before = estate.look()
    rows: list[tuple[str, ...]] = []

    def add(fault: str, where: str, seen: str, back: str) -> None:
        rows.append((fault, where, seen, back))

    yield add
    lost = before.lost(estate.look())
    assert not lost, "\n".join(lost)
    _rows.extend((*row, "nothing") for row in rows)
