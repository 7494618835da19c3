"""The lab as a thing that may lose something: what it is there to keep, and whether it all works."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from goose.lab import lab as labs
from goose.lab.host import Host
from koji_client import Hub, make_srpm, wait_for

if TYPE_CHECKING:
    from conftest import Command


def below(top: Path, pattern: str) -> dict[str, int]:
    """Size of each file, by path."""
    return {str(path): path.stat().st_size for path in top.rglob(pattern) if path.is_file()}


@dataclass
class Inventory:
    """What a build environment is there to keep, as it is now."""

    builds: set[str]
    signatures: set[tuple[str, str]]
    files: dict[str, int]
    """Packages and signed copies on the volume, archives, media: size by path on this machine."""
    commits: dict[str, str]
    published: dict[str, str]

    def lost(self, after: Inventory) -> list[str]:
        """Sentences on what was here and is not in ``after``."""
        said = [f"{nvr} is no complete build any more" for nvr in sorted(self.builds - after.builds)]
        said += [
            f"{rpm} has lost its signature by {key}"
            for rpm, key in sorted(self.signatures - after.signatures)
        ]
        said += [f"{path} is gone or another" for path in sorted(self.files.items() - after.files.items())]
        said += [f"{ref} was {was}" for ref, was in sorted(self.commits.items() - after.commits.items())]
        return said + [
            f"{name} is not published any more" for name in sorted(set(self.published) - set(after.published))
        ]


@dataclass
class Estate:
    """The lab, as a thing that may lose something."""

    lab: labs.Lab
    hub: Hub
    command: Command

    def look(self) -> Inventory:
        hub, lab = self.hub, self.lab
        volume = lab.record.root / "volumes/koji"
        rpms = hub("listTaggedRPMS", "goose-1", inherit=True)[0]
        signed = {
            (f"{rpm['name']}-{rpm['version']}-{rpm['release']}.{rpm['arch']}", signature["sigkey"])
            for rpm in rpms
            for signature in hub("queryRPMSigs", rpm_id=rpm["id"])
        }
        sources, maker = lab.need_role("scm"), lab.need_role("mash")
        files = below(volume / "packages", "*.rpm") | below(maker.root / "srv/compose", "*.iso")
        files |= below(lab.need_role("lookaside").root / "srv/lookaside/archives", "*")
        heads = "for r in $(find /var/lib/gitolite* -name '*.git' -prune); do git -c safe.directory='*' --git-dir=$r"
        heads += ' for-each-ref --format="$r %(refname) %(objectname)"; done'
        commits = dict(line.rsplit(" ", 1) for line in sources.run(["sh", "-c", heads]).stdout.splitlines())
        published = {name: self.manifest(name) for name in self.repositories()}
        return Inventory(
            {build["nvr"] for build in hub("listBuilds", state=1)}, signed, files, commits, published
        )

    def repositories(self) -> list[str]:
        found = (self.lab.need_role("mash").root / "srv/repos").glob("*.repo")
        return sorted(path.stem for path in found)

    def manifest(self, name: str) -> str:
        """The published manifest of a repository, as anybody downloads it."""
        return self.lab.get(f"https://{self.lab.need_role('mash').fqdn}/repos/{name}/mash.json").decode()

    def submit(self, name: str, *lines: str, install: str = "") -> subprocess.CompletedProcess[str]:
        """Submit a scratch build whose %build runs the lines that are given, as people do."""
        host = self.lab.need_role("koji.content")

        def run(*words: str, stdin: str | None = None) -> str:
            return host.run(words, stdin=stdin).stdout

        path = make_srpm(run, host.root, name, lines, install).relative_to(host.root)
        command = ["koji", "-p", "goose", "build", "--scratch", "--nowait", "--noprogress", "goose-1", f"/{path}"]
        return host.run(command, check=False)

    def scratch(self, name: str, *lines: str, install: str = "") -> int:
        """The task of a scratch build that was submitted."""
        done = self.submit(name, *lines, install=install)
        assert done.returncode == 0, done.stderr
        return int(
            next(line for line in done.stdout.splitlines() if line.startswith("Created task:")).rsplit(
                ":", 1
            )[1]
        )

    def forget_signatures(self) -> None:
        """There is something to sign: Koji knows of no signature of the release's packages any more."""
        self.lab.need_role("koji.content").run(["/usr/bin/python3", "-c", FORGET])

    def back(self, up: bool = False) -> None:
        """All is well again, and Koji works: wait until it is so. ``up``: by ``lab up``."""
        if up:
            self.command("up")
        builders = [host.fqdn for host in self.lab.hosts if "koji.builder" in host.roles]
        hub = self.hub

        def well() -> bool:
            done = self.command("status", "--json", check=False)
            if done.returncode:
                return False
            return all(host["healthy"] for host in json.loads(done.stdout)["hosts"].values())

        wait_for(well, "every host to be well", 120)
        since = wait_for(lambda: answered(hub, builders), "the hub to answer", 120)

        def spoken() -> bool:
            now = answered(hub, builders) or since
            return all(now[name] > since[name] for name in builders)

        wait_for(spoken, "every builder to speak to the hub", 120)


def answered(hub: Hub, names: list[str]) -> dict[str, float] | None:
    """When each builder last spoke to the hub; nothing where the hub does not answer."""
    try:
        return {name: float(hub("getLastHostUpdate", hub("getHost", name)["id"], ts=True)) for name in names}
    except (OSError, ValueError):
        return None


def ended(process: subprocess.Popen[str], seconds: float = 300) -> tuple[int, str]:
    """Status and all that it said."""
    out, _ = process.communicate(timeout=seconds)
    return process.returncode, out


def start_on(host: Host, *words: str) -> subprocess.Popen[str]:
    """Start a command on a host, in a process group of its own."""
    return subprocess.Popen(
        [*host.enter(), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


# What Koji knows of the release's signatures, away: as of builds that are new.
FORGET = """
import sys
sys.path.insert(0, "/srv/salt/scripts")
from goose.rebuild import log_in
session = log_in("goose")
rpms = [rpm["id"] for rpm in session.listTaggedRPMS("goose-1", inherit=True)[0]]
with session.multicall(strict=True) as calls:
    found = [(rpm, calls.queryRPMSigs(rpm_id=rpm)) for rpm in rpms]
with session.multicall(strict=True) as calls:
    for rpm, signatures in found:
        for signature in signatures.result:
            if signature["sigkey"]:
                calls.deleteRPMSig(rpm, sigkey=signature["sigkey"])
"""
