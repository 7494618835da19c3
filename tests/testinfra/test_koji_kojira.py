"""Kojira."""

import pytest


@pytest.fixture
def config(host):
    return host.config("/etc/kojira/kojira.conf")["kojira"]


def test_service(host):
    """Without it no build ever sees what was built before it."""
    assert host.runs("kojira")
    assert host.starts_at_boot("kojira")


def test_stays_up(host):
    """systemd starts it again where it ends: one that ends every minute looks as if it ran."""
    assert int(host.says("systemctl", "show", "--value", "--property=NRestarts", "kojira")) < 5


def test_every_build_tag_has_a_repo(host, config):
    """What kojira is there for. A first repo takes a builder some minutes, so a tag may have one in the making."""
    for target in host.ask(config["server"], "getBuildTargets"):
        tag = target["build_tag_name"]
        tasks = {"method": "newRepo", "state": [0, 1, 4]}
        assert host.ask(config["server"], "getRepo", tag) or host.ask(config["server"], "listTasks", tasks), (
            f"{tag} has no repo, and none is being made"
        )


def test_sees_the_volume(config, host):
    """It removes old repos there; where the volume is not mounted the disk of the hub fills."""
    assert host.run("test", "-w", f"{config['topdir']}/repos")


def test_certificate_is_roots(host, config):
    """It holds the permission to make repos of anything."""
    assert not host.reads("nobody", config["cert"])
    assert host.subject(config["cert"]).startswith("CN=kojira,")


def test_it_is_closed_up(host):
    """It is root, and deletes: outside of the volume and its log it can change nothing."""
    assert host.exposure("kojira.service") <= 2.5
