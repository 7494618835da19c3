"""The report on all certificates: what Salt answers is played, the judging and the words are real."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from goose import pki_report


def row(path: str = "/etc/pki/goose/host.crt", days: float | None = 100.0, **more: Any) -> dict[str, Any]:
    """A row as ``goose_pki.certificates`` returns it."""
    return {
        "path": path, "kind": "leaf", "subject": "CN=hub", "issuer": "CN=GoOSe CA", "serial_number": "4F:1A",
        "not_after": "2026-12-24 12:00:00", "days": days, "used_by": ["Apache (koji.hub)"], "problems": [], **more,
    }  # fmt: skip


class Salt:
    """``salt`` and ``salt-call``; what they print, by the first word."""

    def __init__(self, **said: str) -> None:
        self.said = said
        self.calls: list[list[str]] = []

    def __call__(self, command: Sequence[str]) -> str:
        self.calls.append(list(command))
        return self.said[command[0].replace("-", "_")]


def lines(**answers: Any) -> str:
    return "\n".join(json.dumps({host: answer}) for host, answer in answers.items())


@pytest.fixture(autouse=True)
def master(monkeypatch: pytest.MonkeyPatch) -> None:
    """This host has a Salt master."""
    monkeypatch.setattr(pki_report.shutil, "which", lambda program: f"/usr/bin/{program}")


def test_all_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    """Every host, every file, its use."""
    salt = Salt(salt=lines(hub=[row()], scm=[row(used_by=[])]))
    assert pki_report.main([], salt) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.splitlines()[0] == "hub" and "100 days" in said.out and "Apache (koji.hub)" in said.out
    assert salt.calls == [["salt", "--out=json", "--out-indent=-1", "*", "goose_pki.certificates"]]


@pytest.mark.parametrize(
    ("its", "days", "said"),
    [
        ([row(days=6.9)], "7", "hub: /etc/pki/goose/host.crt (CN=hub), used by Apache (koji.hub): it ends in 7 days"),
        ([row(days=0.01)], "1", "it ends in 14 minutes, on 2026-12-24 12:00:00 UTC: run goose_pki.renew there."),
        ([row(days=-1.0, problems=["it has expired"])], "7", "used by Apache (koji.hub): it has expired."),
        ([row(problems=["it is revoked"])], "7", "it is revoked."),
        ([row(problems=["no CA that this host trusts has signed it"])], "7", "no CA that this host trusts has signed it."),
        ([row(subject="", kind="list", days=0.5)], "1", "host.crt, used by Apache (koji.hub): it ends in 12.0 hours"),
        ("Minion did not return. [No response]", "7", "hub did not list its certificates: Minion did not return."),
        (False, "7", "hub did not list its certificates: it does not answer."),
    ],
)
def test_what_is_wrong(its: Any, days: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A sentence each, and exit status 1; never one for what only nears."""
    assert pki_report.main(["--days", days], Salt(salt=lines(hub=its, scm=[row()]))) == 1
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    """One object, whatever is wrong."""
    assert pki_report.main(["--json"], Salt(salt=lines(hub=[row(days=1.0)]))) == 1
    made = json.loads(capsys.readouterr().out)
    assert made["hosts"]["hub"][0]["serial_number"] == "4F:1A" and len(made["problems"]) == 1


def test_hosts_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    """One that the master does not know is a problem, not nothing."""
    salt = Salt(salt=lines(hub=[row()]))
    assert pki_report.main(["hub", "hup"], salt) == 1
    assert salt.calls[0][3:5] == ["-L", "hub,hup"]
    assert capsys.readouterr().err == "hup did not list its certificates: the master knows no such host.\n"


def test_this_host_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where no master is, and with --local."""
    salt = Salt(salt_call=json.dumps({"local": [row()]}), hostname="hub.goose.test\n")
    assert pki_report.main(["--local", "--json"], salt) == 0
    assert list(json.loads(capsys.readouterr().out)["hosts"]) == ["hub.goose.test"]
    monkeypatch.setattr(pki_report.shutil, "which", lambda program: None)
    assert pki_report.main(["--json"], salt) == 0
    with pytest.raises(SystemExit) as raised:
        pki_report.main(["hub"], salt)
    assert raised.value.code == 2


@pytest.mark.parametrize("words", [[], ["--local"]])
def test_salt_that_does_not_answer(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What it said, and exit status 5."""
    assert pki_report.main(words, Salt(salt="No minions matched\n", salt_call="'x' is not available.", hostname="")) == 5
    assert "No minions matched" in (err := capsys.readouterr().err) or "'x' is not available." in err


def test_usage() -> None:
    """A negative number of days."""
    with pytest.raises(SystemExit) as raised:
        pki_report.main(["--days", "-1"], Salt())
    assert raised.value.code == 2
