"""The parts of scripts/lab that need no host: what they read, choose, write and refuse."""

from __future__ import annotations

import argparse
import errno
import json
import shutil
import subprocess
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from goose.lab import cli, converge, lab, machine, network, record, run, seed, testing
from goose.lab.run import LabError

STATE = {"__id__": "one", "name": "/etc/one", "result": True, "changes": {}, "comment": "", "__run_num__": 0}


def state(**fields: Any) -> dict[str, Any]:
    return {**STATE, **fields}


@pytest.fixture(autouse=True)
def lab_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees this machine's own labs."""
    monkeypatch.setenv("GOOSE_LAB_DIR", str(tmp_path / "labs-of-a-test"))
    return tmp_path / "labs-of-a-test"


def done(stdout: str = "", status: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess([], status, stdout, "")


def a_lab(name: str = "goose", subnet: int = 10) -> lab.Lab:
    hosts = {"salt": ["salt.master", "pki.ca"], "hub": ["koji.hub", "koji.web"], "builder1": ["koji.builder"]}
    return lab.Lab(record.Record(name, "full", subnet, hosts), run.Progress())


# What Salt returned


def test_read_counts() -> None:
    returned = {
        "file_|-a": state(__id__="a", changes={"diff": "x"}, comment="updated", __run_num__=1),
        "file_|-b": state(__id__="b", __run_num__=0),
        "file_|-c": state(__id__="c", result=False, comment="no such user", __run_num__=2),
    }
    outcome = converge.read(returned, 3.14, test=False)
    assert outcome.as_dict() == {"succeeded": 2, "changed": 1, "failed": 1, "seconds": 3.1}
    assert outcome.failures == ("c (/etc/one): no such user",)
    assert outcome.changes == ("a (/etc/one): updated",)


def test_read_in_test_mode() -> None:
    """`watch` and module.run give None without changes: that is a change too, but not outside of test mode."""
    returned = {"x": state(result=None)}
    assert converge.read(returned, 0, test=True).changed == 1
    assert converge.read(returned, 0, test=False).changed == 0
    assert converge.read({"x": state(result=None, changes={"new": 1})}, 0, test=True).changed == 1


def test_read_orders_by_run() -> None:
    """A failure that follows from another comes after it."""
    late, early = state(__id__="late", result=False, __run_num__=9), state(__id__="early", result=False, __run_num__=2)
    failures = converge.read({"a": late, "b": early}, 0, test=False).failures
    assert [line.split()[0] for line in failures] == ["early", "late"]


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (["Rendering SLS failed", "and why"], ("Rendering SLS failed", "and why")),
        (["Jinja error: why.\nx.sls(7):\nTraceback (most recent call last):\n  File …"], ("Jinja error: why.\nx.sls(7):",)),
        ("Minion did not return", ("Minion did not return",)),
        (False, ("False",)),
    ],
)
def test_read_what_is_no_result(returned: Any, said: tuple[str, ...]) -> None:
    """In place of states: an error of compilation, a minion that is down. Neither is a success."""
    outcome = converge.read(returned, 1, test=False)
    assert outcome.failed == 1 and outcome.succeeded == 0
    assert outcome.failures == said


