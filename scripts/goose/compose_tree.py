"""The trees of a compose: packages as hard links, a repository for each variant, and productmd's metadata.

The layout is that of productmd's composes, which pungi makes as well:
``VARIANT/ARCH/os``, ``VARIANT/ARCH/debug/tree``, ``VARIANT/source/tree``, ``VARIANT/ARCH/iso``, ``metadata``.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from goose.compose_boot import Boot
from goose.compose_config import Config, Release
from goose.compose_gather import Comps, Gathered
from goose.compose_input import InputError, Package, bring, sha256, signed_by

Show = Callable[[str, int, int], None]


@dataclass(frozen=True)
class About:
    """What all of a compose's files say of it."""

    config: Config
    release: Release
    epoch: int
    """Seconds: the time that everything carries, so that the same input gives the same bytes."""

    @property
    def title(self) -> str:
        """As people call it: GoOSe 6.0 Beta RC4."""
        return f"{self.config.name} {self.release.words.replace('-', ' ')}"

    @property
    def stem(self) -> str:
        """What the names of media begin with: GoOSe-6.0-Beta-RC4."""
        return f"{self.config.name.replace(' ', '-')}-{self.release.words}"

    def file_name(self, arch: str, kind: str, number: int = 0) -> str:
        """The name of a medium: GoOSe-6.0-Beta-RC4-x86_64-dvd1.iso; ``number`` 0: it is the only one."""
        return f"{self.stem}-{arch}-{kind}{number or ''}.iso"

    def labels(self, variant: str, arch: str, number: int = 0) -> Iterator[str]:
        """The volume labels that a medium may have, the best first."""
        disc = f"-{number}" if number else ""
        short = (
            self.release.words.replace("-testing-", "-t")
            .replace("-Alpha-", "-a")
            .replace("-Beta-", "-b")
            .replace("-Final-", "-")
        )
        multi = f"-{variant}" if len(self.config.isos) > 1 else ""
        arches = (
            arch,
            arch.replace("_", ""),
            {"x86_64": "x64", "aarch64": "a64", "ppc64le": "p64", "src": "src"}.get(arch, arch),
        )
        for name in (self.config.name.replace(" ", ""), self.config.short):
            for words in (self.release.words, short):
                for word in arches:
                    yield f"{name}-{words}{multi}-{word}{disc}"

    def label(self, variant: str, arch: str, number: int = 0) -> str:
        """The volume label of a medium, of 32 characters at most: what the boot loader looks for.

        Raises:
            ValueError: where there is none that is short enough.
        """
        for label in (found := list(self.labels(variant, arch, number))):
            if len(label) <= 32:
                return label
        raise ValueError(
            f"no volume label of 32 characters can be made of {found[-1]}:"
            " shorten `short` in the configuration, or the release"
        )


def signature_fault(package: Package, key: str, sigkeys: Sequence[str]) -> str:
    """What is wrong with the signature of a package, in a sentence; empty where nothing is.

    Args:
        key: the id of the key that signed it, in lower case, or empty.
        sigkeys: ids of which one is wanted; empty: none is.
    """
    if not sigkeys or any(key and (key.endswith(wish) or wish.endswith(key)) for wish in sigkeys):
        return ""
    state = f"signed by {key}" if key else "not signed"
    return f"{package} is {state}, and sigkeys wants {', '.join(sigkeys)}."


