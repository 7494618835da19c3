"""Builders taken in, tried, drained, updated, retired; against a hub whose builders work as time passes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import doubles
from goose import builder, content, content_live, content_plan, koji_builder
from goose.builder import ASSIGNED, CANCELED, CLOSED, FAILED, FREE, OPEN, BuilderError
from goose.content import Hold
from goose.export import export
from goose.koji_builder import Wishes, Work
from goose.rebuild import RebuildError

TREE = Path(__file__).resolve().parents[2]


class Fault(Exception):
    """What koji raises for a fault of the hub."""

    faultCode = 1000


class Hub(doubles.Hub):
    """A hub with tasks, and builders that take a turn each second, as kojid 1.30 does.

    A turn: end what is done, and stop what was taken away; ask whether the host is enabled, say ready or not;
    where it is, take the first task that is assigned to it, or free and in one of its channels.
    """

    def __init__(self, version: str = "1.30.0") -> None:
        super().__init__(version)
        self.now = 1000.0
        self.tasks: dict[int, dict[str, Any]] = {}
        self.spoke: dict[str, float] = {}
        self.off: set[str] = set()
        self.took: list[tuple[int, str]] = []
        self.broken: set[tuple[str, str]] = set()
        self.seconds = 5.0
        self.down_until = 0.0
        self.repo: Any = {"id": 7}
        self.at: dict[float, Callable[[], None]] = {}
        for name in ("b1", "b2"):
            self.do_addHost(name, ["x86_64", "i386"])
            self.do_addHostToChannel(name, "createrepo")
        self.do_createTag("dist-build", "x86_64 i686", False, {})
        self.do_createTag("dist", "", False, {})
        self.do_createBuildTarget("dist", "dist-build", "dist")

    # The passing of time

    def sleep(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += 1
            for moment in sorted(moment for moment in self.at if moment <= self.now):
                self.at.pop(moment)()
            for name in self.hosts:
                if name not in self.off:
                    self.turn(name)

    def turn(self, name: str) -> None:
        host = self.hosts[name]
        self.spoke[name] = self.now
        mine = [task for task in self.tasks.values() if task["host"] == name]
        for task in mine:
            if task["state"] == OPEN and task["end"] <= self.now:
                broken = (name, task["arch"]) in self.broken
                task["state"] = FAILED if broken else CLOSED
        host["ready"] = host["enabled"] and sum(task["state"] == OPEN for task in mine) < 4
        if not host["ready"]:
            return
        for task in sorted(self.tasks.values(), key=lambda task: (task["priority"], task["id"])):
            assigned = task["state"] == ASSIGNED and task["host"] == name
            free = task["state"] == FREE and task["channel"] in host["channels"]
            if assigned or free:
                task.update(state=OPEN, host=name, end=self.now + task["seconds"])
                self.took.append((task["id"], name))
                return

    def dispatch(self, user: str | None, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.now < self.down_until:
            raise OSError("Connection refused")
        try:
            return super().dispatch(user, method, args, kwargs)
        except doubles.Fault as error:
            raise Fault(str(error)) from error

    # Calls

    def do_addHost(self, name: str, arches: list[str], force: bool = False) -> None:
        super().do_addHost(name, arches, force)
        self.hosts[name].update(id=len(self.hosts), ready=False, task_load=0.0)

    def do_getHost(self, name: str) -> Any:
        if name not in self.hosts:
            return None
        return {"name": name, **{key: value for key, value in self.hosts[name].items() if key != "channels"}}

    def do_getLastHostUpdate(self, number: int, ts: bool) -> Any:
        return self.spoke.get(self.host(number))

    def host(self, number: int) -> str:
        return next(name for name, host in self.hosts.items() if host["id"] == number)

    def do_listTasks(self, opts: dict[str, Any], query: dict[str, Any]) -> Any:
        name = self.host(opts["host_id"])
        found = [t for t in self.tasks.values() if t["host"] == name and t["state"] in opts["state"]]
        return [self.row(task) for task in found if task["method"] == opts.get("method", task["method"])]

    def row(self, task: dict[str, Any]) -> dict[str, Any]:
        host = self.hosts[task["host"]]["id"] if task["host"] else None
        return {**task, "host_id": host, "waiting": False}

    def do_getTaskInfo(self, number: int) -> Any:
        return self.row(self.tasks[number])

    def do_getTaskResult(self, number: int) -> Any:
        task = self.tasks[number]
        if task["state"] == FAILED:
            raise Fault("BuildError: error building package, mock exited with status 1; see root.log")
        if task["state"] != CLOSED:
            raise Fault(f"Task {number} is canceled")
        return {"rpms": [f"tasks/{number}/{builder.CANARY}-1-1.{task['arch']}.rpm"]}

    def do_makeTask(self, method: str, request: list[Any], arch: str, priority: int, assign: str) -> int:
        return self.make(method, arch, priority=priority, host=assign, request=request, state=ASSIGNED)

    def make(self, method: str = "buildArch", arch: str = "x86_64", **more: Any) -> int:
        number = len(self.tasks) + 1
        task = {"id": number, "method": method, "arch": arch, "state": FREE, "host": None, "channel": "default",
                "priority": 20, "seconds": self.seconds, "request": [], "end": 0.0}  # fmt: skip
        self.tasks[number] = {**task, **more}
        return number

    def do_freeTask(self, number: int) -> None:
        task = self.tasks[number]
        if task["state"] not in (FREE, OPEN, ASSIGNED):
            raise Fault(f"Cannot free task {number}, state is {task['state']}")
        task.update(state=FREE, host=None)

    def do_assignTask(self, number: int, name: str, force: bool, override: bool) -> bool:
        assert not self.version.startswith("1.30")
        self.tasks[number].update(state=ASSIGNED, host=name)
        return True

    def do_cancelTask(self, number: int) -> None:
        self.tasks[number]["state"] = CANCELED

    def do_getBuildConfig(self, tag: str) -> Any:
        return {"arches": self.tags[tag]["arches"]}

    def do_getRepo(self, tag: str) -> Any:
        return self.repo

    def do_uploadWrapper(self, path: str, directory: str) -> None:
        assert Path(path).is_file()


class Salt(koji_builder.Salt):
    """States that register a builder and start its kojid."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.registers: list[str] = []
        self.applied: list[str] = []
        self.fails = False

    def content(self, test: bool = False) -> None:
        self.applied.append("content")
        for name in self.registers:
            self.hub.do_addHost(name, ["x86_64"])
            self.hub.off.add(name)

    def highstate(self, name: str) -> list[str]:
        self.applied.append(name)
        if self.fails:
            raise BuilderError("The states failed", 5)
        self.hub.off.discard(name)
        return ["koji-builder-service"]


