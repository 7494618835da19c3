"""Koji's content as data: the model, and the reading of pillar ``koji:content`` into it.

`parse` refuses bad data in sentences. ``goose.content_live`` reads the same model of a hub,
``goose.content_plan`` compares the two and acts, ``goose.export`` writes the data of a hub: what it
writes plans to nothing on that hub. What the data may hold: ``pillar/koji_content.sls``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Callable, TypeVar

# Tag extra that asks kojira of 1.35 and newer to keep a build tag's repo new (Koji, repo_generation.rst).
REPO_AUTO = "repo.auto"

# RegexNameInternal, RegexUserName and MaxNameLengthInternal as the hub has them by default.
_NAME = re.compile(r"[A-Za-z0-9/_.+-]{1,256}")
_USER = re.compile(r"[A-Za-z0-9/_.@-]{1,256}")
# What stands in a group or a package list is the name of an RPM.
_RPM = re.compile(r"[A-Za-z0-9_.+~^-]{1,256}")

ARCHES = frozenset(
    [
        "x86_64",
        "x86_64_v2",
        "x86_64_v3",
        "x86_64_v4",
        "i386",
        "i486",
        "i586",
        "i686",
        "aarch64",
        "armhfp",
        "armv7hl",
        "armv6hl",
        "ppc64le",
        "ppc64",
        "ppc",
        "s390x",
        "s390",
        "riscv64",
        "loongarch64",
        "mips64el",
        "mipsel",
        "noarch",
    ]
)

# What schema.sql puts into every hub: never reported as "not in the data".
SCHEMA_PERMISSIONS = frozenset(
    [
        "admin",
        "appliance",
        "dist-repo",
        "draft-promoter",
        "host",
        "image",
        "image-import",
        "livecd",
        "maven-import",
        "repo",
        "sign",
        "tag",
        "target",
        "win-admin",
        "win-import",
    ]
)
SCHEMA_CHANNELS = frozenset(
    ["default", "createrepo", "maven", "livecd", "appliance", "vm", "image", "livemedia"]
)

# Kinds whose surplus on the hub pillar koji:content:purge may remove.
PURGE = (
    "users",
    "grants",
    "channels",
    "hosts",
    "host_channels",
    "external_repos",
    "tags",
    "extra",
    "inheritance",
    "groups",
    "group_packages",
    "tag_repos",
    "targets",
)


class BadData(Exception):
    """The data is refused; ``sentences`` says why, one sentence for each fault."""

    def __init__(self, sentences: Iterable[str]) -> None:
        self.sentences = tuple(sentences)
        super().__init__("\n".join(self.sentences))


# Values ------------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text: put it in quotes")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} is no whole number")
    return value


def _capacity(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise ValueError(f"{value!r} is no capacity: give a number such as 2.0")
    return float(value)


def _words(value: Any) -> tuple[str, ...]:
    words = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"{value!r} is no list of names")
    return tuple(dict.fromkeys(words))


def _names(value: Any) -> frozenset[str]:
    return frozenset(_words(value))


def _one_of(*choices: str) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"{value!r} is not known here{nearest(value, choices)}")
        return str(value)

    return convert


def _matching(pattern: re.Pattern[str], what: str) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is no {what}: put it in quotes")
        if not pattern.fullmatch(value):
            raise ValueError(f"{value!r} is no {what}: the hub takes {pattern.pattern}")
        return value

    return convert


_name = _matching(_NAME, "name")
_user = _matching(_USER, "user name")
_rpm = _matching(_RPM, "package name")


def _url(value: Any) -> str:
    if not isinstance(value, str) or not re.match(r"(https?|ftp|file)://\S+$", value):
        raise ValueError(f"{value!r} is no URL: give one such as https://repo.example/el9/$arch/")
    return value if value.endswith("/") else value + "/"


def nearest(word: Any, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown word: the nearest known one, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(str(word), known, 1)
    if close:
        return f": did you mean {close[0]!r}?"
    return f": choose from {', '.join(known)}" if known else ""


# The model ---------------------------------------------------------------------------------------


def _option(convert: Callable[[Any], Any], default: Any = MISSING) -> Any:
    """A field with the converter of its value in the data; no default: required."""
    if isinstance(default, dict):
        return field(default_factory=dict, metadata={"convert": convert})
    return field(default=default, metadata={"convert": convert})


# None in these classes means: not said in the data, so whatever the hub has is left alone.


@dataclass(frozen=True)
class Permission:
    """What a user may be granted."""

    description: str | None = _option(_text, None)


@dataclass(frozen=True)
class User:
    """A user who is no builder; ``krb_principals`` are all of its principals."""

    status: str = _option(_one_of("normal", "blocked"), "normal")
    permissions: frozenset[str] = _option(_names, frozenset())
    krb_principals: frozenset[str] | None = _option(_names, None)


@dataclass(frozen=True)
class Channel:
    """A channel, by which tasks find hosts."""

    enabled: bool = _option(_flag, True)
    description: str | None = _option(_text, None)
    comment: str | None = _option(_text, None)


@dataclass(frozen=True)
class Host:
    """A builder; ``capacity`` is the sum of the weights of its tasks."""

    arches: tuple[str, ...] = _option(_words)
    capacity: float = _option(_capacity, 2.0)
    channels: frozenset[str] = _option(_names, frozenset({"default"}))
    enabled: bool = _option(_flag, True)
    description: str | None = _option(_text, None)
    comment: str | None = _option(_text, None)


@dataclass(frozen=True)
class Hold:
    """What koji_builder.py notes in a builder's comment while it has taken it out of work.

    Koji itself keeps the note: whoever looks at the builder reads it, the next run of the program goes
    on by it, and koji.content leaves the builder's enabled state, channels and comment alone.
    """

    retired: bool
    """Taken out for good."""
    since: str
    """When, in UTC."""
    channels: tuple[str, ...]
    """Those that the builder had, and gets back."""
    reason: str = ""
    comment: str = ""
    """What the comment was before."""

    @classmethod
    def read(cls, comment: str | None) -> Hold | None:
        """The note in a builder's comment, where there is one."""
        found = _HOLD.fullmatch(comment or "")
        if found is None:
            return None
        kind, since, channels, reason, before = found.groups()
        return cls(kind == "retired", since, tuple(channels.split()), reason or "", before)

    def __str__(self) -> str:
        kind = "retired" if self.retired else "drained"
        reason = f"; {self.reason}" if self.reason else ""
        note = f"[{kind} by koji_builder.py {self.since}; channels: {' '.join(self.channels)}{reason}]"
        return f"{note} {self.comment}".rstrip()