class Files(Mapping[Package, "tuple[Path, str]"]):
    """The file of each package, and the key that signed it.

    What is fetched is checked when it comes. The checksums of files on this machine are looked at beside the
    other work, for xorriso and isomd5sum keep one processor busy each and no more: `wait` says what was found,
    and nothing is published before.
    """

    def __init__(self, packages: Iterable[Package], sigkeys: Sequence[str], show: Show) -> None:
        """Find all.

        Raises:
            InputError: a sentence a line, naming each RPM that is missing or not signed.
        """
        wanted = list(dict.fromkeys(packages))
        self._found: dict[Package, tuple[Path, str]] = {}
        processors = os.cpu_count() or 1
        # One is left for xorriso, which everything waits for.
        self._pool = ThreadPoolExecutor(max(1, processors - 1))

        def find(package: Package) -> tuple[Path, str] | str:
            try:
                path = Path(package.place) if package.is_local else bring(package)
                try:
                    key = signed_by(path)
                except (InputError, OSError):
                    bring(package)  # it is missing or damaged, and says so in its own words
                    raise
            except (InputError, OSError) as error:
                return str(error)
            return signature_fault(package, key, sigkeys) or (path, key)

        faults = []
        with ThreadPoolExecutor(max(2, processors)) as pool:
            for number, (package, told) in enumerate(zip(wanted, pool.map(find, wanted)), 1):
                show("packages", number, len(wanted))
                if isinstance(told, str):
                    faults.append(told)
                else:
                    self._found[package] = told
        if faults:
            raise InputError("\n".join(faults))
        self._checks = [self._pool.submit(_fault, package) for package in wanted if package.is_local]

    def __getitem__(self, package: Package) -> tuple[Path, str]:
        return self._found[package]

    def __iter__(self) -> Iterator[Package]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def wait(self) -> None:
        """Have all checksums been looked at.

        Raises:
            InputError: a sentence a line, naming each RPM that is damaged.
        """
        if faults := [told for told in (check.result() for check in self._checks) if told]:
            raise InputError("\n".join(faults))

    def close(self) -> None:
        """End what still runs."""
        for check in self._checks:
            check.cancel()
        self._pool.shutdown()


def damaged(packages: Iterable[Package]) -> list[str]:
    """Those whose file on this machine is missing or damaged, in sentences."""
    found = (_fault(package) for package in dict.fromkeys(packages) if package.is_local)
    return [fault for fault in found if fault]


def _fault(package: Package) -> str:
    try:
        bring(package)
    except InputError as error:
        return str(error)
    return ""


