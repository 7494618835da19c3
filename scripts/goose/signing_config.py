"""What signing stands on: the one configuration file, and where a passphrase comes from.

``/etc/goose/signing.json`` is rendered by the state of the signing host::

    {"backend": "rpmsign" or "sigul",
     "koji": {INSTANCE: {"config": client configuration file, "profile": its section}},
     "default_koji": INSTANCE,
     "keys": {KEY: {"key_id": 8 or 16 hex digits, or null: read from the keyring, or asked of Sigul,
                    "name": its name in Sigul (default KEY),
                    "uid": "GoOSe 1 <security@goose.example>",
                    "type": "rsa2048" to "rsa8192", or "ed25519" (default "rsa4096"),
                    "koji": INSTANCE (default: default_koji),
                    "tags": [TAG], "inherit": false, "arches": [],
                    "state": "active", "retiring" or "retired" (default "active"),
                    "credential": systemd credential with its passphrase (default signing-KEY),
                    "passphrase_file": path or null}},
     "rpmsign": {"gnupg_home": "/var/lib/goose-sign/gnupg"},
     "sigul": {"command": "sigul", "config": "/etc/sigul/client.conf", "instance": {INSTANCE: name in Sigul}},
     "batch": {"count": 100, "mebibytes": 1024},
     "keys_dir": where public keys are published,
     "state_dir": "/var/lib/goose-sign"}

A word that is not in this list is refused: a setting that is misspelt would otherwise do nothing, unseen.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import stat
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

CONFIG = Path("/etc/goose/signing.json")
BACKENDS = ("rpmsign", "sigul")
STATES = ("active", "retiring", "retired")

EXIT_DONE, EXIT_PARTLY, EXIT_USAGE, EXIT_AUTHENTICATION, EXIT_KOJI, EXIT_TOOL, EXIT_RUNNING = 0, 1, 2, 3, 4, 5, 75

# A name is part of file names (RPM-GPG-KEY-NAME, locks) and stands in command lines.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TYPE = re.compile(r"rsa(2048|3072|4096|8192)|ed25519")


class SigningError(Exception):
    """What is wrong, where and what to do, as a sentence; ``status`` is an exit status."""

    def __init__(self, sentence: str, status: int = EXIT_USAGE) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Instance:
    """A Koji: where its client configuration is."""

    name: str
    config: Path
    profile: str


@dataclass(frozen=True)
class Key:
    """A signing key; see the module's text for the fields."""

    name: str
    koji: str
    key_id: str | None
    sigul_name: str
    uid: str
    type: str
    tags: tuple[str, ...]
    inherit: bool
    arches: tuple[str, ...]
    state: str
    credential: str
    passphrase_file: Path | None


