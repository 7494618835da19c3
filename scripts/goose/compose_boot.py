"""What makes a medium boot: of lorax on Enterprise Linux, of an install tree that is there, or the lab's own.

The lab's own is a kernel, busybox and ``checkisomd5``: it boots by BIOS and by UEFI, finds its medium by the
volume label, checks it, and says that it does not install. Anaconda comes from lorax alone.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from goose.compose_config import Boot as Settings

# The first that is there: Debian's place, EL's.
ISOLINUX = ("/usr/lib/ISOLINUX/isolinux.bin", "/usr/share/syslinux/isolinux.bin")
LDLINUX = ("/usr/lib/syslinux/modules/bios/ldlinux.c32", "/usr/share/syslinux/ldlinux.c32")
MBR = ("/usr/lib/ISOLINUX/isohdpfx.bin", "/usr/share/syslinux/isohdpfx.bin")
GRUB_DIRECTORIES = ("/usr/lib/grub/x86_64-efi",)
_GRUB_MODULES = (
    "all_video",
    "boot",
    "configfile",
    "echo",
    "fat",
    "iso9660",
    "linux",
    "ls",
    "normal",
    "part_gpt",
    "part_msdos",
    "reboot",
    "search",
    "search_label",
    "serial",
    "terminal",
    "test",
)
# What a medium may be in: a drive by IDE, SATA, SCSI, or what qemu calls virtio, or a stick.
_MODULES = (
    "isofs",
    "sr_mod",
    "sd_mod",
    "ata_piix",
    "ata_generic",
    "ahci",
    "virtio_pci",
    "virtio_blk",
    "virtio_scsi",
    "usb_storage",
    "uas",
    "xhci_pci",
    "ehci_pci",
    "uhci_hcd",
)
# UEFI firmware wants a FAT of this size at least to take it for FAT16.
_EFI_KIB = 16 * 1024

_LABEL = re.compile(r"((?:hd:|CD)LABEL=)[^\s:]+")
_SEARCH = re.compile(r"(search\b.*?(?:-l|--label)\s+)('[^']*'|\"[^\"]*\"|\S+)")


class BootError(Exception):
    """Boot media that cannot be had: a sentence."""


@dataclass(frozen=True)
class Boot:
    """Boot media, in a directory that is laid over the top of a tree."""

    directory: Path
    kind: str
    images: Mapping[str, str]
    """What .treeinfo calls kernel, initrd, efiboot.img …: paths."""
    stage2: str = ""
    installs: bool = False
    """Whether it brings an installer."""

    @property
    def bios(self) -> str:
        """The El Torito image for BIOS; empty: none."""
        return next(
            (
                one
                for one in ("isolinux/isolinux.bin", "images/eltorito.img")
                if (self.directory / one).is_file()
            ),
            "",
        )

    @property
    def efi(self) -> str:
        """That for UEFI; empty: none."""
        return "images/efiboot.img" if (self.directory / "images/efiboot.img").is_file() else ""


def run(
    words: Sequence[str],
    what: str,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    error: type[Exception] = BootError,
) -> str:
    """Standard output of a program.

    Raises:
        Exception: ``error``, with a sentence, where it fails.
    """
    try:
        done = subprocess.run(
            list(words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            cwd=cwd,
            env={**os.environ, **(environment or {}), "LC_ALL": "C"},
        )
    except OSError as fault:
        raise error(f"{what}: {words[0]} cannot be run ({fault.strerror}): apply the state pungi.") from fault
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        told = [line for line in lines if re.search(r"FAILURE|FATAL|SORRY|ERROR|error", line)]
        last = (told or lines or ["it said nothing"])[-1].strip()
        raise error(f"{what}: {words[0]} ended with status {done.returncode}: {last}")
    return done.stdout


def _first(paths: Sequence[str], what: str) -> Path:
    for path in paths:
        if os.path.exists(path):
            return Path(path)
    raise BootError(f"{what} is missing ({' or '.join(paths)}): apply the state pungi.")


# An install tree


def _relabel(directory: Path, label: str, work: Path) -> None:
    """Have the boot loaders' configuration look for this label, that on the EFI image too."""
    for path in sorted(one for one in directory.rglob("*") if one.is_file()):
        if path.name in ("isolinux.cfg", "grub.cfg", "grub.conf", "BOOTX64.conf"):
            new = relabelled(path.read_text(encoding="utf-8"), label)
            path.unlink()  # a hard link to the tree that was given
            path.write_text(new, encoding="utf-8")
    image = directory / "images/efiboot.img"
    if image.is_file():
        copy = work / "efiboot.img"
        shutil.copyfile(image, copy)
        for name in ("grub.cfg", "BOOT.conf"):
            inside = f"::/EFI/BOOT/{name}"
            out = work / name
            try:
                run(["mcopy", "-n", "-i", str(copy), inside, str(out)], "The EFI image")
            except BootError:
                continue
            out.write_text(relabelled(out.read_text(encoding="utf-8"), label), encoding="utf-8")
            run(["mcopy", "-o", "-i", str(copy), str(out), inside], "The EFI image")
        image.unlink()
        copy.replace(image)


