"""sigulsign_unsigned.py against a hub that answers koji's own client, with real RPMs, GnuPG and rpmsign.

Sigul is a program that behaves as its client was seen to (signing_doubles.py).
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import signing_doubles
from goose import signing, signing_backends, signing_config, signing_gpg, signing_key, signing_koji
from package_doubles import Package, make_srpms
from signing_doubles import FakeSigul, Fault, HubServer, SigningHub

SECRET = "von rpmsign geheim"
KEYS = ("goose-1", "goose-2")


@dataclass
class Material:
    """What all tests share, and none changes."""

    top: Path
    rpms: list[list[Path]]
    certificate: Path
    gnupg_home: Path
    keys_dir: Path
    key_ids: dict[str, str] = field(default_factory=dict)
    headers: dict[str, bytes] = field(default_factory=dict)


def config_data(top: Path, material: Material, **more: Any) -> dict[str, Any]:
    return {
        "backend": "rpmsign",
        "koji": {"goose": {"config": str(top / "koji.conf"), "profile": "goose"}},
        "default_koji": "goose",
        "keys": {
            name: {"uid": f"{name} <security@goose.example>", "type": "ed25519", "tags": ["goose-1"],
                   "passphrase_file": str(material.top / "passphrase")}
            for name in KEYS
        },
        "rpmsign": {"gnupg_home": str(material.gnupg_home)},
        "sigul": {"command": str(top / "sigul" / "sigul"), "config": str(top / "client.conf"),
                  "instance": {"goose": "goose"}},
        "keys_dir": str(material.keys_dir),
        "state_dir": str(top / "state"),
        **more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def material() -> Iterator[Material]:
    # Short: GnuPG's agent has a socket there.
    top = Path(tempfile.mkdtemp(prefix="sign", dir="/tmp"))
    made = Material(top, [], signing_doubles.make_certificate(top / "tls.pem"), top / "gnupg", top / "keys")
    made.keys_dir.mkdir()
    (top / "state").mkdir()
    (top / "passphrase").touch(0o600)
    (top / "passphrase").write_text(f"{SECRET}\n")
    (top / "signing.json").write_text(json.dumps(config_data(top, made)))
    for name in KEYS:
        output = io.StringIO()
        assert signing_key.main(["create", name, "--json", "--config", str(top / "signing.json")], output) == 0
        made.key_ids[name] = json.loads(output.getvalue())["key_id"]
    made.rpms = [[path] for path in make_srpms(top / "srpms", [Package(f"p{number:02}") for number in range(10)])]
    made.rpms.append(signing_doubles.build_package(top / "tool", "tool"))
    copies = [shutil.copy(path, top) for files in made.rpms for path in files]
    config = signing_config.Config.read(top / "signing.json")
    pair = signing_gpg.need_pair(made.gnupg_home, config.key("goose-1"))
    secret = signing_config.Passphrase(SECRET.encode(), "the test")
    with signing_gpg.held(secret) as descriptor:
        command = ["rpmsign", *signing_gpg.rpm_macros(made.gnupg_home, pair, descriptor), "--addsign", *map(str, copies)]
        subprocess.run(command, check=True, pass_fds=[descriptor], capture_output=True, stdin=subprocess.DEVNULL)
    made.headers = {Path(path).stem: signing_doubles.koji.rip_rpm_sighdr(str(path)) for path in copies}
    yield made
    signing_gpg.end_agent(made.gnupg_home)
    shutil.rmtree(top)


class Place:
    """A signing host and a hub."""

    def __init__(self, top: Path, material: Material, server: HubServer) -> None:
        self.top, self.material, self.server, self.hub = top, material, server, server.hub
        self.key_id = material.key_ids["goose-1"]
        self.ids = self.hub.add("goose-1", *material.rpms)
        (top / "state").mkdir()
        self.profile()
        self.configure()
        self.errors = ""

    def profile(self, **more: str) -> None:
        options = {"server": f"{self.server.url}/kojihub", "topurl": self.server.url, "topdir": str(self.hub.top),
                   "authtype": "ssl", "cert": str(self.material.certificate), "serverca": str(self.material.certificate),
                   "max_retries": "2", "retry_interval": "0", **more}  # fmt: skip
        lines = [f"{word} = {value}" for word, value in options.items()]
        (self.top / "koji.conf").write_text("\n".join(["[goose]", *lines, ""]))

    def configure(self, **more: Any) -> None:
        (self.top / "signing.json").write_text(json.dumps(config_data(self.top, self.material, **more)))

    def run(self, *words: str) -> tuple[int, dict[str, Any]]:
        """The exit status, and the result."""
        output = io.StringIO()
        capture = io.StringIO()
        before, sys.stderr = sys.stderr, capture
        try:
            status = signing.main([*words, "--json", "--config", str(self.top / "signing.json")], output)
        finally:
            sys.stderr = before
        self.errors = capture.getvalue()
        return status, json.loads(output.getvalue())

    def calls(self, method: str) -> int:
        return self.hub.methods.count(method)

    def complete(self, key_id: str = "") -> bool:
        """Whether every RPM is signed and has its copy."""
        key_id = key_id or self.key_id
        return self.hub.signed_by(key_id) == self.hub.written_by(key_id) == set(self.ids)


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "_OUTAGES", (0.01, 0.01, 0.01))
    monkeypatch.setattr(signing, "_PAUSES", (0.0, 0.01))


@pytest.fixture
def place(tmp_path: Path, material: Material) -> Iterator[Place]:
    hub = SigningHub(tmp_path / "volume")
    with signing_doubles.serving(hub, material.certificate) as server:
        yield Place(tmp_path, material, server)


@pytest.fixture
def sigul(place: Place, material: Material) -> Iterator[FakeSigul]:
    public = (material.keys_dir / "RPM-GPG-KEY-goose-1").read_text()
    found = FakeSigul(place.top / "sigul", place.hub, material.headers, public)
    place.configure(backend="sigul")
    secret = place.top / "sigul-passphrase"
    secret.touch(0o600)
    secret.write_text("sigul geheim\n")
    yield found
    found.close()


def sigul_run(place: Place, *words: str) -> tuple[int, dict[str, Any]]:
    return place.run("goose-1", "--passphrase-file", str(place.top / "sigul-passphrase"), *words)


# What signing is for


def test_signed_and_verified(place: Place, tmp_path: Path) -> None:
    """Source and binary RPMs: rpm itself takes the copies, with only the published key imported."""
    status, result = place.run("goose-1")
    assert (status, result["failed"], result["unsigned"]) == (0, [], [])
    assert len(result["signed"]) == len(result["written"]) == len(place.ids) == 12
    assert place.complete()
    database = ["--dbpath", str(tmp_path / "db")]
    subprocess.run(["rpmkeys", *database, "--import", str(place.material.keys_dir / "RPM-GPG-KEY-goose-1")], check=True)
    copies = [str(place.hub.signed_path(number, place.key_id)) for number in place.ids]
    assert any(path.endswith(".noarch.rpm") for path in copies)
    told = subprocess.run(["rpmkeys", *database, "-Kv", *copies], capture_output=True, text=True, check=True).stdout
    assert told.count(f"key ID {place.key_id}: OK") == len(copies)
    assert "root here" in place.errors
    assert place.errors.count("Signing by rpmsign") == 1
    assert not list((place.top / "state").glob("*.work"))


def test_again_is_nothing(place: Place) -> None:
    place.run("goose-1")
    place.hub.requests.clear()
    status, result = place.run("goose-1")
    assert (status, result["signed"], result["written"], result["already"]) == (0, [], [], 12)
    assert place.hub.requests == ["sslLogin", "listTaggedRPMS", "logout"]
    assert result["hub_calls"] == {"discovery": 1, "all": 2}


def test_calls_do_not_grow(place: Place) -> None:
    """Discovery is one call for a tag, whatever is in it."""
    few = place.run("goose-1", "--tag", "goose-1", "--dry-run")[1]["hub_calls"]
    template = place.hub.rpms[place.ids[0]]
    for number in range(2000):
        rpm_id = 5000 + number
        place.hub.rpms[rpm_id] = {**template, "id": rpm_id, "arch": f"a{number}"}
        place.hub.sigs[rpm_id] = {"": "x", place.key_id: "y"}
    many = place.run("goose-1", "--tag", "goose-1", "--dry-run", "--just-sign")[1]
    assert many["already"] == 2000
    assert many["hub_calls"] == few == {"discovery": 1, "all": 2}


def test_by_nvr(place: Place) -> None:
    status, result = place.run("goose-1", "tool-1.0-1.el9", "p03-1.0-1.el9")
    assert status == 0
    assert sorted(result["signed"]) == ["p03-1.0-1.el9.src", "tool-1.0-1.el9.noarch", "tool-1.0-1.el9.src"]
    assert result["hub_calls"]["discovery"] == 3


def test_unknown_nvr(place: Place) -> None:
    """All that are wrong are named, and nothing is done about the others."""
    place.hub.builds[103]["state"] = 3
    status, result = place.run("goose-1", "p01-1.0-1.el9", "nosuch-1-1", "p03-1.0-1.el9")
    assert status == 2
    assert "nosuch-1-1 does not exist" in result["error"] and "p03-1.0-1.el9 is not complete" in result["error"]
    assert not place.hub.signed_by(place.key_id)


def test_unknown_tag_and_key(place: Place) -> None:
    status, result = place.run("goose-1", "--tag", "nosuch")
    assert status == 2 and "nosuch" in result["error"]
    status, result = place.run("nosuch")
    assert status == 2 and "it has goose-1, goose-2" in result["error"]


def test_arch(place: Place) -> None:
    status, result = place.run("goose-1", "--tag", "goose-1", "--arch", "noarch")
    assert (status, result["signed"]) == (0, ["tool-1.0-1.el9.noarch"])


def test_inherit(place: Place) -> None:
    place.hub.tags["child"], place.hub.parents["child"] = [], ["goose-1"]
    assert place.run("goose-1", "--tag", "child")[1]["signed"] == []
    assert len(place.run("goose-1", "--tag", "child", "--inherit")[1]["signed"]) == 12


def test_latest_build_only(place: Place) -> None:
    newer = place.hub.add("goose-1", [place.material.rpms[0][0]])
    assert "p00-1.0-1.el9.src" in place.run("goose-1")[1]["signed"]
    assert place.ids[0] not in place.hub.signed_by(place.key_id) and set(newer) <= place.hub.signed_by(place.key_id)


def test_just_list_and_dry_run(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    config = ["--config", str(place.top / "signing.json")]
    assert signing.main(["goose-1", "--just-list", *config]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 12
    assert signing.main(["goose-1", "--dry-run", *config]) == 0
    assert capsys.readouterr().out.startswith("would be signed: p00-1.0-1.el9.src\n")
    assert not place.hub.signed_by(place.key_id)


def test_just_sign_then_write(place: Place) -> None:
    status, result = place.run("goose-1", "--just-sign")
    assert (status, len(result["signed"]), result["written"]) == (0, 12, [])
    status, result = place.run("goose-1", "--just-write")
    assert (status, result["signed"], len(result["written"])) == (0, [], 12)
    assert place.complete()


def test_write_all(place: Place) -> None:
    place.run("goose-1")
    assert place.run("goose-1", "--write-all")[1]["written"] != []
    assert place.calls("writeSignedRPM") == 24


def test_lost_copy_is_written(place: Place) -> None:
    place.run("goose-1")
    place.hub.signed_path(place.ids[3], place.key_id).unlink()
    assert place.run("goose-1")[1]["written"] == ["p03-1.0-1.el9.src"]


def test_without_the_volume(place: Place) -> None:
    """RPMs come from Koji's URL, and what is still to be written is noted."""
    place.profile(topdir=str(place.top / "nowhere"))
    status, result = place.run("goose-1", "--just-sign")
    assert result["failed"] == []
    assert (status, len(result["signed"])) == (0, 12)
    status, result = place.run("goose-1")
    assert (status, result["error"], len(result["written"])) == (0, "", 12)
    assert place.complete()
    assert place.run("goose-1")[1]["written"] == []


