"""What koji_backup.py keeps, brought back to a host that a highstate has made.

First the files, then the database, in one transaction: until that has come the hub knows of none of the files, and
a killed run is simply run again. Nothing on the volume is deleted. Secrets come back only where they are asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import ssl
import subprocess
import time
import xmlrpc.client
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from goose import koji_backup_files as files
from goose import koji_backup_seal as seals
from goose.koji_backup import Generation, choose, guarded, lacking, progress, say_to
from goose.koji_backup_config import (
    CONFIG,
    EXIT_DONE,
    EXIT_KOJI,
    EXIT_PARTLY,
    EXIT_USAGE,
    BackupError,
    Config,
    Part,
    Say,
    locked,
    need_place,
    run,
)
from goose.koji_backup_database import Contents, Database, contents, settings
from goose.koji_backup_files import Show

# Seconds in which a hub answers that has been started.
_ANSWER = 120


@dataclass
class Report:
    """What came back."""

    generation: str
    parts: list[str] = field(default_factory=list)
    files: int = 0
    event: int = 0
    complete_builds: int = 0
    rpms: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    """Table of Koji's database -> rows, as counted after the restore."""
    wrong: list[str] = field(default_factory=list)
    """What is not as the backup has it, in sentences."""

    @property
    def status(self) -> int:
        """The exit status."""
        return EXIT_PARTLY if self.wrong else EXIT_DONE


def occupied(part: Part) -> str:
    """What is there already and would be replaced or mixed with, in words; empty where nothing is."""
    if part.kind == "database":
        count = Database(settings(part.path)).builds()
        return f"Koji's database has {count} builds" if count else ""
    if part.kind == "sealed":
        there = next((path for path in (*part.paths, *part.sqlite) if _has_files(path)), None)
        return f"{there} is there" if there else ""
    # A volume is told by its database: without a build there nobody knows its files.
    return f"{part.path} is not empty" if part.kind != "volume" and _has_files(part.path) else ""


def _has_files(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and next(files.walk(path), None) is not None)


def restore(
    config: Config,
    generation: Generation,
    parts: Sequence[Part],
    *,
    over: str = "",
    hashed: bool = True,
    gnupg_home: Path | None = None,
    dry_run: bool = False,
    say: Say = lambda line: None,
    show: Show = lambda number, count: None,
) -> Report:
    """Bring ``parts`` back in place.

    Raises:
        BackupError: where something is there already and ``over`` is not this host's name; where the generation
            lacks a part or cannot be read; where something on the way fails. The database is then as it was.
    """
    report = Report(generation.name)
    sums = generation.sums()
    found = _look(config, generation, parts, over, say)
    if dry_run:
        report.parts = [part.name for part in parts]
        if found:
            report.event, report.complete_builds, report.rpms = found.event, found.complete, found.rpms
        return report
    with _stopped(parts, config.own / ".stopped", say):
        for part in sorted(parts, key=lambda part: ("volume", "tree", "git", "sealed", "database").index(part.kind)):
            say(f"restoring {part.name}")
            source = generation.place(part)
            if part.kind == "database":
                _database(part, source, found, report)
            elif part.kind == "sealed":
                report.files += seals.unseal(source, part, Path("/"), gnupg_home, True)
            else:
                _tree(part, source, files.below(sums, source.name), hashed, report, show)
            report.parts.append(part.name)
        volume = next((part for part in parts if part.kind == "volume"), None)
        if found and volume:
            report.wrong += [f"A complete build lacks {name}." for name in lacking(found, volume.path)]
    for part in parts:
        if part.hub:
            _await(part)
    return report


def _look(config: Config, generation: Generation, parts: Sequence[Part], over: str, say: Say) -> Contents | None:
    """Everything that can be refused is refused here, before anything is changed."""
    found = None
    if os.geteuid() != 0 and any(part.owner or part.services for part in parts):
        raise BackupError("Files are given to other users: run this as root.", EXIT_USAGE)
    for part in parts:
        if part.name not in generation.about["parts"]:
            has = ", ".join(sorted(generation.about["parts"]))
            raise BackupError(f"The generation {generation.name} has no part {part.name}: it has {has}.", EXIT_USAGE)
        if not generation.place(part).exists():
            raise BackupError(f"{generation.place(part)} is missing: take another generation.")
        if part.kind == "database":
            say("reading the dump")
            found = contents(generation.place(part))
    if not over:
        there = [said for part in parts if (said := occupied(part))]
        if there:
            raise BackupError(
                f"This host is not empty: {'; '.join(there)}. To restore over it all the same, name it:"
                f" --over {config.host}.",
                EXIT_USAGE,
            )
    return found


