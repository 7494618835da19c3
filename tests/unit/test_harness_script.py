"""scripts/test says in a sentence what it lacks, before it does anything."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest


def run(root: Path, programs: Path, *arguments: str, **stand_ins: str) -> subprocess.CompletedProcess[str]:
    """Run scripts/test with stand-ins for programs; it must end before it starts pytest."""
    for name, body in stand_ins.items():
        path = programs / name.replace("_", "-")
        path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        path.chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(programs)}
    return subprocess.run(
        [str(root / "scripts/test"), *arguments], capture_output=True, text=True, env=environment, check=False
    )


def test_help(root: Path, tmp_path: Path) -> None:
    done = run(root, tmp_path, "--help")
    assert done.returncode == 0
    assert "scripts/test --fast" in done.stdout and "set -eu" not in done.stdout


@pytest.mark.parametrize(
    ("stand_ins", "words"),
    [
        ({"id": "echo 1000"}, "needs root"),
        ({"id": "echo 0", "unshare": "exit 1"}, "no namespaces"),
        (
            {"id": "echo 0", "unshare": "true", "grep": "exit 1", "modprobe": "exit 1"},
            "no overlay file system",
        ),
    ],
)
def test_no_lab(root: Path, tmp_path: Path, stand_ins: dict[str, str], words: str) -> None:
    done = run(root, tmp_path, **stand_ins)
    assert done.returncode == 2
    assert words in done.stderr and "scripts/test --fast" in done.stderr
    assert done.stderr.count("\n") == 1


def test_packages_without_root(root: Path, tmp_path: Path) -> None:
    done = run(root, tmp_path, "--fast", id="echo 1000", dpkg_query="exit 1")
    assert done.returncode == 2
    assert "as root, run apt-get install python3 " in done.stderr


def test_apt_fails(root: Path, tmp_path: Path) -> None:
    """What apt says is shown, and a lock is waited for alone."""
    done = run(
        root, tmp_path, "--fast", id="echo 0", dpkg_query="exit 1", apt_get="echo E: no such host; exit 100"
    )
    assert done.returncode == 2
    assert "E: no such host" in done.stderr and "apt-get update failed" in done.stderr


def test_environment_fails(root: Path, tmp_path: Path) -> None:
    """An environment that could not be made is not taken for one by the next run."""
    requirements = (root / "tests/requirements.txt").read_text(encoding="utf-8")
    copy = tmp_path / "tree"
    (copy / "scripts").mkdir(parents=True)
    (copy / "tests/lint").mkdir(parents=True)
    (copy / "scripts/test").write_bytes((root / "scripts/test").read_bytes())
    (copy / "scripts/test").chmod(0o755)
    (copy / "tests/requirements.txt").write_text(
        requirements.replace("salt==", "no such name =="), encoding="utf-8"
    )
    for _ in range(2):
        done = run(copy, tmp_path, "--fast", dpkg_query="echo installed")
        assert done.returncode == 2
        assert "could not be made" in done.stderr
    assert not list(tmp_path.glob("goose-test/*/complete"))
