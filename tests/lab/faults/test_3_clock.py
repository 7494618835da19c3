"""One host's clock is a day off: a builder's, before and after what the hub has.

Hosts of a lab share the machine's clock, so that kojid has one of its own, by a library that is loaded before
libc. (libfaketime would do, and makes Python's sleep fail.)
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from estate import SALT, Estate, Note
from goose.lab.host import Host
from koji_client import wait_for

DAY = 86400
DROP_IN = "/run/systemd/system/kojid.service.d/clock.conf"
LIBRARY = "/usr/local/lib/lab-clock.so"
SOURCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t id, struct timespec *now)
{
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int rc = real(id, now);
    const char *by = getenv("LAB_CLOCK");
    if (!rc && by && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += atol(by);
    return rc;
}

time_t time(time_t *into)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (into) *into = now.tv_sec;
    return now.tv_sec;
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clock") / "clock.so"
    compiler = ["gcc", "-shared", "-fPIC", "-o", str(path), "-x", "c", "-", "-ldl"]
    subprocess.run(compiler, input=SOURCE, text=True, check=True)
    return path


@contextlib.contextmanager
def clock(host: Host, library: Path, offset: int) -> Iterator[None]:
    """kojid and all that it starts have another time, by so many seconds."""
    (host.root / LIBRARY.lstrip("/")).write_bytes(library.read_bytes())
    host.run(["mkdir", "-p", DROP_IN.rpartition("/")[0]])
    host.run(["tee", DROP_IN], stdin=f"[Service]\nEnvironment=LD_PRELOAD={LIBRARY} LAB_CLOCK={offset}\n")
    try:
        host.run(["systemctl", "daemon-reload"])
        host.run(["systemctl", "restart", "kojid"])
        yield
    finally:
        host.run(["rm", DROP_IN, LIBRARY])
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


def test_a_day_ahead(estate: Estate, note: Note, alone: Host, library: Path) -> None:
    """It builds as ever: what counts is the hub's time."""
    with clock(alone, library, DAY):
        number = estate.scratch(
            "lab-fault-ahead", "date +%s >now", install="cp now %{buildroot}/usr/share/lab-fault-ahead/"
        )
        assert estate.hub.wait_for_task(number) == "CLOSED"
        (task,) = estate.hub.children(number, "buildArch")
        assert abs(float(task["completion_ts"]) - time.time()) < 600
    estate.back()
    note("clock a day ahead", alone.name, "it builds; the hub's time is what counts", "the right time")


def test_a_day_behind(estate: Estate, note: Note, alone: Host, library: Path) -> None:
    """The hub's certificate is not valid yet for it: it takes nothing, and says why; once it knows the time it builds."""
    since = time.time()
    with clock(alone, library, -DAY):
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
