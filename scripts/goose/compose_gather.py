"""Which packages a variant holds: comps groups and lists of names, and all that these need.

Requirements are followed by libsolv's `whatprovides`, not by solving: an installation of everything at once
would report conflicts between packages that nobody installs together. A rich dependency that nothing inside
provides is solved, for its condition may never hold.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from goose.compose_config import Config, Variant
from goose.compose_input import Loaded, Package

# rpm's own: an architecture's packages, in the order in which they are preferred.
COMPATIBLE = {
    "x86_64": ("x86_64", "amd64", "ia32e", "noarch", "i686", "i586", "i486", "i386"),
    "i386": ("i686", "i586", "i486", "i386", "noarch"),
    "aarch64": ("aarch64", "noarch"),
    "ppc64le": ("ppc64le", "noarch"),
    "s390x": ("s390x", "noarch"),
    "riscv64": ("riscv64", "noarch"),
}
_DEBUG = re.compile(r"-(debuginfo|debugsource)(-|$)")
_WILD = re.compile(r"[*?\[]")


class GatherError(Exception):
    """What cannot be gathered: a sentence a line."""


@dataclass
class Gathered:
    """What the variants of one architecture hold."""

    members: dict[str, list[Package]] = field(default_factory=dict)
    """Variant -> its packages, by name."""
    sources: dict[str, list[Package]] = field(default_factory=dict)
    debug: dict[str, list[Package]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    """NEVRA -> why it is there."""
    warnings: list[str] = field(default_factory=list)


class Comps:
    """Groups of one comps file."""

    def __init__(self, text: str, where: str) -> None:
        """Read it.

        Raises:
            GatherError: where it is no comps file.
        """
        import libcomps

        self._libcomps = libcomps
        self.comps = libcomps.Comps()
        try:
            read = self.comps.fromxml_str(text) if text else 0
        except Exception:  # its ParserError stands in no module that can be named
            read = -1
        if read == -1:
            said = " ".join(" ".join(self.comps.get_last_errors()).split()) or "it is no XML"
            raise GatherError(f"The groups of {where} cannot be parsed: {said}.")

    def wanted(self, variant: Variant, arch: str) -> dict[str, str]:
        """Name -> group, of all that the variant's groups and environments have.

        Raises:
            GatherError: naming a group that there is not.
        """
        here = self.comps.arch_filter([arch])
        groups = {group.id: group for group in here.groups}
        environments = {one.id: one for one in here.environments}
        names = list(variant.groups)
        for name in variant.environments:
            if name not in environments:
                raise GatherError(
                    f"The variant {variant.id} wants the environment '{name}', which comps does not have:"
                    f" {_choice(environments)}."
                )
            names += [entry.name for entry in environments[name].group_ids]
        found: dict[str, str] = {}
        for name in names:
            if name not in groups:
                raise GatherError(
                    f"The variant {variant.id} wants the group '{name}', which comps does not have:"
                    f" {_choice(groups)}."
                )
            for package in groups[name].packages:
                kind = package.type
                if kind == self._libcomps.PACKAGE_TYPE_OPTIONAL and not variant.optional:
                    continue
                # One that only belongs there where another package is installed, of a language mostly.
                if kind == self._libcomps.PACKAGE_TYPE_CONDITIONAL:
                    continue
                found.setdefault(package.name, name)
        return found

    def of(self, packages: Collection[str]) -> str:
        """The groups as a repository of these packages has them: nothing that is not there."""
        comps = self._libcomps.Comps()
        kept: set[str] = set()
        for group in sorted(self.comps.groups, key=lambda one: str(one.id)):
            there = [package for package in group.packages if package.name in packages]
            if not there:
                continue
            new = self._libcomps.Group(group.id, group.name, group.desc)
            new.name_by_lang, new.desc_by_lang = group.name_by_lang, group.desc_by_lang
            new.default, new.uservisible, new.lang_only = group.default, group.uservisible, group.lang_only
            if group.display_order is not None:
                new.display_order = group.display_order
            for package in there:
                new.packages.append(package)
            comps.groups.append(new)
            kept.add(group.id)
        for one in self.comps.environments:
            if not any(entry.name in kept for entry in one.group_ids):
                continue
            new = self._libcomps.Environment(one.id, one.name, one.desc)
            if one.display_order is not None:
                new.display_order = one.display_order
            for source, to in ((one.group_ids, new.group_ids), (one.option_ids, new.option_ids)):
                for entry in source:
                    if entry.name in kept:
                        to.append(entry)
            comps.environments.append(new)
        return str(comps.xml_str()) if kept else ""


def _choice(there: Collection[str]) -> str:
    return f"choose from {', '.join(sorted(there))}" if there else "it has none at all"


class Sack:
    """libsolv's pool over the packages of an architecture."""

    def __init__(self, repositories: Sequence[Loaded], arch: str, parents: Sequence[Loaded] = ()) -> None:
        import solv

        self._solv = solv
        self.pool = solv.Pool()
        # Debian's libsolv otherwise compares versions in dpkg's way, and finds no rpm dependency.
        self.pool.setdisttype(self.pool.DISTTYPE_RPM)
        self.arch = arch
        self.order = COMPATIBLE.get(arch, (arch, "noarch"))
        self.packages: dict[int, Package] = {}
        self.parents: set[int] = set()
        repos = []
        files: set[str] = set()
        everything = [*repositories, *parents]
        for number, loaded in enumerate(everything):
            repo = self.pool.add_repo(str(number))
            repo.add_rpmmd(solv.xfopen(str(loaded.files["primary"])), None)
            repos.append(repo)
            if number >= len(repositories):
                self.parents.update(one.id for one in repo.solvables)
                continue
            by_id = {package.pkgid: package for package in loaded.packages}
            for solvable in repo.solvables:
                package = by_id[solvable.lookup_checksum(solv.SOLVABLE_CHECKSUM).hex()]
                # What several repositories have is that of the first: a tree has room for one file of a name.
                if package.arch in self.order and package.file not in files:
                    files.add(package.file)
                    self.packages[solvable.id] = package
        self.pool.addfileprovides()
        self.pool.createwhatprovides()
        if any(self._file_is_missing(number) for number in self.packages):
            # Only then, for this is most of the metadata.
            for repo, loaded in zip(repos, everything):
                stream = solv.xfopen(str(loaded.files["filelists"]))
                repo.add_rpmmd(stream, None, solv.Repo.REPO_EXTEND_SOLVABLES)
            self.pool.addfileprovides()
            self.pool.createwhatprovides()
        self._providers: dict[int, tuple[int, ...]] = {}
        self.names: dict[str, list[int]] = {}
        for number in self.packages:
            self.names.setdefault(self.packages[number].name, []).append(number)
        for numbers in self.names.values():
            numbers.sort(key=self.rank)

    def _file_is_missing(self, number: int) -> bool:
        for dep in self.requires(number):
            if self.pool.dep2str(dep).startswith("/") and not self.pool.whatprovides(dep):
                return True
        return False

    def rank(self, number: int) -> tuple[Any, ...]:
        """A sort key: the better one is less. Architecture, then the newest, then the name."""
        package = self.packages[number]
        return (
            self.order.index(package.arch),
            _Newest(self.pool.id2solvable(number)),
            package.name,
            package.pkgid,
        )

    def requires(self, number: int) -> list[int]:
        """What a package requires, by libsolv's numbers."""
        found: list[int] = self.pool.id2solvable(number).lookup_idarray(self._solv.SOLVABLE_REQUIRES)
        return found

    def recommends(self, number: int) -> list[int]:
        """What a package recommends."""
        found: list[int] = self.pool.id2solvable(number).lookup_idarray(self._solv.SOLVABLE_RECOMMENDS)
        return found

    def who(self, dep: int) -> tuple[int, ...]:
        """The packages that provide something."""
        if dep not in self._providers:
            found = (one.id for one in self.pool.whatprovides(dep))
            self._providers[dep] = tuple(one for one in found if one in self.packages)
        return self._providers[dep]

    def elsewhere(self, dep: int) -> bool:
        """Whether a parent provides something."""
        return any(one.id in self.parents for one in self.pool.whatprovides(dep))

    def text(self, dep: int) -> str:
        """A requirement in words."""
        return str(self.pool.dep2str(dep))

    def conditional(self, number: int, inside: Collection[int]) -> bool:
        """Whether a package with a rich dependency that nothing provides can be installed among these."""
        # Pseudo packages of libsolv itself (0 and 1) are none.
        self.pool.set_disabled_list(
            [
                one.id
                for one in self.pool.solvables
                if one.id > 1 and one.id not in inside and one.id not in self.parents
            ]
        )
        job = self.pool.Job(self._solv.Job.SOLVER_INSTALL | self._solv.Job.SOLVER_SOLVABLE, number)
        fits = not self.pool.Solver().solve([job])
        self.pool.set_disabled_list([])
        return fits


