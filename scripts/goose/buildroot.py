"""The embedded builder's build root: Debian packages made into RPMs and brought into Koji.

A site with no Enterprise Linux mirror still needs something to build in. For each architecture
this makes a small Debian file system, turns every package in it into one RPM that also answers to
its Enterprise Linux name, and imports the lot as one Koji build, tagged into the bootstrap tag.

The build's release carries a hash of everything that decides its content, so Koji itself says
whether there is anything to do: the wanted build is tagged, or it is not.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import (
    Any,
    Callable,
    Optional,
    TextIO,
)

# Raise it when the code below makes other RPMs from the same data.
FORMAT = 1

EXIT_DONE, EXIT_NOT, EXIT_USAGE, EXIT_AUTH, EXIT_KOJI, EXIT_TOOL, EXIT_RUNNING = 0, 1, 2, 3, 4, 5, 75

# RPM's name of an architecture -> Debian's, and what RPM writes behind a name for it.
DEBIAN_ARCH = {"x86_64": "amd64", "i686": "i386", "aarch64": "arm64", "ppc64le": "ppc64el", "s390x": "s390x"}
ISA = {"x86_64": "x86-64", "i686": "x86-32", "aarch64": "aarch-64", "ppc64le": "ppc-64", "s390x": "s390-64"}

# State of the file system's making, not of the system that is made.
NOT_CONTENT = (
    "/dev", "/proc", "/run", "/sys", "/tmp", "/var/cache", "/var/lib/apt", "/var/lib/dpkg", "/var/log",
    "/var/tmp", "/etc/apt", "/etc/dpkg", "/etc/ld.so.cache", "/etc/hostname", "/etc/resolv.conf", "/etc/machine-id",
)


class BuildrootError(Exception):
    """Something is wrong, in a sentence for the user; `status` is the exit status."""

    def __init__(self, message: str, status: int = EXIT_TOOL) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Config:
    """What is in the build root: pillar `koji:buildroot`."""

    name: str
    version: str
    release: str
    tag: str
    suite: str
    arches: tuple[str, ...]
    packages: tuple[str, ...]
    packages_by_arch: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    provides: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    exclude: tuple[str, ...] = ()
    macros: Mapping[str, str] = field(default_factory=dict)
    profile: str = "koji"
    cert: str = ""
    serverca: str = ""

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any]) -> "Config":
        """Check pillar data and freeze it.

        Raises BuildrootError (usage) naming the key that is missing or of the wrong kind.
        """
        def fail(key: str, what: str) -> BuildrootError:
            return BuildrootError(f"koji:buildroot:{key} in pillar {what}.", EXIT_USAGE)

        def names(key: str, value: Any) -> tuple[str, ...]:
            if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
                raise fail(key, "must be a list of names")
            return tuple(value)

        def table(key: str) -> Mapping[str, Any]:
            value = data.get(key) or {}
            if not isinstance(value, Mapping):
                raise fail(key, "must be a mapping")
            return value

        texts = {}
        for key in ("name", "version", "release", "tag", "suite"):
            texts[key] = str(data.get(key, "")).strip()
            if not texts[key]:
                raise fail(key, "is missing")
        for key in ("name", "version", "release", "suite"):
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", texts[key]):
                raise fail(key, f"is {texts[key]!r}: use letters, digits and . _ + -")
        for key in ("version", "release"):
            if "-" in texts[key]:
                raise fail(key, f"is {texts[key]!r}: RPM allows no hyphen there")
        arches = names("arches", data.get("arches", []))
        if not arches:
            raise fail("arches", "names no architecture")
        for arch in arches:
            if arch not in DEBIAN_ARCH:
                raise fail("arches", f"names {arch!r}: choose from {', '.join(DEBIAN_ARCH)}")
        packages = names("packages", data.get("packages", []))
        if not packages:
            raise fail("packages", "names no package")
        provides = {
            package: names(f"provides:{package}", [value] if isinstance(value, str) else value)
            for package, value in table("provides").items()
        }
        return cls(
            arches=arches,
            packages=packages,
            packages_by_arch={arch: names(f"packages_by_arch:{arch}", value)
                              for arch, value in table("packages_by_arch").items()},
            groups={group: names(f"groups:{group}", value) for group, value in table("groups").items()},
            provides=provides,
            links={str(key): str(value) for key, value in table("links").items()},
            exclude=names("exclude", data.get("exclude", [])),
            macros={str(key): str(value) for key, value in table("macros").items()},
            profile=str(data.get("profile") or "koji"),
            cert=str(data.get("cert") or ""),
            serverca=str(data.get("serverca") or ""),
            **texts,
        )

    def content(self) -> dict[str, Any]:
        """Only what decides the RPMs; where Koji is and how to log in is left out."""
        return {
            "name": self.name, "version": self.version, "release": self.release, "suite": self.suite,
            "arches": list(self.arches), "packages": sorted(self.packages),
            "packages_by_arch": {arch: sorted(names) for arch, names in self.packages_by_arch.items()},
            "groups": {group: sorted(names) for group, names in self.groups.items()},
            "provides": {package: sorted(names) for package, names in self.provides.items()},
            "links": dict(self.links), "exclude": sorted(self.exclude), "macros": dict(self.macros),
        }


@dataclass(frozen=True)
class Identity:
    """Name, version and release of the Koji build; `suffix` ends every RPM's release."""

    name: str
    version: str
    release: str
    suffix: str

    @property
    def nvr(self) -> str:
        """Koji's name of the build."""
        return f"{self.name}-{self.version}-{self.release}"


