"""What a lab has made of this machine, written down before it is made."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from goose.lab.run import LabError

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,14}[a-z0-9])?")


def directory() -> Path:
    """Where labs and the base lie: ``GOOSE_LAB_DIR``, or /var/lib/goose-lab."""
    return Path(os.environ.get("GOOSE_LAB_DIR", "/var/lib/goose-lab")).resolve()


def check_name(name: str) -> str:
    """Return ``name`` if a lab can be called that; it becomes part of host and interface names."""
    if not _NAME.fullmatch(name):
        raise LabError(
            f"{name!r} is no name for a lab: use a letter, then letters, digits and hyphens,"
            " 16 characters at most, all lower case.",
            2,
        )
    return name


@dataclass
class Record:
    """One lab: everything that `destroy` must take away again, and what `up` continues from."""

    name: str
    profile: str
    subnet: int
    """The third number of the lab's network, 198.18.N.0/24."""
    hosts: dict[str, list[str]] = field(default_factory=dict)
    """Host -> roles."""
    kernel: dict[str, int] = field(default_factory=dict)
    """Settings of the machine's kernel that the lab raised, and what they were."""
    pillar: dict[str, Any] = field(default_factory=dict)
    """What `up --pillar` gave, over the profile's own."""

    @property
    def root(self) -> Path:
        """The lab's own directory."""
        return directory() / "labs" / self.name

    @property
    def domain(self) -> str:
        """The domain of the lab's hosts."""
        return f"{self.name}.test"

    @property
    def bridge(self) -> str:
        """The lab's bridge on this machine."""
        return f"goose{self.subnet}"

    @property
    def gateway(self) -> str:
        """This machine's address in the lab's network."""
        return f"198.18.{self.subnet}.1"

    @property
    def network(self) -> str:
        """The lab's network."""
        return f"198.18.{self.subnet}.0/24"

    def save(self) -> None:
        """Write the record, whole or not at all."""
        self.root.mkdir(parents=True, exist_ok=True)
        partial = self.root / "record.json.partial"
        partial.write_text(json.dumps(asdict(self), indent=1) + "\n")
        partial.rename(self.root / "record.json")


def load(name: str) -> Record | None:
    """The record of the lab ``name``, or nothing where there is no such lab."""
    path = directory() / "labs" / check_name(name) / "record.json"
    if not path.exists():
        return None
    data = json.loads(path.read_text())
    if data.pop("forwarding_was_off", False):
        # A lab of a revision that knew of this one alone.
        data["kernel"] = {"/proc/sys/net/ipv4/ip_forward": 0}
    return Record(**data)


def existing(name: str) -> Record:
    """The record of the lab ``name``; `LabError` where there is no such lab."""
    record = load(name)
    if record is None:
        raise LabError(f"There is no lab {name!r} on this machine: `scripts/lab --name {name} up` makes it.", 2)
    return record


def all_records() -> list[Record]:
    """The records of all labs on this machine."""
    labs = directory() / "labs"
    names = sorted(path.parent.name for path in labs.glob("*/record.json"))
    return [record for record in map(load, names) if record is not None]


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lab ``name`` against a second command that changes it (exit status 75)."""
    directory().mkdir(parents=True, exist_ok=True)
    with (directory() / f"{check_name(name)}.lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LabError(f"Another command is changing the lab {name!r}: wait for it to end.", 75) from error
        yield