class Site:
    """A hub, its states, and `koji_builder.py` on them."""

    def __init__(self, tmp_path: Path, version: str = "1.30.0") -> None:
        self.hub = Hub(version)
        self.salt = Salt(self.hub)
        self.said: list[str] = []
        self.locks = tmp_path
        self.hub.sleep(1)

    def calls(self) -> builder.Hub:
        def session() -> Any:
            if self.hub.now < self.hub.down_until:
                raise RebuildError("The hub does not answer", 4)
            return self.hub.session()

        return builder.Hub(session, self.said.append, lambda: self.hub.now, self.hub.sleep)

    def __call__(self, verb: str, *names: str, **wishes: Any) -> tuple[list[dict[str, Any]], int]:
        work = Work(self.calls(), self.salt, Wishes(**{"timeout": 60, "canary_timeout": 60, **wishes}), self.said.append)
        return koji_builder.run(work, verb, names, self.locks)

    def held(self, name: str) -> Hold | None:
        return Hold.read(self.hub.hosts[name]["comment"])

    def as_before(self, name: str, comment: str | None = None) -> bool:
        host = self.hub.hosts[name]
        return (host["enabled"], set(host["channels"]), host["comment"] or "") == (
            True, {"default", "createrepo"}, comment or "",
        )  # fmt: skip


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    def make(directory: Path) -> Path:
        path = directory / f"{builder.CANARY}-1-1.src.rpm"
        path.write_text("x")
        return path

    monkeypatch.setattr(builder, "make_srpm", make)
    return Site(tmp_path)


