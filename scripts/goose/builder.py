"""A builder as Koji's hub has it: taken out of work without losing a task, tried, put back.

What the rules stand on was read in koji/daemon.py, kojid and kojihub.py of Koji 1.30.0, and in the
scheduler of 1.34 and newer:

- kojid asks at each turn whether its host is enabled, and says ``ready`` or not. A host that is
  disabled takes no task, not even one that is assigned to it; what it runs, it ends.
- A host that is enabled and in no channel takes what is assigned to it and nothing else.
- A task that is freed (`freeTask`) while it runs is ended by its kojid and begun anew elsewhere. So only
  tasks that nobody runs are freed: those ASSIGNED to a builder that has said that it takes none, and, on
  demand, those of a builder that is gone.
- From 1.34 on the hub takes an assigned task away again, unless it was assigned with ``override``.
"""

from __future__ import annotations

import datetime
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Callable

from goose.content import Hold, nearest
from goose.content_live import version_of
from goose.rebuild import RebuildError

EXIT_DONE, EXIT_PARTLY, EXIT_USAGE, EXIT_AUTHENTICATION, EXIT_KOJI, EXIT_TOOL, EXIT_RUNNING = 0, 1, 2, 3, 4, 5, 75

# koji.TASK_STATES
FREE, OPEN, CLOSED, CANCELED, ASSIGNED, FAILED = range(6)
_STATES = ("FREE", "OPEN", "CLOSED", "CANCELED", "ASSIGNED", "FAILED")

# Seconds without a word after which the hub counts a builder out (get_ready_hosts).
AWAY = 300
# Seconds that the hub may be away while something is waited for.
_PATIENCE = 300
_PAUSE = 2.0
# Before whatever waits: a builder sees the first hundred tasks alone.
_CANARY_PRIORITY = 1
CANARY = "goose-canary"

# Names of koji's errors that say nothing about the call: the session is over, or the hub is.
_PASSING = ("AuthExpired", "AuthError", "RetryError", "ServerOffline", "SequenceError")

Say = Callable[[str], None]


class BuilderError(Exception):
    """What is wrong and what to do, as a sentence; ``status`` is an exit status."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Task:
    """A task that a builder has."""

    id: int
    method: str
    arch: str
    state: str
    waiting: bool
    """Whether it only waits for other tasks, which may run anywhere."""

    def __str__(self) -> str:
        return f"{self.id} ({self.method}, {self.arch}{', waits for others' if self.waiting else ''})"


@dataclass(frozen=True)
class Builder:
    """A builder as the hub has it now."""

    name: str
    id: int
    arches: tuple[str, ...]
    enabled: bool
    ready: bool
    capacity: float
    load: float
    comment: str
    channels: tuple[str, ...]
    spoke: float | None
    """When it has last spoken to the hub, by the hub's clock; None: never."""
    heard: float | None
    """Seconds since then."""
    hold: Hold | None

    @property
    def state(self) -> str:
        """In a word: ``in work``, ``drained``, ``retired``, ``disabled`` (by somebody else), ``being tried``."""
        if self.hold is None:
            return "in work" if self.enabled else "disabled"
        if self.enabled:
            return "being tried"
        return "retired" if self.hold.retired else "drained"

    @property
    def away(self) -> bool:
        """Whether the hub counts on it no more."""
        return self.heard is None or self.heard > AWAY


@dataclass
class Tried:
    """One canary: the architecture, its task and what became of it."""

    arch: str
    task: int | None = None
    seconds: float = 0.0
    rpms: list[str] = field(default_factory=list)
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        """An entry of the result's ``canary``."""
        row = {**asdict(self), "seconds": round(self.seconds, 1)}
        return row if self.error else {key: value for key, value in row.items() if key != "error"}