def relabelled(text: str, label: str) -> str:
    """A boot loader's configuration for a medium of this label."""
    text = _LABEL.sub(lambda found: found.group(1) + label.replace(" ", r"\x20"), text)
    return _SEARCH.sub(lambda found: f"{found.group(1)}'{label}'", text)


def from_tree(tree: Path, label: str, arch: str, work: Path, kind: str = "tree") -> Boot:
    """The boot media of an install tree, such as lorax makes.

    Raises:
        BootError: where it has none.
    """
    import productmd.treeinfo

    info = productmd.treeinfo.TreeInfo()
    try:
        info.load(str(tree / ".treeinfo"))
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise BootError(f"{tree} is no install tree: its .treeinfo cannot be read ({error}).") from error
    if info.tree.arch != arch:
        raise BootError(f"The install tree {tree} is of {info.tree.arch}, and the compose of {arch}.")
    out = work / "boot"
    for name in ("images", "isolinux", "EFI", "boot"):
        if (tree / name).is_dir():
            shutil.copytree(tree / name, out / name)
    images = dict(info.images.images.get(arch, {}))
    for path in (*images.values(), *([info.stage2.mainimage] if info.stage2.mainimage else [])):
        if not (out / path).is_file():
            raise BootError(f"The install tree {tree} names {path} in its .treeinfo, and does not have it.")
    # The medium that lorax makes beside: the compose makes its own.
    boot_iso = out / "images/boot.iso"
    if boot_iso.is_file():
        boot_iso.unlink()
        images = {name: path for name, path in images.items() if path != "images/boot.iso"}
    _relabel(out, label, work)
    found = Boot(out, kind, images, info.stage2.mainimage or "", bool(info.stage2.mainimage))
    if not found.bios and not found.efi:
        raise BootError(
            f"The install tree {tree} has neither isolinux, images/eltorito.img nor images/efiboot.img."
        )
    return found


def from_lorax(settings: Settings, values: Mapping[str, str], label: str, arch: str, work: Path) -> Boot:
    """Have lorax make boot media.

    Args:
        values: what stands for {name}, {version} … in the command.

    Raises:
        BootError: where it does not.
    """
    out = work / "lorax"
    names = {**values, "label": label, "arch": arch, "out": str(out)}
    try:
        words = [word.format(**names) for word in settings.command]
    except (KeyError, IndexError, ValueError) as error:
        raise BootError(
            f"boot.command has a placeholder that there is not ({error}): use {', '.join(names)}."
        ) from error
    run(words, "Boot media")
    return from_tree(out, label, arch, work, "lorax")


# The lab's own

