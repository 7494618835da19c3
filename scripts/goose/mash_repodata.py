"""The metadata of one repository, put together from records of its RPMs."""

from __future__ import annotations

import hashlib
import shlex
import subprocess
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from goose.mash_records import LOCATION

_HEADS = {
    "primary": '<metadata xmlns="http://linux.duke.edu/metadata/common" xmlns:rpm="http://linux.duke.edu/metadata/rpm"',
    "filelists": '<filelists xmlns="http://linux.duke.edu/metadata/filelists"',
    "other": '<otherdata xmlns="http://linux.duke.edu/metadata/other"',
}
_TAILS = {"primary": b"</metadata>\n", "filelists": b"</filelists>\n", "other": b"</otherdata>\n"}
_KINDS = ("primary", "filelists", "other")
_SUFFIX = {"gz": ".gz", "zstd": ".zst", "": ""}
# What is handed on at once: one package's text alone is too little for zlib to be quick.
_PIECE = 1 << 18
_LEVEL = 6

Xml = Sequence[bytes]


class RepodataError(Exception):
    """A program that is needed did not do its work; a sentence."""


def head(kind: str, count: int) -> bytes:
    """How the file of a kind begins."""
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{_HEADS[kind]} packages="{count}">\n'.encode()


@dataclass(frozen=True)
class Look:
    """What a repository's metadata shall look like."""

    compression: str = "gz"
    hash: str = "sha256"
    timestamp: int = 0
    """Seconds: revision, and the time of every file."""
    content_tags: Sequence[str] = ()
    distro_tags: Sequence[str] = ()
    """Each: a name, or CPE,NAME."""
    sign: str = ""
    """A command that signs; {repomd} and {asc} in it are the paths."""


class _File:
    """A file of metadata that is being written, compressed, and hashed on both sides.

    A thread does so with one piece while the next is put together: zlib and hashlib let others run meanwhile.
    """

    def __init__(self, path: Path, compression: str, hashtype: str) -> None:
        self.path, self._hash = path, hashtype
        self._compression = compression
        self._stream: BinaryIO = path.open("wb")
        self._open = hashlib.new(hashtype)
        self._size = 0
        self._pieces: list[bytes] = []
        self._waiting = 0
        self._thread = ThreadPoolExecutor(1)
        self._taken: Future[None] = Future()
        self._taken.set_result(None)
        self._zlib: Any = None
        self._zstd: subprocess.Popen[bytes] | None = None
        if compression == "gz":
            # 31: with gzip's head, which has no time in it.
            self._zlib = zlib.compressobj(_LEVEL, zlib.DEFLATED, 31)
        elif compression == "zstd":
            try:
                command = ["zstd", "--quiet", "-10", "--stdout", "-"]
                self._zstd = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=self._stream)
            except OSError as error:
                self._stream.close()
                raise RepodataError(
                    f"zstd cannot be run ({error}): install it, or set compress_type to gz."
                ) from error

    def write(self, data: bytes) -> None:
        self._pieces.append(data)
        self._waiting += len(data)
        if self._waiting >= _PIECE:
            self._flush()

    def _flush(self) -> None:
        # One piece is in work at most: pieces are written in their order, and memory stays small.
        self._taken.result()
        self._taken = self._thread.submit(self._take, b"".join(self._pieces))
        self._pieces, self._waiting = [], 0

    def _take(self, data: bytes) -> None:
        self._open.update(data)
        self._size += len(data)
        try:
            if self._zstd is not None and self._zstd.stdin is not None:
                self._zstd.stdin.write(data)
            else:
                self._stream.write(self._zlib.compress(data) if self._zlib else data)
        except BrokenPipeError:
            raise self._zstd_failed() from None

    def _zstd_failed(self) -> RepodataError:
        return RepodataError(f"zstd failed to write {self.path}: is the disk full?")

    def close(self) -> None:
        """End without a result."""
        self._thread.shutdown()
        if self._zstd is not None:
            self._zstd.kill()
            self._zstd.wait()
        self._stream.close()

    def end(self, kind: str, timestamp: int) -> Any:
        """All was written: its place in repomd.xml."""
        import createrepo_c

        self._flush()
        self._taken.result()
        if self._zstd is not None and self._zstd.stdin is not None:
            self._zstd.stdin.close()
            if self._zstd.wait():
                raise self._zstd_failed()
        elif self._zlib:
            self._stream.write(self._zlib.flush())
        self._stream.close()
        found, size = hashlib.new(self._hash), 0
        with self.path.open("rb") as stream:
            while data := stream.read(1 << 20):
                found.update(data)
                size += len(data)
        name = f"{found.hexdigest()}-{self.path.name}"
        self.path.rename(self.path.with_name(name))
        record = createrepo_c.RepomdRecord(kind, None)
        record.checksum, record.checksum_type, record.size = found.hexdigest(), self._hash, size
        if self._compression:
            record.checksum_open, record.checksum_open_type = self._open.hexdigest(), self._hash
            record.size_open = self._size
        record.timestamp, record.location_href = timestamp, f"repodata/{name}"
        return record