def test_a_fault_of_salts_own_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the run that fell had changed is told with what the next one did; a state that failed is no such fault."""
    fallen = {
        "a": state(__id__="a", changes={"diff": "x"}, comment="updated"),
        "b": state(__id__="b", result=False, comment="…\nRuntimeError: dictionary keys changed during iteration\n"),
    }
    whole = {"a": state(__id__="a"), "b": state(__id__="b", changes={"diff": "y"}, comment="made")}
    failed = {"a": state(__id__="a", result=False, comment="no such user")}
    returns = iter([[("m.lab.goose", fallen), ("n.lab.goose", failed)], [("m.lab.goose", whole)]])
    asked: list[str] = []

    def stream(_master: Any, command: Any) -> Any:
        asked.append(command[command.index("-L") + 1])
        return iter(next(returns))

    monkeypatch.setattr(converge, "_stream", stream)
    monkeypatch.setattr(converge, "_answering", lambda _master, ids: list(ids))
    monkeypatch.setattr(converge.time, "sleep", lambda _seconds: None)
    hosts: Any = [types.SimpleNamespace(name=name, fqdn=f"{name}.lab.goose", leader=lambda: 1) for name in "mn"]
    outcomes = converge.apply(hosts, hosts[0], run.Progress())
    assert asked == ["m.lab.goose,n.lab.goose", "m.lab.goose"]
    assert outcomes["m"].changes == ("a (/etc/one): updated", "b (/etc/one): made")
    assert (outcomes["m"].changed, outcomes["m"].failed, outcomes["n"].failed) == (2, 0, 1)


# Names and records


@pytest.mark.parametrize("name", ["goose", "a", "ci", "lab-2", "a234567890123456"])
def test_names(name: str) -> None:
    assert record.check_name(name) == name


@pytest.mark.parametrize("name", ["", "-x", "x-", "2x", "Goose", "a.b", "../x", "a/b", "a b", "a2345678901234567", "ü"])
def test_names_refused(name: str) -> None:
    """A name becomes a directory, an interface and a domain."""
    with pytest.raises(LabError, match="is no name for a lab: use a letter") as raised:
        record.check_name(name)
    assert raised.value.status == 2


def test_record_is_read_back() -> None:
    written = record.Record("goose", "full", 12, {"salt": ["pki.ca"]}, kernel={"/proc/sys/x": 0})
    written.save()
    assert record.load("goose") == written
    assert record.all_records() == [written]
    assert not list(written.root.glob("*.partial"))
    assert (written.domain, written.bridge, written.gateway) == ("goose.test", "goose12", "198.18.12.1")


def test_no_record() -> None:
    assert record.load("goose") is None
    with pytest.raises(LabError, match="scripts/lab --name other up") as raised:
        record.existing("other")
    assert raised.value.status == 2


def test_lock_is_held_once() -> None:
    with record.locked("goose"):
        with pytest.raises(LabError, match="Another command is changing the lab") as raised, record.locked("goose"):
            pass
        assert raised.value.status == 75
        with record.locked("other"):
            pass
    with record.locked("goose"):
        pass


def test_profile_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "free_subnet", lambda: 20)
    made = lab.create("goose", "single", run.Progress())
    assert made.record.hosts == lab.settings()["profiles"]["single"]
    assert lab.create("goose", "single", run.Progress()).record == made.record
    with pytest.raises(LabError, match="has the profile single: `scripts/lab --name goose destroy` first"):
        lab.create("goose", "full", run.Progress())


def test_profiles_are_whole() -> None:
    """Every lab has a CA and a hub, and every role is one that there is."""
    known = set(yaml.safe_load((lab.TREE / "common/roles.yaml").read_text()))
    for roles in lab.settings()["profiles"].values():
        given = [role for host in roles.values() for role in host]
        assert given.count("pki.ca") == given.count("koji.hub") == 1
        assert set(given) <= known


# Hosts


def test_addresses_and_names() -> None:
    first, second = a_lab(subnet=11).hosts[:2]
    assert (first.fqdn, first.address, first.machine) == ("salt.goose.test", "198.18.11.10", "goose-salt")
    assert second.address == "198.18.11.11"


def test_host_by_any_name() -> None:
    this = a_lab()
    assert this.host("hub") == this.host("hub.goose.test") == this.with_role("koji.web")
    with pytest.raises(LabError, match="has no host 'hb': its hosts are salt, hub, builder1") as raised:
        this.host("hb")
    assert raised.value.status == 2


def test_role_that_none_has() -> None:
    assert a_lab().with_role("koji.nfs") is None
    with pytest.raises(LabError, match="no host with the role koji.nfs"):
        a_lab().need_role("koji.nfs")


def test_services() -> None:
    assert a_lab().services()["koji-files"] == "https://hub.goose.test/kojifiles"
    assert lab.Lab(record.Record("x", "full", 1, {"salt": ["pki.ca"]}), run.Progress()).services() == {}


def test_host_is_off() -> None:
    """A number of a process that is another's by now is not the host's."""
    host = a_lab().hosts[0]
    assert host.leader() is None
    host.directory.mkdir(parents=True)
    (host.directory / "pid").write_text("1\n")
    assert host.leader() is None
    assert host.run(["true"], check=False).returncode != 0


# Network


def routes(*destinations: str) -> str:
    return json.dumps([{"dst": each} for each in destinations])


def test_subnet_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one that the machine routes, and not one of another lab, whether that is up or not."""
    record.Record("other", "full", 11).save()
    monkeypatch.setattr(network, "run", lambda *a, **k: done(routes("default", "198.18.10.0/24", "10.0.0.0/8")))
    assert network.free_subnet() == 12