def overlay_files(overlay: Path) -> list[tuple[str, Path]]:
    """(path in the build root, file) of every file laid over the Debian file system, sorted."""
    found = []
    for path in sorted(overlay.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            found.append(("/" + path.relative_to(overlay).as_posix(), path))
    return found


def identity(config: Config, overlay: Path) -> Identity:
    """The build that this data asks for: same data, same release; one more name, another."""
    digest = hashlib.sha256()
    digest.update(json.dumps([FORMAT, config.content()], sort_keys=True).encode())
    for name, path in overlay_files(overlay):
        digest.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    suffix = f"{config.release}.{digest.hexdigest()[:8]}"
    return Identity(config.name, config.version, suffix, suffix)


# --- Debian's words into RPM's ----------------------------------------------------------------

@dataclass(frozen=True)
class DebPackage:
    """One installed package, as /var/lib/dpkg/status tells it."""

    name: str
    version: str
    arch: str
    summary: str
    essential: bool
    depends: str
    provides: str
    conffiles: tuple[str, ...]
    multiarch: bool


def parse_status(text: str) -> list[DebPackage]:
    """The installed packages of a dpkg status file."""
    packages = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        fields: dict[str, str] = {}
        key = ""
        for line in paragraph.splitlines():
            if line[:1] in " \t":
                fields[key] += "\n" + line.strip()
            elif ":" in line:
                key, _, value = line.partition(":")
                fields[key] = value.strip()
        if not fields.get("Status", "").endswith(" installed"):
            continue
        depends = ", ".join(filter(None, (fields.get("Pre-Depends"), fields.get("Depends"))))
        conffiles = tuple(line.split()[0] for line in fields.get("Conffiles", "").splitlines()
                          if line and "obsolete" not in line.split())
        packages.append(DebPackage(
            name=fields["Package"], version=fields["Version"], arch=fields["Architecture"],
            summary=fields.get("Description", fields["Package"]).splitlines()[0],
            essential=fields.get("Essential") == "yes", depends=depends,
            provides=fields.get("Provides", ""), conffiles=conffiles,
            multiarch=fields.get("Multi-Arch") == "same",
        ))
    return packages


def rpm_version(version: str) -> tuple[str, str, str]:
    """A Debian version as RPM's (epoch, version, release); the epoch is empty where there is none.

    RPM allows no hyphen in either part (Debian policy 5.6.12 does in the first), so it becomes `_`.
    """
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "", version
    upstream, hyphen, revision = rest.rpartition("-")
    if not hyphen:
        upstream, revision = rest, "0"
    return ("" if epoch == "0" else epoch), re.sub(r"[-:]", "_", upstream), re.sub(r"[-:]", "_", revision)


_RELATION = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9.+-]*)(?::[a-z0-9-]+)?"
                       r"(?:\s*\(\s*(?P<op><<|<=|=|>=|>>|<|>)\s*(?P<version>[^)\s]+)\s*\))?")
_OPERATOR = {"<<": "<", "<": "<=", "<=": "<=", "=": "=", ">=": ">=", ">": ">=", ">>": ">"}


def relation(text: str) -> tuple[str, str]:
    """One Debian relation -> (name, RPM's `op version` or an empty string).

    The revision is left out, because the RPM's release carries the build's suffix; a strict bound
    that only a revision may satisfy becomes an inclusive one, which within one suite always holds.
    Raises ValueError where the text is no relation.
    """
    match = _RELATION.match(text.strip())
    if not match:
        raise ValueError(f"{text!r} is no Debian relation")
    if not match["op"]:
        return match["name"], ""
    epoch, version, _ = rpm_version(match["version"])
    operator = _OPERATOR[match["op"]]
    if operator == ">" or (operator == "<" and "-" in match["version"]):
        operator += "="
    return match["name"], f"{operator} {epoch + ':' if epoch else ''}{version}"


def requires(depends: str, known: set[str]) -> list[str]:
    """Debian's Depends as RPM requirements.

    `known` holds every real and virtual name in the file system. Alternatives that are not there
    are left out; where several are, the requirement is a boolean one.
    """
    found: list[str] = []
    for clause in filter(None, (part.strip() for part in depends.split(","))):
        options = []
        for alternative in clause.split("|"):
            name, bound = relation(alternative)
            if name in known:
                options.append(f"{name} {bound}".strip())
        options = list(OrderedDict.fromkeys(options))
        if options:
            requirement = options[0] if len(options) == 1 else "(" + " or ".join(options) + ")"
            if requirement not in found:
                found.append(requirement)
    return found


def virtual_provides(provides: str) -> list[str]:
    """Debian's Provides as RPM's."""
    found = []
    for clause in filter(None, (part.strip() for part in provides.split(","))):
        name, bound = relation(clause)
        found.append(f"{name} {bound}".strip())
    return found


def el_names(package: str) -> list[str]:
    """Names by which Enterprise Linux spec files are likely to ask for a Debian package.

    libX-dev -> libX-devel and X-devel, with and without an ABI number; libX1 -> libX;
    libfoo-bar-perl -> perl-foo-bar. What these rules miss stands in pillar, `provides`.
    """
    names: list[str] = []
    if package.endswith("-dev"):
        base = package[:-4]
        bases = [base, re.sub(r"[0-9][0-9.]*$", "", base).rstrip("-.")]
        bases += [name[3:] for name in bases if name.startswith("lib") and len(name) > 4]
        names = [f"{name}-devel" for name in bases if name]
    elif package.startswith("lib") and package.endswith("-perl"):
        names = ["perl-" + package[3:-5]]
    else:
        match = re.fullmatch(r"(lib[a-z][a-z0-9+-]*?)-?[0-9][0-9.]*(?:t64)?", package)
        if match:
            names = [match[1]]
    return [name for name in OrderedDict.fromkeys(names) if name != package]