_HOLD = re.compile(
    r"\[(drained|retired) by koji_builder\.py ([^;\]]*); channels: ?([^;\]]*?)(?:; ([^\]]*))?\] ?(.*)", re.DOTALL
)


@dataclass(frozen=True)
class ExternalRepo:
    """A package repository that is not Koji's own."""

    url: str = _option(_url)


@dataclass(frozen=True)
class Link:
    """Inheritance from one parent."""

    priority: int = _option(_whole)
    maxdepth: int | None = _option(_whole, None)
    intransitive: bool = _option(_flag, False)
    noconfig: bool = _option(_flag, False)
    pkg_filter: str = _option(_text, "")


@dataclass(frozen=True)
class GroupPackage:
    """A package of a group."""

    type: str = _option(_one_of("mandatory", "default", "optional", "conditional"), "mandatory")
    basearchonly: bool = _option(_flag, False)
    requires: str = _option(_text, "")
    blocked: bool = _option(_flag, False)


@dataclass(frozen=True)
class GroupRequirement:
    """Another group that a group needs."""

    type: str = _option(_one_of("mandatory", "default", "optional", "conditional"), "mandatory")
    is_metapkg: bool = _option(_flag, False)
    blocked: bool = _option(_flag, False)


@dataclass(frozen=True)
class Group:
    """A group of packages in a tag, as comps has it."""

    display_name: str | None = _option(_text, None)
    description: str = _option(_text, "")
    is_default: bool = _option(_flag, False)
    uservisible: bool = _option(_flag, True)
    exported: bool = _option(_flag, True)
    langonly: str = _option(_text, "")
    biarchonly: bool = _option(_flag, False)
    blocked: bool = _option(_flag, False)
    # Only its packages are this tag's; the group itself comes from a parent.
    inherited: bool = _option(_flag, False)
    packages: Mapping[str, GroupPackage] = _option(None, {})  # type: ignore[arg-type]
    requires: Mapping[str, GroupRequirement] = _option(None, {})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Package:
    """A package of a tag's list."""

    owner: str | None = _option(_user, None)
    extra_arches: tuple[str, ...] = _option(_words, ())
    blocked: bool = _option(_flag, False)


