"""Source RPMs in the order of their needs, and what is done about each; against a hub in memory."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from goose import rebuild
from goose.rebuild import RebuildError, Srpm

TASKS = {name: number for number, name in enumerate(["FREE", "OPEN", "CLOSED", "CANCELED", "ASSIGNED", "FAILED"])}
BUILDS = {name: number for number, name in enumerate(["BUILDING", "COMPLETE", "DELETED", "FAILED", "CANCELED"])}


class Both(dict[Any, Any]):
    """Koji's Enum: name to number and back."""

    def __init__(self, names: Mapping[str, int]) -> None:
        super().__init__(names)
        self.update({number: name for name, number in names.items()})


@pytest.fixture(autouse=True)
def koji(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """As much of koji as is used; the real one may not be here, nor may the tree's directory be taken for it."""
    module: Any = types.ModuleType("koji")
    module.TASK_STATES, module.BUILD_STATES = Both(TASKS), Both(BUILDS)
    module.util = types.SimpleNamespace(
        checkForBuilds=lambda session, tag, builds, event: all(b["nvr"] in session.in_repo(event) for b in builds)
    )
    monkeypatch.setitem(sys.modules, "koji", module)
    return module


class Session:
    """A hub with one target. Time passes with each `sleep`: tasks end, and repos come of what was tagged."""

    def __init__(self) -> None:
        self.builds: list[dict[str, Any]] = []
        self.tagged: set[str] = set()
        self.tasks: dict[int, dict[str, Any]] = {}
        self.packages: set[str] = set()
        self.calls: list[tuple[Any, ...]] = []
        self.event = 1
        self.repos: list[tuple[int, set[str]]] = [(1, set())]
        self.fails: set[str] = set()
        self.repo_delay = 2
        self.dist = ".el1"
        self.priorities: dict[str, int] = {}

    # The passing of time

    def tick(self, _: float) -> None:
        for number, task in self.tasks.items():
            task["left"] -= 1
            if task["left"] == 0:
                build = self.by_task(number)
                failed = build["package"] in self.fails
                task["state"] = TASKS["FAILED" if failed else "CLOSED"]
                build["state"] = BUILDS["FAILED" if failed else "COMPLETE"]
                if not failed:
                    self.tag(build["nvr"])
        if self.repo_delay:
            self.repo_delay -= 1
            if not self.repo_delay:
                self.repos.append((self.event, set(self.tagged)))

    def tag(self, nvr: str) -> None:
        self.tagged.add(nvr)
        self.event += 1
        self.repo_delay = 4

    def in_repo(self, event: int) -> set[str]:
        return dict(self.repos)[event]

    def by_task(self, number: int) -> dict[str, Any]:
        return next(build for build in self.builds if build["task_id"] == number)

    def add(self, name: str, release: str, state: str, *, tagged: bool = False, left: int = 0) -> dict[str, Any]:
        number = len(self.builds) + 1
        build: dict[str, Any] = {"nvr": f"{name}-1-{release}", "package": name, "version": "1", "release": release}
        build.update(state=BUILDS[state], task_id=number)
        self.builds.append(build)
        self.tasks[number] = {"state": TASKS["OPEN" if left else "CLOSED"], "left": left}
        if tagged:
            self.tag(build["nvr"])
        return build

    # The API

    def getBuildTarget(self, name: str) -> Any:
        return {"build_tag_name": "goose-1-build", "dest_tag_name": "goose-1"} if name == "goose-1" else None

    def getBuildTargets(self) -> Any:
        return [{"name": "goose-1"}]

    def getBuildConfig(self, tag: str) -> Any:
        return {"extra": {"rpm.macro.dist": self.dist} if self.dist else None}

    def getLoggedInUser(self) -> Any:
        return {"name": "kojiadmin"}

    def getTag(self, name: str) -> Any:
        return {"id": 7}

    def getFullInheritance(self, tag: str) -> Any:
        return [{"parent_id": 6}]

    def getLastEvent(self) -> Any:
        return {"id": self.event + 5}

    def tagChangedSinceEvent(self, event: int, tags: list[int]) -> bool:
        assert tags == [7, 6], "the build tag, and all that it inherits from"
        return event < self.event

    def checkTagPackage(self, tag: str, name: str) -> bool:
        return name in self.packages

    def packageListAdd(self, tag: str, name: str, owner: str) -> None:
        self.calls.append(("packageListAdd", tag, name, owner))
        self.packages.add(name)

    def getPackageID(self, name: str) -> Any:
        return name if any(build["package"] == name for build in self.builds) else None

    def listTagged(self, tag: str, package: str, inherit: bool) -> Any:
        return [build for build in self.builds if build["package"] == package and build["nvr"] in self.tagged]

    def listBuilds(self, packageID: str | None = None, taskID: int | None = None) -> Any:
        return [build for build in self.builds if packageID == build["package"] or taskID == build["task_id"]]

    def uploadWrapper(self, path: str, directory: str) -> None:
        self.calls.append(("upload", path))

    def build(self, path: str, target: str, opts: dict[str, Any], priority: int) -> int:
        name = Path(path).name.split("-1-")[0]
        assert name in self.packages, "Koji refuses what is not in the package list"
        assert priority >= 0, "only administrators may jump the queue"
        self.priorities[name] = priority
        self.calls.append(("build", name, frozenset(self.repos[-1][1])))
        self.add(name, f"1{self.dist}", "BUILDING", left=2)
        return len(self.builds)

    def getTaskInfo(self, number: int) -> Any:
        return dict(self.tasks[number])

    def getTaskResult(self, number: int) -> None:
        raise RuntimeError("BuildError: error building package\n")

    def getRepo(self, tag: str) -> Any:
        return {"create_event": self.repos[-1][0]}

    def getBuild(self, nvr: str) -> Any:
        return next(build for build in self.builds if build["nvr"] == nvr)

    # What the tests look at

    @property
    def started(self) -> list[str]:
        return [call[1] for call in self.calls if call[0] == "build"]


def srpm(name: str, needs: Sequence[str] = (), gives: Sequence[str] = (), **fields: Any) -> Srpm:
    values: dict[str, Any] = {"version": "1", "release": "1.el1", "dist": ".el1", **fields}
    path = Path(f"/srpms/{name}-1-{values['release']}.src.rpm")
    return Srpm(path, name, needs=frozenset(needs), gives=frozenset((name, *gives)), **values)


@pytest.fixture
def session() -> Session:
    return Session()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def rebuilder(session: Session, said: list[str]) -> rebuild.Rebuild:
    return rebuild.Rebuild(session, "goose-1", said.append, clock=lambda: 0.0, sleep=session.tick)


# Reading


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("", {"x"}),
        ("%package devel\n%package -n libx\n%package -n %{name}-doc", {"x", "x-devel", "libx", "x-doc"}),
        ("Provides: old-x = 1, %{name}(abi) = 2\nprovides: also", {"x", "old-x", "x(abi)", "also"}),
        ("%files\n%{_libdir}/pkgconfig/x-2.0.pc", {"x", "pkgconfig(x-2.0)"}),
        ("# Provides: nothing\n%description devel", {"x"}),
    ],
)
def test_gives(spec: str, found: set[str]) -> None:
    assert rebuild.gives("x", spec) == found


