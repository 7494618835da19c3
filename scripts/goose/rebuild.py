"""Source RPMs built in Koji, in the order in which they need each other.

What is done already is asked of Koji: a build that is complete is not built again, one that is
under way is waited for. So a run that was killed is simply run again.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from goose import koji_call
from goose.srpm import Header, SrpmError, contents
from goose.srpm import read as read_header

EXIT_DONE, EXIT_PARTLY, EXIT_USAGE, EXIT_AUTHENTICATION, EXIT_KOJI, EXIT_TOOL = 0, 1, 2, 3, 4, 5

# Seconds that a new repo may take.
_REPO_WAIT = 3600

# States of a task that has not ended.
_UNDER_WAY = ("FREE", "OPEN", "ASSIGNED")
# Added to the priority of a build that no other waits for: those that others need are built first.
_NOT_URGENT = 5

Say = Callable[[str], None]


class RebuildError(Exception):
    """What is wrong and what to do, as a sentence; ``status`` is an exit status."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Srpm:
    """A source RPM, as far as its header and the text of its spec file tell."""

    path: Path
    name: str
    version: str
    release: str
    needs: frozenset[str]
    """Names in BuildRequires."""
    gives: frozenset[str]
    """Names that its packages provide, as far as its spec says without being run."""
    dist: str = ""
    """What %{dist} was when the source RPM was made, where the spec uses it."""
    scm: str = ""
    """Where its content is in source control, as Koji is told; built from there instead of being uploaded."""

    @property
    def nvr(self) -> str:
        """Name, version and release of the file."""
        return f"{self.name}-{self.version}-{self.release}"


