"""What mash reads: `mash.conf`, and a `NAME.mash` for each repository, in the format that people have.

Keys are those of the old mash. Those of things that are gone (delta RPMs, repoview, sqlite) are accepted and
warned about; a key that nobody knows is refused with its line, because a `strict_key` that is taken for a
comment publishes unsigned packages. The project's own keys are marked in `DEFAULTS` and `MASH`.
"""

from __future__ import annotations

import configparser
import difflib
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

from goose.mash_multilib import METHODS

CONFIG_DIR = Path("/etc/mash")
ALLOWABLE = ("unsigned", "duplicates", "broken-deps")
COMPRESSIONS = ("gz", "zstd")
HASHES = ("sha256", "sha384", "sha512")
ENGINES = ("mash", "dist-repo")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_HEX = re.compile(r"(0x)?([0-9a-fA-F]{8}|[0-9a-fA-F]{16}|[0-9a-fA-F]{40})")


class ConfigError(Exception):
    """A configuration that cannot be used: a sentence, with file and line."""


def _bool(text: str) -> bool:
    try:
        return configparser.RawConfigParser.BOOLEAN_STATES[text.lower()]
    except KeyError:
        raise ValueError("true or false") from None


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.replace(",", " ").split())


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _number(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ValueError("a number from 1 on")
    return int(text)


def _one_of(*choices: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return text

    return read


def _path(text: str) -> Path:
    if not text.startswith("/"):
        raise ValueError("an absolute path")
    return Path(text)


def _inside(text: str) -> str:
    parts = text.strip("/").split("/")
    if text.startswith("/") or not all(parts) or ".." in parts or "." in parts:
        raise ValueError("a path inside of the repository, such as %(arch)s/os")
    return text.strip("/")


def _compression(text: str) -> str:
    return _one_of(*COMPRESSIONS)(text)


def _allow(text: str) -> tuple[str, ...]:
    for word in _words(text):
        if word.partition(":")[0] not in ALLOWABLE:
            raise ValueError(f"words among {', '.join(ALLOWABLE)}, each alone or with :NAME of a package")
    return _words(text)


# Key -> how its text is read. `mash.conf`, section [defaults].
DEFAULTS: Mapping[str, Callable[[str], Any]] = {
    "configdir": _path, "buildhost": str, "repodir": _path, "outputdir": _path, "cachedir": _path,
    "compress_type": _compression, "hash": _one_of(*HASHES),
    # The project's own
    "serverca": str, "cert": str, "keysdir": _path, "weburl": str, "keep": _number, "jobs": _number,
}  # fmt: skip
# `NAME.mash`, section [NAME].
MASH: Mapping[str, Callable[[str], Any]] = {
    "rpm_path": _inside, "repodata_path": _inside, "source": _bool, "source_path": _inside, "debuginfo": _bool,
    "debuginfo_path": _inside, "output_subdir": str, "hash_packages": _bool, "tag": str, "inherit": _bool,
    "latest": _bool, "arches": _words, "keys": _words, "strict_keys": _bool, "multilib": _bool,
    "multilib_method": str, "multilib_file": _path, "multilib_devel_whitelist": _words,
    "multilib_devel_blacklist": _words, "multilib_runtime_whitelist": _words, "multilib_runtime_blacklist": _words,
    "parent_repos": _words, "distro_tags": _lines, "content_tags": _words, "compsfile": _path,
    # The project's own
    "engine": _one_of(*ENGINES), "allow": _allow, "updateinfo": _path, "repomd_sign": str, "keep": _number,
}  # fmt: skip
GONE_DEFAULTS = {
    "use_sqlite": "no client needs sqlite metadata any more",
    "use_repoview": "repoview is gone",
    "workdir": "repositories are made beside the published one",
}
GONE_MASH = {
    "delta": "delta RPMs are no longer made",
    "delta_dirs": "delta RPMs are no longer made",
    "delta_workers": "delta RPMs are no longer made",
    "max_delta_rpm_size": "delta RPMs are no longer made",
    "max_delta_rpm_age": "delta RPMs are no longer made",
    "repoviewurl": "repoview is gone",
    "repoviewtitle": "repoview is gone",
    "use_sqlite": GONE_DEFAULTS["use_sqlite"],
    "use_repoview": "repoview is gone",
}


@dataclass(frozen=True)
class Site:
    """What all repositories share: `mash.conf`."""

    directory: Path
    """Where the `.mash` files lie."""
    hub: str = ""
    topdir: Path = Path("/mnt/koji")
    output: Path = Path("/srv/repos")
    cache: Path = Path("/var/cache/mash")
    compression: str = "gz"
    hash: str = "sha256"
    serverca: str = ""
    cert: str = ""
    weburl: str = ""
    keysdir: Path = Path("/etc/pki/rpm-gpg")
    keep: int = 2
    jobs: int = 0
    """Processes that read RPMs; 0: one a processor."""


@dataclass(frozen=True)
class Mash:
    """One repository: `NAME.mash`."""

    name: str
    tag: str
    arches: tuple[str, ...]
    rpm_path: str = "%(arch)s/os/Packages"
    repodata_path: str = ""
    """Where `repodata` lies; empty: the directory above `rpm_path`."""
    source: bool = True
    source_path: str = "source/SRPMS"
    debuginfo: bool = True
    debuginfo_path: str = "%(arch)s/debug"
    output_subdir: str = ""
    hash_packages: bool = False
    inherit: bool = False
    latest: bool = True
    keys: tuple[tuple[str, ...], ...] = ()
    """In order of preference; each is one or more key ids (eight hexadecimal digits) of one key."""
    strict_keys: bool = True
    multilib: bool = False
    multilib_method: str = "devel"
    multilib_file: Path | None = None
    multilib_devel_whitelist: tuple[str, ...] = ()
    multilib_devel_blacklist: tuple[str, ...] = ()
    multilib_runtime_whitelist: tuple[str, ...] = ()
    multilib_runtime_blacklist: tuple[str, ...] = ()
    parent_repos: tuple[str, ...] = ()
    distro_tags: tuple[str, ...] = ()
    """A line each: CPE,NAME or NAME."""
    content_tags: tuple[str, ...] = ()
    compsfile: Path | None = None
    engine: str = "mash"
    allow: tuple[str, ...] = ()
    updateinfo: Path | None = None
    repomd_sign: str = ""
    keep: int = 0
    """Generations to keep; 0: as `mash.conf` says."""
    text: str = field(default="", repr=False)
    """The section as it is, for telling whether it changed."""

    @property
    def published(self) -> str:
        """The name below the output directory."""
        return self.output_subdir or self.name

    def repodata(self, rpm_path: str) -> str:
        """Where the `repodata` of the packages in ``rpm_path`` lies."""
        if self.repodata_path and rpm_path == self.rpm_path:
            return self.repodata_path
        head, _, _ = rpm_path.rpartition("/")
        return head if rpm_path == self.rpm_path and "%(arch)s" in head else rpm_path


def _read(
    path: Path,
    section: str,
    known: Mapping[str, Callable[[str], Any]],
    gone: Mapping[str, str],
    warnings: list[str],
) -> dict[str, Any]:
    """The values of ``section``; warnings about dropped keys are added to ``warnings``."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        text = path.read_text(encoding="utf-8")
        parser.read_string(text, str(path))
    except FileNotFoundError:
        raise ConfigError(
            f"{path} is missing: apply the state mash on this host, or name its directory by --config."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from error
    except configparser.Error as error:
        raise ConfigError(f"{' '.join(str(error).split())}: mend the file.") from error

    def where(key: str) -> str:
        pattern = re.compile(rf"\s*{re.escape(key)}\s*[=:]", re.IGNORECASE)
        for number, line in enumerate(text.splitlines(), 1):
            if pattern.match(line):
                return f"{path}, line {number}"
        return f"{path}, [{section}]"

    others = [name for name in parser.sections() if name != section]
    if section not in parser:
        has = f"it has {', '.join(f'[{name}]' for name in others)}" if others else "it has none"
        raise ConfigError(f"{path} has no section [{section}]: {has}.")
    if others:
        raise ConfigError(f"{path} has the section [{others[0]}]: only [{section}] belongs there.")
    found, bad = {}, []
    for key, value in parser[section].items():
        if key in gone:
            warnings.append(f"{where(key)}: {key} is left out, because {gone[key]}.")
        elif key not in known:
            near = difflib.get_close_matches(key, list(known), 1)
            bad.append(
                f"{where(key)}: {key!r} is no key of mash" + (f"; is {near[0]!r} meant?" if near else ".")
            )
        elif value.strip():
            try:
                found[key] = known[key](value.strip())
            except ValueError as error:
                bad.append(f"{where(key)}: {key} is {value.strip()!r}: give {error}.")
    if bad:
        raise ConfigError("\n".join(bad))
    return found


def read_site(directory: Path, warnings: list[str]) -> Site:
    """`mash.conf` of ``directory``.

    Raises:
        ConfigError: in a sentence a line.
    """
    path = directory / "mash.conf"
    found = _read(path, "defaults", DEFAULTS, GONE_DEFAULTS, warnings)
    names = {"buildhost": "hub", "repodir": "topdir", "outputdir": "output", "cachedir": "cache",
             "compress_type": "compression", "configdir": "directory"}  # fmt: skip
    given = {names.get(key, key): value for key, value in found.items()}
    site = Site(**{"directory": directory, **given})
    if not site.hub:
        raise ConfigError(
            f"{path}: buildhost is missing: give the URL of Koji's hub, as in https://HOST/kojihub."
        )
    return site


def key_ids(word: str, keysdir: Path) -> tuple[str, ...]:
    """What Koji calls a key: the last eight digits of its id, and of its subkeys' where ``word`` is a name.

    ``word`` is an id or fingerprint, or the NAME of a file `RPM-GPG-KEY-NAME` in ``keysdir``.
    """
    if found := _HEX.fullmatch(word):
        return (found[2][-8:].lower(),)
    path = keysdir / f"RPM-GPG-KEY-{word}"
    if not _NAME.fullmatch(word) or not path.is_file():
        raise ValueError(f"key ids, or names of keys: there is no {path}")
    try:
        # A home of its own: gpg makes files wherever it is at home.
        with tempfile.TemporaryDirectory(prefix="mash-") as home:
            command = [
                "gpg",
                "--batch",
                "--no-options",
                "--homedir",
                home,
                "--with-colons",
                "--show-keys",
                str(path),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ValueError(f"key ids, for gpg, which reads {path}, cannot be run ({error})") from error
    ids = [
        row[4][-8:].lower()
        for row in (line.split(":") for line in done.stdout.splitlines())
        if row[0] in ("pub", "sub")
    ]
    if not ids:
        raise ValueError(f"key ids, or names of keys: {path} holds no public key")
    return tuple(ids)


def read_mash(site: Site, name: str, warnings: list[str]) -> Mash:
    """`NAME.mash`.

    Raises:
        ConfigError: in a sentence a line.
    """
    path = site.directory / f"{name}.mash"
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name of a mash: use letters, digits and . _ + -.")
    if not path.is_file():
        there = sorted(other.stem for other in site.directory.glob("*.mash"))
        raise ConfigError(
            f"{path} is missing: "
            + (f"there are {', '.join(there)}." if there else "there is no mash at all.")
        )
    found = _read(path, name, MASH, GONE_MASH, warnings)
    keys = []
    for word in found.pop("keys", ()):
        try:
            keys.append(key_ids(word, site.keysdir))
        except ValueError as error:
            raise ConfigError(f"{path}: keys has {word!r}: give {error}.") from None
    for key, example in (
        ("tag", "the tag to take packages from"),
        ("arches", "architectures, as in i386 x86_64"),
    ):
        if not found.get(key):
            raise ConfigError(f"{path}: {key} is missing: give {example}.")
    mash = Mash(name=name, keys=tuple(keys), text=path.read_text(encoding="utf-8"), **found)
    for problem in _problems(mash):
        raise ConfigError(f"{path}: {problem}")
    if mash.multilib and mash.multilib_method == "yaboot":
        warnings.append(
            f"{path}: multilib_method yaboot picks 32-bit yaboot for 64-bit PowerPC, and nothing else."
        )
    if not mash.keys:
        warnings.append(f"{path}: no keys are named: packages go in as they were built, unsigned.")
    return mash


def _problems(mash: Mash) -> Iterator[str]:
    if not _NAME.fullmatch(mash.published):
        yield f"output_subdir is {mash.published!r}: give a plain name."
    if mash.multilib_method not in METHODS:
        yield f"multilib_method is {mash.multilib_method!r}: give one of {', '.join(METHODS)}."
    if mash.multilib_method == "file" and mash.multilib and not mash.multilib_file:
        yield "multilib_method file needs multilib_file: give the path of a list of names."
    if len(mash.arches) > 1:
        for key, path in (
            ("rpm_path", mash.rpm_path),
            ("debuginfo_path", mash.debuginfo_path if mash.debuginfo else ""),
        ):
            if path and "%(arch)s" not in path:
                yield f"{key} is {path!r}, one place for {len(mash.arches)} architectures: put %(arch)s into it."
    try:
        for path in (
            mash.rpm_path,
            mash.debuginfo_path,
            mash.source_path,
            mash.repodata_path,
            *mash.parent_repos,
        ):
            path % {"arch": "x86_64"}
    except (ValueError, KeyError, TypeError):
        yield f"{path!r} cannot be filled in: only %(arch)s may stand there."
    top = mash.repodata(mash.rpm_path)
    if not f"{mash.rpm_path}/".startswith(f"{top}/"):
        yield f"repodata_path is {top!r}, which rpm_path {mash.rpm_path!r} is not below."
    places = [
        top,
        *([mash.debuginfo_path] if mash.debuginfo else []),
        *([mash.source_path] if mash.source else []),
    ]
    for one in places:
        for other in places:
            if one is not other and f"{one}/".startswith(f"{other}/"):
                yield f"{one} lies in {other}, and would be in two repositories: choose other paths."
