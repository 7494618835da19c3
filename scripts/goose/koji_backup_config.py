"""What this host backs up, and where to: /etc/goose/backup.json, as the state koji.backup writes it.

``{"host": the host's full name, "path": directory of all hosts' backups, "mounted": whether that must be a
mount point, "keep": {"daily", "weekly", "monthly": numbers of generations}, "recipients": [files with the
public keys that secrets are sealed for], "parts": {NAME: {"kind", "path", …}}}``

Kinds of parts, each below its name in a generation:

``database``
    Koji's database, as the hub reaches it: ``path`` is hub.conf. ``hub`` (URL) and ``serverca`` (path) are for
    the question whether the hub answers after a restore.
``volume``
    Koji's volume, ``path``: `packages` on it and on its further volumes.
``tree``
    Files that only come and go, as those of the lookaside cache.
``git``
    Bare repositories below ``path``.
``sealed``
    Secrets: the directories and files of ``paths``, databases ``sqlite``, and systemd ``credentials`` (their
    names, which lie in ``credstore``); encrypted before they touch a disk.

``owner`` (user:group) is who a part belongs to on this host, and ``services`` are those that must not run
while it is restored.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Callable

CONFIG = Path("/etc/goose/backup.json")

EXIT_DONE, EXIT_PARTLY, EXIT_USAGE, EXIT_AUTHENTICATION, EXIT_KOJI, EXIT_TOOL, EXIT_RUNNING = 0, 1, 2, 3, 4, 5, 75

KINDS = ("database", "volume", "tree", "git", "sealed")

Say = Callable[[str], None]


class BackupError(Exception):
    """The work cannot be done, in a sentence; ``status`` is the exit status."""

    def __init__(self, sentence: str, status: int = EXIT_TOOL) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Part:
    """One thing that is backed up."""

    name: str
    kind: str
    path: Path = Path("/")
    owner: str = ""
    services: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()
    sqlite: tuple[Path, ...] = ()
    credentials: tuple[str, ...] = ()
    credstore: Path = Path("/etc/credstore.encrypted")
    hub: str = ""
    serverca: str = ""


@dataclass(frozen=True)
class Keep:
    """How many generations stay: the last of so many days, weeks and months."""

    daily: int = 7
    weekly: int = 5
    monthly: int = 12


@dataclass(frozen=True)
class Config:
    """What this host backs up, and where to."""

    host: str
    path: Path
    mounted: bool
    keep: Keep
    recipients: tuple[Path, ...]
    parts: Mapping[str, Part] = field(default_factory=dict)

    @property
    def own(self) -> Path:
        """The directory of this host's generations."""
        return self.path / self.host

    @classmethod
    def read(cls, path: Path) -> Config:
        """The configuration in ``path``; `BackupError` (usage) where it cannot be used."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            parts = {name: _part(name, given) for name, given in data["parts"].items()}
            return cls(
                host=str(data["host"]),
                path=Path(data["path"]),
                mounted=bool(data["mounted"]),
                keep=Keep(**{word: int(number) for word, number in data["keep"].items()}),
                recipients=tuple(map(Path, data["recipients"])),
                parts=parts,
            )
        except FileNotFoundError as error:
            raise BackupError(f"{path} is missing: apply the role koji.backup on this host.", EXIT_USAGE) from error
        except PermissionError as error:
            raise BackupError(f"{path} cannot be read: run this as root.", EXIT_USAGE) from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BackupError(
                f"{path} cannot be used ({error}): apply the role koji.backup on this host again.", EXIT_USAGE
            ) from error


def _part(name: str, given: Mapping[str, Any]) -> Part:
    if given["kind"] not in KINDS:
        raise ValueError(f"the part {name} is of the kind {given['kind']!r}, which is none")
    return Part(
        name=name,
        kind=given["kind"],
        path=Path(given.get("path", "/")),
        owner=given.get("owner", ""),
        services=tuple(given.get("services", ())),
        paths=tuple(map(Path, given.get("paths", ()))),
        sqlite=tuple(map(Path, given.get("sqlite", ()))),
        credentials=tuple(given.get("credentials", ())),
        credstore=Path(given.get("credstore", "/etc/credstore.encrypted")),
        hub=given.get("hub", ""),
        serverca=given.get("serverca", ""),
    )


def need_place(config: Config) -> None:
    """Refuse where backups would land on this host's own disk; `BackupError` says so."""
    if config.mounted and not os.path.ismount(config.path):
        raise BackupError(
            f"Nothing is mounted at {config.path}: mount what keeps the backups there, or set pillar"
            " koji:backup:mounted to false where a directory of this host shall do.",
            EXIT_USAGE,
        )
    if not config.path.is_dir():
        raise BackupError(f"{config.path} is missing: apply the role koji.backup on this host.", EXIT_USAGE)


@contextlib.contextmanager
def locked(config: Config) -> Iterator[None]:
    """Hold this host's backups against a second run; `BackupError` where another holds them."""
    try:
        # Open to who watches the age of backups; each of them is root's.
        config.own.mkdir(exist_ok=True)
        config.own.chmod(0o755)
        descriptor = os.open(config.own / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise BackupError(f"{config.own} cannot be used ({error.strerror}): run this as root.", EXIT_USAGE) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BackupError(f"Another run holds {config.own}: wait for it.", EXIT_RUNNING) from error
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory in memory, closed to others, for a while."""
    place = os.environ.get("RUNTIME_DIRECTORY") or ("/run" if os.geteuid() == 0 else None)
    with tempfile.TemporaryDirectory(prefix="koji-backup-", dir=place) as path:
        yield Path(path)


def run(
    command: Sequence[str],
    *,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    good: Sequence[int] = (0,),
    stdout: IO[bytes] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end; `BackupError` with what it said last where its exit status is not ``good``."""
    try:
        done = subprocess.run(
            command,
            input=None if stdin is None else stdin.encode(),
            stdin=subprocess.DEVNULL if stdin is None else None,
            stdout=stdout or subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
            check=False,
        )
    except FileNotFoundError as error:
        raise BackupError(
            f"{error.filename} is not installed on this host: apply the role koji.backup.", EXIT_TOOL
        ) from error
    if done.returncode not in good:
        raise BackupError(f"{command[0]} failed (exit status {done.returncode}): {last_words(done.stderr)}")
    return done


def last_words(said: bytes) -> str:
    """What a program said, in one line."""
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    return re.sub(r"\s+", " ", " ".join(lines[-3:])) or "it said nothing"
