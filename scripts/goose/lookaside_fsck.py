"""Whether the lookaside cache holds what it should: every archive whole, and all that repositories name.

Archives are hashed again, one after the other; a run that was killed goes on where it was, by the small
file ``fsck.json`` beside the archives. That file saves time and nothing else: without it all are hashed.

What repositories name is read from the file `sources` of every commit that is in them, those on no branch
too: Koji builds a commit by its hash. An archive that any of them names, whatever the repository is called,
is never removed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Callable

from goose import sources
from goose.lookaside import CONFIG, Archive, Config, ConfigError, Store
from goose.sources import Source

EXIT_DONE, EXIT_PARTLY, EXIT_USAGE, EXIT_TOOL, EXIT_RUNNING = 0, 1, 2, 5, 75

_CHUNK = 1 << 20
# Seconds between two notes of how far hashing is.
_NOTE = 5.0
_DAY = 86400.0

Say = Callable[[str], None]


class FsckError(Exception):
    """The work cannot be done, in a sentence; ``status`` is the exit status."""

    def __init__(self, sentence: str, status: int = EXIT_TOOL) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass
class Report:
    """What was found and done; paths are those of archives, below `archives`."""

    archives: int = 0
    hashed: int = 0
    bytes_hashed: int = 0
    repositories: int = 0
    corrupt: list[str] = field(default_factory=list)
    missing: list[dict[str, str]] = field(default_factory=list)
    """Archives that a repository names: repository, filename, hashtype, hash."""
    repaired: list[str] = field(default_factory=list)
    unreferenced: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    """Files among the archives that are none."""
    unreadable: list[str] = field(default_factory=list)
    """Repositories that could not be read, in sentences."""
    bad_sources: list[str] = field(default_factory=list)
    """Lines in some commit's `sources` that name no archive, in sentences. History: nothing mends it."""
    failures: list[str] = field(default_factory=list)
    """What could not be repaired or deleted, in sentences."""

    @property
    def status(self) -> int:
        """The exit status."""
        if self.unreadable:
            return EXIT_TOOL
        return EXIT_PARTLY if self.corrupt or self.missing or self.failures else EXIT_DONE


# Hashing


class Pace:
    """Sleeps so that no more than ``rate`` bytes are read in a second; 0: no limit."""

    def __init__(
        self, rate: float, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._rate, self._clock, self._sleep = rate, clock, sleep
        self._due = clock()

    def __call__(self, size: int) -> None:
        """Note that ``size`` bytes were read."""
        if self._rate:
            now = self._clock()
            # Time that went by unused gives no right to hurry.
            self._due = max(self._due, now - 1) + size / self._rate
            if self._due > now:
                self._sleep(self._due - now)


def hash_of(path: Path, hashtype: str, pace: Callable[[int], None]) -> tuple[str, int]:
    """The hash of a file, as the disk has it, and its size in bytes."""
    found, size = hashlib.new(hashtype), 0
    with path.open("rb", buffering=0) as stream:
        while data := stream.read(_CHUNK):
            found.update(data)
            size += len(data)
            pace(len(data))
        # The memory is better used for what people download.
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return found.hexdigest(), size


@dataclass
class Progress:
    """How far hashing is, noted in a file; ``path`` None: nowhere."""

    path: Path | None
    after: str = ""
    """The last archive that was hashed, in the order of `Store.walk`."""
    corrupt: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> Progress:
        """Where an earlier run was; the beginning where none was, or its note cannot be used."""
        try:
            noted = json.loads(path.read_text(encoding="utf-8"))
            return cls(path, str(noted["after"]), [str(name) for name in noted["corrupt"]])
        except (OSError, ValueError, KeyError, TypeError):
            return cls(path)

    def save(self) -> None:
        """Note it, by rename."""
        if self.path:
            partial = self.path.with_name(f"{self.path.name}.new")
            partial.write_text(json.dumps({"after": self.after, "corrupt": self.corrupt}), encoding="utf-8")
            partial.replace(self.path)

    def end(self) -> None:
        """All were hashed: the next run begins anew."""
        if self.path:
            self.path.unlink(missing_ok=True)


def hash_all(
    store: Store,
    archives: Sequence[Archive],
    progress: Progress,
    pace: Callable[[int], None],
    report: Report,
    show: Callable[[int, int], None],
    clock: Callable[[], float] = time.monotonic,
) -> list[Archive]:
    """Hash ``archives`` (sorted), from where ``progress`` says; the corrupt ones, those noted there too."""
    again = set(progress.corrupt)
    done = progress.after.split("/")
    noted = clock()
    corrupt = []
    for number, archive in enumerate(archives):
        if archive.path.split("/") <= done and archive.path not in again:
            continue
        show(number, len(archives))
        try:
            found, size = hash_of(store.path(archive), archive.hashtype, pace)
        except FileNotFoundError:
            continue
        except OSError:  # a disk that cannot be read is a kind of damage
            found, size = "", 0
        report.hashed += 1
        report.bytes_hashed += size
        if found != archive.hash:
            corrupt.append(archive)
            again.add(archive.path)
        progress.after, progress.corrupt = max(progress.after, archive.path, key=_order), sorted(again)
        if clock() - noted >= _NOTE:
            noted = clock()
            progress.save()
    progress.end()
    return corrupt


def _order(path: str) -> list[str]:
    return path.split("/")


# What repositories name


@dataclass
class Named:
    """What repositories name."""

    by: dict[Source, set[str]] = field(default_factory=dict)
    """Archive -> repositories."""
    loose: list[str] = field(default_factory=list)
    """Texts with a bad line: what hash stands in one counts as named."""
    repositories: int = 0
    unreadable: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)

    def names(self, archive: Archive) -> bool:
        """Whether any commit of any repository names ``archive``."""
        return archive.source in self.by or any(archive.hash in text for text in self.loose)


