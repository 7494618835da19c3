"""Source RPMs split in two: spec, patches and small text into git, archives into the lookaside cache.

Each package has a repository, each source RPM becomes a commit and a tag ``imports/BRANCH/NEVRA``,
with author and date of the newest changelog entry. What is done is read back from there: the same
source RPM again changes nothing, and a run that was killed is simply run again. Archives come
first, then the commit, then the tag, so that at every moment what git names is there.
"""

from __future__ import annotations

import argparse
import configparser
import contextlib
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Union

from goose import srpm
from goose.git_repos import GitError, LocalRepositories, RemoteRepositories, Repositories, git, told
from goose.lookaside import Archive, Partial, Store
from goose.lookaside_client import Lookaside, LookasideError, Settings
from goose.sources import Source, filename_fault, format_line
from goose.srpm import Header, Member, SrpmError

EXIT_DONE, EXIT_PARTLY, EXIT_USAGE, EXIT_TOOL, EXIT_RUNNING = 0, 1, 2, 5, 75

# The packagers' command has the same addresses.
CONFIG = Path("/etc/rpkg/goosepkg.conf")
_SECTION = "goosepkg"

# Endings of what upstream packs; all else is judged by size and content.
SUFFIXES = (
    ".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tlz", ".tzst", ".gz", ".bz2", ".xz", ".lzma", ".zst", ".lz", ".Z",
    ".zip", ".7z", ".jar", ".war", ".gem", ".whl", ".crate", ".cpio", ".iso", ".img", ".rpm", ".deb", ".bin", ".efi",
    ".pdf", ".ttf", ".otf", ".woff", ".png", ".jpg", ".gif", ".ico", ".p12", ".der",
)  # fmt: skip
TEXT_LIMIT = 1 << 20
"""Bytes; a larger file is an archive, whatever it is called."""

_RESERVED = ("sources", ".gitignore", ".gitattributes", ".gitmodules", ".git")
_TRAILER = "Source-files"


class ImportFailed(Exception):
    """Why a source RPM was not imported, as a sentence."""


# --- What becomes of a file ------------------------------------------------------------------------


@dataclass(frozen=True)
class Rules:
    """Which files are archives."""

    suffixes: tuple[str, ...] = SUFFIXES
    text_limit: int = TEXT_LIMIT
    hashtype: str = "sha512"

    def surely(self, member: Member) -> bool | None:
        """Whether it is an archive, as far as name and size tell; None where its content decides."""
        if member.name.endswith(".spec"):
            return False
        if member.name.endswith(self.suffixes) or member.size > self.text_limit:
            return True
        return None


@dataclass
class Split:
    """A source RPM, split."""

    header: Header
    texts: dict[str, tuple[bytes, bool]] = field(default_factory=dict)
    """Name -> content, and whether it is executable."""
    archives: dict[Source, Path] = field(default_factory=dict)


def split(header: Header, rules: Rules, scratch: Path) -> Split:
    """Read a source RPM; its archives lie in ``scratch``. Raises `SrpmError`, `ImportFailed`."""
    check(header)
    found = Split(header)
    for member, blocks in srpm.contents(header):
        archive = rules.surely(member)
        if archive is None:
            data = b"".join(blocks)
            # As git tells binary files.
            archive, blocks = b"\0" in data[:8000], iter([data])
        if not archive:
            found.texts[member.name] = (b"".join(blocks), member.executable)
            continue
        if fault := filename_fault(member.name):
            raise ImportFailed(f"It holds an archive whose name {fault}: {member.name[:100]!r}.")
        path = scratch / str(len(found.archives))
        digest = hashlib.new(rules.hashtype)
        with path.open("wb") as stream:
            for block in blocks:
                digest.update(block)
                stream.write(block)
        found.archives[Source(member.name, rules.hashtype, digest.hexdigest())] = path
    return found