# --- The note --------------------------------------------------------------------------------------


@pytest.mark.parametrize("comment", ["", "rack 3", "old [note]; x"])
@pytest.mark.parametrize("reason", ["", "new disk; and memory"])
@pytest.mark.parametrize("channels", [(), ("createrepo", "default")])
def test_note_is_read_as_it_was_written(comment: str, reason: str, channels: tuple[str, ...]) -> None:
    for retired in (True, False):
        note = Hold(retired, "2026-11-24 14:00 UTC", channels, reason, comment)
        assert Hold.read(str(note)) == note
    assert Hold.read(comment) is None and Hold.read(None) is None


def test_highstate_leaves_a_drained_builder_alone(site: Site) -> None:
    """koji.content neither enables it, nor takes it out of channels, nor removes the note; the rest it does."""
    data = content.parse({
        "users": {"kojiadmin": {"permissions": ["admin"]}},
        "hosts": {
            "b1": {"arches": "x86_64", "capacity": 7, "comment": "rack 3"},
            "b2": {"arches": "x86_64 i386", "channels": ["default", "createrepo"]},
        },
        "purge": {"host_channels": True, "hosts": True},
    })  # fmt: skip
    site("drain", "b1", reason="disk")
    session = site.hub.session()
    note = site.hub.hosts["b1"]["comment"]
    planned = content_plan.plan(data, content_live.read(session, data), session)
    assert planned.changes() == {"hosts": {"b1": {"old": {"arches": "x86_64 i386", "capacity": 2.0},
                                                  "new": {"arches": "x86_64", "capacity": 7.0}}}}  # fmt: skip
    assert "drained it on" in content_plan.surplus_text(planned)
    content_plan.apply(session, planned)
    host = site.hub.hosts["b1"]
    assert (host["enabled"], host["comment"], sorted(host["channels"])) == (False, note, ["createrepo", "default"])
    again = content_plan.plan(data, content_live.read(session, data), session)
    assert again.steps == ()
    site("enable", "b1")
    assert {"channels", "comment"} <= set(
        content_plan.plan(data, content_live.read(session, data), session).changes()["hosts"]["b1"]["new"]
    )


def test_retired_builder_stays_out_until_pillar_forgets_it(site: Site) -> None:
    """The state says so as long as pillar names it, and purge of hosts finds nothing to do afterwards."""
    site("retire", "b1")
    session = site.hub.session()
    for names in (("b1", "b2"), ("b2",)):
        data = content.parse({
            "users": {"kojiadmin": {"permissions": ["admin"]}},
            "hosts": {name: {"arches": "x86_64 i386", "channels": ["default", "createrepo"]} for name in names},
            "purge": {"hosts": True},
        })  # fmt: skip
        planned = content_plan.plan(data, content_live.read(session, data), session)
        assert planned.steps == ()
        assert ("retired it on" in content_plan.surplus_text(planned)) == ("b1" in names)


def test_export_has_builders_as_they_work(site: Site) -> None:
    site.hub.hosts["b1"]["comment"] = "rack 3"
    before = export(site.hub.session(), ["hosts"])
    site("drain", "b1")
    assert export(site.hub.session(), ["hosts"]) == before
    site("retire", "b1")
    assert export(site.hub.session(), ["hosts"])["hosts"]["b1"]["enabled"] is False


