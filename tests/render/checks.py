"""What rendered states must hold to. Each check yields sentences, one for each fault.

The package contract (contract.yaml) says what Enterprise Linux packages bring. It is held
against the states in the order in which Salt would run them on a fresh host: what a state
needs must be there when its turn comes.
"""

from __future__ import annotations

import ast
import configparser
import inspect
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any, Callable

import salt.state
import yaml

from salt_tree import Chunk, File

# States that look at a path, or take it away, and make nothing there.
_MAKES_NOTHING = {
    "file.absent",
    "file.exists",
    "file.missing",
    "file.not_cached",
    "file.tidied",
}
# States whose name may begin with a slash and is still no path of their making.
_NO_PATHS = {"cmd", "cron", "module", "mount", "selinux", "service", "test", "koji_wait"}
_DIRECTORY_STATES = {"file.directory", "file.recurse", "git.latest", "git.cloned", "archive.extracted"}
# States of Salt whose `user`, `group` or `runas` is an account of the host. In others, as in
# koji_content, a user is somebody else.
_HOST_ACCOUNTS = {
    "file",
    "x509",
    "goose_pki",
    "koji_file",
    "cmd",
    "cron",
    "git",
    "archive",
    "ssh_auth",
    "ssh_known_hosts",
}


def where(chunk: Chunk) -> str:
    """Return how messages name a state: its id, its function, its SLS."""
    return f"{chunk['__id__']} ({chunk['state']}.{chunk['fun']} in {chunk.get('__sls__', '?')})"


# Functions and arguments


_KEYWORDS: dict[str, set[str]] = {
    # Functions that swallow any keyword; these are the ones that have an effect.
    "file.managed": set(),
    "file.directory": {"mode"},
    "file.symlink": set(),
    "file.recurse": set(),
    "file.blockreplace": set(),
    "file.append": set(),
    "file.absent": set(),
    "cmd.run": {"runas", "env", "stateful", "success_retcodes", "success_stdout", "success_stderr"},
    "pkg.installed": {
        "cache_valid_time",
        "disablerepo",
        "enablerepo",
        "hold",
        "install_recommends",
        "only_upgrade",
        "resolve_capabilities",
        "setopt",
    },
    "service.running": {"full_restart", "no_block", "reload", "timeout", "unmask", "unmask_runtime"},
    "service.enabled": {"unmask", "unmask_runtime"},
    "user.present": set(),
    "group.present": set(),
}
# Arguments of every state.
_COMMON = set(salt.state.STATE_INTERNAL_KEYWORDS) | {"name", "names", "name_order", "__umask__", "reload"}


def functions(chunks: Iterable[Chunk], find: Callable[[str], Callable[..., Any] | None]) -> Iterator[str]:
    """Every state function exists, and gets the arguments that it takes and those that it must have."""
    for chunk in chunks:
        name = f"{chunk['state']}.{chunk['fun']}"
        function = find(name)
        if function is None:
            yield f"{where(chunk)}: there is no state function {name}."
            continue
        signature = inspect.signature(function)
        named = {key for key, value in signature.parameters.items() if value.kind is not value.VAR_KEYWORD}
        takes_any = len(named) < len(signature.parameters)
        given = set(chunk) - {key for key in chunk if key.startswith("__")}
        if not takes_any or name in _KEYWORDS:
            reads = (
                named
                | _KEYWORDS.get(name, set())
                | (_COMMON - {"reload"} if chunk["state"] != "service" else _COMMON)
            )
            for key in sorted(given - reads):
                yield f"{where(chunk)}: {name} has no argument {key!r}."
        for key, value in signature.parameters.items():
            required = value.default is value.empty and value.kind is value.POSITIONAL_OR_KEYWORD
            if required and key not in chunk:
                yield f"{where(chunk)}: {name} needs the argument {key!r}."


# Sources


def salt_urls(data: object) -> Iterator[str]:
    """Yield the salt:// addresses in a state's arguments."""
    if isinstance(data, str):
        if data.startswith("salt://"):
            yield data
    elif isinstance(data, Mapping):
        for value in data.values():
            yield from salt_urls(value)
    elif isinstance(data, (list, tuple)):
        for value in data:
            yield from salt_urls(value)