def repositories(root: Path) -> Iterator[tuple[str, Path]]:
    """The bare repositories below ``root``: name without ``.git``, and path.

    Raises:
        OSError: where a directory cannot be read, and so a repository might be overlooked.
    """

    def fail(error: OSError) -> None:
        raise error

    for directory, names, _ in os.walk(root, onerror=fail):
        names.sort()
        path = Path(directory)
        if (path / "HEAD").exists() and (path / "objects").is_dir():
            names.clear()
            name = path.relative_to(root).as_posix()
            yield name[: -len(".git")] if name.endswith(".git") else name, path


def _git(repository: Path, *words: str, stdin: bytes = b"") -> bytes:
    # Named, a repository may be somebody else's; no replacements, and nothing is fetched.
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    environment.update(GIT_NO_REPLACE_OBJECTS="1", GIT_NO_LAZY_FETCH="1", GIT_OPTIONAL_LOCKS="0")
    try:
        done = subprocess.run(
            ["git", f"--git-dir={repository}", *words], input=stdin, capture_output=True, check=False, env=environment
        )
    except OSError as error:
        raise FsckError(f"git cannot be run ({error}): apply the state lookaside on this host.") from error
    # For a damaged object among many it says so and goes on, as if it were not there.
    said = [line for line in done.stderr.decode(errors="replace").splitlines() if line.startswith(("error:", "fatal:"))]
    if done.returncode or said:
        raise FsckError(f"The repository {repository} cannot be read: {said[0] if said else 'git failed'}.")
    return done.stdout


def sources_texts(repository: Path) -> list[tuple[str, str]]:
    """Each text that the file `sources` has in any commit of ``repository``: blob and text.

    Raises:
        FsckError: where git cannot read the repository.
    """
    listed = _git(repository, "cat-file", "--batch-all-objects", "--unordered",
                  "--batch-check=%(objecttype) %(objectname)")  # fmt: skip
    commits = [line[len(b"commit ") :] for line in listed.split(b"\n") if line.startswith(b"commit ")]
    asked = b"".join(commit + b":sources\n" for commit in commits)
    told = _git(repository, "cat-file", "--batch-check=%(objecttype) %(objectname)", stdin=asked) if asked else b""
    blobs = sorted({line[len(b"blob ") :] for line in told.split(b"\n") if line.startswith(b"blob ")})
    if not blobs:
        return []
    out = _git(repository, "cat-file", "--batch", stdin=b"".join(blob + b"\n" for blob in blobs))
    texts, at = [], 0
    for blob in blobs:
        end = out.index(b"\n", at)
        size = int(out[at:end].split()[2])
        texts.append((blob.decode(), out[end + 1 : end + 1 + size].decode(errors="replace")))
        at = end + 1 + size + 1
    return texts