@pytest.mark.parametrize(
    ("release", "spec", "dist"),
    [
        ("1.el9", "Release: 1%{?dist}", ".el9"),
        ("1.fc40", "release:\t1%{dist}", ".fc40"),
        ("3.el9.2", "Release: 3%{?dist}.2", ".el9.2"),
        ("1", "Release: 1%{?dist}", ""),
        ("1.el9", "Release: 1.el9", ""),
        ("4.el9", "Release: %{rel}%{?dist}", ""),
        ("1", "Name: x", ""),
    ],
)
def test_dist_of(release: str, spec: str, dist: str) -> None:
    assert rebuild.dist_of(release, spec) == dist


def test_read(tmp_path: Path) -> None:
    """Header and spec of a real file; what is no source RPM is refused."""
    with pytest.raises(RebuildError, match="There is no file") as raised:
        rebuild.read(tmp_path / "none.src.rpm")
    assert raised.value.status == rebuild.EXIT_USAGE
    spec = tmp_path / "x.spec"
    spec.write_text(
        "Name: x\nVersion: 2\nRelease: 3%{?dist}\nSummary: x\nLicense: MIT\nBuildArch: noarch\n"
        "BuildRequires: make, y-devel >= 1\nSource: a.tar\n"
        "%description\n%package -n libx\nSummary: l\n%description -n libx\n%files -n libx\n"
    )
    (tmp_path / "a.tar").write_bytes(bytes(3_000_000))
    define = {"_topdir": tmp_path, "_sourcedir": tmp_path, "dist": ".el1"}
    words = [word for name, value in define.items() for word in ("--define", f"{name} {value}")]
    subprocess.run(["rpmbuild", "-ba", "--nodeps", *words, str(spec)], check=True, capture_output=True)
    found = rebuild.read(tmp_path / "SRPMS/x-2-3.el1.src.rpm")
    assert (found.nvr, found.dist) == ("x-2-3.el1", ".el1")
    assert {"make", "y-devel"} <= found.needs and {"x", "libx"} <= found.gives
    with pytest.raises(RebuildError, match="It is no source RPM: give files that end in .src.rpm"):
        rebuild.read(tmp_path / "RPMS/noarch/libx-2-3.el1.noarch.rpm")
    with pytest.raises(RebuildError, match="It is no RPM, or damaged"):
        rebuild.read(tmp_path / "a.tar")


