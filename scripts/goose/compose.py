"""A compose: variants and media out of signed repositories, whole or not at all."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from goose import compose_boot, compose_media, compose_pungi, compose_tree
from goose.compose_boot import Boot, BootError
from goose.compose_config import CONFIG, STAGES, Config, ConfigError, Release, read
from goose.compose_gather import Comps, Gathered, GatherError, gather, unmet
from goose.compose_input import Fetcher, InputError, Loaded, Package, load
from goose.compose_media import MediaError
from goose.compose_pungi import PungiError
from goose.compose_store import RECORD, Running, Store, StoreError, locked
from goose.compose_tree import About, Image, Show

EXIT_DONE, EXIT_PARTLY, EXIT_USAGE, EXIT_TOOL, EXIT_RUNNING = 0, 1, 2, 5, 75

# Raised whenever the same input would come out otherwise.
_FORMAT = 2
EMBEDDED = "embedded: pungi-koji is not installed here, and this program's own engine composes"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Wishes:
    """What a run shall do beside."""

    date: str = ""
    """YYYYMMDD; empty: today, or SOURCE_DATE_EPOCH's."""
    epoch: int | None = None
    """SOURCE_DATE_EPOCH."""
    force: bool = False
    allow_broken: bool = False
    dry_run: bool = False
    engine: str = ""


@dataclass
class Report:
    """What came of it."""

    result: str = ""
    """published, unchanged or would-publish."""
    compose: str = ""
    path: str = ""
    place: str = ""
    engine: str = ""
    label: str = ""
    installs: bool = False
    """Whether the media bring an installer."""
    iso: dict[str, Any] | None = None
    """The first medium: path, url, sha256, bytes."""
    isos: list[dict[str, Any]] = field(default_factory=list)
    variants: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    """Variant -> architecture -> packages, sources, debug."""
    removed: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class Input:
    """All that the outcome depends on."""

    binary: dict[str, list[Loaded]] = field(default_factory=dict)
    source: list[Loaded] = field(default_factory=list)
    debug: dict[str, list[Loaded]] = field(default_factory=dict)
    parents: dict[str, list[Loaded]] = field(default_factory=dict)
    comps: str = ""
    gathered: dict[str, Gathered] = field(default_factory=dict)
    fingerprint: str = ""

    def packages(self) -> Iterator[Package]:
        """Every package that is in."""
        for one in self.gathered.values():
            for members in (one.members, one.sources, one.debug):
                for packages in members.values():
                    yield from packages


def read_input(config: Config, release: Release, fetcher: Fetcher, work: Path, show: Show) -> Input:
    """The repositories' metadata."""
    found = Input()
    loaded: dict[str, Loaded] = {}
    wanted = [
        (kind, arch, getattr(one, kind))
        for arch in config.arches
        for one in config.repositories
        for kind in ("binary", "source", "debug")
        if getattr(one, kind)
    ]
    wanted += [("parents", arch, place) for arch in config.arches for place in config.parents]
    for number, (kind, arch, place) in enumerate(wanted, 1):
        show("repositories", number, len(wanted))
        base = _placed(place, config, release, arch)
        if base not in loaded:
            loaded[base] = load(base, fetcher, work / f"repository{len(loaded)}")
        one = loaded[base]
        if kind == "source":
            if one not in found.source:
                found.source.append(one)
        else:
            getattr(found, kind).setdefault(arch, []).append(one)
    if config.comps:
        found.comps = fetcher.read(_placed(config.comps, config, release, "")).decode("utf-8")
    else:
        own = [one.files["group"] for many in found.binary.values() for one in many if "group" in one.files]
        own += [
            one.files["group_gz"] for many in found.binary.values() for one in many if "group_gz" in one.files
        ]
        found.comps = own[0].read_text(encoding="utf-8") if own else ""
    return found


def _placed(place: str, config: Config, release: Release, arch: str) -> str:
    try:
        return place.format(arch=arch, version=release.version, short=config.short)
    except (KeyError, IndexError, ValueError) as error:
        raise ConfigError(
            f"'{place}' has a placeholder that there is not ({error}): use arch, version, short."
        ) from error


