"""The file `sources` of a package's repository: which archives it needs, by name and hash.

Two formats of a line are read, as the packagers' commands write them: ``MD5  file`` of old, and
``SHA512 (file) = HEX``. The second is written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Hexadecimal digits of a hash.
HASH_TYPES = {"md5": 32, "sha1": 40, "sha224": 56, "sha256": 64, "sha384": 96, "sha512": 128}

# Bytes of a file's name that every file system takes.
_NAME_BYTES = 255

_NEW = re.compile(r"(?P<hashtype>[A-Za-z0-9]+) \((?P<filename>[^()\s]+)\) = (?P<hash>[0-9A-Fa-f]+)")
_OLD = re.compile(r"(?P<hash>[0-9A-Fa-f]{32}) [ *](?P<filename>\S+)")


class SourcesError(Exception):
    """What is wrong with a line, as a sentence."""


@dataclass(frozen=True)
class Source:
    """An archive in the lookaside cache."""

    filename: str
    hashtype: str
    """Lower case: a key of `HASH_TYPES`."""
    hash: str
    """Lower-case hexadecimal digits."""


def check_name(filename: str) -> None:
    """Raise `SourcesError` where an archive must not have this name: it becomes a file's, and part of a URL."""
    if filename in ("", ".", "..") or filename.startswith("-"):
        raise SourcesError(f"{filename!r} is no name of an archive.")
    if re.search(r"[/\\()\s\x00-\x1f\x7f]", filename) or not filename.isprintable():
        raise SourcesError(
            f"The archive's name {filename!r} holds a character that is not allowed: rename the file, without"
            " slashes, spaces, parentheses and control characters."
        )
    if len(filename.encode("utf-8", "surrogateescape")) > _NAME_BYTES:
        raise SourcesError(f"The archive's name {filename[:40]!r}… is longer than {_NAME_BYTES} bytes.")


def _line(line: str) -> Source:
    found = _NEW.fullmatch(line)
    if found:
        source = Source(found["filename"], found["hashtype"].lower(), found["hash"].lower())
    else:
        found = _OLD.fullmatch(line)
        if not found:
            raise SourcesError(f"{line[:80]!r} is no line of `sources`: it reads `SHA512 (FILE) = HASH`.")
        source = Source(found["filename"], "md5", found["hash"].lower())
    if source.hashtype not in HASH_TYPES:
        raise SourcesError(f"{source.filename} has a hash of the unknown type {source.hashtype}.")
    if len(source.hash) != HASH_TYPES[source.hashtype]:
        raise SourcesError(
            f"The {source.hashtype} hash of {source.filename} has {len(source.hash)} digits, not"
            f" {HASH_TYPES[source.hashtype]}."
        )
    check_name(source.filename)
    return source


def parse(text: str) -> list[Source]:
    """What the lines of ``text`` name, in their order, each once. Raises `SourcesError`."""
    found: dict[str, Source] = {}
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line:
            continue
        try:
            source = _line(line)
        except SourcesError as error:
            raise SourcesError(f"Line {number} of `sources`: {error}") from error
        if found.setdefault(source.filename, source) != source:
            raise SourcesError(f"Line {number} of `sources`: {source.filename} stands there twice, with two hashes.")
    return list(found.values())


def format_line(source: Source) -> str:
    """The line of ``source``, with its newline."""
    return f"{source.hashtype.upper()} ({source.filename}) = {source.hash}\n"
