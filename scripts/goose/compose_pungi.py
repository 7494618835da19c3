"""pungi-koji in place of the embedded engine, where it is installed: its configuration rendered, its result checked."""

from __future__ import annotations

import json
import os
import pprint
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

from goose.compose_config import Config, Release
from goose.compose_gather import COMPATIBLE
from goose.compose_input import Fetcher, InputError, Loaded, Package, sha256, signed_by
from goose.compose_media import SECTOR, SMALL, run
from goose.compose_tree import About, signature_fault

PROGRAM = "pungi-koji"


class PungiError(Exception):
    """pungi-koji did not compose: a sentence."""


def installed() -> str:
    """The path of pungi-koji; empty where there is none."""
    return shutil.which(PROGRAM) or ""


def refuse(config: Config, date: str) -> list[str]:
    """What the configuration wants and pungi does not do, in sentences.

    Args:
        date: that of the compose, where one was asked for.
    """
    said = []
    if "i386" in config.arches:
        said.append(
            "arches names i386, and pungi-koji follows no requirements among its i686 packages, and takes them all into"
            " x86_64."
        )
    if date:
        said.append("pungi-koji dates its composes by the clock: leave --date out.")
    if names := [one.id for one in config.variants.values() if one.recommends]:
        said.append(f"recommends is true for {', '.join(names)}, and pungi-koji follows requirements alone.")
    if config.boot.kind in ("lab", "tree"):
        said.append(
            f"boot.kind is {config.boot.kind}, and pungi-koji takes boot media from lorax alone: choose lorax or none."
        )
    if config.medium.size and not config.medium.split:
        said.append(
            "medium.size without medium.split is unknown to pungi-koji, which splits whatever is larger."
        )
    elif config.medium.size and any(len(one.variants) > 1 for one in config.isos):
        said.append("medium.split is true, and pungi-koji splits no medium of several variants.")
    return said


def groups_of(config: Config, comps: str) -> tuple[str, dict[str, list[str]]]:
    """The groups as pungi shall have them, and the ids of those that each variant takes.

    pungi gives a variant that names no groups all of them, one that names an environment its option groups as well,
    and each its optional packages. What shall not be so is said by the attribute ``variant``, which pungi's
    comps_filter knows: an element is there for the variants that it names.
    """
    if not comps:
        return "", {}
    root = ElementTree.fromstring(comps)
    environments = {
        one.findtext("id"): [group.text or "" for group in one.iterfind("grouplist/groupid")]
        for one in root.iterfind("environment")
    }
    taken = {
        one.id: list(dict.fromkeys([*one.groups, *(g for name in one.environments for g in environments[name])]))
        for one in config.variants.values()
    }
    everything = [one.id for one in config.variants.values() if one.everything]
    optional = ",".join([*everything, *(one.id for one in config.variants.values() if one.optional)])
    for group in root.iterfind("group"):
        mine = [name for name, ids in taken.items() if group.findtext("id") in ids]
        group.set("variant", ",".join([*everything, *mine]))
        for package in group.iterfind("packagelist/packagereq"):
            if package.get("type") in ("optional", "conditional"):
                package.set("variant", optional if package.get("type") == "optional" else "")
    return ElementTree.tostring(root, encoding="unicode"), taken


def variants_xml(config: Config, arches: Sequence[str], groups: Mapping[str, Sequence[str]]) -> str:
    """The variants file. A list of packages has no place in it: that is `additional_packages`.

    Args:
        groups: variant -> ids of the groups that it takes.
    """
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<!DOCTYPE variants PUBLIC "-//Red Hat, Inc.//DTD Variants info//EN" "variants2.dtd">',
        "<variants>",
    ]
    for one in config.variants.values():
        lines.append(
            f'  <variant id={quoteattr(one.id)} name={quoteattr(one.name or one.id)} type="variant">'
        )
        lines.append("    <arches>")
        lines += [f"      <arch>{arch}</arch>" for arch in arches if not one.arches or arch in one.arches]
        lines.append("    </arches>")
        if mine := groups.get(one.id):
            lines.append("    <groups>")
            lines += [f'      <group default="true">{group}</group>' for group in mine]
            lines.append("    </groups>")
        if one.environments:
            lines.append("    <environments>")
            lines += [f"      <environment>{name}</environment>" for name in one.environments]
            lines.append("    </environments>")
        lines.append("  </variant>")
    return "\n".join([*lines, "</variants>", ""])


