"""signing_key.py: keys made, published, rotated and retired, by real GnuPG and real systemd-creds or a stand-in of it."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import signing_doubles
from goose import signing, signing_gpg, signing_key
from package_doubles import Package, make_srpms
from signing_doubles import FakeSigul, SigningHub

# Seals by turning the text around: what is looked at here is what is asked of it, and when.
_CREDS = """\
#!/bin/sh
echo "$@" >> {log}
[ "$2" = --name=signing-one ] || [ "$2" = --name=signing-two ] || exit 1
cat $3 | rev
"""


class Place:
    """A signing host."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.home = top / "gnupg"
        self.credstore = top / "credstore"
        for name in ("state", "keys", "bin"):
            (top / name).mkdir()
        (top / "passphrase").touch(0o600)
        (top / "passphrase").write_text("geheim")
        self.keys: dict[str, dict[str, Any]] = {
            name: {"uid": f"Key {name} <security@goose.example>", "type": "ed25519", "tags": ["goose-1"]}
            for name in ("one", "two")
        }
        self.configure()

    def configure(self, **more: Any) -> None:
        data = {
            "backend": "rpmsign",
            "koji": {"goose": {"config": str(self.top / "koji.conf"), "profile": "goose"}},
            "default_koji": "goose",
            "keys": self.keys,
            "rpmsign": {"gnupg_home": str(self.home)},
            "sigul": {"command": str(self.top / "sigul" / "sigul"), "config": "/nosuch"},
            "keys_dir": str(self.top / "keys"),
            "state_dir": str(self.top / "state"),
            **more,
        }
        (self.top / "signing.json").write_text(json.dumps(data))

    def run(self, *words: str) -> tuple[int, dict[str, Any]]:
        output = io.StringIO()
        words = (*words, "--json", "--config", str(self.top / "signing.json"))
        status = signing_key.main(words, output, self.credstore)
        return status, json.loads(output.getvalue() or "{}")

    def secret_keys(self) -> int:
        return len(signing_gpg.parse(signing_gpg.gpg(["--list-secret-keys", "--with-colons"], self.home).stdout.decode()))

    def sign(self, key: str) -> dict[str, Any]:
        output = io.StringIO()
        words = [key, "--tag", "goose-1", "--passphrase-file", str(self.top / "passphrase"), "--json"]
        assert signing.main([*words, "--config", str(self.top / "signing.json")], output) == 0
        result: dict[str, Any] = json.loads(output.getvalue())
        return result


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    top = Path(tempfile.mkdtemp(prefix="key", dir="/tmp"))
    found = Place(top)
    creds = top / "bin" / "systemd-creds"
    creds.write_text(_CREDS.format(log=top / "creds.log"))
    creds.chmod(0o755)
    monkeypatch.setenv("PATH", f"{creds.parent}:/usr/bin:/bin")
    yield found
    signing_gpg.end_agent(found.home)
    shutil.rmtree(top)


