"""Housekeeping of the hub: what is not needed goes, what is tagged stays."""

import json

import pytest

CONFIG = "/etc/koji-gc/koji-gc.conf"
TIMERS = ("koji-gc.timer", "koji-sweep-db.timer", "koji-clean.timer")


@pytest.fixture
def config(host):
    return host.config(CONFIG)["main"]


@pytest.fixture
def clean(host):
    return json.loads(host.text("/etc/goose/koji-clean.json"))


@pytest.mark.parametrize("timer", TIMERS)
def test_timers(host, timer):
    """Nobody misses housekeeping before the disk is full."""
    assert host.runs(timer)
    assert host.starts_at_boot(timer)


def test_all_of_it_removes_or_nothing(host, config, clean):
    """A site that has looked at the lists says so once, and not once for each program."""
    assert (config["test"] == "True") == clean["dry_run"]
    line = host.says("systemctl", "show", "--value", "--property=ExecStart", "koji-sweep-db")
    assert ("--test" in line) == clean["dry_run"]


def test_certificate_is_roots(host, config):
    """It may delete any build."""
    assert not host.reads("nobody", config["cert"])
    assert host.subject(config["cert"]).startswith("CN=koji-gc,")


def test_hub_lets_it_work(host, config):
    """Without the permission it lists at night what it may not remove."""
    assert host.ask(config["server"], "getUser", "koji-gc"), "the hub does not know koji-gc: apply koji.content"
    assert "admin" in host.ask(config["server"], "getUserPerms", "koji-gc")


def test_trashcan(host, config):
    """koji-gc stops where the tag is missing."""
    assert host.ask(config["server"], "getTag", config["trashcan_tag"])


def test_no_tagged_build_is_in_the_trashcan(host, config):
    """What a tag holds is taken out of the trashcan again before anything is deleted."""
    said = host.says("/usr/sbin/koji-gc", "--test", "--action=delete", "--lock-file=/run/lock/koji-gc.testinfra")
    assert "5th pass: deletion" in said
    doomed = [line.rpartition(": ")[2] for line in said.splitlines() if line.startswith("Would have deleted")]
    for nvr in doomed:
        tags = {tag["name"] for tag in host.ask(config["server"], "listTags", nvr)}
        assert tags <= {config["trashcan_tag"]}, nvr


@pytest.mark.parametrize("unit", ["koji-gc", "koji-sweep-db", "koji-clean"])
def test_runs_in_its_sandbox(host, clean, unit):
    """What is too much closed shows first at night. Only where a run removes nothing."""
    if not clean["dry_run"]:
        pytest.skip("a run would remove things")
    host.says("systemctl", "start", unit)


def test_build_roots_and_builds_are_out_of_reach(host, clean):
    """The program that deletes as root lists nothing outside of scratch and work."""
    told = json.loads(host.says("/usr/local/lib/goose/koji_clean.py", "volume", "--dry-run", "--json"))
    allowed = tuple(f"{clean['topdir']}/{area}/" for area in ("scratch", "work"))
    assert all(path.startswith(allowed) for path in told["removed"]), told["removed"]