def test_no_subnet_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    used = routes(*(f"198.18.{number}.0/24" for number in range(256)))
    monkeypatch.setattr(network, "run", lambda *a, **k: done(used))
    with pytest.raises(LabError, match="destroy a lab that nobody needs"):
        network.free_subnet()


class Machine:
    """Programs of the machine: keeps what was run, and which rules there are."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.rules: list[str] = []

    def run(self, command: Sequence[str], **_: Any) -> subprocess.CompletedProcess[str]:
        words = list(command)
        self.commands.append(words)
        if words[0] == "iptables":
            action, rule = words[4], " ".join([words[3], *words[5:]])
            if action == "-I":
                self.rules.append(rule)
            elif rule not in self.rules:
                return done(status=1)
            elif action == "-D":
                self.rules.remove(rule)
        return done("[]" if "-json" in words else "")


@pytest.fixture
def this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine()
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n")
    monkeypatch.setattr(network, "run", found.run)
    monkeypatch.setattr(network, "_HOSTS", tmp_path / "hosts")
    return found


def test_network_comes_and_goes(this_machine: Machine, tmp_path: Path) -> None:
    """`down` leaves the machine as `up` found it, and `up` twice is `up` once."""
    goose = record.Record("goose", "full", 10)
    goose.save()
    for _ in range(2):
        network.up(goose, {"hub.goose.test": "198.18.10.11"})
    assert len(this_machine.rules) == 3
    assert all("goose-lab goose" in rule for rule in this_machine.rules)
    assert any("MASQUERADE" in rule and "-s 198.18.10.0/24 ! -d 198.18.10.0/24" in rule for rule in this_machine.rules)
    text = (tmp_path / "hosts").read_text()
    assert text.splitlines() == [
        "127.0.0.1 localhost", "# lab goose: begin", "198.18.10.11 hub.goose.test", "# lab goose: end",
    ]  # fmt: skip
    network.down(goose)
    assert this_machine.rules == []
    assert (tmp_path / "hosts").read_text() == "127.0.0.1 localhost\n"


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Two settings of the kernel, one of which is as it must be."""
    found = {"forward": tmp_path / "forward", "instances": tmp_path / "instances"}
    for path, value in zip(found.values(), (0, 4096)):
        path.write_text(f"{value}\n")
    monkeypatch.setattr(machine, "_FORWARDING", str(found["forward"]))
    monkeypatch.setattr(machine, "_KERNEL", {str(found["forward"]): 1, str(found["instances"]): 1024})
    return found


def test_the_last_lab_sets_the_kernel_back(kernel: dict[str, Path]) -> None:
    one, two = record.Record("one", "full", 10), record.Record("two", "full", 11)
    for each in (one, two, one):
        each.save()
        machine.allow(each)
    assert [path.read_text() for path in kernel.values()] == ["1\n", "4096\n"]
    assert (one.kernel, two.kernel) == ({str(kernel["forward"]): 0}, {})
    machine.withdraw(record.existing("one"))
    (one.root / "record.json").unlink()
    assert kernel["forward"].read_text() == "1\n"
    machine.withdraw(record.existing("two"))
    assert [path.read_text() for path in kernel.values()] == ["0\n", "4096\n"]


