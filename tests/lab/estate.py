"""The lab as a thing that may lose something: what it is there to keep, and whether it all works."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from goose.lab import lab as labs
from goose.lab import seed
from goose.lab.host import Host
from goose.lab.run import run
from koji_client import Hub, make_srpm, wait_for

if TYPE_CHECKING:
    from conftest import Command

# Where the scripts are on the hosts of their roles, and on the one that has the tree.
LIB = "/usr/local/lib/goose"
SALT = "/srv/salt/scripts"
AS_MASH = ["runuser", "-u", "goose-mash", "--"]
# Shell: all that is unsigned is signed, by hand.
SIGN = (
    "systemd-creds decrypt --name=signing-goose-1 /etc/credstore.encrypted/signing-goose-1 -"
    f" | runuser -u goose-sign -- {LIB}/sigulsign_unsigned.py goose-1 --passphrase-fd 0"
)

LOOKASIDE = "/var/lib/lookaside"

Note = Callable[..., None]
"""Notes a row of the table: fault, where, what comes of it, what brings it back."""


def below(top: Path, pattern: str) -> dict[str, int]:
    """Size of each file, by path; a directory that is not there is a mistake of who looks."""
    assert top.is_dir(), top
    return {str(path): path.stat().st_size for path in top.rglob(pattern) if path.is_file()}


@dataclass
class Inventory:
    """What a build environment is there to keep, as it is now."""

    builds: set[str]
    signatures: set[tuple[str, str]]
    files: dict[str, int]
    """Packages and signed copies on the volume, archives: size by path on this machine."""
    commits: dict[str, str]
    published: dict[str, str]
    """Repositories, with their manifests, and composes that have media."""

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
        files = below(volume / "packages", "*.rpm")
        files |= below(lab.need_role("lookaside").root / f"{LOOKASIDE}/archives".lstrip("/"), "*")
        heads = "for r in $(find /var/lib/gitolite* -name '*.git' -prune); do git -c safe.directory='*' --git-dir=$r"
        heads += ' for-each-ref --format="$r %(refname) %(objectname)"; done'
        commits = dict(line.rsplit(" ", 1) for line in sources.run(["sh", "-c", heads]).stdout.splitlines())
        published = {name: self.manifest(name) for name in self.repositories()}
        # What no link leads to any more is kept for a while, as pillar says.
        composes = (link for link in (maker.root / "srv/compose").glob("*/*") if link.is_symlink())
        published |= {f"{link.parent.name}/{link.name}": "" for link in composes if any(link.resolve().rglob("*.iso"))}
        return Inventory(
            {build["nvr"] for build in hub("listBuilds", state=1)}, signed, files, commits, published
        )

    def repositories(self) -> list[str]:
        found = (self.lab.need_role("mash").root / "srv/repos").glob("*.repo")
        return sorted(path.stem for path in found)

    def manifest(self, name: str) -> str:
        """The published manifest of a repository, as anybody downloads it."""
        return self.lab.get(f"https://{self.lab.need_role('mash').fqdn}/repos/{name}/mash.json").decode()

    def source_rpm(self, name: str, *lines: str, install: str = "") -> str:
        """Make a source RPM on the host with koji.content: its path there."""
        host = self.lab.need_role("koji.content")

        def on(*words: str, stdin: str | None = None) -> str:
            return host.run(words, stdin=stdin).stdout

        return f"/{make_srpm(on, host.root, name, lines, install).relative_to(host.root)}"

    def submit(self, name: str, *lines: str, install: str = "") -> subprocess.CompletedProcess[str]:
        """Submit a scratch build whose %build runs the lines that are given, as people do."""
        srpm = self.source_rpm(name, *lines, install=install)
        command = ["koji", "-p", "goose", "build", "--scratch", "--nowait", "--noprogress", "goose-1", srpm]
        return self.lab.need_role("koji.content").run(command, check=False)

    def scratch(self, name: str, *lines: str, install: str = "") -> int:
        """The task of a scratch build that was submitted."""
        done = self.submit(name, *lines, install=install)
        assert done.returncode == 0, done.stderr
        return created(done.stdout)

    def forget_signatures(self) -> None:
        """There is something to sign: Koji knows of no signature of the release's latest packages any more."""
        rpms = self.hub("listTaggedRPMS", "goose-1", inherit=True, latest=True)[0]
        signed = [(rpm["id"], row["sigkey"]) for rpm in rpms for row in self.hub("queryRPMSigs", rpm_id=rpm["id"])]
        # The one without a key is what Koji keeps of the unsigned RPM.
        forget(self.lab.need_role("koji.content"), [(rpm, key) for rpm, key in signed if key])

    def back(self, up: bool = False) -> None:
        """All is well again, and Koji works: wait until it is so. ``up``: by ``lab up``."""
        if up:
            self.command("up")

        def well() -> bool:
            done = self.command("status", "--json", check=False)
            return not done.returncode and self.lab.answers(f"{self.lab.services()['koji-web']}/")

        wait_for(well, "every host to be well", 120)
        everything_is_back(self.command, self.lab, self.hub)