def test_batches(place: Place) -> None:
    sizes = [5, 5, 20, 1, 1, 1]
    rpms = [signing_koji.Rpm(n, "b", f"r{n}", f"r{n}", "src", size, "", "d", "f") for n, size in enumerate(sizes)]
    parts = [[rpm.size for rpm in part] for part in signing.batches(rpms, 2, 10)]
    assert parts == [[5, 5], [20], [1, 1], [1]]


def test_writing_overlaps(place: Place) -> None:
    """The first copies are written while later batches are signed."""
    place.run("goose-1", "--sigul-batch-size", "2")
    methods = place.hub.methods
    last_signature = len(methods) - 1 - methods[::-1].index("addRPMSig")
    assert "writeSignedRPM" in methods[:last_signature]


def test_states_of_keys(place: Place) -> None:
    data = config_data(place.top, place.material)
    data["keys"]["goose-1"]["state"] = "retiring"
    place.configure(keys=data["keys"])
    status, result = place.run("goose-1")
    assert (status, result["signed"]) == (0, []) and "being retired" in place.errors
    assert len(place.run("goose-1", "--tag", "goose-1")[1]["signed"]) == 12
    data["keys"]["goose-1"]["state"] = "retired"
    place.configure(keys=data["keys"])
    status, result = place.run("goose-1", "--tag", "goose-1")
    assert status == 2 and "retired" in result["error"]


