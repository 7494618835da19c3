"""The life of certificates: `_modules/goose_pki.py` and its states, with Salt's own x509 underneath."""

from __future__ import annotations

import datetime
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest
import salt.modules.x509_v2 as salt_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from salt.exceptions import CommandExecutionError

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime.datetime.now(datetime.timezone.utc)
HOSTS: dict[str, Any] = {"ca.goose.test": {}, "hub.goose.test": {}}


def load(path: str) -> Any:
    """A module of the tree, as Salt loads it."""
    spec = importlib.util.spec_from_file_location(path.replace("/", "_")[:-3], ROOT / path)
    assert spec and spec.loader
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Ca:
    """One of the project's CAs, as pki.ca makes it."""

    def __init__(self, directory: Path, number: int) -> None:
        self.directory = directory / str(number)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = name(f"GoOSe CA{f' {number}' if number > 1 else ''}")
        self.certificate = self.sign(self.name, self.key.public_key(), ca=True)
        (self.directory / "ca.crt").write_bytes(pem(self.certificate))
        (self.directory / "ca.key").write_bytes(
            self.key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    @property
    def id(self) -> str:
        return x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()).digest.hex()

    def sign(self, subject: x509.Name, public: Any, days: float = 9, ca: bool = False) -> x509.Certificate:
        own = self.key.public_key()
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - datetime.timedelta(days=100))
            .not_valid_after(NOW + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(own), critical=False)
            .sign(self.key, hashes.SHA256())
        )


def name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])


def pem(it: Any) -> bytes:
    text: bytes = it.public_bytes(serialization.Encoding.PEM)
    return text


class World:
    """A CA host with its files in a temporary directory, and what Salt gives its modules."""

    def __init__(self, directory: Path) -> None:
        self.ca_dir, self.dir = directory / "ca", directory / "pki"
        (self.ca_dir / "issued").mkdir(parents=True)
        self.dir.mkdir()
        self.module = load("_modules/goose_pki.py")
        self.states = load("_states/goose_pki.py")
        self.mine: dict[str, dict[str, str]] = {}
        self.applied: list[str] = []
        self.pki: dict[str, Any] = {
            "ca_dir": str(self.ca_dir),
            "dir": str(self.dir),
            "identities": {"koji.kojira": {"name": "kojira"}, "koji.content": {"name": "kojiadmin", "person": True}},
            "revoked": [],
            "user_days": 1,
        }
        pillar = {"pki": self.pki, "roles": ["pki.ca"], "hosts": HOSTS, "site": {"name": "GoOSe"}}
        opts = {"id": "ca.goose.test", "test": False, "fips_mode": False, "cachedir": str(self.dir)}
        salt: dict[str, Any] = {
            "mine.get": lambda tgt, fun, *_: self.mine.get(fun, {}),
            "mine.update": lambda: None,
            "saltutil.is_running": lambda fun: [],
            "state.apply": self.apply,
            "x509.create_crl": salt_x509.create_crl,
            "x509.read_certificate": salt_x509.read_certificate,
            **{f"goose_pki.{fun}": getattr(self.module, fun) for fun in dir(self.module) if not fun.startswith("_")},
        }
        salt_x509.__opts__ = opts
        salt_x509.__salt__ = salt
        for module in (self.module, self.states):
            module.__salt__, module.__opts__, module.__pillar__ = salt, opts, pillar
        self.opts, self.salt = opts, salt
        self.states.__states__ = {"file.managed": self.managed}

    def apply(self, states: str) -> dict[str, Any]:
        self.applied.append(states)
        return {"x": {"__id__": "x", "result": True, "changes": {"a": "b"}, "comment": "Done."}}

    def managed(self, name: str, contents: str, **_: Any) -> dict[str, Any]:
        path = Path(name)
        same = path.is_file() and path.read_text() == contents
        if not same and not self.opts["test"]:
            path.write_text(contents)
        changes = {} if same else {name: "written"}
        return {"name": name, "result": None if changes and self.opts["test"] else True, "changes": changes, "comment": ""}

    def issue(self, ca: Ca, common: str, days: float = 9) -> str:
        """A certificate in the name of ``common``; its serial number."""
        certificate = ca.sign(name(common), ec.generate_private_key(ec.SECP256R1()).public_key(), days)
        serial: str = self.module._serial(certificate.serial_number)
        (self.ca_dir / "issued" / f"{serial}.crt").write_bytes(pem(certificate))
        return serial

    def publish(self, *cas: Ca) -> None:
        (self.ca_dir / "trusted.crt").write_bytes(b"".join(pem(ca.certificate) for ca in cas))

    def say(self, host: str, trusted: list[Ca], leaf: Ca) -> None:
        held = {"trusted": [ca.id for ca in trusted], "lists": [ca.id for ca in trusted], "leaves": {"host.crt": leaf.id}}
        self.mine.setdefault("pki_held", {})[host] = json.dumps(held)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def first(world: World) -> Ca:
    ca = Ca(world.ca_dir, 1)
    (world.ca_dir / "current").symlink_to("1")
    world.publish(ca)
    return ca


