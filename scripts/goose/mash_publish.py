"""How a compose becomes what people see: made whole beside the published one, and shown by one rename.

Below the output directory::

    NAME -> .mash/NAME/000042      what is published
    .mash/NAME/000042/             a generation, with mash.json that says what it holds
    .mash/NAME/staging             what is being made, or what a killed run left
    .mash/NAME/lock
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

from goose import mash_repodata
from goose.mash_plan import Tree
from goose.mash_records import Brief, Records, Wanted
from goose.mash_tag import Rpm

MANIFEST = "mash.json"
_VERSION = 2
_GENERATION = re.compile(r"[0-9]{6,}")
_CHUNK = 1 << 20


class PublishError(Exception):
    """The repository cannot be made; a sentence."""


class Running(Exception):
    """Another run makes the same repository."""


@dataclass(frozen=True)
class Diff:
    """What differs from the published compose: tree and NEVRA each."""

    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    resigned: list[str] = field(default_factory=list)
    """The same NEVRA by another file: signed by another key, or built anew."""

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.resigned)


class Published:
    """One published compose, and its generations."""

    def __init__(self, output: Path, name: str) -> None:
        self.link = output / name
        self.base = output / ".mash" / name
        self.staging = self.base / "staging"

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock.

        Raises:
            Running: where another run has it.
            PublishError: where the output cannot be written, or something else stands in the link's place.
        """
        if os.path.lexists(self.link) and not self.link.is_symlink():
            raise PublishError(
                f"{self.link} is no link of this program's: move it away; the repository appears there as a link."
            )
        if self.link.is_symlink() and self.current() is None:
            raise PublishError(
                f"{self.link} leads to {os.readlink(self.link)}, which this program has not made: remove it."
            )
        try:
            self.base.mkdir(parents=True, exist_ok=True)
            lock = (self.base / "lock").open("a")
        except OSError as error:
            raise PublishError(f"{self.base} cannot be written: {error.strerror}.") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Running(f"another run makes {self.link}.") from None
            yield

    def current(self) -> Path | None:
        """The published generation; None where there is none."""
        try:
            target = os.readlink(self.link)
        except OSError:
            return None
        head, _, number = target.rpartition("/")
        return (
            self.base / number
            if head == f".mash/{self.base.name}" and _GENERATION.fullmatch(number)
            else None
        )

    def manifest(self) -> dict[str, Any]:
        """What the published generation holds; empty where nothing is published, or nothing can be said of it."""
        current = self.current()
        try:
            found = json.loads((current / MANIFEST).read_text(encoding="utf-8")) if current else {}
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) and found.get("version") == _VERSION else {}

    def generations(self) -> list[Path]:
        """All, the oldest first."""
        return sorted(
            (path for path in self.base.iterdir() if _GENERATION.fullmatch(path.name)),
            key=lambda path: int(path.name),
        )

    def sweep(self, keep: int) -> None:
        """Remove what killed runs left, and generations beyond the published one and ``keep`` - 1 before it."""
        for path in self.base.glob("staging*"):
            shutil.rmtree(path)
        for path in self.base.glob("link*"):
            path.unlink()
        current = self.current()
        old = [path for path in self.generations() if current is None or int(path.name) < int(current.name)]
        # One that is newer than what is published was never published.
        new = [
            path for path in self.generations() if current is not None and int(path.name) > int(current.name)
        ]
        for path in [*(old[: len(old) - (keep - 1)] if current else old), *new]:
            # By another name first: half a generation must not look like one.
            away = self.base / f"staging-{path.name}"
            path.rename(away)
            shutil.rmtree(away)

    def whole(self, manifest: Mapping[str, Any]) -> bool:
        """Whether the published generation is on the disk as its manifest says."""
        current = self.current()
        if current is None or not manifest:
            return False
        try:
            for tree in manifest["trees"].values():
                for place, _, _, size, mtime, _ in tree["rpms"].values():
                    about = os.stat(f"{current}/{place}")
                    if (about.st_size, about.st_mtime_ns) != (size, mtime):
                        return False
            return all(_sha256(current / name) == checksum for name, checksum in manifest["metadata"].items())
        except (OSError, KeyError, ValueError, TypeError, AttributeError):
            return False

    def show(self, generation: Path) -> None:
        """Publish: the one rename."""
        new = self.base / f"link-{generation.name}"
        new.symlink_to(f".mash/{self.base.name}/{generation.name}")
        new.replace(self.link)
        _sync_directory(self.link.parent)


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while data := stream.read(_CHUNK):
            found.update(data)
    return found.hexdigest()


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rows(
    tree: Tree, hash_packages: bool, wanted: Mapping[Rpm, Wanted], briefs: Mapping[Wanted, Brief]
) -> dict[str, list[Any]]:
    """A tree for the manifest: NEVRA -> place, key, checksum, size, time of change, reason."""
    return {
        rpm.nevra: [
            tree.place(rpm, hash_packages),
            rpm.sigkey,
            briefs[wanted[rpm]].pkgid,
            rpm.size,
            rpm.mtime,
            why,
        ]
        for rpm, why in sorted(tree.members.items(), key=lambda item: (item[0].nevra, item[0].arch))
    }


