"""What a compose is made of: ``/etc/goose/compose.json``, which the state `pungi` writes from pillar.

Everything is looked at before anything is made: an unknown key is refused, because a misspelt ``exclude``
publishes what nobody wanted on the medium.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONFIG = Path("/etc/goose/compose.json")
ENGINES = ("auto", "embedded", "pungi")
BOOT_KINDS = ("lab", "lorax", "tree", "none")
# Bytes that a medium holds, as their makers have it.
MEDIA = {"cd": 737_280_000, "dvd": 4_700_372_992, "dvd-dl": 8_543_666_176, "bluray": 25_025_314_816}
STAGES = ("testing", "Alpha", "Beta", "Final")

# productmd's own rules: composeinfo.VARIANT_ID is letters and digits, common.RELEASE_SHORT_RE words.
_VARIANT = re.compile(r"[A-Za-z0-9]+")
_SHORT = re.compile(r"[a-zA-Z][a-zA-Z0-9]*(-[a-zA-Z0-9]+)*")
_VERSION = re.compile(r"[0-9]+(\.[0-9]+)*")
_RELEASE = re.compile(r"[A-Za-z0-9]+(\.[A-Za-z0-9]+)*")
_ARCH = re.compile(r"[a-z0-9_]+")
_TARGET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class ConfigError(Exception):
    """A configuration that cannot be used: a sentence."""


@dataclass(frozen=True)
class Repository:
    """Where packages come from: paths or URLs, with {arch}, {version} and {short} in them."""

    binary: str
    source: str = ""
    debug: str = ""


@dataclass(frozen=True)
class Variant:
    """A part of the product, a repository of its own."""

    id: str
    name: str = ""
    groups: tuple[str, ...] = ()
    """Comps groups: their mandatory and default packages."""
    environments: tuple[str, ...] = ()
    """Comps environments: their groups."""
    optional: bool = False
    """Whether the groups' optional packages come in, too."""
    packages: tuple[str, ...] = ()
    """Names, with * and ? in them, or with .ARCH behind."""
    exclude: tuple[str, ...] = ()
    everything: bool = False
    """All packages of the repositories."""
    requires: tuple[str, ...] = ()
    """Variants that are there whenever this one is: what they hold is not taken again."""
    multilib: bool = True
    """Whether a package that the repository has for a second architecture comes with it."""
    recommends: bool = False
    """Whether what packages recommend comes in, where it is there."""
    arches: tuple[str, ...] = ()
    """Empty: all of the compose."""


@dataclass(frozen=True)
class Iso:
    """A medium: a DVD of these variants."""

    variants: tuple[str, ...]
    source: bool = True
    """Whether their source packages become a medium, too."""


@dataclass(frozen=True)
class Medium:
    """How large a medium may be."""

    size: int = 0
    """Bytes; 0: any."""
    split: bool = False
    """Whether more than that becomes several discs; otherwise it is refused."""


@dataclass(frozen=True)
class Kernel:
    """The lab's kernel: of a package that apt has, or by paths."""

    package: str = ""
    path: str = ""
    modules: str = ""


@dataclass(frozen=True)
class Boot:
    """Where boot media come from."""

    kind: str = "none"
    tree: str = ""
    """kind tree: an install tree, with {arch}."""
    command: tuple[str, ...] = ()
    """kind lorax: the command, with {name}, {version}, {repo}, {label}, {arch} and {out} in it."""
    kernel: Kernel = Kernel()
    """kind lab."""


@dataclass(frozen=True)
class Target:
    """Where publish_compose.py hands composes to."""

    to: str
    """A directory, or what rsync calls one: USER@HOST:PATH, HOST::MODULE/PATH, rsync://…"""
    options: tuple[str, ...] = ()
    """More options of rsync, such as --bwlimit=10M."""
    stages: tuple[str, ...] = STAGES