def crl(world: World, ca: Ca, days: float = 9, remaining: float = 3) -> dict[str, Any]:
    done: dict[str, Any] = world.states.crl(
        f"{ca.directory}/crl.pem", f"{ca.directory}/ca.key", f"{ca.directory}/ca.crt", days, remaining
    )
    return done


def read_crl(ca: Ca) -> x509.CertificateRevocationList:
    return x509.load_pem_x509_crl((ca.directory / "crl.pem").read_bytes())


# Revoking


def test_a_person_is_revoked(world: World, first: Ca) -> None:
    """All that is still good, and nobody else's; it is kept, and pki.ca is applied."""
    serials = {world.issue(first, "alice"), world.issue(first, "alice")}
    world.issue(first, "alice", days=-1)
    other = world.issue(first, "bob")
    assert set(world.module.revoke("alice")["revoked"]) == serials
    assert world.applied == ["pki.ca"]
    rows = {row["serial_number"]: row["revoked"] for row in world.module.issued()}
    assert {serial for serial, gone in rows.items() if gone} == serials
    assert not rows[other]
    again = world.module.revoke("alice")
    assert again["revoked"] == [] and set(again["before"]) == serials


def test_a_serial_number_is_revoked(world: World, first: Ca) -> None:
    """As `issued` writes it, and as openssl does."""
    one, two = world.issue(first, "kojiadmin"), world.issue(first, "kojiadmin")
    assert world.module.revoke(one)["revoked"] == [one]
    assert world.module.revoke(two.replace(":", "").lower())["revoked"] == [two]


@pytest.mark.parametrize(
    ("who", "said"),
    [
        ("carol", "Nothing that this CA has signed .*'carol'"),
        ("kojira", "'kojira' is what a host or a service logs in with"),
        ("kojiadmin", "'kojiadmin' is what a host or a service logs in with"),
        ("hub.goose.test", "is what a host or a service logs in with"),
        ("00:11", "Nothing that this CA has signed"),
    ],
)
def test_who_is_not_revoked(world: World, first: Ca, who: str, said: str) -> None:
    """A wrong name, or one that would take a service away: a sentence, and nothing is done."""
    for common in ("kojira", "kojiadmin", "hub.goose.test"):
        world.issue(first, common)
    with pytest.raises(CommandExecutionError, match=said):
        world.module.revoke(who)
    assert not (world.ca_dir / "revoked.json").exists() and not world.applied


def test_only_on_the_ca_host(world: World) -> None:
    """Elsewhere it says where to go."""
    world.module.__pillar__["roles"] = []
    with pytest.raises(CommandExecutionError, match="ca.goose.test is not the CA host"):
        world.module.revoke("alice")


def test_a_damaged_list_is_not_forgotten(world: World, first: Ca) -> None:
    """An empty list in its place would let everybody in again."""
    (world.ca_dir / "revoked.json").write_text("[{")
    with pytest.raises(CommandExecutionError, match="revoked.json is damaged"):
        crl(world, first)


def test_revocation_list(world: World, first: Ca) -> None:
    """It has pillar's and the CA host's own, numbers go up, and it is issued again only where it must be."""
    assert crl(world, first)["changes"] and not list(read_crl(first))
    assert not crl(world, first)["changes"]
    of_pillar, own = world.issue(first, "eve"), world.issue(first, "alice")
    world.pki["revoked"] = [{"serial_number": of_pillar, "revocation_date": "2026-11-23 12:00:00"}]
    world.module.revoke("alice")
    world.opts["test"] = True
    assert crl(world, first)["result"] is None and not list(read_crl(first))
    world.opts["test"] = False
    done = crl(world, first)
    assert done["changes"] and f"{own} is revoked" in done["comment"]
    assert {world.module._serial(entry.serial_number) for entry in read_crl(first)} == {of_pillar, own}
    assert read_crl(first).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 2
    assert not crl(world, first)["changes"]
    assert {row["name"] for row in world.module.revoked()} == {"eve", "alice"}


def test_revocation_list_in_time(world: World, first: Ca) -> None:
    """Apache and PostgreSQL refuse all when it is too old."""
    crl(world, first, days=2)
    assert not crl(world, first, days=2, remaining=1)["changes"]
    assert "ends soon" in crl(world, first, days=9, remaining=3)["comment"]
    (first.directory / "crl.pem").write_text("rubbish")
    assert "cannot be read" in crl(world, first)["comment"]
    assert not crl(world, first)["changes"]


# The CA is replaced


