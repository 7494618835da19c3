"""What the exporter measures on its own host: certificates, disks, units, and what services have made.

Each check yields samples of `SERIES`. What is not there yet (a repository before its first
publication, a directory before its service was set up) has no sample: a rule then has nothing to compare.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, NamedTuple

# Where a compose says what it is: compose_store.RECORD, which this host may not have.
RECORD = "compose/metadata/goose.json"

SERIES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "goose_check_up": ("1 where the check has a result that is not too old", ("check",)),
    "goose_check_seconds": ("How long the check took the last time", ("check",)),
    "goose_koji_up": ("1 where the hub answers all that it is asked", ()),
    "goose_koji_answer_seconds": ("How long the hub took to answer everything", ()),
    "goose_koji_tasks": ("Tasks that are not done, by state: free, assigned, open", ("channel", "arch", "state")),
    "goose_koji_oldest_free_task_seconds": ("Age of the oldest task that no builder has taken", ("channel",)),
    "goose_koji_builder_checkin_timestamp_seconds": ("When the builder last spoke to the hub; 0: never", ("builder",)),
    "goose_koji_builder_enabled": ("1 where the builder may take tasks", ("builder",)),
    "goose_koji_builder_ready": ("1 where the builder says that it can take one more", ("builder",)),
    "goose_koji_builder_load": ("Weight of the builder's tasks", ("builder",)),
    "goose_koji_builder_capacity": ("Weight of the tasks that the builder may have", ("builder",)),
    "goose_koji_repos": ("Repos, by state: init, ready, expired, problem", ("tag", "state")),
    "goose_koji_repo_created_timestamp_seconds": ("When the newest ready repo of a build tag was begun", ("tag",)),
    "goose_koji_repo_outdated": ("1 where the build tag has changed since its newest ready repo", ("tag",)),
    "goose_koji_unsigned_rpms": ("RPMs of the tag's latest builds that no key has signed", ("tag",)),
    "goose_certificate_not_after_timestamp_seconds": ("When the certificate ends", ("file",)),
    "goose_crl_next_update_timestamp_seconds": ("When the list of revoked certificates ends", ("file",)),
    "goose_disk_size_bytes": ("Size of the file system that the path is on", ("path",)),
    "goose_disk_free_bytes": ("What is free on it for others than root", ("path",)),
    "goose_unit_active": ("1 where a unit that shall run, runs", ("unit",)),
    "goose_unit_failed": ("1 where a unit has failed", ("unit",)),
    "goose_lookaside_files": ("Archives in the lookaside cache", ()),
    "goose_lookaside_bytes": ("Their size", ()),
    "goose_mash_published_timestamp_seconds": ("When the repository was last published", ("repository",)),
    "goose_compose_published_timestamp_seconds": ("When a compose of this stage was last published", ("stage",)),
    "goose_backup_timestamp_seconds": ("When the newest generation of the backup was made", ("path",)),
}
"""Every series: what it means, and its labels."""


class Sample(NamedTuple):
    """One value of a series; labels in the order of `SERIES`."""

    series: str
    labels: tuple[str, ...]
    value: float


class CheckError(Exception):
    """A check cannot tell, in a sentence."""


# Seconds for a program that answers in a hundredth of one.
_LIMIT = 10


def output(*line: str) -> str:
    """What a program prints; `CheckError` where it fails, or does not end."""
    try:
        done = subprocess.run(
            line, capture_output=True, text=True, check=False, timeout=_LIMIT, env={**os.environ, "LC_ALL": "C"}
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CheckError(f"{line[0]} did not answer: {error}.") from error
    if done.returncode:
        raise CheckError(f"{' '.join(line)} failed: {done.stderr.strip() or done.returncode}.")
    return done.stdout


Output = Callable[..., str]


@dataclass
class Certificates:
    """When certificates and revocation lists of a directory end; each file is read once for each change."""

    directory: Path
    output: Output = output
    _known: dict[Path, tuple[int, float]] = field(default_factory=dict)

    def __call__(self) -> Iterator[Sample]:
        """The samples; `CheckError`, after those of the others, where a file is none."""
        faults = []
        kinds = (("*.crt", "x509", "-enddate", "certificate_not_after"), ("*.pem", "crl", "-nextupdate", "crl_next_update"))
        for pattern, kind, ask, series in kinds:
            for path in sorted(self.directory.glob(pattern)):
                # Of the .pem files only the list is public: the others are a key and its .crt.
                if kind == "crl" and path.name != "crl.pem":
                    continue
                try:
                    yield Sample(f"goose_{series}_timestamp_seconds", (path.name,), self._end(path, kind, ask))
                except (CheckError, OSError, ValueError) as error:
                    faults.append(f"{path} cannot be read: {error}")
        if faults:
            raise CheckError(" ".join(faults))

    def _end(self, path: Path, kind: str, ask: str) -> float:
        changed = path.stat().st_mtime_ns
        if self._known.get(path, (0, 0))[0] != changed:
            said = self.output("openssl", kind, "-noout", ask, "-in", str(path))
            self._known[path] = (changed, float(ssl.cert_time_to_seconds(said.strip().partition("=")[2])))
        return self._known[path][1]


def disks(paths: Sequence[Path]) -> Iterator[Sample]:
    """Size and free space of the file systems that the paths are on, each once, by its first path.

    `CheckError`, after the samples of the others, where a path lies in a directory that is closed.
    """
    seen, faults = set(), []
    for path in paths:
        try:
            device, about = path.stat().st_dev, os.statvfs(path)
        except FileNotFoundError:
            continue
        except PermissionError:
            faults.append(str(path))
            continue
        if device not in seen:
            seen.add(device)
            yield Sample("goose_disk_size_bytes", (str(path),), about.f_blocks * about.f_frsize)
            yield Sample("goose_disk_free_bytes", (str(path),), about.f_bavail * about.f_frsize)
    if faults:
        raise CheckError(f"{', '.join(faults)} cannot be reached by users without rights: name a directory above.")


# Of failed units that nobody has named: enough to see what is wrong.
_MOST_FAILED = 50


def units(running: Sequence[str], output: Output = output) -> Iterator[Sample]:
    """Whether the units that shall run do (names, or patterns of what is loaded), and which units have failed."""
    failed = set()
    for line in output("systemctl", "list-units", "--state=failed", "--plain", "--no-legend", "--no-pager").splitlines():
        if words := line.split():
            failed.add(words[0])
    named = set()
    if running:
        said = output("systemctl", "show", "--no-pager", "--property=Id,ActiveState", "--", *running)
        for block in said.split("\n\n"):
            about = dict(line.partition("=")[::2] for line in block.splitlines())
            if name := about.get("Id"):
                named.add(name)
                alive = about.get("ActiveState") in ("active", "reloading")
                yield Sample("goose_unit_active", (name,), alive)
    for name in sorted(named | set(sorted(failed)[:_MOST_FAILED])):
        yield Sample("goose_unit_failed", (name,), name in failed)


def lookaside(path: Path) -> Iterator[Sample]:
    """Archives of the lookaside cache at ``path``, and their size."""
    count = size = 0
    for directory, _, names in os.walk(path / "archives"):
        for name in names:
            try:
                size += os.lstat(f"{directory}/{name}").st_size
            except FileNotFoundError:
                continue
            count += 1
    if (path / "archives").is_dir():
        yield Sample("goose_lookaside_files", (), count)
        yield Sample("goose_lookaside_bytes", (), size)


def repositories(path: Path) -> Iterator[Sample]:
    """When each of mash's repositories was published: its link was made in that moment (`mash_publish`)."""
    for entry in _entries(path):
        if entry.is_symlink() and os.readlink(entry.path).startswith(f".mash/{entry.name}/"):
            yield Sample("goose_mash_published_timestamp_seconds", (entry.name,), os.lstat(entry.path).st_mtime)


