"""What a tag has at one event, and which copy of each RPM is taken: the earliest of the keys that signed it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Callable

from goose.mash_config import Mash
from goose.mash_records import Wanted


class KojiError(Exception):
    """The hub failed, or does not know what is asked for; a sentence."""


class MissingError(Exception):
    """RPMs that should lie on the volume and do not; a sentence a line."""


@dataclass(eq=False)
class Rpm:
    """One RPM of the tag, and the copy of it that is taken, once `choose` and `locate` have set it."""

    name: str
    version: str
    release: str
    epoch: int
    arch: str
    build: int
    package: str
    """The name of its source package."""
    md5: str
    sigkeys: frozenset[str]
    sigkey: str = ""
    """The key of the copy that is taken; empty: the copy as it was built."""
    path: str = ""
    size: int = 0
    mtime: int = 0

    @property
    def nvra(self) -> str:
        """name-version-release.arch, which is the file's name, too."""
        return f"{self.name}-{self.version}-{self.release}.{self.arch}"

    @cached_property
    def nevra(self) -> str:
        """The same with the epoch, where it is not 0."""
        epoch = f"{self.epoch}:" if self.epoch else ""
        return f"{self.name}-{epoch}{self.version}-{self.release}.{self.arch}"

    def wanted(self, hashtype: str) -> Wanted:
        """What its record is asked for by."""
        return Wanted(self.nevra, self.path, self.md5, self.sigkey, self.size, self.mtime, hashtype)


@dataclass(frozen=True)
class Refusal:
    """Why a compose is not made."""

    kind: str
    """unsigned, duplicates or broken-deps."""
    package: str
    """The name that `--allow KIND:NAME` takes."""
    sentence: str

    def allowed(self, allow: Iterable[str]) -> bool:
        """Whether `--allow` names it."""
        return bool({self.kind, f"{self.kind}:{self.package}"}.intersection(allow))


def ask(call: Callable[[], Any], what: str) -> Any:
    """What the hub answers.

    Raises:
        KojiError: naming ``what`` was asked for.
    """
    import koji

    try:
        return call()
    except koji.GenericError as error:
        raise KojiError(f"{what}: Koji says: {' '.join(str(error).split())[:300]}.") from error
    except Exception as error:  # requests', koji's and the parser's, all of them "no answer"
        raise KojiError(f"{what}: the hub gives no answer ({' '.join(str(error).split())[:300]}).") from error


def event_of(session: Any, tag: str, event: int | None) -> tuple[int, int]:
    """The event to look at: the given one, or the last, so that all is seen at one moment; and the tag's id."""
    if event is None:
        event = int(ask(lambda: session.getLastEvent(), "The last event")["id"])
    found = ask(lambda: session.getTag(tag, event=event), f"The tag {tag}")
    if found is None:
        raise KojiError(f"Koji has no tag {tag} at event {event}: look at `tag` in the .mash file.")
    return event, int(found["id"])


def listing(session: Any, mash: Mash, event: int) -> tuple[list[Rpm], dict[int, Mapping[str, Any]]]:
    """The RPMs of the tag, each once with all keys that signed it, and its builds by id."""
    rows, builds = ask(
        lambda: session.listTaggedRPMS(
            mash.tag, event=event, inherit=mash.inherit, latest=mash.latest, rpmsigs=True, extra=False
        ),
        f"The RPMs of {mash.tag}",
    )
    by_id: dict[int, Mapping[str, Any]] = {build["build_id"]: build for build in builds}
    signed: dict[int, set[str]] = {}
    first: dict[int, Mapping[str, Any]] = {}
    for row in rows:
        if row["metadata_only"]:
            continue
        first.setdefault(row["id"], row)
        signed.setdefault(row["id"], set()).update([row["sigkey"]] if row.get("sigkey") else [])
    rpms = [
        Rpm(row["name"], row["version"], row["release"], row["epoch"] or 0, row["arch"], row["build_id"],
            by_id[row["build_id"]]["name"], row["payloadhash"], frozenset(signed[number]))
        for number, row in first.items()
    ]  # fmt: skip
    return sorted(rpms, key=lambda rpm: (rpm.name, rpm.arch, rpm.nevra, rpm.build)), by_id


