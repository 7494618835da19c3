"""testinfra, as `scripts/lab test` runs it for a person: in the environment that this run has made."""

from __future__ import annotations

import re
from typing import Any

from goose.lab import lab as labs


def test_every_role_of_every_host(command: Any) -> None:
    """Each host by its roles; what fails here names what is broken on which host."""
    done = command("test", "-q", "--tb=short", "-n", "4", check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert not re.search(r"\d+ failed|\d+ error", done.stdout)


def test_hosts_get_the_files_of_their_roles(command: Any, lab: labs.Lab) -> None:
    """A check on a host that has not the role would fail, or pass and mean nothing."""
    done = command("test", "--collect-only", "-q")
    found: dict[str, set[str]] = {}
    for file, host in re.findall(r"test_(\w+)\.py::\w+\[([\w.]+)", done.stdout):
        found.setdefault(host, set()).add(file)
    # The lab is watched, and so each of its hosts.
    every = ("common", "pki", "monitoring.exporter")
    assert found == {host.fqdn: {role.replace(".", "_") for role in (*host.roles, *every)} for host in lab.hosts}


def test_damage_is_seen(command: Any, lab: labs.Lab) -> None:
    """The exit status is pytest's: 1 where a check fails, on this host and for this reason."""
    host = lab.hosts[-1]
    host.run(["systemctl", "stop", "logrotate.timer"])
    try:
        done = command("test", host.name, "-q", "-k", "logs_are_rotated", check=False)
    finally:
        host.run(["systemctl", "start", "logrotate.timer"])
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"FAILED tests/testinfra/test_common.py::test_logs_are_rotated[{host.fqdn}]" in done.stdout
    assert "1 failed" in done.stdout


def test_nothing_matches(command: Any, lab: labs.Lab) -> None:
    """5 is pytest's for nothing run: no success."""
    assert command("test", lab.hosts[0].name, "-q", "-k", "no_such_check", check=False).returncode == 5