class _Newest:
    """Compares a solvable's version, the newer being less."""

    def __init__(self, solvable: Any) -> None:
        self._solvable = solvable

    def __lt__(self, other: _Newest) -> bool:
        return bool(self._solvable.evrcmp(other._solvable) > 0)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Newest) and self._solvable.evrcmp(other._solvable) == 0


def _named(sack: Sack, name: str) -> list[int]:
    """The packages that a word of a list means: NAME, NAME.ARCH, or with wildcards; the newest of each name."""
    head, _, arch = name.rpartition(".")
    if head and arch in sack.order:
        found = [numbers for one, numbers in sorted(sack.names.items()) if fnmatch.fnmatchcase(one, head)]
        return [
            mine[0] for numbers in found if (mine := [n for n in numbers if sack.packages[n].arch == arch])
        ]
    if _WILD.search(name):
        return [numbers[0] for one, numbers in sorted(sack.names.items()) if fnmatch.fnmatchcase(one, name)]
    return sack.names.get(name, [])[:1]


def _excluded(package: Package, patterns: Iterable[str]) -> bool:
    return any(
        fnmatch.fnmatchcase(package.name, one) or fnmatch.fnmatchcase(f"{package.name}.{package.arch}", one)
        for one in patterns
    )


def _twins(sack: Sack, number: int) -> list[int]:
    """The same package of a second architecture: what mash has put into the repository as multilib."""
    mine = sack.packages[number]
    return [
        other
        for other in sack.names[mine.name]
        if other != number
        and (one := sack.packages[other]).arch not in (mine.arch, "noarch")
        and (one.epoch, one.version, one.release) == (mine.epoch, mine.version, mine.release)
    ]