# Order


def test_order() -> None:
    needs = rebuild.order([srpm("app", ["liba-devel", "gcc"]), srpm("liba", ["base"], ["liba-devel"]), srpm("base")])
    assert needs == {"app": {"liba"}, "liba": {"base"}, "base": set()}


def test_a_package_that_needs_itself() -> None:
    """gcc needs gcc: the build tag's, not its own."""
    assert rebuild.order([srpm("gcc", ["gcc"])]) == {"gcc": set()}


def test_circles_have_no_order_among_themselves() -> None:
    """Those outside of a circle wait for all of it, and those that it needs come first."""
    circle = [srpm("a", ["b", "first"]), srpm("b", ["c"]), srpm("c", ["a"])]
    needs = rebuild.order([*circle, srpm("last", ["a"]), srpm("first")])
    assert needs == {"a": {"first"}, "b": set(), "c": set(), "last": {"a"}, "first": set()}


@pytest.mark.parametrize(
    ("own", "dist", "release", "tag_dist", "same"),
    [
        ("1.el1", ".el1", "1.el1", ".el1", True),
        ("1.fc40", ".fc40", "1.el1", ".el1", True),
        ("1", "", "1.el1", ".el1", True),
        ("1.fc40", ".fc40", "2.el1", ".el1", False),
        ("1.fc40", ".fc40", "1.el2", ".el1", False),
        ("1.fc40", ".fc40", "1.el1", "", False),
        ("1.fc40", "", "1.el1", ".el1", False),
    ],
)
def test_same_release(own: str, dist: str, release: str, tag_dist: str, same: bool) -> None:
    """%{dist} is the build tag's, and so the only part of a release that may differ from the file's."""
    assert rebuild.same_release(srpm("x", release=own, dist=dist), release, tag_dist) is same


# Building


def test_unknown_target(session: Session) -> None:
    with pytest.raises(RebuildError, match="no target 'goose-2'; it has goose-1") as raised:
        rebuild.Rebuild(session, "goose-2", print)
    assert raised.value.status == rebuild.EXIT_USAGE


def test_builds_side_by_side(session: Session, rebuilder: rebuild.Rebuild) -> None:
    """What needs nothing of the others starts at once, and is listed first: Koji refuses it else."""
    session.packages = {"one"}
    results = rebuilder.run([srpm("two"), srpm("one")])
    assert [result.nvr for result in results] == ["two-1-1.el1", "one-1-1.el1"]
    assert not any(result.error for result in results)
    assert session.started == ["one", "two"]
    assert ("packageListAdd", "goose-1", "two", "kojiadmin") in session.calls
    assert not [call for call in session.calls if call[:3] == ("packageListAdd", "goose-1", "one")]


def test_what_others_need_comes_first(session: Session, rebuilder: rebuild.Rebuild) -> None:
    """With more packages than builders, one that others wait for must not stand behind those that nobody waits for."""
    rebuilder.run([srpm("leaf"), srpm("top", ["base-devel"]), srpm("base", gives=["base-devel"])])
    assert session.priorities["base"] < session.priorities["leaf"] == session.priorities["top"]


