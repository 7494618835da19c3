"""A disk that is full, on each host that writes what others wait for; then there is space again.

Each host's directory is a small disk of its own for the while, with what was in it.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import ssl
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

from estate import Estate, ended, start_on
from goose.lab.host import Host
from koji_client import wait_for

Note = Callable[..., None]
LIB = "/usr/local/lib/goose"


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
            first = int(done.stdout.rpartition("Created task:")[2].split()[0])
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


def test_lookaside(estate: Estate, note: Note, client: Path) -> None:
    """An upload is refused with the reason, and leaves nothing; with room the same upload is taken."""
    host = estate.lab.need_role("lookaside")
    content = os.urandom(8 << 20)
    url = urllib.parse.urlsplit(estate.lab.services()["lookaside-upload"])

    def upload() -> tuple[int, str]:
        import hashlib

        edge = "edge"
        digest = hashlib.sha512(content).hexdigest()
        fields = (("name", "rpms/lab-fault"), ("sha512sum", digest))
        body = b"".join(
            f'--{edge}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            for name, value in fields
        )
        body += (
            f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="full.tar"\r\n\r\n'.encode()
        )
        body += content + f"\r\n--{edge}--\r\n".encode()
        context = ssl.create_default_context(cafile=str(client / "ca.pem"))
        context.load_cert_chain(client / "client.pem")
        connection = http.client.HTTPSConnection(url.hostname or "", timeout=60, context=context)
        with contextlib.closing(connection):
            connection.request(
                "POST", url.path, body, {"Content-Type": f"multipart/form-data; boundary={edge}"}
            )
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")

    top = "/srv/lookaside"
    before = host.run(["find", f"{top}/archives", f"{top}/incoming"]).stdout
    with small(host, top, 2048):
        status, text = upload()
        assert status in (500, 507) and "full" in text.lower() or "space" in text.lower(), (status, text)
        assert host.run(["find", f"{top}/archives", f"{top}/incoming"]).stdout == before
    assert upload()[0] == 200
    host.run(["rm", "-rf", f"{top}/archives/rpms/lab-fault"])
    note(
        "disk full",
        f"{host.name}: {top}",
        f"uploads are refused ({status}) and leave nothing behind",
        "room; sent again, it is taken",
    )


def test_compose(estate: Estate, note: Note) -> None:
    """mash and compose end with a sentence; what is published stays; with room they do it."""
    host = estate.lab.need_role("mash")
    before = estate.manifest("goose-1")
    directory = "/var/tmp/fault-full"
    prepare = (
        f"mkdir -p {directory} && cp /etc/mash/mash.conf {directory}/"
        f" && sed 's/^\\[goose-1\\]/[full]/' /etc/mash/goose-1.mash >{directory}/full.mash"
        f" && chown -R goose-mash {directory}"
    )
    host.run(["sh", "-c", prepare])
    mash = ["runuser", "-u", "goose-mash", "--", f"{LIB}/mash_repo.py", "full", "--config", directory]
    compose = [
        "runuser",
        "-u",
        "goose-mash",
        "--",
        f"{LIB}/compose_iso.py",
        "1",
        "testing",
        "full",
        "--force",
    ]
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
    host.run(["sh", "-c", "rm -rf /srv/repos/full* /srv/repos/.full*"])
    note(
        "disk full",
        f"{host.name}: /srv",
        "mash and compose end with 5 and name the file; what is published stays",
        "room; run again",
    )