def named(roots: Iterable[Path]) -> Named:
    """What the repositories below ``roots`` name."""
    found = Named()
    everything: list[tuple[str, Path]] = []
    for root in roots:
        try:
            everything += repositories(root)
        except OSError as error:
            found.unreadable.append(f"{error.filename or root} cannot be read: {error.strerror}.")

    def read(entry: tuple[str, Path]) -> list[tuple[str, str]] | FsckError:
        try:
            return sources_texts(entry[1])
        except FsckError as error:
            return error

    with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
        for (name, _), texts in zip(everything, pool.map(read, everything)):
            if isinstance(texts, FsckError):
                found.unreadable.append(str(texts))
                continue
            found.repositories += 1
            for blob, text in texts:
                try:
                    for source in sources.parse(text):
                        found.by.setdefault(source, set()).add(name)
                except sources.SourcesError as error:
                    found.bad.append(f"{name}, blob {blob}: {error}")
                    found.loose.append(text)
    return found


def candidates(repository: str, source: Source) -> list[Archive]:
    """Where an archive of ``repository`` may lie: below its whole name, or the last part of it.

    Which one it is says rpkg's `lookaside_namespaced`.
    """
    names = dict.fromkeys([repository, repository.rpartition("/")[2]])
    return [Archive(name, source.filename, source.hashtype, source.hash) for name in names]


# Repair


class Mirror:
    """A lookaside cache of the same layout, below ``url``."""

    def __init__(self, url: str, store: Store, max_size: int = 0) -> None:
        self._url, self._store, self._max_size = url.rstrip("/"), store, max_size

    def fetch(self, archive: Archive, replace: bool) -> None:
        """Put ``archive`` into the store as the mirror has it, its hash checked.

        Raises:
            FsckError: where the mirror has it not, or not right.
        """
        url = f"{self._url}/{urllib.parse.quote(archive.path)}"
        found, size = hashlib.new(archive.hashtype), 0
        try:
            with urllib.request.urlopen(url, timeout=60) as answer, self._store.partial() as partial:
                while data := answer.read(_CHUNK):
                    found.update(data)
                    size += len(data)
                    if self._max_size and size > self._max_size:
                        raise FsckError(f"{url} is larger than lookaside:max_size.")
                    partial.stream.write(data)
                if found.hexdigest() != archive.hash:
                    raise FsckError(f"{url} has another {archive.hashtype}.")
                self._store.publish(partial, archive, _modified(answer), replace=replace)
        except (OSError, ValueError) as error:
            raise FsckError(f"{url} was not fetched: {error}.") from error


def _modified(answer: Any) -> float | None:
    try:
        return parsedate_to_datetime(answer.headers["Last-Modified"]).timestamp()
    except (TypeError, ValueError):
        return None


# All of it


@dataclass(frozen=True)
class Wishes:
    """What a run shall do beside looking."""

    rate: float = 0
    """Bytes a second."""
    hash: bool = True
    from_start: bool = False
    repair_from: str = ""
    delete_unreferenced: bool = False
    min_age: float = 30 * _DAY
    """Seconds that an unreferenced archive must have been there to be deleted."""
    dry_run: bool = False


