"""The states of _states/sigul.py, with the real certutil; Sigul's own programs are played."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import sqlite3
import subprocess
import types
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
ME = pwd.getpwuid(os.geteuid()).pw_name

pytestmark = pytest.mark.skipif(
    not shutil.which("certutil") or not os.access("/run", os.W_OK), reason="it takes certutil, and root"
)


class Calls:
    """``cmd.run_all``: what was run, with what on standard input."""

    def __init__(self) -> None:
        self.made: list[tuple[list[str], str]] = []
        self.play: dict[str, Any] = {}

    def __call__(self, command: list[str], stdin: str = "", runas: str = "", umask: str = "", **_: Any) -> dict[str, Any]:
        self.made.append((command, stdin))
        name = os.path.basename(command[0])
        if name in self.play:
            return {"retcode": self.play[name](command, stdin) or 0, "stdout": "", "stderr": "It failed."}
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return {"retcode": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def states(calls: Calls) -> Any:
    """The module, as Salt loads it."""
    spec = importlib.util.spec_from_file_location("sigul_states", ROOT / "_states/sigul.py")
    assert spec and spec.loader
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def managed(name: str, mode: str, **_: Any) -> dict[str, Any]:
        changes = {} if Path(name).stat().st_mode & 0o777 == int(mode, 8) else {"mode": mode}
        Path(name).chmod(int(mode, 8))
        return {"name": name, "result": True, "changes": changes, "comment": ""}

    module.__salt__ = {"cmd.run_all": calls}
    module.__opts__ = {"test": False}
    module.__states__ = {"file.managed": managed}
    module.__pillar__ = {}
    return module


# NSS


def certificate(directory: Path, name: str, ca: str = "CA") -> None:
    """A certificate of the CA that is made with the first one."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=directory, check=True, capture_output=True)

    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    if not (directory / "ca.crt").exists():
        openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.crt", "-subj", f"/CN={ca}", "-days", "2")
    openssl("req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
    openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", "2", "-out", f"{name}.crt")  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> types.SimpleNamespace:
    """Certificates, the password, and what the state is told."""
    certificate(tmp_path, "host")
    secret = tmp_path / "secret.conf"
    secret.write_text("[nss]\nnss-password = 0123456789abcdef\n")
    told = {
        "name": str(tmp_path / "nss"),
        "nickname": "sigul-host-cert",
        "certificate": str(tmp_path / "host.crt"),
        "private_key": str(tmp_path / "host.key"),
        "ca": str(tmp_path / "ca.crt"),
        "password_file": str(secret),
        "user": ME,
        "group": ME,
    }
    return types.SimpleNamespace(directory=tmp_path, nss=tmp_path / "nss", secret=secret, told=told)


def outcome(result: dict[str, Any]) -> tuple[Any, bool]:
    """Result, and whether there are changes."""
    return result["result"], bool(result["changes"])


def test_nss(states: Any, calls: Calls, place: types.SimpleNamespace) -> None:
    """Test mode makes nothing, the first run all, the second nothing; and no command line shows the password."""
    states.__opts__["test"] = True
    assert outcome(states.nss(**place.told)) == (None, True)
    assert not place.nss.exists()
    states.__opts__["test"] = False
    assert outcome(states.nss(**place.told)) == (True, True)
    assert place.nss.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in place.nss.iterdir()} == {0o600}
    trust = subprocess.run(["certutil", "-L", "-d", f"sql:{place.nss}"], capture_output=True, text=True, check=True).stdout
    assert dict(line.rsplit(None, 1) for line in trust.splitlines()[3:] if line.strip()) == {
        "ca": "CT,,",
        "sigul-host-cert": "u,u,u",
    }
    assert outcome(states.nss(**place.told)) == (True, False)
    assert not [command for command, _ in calls.made if "0123456789abcdef" in " ".join(command)]
    assert sorted(path.name for path in place.directory.glob("nss*")) == ["nss"]