def rule_names(packages: Sequence[str], explicit: Iterable[str]) -> dict[str, list[str]]:
    """el_names for each package, a name going to the package that it fits best.

    What pillar names explicitly, or is a package's own name, no rule gives to another: python3-devel
    is python3-dev's, and not libpython3-dev's too.
    """
    taken = set(explicit) | set(packages)
    best: dict[str, int] = {}
    guesses = {package: [name for name in el_names(package) if name not in taken] for package in packages}
    rank = {(package, name): index for package, names in guesses.items() for index, name in enumerate(names)}
    for (_, name), value in rank.items():
        best[name] = min(value, best.get(name, value))
    return {package: [name for name in names if rank[package, name] == best[name]]
            for package, names in guesses.items()}


def named_provides(names: Iterable[str], version: str, isa: str) -> list[str]:
    """Provides lines for EL names: each with the package's version unless it brings its own.

    `{version}` in a name or in its own bound stands for the package's. A plain name is also given with the
    architecture behind it, as `%{?_isa}` asks for it. Paths take no version. What Debian adds to a
    repacked source's version (+dfsg) is left out.
    """
    version = re.sub(r"[+.~](dfsg|ds|repack).*$", "", version)
    lines: list[str] = []
    for name in names:
        name, _, bound = name.replace("{version}", version).partition(" ")
        if name.startswith("/"):
            lines.append(name)
            continue
        bound = bound or f"= {version}"
        lines.append(f"{name} {bound}")
        if "(" not in name:
            lines.append(f"{name}({isa}) {bound}")
    return lines


def pkgconfig_provides(name: str, text: str) -> str:
    """`pkgconfig(NAME) = VERSION` of a .pc file's text."""
    variables: dict[str, str] = {}
    version = ""
    for line in text.splitlines():
        match = re.match(r"([A-Za-z0-9_.]+)\s*(=|:)\s*(.*)", line)
        if not match:
            continue
        value = re.sub(r"\$\{([^}]+)\}", lambda ref: variables.get(ref[1], ""), match[3]).strip()
        if match[2] == "=":
            variables[match[1]] = value
        elif match[1] == "Version":
            version = value
    label = f"pkgconfig({name})"
    return f"{label} = {version.replace('-', '_')}" if re.fullmatch(r"[\w.+~^-]+", version) else label


def python_provides(entry: str, python: str) -> list[str]:
    """python3dist() provides of a `*.dist-info` or `*.egg-info` name (PEP 503 names)."""
    match = re.fullmatch(r"(?P<name>.+?)-(?P<version>[0-9][^-]*)(?:-py[0-9.]+)?\.(?:dist|egg)-info", entry)
    if not match:
        return []
    name = re.sub(r"[-_.]+", "-", match["name"]).lower()
    return [f"{label}({name}) = {match['version']}" for label in ("python3dist", f"python{python}dist")]


# --- A file system into a plan -----------------------------------------------------------------

@dataclass
class RpmPlan:
    """One RPM: header fields and the files it takes from the file system (paths from /)."""

    name: str
    version: str
    release: str
    summary: str
    epoch: str = ""
    requires: list[str] = field(default_factory=list)
    provides: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    dirs: list[str] = field(default_factory=list)
    config: set[str] = field(default_factory=set)


class Tree:
    """A file system below a directory, seen from inside: symbolic links resolve within it."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self._real: dict[str, str] = {"/": "/"}

    def outside(self, path: str) -> str:
        """The path as this program opens it."""
        return self.root + path

    def real_dir(self, path: str, depth: int = 0) -> str:
        """A directory's own path, its parents' links followed."""
        if path in self._real:
            return self._real[path]
        if depth > 40:
            return path
        parent, name = os.path.split(path)
        parent = self.real_dir(parent, depth + 1)
        here = os.path.join(parent, name)
        if os.path.islink(self.outside(here)):
            here = self.real_dir(os.path.normpath(os.path.join(parent, os.readlink(self.outside(here)))), depth + 1)
        self._real[path] = here
        return here

    def canonical(self, path: str) -> str:
        """A path whose directory is real: /bin/bash -> /usr/bin/bash; a final link stays a link."""
        parent, name = os.path.split(path)
        return os.path.join(self.real_dir(parent), name)

    def target(self, path: str) -> str:
        """Where a link ends, as a canonical path; the path itself where it is none."""
        for _ in range(40):
            if not os.path.islink(self.outside(path)):
                return path
            link = os.readlink(self.outside(path))
            path = self.canonical(os.path.normpath(os.path.join(os.path.dirname(path), link)))
        return path


def diversions(text: str) -> dict[str, tuple[str, str]]:
    """dpkg's diversions: path -> (where others' file goes, the package whose own stays)."""
    lines = text.splitlines()
    return {lines[n]: (lines[n + 1], lines[n + 2]) for n in range(0, len(lines) - 2, 3)}


def claims(tree: Tree, packages: Sequence[DebPackage], debian_arch: str) -> tuple[dict[str, str], set[str]]:
    """(path -> package that owns it, the /bin and /sbin names that merging /usr would hide)."""
    info = Path(tree.outside("/var/lib/dpkg/info"))
    diverted_file = Path(tree.outside("/var/lib/dpkg/diversions"))
    diverted = diversions(diverted_file.read_text()) if diverted_file.exists() else {}
    owner: dict[str, str] = {}
    aliases: set[str] = set()
    for package in packages:
        listing = info / f"{package.name}.list"
        if not listing.exists():
            listing = info / f"{package.name}:{debian_arch}.list"
        for line in listing.read_text().splitlines():
            if line in diverted and diverted[line][1] != package.name:
                line = diverted[line][0]
            path = tree.canonical(line)
            outside = tree.outside(path)
            if not os.path.lexists(outside) or (os.path.isdir(outside) and not os.path.islink(outside)):
                continue
            if os.path.dirname(path) == "/":  # /bin and the like, links to directories since /usr was merged
                continue
            owner.setdefault(path, package.name)
            if path != line and re.match(r"/s?bin/", line):
                aliases.add(line)
    return owner, aliases


def is_content(path: str) -> bool:
    """Whether a path without an owner belongs into the build root."""
    return not (path.endswith((".pyc", "/__pycache__")) or
                any(path == top or path.startswith(top + "/") for top in NOT_CONTENT))


def _generated(command: Sequence[str], paths: Sequence[str]) -> list[str]:
    """Lines that one of RPM's dependency generators prints for these files."""
    done = subprocess.run(command, input="\n".join(paths) + "\n", stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, encoding="utf-8", errors="replace", check=False)
    return sorted(set(filter(None, done.stdout.splitlines())))