def active(host: Host, unit: str) -> bool:
    return host.run(["systemctl", "is-active", unit], check=False).returncode == 0


def last_heard(hub: Hub, name: str) -> float:
    """When a builder has last spoken to the hub, in seconds since the epoch; 0: not since the database was restored."""
    return float(hub("getLastHostUpdate", hub("getHost", name)["id"], ts=True) or 0)


def spoke_since(hub: Hub, name: str, moment: float) -> bool:
    return last_heard(hub, name) > moment


def everything_is_back(command: Command, lab: labs.Lab, hub: Hub) -> None:
    """Units, URLs, and builders that ask for work."""
    status = command.json("status")
    assert all(host["healthy"] for host in status["hosts"].values()), status
    assert lab.answers(f"{lab.services()['koji-web']}/")
    for host in lab.hosts:
        services = [("koji.builder", "kojid"), ("koji.kojira", "kojira"), ("koji.db", "postgresql@15-main")]
        for role, unit in services:
            if role in host.roles:
                wait_for(
                    partial(active, host, unit),
                    f"{unit} on {host.name} to be back", 60,
                )  # fmt: skip
    builders = [host.fqdn for host in lab.hosts if "koji.builder" in host.roles]
    since = {name: last_heard(hub, name) for name in builders}
    for name in builders:
        wait_for(
            partial(spoke_since, hub, name, since[name]),
            f"{name} to speak to the hub", 180,
        )  # fmt: skip


def created(said: str) -> int:
    """The task that `koji build` says it has created."""
    return int(said.rpartition("Created task:")[2].split()[0])


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


def kill_uploads(cache: Host) -> None:
    """kill -9 of the lookaside cache's upload program, where it runs."""
    # By its process group's name in Apache; these are the host's own processes.
    cache.run(["sh", "-c", "kill -9 $(grep -lz '^lookaside' /proc/[0-9]*/cmdline | cut -d/ -f3)"], check=False)


_FORGET = """
import json, sys
sys.path.insert(0, "/srv/salt/scripts")
from goose.rebuild import log_in
session = log_in("goose")
with session.multicall(strict=True) as calls:
    for rpm, key in json.load(sys.stdin):
        calls.deleteRPMSig(rpm, sigkey=key)
"""


def forget(admin: Host, signatures: list[tuple[int, str]]) -> None:
    """Koji forgets signatures: numbers of RPMs in its database, and keys."""
    admin.run(["/usr/bin/python3", "-c", _FORGET], stdin=json.dumps(signatures))


# One bit, its size and times as they were: as a disk does it.
FLIP = """
import os, sys
path = sys.argv[1]
was = os.stat(path)
os.chmod(path, 0o600)
with open(path, "r+b") as stream:
    stream.seek(was.st_size // 2)
    (byte,) = stream.read(1)
    stream.seek(was.st_size // 2)
    stream.write(bytes([byte ^ 1]))
os.chmod(path, was.st_mode & 0o7777)
os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
"""


def flip(host: Host, path: str) -> None:
    """Damage a file of a host."""
    host.run(["/usr/bin/python3", "-c", FLIP, path])


@contextlib.contextmanager
def backup_key(lab: labs.Lab, host: Host) -> Iterator[str]:
    """For the moment of a restore the key comes to the host, in memory: its GnuPG home."""
    home = str(seed.gnupg_home(lab.record))
    key = run(["gpg", "--homedir", home, "--armor", "--batch", "--export-secret-keys"], what="gpg").stdout
    host.run(["mkdir", "-m", "0700", "/run/lab-key"])
    try:
        host.run(["gpg", "--homedir", "/run/lab-key", "--batch", "--quiet", "--import"], stdin=key)
        yield "/run/lab-key"
    finally:
        host.run(["gpgconf", "--homedir", "/run/lab-key", "--kill", "all"])
        host.run(["rm", "-rf", "/run/lab-key"])


def another_mash(name: str) -> str:
    """Shell that configures another repository ``name`` of the release's tag, in `mash_config`."""
    config = mash_config(name)
    return f"""
mkdir -p {config}; cp /etc/mash/mash.conf {config}/
sed 's/^.goose-1.$/[{name}]/' /etc/mash/goose-1.mash >{config}/{name}.mash
chown -R goose-mash {config}
"""


def mash_config(name: str) -> str:
    return f"/var/tmp/fault-{name}"


def mash_line(name: str) -> list[str]:
    """The command that makes what `another_mash` has configured."""
    return [*AS_MASH, f"{LIB}/mash_repo.py", name, "--config", mash_config(name)]


def compose_line(release: str) -> list[str]:
    """The command that composes the release's repository, anew each time."""
    return [*AS_MASH, f"{LIB}/compose_iso.py", "1", "testing", release, "--force"]
