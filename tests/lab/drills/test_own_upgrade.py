"""A lab that an older revision of this tree has made is brought to this one, as a site is: by pulling and applying.

``GOOSE_OLD_REVISION`` names the older one. It has a lab of its own. An older program does not read what newer ones
note of their labs, so there must be no other for one from before 26 November 2026.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import Command
from goose.lab import lab as labs
from goose.lab import record
from goose.lab.run import Progress
from koji_client import Hub

TREE = Path(__file__).resolve().parents[3]
# Before composes, backups, firewalls and monitoring: most roles of today, with less in each.
OLD = os.environ.get("GOOSE_OLD_REVISION", "acac2e4")
NAME = "older"


def git(*words: str, tree: Path = TREE) -> str:
    done = subprocess.run(["git", "-C", str(tree), *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A lab of the older revision, which has built its first package."""
    if subprocess.run(["git", "-C", str(TREE), "cat-file", "-e", f"{OLD}^{{commit}}"], check=False).returncode:
        pytest.skip(f"this clone does not hold revision {OLD}: fetch all of its history")
    path = tmp_path_factory.mktemp("older") / "tree"
    git("clone", "--quiet", "--no-checkout", str(TREE), str(path))
    git("checkout", "--quiet", "--detach", OLD, tree=path)
    old = Command(NAME, path)
    Command(NAME)("destroy")
    try:
        old("up")
        yield old
    finally:
        Command(NAME)("destroy")


def kept(lab: labs.Lab) -> dict[str, Any]:
    """What an upgrade must leave as it is."""
    hub = Hub(lab.services()["koji-hub"], lab.ca_path())
    return {
        "builds": {build["nvr"] for build in hub("listBuilds", state=1)},
        "tags": {tag["name"] for tag in hub("listTags")},
        "hosts": {host["name"] for host in hub("listHosts")},
        "ca": lab.ca_path().read_text(),
        "key": lab.need_role("sigul.client").run(
            ["sh", "-c", "find /var/lib/goose-sign/gnupg/private-keys-v1.d -type f | xargs sha256sum"]
        ).stdout,
    }  # fmt: skip


def test_pulled_and_applied(checkout: Command) -> None:
    """One `up` of the newer tree: nothing by hand, nothing lost; then nothing is left to do, and it builds."""
    before = kept(labs.Lab(record.existing(NAME), Progress()))
    git("checkout", "--quiet", "--detach", git("rev-parse", "HEAD"), tree=checkout.tree)
    checkout("up")
    new = labs.Lab(record.existing(NAME), Progress())
    after = kept(new)
    for name in ("builds", "tags", "hosts"):
        assert before[name] <= after[name], name
    assert (before["ca"], before["key"]) == (after["ca"], after["key"])
    command = Command(NAME)
    outcomes = command.apply()
    assert {(outcome["changed"], outcome["failed"]) for outcome in outcomes.values()} == {(0, 0)}, outcomes
    status = command.json("status")
    assert all(host["healthy"] for host in status["hosts"].values()), status
    # Which host has which role is the site's own, in hosts.yaml, and as it was: a role that is new is on none.
    said = checkout("rebuild").stdout
    assert re.search(r"\d+ RPMs of them are signed", said) and "/repos/goose-1/x86_64/os/" in said, said
