"""A tag's packages as repositories: signed, multilib, closed, and published by one rename."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

from goose import koji_call, mash_dist_repo, mash_plan, mash_publish, mash_repodata, mash_tag
from goose.mash_config import ALLOWABLE, CONFIG_DIR, ENGINES, ConfigError, Mash, Site, read_mash, read_site
from goose.mash_parents import Parent, ParentError, fetch_all
from goose.mash_plan import Plan, PlanError, Tree
from goose.mash_publish import Content, Diff, Published, PublishError, Running
from goose.mash_records import Brief, RecordError, Records, Wanted
from goose.mash_repodata import RepodataError
from goose.mash_tag import KojiError, MissingError, Refusal, Rpm

EXIT_DONE, EXIT_PARTLY, EXIT_USAGE, EXIT_AUTH, EXIT_KOJI, EXIT_TOOL, EXIT_RUNNING = 0, 1, 2, 3, 4, 5, 75

# Raised whenever the same input would come out otherwise.
_FORMAT = 1

Say = Callable[[str], None]
Show = Callable[[str, int, int], None]


class Failed(Exception):
    """A repository was not made: a sentence a line, and the exit status."""

    def __init__(self, sentences: str, status: int) -> None:
        super().__init__(sentences)
        self.status = status


@dataclass(frozen=True)
class Wishes:
    """What a run shall do."""

    allow: tuple[str, ...] = ()
    event: int | None = None
    dry_run: bool = False
    explain: str = ""


@dataclass
class Report:
    """What came of one mash."""

    name: str
    status: int = EXIT_DONE
    result: str = ""
    """published, unchanged, would-publish, explained, refused or failed."""
    event: int = 0
    path: str = ""
    generation: str = ""
    trees: dict[str, dict[str, int]] = field(default_factory=dict)
    """Tree -> rpms, bytes."""
    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    resigned: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    """Why it was not made, in sentences that name the RPMs."""
    allowed: list[str] = field(default_factory=list)
    """What would have refused it, and was allowed."""
    explained: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    error: str = ""
    task: int | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class _Input:
    """What the tag has at one event."""

    rpms: list[Rpm]
    sources: list[Rpm]
    """Read for where their noarch packages belong, and in no tree."""
    fingerprint: str
    """Of this and of the settings."""


def _file(path: Path | None, key: str) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise Failed(f"{key} {path} cannot be read: {error.strerror}.", EXIT_USAGE) from error


def _gate(refusals: Sequence[Refusal], allow: Sequence[str], report: Report) -> None:
    """Refuse, where something is not allowed by name."""
    report.allowed += [one.sentence for one in refusals if one.allowed(allow)]
    left = [one for one in refusals if not one.allowed(allow)]
    report.refused += [f"{one.kind}: {one.sentence}" for one in left]


def _refuse(report: Report) -> None:
    if report.refused:
        raise Failed("", EXIT_PARTLY)


@dataclass(frozen=True)
class _Settings:
    """What the outcome depends on beside the tag."""

    extra: list[tuple[str, bytes]]
    parents: list[tuple[str, Parent, bytes]]
    fingerprint: str


def _settings(site: Site, mash: Mash, allow: Sequence[str]) -> _Settings:
    extra = [
        (kind, content)
        for kind, content in (
            ("group", _file(mash.compsfile, "compsfile")),
            ("updateinfo", _file(mash.updateinfo, "updateinfo")),
        )
        if content is not None
    ]
    parents = []
    for arch in mash.arches:
        for place in mash.parent_repos:
            parent = Parent(place % {"arch": arch})
            parents.append((arch, parent, parent.repomd()))
    about = [
        _FORMAT, mash.text, mash.keys, dataclasses.astuple(mash_plan.lists_of(mash)), site.compression, site.hash,
        sorted(allow), [hashlib.sha256(content).hexdigest() for _, content in extra],
        [(arch, parent.place, hashlib.sha256(repomd).hexdigest()) for arch, parent, repomd in parents],
    ]  # fmt: skip
    return _Settings(extra, parents, hashlib.sha256(json.dumps(about, default=sorted).encode()).hexdigest())


def _same(site: Site, mash: Mash, session: Any, tag: int, before: Mapping[str, Any]) -> bool:
    """Whether the tag is as it was when ``before`` was made, told by short answers of the hub.

    A new signature is no event. So this can only be told where a signature more would change nothing: where
    every RPM is signed by the first of the keys, or none is asked for.
    """
    if not before["settled"]:
        return False
    tags = [tag]
    if mash.inherit:
        above = mash_tag.ask(lambda: session.getFullInheritance(tag), f"What {mash.tag} inherits")
        tags += [link["parent_id"] for link in above]
    if mash_tag.ask(lambda: session.tagChangedSinceEvent(before["event"], tags), f"Changes of {mash.tag}"):
        return False
    for path, size, mtime in before["files"]:
        try:
            about = os.stat(f"{site.topdir}/{path}")
        except OSError:
            return False
        if (about.st_size, about.st_mtime_ns) != (size, mtime):
            return False
    return True


def _input(
    site: Site,
    mash: Mash,
    session: Any,
    event: int,
    settings: _Settings,
    allow: Sequence[str],
    report: Report,
) -> _Input:
    """What the tag has, with its files; refused where the gate refuses it."""
    rpms, builds = mash_tag.listing(session, mash, event)
    if not rpms:
        raise Failed(f"The tag {mash.tag} holds no RPMs at event {event}.", EXIT_KOJI)
    chosen, unsigned = mash_tag.choose(mash, mash_plan.used(mash, rpms))
    once, doubled = mash_tag.doubles(mash, chosen)
    _gate([*unsigned, *doubled], allow, report)
    # What is missing is told together with what is unsigned: both are mended by the signer.
    missing = ""
    try:
        found = mash_tag.locate(once, builds, site.topdir)
        sources = mash_tag.locate(mash_plan.excluding_sources(mash, rpms), builds, site.topdir)
    except MissingError as error:
        missing = str(error)
    if report.refused:
        raise Failed(missing, EXIT_PARTLY)
    if missing:
        raise Failed(missing, EXIT_TOOL)
    keys = [settings.fingerprint, *(rpm.wanted(site.hash).key for rpm in (*found, *sources))]
    return _Input(found, sources, hashlib.sha256("\n".join(keys).encode()).hexdigest())


def _plan(
    site: Site, mash: Mash, found: _Input, settings: _Settings, records: Records, show: Show
) -> tuple[Plan, dict[Rpm, Wanted], dict[Wanted, Brief]]:
    wanted = {rpm: rpm.wanted(site.hash) for rpm in (*found.rpms, *found.sources)}
    briefs = records.briefs(list(wanted.values()), lambda done, count: show("reading RPMs", done, count))
    with tempfile.TemporaryDirectory(prefix="mash-") as directory:
        parents = fetch_all(settings.parents, Path(directory))
        plan = mash_plan.make(mash, found.rpms, wanted, briefs, records, parents)
    return plan, wanted, briefs


def _explain(plan: Plan, rpms: Sequence[Rpm], text: str) -> list[str]:
    lines = []
    for rpm in mash_tag.matching(rpms, text):
        for tree in plan.trees:
            if rpm in tree.members:
                lines.append(f"{rpm.nevra} is in {tree.name}: {tree.members[rpm]}.")
            else:
                lines.append(
                    f"{rpm.nevra} is not in {tree.name}: {tree.out.get(rpm, 'it is not looked at')}."
                )
    return lines


def _sizes(trees: Sequence[Tree]) -> dict[str, dict[str, int]]:
    return {
        tree.name: {"rpms": len(tree.members), "bytes": sum(rpm.size for rpm in tree.members)}
        for tree in trees
    }


def _manifest_sizes(manifest: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    return {
        name: {"rpms": len(tree["rpms"]), "bytes": sum(row[3] for row in tree["rpms"].values())}
        for name, tree in manifest["trees"].items()
    }


def _note(report: Report, diff: Diff) -> None:
    report.added, report.removed, report.resigned = diff.added, diff.removed, diff.resigned


def compose(site: Site, mash: Mash, session: Any, wishes: Wishes, report: Report, show: Show) -> None:
    """Make one repository; ``report`` says what came of it.

    Raises:
        Failed, and what the parts raise: `run` turns all into the report.
    """
    if unknown := mash_plan.unknown_arches(mash):
        raise Failed(
            f"{mash.name}: arches has {', '.join(unknown)}, for which there are no rules.", EXIT_USAGE
        )
    published = Published(site.output, mash.published)
    report.path = str(published.link)
    if wishes.explain or wishes.dry_run:
        _compose(site, mash, session, wishes, published, report, show)
        return
    with published.alone():
        published.sweep(mash.keep or site.keep)
        _compose(site, mash, session, wishes, published, report, show)
        published.sweep(mash.keep or site.keep)


def _unchanged(published: Published, before: Mapping[str, Any], report: Report) -> None:
    report.result, report.generation = "unchanged", str(published.current())
    report.trees = _manifest_sizes(before)


def _compose(
    site: Site,
    mash: Mash,
    session: Any,
    wishes: Wishes,
    published: Published,
    report: Report,
    show: Show,
) -> None:
    event, tag = mash_tag.event_of(session, mash.tag, wishes.event)
    report.event = event
    allow = (*mash.allow, *wishes.allow)
    settings = _settings(site, mash, allow)
    before = published.manifest()
    known = not wishes.explain and before.get("settings") == settings.fingerprint and published.whole(before)
    if known and wishes.event is None and _same(site, mash, session, tag, before):
        _unchanged(published, before, report)
        return
    found = _input(site, mash, session, event, settings, allow, report)
    if known and before["input"] == found.fingerprint:
        _unchanged(published, before, report)
        return
    with contextlib.closing(Records(site.cache, site.jobs)) as records:
        plan, wanted, briefs = _plan(site, mash, found, settings, records, show)
        if wishes.explain:
            report.result = "explained"
            report.explained = _explain(plan, found.rpms, wishes.explain)
            if not report.explained:
                raise Failed(
                    f"{mash.name}: the tag {mash.tag} has no {wishes.explain} for {', '.join(mash.arches)}.",
                    EXIT_USAGE,
                )
            return
        new = {tree.name: mash_publish.rows(tree, mash.hash_packages, wanted, briefs) for tree in plan.trees}
        _note(report, mash_publish.difference(before, new))
        report.trees = _sizes(plan.trees)
        _gate(plan.broken, allow, report)
        _refuse(report)
        if wishes.dry_run:
            report.result = "would-publish"
            return
        # The same input gives the same bytes; a client takes no repomd.xml that is older than its own.
        timestamp = max([rpm.mtime // 10**9 for rpm in found.rpms] + [int(before.get("timestamp", -1)) + 1])
        look = mash_repodata.Look(
            site.compression, site.hash, timestamp, mash.content_tags, mash.distro_tags, mash.repomd_sign
        )
        top = len(str(site.topdir)) + 1
        content = Content(
            plan.trees, new, wanted, records, settings.extra, look,
            {"name": mash.name, "tag": mash.tag, "event": event, "arches": mash.arches,
             "keys": [ids[0] for ids in mash.keys], "timestamp": timestamp, "settings": settings.fingerprint,
             "input": found.fingerprint, "files": [
                 (rpm.path[top:], rpm.size, rpm.mtime) for rpm in (*found.rpms, *found.sources)
             ], "settled": not mash.keys or all(rpm.sigkey in mash.keys[0] for rpm in found.rpms)},
            site.hash,
        )  # fmt: skip
        generation = mash_publish.build(
            published, content, lambda done, count: show("placing RPMs", done, count)
        )
        published.show(generation)
        report.result, report.generation = "published", str(generation)
        records.tidy(wanted.values())


def _dist_repo(site: Site, mash: Mash, session: Any, wishes: Wishes, report: Report, say: Say) -> None:
    """Make one repository by Koji's task, behind the same gate as far as it can be looked at from here."""
    if limits := list(mash_dist_repo.limits(mash)):
        raise Failed("\n".join(f"{mash.name}: {one}" for one in limits), EXIT_USAGE)
    if wishes.explain:
        raise Failed(f"{mash.name}: dist-repo does not say why; --engine mash --explain does.", EXIT_USAGE)
    report.warnings += mash_dist_repo.remarks(mash)
    event, _ = mash_tag.event_of(session, mash.tag, wishes.event)
    report.event = event
    rpms, _ = mash_tag.listing(session, mash, event)
    chosen, unsigned = mash_tag.choose(mash, mash_plan.used(mash, rpms))
    allow = (*mash.allow, *wishes.allow)
    _gate([*unsigned, *mash_tag.doubles(mash, chosen)[1]], allow, report)
    _refuse(report)
    if wishes.dry_run:
        report.result = "would-publish"
        return
    lax = not mash.keys or not mash.strict_keys or bool(unsigned)
    made = mash_dist_repo.make(site, mash, session, event, mash_plan.lists_of(mash), lax, say)
    report.result, report.task, report.path = "published", made["task"], made["path"]


