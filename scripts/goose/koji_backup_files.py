"""Files of a generation: copied by rsync, alike ones shared with the generation before by hard links, and hashed.

``SHA256SUMS`` is what ``sha256sum --check`` reads, so that a backup can be judged where this program is not.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

from goose.koji_backup_config import BackupError, Part, Say, last_words, run

SUMS = "SHA256SUMS"
_CHUNK = 1 << 20
# rsync: files vanished before they could be transferred; what must be there is looked for afterwards.
_VANISHED = 24
_TRIES = 3

# `packages` of the volume, and of Koji's further volumes.
_VOLUME = ["--include=/packages/***", "--include=/vol/", "--include=/vol/*/", "--include=/vol/*/packages/***",
           "--exclude=*"]  # fmt: skip

Show = Callable[[int, int], None]


def rsync(source: Path, target: Path, options: Sequence[str]) -> None:
    """Copy what is in ``source`` into ``target``, attributes and owners too."""
    target.mkdir(parents=True, exist_ok=True)
    run(["rsync", "--archive", "--numeric-ids", *options, f"{source}/", f"{target}/"], good=(0, _VANISHED))


def copy(part: Part, target: Path, before: Path | None, checksum: bool, say: Say) -> None:
    """Copy ``part`` into ``target``; what is as in ``before``, the same part of an earlier generation, is linked.

    ``checksum``: whether files of one size and time are compared by content too.
    """
    if not part.path.is_dir():
        raise BackupError(f"{part.path} is missing, which is to be backed up as {part.name}.")
    options = ["--delete", *(["--checksum"] if checksum else [])]
    if before is not None and before.is_dir():
        options.append(f"--link-dest={before}")
    if part.kind == "git":
        _copy_git(part.path, target, options, say)
    else:
        rsync(part.path, target, [*options, *(_VOLUME if part.kind == "volume" else [])])


def _copy_git(source: Path, target: Path, options: Sequence[str], say: Say) -> None:
    """First what names objects, then the objects: these come before their names, so that all that are named are there.

    A repack in between may still take one away. Git itself is asked, and what it misses is fetched again.
    """
    for attempt in range(1, _TRIES + 1):
        rsync(source, target, [*options, "--exclude=objects/"])
        rsync(source, target, [*options, "--include=*/", "--include=objects/**", "--exclude=*"])
        broken = {path: said for path in repositories(target) if (said := fsck(path))}
        if not broken:
            return
        path, said = next(iter(broken.items()))
        if attempt == _TRIES:
            raise BackupError(f"The copy of {source / path.relative_to(target)} is not whole: {said}")
        say(f"copying the repositories again: {path.relative_to(target)} was changed meanwhile ({said})")


def repositories(root: Path) -> Iterator[Path]:
    """The bare repositories below ``root``."""
    for directory, names, _ in os.walk(root):
        names.sort()
        path = Path(directory)
        if (path / "HEAD").is_file() and (path / "objects").is_dir():
            names.clear()
            yield path


def fsck(repository: Path) -> str:
    """What git misses in a repository, in one line; empty where it is whole."""
    done = run(["git", f"--git-dir={repository}", "fsck", "--connectivity-only", "--no-dangling", "--no-progress"],
               good=range(256))  # fmt: skip
    return last_words(done.stdout + done.stderr) if done.returncode else ""


def flush(path: Path) -> None:
    """Have the file system of ``path`` on its disk: a generation that is there by name is there."""
    run(["sync", "--file-system", str(path)])


# Checksums


def walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Files below ``root``, links not followed and not told of: their paths below it, sorted, and their status."""
    stack = [""]
    found = []
    while stack:
        directory = stack.pop()
        with os.scandir(root / directory) as entries:
            for entry in entries:
                name = f"{directory}/{entry.name}" if directory else entry.name
                if entry.is_dir(follow_symlinks=False):
                    stack.append(name)
                elif entry.is_file(follow_symlinks=False):
                    found.append((name, entry.stat(follow_symlinks=False)))
    yield from sorted(found, key=lambda pair: pair[0])


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as the disk has it."""
    found = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        # Else what was written just now would be read from memory.
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while data := stream.read(_CHUNK):
            found.update(data)
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return found.hexdigest()


def read_sums(path: Path) -> dict[str, str]:
    """Path -> SHA-256, of a ``SHA256SUMS``; `BackupError` where it is none."""
    found = {}
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as stream:
            for line in stream:
                line = line.rstrip("\n")
                escaped = line.startswith("\\")
                digest, name = line[escaped : escaped + 64], line[escaped + 66 :]
                if len(digest) != 64 or not name:
                    raise BackupError(f"{path} is damaged: it has a line {line[:80]!r}.")
                found[_unescaped(name) if escaped else name] = digest
    except OSError as error:
        raise BackupError(f"{path} cannot be read: {error.strerror}.") from error
    return found


def below(sums: Mapping[str, str], top: str) -> dict[str, str]:
    """The sums of what lies in the directory ``top`` of a generation, by paths below it."""
    return {name[len(top) + 1 :]: digest for name, digest in sums.items() if name.startswith(f"{top}/")}


def write_sums(path: Path, sums: Mapping[str, str]) -> None:
    """Write a ``SHA256SUMS``; names with a newline or a backslash as sha256sum writes them."""
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as stream:
        for name, digest in sorted(sums.items()):
            if "\\" in name or "\n" in name:
                escaped = name.replace("\\", "\\\\").replace("\n", "\\n")
                stream.write(f"\\{digest}  {escaped}\n")
            else:
                stream.write(f"{digest}  {name}\n")


def _unescaped(name: str) -> str:
    return name.replace("\\\\", "\0").replace("\\n", "\n").replace("\0", "\\")


@dataclass
class Hashed:
    """The sums of a generation."""

    sums: dict[str, str] = field(default_factory=dict)
    bytes: int = 0
    fresh: int = 0
    """Files that were hashed, because no earlier generation shares them."""
    fresh_bytes: int = 0


def hash_all(root: Path, before: Path | None, show: Show) -> Hashed:
    """Hash the files below ``root``; for one that ``before`` shares its sum there is taken over."""
    known = read_sums(before / SUMS) if before is not None and (before / SUMS).is_file() else {}
    found, todo = Hashed(), []
    for name, status in walk(root):
        found.bytes += status.st_size
        if before is not None and name in known and _same_file(before / name, status):
            found.sums[name] = known[name]
        else:
            todo.append(name)
            found.fresh_bytes += status.st_size
    found.fresh = len(todo)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, (name, digest) in enumerate(zip(todo, pool.map(lambda name: sha256(root / name), todo)), 1):
            found.sums[name] = digest
            show(number, len(todo))
    return found


def _same_file(path: Path, status: os.stat_result) -> bool:
    try:
        other = path.lstat()
    except OSError:
        return False
    return (other.st_dev, other.st_ino) == (status.st_dev, status.st_ino)


def compare(root: Path, sums: Mapping[str, str], hashed: bool, show: Show) -> tuple[list[str], list[str]]:
    """What is missing below ``root`` of ``sums``, and what is damaged; only the first where not ``hashed``."""
    missing = [name for name in sums if not (root / name).is_file()]
    gone = set(missing)
    there = [name for name in sums if name not in gone] if hashed else []
    damaged = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, (name, digest) in enumerate(zip(there, pool.map(lambda name: _sum_of(root / name), there)), 1):
            if digest != sums[name]:
                damaged.append(name)
            show(number, len(there))
    return missing, damaged


def _sum_of(path: Path) -> str:
    try:
        return sha256(path)
    except OSError:  # a disk that cannot be read is a kind of damage
        return ""