def place(source: Path, target: Path) -> None:
    """A hard link, or a copy where the file systems are two, or the kernel lets nobody link another's file.

    Raises:
        FileExistsError: where the target is there. It is a link itself, so that a copy onto it would be written
            into a file of the repository, and into each compose that has it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        shutil.copyfile(source, target)
        about = os.stat(source)
        os.utime(target, ns=(about.st_mtime_ns, about.st_mtime_ns))
        os.chmod(target, 0o644)


def within(package: Package) -> str:
    """Where a package lies in its tree: Packages/b/bash-5.1-1.x86_64.rpm."""
    return f"Packages/{package.file[0].lower()}/{package.file}"


def repository(
    directory: Path,
    packages: Sequence[Package],
    comps: str,
    epoch: int,
    places: Callable[[Package], str] = within,
) -> None:
    """Make ``directory``/repodata of the records that the input repositories have."""
    import createrepo_c

    repodata = directory / "repodata"
    repodata.mkdir(parents=True)
    kinds = {
        "primary": createrepo_c.PrimaryXmlFile,
        "filelists": createrepo_c.FilelistsXmlFile,
        "other": createrepo_c.OtherXmlFile,
    }
    files = {kind: make(str(repodata / f"{kind}.xml.gz")) for kind, make in kinds.items()}
    for file in files.values():
        file.set_num_of_pkgs(len(packages))
    for package in packages:
        record = package.record.copy()
        record.location_href = places(package)
        record.location_base = None
        # The file's own time is another one on every host.
        record.time_file = record.time_build
        for file in files.values():
            file.add_pkg(record)
    for file in files.values():
        file.close()
    paths = {kind: repodata / f"{kind}.xml.gz" for kind in kinds}
    if comps:
        paths["group"] = repodata / "comps.xml"
        paths["group"].write_text(comps, encoding="utf-8")
    repomd = createrepo_c.Repomd()
    repomd.set_revision(str(epoch))
    for kind, path in paths.items():
        record = createrepo_c.RepomdRecord(kind, str(path))
        record.fill(createrepo_c.SHA256)
        record.timestamp = epoch
        record.rename_file()
        repomd.set_record(record)
    (repodata / "repomd.xml").write_text(repomd.xml_dump(), encoding="utf-8")


def treeinfo(
    about: About,
    arch: str,
    parts: Mapping[str, str],
    boot: Boot | None,
    top: Path,
    disc: tuple[int, int] = (1, 1),
) -> Any:
    """A `.treeinfo`.

    Args:
        parts: variant -> directory of its repository below the tree, "" for the top.
        top: the tree, for the checksums of its images.
        disc: number of this disc, and of all.
    """
    import productmd.treeinfo

    found = productmd.treeinfo.TreeInfo()
    found.release.name, found.release.short = about.config.name, about.config.short
    found.release.version = about.release.version
    found.tree.arch, found.tree.build_timestamp = arch, about.epoch
    found.tree.platforms.add(arch)
    for name, directory in parts.items():
        variant = productmd.treeinfo.Variant(found)
        variant.id = variant.uid = name
        variant.name = about.config.variants[name].name or name
        variant.type = "variant"
        variant.paths.repository = directory or "."
        variant.paths.packages = f"{directory}/Packages" if directory else "Packages"
        found.variants.add(variant)
        found.checksums.add(f"{directory}/repodata/repomd.xml".lstrip("/"), "sha256", root_dir=str(top))
    if boot is not None:
        found.images.images = {arch: dict(boot.images)}
        for path in sorted({*boot.images.values(), *([boot.stage2] if boot.stage2 else [])}):
            found.checksums.add(path, "sha256", root_dir=str(top))
        if boot.stage2:
            found.stage2.mainimage = boot.stage2
    if disc[1] > 1:
        found.media.discnum, found.media.totaldiscs = disc
    return found


def discinfo(about: About, arch: str, disc: tuple[int, int] = (1, 1)) -> Any:
    """A `.discinfo`."""
    import productmd.discinfo

    found = productmd.discinfo.DiscInfo()
    found.timestamp, found.description, found.arch = float(about.epoch), about.title, arch
    found.disc_numbers = ["ALL"] if disc[1] == 1 else [disc[0]]
    return found


def extra_files(config: Config, top: Path) -> list[str]:
    """Put the configuration's extra files to the top of a tree; their names.

    Raises:
        InputError: where one cannot be read.
    """
    names = []
    for name in config.extra_files:
        path = Path(name)
        try:
            place(path, top / path.name)
        except FileExistsError as error:
            raise InputError(f"extra_files names {path}, and {path.name} is in the tree already.") from error
        except OSError as error:
            raise InputError(f"extra_files names {path}, which cannot be read: {error.strerror}.") from error
        names.append(path.name)
    return names


@dataclass(frozen=True)
class Layout:
    """Paths below `compose`."""

    variant: str
    arch: str

    @property
    def os(self) -> str:
        """The installable tree."""
        return f"{self.variant}/{self.arch}/os"

    @property
    def debug(self) -> str:
        """The tree of debug packages."""
        return f"{self.variant}/{self.arch}/debug/tree"

    @property
    def source(self) -> str:
        """The tree of source packages, that of all architectures."""
        return f"{self.variant}/source/tree"

    @property
    def iso(self) -> str:
        """Where media lie."""
        return f"{self.variant}/{self.arch}/iso"

    @property
    def source_iso(self) -> str:
        """Where media of source packages lie."""
        return f"{self.variant}/source/iso"


def trees(
    about: About,
    top: Path,
    arch: str,
    found: Gathered,
    files: Mapping[Package, tuple[Path, str]],
    comps: Comps,
    boots: Mapping[str, Boot],
    show: Show,
) -> None:
    """Make the trees of an architecture below ``top``, but for those of source packages."""
    for number, (variant, packages) in enumerate(found.members.items(), 1):
        show("trees", number, len(found.members))
        layout = Layout(variant, arch)
        tree = top / layout.os
        tree.mkdir(parents=True)
        for package in packages:
            place(files[package][0], tree / within(package))
        repository(tree, packages, comps.of({package.name for package in packages}), about.epoch)
        extra_files(about.config, tree)
        boot = boots.get(variant)
        if boot is not None:
            for path in sorted(one for one in boot.directory.rglob("*") if one.is_file()):
                place(path, tree / path.relative_to(boot.directory))
        treeinfo(about, arch, {variant: ""}, boot, tree).dump(str(tree / ".treeinfo"))
        discinfo(about, arch).dump(str(tree / ".discinfo"))
        if found.debug[variant]:
            tree = top / layout.debug
            for package in found.debug[variant]:
                place(files[package][0], tree / within(package))
            repository(tree, found.debug[variant], "", about.epoch)


def source_trees(
    about: About,
    top: Path,
    sources: Mapping[str, Sequence[Package]],
    files: Mapping[Package, tuple[Path, str]],
) -> None:
    """Make the trees of source packages, each of all architectures."""
    for variant, packages in sources.items():
        if packages:
            tree = top / Layout(variant, "src").source
            for package in packages:
                place(files[package][0], tree / within(package))
            repository(tree, packages, "", about.epoch)


# productmd's metadata of the whole


@dataclass(frozen=True)
class Image:
    """A medium that was made."""

    path: str
    """Below `compose`."""
    variant: str
    arch: str
    """x86_64 …, or src."""
    label: str
    bytes: int
    sha256: str
    implanted: str
    """The implanted checksum."""
    disc: int
    discs: int
    bootable: bool
    variants: tuple[str, ...]


def composeinfo(about: About, compose_id: str, found: Mapping[str, Gathered], images: Sequence[Image]) -> Any:
    """composeinfo.json."""
    import productmd.composeinfo

    info = productmd.composeinfo.ComposeInfo()
    info.release.name, info.release.short = about.config.name, about.config.short
    info.release.version, info.release.type = about.release.version, "ga"
    header(info, compose_id)
    if about.release.full_label:
        info.compose.label, info.compose.final = about.release.full_label, about.release.final
    for name, about_variant in about.config.variants.items():
        arches = [arch for arch in found if name in found[arch].members]
        if not arches:
            continue
        variant = productmd.composeinfo.Variant(info)
        variant.id = variant.uid = name
        variant.name, variant.type = about_variant.name or name, "variant"
        variant.arches = set(arches)
        for arch in arches:
            layout = Layout(name, arch)
            variant.paths.os_tree[arch] = variant.paths.repository[arch] = layout.os
            variant.paths.packages[arch] = f"{layout.os}/Packages"
            if found[arch].debug[name]:
                variant.paths.debug_tree[arch] = variant.paths.debug_repository[arch] = layout.debug
                variant.paths.debug_packages[arch] = f"{layout.debug}/Packages"
            if any(name in one.sources and one.sources[name] for one in found.values()):
                variant.paths.source_tree[arch] = variant.paths.source_repository[arch] = layout.source
                variant.paths.source_packages[arch] = f"{layout.source}/Packages"
            mine = [image for image in images if image.variant == name]
            if any(image.arch == arch for image in mine):
                variant.paths.isos[arch] = layout.iso
            if any(image.arch == "src" for image in mine):
                variant.paths.source_isos[arch] = layout.source_iso
        info.variants.add(variant)
    return info


def header(metadata: Any, compose_id: str) -> None:
    """What each of productmd's files says of the compose."""
    import productmd.composeinfo

    metadata.compose.id = compose_id
    date, kind, respin = productmd.composeinfo.get_date_type_respin(compose_id)
    metadata.compose.date, metadata.compose.type, metadata.compose.respin = date, kind, respin


