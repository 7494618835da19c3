"""Real packages through Koji: built side by side, in the order in which they need each other."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from goose.lab import lab as labs
from koji_client import BUILD_STATES, Client, Hub, make_srpm

if TYPE_CHECKING:
    from conftest import Command

SAMPLES = ("libcap-ng", "logrotate", "sdparm", "sg3_utils")

pytestmark = pytest.mark.usefixtures("rebuilt")


@dataclass(frozen=True)
class Rebuilt:
    """What `lab rebuild --json` says of the samples."""

    builds: list[dict[str, Any]]

    def nvr(self, name: str) -> str:
        found: list[str] = [row["nvr"] for row in self.builds if row["nvr"].rsplit("-", 2)[0] == name]
        assert len(found) == 1, self.builds
        return found[0]


@pytest.fixture(scope="module")
def rebuilt(command: Command) -> Rebuilt:
    return Rebuilt(command.json("rebuild")["builds"])


@pytest.fixture(scope="module")
def builds(rebuilt: Rebuilt, hub: Hub) -> dict[str, dict[str, Any]]:
    """Package -> its build, as the hub has it."""
    return {name: hub("getBuild", rebuilt.nvr(name)) for name in SAMPLES}


@pytest.fixture(scope="module")
def root_tasks(builds: dict[str, dict[str, Any]], hub: Hub) -> dict[str, list[dict[str, Any]]]:
    """Package -> the tasks that built its architectures."""
    return {name: hub.children(build["task_id"], "buildArch") for name, build in builds.items()}


def rpms(hub: Hub, build: dict[str, Any]) -> set[tuple[str, str]]:
    return {(rpm["name"], rpm["arch"]) for rpm in hub("listRPMs", buildID=build["id"])}


def test_all_are_complete(rebuilt: Rebuilt, builds: dict[str, dict[str, Any]]) -> None:
    assert len(rebuilt.builds) == len(SAMPLES)
    assert [row for row in rebuilt.builds if "error" in row] == []
    assert {name: BUILD_STATES[build["state"]] for name, build in builds.items()} == dict.fromkeys(SAMPLES, "COMPLETE")


def test_all_are_tagged(rebuilt: Rebuilt, hub: Hub) -> None:
    """Complete is not enough: only what is in the tag is composed and built upon."""
    tagged = {build["nvr"] for build in hub("listTagged", "goose-1")}
    assert {rebuilt.nvr(name) for name in SAMPLES} <= tagged


@pytest.mark.parametrize("package", ["sg3_utils", "libcap-ng"])
def test_both_architectures(builds: dict[str, dict[str, Any]], hub: Hub, package: str) -> None:
    """Multilib needs the 32-bit packages beside the 64-bit ones."""
    made = rpms(hub, builds[package])
    assert {arch for name, arch in made if name == package} == {"src", "x86_64", "i686"}


def test_both_builders_work(root_tasks: dict[str, list[dict[str, Any]]], lab: labs.Lab) -> None:
    builders = {host.fqdn for host in lab.hosts if "koji.builder" in host.roles}
    assert {task["host"] for tasks in root_tasks.values() for task in tasks} == builders


def test_two_at_a_time(root_tasks: dict[str, list[dict[str, Any]]]) -> None:
    """Two packages are built at the same moment, on two hosts."""
    tasks = [(package, task) for package, own in root_tasks.items() for task in own]
    together = [
        (one["id"], two["id"])
        for package, one in tasks
        for other, two in tasks
        if package < other
        and one["host"] != two["host"]
        and one["start_ts"] < two["completion_ts"]
        and two["start_ts"] < one["completion_ts"]
    ]
    assert together, tasks


def test_dependent_package_waits_for_a_repo(
    builds: dict[str, dict[str, Any]], root_tasks: dict[str, list[dict[str, Any]]], hub: Hub
) -> None:
    """sdparm's build root holds the sg3_utils that was built just before, and no other."""
    needed = builds["sg3_utils"]["build_id"]
    for task in root_tasks["sdparm"]:
        assert task["start_ts"] > builds["sg3_utils"]["completion_ts"]
        # A build that a builder had to begin again has more than one build root.
        root = max(hub("listBuildroots", taskID=task["id"]), key=lambda each: int(each["id"]))
        repo = hub("repoInfo", root["repo_id"])
        assert repo["create_ts"] > builds["sg3_utils"]["completion_ts"]
        inside = {rpm["name"]: rpm for rpm in hub("listRPMs", componentBuildrootID=root["id"])}
        assert inside["sg3_utils-devel"]["build_id"] == needed
        assert inside["sg3_utils-devel"]["arch"] == {"i386": "i686"}.get(task["arch"], task["arch"])


