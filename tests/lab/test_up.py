"""What `up` leaves behind, what a second one does, and what is refused before anything changes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from goose.lab import lab as labs
from goose.lab.lab import TREE

if TYPE_CHECKING:
    from conftest import Command, Up


def test_first_package_is_built(up: Up, command: Command) -> None:
    """`up` promises a Koji that has built a package: the hub says so, not only the table."""
    said = command.on("salt", "koji", "list-tagged", "goose-1", "--latest", "--quiet")
    assert "goose-release-1-1" in said
    for service in ("koji-hub", "koji-web", "koji-files"):
        assert command.json("status")["services"][service].startswith("https://")


def test_applied_again_changes_nothing(command: Command) -> None:
    """Right after `up`, on every host: 0 changed, 0 failed; and `--test` says the same."""
    hosts = set(command.json("status")["hosts"])
    for words in ((), ("--test",)):
        outcomes = command.apply(*words)
        assert set(outcomes) == hosts
        for name, outcome in outcomes.items():
            assert (outcome["changed"], outcome["failed"]) == (0, 0), (name, outcome)
            assert outcome["succeeded"] > 10


def test_up_again_does_nothing(command: Command) -> None:
    """A second `up` finds everything in place: nothing boots, nothing changes, nothing is built."""
    done = command("up")
    assert " is up at " not in done.stderr
    assert "making the base" not in done.stderr
    changed = [line for line in done.stderr.splitlines() if " changed, " in line and " 0 changed, " not in line]
    assert changed == []
    assert "task of an earlier run" in done.stdout


def test_status_has_the_documented_shape(command: Command) -> None:
    """Other programs read this object."""
    status = command.json("status")
    assert status["name"] == command.name
    assert status["profile"] == "full"
    assert Path(status["ca"]).read_text().startswith("-----BEGIN CERTIFICATE-----")
    for host in status["hosts"].values():
        assert set(host) == {"address", "roles", "healthy", "failed_units"}
        assert host["healthy"], status


def test_urls_work_from_the_machine(command: Command, lab: labs.Lab) -> None:
    """The names and URLs in the table are for the person at this machine, certificate and all."""
    services = command.json("status")["services"]
    assert lab.answers(f"{services['koji-web']}/")
    assert lab.answers(f"{services['koji-files']}/")
    assert not lab.answers(f"{services['koji-files']}/nothing")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--name", "Bad_Name", "status"), "is no name for a lab"),
        (("--name", "nobody", "status"), "There is no lab 'nobody'"),
        (("exec", "nohost", "--", "true"), "has no host 'nohost'"),
        (("exec", "salt", "--"), "No command was given"),
        (("rebuild", "/nonexistent.src.rpm"), "There is no file"),
    ],
)
def test_errors_are_sentences(command: Command, words: tuple[str, ...], said: str) -> None:
    """What is wrong and what to do, with the exit status for usage, and no traceback."""
    done = command(*words, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_another_profile_is_refused(command: Command) -> None:
    """A lab has one profile: `up` does not turn it into another."""
    done = command("up", "--profile", "single", check=False)
    assert done.returncode == 2
    assert "has the profile full" in done.stderr


def test_too_little_disk_is_refused(tmp_path: Path) -> None:
    """Before anything is made: the directory stays empty."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(tmp_path)], check=True)
    try:
        done = subprocess.run(
            [str(TREE / "scripts/lab"), "--name", "small", "up"],
            env={**os.environ, "GOOSE_LAB_DIR": str(tmp_path)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 2
        assert "GiB free" in done.stderr
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@contextmanager
def _pillar(lab: labs.Lab, name: str, text: str) -> Iterator[None]:
    """The lab's own pillar file ``name`` with another text, for a while."""
    path = lab.record.root / "pillar" / name
    before = path.read_text() if path.exists() else None
    path.write_text(text)
    try:
        yield
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_text(before)


def _refusal(command: Command, host: str) -> str:
    said = command("apply", host, check=False)
    assert said.returncode != 0
    assert "0 succeeded, 0 changed" in said.stderr, said.stderr
    return said.stderr


def test_a_missing_pillar_value_is_named(command: Command, lab: labs.Lab) -> None:
    """The key, the host and what to set it to, before any state has run."""
    site = yaml.safe_load((lab.record.root / "pillar/site.yaml").read_text())
    del site["name"]
    with _pillar(lab, "site.yaml", yaml.safe_dump({**site, "name": ""})):
        said = _refusal(command, "builder2")
    assert "Pillar 'site:name' is missing for builder2." in said


def test_a_name_that_is_no_host_name_is_refused(command: Command, lab: labs.Lab) -> None:
    """It would become a certificate's name and a line in /etc/hosts."""
    hosts = yaml.safe_load((lab.record.root / "pillar/hosts.yaml").read_text())
    hosts["bad_name;reboot"] = {"address": "198.18.0.9", "roles": []}
    with _pillar(lab, "hosts.yaml", yaml.safe_dump(hosts)):
        said = _refusal(command, "builder2")
    assert "which is no full host name" in said


def test_an_unknown_role_is_refused(command: Command, lab: labs.Lab) -> None:
    """A misspelt role is not silently no role."""
    hosts = yaml.safe_load((lab.record.root / "pillar/hosts.yaml").read_text())
    next(host for name, host in hosts.items() if name.startswith("builder2."))["roles"].append("koji.bilder")
    with _pillar(lab, "hosts.yaml", yaml.safe_dump(hosts)):
        said = _refusal(command, "builder2")
    assert "'koji.bilder', which is no role" in said


def test_an_unknown_os_is_refused(command: Command) -> None:
    """Grains in the minion's own configuration stand in for another distribution."""
    fake = "grains: {os_family: Suse, osmajorrelease: 15, osfinger: SLES-15}\n"
    command.on("builder2", "tee", "/etc/salt/minion.d/fake.conf", stdin=fake)
    try:
        said = command.on("builder2", "salt-call", "--out=json", "state.apply", check=False)
    finally:
        command.on("builder2", "rm", "/etc/salt/minion.d/fake.conf")
    assert "runs SLES-15" in said
    assert "RedHat-9, RedHat-10, Debian-12" in said
