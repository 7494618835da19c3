"""sign_file.py: over a real socket, the other side started for each call as systemd does it, real GnuPG."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from goose import signing_file, signing_gpg
from goose.signing_config import SigningError
from test_signing_key import Place
from test_signing_key import place as place

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
TEXT = b"<repomd>\n- a line that clear signing escapes\n</repomd>\n"


class Service:
    """The socket of a key, and the program behind it."""

    def __init__(self, place: Place, command: list[str] | None = None) -> None:
        self.directory = place.top / "sockets"
        self.directory.mkdir(exist_ok=True)
        words = ["one", "--serve", "--config", str(place.top / "signing.json")]
        self.command = command or [sys.executable, str(SCRIPTS / "sign_file.py"), *words]
        self.journal: list[str] = []
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(str(self.directory / "one"))
        self.listening.listen()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            with connection:
                done = subprocess.run(self.command, stdin=connection.fileno(), capture_output=True, text=True, check=False)
                self.journal.append(done.stderr)

    def close(self) -> None:
        self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()
        self.thread.join()


@pytest.fixture
def keyed(place: Place) -> Place:
    """A signing host with a key, whose passphrase is in a file of the configuration."""
    assert place.run("create", "one", "--passphrase-file", str(place.top / "passphrase"))[0] == 0
    place.keys["one"]["passphrase_file"] = str(place.top / "passphrase")
    place.configure()
    return place


@pytest.fixture
def service(keyed: Place) -> Iterator[Service]:
    found = Service(keyed)
    yield found
    found.close()


def verified(place: Place, *paths: Path) -> str:
    done = signing_gpg.gpg(["--verify", *map(str, paths)], place.home)
    assert done.returncode == 0, done.stderr.decode()
    return done.stderr.decode()


def test_signs(keyed: Place, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signature alone, and text and signature in one; who asked for it stands in the journal."""
    monkeypatch.setattr(signing_file.ask, "__defaults__", (service.directory,))
    given, signed = keyed.top / "repomd.xml", keyed.top / "repomd.xml.asc"
    given.write_bytes(TEXT)
    assert signing_file.main(["one", str(given), str(signed)]) == 0
    assert "Good signature" in verified(keyed, signed, given)
    assert signing_file.main(["one", str(given), str(signed), "--clear"]) == 0
    verified(keyed, signed)
    assert b"- - a line" in signed.read_bytes()
    for how, line in zip(("detached", "clear"), service.journal):
        assert f"signed {len(TEXT)} bytes, {how}" in line
    assert len(service.journal) == 2
    assert "one, for root: " in service.journal[0] or os.geteuid() != 0
    assert "geheim" not in "".join(service.journal)
    assert not list(keyed.top.glob(".*.partial"))


@pytest.mark.parametrize(("change", "told"), [
    ({"state": "retired"}, "one is retired and signs nothing"),
    ({"passphrase_file": "/nosuch"}, "The passphrase file /nosuch cannot be read"),
    ({"uid": "Nobody <nobody@goose.example>"}, "has no key Nobody"),
])  # fmt: skip
def test_refused(keyed: Place, service: Service, change: dict[str, str], told: str) -> None:
    """The other side's sentence is what the caller reads."""
    keyed.keys["one"].update(change)
    keyed.configure()
    with pytest.raises(SigningError, match=told):
        signing_file.ask("one", "detached", TEXT, service.directory)
    assert told in service.journal[0]


def test_wrong_passphrase(keyed: Place, service: Service) -> None:
    (keyed.top / "passphrase").write_text("falsch")
    with pytest.raises(SigningError, match="is not the passphrase of the key"):
        signing_file.ask("one", "clear", TEXT, service.directory)


def test_odd_requests(keyed: Place, service: Service) -> None:
    """Whoever may connect may send anything."""
    with pytest.raises(SigningError, match="More than 1 MiB are not signed here"):
        signing_file.ask("one", "detached", b"x" * (1 << 20), service.directory)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(service.directory / "one"))
        connection.sendall(b"everything\n")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(999) == b"refused\nThe first line of a request is detached or clear."


def test_nobody_answers(keyed: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """No socket; one that nobody listens at; a unit that cannot start."""
    given = keyed.top / "repomd.xml"
    given.write_bytes(TEXT)
    assert signing_file.main(["one", str(given), str(keyed.top / "asc")]) == 2
    assert "/run/goose-signing/one is not there: this host has no role sigul.client" in capsys.readouterr().err
    service = Service(keyed, ["false"])
    with pytest.raises(SigningError, match="gives no answer: look at `journalctl -u signing-one-files.socket"):
        signing_file.ask("one", "detached", TEXT, service.directory)
    service.close()
    with pytest.raises(SigningError, match="gives no answer"):
        signing_file.ask("one", "detached", TEXT, service.directory)
    assert not (keyed.top / "asc").exists()


def test_sigul(place: Place) -> None:
    """With Sigul the same, by its own commands for texts and for data."""
    sigul = place.top / "sigul" / "sigul"
    sigul.parent.mkdir()
    sigul.write_text(
        f"#!/bin/sh\necho \"$@\" >> {place.top}/sigul.log\n"
        'while [ "$1" != -o ]; do kind="$kind $1"; shift; done\n'
        'what="SIGNED MESSAGE"; case $kind in *--armor) what=SIGNATURE;; esac\n'
        'echo "-----BEGIN PGP $what-----" >"$2"\n'
        f'cat "$4" >> {place.top}/given\n'
    )
    sigul.chmod(0o755)
    place.keys["one"]["passphrase_file"] = str(place.top / "passphrase")
    place.configure(backend="sigul")
    service = Service(place)
    try:
        assert signing_file.ask("one", "detached", TEXT, service.directory).startswith(b"-----BEGIN PGP SIGNATURE")
        assert signing_file.ask("one", "clear", TEXT, service.directory).startswith(b"-----BEGIN PGP SIGNED")
        assert (place.top / "given").read_bytes() == TEXT * 2
        assert "geheim" not in (place.top / "sigul.log").read_text()
        sigul.write_text("#!/bin/sh\necho 'Error: Authentication failed' >&2; exit 1\n")
        with pytest.raises(SigningError, match="Sigul refuses"):
            signing_file.ask("one", "clear", TEXT, service.directory)
    finally:
        service.close()
    assert not list((place.top / "state").iterdir())
