"""Bringing a lab up: once, again, after a kill, and where it cannot be done."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from goose.lab import lab as labs
from goose.lab import record
from goose.lab.host import Host
from koji_client import Hub

if TYPE_CHECKING:
    from conftest import Command, Up

pytestmark = pytest.mark.usefixtures("counted")
ROOT = Path(__file__).resolve().parents[2]
SECOND = "second"


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`scripts/lab WORDS…`, whatever comes of it."""
    return subprocess.run(
        [str(ROOT / "scripts/lab"), *words],
        capture_output=True, text=True, check=False, timeout=600, env={**os.environ, **environment},
    )  # fmt: skip


def sentence(done: subprocess.CompletedProcess[str], *words: str, status: int = 2) -> None:
    """It ended as it should, with a sentence that has these words, and with no traceback."""
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    assert done.stderr.strip().splitlines()[-1].endswith("."), done.stderr


def machine() -> dict[str, Any]:
    """What a lab changes of the machine that it runs on."""
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
    mounts = Path("/proc/mounts").read_text().splitlines()
    return {
        "bridges": sorted(re.findall(r"^\d+: (goose\d+):", links, re.MULTILINE)),
        "rules": sorted(line for line in rules.splitlines() if "goose-lab" in line),
        "mounts": sorted(line.split()[1] for line in mounts if "/labs/" in line),
        "names": Path("/etc/hosts").read_text(),
        "labs": sorted(path.name for path in (record.directory() / "labs").iterdir()),
        "forwarding": Path("/proc/sys/net/ipv4/ip_forward").read_text(),
        "instances": Path("/proc/sys/fs/inotify/max_user_instances").read_text(),
    }


