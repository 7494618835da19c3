"""What `rebuild` composes of real builds: checked, installed from, and booted by BIOS and by UEFI.

The machine that boots it is qemu's, without hardware's help, which takes half a minute each.
"""

from __future__ import annotations

import hashlib
import subprocess
import time
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import productmd.compose
import pytest

from dnf_client import Dnf
from goose import signing_gpg
from goose.lab import lab as labs
from goose.lab.host import Host

if TYPE_CHECKING:
    from conftest import Command

FIRMWARE = "/usr/share/ovmf/OVMF.fd"
LABEL = "GoOSe-1-testing-rebuild-x86_64"
# Seconds; a loaded machine takes 35.
LIMIT = 240


@pytest.fixture(scope="module")
def iso(command: Command) -> dict[str, Any]:
    """What `lab rebuild --json` says of its medium; the samples may have been built by earlier tests."""
    found: dict[str, Any] = command.json("rebuild")["iso"]
    return found


@pytest.fixture(scope="module")
def composer(lab: labs.Lab) -> Host:
    return lab.need_role("pungi")


@pytest.fixture(scope="module")
def medium(iso: dict[str, Any], lab: labs.Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The DVD, downloaded as people do."""
    path = tmp_path_factory.mktemp("medium") / Path(urllib.parse.urlsplit(iso["url"]).path).name
    path.write_bytes(lab.get(iso["url"]))
    return path


def test_downloads_whole(iso: dict[str, Any], medium: Path, lab: labs.Lab, tmp_path: Path) -> None:
    """Size and checksum are those that `rebuild` prints and that the signed CHECKSUM file has; the medium knows its own."""
    assert medium.stat().st_size == iso["bytes"]
    assert hashlib.sha256(medium.read_bytes()).hexdigest() == iso["sha256"]
    signed = tmp_path / "CHECKSUM"
    version, arch = "1-testing-rebuild", "x86_64"
    signed.write_bytes(lab.get(f"{iso['url'].rpartition('/')[0]}/GoOSe-{version}-{arch}-CHECKSUM"))
    assert f"SHA256 ({medium.name}) = {iso['sha256']}" in signed.read_text()
    home = tmp_path / "gnupg"
    home.mkdir(mode=0o700)
    assert signing_gpg.gpg(["--import"], home, lab.public_key().encode()).returncode == 0
    assert b"Good signature" in signing_gpg.gpg(["--verify", str(signed)], home).stderr
    checked = subprocess.run(["checkisomd5", str(medium)], capture_output=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_metadata(iso: dict[str, Any], composer: Host) -> None:
    """productmd itself reads and validates every file of it."""
    name = urllib.parse.urlsplit(iso["url"]).path.split("/")[2]
    compose = productmd.compose.Compose(str(composer.root / "srv/compose" / name))
    for metadata in (compose.info, compose.images, compose.rpms):
        metadata.validate()
    (variant,) = compose.info.get_variants()
    assert variant.id == "Everything"
    # Beside the DVD that of the source packages.
    assert {image.arch for image in compose.images["Everything"]["x86_64"]} == {"x86_64", "src"}
    assert len(compose.rpms["Everything"]["x86_64"]) > 4


def test_packages_are_the_repositorys_own(composer: Host) -> None:
    """Hard links: a package of a compose takes no room of its own."""
    tree = "/srv/compose/latest-goose-1-testing/compose/Everything/x86_64/os"
    line = ["find", "-L", tree, "-name", "logrotate-3*", "-printf", "%n %i\n"]
    (found,) = composer.run(line).stdout.splitlines()
    links, number = found.split()
    assert int(links) > 1
    assert number in composer.run(["find", "-L", "/srv/repos/goose-1", "-inum", number, "-printf", "%i\n"]).stdout


def test_dnf_installs_from_its_tree(iso: dict[str, Any], lab: labs.Lab, tmp_path: Path) -> None:
    """Packages as they are signed, from the compose's own repository."""
    tree = f"{iso['url'].rpartition('/compose/')[0]}/compose/Everything/x86_64/os"
    dnf = Dnf(lab, tmp_path)
    key = tmp_path / "key"
    key.write_text(lab.public_key())
    dnf.repository("tree", f"baseurl={tree}\ngpgcheck=1\ngpgkey=file://{key}\n")
    dnf("install", "goose-release")
    assert (tmp_path / "root/etc/os-release").exists()


def test_again_is_the_same(iso: dict[str, Any], command: Command) -> None:
    """Byte by byte, and by another name only where Koji has made its repositories anew meanwhile."""
    again = command.json("rebuild")["iso"]
    assert (again["sha256"], again["bytes"]) == (iso["sha256"], iso["bytes"])


def boot(medium: Path, serial: Path, *words: str) -> str:
    """What the machine says on its serial port, up to the result of the check."""
    line = ["qemu-system-x86_64", "-accel", "tcg", "-m", "512", "-display", "none", "-nodefaults", "-vga", "std"]
    line += ["-no-reboot", "-serial", f"file:{serial}", *words]
    start = time.monotonic()
    with subprocess.Popen(line, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as machine:
        try:
            while time.monotonic() - start < LIMIT:
                said = serial.read_text(errors="replace") if serial.exists() else ""
                for number, found in enumerate(said.splitlines()):
                    if found.startswith("CHECK ") and number < len(said.splitlines()) - 1:
                        return said
                if machine.poll() is not None:
                    pytest.fail(f"qemu ended: {machine.stderr.read() if machine.stderr else ''}\n{said}")
                time.sleep(0.5)
        finally:
            machine.kill()
    return pytest.fail(f"no result within {LIMIT} s: {said[-2000:]}")


@pytest.mark.parametrize(("firmware", "drive"), [("bios", "disc"), ("uefi", "stick")])
def test_boots_and_checks_itself(medium: Path, tmp_path: Path, firmware: str, drive: str) -> None:
    """The boot loader, the kernel, the search for the label, isomd5sum's check, and a mount of it."""
    words = ["-bios", FIRMWARE] if firmware == "uefi" else []
    if drive == "disc":
        words += ["-drive", f"file={medium},format=raw,media=cdrom,readonly=on"]
    else:
        words += ["-drive", f"file={medium},format=raw,if=virtio,readonly=on"]
    said = boot(medium, tmp_path / "serial", *words)
    assert f"CHECK PASSED: the medium {LABEL} is whole and has " in said
    assert "It does not install a system." in said


def test_says_that_it_is_damaged(medium: Path, tmp_path: Path) -> None:
    """A byte of a package, and the machine tells."""
    damaged = tmp_path / "damaged.iso"
    content = bytearray(medium.read_bytes())
    at = content.rindex(b"logrotate-3")  # the lead of an RPM, behind all that boots
    content[at : at + 1] = b"X"
    damaged.write_bytes(content)
    said = boot(damaged, tmp_path / "serial", "-drive", f"file={damaged},format=raw,media=cdrom,readonly=on")
    assert f"CHECK FAILED: the medium {LABEL} is damaged" in said
