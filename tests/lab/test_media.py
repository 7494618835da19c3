"""A composed medium in a machine: it boots by BIOS and by UEFI, as a disc and as a stick, and checks itself.

No host of the lab is needed: the machine is qemu's, without hardware's help, which takes half a minute each. Its
kernel is Debian's, out of the package archive.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from compose_doubles import Site, make

FIRMWARE = "/usr/share/ovmf/OVMF.fd"
LABEL = "GoOSe-1-Beta-RC4-x86_64"
# Seconds; a loaded machine takes 35.
LIMIT = 240


@pytest.fixture(scope="module")
def medium(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DVD with the lab's own boot media."""
    top = tmp_path_factory.mktemp("media")
    site = Site(top, make(top / "goose-1"))
    site.configure(boot={"kind": "lab", "kernel": {"package": "linux-image-cloud-amd64"}})
    told = site.told()
    assert told["installs"] is False
    return Path(told["iso"]["path"])


def boot(medium: Path, serial: Path, *words: str) -> str:
    """What the machine says on its serial port, up to the result of the check."""
    line = [
        "qemu-system-x86_64",
        "-accel",
        "tcg",
        "-m",
        "512",
        "-display",
        "none",
        "-nodefaults",
        "-vga",
        "std",
    ]
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


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
@pytest.mark.parametrize("drive", ["disc", "stick"])
def test_boots_and_checks_itself(medium: Path, tmp_path: Path, firmware: str, drive: str) -> None:
    """The boot loader, the kernel, the search for the label, isomd5sum's check, and a mount of it."""
    words = ["-bios", FIRMWARE] if firmware == "uefi" else []
    if drive == "disc":
        words += ["-drive", f"file={medium},format=raw,media=cdrom,readonly=on"]
    else:
        words += ["-drive", f"file={medium},format=raw,if=virtio,readonly=on"]
    said = boot(medium, tmp_path / "serial", *words)
    assert f"CHECK PASSED: the medium {LABEL} is whole and has 6 packages." in said
    assert "It does not install a system." in said


def test_says_that_it_is_damaged(medium: Path, tmp_path: Path) -> None:
    """A byte of a package, and the machine tells."""
    damaged = tmp_path / "damaged.iso"
    shutil.copyfile(medium, damaged)
    content = damaged.read_bytes()
    at = content.rindex(b"app-1.0-1")  # the lead of an RPM, behind all that boots
    with damaged.open("r+b") as stream:
        stream.seek(at)
        stream.write(b"X")
    said = boot(damaged, tmp_path / "serial", "-drive", f"file={damaged},format=raw,media=cdrom,readonly=on")
    assert f"CHECK FAILED: the medium {LABEL} is damaged" in said
