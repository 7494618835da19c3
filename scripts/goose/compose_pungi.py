"""pungi-koji in place of the embedded engine, where it is installed: its configuration rendered, its result checked."""

from __future__ import annotations

import json
import pprint
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from goose.compose_config import Config, Release
from goose.compose_input import sha256
from goose.compose_media import SMALL, run

PROGRAM = "pungi-koji"


class PungiError(Exception):
    """pungi-koji did not compose: a sentence."""


def installed() -> str:
    """The path of pungi-koji; empty where there is none."""
    return shutil.which(PROGRAM) or ""


def refuse(config: Config) -> list[str]:
    """What the configuration wants and pungi does not do, in sentences."""
    said = []
    if config.boot.kind in ("lab", "tree"):
        said.append(
            f"boot.kind is {config.boot.kind}, and pungi-koji takes boot media from lorax alone: choose lorax or none."
        )
    if config.medium.size and not config.medium.split:
        said.append(
            "medium.size without medium.split is unknown to pungi-koji, which splits whatever is larger."
        )
    return said


def variants_xml(config: Config, arches: Sequence[str]) -> str:
    """The variants file. A list of packages has no place in it: that is `additional_packages`."""
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
        if one.groups:
            lines.append("    <groups>")
            lines += [f'      <group default="true">{group}</group>' for group in one.groups]
            lines.append("    </groups>")
        if one.environments:
            lines.append("    <environments>")
            lines += [f"      <environment>{name}</environment>" for name in one.environments]
            lines.append("    </environments>")
        lines.append("  </variant>")
    return "\n".join([*lines, "</variants>", ""])


def settings(
    config: Config, release: Release, arches: Sequence[str], repositories: dict[str, list[str]], comps: bool
) -> dict[str, Any]:
    """pungi's configuration, key by key."""
    found: dict[str, Any] = {
        "release_name": config.name,
        "release_short": config.short,
        "release_version": release.version,
        "variants_file": "variants.xml",
        "pkgset_source": "repos",
        "pkgset_repos": repositories,
        "sigkeys": list(config.sigkeys) or [None],
        "gather_method": "deps",
        "greedy_method": "none",
        "hashed_directories": True,
        "createrepo_c": True,
        "createrepo_checksum": "sha256",
        "media_checksums": ["sha256"],
        "create_jigdo": False,
        # EL 10 has no genisoimage.
        "createiso_use_xorrisofs": True,
        "multilib": [
            (f"^{one.id}$", {arch: ["all"] for arch in arches if arch == "x86_64"})
            for one in config.variants.values()
            if one.multilib and "x86_64" in arches
        ],
        "additional_packages": [
            (f"^{one.id}$", {"*": ["*"] if one.everything else list(one.packages)})
            for one in config.variants.values()
            if one.packages or one.everything
        ],
        "filter_packages": [
            (f"^{one.id}$", {"*": list(one.exclude)}) for one in config.variants.values() if one.exclude
        ],
        "variant_as_lookaside": [
            (one.id, other) for one in config.variants.values() for other in one.requires
        ],
        "createiso_skip": [
            (f"^{one.id}$", {"*": True, "src": True})
            for one in config.variants.values()
            if one.id not in {iso.variants[0] for iso in config.isos}
        ],
    }
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


def render(directory: Path, config: Config, release: Release, comps: str) -> Path:
    """Write pungi's configuration into a directory; the path of its main file."""
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
    (directory / "variants.xml").write_text(variants_xml(config, config.arches), encoding="utf-8")
    if comps:
        (directory / "comps.xml").write_text(comps, encoding="utf-8")
    told = settings(config, release, config.arches, repositories, bool(comps))
    path = directory / "pungi.conf"
    path.write_text(
        "".join(
            f"{key} = {pprint.pformat(value, width=110, sort_dicts=True)}\n"
            for key, value in sorted(told.items())
        ),
        encoding="utf-8",
    )
    return path


def compose(
    program: str, configuration: Path, target: Path, release: Release, taken: Sequence[str], log: Path
) -> Path:
    """Run pungi-koji; the directory of its compose.

    Args:
        target: an empty directory, which the compose is made in.
        taken: ids that are there: pungi counts respins by directories.

    Raises:
        PungiError: where it fails.
    """
    target.mkdir(parents=True)
    for name in taken:
        (target / name).mkdir()
    words = [program, f"--config={configuration}", f"--target-dir={target}", "--no-latest-link"]
    words += ["--test"] if release.stage == "testing" else ["--production", f"--label={release.full_label}"]
    with log.open("wb") as stream:
        try:
            done = subprocess.run(
                words, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, check=False
            )
        except OSError as error:
            raise PungiError(f"{program} cannot be run: {error.strerror}.") from error
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
        said = lines[faults[0] :][:8] if faults else lines[-8:]
        raise PungiError(
            f"{program} ended with status {done.returncode} and the compose {status or 'unmade'}:\n"
            + "\n".join(said)
        )
    for name in taken:
        (target / name).rmdir()
    return found[0]


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
