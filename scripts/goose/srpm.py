"""What is in a source RPM: its header by rpm's bindings, its files byte for byte, each checked by its digest."""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

# rpm's numbers of digest algorithms (PGP's own).
_DIGESTS = {1: "md5", 2: "sha1", 8: "sha256", 9: "sha384", 10: "sha512", 11: "sha224"}
_BLOCK = 1 << 20
_LONGEST_NAME = 4096

# librpm keeps state of the whole process.
_LOCK = threading.Lock()


class SrpmError(Exception):
    """What is wrong with a file, as a sentence without the file's name."""


@dataclass(frozen=True)
class Member:
    """A file in a source RPM."""

    name: str
    size: int
    digest: str
    executable: bool


@dataclass(frozen=True)
class Header:
    """What the header tells."""

    path: Path
    name: str
    epoch: str
    """Empty where there is none."""
    version: str
    release: str
    who: str
    """Author of the newest changelog entry, as in ``Name <mail>``; empty where there is none."""
    when: int
    """Seconds since 1970: of that entry, or of the build."""
    changes: str
    """Text of that entry."""
    requires: frozenset[str]
    """Names in BuildRequires, and rpm's own."""
    algorithm: str
    members: tuple[Member, ...]

    @property
    def nevra(self) -> str:
        """Name, epoch where there is one, version, release; the architecture is always src."""
        epoch = f"{self.epoch}:" if self.epoch else ""
        return f"{self.name}-{epoch}{self.version}-{self.release}"

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the files' names, digests and modes: the same for a signed and an unsigned copy."""
        lines = [f"{member.digest} {int(member.executable)} {member.name}\n" for member in self.members]
        return hashlib.sha256("".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()


def _rpm() -> Any:
    try:
        return importlib.import_module("rpm")
    except ImportError as error:
        raise SrpmError("Reading source RPMs needs rpm's Python bindings (python3-rpm), which are not installed.") from error


def _text(value: Any) -> str:
    """A header's string; text in another encoding than UTF-8 is taken for Latin-1, which EL's old changelogs are."""
    raw = value if isinstance(value, bytes) else str(value or "").encode("utf-8", "surrogateescape")
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError:
        return str(raw, "latin-1")


def read(path: Path) -> Header:
    """The header of the source RPM ``path``. Raises `SrpmError`."""
    rpm = _rpm()
    try:
        with _LOCK, path.open("rb") as stream:
            transaction = rpm.TransactionSet()
            # Whose signature it is, is not for here to say; digests are checked file by file.
            transaction.setVSFlags(rpm._RPMVSF_NOSIGNATURES)
            header = transaction.hdrFromFdno(stream.fileno())
            return _header(path, header, rpm)
    except OSError as error:
        raise SrpmError(f"It cannot be read: {error.strerror}.") from error
    except rpm.error as error:
        raise SrpmError(f"It is no RPM, or damaged ({error}).") from error


def _header(path: Path, header: Any, rpm: Any) -> Header:
    if not header[rpm.RPMTAG_SOURCEPACKAGE]:
        raise SrpmError("It is no source RPM: give files that end in .src.rpm.")
    number = header[rpm.RPMTAG_FILEDIGESTALGO] or 1
    if number not in _DIGESTS:
        raise SrpmError(f"Its files have digests of the unknown kind {number}.")
    names, modes = header[rpm.RPMTAG_BASENAMES], header[rpm.RPMTAG_FILEMODES]
    sizes = header[rpm.RPMTAG_LONGFILESIZES] or header[rpm.RPMTAG_FILESIZES]
    members = []
    for name, mode, size, digest in zip(names, modes, sizes, header[rpm.RPMTAG_FILEDIGESTS]):
        # rpm gives modes as signed 16-bit numbers in some versions.
        mode &= 0xFFFF
        if mode & 0o170000 != 0o100000:
            raise SrpmError(f"It holds {name}, which is no plain file.")
        members.append(Member(name, int(size), digest, bool(mode & 0o100)))
    texts, authors, times = (
        header[tag] for tag in (rpm.RPMTAG_CHANGELOGTEXT, rpm.RPMTAG_CHANGELOGNAME, rpm.RPMTAG_CHANGELOGTIME)
    )
    return Header(
        path=path,
        name=_text(header[rpm.RPMTAG_NAME]),
        epoch="" if header[rpm.RPMTAG_EPOCH] is None else str(header[rpm.RPMTAG_EPOCH]),
        version=_text(header[rpm.RPMTAG_VERSION]),
        release=_text(header[rpm.RPMTAG_RELEASE]),
        who=_text(authors[0]) if authors else "",
        when=int(times[0] if times else header[rpm.RPMTAG_BUILDTIME] or 0),
        changes=_text(texts[0]) if texts else "",
        requires=frozenset(map(_text, header[rpm.RPMTAG_REQUIRENAME] or ())),
        algorithm=_DIGESTS[number],
        members=tuple(members),
    )


def compare(one: tuple[str, str, str], two: tuple[str, str, str]) -> int:
    """rpm's order of (epoch, version, release): -1, 0 or 1."""
    result: int = _rpm().labelCompare(*((epoch or "0", version, release) for epoch, version, release in (one, two)))
    return result


@dataclass(frozen=True)
class _Entry:
    name: str
    size: int


def _exactly(stream: IO[bytes], count: int) -> bytes:
    parts = []
    while count:
        part = stream.read(count)
        if not part:
            raise SrpmError("It ends in the middle: the file is damaged, or was not copied whole.")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _entry(stream: IO[bytes], members: tuple[Member, ...]) -> _Entry | None:
    """The next file in a cpio archive, or None at its end."""
    magic = _exactly(stream, 6)
    if magic == b"07070X":
        # rpm's own, where a file is too large for cpio: a number in the header's list.
        member = members[int(_exactly(stream, 8), 16)]
        _exactly(stream, 2)
        return _Entry(member.name, member.size)
    if magic not in (b"070701", b"070702"):
        raise SrpmError("Its content cannot be read: the file is damaged.")
    fields = _exactly(stream, 104)
    size, length = int(fields[48:56], 16), int(fields[88:96], 16)
    if not 0 < length <= _LONGEST_NAME:
        raise SrpmError("Its content cannot be read: the file is damaged.")
    name = _exactly(stream, length + -(110 + length) % 4)[: length - 1].decode("utf-8", "surrogateescape")
    return None if name == "TRAILER!!!" else _Entry(re.sub(r"^\./", "", name), size)


class _Limited:
    """The next ``size`` bytes of a stream."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream = stream
        self.left = size

    def blocks(self) -> Iterator[bytes]:
        """Yield them, piece by piece."""
        while self.left:
            block = _exactly(self._stream, min(self.left, _BLOCK))
            self.left -= len(block)
            yield block


def contents(header: Header) -> Iterator[tuple[Member, Iterator[bytes]]]:
    """Yield the files with their bytes, in the archive's order. Take all of one before asking for the next.

    Raises `SrpmError` where one is missing, or is not what the header says; the caller must then
    throw away what it has. rpm2cpio undoes the compression, whatever it is.
    """
    if not shutil.which("rpm2cpio"):
        raise SrpmError("Reading source RPMs needs rpm2cpio, which is not installed.")
    left = {member.name: member for member in header.members}
    process = subprocess.Popen(
        ["rpm2cpio", os.fspath(header.path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=_BLOCK
    )
    assert process.stdout is not None
    try:
        while left:
            entry = _entry(process.stdout, header.members)
            if entry is None:
                break
            member = left.pop(entry.name, None)
            if member is None or member.size != entry.size:
                raise SrpmError(f"It holds {entry.name}, of which its header says otherwise.")
            digest = hashlib.new(header.algorithm)
            part = _Limited(process.stdout, entry.size)

            def checked(part: _Limited = part, digest: Any = digest) -> Iterator[bytes]:
                for block in part.blocks():
                    digest.update(block)
                    yield block

            yield member, checked()
            if part.left or digest.hexdigest() != member.digest:
                raise SrpmError(f"{member.name} in it has not the digest that its header says: the file is damaged.")
            _exactly(process.stdout, -entry.size % 4)
        if left:
            raise SrpmError(f"It lacks {', '.join(sorted(left))}: the file is damaged.")
    finally:
        process.stdout.close()
        process.kill()
        process.wait()