def check(header: Header) -> None:
    """Raise `ImportFailed` where the repository could not hold what the header names."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", header.name) or header.name.endswith((".git", ".lock")):
        raise ImportFailed(f"The package's name {header.name!r} cannot be a repository's.")
    specs = [member.name for member in header.members if member.name.endswith(".spec")]
    if len(specs) != 1:
        raise ImportFailed(f"It holds {len(specs)} spec files, and must hold one.")
    for member in header.members:
        if member.name in _RESERVED or re.search(r"[/\x00-\x1f\x7f]", member.name) or member.name in ("", ".", ".."):
            raise ImportFailed(f"It holds a file called {member.name!r}, which a package's repository cannot hold.")


# --- What git is told ------------------------------------------------------------------------------


def tag_of(branch: str, nevra: str) -> str:
    """The tag of an import. Git allows no ``:``, ``~`` and ``^`` there, and rpm no ``%`` in versions."""
    encoded = re.sub(r"[:~^]", lambda found: f"%{ord(found.group()):02X}", nevra)
    # Nor two dots beside each other, a dot at the end, or .lock there.
    encoded = re.sub(r"\.(?=\.)|\.$|\.(?=lock$)", "%2E", encoded)
    return f"refs/tags/imports/{branch}/{encoded}"


def nevra_of(tag: str, branch: str) -> str:
    """What `tag_of` made the tag of."""
    encoded = tag[len(f"refs/tags/imports/{branch}/") :]
    return re.sub(r"%([0-9A-F]{2})", lambda found: chr(int(found.group(1), 16)), encoded)


def identity(header: Header) -> str:
    """Author and time for git, of a changelog line as in ``Name <mail> - 1.2-3``."""
    found = re.match(r"\s*(?P<name>[^<]*?)\s*(<(?P<mail>[^<>]*)>|$)", header.who)
    name, mail = (found["name"], found["mail"] or "") if found else ("", "")
    name, mail = (re.sub(r"[<>\x00-\x1f]", "", part).strip() for part in (name, mail))
    # Git strips these, and refuses an empty name.
    name = name.strip(" .,:;\"'\\") or mail or "unknown"
    mail = "".join(mail.split())
    return f"{name} <{mail}> {max(header.when, 0)} +0000"


def _data(content: bytes) -> bytes:
    return b"data %d\n%s\n" % (len(content), content)


def _message(header: Header) -> bytes:
    changes = "\n".join(line.rstrip() for line in header.changes.replace("\0", "").splitlines()).strip()
    parts = [f"import {header.nevra}", *([changes] if changes else []), f"{_TRAILER}: {header.fingerprint}"]
    return ("\n\n".join(parts) + "\n").encode("utf-8", "surrogateescape")


def commit_lines(found: Split, branch: str, mark: int, parent: str) -> bytes:
    """A commit for `git fast-import`; ``parent`` is a commit, a mark, or empty."""
    who = identity(found.header).encode("utf-8", "surrogateescape")
    names = sorted(source.filename for source in found.archives)
    lines = "".join(format_line(source) for source in sorted(found.archives, key=lambda source: source.filename))
    # With a backslash before what means something to git.
    ignored = "".join("/" + re.sub(r"([\\*?\[])", r"\\\1", name) + "\n" for name in names)
    texts = {**found.texts, "sources": (lines.encode(), False), ".gitignore": (ignored.encode(), False)}
    parts = [b"commit refs/heads/%s\nmark :%d\n" % (branch.encode(), mark)]
    parts += [b"author %s\n" % who, b"committer %s\n" % who, _data(_message(found.header))]
    if parent:
        parts.append(b"from %s\n" % parent.encode())
    parts.append(b"deleteall\n")
    for name, (content, executable) in sorted(texts.items()):
        path = name.encode("utf-8", "surrogateescape")
        if path.startswith(b'"'):
            path = b'"' + path.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
        parts.append(b"M %s inline %s\n" % (b"100755" if executable else b"100644", path))
        parts.append(_data(content))
    return b"".join(parts)


def tag_lines(header: Header, branch: str, commit: str) -> bytes:
    """A tag for `git fast-import`; ``commit`` is a commit or a mark."""
    name = tag_of(branch, header.nevra)[len("refs/tags/") :]
    who = identity(header).encode("utf-8", "surrogateescape")
    message = f"{header.nevra}\n\n{_TRAILER}: {header.fingerprint}\n".encode()
    return b"tag %s\nfrom %s\ntagger %s\n" % (name.encode(), commit.encode(), who) + _data(message)


class FastImport:
    """A `git fast-import` that keeps what it was told only where it is told all of it."""

    def __init__(self, directory: Path, marks: Path) -> None:
        self._directory = directory
        self._marks = marks
        # Small packs stay packs: a file instead of ten, and one to synchronize.
        command = ["git", f"--git-dir={directory}", "-c", "fastimport.unpackLimit=1", "fast-import", "--quiet", "--done",
                   f"--export-marks={marks}", "--date-format=raw"]  # fmt: skip
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)

    def say(self, lines: bytes) -> None:
        """Add ``lines``."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `finish` says why
            self._process.stdin.write(lines)

    def finish(self) -> dict[str, str]:
        """Commit by mark. Raises `GitError`, and nothing has then changed."""
        self.say(b"done\n")
        _, stderr = self._process.communicate()
        if self._process.returncode:
            (self._directory / f"fast_import_crash_{self._process.pid}").unlink(missing_ok=True)
            raise GitError(f"git fast-import failed: {told(stderr)}")
        lines = self._marks.read_text().split("\n")
        return dict(line.split(" ", 1) for line in lines if line)

    def abort(self) -> None:
        """End it before it has changed anything."""
        self._process.kill()
        self._process.communicate()


