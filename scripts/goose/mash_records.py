"""What repositories say of each RPM, made once for an RPM file and kept.

A record is keyed by what makes the file the one that it is: NEVRA, Koji's checksum, the key that signed it, size
and time of change. The cache, an SQLite file, saves time and nothing else: without it, or where it is damaged,
all is made anew.
"""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, NamedTuple

# Raised whenever records would come out otherwise: older ones are then of no use.
_VERSION = 1
# What stands in a record for the place of the file.
LOCATION = b'href="//"'

# Bytes of an RPM's lead, which its signature header follows.
_LEAD = 96
# Of a file, at once. More would be memory that each file has the system map and unmap.
_CHUNK = 1 << 16
# Fewer are read here: a process costs more than it brings.
_FEW = 200
_BATCH = 64
# Records that are written at once.
_STORED = 1000
# … and read at once.
_FETCHED = 100
# Seconds after which a record that nobody has asked for is dropped.
_DAY = 86400
_UNUSED = 90 * _DAY
_CHANGELOGS = 10

_PKGID = re.compile(rb'<checksum type="[a-z0-9]+" pkgid="YES">([0-9a-f]+)</checksum>')
_SOURCE = b"<arch>src</arch>"
_FILE = re.compile(r"<file(?: [^>]*)?>([^<]*)</file>")
_ENTITIES = (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&apos;", "'"), ("&amp;", "&"))


class RecordError(Exception):
    """RPMs that cannot be used: a sentence a line."""


class Wanted(NamedTuple):
    """An RPM file whose record is wanted."""

    nevra: str
    path: str
    md5: str
    """What Koji calls payloadhash: the checksum of header and payload, which a signature does not change."""
    sigkey: str
    """The key that must have signed it; empty: any or none."""
    size: int
    mtime: int
    """Nanoseconds."""
    hash: str

    @property
    def key(self) -> str:
        """The record's key."""
        return f"{self.hash} {self.nevra} {self.md5} {self.sigkey} {self.size} {self.mtime}"


@dataclass(frozen=True)
class Brief:
    """A record without its XML."""

    pkgid: str
    """The file's checksum."""
    excludes: tuple[str, ...]
    """Of a source RPM: architectures that its noarch packages do not belong to (ExcludeArch)."""
    exclusives: tuple[str, ...]
    """… and those that they belong to alone (ExclusiveArch); empty: all."""


def key_of(header: Any) -> str:
    """The id of the key that signed an RPM, as Koji has it; empty where it is not signed."""
    import koji

    for tag in ("DSAHEADER", "RSAHEADER", "SIGGPG", "SIGPGP"):
        if packet := koji.get_header_field(header, tag):
            return str(koji.get_sigpacket_key_id(packet))
    return ""


def _read(path: str) -> tuple[str, Any]:
    """The checksum of header and payload, all that follows the signature header; and the signature header."""
    import rpm

    found = hashlib.new("md5", usedforsecurity=False)
    with open(path, "rb", buffering=0) as stream:
        stream.seek(_LEAD)
        signature = rpm.hdr(stream)
        # It is padded to a multiple of 8 bytes.
        stream.seek(-stream.tell() % 8, os.SEEK_CUR)
        while data := stream.read(_CHUNK):
            found.update(data)
    return found.hexdigest(), signature


def make(wanted: Wanted) -> tuple[Any, ...]:
    """The row of ``wanted``.

    Raises:
        RecordError: where the file is damaged, or not what Koji says, or not signed by the key.
    """
    import createrepo_c
    import koji

    where = f"{wanted.nevra}: {wanted.path}"
    again = "restore it from a backup, or remove the signed copy and write it again (sigulsign_unsigned.py --just-write)"
    try:
        md5, signature = _read(wanted.path)
        if md5 != wanted.md5:
            raise RecordError(f"{where} is damaged: its checksum is {md5}, and Koji's {wanted.md5}; {again}.")
        # One with no signature of its header alone is older than anything that Koji is likely to have.
        found = wanted.sigkey and (key_of(signature) or key_of(koji.get_rpm_header(wanted.path)))
        texts = createrepo_c.xml_from_rpm(
            wanted.path, getattr(createrepo_c, wanted.hash.upper()), "//", None, _CHANGELOGS
        )
        primary, filelists, other = (text.encode() for text in texts)
        header = koji.get_rpm_header(wanted.path) if _SOURCE in primary else None
    except RecordError:
        raise
    except OSError as error:
        raise RecordError(f"{where} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # rpm's, koji's and createrepo_c's
        raise RecordError(f"{where} is damaged ({' '.join(str(error).split())[:200]}); {again}.") from error
    if found != wanted.sigkey:
        has = f"is signed by {found}" if found else "is not signed"
        raise RecordError(
            f"{where} {has}, and Koji says {wanted.sigkey}: remove this copy and write it again"
            f" (sigulsign_unsigned.py --just-write)."
        )
    excludes, exclusives = (
        " ".join(koji.get_header_field(header, tag) or ()) if header is not None else ""
        for tag in ("excludearch", "exclusivearch")
    )
    pkgid = _PKGID.search(primary)
    assert pkgid is not None and LOCATION in primary
    return wanted.key, pkgid[1].decode(), excludes, exclusives, primary, filelists, other


def _make_all(batch: Sequence[Wanted]) -> tuple[list[tuple[Any, ...]], list[str]]:
    rows, bad = [], []
    for wanted in batch:
        try:
            rows.append(make(wanted))
        except RecordError as error:
            bad.append(str(error))
    return rows, bad


class Records:
    """The cache in ``directory``; one user at a time, by the lock of the file."""

    def __init__(self, directory: Path, jobs: int = 0) -> None:
        self._jobs = jobs or os.cpu_count() or 1
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / f"records-{_VERSION}.sqlite"
        try:
            self._db = self._open()
        except sqlite3.DatabaseError:
            self._path.unlink()
            self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(str(self._path), timeout=60, isolation_level=None)
        try:
            # A record is some KiB. It does not share SQLite's usual pages of 4 KiB, and half of them would be empty.
            db.execute("PRAGMA page_size=16384")
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            db.execute("PRAGMA wal_autocheckpoint=4096")
            db.execute(
                "CREATE TABLE IF NOT EXISTS rpm (key TEXT PRIMARY KEY, used INTEGER, pkgid TEXT, excludes TEXT,"
                " exclusives TEXT, primary_xml BLOB, filelists_xml BLOB, other_xml BLOB)"
            )
        except sqlite3.DatabaseError:
            db.close()
            raise
        return db

    def close(self) -> None:
        """End."""
        self._db.close()

    def briefs(self, wanted: Collection[Wanted], show: Callable[[int, int], None]) -> dict[Wanted, Brief]:
        """The records of ``wanted``, made where they are missing.

        Raises:
            RecordError: naming all that cannot be used.
        """
        found: dict[str, Brief] = {}
        keys = {one.key for one in wanted}
        for key, pkgid, excludes, exclusives in self._db.execute(
            "SELECT key, pkgid, excludes, exclusives FROM rpm"
        ):
            if key in keys:
                found[key] = Brief(pkgid, tuple(excludes.split()), tuple(exclusives.split()))
        missing = sorted({one.key: one for one in wanted if one.key not in found}.values())
        bad: list[str] = []
        rows: list[tuple[Any, ...]] = []
        done = 0
        for made, errors in self._made(missing):
            bad += errors
            rows += made
            done += len(made) + len(errors)
            show(done, len(missing))
            if len(rows) >= _STORED or done == len(missing):
                self._store(rows)
                found.update(
                    (row[0], Brief(row[1], tuple(row[2].split()), tuple(row[3].split()))) for row in rows
                )
                rows = []
        if bad:
            raise RecordError("\n".join(sorted(bad)))
        return {one: found[one.key] for one in wanted}

    def _made(self, missing: Sequence[Wanted]) -> Iterator[tuple[list[tuple[Any, ...]], list[str]]]:
        batches = [missing[at : at + _BATCH] for at in range(0, len(missing), _BATCH)]
        if len(missing) < _FEW or self._jobs == 1:
            yield from map(_make_all, batches)
            return
        # Loaded here, once, and not by each of the processes.
        import createrepo_c  # noqa: F401

        with ProcessPoolExecutor(self._jobs) as pool:
            try:
                yield from pool.map(_make_all, batches)
            except BrokenProcessPool as error:
                raise RecordError(
                    "A process that reads RPMs was killed: is there too little memory? Run it again."
                ) from error

    def _store(self, rows: Iterable[tuple[Any, ...]]) -> None:
        now = int(time.time())
        self._db.execute("BEGIN")
        self._db.executemany(
            "INSERT OR REPLACE INTO rpm VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [(row[0], now, *row[1:]) for row in rows],
        )
        self._db.execute("COMMIT")

    def xml(
        self, wanted: Sequence[Wanted], columns: str = "primary_xml, filelists_xml, other_xml"
    ) -> Iterator[Sequence[bytes]]:
        """The XML of each of ``wanted``, in order."""
        for at in range(0, len(wanted), _FETCHED):
            keys = [one.key for one in wanted[at : at + _FETCHED]]
            asked = f"SELECT key, {columns} FROM rpm WHERE key IN ({', '.join('?' * len(keys))})"
            found = {key: texts for key, *texts in self._db.execute(asked, keys)}
            yield from (found[key] for key in keys)

    def primary(self, wanted: Sequence[Wanted]) -> Iterator[bytes]:
        """The XML of each of ``wanted`` that dependencies stand in."""
        return (text for (text,) in self.xml(wanted, "primary_xml"))

    def files(self, wanted: Wanted) -> list[str]:
        """The paths that an RPM has."""
        ((text,),) = self.xml([wanted], "filelists_xml")
        paths = _FILE.findall(text.decode())
        for entity, character in _ENTITIES:
            paths = [path.replace(entity, character) for path in paths]
        return paths

    def holding(self, wanted: Sequence[Wanted], paths: Collection[str]) -> dict[str, set[Wanted]]:
        """Which of ``wanted`` have which of ``paths``."""
        marks = {path: f">{_escaped(path)}</file>".encode() for path in paths}
        found: dict[str, set[Wanted]] = {path: set() for path in paths}
        for one, (text,) in zip(wanted, self.xml(wanted, "filelists_xml")):
            for path, mark in marks.items():
                if mark in text:
                    found[path].add(one)
        return found

    def tidy(self, wanted: Iterable[Wanted]) -> None:
        """Note that ``wanted`` were used, and drop what has not been for months."""
        now = int(time.time())
        self._db.execute("BEGIN")
        # To the day: to note it, SQLite writes the whole record again.
        self._db.executemany(
            "UPDATE rpm SET used = ? WHERE key = ? AND used < ?",
            [(now, one.key, now - _DAY) for one in wanted],
        )
        self._db.execute("DELETE FROM rpm WHERE used < ?", (now - _UNUSED,))
        self._db.execute("COMMIT")


def _escaped(path: str) -> str:
    for entity, character in reversed(_ENTITIES[:2] + _ENTITIES[4:]):
        path = path.replace(character, entity)
    return path