def damages() -> dict[str, Any]:
    def password(place: types.SimpleNamespace) -> None:
        place.secret.write_text("[nss]\nnss-password = fedcba9876543210\n")

    def trust(place: types.SimpleNamespace) -> None:
        words = ["certutil", "-M", "-d", f"sql:{place.nss}", "-n", "ca", "-t", ",,", "-f"]
        file = place.directory / "password"
        file.write_text("0123456789abcdef\n")
        subprocess.run([*words, str(file)], check=True)

    return {
        "renewed": lambda place: certificate(place.directory, "host"),
        "keys gone": lambda place: (place.nss / "key4.db").unlink(),
        "certificates gone": lambda place: (place.nss / "cert9.db").unlink(),
        "no database": lambda place: (place.nss / "cert9.db").write_text("x"),
        "another password": password,
        "no trust": trust,
        "killed between": lambda place: place.nss.rename(f"{place.nss}.old"),
        "open": lambda place: (place.nss / "key4.db").chmod(0o644),
    }


@pytest.mark.parametrize("damage", damages())
def test_nss_is_mended(states: Any, place: types.SimpleNamespace, damage: str) -> None:
    """Test mode sees it, and one run mends it."""
    states.nss(**place.told)
    damages()[damage](place)
    states.__opts__["test"] = True
    assert outcome(states.nss(**place.told)) == (None, True)
    states.__opts__["test"] = False
    assert outcome(states.nss(**place.told)) == (True, True)
    assert outcome(states.nss(**place.told)) == (True, False)
    assert sorted(path.name for path in place.directory.glob("nss*")) == ["nss"]


def test_nss_while_the_ca_is_replaced(states: Any, place: types.SimpleNamespace) -> None:
    """Both CAs are trusted, then the new one alone. They have names of their own: NSS goes by those."""
    states.nss(**place.told)
    first = (place.directory / "ca.crt").read_text()
    other = place.directory / "other"
    other.mkdir()
    certificate(other, "host", "CA 2")
    second = (other / "ca.crt").read_text()

    def trusted() -> list[str]:
        done = subprocess.run(["certutil", "-L", "-d", f"sql:{place.nss}"], capture_output=True, text=True, check=True)
        return sorted(line.split()[0] for line in done.stdout.splitlines() if line.rstrip().endswith("CT,,"))

    (place.directory / "ca.crt").write_text(first + second)
    assert outcome(states.nss(**place.told)) == (True, True)
    assert outcome(states.nss(**place.told)) == (True, False)
    assert trusted() == ["ca", "ca-2"]
    for file in ("host.crt", "host.key"):
        (place.directory / file).write_bytes((other / file).read_bytes())
    (place.directory / "ca.crt").write_text(second)
    assert outcome(states.nss(**place.told)) == (True, True)
    assert outcome(states.nss(**place.told)) == (True, False)
    assert trusted() == ["ca"]


def test_nss_keeps_what_it_has(states: Any, place: types.SimpleNamespace) -> None:
    """A key that is not the certificate's: the old database stays, and the sentence says what failed."""
    states.nss(**place.told)
    before = (place.nss / "key4.db").read_bytes()
    certificate(place.directory, "other")
    shutil.copy(place.directory / "other.crt", place.directory / "host.crt")
    result = states.nss(**place.told)
    assert result["result"] is False and "Packing certificate and key failed" in result["comment"]
    assert (place.nss / "key4.db").read_bytes() == before


@pytest.mark.parametrize("missing", ["certificate", "password_file"])
def test_nss_without(states: Any, place: types.SimpleNamespace, missing: str) -> None:
    """On a new host an earlier state makes it first."""
    os.unlink(place.told[missing])
    result = states.nss(**place.told)
    assert result["result"] is False and place.told[missing] in result["comment"]
    states.__opts__["test"] = True
    assert outcome(states.nss(**place.told)) == (None, True)


# The server's database