def test_existing_build_is_not_built_again(session: Session, rebuilder: rebuild.Rebuild, said: list[str]) -> None:
    session.add("x", "1.el1", "COMPLETE", tagged=True)
    (result,) = rebuilder.run([srpm("x", release="1.fc40", dist=".fc40")])
    assert session.started == [] and result.error == "" and result.as_dict()["nvr"] == "x-1-1.el1"
    assert "x-1-1.el1 is built already" in said


@pytest.mark.parametrize(("state", "tagged"), [("COMPLETE", False), ("FAILED", False), ("CANCELED", False)])
def test_what_does_not_count_as_built(session: Session, rebuilder: rebuild.Rebuild, state: str, tagged: bool) -> None:
    """A build that failed, or that was untagged, is no reason to skip."""
    session.add("x", "1.el1", state, tagged=tagged)
    (result,) = rebuilder.run([srpm("x")])
    assert session.started == ["x"] and not result.error


def test_another_release_is_built(session: Session, rebuilder: rebuild.Rebuild) -> None:
    session.add("x", "0.el1", "COMPLETE", tagged=True)
    rebuilder.run([srpm("x")])
    assert session.started == ["x"]


def test_running_build_is_adopted(session: Session, rebuilder: rebuild.Rebuild, said: list[str]) -> None:
    """A run that was killed left it: a second build of it would be refused."""
    build = session.add("x", "1.el1", "BUILDING", left=3)
    (result,) = rebuilder.run([srpm("x")])
    assert session.started == []
    assert result.task == build["task_id"] and not result.error
    assert any("which is under way" in line for line in said)


def test_complete_and_not_tagged_yet(session: Session, rebuilder: rebuild.Rebuild) -> None:
    """Its task still has the tagging to do."""
    build = session.add("x", "1.el1", "COMPLETE", left=2)
    (result,) = rebuilder.run([srpm("x")])
    assert session.started == [] and (result.task, result.error) == (build["task_id"], "")