def _pattern(word: str) -> str:
    """NAME.ARCH in pungi's words, which has names alone, and NAME.+ for those of a second architecture."""
    name, _, arch = word.rpartition(".")
    if not name or not any(arch in arches for arches in COMPATIBLE.values()):
        return word
    return f"{name}.+" if arch in COMPATIBLE["i386"] and arch != "noarch" else name


def foreign(binary: Mapping[str, Sequence[Loaded]]) -> dict[str, list[str]]:
    """Architecture -> names of noarch packages that other architectures' repositories have, and its own have not.

    pungi throws all repositories together, and would take for each architecture what mash has left out of it.
    """
    names = {
        arch: {package.name for one in loaded for package in one.packages} for arch, loaded in binary.items()
    }
    noarch = {
        package.name
        for loaded in binary.values()
        for one in loaded
        for package in one.packages
        if package.arch == "noarch"
    }
    return {arch: sorted(noarch - mine) for arch, mine in names.items() if noarch - mine}


def settings(
    config: Config,
    release: Release,
    arches: Sequence[str],
    repositories: dict[str, list[str]],
    comps: bool,
    others: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """pungi's configuration, key by key.

    Args:
        others: what `foreign` says.
    """
    about = About(config, release, 0)
    # Without a repository of source packages their media would be empty.
    sources = any(one.source for one in config.repositories)
    extra = [{"scm": "file", "repo": "", "file": [name], "target": ""} for name in config.extra_files]
    several = {one.variants[0]: one for one in config.isos if len(one.variants) > 1}
    single = {one.variants[0]: one for one in config.isos if len(one.variants) == 1}
    found: dict[str, Any] = {
        "release_name": config.name,
        "release_short": config.short,
        "release_version": release.version,
        "variants_file": "variants.xml",
        "pkgset_source": "repos",
        "pkgset_repos": repositories,
        # It knows keys by their last eight digits alone.
        "sigkeys": [key[-8:] for key in config.sigkeys] or [None],
        "gather_method": "deps",
        # It calls a rich dependency unmet whose condition does not hold; this program has looked, and looks again.
        "check_deps": False,
        "greedy_method": "none",
        "hashed_directories": True,
        "createrepo_c": True,
        "createrepo_checksum": "sha256",
        "image_name_format": about.file_name(
            "{variant}-{arch}" if len(config.isos) > 1 else "{arch}", "{disc_type}{disc_num}"
        ).replace(".iso", "{suffix}"),
        "image_volid_formats": list(dict.fromkeys(about.labels("{variant}", "{arch}"))),
        "media_checksums": ["sha256"],
        "media_checksum_one_file": True,
        "media_checksum_base_filename": about.stem,
        "create_jigdo": False,
        # EL 10 has no genisoimage.
        "createiso_use_xorrisofs": True,
        "multilib": [
            (f"^{one.id}$", {arch: ["all"] for arch in arches if arch == "x86_64"})
            for one in config.variants.values()
            if one.multilib and "x86_64" in arches
        ],
        "additional_packages": [
            (f"^{one.id}$", {"*": ["*"] if one.everything else [_pattern(name) for name in one.packages]})
            for one in config.variants.values()
            if one.packages or one.everything
        ],
        "filter_packages": [
            (f"^{one.id}$", {"*": [_pattern(name) for name in one.exclude]})
            for one in config.variants.values()
            if one.exclude
        ]
        + [("^.*$", {arch: list(names)}) for arch, names in others.items()],
        "variant_as_lookaside": [(name, other) for name in config.variants for other in config.required(name)],
        "createiso_skip": [
            (f"^{name}$", {"*": name not in single, "src": name not in single or not (single[name].source and sources)})
            for name in config.variants
        ],
        "extra_isos": {
            f"^{name}$": [
                {
                    "include_variants": list(one.variants[1:]),
                    "skip_src": not (one.source and sources),
                    "extra_files": extra,
                }
            ]
            for name, one in several.items()
        },
    }
    if extra:
        found["extra_files"] = [("^.*$", {"*": extra})]
    if config.parents:
        values = {"short": config.short, "version": release.version}
        found["gather_lookaside_repos"] = [
            ("^.*$", {arch: [place.format(arch=arch, **values) for place in config.parents] for arch in arches})
        ]
    if comps:
        found["comps_file"] = "comps.xml"
    if config.boot.kind == "lorax":
        found["buildinstall_method"] = "lorax"
    if config.medium.size:
        found["iso_size"] = config.medium.size
        found["split_iso_reserve"] = 10 * 1024 * 1024
    return found


def render(
    directory: Path, config: Config, release: Release, comps: str, others: Mapping[str, Sequence[str]]
) -> Path:
    """Write pungi's configuration into a directory; the path of its main file.

    Args:
        others: what `foreign` says.
    """
    directory.mkdir(parents=True)
    values = {"short": config.short, "version": release.version}
    repositories = {
        arch: list(
            dict.fromkeys(
                place.format(arch=arch, **values)
                for one in config.repositories
                for place in (one.binary, one.source, one.debug)
                if place
            )
        )
        for arch in config.arches
    }
    comps, groups = groups_of(config, comps)
    (directory / "variants.xml").write_text(variants_xml(config, config.arches, groups), encoding="utf-8")
    if comps:
        (directory / "comps.xml").write_text(comps, encoding="utf-8")
    told = settings(config, release, config.arches, repositories, bool(comps), others)
    path = directory / "pungi.conf"
    path.write_text(
        "".join(
            f"{key} = {pprint.pformat(value, width=110, sort_dicts=True)}\n"
            for key, value in sorted(told.items())
        ),
        encoding="utf-8",
    )
    return path


def known_servers(repositories: Iterable[Loaded]) -> None:
    """See that pungi can read the repositories by https: its dnf knows the system's CAs alone.

    dnf's own words for a server that it does not know are "All mirrors were tried".

    Raises:
        PungiError: naming a repository that it cannot read.
    """
    fetcher = Fetcher(Path("/nonexistent"))
    for one in repositories:
        if one.base.startswith("https://"):
            try:
                fetcher.read(one.at("repodata/repomd.xml"))
            except InputError as error:
                raise PungiError(
                    f"{error} pungi-koji knows the system's CAs alone: add the server's to them, or set engine to embedded."
                ) from error


def compose(
    program: str, configuration: Path, target: Path, release: Release, taken: Sequence[str], log: Path
) -> Path:
    """Run pungi-koji; the directory of its compose.

    Args:
        target: a directory that is not there, which the compose is made in. What a killed run has left alive may
            go on writing into that run's.
        taken: ids that are there: pungi counts respins by directories.

    Raises:
        PungiError: where it fails.
    """
    target.mkdir(parents=True)
    for name in taken:
        (target / name).mkdir()
    # A compose that nobody waits for any more ends; pungi itself ends its programs then.
    words = ["setpriv", "--pdeathsig", "TERM", program]
    words += [f"--config={configuration}", f"--target-dir={target}", "--no-latest-link"]
    words += ["--test"] if release.stage == "testing" else ["--production", f"--label={release.full_label}"]
    # What it leaves there when it is killed goes away with the attempt.
    temporary = target.with_name("tmp")
    temporary.mkdir(exist_ok=True)
    with log.open("wb") as stream:
        try:
            done = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                check=False,
                env={**os.environ, "TMPDIR": str(temporary)},
            )
        except OSError as error:
            raise PungiError(f"{error.filename or program} cannot be run: {error.strerror}.") from error
    found = [path for path in target.iterdir() if path.is_dir() and path.name not in taken]
    status = (
        (found[0] / "STATUS").read_text(encoding="utf-8").strip()
        if found and (found[0] / "STATUS").is_file()
        else ""
    )
    if done.returncode or len(found) != 1 or status != "FINISHED":
        lines = [
            line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()
        ]
        faults = [number for number, line in enumerate(lines) if "[ERROR" in line or "[CRITICAL" in line]
        said = [lines[number] for number in faults if "traceback in" not in lines[number]][:8] or lines[-8:]
        # What it points to goes away with the attempt. Of a traceback the last line says what is wrong.
        if faults and (more := re.search(r"details see[: ]+(/\S+)", "\n".join(lines[faults[0] :]))):
            path = Path(more.group(1))
            told = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
            said += [line for line in told if line[:1].strip() and not line.startswith("Traceback")][-3:]
        raise PungiError(
            f"{program} ended with status {done.returncode} and the compose {status or 'unmade'}:\n"
            + "\n".join(said)
        )
    for name in taken:
        (target / name).rmdir()
    # Its notes for a compose after this one, and links to all packages that it has looked at.
    shutil.rmtree(found[0] / "work", ignore_errors=True)
    return found[0]


