"""A disk that is full, on each host that writes what others wait for; then there is space again.

Each host's directory is a small disk of its own for the while, with what was in it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import rpkg_client
from estate import LOOKASIDE, Estate, Note, another_mash, compose_line, created, ended, mash_line, start_on
from goose.lab.host import Host
from koji_client import wait_for

# directory, KiB left: a small disk over it, with what was in it.
SMALL = """
set -e
kept=$(mktemp -d /var/tmp/small.XXXX)
cp -a "$1/." "$kept/"
used=$(du -sk "$kept" | cut -f1)
mount -t tmpfs -o size=$((used * 2 + $2 + 8192))k,nr_inodes=0 full "$1"
chown --reference="$kept" "$1"; chmod --reference="$kept" "$1"
cp -a "$kept/." "$1/"
rm -rf "$kept"
dd if=/dev/zero of="$1/.ballast" bs=64k 2>/dev/null || true
truncate -s "-$2K" "$1/.ballast"
"""


@contextlib.contextmanager
def small(host: Host, directory: str, free_kib: int) -> Iterator[None]:
    """``directory``, and what is in it, is on a disk that has so much room left."""
    host.run(["sh", "-c", SMALL, "small", directory, str(free_kib)])
    try:
        yield
    finally:
        # Who has a file open there has it until it is closed.
        host.run(["umount", "--lazy", directory])


def test_hub(estate: Estate, note: Note) -> None:
    """Uploads have no room: the build fails with the reason, or waits; with room it is built."""
    host = estate.lab.need_role("koji.hub")
    with small(host, "/mnt/koji/work", 64):
        done = estate.submit(
            "lab-fault-hubdisk",
            install="head -c 300000 /dev/urandom >%{buildroot}/usr/share/lab-fault-hubdisk/x",
        )
        if done.returncode == 0:
            # The source RPM has found room, and what is built of it will not.
            first = created(done.stdout)
            assert estate.hub.wait_for_task(first) == "FAILED"
        else:
            assert "No space left" in done.stderr + done.stdout, done
    number = estate.scratch("lab-fault-hubdisk")
    assert estate.hub.wait_for_task(number) == "CLOSED"
    note(
        "disk full",
        f"{host.name}: /mnt/koji",
        "uploads end with an error of the hub's",
        "room; sent again, it is built",
    )


def test_builder(estate: Estate, note: Note) -> None:
    """It takes no more tasks, and says so; the other builder has them."""
    builders = [host for host in estate.lab.hosts if "koji.builder" in host.roles]
    full, other = builders[:2]
    with small(full, "/var/lib/mock", 1024):
        since = time.time()
        said = ["journalctl", "--quiet", "--output=cat", f"--since=@{int(since)}", "--unit=kojid"]
        wait_for(
            lambda: "disk space" in full.run(said).stdout.lower() or None,
            "kojid to say that there is no room",
            60,
        )
        numbers = [estate.scratch(f"lab-fault-full{number}") for number in range(2)]
        assert [estate.hub.wait_for_task(number) for number in numbers] == ["CLOSED"] * 2
        for number in numbers:
            assert {task["host"] for task in estate.hub.children(number, "buildArch")} == {other.fqdn}
    estate.back()
    note(
        "disk full",
        f"{full.name}: /var/lib/mock",
        "kojid takes no task, and says why; the other builder has them",
        "room",
    )


def test_lookaside(estate: Estate, note: Note, client: Path, tmp_path: Path) -> None:
    """An upload is refused with the reason, and leaves nothing; with room the same upload is taken."""
    host = estate.lab.need_role("lookaside")
    services = estate.lab.services()
    urls = (services["lookaside"], services["lookaside-upload"])
    cache = rpkg_client.client(*urls, cert=client / "client.pem", ca=estate.lab.ca_path())
    archive = tmp_path / "full.tar"
    archive.write_bytes(os.urandom(8 << 20))
    digest = cache.hash_file(str(archive))
    top = LOOKASIDE
    listing = ["find", f"{top}/archives", f"{top}/incoming"]
    with small(host, top, 2048):
        before = host.run(listing).stdout
        # All that packagers' client says of an answer is its status: Insufficient Storage.
        with pytest.raises(rpkg_client.errors().UploadError, match="status 507"):
            cache.upload("rpms/lab-fault", str(archive), digest)
        assert host.run(listing).stdout == before
    cache.upload("rpms/lab-fault", str(archive), digest)
    assert cache.remote_file_exists("rpms/lab-fault", archive.name, digest)
    host.run(["rm", "-rf", f"{top}/archives/rpms/lab-fault"])
    note(
        "disk full",
        f"{host.name}: {top}",
        "uploads are refused with status 507, and leave nothing behind",
        "room; sent again, it is taken",
    )


def test_compose(estate: Estate, note: Note) -> None:
    """mash and compose end with a sentence; what is published stays; with room they do it."""
    host = estate.lab.need_role("mash")
    before = estate.manifest("goose-1")
    host.run(["sh", "-c", another_mash("full")])
    mash, compose = mash_line("full"), compose_line("full")
    with small(host, "/srv/repos", 48):
        status, said = ended(start_on(host, *mash))
        assert status == 5 and "No space left" in said, (status, said)
        assert estate.manifest("goose-1") == before
    with small(host, "/srv/compose", 512):
        status, said = ended(start_on(host, *compose))
        assert status == 5 and "space" in said, (status, said)
    for line in (mash, compose):
        status, said = ended(start_on(host, *line))
        assert status == 0, said
    assert estate.manifest("goose-1") == before
    host.run(["sh", "-c", "rm -rf /srv/repos/full /srv/repos/.mash/full"])
    note(
        "disk full",
        f"{host.name}: /srv",
        "mash and compose end with 5 and name the file; what is published stays",
        "room; run again",
    )