# --- Draining --------------------------------------------------------------------------------------


def test_drain_waits_and_loses_nothing(site: Site) -> None:
    """What runs is waited for, what was assigned and not begun goes to others, and nothing is run twice."""
    site.hub.hosts["b1"]["comment"] = "rack 3"
    site.hub.off = {"b2"}
    running = [site.hub.make(seconds=30) for _ in range(4)]
    site.hub.sleep(6)
    assert {name for _, name in site.hub.took} == {"b1"}
    waiting = site.hub.make(state=ASSIGNED, host="b1")
    site.hub.off = set()
    rows, status = site("drain", "b1", reason="disk")
    assert (status, rows[0]["state"], rows[0]["tasks"]) == (0, "drained", [])
    site.hub.sleep(10)
    assert [site.hub.tasks[number]["state"] for number in (*running, waiting)] == [CLOSED] * 5
    assert sorted(site.hub.took) == [*((number, "b1") for number in running), (waiting, "b2")]
    note = site.held("b1")
    assert note and (note.channels, note.reason, note.comment) == (("createrepo", "default"), "disk", "rack 3")
    site.hub.make()
    site.hub.sleep(10)
    assert site.hub.took[-1][1] == "b2"
    assert site("enable", "b1")[1] == 0
    assert site.as_before("b1", "rack 3")


def test_drain_gives_up_and_ends_nothing(site: Site) -> None:
    number = site.hub.make(seconds=1000)
    site.hub.off = {"b2"}
    site.hub.sleep(3)
    rows, status = site("drain", "b1", timeout=20)
    assert (status, rows[0]["state"], rows[0]["tasks"][0]["id"]) == (1, "drained", number)
    assert site.hub.tasks[number]["state"] == OPEN
    assert any("nothing of it was ended" in line for line in site.said)
    assert site("drain", "b1", timeout=2000)[1] == 0
    assert site.hub.tasks[number]["state"] == CLOSED and len(site.hub.took) == 1


def test_assigned_task_is_freed_only_when_the_builder_has_seen_it(site: Site) -> None:
    """A builder that has not taken its turn since may be taking that task just now."""
    site.hub.hosts["b1"]["ready"] = True
    site.hub.off = {"b1"}
    number = site.hub.make(state=ASSIGNED, host="b1")
    assert site("drain", "b1", timeout=30)[1] == 1
    assert site.hub.tasks[number]["state"] == ASSIGNED
    site.hub.off = set()
    assert site("drain", "b1")[1] == 0
    assert site.hub.tasks[number]["state"] != ASSIGNED


def test_lost_builder(site: Site) -> None:
    """Its tasks go to others on demand; never while the hub hears of it."""
    site.hub.off = {"b2"}
    number = site.hub.make(seconds=1000)
    site.hub.sleep(3)
    site.hub.off = {"b1"}
    with pytest.raises(BuilderError, match="so it is not lost") as raised:
        site("drain", "b1", lost=True)
    assert raised.value.status == 2 and site.hub.tasks[number]["host"] == "b1"
    site.hub.sleep(builder.AWAY + 1)
    assert site("retire", "b1", timeout=5)[1] == 1
    assert any("use --lost" in line for line in site.said)
    assert site("retire", "b1", lost=True)[1] == 0
    site.hub.sleep(3)
    assert site.hub.tasks[number]["host"] == "b2"


def test_hub_that_goes_away_is_waited_for(site: Site) -> None:
    site.hub.make(seconds=100)
    site.hub.off = {"b2"}
    site.hub.sleep(2)
    site.hub.at[site.hub.now + 20] = lambda: setattr(site.hub, "down_until", site.hub.now + 60)
    assert site("drain", "b1", timeout=300)[1] == 0
    assert any("the hub is away" in line for line in site.said)