_INIT = """\
#!/bin/sh
# Checks the medium that it was booted from. It installs nothing.
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
# To every console that the kernel has.
say() { for one in $(cat /sys/class/tty/console/active); do printf '%s\\r\\n' "$*" >"/dev/$one"; done; }
stop() { say 'Press Enter to switch off.'; read -r _ </dev/console; poweroff -f; }
for module in $(cat /modules/order); do insmod "/modules/$module" 2>/dev/null; done
say ''
say "@TITLE@"
say 'This medium is of a lab: it boots and checks itself. It does not install a system.'
medium=
for _ in $(seq 150); do
    for device in /dev/sr* /dev/sd* /dev/vd*; do
        [ -b "$device" ] || continue
        # The volume label: byte 40 of sector 16.
        found=$(dd if="$device" bs=1 skip=32808 count=32 2>/dev/null | sed 's/ *$//')
        if [ "$found" = "@LABEL@" ]; then medium=$device; break 2; fi
    done
    usleep 200000
done
if [ -z "$medium" ]; then
    say "CHECK FAILED: no medium with the label @LABEL@ was found."
    stop
fi
say "Checking $medium (@LABEL@) ..."
if checkisomd5 "$medium" </dev/null >/check 2>&1; then
    mkdir /medium
    if mount -t iso9660 -o ro "$medium" /medium; then
        say "CHECK PASSED: the medium @LABEL@ is whole and has $(find /medium -name '*.rpm' | wc -l) packages."
    else
        say "CHECK FAILED: the medium @LABEL@ is whole and cannot be mounted."
    fi
else
    say "CHECK FAILED: the medium @LABEL@ is damaged: $(tail -n 1 /check)"
fi
stop
"""


@dataclass(frozen=True)
class Kernel:
    """A kernel, and the directory of its modules."""

    image: Path
    modules: Path


def find_kernel(settings: Settings, cache: Path) -> Kernel:
    """The lab's kernel; that of a package is downloaded and unpacked in the cache, and never installed.

    Raises:
        BootError: where there is none.
    """
    wish = settings.kernel
    if not wish.package:
        kernel = Kernel(Path(wish.path), Path(wish.modules))
        if not kernel.image.is_file() or not kernel.modules.is_dir():
            raise BootError(f"boot.kernel names {wish.path} and {wish.modules}, which are not both there.")
        return kernel
    kept = cache / "kernel"
    kept.mkdir(parents=True, exist_ok=True)
    name = _current_package(wish.package)
    target = kept / name
    if not target.is_dir():
        partial = kept / ".new"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        run(["apt-get", "-q", "-o", "Acquire::Retries=3", "download", name], "The kernel", cwd=partial)
        (archive,) = partial.glob("*.deb")
        run(["dpkg-deb", "--extract", str(archive), str(partial / "root")], "The kernel")
        root = partial / "root"
        if len(list(root.glob("lib/modules/*"))) != 1 or len(list(root.glob("boot/vmlinuz-*"))) != 1:
            raise BootError(
                f"The package {name} does not hold one kernel: name another one in boot.kernel.package."
            )
        archive.unlink()
        partial.replace(target)
    images, modules_ = list(target.glob("root/boot/vmlinuz-*")), list(target.glob("root/lib/modules/*"))
    if len(images) != 1 or len(modules_) != 1:
        raise BootError(f"{target} does not hold one kernel: remove it, and it is made again.")
    return Kernel(images[0], modules_[0])


def _current_package(name: str) -> str:
    """The package that a meta-package stands for today: linux-image-cloud-amd64 -> linux-image-6.1.0-30-cloud-amd64."""
    told = run(["apt-cache", "--no-recommends", "--no-suggests", "depends", name], "The kernel")
    found = re.findall(r"^ +Depends: (linux-image-\S+)$", told, re.MULTILINE)
    return found[0] if found else name


