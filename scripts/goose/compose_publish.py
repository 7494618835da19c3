"""Hand finished composes to the web server and to mirrors, by rsync.

A compose is sent in two goes: all but the files that tell of the others, then these; so a client that sees the
metadata sees what they name. The links of the stage follow, ``latest-*`` last. What a killed run has sent the
next one does not send again, and what a mirror has of the previous compose is linked there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Callable

from goose import compose_tree
from goose.compose import EXIT_DONE, EXIT_PARTLY, EXIT_RUNNING, EXIT_TOOL, EXIT_USAGE
from goose.compose_config import CONFIG, Config, ConfigError, Target, read
from goose.compose_input import InputError, sha256
from goose.compose_store import Compose, Running, Store, StoreError, locked

# Tells of other files: sent when these are there.
LAST = (
    "/compose/metadata",
    "repomd.xml",
    "repomd.xml.asc",
    ".treeinfo",
    "*-CHECKSUM",
    "/COMPOSE_ID",
    "/STATUS",
)
# rsync(1), EXIT VALUES: what another try may mend.
_AGAIN = {10, 12, 30, 35, 255}
_TRIES = 3
# rsync takes no more directories than this.
_LINK_DESTS = 20

Say = Callable[[str], None]


class PublishError(Exception):
    """A target did not get a compose: a sentence."""


@dataclass
class Sent:
    """What a target got."""

    target: str
    to: str
    result: str = ""
    """published, unchanged, would-publish or failed."""
    files: int = 0
    """Files and links that were sent, or would be."""
    bytes: int = 0
    links: list[str] = field(default_factory=list)
    error: str = ""
    seconds: float = 0.0


@dataclass
class Report:
    """What came of it."""

    compose: str
    targets: list[Sent] = field(default_factory=list)

    @property
    def status(self) -> int:
        """The exit status."""
        return EXIT_PARTLY if any(one.error for one in self.targets) else EXIT_DONE


def find(store: Store, name: str) -> Compose:
    """A compose by its id, or by a link that leads to it (1/Beta-RC4, latest-goose-1).

    Raises:
        ConfigError: where there is none of that name.
        InputError: where it is not finished, or not whole.
    """
    path = store.output / name
    # Its own directory, not `compose` below it.
    target = Path(os.path.realpath(path))
    if target.name == "compose":
        target = target.parent
    known = {one.path: one for one in store.composes()}
    if target.parent != Path(os.path.realpath(store.output)) or store.output / target.name not in known:
        there = ", ".join(one.id for one in known.values()) or "nothing"
        raise ConfigError(f"{path} is no compose of compose_iso.py: {store.output} holds {there}.")
    return known[store.output / target.name]


def check(compose: Compose) -> None:
    """Look at a compose before it goes anywhere.

    Raises:
        InputError: where it is not finished, or damaged.
    """
    status = compose.path / "STATUS"
    if not status.is_file() or status.read_text(encoding="utf-8").strip() != "FINISHED":
        raise InputError(f"{compose.path} is not finished: compose it again.")
    if not compose.whole():
        raise InputError(
            f"{compose.path} is damaged: a file is missing or has another size than was noted. Compose it"
            " again with --force."
        )
    compose_tree.validate(compose.path / "compose")
    for image in compose.record["images"]:
        path = compose.path / "compose" / image["path"]
        if sha256(path) != image["sha256"]:
            raise InputError(
                f"{path} is damaged: it has another sha256 than was noted. Compose it again with --force."
            )


def _remote(target: Target) -> bool:
    return not target.to.startswith("/")


def rsync(words: Sequence[str], target: Target, say: Say, sleep: Callable[[float], None] = time.sleep) -> str:
    """Run rsync, again where the network failed; its standard output.

    Raises:
        PublishError: where it fails.
    """
    command = [
        "rsync",
        "--archive",
        "--hard-links",
        "--no-owner",
        "--no-group",
        "--chmod=Dgo=rx,Fgo=r",
        "--partial-dir=.rsync-partial",
        "--timeout=300",
        "--out-format=%i %l %n",
    ]
    if re.match(r"[^/:]+:(?!:)", target.to):
        command += ["--rsh=ssh -o BatchMode=yes -o ServerAliveInterval=30"]
    for attempt in range(1, _TRIES + 1):
        try:
            done = subprocess.run(
                [*command, *target.options, *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                env={**os.environ, "LC_ALL": "C"},
            )
        except OSError as error:
            raise PublishError(f"rsync cannot be run ({error.strerror}): apply the state pungi.") from error
        if done.returncode == 0:
            return done.stdout
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        if done.returncode not in _AGAIN or attempt == _TRIES:
            raise PublishError(f"rsync to {target.to} ended with status {done.returncode}: {said[0]}")
        say(f"{target.to}: {said[0]}; trying again.")
        sleep(5.0 * attempt)
    raise AssertionError("unreachable")


def _count(told: str, sent: Sent) -> None:
    for line in told.splitlines():
        found = re.match(r"([<>ch.*][fdLDS][^ ]*|\*deleting) +([0-9]*) (.*)", line)
        if found and found.group(1)[0] in "<>hc" and found.group(1)[1] != "d":
            sent.files += 1
            if found.group(1)[0] in "<>":
                sent.bytes += int(found.group(2) or 0)


def send(store: Store, compose: Compose, name: str, target: Target, dry_run: bool, say: Say) -> Sent:
    """Bring a target to have a compose, and its links to lead there."""
    sent = Sent(name, target.to)
    start = time.monotonic()
    try:
        _send(store, compose, target, dry_run, sent, say)
        sent.result = ("would-publish" if dry_run else "published") if sent.files else "unchanged"
    except PublishError as error:
        sent.result, sent.error = "failed", str(error)
    sent.seconds = round(time.monotonic() - start, 1)
    return sent


def _send(store: Store, compose: Compose, target: Target, dry_run: bool, sent: Sent, say: Say) -> None:
    base = target.to.rstrip("/") + "/"
    if not _remote(target) and not dry_run:
        try:
            Path(base).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PublishError(f"{base} cannot be made: {error.strerror}.") from error
    dry = ["--dry-run"] if dry_run else []
    # Newest first: the likelier one. rsync passes over a directory that the target has not.
    others = [one.id for one in reversed(store.composes()) if one.id != compose.id][:_LINK_DESTS]
    words = [*dry, *(f"--link-dest=../{one}/" for one in others)]
    ends = [f"{compose.path}/", f"{base}{compose.id}/"]
    if not dry_run:
        _count(rsync([*words, *(f"--exclude={pattern}" for pattern in LAST), *ends], target, say), sent)
    _count(rsync([*words, "--delete-after", *ends], target, say), sent)
    for link in (compose.record["place"], compose.record["latest"]):
        path = store.output / link
        if not path.is_symlink() or compose.id not in Path(os.readlink(path)).parts:
            continue  # another compose has the stage by now
        # --relative keeps the directories of the link; the dot says where they begin.
        told = rsync([*dry, "--relative", f"{store.output}/./{link}", base], target, say)
        before = sent.files
        _count(told, sent)
        if sent.files > before:
            sent.links.append(link)


def run(
    config: Config, name: str, targets: Sequence[str], dry_run: bool, say: Say = lambda line: None
) -> Report:
    """Hand a compose to targets, those of its stage where none is named.

    Raises:
        ConfigError, InputError, StoreError: what is wrong; nothing was sent.
        Running: another run publishes.
    """
    store = Store(config.output)
    if unknown := [one for one in targets if one not in config.targets]:
        raise ConfigError(
            f"There is no target {', '.join(unknown)}: choose from"
            f" {', '.join(config.targets) or 'none, for targets is empty'}."
        )
    compose = find(store, name)
    stage = compose.record.get("stage", "")
    wanted = list(targets) or [one for one, about in config.targets.items() if stage in about.stages]
    if refused := [one for one in targets if stage not in config.targets[one].stages]:
        raise ConfigError(
            f"{compose.id} is of the stage {stage}, which the target {', '.join(refused)} does not take."
        )
    if not wanted:
        raise ConfigError(f"No target takes composes of the stage {stage}: name one in targets.")
    report = Report(compose.id)
    with locked(store.base / "publish.lock", f"publishes out of {config.output}"):
        check(compose)
        for one in wanted:
            report.targets.append(send(store, compose, one, config.targets[one], dry_run, say))
    return report


def main(argv: Sequence[str] | None = None) -> int:
    """``scripts/publish_compose.py``; the exit status."""
    parser = argparse.ArgumentParser(
        prog="publish_compose.py",
        description="Hand a finished compose to the web server and to mirrors, its metadata and links last.",
        epilog="Exit status: 0 all targets have it, 1 some do not, 2 usage, 5 the compose is damaged, 75 already running.",
    )
    parser.add_argument(
        "compose", metavar="COMPOSE", help="its id, or a link such as 6.0/Beta-RC4 or latest-goose-6.0"
    )
    parser.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="NAME",
        help="may be repeated (default: all that take the stage)",
    )
    parser.add_argument("--config", type=Path, default=CONFIG, metavar="FILE", help=f"(default: {CONFIG})")
    parser.add_argument("--dry-run", action="store_true", help="say what would be sent")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    args = parser.parse_args(argv)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        report = run(read(args.config), args.compose, args.target, args.dry_run, say)
    except ConfigError as error:
        status, told = EXIT_USAGE, str(error)
    except (InputError, StoreError) as error:
        status, told = EXIT_TOOL, str(error)
    except Running as error:
        status, told = EXIT_RUNNING, str(error)
    except OSError as error:
        status, told = EXIT_TOOL, f"{error.filename or 'The disk'}: {error.strerror}."
    except ImportError as error:
        status, told = EXIT_TOOL, f"The Python module {error.name} is missing: apply the state pungi."
    except KeyboardInterrupt:
        status, told = EXIT_PARTLY, "Interrupted; the next run goes on from here."
    else:
        if args.json:
            told_: dict[str, Any] = asdict(report)
            print(json.dumps(told_))
        else:
            for one in report.targets:
                print(
                    f"{report.compose}: {one.target} ({one.to}): {one.result}, {one.files} files, {one.bytes / 1e6:.1f} MB"
                    + (f": {one.error}" if one.error else "")
                )
        return report.status
    print(f"publish_compose.py: {told}", file=sys.stderr)
    return status