def run(
    site: Site,
    mash: Mash,
    connect: Callable[[], Any],
    wishes: Wishes,
    warnings: Sequence[str],
    say: Say,
    show: Show,
) -> Report:
    """Make one repository, and say what came of it."""
    report = Report(mash.name, warnings=list(warnings))
    start = time.monotonic()
    try:
        session = connect()
        if mash.engine == "dist-repo":
            _dist_repo(site, mash, session, wishes, report, say)
        else:
            compose(site, mash, session, wishes, report, show)
    except Failed as error:
        report.status, report.error = error.status, str(error)
    except Running as error:
        report.status, report.error = EXIT_RUNNING, f"{mash.name}: {error}"
    except koji_call.Unanswered as error:
        report.status, report.error = error.status, str(error)
    except KojiError as error:
        report.status, report.error = EXIT_KOJI, str(error)
    except (RecordError, MissingError, PlanError, PublishError, RepodataError, ParentError) as error:
        report.status, report.error = EXIT_TOOL, str(error)
    except sqlite3.Error as error:
        report.status = EXIT_TOOL
        report.error = (
            f"The cache in {site.cache} failed ({error}): is the disk full? Else remove it; it is made anew."
        )
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        report.status, report.error = (
            EXIT_TOOL,
            f"{mash.name}: the disk failed{where}: {error.strerror or error}.",
        )
    if report.status:
        report.result = "refused" if report.refused else "failed"
    report.seconds = round(time.monotonic() - start, 2)
    return report