def difference(old: Mapping[str, Any], new: Mapping[str, Mapping[str, Sequence[Any]]]) -> Diff:
    """What ``new`` (tree -> rows) brings against the manifest ``old``."""
    found = Diff()
    before = {name: tree["rpms"] for name, tree in old.get("trees", {}).items()}
    for tree in sorted({*before, *new}):
        one, other = before.get(tree, {}), new.get(tree, {})
        found.added.extend(f"{tree}: {nevra}" for nevra in other if nevra not in one)
        found.removed.extend(f"{tree}: {nevra}" for nevra in one if nevra not in other)
        found.resigned.extend(
            f"{tree}: {nevra}" for nevra, row in other.items() if nevra in one and one[nevra][1:3] != row[1:3]
        )
    return found


@dataclass(frozen=True)
class Content:
    """What a generation is made of."""

    trees: Sequence[Tree]
    rows: Mapping[str, Mapping[str, Sequence[Any]]]
    """Tree -> what `rows` makes of it."""
    wanted: Mapping[Rpm, Wanted]
    records: Records
    extra: Sequence[tuple[str, bytes]]
    """comps and updateinfo, by their kind."""
    look: mash_repodata.Look
    about: Mapping[str, Any]
    """What the manifest says beside."""
    hash: str


def build(published: Published, content: Content, show: Callable[[int, int], None]) -> Path:
    """A new generation on the disk, complete and not yet published.

    Raises:
        PublishError: naming the RPM, where an RPM's copy did not come out as its record says.
        OSError, mash_repodata.RepodataError: where the disk or a program failed.
    """
    staging = published.staging
    old, before = published.current(), published.manifest()
    # By checksum: what is already here is linked again, and not copied from the volume.
    here = (
        {row[2]: row for tree in before.get("trees", {}).values() for row in tree["rpms"].values()}
        if old
        else {}
    )
    staging.mkdir()
    manifest: dict[str, Any] = {"version": _VERSION, **content.about, "trees": {}, "metadata": {}}
    count, number = sum(len(tree.members) for tree in content.trees), itertools.count(1)

    def placed(tree: Tree) -> Iterator[tuple[str, mash_repodata.Xml]]:
        """Place the RPMs of a tree, each when it is its turn in the metadata: those before it are compressed meanwhile."""
        by_nevra = {rpm.nevra: rpm for rpm in tree.members}
        found = content.rows[tree.name]
        for folder in {row[0].rpartition("/")[0] for row in found.values()}:
            os.makedirs(f"{staging}/{folder}", exist_ok=True)
        xml = content.records.xml([content.wanted[by_nevra[nevra]] for nevra in found])
        for (nevra, row), texts in zip(found.items(), xml):
            _place(by_nevra[nevra], row, f"{staging}/{row[0]}", here.get(row[2]), old, content.hash)
            show(next(number), count)
            yield tree.location(row[0]), texts

    for tree in content.trees:
        # A source repository has no groups.
        extra = content.extra if tree.name == tree.arch else ()
        directory = staging / tree.repodata_path
        directory.mkdir(parents=True, exist_ok=True)
        mash_repodata.write(directory, len(tree.members), placed(tree), extra, content.look)
        for path in sorted((directory / "repodata").iterdir()):
            manifest["metadata"][str(path.relative_to(staging))] = _sha256(path)
        manifest["trees"][tree.name] = {
            "path": tree.rpm_path,
            "repodata": tree.repodata_path,
            "rpms": content.rows[tree.name],
        }
    (staging / MANIFEST).write_text(json.dumps(manifest) + "\n", encoding="utf-8")
    try:
        # The whole file system at once: a flush for each of thousands of files takes minutes.
        subprocess.run(["sync", "--file-system", str(staging)], check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        raise PublishError(
            f"{staging} could not be flushed to the disk: {error.stderr.decode().strip()}"
        ) from error
    generations = published.generations()
    generation = published.base / f"{int(generations[-1].name) + 1 if generations else 1:06d}"
    staging.rename(generation)
    _sync_directory(published.base)
    return generation


def _place(
    rpm: Rpm, row: Sequence[Any], target: str, here: Sequence[Any] | None, old: Path | None, hashtype: str
) -> None:
    """Put an RPM at ``target``: a link to the same in the published generation or on the volume, or a copy."""
    size, mtime = row[3], row[4]
    if here is not None and tuple(here[3:5]) == (size, mtime):
        path = f"{old}/{here[0]}"
        with contextlib.suppress(OSError):
            about = os.stat(path)
            if (about.st_size, about.st_mtime_ns) == (size, mtime):
                os.link(path, target)
                return
    try:
        # Another file system, another mount of the same one, a file of another user, too many links.
        os.link(rpm.path, target)
    except OSError:
        _copy(rpm, target, row[2], hashtype)
    about = os.stat(target)
    if (about.st_size, about.st_mtime_ns) != (size, mtime):
        raise PublishError(
            f"{rpm.nevra}: {rpm.path} has changed while the repository was made: run it again."
        )


def _copy(rpm: Rpm, target: str, checksum: str, hashtype: str) -> None:
    found = hashlib.new(hashtype)
    try:
        # Never onto what is there, which may be a link to a package of Koji's.
        with open(rpm.path, "rb") as source, open(target, "xb") as stream:
            while data := source.read(_CHUNK):
                found.update(data)
                stream.write(data)
            os.fchmod(stream.fileno(), 0o644)
        os.utime(target, ns=(rpm.mtime, rpm.mtime))
    except OSError as error:
        raise PublishError(
            f"{rpm.nevra}: {rpm.path} could not be copied to {target}: {error.strerror}."
        ) from error
    if found.hexdigest() != checksum:
        raise PublishError(
            f"{rpm.nevra}: the copy of {rpm.path} came out otherwise than it was read before: look at the disk and"
            " at Koji's volume, and run it again."
        )