def packages(
    compose_directory: Path, known: Mapping[str, Iterable[Package]], sigkeys: Sequence[str]
) -> dict[str, dict[str, set[str]]]:
    """Look at the packages that rpms.json names, each by the checksum that its input repository has.

    pungi makes new metadata of the files that it finds: one that is damaged has the right checksum there. Keys it
    names by their last eight digits, which are soon made again: the files are asked.

    Args:
        known: architecture -> the packages of its repositories.

    Returns:
        Architecture -> variant -> the NEVRAs of its binary packages.

    Raises:
        InputError: a sentence a line, naming each RPM that is damaged, unknown or not signed.
    """
    there = {arch: {one.nevra: one for one in many} for arch, many in known.items()}
    told = json.loads((compose_directory / "compose/metadata/rpms.json").read_text(encoding="utf-8"))
    found: dict[str, dict[str, set[str]]] = {}
    faults: dict[str, str] = {}
    for variant, arches in told["payload"]["rpms"].items():
        for arch, sources in arches.items():
            mine = found.setdefault(arch, {}).setdefault(variant, set())
            for nevra, entry in ((one, about) for entries in sources.values() for one, about in entries.items()):
                path = entry["path"]
                if entry["category"] == "binary":
                    mine.add(nevra)
                if path in faults:
                    continue
                package = there.get(arch, {}).get(nevra)
                if package is None:
                    faults[path] = f"{nevra} is in no repository of {arch} that the compose is made of."
                    continue
                file = compose_directory / "compose" / path
                try:
                    package.repository.fetcher.file(
                        str(file), package.checksum_type, package.pkgid, str(package)
                    )
                    faults[path] = signature_fault(package, signed_by(file), sigkeys)
                except InputError as error:
                    faults[path] = str(error)
    if said := [text for text in faults.values() if text]:
        raise InputError("\n".join(said))
    return found


