"""The repositories that a compose stands on (`parent_repos`): what they provide counts as there."""

from __future__ import annotations

import hashlib
import shutil
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_TIMEOUT = 120


class ParentError(Exception):
    """A parent's metadata cannot be had; a sentence."""


@dataclass(frozen=True)
class Parent:
    """A repository, by the URL or path of the directory that its `repodata` lies in."""

    place: str

    @property
    def _url(self) -> str:
        return self.place if "://" in self.place else Path(self.place).absolute().as_uri()

    def _read(self, path: str) -> bytes:
        url = f"{self._url.rstrip('/')}/{path}"
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
                found: bytes = answer.read()
                return found
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ParentError(f"parent_repos: {url} cannot be read ({reason}).") from error

    def repomd(self) -> bytes:
        """Its `repomd.xml`, which names all else by checksum."""
        return self._read("repodata/repomd.xml")

    def fetch(self, repomd: bytes, directory: Path) -> tuple[Path, Path]:
        """Its primary and filelists, as files in ``directory``, checked against ``repomd``."""
        import createrepo_c

        directory.mkdir(parents=True)
        path = directory / "repomd.xml"
        path.write_bytes(repomd)
        try:
            records = {record.type: record for record in createrepo_c.Repomd(str(path)).records}
        except Exception as error:  # createrepo_c's
            raise ParentError(f"parent_repos: {self.place} has no usable repomd.xml ({error}).") from error
        found = []
        for kind in ("primary", "filelists"):
            if kind not in records:
                raise ParentError(f"parent_repos: {self.place} has no {kind}.")
            href = records[kind].location_href
            data = self._read(href)
            if hashlib.new(records[kind].checksum_type, data).hexdigest() != records[kind].checksum:
                raise ParentError(
                    f"parent_repos: {href} of {self.place} is not what its repomd.xml says: try again later."
                )
            found.append(directory / Path(href).name)
            found[-1].write_bytes(data)
        return found[0], found[1]


def fetch_all(
    parents: Sequence[tuple[str, Parent, bytes]], directory: Path
) -> dict[str, list[tuple[Path, Path]]]:
    """Architecture -> the metadata of its parents, given as (architecture, parent, repomd)."""
    found: dict[str, list[tuple[Path, Path]]] = {}
    for number, (arch, parent, repomd) in enumerate(parents):
        found.setdefault(arch, []).append(parent.fetch(repomd, directory / str(number)))
    return found


def clear(directory: Path) -> None:
    """Remove what `fetch_all` has made."""
    shutil.rmtree(directory, ignore_errors=True)