# --- What is there ---------------------------------------------------------------------------------


class State:
    """What a repository tells of earlier imports into one branch."""

    def __init__(self, directory: Path | None, branch: str) -> None:
        self._directory = directory
        self._branch = branch
        self.head = ""
        """The branch's commit."""
        self.tags: dict[str, tuple[str, str]] = {}
        """NEVRA -> fingerprint, commit."""
        if directory is None:
            return
        trailer = f"%(contents:trailers:key={_TRAILER},valueonly,separator=%x2C)"
        form = f"%(refname)%00%(objectname)%00%(*objectname)%00{trailer}"
        refs = git(directory, "for-each-ref", f"--format={form}", f"refs/heads/{branch}", f"refs/tags/imports/{branch}/")
        for line in refs.splitlines():
            name, commit, peeled, fingerprint = line.split("\0")
            if name == f"refs/heads/{branch}":
                self.head = commit
            elif name.startswith("refs/tags/"):
                self.tags[nevra_of(name, branch)] = (fingerprint, peeled or commit)

    @functools.cached_property
    def commits(self) -> list[tuple[str, str, str]]:
        """Commit, NEVRA, fingerprint, newest first; without the last two where no import made it."""
        if not self.head:
            return []
        form = f"%H%x00%s%x00%(trailers:key={_TRAILER},valueonly,separator=%x2C)"
        lines = git(self._directory, "log", "--first-parent", f"--format={form}", f"refs/heads/{self._branch}").splitlines()
        rows = [line.split("\0") for line in lines]
        return [(row[0], row[1][len("import ") :] if row[2] else "", row[2]) for row in rows]


def evr_of(nevra: str, name: str) -> tuple[str, str, str]:
    """Epoch, version and release of a NEVRA of the package ``name``."""
    version, _, release = nevra[len(name) + 1 :].rpartition("-")
    epoch, _, version = version.rpartition(":")
    return epoch, version, release


# --- Importing -------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What became of one source RPM."""

    path: Path
    nevra: str = ""
    package: str = ""
    commit: str = ""
    action: str = ""
    """imported, unchanged or failed; with --dry-run what would be."""
    archives: int = 0
    """Archives that were brought."""
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        """One entry of the result."""
        row: dict[str, Any] = {"srpm": str(self.path), "nevra": self.nevra, "package": self.package}
        row.update(commit=self.commit, action=self.action, archives=self.archives)
        return {**row, "error": self.error} if self.error else row