def _tree(part: Part, source: Path, own: dict[str, str], hashed: bool, report: Report, show: Show) -> None:
    part.path.mkdir(parents=True, exist_ok=True)
    top_status = part.path.stat()

    def rsync() -> None:
        files.rsync(source, part.path, [f"--chown={part.owner}"] if part.owner else [])

    rsync()
    # The top itself is as the states have made it.
    os.chown(part.path, top_status.st_uid, top_status.st_gid)
    part.path.chmod(top_status.st_mode & 0o7777)
    missing, damaged = files.compare(part.path, own, hashed, show)
    rotten = [name for name in damaged if files.sha256(source / name) == own[name]]
    if rotten:
        # Of the backup's size and time, so that rsync has left them as they were.
        for name in rotten:
            (part.path / name).unlink()
        rsync()
        again = files.compare(part.path, {name: own[name] for name in damaged}, hashed, show)
        missing, damaged = [*missing, *again[0]], again[1]
    report.files += len(own) - len(missing)
    report.wrong += [f"{part.path / name} did not come back." for name in missing]
    report.wrong += [f"{part.path / name} is not what was backed up: the backup is damaged there." for name in damaged]


def _database(part: Part, source: Path, found: Contents | None, report: Report) -> None:
    assert found is not None
    database = Database(settings(part.path))
    database.restore(source)
    report.counts, report.event = database.counts(sorted(found.counts)), database.event()
    report.complete_builds, report.rpms = found.complete, found.rpms
    for table, count in found.counts.items():
        if report.counts.get(table) != count:
            report.wrong.append(f"The table {table} has {report.counts.get(table)} rows, and {count} were backed up.")
    if report.event != found.event:
        report.wrong.append(f"The last event is {report.event}, and {found.event} was backed up.")


@contextmanager
def _stopped(parts: Sequence[Part], note: Path, say: Say) -> Iterator[None]:
    """The parts' services do not run for a while; those that ran are started again, whatever happens.

    A run that is killed leaves them stopped, and in ``note`` which: the next one of their parts starts them.
    """
    names = dict.fromkeys(service for part in parts for service in part.services)
    earlier = note.read_text(encoding="utf-8").split() if note.exists() else []
    others = [name for name in earlier if name not in names]
    running = [name for name in names if name in earlier or _is_active(name)]
    if running:
        say(f"stopping {', '.join(running)}")
        note.write_text("\n".join([*running, *others]), encoding="utf-8")
        run(["systemctl", "stop", *running])
    try:
        yield
    finally:
        if running:
            run(["systemctl", "start", *running])
            note.write_text("\n".join(others), encoding="utf-8")


def _is_active(unit: str) -> bool:
    return subprocess.run(["systemctl", "--quiet", "is-active", unit], check=False).returncode == 0


def _await(part: Part) -> None:
    """Wait until the hub answers."""
    context = ssl.create_default_context(cafile=part.serverca)
    deadline = time.monotonic() + _ANSWER
    while True:
        try:
            xmlrpc.client.ServerProxy(part.hub, context=context).getAPIVersion()
            return
        except (OSError, xmlrpc.client.Error) as error:
            if time.monotonic() > deadline:
                raise BackupError(
                    f"All is restored, and the hub {part.hub} does not answer ({error}): apply koji.hub on this host.",
                    EXIT_KOJI,
                ) from error
        time.sleep(1)


