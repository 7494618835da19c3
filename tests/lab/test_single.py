"""The profile `single`: every role on one host, without a Salt master."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Command


@pytest.fixture(scope="module")
def single(command: Command) -> Iterator[Command]:
    """A second lab beside the first, made anew; `up` builds its first package."""
    own = replace(command, name=f"{command.name}-one")
    own("destroy")
    done = own("up", "--profile", "single")
    assert "First package        goose-release-" in done.stdout
    yield own
    own("destroy")


def test_masterless_apply_changes_nothing(single: Command) -> None:
    """`salt-call --local state.apply` is all that a newcomer runs; right after `up` there is nothing to do."""
    said = single.on("goose", "salt-call", "--local", "--out=json", "state.apply")
    states = json.loads(said)["local"]
    assert len(states) > 100
    assert [state["__id__"] for state in states.values() if state["result"] is not True] == []
    assert [state["__id__"] for state in states.values() if state["changes"]] == []


def test_hosts_one_service_each_role(single: Command) -> None:
    """One host has it all, and nothing on it has failed."""
    status = single.json("status")
    assert list(status["hosts"]) == ["goose"]
    assert status["hosts"]["goose"]["healthy"], status


def test_two_labs_do_not_meet(single: Command, command: Command) -> None:
    """Each lab has a network, names and a Koji of its own on the same machine."""
    mine, other = single.json("status"), command.json("status")
    addresses = [host["address"] for status in (mine, other) for host in status["hosts"].values()]
    assert len(set(addresses)) == len(addresses)
    assert mine["services"]["koji-hub"] != other["services"]["koji-hub"]
    assert not set(single.on("goose", "cat", "/etc/hosts").split()) & {
        f"{name}.{command.name}.test" for name in other["hosts"]
    }