class LocalLookaside:
    """The cache's own directory, for who may write there, used as `Lookaside` is."""

    def __init__(self, root: Path) -> None:
        self._store = Store(root)

    def put(self, package: str, source: Source, path: Path) -> bool:
        """Publish ``path``, a file in the store's `incoming`; False where the archive was there."""
        archive = Archive(package, source.filename, source.hashtype, source.hash)
        if self._store.has(archive):
            return False
        with path.open("r+b") as stream:
            return self._store.publish(Partial(path, stream), archive)

    def close(self) -> None:
        """Nothing is open."""


Cache = Union[Lookaside, LocalLookaside]


@dataclass(frozen=True)
class Importer:
    """Imports into one branch of one place."""

    repositories: Repositories
    lookaside: Callable[[], Cache]
    """One for each thread."""
    branch: str
    namespace: str
    scratch: Path
    rules: Rules = Rules()
    dry_run: bool = False

    def package(self, headers: Sequence[Header]) -> list[Outcome]:
        """Import source RPMs of one package, older ones first; one that fails does not stop the others."""
        headers = sorted(headers, key=functools.cmp_to_key(_order))
        name = f"{self.namespace}/{headers[0].name}"
        outcomes = [Outcome(header.path, header.nevra, name) for header in headers]
        # Named after the archives' own place, so that publishing is a link.
        work = self.scratch / f"{headers[0].name}-{os.getpid()}"
        work.mkdir(parents=True)
        directory = None
        try:
            check(headers[0])
            directory = self.repositories.take(name)
            state = State(directory, self.branch)
            pending = [pair for pair in zip(headers, outcomes) if self._is_pending(state, *pair)]
            if pending and not self.dry_run:
                if directory is None:
                    directory = self.repositories.make(name)
                self._write(directory, state, name, pending, work)
        except (ImportFailed, SrpmError, GitError, LookasideError, OSError) as error:
            for outcome in outcomes:
                if outcome.action != "unchanged" and not outcome.error:
                    outcome.action, outcome.error = "failed", _sentence(error)
        finally:
            if directory is not None:
                self.repositories.leave(directory)
            shutil.rmtree(work, ignore_errors=True)
        return outcomes

    def _is_pending(self, state: State, header: Header, outcome: Outcome) -> bool:
        """Whether there is something to do; where not, or where it must not be done, ``outcome`` says so."""
        fingerprint, commit = state.tags.get(header.nevra, ("", ""))
        try:
            if not commit:
                if not self._interrupted(state, header):
                    self._fits(state, header)
                outcome.action = "imported" if self.dry_run else ""
                return True
            if fingerprint != header.fingerprint:
                tag = tag_of(self.branch, header.nevra)[len("refs/tags/") :]
                raise ImportFailed(
                    f"{header.nevra} was imported from a source RPM with other content (tag {tag}): a release has one"
                    " content; raise the release, or import into another branch."
                )
        except (ImportFailed, SrpmError) as error:
            outcome.action, outcome.error = "failed", str(error)
        else:
            outcome.action, outcome.commit = "unchanged", commit
        return False

    def _interrupted(self, state: State, header: Header) -> str:
        """The commit of an import that was killed before it had its tag."""
        return next((row[0] for row in state.commits if row[1:] == (header.nevra, header.fingerprint)), "")

    def _fits(self, state: State, header: Header) -> None:
        if not state.head:
            return
        commit, nevra, _ = state.commits[0]
        if not nevra:
            raise ImportFailed(
                f"The newest commit of the branch {self.branch} ({commit[:12]}) was made by somebody's hand, and an"
                " import would undo it: import into another --branch and merge."
            )
        new = (header.epoch, header.version, header.release)
        if srpm.compare(new, evr_of(nevra, header.name)) < 0:
            raise ImportFailed(
                f"The branch {self.branch} holds {nevra}, which is newer: import the older one into another --branch."
            )

    def _write(
        self, directory: Path, state: State, name: str, pairs: Sequence[tuple[Header, Outcome]], work: Path
    ) -> None:
        lookaside = self.lookaside()
        stream = FastImport(directory, work / "marks")
        parent = state.head
        refs: list[str] = []
        marks: dict[str, Outcome] = {}
        try:
            for number, (header, outcome) in enumerate(pairs, 1):
                try:
                    commit = self._interrupted(state, header)
                    if not commit:
                        found = self._publish(header, name, lookaside, work / str(number), outcome)
                        stream.say(commit_lines(found, self.branch, number, parent))
                        parent = commit = f":{number}"
                        refs.append(f"refs/heads/{self.branch}")
                    stream.say(tag_lines(header, self.branch, commit))
                    refs.append(tag_of(self.branch, header.nevra))
                    marks[commit] = outcome
                except (ImportFailed, SrpmError, LookasideError, OSError) as error:
                    outcome.action, outcome.error = "failed", _sentence(error)
            if not marks:
                stream.abort()
                return
            commits = stream.finish()
        except BaseException:
            stream.abort()
            raise
        finally:
            lookaside.close()
        self.repositories.give(name, directory, list(dict.fromkeys(refs)))
        for mark, outcome in marks.items():
            outcome.action, outcome.commit = "imported", commits.get(mark, mark)

    def _publish(self, header: Header, name: str, lookaside: Cache, work: Path, outcome: Outcome) -> Split:
        """Split a source RPM, and bring its archives before git names them."""
        work.mkdir()
        try:
            found = split(header, self.rules, work)
            for source, path in found.archives.items():
                outcome.archives += lookaside.put(name, source, path)
                path.unlink()
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return found