def _lines(report: Report) -> Iterator[str]:
    """What people read on standard output."""
    yield from report.explained
    if report.result == "explained":
        return
    for mark, entries in (("+", report.added), ("-", report.removed), ("~", report.resigned)):
        if report.result == "would-publish":
            yield from (f"{mark} {entry}" for entry in entries)
    counts = f"{len(report.added)} added, {len(report.removed)} removed, {len(report.resigned)} signed or built anew"
    trees = ", ".join(f"{name} {tree['rpms']}" for name, tree in report.trees.items())
    if report.result == "published":
        trees = trees or f"task {report.task}"
        yield f"{report.name}: {report.path} is published at event {report.event} ({trees}): {counts}"
    elif report.result == "unchanged":
        yield f"{report.name}: {report.path} is as it should be ({trees})"
    elif report.result == "would-publish":
        yield f"{report.name}: {report.path} would be published at event {report.event} ({trees}): {counts}"


def _complaints(report: Report) -> Iterator[str]:
    """What people read on standard error."""
    yield from report.warnings
    yield from (f"{report.name}: allowed: {one}" for one in report.allowed)
    yield from (f"{report.name}: {one}" for one in report.refused)
    if report.refused:
        yield (
            f"{report.name} is not made, for the {len(report.refused)} reasons above; what is published stays."
            f" Mend them, or name what may be: {' '.join(f'--allow {kind}' for kind in _kinds(report))} (or KIND:PACKAGE)."
        )
    yield from (
        f"{report.name}: {one}" if not one.startswith(f"{report.name}:") else one
        for one in report.error.splitlines()
    )


