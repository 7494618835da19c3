"""`koji_db.sessions_ended`: whose sessions end, and that it happens once; the database is played."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
ALICE = {"name": "alice", "revocation_date": "2026-11-23 12:00:00"}
BOB = {"name": "bob", "revocation_date": "2026-11-24 12:00:00"}


class Hub:
    """A hub's host: open sessions by user, and the state with files in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.open = {"alice": [7, 8], "bob": [9]}
        self.asked: list[list[str]] = []
        self.fails = ""
        self.revoked, self.record = directory / "revoked.json", directory / "ended.json"
        spec = importlib.util.spec_from_file_location("koji_db_states", ROOT / "_states/koji_db.py")
        assert spec and spec.loader
        states: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(states)
        states.__opts__ = {"test": False}
        states.__salt__ = {"cmd.run_all": self.run}
        states.__states__ = {"file.managed": self.managed}
        self.states = states

    def run(self, command: list[str], stdin: str, **_: Any) -> dict[str, Any]:
        if self.fails:
            return {"retcode": 1, "stdout": "", "stderr": f"psycopg2.OperationalError: {self.fails}"}
        given = json.loads(stdin)
        assert command[:3] == ["runuser", "-u", "apache"] and given["dsn"] == "dbname=koji"
        self.asked.append(given["names"])
        rows = [(name, number) for name in given["names"] for number in self.open.get(name, [])]
        if not given["test"]:
            for name in given["names"]:
                self.open.pop(name, None)
        return {"retcode": 0, "stdout": json.dumps(rows), "stderr": ""}

    def managed(self, name: str, contents: str, **_: Any) -> dict[str, Any]:
        same = Path(name).is_file() and Path(name).read_text() == contents
        if not same and not self.states.__opts__["test"]:
            Path(name).write_text(contents)
        return {"result": True, "changes": {} if same else {name: "written"}, "comment": ""}

    def __call__(self, *rows: dict[str, str], test: bool = False) -> dict[str, Any]:
        self.revoked.write_text(json.dumps(rows))
        self.states.__opts__["test"] = test
        done: dict[str, Any] = self.states.sessions_ended("dbname=koji", str(self.revoked), str(self.record), "apache")
        return done


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path)


def test_sessions_end_once(hub: Hub) -> None:
    """All of those who are revoked; whoever comes back with another certificate stays."""
    assert hub(ALICE, test=True)["result"] is None and hub.open["alice"]
    assert hub(ALICE)["changes"]["session 7"] == "ended, alice's"
    assert hub.open == {"bob": [9]}
    hub.open["alice"] = [10]
    assert not hub(ALICE)["changes"] and hub.open["alice"] == [10]
    assert set(hub(ALICE, BOB)["changes"]) == {"session 9", "revoked"} and hub.open == {"alice": [10]}
    assert hub({**ALICE, "revocation_date": "2026-11-25 00:00:00"}, BOB)["changes"] and hub.open == {}


def test_nobody_is_revoked(hub: Hub) -> None:
    """The database is not asked."""
    hub()
    assert not hub()["changes"] and hub.asked == []


def test_database_that_does_not_answer(hub: Hub) -> None:
    """A sentence, and the next run does it."""
    hub.fails = "connection refused"
    done = hub(ALICE)
    assert done["result"] is False and "does not end sessions: connection refused" in done["comment"]
    assert hub(ALICE, test=True)["result"] is None
    hub.fails = ""
    assert hub(ALICE)["changes"] and "alice" not in hub.open


def test_files_that_cannot_be_read(hub: Hub) -> None:
    """Which, and what to do."""
    hub.record.write_text("{")
    done = hub(ALICE)
    assert done["result"] is False and str(hub.record) in done["comment"] and "remove it" in done["comment"]