def test_create(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """A key with a passphrase that nobody has seen, sealed; published; made once."""
    status, row = place.run("create", "one", "--dry-run")
    assert (status, row["created"]) == (0, True) and not place.home.exists()
    status, row = place.run("create", "one")
    assert (status, row["created"], row["changed"]) == (0, True, True)
    sealed = place.credstore / "signing-one"
    assert sealed.stat().st_mode & 0o777 == 0o600
    secret = sealed.read_text()[::-1].strip()
    assert len(secret) == 64
    for text in (json.dumps(row), capsys.readouterr().err, (place.top / "creds.log").read_text()):
        assert secret not in text
    published = Path(row["published"]).read_text()
    assert published.startswith("-----BEGIN PGP PUBLIC") and row["pillar"]["signing"]["public_keys"]["one"] == published
    assert row["key_id"] == row["fingerprint"][-8:]
    status, again = place.run("create", "one")
    assert (status, again["created"], again["changed"], again["fingerprint"]) == (0, False, False, row["fingerprint"])
    assert "one is there." in capsys.readouterr().err
    assert place.secret_keys() == 1


def test_a_lost_key_is_not_made_anew(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Systems know it by what was published: another key of that name would be one that they refuse."""
    before = Path(place.run("create", "one")[1]["published"]).read_text()
    shutil.rmtree(place.home)
    assert place.run("create", "one")[0] == 2
    assert "back from a backup" in capsys.readouterr().err
    assert (place.top / "keys/RPM-GPG-KEY-one").read_text() == before


def test_create_after_a_kill(place: Place) -> None:
    """Killed after the passphrase was stored, before the key was made: the key gets that passphrase."""
    place.credstore.mkdir()
    (place.credstore / "signing-one").write_text("geheim"[::-1])
    assert place.run("create", "one")[1]["created"]
    pair = signing_gpg.need_pair(place.home, signing_key.Config.read(place.top / "signing.json").key("one"))
    signing_gpg.sign(place.home, pair, signing_key.Passphrase(b"geheim", "the test"), ["--detach-sign"], b"")
    with pytest.raises(signing_key.SigningError, match="is not the passphrase") as caught:
        signing_gpg.sign(place.home, pair, signing_key.Passphrase(b"falsch", "the test"), ["--detach-sign"], b"")
    assert caught.value.status == 3


def test_create_refused(place: Place) -> None:
    assert place.run("create", "nosuch")[0] == 2
    place.keys["one"]["credential"] = "another"
    place.configure()
    assert place.run("create", "one")[0] == 5  # systemd-creds fails
    assert place.secret_keys() == 0
    place.keys["one"]["key_id"] = "01234567"
    place.configure()
    assert place.run("create", "one", "--passphrase-file", str(place.top / "passphrase"))[0] == 2


def test_rsa(place: Place) -> None:
    place.keys["one"]["type"] = "rsa2048"
    place.configure()
    place.run("create", "one", "--passphrase-file", str(place.top / "passphrase"))
    listed = signing_gpg.gpg(["--list-keys", "--with-colons"], place.home).stdout.decode()
    assert listed.splitlines()[-3].startswith("pub:u:2048:1:")
    assert not place.credstore.exists()


def test_export_and_list(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.run("export", "one")[0] == 2
    place.run("create", "one")
    config = ["--config", str(place.top / "signing.json")]
    capsys.readouterr()
    assert signing_key.main(["export", "one", *config]) == 0
    assert capsys.readouterr().out == (place.top / "keys" / "RPM-GPG-KEY-one").read_text()
    assert signing_key.main(["publish", "one", *config]) == 0
    assert capsys.readouterr().out.startswith("signing:\n  public_keys:\n    one: |\n      -----BEGIN PGP")
    rows = {row["key"]: row for row in place.run("list")[1]["keys"]}
    assert rows["one"]["state"] == "active" and rows["one"]["published"] and rows["two"]["state"] == "active, not made"


def test_keys_of_one_name(place: Place) -> None:
    """A key_id says which key is meant, whatever its uid."""
    place.run("create", "one")
    place.keys["two"]["uid"] = "other <security@goose.example>"
    place.configure()
    place.run("create", "two")
    place.keys["other"] = {**place.keys["two"], "uid": "third <a@b>", "key_id": place.run("list")[1]["keys"][0]["key_id"]}
    place.configure()
    assert place.run("export", "other")[1]["public_key"] == place.run("export", "one")[1]["public_key"]


def test_signing_subkey() -> None:
    """Koji knows a signature by the subkey that made it."""
    listing = """\
pub:u:4096:1:AAAAAAAAAAAAAAAA:1700000000:::u:::scSC::::::23::0:
fpr:::::::::0000000000000000000000000000000AAAAAAAAA:
uid:u::::1700000000::X::A \\x3a B <a@b>::::::::::0:
sub:u:4096:1:BBBBBBBBBBBBBBBB:1700000001::::::s::::::23:
fpr:::::::::0000000000000000000000000000000BBBBBBBBB:
sub:r:4096:1:CCCCCCCCCCCCCCCC:1700000002::::::s::::::23:
fpr:::::::::0000000000000000000000000000000CCCCCCCCC:
sub:u:4096:1:DDDDDDDDDDDDDDDD:1700000003::::::e::::::23:
fpr:::::::::0000000000000000000000000000000DDDDDDDDD:
"""
    (pair,) = signing_gpg.parse(listing)
    assert pair.koji_id == "bbbbbbbb" and pair.fingerprint.endswith("AAAA") and pair.uids == ("A : B <a@b>",)


def test_rotation(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """From one key to the next: both sign for a time, then only the new; what is signed by which is seen all the way."""
    secret = ["--passphrase-file", str(place.top / "passphrase")]
    certificate = signing_doubles.make_certificate(place.top / "tls.pem")
    hub = SigningHub(place.top / "volume")
    rpms = make_srpms(place.top / "srpms", [Package("p0"), Package("p1")])
    ids = hub.add("goose-1", *[[path] for path in rpms])
    with signing_doubles.serving(hub, certificate) as server:
        (place.top / "koji.conf").write_text(
            f"[goose]\nserver = {server.url}/kojihub\ntopdir = {hub.top}\nauthtype = ssl\ncert = {certificate}\n"
            f"serverca = {certificate}\n"
        )
        one = place.run("create", "one", *secret)[1]["key_id"]
        place.sign("one")
        assert place.run("retire", "one")[0] == 1  # nothing else has signed
        place.keys["two"]["tags"] = []
        place.configure()
        assert place.run("rotate", "one", "two", *secret)[0] == 2  # it would not sign what the old one signs
        place.keys["two"]["tags"] = ["goose-1"]
        place.configure()
        status, row = place.run("rotate", "one", "two", *secret)
        assert (status, row["created"], len(row["steps"])) == (0, True, 4)
        two = row["key_id"]
        assert place.run("rotate", "one", "two", *secret)[1]["created"] is False
        place.sign("two")
        assert hub.written_by(one) == hub.written_by(two) == set(ids)
        builds = place.run("signed", "--tag", "goose-1")[1]["builds"]
        assert builds["p0-1.0-1.el9"] == {"rpms": 1, "unsigned": 0, "keys": {"one": 1, "two": 1}}
        capsys.readouterr()
        signing_key.main(["signed", "--tag", "goose-1", "--config", str(place.top / "signing.json")])
        assert "p1-1.0-1.el9  1     one (1), two (1)" in capsys.readouterr().out
        place.keys["one"]["state"] = "retiring"
        place.configure()
        status, row = place.run("retire", "one", "--dry-run", "--delete-copies", "--delete-secret")
        assert (status, len(row["deleted_copies"])) == (0, 2) and hub.written_by(one) == set(ids)
        assert place.run("retire", "one", "--delete-copies", "--delete-secret")[1]["deleted_secret"]
        assert place.run("retire", "one", "--delete-secret")[1]["deleted_secret"] is False
        assert hub.written_by(one) == set() and hub.written_by(two) == set(ids)
        assert hub.signed_by(one) == set(ids)  # Koji keeps the signatures
        assert place.secret_keys() == 1
        # It is still known by what was published, and is not made again by accident.
        place.keys["one"]["state"] = "retired"
        place.configure()
        assert place.run("retire", "one")[1]["key_id"] == one
        assert place.run("signed", "--tag", "goose-1")[1]["builds"]["p0-1.0-1.el9"]["keys"] == {"one": 1, "two": 1}
        assert place.run("create", "one", *secret)[0] == 2


def test_sigul(place: Place) -> None:
    """The same commands with Sigul: new-key, grant-key-access, get-public-key, each passphrase by standard input."""
    place.run("create", "one")
    public = (place.top / "keys" / "RPM-GPG-KEY-one").read_text()
    (place.top / "keys" / "RPM-GPG-KEY-one").unlink()
    sigul = FakeSigul(place.top / "sigul", SigningHub(place.top / "volume"), {}, public)
    place.configure(backend="sigul")
    admin = place.top / "admin"
    admin.touch(0o600)
    admin.write_text("falsch")
    given = ["--admin-passphrase-file", str(admin), "--passphrase-file", str(place.top / "passphrase")]
    try:
        assert place.run("create", "two", *given)[0] == 3
        admin.write_text("admin geheim")
        status, row = place.run("create", "two", *given)
        assert (status, row["created"]) == (0, True)
        assert Path(row["published"]).read_text() == public
        assert place.run("create", "two", *given)[1]["created"] is False
        (place.top / "new").touch(0o600)
        (place.top / "new").write_text("neu")
        grant = ["grant", "two", "compose", *given[2:], "--new-passphrase-file", str(place.top / "new")]
        assert place.run(*grant)[1]["granted"] is True
        assert place.run(*grant)[1]["granted"] is False
        for call in sigul.calls:
            assert "geheim" not in json.dumps(call)
    finally:
        sigul.close()


def test_real_systemd_creds(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real program seals the passphrase under the name of the credential, and opens it again."""
    real = shutil.which("systemd-creds", path="/usr/bin:/bin")
    if real is None or os.geteuid():
        pytest.skip("systemd-creds is root's, or is not here")
    assert real
    (place.top / "bin" / "systemd-creds").unlink()
    # A host key of its own, beside that of this machine; not on a file system in memory, where none is taken.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        monkeypatch.setenv("SYSTEMD_CREDENTIAL_SECRET", f"{directory}/host.key")
        assert place.run("create", "one")[1]["created"]
        sealed = place.credstore / "signing-one"
        opened = subprocess.run([real, "decrypt", str(sealed), "-"], capture_output=True, check=True).stdout
    assert len(opened) == 64 and opened not in sealed.read_bytes()
    pair = signing_gpg.need_pair(place.home, signing_key.Config.read(place.top / "signing.json").key("one"))
    signing_gpg.sign(place.home, pair, signing_key.Passphrase(opened, "the test"), ["--detach-sign"], b"")


def test_retire_what_was_never_made(place: Place) -> None:
    """A key that was never made cannot be retired, and says so."""
    assert place.run("retire", "one")[0] == 2
