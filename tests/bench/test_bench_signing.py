"""What signing costs beside rpmsign, and what it costs to find that there is nothing to sign. No lab is needed.

The command is the real one, with its start; the hub answers on this machine over TLS, by koji's own library.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import signing_doubles
from bench_table import Table, Times, table_of
from goose import signing_gpg
from goose.signing_config import Config, Passphrase
from package_doubles import Package, make_srpms
from signing_doubles import SigningHub

TREE = Path(__file__).resolve().parents[2]
RPMS = 200
TAGGED = 10_000
SECRET = "geheim"


@dataclass
class Place:
    """A signing host, with a key."""

    top: Path
    certificate: Path
    srpms: list[Path]

    def config(self, kind: str, server: str, volume: Path) -> Path:
        """Its configuration, for a key of this kind and a hub."""
        (self.top / "koji.conf").write_text(
            f"[goose]\nserver = {server}/kojihub\ntopdir = {volume}\nauthtype = ssl\ncert = {self.certificate}\n"
            f"serverca = {self.certificate}\n"
        )
        path = self.top / f"{kind}.json"
        path.write_text(json.dumps({
            "backend": "rpmsign",
            "koji": {"goose": {"config": str(self.top / "koji.conf"), "profile": "goose"}},
            "default_koji": "goose",
            "keys": {kind: {"uid": f"{kind} <security@goose.example>", "type": kind, "tags": ["goose-1"],
                            "passphrase_file": str(self.top / "passphrase")}},
            "rpmsign": {"gnupg_home": str(self.top / "gnupg")},
            "keys_dir": str(self.top / "keys"),
            "state_dir": str(self.top / "state"),
        }))  # fmt: skip
        return path


@pytest.fixture(scope="session")
def table(request: pytest.FixtureRequest) -> Table:
    return table_of(request.config)


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    top = Path(tempfile.mkdtemp(prefix="bench", dir="/tmp"))
    for name in ("state", "keys"):
        (top / name).mkdir()
    (top / "passphrase").touch(0o600)
    (top / "passphrase").write_text(SECRET)
    packages = [Package(f"p{number:03}", files={"data": bytes(100_000)}) for number in range(RPMS)]
    yield Place(top, signing_doubles.make_certificate(top / "tls.pem"), make_srpms(top / "srpms", packages))
    signing_gpg.end_agent(top / "gnupg")
    shutil.rmtree(top)


def script(name: str, *words: str) -> dict[str, Any]:
    """One of the project's commands, as it is run; its result."""
    command = [sys.executable, "-B", str(TREE / "scripts" / name), *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def rpmsign(config: Config, kind: str, paths: list[Path], each: int) -> float:
    """The seconds that rpmsign alone takes, for ``each`` files in a process."""
    pair = signing_gpg.need_pair(config.gnupg_home, config.key(kind))
    with signing_gpg.held(Passphrase(SECRET.encode(), "the benchmark")) as descriptor:
        command = ["rpmsign", *signing_gpg.rpm_macros(config.gnupg_home, pair, descriptor), "--addsign"]
        start = time.monotonic()
        for first in range(0, len(paths), each):
            part = map(str, paths[first : first + each])
            subprocess.run([*command, *part], capture_output=True, check=True, stdin=subprocess.DEVNULL,
                           pass_fds=[descriptor])  # fmt: skip
        return time.monotonic() - start


@pytest.mark.parametrize("kind", ["rsa4096", "ed25519"])
def test_signing(table: Table, place: Place, kind: str, tmp_path: Path) -> None:
    """200 RPMs through Koji, from the question what is unsigned to signed copies on the volume."""
    ours: Times = []
    one: Times = []
    each: Times = []
    for number in range(2):
        hub = SigningHub(tmp_path / f"volume{number}")
        ids = hub.add("goose-1", *[[path] for path in place.srpms])
        with signing_doubles.serving(hub, place.certificate) as server:
            path = place.config(kind, server.url, hub.top)
            key_id = script("signing_key.py", "create", kind, "--config", str(path),
                            "--passphrase-file", str(place.top / "passphrase"))["key_id"]  # fmt: skip
            start = time.monotonic()
            result = script("sigulsign_unsigned.py", kind, "--config", str(path))
            ours.append(time.monotonic() - start)
        assert len(result["signed"]) == len(result["written"]) == RPMS
        assert hub.written_by(key_id) == set(ids)
        for times, size in ((one, RPMS), (each, 1)):
            copies = tmp_path / f"copies{number}-{size}"
            copies.mkdir()
            times.append(rpmsign(Config.read(path), kind, [Path(shutil.copy(srpm, copies)) for srpm in place.srpms], size))
    what = f"sign {RPMS} RPMs in Koji, {kind}"
    table.add(what, ours, "rpmsign alone, in one process", one, aim=1.15)
    table.add(what, ours, "rpmsign alone, a process for each", each)


def test_discovery(table: Table, place: Place, tmp_path: Path) -> None:
    """10,000 signed RPMs in a tag, and nothing to do."""
    hub = SigningHub(tmp_path / "volume")
    rpm_id = hub.add("goose-1", [place.srpms[0]])[0]
    build, row = hub.builds[100], hub.rpms[rpm_id]
    (hub.top / "packages").mkdir(exist_ok=True)
    with signing_doubles.serving(hub, place.certificate) as server:
        path = place.config("ed25519", server.url, hub.top)
        key_id = script("signing_key.py", "create", "ed25519", "--config", str(path),
                        "--passphrase-file", str(place.top / "passphrase"))["key_id"]  # fmt: skip
        calls = {}
        times: Times = []
        for count in (20, TAGGED, TAGGED, TAGGED):
            hub.builds, hub.rpms, hub.sigs, hub.tags = {}, {}, {}, {"goose-1": []}
            for number in range(count):
                # Five RPMs of a build, as is usual.
                name = f"package{number // 5}"
                hub.builds[number // 5] = {**build, "id": number // 5, "build_id": number // 5, "name": name}
                hub.rpms[number] = {**row, "id": number, "build_id": number // 5, "name": f"{name}-{number % 5}"}
                hub.sigs[number] = {"": "x", key_id: "y"}
            hub.tags["goose-1"] = list(hub.builds)
            start = time.monotonic()
            result = script("sigulsign_unsigned.py", "ed25519", "--just-sign", "--config", str(path))
            if count == TAGGED:
                times.append(time.monotonic() - start)
            assert result["already"] == count
            calls[count] = result["hub_calls"]["all"]
    assert calls[20] == calls[TAGGED] <= 5
    table.note(f"nothing to sign among {TAGGED} RPMs, {calls[TAGGED]} calls", times, aim=3)
