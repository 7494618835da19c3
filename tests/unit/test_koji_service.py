"""_states/koji_service.py: what systemd says of a unit, and what is made of it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
Current = Callable[..., dict[str, Any]]


class Systemd:
    """Answers with one state after the other; the last one stays."""

    def __init__(self, *states: tuple[str, float]) -> None:
        self.states = list(states)
        self.asked: list[str] = []

    def show(self, command: list[str], **_: Any) -> str:
        state, moment = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        stamp = datetime.fromtimestamp(moment, timezone.utc).strftime("%a %Y-%m-%d %H:%M:%S.%f UTC")
        asked = command[-2].rpartition(",")[2]
        return f"ActiveState={state}\n{asked}={stamp}"

    def action(self, name: str) -> bool:
        self.asked.append(name)
        return True


@pytest.fixture
def current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Current:
    """A state, on a file that has just changed: the states that systemd tells, then what it did."""
    spec = importlib.util.spec_from_file_location("koji_service_states", ROOT / "_states/koji_service.py")
    assert spec and spec.loader
    states: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(states)
    monkeypatch.setattr(states, "_PAUSE", 0)
    path = tmp_path / "kojid.pem"
    path.write_text("new")
    changed = path.stat().st_ctime

    def run(*told: tuple[str, float], test: bool = False, function: str = "current") -> dict[str, Any]:
        systemd = Systemd(*((state, changed + seconds) for state, seconds in told))
        states.__opts__ = {"test": test}
        states.__salt__ = {"cmd.run_stdout": systemd.show, "service.restart": systemd.action, "service.stop": systemd.action}
        ret: dict[str, Any] = getattr(states, function)("kojid", [str(path)])
        return {**ret, "asked": systemd.asked}

    return run


def test_newer_than_its_files(current: Current) -> None:
    ret = current(("active", 5))
    assert (ret["result"], ret["changes"], ret["asked"]) == (True, {}, [])


def test_older_than_its_files(current: Current) -> None:
    ret = current(("active", -5), ("deactivating", 1), ("activating", 1), ("active", 2))
    assert ret["result"] is True
    assert ret["asked"] == ["kojid"] and "restarted, for" in ret["changes"]["kojid"]
    planned = current(("active", -5), test=True)
    assert (planned["result"], planned["asked"]) == (None, []) and planned["changes"]


def test_started_again_by_systemd(current: Current) -> None:
    """It has died and is about to be back: no failure, and it has read its files."""
    ret = current(("activating", -5), ("activating", -5), ("active", 5))
    assert (ret["result"], ret["changes"], ret["asked"]) == (True, {}, [])


@pytest.mark.parametrize("state", ["failed", "inactive", "activating"])
def test_does_not_run(current: Current, state: str) -> None:
    ret = current((state, -5))
    assert ret["result"] is False and "journalctl -u kojid says why." in ret["comment"]
    assert current((state, -5), test=True)["result"] is None


def test_does_not_come_back(current: Current) -> None:
    ret = current(("active", -5), ("failed", 1))
    assert ret["result"] is False and "does not run after its restart" in ret["comment"]


def test_ended(current: Current) -> None:
    """What a service takes at its start alone: it is ended where that is newer, and nobody starts it here."""
    for told in (("active", 5), ("inactive", -5), ("failed", -5)):
        ret = current(told, function="ended")
        assert (ret["result"], ret["changes"], ret["asked"]) == (True, {}, [])
    ret = current(("active", -5), ("inactive", -5), function="ended")
    assert (ret["result"], ret["asked"]) == (True, ["kojid"]) and "ended, for" in ret["changes"]["kojid"]
    assert current(("active", -5), function="ended")["result"] is False, "it does not end"
    planned = current(("active", -5), test=True, function="ended")
    assert (planned["result"], planned["asked"]) == (None, []) and planned["changes"]