def test_somebody_elses_disabled_builder(site: Site) -> None:
    """What a person has disabled is not put to work by a drain that ends."""
    site.hub.do_disableHost("b1")
    for verb in ("drain", "canary", "update", "add"):
        with pytest.raises(BuilderError, match="is disabled") as raised:
            site(verb, "b1")
        assert raised.value.status == 2
    assert site("enable", "b1")[1] == 0
    assert site.as_before("b1")


# --- Canaries --------------------------------------------------------------------------------------


def test_canary_in_work(site: Site) -> None:
    """One task an architecture, on that builder alone, before what waits; work goes on meanwhile."""
    queue = [site.hub.make(seconds=1) for _ in range(10)]
    rows, status = site("canary", "b2")
    assert (status, [row["arch"] for row in rows[0]["canary"]]) == (0, ["x86_64", "i686"])
    tasks = [row["task"] for row in rows[0]["canary"]]
    assert {name for number, name in site.hub.took if number in tasks} == {"b2"}
    assert rows[0]["canary"][0]["rpms"] == ["goose-canary-1-1.x86_64.rpm"]
    site.hub.sleep(10)
    assert all(site.hub.tasks[number]["state"] == CLOSED for number in queue)
    assert site.as_before("b2")


def test_canary_of_a_drained_builder(site: Site) -> None:
    """It gets the canary, and nothing else of a full queue."""
    site("drain", "b1")
    for _ in range(20):
        site.hub.make(seconds=3)
    rows, status = site("canary", "b1")
    assert status == 0
    canaries = {row["task"] for row in rows[0]["canary"]}
    assert {number for number, name in site.hub.took if name == "b1"} == canaries
    host = site.hub.hosts["b1"]
    assert (host["enabled"], sorted(host["channels"])) == (False, ["createrepo", "default"])


def test_canary_fails(site: Site) -> None:
    """One architecture of two: partly done; both: Koji's fault; the task's own words are told."""
    site.hub.broken = {("b1", "i386")}
    rows, status = site("canary", "b1")
    assert (status, rows[0]["canary"][0].get("error")) == (1, None)
    assert "mock exited with status 1" in rows[0]["canary"][1]["error"]
    site.hub.broken.add(("b1", "x86_64"))
    assert site("canary", "b1")[1] == 4
    site.hub.off = {"b1"}
    rows, status = site("canary", "b1", canary_timeout=20)
    assert status == 4 and "b1 has not begun it" in rows[0]["canary"][0]["error"]
    assert site.hub.tasks[rows[0]["canary"][0]["task"]]["state"] == CANCELED


def test_canary_on_newer_hub_is_kept_from_the_scheduler(tmp_path: Path, site: Site) -> None:
    site = Site(tmp_path, "1.35.3")
    assert site("canary", "b1")[1] == 0
    given = [(args[1:], kwargs) for method, args, kwargs in site.hub.calls if method == "assignTask"]
    assert given == [(("b1", True), {"override": True})] * 2


def test_canary_that_another_builder_ran_proves_nothing(site: Site) -> None:
    def moved() -> None:
        for task in site.hub.tasks.values():
            task["host"] = "b2"

    site.hub.at[site.hub.now + 3] = moved
    rows, status = site("canary", "b1")
    assert status == 4 and "run by another builder" in rows[0]["canary"][0]["error"]


def test_canary_needs_a_target_and_a_repo(site: Site) -> None:
    for target, sentence, status in (("wrong", "has no target 'wrong'", 2), ("", "has no repo", 4)):
        site.hub.repo = None
        with pytest.raises(BuilderError, match=sentence) as raised:
            site("canary", "b1", target=target)
        assert raised.value.status == status
    site.hub.repo = {"id": 1}
    site.hub.hosts["b1"]["arches"] = "ppc64le"
    with pytest.raises(BuilderError, match="there is nothing to try"):
        site("canary", "b1")
    site.hub.do_createBuildTarget("other", "dist-build", "dist")
    with pytest.raises(BuilderError, match="the hub has dist, other"):
        site("canary", "b1")