def command_lines() -> Iterator[str]:
    """The command line of every process of the machine, which may be too bare for `ps`."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_text(errors="replace")
        except OSError:
            continue  # it has ended


# What `up` and `status` say


def test_table(up: Up, command: Command, lab: labs.Lab) -> None:
    """The last screen says all that a user needs: hosts, addresses, roles, URLs, how to log in."""
    # A lab that was up before this run has said so to somebody else.
    output = up.output or command("up").stdout
    for host in lab.hosts:
        row = next(line for line in output.splitlines() if line.startswith(host.fqdn))
        assert row.split()[1:3] == [host.address, "ok"]
        assert row.split()[3:] == list(host.roles)
    for url in lab.services().values():
        assert url in output
    assert f"exec {lab.hosts[0].name} -- bash" in output
    assert re.search(r"^First package +goose-release-\S+, task ", output, re.MULTILINE)


def test_services_answer(lab: labs.Lab) -> None:
    """The URLs of the table are not only printed."""
    for service in ("koji-web", "koji-files"):
        assert lab.answers(f"{lab.services()[service]}/"), service


def test_first_package_is_in_the_tag(hub: Hub) -> None:
    assert any(build["package_name"] == "goose-release" for build in hub("listTagged", "goose-1"))


def test_status_json(command: Command, lab: labs.Lab) -> None:
    status = command.json("status")
    assert status.keys() >= {"name", "profile", "hosts", "services", "ca"}
    assert (status["name"], status["profile"]) == (lab.record.name, "full")
    assert Path(status["ca"]).read_text().startswith("-----BEGIN CERTIFICATE-----")
    assert status["services"] == lab.services()
    assert status["hosts"] == {
        host.name: {"address": host.address, "roles": list(host.roles), "healthy": True, "failed_units": []}
        for host in lab.hosts
    }


def test_status_tells_of_a_failed_unit(command: Command, lab: labs.Lab) -> None:
    """Health is asked of the host, so it can be bad."""
    host = lab.hosts[-1].name
    command.on(host, "systemd-run", "--quiet", "--wait", "--unit=lab-test-fails", "false", check=False)
    try:
        done = command("status", "--json", check=False)
        assert done.returncode == 1
        assert "lab-test-fails.service" in done.stdout
    finally:
        command.on(host, "systemctl", "reset-failed", "lab-test-fails.service")
    assert command("status", check=False).returncode == 0


# Nothing is left to do


def test_apply_changes_nothing(command: Command, lab: labs.Lab) -> None:
    outcomes = command.apply()
    assert outcomes.keys() == {host.name for host in lab.hosts}
    for name, outcome in outcomes.items():
        assert (outcome["changed"], outcome["failed"]) == (0, 0), name
        assert outcome["succeeded"] > 10, f"{name} was hardly looked at"


def test_a_test_agrees(command: Command, lab: labs.Lab) -> None:
    outcomes = command.apply("--test")
    assert outcomes.keys() == {host.name for host in lab.hosts}
    assert {(outcome["changed"], outcome["failed"]) for outcome in outcomes.values()} == {(0, 0)}


def test_apply_takes_names(command: Command) -> None:
    assert command.apply("builder2").keys() == {"builder2"}


def boots(lab: labs.Lab) -> dict[str, str]:
    return {host.name: host.run(["cat", "/proc/sys/kernel/random/boot_id"]).stdout for host in lab.hosts}


def test_second_up_does_nothing(command: Command, lab: labs.Lab, hub: Hub) -> None:
    """No host boots, nothing changes, nothing is built; and nobody has to wait for long."""
    leaders = {host.name: host.leader() for host in lab.hosts}
    newest = hub("listTasks", opts={"method": "build"}, queryOpts={"order": "-id", "limit": 1})
    before = machine()
    start = time.monotonic()
    done = command("up")
    seconds = time.monotonic() - start
    counts = re.findall(r"(\S+): \d+ succeeded, (\d+) changed, (\d+) failed", done.stderr)
    assert sorted(counts) == sorted((host.name, "0", "0") for host in lab.hosts)
    assert {host.name: host.leader() for host in lab.hosts} == leaders
    assert hub("listTasks", opts={"method": "build"}, queryOpts={"order": "-id", "limit": 1}) == newest
    assert machine() == before
    assert seconds < 120, "a second `up` takes as long as making hosts does"


# Refused, with a sentence, before anything is changed


@pytest.mark.parametrize("name", ["Goose", "../goose", "-x", "a" * 17, "goose_1", ""])
def test_name_that_is_none(name: str) -> None:
    sentence(run(f"--name={name}", "status"), "is no name for a lab")


@pytest.mark.usefixtures("up")
def test_unknown_host(command: Command) -> None:
    sentence(command("exec", "hub2", "--", "true", check=False), "has no host 'hub2'", "salt, hub, builder1, builder2")
    sentence(command("apply", "hub2", check=False), "has no host 'hub2'")


def test_unknown_lab() -> None:
    for words in (["status"], ["apply"], ["exec", "hub", "--", "true"], ["rebuild"], ["client", "/nowhere"], ["down"]):
        sentence(run("--name=nobody", *words), "There is no lab 'nobody'", "up` makes it")


def test_destroying_no_lab_is_no_error() -> None:
    assert run("--name=nobody", "destroy").returncode == 0


def test_other_profile(command: Command) -> None:
    before = machine()
    sentence(command("up", "--profile", "single", check=False), "has the profile full", "destroy` first")
    assert machine() == before


def test_exit_status_of_exec(command: Command) -> None:
    assert command("exec", "builder1", "--", "sh", "-c", "exit 42", check=False).returncode == 42


@pytest.mark.usefixtures("up")
def test_too_little_disk(tmp_path: Path) -> None:
    """A small disk is refused before it is full."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "lab-test", str(tmp_path)], check=True)
    before = machine()
    try:
        done = run("--name=small", "up", GOOSE_LAB_DIR=str(tmp_path))
        left = [path for path in tmp_path.rglob("*") if path.is_dir()]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    sentence(done, "0.1 GiB free", "GOOSE_LAB_DIR")
    assert left == []
    assert machine() == before


def test_one_command_at_a_time(command: Command, lab: labs.Lab) -> None:
    with record.locked(lab.record.name):
        sentence(command("apply", check=False), "Another command is changing the lab", status=75)


# Wrong data, refused by the states before anything is changed


@contextmanager
def site_pillar(lab: labs.Lab, name: str, text: str) -> Iterator[None]:
    """A file of the lab's own pillar root, for as long as the test takes."""
    path = lab.record.root / "pillar" / name
    before = path.read_text()
    path.write_text(text)
    try:
        yield
    finally:
        path.write_text(before)


def refused(command: Command, hosts: Sequence[Host], *words: str) -> None:
    """A real apply fails on the hosts with a sentence, and no state has run on any."""
    done = command("apply", *(host.name for host in hosts), check=False)
    assert done.returncode == 5
    assert "Traceback" not in done.stderr
    for host in hosts:
        said = done.stderr.partition(f"{host.name}: FAILED ")[2].partition("s] ")[0]
        assert f"{host.name}: 0 succeeded, 0 changed" in done.stderr, done.stderr
        for word in words:
            assert word in said, f"{host.name} says: {said}"


def own(lab: labs.Lab, name: str) -> Any:
    return yaml.safe_load((lab.record.root / "pillar" / name).read_text())


