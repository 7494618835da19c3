"""Composes."""

import json

import pytest

CONFIG = "/etc/goose/compose.json"
PROGRAM = "/usr/local/lib/goose"


@pytest.fixture
def config(host):
    return json.loads(host.text(CONFIG))


@pytest.fixture
def user(host):
    return host.settings("mash")["user"]


@pytest.fixture
def httpd(host):
    return host.settings("common")["httpd"]


def test_composes_are_listed(host):
    """What people look at first."""
    status, body = host.get(f"https://{host.name}/compose/")
    assert status == 200 and "Index of" in body


def test_what_is_being_made_is_not_served(host):
    """Half a compose must not be seen by anybody."""
    assert host.get(f"https://{host.name}/compose/.compose/")[0] == 403


def test_only_its_user_writes(host, config, httpd, user):
    """Media that any program in Apache can replace are not worth a checksum."""
    host.says("test", "-w", config["output"], user=user)
    for other in (httpd["user"], "nobody"):
        assert not host.run("test", "-w", config["output"], user=other)


def test_what_it_imports_is_there(host, user):
    """Five modules of the distribution, any of which may be missing."""
    code = "import createrepo_c, libcomps, productmd.compose, productmd.treeinfo, rpm, solv"
    host.says("/usr/bin/python3", "-B", "-c", code, user=user)
    for program in ("xorriso", "implantisomd5", "checkisomd5", "rsync", "zstd"):
        host.says("sh", "-c", f"command -v {program}", user=user)


def test_configuration_is_taken(host, user):
    """The program refuses words before it looks at repositories, and its configuration before these."""
    done = host.run("/usr/bin/python3", "-B", f"{PROGRAM}/compose_iso.py", "1", "testing", "1", "--engine", "embedded",
                    "--date", "19700101", "--label", "RC-1.0", user=user)  # fmt: skip
    assert done.status == 2 and "belongs to no stage testing" in done.err


def test_what_is_published_is_whole(host, config, user):
    """Every medium has the checksum that stands beside it, and a tree that dnf reads."""
    links = host.says("find", config["output"], "-maxdepth", "1", "-name", "latest-*", "-type", "l").split()
    if not links:
        pytest.skip("nothing was composed here yet")
    for link in links:
        for path in host.says("find", "-L", f"{link}/compose", "-name", "*-CHECKSUM").split():
            host.says("sh", "-c", f"cd $(dirname {path}) && sha256sum --check --quiet {path}", user=user)
        for path in host.says("find", "-L", f"{link}/compose", "-path", "*/iso/*.iso").split():
            host.says("checkisomd5", path)
        name = link.rpartition("/")[2]
        assert host.get(f"https://{host.name}/compose/{name}/compose/metadata/composeinfo.json")[0] == 200


def test_timer(host):
    """A compose that nobody starts is one that nobody tests; without pillar there is no timer that runs."""
    timer = host.settings("pungi").get("timer")
    assert bool(host.run("systemctl", "is-active", "goose-compose.timer")) == bool(timer)