def _fingerprint(config: Config, release: Release, wishes: Wishes, found: Input, engine: str) -> str:
    boot = ""
    if engine == "embedded":
        kernels: list[compose_boot.Kernel] = []

        def kernel() -> compose_boot.Kernel:
            kernels.append(compose_boot.find_kernel(config.boot, config.cache))
            return kernels[-1]

        boot = " ".join(
            compose_boot.fingerprint(config.boot, arch, kernel) for arch in config.arches if config.isos
        )
    # Where it goes and what is kept changes nothing of what comes out.
    about = {
        key: value
        for key, value in dataclasses.asdict(config).items()
        if key not in ("text", "targets", "keep", "cache", "output", "url")
    }
    extra = []
    for name in config.extra_files:
        try:
            extra.append(hashlib.sha256(Path(name).read_bytes()).hexdigest())
        except OSError as error:
            raise ConfigError(f"extra_files names {name}, which cannot be read: {error.strerror}.") from error
    told = json.dumps(
        [
            _FORMAT,
            engine,
            about,
            dataclasses.asdict(release),
            wishes.epoch,
            wishes.date,
            wishes.allow_broken,
            boot,
            extra,
            hashlib.sha256(found.comps.encode()).hexdigest(),
            [
                one.checksum
                # Not the parents: nothing of them comes out, and what they lack refuses every run.
                for many in (*found.binary.values(), found.source, *found.debug.values())
                for one in many
            ],
        ],
        sort_keys=True,
        default=str,
    )
    return hashlib.sha256(told.encode()).hexdigest()


def _boots(about: About, arch: str, members: Mapping[str, Any], work: Path) -> dict[str, Boot]:
    """Boot media of each medium, by the variant that it is called by."""
    config, found = about.config, {}
    for iso in config.isos:
        first = iso.variants[0]
        if first not in members or config.boot.kind == "none":
            continue
        try:
            label = about.label(first, arch)
        except ValueError as error:
            raise MediaError(f"{error}.") from error
        place = work / f"boot-{first}-{arch}"
        settings = config.boot
        if settings.kind == "lab":
            if arch != "x86_64":
                raise BootError(
                    f"The lab's own boot media are for x86_64, and the compose is of {arch}: set boot.kind to none or lorax."
                )
            found[first] = compose_boot.lab(
                about.title, label, compose_boot.find_kernel(settings, config.cache), place, about.epoch
            )
        elif settings.kind == "tree":
            place.mkdir(parents=True)
            found[first] = compose_boot.from_tree(
                Path(_placed(settings.tree, config, about.release, arch)), label, arch, place
            )
        else:
            place.mkdir(parents=True)
            values = {
                "name": config.name,
                "version": about.release.version,
                "repo": _placed(config.repositories[0].binary, config, about.release, arch),
            }
            found[first] = compose_boot.from_lorax(settings, values, label, arch, place)
    return found


def _embedded(
    config: Config, release: Release, wishes: Wishes, found: Input, compose_id: str, store: Store, show: Show
) -> tuple[Path, list[Image], bool]:
    """Compose by the embedded engine, in the staging directory; its directory, media, and whether these install."""
    files = compose_tree.Files(found.packages(), config.sigkeys, show)
    with contextlib.closing(files):
        return _made(config, release, wishes, found, compose_id, store, files, show)


