"""The store of the lookaside cache: where archives lie, what they may be called, how one appears.

An archive is ``<name>/<file>/<hash type>/<hash>/<file>`` below ``archives/``, as rpkg and dist-git have
it; ``name`` is a package, or a namespace and a package (``rpms/bash``). What is being received lies in
``incoming/`` beside it, on the same file system, and appears by link: whole, and never over another.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

from goose.sources import HASH_LENGTHS, Source, filename_fault, is_hash

CONFIG = Path("/etc/goose/lookaside.json")
"""What the state `lookaside` writes: `Config` as JSON."""

# What RPM packages and namespaces are called; no "..", and no dot in front.
_NAME = re.compile(r"(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9._+-]{0,254}")


class BadName(ValueError):
    """A name, a file's name or a hash that no archive can have, in a sentence."""


class ConfigError(Exception):
    """The configuration cannot be used, in a sentence."""


@dataclass(frozen=True)
class Config:
    """What the lookaside cache is told: pillar `lookaside`."""

    path: Path
    """Directory that holds `archives` and `incoming`."""
    hashtypes: tuple[str, ...] = ("sha512",)
    """Hash types that uploads may use."""
    namespaces: tuple[str, ...] = ("rpms",)
    uploaders: tuple[str, ...] = ()
    """Users, by the common name of their certificate."""
    koji_permission: str = ""
    """Users with this permission at `koji_hub` may upload, too; empty: Koji is not asked."""
    koji_hub: str = ""
    serverca: str = ""
    """Path of the CA's certificate that the hub's is checked by."""
    max_size: int = 0
    """Bytes that an archive may have; 0: any number."""
    min_free: int = 0
    """Bytes of the file system that uploads leave free."""
    repositories: tuple[Path, ...] = ()
    """Directories below which bare git repositories lie, for `lookaside_fsck.py`."""

    @classmethod
    def read(cls, path: Path = CONFIG) -> Config:
        """The configuration in the file ``path``; `ConfigError` where it cannot be used."""
        try:
            data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            known = {field.name for field in fields(cls)}
            if unknown := sorted(set(data) - known):
                raise ConfigError(f"{path} has the unknown keys {', '.join(unknown)}: apply the state lookaside again.")
            data = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
            data["path"] = Path(data["path"])
            data["repositories"] = tuple(map(Path, data.get("repositories", ())))
            return cls(**data)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path} cannot be read ({error}): apply the state lookaside on this host.") from error


@dataclass(frozen=True, order=True)
class Archive:
    """One archive in the layout."""

    name: str
    filename: str
    hashtype: str
    hash: str

    @property
    def path(self) -> str:
        """Its path below `archives`, and below a mirror's URL before quoting."""
        return f"{self.name}/{self.filename}/{self.hashtype}/{self.hash}/{self.filename}"

    @property
    def source(self) -> Source:
        """How a repository names it."""
        return Source(self.filename, self.hashtype, self.hash)

    @classmethod
    def at(cls, path: str) -> Archive | None:
        """The archive whose `path` this is, or nothing where it is no archive's."""
        parts = path.split("/")
        if len(parts) < 5 or parts[-4] != parts[-1]:
            return None
        found = cls("/".join(parts[:-4]), *parts[-4:-1])
        return found if is_hash(found.hashtype, found.hash) and not filename_fault(found.filename) else None


def check_name(name: str, namespaces: tuple[str, ...]) -> None:
    """Raise `BadName` where ``name`` is no package, nor one of ``namespaces`` and a package."""
    parts = name.split("/")
    if not all(_NAME.fullmatch(part) for part in parts) or len(parts) > 2:
        raise BadName(
            f"The name {name[:300]!r} is no package's: use letters, digits and . _ + - (no two dots in a row, at most"
            " 255), with one namespace in front of it at most, as in rpms/bash."
        )
    if len(parts) == 2 and parts[0] not in namespaces:
        known = ", ".join(namespaces) or "none"
        raise BadName(f"The name {name} is in the namespace {parts[0]}, which is not one of this cache's ({known}).")