@dataclass(frozen=True)
class PackageList:
    """A tag's packages. ``at-least``: others may be added by hand; ``exact``: others are removed."""

    mode: str = "at-least"
    list: Mapping[str, Package] = field(default_factory=dict)


@dataclass(frozen=True)
class TagRepo:
    """An external repository of a tag."""

    priority: int = _option(_whole)
    merge_mode: str = _option(_one_of("koji", "simple", "bare"), "koji")
    arches: tuple[str, ...] = _option(_words, ())


@dataclass(frozen=True)
class Tag:
    """A tag with all that belongs to it."""

    arches: tuple[str, ...] = _option(_words, ())
    perm: str | None = _option(_name, None)
    locked: bool = _option(_flag, False)
    extra: Mapping[str, Any] = _option(dict, {})
    blocked_extra: frozenset[str] = _option(_names, frozenset())
    inheritance: Mapping[str, Link] = _option(None, {})  # type: ignore[arg-type]
    groups: Mapping[str, Group] = _option(None, {})  # type: ignore[arg-type]
    packages: PackageList = _option(None, PackageList())  # type: ignore[arg-type]
    external_repos: Mapping[str, TagRepo] = _option(None, {})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Target:
    """Where a build is built, and which tag it then gets."""

    build_tag: str = _option(_name)
    dest_tag: str = _option(_name)


@dataclass(frozen=True)
class Content:
    """All that the data says, or all that a hub holds."""

    permissions: Mapping[str, Permission] = field(default_factory=dict)
    users: Mapping[str, User] = field(default_factory=dict)
    channels: Mapping[str, Channel] = field(default_factory=dict)
    hosts: Mapping[str, Host] = field(default_factory=dict)
    external_repos: Mapping[str, ExternalRepo] = field(default_factory=dict)
    tags: Mapping[str, Tag] = field(default_factory=dict)
    targets: Mapping[str, Target] = field(default_factory=dict)
    purge: frozenset[str] = frozenset()
    # Build tags of a 1.35 hub get the extra repo.auto, unless their own extra says otherwise.
    repo_auto: bool = True


KINDS = ("permissions", "users", "channels", "hosts", "external_repos", "tags", "targets")

Made = TypeVar("Made")


# From data to the model --------------------------------------------------------------------------