def file_provides(tree: Tree, files: Sequence[str], rpm_lib: str = "/usr/lib/rpm") -> list[str]:
    """What RPM's own generators would provide, asked once a package instead of once a file."""
    libraries, modules, found = [], [], []
    for path in files:
        outside = tree.outside(path)
        if re.search(r"\.so(\.[0-9.]+)?$", path) and not os.path.islink(outside):
            libraries.append(outside)
        elif path.endswith(".pm") and "/perl" in path:
            modules.append(outside)
        elif path.endswith(".pc") and "/pkgconfig/" in path:
            with open(outside, encoding="utf-8", errors="replace") as pc_file:
                found.append(pkgconfig_provides(os.path.basename(path)[:-3], pc_file.read()))
        python = re.fullmatch(r"/usr/bin/python(3\.[0-9]+)", path)
        if python:
            found.append(f"python(abi) = {python[1]}")
    if libraries:
        found += _generated([f"{rpm_lib}/elfdeps", "--provides", "--assume-exec"], libraries)
    if modules:
        found += _generated([f"{rpm_lib}/perl.prov"], modules)
    return found


def _python_version(tree: Tree) -> str:
    link = tree.target("/usr/bin/python3")
    match = re.search(r"python(3\.[0-9]+)$", link)
    return match[1] if match else "3"


def plan(root: Path, config: Config, ident: Identity, arch: str, overlay: Path,
         generate: Callable[[Tree, Sequence[str]], list[str]] = file_provides) -> list[RpmPlan]:
    """Share out a file system: one RPM a Debian package, one for directories and files without
    an owner, one for the overlay, one for each group. `overlay` has been copied into `root`."""
    tree = Tree(root)
    isa = ISA[arch]
    packages = parse_status(Path(tree.outside("/var/lib/dpkg/status")).read_text())
    owner, aliases = claims(tree, packages, DEBIAN_ARCH[arch])
    base, settings = f"{config.name}-filesystem", f"{config.name}-config"
    for path, _ in overlay_files(overlay):
        owner[tree.canonical(path)] = settings
    if config.macros:
        owner["/etc/rpm/macros.site"] = settings
    for link in config.links:
        link = tree.canonical(link)
        owner[link] = owner.get(tree.target(link), base)

    files: dict[str, list[str]] = {}
    directories: list[str] = []
    for outside_dir, dirs, names in os.walk(tree.root):
        here = outside_dir[len(tree.root):] or "/"
        links = [name for name in dirs if os.path.islink(os.path.join(outside_dir, name))]
        dirs[:] = [name for name in dirs if name not in links and name != "__pycache__"]
        # /proc and /sys are mounts while RPM works, which it cannot set modes on: whoever makes a root makes them.
        if here not in ("/", "/proc", "/sys") and (is_content(here) or here in NOT_CONTENT):
            directories.append(here)
        if here in NOT_CONTENT:
            dirs[:] = []
            continue
        for name in names + links:
            path = os.path.join(here, name)
            owned = owner.get(path)
            if owned is None:
                if not is_content(path):
                    continue
                if os.path.islink(tree.outside(path)) and here != "/":
                    end = tree.target(path)
                    if not os.path.lexists(tree.outside(end)):
                        continue
                    # Links of the alternatives system go with what they lead to.
                    owned = owner.get(end)
            elif path.endswith(".pyc"):
                continue
            files.setdefault(owned or base, []).append(path)

    known = {package.name for package in packages}
    virtual = {package.name: virtual_provides(package.provides) for package in packages}
    known |= {line.split()[0] for lines in virtual.values() for line in lines}
    python = _python_version(tree)
    rules = rule_names([package.name for package in packages],
                       {name.partition(" ")[0] for names in config.provides.values() for name in names})
    plans = []
    for package in packages:
        epoch, version, release = rpm_version(package.version)
        own = sorted(files.pop(package.name, []))
        provides = named_provides([*rules[package.name], *config.provides.get(package.name, ())], version, isa)
        provides += virtual[package.name] + generate(tree, own)
        provides += [alias for alias in sorted(aliases) if owner.get(tree.canonical(alias)) == package.name]
        provides += [link for link in config.links
                     if tree.canonical(link) != link and owner[tree.canonical(link)] == package.name]
        infos = {part for path in own for part in path.split("/")[:-1] if part.endswith((".dist-info", ".egg-info"))}
        infos |= {os.path.basename(path) for path in own if path.endswith(".egg-info")}
        for entry in sorted(infos):
            provides += python_provides(entry, python)
        conffiles = {tree.canonical(path) for path in package.conffiles}
        plans.append(RpmPlan(
            name=package.name, epoch=epoch, version=version, release=f"{release}.{ident.suffix}",
            summary=package.summary, provides=list(OrderedDict.fromkeys(provides)), files=own,
            requires=[base, *requires(package.depends, known)], config=conffiles & set(own),
        ))
    version, release = ident.version, ident.release
    plans.append(RpmPlan(
        base, version, release, "Directories, and files that no package owns",
        provides=named_provides(config.provides.get("filesystem", ()), ident.version, isa),
        files=sorted(files.pop(base, [])), dirs=sorted(directories)))
    plans.append(RpmPlan(
        settings, version, release, "RPM macros and paths as Enterprise Linux spec files expect them",
        provides=(named_provides(config.provides.get("config", ()), ident.version, isa)
                  + generate(tree, files.get(settings, []))),
        files=sorted(files.pop(settings, [])), requires=[base]))
    essential = sorted(package.name for package in packages if package.essential)
    for group, members in sorted(config.groups.items()):
        missing = sorted(set(members) - known - set(_provided(plans)))
        if missing:
            raise BuildrootError(f"koji:buildroot:groups:{group} in pillar names {', '.join(missing)}, which is not in "
                                 f"the build root for {arch}: add it to koji:buildroot:packages.", EXIT_USAGE)
        plans.append(RpmPlan(f"{config.name}-{group}", version, release, f"What the group {group} installs",
                             requires=[base, settings, *essential, *members]))
    if files:
        raise BuildrootError(f"Files of {', '.join(sorted(files))} found no RPM: this is a mistake in buildroot.py.")
    return plans


