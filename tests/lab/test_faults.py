"""Builders and the hub die in the middle of builds, and no build is lost.

The packages here wait in their %build until the test lets them go, so that what dies, dies in a build.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from estate import everything_is_back
from goose.lab import lab as labs
from goose.lab.host import Host
from koji_client import BUILD_STATES, Hub, make_srpm, wait_for

if TYPE_CHECKING:
    from conftest import Command

ROOT = Path(__file__).resolve().parents[2]


def waiting_build(mark: str) -> list[str]:
    """A %build that is found by a file in its directory, and let go by another; after five minutes it goes by itself."""
    return [f"touch here-{mark}", f"for i in $(seq 600); do test -e go-{mark} && break; sleep 0.5; done"]


@dataclass
class Rebuild:
    """`lab rebuild` of packages that wait, in the background."""

    name: str
    srpms: dict[str, Path]
    builders: list[Host]
    run: str
    """Tells its build roots from those that an earlier run has left behind."""
    process: subprocess.Popen[str] = field(init=False)
    released: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        words = ["--name", self.name, "rebuild", "--json", *map(str, self.srpms.values())]
        self.process = subprocess.Popen(
            [str(ROOT / "scripts/lab"), *words], stdout=subprocess.PIPE, stderr=sys.stderr, text=True
        )

    def _waiting(self, package: str, host: Host) -> list[Path]:
        """The directories on a host in which the package waits."""
        found = host.root.glob(f"var/lib/mock/*/root/builddir/build/BUILD/here-{package}-{self.run}")
        return [path.parent for path in found]

    def builder(self, package: str, seconds: float = 150) -> Host:
        """The builder that has the package in its %build."""

        def found() -> Host | None:
            assert self.process.poll() is None, "`lab rebuild` ended before its package was built"
            return next((host for host in self.builders if self._waiting(package, host)), None)

        return wait_for(found, f"{package} to be in its %build", seconds)

    def release(self) -> None:
        """Let everything go on that waits now, and later too: a build that begins again waits again."""

        def let_go() -> None:
            while not self.released.wait(0.5):
                for package in self.srpms:
                    for host in self.builders:
                        for directory in self._waiting(package, host):
                            (directory / f"go-{package}-{self.run}").touch()

        threading.Thread(target=let_go, daemon=True).start()

    def result(self, seconds: float = 240) -> tuple[int, list[dict[str, Any]]]:
        """Exit status, and what it says of each package; nothing where it could not say."""
        out, _ = self.process.communicate(timeout=seconds)
        return self.process.returncode, json.loads(out)["builds"] if out.strip() else []


Make = Callable[..., Rebuild]


@pytest.fixture
def make(command: Command, lab: labs.Lab) -> Iterator[Make]:
    """Makes source RPMs of these names, and starts to rebuild them."""
    started: list[Rebuild] = []
    source = lab.need_role("koji.bootstrap")

    def on(*words: str, stdin: str | None = None) -> str:
        return command.on(source.name, *words, stdin=stdin)

    def start(*names: str) -> Rebuild:
        run = secrets.token_hex(4)
        srpms = {name: make_srpm(on, source.root, name, waiting_build(f"{name}-{run}")) for name in names}
        builders = [host for host in lab.hosts if "koji.builder" in host.roles]
        rebuild = Rebuild(lab.record.name, srpms, builders, run)
        started.append(rebuild)
        rebuild.start()
        return rebuild

    yield start
    for rebuild in started:
        rebuild.released.set()
        if rebuild.process.poll() is None:
            rebuild.process.kill()
            rebuild.process.wait(timeout=10)
    # A test that failed half-way may have left a host off: the others need the whole lab.
    if command("status", check=False).returncode != 0:
        command("up", check=False)


def pid(host: Host) -> str:
    return host.run(["systemctl", "show", "--value", "--property=MainPID", "kojid"], check=False).stdout.strip()


def all_complete(hub: Hub, rows: list[dict[str, Any]], names: set[str]) -> None:
    assert {row["nvr"].rsplit("-", 2)[0] for row in rows} == names
    assert [row for row in rows if "error" in row] == []
    for row in rows:
        assert BUILD_STATES[hub("getBuild", row["nvr"])["state"]] == "COMPLETE"


def test_builders_die(make: Make, command: Command, lab: labs.Lab, hub: Hub) -> None:
    """kojid is killed on one builder, and the plug of the other pulled, each in the middle of a build."""
    names = {"lab-test-killed", "lab-test-unplugged"}
    for _ in range(3):
        rebuild = make(*sorted(names))
        killed = rebuild.builder("lab-test-killed")
        unplugged = rebuild.builder("lab-test-unplugged")
        if killed != unplugged:
            break
        # A builder may take both, before Koji knows how busy it is: they are let go, and others made.
        rebuild.release()
        rebuild.result()
    assert killed != unplugged, "two builds wait on one builder while the other has nothing to do"

    before = pid(killed)
    killed.run(["systemctl", "kill", "--kill-who=main", "--signal=KILL", "kojid"])
    unplugged.kill()
    down = command("status", "--json", check=False)
    assert down.returncode == 1
    assert not json.loads(down.stdout)["hosts"][unplugged.name]["healthy"]

    # The unit starts kojid again by itself, and what the dead one left running is ended.
    wait_for(lambda: pid(killed) not in ("0", before), "kojid to be started again", 60)
    rebuild.release()
    command("up")
    assert unplugged.leader() is not None
    status, rows = rebuild.result()
    assert status == 0, rows
    all_complete(hub, rows, names)
    # They were really interrupted: what had been begun needed a second build root.
    for row in rows:
        tasks = hub.children(row["task"], "buildArch")
        roots = [root for task in tasks for root in hub("listBuildroots", taskID=task["id"])]
        assert len(roots) >= 2, row
    everything_is_back(command, lab, hub)


def test_hub_reboots(make: Make, command: Command, lab: labs.Lab, hub: Hub) -> None:
    """The hub's host is shut down and booted while something is built: the builder goes on and reports later."""
    rebuild = make("lab-test-rebooted")
    rebuild.builder("lab-test-rebooted")
    host = lab.need_role("koji.hub")
    boot = host.run(["cat", "/proc/sys/kernel/random/boot_id"]).stdout
    leader = host.leader()
    host.stop()
    assert not lab.answers(f"{lab.services()['koji-web']}/")
    command("up")
    assert host.leader() not in (None, leader), boot
    rebuild.release()
    status, rows = rebuild.result()
    if status != 0:
        # It may have given up while the hub was away, with a sentence. Run again it waits for the same task.
        rebuild.start()
        status, rows = rebuild.result()
    assert status == 0, rows
    all_complete(hub, rows, {"lab-test-rebooted"})
    everything_is_back(command, lab, hub)


def test_built_packages_survive(hub: Hub, lab: labs.Lab) -> None:
    """What was built before is still there and whole after all of this."""
    for build in hub("listTagged", "goose-1"):
        state = hub("getBuild", build["nvr"])["state"]
        assert BUILD_STATES[state] == "COMPLETE", build["nvr"]
    failed = [host.name for host in lab.hosts if host.run(["systemctl", "--failed", "--quiet", "--no-legend"]).stdout]
    assert failed == []
