"""DVDs: one file of ISO 9660 each, by xorriso, with isomd5sum's checksum implanted and a CHECKSUM beside.

Same input, same bytes: all dates are the compose's epoch, and files lie on the medium in an order that is given,
not in that of their inodes.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from goose import compose_boot
from goose.compose_boot import MBR, Boot
from goose.compose_config import Medium
from goose.compose_gather import Comps
from goose.compose_input import Package, sha256
from goose.compose_tree import (
    About,
    Image,
    Layout,
    checksum_file,
    discinfo,
    extra_files,
    place,
    repository,
    treeinfo,
    within,
)

SECTOR = 2048
# isomd5sum reads pieces of 32 KiB and keeps sums of 20 parts: of a medium that is too small for these it
# implants sums that its own check then refuses.
SMALL = 2 << 20


class MediaError(Exception):
    """A medium that cannot be made: a sentence."""


run = partial(compose_boot.run, error=MediaError)


# What lies on a medium


def content(top: Path) -> dict[str, Path]:
    """Path on the medium -> file, of a directory, sorted."""
    found = {}
    for directory, names, files in os.walk(top):
        names.sort()
        for name in sorted(files):
            path = Path(directory, name)
            found[path.relative_to(top).as_posix()] = path
    return dict(sorted(found.items(), key=lambda entry: _order(entry[0])))


def _order(name: str) -> tuple[int, str]:
    """Where a file lies: what is read first at boot and by dnf comes first."""
    top = name.partition("/")[0]
    boots = top in ("isolinux", "EFI", "boot", "images") or "/" not in name
    return (0 if boots else 1 if "/repodata/" in f"/{name}" else 2, name)


def _quoted(path: str) -> str:
    """A path in a list of grafts: xorriso takes = and the backslash for its own."""
    return path.replace("\\", "\\\\").replace("=", "\\=")


def _words(label: str, epoch: int, boot: Boot | None) -> list[str]:
    stamp = datetime.fromtimestamp(epoch, timezone.utc).strftime("%Y%m%d%H%M%S00")
    words = [
        "-iso-level",
        "3",
        "-r",
        "-J",
        "-joliet-long",
        "-V",
        label,
        f"--modification-date={stamp}",
        "--set_all_file_dates",
        stamp,
    ]
    if boot is None:
        return words
    mbr = next((path for path in MBR if os.path.exists(path)), "")
    if boot.bios.startswith("isolinux/"):
        if mbr:
            words += ["-isohybrid-mbr", mbr]
        words += [
            "-b",
            boot.bios,
            "-c",
            "isolinux/boot.cat",
            "-no-emul-boot",
            "-boot-load-size",
            "4",
            "-boot-info-table",
        ]
    elif boot.bios:
        words += [
            "-b",
            boot.bios,
            "-c",
            "boot.catalog",
            "-no-emul-boot",
            "-boot-load-size",
            "4",
            "-boot-info-table",
            "--grub2-boot-info",
        ]
    if boot.efi:
        words += ["-eltorito-alt-boot"] if boot.bios else ["-c", "boot.catalog"]
        words += ["-e", boot.efi, "-no-emul-boot"]
        if mbr and boot.bios.startswith("isolinux/"):
            words += ["-isohybrid-gpt-basdat"]
    return words


@contextlib.contextmanager
def _command(
    label: str, epoch: int, boot: Boot | None, files: Mapping[str, Path], *ends: str
) -> Iterator[list[str]]:
    """xorriso's command, as mkisofs; ``ends`` says what becomes of the medium."""
    with tempfile.TemporaryDirectory(prefix="compose-") as directory:
        grafts, weights = Path(directory, "grafts"), Path(directory, "weights")
        grafts.write_text(
            "".join(f"/{_quoted(name)}={_quoted(str(path))}\n" for name, path in files.items()),
            encoding="utf-8",
        )
        # By its inode is how xorriso would otherwise place a file.
        weights.write_text(
            "".join(f"{len(files) - number} /{name}\n" for number, name in enumerate(files)), encoding="utf-8"
        )
        small = sum(path.stat().st_size for path in files.values()) < SMALL
        # An option of xorriso's own: behind those that it takes in mkisofs' way.
        padding = ["--", "-padding", "2m"] if small else []
        yield [
            "xorriso",
            "-as",
            "mkisofs",
            "-quiet",
            *_words(label, epoch, boot),
            "--sort-weight-list",
            str(weights),
            *ends,
            "-graft-points",
            "-path-list",
            str(grafts),
            *padding,
        ]