def test_killed_canary(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The builder is enabled and without a channel then; whatever is done next gives it back as it was."""
    class Killed(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise Killed

    for verb in ("canary", "drain", "enable", "update"):
        site("drain", "b1")
        with monkeypatch.context() as patch:
            patch.setattr(site.hub, "do_cancelTask", killed)
            patch.setattr(site.hub, "do_disableHost", killed)
            site.hub.at[site.hub.now + 2] = killed
            with pytest.raises(Killed):
                site("canary", "b1")
        assert (site.hub.hosts["b1"]["enabled"], site.hub.hosts["b1"]["channels"]) == (True, [])
        assert site("status", "b1")[0][0]["state"] == "being tried"
        assert site(verb, "b1")[1] == 0, verb
        assert set(site.hub.hosts["b1"]["channels"]) == {"default", "createrepo"}
        assert site("enable", "b1")[1] == 0
        assert site.as_before("b1")
        site.hub.sleep(20)
        assert not [task for task in site.hub.tasks.values() if task["state"] in (OPEN, ASSIGNED)]


def test_srpm() -> None:
    """The real one is made by rpmbuild, and is a source RPM."""
    import tempfile

    with tempfile.TemporaryDirectory() as work:
        path = builder.make_srpm(Path(work))
        said = subprocess.check_output(["rpm", "-qp", "--qf", "%{name} %{sourcepackage}", path], text=True)
    assert said == "goose-canary 1"


# --- The whole -------------------------------------------------------------------------------------


def test_update(site: Site) -> None:
    """One after the other; the queue goes on on the other one."""
    queue = [site.hub.make(seconds=4) for _ in range(30)]
    rows, status = site("update", "b1", "b2", timeout=300)
    assert (status, [row["state"] for row in rows]) == (0, ["in work", "in work"])
    assert site.salt.applied == ["b1", "b2"]
    site.hub.sleep(60)
    assert all(site.hub.tasks[number]["state"] == CLOSED for number in queue)
    assert len(site.hub.took) == len(site.hub.tasks), "a task was run twice"
    assert site.as_before("b1") and site.as_before("b2")


def test_update_that_fails_stops_there(site: Site) -> None:
    """The builder stays out of work, the next one is not touched, and a second run goes on."""
    site.salt.fails = True
    with pytest.raises(BuilderError, match="The states failed") as raised:
        site("update", "b1", "b2")
    assert raised.value.status == 5 and site.held("b1") and not site.held("b2")
    site.salt.fails = False
    site.hub.broken = {("b2", "x86_64")}
    rows, status = site("update", "b1", "b2")
    assert (status, [row["state"] for row in rows]) == (1, ["in work", "drained"])
    site.hub.broken = set()
    assert site("update", "b2")[1] == 0 and site.as_before("b2")


def test_update_by_command(site: Site, tmp_path: Path) -> None:
    with pytest.raises(BuilderError, match="ended with 3") as raised:
        site("update", "b1", command="exit 3")
    assert raised.value.status == 5 and site.held("b1")
    assert site("update", "b1", command=f"echo {{host}} >{tmp_path}/did")[1] == 0
    assert (tmp_path / "did").read_text() == "b1\n" and site.salt.applied == []


def test_add(site: Site) -> None:
    """Registered by koji.content, kept out of work until its canary has worked."""
    with pytest.raises(BuilderError, match="Pillar hosts does not give new the role koji.builder"):
        site("add", "new")
    site.salt.registers = ["new"]
    for _ in range(20):
        site.hub.make(seconds=1)
    rows, status = site("add", "new")
    assert (status, rows[0]["state"]) == (0, "in work")
    assert site.salt.applied[-2:] == ["content", "new"]
    first = next(number for number, name in site.hub.took if name == "new")
    assert first == rows[0]["canary"][0]["task"]
    assert site("add", "new")[0][0]["canary"], "one that works is only tried"
    assert site.salt.applied[-1] == "new"


def test_retire_and_back(site: Site) -> None:
    number = site.hub.make(seconds=40)
    site.hub.off = {"b2"}
    site.hub.sleep(2)
    rows, status = site("retire", "b1", timeout=10)
    assert status == 1 and rows[0]["channels"] and site.hub.tasks[number]["state"] == OPEN, "refused while a task runs"
    rows, status = site("retire", "b1")
    assert (status, rows[0]["state"], rows[0]["channels"]) == (0, "retired", [])
    assert any("salt-key -d b1" in line for line in site.said)
    assert site("retire", "b1")[1] == 0, "again changes nothing"
    for verb in ("enable", "update", "canary"):
        with pytest.raises(BuilderError, match="is retired"):
            site(verb, "b1")
    assert site("add", "b1")[1] == 0
    assert site.as_before("b1")


@pytest.mark.parametrize("verb", ["add", "canary", "drain", "enable", "update", "retire"])
def test_dry_run_changes_nothing(site: Site, verb: str) -> None:
    site.hub.make()
    site.hub.sleep(1)
    before = json.dumps([site.hub.hosts, site.hub.tasks])
    rows, status = site(verb, "b1", dry_run=True)
    assert status == 0 and isinstance(rows[0]["would"], list)
    assert json.dumps([site.hub.hosts, site.hub.tasks]) == before
    assert all(method.startswith(("get", "list")) for method, _, _ in site.hub.calls)


def test_unknown_builder_and_lock(site: Site) -> None:
    with pytest.raises(BuilderError, match="did you mean 'b1'") as raised:
        site("drain", "b1x")
    assert raised.value.status == 2
    with koji_builder.locked("b1", site.locks), pytest.raises(BuilderError, match="works on b1") as raised:
        site("drain", "b1")
    assert raised.value.status == 75
    with pytest.raises(BuilderError, match="no name of a host"):
        site("drain", "../b1")


def salt_run(*returned: Any, status: int = 0) -> tuple[koji_builder.Salt, list[list[str]]]:
    """Salt's command, which answers these one after the other."""
    commands: list[list[str]] = []
    left = list(returned)

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, status, left.pop(0), "")

    return koji_builder.Salt(lambda line: None, run, lambda seconds: None), commands


