"""Builders come, go and die under a full queue, and no build is lost; housekeeping leaves what is tagged."""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from goose.lab import lab as labs
from goose.lab.host import Host
from koji_client import TASK_STATES, Hub, wait_for

if TYPE_CHECKING:
    from conftest import Command

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = "/srv/salt/scripts/koji_builder.py"
TARGET = "goose-1"
QUEUE = 20

_SPEC = """\
Name: {name}
Version: 1
Release: {run}
Summary: A package of the lab's tests
License: MIT
BuildArch: noarch
%description
A package of the lab's tests.
%build
true
%install
mkdir -p %{{buildroot}}/usr/share/{name}
%files
/usr/share/{name}
"""

# On the host with koji.content: source RPMs of these names, uploaded, each the scratch build of a task.
_SUBMIT = """\
import json, subprocess, sys, koji
names, specs, target = json.load(sys.stdin)
options = koji.read_config("koji")
session = koji.ClientSession(options["server"], koji.grab_session_options(options))
session.ssl_login(options["cert"], None, options["serverca"])
tasks = {}
for name, spec in zip(names, specs):
    directory = "/var/tmp/lab-tests/" + name
    subprocess.run(["mkdir", "-p", directory], check=True)
    with open(directory + "/x.spec", "w") as stream:
        stream.write(spec)
    subprocess.run(["rpmbuild", "--quiet", "-bs", "--define", "_srcrpmdir " + directory, directory + "/x.spec"],
                   check=True, stdout=subprocess.DEVNULL)
    path = subprocess.check_output("ls " + directory + "/*.src.rpm", shell=True, text=True).split()[-1]
    session.uploadWrapper(path, "cli-build/lab-tests-" + name)
    source = "cli-build/lab-tests-" + name + "/" + path.rpartition("/")[2]
    tasks[name] = session.build(source, target, {"scratch": True, "rebuild_srpm": False})
print(json.dumps(tasks))
"""


class Builders:
    """`koji_builder.py`, on the host with koji.content."""

    def __init__(self, command: Command, host: Host) -> None:
        self.command, self.host = command, host

    def words(self, *words: str) -> list[str]:
        return [str(ROOT / "scripts/lab"), "--name", self.command.name, "exec", self.host.name, "--", PROGRAM, *words]

    def __call__(self, *words: str, status: int = 0) -> list[dict[str, Any]]:
        """One command; what ``--json`` says of each builder."""
        done = subprocess.run([*self.words(*words), "--json"], capture_output=True, text=True, check=False, timeout=900)
        assert done.returncode == status, f"{words} ended with {done.returncode}: {done.stdout}\n{done.stderr}"
        rows: list[dict[str, Any]] = json.loads(done.stdout)["builders"] if done.stdout.strip() else []
        return rows


@pytest.fixture(scope="module")
def builders(command: Command, lab: labs.Lab) -> Iterator[Builders]:
    """All in work afterwards, whatever a test has left."""
    builders = Builders(command, lab.need_role("koji.content"))
    yield builders
    if any(row["state"] != "in work" for row in builders("status")):
        builders("enable", *(row["builder"] for row in builders("status") if row["state"] != "in work"))


@pytest.fixture(scope="module")
def two(lab: labs.Lab) -> tuple[Host, Host]:
    first, second = [host for host in lab.hosts if "koji.builder" in host.roles][:2]
    return first, second


def pid(builder: Host) -> str:
    """The process of its kojid; 0 where it does not run."""
    return builder.run(["systemctl", "show", "--value", "--property=MainPID", "kojid"], check=False).stdout.strip()


def open_tasks(hub: Hub, builder: Host) -> list[dict[str, Any]]:
    """What runs on a builder now."""
    number = hub("getHost", builder.fqdn)["id"]
    found: list[dict[str, Any]] = hub("listTasks", {"host_id": number, "state": [TASK_STATES.index("OPEN")]})
    return found


@pytest.fixture(scope="module")
def queue(command: Command, builders: Builders) -> dict[str, int]:
    """Twenty scratch builds, all waiting at once: name -> task."""
    run = secrets.token_hex(4)
    names = [f"lab-queue-{number:02}" for number in range(QUEUE)]
    specs = [_SPEC.format(name=name, run=f"0.{run}") for name in names]
    request = json.dumps([names, specs, TARGET])
    said = command.on(builders.host.name, "/usr/bin/python3", "-c", _SUBMIT, stdin=request)
    tasks: dict[str, int] = json.loads(said.strip().splitlines()[-1])
    return tasks