def _modules(kernel: Kernel) -> dict[str, bytes]:
    """The modules that are wanted and built as such, each after what it needs: name -> content.

    What a module needs stands in itself; `modules.dep` is made where a kernel is installed, and so not here.
    """
    paths = {path.name.split(".ko")[0].replace("-", "_"): path for path in kernel.modules.rglob("*.ko*")}
    found: dict[str, bytes] = {}

    def add(name: str) -> None:
        name = name.replace("-", "_")
        if name in found or name not in paths:
            return
        data = paths[name].read_bytes()
        if paths[name].suffix == ".xz":
            data = lzma.decompress(data)
        needs = re.search(rb"\0depends=([^\0]*)\0", data)
        for need in needs.group(1).decode().split(",") if needs else []:
            add(need)
        found[name] = data

    for name in _MODULES:
        add(name)
    return found


def _libraries(program: Path) -> Iterator[Path]:
    for path in re.findall(r"(/\S+)", run(["ldd", str(program)], "The check of media")):
        yield Path(path)


def _program(name: str) -> Path:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if not found:
        raise BootError(f"{name} is missing: apply the state pungi.")
    return Path(found)


def _initramfs(title: str, label: str, kernel: Kernel, work: Path, out: Path, epoch: int) -> None:
    root = work / "initramfs"
    for name in ("bin", "proc", "sys", "dev", "modules", "tmp"):
        (root / name).mkdir(parents=True)
    busybox = _program("busybox")
    # Of a static program ldd says that it is none for it.
    if subprocess.run(["ldd", str(busybox)], capture_output=True, check=False).returncode == 0:
        raise BootError(f"{busybox} is no static busybox: install busybox-static.")
    shutil.copyfile(busybox, root / "bin/busybox")
    (root / "bin/busybox").chmod(0o755)
    for name in (
        "sh",
        "mount",
        "cat",
        "printf",
        "insmod",
        "seq",
        "dd",
        "sed",
        "usleep",
        "mkdir",
        "find",
        "wc",
        "tail",
        "poweroff",
    ):
        (root / "bin" / name).symlink_to("busybox")
    check = _program("checkisomd5")
    shutil.copyfile(check, root / "bin/checkisomd5")
    (root / "bin/checkisomd5").chmod(0o755)
    for path in _libraries(check):
        target = root / str(path).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        target.chmod(0o755)
    modules = _modules(kernel)
    for name, data in modules.items():
        (root / f"modules/{name}.ko").write_bytes(data)
    (root / "modules/order").write_text("".join(f"{name}.ko\n" for name in modules), encoding="ascii")
    text = _INIT.replace("@TITLE@", title).replace("@LABEL@", label)
    (root / "init").write_text(text, encoding="utf-8")
    (root / "init").chmod(0o755)
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    for name in [*names, "."]:
        os.utime(root / name, (epoch, epoch), follow_symlinks=False)
    listing = "\n".join(names) + "\n"
    try:
        packed = subprocess.run(
            ["cpio", "--quiet", "--create", "--format=newc", "--reproducible", "--owner=0:0"],
            cwd=root,
            input=listing.encode(),
            capture_output=True,
            check=True,
        ).stdout
        packed = subprocess.run(
            ["gzip", "--no-name", "-6"], input=packed, capture_output=True, check=True
        ).stdout
    except subprocess.CalledProcessError as error:
        raise BootError(
            f"The initramfs: {error.cmd[0]} failed: {error.stderr.decode(errors='replace').strip()}"
        ) from error
    except OSError as error:
        raise BootError(
            f"The initramfs: {error.filename} cannot be run ({error.strerror}): apply the state pungi."
        ) from error
    out.write_bytes(packed)