def _start(sack: Sack, variant: Variant, comps: Comps, found: Gathered) -> dict[int, str]:
    """What a variant begins with: number -> why.

    Raises:
        GatherError: naming a package of the variant's list that there is not.
    """
    start: dict[int, str] = {}
    if variant.everything:
        start = {number: "everything" for number in sack.packages}
    missing: dict[str, list[str]] = {}
    for name, group in comps.wanted(variant, sack.arch).items():
        numbers = _named(sack, name)
        if not numbers:
            missing.setdefault(group, []).append(name)
        for number in numbers:
            start.setdefault(number, f"group {group}")
    for group, names in missing.items():
        found.warnings.append(
            f"{variant.id}: the group {group} names what no repository has: {', '.join(sorted(names))}."
        )
    absent = []
    for name in variant.packages:
        numbers = _named(sack, name)
        if not numbers:
            absent.append(name)
        for number in numbers:
            start.setdefault(number, "the variant's packages")
    if absent:
        raise GatherError(
            f"The variant {variant.id} wants what no repository has for {sack.arch}: {', '.join(absent)}."
            " Mend variants in the configuration, or build them."
        )
    return {
        number: why for number, why in start.items() if not _excluded(sack.packages[number], variant.exclude)
    }


def _close(
    sack: Sack, variant: Variant, start: Mapping[int, str], beside: Collection[int], found: Gathered
) -> tuple[set[int], list[str]]:
    """The variant with all that it needs; and what is open, in sentences."""
    inside: set[int] = set()
    todo: list[int] = []
    open_: list[tuple[int, int]] = []

    def take(number: int, why: str) -> None:
        if number not in inside and number not in beside:
            inside.add(number)
            todo.append(number)
            found.reasons.setdefault(sack.packages[number].nevra, why)
            if variant.multilib:
                for twin in _twins(sack, number):
                    if not _excluded(sack.packages[twin], variant.exclude):
                        take(twin, f"multilib of {sack.packages[number]}")

    for number in sorted(start, key=lambda one: sack.packages[one].nevra):
        take(number, start[number])
    while todo:
        number = todo.pop()
        mine = sack.packages[number]
        deps = [(dep, True) for dep in sack.requires(number)]
        if variant.recommends:
            deps += [(dep, False) for dep in sack.recommends(number)]
        for dep, must in deps:
            text = sack.text(dep)
            who = sack.who(dep)
            if text.startswith("rpmlib(") or any(one in inside or one in beside for one in who):
                continue
            free = [one for one in who if not _excluded(sack.packages[one], variant.exclude)]
            # A 32-bit package wants its own kind; what has no architecture, that of the compose.
            free.sort(
                key=lambda one: (
                    sack.packages[one].arch not in (mine.arch, "noarch") and mine.arch != "noarch",
                    sack.packages[one].name != mine.name,
                    sack.rank(one),
                )
            )
            if free:
                take(free[0], f"{mine} requires {text}")
            elif must and not sack.elsewhere(dep):
                open_.append((number, dep))
    everything = inside | set(beside)
    broken = []
    plainly = {number for number, dep in open_ if not sack.text(dep).startswith("(")}
    for number, dep in sorted(open_, key=lambda one: (sack.packages[one[0]].nevra, sack.text(one[1]))):
        # Of a package that cannot be installed anyhow the solver tells nothing.
        if sack.text(dep).startswith("(") and (number in plainly or sack.conditional(number, everything)):
            continue
        left_out = [str(sack.packages[one]) for one in sack.who(dep)]
        broken.append(
            f"{variant.id}: {sack.packages[number]} requires {sack.text(dep)},"
            + (
                f" which {', '.join(left_out)} would provide, and `exclude` leaves out."
                if left_out
                else " which nothing provides."
            )
        )
    return inside, broken