@pytest.mark.parametrize("left", [0, 4], ids=["done", "under way"])
def test_task_of_a_killed_run_that_koji_knew_no_build_of(
    session: Session, rebuilder: rebuild.Rebuild, said: list[str], monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    """It had been asked for, and its build came after this run had looked: one of the two tasks is refused."""
    ask = session.build

    def late(*words: Any) -> int:
        number = ask(*words)
        session.builds[-1]["state"] = BUILDS["FAILED"]
        session.tasks[number] = {"state": TASKS["FAILED"], "left": 0}
        session.add("x", "1.el1", "BUILDING" if left else "COMPLETE", tagged=not left, left=left)
        return number

    monkeypatch.setattr(session, "build", late)
    (result,) = rebuilder.run([srpm("x")])
    assert (result.error, result.nvr, result.task) == ("", "x-1-1.el1", 2)
    assert "x-1-1.el1: built by task 2" in said


def test_dependent_waits_for_a_repo(session: Session, rebuilder: rebuild.Rebuild, said: list[str]) -> None:
    """Complete is not enough: what was built must be in the repo that the build root is made of."""
    results = rebuilder.run([srpm("app", ["liba-devel"]), srpm("liba", gives=["liba-devel"])])
    assert not any(result.error for result in results)
    assert session.started == ["liba", "app"]
    repo = next(call[2] for call in session.calls if call[:2] == ("build", "app"))
    assert "liba-1-1.el1" in repo
    assert sum("waiting for a repo of goose-1-build" in line for line in said) == 1


def test_first_build_waits_for_a_current_repo(session: Session, rebuilder: rebuild.Rebuild, said: list[str]) -> None:
    """Just after the bootstrap the newest repo is of before it, and empty."""
    session.tag("debian-bootstrap-12-1")
    rebuilder.run([srpm("x")])
    assert ("build", "x", frozenset({"debian-bootstrap-12-1"})) in session.calls
    assert said[0] == "waiting for a repo of goose-1-build with all that is tagged"


def test_failed_build_and_what_needs_it(session: Session, rebuilder: rebuild.Rebuild) -> None:
    """The reason is told; what needs it is not tried, what does not is built all the same."""
    session.fails = {"liba"}
    wanted = [srpm("liba"), srpm("app", ["liba"]), srpm("more", ["app"]), srpm("other")]
    results = {result.srpm.name: result for result in rebuilder.run(wanted)}
    assert results["liba"].error == "Task 1 ended as FAILED: BuildError: error building package"
    assert results["app"].error == "It needs liba, which did not build."
    assert results["more"].error == "It needs app, which did not build."
    assert results["other"].error == ""
    assert session.started == ["liba", "other"]
    assert results["app"].as_dict()["error"] and results["app"].as_dict()["nvr"] == "app-1-1.el1"


def test_a_circle_is_built(session: Session, rebuilder: rebuild.Rebuild) -> None:
    """Each from what the tag holds: nobody waits for the other for ever."""
    results = rebuilder.run([srpm("a", ["b"]), srpm("b", ["a"])])
    assert not any(result.error for result in results) and sorted(session.started) == ["a", "b"]


def test_plan_changes_nothing(session: Session, rebuilder: rebuild.Rebuild) -> None:
    session.add("liba", "1.el1", "COMPLETE", tagged=True)
    rows = rebuilder.plan([srpm("more", ["app"]), srpm("app", ["liba"]), srpm("liba")])
    assert [(each.name, action) for each, action in rows] == [
        ("liba", "liba-1-1.el1 is there"), ("app", "build"), ("more", "build"),
    ]  # fmt: skip
    assert session.calls == []


def test_tag_without_dist(session: Session, said: list[str]) -> None:
    """Then only the very same release is the same."""
    session.dist = ""
    session.add("x", "1", "COMPLETE", tagged=True)
    rebuild.Rebuild(session, "goose-1", said.append, sleep=session.tick).run([srpm("x", release="1", dist="")])
    assert session.started == []


# The command

Main = Callable[..., int]


@pytest.fixture
def main(session: Session, monkeypatch: pytest.MonkeyPatch) -> Main:
    """`koji_rebuild.py`, for source RPMs named after their packages."""
    monkeypatch.setattr(rebuild, "read", lambda path: srpm(path.name))
    monkeypatch.setattr(rebuild, "log_in", lambda profile: session)
    monkeypatch.setattr(rebuild, "Rebuild", functools.partial(rebuild.Rebuild, sleep=session.tick))
    return lambda *words: rebuild.main(["goose-1", *words])


@pytest.mark.parametrize(
    ("fails", "status"), [(set(), 0), ({"a"}, rebuild.EXIT_PARTLY), ({"a", "b"}, rebuild.EXIT_KOJI)]
)
def test_exit_status(
    main: Main, session: Session, fails: set[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    session.fails = fails
    assert main("--json", "a", "b") == status
    rows = json.loads(capsys.readouterr().out)["builds"]
    assert [row["nvr"] for row in rows] == ["a-1-1.el1", "b-1-1.el1"]
    assert {row["nvr"][0] for row in rows if "error" in row} == fails


def test_dry_run(main: Main, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("--dry-run", "--json", "a") == 0
    assert json.loads(capsys.readouterr().out) == {"builds": [{"nvr": "a-1-1.el1", "action": "build"}]}
    assert session.calls == []


def test_the_same_package_twice(main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("a", "a") == rebuild.EXIT_USAGE
    assert "There is more than one source RPM of a: give one." in capsys.readouterr().err


def test_hub_that_goes_away(
    main: Main, session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(*_: Any) -> None:
        raise ConnectionError("Connection refused")

    monkeypatch.setattr(session, "uploadWrapper", gone)
    assert main("a") == rebuild.EXIT_KOJI
    assert "koji_rebuild.py: the hub: Connection refused" in capsys.readouterr().err


def test_source_control_instead_of_an_upload(tmp_path: Path) -> None:
    """What the importer says of a source RPM is what Koji is told."""
    srpm = Srpm(tmp_path / "a-1-1.src.rpm", "a", "1", "1.el1", frozenset(), frozenset({"a"}))
    url = "git+https://scm.example/git/rpms/a#0123"
    result = tmp_path / "imported.json"
    result.write_text(json.dumps({"srpms": [{"srpm": str(srpm.path), "url": url}]}))
    (found,) = rebuild.in_scm([srpm], result)
    assert (found.scm, found.name) == (url, "a")
    result.write_text(json.dumps({"srpms": []}))
    with pytest.raises(RebuildError, match="import it"):
        rebuild.in_scm([srpm], result)
    result.write_text("{}")
    with pytest.raises(RebuildError, match=r"no result of srpm_import\.py"):
        rebuild.in_scm([srpm], result)