def _made(
    config: Config,
    release: Release,
    wishes: Wishes,
    found: Input,
    compose_id: str,
    store: Store,
    files: compose_tree.Files,
    show: Show,
) -> tuple[Path, list[Image], bool]:
    epoch = _epoch(wishes, found)
    about = About(config, release, epoch)
    comps = Comps(found.comps, "the repositories")
    work, made = store.staging / "work", store.staging / "made"
    top = made / "compose"
    top.mkdir(parents=True)
    images: list[Image] = []
    sources: dict[str, dict[str, Package]] = {}
    installs = False
    boots_of: dict[str, dict[str, Boot]] = {}
    for arch, gathered in found.gathered.items():
        boots_of[arch] = _boots(about, arch, gathered.members, work)
        installs = installs or any(boot.installs for boot in boots_of[arch].values())
        compose_tree.trees(about, top, arch, gathered, files, comps, boots_of[arch], show)
        for variant, packages in gathered.sources.items():
            sources.setdefault(variant, {}).update({one.file: one for one in packages})
    of_source = {variant: [many[name] for name in sorted(many)] for variant, many in sources.items()}
    compose_tree.source_trees(about, top, of_source, files)
    media: list[compose_media.Made] = []
    for iso in config.isos:
        for arch, gathered in found.gathered.items():
            variants = tuple(one for one in iso.variants if one in gathered.members)
            if iso.variants[0] in variants:
                boot = boots_of[arch].get(iso.variants[0])
                media.append(compose_media.Made(about, variants, arch, gathered.members, files, comps, boot))
        if iso.source and (variants := tuple(one for one in iso.variants if of_source.get(one))):
            media.append(compose_media.Made(about, variants, "src", of_source, files, None, None))
    # Two at a time: while isomd5sum keeps a processor busy with one, xorriso writes the next.
    with ThreadPoolExecutor(2) as pool:
        made_of = pool.map(lambda one: compose_media.make(one, config.medium, top, work), media)
        for number, several in enumerate(made_of, 1):
            show("media", number, len(media))
            images += several
    compose_media.checksums(about, images, top)
    metadata = top / "metadata"
    metadata.mkdir()
    compose_tree.composeinfo(about, compose_id, found.gathered, images).dump(
        str(metadata / "composeinfo.json")
    )
    compose_tree.rpms(compose_id, found.gathered, files).dump(str(metadata / "rpms.json"))
    compose_tree.images(compose_id, images, top, list(found.gathered)).dump(str(metadata / "images.json"))
    (made / "COMPOSE_ID").write_text(compose_id, encoding="ascii")
    (made / "STATUS").write_text("FINISHED\n", encoding="ascii")
    files.wait()
    compose_tree.validate(top)
    return made, images, installs


def _epoch(wishes: Wishes, found: Input) -> int:
    """The time that everything carries: SOURCE_DATE_EPOCH, the given date, or that of the newest package."""
    if wishes.epoch is not None:
        return wishes.epoch
    if wishes.date:
        return int(datetime.strptime(wishes.date, "%Y%m%d").replace(tzinfo=timezone.utc).timestamp())
    # No earlier than DOS and its FAT know.
    return max([315_532_800, *(package.build_time for package in found.packages())])


def _by_pungi(
    program: str,
    config: Config,
    release: Release,
    wishes: Wishes,
    found: Input,
    store: Store,
    report: Report,
    say: Say,
) -> tuple[Path, list[Image], bool]:
    work = store.staging / "pungi"
    compose_pungi.known_servers(
        one
        for many in (*found.binary.values(), found.source, *found.debug.values(), *found.parents.values())
        for one in many
    )
    configuration = compose_pungi.render(
        work / "config", config, release, found.comps, compose_pungi.foreign(found.binary)
    )
    kept = [
        one.name
        for one in store.output.iterdir()
        if one.is_dir() and not one.is_symlink() and not one.name.startswith(".")
    ]
    target = work / f"target-{time.time_ns()}"
    try:
        made = compose_pungi.compose(program, configuration, target, release, kept, work / "log")
    except PungiError:
        # dnf says that packages are damaged, and not which.
        if faults := compose_tree.damaged(found.packages()):
            raise InputError("\n".join(faults)) from None
        raise
    compose_tree.validate(made / "compose")
    known = {
        arch: [
            package
            for loaded in (*found.source, *found.binary[arch], *found.debug.get(arch, ()))
            for package in loaded.packages
        ]
        for arch in config.arches
    }
    taken = compose_pungi.packages(made, known, config.sigkeys)
    for arch in config.arches:
        said = unmet(config, arch, found.binary[arch], taken.get(arch, {}), found.parents.get(arch, ()))
        if said and not wishes.allow_broken:
            raise GatherError("\n".join(said))
        for line in said:
            if line not in report.warnings:
                report.warnings.append(line)
                say(f"warning: {line}")
    if config.sign:
        for path in sorted((made / "compose").rglob("*-CHECKSUM")):
            compose_media.sign(path, config.sign, path.read_text(encoding="ascii"))
    images = [
        Image(
            one["path"],
            one["path"].partition("/")[0],
            one["arch"],
            one["volume_id"] or "",
            one["size"],
            one["checksums"].get("sha256", ""),
            one["implant_md5"] or "",
            one["disc_number"],
            one["disc_count"],
            one["bootable"],
            (),
        )
        for one in sorted(
            compose_pungi.media(made), key=lambda image: (image["arch"] == "src", image["path"])
        )
    ]
    return made, images, config.boot.kind == "lorax"


