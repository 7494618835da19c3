"""One host of a lab: an overlay on the base, booted with its own systemd by systemd-nspawn."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from goose.lab.base import remove_tree
from goose.lab.record import Record
from goose.lab.run import LabError, run, wait_for

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Host:
    """A host of the lab ``record``; its state is read from the machine each time."""

    record: Record
    name: str
    address: str
    roles: tuple[str, ...]

    @property
    def fqdn(self) -> str:
        """Full name, which is the minion id too."""
        return f"{self.name}.{self.record.domain}"

    @property
    def machine(self) -> str:
        """The name that systemd-nspawn knows the host by."""
        return f"{self.record.name}-{self.name}"

    @property
    def directory(self) -> Path:
        """Where the host's layers lie."""
        return self.record.root / "hosts" / self.name

    @property
    def root(self) -> Path:
        """The host's file system, while it is mounted."""
        return self.directory / "root"

    def leader(self) -> int | None:
        """The process on this machine that is the host's PID 1, or nothing where the host is off."""
        supervisor = self._supervisor()
        if supervisor is None:
            return None
        children = Path(f"/proc/{supervisor}/task/{supervisor}/children")
        try:
            return next((int(child) for child in children.read_text().split()), None)
        except OSError:
            return None

    @staticmethod
    def _words(pid: int) -> list[str]:
        """The command line of a process; nothing where there is none."""
        try:
            return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        except OSError:
            return []

    def _supervisor(self) -> int | None:
        try:
            pid = int((self.directory / "pid").read_text())
        except (OSError, ValueError):
            return None
        # Numbers are used again: this one must still be this host's.
        return pid if f"--machine={self.machine}" in self._words(pid) else None

    def base(self) -> Path | None:
        """The base that the host was made on, or nothing where it is still to be made.

        A newer version of this program makes another one, and a layer fits only its own.
        """
        noted = self.directory / "base"
        if not noted.exists():
            return None
        base = Path(noted.read_text().strip())
        if not base.is_dir():
            raise LabError(
                f"{self.fqdn} was made on {base}, which is gone: `scripts/lab --name {self.record.name} destroy`,"
                " then `up`, makes the lab anew."
            )
        return base

    def mount(self, base: Path) -> None:
        """Mount the host's file system: its own layer over ``base``, or over what it was made on."""
        base = self.base() or base
        if os.path.ismount(self.root):
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "base").write_text(f"{base}\n")
        # An earlier mount that was not ended leaves this mark, and the kernel then refuses.
        shutil.rmtree(self.directory / "work", ignore_errors=True)
        for part in ("upper", "work", "root"):
            (self.directory / part).mkdir(parents=True, exist_ok=True)
        options = f"lowerdir={base},upperdir={self.directory}/upper,workdir={self.directory}/work"
        mount = ["mount", "-t", "overlay", f"lab-{self.machine}", str(self.root), "-o"]
        # volatile: no wait for the disk. A lab is made again, not repaired.
        if run([*mount, f"{options},volatile"], what="mount", check=False).returncode != 0:
            run([*mount, options], what=f"Mounting the file system of {self.fqdn}")

    def boot(self, binds: Sequence[str]) -> None:
        """Start the host where it is off, and return at once. ``binds``: options of systemd-nspawn."""
        if self.leader() is not None:
            return
        # Two systemds on one file system would be the end of it.
        self.kill()
        command = [
            "systemd-nspawn",
            "--quiet",
            "--boot",
            f"--directory={self.root}",
            f"--machine={self.machine}",
            "--register=no",
            f"--network-bridge={self.record.bridge}",
            "--resolv-conf=off",
            "--timezone=off",
            "--link-journal=no",
            "--console=read-only",
            *binds,
        ]
        if Path("/proc/1/comm").read_text().strip() != "systemd":
            # Outside systemd there is no unit to make the host's cgroup in, and hosts that share
            # one cannot tell whose processes are in it: their systemd then kills none.
            command.append("--keep-unit")
            for cgroup in self._cgroups():
                cgroup.mkdir(exist_ok=True)
            enter = "".join(f"echo $$ >{cgroup}/cgroup.procs; " for cgroup in self._cgroups())
            command = ["/bin/sh", "-c", f'{enter}exec "$@"', "sh", *command]
        with (self.directory / "console.log").open("wb") as console:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={"PATH": _PATH},
            )
        (self.directory / "pid").write_text(f"{process.pid}\n")
        # In the middle of an exec a process has no command line, and who looks then finds a host that is off.
        wait_for(
            lambda: process.poll() is not None or self._words(process.pid)[:1] == ["systemd-nspawn"],
            what=f"systemd-nspawn of {self.fqdn} to start",
            seconds=60,
        )

    def wait_until_up(self, seconds: float = 90) -> None:
        """Return once the host's systemd has started everything; `LabError` with its console else."""

        def up() -> bool:
            if self._supervisor() is None:
                console = (self.directory / "console.log").read_text(errors="replace").strip()
                raise LabError(f"{self.fqdn} does not boot; its console says:\n{console[-2000:]}")
            state = self.run(["systemctl", "is-system-running"], check=False).stdout.strip()
            return state in ("running", "degraded")

        wait_for(up, what=f"{self.fqdn} to boot", seconds=seconds)

    def run(
        self,
        command: Sequence[str],
        *,
        stdin: str | None = None,
        check: bool = True,
        log: Path | None = None,
        what: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root on the host, as `run` does on the machine."""
        prefix = self.enter()
        what = what or f"{command[0]} on {self.fqdn}"
        return run([*prefix, *command], what=what, stdin=stdin, check=check, log=log)

    def enter(self) -> list[str]:
        """The words before a command that make it run on the host."""
        leader = self.leader()
        if leader is None:
            # Between start and PID 1, and when off: a command that fails.
            return ["false"]
        clean = ["env", "-i", f"PATH={_PATH}", "HOME=/root", "LANG=C.UTF-8", "PYTHONUNBUFFERED=1"]
        clean.append(f"TERM={os.environ.get('TERM', 'dumb')}")
        return ["nsenter", "--all", f"--target={leader}", "--", *clean]

    def stop(self, seconds: float = 60) -> None:
        """Shut the host down in order; pull the plug after ``seconds``."""
        leader = self.leader()
        if leader is not None:
            # systemd's signal for power-off.
            os.kill(leader, signal.SIGRTMIN + 4)
            try:
                wait_for(lambda: self._supervisor() is None, what="the host to stop", seconds=seconds)
            except LabError:
                pass
        self.kill()

    def kill(self) -> None:
        """Pull the plug."""
        for pid in (self.leader(), self._supervisor()):
            if pid is not None:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        wait_for(lambda: self._supervisor() is None, what=f"{self.fqdn} to end", seconds=30)
        wait_for(self._nothing_runs, what=f"the processes of {self.fqdn} to end", seconds=30)
        try:
            # Ours if this command started it: a dead child keeps its number until it is waited for.
            os.waitpid(int((self.directory / "pid").read_text()), os.WNOHANG)
        except (OSError, ValueError):
            pass
        # The kernel takes a host's network away in its own time: connections that nobody answers any more keep it
        # for minutes, and the host could not boot again.
        run(["ip", "link", "delete", f"vb-{self.machine}"], what="ip", check=False)

    def _nothing_runs(self) -> bool:
        """Kill what is left of the host, and whether nothing was.

        Where systemd-nspawn itself was killed, the host's systemd may live on, and nothing else tells of it.
        """
        if not os.path.ismount(self.root):
            return True
        device = self.root.stat().st_dev
        left = 0
        for pid in (int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit()):
            try:
                # A process whose root is the host's file system, wherever the kernel shows it.
                if os.stat(f"/proc/{pid}/root/").st_dev == device:
                    left += 1
                    os.kill(pid, signal.SIGKILL)
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                # It has ended meanwhile, or is no host's: a kernel thread, or another user's.
                continue
        return not left

    def _cgroups(self) -> list[Path]:
        """The host's own cgroup, in each hierarchy that systemd uses."""
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
        used = [words[1] for words in mounts if words[2] == "cgroup2" or "name=systemd" in words[3].split(",")]
        return [Path(point) / f"lab-{self.machine}" for point in used]

    def remove(self) -> None:
        """Remove the host, which must be off."""
        for cgroup in self._cgroups():
            wait_for(lambda: _removed(cgroup), what=f"the processes of {self.fqdn} to end", seconds=60)  # noqa: B023
        remove_tree(self.directory)


def _removed(cgroup: Path) -> bool:
    """Remove a cgroup with all below it; false while a process that was killed still ends in it."""
    try:
        # Each directory is a cgroup, and its files are the kernel's.
        for directory, _, _ in os.walk(cgroup, topdown=False):
            os.rmdir(directory)
    except OSError:
        return False
    return True