def size_of(label: str, epoch: int, boot: Boot | None, files: Mapping[str, Path]) -> int:
    """Bytes that a medium will have."""
    with _command(label, epoch, boot, files, "-print-size") as words:
        told = run(words, "The medium", {"SOURCE_DATE_EPOCH": str(epoch)})
    found = re.findall(r"[0-9]+", told)
    if not found:
        raise MediaError(f"xorriso did not tell the size of the medium {label}.")
    return int(found[-1]) * SECTOR


def write(target: Path, label: str, epoch: int, boot: Boot | None, files: Mapping[str, Path]) -> str:
    """Make a medium, its checksum implanted and read back; the implanted checksum.

    Raises:
        MediaError: where a program fails, the disk being full above all.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _command(label, epoch, boot, files, "-o", str(target)) as words:
        run(words, f"The medium {target.name}", {"SOURCE_DATE_EPOCH": str(epoch)})
    # On its way to the disk while isomd5sum reads it: the compose waits for the disk at its end.
    with target.open("rb") as stream:
        flush = threading.Thread(target=os.fdatasync, args=(stream.fileno(),))
        flush.start()
        try:
            run(["implantisomd5", str(target)], f"The medium {target.name}")
        finally:
            flush.join()
    told = run(["checkisomd5", "--md5sumonly", str(target)], f"The medium {target.name}")
    found = re.search(r":\s*([0-9a-f]{32})\s*$", told, re.MULTILINE)
    if not found:
        raise MediaError(f"The medium {target.name}: checkisomd5 finds no implanted checksum.")
    os.utime(target, (epoch, epoch))
    target.chmod(0o644)
    return found.group(1)


# The media of a compose


@dataclass(frozen=True)
class Made:
    """What the media of one definition are made of."""

    about: About
    variants: tuple[str, ...]
    """The first is what the medium is called by."""
    arch: str
    """x86_64 …, or src."""
    packages: Mapping[str, Sequence[Package]]
    files: Mapping[Package, tuple[Path, str]]
    comps: Comps | None
    """None on a medium of source packages."""
    boot: Boot | None


def _part(made: Made, variant: str) -> str:
    """Where a variant lies on the medium: at its top where it is the only one, as on EL's."""
    return variant if len(made.variants) > 1 else ""


def _tree(made: Made, top: Path, packages: Mapping[str, Sequence[Package]], disc: tuple[int, int]) -> None:
    """The directory of a disc, of hard links."""
    about = made.about
    top.mkdir(parents=True)
    for variant, members in packages.items():
        directory = top / _part(made, variant)
        directory.mkdir(exist_ok=True)
        for package in members:
            place(made.files[package][0], directory / within(package))
        comps = made.comps.of({package.name for package in members}) if made.comps else ""
        repository(directory, members, comps, about.epoch)
    extra_files(about.config, top)
    boot = made.boot if disc[0] == 1 else None
    if boot is not None:
        for path in sorted(one for one in boot.directory.rglob("*") if one.is_file()):
            place(path, top / path.relative_to(boot.directory))
    parts = {variant: _part(made, variant) for variant in packages}
    treeinfo(about, made.arch, parts, boot, top, disc).dump(str(top / ".treeinfo"))
    discinfo(about, made.arch, disc).dump(str(top / ".discinfo"))
    (top / "media.repo").write_text(
        f"[InstallMedia]\nname={about.title}\nmediaid={float(about.epoch)}\nmetadata_expire=-1\ngpgcheck=1\ncost=500\n",
        encoding="utf-8",
    )