def choose(mash: Mash, rpms: Iterable[Rpm]) -> tuple[list[Rpm], list[Refusal]]:
    """The copy of each RPM by the keys' order; and those that no key has signed."""
    chosen, refusals = list(rpms), []
    for rpm in chosen:
        rpm.sigkey = next((found for ids in mash.keys for found in ids if found in rpm.sigkeys), "")
        if mash.keys and mash.strict_keys and not rpm.sigkey:
            has = f"only by {', '.join(sorted(rpm.sigkeys))}" if rpm.sigkeys else "by nobody"
            refusals.append(Refusal("unsigned", rpm.package, f"{rpm.nevra} is signed {has}."))
    return chosen, refusals


def doubles(mash: Mash, rpms: Iterable[Rpm]) -> tuple[list[Rpm], list[Refusal]]:
    """RPMs without those of one NEVRA in two builds; and what the tag's latest has in two versions."""
    once: dict[str, Rpm] = {}
    versions: dict[tuple[str, str], list[Rpm]] = {}
    for rpm in rpms:
        if mash.latest:
            versions.setdefault((rpm.name, rpm.arch), []).append(rpm)
        # The later build of two that made the same.
        if rpm.nevra not in once or once[rpm.nevra].build < rpm.build:
            once[rpm.nevra] = rpm
    refusals = [
        Refusal("duplicates", several[0].package,
                f"{' and '.join(rpm.nevra for rpm in several)} are in the tag at once, from the packages"
                f" {', '.join(sorted({rpm.package for rpm in several}))}.")
        for several in versions.values() if len(several) > 1
    ]  # fmt: skip
    return list(once.values()), refusals


def locate(rpms: Iterable[Rpm], builds: Mapping[int, Mapping[str, Any]], topdir: Path) -> list[Rpm]:
    """The RPMs with their files.

    Raises:
        MissingError: naming every one that is not there.
    """
    import koji

    paths = koji.PathInfo(str(topdir))
    directories = {number: paths.build(build) for number, build in builds.items()}
    found, missing = [], []
    for rpm in rpms:
        where = {"arch": rpm.arch, "name": rpm.name, "version": rpm.version, "release": rpm.release}
        below = paths.signed(where, rpm.sigkey) if rpm.sigkey else paths.rpm(where)
        path = f"{directories[rpm.build]}/{below}"
        try:
            about = os.stat(path)
        except OSError as error:
            missing.append(_missing(rpm, path, error, builds[rpm.build], topdir))
            continue
        rpm.path, rpm.size, rpm.mtime = path, about.st_size, about.st_mtime_ns
        found.append(rpm)
    if missing:
        raise MissingError("\n".join(missing))
    return found


def _missing(rpm: Rpm, path: str, error: OSError, build: Mapping[str, Any], topdir: Path) -> str:
    if not topdir.is_dir():
        return f"{rpm.nevra}: {topdir}, Koji's volume, is not there: mount it."
    if not isinstance(error, FileNotFoundError):
        return f"{rpm.nevra}: {path} cannot be read: {error.strerror}."
    nvr = "{name}-{version}-{release}".format(**build)
    if rpm.sigkey:
        return (
            f"{rpm.nevra}: its copy signed by {rpm.sigkey} is missing ({path}): sigulsign_unsigned.py --just-write"
            f" KEY {nvr} writes it, with the name of that key."
        )
    return f"{rpm.nevra}: {path} is missing on Koji's volume: restore it from a backup, or build {nvr} anew."


def matching(rpms: Iterable[Rpm], text: str) -> Iterator[Rpm]:
    """Those that ``text`` means: a NEVRA, with or without epoch, NAME.ARCH, or a name."""
    for rpm in rpms:
        if text in (rpm.nevra, rpm.nvra, f"{rpm.name}.{rpm.arch}", rpm.name):
            yield rpm
