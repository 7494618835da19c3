"""Which RPM goes into which tree, and why."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from goose.mash_closure import Sack
from goose.mash_config import Mash
from goose.mash_multilib import BIARCH, COMPATIBLE, Candidate, Lists, pick, read_list
from goose.mash_records import Brief, Records, Wanted
from goose.mash_tag import Refusal, Rpm


class PlanError(Exception):
    """A plan cannot be made; a sentence."""


@dataclass
class Tree:
    """One repository of the compose."""

    name: str
    """As in x86_64, x86_64-debug, source."""
    arch: str
    rpm_path: str
    repodata_path: str
    members: dict[Rpm, str] = field(default_factory=dict)
    """With the reason, in words."""
    out: dict[Rpm, str] = field(default_factory=dict)
    """What was thought of and is not in, with the reason."""

    def place(self, rpm: Rpm, hash_packages: bool) -> str:
        """Where a member lies, below the top of the compose."""
        letter = f"{rpm.name[0].lower()}/" if hash_packages else ""
        return f"{self.rpm_path}/{letter}{rpm.nvra}.rpm"

    def location(self, place: str) -> str:
        """The same below the directory that `repodata` lies in."""
        return place[len(self.repodata_path) + 1 :]


def unknown_arches(mash: Mash) -> list[str]:
    """Architectures that there are no rules for."""
    return [arch for arch in mash.arches if arch not in COMPATIBLE]


def trees(mash: Mash) -> list[Tree]:
    """The trees, still empty."""
    found = []
    for arch in mash.arches:
        path = mash.rpm_path % {"arch": arch}
        found.append(Tree(arch, arch, path, mash.repodata(mash.rpm_path) % {"arch": arch}))
        if mash.debuginfo:
            path = mash.debuginfo_path % {"arch": arch}
            found.append(Tree(f"{arch}-debug", arch, path, path))
    if mash.source:
        path = mash.source_path
        found.append(Tree("source", "src", path, path))
    return found


def _beside(mash: Mash, arch: str) -> tuple[str, ...]:
    """Architectures of what may come into the repository of ``arch`` beside its own."""
    if not mash.multilib or mash.multilib_method == "none" or arch not in BIARCH:
        return ()
    return tuple(other for other in COMPATIBLE[BIARCH[arch]] if other != "noarch")


def used(mash: Mash, rpms: Iterable[Rpm]) -> list[Rpm]:
    """RPMs that some tree may have."""
    arches = {other for arch in mash.arches for other in (*COMPATIBLE[arch], *_beside(mash, arch))}
    if mash.source:
        arches.add("src")
    return [
        rpm for rpm in rpms
        if rpm.arch in arches and (mash.debuginfo or not is_debug(rpm))
    ]  # fmt: skip


def excluding_sources(mash: Mash, rpms: Sequence[Rpm]) -> list[Rpm]:
    """Source RPMs that are read only because they say where their noarch packages belong."""
    if mash.source:
        return []
    builds = {rpm.build for rpm in rpms if rpm.arch == "noarch"}
    return [rpm for rpm in rpms if rpm.arch == "src" and rpm.build in builds]


def is_debug(rpm: Rpm) -> bool:
    """Whether it holds what debuggers read."""
    return rpm.name.endswith(("-debuginfo", "-debugsource")) or "-debuginfo-" in rpm.name


def lists_of(mash: Mash) -> Lists:
    """The lists of names that multilib goes by; `PlanError` where the list of the method `file` cannot be read."""
    names: tuple[str, ...] = ()
    if mash.multilib and mash.multilib_method == "file" and mash.multilib_file:
        try:
            names = read_list(mash.multilib_file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise PlanError(f"multilib_file {mash.multilib_file} cannot be read: {error}.") from error
    usual = Lists()
    # What a site puts on one list it means to take off the other.
    white, black = set(mash.multilib_runtime_whitelist), set(mash.multilib_runtime_blacklist)
    devel_white, devel_black = set(mash.multilib_devel_whitelist), set(mash.multilib_devel_blacklist)
    return Lists(
        runtime_white=frozenset((usual.runtime_white - black) | white),
        runtime_black=frozenset((usual.runtime_black - white) | black),
        devel_white=frozenset((usual.devel_white - devel_black) | devel_white),
        devel_black=frozenset((usual.devel_black - devel_white) | devel_black),
        file=names,
    )


def _left_out(rpm: Rpm, arch: str, sources: Mapping[int, Brief]) -> str:
    """Why a noarch package does not belong to ``arch``, by its source RPM; empty where it does."""
    source = sources.get(rpm.build)
    if source is None:
        return ""
    runs = set(COMPATIBLE[arch])
    if found := sorted((runs - {"noarch"}).intersection(source.excludes)):
        return f"its source RPM excludes {', '.join(found)} (ExcludeArch)"
    if source.exclusives and runs.isdisjoint(source.exclusives):
        return f"its source RPM is for {', '.join(source.exclusives)} alone (ExclusiveArch)"
    return ""


@dataclass
class Plan:
    """The whole compose."""

    trees: list[Tree]
    broken: list[Refusal]


def make(
    mash: Mash,
    rpms: Sequence[Rpm],
    wanted: Mapping[Rpm, Wanted],
    briefs: Mapping[Wanted, Brief],
    records: Records,
    parents: Mapping[str, Sequence[tuple[Path, Path]]],
) -> Plan:
    """Put ``rpms`` into trees, and look whether each has all that its packages need.

    Args:
        rpms: all of the tag.
        wanted: those that have a record, with what it is asked for by.
        parents: architecture -> primary and filelists of the repositories that are there beside.
    """
    sources = {rpm.build: briefs[one] for rpm, one in wanted.items() if rpm.arch == "src"}
    plan = Plan(trees(mash), [])
    lists = lists_of(mash)
    for tree in plan.trees:
        if tree.arch == "src":
            for rpm in rpms:
                if rpm.arch == "src":
                    tree.members[rpm] = "a source package"
                else:
                    tree.out[rpm] = "no source package"
            continue
        debug = tree.name != tree.arch
        spare = _native(mash, tree, rpms, sources, debug)
        if not debug:
            plan.broken += _close(mash, tree, spare, wanted, records, lists, parents.get(tree.arch, ()))
    return plan


def _native(
    mash: Mash, tree: Tree, rpms: Iterable[Rpm], sources: Mapping[int, Brief], debug: bool
) -> list[Rpm]:
    """Put in what runs there natively; what may come in beside."""
    runs, beside = set(COMPATIBLE[tree.arch]), set(_beside(mash, tree.arch))
    spare = []
    for rpm in rpms:
        if is_debug(rpm) != debug:
            tree.out[rpm] = "it is for debuggers" if is_debug(rpm) else "it is not for debuggers"
        elif rpm.arch in runs:
            why = _left_out(rpm, tree.arch, sources) if rpm.arch == "noarch" else ""
            if why:
                tree.out[rpm] = why
            else:
                tree.members[rpm] = "native" if rpm.arch != "noarch" else "native: noarch"
        elif rpm.arch in beside and not debug:
            spare.append(rpm)
        elif rpm.arch in beside:
            tree.out[rpm] = "debuginfo does not come in beside"
        else:
            tree.out[rpm] = f"{rpm.arch} does not run on {tree.arch}" + (
                "" if mash.multilib or tree.arch not in BIARCH else " natively, and multilib is off"
            )
    return spare


def _close(
    mash: Mash,
    tree: Tree,
    spare: Sequence[Rpm],
    wanted: Mapping[Rpm, Wanted],
    records: Records,
    lists: Lists,
    parents: Iterable[tuple[Path, Path]],
) -> Iterator[Refusal]:
    """Multilib and the dependency closure of one tree."""

    def holding(packages: Collection[Rpm], paths: Collection[str]) -> dict[str, set[Rpm]]:
        back = {wanted[rpm]: rpm for rpm in packages}
        return {
            path: {back[one] for one in found} for path, found in records.holding(list(back), paths).items()
        }

    sack: Sack[Rpm] = Sack(holding)
    packages = [*tree.members, *spare]
    sack.add(packages, records.primary([wanted[rpm] for rpm in packages]))
    for primary, filelists in parents:
        sack.add_parent(str(primary), str(filelists))
    for rpm in spare:
        # Only rules for kernels look at what a package provides.
        provides = sack.provides(rpm) if rpm.name.startswith("kernel") else ()
        picked, why = pick(
            mash.multilib_method, Candidate(rpm.name, rpm.arch, provides, _Files(records, wanted[rpm])), lists
        )
        (tree.members if picked else tree.out)[rpm] = f"multilib by {why}"
    native = set(COMPATIBLE[tree.arch])

    def rank(package: Rpm, needing: Rpm) -> tuple[object, ...]:
        return (package.build != needing.build, len(package.name), package.nevra)

    pulled, broken = sack.close(tree.members, [rpm for rpm in spare if rpm not in tree.members], rank)
    for rpm, how in pulled.items():
        tree.members[rpm] = f"pulled in by {how.by.nevra}, which requires {how.requires}"
        tree.out.pop(rpm, None)
    for rpm in spare:
        if rpm in tree.out:
            tree.out[rpm] += "; no package in the tree needs it"
    for one in broken:
        why = "" if one.package.arch in native else f" (there for: {tree.members[one.package]})"
        text = f"{tree.name}: {one.package.nevra} requires {one.requires}, which nothing provides{why}."
        yield Refusal("broken-deps", one.package.package, text)


class _Files:
    """The paths of a package, read when a rule asks for them."""

    def __init__(self, records: Records, wanted: Wanted) -> None:
        self._records, self._wanted = records, wanted

    def __iter__(self) -> Iterator[str]:
        return iter(self._records.files(self._wanted))