def _split(made: Made, base: int, largest: int) -> list[dict[str, list[Package]]]:
    """The packages, disc by disc, in the order of their names: the first has the boot media, too."""
    # Metadata and directories of the packages themselves: measured at 2 to 4 KiB a package.
    each = 6 * 1024
    room = largest - base
    discs: list[dict[str, list[Package]]] = [{}]
    for variant in made.variants:
        for package in made.packages[variant]:
            size = -(-package.size // SECTOR) * SECTOR + each
            if size > largest - 4 * 1024 * 1024:
                raise MediaError(
                    f"{package} has {package.size} bytes, more than a whole medium: raise medium.size."
                )
            if size > room:
                discs.append({})
                room = largest - 4 * 1024 * 1024
            discs[-1].setdefault(variant, []).append(package)
            room -= size
    for variant in made.variants:
        discs[0].setdefault(variant, [])
    return discs


def make(made: Made, medium: Medium, top: Path, work: Path) -> list[Image]:
    """The media of one definition, below ``top``.

    Args:
        work: a directory on the same file system, for the trees of the discs.

    Raises:
        MediaError: where one is too large, or a program fails.
    """
    first = made.variants[0]
    layout = Layout(first, made.arch)
    directory = top / (layout.source_iso if made.arch == "src" else layout.iso)
    everything = {variant: list(made.packages[variant]) for variant in made.variants}
    discs: list[dict[str, list[Package]]] = [everything]
    tree = work / f"disc-{first}-{made.arch}"
    try:
        label = made.about.label(first, made.arch)
    except ValueError as error:
        raise MediaError(f"{error}.") from error
    _tree(made, tree, everything, (1, 1))
    epoch = made.about.epoch
    size = size_of(label, epoch, made.boot, content(tree)) if medium.size else 0
    if medium.size and size > medium.size:
        if not medium.split:
            raise MediaError(
                f"The medium {label} would have {size} bytes, and medium.size is {medium.size}: take packages out of"
                f" {', '.join(made.variants)}, raise medium.size, or allow several discs by medium.split."
            )
        shutil.rmtree(tree)
        _tree(made, tree, {variant: [] for variant in made.variants}, (1, 1))
        base = size_of(label, epoch, made.boot, content(tree))
        shutil.rmtree(tree)
        discs = _split(made, base, medium.size)
    images = []
    for number, packages in enumerate(discs, 1):
        disc = number if len(discs) > 1 else 0
        if disc:
            tree = work / f"disc-{first}-{made.arch}-{number}"
            _tree(made, tree, packages, (number, len(discs)))
        boot = made.boot if number == 1 else None
        label = made.about.label(first, made.arch, disc)
        path = directory / made.about.file_name(
            f"{first}-{made.arch}" if len(made.about.config.isos) > 1 else made.arch, "dvd", disc
        )
        files = content(tree)
        if disc and (size := size_of(label, epoch, boot, files)) > medium.size:
            raise MediaError(
                f"The disc {number} of {label} would have {size} bytes, and medium.size is {medium.size}: raise it a little."
            )
        implanted = write(path, label, epoch, boot, files)
        shutil.rmtree(tree)
        images.append(
            Image(
                path.relative_to(top).as_posix(),
                first,
                made.arch,
                label,
                path.stat().st_size,
                sha256(path),
                implanted,
                number,
                len(discs),
                boot is not None,
                tuple(packages),
            )
        )
    return images


def checksums(about: About, images: Sequence[Image], top: Path) -> list[str]:
    """A CHECKSUM file in each directory of media, signed where the configuration says how; their paths.

    Raises:
        MediaError: where the signature is not made.
    """
    made = []
    for directory in sorted({image.path.rpartition("/")[0] for image in images}):
        mine = [image for image in images if image.path.rpartition("/")[0] == directory]
        path = top / directory / f"{about.stem}-{mine[0].arch}-CHECKSUM"
        text = checksum_file([(image.path.rpartition("/")[2], image.bytes, image.sha256) for image in mine])
        path.write_text(text, encoding="ascii")
        if about.config.sign:
            sign(path, about.config.sign, text)
        made.append(path.relative_to(top).as_posix())
    return made


def sign(path: Path, command: Sequence[str], text: str) -> None:
    """Have a command clear-sign a CHECKSUM file in its place.

    Raises:
        MediaError: where it does not, or signs something else.
    """
    signed = path.with_name(f".{path.name}.signed")
    words = [word.replace("{file}", str(path)).replace("{signed}", str(signed)) for word in command]
    run(words, f"The signature of {path.name}")
    try:
        told = signed.read_text(encoding="utf-8")
    except OSError as error:
        raise MediaError(
            f"The signature of {path.name}: {words[0]} made no {{signed}}: {error.strerror}."
        ) from error
    if not told.startswith("-----BEGIN PGP SIGNED MESSAGE-----") or text.strip() not in told:
        raise MediaError(f"The signature of {path.name}: what {words[0]} made is no clear-signed copy of it.")
    signed.chmod(0o644)
    signed.replace(path)