@dataclass(frozen=True)
class Config:
    """All of the file."""

    name: str
    short: str
    output: Path
    repositories: tuple[Repository, ...]
    variants: Mapping[str, Variant]
    arches: tuple[str, ...] = ("x86_64",)
    parents: tuple[str, ...] = ()
    """Paths or URLs of repositories whose packages count as there, and are not taken."""
    cache: Path = Path("/var/cache/goose-compose")
    url: str = ""
    """Where the output is on the web."""
    ca: str = ""
    """CA file for repositories by URL; empty: the system's."""
    comps: str = ""
    """Path or URL; empty: the repositories' own."""
    sigkeys: tuple[str, ...] = ()
    """Ids of the keys that packages must be signed by; empty: not looked at."""
    isos: tuple[Iso, ...] = ()
    medium: Medium = Medium()
    boot: Boot = Boot()
    extra_files: tuple[str, ...] = ()
    """Files put to the top of trees and media: the key, a licence."""
    sign: tuple[str, ...] = ()
    """A command that makes {signed} of the CHECKSUM {file}, clear-signed; empty: unsigned."""
    keep: int = 0
    """Composes of the stage testing that are kept beside those that links lead to; 0: all."""
    engine: str = "auto"
    targets: Mapping[str, Target] = field(default_factory=dict)
    text: str = field(default="", repr=False)

    def variant_ids(self, arch: str) -> list[str]:
        """The variants of an architecture, in the order in which they are gathered."""
        return [one.id for one in self.variants.values() if not one.arches or arch in one.arches]

    def required(self, name: str) -> list[str]:
        """The variants that are there whenever this one is: those that it requires, and what these require."""
        found: list[str] = []
        todo = list(self.variants[name].requires)
        while todo:
            other = todo.pop(0)
            if other not in found:
                found.append(other)
                todo += self.variants[other].requires
        return found


@dataclass(frozen=True)
class Release:
    """What is composed: GoOSe's words for it, VERSION STAGE RELEASE."""

    version: str
    stage: str
    release: str
    label: str = ""
    """productmd's label; empty: one that follows from stage and release, none for testing."""

    def check(self) -> None:
        """Raise `ConfigError` where it is none."""
        if not _VERSION.fullmatch(self.version):
            raise ConfigError(
                f"The version '{self.version}' is none: give numbers with dots, as in 1 or 6.0."
            )
        if self.stage not in STAGES:
            raise ConfigError(f"The stage '{self.stage}' is none: choose from {', '.join(STAGES)}.")
        if not _RELEASE.fullmatch(self.release):
            raise ConfigError(
                f"The release '{self.release}' is none: give letters, digits and dots, as in RC4 or Final."
            )
        if self.label and self.stage == "testing":
            raise ConfigError(
                f"The label '{self.label}' belongs to no stage testing: leave it out, or choose a stage."
            )
        # productmd.composeinfo.LABEL_NAMES, those that a milestone of this project may have.
        if self.label and not re.fullmatch(
            r"(Alpha|Beta|Snapshot|RC|Update|SecurityFix)-[0-9]+\.[0-9]+", self.label
        ):
            raise ConfigError(
                f"The label '{self.label}' is none: give one as productmd knows it, as in Beta-1.4 or RC-1.0."
            )

    @property
    def full_label(self) -> str:
        """productmd's label: Beta RC4 is Beta-1.4, Final RC2 is RC-1.2, Final Final is RC-1.0."""
        if self.label or self.stage == "testing":
            return self.label
        number = re.search(r"[0-9]+$", self.release)
        name = "RC" if self.stage == "Final" else self.stage
        return f"{name}-1.{int(number.group()) if number else 0}"

    @property
    def final(self) -> bool:
        """Whether it is what people shall install."""
        return self.stage == "Final" and self.release == "Final"

    @property
    def place(self) -> str:
        """Where it stands below the output: GoOSe's layout of 6.0/Beta-RC4, 6.0/Final, testing/6.0-3."""
        if self.stage == "testing":
            return f"testing/{self.version}-{self.release}"
        return f"{self.version}/{self.stage}" if self.final else f"{self.version}/{self.stage}-{self.release}"

    @property
    def words(self) -> str:
        """Version and stage as file names have them: 6.0-Beta-RC4, 6.0."""
        return self.version if self.final else f"{self.version}-{self.stage}-{self.release}"


def _refuse(where: str, said: str) -> ConfigError:
    return ConfigError(f"{where} {said}")


def _words(value: Any, where: str, what: str = "strings") -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) and one for one in value):
        raise _refuse(where, f"is {json.dumps(value)}: give a list of {what}.")
    return tuple(value)


