"""The lab that these tests run against.

By itself a test run destroys the lab `ci`, or what an earlier run has left of it, and makes it
anew: nothing is proved by a host that was mended by hand. To work on a test, name a lab that is
up, and it is taken as it is: ``GOOSE_TEST_LAB=goose scripts/test tests/lab/test_x.py``.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from goose.lab import lab as labs
from goose.lab import record
from goose.lab.run import Progress
from koji_client import Client, Hub, install

TREE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Command:
    """`scripts/lab` for one lab, as a user runs it."""

    name: str
    tree: Path = TREE
    """The checkout whose command it is."""

    def __call__(
        self, *words: str, check: bool = True, timeout: float = 1500, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `scripts/lab --name NAME WORDS…`; with `check`, fail the test on a non-zero status."""
        done = subprocess.run(
            [str(self.tree / "scripts/lab"), "--name", self.name, *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            input=stdin,
        )
        if check and done.returncode != 0:
            pytest.fail(f"lab {' '.join(words)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    def json(self, *words: str, check: bool = True) -> Any:
        """What `scripts/lab WORDS… --json` prints."""
        return json.loads(self(*words, "--json", check=check).stdout)

    def on(self, host: str, *words: str, check: bool = True, stdin: str | None = None) -> str:
        """Standard output of a command on a host."""
        return self("exec", host, "--", *words, check=check, stdin=stdin).stdout

    def apply(self, *words: str) -> dict[str, dict[str, Any]]:
        """`lab apply --json`; outcomes by host, failed ones too."""
        outcomes: dict[str, dict[str, Any]] = self.json("apply", *words, check=False)["hosts"]
        return outcomes


@dataclass(frozen=True)
class Up:
    """How the lab came up: seconds, and what `up` printed; nothing of a lab that was up already."""

    seconds: float
    output: str


@pytest.fixture(scope="session")
def lab_name() -> str:
    return os.environ.get("GOOSE_TEST_LAB", "ci")


@pytest.fixture(scope="session")
def up(lab_name: str) -> Iterator[Up]:
    """The lab, up; made anew unless GOOSE_TEST_LAB names one."""
    command = Command(lab_name)
    own = "GOOSE_TEST_LAB" not in os.environ
    if not own:
        yield Up(0.0, "")
        return
    command("destroy")
    start = time.monotonic()
    done = command("up")
    yield Up(time.monotonic() - start, done.stdout + done.stderr)
    command("destroy")


@pytest.fixture(scope="module")
def counted() -> Iterator[None]:
    """Who makes other labs and who counts what labs leave on the machine are not at it at the same time."""
    record.directory().mkdir(parents=True, exist_ok=True)
    with (record.directory() / "tests.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def command(up: Up, lab_name: str) -> Command:
    """`scripts/lab` for the lab, which is up."""
    return Command(lab_name)


@pytest.fixture(scope="session")
def lab(up: Up, lab_name: str) -> labs.Lab:
    """The lab as the program's own objects, for what no command does (pulling a plug)."""
    return labs.Lab(record.existing(lab_name), Progress())


@pytest.fixture(scope="session")
def client(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A koji client configuration of kojiadmin on this machine (config, client.pem, ca.pem)."""
    directory = tmp_path_factory.mktemp("client")
    command("client", str(directory))
    return directory

@pytest.fixture(scope="session")
def hub(lab: labs.Lab) -> Hub:
    """The hub's API without logging in."""
    return Hub(lab.services()["koji-hub"], lab.ca_path())


@pytest.fixture(scope="session")
def koji(client: Path, tmp_path_factory: pytest.TempPathFactory) -> Client:
    """The koji command, newer than the hub, as kojiadmin."""
    return Client(install(tmp_path_factory.mktemp("koji") / "venv"), client / "config")