def test_salt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    state = {"x_|-koji-builder-service": {"__id__": "koji-builder-service", "result": True, "changes": {}, "comment": ""}}
    busy = json.dumps({"b1": ["The function \"state.apply\" is running as PID 7"]})
    salt, commands = salt_run(busy, f"a line for people\n{json.dumps({'b1': state})}")
    assert salt.highstate("b1") == ["koji-builder-service"]
    assert commands[1] == ["salt", "--out=json", "--out-indent=-1", "--timeout=300", "-L", "b1", "state.apply"]
    state["x_|-koji-builder-service"].update(result=False, comment="it does not run")
    for answer, said in (
        (json.dumps({"b1": state}), "it does not run"),
        (json.dumps({"b1": ["No matching sls"]}), "No matching sls"),
        ("", "applied nothing on b1"),
    ):
        with pytest.raises(BuilderError, match=said) as raised:
            salt_run(answer)[0].highstate("b1")
        assert raised.value.status == 5
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(BuilderError, match="run this on the Salt master"):
        salt_run("")[0].highstate("b1")


def test_command() -> None:
    """Usage errors before anything is asked."""
    program = [sys.executable, "-B", str(TREE / "scripts/koji_builder.py")]
    for words in ([], ["drain"], ["drain", "b1", "--timeout=-1"], ["drain", "b1", "--reason", "a]b"]):
        done = subprocess.run([*program, *words], capture_output=True, text=True, check=False)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False), words
    done = subprocess.run([*program, "--help"], capture_output=True, text=True, check=True)
    assert "retire" in done.stdout