def _kinds(report: Report) -> list[str]:
    return list(dict.fromkeys(one.partition(":")[0] for one in report.refused))


def status_of(reports: Sequence[Report]) -> int:
    """The exit status of all: that of the first that failed, or 1 where others were done."""
    failed = [report.status for report in reports if report.status]
    if not failed:
        return EXIT_DONE
    return failed[0] if len(failed) == len(reports) else EXIT_PARTLY


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mash_repo.py",
        description="Make repositories of what tags have, as NAME.mash says. What is published is replaced in one"
        " step by what is complete and checked, or stays.",
        epilog="An unsigned package, one in two versions, or one that lacks what it requires refuses the repository."
        " Exit status: 0 all done; 1 refused, or some done and some not; 2 usage or configuration; 3 authentication;"
        " 4 Koji; 5 a file, the disk or a program; 75 another run makes the same.",
    )
    parser.add_argument("name", nargs="+", metavar="NAME", help="of DIR/NAME.mash")
    parser.add_argument("--config", type=Path, default=CONFIG_DIR, metavar="DIR", help="default: %(default)s")
    parser.add_argument("--output", type=Path, metavar="DIR", help="instead of `outputdir` in mash.conf")
    parser.add_argument("--event", type=int, metavar="N", help="what the tag had then (default: now)")
    parser.add_argument("--engine", choices=ENGINES, help="instead of `engine` in NAME.mash")
    parser.add_argument("--allow", action="append", default=[], metavar="KIND[:PACKAGE]",
                        help=f"make it although: {', '.join(ALLOWABLE)}; may be given several times")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="say what would change, and publish nothing")
    parser.add_argument("--explain", default="", metavar="NEVRA",
                        help="say why a package is in each tree, or is not, and publish nothing; NAME and NAME.ARCH"
                        " do, too")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    return parser


