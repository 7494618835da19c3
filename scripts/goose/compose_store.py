"""Where composes lie: made beside the published ones, and shown by one rename; links are moved last.

Below the output directory::

    goose-1-20260102.0/        a compose: compose/, COMPOSE_ID, STATUS
    6.0/Beta-RC4 -> ...        what a stage is today, in GoOSe's layout
    latest-goose-6.0-Beta      the newest of a stage; latest-goose-6.0 is the final one
    .compose/staging           what is being made, or what a killed run left
    .compose/lock
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from goose.compose_config import Release

RECORD = "compose/metadata/goose.json"
_ID = re.compile(r"[A-Za-z][A-Za-z0-9.-]*-[0-9]{8}(\.[a-z]+)?\.[0-9]+")


class StoreError(Exception):
    """The output directory cannot be used: a sentence."""


class Running(Exception):
    """Another run holds the lock: a sentence."""


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold a lock.

    Raises:
        Running: where another run has it.
        StoreError: where its file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a")
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written ({error.strerror}): run this as the user of the state pungi, or as root."
        ) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Running(f"Another run {what}: wait for it.") from None
        yield


@dataclass(frozen=True)
class Compose:
    """A compose that was published."""

    path: Path
    record: dict[str, Any]
    """What this program noted of it: fingerprint, place, isos …"""

    @property
    def id(self) -> str:
        """As productmd has it."""
        return self.path.name

    def whole(self) -> bool:
        """Whether its media and metadata are on the disk with the sizes that were noted."""
        try:
            return all(
                os.stat(self.path / "compose" / name).st_size == size
                for name, size in self.record["sizes"].items()
            )
        except (OSError, KeyError, AttributeError, TypeError):
            return False


class Store:
    """The output directory."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.base = output / ".compose"
        self.staging = self.base / "staging"

    def composes(self) -> list[Compose]:
        """Those that this program has made, the oldest first."""
        found = []
        for path in self.output.iterdir() if self.output.is_dir() else ():
            if _ID.fullmatch(path.name) and not path.is_symlink():
                with contextlib.suppress(OSError, ValueError):
                    found.append(Compose(path, json.loads((path / RECORD).read_text(encoding="utf-8"))))
        return sorted(found, key=lambda one: (_age(one.id), one.id))

    def same(self, fingerprint: str) -> Compose | None:
        """A whole compose of the same input."""
        found = [
            one for one in self.composes() if one.record.get("fingerprint") == fingerprint and one.whole()
        ]
        return found[-1] if found else None

    def next_id(self, short: str, release: Release, date: str) -> str:
        """An id that is free, as productmd makes them: SHORT-VERSION-DATE[.t].RESPIN."""
        kind = ".t" if release.stage == "testing" else ""
        stem = f"{short}-{release.version}-{date}{kind}."
        taken = (
            [path.name[len(stem) :] for path in self.output.glob(f"{stem}*")] if self.output.is_dir() else []
        )
        return f"{stem}{max((int(one) for one in taken if one.isdigit()), default=-1) + 1}"

    def sweep(self) -> None:
        """Remove what killed runs left."""
        for path in self.base.iterdir():
            if path.name.startswith("staging"):
                shutil.rmtree(path)
            elif path.name.startswith("link"):
                path.unlink()

    def show(self, staging: Path, compose_id: str) -> Path:
        """Publish: the one rename."""
        for directory, names, files in os.walk(staging):
            names.sort()
            os.chmod(directory, 0o755)
            del files
        try:
            # The whole file system at once: a flush for each of thousands of files takes minutes.
            subprocess.run(["sync", "--file-system", str(staging)], check=True, capture_output=True)
        except subprocess.CalledProcessError as error:
            raise StoreError(
                f"{staging} could not be flushed to the disk: {error.stderr.decode().strip()}"
            ) from error
        target = self.output / compose_id
        staging.rename(target)
        _sync(self.output)
        return target

    def links(self, short: str, release: Release) -> list[str]:
        """The links that lead to a compose, the latest one last."""
        latest = f"latest-{short}-{release.version}" + (
            "" if release.stage == "Final" and release.final else f"-{release.stage}"
        )
        return [release.place, latest]

    def link(self, name: str, compose_id: str, within: str = "") -> None:
        """Move a link to a compose, by rename."""
        path = self.output / name
        if os.path.lexists(path) and not path.is_symlink():
            raise StoreError(
                f"{path} is no link of this program's: move it away; the compose appears there as a link."
            )
        target = "../" * name.count("/") + compose_id + within
        if path.is_symlink() and os.readlink(path) == target:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        new = self.base / f"link-{name.replace('/', '-')}"
        new.unlink(missing_ok=True)
        # Its target is told from where it will stand, not from here.
        new.symlink_to(target)
        new.replace(path)
        _sync(path.parent)

    def point(self, short: str, release: Release, compose_id: str) -> None:
        """Move all links to a compose."""
        for name in self.links(short, release):
            self.link(name, compose_id, "/compose" if name == release.place else "")

    def linked(self) -> set[str]:
        """The ids of composes that links lead to."""
        found: set[str] = set()
        for top in (
            self.output,
            *(
                path
                for path in self.output.iterdir()
                if path.is_dir()
                and not path.is_symlink()
                and not path.name.startswith(".")
                and not _ID.fullmatch(path.name)
            ),
        ):
            for path in top.iterdir():
                if path.is_symlink():
                    found.update(part for part in Path(os.readlink(path)).parts if _ID.fullmatch(part))
        return found

    def prune(self, keep: int) -> list[str]:
        """Remove composes of the stage testing that no link leads to, but for the newest; their ids."""
        if not keep:
            return []
        linked = self.linked()
        loose = [
            one for one in self.composes() if one.record.get("stage") == "testing" and one.id not in linked
        ]
        gone = loose[: max(0, len(loose) - keep)]
        for one in gone:
            # By another name first: half a compose must not look like one.
            away = self.base / f"staging-{one.id}"
            one.path.rename(away)
            shutil.rmtree(away)
        return [one.id for one in gone]


def _age(compose_id: str) -> tuple[str, int]:
    date = re.search(r"-([0-9]{8})(?:\.[a-z]+)?\.([0-9]+)$", compose_id)
    return (date.group(1), int(date.group(2))) if date else ("", 0)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