class _Parser:
    """Builds the model and collects what is wrong with the data."""

    def __init__(self, arches: frozenset[str]) -> None:
        self.arches = arches
        self.faults: list[str] = []

    def fault(self, where: str, text: str) -> None:
        self.faults.append(f"{where}: {text}." if text[-1] not in ".?" else f"{where}: {text}")

    def mapping(self, value: Any, where: str, known: Iterable[str]) -> dict[str, Any]:
        """A mapping with known keys only."""
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self.fault(where, f"{value!r} stands where keys and values are expected")
            return {}
        known = tuple(known)
        for key in value:
            if key not in known:
                self.fault(where, f"{key!r} is no key here{nearest(key, known)}")
        return {key: value[key] for key in value if key in known}

    def named(self, value: Any, where: str, check: Callable[[Any], str] = _name) -> dict[str, Any]:
        """Named things: a mapping name -> options, or a list of names and {name: options}."""
        found: dict[str, Any] = {}
        if value is None:
            return found
        if isinstance(value, Mapping):
            entries: list[tuple[Any, Any]] = list(value.items())
        elif isinstance(value, (list, tuple)):
            entries = []
            for entry in value:
                if isinstance(entry, Mapping):
                    entries.extend(entry.items())
                else:
                    entries.append((entry, None))
        else:
            self.fault(where, f"{value!r} is no list of names")
            return found
        for name, options in entries:
            try:
                name = check(name)
            except ValueError as error:
                self.fault(where, str(error))
                continue
            if name in found:
                self.fault(where, f"{name!r} stands there twice")
            found[name] = options
        return found

    def make(self, cls: type[Made], value: Any, where: str, **given: Any) -> Made | None:
        """An object of ``cls`` from the options ``value``; ``given`` are fields that are ready."""
        options: tuple[Field[Any], ...] = fields(cls)  # type: ignore[arg-type]
        before = len(self.faults)
        value = self.mapping(value, where, (option.name for option in options))
        made = dict(given)
        for option in options:
            if option.name in given:
                continue
            if option.name not in value or value[option.name] is None:
                if option.default is MISSING and option.default_factory is MISSING:
                    self.fault(where, f"{option.name!r} is missing")
                continue
            try:
                made[option.name] = option.metadata["convert"](value[option.name])
            except (ValueError, TypeError) as error:
                self.fault(f"{where}:{option.name}", str(error))
        for key in ("arches", "extra_arches"):
            for arch in made.get(key, ()):
                if arch not in self.arches:
                    self.fault(
                        f"{where}:{key}",
                        f"{arch!r} is no architecture known here{nearest(arch, self.arches)}",
                    )
        return cls(**made) if len(self.faults) == before else None

    def all(
        self, cls: type[Made], value: Any, where: str, check: Callable[[Any], str] = _name
    ) -> dict[str, Made]:
        """Every named thing of one plain kind."""
        found = {}
        for name, options in self.named(value, where, check).items():
            if cls is Permission and isinstance(options, str):
                options = {"description": options}
            made = self.make(cls, options, f"{where}:{name}")
            if made is not None:
                found[name] = made
        return found

    def links(self, value: Any, where: str) -> dict[str, Link]:
        """A tag's parents. In a list the place gives the priority (0, 10, 20 …), unless it is said."""
        found = {}
        ordered = isinstance(value, (list, tuple))
        entries = self.named(value, where)
        for place, (parent, options) in enumerate(entries.items()):
            if ordered or len(entries) == 1:
                options = {"priority": 10 * place, **(options or {})}
            link = self.make(Link, options, f"{where}:{parent}")
            if link is not None:
                found[parent] = link
        self.priorities(found, where)
        return found

    def priorities(self, entries: Mapping[str, Any], where: str) -> None:
        seen: dict[int, str] = {}
        for name, entry in entries.items():
            if entry.priority in seen:
                self.fault(
                    where, f"{seen[entry.priority]} and {name} have the same priority {entry.priority}"
                )
            seen[entry.priority] = name

    def group(self, value: Any, where: str) -> Group | None:
        if isinstance(value, (list, tuple)):
            value = {"packages": value}
        value = value or {}
        given: dict[str, Any] = {}
        if isinstance(value, Mapping):
            given["packages"] = self.all(GroupPackage, value.get("packages"), f"{where}:packages", _rpm)
            given["requires"] = self.all(GroupRequirement, value.get("requires"), f"{where}:requires")
        return self.make(Group, value, where, **given)

    def packages(self, value: Any, where: str) -> PackageList:
        if isinstance(value, (list, tuple)):
            value = {"list": value}
        value = self.mapping(value, where, ("mode", "owner", "list"))
        mode, owner = value.get("mode", "at-least"), value.get("owner")
        try:
            mode = _one_of("at-least", "exact")(mode)
            owner = None if owner is None else _user(owner)
        except ValueError as error:
            self.fault(where, str(error))
        found = {}
        for name, options in self.named(value.get("list"), f"{where}:list", _rpm).items():
            if owner and (options is None or isinstance(options, Mapping)):
                options = {"owner": owner, **(options or {})}
            package = self.make(Package, options, f"{where}:list:{name}")
            if package is not None:
                found[name] = package
        return PackageList(mode, found)

    def tag(self, value: Any, where: str) -> Tag | None:
        value = value or {}
        given: dict[str, Any] = {}
        if isinstance(value, Mapping):
            given["inheritance"] = self.links(value.get("inheritance"), f"{where}:inheritance")
            given["packages"] = self.packages(value.get("packages"), f"{where}:packages")
            repos = {}
            entries = value.get("external_repos")
            ordered = isinstance(entries, (list, tuple))
            for place, (name, options) in enumerate(self.named(entries, f"{where}:external_repos").items()):
                if ordered:
                    options = {"priority": 10 * (place + 1), **(options or {})}
                repo = self.make(TagRepo, options, f"{where}:external_repos:{name}")
                if repo is not None:
                    repos[name] = repo
            self.priorities(repos, f"{where}:external_repos")
            given["external_repos"] = repos
            given["groups"] = {}
            for name, options in self.named(value.get("groups"), f"{where}:groups").items():
                group = self.group(options, f"{where}:groups:{name}")
                if group is not None:
                    given["groups"][name] = group
        tag = self.make(Tag, value, where, **given)
        if tag:
            for key in sorted(set(tag.extra) & tag.blocked_extra):
                self.fault(f"{where}:blocked_extra", f"{key!r} is set in extra as well")
        return tag