def _of(kind: type[Any], data: Any, where: str, **given: Any) -> dict[str, Any]:
    """The fields of a dataclass in ``data``, each of the kind that its default has."""
    if not isinstance(data, Mapping):
        raise _refuse(where, f"is {json.dumps(data)}: give a map.")
    fields = {
        one.name: one for one in dataclasses.fields(kind) if one.name not in given and one.name != "text"
    }
    for key in data:
        if key not in fields:
            raise _refuse(
                f"{where}.{key}" if where else str(key), f"is no setting: choose from {', '.join(fields)}."
            )
    found = dict(given)
    for name, about in fields.items():
        at = f"{where}.{name}" if where else name
        if name not in data or data[name] is None:
            if about.default is dataclasses.MISSING and about.default_factory is dataclasses.MISSING:
                raise _refuse(at, "is missing.")
            continue
        value = data[name]
        wanted = str(about.type)
        if wanted == "str" and not isinstance(value, str):
            raise _refuse(at, f"is {json.dumps(value)}: give a string.")
        if wanted == "bool" and not isinstance(value, bool):
            raise _refuse(at, f"is {json.dumps(value)}: give true or false.")
        if wanted == "int" and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise _refuse(at, f"is {json.dumps(value)}: give a whole number.")
        if wanted == "Path":
            if not isinstance(value, str) or not value.startswith("/"):
                raise _refuse(at, f"is {json.dumps(value)}: give an absolute path.")
            value = Path(value)
        if wanted == "tuple[str, ...]":
            value = _words(value, at)
        found[name] = value
    return found


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _refuse(where, f"is {json.dumps(value)}: give a map.")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise _refuse(where, f"is {json.dumps(value)}: give a list.")
    return value


def _variants(data: Mapping[str, Any], arches: Sequence[str]) -> dict[str, Variant]:
    found: dict[str, Variant] = {}
    for name, about in data.items():
        where = f"variants.{name}"
        if not _VARIANT.fullmatch(name):
            raise _refuse(where, "is no name of a variant: use letters and digits alone.")
        variant = Variant(**_of(Variant, about or {}, where, id=name))
        if not (variant.groups or variant.environments or variant.packages or variant.everything):
            raise _refuse(where, "holds nothing: give groups, environments, packages, or everything: true.")
        if odd := [arch for arch in variant.arches if arch not in arches]:
            raise _refuse(
                f"{where}.arches", f"names {', '.join(odd)}, which the compose's arches do not have."
            )
        found[name] = variant
    if not found:
        raise _refuse("variants", "is empty: name at least one.")
    for name, variant in found.items():
        for other in variant.requires:
            if other not in found:
                raise _refuse(
                    f"variants.{name}.requires",
                    f"names the variant '{other}', which there is not: choose from {', '.join(found)}.",
                )
    return _ordered(found)


def _ordered(variants: Mapping[str, Variant]) -> dict[str, Variant]:
    """Those that are required before those that require them."""
    done: dict[str, Variant] = {}

    def visit(name: str, way: tuple[str, ...]) -> None:
        if name in way:
            raise _refuse(f"variants.{name}.requires", f"goes in a circle: {' -> '.join((*way, name))}.")
        if name not in done:
            for other in variants[name].requires:
                visit(other, (*way, name))
            done[name] = variants[name]

    for name in variants:
        visit(name, ())
    return done


def _boot(data: Any) -> Boot:
    boot = _of(Boot, data, "boot")
    if "kernel" in boot:
        boot["kernel"] = Kernel(**_of(Kernel, boot["kernel"], "boot.kernel"))
    found = Boot(**boot)
    if found.kind not in BOOT_KINDS:
        raise _refuse("boot.kind", f"is '{found.kind}': choose from {', '.join(BOOT_KINDS)}.")
    if found.kind == "tree" and not found.tree:
        raise _refuse(
            "boot.tree", "is missing: boot.kind is tree, so name the install tree that has the boot media."
        )
    if found.kind == "lorax" and not any("{out}" in word for word in found.command):
        raise _refuse("boot.command", "lacks {out}, the directory that lorax shall write.")
    if found.kind == "lab" and not found.kernel.package and not (found.kernel.path and found.kernel.modules):
        raise _refuse("boot.kernel", "is missing: give package, or path and modules.")
    return found


