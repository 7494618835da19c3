"""Koji's builders, from the first apply to the last: ``scripts/koji_builder.py``.

It runs on the host with the role koji.content, which may do all of this on the hub, and which in most sites
is the Salt master too. What is under way stands in Koji alone (`goose.content.Hold`), so that a run that
was killed is simply run again.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from goose import builder as koji_builders
from goose import koji_call
from goose.builder import (
    EXIT_DONE,
    EXIT_KOJI,
    EXIT_PARTLY,
    EXIT_RUNNING,
    EXIT_TOOL,
    EXIT_USAGE,
    Builder,
    BuilderError,
    Hub,
    Say,
    Tried,
)
from goose.lab.converge import read as read_states
from goose.rebuild import RebuildError, log_in

LOCKS = Path("/run/lock")
_BUSY_PAUSE, _BUSY_TRIES = 5.0, 120


# --- Salt ------------------------------------------------------------------------------------------


class Salt:
    """States on this host, and on others where this one is their master."""

    def __init__(
        self, say: Say, run: Callable[..., Any] = subprocess.run, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._say = say
        self._run = run
        self._sleep = sleep

    def content(self, test: bool = False) -> None:
        """Apply koji.content on this host: it registers what pillar gives the role koji.builder."""
        self._apply(["salt-call"], "this host", ["koji.content", *(["test=True"] if test else [])])

    def highstate(self, name: str) -> list[str]:
        """Apply the highstate on a builder; the ids of its states."""
        return self._apply(["salt", "--timeout=300", "-L", name], name, [])

    def _apply(self, program: Sequence[str], where: str, words: Sequence[str]) -> list[str]:
        if shutil.which(program[0]) is None:
            raise BuilderError(
                f"There is no {program[0]} here: run this on the Salt master, with the role koji.content"
                + ("." if program[0] == "salt-call" else ", or apply the states there by yourself and give --command true."),
                EXIT_USAGE,
            )
        command = [program[0], "--out=json", "--out-indent=-1", *program[1:], "state.apply", *words]
        self._say(f"applying {words[0] if words else 'the highstate'} on {where}")
        for _ in range(_BUSY_TRIES):
            done = self._run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
            returned = None
            for line in done.stdout.splitlines():
                with contextlib.suppress(ValueError, AttributeError):
                    returned = next(iter(json.loads(line).values()), None)
            if not (isinstance(returned, list) and any("is running as PID" in str(line) for line in returned)):
                break
            self._sleep(_BUSY_PAUSE)
        if returned is None:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise BuilderError(f"Salt applied nothing on {where}: {said[-1] if said else 'it does not answer'}", EXIT_TOOL)
        outcome = read_states(returned, 0.0, False)
        if outcome.failed:
            raise BuilderError(f"The states failed on {where}: {outcome.failures[0]}", EXIT_TOOL)
        self._say(f"{outcome.succeeded} states on {where}, {outcome.changed} changed")
        return [str(state.get("__id__")) for state in returned.values()]


# --- What is done to builders ----------------------------------------------------------------------


@dataclass
class Wishes:
    """What the command line asks for."""

    target: str = ""
    timeout: float = 0.0
    canary_timeout: float = 1800.0
    command: str = ""
    reason: str = ""
    lost: bool = False
    dry_run: bool = False


class Work:
    """One command on one builder after the other; each gives an entry of the result."""

    def __init__(self, hub: Hub, salt: Salt, wishes: Wishes, say: Say) -> None:
        self.hub, self.salt, self.wishes, self.say = hub, salt, wishes, say

    def _would(self, row: dict[str, Any], *steps: str) -> dict[str, Any]:
        row["would"] = [step for step in steps if step]
        return row

    def status(self, name: str) -> dict[str, Any]:
        """What the hub knows of it, and the tasks that it has."""
        return _row(self.hub, koji_builders.builder(self.hub, name))

    def canary(self, name: str) -> dict[str, Any]:
        """Try it as it is: in work, or out of work where it is drained."""
        it = koji_builders.builder(self.hub, name)
        if self.wishes.dry_run:
            _, arches, _ = koji_builders.canary_target(self.hub, self.wishes.target)
            shared = [arches[arch] for arch in it.arches if arch in arches]
            return self._would({"builder": name}, f"build the canary on it for {' '.join(shared) or 'no architecture'}")
        return self._tried(name, {"builder": name})

    def _tried(self, name: str, row: dict[str, Any]) -> dict[str, Any]:
        tried = koji_builders.canary(self.hub, name, self.wishes.target, self.wishes.canary_timeout, self.say)
        row["canary"] = [each.as_dict() for each in tried]
        row["failed"] = _failed(tried)
        return row

    def drain(self, name: str) -> dict[str, Any]:
        """Take it out of work, and wait for its tasks."""
        it = koji_builders.builder(self.hub, name)
        if self.wishes.dry_run:
            steps = _drain_steps(it, koji_builders.tasks(self.hub, it.id), self.wishes.lost)
            return self._would(_row(self.hub, it), *steps)
        left = self._drained(name)
        return {**self.status(name), "failed": EXIT_PARTLY if left else 0}

    def _drained(self, name: str, retire: bool = False) -> list[koji_builders.Task]:
        koji_builders.hold(self.hub, name, self.wishes.reason, retire)
        left = koji_builders.drain(self.hub, name, self.wishes.timeout, self.say, self.wishes.lost)
        if left:
            it = koji_builders.builder(self.hub, name)
            self.say(
                f"{name} still has {', '.join(map(str, left))}; nothing of it was ended. It takes no more: run this"
                " again to wait longer."
            )
            if it.away:
                self.say(f"{name} has not spoken to the hub for {it.heard or 0:.0f} s: if it is gone for good, use --lost.")
        return left

    def enable(self, name: str) -> dict[str, Any]:
        """Put it back to work."""
        it = koji_builders.builder(self.hub, name)
        if it.hold and it.hold.retired:
            sentence = f"{name} is retired: `koji_builder.py add {name}` brings it back, and tries it first."
            raise BuilderError(sentence, EXIT_USAGE)
        if self.wishes.dry_run:
            work = it.state == "in work"
            return self._would(_row(self.hub, it), "" if work else f"put it back to work in {' '.join(_channels(it))}")
        koji_builders.release(self.hub, name)
        self.say(f"{name} is in work")
        return self.status(name)

    def update(self, name: str) -> dict[str, Any]:
        """Drain, change it, try it, put it back to work; where a step fails it stays out of work."""
        it = koji_builders.builder(self.hub, name)
        command = self.wishes.command.replace("{host}", name)
        if it.hold and it.hold.retired:
            raise BuilderError(f"{name} is retired: there is nothing to update.", EXIT_USAGE)
        if self.wishes.dry_run:
            steps = _drain_steps(it, koji_builders.tasks(self.hub, it.id), self.wishes.lost)
            change = f"run: {command}" if command else "apply the highstate on it"
            return self._would(_row(self.hub, it), *steps, change, "build the canary on it", "put it back to work")
        koji_builders.canary_target(self.hub, self.wishes.target)
        if self._drained(name):
            return {**self.status(name), "failed": EXIT_PARTLY}
        if command:
            self.say(f"{name}: {command}")
            done = subprocess.run(["/bin/sh", "-c", command], stdout=sys.stderr, check=False)
            if done.returncode:
                raise BuilderError(
                    f"The command for {name} ended with {done.returncode}: {command}. {name} stays out of work; mend it and"
                    " run this again.",
                    EXIT_TOOL,
                )
        else:
            self.salt.highstate(name)
        koji_builders.wait_for_word(self.hub, name, self.wishes.canary_timeout, self.say)
        return self._accepted(name)

    def _accepted(self, name: str) -> dict[str, Any]:
        row = self._tried(name, {})
        if row["failed"]:
            self.say(f"{name} stays out of work, because its canary failed: mend it, then run this again.")
            # A canary that works for one architecture of two is no half success: nothing else is done.
            return {**self.status(name), **row}
        koji_builders.release(self.hub, name)
        self.say(f"{name} is in work")
        return {**self.status(name), **row}

    def add(self, name: str) -> dict[str, Any]:
        """From pillar to the first build; a builder that is in work already is only tried."""
        row = self.hub("getHost", name)
        if self.wishes.dry_run:
            return self._add_plan(name, row)
        koji_builders.canary_target(self.hub, self.wishes.target)
        if row is None:
            self.salt.content()
            if self.hub("getHost", name) is None:
                raise BuilderError(
                    f"Pillar hosts does not give {name} the role koji.builder, so koji.content has not registered it: put it"
                    f" into hosts.yaml,\n    {name}:\n      address: …\n      roles: [koji.builder]\nand its architectures,"
                    f" where they are not those of koji:builders, into koji:content:hosts:{name}.",
                    EXIT_USAGE,
                )
        it = koji_builders.back(self.hub, name)
        if it.state == "in work" and not it.away:
            self.say(f"{name} is in work already")
            return {**self.status(name), **self._tried(name, {})}
        # Nothing but the canary is built on it before that has worked.
        koji_builders.hold(self.hub, name, self.wishes.reason or "being added")
        if it.away and "koji-builder-service" not in self.salt.highstate(name):
            raise BuilderError(
                f"The highstate of {name} makes no builder of it: pillar hosts does not give it the role koji.builder.",
                EXIT_USAGE,
            )
        koji_builders.wait_for_word(self.hub, name, self.wishes.canary_timeout, self.say)
        return self._accepted(name)

    def _add_plan(self, name: str, row: Any) -> dict[str, Any]:
        it = koji_builders.builder(self.hub, name) if row else None
        if it and it.state == "in work" and not it.away:
            return self._would(_row(self.hub, it), "build the canary on it")
        return self._would(
            _row(self.hub, it) if it else {"builder": name, "state": "unknown"},
            "" if it else "apply koji.content here, which registers it if pillar hosts gives it the role koji.builder",
            "keep it out of work until its canary has worked",
            "" if it and not it.away else "apply the highstate on it",
            "wait for its kojid to speak to the hub",
            "build the canary on it",
            "put it to work",
        )

    def retire(self, name: str) -> dict[str, Any]:
        """Take it out for good; refused while it runs tasks."""
        it = koji_builders.builder(self.hub, name)
        running = koji_builders.tasks(self.hub, it.id)
        if self.wishes.dry_run:
            steps = _drain_steps(it, running, self.wishes.lost)
            return self._would(_row(self.hub, it), *steps, "take it out of all channels")
        if self._drained(name, retire=True):
            return {**self.status(name), "failed": EXIT_PARTLY}
        koji_builders.retire(self.hub, name)
        self.say(
            f"{name} is retired; Koji keeps its name, for the builds that it made. What is left to do:\n"
            f"  hosts.yaml: take {name} out, and koji:content:hosts:{name} where it is there\n"
            "  pki.yaml: add the serial numbers of its certificates to revoked, and apply pki.ca, then pki everywhere\n"
            f"  on the Salt master: salt-key -d {name}"
        )
        return self.status(name)


def _channels(it: Builder) -> Sequence[str]:
    return it.hold.channels if it.hold else it.channels


def _drain_steps(it: Builder, running: Sequence[koji_builders.Task], lost: bool) -> Iterator[str]:
    if it.enabled:
        yield "disable it on the hub"
    for task in running:
        free = task.state == "ASSIGNED" or lost
        yield f"{'free' if free else 'wait for'} task {task}"


def _failed(tried: Sequence[Tried]) -> int:
    bad = sum(bool(each.error) for each in tried)
    return 0 if not bad else EXIT_PARTLY if bad < len(tried) else EXIT_KOJI


def _row(hub: Hub, it: Builder) -> dict[str, Any]:
    return {
        "builder": it.name,
        "state": it.state,
        "enabled": it.enabled,
        "ready": it.ready,
        "heard": None if it.heard is None else round(it.heard, 1),
        "arches": list(it.arches),
        "channels": list(it.channels),
        "load": it.load,
        "capacity": it.capacity,
        "comment": it.comment,
        "tasks": [
            {"id": task.id, "method": task.method, "arch": task.arch, "state": task.state, "waiting": task.waiting}
            for task in koji_builders.tasks(hub, it.id)
        ],
    }


def _lines(row: dict[str, Any]) -> Iterator[str]:
    if "state" in row and "heard" in row:
        heard = "never heard of" if row["heard"] is None else f"heard of {row['heard']:.0f} s ago"
        yield (
            f"{row['builder']}: {row['state']}, {heard}, load {row['load']:g} of {row['capacity']:g},"
            f" {' '.join(row['arches'])}; channels: {' '.join(row['channels']) or 'none'}"
        )
        if row["comment"]:
            yield f"    {row['comment']}"
        for task in row["tasks"]:
            yield f"    task {task['id']} {task['method']} {task['arch']} {task['state']}"
    else:
        yield f"{row['builder']}:"
    for tried in row.get("canary", ()):
        yield f"    canary {tried['arch']}: {tried.get('error') or 'works, ' + format(tried['seconds'], 'g') + ' s'}"
    for step in row.get("would", ()):
        yield f"    would {step}"


@contextlib.contextmanager
def locked(name: str, locks: Path = LOCKS) -> Iterator[None]:
    """Hold the lock of one builder; `BuilderError` where another run holds it."""
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        raise BuilderError(f"{name!r} is no name of a host.", EXIT_USAGE)
    path = locks / f"koji_builder-{name}.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise BuilderError(f"{path} cannot be opened ({error.strerror}): run this as root.", EXIT_USAGE) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BuilderError(f"Another koji_builder.py works on {name}: wait for it.", EXIT_RUNNING) from error
        yield
    finally:
        os.close(descriptor)


def run(work: Work, verb: str, names: Sequence[str], locks: Path = LOCKS) -> tuple[list[dict[str, Any]], int]:
    """Do ``verb`` to one builder after the other, and stop at the first that is not done; rows, exit status.

    Raises `BuilderError` where the first of them is refused.
    """
    rows: list[dict[str, Any]] = []
    for name in names:
        try:
            with contextlib.nullcontext() if verb == "status" or work.wishes.dry_run else locked(name, locks):
                row = getattr(work, verb)(name)
        except (BuilderError, koji_call.Unanswered) as error:
            if not rows:
                raise
            rows.append({"builder": name, "error": str(error)})
            work.say(str(error))
            return rows, EXIT_PARTLY
        failed = int(row.pop("failed", 0))
        rows.append(row)
        if failed:
            return rows, EXIT_PARTLY if len(rows) > 1 else failed
    return rows, EXIT_DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="koji_builder.py",
        description="Koji's builders: take in, try, drain, update, retire. No task is lost, and none is ended.",
        epilog="Exit status: 0 done, 1 partly done (tasks run still, or one architecture of several failed), 2 usage,"
        " 3 authentication, 4 Koji, 5 Salt or the command, 75 already running.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--profile", default="koji", help="koji's configuration (default: koji)")
    common.add_argument("--dry-run", action="store_true", help="say what would be done, and change nothing")
    common.add_argument("--json", action="store_true", help="one object on standard output")
    canary = argparse.ArgumentParser(add_help=False)
    canary.add_argument("--target", default="", help="what the canary is built for (default: the hub's only target)")
    canary.add_argument("--canary-timeout", type=float, default=1800, metavar="SECONDS",
                        help="for the canary, and for the builder to speak to the hub (default: 1800)")  # fmt: skip
    drain = argparse.ArgumentParser(add_help=False)
    drain.add_argument("--timeout", type=float, default=86400, metavar="SECONDS",
                       help="wait so long for its tasks (default: a day); none is ended")  # fmt: skip
    drain.add_argument("--reason", default="", help="noted in its comment on the hub")
    drain.add_argument("--lost", action="store_true", help="it is gone for good: free the tasks that it had for others")
    command = argparse.ArgumentParser(add_help=False)
    command.add_argument("--command", default="", metavar="COMMAND",
                         help="run this in place of the highstate; {host} is the builder")  # fmt: skip
    reason = argparse.ArgumentParser(add_help=False)
    reason.add_argument("--reason", default="", help="noted in its comment on the hub until it is in work")
    for verb, text, parents, many in (
        ("status", "what the hub knows of all builders, or of some", [], "*"),
        ("add", "register it, apply its states, try it, put it to work", [canary, reason], "+"),
        ("canary", "build a small package on exactly this builder, for each of its architectures", [canary], "+"),
        ("drain", "take it out of work, and wait for its tasks to end", [drain], "+"),
        ("update", "drain it, apply its states, try it, put it back to work; several one after the other",
         [canary, drain, command], "+"),
        ("enable", "put it back to work", [], "+"),
        ("retire", "take it out for good", [drain], "+"),
    ):  # fmt: skip
        sub = verbs.add_parser(verb, help=text, description=text[0].upper() + text[1:] + ".", parents=[common, *parents])
        sub.add_argument("hosts", nargs=many, metavar="HOST", help="full name of a builder")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """``scripts/koji_builder.py``; the exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    for option in ("timeout", "canary_timeout"):
        if getattr(args, option, 0) < 0:
            parser.error(f"--{option.replace('_', '-')} is not negative.")
    if re.search(r"[\]\n]", getattr(args, "reason", "")):
        parser.error("--reason is one line without a ].")
    start = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - start:6.1f}s] {line}", file=sys.stderr, flush=True)

    wishes = Wishes(**{key: getattr(args, key) for key in Wishes.__dataclass_fields__ if hasattr(args, key)})
    try:
        hub = Hub(lambda: log_in(args.profile), say)
        names = list(dict.fromkeys(args.hosts)) or sorted(row["name"] for row in hub("listHosts"))
        rows, status = run(Work(hub, Salt(say), wishes, say), args.verb, names)
    except (BuilderError, RebuildError, koji_call.Unanswered) as error:
        print(f"koji_builder.py: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("koji_builder.py: interrupted; what a builder was taken out of work for stands in its comment. Run this"
              " again, or enable it.", file=sys.stderr)  # fmt: skip
        return EXIT_PARTLY
    if args.json:
        print(json.dumps({"builders": rows, "seconds": round(time.monotonic() - start, 1)}))
    else:
        for row in rows:
            print("\n".join(_lines(row)))
    return status