def main(arguments: Sequence[str] | None = None, connect: Callable[[Site], Any] | None = None) -> int:
    """The program; ``connect`` makes a session of the hub."""
    parser = _parser()
    args = parser.parse_args(arguments)
    bad = [word for word in args.allow if word.partition(":")[0] not in ALLOWABLE]
    if bad:
        parser.error(f"--allow {bad[0]}: give one of {', '.join(ALLOWABLE)}, alone or with :PACKAGE.")
    terminal = sys.stderr.isatty()

    def say(line: str) -> None:
        print(f"{chr(13) + chr(27) + '[K' if terminal else ''}{line}", file=sys.stderr, flush=True)

    def show(what: str, number: int, count: int) -> None:
        if terminal and (number == count or number % 100 == 0):
            print(
                f"\r{what}: {number} of {count}",
                end="\n" if number == count else "",
                file=sys.stderr,
                flush=True,
            )

    # A timer's unit is stopped by this; what is left is swept by the next run.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_PARTLY))
    os.umask(0o022)
    wishes = Wishes(tuple(args.allow), args.event, args.dry_run, args.explain)
    start = time.monotonic()
    try:
        shared: list[str] = []
        site = read_site(args.config, shared)
        if args.output:
            site = dataclasses.replace(site, output=args.output.absolute())
        todo = []
        for name in dict.fromkeys(args.name):
            warnings: list[str] = []
            mash = read_mash(site, name, warnings)
            todo.append((dataclasses.replace(mash, engine=args.engine) if args.engine else mash, warnings))
    except ConfigError as error:
        print("\n".join(f"mash_repo.py: {line}" for line in str(error).splitlines()), file=sys.stderr)
        return EXIT_USAGE
    for line in shared:
        say(f"mash_repo.py: {line}")

    def session(mash: Mash) -> Any:
        if connect is not None:
            return connect(site)
        # Reading needs nobody's name; starting a task does.
        return koji_call.connect(
            site.hub, site.serverca, site.cert or None if mash.engine == "dist-repo" else None
        )

    reports = []
    try:
        for mash, warnings in todo:
            reports.append(run(site, mash, lambda mash=mash: session(mash), wishes, warnings, say, show))  # type: ignore[misc]
            for line in _complaints(reports[-1]):
                say(f"mash_repo.py: {line}")
            if not args.json:
                print("\n".join(_lines(reports[-1])), flush=True)
    except KeyboardInterrupt:
        say("mash_repo.py: interrupted; what is published stays as it was.")
        return EXIT_PARTLY
    if args.json:
        mashes = [dataclasses.asdict(report) for report in reports]
        print(json.dumps({"mashes": mashes, "seconds": round(time.monotonic() - start, 2)}))
    return status_of(reports)
