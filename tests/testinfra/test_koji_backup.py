"""Backups of what a host has."""

import json

import pytest

CONFIG = "/etc/goose/backup.json"
PROGRAM = "/usr/local/lib/goose/koji_backup.py"
RESTORE = "/usr/local/lib/goose/koji_restore.py"


@pytest.fixture
def config(host):
    return json.loads(host.text(CONFIG))


@pytest.fixture
def generation(host, config):
    """The newest generation; the first is made here where no timer has yet."""
    rows = json.loads(host.says(PROGRAM, "list", "--json"))["generations"]
    if not rows:
        host.says("systemctl", "start", "koji-backup.service")
        rows = json.loads(host.says(PROGRAM, "list", "--json"))["generations"]
    return f"{config['path']}/{host.name}/{rows[-1]['generation']}", rows[-1]


@pytest.mark.parametrize("unit", ["koji-backup", "koji-backup-verify"])
def test_timers(host, unit):
    """A backup that somebody must remember is none."""
    assert host.runs(f"{unit}.timer")
    assert host.starts_at_boot(f"{unit}.timer")
    assert not host.run("systemctl", "is-failed", f"{unit}.service")


def test_parts_follow_from_roles(host, config):
    """What is not named here is lost with the host."""
    wanted = {"koji.hub": {"database", "volume"}, "scm": {"git"}, "lookaside": {"lookaside"}, "pki.ca": {"ca"},
              "sigul.server": {"sigul"}, "sigul.client": {"signing"}}
    assert set(config["parts"]) == set().union(*(wanted.get(role, set()) for role in host.roles))


def test_dry_run(host, config):
    """The configuration can be read, and the place is there."""
    told = json.loads(host.says(PROGRAM, "run", "--dry-run", "--json"))
    assert told["parts"] == sorted(config["parts"])


def test_newest_is_good(host, generation):
    """Everything that it names is there, the database can be read, each complete build has its files."""
    path, about = generation
    done = host.run(PROGRAM, "verify", "--no-hash", "--json")
    verdict = json.loads(done.out)
    assert verdict["good"], verdict
    if "koji" in about:
        assert verdict["complete_builds"] == about["koji"]["complete_builds"]


def test_backups_are_closed(host, generation):
    """Koji's database and what packagers have pushed is not for every user of the host."""
    path, _ = generation
    assert host.access(path) == "root:root 700"
    # Who watches the age of backups sees their names.
    assert host.access(path.rpartition("/")[0]) == "root:root 755"
    assert not host.run("ls", path, user="nobody")


def test_secrets_are_sealed(host, config, generation):
    """Who has the backup alone can sign nothing; and the key that opens it is not on the host."""
    path, _ = generation
    sealed = [name for name, part in config["parts"].items() if part["kind"] == "sealed"]
    if not sealed:
        pytest.skip("this host has no secrets to back up")
    for name in sealed:
        said = host.run("gpg", "--batch", "--list-only", "--list-packets", f"{path}/{name}.tar.gpg").out
        assert ":pubkey enc packet:" in said, f"{name} is readable"
    done = host.run(RESTORE, "--part", sealed[0], "--into", "/run/goose-testinfra")
    host.says("rm", "-rf", "/run/goose-testinfra")
    assert done.status == 3 and "was not opened" in done.err


def test_host_that_is_not_empty_is_not_restored(host, config, generation):
    """One wrong command must not replace a hub by what it was last night."""
    part = next((name for name, part in config["parts"].items() if part["kind"] in ("database", "sealed")), "")
    if not part:
        pytest.skip("what this host backs up may be empty")
    done = host.run(RESTORE, "--dry-run", "--part", part)
    assert done.status == 2 and f"--over {host.name}" in done.err