def test_a_kernel_that_lets_nothing_be_set(kernel: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container: what one host can live without stays, and without the other there is no lab."""
    kernel["instances"].write_text("128\n")

    def refuse(path: Path, text: str) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    one = record.Record("one", "full", 10)
    kernel["forward"].write_text("1\n")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", refuse)
        patched.setattr(record.Record, "save", lambda self: None)
        machine.allow(one)
    kernel["forward"].write_text("0\n")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", refuse)
        patched.setattr(record.Record, "save", lambda self: None)
        with pytest.raises(LabError, match="forward cannot be set to 1: Read-only file system"):
            machine.allow(one)


def test_record_of_an_older_revision(kernel: dict[str, Path]) -> None:
    one = record.Record("one", "full", 10)
    one.save()
    path = one.root / "record.json"
    data = json.loads(path.read_text())
    del data["kernel"]
    path.write_text(json.dumps({**data, "forwarding_was_off": True}))
    assert record.existing("one").kernel == {"/proc/sys/net/ipv4/ip_forward": 0}
    path.write_text(json.dumps({**data, "forwarding_was_off": False}))
    assert record.existing("one").kernel == {}


def test_a_second_up_changes_no_names(this_machine: Machine, tmp_path: Path) -> None:
    """Not even their order, where another lab has come since."""
    one, two = record.Record("one", "full", 10), record.Record("two", "full", 11)
    for each in (one, two):
        network.up(each, {f"hub.{each.domain}": f"198.18.{each.subnet}.11"})
    before = (tmp_path / "hosts").read_text()
    network.up(one, {"hub.one.test": "198.18.10.11"})
    assert (tmp_path / "hosts").read_text() == before


def test_two_labs_do_not_meet(this_machine: Machine, tmp_path: Path) -> None:
    """Each takes away its own alone."""
    one, two = record.Record("one", "full", 10), record.Record("two", "full", 11)
    for each in (one, two):
        each.save()
        network.up(each, {f"hub.{each.domain}": f"198.18.{each.subnet}.11"})
    network.down(one)
    assert "hub.two.test" in (tmp_path / "hosts").read_text() and "one" not in (tmp_path / "hosts").read_text()
    assert len(this_machine.rules) == 3 and all("goose-lab two" in rule for rule in this_machine.rules)


# The machine's settings, taken over by the hosts


def test_apt_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian's own of this suite, its updates too; not a third party's, not another suite's."""
    listing = [
        "http://mirror.example/debian|bookworm|main|Debian",
        "http://mirror.example/debian|bookworm|main|Debian",
        "http://mirror.example/debian|bookworm|contrib|Debian",
        "http://mirror.example/security|bookworm-security|main|Debian",
        "http://other.example/x|bookworm|main|Other",
        "http://mirror.example/debian|trixie|main|Debian",
    ]
    monkeypatch.setattr(machine, "run", lambda *a, **k: done("\n".join(listing) + "\n"))
    stanzas = machine.apt_sources("bookworm").split("\n\n")
    assert len(stanzas) == 2
    assert "URIs: http://mirror.example/debian\nSuites: bookworm\nComponents: main contrib\n" in stanzas[0]
    assert "Suites: bookworm-security" in stanzas[1]


def test_apt_without_the_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "run", lambda *a, **k: done("http://mirror.example/debian|trixie|main|Debian\n"))
    with pytest.raises(LabError, match="no repository of Debian bookworm.*add one") as raised:
        machine.apt_sources("bookworm")
    assert raised.value.status == 2


def test_apt_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where packages come from is taken over, how apt works on this machine is not."""
    dump = 'APT::Install-Recommends "false";\nAcquire::http::Proxy "http://p:1";\nAcquire::https::Verify-Peer "true";\n'
    monkeypatch.setattr(machine, "run", lambda *a, **k: done(dump + 'Acquire::Languages "none";\n'))
    assert machine.apt_settings().splitlines() == dump.splitlines()[1:]


@pytest.fixture
def no_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for key in ("INDEX_URL", "EXTRA_INDEX_URL", "TRUSTED_HOST", "PROXY", "TIMEOUT", "RETRIES"):
        monkeypatch.delenv(f"PIP_{key}", raising=False)
    monkeypatch.setattr(machine.Path, "home", lambda: tmp_path)
    (tmp_path / ".pip").mkdir()
    return tmp_path / ".pip/pip.conf"


def test_pip_settings(no_pip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment wins; what names files of this machine stays here."""
    no_pip.write_text(
        "[global]\nindex-url = https://file.example/simple\ncert = /etc/ssl/own.pem\nno-index = 1\n"
        "extra-index-url = file:///srv/wheels https://more.example/simple\n[install]\nproxy = http://no:1\n"
    )
    monkeypatch.setenv("PIP_INDEX_URL", "https://environment.example/simple")
    monkeypatch.setenv("PIP_TRUSTED_HOST", "environment.example")
    settings = machine.pip_settings()
    assert "index-url = https://environment.example/simple\n" in settings
    assert "extra-index-url = https://more.example/simple\n" in settings
    assert "trusted-host = environment.example\n" in settings
    assert "own.pem" not in settings and "no-index" not in settings and "file:" not in settings


def test_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tmp_path / "bundle.crt"
    one = "-----BEGIN CERTIFICATE-----\nAAA\n-----END CERTIFICATE-----\n"
    bundle.write_text(f"# a comment\n{one}junk\n{one.replace('AAA', 'BBB')}")
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    assert machine.certificates() == [one, one.replace("AAA", "BBB")]


# A machine that cannot carry a lab