def composes(path: Path) -> Iterator[Sample]:
    """When a compose of each stage was published, by the records of `compose`."""
    newest: dict[str, float] = {}
    for entry in _entries(path):
        record = Path(entry.path, RECORD)
        if entry.is_symlink() or not record.is_file():
            continue
        try:
            stage = str(json.loads(record.read_text(encoding="utf-8"))["stage"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckError(f"{record} cannot be read: {error}.") from error
        newest[stage] = max(newest.get(stage, 0.0), record.stat().st_mtime)
    for stage, moment in sorted(newest.items()):
        yield Sample("goose_compose_published_timestamp_seconds", (stage,), moment)


def backups(path: Path) -> Iterator[Sample]:
    """When the newest generation was made: of what lies in the directory, or of the file where it is one."""
    if path.is_dir():
        try:
            # What is still being written has a dot in front, or says so.
            moments = [
                entry.stat(follow_symlinks=False).st_mtime
                for entry in _entries(path)
                if not entry.name.startswith(".") and not entry.name.endswith((".partial", ".tmp", ".new", ".lock"))
            ]
        except PermissionError as error:
            raise CheckError(
                f"{path} cannot be listed by users without rights: chmod a+rx, and what is in it may stay closed."
            ) from error
        if moments:
            yield Sample("goose_backup_timestamp_seconds", (str(path),), max(moments))
    elif path.exists():
        yield Sample("goose_backup_timestamp_seconds", (str(path),), path.stat().st_mtime)


def _entries(path: Path) -> Iterable[os.DirEntry[str]]:
    try:
        with os.scandir(path) as found:
            return sorted(found, key=lambda entry: entry.name)
    except FileNotFoundError:
        return ()