def _engine(config: Config, wishes: Wishes, say: Say) -> tuple[str, str]:
    """Which engine composes, and pungi-koji's path."""
    wish = wishes.engine or config.engine
    program = compose_pungi.installed()
    if wish == "pungi" and not program:
        raise ConfigError(
            "engine is pungi, and pungi-koji is not installed: install it, or choose auto or embedded."
        )
    if wish == "embedded" or not program:
        say(f"engine: {EMBEDDED if not program else 'embedded, as was asked'}.")
        return "embedded", ""
    if said := compose_pungi.refuse(config, wishes.date):
        raise ConfigError(" ".join(said) + " Or set engine to embedded.")
    say(f"engine: {program}.")
    return "pungi", program


def _note(report: Report, config: Config, store: Store, images: Sequence[Mapping[str, Any]]) -> None:
    top = store.output / report.compose / "compose"
    for image in images:
        report.isos.append(
            {
                "path": str(top / image["path"]),
                "sha256": image["sha256"],
                "bytes": image["bytes"],
                "label": image["label"],
                "url": f"{config.url.rstrip('/')}/{report.compose}/compose/{image['path']}"
                if config.url
                else None,
            }
        )
    report.iso = report.isos[0] if report.isos else None
    report.path = str(store.output / report.compose)


def run(
    config: Config,
    release: Release,
    wishes: Wishes,
    say: Say = lambda line: None,
    show: Show = lambda what, number, count: None,
) -> Report:
    """Compose, where the input is another one than that of a compose which is there.

    Raises:
        ConfigError, InputError, GatherError, BootError, MediaError, PungiError, StoreError: what is wrong, in a
            sentence or several; nothing was published.
        Running: another run composes.
    """
    release.check()
    start = time.monotonic()
    store = Store(config.output)
    report = Report(place=release.place, label=release.full_label)
    with locked(store.base / "lock", f"composes into {config.output}"):
        store.sweep()
        try:
            _compose(config, release, wishes, store, report, say, show)
        finally:
            # What a failed run has made helps nobody; what a killed one has made the next removes.
            shutil.rmtree(store.staging, ignore_errors=True)
    report.seconds = round(time.monotonic() - start, 1)
    return report