def rpms(compose_id: str, found: Mapping[str, Gathered], files: Mapping[Package, tuple[Path, str]]) -> Any:
    """rpms.json."""
    import productmd.rpms

    told = productmd.rpms.Rpms()
    header(told, compose_id)
    for arch, gathered in found.items():
        for variant, packages in gathered.members.items():
            layout = Layout(variant, arch)
            sources = {one.file: one for one in gathered.sources.get(variant, ())}
            for tree, kind, members in (
                (layout.os, "binary", packages),
                (layout.debug, "debug", gathered.debug[variant]),
            ):
                for package in members:
                    source = sources.get(package.sourcerpm)
                    if kind == "binary" and package.name.endswith(("-debuginfo", "-debugsource")):
                        kind_ = "debug"
                    else:
                        kind_ = kind
                    told.add(
                        variant,
                        arch,
                        package.nevra,
                        f"{tree}/{within(package)}",
                        _short(files[package][1]),
                        kind_,
                        source.nevra if source else _source_nevra(package),
                    )
            for package in gathered.sources.get(variant, ()):
                told.add(
                    variant,
                    arch,
                    package.nevra,
                    f"{layout.source}/{within(package)}",
                    _short(files[package][1]),
                    "source",
                )
    return told


def _short(key: str) -> str | None:
    """The id of a key as Koji and pungi have it in their metadata: its last eight digits."""
    return key[-8:] or None