def run(
    config: Config,
    wishes: Wishes,
    say: Say = lambda line: None,
    show: Callable[[int, int], None] = lambda number, count: None,
    now: Callable[[], float] = time.time,
) -> Report:
    """Look at everything, and repair and delete what `wishes` say; `FsckError` where that cannot be."""
    if wishes.delete_unreferenced and not config.repositories:
        raise FsckError(
            "--delete-unreferenced needs the repositories: name their directory in pillar lookaside:repositories,"
            " or by --repositories.",
            EXIT_USAGE,
        )
    store, report = Store(config.path), Report()
    archives = []
    for path in store.walk():
        archive = Archive.at(path)
        if archive:
            archives.append(archive)
        else:
            report.foreign.append(path)
    archives.sort(key=lambda archive: _order(archive.path))
    report.archives = len(archives)

    corrupt: list[Archive] = []
    if wishes.hash:
        note = config.path / "fsck.json"
        progress = Progress(note) if wishes.from_start else Progress.load(note)
        if wishes.dry_run:
            progress.path = None
        if progress.after:
            say(f"going on after {progress.after}, where an earlier run was")
        corrupt = hash_all(store, archives, progress, Pace(wishes.rate), report, show)
        for archive in corrupt:
            say(f"corrupt: {archive.path}")

    # After hashing, which takes hours: what is deleted below must be judged by what is named now.
    told = named(config.repositories)
    report.repositories, report.unreadable, report.bad_sources = told.repositories, told.unreadable, told.bad
    missing = [
        (repository, source)
        for source, by in sorted(told.by.items(), key=lambda entry: (sorted(entry[1]), entry[0].filename))
        for repository in sorted(by)
        if not any(store.has(archive) for archive in candidates(repository, source))
    ]
    _repair(store, config, wishes, corrupt, missing, report, say)
    if config.repositories:
        unreferenced = [archive for archive in archives if not told.names(archive)]
        report.unreferenced = [archive.path for archive in unreferenced]
        if wishes.delete_unreferenced:
            _delete(store, wishes, unreferenced, told, report, now, say)
    return report


def _repair(
    store: Store,
    config: Config,
    wishes: Wishes,
    corrupt: Sequence[Archive],
    missing: Sequence[tuple[str, Source]],
    report: Report,
    say: Say,
) -> None:
    mirror = Mirror(wishes.repair_from, store, config.max_size) if wishes.repair_from and not wishes.dry_run else None

    def mended(wanted: Sequence[Archive], replace: bool) -> bool:
        errors = []
        for archive in wanted:
            if mirror is None:
                break
            try:
                mirror.fetch(archive, replace)
                report.repaired.append(archive.path)
                say(f"repaired: {archive.path}")
                return True
            except FsckError as error:
                errors.append(str(error))
        report.failures += errors[:1]
        return False

    report.corrupt = [archive.path for archive in corrupt if not mended([archive], True)]
    for repository, source in missing:
        if not mended(candidates(repository, source), False):
            report.missing.append({"repository": repository, **dataclasses.asdict(source)})


def _delete(
    store: Store,
    wishes: Wishes,
    unreferenced: Sequence[Archive],
    told: Named,
    report: Report,
    now: Callable[[], float],
    say: Say,
) -> None:
    if told.unreadable or not told.repositories:
        why = "a repository cannot be read" if told.unreadable else "there is no repository"
        report.failures.append(f"Nothing was deleted, because {why}, and so it is not known what is named.")
        return
    for archive in unreferenced:
        try:
            # The inode's: no client sets it, and asking for an archive renews it (`Store.keep`).
            if now() - store.path(archive).stat().st_ctime < wishes.min_age:
                continue
            if not wishes.dry_run:
                store.remove(archive)
            report.deleted.append(archive.path)
            say(f"{'would be deleted' if wishes.dry_run else 'deleted'}: {archive.path}")
        except OSError as error:
            report.failures.append(f"{archive.path} was not deleted: {error.strerror}.")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock at ``path``; `FsckError` where another run holds it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise FsckError(f"{path} cannot be opened ({error.strerror}): run this as root.", EXIT_USAGE) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FsckError("Another lookaside_fsck.py runs: wait for it.", EXIT_RUNNING) from error
        yield
    finally:
        os.close(descriptor)