def sources(chunks: Iterable[Chunk], find: Callable[[str], Path | None]) -> Iterator[str]:
    """Every salt:// address is a file or a directory of the tree."""
    for chunk in chunks:
        for url in salt_urls(chunk):
            if find(url) is None:
                yield f"{where(chunk)}: {url} is missing."


def named_files(root: Path, services: Iterable[Path], said: str) -> set[str]:
    """Return the files that programs and settings name in their text, one by one or by their directory.

    A directory that holds states is used by these, and `files` is the name of many.
    """
    used = set()
    for path in (path for service in services for path in service.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_file() and name in said:
            used.add(name)
        elif path.is_dir() and path.name != "files" and not any(path.rglob("*.sls")):
            named = rf"{re.escape(name)}/?[\"'\s]|[\"']{re.escape(path.name)}[\"']"
            used |= {str(file.relative_to(root)) for file in path.rglob("*") if re.search(named, said)}
    return used


def orphans(root: Path, services: Iterable[Path], used: set[str]) -> Iterator[str]:
    """No file of a service directory is without use; `used` holds paths below the root."""
    for service in services:
        for path in sorted(path for path in service.rglob("*") if path.is_file()):
            name = str(path.relative_to(root))
            if name not in used and path.suffix != ".rst" and "__pycache__" not in path.parts:
                yield f"{name} is used by no render, include, import or source."


# Modes and secrets


def modes(chunks: Iterable[Chunk]) -> Iterator[str]:
    """A mode is a quoted string with a leading zero: a number would be read as another one."""
    for chunk in chunks:
        for key in ("mode", "dir_mode", "file_mode"):
            if key not in chunk:
                continue
            mode = chunk[key]
            if mode != "keep" and not (isinstance(mode, str) and re.fullmatch(r"[0-7]{4}", mode)):
                yield f"{where(chunk)}: {key} is {mode!r}; write four octal digits in quotes."


# These states make their file 0600 (or 0400) by themselves and show nothing of it.
_TIGHT_BY_DEFAULT = {"x509.private_key_managed", "goose_pki.pem", "koji_file.secret"}


def _tight(chunk: Chunk, hidden: bool = True) -> Iterator[str]:
    """Yield what a state that writes a secret's file leaves open."""
    name = f"{chunk['state']}.{chunk['fun']}"
    mode = chunk.get("mode")
    if mode is None:
        if name not in _TIGHT_BY_DEFAULT:
            yield "has no mode, and so keeps the one of the package or of the umask"
    elif not isinstance(mode, str) or not re.fullmatch(r"0[0-6][04]0", mode):
        yield f"has mode {mode!r}, which is not a quoted mode of '0640' or less"
    if hidden and chunk["state"] == "file" and chunk.get("show_changes") is not False:
        yield "lacks show_changes: false, and so prints its text as a difference"


def secret_files(chunks: Iterable[Chunk], patterns: Iterable[str], public: Iterable[str]) -> Iterator[str]:
    """A file that holds a secret by its name has a mode of its own, and its changes are not shown."""
    patterns, public = list(patterns), list(public)
    for chunk in chunks:
        name = f"{chunk['state']}.{chunk['fun']}"
        path = chunk["name"]
        if not path.startswith("/") or chunk["state"] == "cmd" or name in _MAKES_NOTHING | _DIRECTORY_STATES:
            continue
        secret = any(fnmatch(path, pattern) for pattern in patterns)
        if not secret or any(fnmatch(path, pattern) for pattern in public) or chunk["fun"] == "symlink":
            continue
        for fault in _tight(chunk):
            yield f"{where(chunk)}: {path} holds a secret and {fault}."


def canaries(data: object) -> set[str]:
    """Return the stand-ins for secrets, `canary-…`, in a pillar."""
    if isinstance(data, str):
        return {data} if data.startswith("canary-") else set()
    if isinstance(data, Mapping):
        data = list(data.values())
    if isinstance(data, (list, tuple)):
        return set().union(*map(canaries, data))
    return set()


def leaks(chunks: Iterable[Chunk], files: Iterable[File], secrets: set[str]) -> Iterator[str]:
    """A secret of the pillar reaches a closed file, and no name, command, environment or open file."""
    for chunk in chunks:
        for key in ("name", "env", "unless", "onlyif", "creates", "check_cmd", "stdin", "args"):
            if key == "name" or chunk["state"] in ("cmd", "module", "file"):
                for secret in secrets:
                    if secret in json.dumps(chunk.get(key), default=str):
                        yield f"{where(chunk)}: {key} holds the secret {secret}, which logs and process lists show."
    for file in files:
        for secret in sorted(secrets):
            if secret in file.text:
                for fault in _tight(file.chunk):
                    yield f"{where(file.chunk)}: {file.path} holds the secret {secret} and {fault}."
                if "/systemd/" in file.path:
                    yield f"{where(file.chunk)}: {file.path} holds the secret {secret}, and systemd shows units to all."


# Texts


def texts(files: Iterable[File]) -> Iterator[str]:
    """A file that states write can be read by what reads it."""
    for file in files:
        for fault in text_faults(file.path, file.text):
            yield f"{where(file.chunk)}: {file.path}: {fault}"


def text_faults(path: str, text: str) -> Iterator[str]:
    """Yield what is wrong with a text, by the reader that its path has."""
    first = text.split("\n", 1)[0]
    for number, line in enumerate(text.splitlines(), 1):
        # Programs and specs have braces of their own.
        if (
            re.search(r"\{\{ |\{%-? ", line)
            and not first.startswith("#!")
            and not path.endswith((".spec", ".j2", ".jinja"))
        ):
            yield f"line {number} still holds Jinja: {line.strip()}"
        if re.search(r"^[\w-]+\s*[=:]\s*(None|Undefined)\s*$", line):
            yield f"line {number} holds an unset value: {line.strip()}"
    for pattern, reader in _READERS:
        if pattern.search(path):
            yield from reader(path, text)
            break
    else:
        if first.startswith("#!") and "python" in first:
            yield from _python(path, text)
        elif re.match(r"#!\s*/bin/(ba|da)?sh\b", first):
            yield from _shell(path, text)


def _python(path: str, text: str) -> Iterator[str]:
    try:
        ast.parse(text, feature_version=(3, 9))
    except SyntaxError as error:
        yield f"line {error.lineno} is no Python 3.9: {error.msg}"


def _shell(path: str, text: str) -> Iterator[str]:
    shell = "bash" if "bash" in text.split("\n", 1)[0] and shutil.which("bash") else "sh"
    done = subprocess.run([shell, "-n"], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        yield f"the shell refuses it: {done.stderr.strip()}"


def _ini(path: str, text: str) -> Iterator[str]:
    try:
        configparser.RawConfigParser(strict=True).read_string(text)
    except configparser.Error as error:
        yield "it is no ini file: " + " ".join(str(error).split())


def _yaml(path: str, text: str) -> Iterator[str]:
    try:
        yaml.safe_load(text)
    except yaml.YAMLError as error:
        yield "it is no YAML: " + " ".join(str(error).split())


def _json(path: str, text: str) -> Iterator[str]:
    try:
        json.loads(text)
    except ValueError as error:
        yield f"it is no JSON: {error}"


def _sudoers(path: str, text: str) -> Iterator[str]:
    if (visudo := shutil.which("visudo", path="/usr/sbin:/usr/bin:/sbin")) is None:
        return
    with tempfile.NamedTemporaryFile("w", suffix=".sudoers") as stream:
        stream.write(text)
        stream.flush()
        done = subprocess.run([visudo, "-cf", stream.name], capture_output=True, text=True, check=False)
    if done.returncode:
        yield f"visudo refuses it: {done.stdout.strip()} {done.stderr.strip()}"


def _apache(path: str, text: str) -> Iterator[str]:
    opened: list[tuple[str, int]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if found := re.match(r"\s*</(\w+)>\s*$", line):
            if not opened or opened[-1][0].lower() != found.group(1).lower():
                yield f"line {number} closes {found.group(1)}, which is not open there"
                return
            opened.pop()
        elif found := re.match(r"\s*<(\w+)", line):
            if not line.rstrip().endswith(">"):
                yield f"line {number} opens {found.group(1)} and lacks its >"
            opened.append((found.group(1), number))
    for name, number in opened:
        yield f"line {number} opens {name}, which is never closed"


def _braces(path: str, text: str) -> Iterator[str]:
    plain = "\n".join(line.split("#", 1)[0] for line in text.splitlines())
    if plain.count("{") != plain.count("}"):
        yield "its braces do not match"


def _deb822(path: str, text: str) -> Iterator[str]:
    for stanza in re.split(r"\n\s*\n", text.strip()):
        fields = {
            line.split(":", 1)[0]
            for line in stanza.splitlines()
            if ":" in line and not line.startswith((" ", "#"))
        }
        if missing := {"Types", "URIs", "Suites"} - fields:
            yield f"a stanza lacks {', '.join(sorted(missing))}"


_UNIT_SECTIONS = {
    "Unit",
    "Install",
    "Service",
    "Socket",
    "Timer",
    "Mount",
    "Automount",
    "Path",
    "Slice",
    "Target",
}


def parse_unit(text: str) -> tuple[dict[str, list[tuple[str, str]]], list[str]]:
    """Return the settings of a unit or drop-in by section, in order, and what is wrong with its lines."""
    sections: dict[str, list[tuple[str, str]]] = {}
    faults = []
    section = None
    continued = False
    for number, line in enumerate(text.splitlines(), 1):
        if continued or not line.strip() or line.lstrip().startswith(("#", ";")):
            continued = continued and line.endswith("\\")
            continue
        continued = line.endswith("\\")
        if found := re.fullmatch(r"\[([\w-]+)\]\s*", line):
            section = found.group(1)
            sections.setdefault(section, [])
        elif section is None:
            faults.append(f"line {number} stands before any section")
        elif "=" not in line:
            faults.append(f"line {number} is no setting: {line.strip()}")
        else:
            key, _, value = line.partition("=")
            sections[section].append((key.strip(), value.strip()))
    return sections, faults


def _unit(path: str, text: str) -> Iterator[str]:
    sections, faults = parse_unit(text)
    yield from faults
    for name in sections:
        if name not in _UNIT_SECTIONS and not name.startswith("X-"):
            yield f"no unit has a section {name}"
    if ".d/" in path:
        return
    wants = {
        ".service": ("Service", "ExecStart"),
        ".timer": ("Timer", "On"),
        ".socket": ("Socket", "Listen"),
        ".mount": ("Mount", "What"),
    }.get(PurePosixPath(path).suffix)
    if wants and not any(key.startswith(wants[1]) for key, _ in sections.get(wants[0], [])):
        yield f"it lacks {wants[1]} in [{wants[0]}]"


def _systemd_conf(path: str, text: str) -> Iterator[str]:
    yield from parse_unit(text)[1]


def _pg_hba(path: str, text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        if words[0] not in ("local", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"):
            yield f"line {number} begins with {words[0]}, which is no kind of connection"
        elif len(words) < (4 if words[0] == "local" else 5):
            yield f"line {number} has too few fields: {line.strip()}"


def _pg_ident(path: str, text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        if len(line.split("#", 1)[0].split()) not in (0, 3):
            yield f"line {number} has not three fields: {line.strip()}"


def _exports(path: str, text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        plain = line.split("#", 1)[0].strip()
        if plain and not re.fullmatch(r"/\S*(\s+[^\s()]+\([\w,=-]+\))+", plain):
            yield f"line {number} exports no directory to hosts with options: {plain}"


def _settings(path: str, text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        plain = line.split("#", 1)[0].strip()
        if plain and not re.fullmatch(r"[\w.]+\s*=?\s*('([^']|'')*'|[\w.:/@%+-]+)", plain):
            yield f"line {number} is no setting of PostgreSQL: {line.strip()}"


_READERS: list[tuple[re.Pattern[str], Callable[[str, str], Iterator[str]]]] = [
    (re.compile(r"^/etc/sudoers(\.d/|$)"), _sudoers),
    (
        re.compile(r"/systemd/(system|user)/.*\.(service|socket|timer|mount|automount|path|target|conf)$"),
        _unit,
    ),
    (re.compile(r"^/etc/systemd/.*\.(conf|network|netdev|link)$"), _systemd_conf),
    (re.compile(r"^/etc/(apache2|httpd)/.*\.conf$"), _apache),
    (re.compile(r"^/etc/logrotate\.d/"), _braces),
    (re.compile(r"^/etc/salt/(master|minion)(\.d/.*\.conf)?$"), _yaml),
    (re.compile(r"\.sources$"), _deb822),
    (re.compile(r"/pg_hba\.conf$"), _pg_hba),
    (re.compile(r"/pg_ident\.conf$"), _pg_ident),
    (re.compile(r"^/etc/exports(\.d/.*)?$"), _exports),
    (re.compile(r"/(postgresql|postgresql\.auto|conf\.d/[^/]*)\.conf$"), _settings),
    (
        re.compile(
            r"\.(ini|repo)$|^/etc/koji(-[a-z]+|[a-z]*)?(\.conf(\.d/.*)?|/.*\.conf)$|^/etc/kojid/.*\.conf$"
        ),
        _ini,
    ),
    (re.compile(r"\.ya?ml$"), _yaml),
    (re.compile(r"\.json$"), _json),
    (re.compile(r"\.py$"), _python),
    (re.compile(r"\.sh$"), _shell),
]


# The package contract


@dataclass(frozen=True)
class Package:
    """What a package brings to a host."""

    units: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()
    dirs: frozenset[str] = frozenset()
    executables: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    requires: frozenset[str] = frozenset()

    @classmethod
    def read(cls, data: Mapping[str, Any], platform: str) -> Package:
        """Build it from its entry in the contract, with what only this platform has."""
        parts = [data, data.get(platform) or {}]
        return cls(
            **{name: frozenset(item for part in parts for item in part.get(name) or ()) for name in _BROUGHT}
        )


_BROUGHT = ("units", "files", "dirs", "executables", "users", "groups", "requires")


@dataclass(frozen=True)
class Contract:
    """What the packages of one platform bring, and what every host of it has."""

    platform: str
    base: Package
    packages: Mapping[str, Package]
    elsewhere: Mapping[str, Package] = field(default_factory=dict)
    """What only other platforms have."""

    @classmethod
    def read(cls, data: Mapping[str, Any], platform: str) -> Contract:
        """Build the contract of a platform from contract.yaml."""
        packages: dict[str, Package] = {}
        elsewhere: dict[str, Package] = {}
        for name, entry in data["packages"].items():
            entry = entry or {}
            repo = entry.get("repo", "")
            there = not isinstance(repo, Mapping) or repo.get(platform)
            (packages if there else elsewhere)[name] = Package.read(entry, platform)
        return cls(platform, Package.read(data["base"], platform), packages, elsewhere)

    def offering(self, names: Iterable[str]) -> Contract:
        """Return it with packages that a site's own repository has: they bring what they bring elsewhere."""
        own = {name: self.elsewhere[name] for name in names if name in self.elsewhere}
        return replace(self, packages={**self.packages, **own})

    def closure(self, names: Iterable[str]) -> set[str]:
        """Return the packages with all that they require, by name."""
        found: set[str] = set()
        todo = [name for name in names if name in self.packages]
        while todo:
            name = todo.pop()
            if name not in found:
                found.add(name)
                todo.extend(
                    required for required in self.packages[name].requires if required in self.packages
                )
        return found


@dataclass
class _Known:
    """What a host has at one moment."""

    units: set[str] = field(default_factory=set)
    paths: set[str] = field(default_factory=set)
    dirs: set[str] = field(default_factory=set)
    users: set[str] = field(default_factory=set)
    groups: set[str] = field(default_factory=set)

    def bring(self, package: Package) -> None:
        self.units |= package.units
        self.paths |= package.files | package.executables
        self.users |= package.users
        self.groups |= package.groups
        for path in package.dirs:
            self.make_directory(path)
        for path in package.files | package.executables:
            self.make_directory(str(PurePosixPath(path).parent))

    def make_directory(self, path: str) -> None:
        self.dirs.update({path, *map(str, PurePosixPath(path).parents)})

    def has_unit(self, name: str) -> bool:
        unit = (
            name
            if re.search(r"\.(service|socket|timer|mount|target|path|slice)$", name)
            else f"{name}.service"
        )
        return unit in self.units or re.sub(r"@[^.]*\.", "@.", unit) in self.units

    def take(self, chunk: Chunk) -> None:
        """Add what a state makes."""
        name, function = chunk["name"], f"{chunk['state']}.{chunk['fun']}"
        if function == "user.present":
            self.users.add(name)
            if not chunk.get("gid") and chunk.get("usergroup") is not False:
                self.groups.add(name)
        elif function == "group.present":
            self.groups.add(name)
        elif function == "service.running" and name.endswith(".mount"):
            # systemd makes the directory that it mounts on.
            path = name[: -len(".mount")].replace("-", "/")
            self.make_directory(
                "/" + re.sub(r"\\x([0-9a-f]{2})", lambda found: chr(int(found.group(1), 16)), path)
            )
        elif (
            function == "mount.mounted" or function in _DIRECTORY_STATES or function == "koji_volume.provided"
        ):
            self.make_directory(str(chunk.get("target", name)))
        elif _makes_path(chunk):
            self.paths.add(name)
            if chunk.get("makedirs"):
                self.make_directory(str(PurePosixPath(name).parent))
            if found := re.fullmatch(r"/(?:etc|usr/lib|run)/systemd/system/([^/]+)", name):
                self.units.add(found.group(1))


def _makes_path(chunk: Chunk) -> bool:
    function = f"{chunk['state']}.{chunk['fun']}"
    return (
        chunk["name"].startswith("/") and chunk["state"] not in _NO_PATHS and function not in _MAKES_NOTHING
    )


def packages_of(chunk: Chunk) -> list[str]:
    """Return the packages that a state installs."""
    if f"{chunk['state']}.{chunk['fun']}" not in ("pkg.installed", "pkg.latest"):
        return []
    names: list[str] = []
    for entry in chunk.get("pkgs") or [chunk["name"]]:
        names += list(entry) if isinstance(entry, Mapping) else [str(entry)]
    return names


def contract_faults(
    chunks: Iterable[Chunk],
    files: Iterable[File],
    contract: Contract,
    offered: Iterable[str] = (),
    given: Iterable[str] = (),
    before: Iterable[str] = (),
) -> Iterator[str]:
    """Hold a host's states, in the order of their run, against what its packages bring.

    `offered` are packages that the site's own repositories have, `given` directories that others
    make, `before` packages that were there before.
    """
    chunks, offered = list(chunks), set(offered)
    contract = contract.offering(offered)
    now, finally_ = _Known(), _Known()
    for known in (now, finally_):
        known.bring(contract.base)
        for name in contract.closure(before):
            known.bring(contract.packages[name])
        for path in given:
            known.make_directory(path)
    for chunk in chunks:
        for name in contract.closure(packages_of(chunk)):
            finally_.bring(contract.packages[name])
        finally_.take(chunk)

    def lacks(has: Callable[[_Known], bool]) -> str:
        """Say how something is missing, or nothing where it is there in time."""
        if has(now):
            return ""
        if has(finally_):
            return "comes only from a later state: add a require"
        return "no package of this host brings and no state makes"

    for chunk in chunks:
        place = f"{contract.platform}: {where(chunk)}"
        for name in packages_of(chunk):
            if name not in contract.packages and name not in offered:
                yield f"{place}: installs {name}, which {contract.platform} has not, as far as contract.yaml knows."
        for name in contract.closure(packages_of(chunk)):
            now.bring(contract.packages[name])
        for kind, name in _accounts(chunk):
            names = f"{kind}s"
            if how := lacks(lambda known, names=names, name=name: name in getattr(known, names)):  # type: ignore[misc]
                yield f"{place}: the {kind} {name} {how}."
        for unit in _units_used(chunk):
            if how := lacks(lambda known, unit=unit: known.has_unit(unit)):  # type: ignore[misc]
                yield f"{place}: the unit {unit} {how}."
        for program in _programs(chunk):
            if how := lacks(lambda known, program=program: program in known.paths):  # type: ignore[misc]
                yield f"{place}: the program {program} {how}."
        if _makes_path(chunk) and not chunk.get("makedirs"):
            parent = str(PurePosixPath(str(chunk["name"])).parent)
            if how := lacks(lambda known, parent=parent: parent in known.dirs):  # type: ignore[misc]
                yield f"{place}: {chunk['name']} lies in {parent}, which {how}."
        now.take(chunk)
    for file in files:
        yield from _unit_faults(file, now, contract.platform)


# What a service of ours listens on, by the name of its unit.
_SERVES = {
    "apache2": {80, 443},
    "goose-exporter": {9799},
    "httpd": {80, 443},
    "nfs-server": {2049},
    "postgresql": {5432},
    "postgresql@15-main": {5432},
    "salt-master": {4505, 4506},
    "sigul_bridge": {44333, 44334},
    "ssh": {22},
    "sshd": {22},
}


def undeclared(chunks: Iterable[Chunk], ports: set[int]) -> Iterator[str]:
    """What a host's services listen on is in `ports`, those that it declares, and these are served."""
    # Every host has an ssh server, which only some of the states name.
    served = {22}
    for chunk in chunks:
        if f"{chunk['state']}.{chunk['fun']}" == "service.running":
            own = _SERVES.get(str(chunk["name"]), set())
            served |= own
            if missing := sorted(own - ports):
                yield f"{where(chunk)}: {chunk['name']} listens on {missing}, which no role declares in common/ports.yaml."
    if unserved := sorted(ports - served):
        yield f"its roles declare {unserved} in common/ports.yaml, and nothing that they bring serves that."


def _accounts(chunk: Chunk) -> Iterator[tuple[str, str]]:
    """Yield the users and groups of the host that a state needs: ("user", name)."""
    if chunk["state"] in _HOST_ACCOUNTS or chunk["state"].startswith("postgres"):
        for key, kind in (("user", "user"), ("group", "group"), ("runas", "user")):
            if (name := chunk.get(key)) and isinstance(name, str) and not name.isdigit():
                yield kind, name
    if chunk["state"] == "user":
        for group in [chunk.get("gid"), *(chunk.get("groups") or [])]:
            if isinstance(group, str) and not group.isdigit():
                yield "group", group
    if chunk["state"] == "group":
        for key in ("members", "addusers"):
            for name in chunk.get(key) or []:
                yield "user", name


def _units_used(chunk: Chunk) -> Iterator[str]:
    """Yield the units that a state starts, enables or adds settings to."""
    name = str(chunk["name"])
    if f"{chunk['state']}.{chunk['fun']}" in ("service.running", "service.enabled", "koji_service.current"):
        yield name
    elif chunk["state"] == "cmd":
        for words in re.findall(
            r"systemctl\s+(?:--\S+\s+)*(?:enable|start|restart|reload)\s+([^;&|]+)", name
        ):
            yield from (word for word in words.split() if not word.startswith(("-", "'", '"', "$")))
    elif found := re.match(r"/(?:etc|usr/lib)/systemd/system/([^/]+)\.d/", name):
        yield found.group(1)


def _programs(chunk: Chunk) -> Iterator[str]:
    """Yield the programs that a state runs by their path."""
    commands = [chunk["name"]] if chunk["state"] == "cmd" and chunk["fun"] == "run" else []
    for key in ("check_cmd", "unless", "onlyif"):
        value = chunk.get(key) or []
        commands += value if isinstance(value, list) else [value]
    for command in commands:
        if isinstance(command, str) and command.startswith("/"):
            yield command.split()[0]


def _unit_faults(file: File, known: _Known, platform: str) -> Iterator[str]:
    """A unit's accounts and programs are there once all states have run."""
    if not re.search(r"/systemd/system/.*\.(service|conf)$", file.path):
        return
    sections, _ = parse_unit(file.text)
    settings = sections.get("Service", [])
    dynamic = any(key == "DynamicUser" and value in ("yes", "true", "1") for key, value in settings)
    for key, value in settings:
        place = f"{platform}: {where(file.chunk)}: {file.path}"
        if key in ("User", "Group") and value and "%" not in value and not dynamic:
            if value not in (known.users if key == "User" else known.groups):
                yield f"{place} runs as {key.lower()} {value}, which no package of this host brings and no state makes."
        elif key.startswith("Exec") and value:
            program = value.split()[0].lstrip("-@:+!")
            if program.startswith("/") and program not in known.paths:
                yield f"{place} runs {program}, which no package of this host brings and no state makes."


def without(pillar: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return a pillar without the key a:b:c."""
    first, _, rest = key.partition(":")
    copy = dict(pillar)
    if not rest:
        copy.pop(first, None)
    elif isinstance(copy.get(first), Mapping):
        copy[first] = without(copy[first], rest)
    return copy
