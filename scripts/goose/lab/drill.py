"""The drill: what is left of Koji when the hub's host and its volume are gone.

Everything is backed up, the host with all that is on it and all files on the volume are destroyed, a new host of the
same name comes up by highstate, and the backup is restored onto it. What was there before must be there again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from goose.lab import seed
from goose.lab.lab import Lab
from goose.lab.run import LabError, wait_for

_PROGRAMS = "/usr/local/lib/goose"
_UNIT = "koji-backup.service"

# What the hub must have before a restore; the rest needs what is in Koji, and waits for it.
_FIRST = "common,pki,koji.db,koji.hub,koji.backup"

# Seconds for tasks to end, and for builders to be back.
_QUIET = 600
_BACK = 120

# What people miss first: as many of each as before.
_TABLES = {"builds": "build", "RPMs": "rpminfo", "signatures": "rpmsigs", "tasks": "task", "tags": "tag",
           "users": "users", "builders": "host"}  # fmt: skip

_PSQL = ["runuser", "-u", "postgres", "--", "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]


@dataclass(frozen=True)
class Download:
    """A file of a build, as anybody downloads it."""

    url: str
    sha256: str


class Drill:
    """One drill on a lab that is up."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.hub = lab.need_role("koji.hub")
        self.admin = lab.need_role("koji.content")
        for role in ("koji.backup", "koji.db"):
            if role not in self.hub.roles:
                raise LabError(f"{self.hub.fqdn} has no role {role}: the drill is for a lab whose hub has it.", 2)
        self.steps: dict[str, float] = {}

    def run(self) -> dict[str, Any]:
        """Do all of it; what `drill --json` prints. `LabError` where something is not as before."""
        downloads, user = self._downloads(), self._user()
        try:
            self._step("quiet", self._quiet)
            before = self._counts()
            self._step("backup", self._back_up)
        except LabError as error:
            self.hub.run(["systemctl", "start", *self._services()], check=False)
            raise LabError(f"{error}\nNothing was destroyed.", error.status) from error
        start = time.monotonic()
        self._step("destroy", self._destroy)
        self._step("new host", self._new_host)
        restored = self._step("restore", self._restore)
        after = self._step("proof", lambda: self._proof(before, downloads, user))
        seconds = time.monotonic() - start
        self._step("highstate", self.lab.converge)
        self._step("builders", self._builders)
        return {
            "generation": restored["generation"],
            "before": before,
            "after": after,
            "downloads": len(downloads),
            "user": user,
            "steps": {name: round(spent, 1) for name, spent in self.steps.items()},
            "seconds": round(seconds, 1),
        }

    def _step(self, name: str, work: Any) -> Any:
        self.lab.progress(f"drill: {name}")
        start = time.monotonic()
        result = work()
        self.steps[name] = time.monotonic() - start
        return result

    # Before

    def _services(self) -> list[str]:
        """What speaks for the hub, in the order in which it is stopped."""
        units = {"koji.kojira": "kojira.service", "koji.hub": "apache2.service"}
        return [unit for role, unit in units.items() if role in self.hub.roles]

    def _quiet(self) -> None:
        """Nothing changes any more: kojira asks for no repos, the tasks have ended, and the hub takes no new ones.

        So what is counted is what the dump holds, and not what came between.
        """
        for number, unit in enumerate(self._services()):
            if number == len(self._services()) - 1:
                wait_for(lambda: self._sql("SELECT count(*) FROM task WHERE state IN (0, 1, 4)") == [["0"]],
                         what="all tasks of Koji to end", seconds=_QUIET, pause=1)  # fmt: skip
            self.hub.run(["systemctl", "stop", unit], what=f"Stopping {unit} on {self.hub.fqdn}")

    def _sql(self, query: str) -> list[list[str]]:
        what = f"Asking Koji's database on {self.hub.fqdn}"
        done = self.hub.run([*_PSQL, "-F", "\t", "-d", "koji"], stdin=query, what=what)
        return [line.split("\t") for line in done.stdout.splitlines()]

    def _counts(self) -> dict[str, int]:
        query = " UNION ALL ".join(f"SELECT '{name}', count(*) FROM {table}" for name, table in _TABLES.items())
        return {name: int(count) for name, count in self._sql(query)}

    def _downloads(self) -> list[Download]:
        """An RPM of each of the last builds that are complete, and a signed copy where there is one."""
        rows = self._sql(
            "SELECT 'packages/' || p.name || '/' || b.version || '/' || b.release || '/', r.arch,"
            " r.name || '-' || r.version || '-' || r.release || '.' || r.arch || '.rpm', coalesce(min(s.sigkey), '')"
            " FROM build b JOIN package p ON p.id = b.pkg_id JOIN rpminfo r ON r.build_id = b.id"
            " LEFT JOIN rpmsigs s ON s.rpm_id = r.id AND s.sigkey <> ''"
            " WHERE b.state = 1 AND b.task_id IS NOT NULL GROUP BY 1, 2, 3, b.id, r.id ORDER BY b.id DESC LIMIT 20"
        )
        if not rows:
            raise LabError("There is no build that could be lost: `scripts/lab up` makes the first one.", 2)
        top = self.lab.services()["koji-files"]
        found = []
        for place, arch, name, key in rows:
            for path in (f"{place}{arch}/{name}", f"{place}data/signed/{key}/{arch}/{name}" if key else ""):
                url = f"{top}/{path}"
                if path and self.lab.answers(url):
                    found.append(Download(url, self._hash(url)))
        return found

    def _hash(self, url: str) -> str:
        return hashlib.sha256(self.lab.get(url)).hexdigest()

    def _user(self) -> str:
        """Who the administrator's client is to the hub, by its certificate."""
        done = self.admin.run(["koji", "call", "--json-output", "getLoggedInUser"], what="Logging in to the hub")
        return str(json.loads(done.stdout)["name"])

    def _back_up(self) -> None:
        for host in self.lab.hosts:
            if "koji.backup" in host.roles and host.run(["systemctl", "start", _UNIT], check=False).returncode != 0:
                journal = ["journalctl", "--quiet", "--output=cat", "--lines=9", f"--unit={_UNIT}"]
                raise LabError(f"The backup failed on {host.fqdn}:\n{host.run(journal, check=False).stdout.strip()}")
        done = self.hub.run([f"{_PROGRAMS}/koji_backup.py", "verify", "--json"], check=False)
        if done.returncode != 0:
            raise LabError(f"The backup of {self.hub.fqdn} is not good:\n{done.stdout}{done.stderr}")

    # Away, and back

    def _destroy(self) -> None:
        self.hub.kill()
        self.hub.remove()
        # The directory itself is bound into the other hosts.
        for path in self.volume().iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def volume(self) -> Path:
        """Koji's volume, on this machine."""
        return seed.shared(self.lab.record, "koji")

    def _new_host(self) -> None:
        self.lab.boot()
        # Unlike a highstate, a list of states does not bring the tree's own modules.
        self.hub.run(["salt-call", "saltutil.sync_all"], what=f"Bringing the tree's modules to {self.hub.fqdn}")
        outcome = self.lab.apply([self.hub], states=_FIRST)[self.hub.name]
        if outcome.failed:
            raise LabError(f"The new {self.hub.fqdn} did not come up. {self._what_now()}")

    def _restore(self) -> Mapping[str, Any]:
        done = self.hub.run([f"{_PROGRAMS}/koji_restore.py", "--json"], check=False)
        if done.returncode != 0:
            raise LabError(f"The restore failed:\n{done.stdout}{done.stderr}\n{self._what_now()}")
        told: Mapping[str, Any] = json.loads(done.stdout)
        return told

    def _what_now(self) -> str:
        name = self.lab.record.name
        return (
            f"The backup is whole: `scripts/lab --name {name} apply {self.hub.name}`, then on it"
            f" `{_PROGRAMS}/koji_restore.py`, with --over {self.hub.fqdn} where that says so."
        )

    def _proof(self, before: Mapping[str, int], downloads: list[Download], user: str) -> dict[str, int]:
        """The same counts, the same files for the same addresses, and the same user."""
        after = self._counts()
        wrong = [f"{before[name]} {name} have become {after[name]}" for name in before if after[name] != before[name]]
        for download in downloads:
            try:
                if self._hash(download.url) != download.sha256:
                    wrong.append(f"{download.url} is another file")
            except OSError as error:
                wrong.append(f"{download.url} is gone ({error})")
        now = self._user()
        if now != user:
            wrong.append(f"{user} is {now} now")
        if wrong:
            raise LabError(f"Not everything is back: {'; '.join(wrong)}.")
        return after

    def _builders(self) -> None:
        """Every builder has told the hub of itself since, by its old certificate."""
        since = self._sql("SELECT extract(epoch FROM pg_postmaster_start_time())")[0][0]
        query = (
            "SELECT count(*) FROM host_config c WHERE active AND enabled AND NOT EXISTS (SELECT 1 FROM sessions s"
            f" JOIN host h ON h.user_id = s.user_id WHERE h.id = c.host_id AND extract(epoch FROM s.update_time) > {since})"
        )
        wait_for(lambda: self._sql(query) == [["0"]], what="all builders to log in again", seconds=_BACK, pause=1)