def test_steps(world: World, first: Ca) -> None:
    """old, both, both with the new one signing, new: each only when all hosts are that far."""
    lacks = world.module.step_lacks
    world.issue(first, "hub.goose.test")
    world.issue(first, "ca.goose.test")
    assert lacks(1, [1]) == [] and lacks(1, [1, 2]) == []
    assert "no host knows it" in lacks(2, [1, 2])[0], "before it was made"
    second = Ca(world.ca_dir, 2)
    assert "no host knows it" in lacks(2, [1, 2])[0], "before it was published"
    world.publish(first, second)
    assert ["hub.goose.test has not said" in line for line in lacks(2, [1, 2])] == [False, True]
    world.say("ca.goose.test", [first, second], first)
    world.say("hub.goose.test", [first], first)
    assert lacks(2, [1, 2]) == [
        "CA 2 cannot sign yet, because hub.goose.test does not trust it: run goose_pki.renew there."
    ]
    world.say("hub.goose.test", [first, second], first)
    assert lacks(2, [1, 2]) == []
    assert lacks(2, [2]), "two steps at once"
    os.unlink(world.ca_dir / "current")
    (world.ca_dir / "current").symlink_to("2")
    assert [line for line in lacks(2, [2]) if "hub.goose.test has host.crt" in line]
    world.say("hub.goose.test", [first, second], second)
    world.say("ca.goose.test", [first, second], second)
    assert lacks(2, [2]) == []


def test_a_person_holds_up_the_last_step(world: World, first: Ca) -> None:
    """Whoever has only the old CA's certificate would be locked out: named, until it is replaced or revoked."""
    second = Ca(world.ca_dir, 2)
    world.publish(first, second)
    for host in HOSTS:
        world.say(host, [first, second], second)
    os.unlink(world.ca_dir / "current")
    (world.ca_dir / "current").symlink_to("2")
    world.issue(first, "alice")
    world.issue(first, "bob")
    world.issue(first, "old", days=-1)
    assert [line.split("because ")[1].split()[0] for line in world.module.step_lacks(2, [2])] == ["alice", "bob"]
    world.module.revoke("alice")
    world.issue(second, "bob")
    assert world.module.step_lacks(2, [2]) == []


def test_refused_step_changes_nothing(world: World, first: Ca) -> None:
    """What the states say, with the way out."""
    done = world.states.stepped("x", 2, [1, 2])
    assert done["result"] is False and "Nothing was changed" in done["comment"]
    assert world.states.stepped("x", 1, [1])["result"] is True


def test_layout(world: World) -> None:
    """A CA that was made before there were several keeps its key, and moves once."""
    ca = Ca(world.ca_dir, 1)
    for file in ("ca.key", "ca.crt"):
        (world.ca_dir / "1" / file).rename(world.ca_dir / file)
    before = (world.ca_dir / "ca.key").read_bytes()
    world.opts["test"] = True
    assert world.states.laid_out(str(world.ca_dir))["result"] is None
    world.opts["test"] = False
    assert world.states.laid_out(str(world.ca_dir))["changes"]
    assert (world.ca_dir / "current/ca.key").read_bytes() == before
    assert ca.certificate == x509.load_pem_x509_certificate((world.ca_dir / "1/ca.crt").read_bytes())
    assert not world.states.laid_out(str(world.ca_dir))["changes"]


def test_the_one_that_signs(world: World, first: Ca) -> None:
    """A link that is changed in one step."""
    link = str(world.ca_dir / "current")
    assert not world.states.signing(link, 1)["changes"]
    world.opts["test"] = True
    assert world.states.signing(link, 2)["result"] is None and os.readlink(link) == "1"
    world.opts["test"] = False
    assert world.states.signing(link, 2)["changes"] and os.readlink(link) == "2"


# The hosts


@pytest.fixture
def host(world: World, first: Ca) -> World:
    """The CA host as any other: it trusts the first CA, and has a certificate."""
    (world.dir / "ca.crt").write_bytes(pem(first.certificate))
    crl(world, first)
    (world.dir / "crl.pem").write_bytes((first.directory / "crl.pem").read_bytes())
    leaf = first.sign(name("ca.goose.test"), ec.generate_private_key(ec.SECP256R1()).public_key())
    (world.dir / "host.crt").write_bytes(pem(leaf))
    return world


def test_held(host: World, first: Ca) -> None:
    """What the steps go by."""
    assert host.module.held() == {
        "trusted": [first.id], "lists": [first.id], "leaves": {f"{host.dir}/host.crt": first.id},
    }  # fmt: skip