def test_packages_are_real(builds: dict[str, dict[str, Any]], koji: Client, tmp_path: Path, lab: labs.Lab) -> None:
    """The program in the RPM runs, and needs the library that was built."""
    koji("download-build", "--noprogress", "--arch=x86_64", builds["sdparm"]["nvr"], cwd=tmp_path)
    rpm = next(path for path in tmp_path.glob("sdparm-*.x86_64.rpm") if "debug" not in path.name)
    host = lab.need_role("koji.builder")
    inside = host.root / "var/tmp" / rpm.name
    inside.write_bytes(rpm.read_bytes())
    try:
        needs = host.run(["rpm", "-qp", "--requires", f"/var/tmp/{rpm.name}"]).stdout
    finally:
        inside.unlink()
    assert "libsgutils2" in needs


def test_again_builds_nothing(command: Command, hub: Hub, rebuilt: Rebuilt) -> None:
    last = {"order": "-id", "limit": 1}
    newest = max(task["id"] for task in hub("listTasks", opts={"method": "build"}, queryOpts=last))
    again = command.json("rebuild")["builds"]
    assert sorted(row["nvr"] for row in again) == sorted(row["nvr"] for row in rebuilt.builds)
    later = hub("listTasks", opts={"method": "build"}, queryOpts=last)
    assert [task["id"] for task in later] == [newest]


def test_no_source_rpm(command: Command, tmp_path: Path) -> None:
    """A wrong file is a sentence, and nothing is sent to the hub."""
    wrong = tmp_path / "wrong.src.rpm"
    wrong.write_text("no RPM\n")
    done = command("rebuild", str(wrong), check=False)
    assert done.returncode == 2
    assert "wrong.src.rpm: It is no RPM, or damaged" in done.stderr
    assert "Traceback" not in done.stderr
    done = command("rebuild", str(tmp_path / "none.src.rpm"), check=False)
    assert done.returncode == 2
    assert f"There is no file {tmp_path}/none.src.rpm." in done.stderr


def test_failing_package_is_reported(command: Command, hub: Hub, lab: labs.Lab) -> None:
    """One that fails does not stop the rest, and the answer names it, its task and why."""
    host = lab.need_role("koji.bootstrap")

    def on(*words: str, stdin: str | None = None) -> str:
        return command.on(host.name, *words, stdin=stdin)

    bad = make_srpm(on, host.root, "lab-test-fails", ["echo this package fails", "exit 1"])
    good = make_srpm(on, host.root, "lab-test-works", ["true"])
    start = time.time()
    done = command("rebuild", "--json", str(bad), str(good), check=False)
    assert done.returncode == 1, done.stderr
    rows = {row["nvr"].rsplit("-", 2)[0]: row for row in json.loads(done.stdout)["builds"]}
    assert "error" not in rows["lab-test-works"]
    failed = rows["lab-test-fails"]
    assert f"Task {failed['task']} ended as FAILED" in failed["error"]
    assert "build.log" in failed["error"], "where to look is not said"
    assert BUILD_STATES[hub("getBuild", failed["nvr"])["state"]] == "FAILED"
    assert hub("getBuild", rows["lab-test-works"]["nvr"])["completion_ts"] > start
