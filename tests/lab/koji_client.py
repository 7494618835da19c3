"""How the tests speak to the hub: by its API, and by the koji client as people have it."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

# Newer than any hub of this project, with what it needs. requests-gssapi is left out: it needs a
# compiler and Kerberos, and a client with a certificate uses neither.
PACKAGES = ("koji==1.36.1", "defusedxml", "python-dateutil", "requests", "six")

TASK_STATES = ("FREE", "OPEN", "CLOSED", "CANCELED", "ASSIGNED", "FAILED")
BUILD_STATES = ("BUILDING", "COMPLETE", "DELETED", "FAILED", "CANCELED")

T = TypeVar("T")


@dataclass(frozen=True)
class Hub:
    """The hub's API as anybody may call it, without logging in."""

    url: str
    ca: Path

    def __call__(self, method: str, *arguments: Any, **named: Any) -> Any:
        """Call ``method``; named arguments go the way that Koji has for them."""
        context = ssl.create_default_context(cafile=str(self.ca))
        server = xmlrpc.client.ServerProxy(self.url, context=context, allow_none=True)
        rest = ({**named, "__starstar": True},) if named else ()
        return getattr(server, method)(*arguments, *rest)

    def task(self, number: int) -> dict[str, Any]:
        """A task, with its state and the host that has it as words."""
        task: dict[str, Any] = self("getTaskInfo", number)
        host = self("getHost", task["host_id"])["name"] if task["host_id"] else None
        return {**task, "state": TASK_STATES[task["state"]], "host": host}

    def children(self, number: int, method: str) -> list[dict[str, Any]]:
        """The tasks of one kind that a task has started."""
        return [self.task(child["id"]) for child in self("getTaskChildren", number) if child["method"] == method]

    def wait_for_task(self, number: int, seconds: float = 240) -> str:
        """The state in which a task ends."""

        def ended() -> str | None:
            state: str = self.task(number)["state"]
            return state if state in ("CLOSED", "CANCELED", "FAILED") else None

        return wait_for(ended, f"task {number} to end", seconds)


@dataclass(frozen=True)
class Client:
    """The koji command from the package index, with the configuration of `scripts/lab client`."""

    program: Path
    config: Path

    def run(self, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run it as it is on a user's machine: without this process's Python settings."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        # Downloads are checked by requests' own setting, not by `serverca`.
        environment["REQUESTS_CA_BUNDLE"] = str(self.config.parent / "ca.pem")
        return subprocess.run(
            [str(self.program), f"--config={self.config}", *words],
            capture_output=True, text=True, check=False, timeout=180, cwd=cwd, env=environment,
        )  # fmt: skip

    def __call__(self, *words: str, cwd: Path | None = None) -> str:
        """What it prints; the test fails where it fails."""
        done = self.run(*words, cwd=cwd)
        if done.returncode != 0:
            pytest.fail(f"koji {' '.join(words)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done.stdout


def install(directory: Path) -> Path:
    """Install the client into an environment of its own; its program.

    Of its own, because this tree has directories called koji and salt.
    """
    # It sees the distribution's modules too: rpm's bindings, which check downloads, come with those alone.
    venv = [sys.executable, "-m", "venv", "--system-site-packages", str(directory)]
    subprocess.run(venv, check=True, timeout=120)
    pip = [str(directory / "bin/pip"), "install", "--quiet", "--disable-pip-version-check"]
    for words in (["--no-deps", PACKAGES[0]], PACKAGES[1:]):
        done = subprocess.run([*pip, *words], capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
    return directory / "bin/koji"


def wait_for(condition: Callable[[], T | None], what: str, seconds: float, pause: float = 0.5) -> T:
    """What ``condition`` gives once it is true; the test fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"Waited {seconds:.0f} s in vain for {what}.")
        time.sleep(pause)
    return found


SPEC = """\
Name: {name}
Version: {version}
Release: 1%{{?dist}}
Summary: A package of the lab's tests
License: MIT
BuildArch: noarch
%description
A package of the lab's tests.
%prep
%build
{build}
%install
mkdir -p %{{buildroot}}/usr/share/{name}
{install}
%files
/usr/share/{name}
"""


def make_srpm(
    run: Callable[..., str], host_root: Path, name: str, build: Sequence[str] = (), install: str = ""
) -> Path:
    """A source RPM whose %build runs the lines ``build``, made anew on a host that has rpmbuild.

    ``install`` is a line that puts more into ``/usr/share/NAME``.

    ``run`` runs a command on that host, and ``host_root`` is its file system as this machine sees it.
    """
    spec = SPEC.format(name=name, version=int(time.time()), build="\n".join(build), install=install)
    directory = f"/var/tmp/lab-tests/{name}"
    script = (
        f"rm -rf {directory} && mkdir -p {directory} && cat >{directory}/{name}.spec"
        f" && rpmbuild --quiet -bs --define '_srcrpmdir {directory}' --define '_sourcedir {directory}'"
        f" {directory}/{name}.spec && ls {directory}/*.src.rpm"
    )
    path = run("sh", "-c", script, stdin=spec).strip().splitlines()[-1]
    return host_root / path.lstrip("/")
