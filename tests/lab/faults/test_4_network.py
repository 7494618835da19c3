"""A host's cable is pulled for two minutes: in a build, an upload, a signing and a mash."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator

from estate import SIGN, Estate, Note, another_mash, ended, mash_line, start_on
from goose.lab.host import Host
from koji_client import wait_for

CUT = 120


@contextlib.contextmanager
def cut(host: Host) -> Iterator[None]:
    """The other end of the host's cable is out of the switch, for two minutes from now or until all is done."""
    index = host.run(["cat", "/sys/class/net/host0/iflink"]).stdout.strip()
    lines = subprocess.run(
        ["ip", "-o", "link"], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    name = next(line.split()[1].partition("@")[0] for line in lines if line.startswith(f"{index}: "))
    begun = time.monotonic()
    subprocess.run(["ip", "link", "set", name, "down"], check=True)
    try:
        yield
        time.sleep(max(0, CUT - (time.monotonic() - begun)))
    finally:
        subprocess.run(["ip", "link", "set", name, "up"], check=True)


def test_build_and_signing(estate: Estate, note: Note) -> None:
    """A builder in the middle of a build, and the signing host with half of the packages signed."""
    builders = [host for host in estate.lab.hosts if "koji.builder" in host.roles]
    signer = estate.lab.need_role("sigul.client")
    estate.forget_signatures()
    wanted = len(estate.look().signatures)
    number = estate.scratch("lab-fault-cut", "touch begun", "sleep 20")

    def building() -> Host | None:
        return next(
            (
                host
                for host in builders
                if list(host.root.glob("var/lib/mock/*/root/builddir/build/BUILD/begun"))
            ),
            None,
        )

    builder = wait_for(building, "the build to begin", 120)
    line = f"{SIGN} --sigul-batch-size 2"
    signing = start_on(signer, "bash", "-euo", "pipefail", "-c", line)
    wait_for(lambda: len(estate.look().signatures) > wanted + 2, "some packages to be signed", 60, 0.1)
    with cut(builder), cut(signer):
        left = signing.poll() is None
    assert left, "all was signed before the cable was pulled"
    status, said = ended(signing, 600)
    if status:
        status, said = ended(start_on(signer, "bash", "-euo", "pipefail", "-c", line))
        how = "run again it signs what is left"
    else:
        how = "it waits, and goes on by itself"
    assert status == 0, said
    assert estate.hub.wait_for_task(number, 400) == "CLOSED"
    estate.back()
    note(
        "network away for two minutes",
        f"{builder.name}, in a build",
        "the build goes on",
        "the network: the result is reported then",
    )
    note("network away for two minutes", f"{signer.name}, in a signing", "no package is half signed", how)


def test_upload_and_mash(estate: Estate, note: Note) -> None:
    """A builder in the middle of an upload of its packages, and the host that asks Koji what a tag has."""
    maker = estate.lab.need_role("mash")
    work = estate.lab.record.root / "volumes/koji/work/tasks"
    size = 300 << 20
    number = estate.scratch(
        "lab-fault-upload",
        install=f"head -c {size} /dev/urandom >%{{buildroot}}/usr/share/lab-fault-upload/x",
    )
    maker.run(["sh", "-c", another_mash("cut")])
    before = estate.manifest("goose-1")

    def uploading() -> str | None:
        for task in estate.hub.children(number, "buildArch"):
            place = work / str(task["id"] % 10000) / str(task["id"])
            if task["state"] == "OPEN" and any(path.stat().st_size > 1 << 20 for path in place.glob("*.rpm")):
                return str(task["host"])
        return None

    name = wait_for(uploading, "an upload to begin", 200, 0.05)
    builder = next(host for host in estate.lab.hosts if host.fqdn == name)
    with cut(builder), cut(maker):
        mashing = start_on(maker, *mash_line("cut"))
    status, said = ended(mashing, 600)
    how = "it waits, and goes on by itself"
    if status:
        assert "oji" in said, said
        status, said = ended(start_on(maker, *mash_line("cut")))
        how = "run again it does all of it"
    assert status == 0, said
    assert estate.manifest("goose-1") == before
    assert estate.hub.wait_for_task(number, 600) == "CLOSED"
    estate.back()
    maker.run(["sh", "-c", "rm -rf /srv/repos/cut /srv/repos/.mash/cut"])
    note(
        "network away for two minutes",
        f"{builder.name}, in an upload",
        "the upload waits",
        "the network: it goes on",
    )
    note("network away for two minutes", f"{maker.name}, in a mash", "what is published stays", how)