class Hub:
    """Calls of a logged-in session. One that only asks is asked again while the hub is away for a while.

    ``open_session`` is `goose.rebuild.log_in`, or raises as that does.
    """

    def __init__(
        self,
        open_session: Callable[[], Any],
        say: Say,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._open = open_session
        self._say = say
        self.clock = clock
        self.sleep = sleep
        self._session = open_session()

    def __call__(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """What the hub answers. Raises `BuilderError` where it refuses, or stays away."""
        asks = method.startswith(("get", "list", "read", "has"))
        end = self.clock() + _PATIENCE
        told = False
        while True:
            try:
                return getattr(self._session, method)(*args, **kwargs)
            except Exception as error:
                passing = not hasattr(error, "faultCode") or type(error).__name__ in _PASSING
                reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
                if not passing:
                    raise BuilderError(f"The hub refuses {method}: {reason[0]}", EXIT_KOJI) from error
                if not asks or self.clock() > end:
                    sentence = f"The hub went away at {method} ({reason[0]}): run this again, it goes on from here."
                    raise BuilderError(sentence, EXIT_KOJI) from error
                if not told:
                    self._say(f"the hub is away ({reason[0]}); waiting for it")
                    told = True
            self.sleep(_PAUSE)
            try:
                self._session = self._open()
            except RebuildError as error:
                if error.status != EXIT_KOJI:
                    raise

    def upload(self, path: Path, directory: str) -> str:
        """Upload a file; where tasks find it, below ``work``."""
        try:
            self._session.uploadWrapper(str(path), directory)
        except Exception as error:
            raise BuilderError(f"{path.name} could not be uploaded: {error}", EXIT_KOJI) from error
        return f"{directory}/{path.name}"


# --- Asking ----------------------------------------------------------------------------------------


def builder(hub: Hub, name: str) -> Builder:
    """The builder of this name. Raises `BuilderError` where the hub has none."""
    row = hub("getHost", name)
    if row is None:
        known = nearest(name, [each["name"] for each in hub("listHosts")])
        end = known if known.endswith("?") else f"{known}." if known else "."
        raise BuilderError(f"The hub has no builder {name!r}{end}", EXIT_USAGE)
    return _builder(hub, row)


def builders(hub: Hub) -> list[Builder]:
    """All of them, by name."""
    return [_builder(hub, row) for row in sorted(hub("listHosts"), key=lambda row: row["name"])]


def _builder(hub: Hub, row: Mapping[str, Any]) -> Builder:
    last = hub("getLastHostUpdate", row["id"], ts=True)
    comment = row["comment"] or ""
    return Builder(
        name=row["name"],
        id=row["id"],
        arches=tuple(row["arches"].split()),
        enabled=bool(row["enabled"]),
        ready=bool(row["ready"]),
        capacity=float(row["capacity"]),
        load=float(row["task_load"] or 0),
        comment=comment,
        channels=tuple(sorted(each["name"] for each in hub("listChannels", row["name"]))),
        spoke=None if last is None else float(last),
        heard=None if last is None else max(0.0, hub.clock() - float(last)),
        hold=Hold.read(comment),
    )


def tasks(hub: Hub, host: int) -> list[Task]:
    """What the builder with this id has: tasks that run on it, and those that are assigned to it."""
    rows = hub("listTasks", {"host_id": host, "state": [OPEN, ASSIGNED]}, {"order": "id"})
    return [
        Task(row["id"], row["method"], row["arch"] or "noarch", _STATES[row["state"]], bool(row["waiting"])) for row in rows
    ]


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


# --- Taking out of work and putting back -----------------------------------------------------------


def hold(hub: Hub, name: str, reason: str = "", retire: bool = False) -> Builder:
    """Disable the builder, and note in its comment what it was; done before, this goes on from there.

    Raises `BuilderError` where somebody else has disabled it.
    """
    it = builder(hub, name)
    if it.state == "disabled" and not retire:
        raise BuilderError(
            f"{name} is disabled, and not by koji_builder.py (its comment: {it.comment or 'none'}): whoever did that"
            f" may enable it, or pillar koji:content:hosts:{name}:enabled does.",
            EXIT_USAGE,
        )
    note = it.hold or Hold(retire, _now(), it.channels, reason, it.comment)
    if retire and not note.retired:
        note = replace(note, retired=True, since=_now())
    if reason:
        note = replace(note, reason=reason)
    if note != it.hold:
        # First, so that whoever finds the builder disabled finds the reason too.
        hub("editHost", name, comment=str(note))
    if it.enabled:
        hub("disableHost", name)
    if not note.retired:
        _restore_channels(hub, name, note)
    return builder(hub, name)


def _restore_channels(hub: Hub, name: str, note: Hold) -> None:
    """Give back the channels of a builder, which a try that was killed may have left without."""
    has = {each["name"] for each in hub("listChannels", name)}
    for channel in note.channels:
        if channel not in has:
            hub("addHostToChannel", name, channel, force=True)


def release(hub: Hub, name: str) -> Builder:
    """Put the builder back to work: its channels, its comment, enabled."""
    it = builder(hub, name)
    if it.hold:
        _restore_channels(hub, name, it.hold)
    if not it.enabled:
        hub("enableHost", name)
    if it.hold:
        # Last: the note is what a run that is killed before goes on by.
        hub("editHost", name, comment=it.hold.comment)
    return builder(hub, name)


def drain(hub: Hub, name: str, timeout: float, say: Say, lost: bool = False) -> list[Task]:
    """Wait until the builder, which is held, has no task left; what it has after ``timeout`` seconds.

    Assigned tasks that it has not begun are freed for others, once it has said that it takes no more.

    Args:
        lost: the builder is gone for good: what it runs is freed for others, too.

    Raises:
        BuilderError: with ``lost``, where the hub hears of it still.
    """
    start = hub.clock()
    it = builder(hub, name)
    spoke = it.spoke
    if lost and not it.away:
        raise BuilderError(
            f"{name} has spoken to the hub {it.heard:.0f} seconds ago, so it is not lost: drain it without --lost,"
            f" or switch it off and wait {AWAY} seconds. Freed now, its tasks would be run twice.",
            EXIT_USAGE,
        )
    told: set[str] = set()
    while True:
        it = builder(hub, name)
        # It has spoken since it was disabled, and is not ready: the turn in which it may have taken a task is over.
        idle = it.away or (not it.ready and it.spoke != spoke)
        left = tasks(hub, it.id)
        for task in left:
            if (task.state == "ASSIGNED" and idle) or (lost and it.away):
                hub("freeTask", task.id)
                say(f"{name}: task {task} was freed for others")
        if idle:
            left = [task for task in left if task.state == "OPEN" and not (lost and it.away)]
        if idle and not left:
            say(f"{name} has no task left")
            return []
        words = {str(task) for task in left}
        if words - told or (told - words and words):
            say(f"{name}: waiting for {len(left)} task{'s' if len(left) > 1 else ''}: {', '.join(map(str, left))}")
        elif not words and not told:
            say(f"{name}: waiting until it has seen that it is disabled")
            words = {""}
        told = words
        if hub.clock() - start + _PAUSE > timeout:
            return left
        hub.sleep(_PAUSE)


def retire(hub: Hub, name: str) -> Builder:
    """Take the builder, which is held as retired and drained, out of all channels."""
    for channel in builder(hub, name).channels:
        hub("removeHostFromChannel", name, channel)
    return builder(hub, name)


def wait_for_word(hub: Hub, name: str, timeout: float, say: Say) -> None:
    """Wait until the builder speaks to the hub. Raises `BuilderError` where it has not within ``timeout`` seconds."""
    end = hub.clock() + timeout
    before = builder(hub, name).spoke
    say(f"{name}: waiting for its kojid to speak to the hub")
    while builder(hub, name).spoke == before:
        if hub.clock() + _PAUSE > end:
            raise BuilderError(
                f"{name} has not spoken to the hub within {timeout:.0f} seconds: `journalctl -u kojid` on it says why."
                " Then run this again.",
                EXIT_KOJI,
            )
        hub.sleep(_PAUSE)


# --- Canaries --------------------------------------------------------------------------------------

_SPEC = f"""\
Name: {CANARY}
Version: 1
Release: 1
Summary: A build that shows that a builder works
License: MIT
%global debug_package %{{nil}}
%description
A build that shows that a builder works. It is in no tag and is not kept.
%build
echo 'int main(void) {{ return 0; }}' >canary.c
gcc -o {CANARY} canary.c
./{CANARY}
%install
install -D -m 0755 {CANARY} %{{buildroot}}%{{_bindir}}/{CANARY}
%files
%{{_bindir}}/{CANARY}
"""

# What Koji calls the architecture of a task, where it is not that of the packages.
_BASE = {
    "i386": "i386", "i486": "i386", "i586": "i386", "i686": "i386", "armv7hl": "armhfp",
    "x86_64_v2": "x86_64", "x86_64_v3": "x86_64", "x86_64_v4": "x86_64",
}  # fmt: skip


def make_srpm(directory: Path) -> Path:
    """The canary's source RPM: a program that must compile and run. Raises `BuilderError` without rpmbuild."""
    spec = directory / f"{CANARY}.spec"
    spec.write_text(_SPEC, encoding="utf-8")
    command = ["rpmbuild", "-bs", "--nodeps"]
    for define in (f"_topdir {directory}", f"_sourcedir {directory}", f"_srcrpmdir {directory}", f"_dbpath {directory}/db"):
        command += ["--define", define]
    try:
        done = subprocess.run([*command, str(spec)], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise BuilderError("The canary needs rpmbuild: apply koji.client on this host.", EXIT_TOOL) from error
    made = list(directory.glob("*.src.rpm"))
    if done.returncode or len(made) != 1:
        raise BuilderError(f"rpmbuild made no source RPM of the canary: {(done.stderr or done.stdout).strip()}", EXIT_TOOL)
    return made[0]


def canary_target(hub: Hub, target: str) -> tuple[str, Mapping[str, str], int]:
    """Build tag, its architectures (Koji's base architecture -> the tag's), and its repo.

    ``target`` may be empty where the hub has one alone.
    """
    known = {each["name"]: each["build_tag_name"] for each in hub("getBuildTargets")}
    if not target and len(known) == 1:
        target = next(iter(known))
    if target not in known:
        names = ", ".join(sorted(known)) or "none"
        wrong = f"The hub has no target {target!r}" if target else "The canary needs a target"
        raise BuilderError(f"{wrong}: give --target, the hub has {names}.", EXIT_USAGE)
    tag = known[target]
    arches = (hub("getBuildConfig", tag)["arches"] or "").split()
    repo = hub("getRepo", tag)
    if repo is None:
        raise BuilderError(f"{tag} has no repo to build from: `koji regen-repo --wait {tag}` makes one.", EXIT_KOJI)
    return tag, {_BASE.get(arch, arch): arch for arch in reversed(arches)}, repo["id"]


def canary(hub: Hub, name: str, target: str, timeout: float, say: Say) -> list[Tried]:
    """Build the canary on exactly this builder, once for each architecture that it shares with the build tag.

    The builder must be in work, or held; where it is held, it is enabled without a channel meanwhile, and
    so gets these tasks alone. Afterwards it is held again.

    Raises:
        BuilderError: where it cannot be tried (it is disabled by somebody, or has no architecture of the tag).
    """
    tag, arches, repo = canary_target(hub, target)
    it = builder(hub, name)
    shared = [arch for arch in it.arches if arch in arches]
    if not shared:
        raise BuilderError(
            f"{name} builds for {' '.join(it.arches)}, and {tag} for {' '.join(sorted(arches))}: there is nothing"
            " to try. Give another --target.",
            EXIT_USAGE,
        )
    if it.state in ("disabled", "retired"):
        end = "`koji_builder.py add` brings it back" if it.hold else "enable it, or drain it by koji_builder.py"
        raise BuilderError(f"{name} is {it.state}, and so takes no task: {end}.", EXIT_USAGE)
    _cancel_canaries(hub, it.id, say)
    note = it.hold
    if note:
        it = hold(hub, name)
        for channel in it.channels:
            hub("removeHostFromChannel", name, channel)
        hub("enableHost", name)
    rows: list[Tried] = []
    try:
        with tempfile.TemporaryDirectory(prefix=f"{CANARY}-") as work:
            source = hub.upload(make_srpm(Path(work)), f"cli-build/{CANARY}.{hub.clock()}.{it.id}")
        override = version_of(hub("getKojiVersion")) >= (1, 34)
        for arch in shared:
            rows.append(_start(hub, it, source, tag, arch, arches[arch], repo, override))
            say(f"{name}: task {rows[-1].task} builds the canary for {rows[-1].arch}")
        _await(hub, it, rows, timeout, say)
    finally:
        if note:
            hold(hub, name)
        _cancel(hub, [row.task for row in rows if row.error or not row.rpms])
    return rows


def _start(
    hub: Hub, it: Builder, source: str, tag: str, base: str, arch: str, repo: int, override: bool
) -> Tried:
    task = hub(
        "makeTask", "buildArch", [source, tag, arch, False, {"repo_id": repo}],
        arch=base, priority=_CANARY_PRIORITY, assign=it.name,
    )  # fmt: skip
    if override:
        hub("assignTask", task, it.name, True, override=True)
    return Tried(arch, task)


def _await(hub: Hub, it: Builder, rows: Sequence[Tried], timeout: float, say: Say) -> None:
    start = hub.clock()
    running = list(rows)
    while running:
        for row in list(running):
            info = hub("getTaskInfo", row.task)
            if info["state"] in (FREE, OPEN, ASSIGNED):
                if hub.clock() - start + _PAUSE <= timeout:
                    continue
                where = f"{it.name} has not begun it" if info["state"] != OPEN else "it runs still"
                row.error = f"Task {row.task} was given up after {timeout:.0f} seconds: {where}."
            elif info["host_id"] != it.id:
                row.error = f"Task {row.task} was run by another builder: somebody has assigned it anew."
            elif info["state"] == CLOSED:
                row.rpms = [path.rpartition("/")[2] for path in hub("getTaskResult", row.task)["rpms"]]
                row.error = "" if row.rpms else f"Task {row.task} ended without an RPM."
            else:
                row.error = f"Task {row.task} ended as {_STATES[info['state']]}: {_failure(hub, row.task)}"
            running.remove(row)
            row.seconds = hub.clock() - start
            say(f"{it.name}: {row.arch}: {row.error or f'works, after {row.seconds:.0f} s'}")
        if running:
            hub.sleep(_PAUSE)


def _failure(hub: Hub, task: int | None) -> str:
    try:
        hub("getTaskResult", task)
    except BuilderError as error:  # what the builder raised
        return str(error).partition(": ")[2]
    return "it was cancelled"


def _cancel(hub: Hub, numbers: Iterable[int | None]) -> None:
    for number in numbers:
        if number is not None and hub("getTaskInfo", number)["state"] in (FREE, OPEN, ASSIGNED):
            hub("cancelTask", number)


def _cancel_canaries(hub: Hub, host: int, say: Say) -> None:
    """Those that a killed run has left; this run has the lock, so nobody waits for them."""
    rows = hub("listTasks", {"host_id": host, "state": [OPEN, ASSIGNED], "method": "buildArch", "decode": True}, {})
    for row in rows:
        request = row["request"] or [""]
        if str(request[0]).startswith(f"cli-build/{CANARY}."):
            hub("cancelTask", row["id"])
            say(f"task {row['id']}, a canary of an earlier run, was cancelled")


def back(hub: Hub, name: str) -> Builder:
    """Make a drained builder of a retired one, which then can be tried."""
    it = builder(hub, name)
    if it.hold and it.hold.retired:
        _restore_channels(hub, name, it.hold)
        hub("editHost", name, comment=str(replace(it.hold, retired=False)))
    return builder(hub, name)
