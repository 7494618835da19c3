"""What Koji leaves lying and neither koji-gc, kojira nor kojid removes: ``scripts/koji_clean.py``.

``volume`` (on the hub's host): what scratch builds made, ``scratch/USER/task_ID``; what tasks and uploads
left in ``work``. ``roots`` (on builders): build roots that nothing uses any more.

Nothing of a build is here: builds lie in ``packages``, repos in ``repos``, and neither is ever entered. What
a task that is not at its end may still read is kept, whatever its age. What has a name of no pattern below
is somebody else's: it is named and left.

What is to go is first moved aside, into ``.removed`` beside it, and then deleted: so nobody finds half of
it, and the next run deletes what a killed one has left there.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import stat
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

from goose import koji_call
from goose.content_live import Call, multicall

EXIT_DONE, EXIT_PARTLY, EXIT_USAGE, EXIT_KOJI, EXIT_TOOL, EXIT_RUNNING = 0, 1, 2, 4, 5, 75

CONFIG = Path("/etc/goose/koji-clean.json")
LOCKS = Path("/run/lock")
_ASIDE = ".removed"
_DAY = 86400.0

# koji.TASK_STATES: FREE, OPEN, ASSIGNED.
_UNDER_WAY = (0, 1, 4)

# Where kojid puts build roots: TAG-BUILDROOT-REPO, and mock's bootstrap root beside one.
_ROOT = re.compile(r".+-[0-9]+-[0-9]+(-bootstrap)?")

Say = Callable[[str], None]


class CleanError(Exception):
    """What is wrong and what to do, as a sentence; ``status`` is an exit status."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Config:
    """What the state koji.gc writes into `CONFIG`."""

    topdir: Path
    """Koji's volume."""
    mockdir: Path
    server: str
    serverca: str
    scratch_days: float
    work_days: float
    roots_days: float
    dry_run: bool

    @classmethod
    def read(cls, path: Path) -> Config:
        """Read the file. Raises `CleanError` where it cannot be used."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            sentence = f"{path}: {error.strerror}: apply koji.gc or koji.builder on this host."
            raise CleanError(sentence, EXIT_USAGE) from error
        except ValueError as error:
            raise CleanError(f"{path} is no JSON ({error}): apply the states on this host.", EXIT_USAGE) from error
        try:
            config = cls(
                **{
                    **{key: data[key] for key in cls.__dataclass_fields__},
                    "topdir": Path(data["topdir"]),
                    "mockdir": Path(data["mockdir"]),
                }
            )
        except (KeyError, TypeError) as error:
            raise CleanError(f"{path} lacks {error}: apply the states on this host.", EXIT_USAGE) from error
        for key in ("topdir", "mockdir"):
            where = getattr(config, key)
            if not where.is_absolute() or ".." in where.parts or len(where.parts) < 3:
                sentence = f"{path}: {key} is {where}: give an absolute path below a directory of its own."
                raise CleanError(sentence, EXIT_USAGE)
        for key in ("scratch_days", "work_days", "roots_days"):
            days = getattr(config, key)
            if isinstance(days, bool) or not isinstance(days, (int, float)) or days < 0:
                raise CleanError(f"{path}: {key} is {days!r}: give a number of days.", EXIT_USAGE)
        if not isinstance(config.dry_run, bool):
            raise CleanError(f"{path}: dry_run is {config.dry_run!r}: say true or false.", EXIT_USAGE)
        return config


@dataclass
class Report:
    """What was found and done; ``removed`` is what would be removed where ``dry_run`` is true."""

    dry_run: bool
    removed: list[str] = field(default_factory=list)
    bytes: int = 0
    kept: dict[str, str] = field(default_factory=dict)
    """Old, and yet kept: path -> why."""
    foreign: list[str] = field(default_factory=list)
    """Of no known pattern."""
    failures: list[str] = field(default_factory=list)

    @property
    def status(self) -> int:
        """The exit status."""
        return EXIT_PARTLY if self.failures else EXIT_DONE


class Area:
    """A directory out of which things are removed, and nothing beside it.

    Raises `CleanError` where there is no such directory.
    """

    def __init__(self, path: Path, report: Report, say: Say) -> None:
        if not path.is_dir():
            raise CleanError(f"There is no directory {path}: is it mounted?", EXIT_USAGE)
        # Once: a site may have it on another disk. Below it no link is followed.
        self.path = path.resolve()
        self._report = report
        self._say = say

    def entries(self, *below: str) -> Iterator[Path]:
        """What lies in the area, or in a directory of it; links are none of our business."""
        directory = self.path.joinpath(*below)
        with contextlib.suppress(FileNotFoundError), os.scandir(directory) as found:
            for entry in sorted(found, key=lambda each: each.name):
                if entry.name == _ASIDE:
                    continue
                if entry.is_symlink():
                    self._report.foreign.append(entry.path)
                else:
                    yield Path(entry.path)

    def empty(self) -> None:
        """Delete what was moved aside, by this run or by one that was killed."""
        aside = self.path / _ASIDE
        if self._report.dry_run or not aside.is_dir() or aside.is_symlink():
            return
        with os.scandir(aside) as found:
            entries = list(found)
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                else:
                    os.unlink(entry.path)
            except OSError as error:
                self._report.failures.append(f"{entry.path} could not be deleted: {error.strerror}.")

    def remove(self, path: Path) -> None:
        """Remove one thing of the area.

        Raises `CleanError`, and removes nothing, where the path leads out of the area.
        """
        inside = path.parent.resolve() / path.name
        if path.name in ("", ".", "..") or self.path not in inside.parents or inside.is_symlink():
            raise CleanError(f"{path} is not in {self.path}: it is left alone.", EXIT_USAGE)
        size = _size(inside)
        if not self._report.dry_run:
            aside = self.path / _ASIDE
            try:
                aside.mkdir(mode=0o700, exist_ok=True)
                os.rename(inside, aside / f"{time.time_ns()}-{inside.name}")
            except OSError as error:
                why = "something is mounted on it" if error.errno in (errno.EBUSY, errno.EXDEV) else error.strerror
                self._report.failures.append(f"{inside} was not removed: {why}.")
                return
        self._report.removed.append(str(inside))
        self._report.bytes += size
        self._say(f"{'would remove' if self._report.dry_run else 'removed'} {inside} ({size / 1e6:.1f} MB)")


def _walk(path: Path) -> Iterator[os.stat_result]:
    """The status of a thing, and of all that is in it."""
    with contextlib.suppress(FileNotFoundError):
        status = path.lstat()
        yield status
        if stat.S_ISDIR(status.st_mode):
            with os.scandir(path) as found:
                for entry in found:
                    yield from _walk(Path(entry.path))


def _size(path: Path) -> int:
    return sum(status.st_blocks * 512 for status in _walk(path))


def _newest(path: Path) -> float:
    """When something in it was last written, in seconds since the epoch."""
    return max((status.st_mtime for status in _walk(path)), default=0.0)


# --- The volume ------------------------------------------------------------------------------------


def clean_volume(
    config: Config, session: Any, report: Report, say: Say, now: Callable[[], float] = time.time
) -> None:
    """Remove old output of scratch builds and old files of tasks.

    Args:
        session: of the hub, which says what is still under way; asked first, and nothing is removed
            where it does not answer.
    """
    if not (config.topdir / "packages").is_dir():
        raise CleanError(f"{config.topdir} has no directory packages, so it is no Koji volume: is it mounted?", EXIT_USAGE)
    scratch = Area(config.topdir / "scratch", report, say)
    work = Area(config.topdir / "work", report, say)
    read_by = _read_by(session)
    for area in (scratch, work):
        area.empty()

    old = now() - config.scratch_days * _DAY
    for user in scratch.entries():
        for path in scratch.entries(user.name) if user.is_dir() else [user]:
            if not re.fullmatch(r"task_[0-9]+", path.name) or not path.is_dir():
                report.foreign.append(str(path))
            elif _newest(path) < old:
                scratch.remove(path)

    old = now() - config.work_days * _DAY
    of_tasks: dict[int, Path] = {}
    for directory in work.entries():
        if directory.name == "tasks":
            for part in work.entries("tasks"):
                for path in work.entries("tasks", part.name) if part.is_dir() else [part]:
                    if not path.name.isdigit() or not path.is_dir():
                        report.foreign.append(str(path))
                    elif _newest(path) < old:
                        of_tasks[int(path.name)] = path
        elif directory.name.startswith("cli-") and directory.is_dir():
            for path in work.entries(directory.name):
                name = f"{directory.name}/{path.name}"
                if _newest(path) >= old:
                    continue
                if name in read_by:
                    report.kept[str(path)] = f"task {read_by[name]} is not at its end"
                else:
                    work.remove(path)
        else:
            report.foreign.append(str(directory))
    under_way = _under_way(session, of_tasks)
    for number, path in sorted(of_tasks.items()):
        if number in under_way:
            report.kept[str(path)] = f"task {number} is not at its end"
        else:
            work.remove(path)
    for area in (scratch, work):
        area.empty()


def _read_by(session: Any) -> dict[str, int]:
    """The uploads (DIRECTORY/NAME below ``work``) that tasks under way name, and such a task for each."""
    found: dict[str, int] = {}

    def look(value: Any, task: int) -> None:
        if isinstance(value, str):
            parts = value.split("/")
            if len(parts) > 1 and parts[0].startswith("cli-"):
                found["/".join(parts[:2])] = task
        elif isinstance(value, Mapping):
            for each in value.values():
                look(each, task)
        elif isinstance(value, (list, tuple)):
            for each in value:
                look(each, task)

    for row in session.listTasks({"state": list(_UNDER_WAY), "decode": True}, {}):
        look(row["request"], row["id"])
    return found


def _under_way(session: Any, numbers: Iterable[int]) -> set[int]:
    """Those tasks that are not at their end, or whose parent is not: it may read what they have left."""
    wanted = set(numbers)
    rows: dict[int, Mapping[str, Any]] = {}
    ask = wanted
    while ask:
        asked = sorted(ask)
        answers = multicall(session, [Call("getTaskInfo", (number,)) for number in asked])
        # A task that the hub has forgotten (koji-sweep-db) is None.
        rows.update(zip(asked, (row or {} for row in answers)))
        ask = {row["parent"] for row in rows.values() if row.get("parent")} - rows.keys()

    def runs(number: int) -> bool:
        row = rows[number]
        return row.get("state") in _UNDER_WAY or bool(row.get("parent") and runs(row["parent"]))

    return {number for number in wanted if runs(number)}


# --- Build roots -----------------------------------------------------------------------------------


def clean_roots(
    config: Config,
    report: Report,
    say: Say,
    now: Callable[[], float] = time.time,
    proc: Path = Path("/proc"),
    kojid: Path = Path("/etc/mock/koji"),
) -> None:
    """Remove old build roots of kojid that no process uses, in which nothing is mounted.

    kojid removes those that it knows. It does not know one whose configuration is gone, and it waits
    for ever with one that the hub has forgotten or never heard the end of.
    """
    area = Area(config.mockdir, report, say)
    area.empty()
    old = now() - config.roots_days * _DAY
    used, mounted = _used(proc), _mounted(proc)
    for path in area.entries():
        if not path.is_dir() or not _ROOT.fullmatch(path.name):
            report.foreign.append(str(path))
            continue
        # mock's own files change at each step; what is in the root may have any time.
        parts = [path, *(path / part for part in ("root", "result", "results", "buildroot.lock"))]
        if max(part.lstat().st_mtime for part in parts if part.exists()) >= old:
            continue
        users = sorted(pid for pid, places in used.items() if any(_within(place, path) for place in places))
        if users:
            report.kept[str(path)] = f"process {users[0]} uses it"
        elif points := [point for point in mounted if _within(point, path)]:
            report.kept[str(path)] = f"{points[0]} is mounted"
        else:
            area.remove(path)
            config_file = kojid / f"{path.name}.cfg"
            if not report.dry_run and not path.exists() and config_file.is_file():
                config_file.unlink()
    area.empty()


def _within(place: str, path: Path) -> bool:
    return place == str(path) or place.startswith(f"{path}/")


def _used(proc: Path) -> dict[int, set[str]]:
    """Process -> its root, its directory and its open files."""
    found: dict[int, set[str]] = {}
    for process in proc.iterdir():
        if not process.name.isdigit():
            continue
        places = found.setdefault(int(process.name), set())
        links = [process / "root", process / "cwd"]
        # Processes end while they are looked at.
        with contextlib.suppress(OSError):
            links += list((process / "fd").iterdir())
        for link in links:
            with contextlib.suppress(OSError):
                places.add(os.readlink(link))
    return found


def _mounted(proc: Path) -> list[str]:
    lines = (proc / "self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    return [re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), line.split()[4]) for line in lines]


# --- Command line ----------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock at ``path``; `CleanError` where another run holds it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CleanError(f"{path} cannot be opened ({error.strerror}): run this as root.", EXIT_USAGE) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CleanError("Another koji_clean.py runs here: wait for it.", EXIT_RUNNING) from error
        yield
    finally:
        os.close(descriptor)


def main(argv: Sequence[str] | None = None) -> int:
    """``scripts/koji_clean.py``; the exit status."""
    parser = argparse.ArgumentParser(
        prog="koji_clean.py",
        description="Remove what Koji leaves on its volume (scratch, work) and on builders (build roots).",
        epilog="Exit status: 0 done, 1 something could not be removed, 2 usage, 4 Koji, 5 the disk, 75 already running.",
    )
    parser.add_argument("what", choices=("volume", "roots"), help="the volume, on the hub; build roots, on a builder")
    parser.add_argument("--config", type=Path, default=CONFIG, metavar="FILE", help=f"(default: {CONFIG})")
    wish = parser.add_mutually_exclusive_group()
    wish.add_argument("--dry-run", action="store_true", help="say what would be removed, and remove nothing")
    wish.add_argument("--remove", action="store_true", help="remove, though pillar koji:gc:dry_run is true")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    args = parser.parse_args(argv)
    start = time.monotonic()

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        config = Config.read(args.config)
        report = Report(args.dry_run or (config.dry_run and not args.remove))
        with locked(LOCKS / f"koji-clean-{args.what}.lock"):
            if args.what == "roots":
                clean_roots(config, report, say)
            else:
                clean_volume(config, koji_call.connect(config.server, config.serverca), report, say)
    except (CleanError, koji_call.Unanswered) as error:
        print(f"koji_clean.py: {error}", file=sys.stderr)
        return error.status
    except OSError as error:
        print(f"koji_clean.py: the disk failed: {error}", file=sys.stderr)
        return EXIT_TOOL
    except KeyboardInterrupt:
        print("koji_clean.py: interrupted; the next run goes on from here.", file=sys.stderr)
        return EXIT_PARTLY
    except Exception as error:  # the hub went away between two calls
        print(f"koji_clean.py: the hub failed, nothing more was removed: {error}", file=sys.stderr)
        return EXIT_KOJI
    if args.json:
        fields = {key: getattr(report, key) for key in report.__dataclass_fields__}
        print(json.dumps({**fields, "seconds": round(time.monotonic() - start, 1)}))
        return report.status
    for path, why in sorted(report.kept.items()):
        print(f"kept: {path}: {why}")
    for path in report.foreign:
        print(f"not known here, left alone: {path}")
    for failure in report.failures:
        print(failure)
    verb = "would be removed" if report.dry_run else "removed"
    print(f"{len(report.removed)} {verb}, {report.bytes / 1e6:.1f} MB; {len(report.kept)} old ones kept")
    return report.status
