"""The file `sources` of a package's repository: which archives it takes from the lookaside cache.

A line is ``SHA512 (bash-5.2.tar.gz) = 0a1b…``, or in old repositories ``0a1b…  bash-5.2.tar.gz`` with the
MD5 of the file. This is what pyrpkg reads and writes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

HASH_LENGTHS = {"md5": 32, "sha1": 40, "sha224": 56, "sha256": 64, "sha384": 96, "sha512": 128}
"""Hash types that a line may name, and how many hexadecimal digits each has."""

_NEW = re.compile(r"(?P<hashtype>\w+) \((?P<filename>.+)\) = (?P<hash>\S+)")
_OLD = re.compile(r"(?P<hash>[0-9a-fA-F]{32})  (?P<filename>.+)")


class SourcesError(ValueError):
    """A line of `sources` that names no archive, in a sentence with its number."""


@dataclass(frozen=True)
class Source:
    """An archive that a package is built from."""

    filename: str
    hashtype: str
    """Lower case, as hashlib names it."""
    hash: str
    """Lower-case hexadecimal digits."""


def is_hash(hashtype: str, value: str) -> bool:
    """Whether ``value`` is a hash of ``hashtype`` in lower-case hexadecimal digits."""
    return len(value) == HASH_LENGTHS.get(hashtype) and re.fullmatch("[0-9a-f]+", value) is not None


def filename_fault(filename: str) -> str:
    """Why ``filename`` can be no archive's name, as the end of a sentence; empty where it can.

    It becomes a file in the packager's directory and a part of a URL.
    """
    if not filename:
        return "is empty"
    if filename in (".", "..") or "/" in filename:
        return "is a path: give the name of a file alone"
    if any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in filename):
        return "holds control characters"
    try:
        size = len(filename.encode())
    except UnicodeEncodeError:
        return "is no UTF-8"
    if size > 255:
        return f"is {size} bytes long, and no file's name may have more than 255"
    return ""


def parse(text: str) -> list[Source]:
    """The archives that ``text`` names, in its order, each once.

    Raises:
        SourcesError: at the first line that is bad.
    """
    found: dict[Source, None] = {}
    # Not splitlines(): it also splits at characters that a file's name may have.
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip(" \t\r")
        if line:
            found[_parse_line(number, line)] = None
    return list(found)


def _parse_line(number: int, line: str) -> Source:
    def bad(why: str) -> SourcesError:
        return SourcesError(f"Line {number} of sources {why}: {line[:200]!r}.")

    new, old = _NEW.fullmatch(line), _OLD.fullmatch(line)
    match = new or old
    if match is None:
        raise bad("is neither `SHA512 (FILE) = HASH` nor `MD5  FILE`")
    filename, value = match["filename"], match["hash"]
    hashtype = new["hashtype"].lower() if new else "md5"
    if hashtype not in HASH_LENGTHS:
        raise bad(f"has the hash type {hashtype}, which is none of {', '.join(HASH_LENGTHS)}")
    if not is_hash(hashtype, value):
        raise bad(f"has a hash that is not {HASH_LENGTHS[hashtype]} lower-case hexadecimal digits, as {hashtype} has")
    if fault := filename_fault(filename):
        raise bad(f"has a file name that {fault}")
    return Source(filename, hashtype, value)


def format_line(source: Source) -> str:
    """The line of ``source`` in the new format, with its end of line."""
    return f"{source.hashtype.upper()} ({source.filename}) = {source.hash}\n"