def _efi(label: str, work: Path, out: Path, epoch: int) -> None:
    """GRUB on a FAT image; its configuration lies on the medium."""
    modules = _first(GRUB_DIRECTORIES, "GRUB for UEFI")
    early = work / "early.cfg"
    early.write_text(
        f"search --no-floppy --set=root --label '{label}'\nset prefix=($root)/EFI/BOOT\nconfigfile"
        " ($root)/EFI/BOOT/grub.cfg\n",
        encoding="ascii",
    )
    mkimage = next((name for name in ("grub-mkimage", "grub2-mkimage") if shutil.which(name)), "grub-mkimage")
    loader = work / "BOOTX64.EFI"
    run(
        [
            mkimage,
            "--format=x86_64-efi",
            f"--directory={modules}",
            "--prefix=/EFI/BOOT",
            f"--config={early}",
            f"--output={loader}",
            *(name for name in _GRUB_MODULES if (modules / f"{name}.mod").is_file()),
        ],
        "GRUB for UEFI",
    )
    os.utime(loader, (epoch, epoch))
    # mtools takes the times of directories from here, and the volume's number is given.
    environment = {"SOURCE_DATE_EPOCH": str(epoch), "TZ": "UTC", "MTOOLS_SKIP_CHECK": "1"}
    number = hashlib.sha256(label.encode()).hexdigest()[:8]
    with out.open("wb") as stream:
        stream.truncate(_EFI_KIB * 1024)
    run(
        ["mformat", "-i", str(out), "-N", number, "-v", "GOOSE-EFI", "::"],
        "The EFI image",
        environment=environment,
    )
    run(["mmd", "-i", str(out), "::/EFI", "::/EFI/BOOT"], "The EFI image", environment=environment)
    run(
        ["mcopy", "-m", "-i", str(out), str(loader), "::/EFI/BOOT/BOOTX64.EFI"],
        "The EFI image",
        environment=environment,
    )


def lab(title: str, label: str, kernel: Kernel, work: Path, epoch: int) -> Boot:
    """The lab's own boot media.

    Raises:
        BootError: where something that they are made of is missing.
    """
    work.mkdir(parents=True)
    out = work / "boot"
    for name in ("images/pxeboot", "isolinux", "EFI/BOOT"):
        (out / name).mkdir(parents=True)
    shutil.copyfile(kernel.image, out / "images/pxeboot/vmlinuz")
    _initramfs(title, label, kernel, work, out / "images/pxeboot/initrd.img", epoch)
    shutil.copyfile(_first(ISOLINUX, "isolinux"), out / "isolinux/isolinux.bin")
    shutil.copyfile(_first(LDLINUX, "isolinux"), out / "isolinux/ldlinux.c32")
    append = "console=tty0 console=ttyS0,115200 quiet panic=30"
    (out / "isolinux/isolinux.cfg").write_text(
        "serial 0 115200\ndefault check\nprompt 0\ntimeout 1\nlabel check\n"
        f"  kernel /images/pxeboot/vmlinuz\n  append initrd=/images/pxeboot/initrd.img {append}\n",
        encoding="ascii",
    )
    (out / "EFI/BOOT/grub.cfg").write_text(
        "serial --unit=0 --speed=115200\nterminal_output console serial\nset timeout=0\n"
        f"menuentry 'Check this medium' {{\n  linux /images/pxeboot/vmlinuz {append}\n"
        "  initrd /images/pxeboot/initrd.img\n}\n",
        encoding="ascii",
    )
    _efi(label, work, out / "images/efiboot.img", epoch)
    shutil.copyfile(work / "BOOTX64.EFI", out / "EFI/BOOT/BOOTX64.EFI")
    images = {
        "kernel": "images/pxeboot/vmlinuz",
        "initrd": "images/pxeboot/initrd.img",
        "efiboot.img": "images/efiboot.img",
    }
    return Boot(out, "lab", images)


def fingerprint(settings: Settings, arch: str, find: Callable[[], Kernel]) -> str:
    """What boot media are made of, for telling whether a compose would come out the same."""
    if settings.kind == "lab":
        kernel = find()
        return f"lab {kernel.image.name} {kernel.image.stat().st_size} {hashlib.sha256(_INIT.encode()).hexdigest()}"
    if settings.kind == "tree":
        path = Path(settings.tree.format(arch=arch)) / ".treeinfo"
        try:
            return f"tree {hashlib.sha256(path.read_bytes()).hexdigest()}"
        except OSError as error:
            raise BootError(
                f"{path.parent} is no install tree: {path} cannot be read ({error.strerror})."
            ) from error
    return json.dumps([settings.kind, settings.command])