NEEDS = {"disk_gib": 12, "memory_gib": 4}


@pytest.fixture
def fit(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine that can, whatever runs the tests."""
    monkeypatch.setattr(machine.os, "geteuid", lambda: 0)
    monkeypatch.setattr(machine.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: argparse.Namespace(free=50 * 2**30))
    monkeypatch.setattr(machine.os, "sysconf", lambda name: 8 * 2**30 if name == "SC_PHYS_PAGES" else 1)
    return monkeypatch


def test_fit_machine(fit: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine.require(NEEDS, tmp_path / "not/made/yet")
    assert not (tmp_path / "not").exists(), "nothing is made before the machine is known to do"


@pytest.mark.parametrize(
    ("part", "name", "stand_in", "words"),
    [
        ("os", "geteuid", lambda: 1000, "run it as root"),
        ("shutil", "which", lambda name: None, "runs on Debian 12 on x86_64, and this is .* on x86_64"),
        ("platform", "machine", lambda: "aarch64", "on aarch64: use such a machine"),
        ("shutil", "disk_usage", lambda path: argparse.Namespace(free=3 * 2**30), "3.0 GiB free .* 12: make room"),
        ("os", "sysconf", lambda name: 2**30 if name == "SC_PHYS_PAGES" else 1, "1.0 GiB of memory .* needs 4"),
    ],
)
def test_unfit_machine(
    fit: pytest.MonkeyPatch, tmp_path: Path, part: str, name: str, stand_in: Any, words: str
) -> None:
    fit.setattr(getattr(machine, part), name, stand_in)
    with pytest.raises(LabError, match=words) as raised:
        machine.require(NEEDS, tmp_path)
    assert raised.value.status == 2


# Running programs


def test_run_names_what_failed(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"Making tea failed \(exit status 3\):\nno water"):
        run.run(["sh", "-c", "echo no water >&2; exit 3"], what="Making tea")
    with pytest.raises(LabError, match="the program no-such-program is not installed"):
        run.run(["no-such-program"], what="Making tea")
    with pytest.raises(LabError, match=f"all of it: {tmp_path}/log"):
        run.run(["sh", "-c", "exit 1"], what="Making tea", log=tmp_path / "log")
    assert run.run(["sh", "-c", "cat; exit 1"], what="x", stdin="in", check=False).stdout == "in"


def test_wait_for_gives_up() -> None:
    answers = iter([False, False, True])
    run.wait_for(lambda: next(answers), what="it", seconds=5, pause=0)
    with pytest.raises(LabError, match="Waited 0 s in vain for the kettle"):
        run.wait_for(lambda: False, what="the kettle", seconds=0, pause=0)


# What a host is given


def test_pillar_of_the_lab() -> None:
    """The lab's own root holds its hosts and its domain, for root alone."""
    this = a_lab()
    seed.pillar(this.record, this.hosts, lab.TREE, {"koji": {"arches": ["x86_64"]}})
    root = this.record.root / "pillar"
    assert root.stat().st_mode & 0o777 == 0o700
    hosts = yaml.safe_load((root / "hosts.yaml").read_text())
    assert hosts["hub.goose.test"] == {"address": "198.18.10.11", "roles": ["koji.hub", "koji.web"]}
    assert yaml.safe_load((root / "site.yaml").read_text())["domain"] == "goose.test"
    assert yaml.safe_load((root / "local.sls").read_text()) == {"koji": {"arches": ["x86_64"]}}


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="ssh-keygen is not installed")
def test_packager_of_the_lab(tmp_path: Path) -> None:
    """The key is made once, and the SCM's pillar has its public half alone."""
    host: Any = types.SimpleNamespace(roles=("scm.client",), root=tmp_path, fqdn="salt.goose.test")
    pillar = seed.packager([host])
    (line,) = pillar["users"][seed.PACKAGER]
    assert line.startswith("ssh-ed25519 ")
    assert pillar["administrators"] == [seed.PACKAGER]
    assert (tmp_path / "root/.ssh/id_ed25519").stat().st_mode & 0o777 == 0o600
    assert seed.packager([host]) == pillar
    host.roles = ("scm",)
    assert seed.packager([host]) == {}


