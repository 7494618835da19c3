"""The lab under test: testinfra on its hosts, and pillar that a test puts over the repository's."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from goose.lab.lab import TREE, Lab
from goose.lab.record import Record
from goose.lab.run import LabError

# How such pillar begins: with the process of the test.
_OF_A_TEST = "# A test's, of process {}.\n"


def command(lab: Lab, words: Sequence[str], tree: Path = TREE) -> list[str]:
    """The command that tests the hosts of ``lab``, each by its roles.

    ``words`` are pytest's, but for names of hosts: where there are some, only those are tested.
    """
    names = {name: host for host in lab.hosts for name in (host.name, host.fqdn)}
    # A word after an option that takes a value (-k hub) is that option's.
    after = [""] + list(words)
    chosen = [word for word, before in zip(words, after) if word in names and before not in ("-k", "-m", "-p")]
    rest = [word for word, before in zip(words, after) if word not in names or before in ("-k", "-m", "-p")]
    only = ["--hosts=" + ",".join(dict.fromkeys(names[word].name for word in chosen))] if chosen else []
    return [str(tree / "scripts/test"), "tests/testinfra", f"--lab={lab.record.name}", *only, *rest]


def run(lab: Lab, words: Sequence[str]) -> int:
    """Run `command`, on the terminal; its exit status. Raises `LabError` where a host to test is off."""
    line = command(lab, words)
    wanted = next((word.partition("=")[2].split(",") for word in line if word.startswith("--hosts=")), None)
    for host in lab.hosts:
        if (wanted is None or host.name in wanted) and host.leader() is None:
            raise LabError(f"{host.fqdn} is off: `scripts/lab --name {lab.record.name} up` boots it.")
    return subprocess.run(line, check=False).returncode


@contextmanager
def pillar_over(record: Record, name: str, changes: Mapping[str, Any], tree: Path = TREE) -> Iterator[None]:
    """For a while, the lab's own pillar root holds the repository's file ``name`` with ``changes``.

    The file must be plain YAML with a mapping. It counts with the next apply, and no longer with
    the first one after. What a test has left that was killed counts for nothing.
    """
    path = record.root / "pillar" / name
    before = path.read_text() if path.exists() else None
    if before is not None and (test := re.match(_OF_A_TEST.format("([0-9]+)"), before)):
        before = before if Path("/proc", test[1]).exists() else None
    data = yaml.safe_load((tree / "pillar" / name).read_text() if before is None else before)
    path.write_text(_OF_A_TEST.format(os.getpid()) + yaml.safe_dump({**data, **changes}, sort_keys=False))
    try:
        yield
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_text(before)