def check_filename(filename: str) -> None:
    """Raise `BadName` where no archive may be called ``filename``."""
    fault = filename_fault(filename)
    # A dot in front is what web servers hide. Clients differ in how they write the other two in a form.
    if not fault and (filename.startswith(".") or '"' in filename or "\\" in filename):
        fault = "begins with a dot or holds a quotation mark or a backslash"
    if fault:
        raise BadName(f"The file name {filename[:300]!r} {fault}.")


def check_hash(hashtype: str, value: str) -> None:
    """Raise `BadName` where ``value`` is no hash of ``hashtype``."""
    if not is_hash(hashtype, value):
        length = HASH_LENGTHS.get(hashtype)
        raise BadName(f"{hashtype}sum is {value[:200]!r}: it must be {length} lower-case hexadecimal digits.")


@dataclass(frozen=True)
class Partial:
    """A file that is being written, and that nobody sees yet."""

    path: Path
    stream: BinaryIO


class Store:
    """The archives below ``path``."""

    def __init__(self, path: Path) -> None:
        self.archives = path / "archives"
        self.incoming = path / "incoming"

    def path(self, archive: Archive) -> Path:
        """Where ``archive`` lies, whether it is there or not."""
        return self.archives / archive.path

    def has(self, archive: Archive) -> bool:
        """Whether ``archive`` is there."""
        return self.path(archive).is_file()

    def keep(self, archive: Archive) -> None:
        """Make ``archive`` as young as a new one: somebody is about to name it in a repository.

        `lookaside_fsck.py` removes no archive that is young, named or not, and tells by the inode's
        time of change, which this sets and no client can.
        """
        path = self.path(archive)
        about = path.stat()
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))

    @contextlib.contextmanager
    def partial(self) -> Iterator[Partial]:
        """A new file in `incoming`, gone at the end of the block. That of a killed process systemd-tmpfiles removes."""
        descriptor, name = tempfile.mkstemp(dir=self.incoming, prefix="partial-")
        try:
            with open(descriptor, "wb") as stream:
                yield Partial(Path(name), stream)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)

    def publish(self, partial: Partial, archive: Archive, mtime: float | None = None, replace: bool = False) -> bool:
        """Make what `partial` has written appear as ``archive``; False where that is there already.

        Args:
            mtime: seconds since the epoch that the archive is dated to, for clients' ``Last-Modified``.
            replace: take the place of the archive that is there, because it is damaged.
        """
        target = self.path(archive)
        partial.stream.flush()
        descriptor = partial.stream.fileno()
        os.fchmod(descriptor, 0o444)
        if mtime is not None:
            os.utime(descriptor, (mtime, mtime))
        self._own(descriptor)
        os.fsync(descriptor)
        try:
            self._appear(partial.path, target, replace)
        except FileExistsError:
            return False
        except OSError:
            self._prune(target.parent)
            raise
        _sync(target.parent)
        return True

    def _appear(self, partial: Path, target: Path, replace: bool) -> None:
        # Again where somebody who removes an archive has taken the empty directory away in between.
        for _ in range(10):
            try:
                self._make(target.parent)
                return os.rename(partial, target) if replace else os.link(partial, target)
            except FileNotFoundError:
                continue
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(target))

    def remove(self, archive: Archive) -> None:
        """Remove ``archive``, and the directories that are empty without it."""
        path = self.path(archive)
        path.unlink()
        self._prune(path.parent)

    def walk(self) -> Iterator[str]:
        """The paths of all files below `archives`, relative to it, in a fixed order."""
        for directory, names, files in os.walk(self.archives):
            names.sort()
            for file in sorted(files):
                yield os.path.relpath(os.path.join(directory, file), self.archives)

    def _own(self, file: int | Path) -> None:
        """What root makes (`lookaside_fsck.py` by hand) is the store's user's all the same."""
        if os.geteuid() == 0:
            about = self.archives.stat()
            os.chown(file, about.st_uid, about.st_gid)

    def _make(self, directory: Path) -> None:
        if directory.is_dir():
            return
        self._make(directory.parent)
        try:
            directory.mkdir(mode=0o755)
        except FileExistsError:
            return
        self._own(directory)
        _sync(directory.parent)

    def _prune(self, directory: Path) -> None:
        while directory != self.archives:
            try:
                directory.rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                return
            directory = directory.parent


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
