"""The repositories that a compose is made of: their metadata, checked, and their packages, by path or by URL."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import shutil
import ssl
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

_CHUNK = 1 << 20
_TIMEOUT = 60
# The kinds of metadata that are used.
_KINDS = ("primary", "filelists", "other", "group", "group_gz")
# What a repository's comps and packages are looked up by, in the order of createrepo_c's own names.
_OPEN: dict[str, Callable[[Any], Any]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}


class InputError(Exception):
    """A repository or a package that cannot be used: a sentence that names it."""


@dataclass(frozen=True, eq=False)
class Package:
    """A package of a repository."""

    name: str
    epoch: str
    version: str
    release: str
    arch: str
    pkgid: str
    """Its checksum, by `checksum_type`."""
    checksum_type: str
    size: int
    href: str
    sourcerpm: str
    build_time: int
    record: Any = field(repr=False)
    """createrepo_c's package: all of the repository's metadata of it."""
    repository: Loaded = field(repr=False)

    @property
    def nevra(self) -> str:
        """As productmd writes it: N-E:V-R.A."""
        return f"{self.name}-{self.epoch}:{self.version}-{self.release}.{self.arch}"

    @property
    def file(self) -> str:
        """The name that its file has by its NVRA, whatever the repository calls it."""
        return f"{self.name}-{self.version}-{self.release}.{self.arch}.rpm"

    @property
    def place(self) -> str:
        """The path of its file, or the URL."""
        return self.repository.at(self.href)

    @property
    def is_local(self) -> bool:
        """Whether its file is on this machine, and not behind a URL."""
        return self.repository.base.startswith("/")

    def __str__(self) -> str:
        return f"{self.name}-{self.version}-{self.release}.{self.arch}"


@dataclass(eq=False)
class Loaded:
    """A repository, its metadata read."""

    base: str
    """Path or URL, without a slash at its end."""
    fetcher: Fetcher
    files: dict[str, Path] = field(default_factory=dict)
    """Kind of metadata -> its file, unpacked."""
    packages: list[Package] = field(default_factory=list)
    checksum: str = ""
    """Of repomd.xml."""

    def at(self, href: str) -> str:
        """Where a path of the repository is."""
        return (
            f"{self.base}/{href}" if self.base.startswith("/") else f"{self.base}/{urllib.parse.quote(href)}"
        )


def sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    return _hash(path, "sha256")


def _hash(path: Path | str, kind: str) -> str:
    found = hashlib.new(kind)
    # One buffer that stays in the processor's cache.
    part = memoryview(bytearray(_CHUNK // 4))
    with open(path, "rb", buffering=0) as stream:
        while count := stream.readinto(part):
            found.update(part[:count])
    return found.hexdigest()


class Fetcher:
    """Brings files by path or URL; those by URL are kept in a cache by their checksum."""

    def __init__(self, cache: Path, ca: str = "") -> None:
        self._cache = cache
        self._context: ssl.SSLContext | None = None
        self._ca = ca

    def _open(self, url: str) -> BinaryIO:
        if url.startswith("/"):
            return open(url, "rb")
        if self._context is None:
            self._context = ssl.create_default_context(cafile=self._ca or None)
        found: BinaryIO = urllib.request.urlopen(url, timeout=_TIMEOUT, context=self._context)
        return found

    def read(self, url: str) -> bytes:
        """The content of a small file.

        Raises:
            InputError: where there is none.
        """
        try:
            with self._open(url) as stream:
                return stream.read()
        except (OSError, ValueError) as error:
            raise InputError(f"{url} cannot be read: {_why(error)}.") from error

    def file(self, url: str, kind: str, checksum: str, what: str) -> Path:
        """A file with this checksum; one by URL is taken from the cache, or put there.

        Args:
            what: how messages call it.

        Raises:
            InputError: where it is missing, or another one.
        """
        try:
            if url.startswith("/"):
                if _hash(url, kind) != checksum:
                    raise InputError(
                        f"{what} is damaged: {url} has another {kind} than its repository says. Make the repository again."
                    )
                return Path(url)
            target = self._cache / "files" / checksum[:2] / f"{checksum}-{url.rpartition('/')[2]}"
            if target.is_file() and _hash(target, kind) == checksum:
                return target
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f"{target.name}.part")
            found = hashlib.new(kind)
            with self._open(url) as stream, partial.open("wb") as out:
                while data := stream.read(_CHUNK):
                    found.update(data)
                    out.write(data)
            if found.hexdigest() != checksum:
                partial.unlink()
                raise InputError(f"{what} is damaged: {url} has another {kind} than its repository says.")
            partial.replace(target)
            return target
        except (OSError, ValueError) as error:
            raise InputError(f"{what} cannot be read: {url}: {_why(error)}.") from error


def _why(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server says {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return getattr(error, "strerror", None) or str(error)


def _unpack(packed: Path, target: Path) -> None:
    """Libraries differ in what they can unpack, so it is done here, and they get plain XML."""
    suffix = packed.suffix
    if suffix in (".zst", ".zstd"):
        command = ["zstd", "--quiet", "--decompress", "--stdout", str(packed)]
        try:
            program = subprocess.Popen(command, stdout=subprocess.PIPE)
        except OSError as error:
            raise InputError(f"zstd cannot be started ({error}): install zstd.") from error
        # What it writes is copied here, so that a full disk is told from a damaged file.
        with program, target.open("wb") as out:
            assert program.stdout is not None
            shutil.copyfileobj(program.stdout, out, _CHUNK)
        if program.returncode:
            raise InputError(f"zstd does not unpack {packed}: make the repository again.")
        return
    with _OPEN.get(suffix, lambda path: open(path, "rb"))(packed) as stream, target.open("wb") as out:
        shutil.copyfileobj(stream, out, _CHUNK)


def load(base: str, fetcher: Fetcher, work: Path) -> Loaded:
    """A repository's metadata.

    Args:
        work: a directory for unpacked files.

    Raises:
        InputError: where the repository is missing or damaged.
    """
    import createrepo_c

    base = base[len("file://") :] if base.startswith("file://") else base
    found = Loaded(base.rstrip("/"), fetcher)
    text = fetcher.read(found.at("repodata/repomd.xml"))
    found.checksum = hashlib.sha256(text).hexdigest()
    work.mkdir(parents=True)
    path = work / "repomd.xml"
    path.write_bytes(text)
    repomd = createrepo_c.Repomd()
    try:
        createrepo_c.xml_parse_repomd(str(path), repomd)
    except Exception as error:  # its errors have no common class of their own
        raise InputError(f"{found.at('repodata/repomd.xml')} cannot be parsed: {error}.") from error
    for record in repomd.records:
        if record.type not in _KINDS:
            continue
        url = found.at(record.location_href)
        packed = fetcher.file(url, record.checksum_type, record.checksum, f"The metadata of {found.base}")
        plain = work / f"{record.type}.xml"
        try:
            _unpack(packed, plain)
        except (OSError, EOFError, lzma.LZMAError) as error:
            if getattr(error, "errno", None):
                raise  # the disk's, and no fault of what was packed
            raise InputError(f"{url} cannot be unpacked: {error}.") from error
        found.files[record.type] = plain
    if missing := [kind for kind in ("primary", "filelists", "other") if kind not in found.files]:
        raise InputError(
            f"{found.base} has no {', '.join(missing)} in its repomd.xml: make the repository again with createrepo_c."
        )
    found.packages = list(_packages(found))
    return found


def _packages(found: Loaded) -> Iterator[Package]:
    import createrepo_c

    records: dict[str, Any] = {}

    def known(pkgid: str, name: str, arch: str) -> Any:
        return records.get(pkgid)

    def note(record: Any) -> None:
        records[record.pkgId] = record

    try:
        createrepo_c.xml_parse_primary(str(found.files["primary"]), None, note, None, 0)
        createrepo_c.xml_parse_filelists(str(found.files["filelists"]), known)
        createrepo_c.xml_parse_other(str(found.files["other"]), known)
    except Exception as error:
        raise InputError(f"The metadata of {found.base} cannot be parsed: {error}.") from error
    for record in records.values():
        href = record.location_href
        if os.path.isabs(href) or ".." in href.split("/"):
            raise InputError(f"The metadata of {found.base} names {href}, which lies outside of it.")
        yield Package(
            record.name,
            record.epoch or "0",
            record.version,
            record.release,
            record.arch,
            record.pkgId,
            record.checksum_type,
            record.size_package,
            href,
            record.rpm_sourcerpm or "",
            record.time_build,
            record,
            found,
        )


def bring(package: Package) -> Path:
    """The file of a package, its checksum seen.

    Raises:
        InputError: naming the RPM, where it is missing or damaged.
    """
    return package.repository.fetcher.file(package.place, package.checksum_type, package.pkgid, str(package))


def signed_by(path: Path) -> str:
    """The id of the key that signed an RPM, in lower case; empty where it is unsigned.

    Raises:
        InputError: where the file is no RPM.
    """
    import rpm

    transaction = rpm.TransactionSet()
    transaction.setVSFlags(-1)  # the header's words alone: the checksum of the file was seen
    descriptor = os.open(path, os.O_RDONLY)
    try:
        header = transaction.hdrFromFdno(descriptor)
    except rpm.error as error:
        raise InputError(f"{path} is no RPM: {error}.") from error
    finally:
        os.close(descriptor)
    for tag in ("%{RSAHEADER:pgpsig}", "%{DSAHEADER:pgpsig}", "%{SIGPGP:pgpsig}", "%{SIGGPG:pgpsig}"):
        _, mark, key = header.sprintf(tag).partition("Key ID ")
        if mark:
            return str(key).strip().lower()
    return ""