def _source_nevra(package: Package) -> str:
    """That of a source package that is not there: the epoch is the package's own, as nearly always."""
    name, version, release = package.sourcerpm[: -len(".src.rpm")].rsplit("-", 2)
    return f"{name}-{package.epoch}:{version}-{release}.src"


def images(compose_id: str, made: Sequence[Image], top: Path, arches: Sequence[str]) -> Any:
    """images.json. A medium of source packages stands under each architecture, as productmd wants it."""
    import productmd.images

    told = productmd.images.Images()
    header(told, compose_id)
    for one in made:
        image = productmd.images.Image(told)
        image.path, image.size, image.volume_id = one.path, one.bytes, one.label
        image.mtime = int(os.stat(top / one.path).st_mtime)
        image.type, image.format, image.arch = "dvd", "iso", one.arch
        image.disc_number, image.disc_count = one.disc, one.discs
        image.checksums, image.implant_md5 = {"sha256": one.sha256}, one.implanted
        image.bootable, image.subvariant = one.bootable, one.variant
        if len(one.variants) > 1:
            image.unified, image.additional_variants = True, list(one.variants[1:])
        for arch in arches if one.arch == "src" else [one.arch]:
            told.add(one.variant, arch, image)
    return told


def validate(compose: Path) -> None:
    """Read all metadata back by productmd's own parser, and look at what it names.

    Raises:
        InputError: where something is not as it says.
    """
    import productmd.compose
    import productmd.treeinfo

    try:
        made = productmd.compose.Compose(str(compose.parent))
        info, all_rpms, all_images = made.info, made.rpms, made.images
        for trees_ in (info.variants[name].paths.os_tree.values() for name in info.variants):
            for tree in trees_:
                productmd.treeinfo.TreeInfo().load(str(compose / tree / ".treeinfo"))
        named = [
            entry["path"]
            for arches in all_rpms.rpms.values()
            for sources in arches.values()
            for entries in sources.values()
            for entry in entries.values()
        ]
        named += [
            image.path for arches in all_images.images.values() for many in arches.values() for image in many
        ]
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, OSError) as error:
        raise InputError(f"productmd does not read the metadata of {compose}: {error}.") from error
    for path in named:
        try:
            if not stat.S_ISREG(os.stat(compose / path).st_mode):
                raise InputError(f"{compose / path} is no file, and the metadata name it.")
        except OSError as error:
            raise InputError(
                f"{compose / path}, which the metadata name, cannot be read: {error.strerror}."
            ) from error


def checksum_file(made: Sequence[tuple[str, int, str]]) -> str:
    """The text of a CHECKSUM file of (name, bytes, sha256), in the form that ``sha256sum -c`` reads."""
    return "".join(f"# {name}: {size} bytes\nSHA256 ({name}) = {digest}\n" for name, size, digest in made)


__all__ = [
    "About",
    "Files",
    "Image",
    "Layout",
    "checksum_file",
    "composeinfo",
    "discinfo",
    "extra_files",
    "images",
    "place",
    "repository",
    "rpms",
    "sha256",
    "source_trees",
    "treeinfo",
    "trees",
    "validate",
    "within",
]