def write(
    directory: Path,
    count: int,
    packages: Iterable[tuple[str, Xml]],
    extra: Iterable[tuple[str, bytes]],
    look: Look,
) -> None:
    """Make `repodata` in ``directory``.

    Args:
        count: how many packages there are.
        packages: path below ``directory`` and XML (primary, filelists, other) of each.
        extra: kind and content of further files: ("group", comps), ("updateinfo", …).

    Raises:
        RepodataError: where a program failed.
        OSError: where the disk did.
    """
    import createrepo_c

    repodata = directory / "repodata"
    repodata.mkdir(parents=True)
    repomd = createrepo_c.Repomd()
    repomd.set_revision(str(look.timestamp))
    for tag in look.content_tags:
        repomd.add_content_tag(tag)
    for tag in look.distro_tags:
        cpe, _, name = tag.rpartition(",")
        repomd.add_distro_tag(name, cpe or None)
    files: list[_File] = []
    try:
        for kind in _KINDS:
            files.append(
                _File(repodata / f"{kind}.xml{_SUFFIX[look.compression]}", look.compression, look.hash)
            )
            files[-1].write(head(kind, count))
        primary, filelists, other = files
        for location, (first, second, third) in packages:
            primary.write(first.replace(LOCATION, b'href="' + quote(location).encode() + b'"', 1))
            filelists.write(second)
            other.write(third)
        for kind, file in zip(_KINDS, files):
            file.write(_TAILS[kind])
            repomd.set_record(file.end(kind, look.timestamp))
        for kind, content in extra:
            name = {"group": "comps.xml"}.get(kind, f"{kind}.xml")
            # comps is read by programs that do not look for a compressed one.
            compression = "" if kind == "group" else look.compression
            files.append(_File(repodata / f"{name}{_SUFFIX[compression]}", compression, look.hash))
            files[-1].write(content)
            repomd.set_record(files[-1].end(kind, look.timestamp))
    finally:
        for file in files:
            file.close()
    path = repodata / "repomd.xml"
    path.write_text(repomd.xml_dump(), encoding="utf-8")
    if look.sign:
        sign(path, look.sign)


def sign(repomd: Path, command: str) -> None:
    """Have ``command`` make the signature beside ``repomd``.

    Raises:
        RepodataError: where it does not.
    """
    asc = repomd.with_name(f"{repomd.name}.asc")
    words = [
        word.replace("{repomd}", str(repomd)).replace("{asc}", str(asc)) for word in shlex.split(command)
    ]
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        raise RepodataError(
            f"repomd_sign cannot be run ({error}): mend the command, or leave it empty."
        ) from error
    said = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
    if done.returncode:
        raise RepodataError(f"repomd_sign ({words[0]}) failed with status {done.returncode}: {said[0]}")
    if not asc.is_file() or not asc.read_bytes().startswith(b"-----BEGIN PGP SIGNATURE-----"):
        raise RepodataError(f"repomd_sign ({words[0]}) made no armored signature at {{asc}}: {said[0]}")