def test_missing_pillar_value(command: Command, lab: labs.Lab) -> None:
    site = own(lab, "site.yaml")
    del site["name"]
    with site_pillar(lab, "site.yaml", yaml.safe_dump(site)):
        refused(command, lab.hosts, "'site:name' is missing", "set it to")


def test_name_that_is_no_host_name(command: Command, lab: labs.Lab) -> None:
    hosts = own(lab, "hosts.yaml")
    hosts["bad_name!.goose.test"] = {"address": "192.0.2.7", "roles": ["koji.builder"]}
    with site_pillar(lab, "hosts.yaml", yaml.safe_dump(hosts)):
        refused(command, lab.hosts[:1], "bad_name!.goose.test", "no full host name")


def test_unknown_role(command: Command, lab: labs.Lab) -> None:
    hosts = own(lab, "hosts.yaml")
    for host in hosts.values():
        host["roles"].append("koji.bilder")
    with site_pillar(lab, "hosts.yaml", yaml.safe_dump(hosts)):
        refused(command, lab.hosts[:1], "koji.bilder", "choose from")


def test_unknown_system(command: Command, lab: labs.Lab) -> None:
    """As a host of another system would see it: its grains are in the minion's configuration."""
    host = lab.need_role("salt.master").name
    script = """
        set -e
        rm -rf /run/lab-test && mkdir /run/lab-test && cp -r /etc/salt/minion.d /run/lab-test/
        printf '%s\\n' 'grains: {os_family: Suse, osmajorrelease: 15, osfinger: SLES-15}' >/run/lab-test/minion.d/zz.conf
        touch /run/lab-test/minion
        find /etc /usr/local -newer /run/lab-test/minion -type f | wc -l
        salt-call --config-dir=/run/lab-test --local --out=json state.apply || :
        find /etc /usr/local -newer /run/lab-test/minion -type f | wc -l
        rm -rf /run/lab-test
    """
    said = command.on(host, "sh", "-c", script)
    assert "which this project does not know" in said
    assert "SLES-15 (Suse-15)" in said
    assert "Debian-12" in said
    assert said.split()[0] == said.split()[-1] == "0", "files were changed"


# A second lab, and one that was killed


class Starting:
    """`up` of a second lab, which the test kills in the end."""

    def __init__(self, log: Path) -> None:
        self.log = log
        with log.open("w") as stream:
            self.process = subprocess.Popen(
                [str(ROOT / "scripts/lab"), f"--name={SECOND}", "up"],
                stdout=subprocess.DEVNULL, stderr=stream, start_new_session=True,
            )  # fmt: skip

    def kill_at(self, ready: str, seconds: float = 90) -> str:
        """Kill it, as a crash does, once its progress or a file tells of ``ready``."""
        deadline = time.monotonic() + seconds
        while ready not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=10)
        return self.log.read_text()


def test_second_lab_and_killed_up(lab: labs.Lab, tmp_path: Path) -> None:
    """Killed while its hosts boot, `up` goes on from there; destroyed, nothing of it is left, and the first lab stands."""
    run(f"--name={SECOND}", "destroy")
    before = machine()
    first = {host.name: host.leader() for host in lab.hosts}
    try:
        Starting(tmp_path / "one").kill_at(" is up at ")
        second = labs.Lab(record.existing(SECOND), lab.progress)
        assert second.record.subnet != lab.record.subnet
        assert second.record.bridge != lab.record.bridge

        again = Starting(tmp_path / "two").kill_at("applying the highstate")
        assert all(host.leader() for host in second.hosts), again
        assert not {host.address for host in second.hosts} & {host.address for host in lab.hosts}
        # Names and networks do not meet: each lab's `hub` is its own.
        assert second.host("hub").run(["cat", "/etc/hostname"]).stdout.strip() == f"hub.{SECOND}.test"
        assert lab.host("hub").run(["cat", "/etc/hostname"]).stdout.strip() == f"hub.{lab.record.name}.test"
        assert {host.name: host.leader() for host in lab.hosts} == first
        # Without its systemd-nspawn a host may run on, and is gone with the others all the same.
        orphan = second.host("salt").leader()
        assert orphan
        os.kill(int((second.host("salt").directory / "pid").read_text()), signal.SIGKILL)
    finally:
        done = run(f"--name={SECOND}", "destroy")
    assert done.returncode == 0, done.stderr
    assert machine() == before
    assert {host.name: host.leader() for host in lab.hosts} == first
    # Asked of the machine: what told of the processes is gone with the lab. One that has ended, and waits for init
    # to take note of it, has a number and no root.
    assert not Path(f"/proc/{orphan}/root/").exists()
    assert not [line for line in command_lines() if f"--machine={SECOND}-" in line]
