"""One host with every role, masterless: for a laptop, and for a small site."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import Command
from goose.lab import lab as labs
from goose.lab import record
from goose.lab.run import Progress
from koji_client import Hub

NAME = "single"


@pytest.fixture(scope="module")
def single(counted: None) -> Iterator[str]:
    """What `up --profile single` printed. Beside the first lab, whose base it shares."""
    command = Command(NAME)
    command("destroy")
    try:
        done = command("up", "--profile", "single")
        yield done.stdout + done.stderr
    finally:
        command("destroy")


@pytest.fixture(scope="module")
def this(single: str) -> labs.Lab:
    return labs.Lab(record.existing(NAME), Progress())


def test_one_host_has_every_role(this: labs.Lab) -> None:
    (host,) = this.hosts
    everywhere = {role for roles in this.settings["profiles"]["full"].values() for role in roles}
    assert set(host.roles) == everywhere - {"salt.master"}


def test_first_package(single: str, this: labs.Lab) -> None:
    assert re.search(r"^First package +goose-release-\S+, task \d+", single, re.MULTILINE)
    hub = Hub(this.services()["koji-hub"], this.ca_path())
    assert [build["package_name"] for build in hub("listTagged", "goose-1")] == ["goose-release"]


def test_healthy(this: labs.Lab) -> None:
    status = Command(NAME).json("status")
    assert [host["healthy"] for host in status["hosts"].values()] == [True]
    assert this.answers(f"{this.services()['koji-web']}/")


def test_masterless_apply_changes_nothing(this: labs.Lab) -> None:
    """As a user of one host applies: no master, no lab."""
    (host,) = this.hosts
    assert host.run(["systemctl", "is-active", "salt-master"], check=False).returncode != 0
    done = host.run(["salt-call", "--local", "--out=json", "--retcode-passthrough", "state.apply"], check=False)
    states = json.loads(done.stdout)["local"]
    assert isinstance(states, dict), states
    assert len(states) > 100
    assert [state["__id__"] for state in states.values() if state["result"] is not True or state["changes"]] == []
    assert done.returncode == 0


def test_masterless_apply_repairs(this: labs.Lab) -> None:
    """The local CA signs again, and the services that use it follow."""
    (host,) = this.hosts
    host.run(["rm", "/etc/pki/goose/kojid.pem", "/etc/pki/goose/kojid.crt", "/etc/kojira/kojira.conf"])
    host.run(["systemctl", "mask", "--now", "kojid"])
    done = host.run(["salt-call", "--local", "--out=json", "state.apply"], check=False)
    states = json.loads(done.stdout)["local"].values()
    assert [state["comment"] for state in states if state["result"] is False] == []
    changed = {state["__id__"] for state in states if state["changes"]}
    expected = {"pki-kojid-certificate", "pki-kojid-pem", "koji-kojira-config", "koji-builder-service"}
    assert expected <= changed
    host.run(["openssl", "verify", "-CAfile", "/etc/pki/goose/ca.crt", "/etc/pki/goose/kojid.pem"])
    host.run(["systemctl", "is-active", "kojid", "kojira"])


def test_destroyed_leaves_nothing(single: str, this: labs.Lab) -> None:
    """Last: the host, its network and its names go, and the other lab stays."""
    done = Command(NAME)("destroy")
    assert done.returncode == 0
    assert not this.record.root.exists()
    assert this.record.domain not in Path("/etc/hosts").read_text()
    assert str(this.record.root) not in Path("/proc/mounts").read_text()
