"""An older schema of Koji's, brought to the hub's by Koji's own steps, on a database beside the lab's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Command

SCRATCH = "koji_test_upgrade"
FILES = "/usr/share/koji"
STEP = f"{FILES}/schema-upgrade-1.25-1.26.sql"

# What the steps from 1.25 on bring, taken away again.
BACK = """
ALTER TABLE archivetypes DROP COLUMN compression_type;
ALTER TABLE permissions DROP COLUMN description;
ALTER TABLE channels DROP COLUMN description, DROP COLUMN enabled, DROP COLUMN comment;
"""
PSQL = ["runuser", "-u", "postgres", "--", "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]
COLUMNS = """SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns
             WHERE table_schema = 'public' ORDER BY 1, 2"""


@pytest.fixture
def scratch(command: Command) -> Iterator[None]:
    command.on("hub", *PSQL, "-d", "postgres", stdin=f"CREATE DATABASE {SCRATCH} OWNER koji")
    try:
        schema = command.on("hub", "cat", f"{FILES}/schema.sql")
        command.on("hub", *PSQL, "-d", SCRATCH, stdin=f"SET ROLE koji;\n{schema}\n{BACK}")
        yield
    finally:
        command.on("hub", "sh", "-c", f"test ! -e {STEP}.away || mv {STEP}.away {STEP}; rm -f /var/lib/koji-db/{SCRATCH}-*")
        command.on("hub", *PSQL, "-d", "postgres", stdin=f"DROP DATABASE {SCRATCH}")


def state(command: Command, *words: str) -> dict[str, Any]:
    line = ["salt-call", "--out=json", "state.single", "koji_db.upgraded", SCRATCH, "owner=koji",
            f"schema={FILES}/schema.sql", "dumps=/var/lib/koji-db", *words]  # fmt: skip
    (ret,) = json.loads(command.on("hub", *line, check=False))["local"].values()
    return dict(ret)


def test_older_schema(command: Command, scratch: None) -> None:
    """Refused without a step; then told, dumped, and made what the lab's own database is."""
    command.on("hub", "mv", STEP, f"{STEP}.away")
    refused = state(command)
    assert refused["result"] is False and f"{STEP} is missing" in refused["comment"], refused
    command.on("hub", "mv", f"{STEP}.away", STEP)

    wanted = [f"schema-upgrade-{step}.sql" for step in ("1.25-1.26", "1.27-1.28", "1.28-1.29", "1.29-1.30")]
    plan = state(command, "test=True")
    assert (plan["result"], plan["changes"].get("steps")) == (None, wanted), plan
    done = state(command)
    assert (done["result"], done["changes"]["schema"]) == (True, "1.25 -> 1.30"), done
    columns = [command.on("hub", *PSQL, "-d", name, stdin=COLUMNS) for name in (SCRATCH, "koji")]
    assert columns[0] == columns[1]
    dumped = command.on("hub", "sh", "-c", f"pg_restore --file=- /var/lib/koji-db/{SCRATCH}-1.25-*.dump")
    assert "CREATE TABLE public.channels" in dumped and "compression_type" not in dumped
    again = state(command)
    assert (again["result"], again["changes"]) == (True, {}), again
