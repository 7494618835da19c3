"""The packager's command."""

import pytest


@pytest.fixture
def config(host):
    return host.config("/etc/rpkg/goosepkg.conf")


def test_runs_for_everybody(host):
    """It imports a dozen of modules from packages, any of which may be missing."""
    told = host.says("goosepkg", "--help", user="nobody")
    for command in ("clone", "import", "new-sources", "sources", "srpm", "local", "build"):
        assert command in told


def test_mock_is_offered_where_it_is(host):
    """A command that cannot run is worse than none."""
    offered = "mockbuild" in host.says("goosepkg", "--help", user="nobody")
    assert offered == bool(host.run("sh", "-c", "command -v mock"))


def test_addresses_answer(host, config):
    """Clones come from here, archives from there."""
    anonymous = config.get("goosepkg", "anongiturl").partition("/%(repo)s")[0]
    assert host.get(f"{anonymous}/")[0] in (200, 403, 404)
    assert config.get("goosepkg", "lookaside").startswith("https://")
    assert config.get("goosepkg", "lookasidehash") == "sha512"


def test_branches_have_targets(host, config):
    """A branch without a target cannot be built, and one whose target Koji lacks neither."""
    targets = dict(config.items("goosepkg.targets"))
    assert config.get("goosepkg", "default_branch") in targets
    known = {target["name"] for target in host.ask(host.config("/etc/koji.conf").get("koji", "server"), "getBuildTargets")}
    assert set(targets.values()) <= known


def test_server_is_taken_for_itself(host, config):
    """ssh asks a question where it does not know the host, and a program has no answer."""
    server = config.get("goosepkg", "gitbaseurl").split("@")[-1].split("/")[0]
    strict = [line.split()[1] for line in host.says("ssh", "-G", server).splitlines() if line.startswith("stricthost")]
    assert strict[0] in ("accept-new", "true", "yes")


def test_fetching_program(host):
    """As builders run it."""
    assert host.says("goose-fetch-sources", "--help", user="nobody")