def make(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("create table users (id integer primary key, name text, admin boolean)")
        database.execute("create table keys (id integer)")
        database.execute("create table key_accesses (id integer)")


def test_database(states: Any, calls: Calls, tmp_path: Path) -> None:
    """Made once, by Sigul's own program; closed, whatever it was made as; half of one is made whole."""
    path = tmp_path / "server.sqlite"
    calls.play["sigul_server_create_db"] = lambda *_: make(path)
    told = {"name": str(path), "config": "c", "user": ME, "group": ME}
    states.__opts__["test"] = True
    assert outcome(states.database(**told)) == (None, True)
    states.__opts__["test"] = False
    assert outcome(states.database(**told)) == (True, True)
    assert path.stat().st_mode & 0o777 == 0o600
    assert outcome(states.database(**told)) == (True, False)
    path.write_bytes(b"")
    assert outcome(states.database(**told)) == (True, True)
    path.write_text("this is no database, and long enough to be looked at by its header" * 20)
    result = states.database(**told)
    assert result["result"] is False and "put the last backup in its place" in result["comment"]


def add(path: Path, command: list[str], stdin: str, seen: list[str]) -> None:
    seen.append(stdin)
    with sqlite3.connect(path) as database:
        database.execute("insert into users (name, admin) values (?, 1)", (command[-1],))


def test_administrator(states: Any, calls: Calls, tmp_path: Path) -> None:
    """Its passphrase is made once, for root alone, and goes to the program as its standard input."""
    path, kept, seen = tmp_path / "server.sqlite", tmp_path / "passphrase", []  # type: ignore[var-annotated]
    make(path)
    calls.play["sigul_server_add_admin"] = lambda command, stdin: add(path, command, stdin, seen)
    told = {"name": "alice", "config": "c", "database": str(path), "passphrase_file": str(kept), "user": ME}
    states.__opts__["test"] = True
    assert outcome(states.administrator(**told)) == (None, True)
    assert not kept.exists()
    states.__opts__["test"] = False
    result = states.administrator(**told)
    assert outcome(result) == (True, True)
    passphrase = kept.read_text().strip()
    assert kept.stat().st_mode & 0o777 == 0o600 and len(passphrase) > 30
    assert seen == [f"{passphrase}\0"]
    assert passphrase not in str(result) and not [line for line, _ in calls.made if passphrase in " ".join(line)]
    # Taken away to where it is safe: it is not made again.
    kept.unlink()
    assert outcome(states.administrator(**told)) == (True, False)
    assert not kept.exists() and len(seen) == 1


def test_administrator_of_pillar(states: Any, calls: Calls, tmp_path: Path) -> None:
    """A passphrase that pillar gives is kept nowhere else; one that a killed run has made is used."""
    path, kept, seen = tmp_path / "server.sqlite", tmp_path / "passphrase", []  # type: ignore[var-annotated]
    make(path)
    calls.play["sigul_server_add_admin"] = lambda command, stdin: add(path, command, stdin, seen)
    told = {"config": "c", "database": str(path), "passphrase_file": str(kept), "user": ME, "pillar_key": "sigul:pw"}
    states.__pillar__ = {"sigul": {"pw": "given"}}
    assert outcome(states.administrator(name="alice", **told)) == (True, True)
    assert not kept.exists()
    states.__pillar__ = {"sigul": {"pw": None}}
    kept.write_text("of a killed run\n")
    assert outcome(states.administrator(name="bob", **told)) == (True, True)
    assert seen == ["given\0", "of a killed run\0"]


def test_administrator_that_is_none(states: Any, calls: Calls, tmp_path: Path) -> None:
    """A user without the right is not given it behind an administrator's back; and a failure is one."""
    path = tmp_path / "server.sqlite"
    make(path)
    with sqlite3.connect(path) as database:
        database.execute("insert into users (name, admin) values ('alice', 0)")
    told = {"config": "c", "database": str(path), "passphrase_file": str(tmp_path / "p"), "user": ME}
    result = states.administrator(name="alice", **told)
    assert result["result"] is False and "sigul modify-user --admin" in result["comment"]
    calls.play["sigul_server_add_admin"] = lambda *_: 1
    result = states.administrator(name="bob", **told)
    assert result["result"] is False and result["comment"] == "sigul_server_add_admin failed: It failed."


# The daemons


def test_ready(states: Any, calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that falls is not ready, though systemd starts it again and again."""
    file = tmp_path / "d.pid"
    shown = {"systemctl": "ActiveState=active\nMainPID=7\n", "journalctl": "It fell.\n"}

    def answer(command: list[str], **_: Any) -> dict[str, Any]:
        return {"retcode": 0, "stdout": shown[command[0]], "stderr": ""}

    states.__salt__["cmd.run_all"] = answer
    result = states.ready("d", str(file), timeout=0)
    assert result["result"] is False and "d does not stay up: It fell." in result["comment"]
    file.write_text("6\n")
    assert states.ready("d", str(file), timeout=0)["result"] is False
    file.write_text("7\n")
    assert outcome(states.ready("d", str(file), timeout=0)) == (True, False)
    shown["systemctl"] = "ActiveState=activating\nMainPID=0\n"
    states.__opts__["test"] = True
    assert outcome(states.ready("d", str(file))) == (None, False)