def parse(data: Any, text: str = "") -> Config:
    """The configuration in ``data``.

    Raises:
        ConfigError: naming the key that is wrong.
    """
    found = _of(Config, data, "")
    for key, pattern, what in (
        ("name", r"[^\x00-\x1f/]+", "the product's name, as in GoOSe"),
        ("short", _SHORT.pattern, "letters, digits and hyphens, as in goose"),
    ):
        if not re.fullmatch(pattern, found[key]):
            raise _refuse(key, f"is '{found[key]}': give {what}.")
    arches = found.get("arches", ("x86_64",))
    if not arches or not all(_ARCH.fullmatch(arch) for arch in arches):
        raise _refuse(
            "arches", f"is {json.dumps(list(arches))}: name at least one architecture, as in x86_64."
        )
    found["repositories"] = tuple(
        Repository(**_of(Repository, one, f"repositories[{number}]"))
        for number, one in enumerate(_list(found["repositories"], "repositories"))
    )
    if not found["repositories"]:
        raise _refuse("repositories", "is empty: name the repository that mash makes.")
    for number, one in enumerate(found["repositories"]):
        for field_ in dataclasses.fields(Repository):
            place = getattr(one, field_.name)
            if place and not place.startswith(("/", "https://", "http://", "file:///")):
                raise _refuse(
                    f"repositories[{number}].{field_.name}", f"is '{place}': give an absolute path or a URL."
                )
    for number, place in enumerate(found.get("parents", ())):
        if not place.startswith(("/", "https://", "http://", "file:///")):
            raise _refuse(f"parents[{number}]", f"is '{place}': give an absolute path or a URL.")
    found["variants"] = _variants(_mapping(found["variants"], "variants"), arches)
    found["isos"] = tuple(
        Iso(**_of(Iso, one, f"isos[{number}]"))
        for number, one in enumerate(_list(found.get("isos", []), "isos"))
    )
    for number, iso in enumerate(found["isos"]):
        if not iso.variants:
            raise _refuse(f"isos[{number}].variants", "is empty: name at least one variant.")
        for name in iso.variants:
            if name not in found["variants"]:
                raise _refuse(
                    f"isos[{number}].variants",
                    f"names the variant '{name}', which there is not:"
                    f" choose from {', '.join(found['variants'])}.",
                )
    if len({iso.variants[0] for iso in found["isos"]}) < len(found["isos"]):
        raise _refuse("isos", "has two media with the same first variant, which both would be called by.")
    medium = dict(_mapping(found.get("medium", {}), "medium"))
    if isinstance(medium.get("size"), str):
        if medium["size"] not in MEDIA:
            raise _refuse("medium.size", f"is '{medium['size']}': give bytes, or one of {', '.join(MEDIA)}.")
        medium["size"] = MEDIA[medium["size"]]
    found["medium"] = Medium(**_of(Medium, medium, "medium"))
    found["boot"] = _boot(found.get("boot", {}))
    if found.get("engine", "auto") not in ENGINES:
        raise _refuse("engine", f"is '{found['engine']}': choose from {', '.join(ENGINES)}.")
    if found.get("sign") and not {"{file}", "{signed}"} <= set(
        re.findall(r"\{\w+\}", " ".join(found["sign"]))
    ):
        raise _refuse(
            "sign", "must have {file}, the CHECKSUM, and {signed}, the clear-signed one, among its words."
        )
    for key in found.get("sigkeys", ()):
        if not re.fullmatch(r"[0-9a-fA-F]{8,40}", key):
            raise _refuse("sigkeys", f"names '{key}': give ids of keys, of 8 hexadecimal digits or more.")
    found["sigkeys"] = tuple(key.lower() for key in found.get("sigkeys", ()))
    found["targets"] = {
        name: Target(**_of(Target, about, f"targets.{name}"))
        for name, about in _mapping(found.get("targets", {}), "targets").items()
    }
    for name, target in found["targets"].items():
        if not _TARGET.fullmatch(name):
            raise _refuse(f"targets.{name}", "is no name: use letters, digits, dots and hyphens.")
        if target.to.startswith("-") or not (target.to.startswith(("/", "rsync://")) or ":" in target.to):
            raise _refuse(
                f"targets.{name}.to", f"is '{target.to}': give a path, USER@HOST:PATH or HOST::MODULE/PATH."
            )
        if odd := [stage for stage in target.stages if stage not in STAGES]:
            raise _refuse(
                f"targets.{name}.stages", f"names {', '.join(odd)}: choose from {', '.join(STAGES)}."
            )
    return Config(**found, text=text)


def read(path: Path) -> Config:
    """The configuration in a file.

    Raises:
        ConfigError: where it cannot be read, or used.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}): apply the state pungi, or name a file by --config."
        ) from error
    try:
        return parse(json.loads(text), text)
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON: {error}.") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