def test_queue_with_a_dead_and_a_drained_builder(
    queue: dict[str, int], builders: Builders, two: tuple[Host, Host], hub: Hub, lab: labs.Lab
) -> None:
    """Twenty builds; one builder's kojid and its builds are killed, the other is drained in the middle and put back."""
    killed, drained = two
    wanted = set(queue.values())

    def builds_on(host: Host) -> set[int]:
        builds = [task for task in open_tasks(hub, host) if task["method"] == "buildArch"]
        return {task["id"] for task in builds if task["parent"] in wanted}

    for host in two:
        wait_for(partial(builds_on, host), f"a build on {host.name}", 120)
    draining = subprocess.Popen(
        [*builders.words("drain", drained.fqdn, "--reason", "lab test", "--json")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(lambda: not hub("getHost", drained.fqdn)["enabled"], "the drained builder to be disabled", 60)
    begun = builds_on(drained)

    # All that kojid has started dies with it, in one moment; the unit starts kojid again.
    before = pid(killed)
    killed.run(["systemctl", "kill", "--kill-who=all", "--signal=KILL", "kojid"])
    # The hub has them open until the new kojid says that it does not know them.
    parents = {task["parent"] or task["id"] for task in open_tasks(hub, killed)} & wanted
    assert parents, "nothing ran on the builder that was killed"
    wait_for(lambda: pid(killed) not in ("0", before), "kojid to be started again", 60)

    out, err = draining.communicate(timeout=400)
    assert draining.returncode == 0, err
    (row,) = json.loads(out)["builders"]
    assert (row["state"], row["tasks"], row["enabled"]) == ("drained", [], False)
    # Nothing was begun on it since, and what was running there came to its end there.
    for number in begun:
        task = hub.task(number)
        assert (task["state"], task["host"]) == ("CLOSED", drained.fqdn) or task["parent"] in parents, task
    assert builders("enable", drained.fqdn)[0]["state"] == "in work"

    for name, number in queue.items():
        assert hub.wait_for_task(number, 600) == "CLOSED", name
    volume = lab.record.root / "volumes/koji/scratch"
    for name, number in queue.items():
        made = [path.name for path in (volume / f"kojiadmin/task_{number}").glob("*.noarch.rpm")]
        assert [path.rpartition("-1-")[0] for path in made] == [name]
        builds = hub.children(number, "buildArch")
        finished = [task for task in builds if task["state"] == "CLOSED"]
        if number not in parents:
            assert len(builds) == len(finished) == 1, builds
            assert len(hub("listBuildroots", taskID=builds[0]["id"])) == 1, f"{name} was built twice"
    builds = [task for number in wanted for task in hub.children(number, "buildArch")]
    hosts = Counter(task["host"] for task in builds if task["state"] == "CLOSED")
    assert set(hosts) == {killed.fqdn, drained.fqdn}, hosts


def test_canary_on_each(builders: Builders, two: tuple[Host, Host], hub: Hub) -> None:
    """Exactly where it was asked for, for both architectures."""
    for row in builders("canary", *(host.fqdn for host in two)):
        assert {tried["arch"] for tried in row["canary"]} == {"x86_64", "i686"}
        for tried in row["canary"]:
            assert hub.task(tried["task"])["host"] == row["builder"]
            assert tried["rpms"]


def test_drained_builder_is_not_enabled_by_a_highstate(
    command: Command, builders: Builders, two: tuple[Host, Host], hub: Hub
) -> None:
    """koji.content finds nothing to do, and says why; a canary on it, and it is as it was."""
    name = two[0].fqdn
    before = hub("getHost", name)
    builders("drain", name, "--reason", "a [new disk")
    content = command.apply(builders.host.name)[builders.host.name]
    assert (content["failed"], content["changed"]) == (0, 0)
    assert builders("status", name)[0]["state"] == "drained"
    said = command.on(builders.host.name, "salt-call", "--out=json", "state.apply", "koji.content")
    assert "koji_builder.py drained it on" in said
    assert builders("canary", name, status=0)[0]["canary"]
    assert not hub("getHost", name)["enabled"]
    builders("enable", name)
    after = hub("getHost", name)
    assert {key: after[key] or "" for key in ("enabled", "comment", "arches", "capacity")} == {
        key: before[key] or "" for key in ("enabled", "comment", "arches", "capacity")
    }


def test_update_and_retire_and_add(builders: Builders, two: tuple[Host, Host], command: Command) -> None:
    """By states, from a drained builder to a canary; out for good, and in again."""
    name = two[1].fqdn
    (row,) = builders("update", name)
    assert row["state"] == "in work" and not [tried for tried in row["canary"] if tried.get("error")]
    (row,) = builders("retire", name)
    assert (row["state"], row["channels"], row["enabled"]) == ("retired", [], False)
    content = command.apply(builders.host.name)[builders.host.name]
    assert (content["failed"], content["changed"]) == (0, 0)
    builders("enable", name, status=2)
    (row,) = builders("add", name)
    assert (row["state"], row["channels"]) == ("in work", ["createrepo", "default"])


def test_housekeeping(queue: dict[str, int], command: Command, builders: Builders, hub: Hub, lab: labs.Lab) -> None:
    """Old output of scratch builds and an old untagged build go; a tagged one stays, and so does young output."""
    run = secrets.token_hex(4)
    specs = {name: _SPEC.format(name=name, run=f"0.{run}") for name in ("lab-gc-old", "lab-gc-kept")}
    for name, spec in specs.items():
        directory = f"/var/tmp/lab-tests/{name}-{run}"
        script = (
            f"mkdir -p {directory} && cat >{directory}/x.spec"
            f" && rpmbuild --quiet -bs --define '_srcrpmdir {directory}' {directory}/x.spec"
        )
        command.on(builders.host.name, "sh", "-c", script, stdin=spec)
        command.on(builders.host.name, "sh", "-c", f"koji import --create-build {directory}/*.src.rpm")
    kept = f"lab-gc-kept-1-0.{run}"
    old = f"lab-gc-old-1-0.{run}"
    with tagged(command, builders.host.name, kept):
        wait_for(lambda: [b for b in hub("listTagged", "goose-1-candidate") if b["nvr"] == kept], "the tag", 120)
        clean(queue, command, hub, lab, old, kept)


@contextlib.contextmanager
def tagged(command: Command, name: str, nvr: str) -> Iterator[None]:
    """A build is in the release's tag of candidates."""
    package = nvr.rsplit("-", 2)[0]
    command.on(name, "koji", "add-pkg", "--owner=kojiadmin", "--force", "goose-1-candidate", package)
    command.on(name, "koji", "tag-build", "--nowait", "goose-1-candidate", nvr)
    try:
        yield
    finally:
        command.on(name, "koji", "untag-build", "goose-1-candidate", nvr)
        command.on(name, "koji", "remove-pkg", "--force", "goose-1-candidate", package)


def clean(queue: dict[str, int], command: Command, hub: Hub, lab: labs.Lab, old: str, kept: str) -> None:
    """koji-gc and `koji_clean.py`, first without and then with a consequence."""
    host = lab.need_role("koji.gc")
    volume = lab.record.root / "volumes/koji"
    run = kept.rpartition("-0.")[2]
    # As it is at first: it lists. Without a day to wait, and these two packages alone.
    gc = ["/usr/sbin/koji-gc", "--lock-file=/run/lock/koji-gc.lab", "--delay=0 seconds", "--grace-period=0 seconds",
          "--pkg=lab-gc-old", "--pkg=lab-gc-kept"]  # fmt: skip
    said = command.on(host.name, *gc)
    assert f"Would have moved to trashcan: {old}" in said and kept not in said
    assert not [b for b in hub("listTagged", "trashcan") if b["nvr"] == old]
    real = "sed 's/^test = True/test = False/' /etc/koji-gc/koji-gc.conf >/run/koji-gc.lab.conf"
    command.on(host.name, "sh", "-c", real)
    for _ in range(2):
        said = command.on(host.name, *gc, "--config-file=/run/koji-gc.lab.conf")
    assert f"Deleting build: {old}" in said
    assert hub("getBuild", old)["state"] == 2, "DELETED"
    assert hub("getBuild", kept)["state"] == 1, "COMPLETE"
    assert not (volume / f"packages/lab-gc-old/1/0.{run}/src").exists()
    assert (volume / f"packages/lab-gc-kept/1/0.{run}/src/{kept}.src.rpm").is_file()

    aged, young = sorted(queue.values())[:2]
    path = f"/mnt/koji/scratch/kojiadmin/task_{aged}"
    command.on(host.name, "find", path, "-exec", "touch", "-h", "-d", "40 days ago", "{}", "+")
    program = ["/usr/local/lib/goose/koji_clean.py", "volume", "--json"]
    listed = json.loads(command.on(host.name, *program))
    assert listed["dry_run"] and path in listed["removed"]
    assert (volume / f"scratch/kojiadmin/task_{aged}").is_dir()
    removed = json.loads(command.on(host.name, *program, "--remove"))
    assert path in removed["removed"] and removed["failures"] == []
    assert not (volume / f"scratch/kojiadmin/task_{aged}").exists()
    assert (volume / f"scratch/kojiadmin/task_{young}").is_dir()
    assert (volume / f"packages/lab-gc-kept/1/0.{run}/src/{kept}.src.rpm").is_file()
    command.on(host.name, "rm", "/run/koji-gc.lab.conf")