def parse(data: Any, root: str = "koji:content") -> Content:
    """The model of the data ``data``, which stands in pillar under ``root``.

    Raises:
        BadData: with a sentence for every fault that the data alone shows.
    """
    keys = (*KINDS, "purge", "repo_auto", "known_arches")
    known = data.get("known_arches") if isinstance(data, Mapping) else None
    parser = _Parser(ARCHES | frozenset(known or ()))
    data = parser.mapping(data, root, keys)
    tags = {}
    for name, options in parser.named(data.get("tags"), f"{root}:tags").items():
        tag = parser.tag(options, f"{root}:tags:{name}")
        if tag is not None:
            tags[name] = tag
    purge = parser.mapping(data.get("purge"), f"{root}:purge", PURGE)
    for key, value in purge.items():
        if not isinstance(value, bool):
            parser.fault(f"{root}:purge:{key}", f"{value!r} is neither true nor false")
    external_repos = parser.named(data.get("external_repos"), f"{root}:external_repos")
    content = Content(
        permissions=parser.all(Permission, data.get("permissions"), f"{root}:permissions"),
        users=parser.all(User, data.get("users"), f"{root}:users", _user),
        channels=parser.all(Channel, data.get("channels"), f"{root}:channels"),
        hosts=parser.all(Host, data.get("hosts"), f"{root}:hosts"),
        external_repos=parser.all(
            ExternalRepo,
            {
                name: {"url": options} if isinstance(options, str) else options
                for name, options in external_repos.items()
            },
            f"{root}:external_repos",
        ),
        tags=tags,
        targets=parser.all(Target, data.get("targets"), f"{root}:targets"),
        purge=frozenset(key for key, value in purge.items() if value is True),
        repo_auto=data.get("repo_auto", True) is not False,
    )
    for name in sorted(set(content.users) & set(content.hosts)):
        parser.fault(f"{root}:users:{name}", "a host has this name, and each host is a user of its own")
    cycle = _cycle(content.tags)
    if cycle:
        parser.fault(f"{root}:tags", f"inheritance runs in a circle: {' -> '.join(cycle)}")
    if parser.faults:
        raise BadData(parser.faults)
    return content


def _cycle(tags: Mapping[str, Tag]) -> list[str] | None:
    """A circle in the inheritance, child first and last, or None."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str] | None:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done or name not in tags:
            return None
        for parent in tags[name].inheritance:
            found = walk(parent, [*path, name])
            if found:
                return found
        done.add(name)
        return None

    for name in tags:
        found = walk(name, [])
        if found:
            return found
    return None


# The model in words and in JSON -------------------------------------------------------------------


def plain(value: Any) -> Any:
    """A value of the model as JSON has it."""
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, tuple):
        return " ".join(value)
    if isinstance(value, PackageList):
        return {"mode": value.mode, "list": {name: describe(package) for name, package in value.list.items()}}
    if isinstance(value, Mapping):
        return {
            key: describe(entry) if hasattr(entry, "__dataclass_fields__") else plain(entry)
            for key, entry in value.items()
        }
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    return value


def describe(thing: Any, skip: Iterable[str] = ()) -> dict[str, Any]:
    """The fields of ``thing`` that are not at their defaults."""
    found = {}
    for option in fields(thing):
        value = getattr(thing, option.name)
        default = option.default_factory() if option.default_factory is not MISSING else option.default
        if option.name not in skip and value is not None and value != default:
            found[option.name] = plain(value)
    return found


def same(old: Any, new: Any) -> bool:
    """Whether two values say the same; the order of architectures says nothing."""
    if isinstance(old, tuple) and isinstance(new, tuple):
        return set(old) == set(new)
    return bool(old == new)


def differences(old: Any, new: Any, skip: Iterable[str] = ()) -> dict[str, tuple[Any, Any]]:
    """Fields in which the hub's ``old`` is not the data's ``new``; None in ``new`` leaves them alone."""
    found = {}
    for option in fields(new):
        before, after = getattr(old, option.name), getattr(new, option.name)
        if option.name in skip or same(before, after):
            continue
        if after is None and option.name not in ("maxdepth", "perm", "display_name"):
            continue
        found[option.name] = (before, after)
    return found


def counts(data: Content) -> str:
    """'1 user, 3 hosts …' of the data; 'nothing' of empty data."""
    found = []
    for kind in KINDS:
        number = len(getattr(data, kind))
        word = kind.replace("_", " ")
        if number:
            found.append(f"{number} {word[:-1] if number == 1 else word}")
    return ", ".join(found) or "nothing"
