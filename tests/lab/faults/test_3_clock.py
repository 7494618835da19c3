"""One host's clock is a day off: a builder's, before and after what the hub has.

Hosts of a lab share the machine's clock, so that kojid has one of its own, by libfaketime.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from estate import SALT, Estate, Note
from goose.lab.host import Host
from koji_client import wait_for

DROP_IN = "/run/systemd/system/kojid.service.d/clock.conf"


@contextlib.contextmanager
def clock(host: Host, offset: str) -> Iterator[None]:
    """kojid and all that it starts have another time."""
    if host.run(["dpkg", "--status", "faketime"], check=False).returncode:
        host.run(["apt-get", "-q", "update"])
        host.run(["apt-get", "-q", "-y", "install", "--no-install-recommends", "faketime"])
    library = host.run(["sh", "-c", "echo /usr/lib/*/faketime/libfaketime.so.1"]).stdout.strip()
    host.run(["mkdir", "-p", DROP_IN.rpartition("/")[0]])
    host.run(
        ["tee", DROP_IN],
        stdin=f"[Service]\nEnvironment=LD_PRELOAD={library} FAKETIME={offset} FAKETIME_DONT_FAKE_MONOTONIC=1\n",
    )
    try:
        host.run(["systemctl", "daemon-reload"])
        host.run(["systemctl", "restart", "kojid"])
        yield
    finally:
        host.run(["rm", DROP_IN])
        host.run(["systemctl", "daemon-reload"])
        host.run(["systemctl", "restart", "kojid"])


@pytest.fixture
def alone(estate: Estate) -> Iterator[Host]:
    """A builder; the others are out of work."""
    first, *others = [host for host in estate.lab.hosts if "koji.builder" in host.roles]
    admin = estate.lab.need_role("koji.content")
    program = f"{SALT}/koji_builder.py"
    for host in others:
        admin.run([program, "drain", host.fqdn, "--reason", "lab test"])
    yield first
    for host in others:
        admin.run([program, "enable", host.fqdn])


def test_a_day_ahead(estate: Estate, note: Note, alone: Host) -> None:
    """It builds as ever: what counts is the hub's time."""
    with clock(alone, "+1d"):
        number = estate.scratch(
            "lab-fault-ahead", "date +%s >now", install="cp now %{buildroot}/usr/share/lab-fault-ahead/"
        )
        assert estate.hub.wait_for_task(number) == "CLOSED"
        (task,) = estate.hub.children(number, "buildArch")
        assert abs(float(task["completion_ts"]) - time.time()) < 600
    estate.back()
    note("clock a day ahead", alone.name, "it builds; the hub's time is what counts", "the right time")


def test_a_day_behind(estate: Estate, note: Note, alone: Host) -> None:
    """The hub's certificate is not valid yet for it: it takes nothing, and says why; once it knows the time it builds."""
    since = time.time()
    with clock(alone, "-1d"):
        said = ["journalctl", "--quiet", "--output=cat", f"--since=@{int(since)}", "--unit=kojid"]
        wait_for(
            lambda: "not yet valid" in alone.run(said).stdout or None, "kojid to say what it takes amiss", 60
        )
        number = estate.scratch("lab-fault-behind")
    assert estate.hub.wait_for_task(number) == "CLOSED"
    estate.back()
    note(
        "clock a day behind",
        alone.name,
        "it takes no certificate for valid yet, and no task",
        "the right time: it is built then",
    )