def _order(one: Header, two: Header) -> int:
    return srpm.compare((one.epoch, one.version, one.release), (two.epoch, two.version, two.release))


def _sentence(error: BaseException) -> str:
    return f"{error.strerror}: {error.filename}." if isinstance(error, OSError) else str(error)


def find(paths: Iterable[Path]) -> Iterator[Path]:
    """The source RPMs that ``paths`` are, or have below them; each once."""
    seen: set[Path] = set()
    for path in paths:
        found = sorted(path.rglob("*.src.rpm")) if path.is_dir() else [path]
        for each in found:
            if each not in seen:
                seen.add(each)
                yield each


def run(
    importer: Importer, paths: Sequence[Path], jobs: int, progress: Callable[[Outcome, int, int], None]
) -> list[Outcome]:
    """Import all, packages side by side; the outcomes in the order of ``paths``."""
    outcomes: dict[Path, Outcome] = {}
    packages: dict[str, list[Header]] = {}
    seen: dict[str, Header] = {}

    def note(outcome: Outcome) -> None:
        outcomes[outcome.path] = outcome
        progress(outcome, len(outcomes), len(paths))

    for path in paths:
        try:
            header = srpm.read(path)
        except SrpmError as error:
            note(Outcome(path, action="failed", error=str(error)))
            continue
        twin = seen.setdefault(header.nevra, header)
        if twin is header:
            packages.setdefault(header.name, []).append(header)
        elif twin.fingerprint == header.fingerprint:
            note(Outcome(path, header.nevra, f"{importer.namespace}/{header.name}", action="unchanged"))
        else:
            sentence = f"{twin.path} is {header.nevra} too, with other content: give one of them."
            note(Outcome(path, header.nevra, action="failed", error=sentence))
    # The large ones first, or one of them is alone at the end.
    order = sorted(packages.values(), key=lambda headers: -sum(header.path.stat().st_size for header in headers))
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(importer.package, headers) for headers in order]
        try:
            for future in as_completed(futures):
                for outcome in future.result():
                    note(outcome)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    # A second copy of the same is at the same commit.
    commits = {outcome.nevra: outcome.commit for outcome in outcomes.values() if outcome.commit}
    for outcome in outcomes.values():
        if outcome.action == "unchanged" and not outcome.commit:
            outcome.commit = commits.get(outcome.nevra, "")
    return [outcomes[path] for path in paths]


# --- The command -----------------------------------------------------------------------------------