def test_pillar_over_goes_away() -> None:
    this = a_lab()
    root = this.record.root / "pillar"
    root.mkdir(parents=True)
    with testing.pillar_over(this.record, "pki.yaml", {"leaf_days": 3}):
        held = yaml.safe_load((root / "pki.yaml").read_text())
        own = yaml.safe_load((lab.TREE / "pillar/pki.yaml").read_text())
        assert held == {**own, "leaf_days": 3}
        with testing.pillar_over(this.record, "pki.yaml", {"crl_days": 1}):
            assert yaml.safe_load((root / "pki.yaml").read_text())["leaf_days"] == 3
        assert "crl_days: 1\n" not in (root / "pki.yaml").read_text()
    assert not (root / "pki.yaml").exists()


def test_pillar_over_what_a_killed_test_has_left() -> None:
    this = a_lab()
    root = this.record.root / "pillar"
    root.mkdir(parents=True)
    code = (
        "import os; from goose.lab import record, testing\n"
        "with testing.pillar_over(record.Record('goose', 'full', 10, {}), 'pki.yaml', {'leaf_days': 3}):\n"
        "    os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=lab.TREE / "scripts").returncode == 9
    assert yaml.safe_load((root / "pki.yaml").read_text())["leaf_days"] == 3
    with testing.pillar_over(this.record, "pki.yaml", {"crl_days": 1}):
        assert yaml.safe_load((root / "pki.yaml").read_text())["leaf_days"] != 3
    assert not (root / "pki.yaml").exists()


# Commands


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], []),
        (["hub"], ["--hosts=hub"]),
        (["hub", "builder1.goose.test", "hub.goose.test", "-q"], ["--hosts=hub,builder1", "-q"]),
        (["-k", "hub", "-x"], ["-k", "hub", "-x"]),
        (["salt", "-k", "hub or salt"], ["--hosts=salt", "-k", "hub or salt"]),
    ],
)
def test_tests_of_hosts(words: list[str], line: list[str]) -> None:
    """A host's name chooses it; everything else is pytest's, `-k hub` too."""
    program, path, name, *rest = testing.command(a_lab(), words)
    assert program.endswith("scripts/test") and path == "tests/testinfra" and name == "--lab=goose"
    assert rest == line


def test_words_of_test_are_not_ours() -> None:
    for words in (["-k", "x"], ["--help"], ["hub", "-x", "--durations=3"], []):
        assert cli._parser().parse_args(["test", *words]).words == words


def test_test_of_a_host_that_is_off() -> None:
    with pytest.raises(LabError, match="salt.goose.test is off: `scripts/lab --name goose up` boots it"):
        testing.run(a_lab(), [])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["--name", "Goose", "status"], "is no name for a lab"),
        (["status"], "There is no lab 'goose' on this machine"),
        (["test"], "There is no lab 'goose' on this machine"),
    ],
)
def test_usage(line: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(line) == 2
    assert words in capsys.readouterr().err


def test_destroy_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["destroy"]) == 0
    assert "nothing to do" in capsys.readouterr().err


def test_pillar_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is kept for the next `up`, and goes over the profile's, map by map."""
    monkeypatch.setattr(network, "free_subnet", lambda: 20)
    file = tmp_path / "own.yaml"
    file.write_text("koji: {volume: {path: /srv/koji}}\npackage_repos: {mine: {offers: [sigul]}}\n")
    lab.create("goose", "single", run.Progress(), lab.read_pillar(file))
    again = lab.create("goose", "single", run.Progress())
    repos = {"mine": {"offers": ["sigul"]}}
    assert again.record.pillar == {"koji": {"volume": {"path": "/srv/koji"}}, "package_repos": repos}
    under: dict[str, Any] = {"koji": {"volume": {"kind": "local", "path": "/mnt/koji"}, "arches": ["x86_64"]}}
    whole = seed.merged(under, again.record.pillar)
    assert whole["koji"] == {"volume": {"kind": "local", "path": "/srv/koji"}, "arches": ["x86_64"]}
    assert under["koji"]["volume"]["path"] == "/mnt/koji"
    file.write_text("{}\n")
    assert lab.create("goose", "single", run.Progress(), lab.read_pillar(file)).record.pillar == {}


@pytest.mark.parametrize("text", ["[1, 2]\n", "a: [\n", "day: 2026-01-01\n", "", None])
def test_pillar_that_is_none(tmp_path: Path, text: str | None) -> None:
    """Before anything is changed."""
    file = tmp_path / "own.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(LabError, match=f"The pillar file {file} (holds no map|cannot be used)") as raised:
        lab.read_pillar(file)
    assert raised.value.status == 2