def _provided(plans: Iterable[RpmPlan]) -> Iterator[str]:
    for item in plans:
        yield item.name
        for line in item.provides:
            yield line.split()[0]


def escape(path: str) -> str:
    """A path for %files: quoted, RPM's macro and glob characters taken literally (a backslash is no escape there)."""
    return '"' + re.sub(r"([\[*?])", r"[\1]", path).replace("%", "%%") + '"'


def files_section(item: RpmPlan) -> str:
    """What %files reads for one RPM."""
    lines = ["%defattr(-,root,root,-)"]
    lines += [f"%dir {escape(path)}" for path in item.dirs]
    lines += [("%config(noreplace) " if path in item.config else "") + escape(path) for path in item.files]
    return "\n".join(lines) + "\n"


def spec_text(config: Config, ident: Identity, plans: Sequence[RpmPlan], lists: Path) -> str:
    """The one spec: a source package that is never made, and a binary package for each plan.

    `lists` is the directory that holds a file list NAME.files for each.
    """
    lines = [
        f"Name: {ident.name}", f"Version: {ident.version}", f"Release: {ident.release}",
        "Summary: Debian packages as RPMs, to build in", "License: Various", "Group: Unspecified", "",
        "%description", f"Debian {config.suite}, one RPM a package, as a build root.", "", "%install", "",
    ]
    for item in plans:
        lines += [f"%package -n {item.name}", f"Version: {item.version}", f"Release: {item.release}"]
        if item.epoch:
            lines.append(f"Epoch: {item.epoch}")
        lines += [f"Summary: {item.summary.replace('%', '%%')}", "AutoReqProv: no"]
        lines += [f"Requires: {text}" for text in item.requires]
        lines += [f"Provides: {text}" for text in item.provides]
        lines += [f"%description -n {item.name}", f"Debian's {item.name}.", ""]
        if "/usr/sbin/ldconfig" in item.files:
            # As EL's glibc does: libraries that a transaction brings into /usr/lib64 are found at once.
            for trigger in ("transfiletriggerin", "transfiletriggerpostun"):
                lines += [f"%{trigger} -n {item.name} -P 2000000 -- /usr/lib /usr/lib64 /lib /lib64",
                          "/usr/sbin/ldconfig", ""]
        lines += [f"%files -n {item.name} -f {lists}/{item.name}.files", ""]
    return "\n".join(lines)


# --- Making ------------------------------------------------------------------------------------