class UsageError(Exception):
    """What is missing or wrong on the command line, as a sentence."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="srpm_import.py",
        description="Split source RPMs: spec, patches and text into git, archives into the lookaside cache.",
        epilog=f"Addresses that are not given are those of {CONFIG}, which the state scm.client writes.",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="SRPM", help="a source RPM, or a folder of them")
    parser.add_argument("--branch", help="the branch to import into (default: that of the configuration)")
    parser.add_argument("--namespace", default="rpms", help="before the repositories' names (default: rpms)")
    parser.add_argument("--repositories", metavar="URL", help="as in ssh://gitolite3@HOST/%%(repo)s")
    parser.add_argument("--lookaside", metavar="URL", help="where archives are downloaded")
    parser.add_argument("--lookaside-upload", metavar="URL", help="where they are uploaded")
    parser.add_argument("--client-cert", metavar="FILE", help="certificate and key for uploads")
    parser.add_argument("--ca", metavar="FILE", help="the CA's certificate (default: the system's)")
    parser.add_argument("--local-repositories", type=Path, metavar="DIR", help="on this host, as their owner")
    parser.add_argument("--creator", default="", metavar="NAME", help="gitolite's creator of new local repositories")
    parser.add_argument("--local-lookaside", type=Path, metavar="DIR", help="the cache's own on this host, as its user")
    parser.add_argument("--archive-suffix", action="append", metavar="SUFFIX", help="more endings of archives")
    parser.add_argument("--text-limit", type=int, default=TEXT_LIMIT, metavar="BYTES",
                        help=f"larger files are archives (default: {TEXT_LIMIT})")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=2 * (os.cpu_count() or 1), metavar="N", help="packages at a time")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="for what is under way")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    parser.add_argument("--config", type=Path, default=CONFIG, help=argparse.SUPPRESS)
    return parser


def _configuration(path: Path) -> Mapping[str, str]:
    config = configparser.ConfigParser(interpolation=None)
    try:
        with path.open(encoding="utf-8") as stream:
            config.read_file(stream)
        return dict(config[_SECTION])
    except FileNotFoundError:
        return {}
    except (OSError, KeyError, configparser.Error) as error:
        raise UsageError(f"{path} cannot be read ({error}): apply the state scm.client again.") from error


@contextlib.contextmanager
def _alone(scratch: Path) -> Iterator[bool]:
    """Whether no other run has ``scratch``; it is then emptied of what a killed one has left."""
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        for left in scratch.iterdir():
            shutil.rmtree(left)
        yield True
    finally:
        os.close(handle)


def _lookaside(args: argparse.Namespace, config: Mapping[str, str]) -> Callable[[], Cache]:
    if args.local_lookaside:
        for part in ("archives", "incoming"):
            if not (args.local_lookaside / part).is_dir():
                raise UsageError(
                    f"There is no directory {args.local_lookaside / part}: give the directory of the cache, which the"
                    " state lookaside makes (pillar lookaside:path)."
                )
        return functools.partial(LocalLookaside, args.local_lookaside)
    files, upload = args.lookaside or config.get("lookaside", ""), args.lookaside_upload or config.get("lookaside_cgi", "")
    if not files or not upload:
        raise UsageError(
            f"Where is the lookaside cache? Apply the state scm.client, which writes {args.config}; or give --lookaside"
            " and --lookaside-upload, or --local-lookaside."
        )
    cert = os.path.expanduser(args.client_cert or config.get("client_cert", ""))
    if cert and not os.path.isfile(cert) and not args.dry_run:
        raise UsageError(f"There is no client certificate {cert}: give --client-cert, certificate and key in one file.")
    ca = args.ca or config.get("ca_cert", "")
    settings = Settings(files.rstrip("/"), upload, ca, "" if args.dry_run else cert)
    return functools.partial(Lookaside, settings)


def _progress(stream: IO[str], as_line: bool) -> Callable[[Outcome, int, int], None]:
    def progress(outcome: Outcome, done: int, total: int) -> None:
        clear = "\r\033[K" if as_line else ""
        if outcome.error:
            print(f"{clear}{outcome.path}: {outcome.error}", file=stream, flush=True)
        if as_line:
            print(f"\r\033[K{done} of {total}  {outcome.nevra}"[:200], end="\n" if done == total else "", file=stream,
                  flush=True)  # fmt: skip
        elif done % 100 == 0 or done == total:
            print(f"{done} of {total}", file=stream, flush=True)

    return progress


def main(argv: Sequence[str] | None = None) -> int:
    """``scripts/srpm_import.py``; the exit status."""
    args = _parser().parse_args(argv)
    start = time.monotonic()
    try:
        return _import(args, start)
    except UsageError as error:
        print(f"srpm_import.py: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("srpm_import.py: interrupted; run it again to go on.", file=sys.stderr)
        return EXIT_PARTLY


def _import(args: argparse.Namespace, start: float) -> int:
    config = _configuration(args.config)
    branch = args.branch or config.get("default_branch", "")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", branch) or ".." in branch or branch.endswith((".", ".lock")):
        raise UsageError(f"{branch!r} is no name of a branch: give --branch." if branch else "Give --branch.")
    paths = list(find(args.paths))
    absent = next((path for path in args.paths if not path.exists()), None)
    if absent:
        raise UsageError(f"There is no file {absent}.")
    if not paths:
        raise UsageError(f"There is no source RPM (*.src.rpm) below {', '.join(map(str, args.paths))}.")
    lookaside = _lookaside(args, config)
    # On the cache's file system: archives are published by linking them.
    local = args.local_lookaside
    scratch = local / "incoming/import" if local else Path(f"/var/tmp/srpm-import-{os.getuid()}")
    with _alone(args.scratch or scratch) as alone:
        if not alone:
            print(f"srpm_import.py: another import is running ({args.scratch or scratch}).", file=sys.stderr)
            return EXIT_RUNNING
        repositories: LocalRepositories | RemoteRepositories
        if args.local_repositories:
            if not args.local_repositories.is_dir():
                raise UsageError(f"There is no directory {args.local_repositories}.")
            if args.local_repositories.stat().st_uid != os.getuid():
                owner = args.local_repositories.owner()
                raise UsageError(f"{args.local_repositories} belongs to {owner}: run this as {owner} (runuser).")
            repositories = LocalRepositories(args.local_repositories, branch, args.creator)
            if not args.dry_run:
                repositories.sweep()
        else:
            url = args.repositories or config.get("gitbaseurl", "")
            if "%(repo)s" not in url:
                raise UsageError("Where are the repositories? Give --repositories with %(repo)s, or --local-repositories.")
            # An address that was given is one for all; those of the configuration belong together.
            read_url = "" if args.repositories else config.get("anongiturl", "")
            repositories = RemoteRepositories(url, args.scratch or scratch, read_url)
        rules = Rules((*SUFFIXES, *(args.archive_suffix or ())), args.text_limit, config.get("lookasidehash", "sha512"))
        importer = Importer(
            repositories, lookaside, branch, args.namespace, args.scratch or scratch, rules, args.dry_run
        )
        try:
            outcomes = run(importer, paths, max(args.jobs, 1), _progress(sys.stderr, sys.stderr.isatty()))
        finally:
            if isinstance(repositories, RemoteRepositories):
                repositories.close()
    return _report(args, config, outcomes, time.monotonic() - start)


def _report(args: argparse.Namespace, config: Mapping[str, str], outcomes: Sequence[Outcome], seconds: float) -> int:
    actions = [outcome.action for outcome in outcomes]
    counts = {action: actions.count(action) for action in ("imported", "unchanged", "failed")}
    if args.json:
        rows = []
        anonymous = config.get("anongiturl", "")
        for outcome in outcomes:
            row = outcome.as_dict()
            if anonymous and outcome.commit:
                row["url"] = f"git+{anonymous % {'repo': outcome.package}}#{outcome.commit}"
            rows.append(row)
        print(json.dumps({"srpms": rows, **counts, "dry_run": args.dry_run, "seconds": round(seconds, 1)}))
    failed = [outcome for outcome in outcomes if outcome.error]
    would = "would be " if args.dry_run else ""
    print(
        f"{counts['imported']} {would}imported, {counts['unchanged']} unchanged, {counts['failed']} failed,"
        f" in {seconds:.1f} s",
        file=sys.stderr,
    )
    for outcome in failed:
        print(f"failed: {outcome.path}: {outcome.error}", file=sys.stderr)
    if not failed:
        return EXIT_DONE
    return EXIT_PARTLY if len(failed) < len(outcomes) else EXIT_TOOL