@dataclass
class Built:
    """What became of one source RPM."""

    srpm: Srpm
    nvr: str = ""
    task: int | None = None
    seconds: float = 0.0
    error: str = ""
    started: float = field(default=0.0, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """One entry of the result's `builds`."""
        row = {"nvr": self.nvr or self.srpm.nvr, "task": self.task, "seconds": round(self.seconds, 1)}
        return {**row, "error": self.error} if self.error else row


# --- Reading ---------------------------------------------------------------------------------------


def read(path: Path) -> Srpm:
    """Read a source RPM without running anything of it. Raises `RebuildError` where it is none."""
    if not path.is_file():
        raise RebuildError(f"There is no file {path}.", EXIT_USAGE)
    try:
        header = read_header(path)
        spec = _spec_text(header)
    except SrpmError as error:
        raise RebuildError(f"{path}: {error}", EXIT_USAGE) from error
    name, release = header.name, header.release
    return Srpm(path, name, header.version, release, header.requires, gives(name, spec), dist_of(release, spec))


def in_scm(srpms: Sequence[Srpm], result: Path) -> list[Srpm]:
    """The source RPMs with their places in source control, by the result of `srpm_import.py --json`.

    Raises `RebuildError` where one has none.
    """
    try:
        rows = json.loads(result.read_text(encoding="utf-8"))["srpms"]
        urls = {Path(row["srpm"]).resolve(): row["url"] for row in rows if row.get("url")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RebuildError(f"{result} is no result of srpm_import.py --json ({error}).", EXIT_USAGE) from error
    for srpm in srpms:
        if srpm.path.resolve() not in urls:
            raise RebuildError(f"{result} does not say where {srpm.path} is in source control: import it.", EXIT_USAGE)
    return [replace(srpm, scm=urls[srpm.path.resolve()]) for srpm in srpms]


def gives(name: str, spec: str) -> frozenset[str]:
    """Names that the packages of a spec provide: packages, pkgconfig files, explicit Provides.

    The text alone is read: running a foreign spec's macros would run its shell code here.
    """
    found = {name}
    for line in spec.splitlines():
        package = re.match(r"%package\s+(-n\s+)?(\S+)", line)
        if package:
            sub = package.group(2).replace("%{name}", name).replace("%name", name)
            found.add(sub if package.group(1) else f"{name}-{sub}")
        provides = re.match(r"Provides:\s*(.+)", line, re.IGNORECASE)
        if provides:
            found.update(re.findall(r"[A-Za-z][\w.+()-]*", provides.group(1).replace("%{name}", name)))
    found.update(f"pkgconfig({module})" for module in re.findall(r"([\w.+-]+)\.pc\b", spec))
    return frozenset(found)


def dist_of(release: str, spec: str) -> str:
    """What %{dist} was when the source RPM of this release was made; empty where unused or undefined."""
    line = re.search(r"^Release:\s*(\S+)", spec, re.MULTILINE | re.IGNORECASE)
    if line is None or "dist}" not in line.group(1):
        return ""
    before = re.split(r"%\{\??dist\}", line.group(1))[0]
    return release[len(before) :] if "%" not in before and release.startswith(before) else ""


def _spec_text(header: Header) -> str:
    for member, blocks in contents(header):
        if member.name.endswith(".spec"):
            return b"".join(blocks).decode("utf-8", "replace")
        collections.deque(blocks, maxlen=0)
    return ""


# --- Order -----------------------------------------------------------------------------------------


def order(srpms: Iterable[Srpm]) -> dict[str, set[str]]:
    """Source package -> the others of the set that it needs first.

    Packages that need each other in a circle are left without an order among themselves: the
    first of them can only be built from what the build tag holds already.
    """
    by_name = {srpm.name: srpm for srpm in srpms}
    needs = {
        srpm.name: {other.name for other in by_name.values() if other is not srpm and srpm.needs & other.gives}
        for srpm in by_name.values()
    }

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        stack = list(needs[start])
        while stack:
            name = stack.pop()
            if name not in seen:
                seen.add(name)
                stack.extend(needs[name])
        return seen

    reachable = {name: reach(name) for name in needs}
    return {name: {other for other in found if name not in reachable[other]} for name, found in needs.items()}


def same_release(srpm: Srpm, release: str, dist: str) -> bool:
    """Whether a build with ``release`` in a tag whose %{dist} is ``dist`` was made of ``srpm``."""
    if release == srpm.release:
        return True
    stem = srpm.release[: -len(srpm.dist)] if srpm.dist else srpm.release
    return bool(dist) and release == f"{stem}{dist}"


# --- Building --------------------------------------------------------------------------------------


class Rebuild:
    """Builds of one target, by a logged-in session."""

    def __init__(
        self,
        session: Any,
        target: str,
        say: Say,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        pause: float = 2.0,
    ) -> None:
        koji: Any = importlib.import_module("koji")
        self._koji = koji
        self._session = session
        self._say = say
        self._clock = clock
        self._sleep = sleep
        self._pause = pause
        found = session.getBuildTarget(target)
        if found is None:
            known = ", ".join(sorted(each["name"] for each in session.getBuildTargets()))
            raise RebuildError(f"The hub has no target {target!r}; it has {known or 'none'}.", EXIT_USAGE)
        self.target = target
        self.build_tag = found["build_tag_name"]
        self.dest_tag = found["dest_tag_name"]
        config = session.getBuildConfig(self.build_tag)
        self._repo_was_current = False
        self.dist = str((config.get("extra") or {}).get("rpm.macro.dist", ""))

    def plan(self, srpms: Sequence[Srpm]) -> list[tuple[Srpm, str]]:
        """Each source RPM in an order that works, with what would be done: ``build``, or the state it has."""
        needs = order(srpms)
        rows: list[tuple[Srpm, str]] = []
        left = {srpm.name: srpm for srpm in srpms}
        while left:
            done = {srpm.name for srpm, _ in rows}
            ready = sorted(name for name in left if not (needs[name] & left.keys()) - done)
            for name in ready:
                srpm = left.pop(name)
                build = self._existing(srpm)
                rows.append((srpm, f"{build['nvr']} is there" if build else "build"))
        return rows

    def run(self, srpms: Sequence[Srpm]) -> list[Built]:
        """Build all, as many at a time as their needs allow; one that fails does not stop the rest."""
        results = {srpm.name: Built(srpm) for srpm in srpms}
        needs = order(srpms)
        urgent = set().union(*needs.values())
        waiting = dict(results)
        running: dict[str, Built] = {}
        told: set[str] = set()
        while waiting or running:
            for name in sorted(waiting):
                if needs[name] & (waiting.keys() | running.keys()):
                    continue
                built = waiting[name]
                failed = sorted(other for other in needs[name] if results[other].error)
                if failed:
                    built.error = f"It needs {', '.join(failed)}, which did not build."
                    self._say(f"{built.srpm.nvr}: {built.error}")
                elif not self._repo_holds([results[other].nvr for other in needs[name]]):
                    if name not in told:
                        told.add(name)
                        self._say(f"{built.srpm.nvr}: waiting for a repo of {self.build_tag} with what it needs")
                    continue
                del waiting[name]
                if failed:
                    continue
                self._start(built, 0 if name in urgent else _NOT_URGENT)
                if built.task is not None:
                    running[name] = built
            for name in list(running):
                built = running[name]
                state = self._state(built.task)
                if state not in _UNDER_WAY and self._ended(built, state):
                    del running[name]
            if waiting or running:
                self._sleep(self._pause)
        return list(results.values())

    def _list_package(self, srpm: Srpm) -> None:
        """Koji builds only what is in the tag's package list."""
        if not self._session.checkTagPackage(self.dest_tag, srpm.name):
            owner = self._session.getLoggedInUser()["name"]
            self._session.packageListAdd(self.dest_tag, srpm.name, owner)
            self._say(f"{srpm.name} was added to the package list of {self.dest_tag}")

    def _wait_for_current_repo(self) -> None:
        """Wait until the build tag has a repo with all that is tagged by now.

        A repo older than that builds in an old build root, or in an empty one just after the
        bootstrap, with failures that do not say so.
        """
        now = self._session.getLastEvent()["id"]
        parents = self._session.getFullInheritance(self.build_tag)
        tags = [self._session.getTag(self.build_tag)["id"], *(link["parent_id"] for link in parents)]
        told = False
        end = self._clock() + _REPO_WAIT
        while True:
            repo = self._session.getRepo(self.build_tag)
            if repo:
                made = repo["create_event"]
                if made >= now or not self._session.tagChangedSinceEvent(made, tags):
                    return
            if not told:
                self._say(f"waiting for a repo of {self.build_tag} with all that is tagged")
                told = True
            if self._clock() > end:
                sentence = f"{self.build_tag} got no new repo in {_REPO_WAIT} s: does kojira run, and does newRepo succeed?"
                raise RebuildError(sentence, EXIT_KOJI)
            self._sleep(self._pause)

    def _existing(self, srpm: Srpm) -> Mapping[str, Any] | None:
        """The build of this source RPM that is complete and tagged, or else ``under_way``."""
        states = self._koji.BUILD_STATES
        package = self._session.getPackageID(srpm.name)
        if package is None:
            return None
        tagged = {row["nvr"] for row in self._session.listTagged(self.dest_tag, package=srpm.name, inherit=True)}
        for build in self._session.listBuilds(packageID=package):
            if build["version"] != srpm.version or not same_release(srpm, build["release"], self.dist):
                continue
            if build["state"] == states["BUILDING"]:
                return {**build, "under_way": True}
            if build["state"] == states["COMPLETE"] and build["nvr"] in tagged:
                return {**build, "under_way": False}
            # Complete is first, and tagged by the end of its task.
            if build["state"] == states["COMPLETE"] and self._state(build["task_id"]) in _UNDER_WAY:
                return {**build, "under_way": True}
        return None

    def _state(self, task: int | None) -> str:
        """The name of a task's state; nothing where a build has no task."""
        return str(self._koji.TASK_STATES[self._session.getTaskInfo(task)["state"]]) if task is not None else ""

    def _start(self, built: Built, priority: int) -> None:
        srpm = built.srpm
        built.started = self._clock()
        build = self._existing(srpm)
        if build is not None:
            built.nvr = build["nvr"]
            if not build["under_way"]:
                self._say(f"{built.nvr} is built already")
                return
            built.task = build["task_id"]
            self._say(f"{built.nvr}: waiting for task {built.task}, which is under way")
            return
        if not self._repo_was_current:
            self._wait_for_current_repo()
            self._repo_was_current = True
        self._list_package(srpm)
        built.task = self._session.build(srpm.scm or self._upload(srpm), self.target, {}, priority)
        self._say(f"{srpm.nvr}: task {built.task}")

    def _upload(self, srpm: Srpm) -> str:
        directory = f"cli-build/{time.time()}.{os.getpid()}.{srpm.name}"
        self._session.uploadWrapper(str(srpm.path), directory)
        return f"{directory}/{srpm.path.name}"

    def _repo_holds(self, nvrs: Sequence[str]) -> bool:
        """Whether the newest repo of the build tag was made with these builds."""
        if not nvrs:
            return True
        repo = self._session.getRepo(self.build_tag)
        builds = [dict(self._session.getBuild(nvr)) for nvr in nvrs]
        holds = repo and self._koji.util.checkForBuilds(self._session, self.build_tag, builds, repo["create_event"])
        return bool(holds)

    def _ended(self, built: Built, state: str) -> bool:
        """Say what has come of a task that has ended; false where another task builds the same."""
        built.seconds = self._clock() - built.started
        builds = self._session.listBuilds(taskID=built.task)
        built.nvr = built.nvr or (builds[0]["nvr"] if builds else built.srpm.nvr)
        if state == "CLOSED":
            self._say(f"{built.nvr}: complete after {built.seconds:.0f} s")
            return True
        other = self._existing(built.srpm)
        if other is not None and other["task_id"] != built.task:
            # A run that was killed had asked for it too, before Koji knew the build, and it is built only once.
            built.nvr, built.task = other["nvr"], other["task_id"]
            self._say(f"{built.nvr}: built by task {built.task}")
            return built.task is None
        try:
            self._session.getTaskResult(built.task)
            reason = "it was cancelled"
        except Exception as error:  # whatever the builder raised, or that it was cancelled
            reason = str(error).strip()
        built.error = f"Task {built.task} ended as {state}: {reason}"
        self._say(f"{built.nvr}: {built.error}")
        return True


def log_in(profile: str) -> Any:
    """A session of the hub that a koji profile names, logged in by the profile's certificate.

    Raises `RebuildError` where there is no such profile, or the hub does not answer or refuses.
    """
    try:
        koji: Any = importlib.import_module("koji")
        options = koji.read_config(profile)
    except ImportError as error:
        sentence = "/usr/bin/python3 has no koji client: apply koji.client on this host."
        raise RebuildError(sentence, EXIT_USAGE) from error
    except Exception as error:
        raise RebuildError(f"There is no koji profile {profile!r} ({error}): give --profile.", EXIT_USAGE) from error
    cert, serverca = (os.path.expanduser(options.get(key) or "") for key in ("cert", "serverca"))
    try:
        return koji_call.connect(options["server"], serverca, cert)
    except koji_call.Unanswered as error:
        raise RebuildError(str(error), error.status) from error


def main(argv: Sequence[str] | None = None) -> int:
    """``scripts/koji_rebuild.py``; the exit status."""
    parser = argparse.ArgumentParser(
        prog="koji_rebuild.py",
        description="Build source RPMs in Koji, each after those whose output it needs.",
    )
    parser.add_argument("target", help="Koji's build target, such as goose-1")
    parser.add_argument("srpms", nargs="+", type=Path, metavar="SRPM")
    parser.add_argument("--profile", default="koji", help="koji's configuration (default: koji)")
    parser.add_argument("--from-scm", type=Path, metavar="RESULT",
                        help="build from git what srpm_import.py --json says it imported there")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="say what would be built, in order")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    args = parser.parse_args(argv)
    start = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - start:6.1f}s] {line}", file=sys.stderr, flush=True)

    try:
        srpms = [read(path) for path in args.srpms]
        doubles = sorted({srpm.name for srpm in srpms if sum(other.name == srpm.name for other in srpms) > 1})
        if doubles:
            raise RebuildError(f"There is more than one source RPM of {', '.join(doubles)}: give one.", EXIT_USAGE)
        if args.from_scm:
            srpms = in_scm(srpms, args.from_scm)
        rebuild = Rebuild(log_in(args.profile), args.target, say)
        if args.dry_run:
            rows = [{"nvr": srpm.nvr, "action": action} for srpm, action in rebuild.plan(srpms)]
            print(json.dumps({"builds": rows}) if args.json else "\n".join(f"{r['nvr']}: {r['action']}" for r in rows))
            return EXIT_DONE
        results = rebuild.run(srpms)
    except RebuildError as error:
        print(f"koji_rebuild.py: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("koji_rebuild.py: interrupted; what was started goes on in Koji. Run it again to wait.", file=sys.stderr)
        return EXIT_PARTLY
    except Exception as error:  # the hub went away, or refused a call
        print(f"koji_rebuild.py: the hub: {error}", file=sys.stderr)
        return EXIT_KOJI
    failed = [built for built in results if built.error]
    if args.json:
        rows = [built.as_dict() for built in results]
        print(json.dumps({"builds": rows, "seconds": round(time.monotonic() - start, 1)}))
    else:
        for built in results:
            print(f"{built.nvr or built.srpm.nvr}: {built.error or 'complete'}")
    if not failed:
        return EXIT_DONE
    return EXIT_PARTLY if len(failed) < len(results) else EXIT_KOJI