def _lines(report: Report, dry_run: bool) -> Iterator[str]:
    for archive in report.corrupt:
        yield f"corrupt: {archive}"
    for entry in report.missing:
        yield f"missing: {entry['repository']} names {entry['filename']} ({entry['hashtype']} {entry['hash']})"
    for kind, entries in (
        ("repaired", report.repaired),
        ("would be deleted" if dry_run else "deleted", report.deleted),
        ("named by no commit", [path for path in report.unreferenced if path not in set(report.deleted)]),
        ("no archive", report.foreign),
        ("bad sources", report.bad_sources),
    ):
        for line in entries:
            yield f"{kind}: {line}"
    yield from report.failures
    yield from report.unreadable
    yield (
        f"{report.archives} archives, {report.hashed} of them hashed ({report.bytes_hashed / 1e6:.1f} MB);"
        f" {report.repositories} repositories; {len(report.corrupt)} corrupt, {len(report.missing)} missing,"
        f" {len(report.repaired)} repaired, {len(report.unreferenced)} named by no commit, {len(report.deleted)} deleted"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """``scripts/lookaside_fsck.py``; the exit status."""
    parser = argparse.ArgumentParser(
        prog="lookaside_fsck.py",
        description="Hash all archives of the lookaside cache again, and compare it with what repositories name.",
        epilog="Exit status: 0 all is well, 1 something is corrupt or missing, 2 usage, 5 a repository cannot be"
        " read, 75 already running.",
    )
    parser.add_argument("--config", type=Path, default=CONFIG, metavar="FILE", help=f"(default: {CONFIG})")
    parser.add_argument("--rate", type=float, default=0, metavar="MB", help="read at most so many MB a second")
    parser.add_argument("--no-hash", action="store_true", help="only compare with the repositories")
    parser.add_argument("--from-start", action="store_true", help="do not go on where a killed run was")
    parser.add_argument(
        "--repositories", type=Path, action="append", metavar="DIR", help="where bare git repositories are (may be repeated)"
    )
    parser.add_argument(
        "--repair-from", default="", metavar="URL", help="fetch what is corrupt or missing from a cache of this layout"
    )
    parser.add_argument("--delete-unreferenced", action="store_true", help="delete what no commit names")
    parser.add_argument(
        "--min-age", type=float, default=30, metavar="DAYS", help="… if it is there for so many days (default: 30)"
    )
    parser.add_argument("--dry-run", action="store_true", help="change nothing")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    args = parser.parse_args(argv)
    if args.repair_from and urllib.parse.urlsplit(args.repair_from).scheme not in ("http", "https", "file"):
        parser.error(f"--repair-from is {args.repair_from!r}: give a URL, as in https://mirror.example.org/lookaside.")
    if args.rate < 0 or args.min_age < 0:
        parser.error("--rate and --min-age are not negative.")
    terminal = sys.stderr.isatty()
    start = time.monotonic()

    def say(line: str) -> None:
        print(f"{chr(13) + chr(27) + '[K' if terminal else ''}{line}", file=sys.stderr, flush=True)

    def show(number: int, count: int) -> None:
        if terminal:
            print(f"\r{number} of {count} archives", end="", file=sys.stderr, flush=True)

    wishes = Wishes(
        rate=args.rate * 1e6,
        hash=not args.no_hash,
        from_start=args.from_start,
        repair_from=args.repair_from,
        delete_unreferenced=args.delete_unreferenced,
        min_age=args.min_age * _DAY,
        dry_run=args.dry_run,
    )
    try:
        config = Config.read(args.config)
        if args.repositories:
            config = dataclasses.replace(config, repositories=tuple(args.repositories))
        with locked(config.path / "fsck.lock"):
            report = run(config, wishes, say, show)
    except ConfigError as error:
        print(f"lookaside_fsck.py: {error}", file=sys.stderr)
        return EXIT_USAGE
    except FsckError as error:
        print(f"lookaside_fsck.py: {error}", file=sys.stderr)
        return error.status
    except OSError as error:
        print(f"lookaside_fsck.py: the cache's disk failed: {error}", file=sys.stderr)
        return EXIT_TOOL
    except KeyboardInterrupt:
        print("lookaside_fsck.py: interrupted; the next run goes on from here.", file=sys.stderr)
        return EXIT_PARTLY
    if args.json:
        print(json.dumps({**dataclasses.asdict(report), "seconds": round(time.monotonic() - start, 1)}))
    else:
        print("\n".join(_lines(report, args.dry_run)))
    return report.status