# What goes wrong


def test_wrong_passphrase(place: Place, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.touch(0o600)
    wrong.write_text("falsch")
    status, result = place.run("goose-1", "--passphrase-file", str(wrong))
    assert status == 3 and "is not the passphrase of the key" in result["error"]
    assert not place.hub.signed_by(place.key_id) and len(result["unsigned"]) == 12
    assert Path(os.devnull).is_char_device()  # gpg removes the output of a signature that fails
    assert place.run("goose-1")[0] == 0 and place.complete()


def test_no_permission(place: Place) -> None:
    place.hub.perms = []
    status, result = place.run("goose-1")
    assert status == 3 and "permission sign" in result["error"]


def test_damaged_rpm(place: Place) -> None:
    """Nothing but what Koji has recorded is signed."""
    path = place.hub.path(place.ids[4])
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    place.hub.path(place.ids[5]).write_bytes(b"no RPM at all")
    place.hub.path(place.ids[6]).unlink()
    status, result = place.run("goose-1")
    assert status == 1
    why = {row["rpm"]: row["why"] for row in result["failed"]}
    assert "is damaged" in why["p04-1.0-1.el9.src"]
    assert "is no RPM" in why["p05-1.0-1.el9.src"] and "is not there" in why["p06-1.0-1.el9.src"]
    assert len(result["signed"]) == len(result["written"]) == 9


def test_signed_meanwhile(place: Place) -> None:
    """Another has signed one after we looked: Koji's refusal of a second signature is no failure."""

    def fault(method: str, args: Any) -> None:
        if method == "addRPMSig" and args[0] == place.ids[2]:
            place.hub.sigs[place.ids[2]].setdefault(place.key_id, "another's")
            header = place.material.headers[place.hub.nvra(place.ids[2])]
            path = place.hub._sighdr_path(place.ids[2], place.key_id)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(header)

    place.hub.fault = fault
    status, result = place.run("goose-1")
    assert (status, result["failed"]) == (0, []) and place.complete()


def test_refused_signature_is_bisected(place: Place) -> None:
    """One that Koji never takes fails alone; nothing else does."""

    def fault(method: str, args: Any) -> None:
        if method == "addRPMSig" and args[0] == place.ids[7]:
            raise Fault("wrong md5")

    place.hub.fault = fault
    status, result = place.run("goose-1")
    assert status == 1 and [row["rpm"] for row in result["failed"]] == ["p07-1.0-1.el9.src"]
    assert "wrong md5" in result["failed"][0]["why"]
    assert len(result["written"]) == 11


def test_max_failures(place: Place) -> None:
    for number in place.ids[:3]:
        place.hub.path(number).unlink()
    status, result = place.run("goose-1", "--sigul-batch-size", "2", "--max-failures", "2")
    assert status == 1 and len(result["failed"]) == 2 and result["signed"] == []


def test_other_key_signs(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """GnuPG signed with another key than it was told: nothing is sent."""
    config = signing_config.Config.read(place.top / "signing.json")
    other = signing_gpg.need_pair(config.gnupg_home, config.key("goose-2"))
    real = signing_gpg.rpm_macros
    monkeypatch.setattr(signing_gpg, "rpm_macros", lambda home, pair, descriptor: real(home, other, descriptor))
    status, result = place.run("goose-1")
    assert status == 5 and "instead of" in result["error"]
    assert place.calls("addRPMSig") == 0


@pytest.mark.parametrize("method", ["addRPMSig", "queryRPMSigs", "writeSignedRPM"])
def test_hub_goes_down(place: Place, method: str) -> None:
    """From some call on, the hub gives no answer."""
    down = threading.Event()

    def before(_: str) -> None:
        if down.is_set():
            raise ConnectionError

    def fault(called: str, _: Any) -> None:
        if called == method and place.calls(method) > 5:
            down.set()
            raise ConnectionError

    place.hub.before, place.hub.fault = before, fault
    status, result = place.run("goose-1", "--sigul-batch-size", "4")
    assert status == 4 and place.server.url in result["error"]
    down.clear()
    place.hub.before = lambda method: None
    place.hub.fault = lambda method, args: None
    assert place.run("goose-1")[0] == 0 and place.complete()


def test_hub_is_down(place: Place) -> None:
    place.profile(server="https://127.0.0.1:1/kojihub")
    status, result = place.run("goose-1")
    assert status == 4 and "does not answer" in result["error"]


def test_certificate_refused(place: Place) -> None:
    place.profile(cert=str(place.top / "nosuch.pem"))
    status, result = place.run("goose-1")
    assert status == 3 and "nosuch.pem" in result["error"]


def test_full_volume(place: Place) -> None:
    """What is signed stays signed, nothing more is written, and the next run writes it."""

    def fault(method: str, _: Any) -> None:
        if method == "writeSignedRPM" and place.calls("writeSignedRPM") > 3:
            raise Fault("[Errno 28] No space left on device", 1)

    place.hub.fault = fault
    status, result = place.run("goose-1", "--sigul-batch-size", "4")
    assert status == 4 and "is full" in result["error"] and result["failed"]
    assert len(place.hub.written_by(place.key_id)) == 3
    place.hub.fault = lambda *_: None
    assert place.run("goose-1")[0] == 0 and place.complete()


def test_two_at_once(place: Place) -> None:
    config = signing_config.Config.read(place.top / "signing.json")
    with signing.locked(config, config.key("goose-1")):
        status, result = place.run("goose-1")
        assert status == 75 and "Another run" in result["error"]
        assert place.run("goose-2")[0] == 0  # another key is another lock
        assert place.run("goose-1", "--just-list")[0] == 0


def test_interrupted_after_the_batch(place: Place) -> None:
    """SIGTERM in the first batch: it is finished, signed and written; the next run does the rest."""

    def fault(method: str, _: Any) -> None:
        if method == "addRPMSig" and place.calls("addRPMSig") == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    place.hub.fault = fault
    status, result = place.run("goose-1", "--sigul-batch-size", "4")
    assert status == 1 and len(result["signed"]) == len(result["written"]) == 4
    assert "ends after this batch" in place.errors
    assert place.run("goose-1")[0] == 0 and place.complete()


# Sigul


def test_sigul(place: Place, sigul: FakeSigul) -> None:
    status, result = sigul_run(place, "--sigul-batch-size", "5")
    assert (status, result["failed"]) == (0, []) and place.complete()
    assert sigul.batches == [5, 5, 2]
    assert all(call["cwd"] == [] for call in sigul.calls)
    assert "root here" not in place.errors


def test_sigul_wrong_passphrase_and_unknown_key(place: Place, sigul: FakeSigul) -> None:
    (place.top / "sigul-passphrase").write_text("falsch")
    status, result = sigul_run(place)
    assert status == 3 and "passphrase is wrong" in result["error"] and sigul.batches == [12]
    (place.top / "sigul-passphrase").write_text("sigul geheim")
    keys = config_data(place.top, place.material)["keys"]
    keys["goose-1"]["name"] = "nosuch"
    place.configure(backend="sigul", keys=keys)
    status, result = sigul_run(place)
    assert status == 3 and "no key of this name" in result["error"]


def test_sigul_bridge_down(place: Place, sigul: FakeSigul) -> None:
    sigul.save(bridge="down")
    status, result = sigul_run(place)
    assert status == 5 and "bridge does not listen" in result["error"]
    assert len(sigul.batches) <= 4
    sigul.save(bridge="eof")  # as once after a restart
    assert sigul_run(place)[0] == 0 and place.complete()


def test_sigul_server_down(place: Place, sigul: FakeSigul, monkeypatch: pytest.MonkeyPatch) -> None:
    """It hangs; the time limit ends that."""
    monkeypatch.setattr(signing_backends, "seconds_for", lambda rpms: 0.3)
    sigul.save(server="down")
    status, result = sigul_run(place)
    assert status == 5 and "server is down, or hangs" in result["error"]
    monkeypatch.undo()
    sigul.save(server="up")
    assert sigul_run(place)[0] == 0 and place.complete()


def test_sigul_hangs_on_one(place: Place, sigul: FakeSigul, monkeypatch: pytest.MonkeyPatch) -> None:
    """One RPM that the server never answers to does not keep the others from being signed."""
    monkeypatch.setattr(signing_backends, "seconds_for", lambda rpms: 1.0)
    sigul.hangs_on = {"p02-1.0-1.el9.src"}
    status, result = sigul_run(place, "--sigul-batch-size", "4", "--arch", "src")
    assert status == 1 and [row["rpm"] for row in result["failed"]] == ["p02-1.0-1.el9.src"]
    assert len(result["signed"]) == 10


def test_sigul_signed_meanwhile(place: Place, sigul: FakeSigul) -> None:
    """An RPM that another has signed fails itself and all after it, in every batch; Koji says what is missing."""
    for number in (2, 6):
        place.hub.fault = lambda method, args: None
        place.hub.do_addRPMSig(place.ids[number], _header(place, number))
    listed = place.hub.do_listTaggedRPMS

    def stale(*args: Any, **kwargs: Any) -> Any:
        rows, builds = listed(*args, **kwargs)
        return [[row for row in rows if not row["sigkey"]], builds]

    place.hub.do_listTaggedRPMS = stale  # type: ignore[method-assign]
    status, result = sigul_run(place)
    assert (status, result["failed"]) == (0, []) and place.complete()
    assert len(sigul.batches) <= 4


def _header(place: Place, number: int) -> str:
    import base64

    return base64.b64encode(place.material.headers[place.hub.nvra(place.ids[number])]).decode()


def test_sigul_corrupt_rpm(place: Place, sigul: FakeSigul) -> None:
    """It kills every batch that it is in, and is found by halves."""
    sigul.corrupt = {"p05-1.0-1.el9.src", "p06-1.0-1.el9.src"}
    status, result = sigul_run(place)
    assert status == 1 and sorted(row["rpm"][:3] for row in result["failed"]) == ["p05", "p06"]
    assert len(result["written"]) == 10
    assert len(sigul.batches) < 20
    sigul.corrupt = set()
    assert sigul_run(place)[0] == 0 and place.complete()


def test_sigul_client_missing(place: Place) -> None:
    place.configure(backend="sigul", sigul={"command": "/nosuch/sigul", "config": "/nosuch"})
    status, result = place.run("goose-1")
    assert status == 5 and "install it" in result["error"]


# Killed


def forked(place: Place, *words: str) -> Callable[[], int]:
    """Run in a child; a function that waits for it and gives its wait status."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (1, 2):
            os.dup2(null, descriptor)
        status = 99
        try:
            sys.stderr = io.StringIO()
            status = signing.main([*words, "--config", str(place.top / "signing.json")], io.StringIO())
        finally:
            os._exit(status)
    place.child = pid  # type: ignore[attr-defined]
    return lambda: os.waitpid(pid, 0)[1]


@pytest.mark.parametrize(("backend", "volume"), [("sigul", True), ("sigul", False), ("rpmsign", True)])
def test_killed_at_every_request(place: Place, sigul: FakeSigul, backend: str, volume: bool) -> None:
    """Killed with -9 at each of its requests, before and after the hub has done it; then one run completes.

    All kills are in one row: each run goes on where the one before was killed, and when all is done, from the start.
    """
    if not volume:
        place.profile(topdir=str(place.top / "nowhere"))
    secret = place.top / "sigul-passphrase" if backend == "sigul" else place.material.top / "passphrase"
    words = ["goose-1", "--backend", backend, "--passphrase-file", str(secret), "--sigul-batch-size", "1"]
    kills = 0
    for number in range(3, 40):
        when = "before" if number % 2 else "after"
        child: list[int] = []
        started = threading.Event()

        def pid(child: list[int] = child, started: threading.Event = started) -> int:
            started.wait(10)
            return child[0]

        signing_doubles.kill_at(place.hub, pid, 3 + number % 7, when)
        wait = forked(place, *words)
        child.append(place.child)  # type: ignore[attr-defined]
        started.set()
        ended = wait()
        place.hub.before = place.hub.after = lambda method: None
        if os.WIFSIGNALED(ended):
            kills += 1
        assert place.hub.written_by(place.key_id) <= place.hub.signed_by(place.key_id)
        if kills >= 10:
            break
        if place.complete():
            for rpm_id in place.ids:
                del place.hub.sigs[rpm_id][place.key_id]
                place.hub.signed_path(rpm_id, place.key_id).unlink()
    assert kills >= 10
    status, result = place.run(*words)
    assert (status, result["failed"], result["unsigned"]) == (0, [], []) and place.complete()
    assert place.run(*words)[1]["written"] == []


# The passphrase


def test_passphrase_is_nowhere(place: Place, sigul: FakeSigul, tmp_path: Path) -> None:
    """In no argument, environment, output or file; looked for while it signs, in all processes of the run."""
    seen: list[str] = []

    def look(method: str) -> None:
        for path in Path("/proc").glob("[0-9]*"):
            try:
                text = (path / "cmdline").read_bytes() + (path / "environ").read_bytes()
            except OSError:
                continue
            if b"geheim" in text:
                seen.append(str(path))

    place.hub.before = look
    sigul.each = look
    status, result = sigul_run(place, "-v")
    assert status == 0
    for call in sigul.calls:
        assert "geheim" not in json.dumps(call)
    assert "geheim" not in json.dumps(result) + place.errors and not seen
    place.configure(backend="rpmsign")
    status, result = place.run("goose-2", "-v")
    assert status == 0 and not seen and "geheim" not in json.dumps(result) + place.errors
    for path in (place.top / "state").rglob("*"):
        assert b"geheim" not in (path.read_bytes() if path.is_file() else b"")


@pytest.mark.parametrize("source", ["fd", "stdin", "file", "credential"])
def test_passphrase_sources(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    keys = config_data(place.top, place.material)["keys"]
    del keys["goose-1"]["passphrase_file"]
    place.configure(keys=keys)
    words = []
    if source == "fd":
        reading, writing = os.pipe()
        os.write(writing, f"{SECRET}\n".encode())
        os.close(writing)
        words = ["--passphrase-fd", str(reading)]
    elif source == "stdin":
        # As a program has it: closed, its number would be that of the next descriptor, which gpg cannot be given.
        standard = os.dup(0)
        reading, writing = os.pipe()
        os.write(writing, SECRET.encode())
        os.close(writing)
        os.dup2(reading, 0)
        os.close(reading)
        try:
            assert place.run("goose-1", "p01-1.0-1.el9", "--passphrase-fd", "0")[0] == 0
        finally:
            os.dup2(standard, 0)
            os.close(standard)
        return
    elif source == "file":
        words = ["--passphrase-file", str(place.material.top / "passphrase")]
    else:
        (tmp_path / "signing-goose-1").write_text(SECRET)
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert place.run("goose-1", "p01-1.0-1.el9", *words)[0] == 0


def test_passphrase_refusals(place: Place, tmp_path: Path) -> None:
    keys = config_data(place.top, place.material)["keys"]
    del keys["goose-1"]["passphrase_file"]
    place.configure(keys=keys)
    assert "There is no passphrase for goose-1" in place.run("goose-1")[1]["error"]
    file = tmp_path / "open"
    file.write_text("geheim")
    file.chmod(0o644)
    status, result = place.run("goose-1", "--passphrase-file", str(file))
    assert status == 2 and "open to others (mode 0644" in result["error"]
    file.chmod(0o600)
    for text, why in (("", "is empty"), ("a\nb\n", "more than one line")):
        file.write_text(text)
        assert why in place.run("goose-1", "--passphrase-file", str(file))[1]["error"]
    assert "Descriptor 99" in place.run("goose-1", "--passphrase-fd", "99")[1]["error"]


# The configuration


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"bakend": "sigul"}, "bakend, which nothing reads"),
        ({"backend": "gpg"}, "backend is 'gpg': it must be one of rpmsign, sigul"),
        ({"default_koji": "other"}, "default_koji is 'other'"),
        ({"batch": {"count": 0}}, "batch:count is 0: it must be 1 or more"),
        ({"batch": {"count": True}}, "batch:count is True"),
        ({"keys": {"a": {}}}, "does not say keys:a:uid"),
        ({"keys": {"a/b": {"uid": "A <a@b>"}}}, "use letters, digits"),
        ({"keys": {"a": {"uid": "A"}}}, "keys:a:uid is 'A': it must be who signs"),
        ({"keys": {"a": {"uid": "A <a@b>", "key_id": "12"}}}, "keys:a:key_id is '12'"),
        ({"keys": {name: {"uid": "A <a@b>"} for name in "ab"}}, "keys:a and keys:b have the same uid"),
        ({"keys": {"a": {"uid": "A <a@b>", "key_id": "01234567"}, "b": {"uid": "A <a@b>"}}}, "give b another uid"),
        ({"keys": {"a": {"uid": "A <a@b>", "type": "dsa1024"}}}, "keys:a:type is 'dsa1024'"),
        ({"keys": {"a": {"uid": "A <a@b>", "tags": "goose-1"}}}, "keys:a:tags is 'goose-1'"),
        ({"keys": {"a": {"uid": "A <a@b>", "state": "old"}}}, "one of active, retiring, retired"),
        ({"keys": {"a": {"uid": "A <a@b>", "passphrase_file": "x"}}}, "an absolute path"),
        ({"sigul": {"instance": {"other": "x"}}}, "sigul:instance"),
        ({"keys_dir": "keys"}, "keys_dir is 'keys': it must be an absolute path"),
    ],
)
def test_configuration_refused(place: Place, change: dict[str, Any], sentence: str) -> None:
    place.configure(**change)
    with pytest.raises(signing_config.SigningError, match="signing.json") as caught:
        signing_config.Config.read(place.top / "signing.json")
    assert sentence in str(caught.value) and caught.value.status == 2


def test_configuration_missing(tmp_path: Path) -> None:
    (tmp_path / "broken").write_text("{")
    for name, why in (("nosuch", "cannot be read"), ("broken", "is no JSON")):
        with pytest.raises(signing_config.SigningError, match=why):
            signing_config.Config.read(tmp_path / name)


def test_executable(root: Path) -> None:
    """It starts with the system's Python, without Koji's library, and explains itself."""
    for name in ("sigulsign_unsigned.py", "signing_key.py"):
        done = subprocess.run([root / "scripts" / name, "--help"], capture_output=True, text=True, check=True)
        assert "Exit status" in done.stdout