def _compose(
    config: Config, release: Release, wishes: Wishes, store: Store, report: Report, say: Say, show: Show
) -> None:
    engine, program = _engine(config, wishes, say)
    report.engine = engine
    found = read_input(config, release, Fetcher(config.cache, config.ca), store.staging / "input", show)
    comps = Comps(found.comps, "the repositories")
    for arch in config.arches:
        gathered = gather(
            config,
            arch,
            found.binary[arch],
            found.source,
            found.debug.get(arch, []),
            comps,
            wishes.allow_broken,
            found.parents.get(arch, ()),
        )
        found.gathered[arch] = gathered
        report.warnings += gathered.warnings
        for variant, packages in gathered.members.items():
            report.variants.setdefault(variant, {})[arch] = {
                "packages": len(packages),
                "sources": len(gathered.sources.get(variant, ())),
                "debug": len(gathered.debug[variant]),
            }
            if not packages:
                raise GatherError(
                    f"The variant {variant} holds no package for {arch}: mend variants in the configuration."
                )
    for line in report.warnings:
        say(f"warning: {line}")
    found.fingerprint = _fingerprint(config, release, wishes, found, engine)
    there = None if wishes.force else store.same(found.fingerprint)
    if there is not None:
        report.result, report.compose = "unchanged", there.id
        report.installs = bool(there.record.get("installs"))
        _note(report, config, store, there.record["images"])
        if not wishes.dry_run:
            store.point(config.short, release, there.id)
        return
    date = wishes.date or datetime.fromtimestamp(
        time.time() if wishes.epoch is None else wishes.epoch, timezone.utc
    ).strftime("%Y%m%d")
    report.compose = store.next_id(config.short, release, date)
    if wishes.dry_run:
        report.result = "would-publish"
        return
    for name in store.links(config.short, release):
        path = store.output / name
        if os.path.lexists(path) and not path.is_symlink():
            raise StoreError(
                f"{path} is no link of this program's: move it away; the compose appears there as a link."
            )
    if engine == "pungi":
        made, images, report.installs = _by_pungi(
            program, config, release, wishes, found, store, report, say
        )
        report.compose, report.variants = made.name, compose_pungi.counts(made)
    else:
        made, images, report.installs = _embedded(config, release, wishes, found, report.compose, store, show)
    noted = [
        {"path": one.path, "sha256": one.sha256, "bytes": one.bytes, "label": one.label} for one in images
    ]
    sizes = {one.path: one.bytes for one in images}
    for path in sorted((made / "compose").rglob("*")):
        if (path.name == "repomd.xml" or path.parent.name == "metadata") and path != made / RECORD:
            sizes[path.relative_to(made / "compose").as_posix()] = path.stat().st_size
    (made / RECORD).write_text(
        json.dumps(
            {
                "version": _FORMAT,
                "fingerprint": found.fingerprint,
                "stage": release.stage,
                "place": release.place,
                "latest": store.links(config.short, release)[-1],
                "engine": engine,
                "installs": report.installs,
                "images": noted,
                "sizes": sizes,
            },
            indent=1,
            sort_keys=True,
        )
        + "\n",
        encoding="utf-8",
    )
    _compose_done(config, release, store, report, made)
    report.result = "published"
    _note(report, config, store, noted)


def _compose_done(config: Config, release: Release, store: Store, report: Report, made: Path) -> None:
    store.show(made, report.compose)
    store.point(config.short, release, report.compose)
    report.removed = store.prune(config.keep)


# The command


def lines(report: Report, config: Config) -> Iterator[str]:
    """What a person wants to know of it."""
    words = {
        "published": "published",
        "unchanged": "unchanged, for the same input",
        "would-publish": "would be published",
    }
    yield f"{report.compose}: {words[report.result]} ({report.engine} engine, {report.seconds} s)"
    for variant, arches in report.variants.items():
        for arch, counts in arches.items():
            yield f"  {variant} {arch}: {counts['packages']} packages, {counts['sources']} sources, {counts['debug']} debug"
    for iso in report.isos:
        yield f"  {iso['path']}: {iso['bytes'] / 1e6:.1f} MB, sha256 {iso['sha256']}"
    if report.result != "would-publish":
        yield f"  {config.output / report.place}"
    if report.isos and not report.installs and config.boot.kind != "none":
        yield "  These media boot and check themselves. They do not install a system: that takes boot media from lorax."
    for name in report.removed:
        yield f"  removed: {name}"