def apt_sources(suite: str, texts: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The machine's own package sources for a suite: (suite, one-line entry).

    `texts` gives (file name, text) of sources.list and of what lies in sources.list.d.
    """
    found: list[tuple[str, str]] = []

    def add(options: Sequence[str], uri: str, name: str, components: Sequence[str]) -> None:
        if name == suite or name.startswith((suite + "-", suite + "/")):
            text = f"[{' '.join(options)}] " if options else ""
            entry = (name, f"deb {text}{uri} {name} {' '.join(components)}")
            if entry not in found:
                found.append(entry)

    for file_name, text in texts:
        if not file_name.endswith(".sources"):
            for line in text.splitlines():
                match = re.match(r"\s*deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s*(.*)", line)
                if match:
                    options = [option for option in (match[1] or "").split() if not option.startswith("arch=")]
                    add(options, match[2], match[3], match[4].partition("#")[0].split())
            continue
        text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
        for paragraph in re.split(r"\n\s*\n", text.strip()):
            fields = {key.lower(): value for key, value in
                      re.findall(r"^([A-Za-z-]+):\s*((?:.|\n(?=[ \t]))*)", paragraph, re.M)}
            if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").strip() == "no":
                continue
            signed = fields.get("signed-by", "").strip()
            options = [f"signed-by={signed}"] if signed.startswith("/") else []
            if fields.get("trusted", "").strip() == "yes":
                options.append("trusted=yes")
            for uri in fields.get("uris", "").split():
                for name in fields.get("suites", "").split():
                    add(options, uri, name, fields.get("components", "").split())
    return found


def read_apt_sources(suite: str, etc: Path = Path("/etc/apt")) -> list[tuple[str, str]]:
    """apt_sources of this machine."""
    files = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*.list")),
             *sorted((etc / "sources.list.d").glob("*.sources"))]
    return apt_sources(suite, [(path.name, path.read_text()) for path in files if path.exists()])


def run(command: Sequence[str], log: Path, what: str) -> None:
    """Run a tool, its output in `log`; raise BuildrootError with the last lines where it fails."""
    with log.open("ab") as output:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        tail = ([line for line in lines if line.lower().startswith(("e:", "error:"))] or lines)[-6:]
        raise BuildrootError(f"{what} failed ({command[0]}, status {done.returncode}):\n  " + "\n  ".join(tail))


def make_filesystem(config: Config, arch: str, work: Path, say: Callable[[str], None]) -> Path:
    """mmdebstrap's file system for one architecture.

    A mirror in the middle of an update often has one suite broken: the second try is a moment
    later, the next without the security suite, the last with the release alone; the message says so.
    """
    log = work / f"{arch}.log"
    sources = read_apt_sources(config.suite)
    if not any(name == config.suite for name, _ in sources):
        raise BuildrootError(f"/etc/apt names no source for {config.suite} (koji:buildroot:suite in pillar): add one, "
                             "or choose the suite that this host uses.", EXIT_USAGE)
    # The machine's own way out (proxy, checks that its mirror needs), and none of its other settings.
    dump = subprocess.run(["apt-config", "dump"], stdout=subprocess.PIPE, encoding="utf-8", check=True).stdout
    options = [line for line in dump.splitlines()
               if re.match(r"Acquire::(https?|Check-|AllowInsecure|ForceIPv|Retries|Max-)", line)]
    apt_options = work / f"{arch}.apt"
    apt_options.write_text("\n".join([*options, 'Acquire::Languages "none";', 'Acquire::Retries "3";']) + "\n")
    include = [*config.packages, *config.packages_by_arch.get(arch, ())]
    attempts = [sources, sources, [entry for entry in sources if "security" not in entry[0]],
                [entry for entry in sources if entry[0] == config.suite]]
    for number, entries in enumerate(attempts):
        if number >= 2 and entries == attempts[number - 1]:
            continue
        root = work / f"{arch}.{number}"
        mirror = work / f"{arch}.{number}.list"
        mirror.write_text("".join(line + "\n" for _, line in entries))
        command = [
            # A name space of its own: nothing stays mounted when this run is killed.
            "unshare", "--mount", "--pid", "--fork", "--kill-child", "--",
            "mmdebstrap", "--mode=root", "--variant=essential", f"--architectures={DEBIAN_ARCH[arch]}",
            f"--include={','.join(include)}", f"--aptopt={apt_options}", "--dpkgopt=force-unsafe-io",
            *[f"--dpkgopt=path-exclude={pattern}" for pattern in config.exclude],
            "--quiet", config.suite, str(root), str(mirror),
        ]
        try:
            run(command, log, f"Making the {arch} file system of {config.suite}")
        except BuildrootError as error:
            if number + 1 == len(attempts):
                raise
            shutil.rmtree(root, ignore_errors=True)
            say(f"{arch}: {error}\n{arch}: trying again.")
            time.sleep(5 if number == 0 else 0)
            continue
        left_out = sorted({name for name, _ in sources} - {name for name, _ in entries})
        if left_out:
            say(f"{arch}: made without {', '.join(left_out)}, which could not be read; raise koji:buildroot:release "
                "in pillar later to make it again.")
        return root
    raise AssertionError("not reached")


def lay_over(root: Path, config: Config, overlay: Path) -> None:
    """Put the overlay, the site's macros and the links into a file system."""
    tree = Tree(root)
    wanted = {path: source.read_text() for path, source in overlay_files(overlay)}
    if config.macros:
        wanted["/etc/rpm/macros.site"] = "".join(f"%{name} {value}\n" for name, value in sorted(config.macros.items()))
    for path, text in wanted.items():
        target = Path(tree.outside(tree.canonical(path)))
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            target.unlink()
        target.write_text(text)
        target.chmod(0o644)
    for path, destination in config.links.items():
        target = Path(tree.outside(tree.canonical(path)))
        with contextlib.suppress(FileNotFoundError):
            target.unlink()
        target.symlink_to(destination)


def make_rpms(root: Path, config: Config, ident: Identity, arch: str, overlay: Path, work: Path, out: Path) -> int:
    """Turn one file system into RPMs below `out`; gives their number."""
    lay_over(root, config, overlay)
    plans = plan(root, config, ident, arch, overlay)
    top = work / f"{arch}.rpmbuild"
    top.mkdir()
    for item in plans:
        (top / f"{item.name}.files").write_text(files_section(item))
    spec = top / f"{ident.name}.spec"
    spec.write_text(spec_text(config, ident, plans, top))
    out.mkdir(parents=True)
    defines = {
        "_topdir": str(top), "_rpmdir": str(out), "_dbpath": str(top / "db"), "_tmppath": str(top),
        "_rpmfilename": "%%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm",
        # Unpacked once a build and kept on one machine: speed counts, size does not.
        "_binary_payload": "w1.zstdio",
        "_build_id_links": "none", "debug_package": "%{nil}", "__os_install_post": "%{nil}",
        # The file system is the build root already: nothing may clean it.
        "__spec_install_pre": "%{___build_pre}",
        "_unpackaged_files_terminate_build": "0", "_invalid_encoding_terminates_build": "0",
        "_buildhost": "localhost", "_vendor": "debian", "vendor": config.name,
    }
    command = ["rpmbuild", "-bb", "--noclean", "--nodeps", "--quiet", "--target", arch, "--buildroot", str(root)]
    for name, value in defines.items():
        command += ["--define", f"{name} {value}"]
    run([*command, str(spec)], work / f"{arch}.log", f"Making the {arch} RPMs")
    made = len(list(out.glob("*.rpm")))
    if made != len(plans):
        raise BuildrootError(f"rpmbuild made {made} of {len(plans)} RPMs for {arch}.")
    return made


@contextlib.contextmanager
def only_one(lock: Path) -> Iterator[None]:
    """Hold the lock; raise BuildrootError (75) where another run does."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BuildrootError(f"Another run holds {lock}: wait for it to end.", EXIT_RUNNING) from None
        yield


def clear_leftovers(out: Path, keep: str) -> None:
    """Remove what killed runs and earlier data left beside the wanted build."""
    for path in out.iterdir():
        if path.is_dir() and path.name != keep:
            shutil.rmtree(path)


def make(config: Config, overlay: Path, out: Path, say: Callable[[str], None]) -> Path:
    """Make the RPMs of every architecture: `out`/NVR/ARCH/*.rpm, whole or not at all."""
    ident = identity(config, overlay)
    done = out / ident.nvr
    if done.exists():
        say(f"{done} is made already.")
        return done
    clear_leftovers(out, ident.nvr)
    work = Path(tempfile.mkdtemp(prefix=".making-", dir=out))
    work.chmod(0o755)
    try:
        def one(arch: str) -> None:
            begun = time.monotonic()
            root = make_filesystem(config, arch, work, say)
            middle = time.monotonic()
            number = make_rpms(root, config, ident, arch, overlay, work, work / "out" / arch)
            say(f"{arch}: file system {middle - begun:.0f} s, {number} RPMs {time.monotonic() - middle:.0f} s")
            shutil.rmtree(root)

        with ThreadPoolExecutor(max_workers=2) as pool:
            list(pool.map(one, config.arches))
        os.rename(work / "out", done)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return done


# --- Koji --------------------------------------------------------------------------------------

def rpm_label(path: Path) -> str:
    """NAME-VERSION-RELEASE.ARCH of an RPM's file."""
    return path.name[:-len(".rpm")]


def tagged(session: Any, config: Config, ident: Identity) -> bool:
    """Whether the wanted build is the one that the bootstrap tag gives. It is tagged last, so it is whole."""
    if not session.getTag(config.tag):
        return False
    builds = session.listTagged(config.tag, latest=True, package=config.name)
    return bool(builds) and builds[0]["nvr"] == ident.nvr


def wait_for_tag(connect: Callable[[], Any], tag: str, seconds: float, say: Callable[[str], None],
                 clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep) -> Any:
    """A logged-in session, once the hub answers and has the tag; BuildrootError (Koji) after `seconds`."""
    end = clock() + seconds
    said = False
    while True:
        session = None
        try:
            session = connect()
            if session.getTag(tag):
                return session
            reason = f"the hub has no tag {tag!r} yet"
        except Exception as error:
            reason = str(error) or type(error).__name__
            if isinstance(error, BuildrootError):
                raise
        if clock() >= end:
            raise BuildrootError(f"Waited {seconds:.0f} s for Koji: {reason}. Look at the hub, and at the state of "
                                 "role koji.content, which makes the tag.", EXIT_KOJI)
        if not said:
            say(f"Waiting for Koji: {reason}.")
            said = True
        sleep(3)


def bring_in(connect: Callable[[], Any], session: Any, config: Config, ident: Identity, made: Path,
             say: Callable[[str], None], workers: int = 2) -> int:
    """Import the RPMs that the build has not yet, then tag it; gives the number imported.

    Asks Koji what is there, so a run that was killed is continued by the next.
    """
    build = session.getBuild(ident.nvr)
    if not build:
        session.createEmptyBuild(ident.name, ident.version, ident.release, None)
        build = session.getBuild(ident.nvr, strict=True)
    have = {"{name}-{version}-{release}.{arch}".format(**rpm) for rpm in session.listRPMs(buildID=build["id"])}
    missing = [path for path in sorted(made.glob("*/*.rpm")) if rpm_label(path) not in have]
    upload_dir = f"{config.name}/{ident.release}.{os.getpid()}"

    def some(paths: Sequence[Path]) -> None:
        own = connect()
        for path in paths:
            own.uploadWrapper(str(path), upload_dir)
            own.importRPM(upload_dir, path.name)

    # The first one alone: it makes the build an RPM build, which two at once do twice.
    some(missing[:1])
    rest = missing[1:]
    with ThreadPoolExecutor(max_workers=workers) as pool:
        list(pool.map(some, [rest[number::workers] for number in range(workers)]))
    if not tagged(session, config, ident):
        packages = session.listPackages(tagID=config.tag, pkgID=config.name)
        if not packages or packages[0].get("blocked"):
            owner = session.getLoggedInUser()["name"]
            session.packageListAdd(config.tag, config.name, owner=owner)
        session.tagBuildBypass(config.tag, ident.nvr)
    say(f"{ident.nvr}: {len(missing)} of {len(missing) + len(have)} RPMs imported, tagged into {config.tag}.")
    return len(missing)


def koji_session(config: Config, login: bool, timeout: float = 300) -> Any:
    """A session by the client profile; with `login`, by the certificate of the configuration.

    Raises BuildrootError (usage) without the koji library or profile, (authentication) where the hub refuses.
    """
    try:
        import koji
    except ImportError:
        raise BuildrootError("The koji library is not installed for /usr/bin/python3: apply the state koji.client.",
                             EXIT_USAGE) from None
    try:
        options = koji.read_config(config.profile)
    except koji.ConfigurationError as error:
        raise BuildrootError(f"No koji profile {config.profile!r}: {error}. Apply the state koji.client.",
                             EXIT_USAGE) from error
    options.update({"max_retries": 2, "retry_interval": 3, "anon_retry": False, "timeout": timeout})
    session = koji.ClientSession(options["server"], koji.grab_session_options(options))
    if login:
        cert = config.cert or options.get("cert")
        serverca = config.serverca or options.get("serverca")
        try:
            session.ssl_login(cert, None, serverca)
        except koji.AuthError as error:
            raise ConnectionError(f"the hub refused {cert}: {error}") from error
    return session


# --- Command line ------------------------------------------------------------------------------

def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="koji_buildroot.py", description="Make the embedded builder's build root, and "
                                  "bring it into Koji.")
    top.add_argument("--config", type=Path, default=Path("/etc/goose/buildroot.json"), metavar="FILE",
                     help="pillar koji:buildroot, as JSON (default: %(default)s)")
    top.add_argument("--overlay", type=Path, default=Path("/usr/local/share/goose/buildroot"), metavar="DIR",
                     help="files to lay over the Debian file system (default: %(default)s)")
    top.add_argument("--out", type=Path, default=Path("/var/lib/goose/buildroot"), metavar="DIR",
                     help="where the RPMs are made (default: %(default)s)")
    top.add_argument("--json", action="store_true", help="print one object on standard output")
    top.add_argument("--dry-run", action="store_true", help="say what would be done")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("nvr", help="print the build that the data asks for")
    status = commands.add_parser("status", help="exit 0 where that build is tagged, 1 where not")
    status.add_argument("--made", action="store_true", help="also exit 0 where it is made and waits to be imported")
    commands.add_parser("make", help="make the RPMs")
    bring = commands.add_parser("import", help="import the RPMs and tag the build")
    bring.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="wait so long for hub and tag")
    bring.add_argument("--keep", action="store_true", help="keep the RPMs on this host afterwards")
    return top


