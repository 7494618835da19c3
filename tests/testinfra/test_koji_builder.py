"""A builder."""

import json
import time

import pytest


@pytest.fixture
def config(host):
    return host.config("/etc/kojid/kojid.conf")["kojid"]


def test_service(host):
    """A builder that is up without kojid is an idle machine."""
    assert host.runs("kojid")
    assert host.starts_at_boot("kojid")


def test_hub_hears_it(host, config):
    """kojid may run and be refused: the hub's own record says when it last heard of this host."""
    known = host.ask(config["server"], "getHost", host.name)
    assert known, f"the hub knows no host {host.name}"

    def heard():
        last = host.ask(config["server"], "getLastHostUpdate", known["id"], True)
        return last and time.time() - float(last) < 300

    host.becomes(heard, f"the hub to hear of {host.name}", seconds=60)


def test_builds_what_it_is_registered_for(host, config):
    """A host whose architectures its machine cannot run takes tasks and fails them."""
    machine = host.says("uname", "-m")
    arches = host.ask(config["server"], "getHost", host.name)["arches"].split()
    assert machine in arches or set(arches) == {"noarch"}


def test_mock_runs_as_the_build_user(host, config):
    """kojid starts mock as this user; where it may not, every build fails at once."""
    host.says("mock", "--version", user=config["mockuser"])
    for directory in (config.get("mockdir", "/var/lib/mock"), "/etc/mock/koji"):
        host.says("test", "-w", directory, user=config["mockuser"])


def test_build_user_is_no_more_than_that(host, config):
    """Builds are foreign code: what runs as this user must not become root, nor be the builder to the hub."""
    user = config["mockuser"]
    assert not host.run("sudo", "-n", "id", user=user)
    assert not host.reads(user, config["cert"])
    assert not host.reads(user, f"{host.pki}/host.key")


def test_tools(host):
    """newRepo tasks run createrepo_c, builds install with dnf, and each imports libraries of its own."""
    host.says("createrepo_c", "--version")
    host.says("rpmbuild", "--version")
    assert "rpm" in host.says("rpm", "--eval", "%{_rpmfilename}")


def test_no_rpm_of_an_earlier_build_gets_in(host):
    """dnf's plugin `local` offers what the host installed before, so that builds differ by builder."""
    config = host.config("/etc/dnf/plugins/local.conf")
    assert not config.getboolean("main", "enabled")


def test_reads_volume_and_files(host, config):
    """Repos are made on the volume; build roots are filled over HTTPS."""
    assert host.run("test", "-d", f"{config['topdir']}/repos")
    assert host.get(f"{config['topurl']}/")[0] == 200


def test_has_room(host, config):
    """Below `minspace` kojid takes no task and says so in its log alone."""
    line = host.says("df", "--output=avail", "-BM", config["workdir"]).splitlines()[-1]
    assert int(line.strip("M ")) > int(config.get("minspace", "8192"))


def test_old_build_roots_are_looked_for(host):
    """kojid leaves some behind for ever, half a gigabyte each."""
    assert host.runs("koji-clean-roots.timer")
    assert host.starts_at_boot("koji-clean-roots.timer")
    told = json.loads(host.says("/usr/local/lib/goose/koji_clean.py", "roots", "--dry-run", "--json"))
    assert told["failures"] == []
    if json.loads(host.text("/etc/goose/koji-clean.json"))["dry_run"]:
        host.says("systemctl", "start", "koji-clean-roots")


def test_sudo_gives_what_is_needed(host, config):
    """kojid's stand-in for mock is root's; nobody has any other right, and real mock needs none."""
    user = config["mockuser"]
    stand_in = not host.run("rpm", "-q", "mock") and not host.run("dpkg", "-s", "mock")
    wanted = {"koji-mock"} if stand_in else set()
    if not host.run("test", "-d", "/etc/sudoers.d"):
        assert not wanted
        return
    assert set(host.says("ls", "/etc/sudoers.d").split()) - {"README"} == wanted
    rules = [line.strip() for line in host.run("sudo", "-l", "-U", user).out.splitlines() if line.startswith("    (")]
    assert rules == (["(root) NOPASSWD: /usr/bin/mock"] if stand_in else [])
    # Groups that have rights by the distribution's own file.
    for group in ("sudo", "wheel", "admin"):
        members = host.run("getent", "group", group).out.strip().rpartition(":")[2]
        assert user not in members.split(",")
    for other in ("nobody", "mail"):
        assert "not allowed" in host.run("sudo", "-l", "-U", other).out
