"""What git's pre-receive hook asks: does the lookaside cache hold what the pushed `sources` name?

Every new commit is looked at, not the last one alone: each may be built some day.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TextIO

from goose import lookaside_client
from goose.fetch_sources import package_of
from goose.lookaside_client import Lookaside, LookasideError
from goose.sources import Source, SourcesError, parse

# Requests at a time; a push seldom names more than a few archives.
_AT_ONCE = 4


class PushError(Exception):
    """Why a push is refused, as sentences with what to do."""


def _git(*words: str, given: str = "") -> str:
    done = subprocess.run(["git", *words], input=given.encode(), capture_output=True, check=False)
    if done.returncode:
        raise PushError(f"git {words[0]} failed on the server: {done.stderr.decode('utf-8', 'replace').strip()}")
    return done.stdout.decode("utf-8", "surrogateescape")


def new_sources(updates: Iterable[str]) -> dict[str, str]:
    """Blob -> commit, of each distinct `sources` in the commits that a push brings; in the current repository.

    ``updates`` are the hook's lines: old object, new object, ref.
    """
    tips = [line.split()[1] for line in updates if line.strip()]
    tips = [tip for tip in tips if tip.strip("0")]
    if not tips:
        return {}
    commits = _git("rev-list", "--stdin", "--not", "--all", given="".join(f"{tip}\n" for tip in tips)).split()
    # Of a tag on something else than a commit, rev-list says nothing.
    asked = "".join(f"{commit}:sources\n" for commit in commits)
    blobs: dict[str, str] = {}
    answers = _git("cat-file", "--batch-check=%(objecttype) %(objectname)", given=asked).splitlines()
    for commit, answer in zip(commits, answers):
        kind, _, name = answer.partition(" ")
        if answer.endswith(" missing"):
            continue
        if kind != "blob":
            raise PushError(f"In commit {commit[:12]} `sources` is no file.")
        blobs.setdefault(name, commit)
    return blobs


def _wanted(blobs: Mapping[str, str]) -> dict[Source, str]:
    """Source -> the commit that names it."""
    wanted: dict[Source, str] = {}
    for blob, commit in blobs.items():
        try:
            for source in parse(_git("cat-file", "blob", blob)):
                wanted.setdefault(source, commit)
        except SourcesError as error:
            raise PushError(f"Commit {commit[:12]}: {error}") from error
    return wanted


def check(updates: Iterable[str], package: str, settings: lookaside_client.Settings) -> None:
    """Raise `PushError` where the cache lacks an archive that a pushed commit names."""
    wanted = _wanted(new_sources(updates))

    def lacks(source: Source) -> bool:
        lookaside = Lookaside(settings)
        try:
            return not lookaside.has(package, source)
        finally:
            lookaside.close()

    try:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            missing = [source for source, absent in zip(wanted, pool.map(lacks, wanted)) if absent]
    except LookasideError as error:
        raise PushError(f"{error} Without its answer nothing is taken: push again later.") from error
    if missing:
        lines = [
            f"The lookaside cache lacks {source.filename} ({source.hashtype} {source.hash[:16]}…),"
            f" which `sources` of commit {wanted[source][:12]} names."
            for source in missing
        ]
        names = " ".join(dict.fromkeys(source.filename for source in missing))
        raise PushError("\n".join([*lines, f"Bring it with `goosepkg new-sources {names}`, then push again."]))


def main(
    updates: TextIO | None = None,
    config: Path = lookaside_client.CONFIG,
    environment: Mapping[str, str] = os.environ,
) -> int:
    """The hook ``pre-receive``; the exit status, 1 for a push that is refused."""
    try:
        # Git runs it in the bare repository, or in the .git of one with a work tree.
        directory = Path(environment.get("GIT_DIR", ".")).resolve()
        check(updates or sys.stdin, package_of(f"/{directory}"), lookaside_client.read_settings(config))
    except (PushError, LookasideError) as error:
        print(f"\n{error}\n", file=sys.stderr)
        return 1
    return 0