def load(path: Path) -> Config:
    """Read the configuration; BuildrootError (usage) where it cannot be."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BuildrootError(f"Cannot read {path}: {error}. The state koji.bootstrap writes it.", EXIT_USAGE) from error
    return Config.from_mapping(data)


def main(argv: Optional[Sequence[str]] = None, output: TextIO = sys.stdout) -> int:
    """Run one command; gives the exit status."""
    args = parser().parse_args(argv)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def result(status: int, **values: Any) -> int:
        if args.json:
            print(json.dumps(values, sort_keys=True), file=output)
        return status

    try:
        config = load(args.config)
        ident = identity(config, args.overlay)
        made = args.out / ident.nvr
        # What was imported once is not made again only because the hub is away for a moment.
        imported = args.out / f"{ident.nvr}.imported"
        if args.command == "nvr":
            if not args.json:
                print(ident.nvr, file=output)
            return result(EXIT_DONE, nvr=ident.nvr)
        if args.command == "status":
            there = args.made and made.exists()
            reason = f"{ident.nvr} is made and waits to be imported" if there else ""
            if not there:
                try:
                    there = tagged(koji_session(config, login=False, timeout=15), config, ident)
                    reason = f"{ident.nvr} is {'' if there else 'not '}tagged into {config.tag}"
                except Exception as error:
                    there = args.made and imported.exists()
                    reason = f"Koji does not say: {error}{'; it was imported earlier' if there else ''}"
            say(reason + ".")
            return result(EXIT_DONE if there else EXIT_NOT, nvr=ident.nvr, done=bool(there))
        if args.command == "make":
            if args.dry_run:
                say(f"{made} {'is made already' if made.exists() else 'would be made'}.")
                return result(EXIT_DONE, nvr=ident.nvr, made=made.exists())
            with only_one(args.out / "lock"):
                make(config, args.overlay, args.out, say)
            return result(EXIT_DONE, nvr=ident.nvr, made=True)

        def connect() -> Any:
            return koji_session(config, login=True)

        if args.dry_run:
            there = tagged(koji_session(config, login=False), config, ident)
            say(f"{ident.nvr} {'is there already' if there else 'would be imported'}.")
            return result(EXIT_DONE, nvr=ident.nvr, imported=0)
        session = wait_for_tag(connect, config.tag, args.wait, say)
        number = 0
        with only_one(args.out / "lock"):
            if tagged(session, config, ident):
                say(f"{ident.nvr} is tagged into {config.tag} already.")
            elif not made.exists():
                raise BuildrootError(f"{made} is not there: run the command make first.", EXIT_USAGE)
            else:
                number = bring_in(connect, session, config, ident, made, say)
            imported.touch()
            if made.exists() and not args.keep:
                shutil.rmtree(made)
        return result(EXIT_DONE, nvr=ident.nvr, imported=number)
    except BuildrootError as error:
        print(error, file=sys.stderr)
        return error.status
    except OSError as error:
        print(f"{error}.", file=sys.stderr)
        return EXIT_TOOL
    except Exception as error:
        print(f"Koji: {error}", file=sys.stderr)
        return EXIT_KOJI