def media(compose_directory: Path) -> list[dict[str, Any]]:
    """What images.json says of the media, each checked by checkisomd5.

    Raises:
        compose_media.MediaError, PungiError: where one is damaged.
    """
    told = json.loads((compose_directory / "compose/metadata/images.json").read_text(encoding="utf-8"))
    found: dict[str, dict[str, Any]] = {}
    for arches in told["payload"]["images"].values():
        for images in arches.values():
            for image in images:
                found[image["path"]] = image
    for path, image in found.items():
        iso = compose_directory / "compose" / path
        # Of a smaller one isomd5sum's own checksum is none, see there.
        if path.endswith(".iso") and image["size"] >= SMALL:
            run(["checkisomd5", str(iso)], f"The medium {path} is damaged")
        elif sha256(iso) != image["checksums"].get("sha256"):
            raise PungiError(f"The medium {path} is damaged: it has another sha256 than images.json says.")
        if not image["volume_id"] and path.endswith(".iso"):
            # pungi asks isoinfo, which EL has not. ISO 9660 has it in its sector 16.
            with iso.open("rb") as stream:
                stream.seek(16 * SECTOR + 40)
                image["volume_id"] = stream.read(32).decode("ascii", "replace").rstrip()
    return list(found.values())


def counts(compose_directory: Path) -> dict[str, dict[str, dict[str, int]]]:
    """Variant -> architecture -> how many packages, sources, debug packages rpms.json names."""
    told = json.loads((compose_directory / "compose/metadata/rpms.json").read_text(encoding="utf-8"))
    words = {"binary": "packages", "source": "sources", "debug": "debug"}
    found: dict[str, dict[str, dict[str, int]]] = {}
    for variant, arches in told["payload"]["rpms"].items():
        for arch, sources in arches.items():
            mine = found.setdefault(variant, {}).setdefault(arch, dict.fromkeys(words.values(), 0))
            for entries in sources.values():
                for entry in entries.values():
                    mine[words[entry["category"]]] += 1
    return found