def unpack(generation: Generation, parts: Sequence[Part], into: Path, gnupg_home: Path | None, say: Say) -> int:
    """Bring ``parts`` below the new directory ``into`` and touch nothing else; the number of files."""
    count = 0
    into.mkdir(mode=0o700)
    for part in parts:
        source = generation.place(part)
        say(f"unpacking {part.name}")
        if part.kind == "sealed":
            (into / part.name).mkdir(mode=0o700)
            count += seals.unseal(source, part, into / part.name, gnupg_home, False)
        elif part.kind == "database":
            run(["cp", "--preserve=timestamps", str(source), str(into)])
            count += 1
        else:
            files.rsync(source, into / part.name, [])
            count += sum(1 for _ in files.walk(into / part.name))
    return count


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="koji_restore.py",
        description="Restore a generation that koji_backup.py has made, onto a host that a highstate has brought up."
        " Without --part: all parts but the sealed ones, which replace keys of this host.",
        epilog="Exit status: 0 all is back, 1 something did not come back as it was, 2 usage, 3 a sealed part cannot be"
        " opened, 4 Koji, 5 a tool or disk failed, 75 another run holds the backups.",
    )
    parser.add_argument("--config", type=Path, default=CONFIG, help=argparse.SUPPRESS)
    parser.add_argument("--generation", default="", metavar="NAME", help="default: the newest")
    parser.add_argument("--from-host", metavar="HOST", help="whose backup it is (default: this host's own)")
    parser.add_argument("--part", action="append", default=[], metavar="NAME", help="only this part; may be repeated")
    parser.add_argument("--over", default="", metavar="HOST", help="restore over what is there: this host's full name")
    parser.add_argument("--into", type=Path, metavar="DIR", help="unpack into the new directory DIR, and touch nothing else")
    parser.add_argument("--gnupg-home", type=Path, metavar="DIR", help="where the key is that opens sealed parts")
    parser.add_argument("--no-hash", action="store_true", help="do not hash what was restored")
    parser.add_argument("--dry-run", action="store_true", help="look and refuse as a restore would, and change nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """``scripts/koji_restore.py``; the exit status."""
    args = _parser().parse_args(argv)
    return guarded("koji_restore.py", lambda: _main(args))


def _main(args: argparse.Namespace) -> int:
    config = Config.read(args.config)
    need_place(config)
    if args.over and args.over != config.host:
        raise BackupError(f"--over names {args.over}, and this host is {config.host}.", EXIT_USAGE)
    directory = config.path / (args.from_host or config.host)
    for name in args.part:
        if name not in config.parts:
            has = ", ".join(sorted(config.parts))
            raise BackupError(f"This host has no part {name}: by its roles it has {has}.", EXIT_USAGE)
    generation = choose(directory, args.generation)
    wanted = args.part or [name for name, part in config.parts.items() if part.kind != "sealed"]
    parts = [config.parts[name] for name in wanted]
    if not parts:
        raise BackupError("All parts of this host are sealed: name what to restore by --part.", EXIT_USAGE)
    say, start = say_to("koji_restore.py"), time.monotonic()
    result: dict[str, Any]
    if args.into:
        if args.into.exists():
            raise BackupError(f"{args.into} is there already: name a directory that is not.", EXIT_USAGE)
        count = 0 if args.dry_run else unpack(generation, parts, args.into, args.gnupg_home, say)
        result = {"generation": generation.name, "parts": wanted, "files": count, "wrong": []}
        status = EXIT_DONE
    else:
        with locked(config):
            report = restore(
                config, generation, parts, over=args.over, hashed=not args.no_hash, gnupg_home=args.gnupg_home,
                dry_run=args.dry_run, say=say, show=progress("files read"),
            )  # fmt: skip
        result, status = asdict(report), report.status
    result["seconds"] = round(time.monotonic() - start, 1)
    if args.json:
        print(json.dumps(result))
        return status
    for line in result["wrong"]:
        print(line)
    koji = ""
    if result.get("event"):
        koji = f"; {result['complete_builds']} builds with {result['rpms']} RPMs, at event {result['event']}"
    verb = "would come" if args.dry_run else "came"
    print(f"{', '.join(wanted)} {verb} back from {generation.name}: {result['files']} files{koji}; {result['seconds']} s")
    counts = result.get("counts") or {}
    for table in ("build", "rpminfo", "rpmsigs", "task", "tag", "users"):
        if table in counts:
            print(f"  {table:8} {counts[table]}")
    return status