def _date(text: str) -> str:
    try:
        datetime.strptime(text, "%Y%m%d")
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no date: give YYYYMMDD") from None
    if not re.fullmatch(r"[0-9]{8}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no date: give YYYYMMDD")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="compose_iso.py",
        description="Compose variants, trees and media of signed repositories, as the configuration says.",
        epilog="Exit status: 0 done, or nothing to do; 1 refused, for packages are missing or damaged; 2 usage;"
        " 5 a program underneath or the disk failed; 75 already running. SOURCE_DATE_EPOCH is heeded.",
    )
    parser.add_argument("version", metavar="VERSION", help="the product's version, as in 6.0")
    parser.add_argument("stage", metavar="STAGE", help=f"one of {', '.join(STAGES)}")
    parser.add_argument(
        "release", metavar="RELEASE", help="as in RC4; Final of the stage Final is what people install"
    )
    parser.add_argument("--config", type=Path, default=CONFIG, metavar="FILE", help=f"(default: {CONFIG})")
    parser.add_argument(
        "--label", default="", metavar="L", help="productmd's label (default: Beta RC4 is Beta-1.4)"
    )
    parser.add_argument(
        "--date", type=_date, metavar="YYYYMMDD", help="the date of the compose and of all in it"
    )
    parser.add_argument(
        "--engine",
        choices=("auto", "embedded", "pungi"),
        default="",
        help="(default: as the configuration says)",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="in place of the configuration's")
    parser.add_argument(
        "--allow-broken", action="store_true", help="take packages whose requirements nothing provides"
    )
    parser.add_argument("--force", action="store_true", help="compose again what is there of the same input")
    parser.add_argument(
        "--pungi-config",
        type=Path,
        metavar="DIR",
        help="write the configuration for pungi-koji there, and do nothing else",
    )
    parser.add_argument("--dry-run", action="store_true", help="gather and check, and publish nothing")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    return parser


@contextlib.contextmanager
def _status(name: str, failed: list[int]) -> Iterator[None]:
    """Failures as sentences on standard error, and their exit status into ``failed``."""

    def tell(said: object, status: int) -> None:
        for line in str(said).splitlines():
            print(f"{name}: {line}", file=sys.stderr)
        failed.append(status)

    try:
        yield
    except ConfigError as error:
        tell(error, EXIT_USAGE)
    except (InputError, GatherError) as error:
        tell(error, EXIT_PARTLY)
    except (BootError, MediaError, PungiError, StoreError) as error:
        tell(error, EXIT_TOOL)
    except Running as error:
        tell(error, EXIT_RUNNING)
    except ImportError as error:
        tell(f"The Python module {error.name} is missing: apply the state pungi.", EXIT_TOOL)
    except OSError as error:
        full = (
            " The disk is full: make room, and run it again."
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else ""
        )
        tell(f"{error.filename or 'The disk'}: {error.strerror}.{full}", EXIT_TOOL)
    except KeyboardInterrupt:
        tell("Interrupted: nothing was published.", EXIT_PARTLY)


def main(argv: Sequence[str] | None = None) -> int:
    """``scripts/compose_iso.py``; the exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    terminal = sys.stderr.isatty()
    failed: list[int] = []

    def say(line: str) -> None:
        print(f"{chr(13) + chr(27) + '[K' if terminal else ''}{line}", file=sys.stderr, flush=True)

    def show(what: str, number: int, count: int) -> None:
        if terminal:
            print(f"\r\x1b[K{what}: {number} of {count}", end="", file=sys.stderr, flush=True)

    with _status("compose_iso.py", failed):
        epoch = os.environ.get("SOURCE_DATE_EPOCH")
        if epoch is not None and not epoch.isdigit():
            raise ConfigError(f"SOURCE_DATE_EPOCH is '{epoch}': give seconds since 1970, or unset it.")
        config = read(args.config)
        if args.output:
            config = dataclasses.replace(config, output=args.output.absolute())
        release = Release(args.version, args.stage, args.release, args.label)
        release.check()
        if args.pungi_config:
            if args.pungi_config.exists():
                raise ConfigError(f"{args.pungi_config} is there already: name a directory that is not.")
            with tempfile.TemporaryDirectory(prefix="compose-") as work:
                found = read_input(config, release, Fetcher(config.cache, config.ca), Path(work), show)
            others = compose_pungi.foreign(found.binary)
            print(compose_pungi.render(args.pungi_config, config, release, found.comps, others))
            return EXIT_DONE
        wishes = Wishes(
            args.date or "",
            int(epoch) if epoch else None,
            args.force,
            args.allow_broken,
            args.dry_run,
            args.engine,
        )
        report = run(config, release, wishes, say, show)
        if terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        if args.json:
            print(json.dumps(dataclasses.asdict(report)))
        else:
            print("\n".join(lines(report, config)))
    return failed[0] if failed else EXIT_DONE
