"""Generations of what this host backs up: made, kept, looked at.

A generation is a directory of the host's own, named after the moment at which it was begun (UTC)::

    PATH/HOST/2026-11-24T013000Z/
        database.dump    pg_dump's custom format
        volume/packages/ …
        git/ lookaside/  as they lie on the host
        ca.tar.gpg …     sealed
        SHA256SUMS       of every file above
        generation.json  what is in it; its last file

It is made below ``.partial`` and appears by one rename. A killed run goes on from what is there.

The database goes first. Koji puts a build's files onto the volume before it says COMPLETE, and deletes them after
it has said DELETED: what the dump calls complete is there when the files are copied. A build that was deleted
in between is the one exception; then both are taken again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from goose import koji_backup_files as files
from goose import koji_backup_seal as seals
from goose.koji_backup_config import (
    CONFIG,
    EXIT_DONE,
    EXIT_PARTLY,
    EXIT_TOOL,
    EXIT_USAGE,
    BackupError,
    Config,
    Keep,
    Part,
    Say,
    locked,
    need_place,
)
from goose.koji_backup_database import Contents, Database, contents, settings
from goose.koji_backup_files import SUMS, Show

_FORMAT = 1
_ABOUT = "generation.json"
_PARTIAL = ".partial"
_NAME = "%Y-%m-%dT%H%M%SZ"
_NAMED = re.compile(r"\d{4}-\d\d-\d\dT\d{6}Z")
_TRIES = 3


@dataclass(frozen=True)
class Generation:
    """One generation, whole."""

    path: Path
    about: dict[str, Any]

    @property
    def name(self) -> str:
        """The moment at which it was begun."""
        return self.path.name

    @classmethod
    def read(cls, path: Path) -> Generation:
        """The generation at ``path``; `BackupError` where it is none."""
        try:
            about = json.loads((path / _ABOUT).read_text(encoding="utf-8"))
            if about["format"] != _FORMAT:
                raise BackupError(f"{path} was made by another version of this program.", EXIT_USAGE)
            for key in ("host", "parts", "sums"):
                about[key]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BackupError(f"{path / _ABOUT} cannot be used ({error}): this is no whole generation.") from error
        return cls(path, about)

    def place(self, part: Part) -> Path:
        """Where a part lies in it."""
        return place(self.path, part)

    def sums(self) -> dict[str, str]:
        """Path -> SHA-256; `BackupError` where the list itself is damaged."""
        path = self.path / SUMS
        if not path.is_file() or files.sha256(path) != self.about["sums"]:
            raise BackupError(f"{path} is missing or damaged: it is not the list that {_ABOUT} speaks of.")
        return files.read_sums(path)


def place(root: Path, part: Part) -> Path:
    """Where ``part`` lies in the generation at ``root``."""
    return root / {"database": f"{part.name}.dump", "sealed": f"{part.name}.tar.gpg"}.get(part.kind, part.name)


def generations(directory: Path) -> list[Generation]:
    """The generations of a host, the oldest first; what is no whole one is left out."""
    if not directory.is_dir():
        return []
    found = []
    for path in sorted(directory.iterdir()):
        if _NAMED.fullmatch(path.name) and (path / _ABOUT).is_file():
            found.append(Generation.read(path))
    return found


def choose(directory: Path, name: str) -> Generation:
    """The generation ``name``, or the newest where that is empty; `BackupError` (usage) where there is none."""
    there = generations(directory)
    for generation in reversed(there):
        if name in ("", generation.name):
            return generation
    names = ", ".join(each.name for each in there[-5:])
    what = f"no generation {name}: the last ones are {names}" if name and there else "no generation yet"
    raise BackupError(f"{directory} has {what}.", EXIT_USAGE)


# Which stay


def kept(names: Iterable[str], keep: Keep) -> set[str]:
    """Which generations stay: the newest of each of so many days, weeks (ISO) and months, and the newest of all."""
    moments = sorted(((datetime.strptime(name, _NAME), name) for name in names), reverse=True)
    stay = {name for _, name in moments[:1]}
    for number, pattern in ((keep.daily, "%Y-%m-%d"), (keep.weekly, "%G-%V"), (keep.monthly, "%Y-%m")):
        seen: set[str] = set()
        for moment, name in moments:
            period = moment.strftime(pattern)
            if period not in seen and len(seen) < number:
                seen.add(period)
                stay.add(name)
    return stay


def prune(config: Config, dry_run: bool = False) -> list[str]:
    """Remove the generations that need not stay, and what a killed run was removing; their names."""
    names = [generation.name for generation in generations(config.own)]
    stay = kept(names, config.keep)
    gone = [name for name in names if name not in stay]
    if not dry_run:
        for name in gone:
            # A generation goes as it came, by one rename.
            (config.own / name).rename(config.own / f".removed-{name}")
        for path in config.own.glob(".removed-*"):
            shutil.rmtree(path)
    return gone


# Making one


@dataclass
class Report:
    """What a run did."""

    generation: str = ""
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: int = 0
    bytes: int = 0
    new_files: int = 0
    new_bytes: int = 0
    missing: list[str] = field(default_factory=list)
    """What the database speaks of and the volume has not."""
    removed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def status(self) -> int:
        """The exit status."""
        return EXIT_PARTLY if self.missing else EXIT_DONE


def make(config: Config, say: Say, show: Show, checksum: bool = False, now: float | None = None) -> Report:
    """Make one generation, then remove those that need not stay."""
    started = time.time() if now is None else now
    while (final := config.own / datetime.fromtimestamp(started, timezone.utc).strftime(_NAME)).exists():
        # One was begun in this very second.
        time.sleep(1 - time.time() % 1)
        started = time.time()
    report = Report(generation=final.name)
    there = generations(config.own)
    before = there[-1].path if there else None
    partial = config.own / _PARTIAL
    partial.mkdir(mode=0o700, exist_ok=True)
    # A part that this host has no more, and the lists of a run that was killed at its end.
    wanted = {place(partial, part) for part in config.parts.values()}
    for path in partial.iterdir():
        if path not in wanted:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    about: dict[str, Any] = {"format": _FORMAT, "host": config.host, "started": report.generation}
    found = _copy_all(config, partial, before, checksum, report, say)
    if found:
        about["koji"] = {"event": found.event, "complete_builds": found.complete, "rpms": found.rpms, "counts": found.counts}
    say("hashing what is new")
    hashed = files.hash_all(partial, before, show)
    report.files, report.bytes = len(hashed.sums), hashed.bytes
    report.new_files, report.new_bytes = hashed.fresh, hashed.fresh_bytes
    files.write_sums(partial / SUMS, hashed.sums)
    about.update(parts=report.parts, missing=report.missing, sums=files.sha256(partial / SUMS), files=report.files,
                 bytes=report.bytes)  # fmt: skip
    (partial / _ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    files.flush(partial)
    partial.rename(final)
    report.removed = prune(config)
    return report


def _copy_all(
    config: Config, partial: Path, before: Path | None, checksum: bool, report: Report, say: Say
) -> Contents | None:
    order = sorted(config.parts.values(), key=lambda part: part.kind != "database")
    found = None
    for attempt in range(1, _TRIES + 1):
        for part in order:
            if attempt == 1 or part.kind in ("database", "volume"):
                start = time.monotonic()
                found = _copy(config, part, partial, before, checksum, report, say) or found
                report.parts[part.name] = {"kind": part.kind, "seconds": round(time.monotonic() - start, 1)}
        volume = next((part for part in order if part.kind == "volume"), None)
        report.missing = lacking(found, place(partial, volume)) if found and volume else []
        if not report.missing:
            break
        say(f"{len(report.missing)} files of complete builds are missing, such as {report.missing[0]}")
    if found and found.passwords:
        report.notes.append(
            f"{found.passwords} users have a password in Koji's database, and so in the dump, as Koji keeps it: readable."
        )
    return found


def _copy(
    config: Config, part: Part, partial: Path, before: Path | None, checksum: bool, report: Report, say: Say
) -> Contents | None:
    target = place(partial, part)
    say(f"copying {part.name}")
    if part.kind == "database":
        Database(settings(part.path)).dump(target)
        return contents(target)
    if part.kind == "sealed":
        seals.seal(part, target, config.recipients)
    else:
        files.copy(part, target, place(before, part) if before else None, checksum, say)
    return None


def lacking(found: Contents, volume: Path) -> list[str]:
    """Of the files that complete builds must have, those that are not there, or not of the size that Koji noted."""
    missing = []
    for name, size in found.files.items():
        try:
            status = (volume / name).stat()
        except OSError:
            missing.append(name)
            continue
        if size is not None and status.st_size != size:
            missing.append(name)
    return missing


# Judging one


@dataclass
class Verdict:
    """What is wrong with a generation."""

    generation: str
    files: int = 0
    missing: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    """Files that the list of sums does not name."""
    builds: list[str] = field(default_factory=list)
    """Files of complete builds that are not there, or have another size than Koji noted."""
    complete_builds: int = 0
    rpms: int = 0
    event: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.missing or self.damaged or self.unknown or self.builds or self.failures)

    @property
    def status(self) -> int:
        """The exit status."""
        return EXIT_DONE if self.good else EXIT_PARTLY


def verify(generation: Generation, parts: Mapping[str, Part], hashed: bool, show: Show) -> Verdict:
    """Read a generation as a restore would, and its every byte where ``hashed``."""
    verdict = Verdict(generation.name)
    try:
        sums = generation.sums()
    except BackupError as error:
        verdict.failures.append(str(error))
        sums = {}
    verdict.files = len(sums)
    verdict.missing, verdict.damaged = files.compare(generation.path, sums, hashed, show)
    if sums:
        there = {name for name, _ in files.walk(generation.path)}
        verdict.unknown = sorted(there - set(sums) - {SUMS, _ABOUT})
    known = {name: part for name, part in parts.items() if name in generation.about["parts"]}
    # A part that this host has no more is still judged by what it is.
    for name, about in generation.about["parts"].items():
        part = known.get(name) or Part(name, about["kind"])
        path = generation.place(part)
        try:
            if part.kind == "sealed":
                seals.sealed_for(path)
            elif part.kind == "git":
                _verify_git(path, verdict)
            elif part.kind == "database":
                _verify_database(generation, path, verdict)
        except BackupError as error:
            verdict.failures.append(str(error))
    return verdict


def verify_live(generation: Generation, parts: Mapping[str, Part], show: Show) -> Verdict:
    """Hold this host's own files against a generation: bits that have changed where size and time have not.

    Nobody's hand leaves both as they were, and the next backup would not look at such a file. What is newer than the
    backup is left out. Git is asked of all of a repository.
    """
    verdict = Verdict(generation.name)
    sums = generation.sums()
    for part in parts.values():
        if part.name not in generation.about["parts"] or part.kind not in ("volume", "git", "tree"):
            continue
        source = generation.place(part)
        own = files.below(sums, source.name)
        alike = {name: digest for name, digest in own.items() if _unchanged(source / name, part.path / name)}
        verdict.files += len(alike)
        _, damaged = files.compare(part.path, alike, True, show)
        verdict.damaged += [str(part.path / name) for name in damaged]
        if part.kind == "git":
            _verify_git(part.path, verdict)
    return verdict


def _unchanged(source: Path, path: Path) -> bool:
    """Whether a file has the size and the time that it had when it was backed up, as rsync tells."""
    try:
        was, now = source.stat(), path.stat()
    except OSError:
        return False
    return (was.st_size, int(was.st_mtime)) == (now.st_size, int(now.st_mtime))


def _verify_git(path: Path, verdict: Verdict) -> None:
    for repository in files.repositories(path):
        said = files.fsck(repository)
        if said:
            verdict.failures.append(f"The repository {repository.relative_to(path)} is not whole: {said}")


def _verify_database(generation: Generation, path: Path, verdict: Verdict) -> None:
    found = contents(path)
    verdict.complete_builds, verdict.rpms, verdict.event = found.complete, found.rpms, found.event
    noted = generation.about["koji"]
    if (found.event, found.counts) != (noted["event"], noted["counts"]):
        verdict.failures.append(f"{path} holds other rows than {_ABOUT} says: one of the two is not this generation's.")
    volume = next((name for name, about in generation.about["parts"].items() if about["kind"] == "volume"), None)
    if volume:
        verdict.builds = lacking(found, generation.path / volume)


# The command


def progress(what: str) -> Show:
    """Shows how far something is, on a terminal."""
    terminal = sys.stderr.isatty()

    def show(number: int, count: int) -> None:
        if terminal and (number == count or number % 100 == 0):
            print(f"\r{number} of {count} {what}", end="\n" if number == count else "", file=sys.stderr, flush=True)

    return show


def say_to(program: str) -> Say:
    """Tells what is being done, on standard error."""
    return lambda line: print(f"{program}: {line}", file=sys.stderr, flush=True)


def guarded(program: str, work: Any) -> int:
    """The exit status of ``work``; what goes wrong in it is told in a sentence."""
    try:
        status: int = work()
        return status
    except BackupError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return error.status
    except OSError as error:
        print(f"{program}: {error.filename or 'the disk'} failed: {error.strerror}.", file=sys.stderr)
        return EXIT_TOOL
    except KeyboardInterrupt:
        print(f"{program}: interrupted; run it again, and it goes on from here.", file=sys.stderr)
        return EXIT_PARTLY


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="koji_backup.py",
        description="Back up what this host has of the build environment, by its roles, and check backups.",
        epilog="Exit status: 0 done, 1 something is missing or damaged, 2 usage, 4 Koji's database, 5 a tool or disk"
        " failed, 75 another run holds the backups.",
    )
    parser.add_argument("--config", type=Path, default=CONFIG, help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    made = commands.add_parser("run", help="make a generation, and remove those that need not stay")
    made.add_argument("--dry-run", action="store_true", help="say what would be copied and removed, and change nothing")
    made.add_argument("--checksum", action="store_true",
                      help="compare by content too: what is damaged in the backup is copied anew")  # fmt: skip
    listed = commands.add_parser("list", help="the generations that there are")
    judged = commands.add_parser("verify", help="read a generation, and hold it against its checksums and Koji's builds")
    judged.add_argument("generation", nargs="?", default="", help="its name (default: the newest)")
    judged.add_argument("--host", help="of another host, whose backups are seen here")
    judged.add_argument("--no-hash", action="store_true", help="read the database and look for files; hash nothing")
    judged.add_argument("--live", action="store_true",
                        help="judge this host's own files, by what the backup knows of them")  # fmt: skip
    for command in (made, listed, judged):
        command.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """``scripts/koji_backup.py``; the exit status."""
    args = _parser().parse_args(argv)
    return guarded("koji_backup.py", lambda: {"run": _run, "list": _list, "verify": _verify}[args.command](args))


def _run(args: argparse.Namespace) -> int:
    config = Config.read(args.config)
    need_place(config)
    say = say_to("koji_backup.py")
    start = time.monotonic()
    os.umask(0o077)
    if args.dry_run:
        names = sorted(config.parts)
        gone = prune(config, dry_run=True)
        if args.json:
            print(json.dumps({"parts": names, "removed": gone}))
        else:
            print(f"{', '.join(names)} would go to {config.own}; {', '.join(gone) or 'nothing'} would be removed.")
        return EXIT_DONE
    with locked(config):
        report = make(config, say, progress("new files hashed"), args.checksum)
    seconds = round(time.monotonic() - start, 1)
    if args.json:
        print(json.dumps({**asdict(report), "seconds": seconds}))
    else:
        for line in _report_lines(report, seconds):
            print(line)
    return report.status


def _report_lines(report: Report, seconds: float) -> Iterator[str]:
    for name in report.missing:
        yield f"missing on the volume: {name}"
    yield from report.notes
    yield (
        f"{report.generation}: {report.files} files, {report.bytes / 1e6:.1f} MB; new of them {report.new_files},"
        f" {report.new_bytes / 1e6:.1f} MB; {len(report.removed)} generations removed; {seconds} s"
    )


def _list(args: argparse.Namespace) -> int:
    config = Config.read(args.config)
    need_place(config)
    rows = [{"generation": each.name, **each.about} for each in generations(config.own)]
    if args.json:
        print(json.dumps({"generations": rows}))
        return EXIT_DONE
    for row in rows:
        koji = row.get("koji")
        builds = f", {koji['complete_builds']} builds at event {koji['event']}" if koji else ""
        print(f"{row['generation']}  {row['files']} files, {row['bytes'] / 1e6:.1f} MB: {', '.join(row['parts'])}{builds}")
    return EXIT_DONE


def _verify(args: argparse.Namespace) -> int:
    config = Config.read(args.config)
    need_place(config)
    if args.live and (args.host or args.no_hash):
        raise BackupError("--live reads files of this host: leave out --host and --no-hash.", EXIT_USAGE)
    generation = choose(config.path / args.host if args.host else config.own, args.generation)
    show = progress("files read")
    if args.live:
        verdict = verify_live(generation, config.parts, show)
    else:
        verdict = verify(generation, config.parts, not args.no_hash, show)
    if args.json:
        print(json.dumps({**asdict(verdict), "good": verdict.good}))
    else:
        for kind, names in (("missing", verdict.missing), ("damaged", verdict.damaged), ("not of it", verdict.unknown),
                            ("missing of a complete build", verdict.builds)):  # fmt: skip
            for name in names:
                print(f"{kind}: {name}")
        for line in verdict.failures:
            print(line)
        koji = ""
        if verdict.event:
            koji = f", {verdict.complete_builds} builds with {verdict.rpms} RPMs at event {verdict.event}"
        print(f"{verdict.generation}: {verdict.files} files{koji}: {'good' if verdict.good else 'NOT GOOD'}")
    return verdict.status