@dataclass(frozen=True)
class Config:
    """The configuration file; see the module's text."""

    backend: str
    koji: Mapping[str, Instance]
    default_koji: str
    keys: Mapping[str, Key]
    gnupg_home: Path
    sigul_command: str
    sigul_config: Path
    sigul_instances: Mapping[str, str]
    batch_count: int
    batch_bytes: int
    keys_dir: Path
    state_dir: Path
    path: Path = field(default=CONFIG)

    @classmethod
    def read(cls, path: Path = CONFIG, backend: str | None = None) -> Config:
        """Read the file at ``path``; ``backend`` instead of the one there, where it is given.

        Raises:
            SigningError: (usage) where it is missing, is no JSON, or does not say what it should.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SigningError(
                f"{path} cannot be read ({error.strerror}): the state of the signing host renders it;"
                " apply that, or name another file by --config."
            ) from error
        except ValueError as error:
            raise SigningError(f"{path} is no JSON: {error}.") from error
        config = _parse(data, path)
        return replace(config, backend=backend) if backend else config

    def key(self, name: str) -> Key:
        """The key called ``name``; `SigningError` (usage) where none is."""
        if name not in self.keys:
            raise SigningError(
                f"{self.path} has no key {name!r}: {_known(self.keys)}. Keys stand in pillar signing:keys."
            )
        return self.keys[name]

    def instance(self, name: str) -> Instance:
        """The Koji called ``name``; `SigningError` (usage) where none is."""
        if name not in self.koji:
            raise SigningError(f"{self.path} has no Koji instance {name!r}: {_known(self.koji)}.")
        return self.koji[name]


def _known(names: Iterable[str]) -> str:
    return f"it has {', '.join(sorted(names)) or 'none'}"


class _Part:
    """One object of the file, each word taken out of it once; what is left at its end is unknown."""

    def __init__(self, data: Any, where: str, path: Path) -> None:
        self.where, self.path = where, path
        if not isinstance(data, dict):
            raise self.wrong("", data, "an object")
        self.left = dict(data)

    def wrong(self, key: str, value: Any, what: str) -> SigningError:
        place = ":".join(part for part in (self.where, key) if part) or "its content"
        return SigningError(f"{self.path}: {place} is {value!r}: it must be {what}.")

    def take(self, key: str, kind: type, what: str, default: Any = ...) -> Any:
        value = self.left.pop(key, default)
        if value is ...:
            place = ":".join(part for part in (self.where, key) if part)
            raise SigningError(f"{self.path} does not say {place}: it must be {what}.")
        # A default may be of another kind (None); JSON's true is an int to Python.
        if value is default:
            return value
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.wrong(key, value, what)
        return value

    def text(self, key: str, what: str, default: Any = ...) -> Any:
        value = self.take(key, str, what, default)
        if value == "" and default != "":
            raise self.wrong(key, value, what)
        return value

    def texts(self, key: str, what: str) -> tuple[str, ...]:
        value = self.take(key, list, what, [])
        if not all(isinstance(entry, str) and entry for entry in value):
            raise self.wrong(key, value, what)
        return tuple(value)

    def path_at(self, key: str, what: str, default: Any = ...) -> Any:
        value = self.text(key, what, default)
        if value is not None and not value.startswith("/"):
            raise self.wrong(key, value, "an absolute path")
        return None if value is None else Path(value)

    def choice(self, key: str, choices: tuple[str, ...], default: Any = ...) -> str:
        value: str = self.text(key, f"one of {', '.join(choices)}", default)
        if value not in choices:
            raise self.wrong(key, value, f"one of {', '.join(choices)}")
        return value

    def end(self) -> None:
        if self.left:
            raise SigningError(
                f"{self.path} has {', '.join(':'.join(filter(None, (self.where, key))) for key in sorted(self.left))},"
                " which nothing reads: mend the name, or take it away."
            )


def _parse(data: Any, path: Path) -> Config:
    top = _Part(data, "", path)
    backend = top.choice("backend", BACKENDS)
    instances: dict[str, Instance] = {}
    for name, entry in top.take("koji", dict, "an object of Koji instances").items():
        part = _Part(entry, f"koji:{name}", path)
        _check_name(part, name)
        instances[name] = Instance(
            name,
            part.path_at("config", "the path of a koji client's configuration"),
            part.text("profile", "a section of that file", name),
        )
        part.end()
    default_koji = top.text("default_koji", "one of the instances under koji")
    if default_koji not in instances:
        raise top.wrong("default_koji", default_koji, f"one of the instances under koji ({', '.join(sorted(instances))})")
    keys = {
        name: _key(_Part(entry, f"keys:{name}", path), name, instances, default_koji)
        for name, entry in top.take("keys", dict, "an object of keys").items()
    }
    _check_uids(keys, path)
    rpmsign = _Part(top.take("rpmsign", dict, "an object", {}), "rpmsign", path)
    gnupg_home = rpmsign.path_at("gnupg_home", "GnuPG's directory", "/var/lib/goose-sign/gnupg")
    rpmsign.end()
    sigul = _Part(top.take("sigul", dict, "an object", {}), "sigul", path)
    command = sigul.text("command", "the name or path of Sigul's client", "sigul")
    sigul_config = sigul.path_at("config", "the path of Sigul's client.conf", "/etc/sigul/client.conf")
    sigul_instances = sigul.take("instance", dict, "an object: Koji instance to its name in Sigul", {})
    for name, value in sigul_instances.items():
        if name not in instances or not isinstance(value, str) or not value:
            raise sigul.wrong("instance", sigul_instances, "an object: Koji instance to its name in Sigul")
    sigul.end()
    batch = _Part(top.take("batch", dict, "an object", {}), "batch", path)
    count = batch.take("count", int, "a number of RPMs", 100)
    mebibytes = batch.take("mebibytes", int, "a number of MiB", 1024)
    for word, number in (("count", count), ("mebibytes", mebibytes)):
        if number < 1:
            raise batch.wrong(word, number, "1 or more")
    batch.end()
    keys_dir = top.path_at("keys_dir", "the directory of published public keys")
    state_dir = top.path_at("state_dir", "a directory for locks and work", "/var/lib/goose-sign")
    top.end()
    return Config(backend, instances, default_koji, keys, gnupg_home, command, sigul_config, sigul_instances,
                  count, mebibytes << 20, keys_dir, state_dir, path)  # fmt: skip


def _check_uids(keys: Mapping[str, Key], path: Path) -> None:
    """`SigningError` where a key could be taken for another one: the keyring is asked by uid, where there is no key_id."""
    for name, key in keys.items():
        same = [other for other in keys if other != name and keys[other].uid == key.uid]
        if same and not key.key_id:
            raise SigningError(
                f"{path}: keys:{name} and keys:{same[0]} have the same uid, {key.uid}, by which they cannot be told apart:"
                f" give {name} another uid, or its key_id."
            )


def _check_name(part: _Part, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise SigningError(f"{part.path}: the name in {part.where} is {name!r}: use letters, digits and . _ - alone.")


def _key(part: _Part, name: str, instances: Mapping[str, Instance], default_koji: str) -> Key:
    _check_name(part, name)
    key_id = part.take("key_id", str, "8 or 16 hexadecimal digits, or null", None)
    if key_id is not None and not re.fullmatch(r"([0-9A-Fa-f]{8}){1,2}", key_id):
        raise part.wrong("key_id", key_id, "8 or 16 hexadecimal digits, or null")
    koji = part.text("koji", "one of the instances under koji", None) or default_koji
    if koji not in instances:
        raise part.wrong("koji", koji, f"one of the instances under koji ({', '.join(sorted(instances))})")
    uid = part.text("uid", "who signs, as NAME <ADDRESS>")
    if not re.fullmatch(r"[^<>\n]*[^<>\s] <[^<>\s@]+@[^<>\s@]+>", uid):
        raise part.wrong("uid", uid, "who signs, as NAME <ADDRESS>")
    kind = part.text("type", "rsa2048 to rsa8192, or ed25519", "rsa4096")
    if not _TYPE.fullmatch(kind):
        raise part.wrong("type", kind, "rsa2048, rsa3072, rsa4096, rsa8192 or ed25519")
    sigul_name = part.text("name", "its name in Sigul", None) or name
    credential = part.text("credential", "the name of a systemd credential", None) or f"signing-{name}"
    for word, value in (("name", sigul_name), ("credential", credential)):
        if not _NAME.fullmatch(value):
            raise part.wrong(word, value, "of letters, digits and . _ - alone")
    key = Key(
        name=name,
        koji=koji,
        key_id=key_id.lower()[-8:] if key_id else None,
        sigul_name=sigul_name,
        uid=uid,
        type=kind,
        tags=part.texts("tags", "a list of tags"),
        inherit=part.take("inherit", bool, "true or false", False),
        arches=part.texts("arches", "a list of architectures"),
        state=part.choice("state", STATES, "active"),
        credential=credential,
        passphrase_file=part.path_at("passphrase_file", "a path, or null", None),
    )
    part.end()
    return key


# Passphrases


class Passphrase:
    """A passphrase, which no message and no traceback shows."""

    def __init__(self, value: bytes, source: str) -> None:
        self.value = value
        self.source = source
        """Where it is from, for messages."""

    def __repr__(self) -> str:
        return "Passphrase(…)"


def _checked(value: bytes, source: str) -> Passphrase:
    value = value[:-1] if value.endswith(b"\n") else value
    if not value:
        raise SigningError(f"{source} is empty: it must hold the passphrase.")
    # GnuPG takes the first line alone, and Sigul ends at a NUL: two passphrases would come of one.
    if b"\n" in value or b"\0" in value:
        raise SigningError(f"{source} has more than one line: it must hold the passphrase and nothing else.")
    return Passphrase(value, source)


def _from_file(path: Path) -> Passphrase:
    try:
        with path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise SigningError(f"{path} is no file: name a file with the passphrase.")
            if status.st_mode & 0o077 or status.st_uid not in (0, os.geteuid()):
                raise SigningError(
                    f"{path} is open to others (mode {stat.S_IMODE(status.st_mode):04o}, owner {status.st_uid}):"
                    " chmod 0600, owned by you or by root, and think about who has read it."
                )
            return _checked(stream.read(1 << 16), str(path))
    except OSError as error:
        raise SigningError(f"The passphrase file {path} cannot be read: {error.strerror}.") from error


def passphrase(
    prompt: str,
    fd: int | None = None,
    file: Path | None = None,
    credential: str | None = None,
    default_file: Path | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Passphrase | None:
    """The passphrase from the first source that there is; None where there is none and no terminal to ask at.

    Args:
        prompt: what is asked for at the terminal.
        fd: descriptor that it is read from, to its end.
        file: file with it, open to the caller and root alone.
        credential: name of a systemd credential, which the service manager puts into $CREDENTIALS_DIRECTORY.
        default_file: as ``file``, from the configuration.

    Raises:
        SigningError: (usage) where the source that was named cannot be used.
    """
    if fd is not None:
        try:
            # Left open: a descriptor that is opened later would take its place as standard input.
            with os.fdopen(fd, "rb", closefd=False) as stream:
                return _checked(stream.read(1 << 16), f"Descriptor {fd}")
        except OSError as error:
            raise SigningError(f"Descriptor {fd} cannot be read: {error.strerror}.") from error
    if file is not None:
        return _from_file(file)
    directory = environment.get("CREDENTIALS_DIRECTORY")
    if credential and directory and (Path(directory) / credential).is_file():
        # The service manager made it, for this process alone.
        return _checked((Path(directory) / credential).read_bytes(), f"The credential {credential}")
    if default_file is not None:
        return _from_file(default_file)
    if sys.stdin is not None and sys.stdin.isatty():
        try:
            return _checked(getpass.getpass(prompt).encode(), "What was typed")
        except EOFError as error:
            raise SigningError("No passphrase was typed.") from error
    return None


def need_passphrase(key: Key, fd: int | None, file: Path | None) -> Passphrase:
    """The passphrase of ``key``; see `passphrase`. `SigningError` (usage) where there is none."""
    found = passphrase(f"Passphrase of {key.name}: ", fd, file, key.credential, key.passphrase_file)
    if found is None:
        raise SigningError(
            f"There is no passphrase for {key.name}: give --passphrase-fd or --passphrase-file, run this with the"
            f" systemd credential {key.credential}, or at a terminal."
        )
    return found