def test_certificates(host: World, first: Ca) -> None:
    """Each file with what it is, and what is wrong with it."""
    rows = {Path(row["path"]).name: row for row in host.module.certificates()}
    assert {key: row["kind"] for key, row in rows.items()} == {"ca.crt": "ca", "crl.pem": "list", "host.crt": "leaf"}
    assert rows["host.crt"]["problems"] == [] and 8.9 < rows["host.crt"]["days"] < 9.1
    serial = host.module._normal(rows["host.crt"]["serial_number"])
    host.pki["revoked"] = [{"serial_number": serial, "revocation_date": "2026-11-23 12:00:00"}]
    crl(host, first)
    (host.dir / "crl.pem").write_bytes((first.directory / "crl.pem").read_bytes())
    rows = {Path(row["path"]).name: row for row in host.module.certificates()}
    assert rows["host.crt"]["problems"] == ["it is revoked"]
    (host.dir / "ca.crt").write_bytes(pem(Ca(host.ca_dir, 2).certificate))
    rows = {Path(row["path"]).name: row for row in host.module.certificates()}
    assert rows["host.crt"]["problems"][0] == "no CA that this host trusts has signed it"


def anchored(world: World, directory: Path) -> dict[str, Any]:
    """The state, with a system's store that is a file of all anchors."""
    bundle = directory / "bundle"

    def command(_: str, **__: Any) -> dict[str, Any]:
        bundle.write_text("".join(path.read_text() for path in sorted((directory / "anchors").iterdir())))
        world.applied.append(bundle.read_text())
        return {"retcode": 0, "stdout": "", "stderr": ""}

    world.salt["cmd.run_all"] = command
    done: dict[str, Any] = world.states.anchored(
        str(directory / "anchors"), "goose-ca", str(world.dir / "ca.crt"), str(bundle), "make"
    )
    return done


def test_anchors(host: World, first: Ca, tmp_path: Path) -> None:
    """One file a CA; while one takes the place of another both are trusted at any moment."""
    (tmp_path / "anchors").mkdir()
    (tmp_path / "anchors/other.crt").write_text("another's")
    second = Ca(host.ca_dir, 2)
    assert anchored(host, tmp_path)["changes"] and not anchored(host, tmp_path)["changes"]
    (host.dir / "ca.crt").write_bytes(pem(first.certificate) + pem(second.certificate))
    assert anchored(host, tmp_path)["changes"] and not anchored(host, tmp_path)["changes"]
    names = {path.name for path in (tmp_path / "anchors").iterdir()}
    assert names == {"goose-ca.crt", "goose-ca-2.crt", "other.crt"}
    (host.dir / "ca.crt").write_bytes(pem(second.certificate))
    assert anchored(host, tmp_path)["changes"] and not anchored(host, tmp_path)["changes"]
    assert {path.name for path in (tmp_path / "anchors").iterdir()} == {"goose-ca-2.crt", "other.crt"}
    assert pem(first.certificate).decode() not in (tmp_path / "bundle").read_text()
    (tmp_path / "bundle").write_text("")
    assert anchored(host, tmp_path)["changes"], "the bundle that programs read was damaged"


def test_report_comes_to_the_mine(host: World) -> None:
    """What the CA host goes by is sent when it differs."""
    path = str(host.dir / "held.json")
    assert host.states.reported(path)["changes"]
    host.mine["pki_held"] = {"ca.goose.test": Path(path).read_text()}
    assert not host.states.reported(path)["changes"]


def test_renew_waits_and_fails_loudly(world: World) -> None:
    """Another state run is awaited; a state that failed is a failed unit, with its sentence."""
    busy = [["1"], [], []]
    world.salt["saltutil.is_running"] = lambda fun: busy.pop(0)
    good = {"x": {"result": True, "comment": "", "changes": {}}}
    answers: list[Any] = [["The function state.apply is running as PID 7"], good]
    world.salt["state.apply"] = lambda states: answers.pop(0)
    assert world.module.renew() == []
    assert not busy and not answers
    world.salt["saltutil.is_running"] = lambda fun: []
    world.salt["state.apply"] = lambda states: {"x": {"__id__": "y", "result": False, "comment": "No."}}
    with pytest.raises(CommandExecutionError, match="y: No."):
        world.module.renew()
    world.salt["saltutil.is_running"] = lambda fun: ["1"]
    with pytest.raises(CommandExecutionError, match="pki.renew was not applied"):
        world.module.renew(timeout=0)


def test_one_renewal_at_a_time(world: World) -> None:
    """The timer's and a person's: Salt itself does not count them as runs of states."""
    beside: list[str] = []

    def apply(states: str) -> dict[str, Any]:
        with pytest.raises(CommandExecutionError, match="pki.renew was not applied") as caught:
            world.module.renew(timeout=0)
        beside.append(str(caught.value))
        return {}

    world.salt["state.apply"] = apply
    assert world.module.renew() == []
    assert len(beside) == 1
    world.salt["state.apply"] = world.apply
    assert world.module.renew() == ["x: Done."]