def gather(
    config: Config,
    arch: str,
    binary: Sequence[Loaded],
    source: Sequence[Loaded],
    debug: Sequence[Loaded],
    comps: Comps,
    allow_broken: bool = False,
    parents: Sequence[Loaded] = (),
) -> Gathered:
    """What each variant of an architecture holds.

    Raises:
        GatherError: a sentence a line, for what is missing.
    """
    sack = Sack(binary, arch, parents)
    found = Gathered()
    taken: dict[str, set[int]] = {}
    broken: list[str] = []
    for name in config.variant_ids(arch):
        variant = config.variants[name]
        beside = _beside(config, name, taken)
        start = _start(sack, variant, comps, found)
        taken[name], said = _close(sack, variant, start, beside, found)
        broken += said
        found.members[name] = sorted((sack.packages[one] for one in taken[name]), key=_by_file)
    if broken and not allow_broken:
        raise GatherError("\n".join(broken))
    found.warnings += broken
    _sources(found, source)
    _debug(found, debug, sack.order)
    return found


def unmet(
    config: Config,
    arch: str,
    binary: Sequence[Loaded],
    taken: Mapping[str, Collection[str]],
    parents: Sequence[Loaded] = (),
) -> list[str]:
    """What another engine has left out of variants that their packages require, in sentences.

    Args:
        taken: variant -> NEVRAs of its packages.
    """
    sack = Sack(binary, arch, parents)
    inside = {
        name: {number for number, package in sack.packages.items() if package.nevra in nevras}
        for name, nevras in taken.items()
    }
    said: list[str] = []
    for name in config.variant_ids(arch):
        # Nothing but what is required: what else there might be is the other engine's choice.
        variant = dataclasses.replace(config.variants[name], multilib=False, recommends=False)
        mine = inside.get(name, set())
        whole, broken = _close(sack, variant, dict.fromkeys(mine, ""), _beside(config, name, inside), Gathered())
        said += broken if mine else [f"{name} holds no package for {arch}."]
        said += [f"{name}: {sack.packages[one]} is not there, and is required." for one in sorted(whole - mine)]
    return said


def _beside(config: Config, name: str, taken: Mapping[str, set[int]]) -> set[int]:
    """The packages that are there whenever a variant is."""
    return {number for other in config.required(name) for number in taken.get(other, ())}


def _by_file(package: Package) -> tuple[str, str]:
    return package.file, package.pkgid


def _sources(found: Gathered, repositories: Sequence[Loaded]) -> None:
    """The source packages of all that is there.

    Raises:
        GatherError: naming those that are missing.
    """
    if not repositories:
        return
    there: dict[str, Package] = {}
    for one in repositories:
        for package in one.packages:
            there.setdefault(package.file.replace(".nosrc.rpm", ".src.rpm"), package)
    missing: dict[str, str] = {}
    for variant, packages in found.members.items():
        wanted: dict[str, Package] = {}
        for package in packages:
            name = package.sourcerpm.replace(".nosrc.rpm", ".src.rpm")
            if name in there:
                wanted[name] = there[name]
            else:
                missing[name or str(package)] = str(package)
        found.sources[variant] = sorted(wanted.values(), key=_by_file)
    if missing:
        raise GatherError(
            "\n".join(
                f"The source package {name} of {of} is in no source repository."
                for name, of in sorted(missing.items())
            )
        )


def _debug(found: Gathered, repositories: Sequence[Loaded], arches: Collection[str]) -> None:
    first: dict[str, Package] = {}
    for loaded in repositories:
        for package in loaded.packages:
            first.setdefault(package.file, package)
    packages = [package for package in first.values() if package.arch in arches]
    for variant, members in found.members.items():
        built = {(package.sourcerpm, package.arch) for package in members}
        found.debug[variant] = sorted(
            (one for one in packages if _DEBUG.search(one.name) and (one.sourcerpm, one.arch) in built),
            key=_by_file,
        )


def read_comps(path: Path, where: str) -> Comps:
    """The groups in a file.

    Raises:
        GatherError: where it is no comps file.
    """
    return Comps(path.read_text(encoding="utf-8"), where)
