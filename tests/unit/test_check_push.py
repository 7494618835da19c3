"""The hook of the repositories, as git runs it: real pushes into real repositories."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from package_doubles import LookasideServer, git, serving

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def server() -> Iterator[LookasideServer]:
    with serving() as server:
        yield server


@dataclass(frozen=True)
class Clone:
    """A packager's clone."""

    directory: Path

    def commit(self, sources: str | None, name: str = "sources") -> str:
        if sources is not None:
            (self.directory / name).write_text(sources)
        git(self.directory, "add", "--all")
        git(self.directory, "commit", "--quiet", "--allow-empty", "--message", "change")
        return git(self.directory, "rev-parse", "HEAD").strip()

    def push(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = ["git", "-C", str(self.directory), "push", "--quiet", "origin", *(words or ["HEAD:refs/heads/main"])]
        return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def clone(tmp_path: Path, server: LookasideServer) -> Clone:
    config = tmp_path / "sources.json"
    config.write_text(json.dumps({"files": server.url}))
    bare = tmp_path / "rpms/bash.git"
    subprocess.run(["git", "init", "--quiet", "--bare", str(bare)], check=True)
    hook = bare / "hooks/pre-receive"
    hook.write_text(
        "#!/usr/bin/python3 -B\nimport sys, pathlib\n"
        f"sys.path.insert(0, {str(SCRIPTS)!r})\n"
        "from goose import check_push, lookaside_client\n"
        f"sys.exit(check_push.main(config=pathlib.Path({str(config)!r})))\n"
    )
    hook.chmod(0o755)
    directory = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(bare), str(directory)], check=True, capture_output=True)
    return Clone(directory)


def line(name: str, content: bytes) -> str:
    return f"SHA512 ({name}) = {hashlib.sha512(content).hexdigest()}\n"


def test_push_with_what_the_cache_holds(clone: Clone, server: LookasideServer) -> None:
    server.add("rpms/bash", "a.tar", b"a")
    clone.commit(line("a.tar", b"a"))
    done = clone.push()
    assert done.returncode == 0, done.stderr
    assert len(server.requests) == 1
    assert server.requests[0].startswith("HEAD /lookaside/rpms/bash/a.tar/sha512/")


def test_push_without_it_is_told_what_mends_it(clone: Clone, server: LookasideServer) -> None:
    clone.commit(line("a.tar", b"a"))
    done = clone.push()
    assert done.returncode != 0
    assert "lacks a.tar" in done.stderr
    assert "goosepkg new-sources a.tar" in done.stderr
    assert git(clone.directory, "ls-remote", "origin") == "", "a refused push leaves nothing"


def test_every_new_commit_counts(clone: Clone, server: LookasideServer) -> None:
    """A commit in the middle may be built some day, whatever the last one says."""
    server.add("rpms/bash", "good.tar", b"g")
    middle = clone.commit(line("bad.tar", b"b"))
    clone.commit(line("good.tar", b"g"))
    done = clone.push()
    assert done.returncode != 0
    assert "lacks bad.tar" in done.stderr
    assert middle[:12] in done.stderr


def test_old_commits_are_not_asked_again(clone: Clone, server: LookasideServer) -> None:
    server.add("rpms/bash", "a.tar", b"a")
    clone.commit(line("a.tar", b"a"))
    assert clone.push().returncode == 0
    server.requests.clear()
    clone.commit(None)
    clone.commit("x\n", name="fix.patch")
    assert clone.push().returncode == 0
    assert len(server.requests) == 1, "one distinct file, however many commits"
    server.requests.clear()
    assert clone.push("HEAD:refs/heads/other").returncode == 0
    assert clone.push(":refs/heads/other").returncode == 0
    assert server.requests == [], "a branch of known commits, and its end, ask for nothing"


def test_tags_bring_commits_too(clone: Clone, server: LookasideServer) -> None:
    clone.commit(line("a.tar", b"a"))
    git(clone.directory, "tag", "--annotate", "--message", "x", "v1")
    done = clone.push("refs/tags/v1")
    assert "lacks a.tar" in done.stderr


def test_a_line_that_is_none_is_named(clone: Clone, server: LookasideServer) -> None:
    clone.commit("nonsense\n")
    done = clone.push()
    assert done.returncode != 0
    assert "Line 1 of sources" in done.stderr


def test_without_the_cache_nothing_is_taken(clone: Clone, server: LookasideServer) -> None:
    server.answers = [500] * 3
    clone.commit(line("a.tar", b"a"))
    done = clone.push()
    assert done.returncode != 0
    assert "push again later" in done.stderr
