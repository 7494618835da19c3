"""The archives of a checkout: fetched, checked, and never written where a packager's trick would have them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from goose import fetch_sources
from goose.lookaside_client import Lookaside, LookasideError, Settings
from package_doubles import LookasideServer, git, serving

PACKAGE = "rpms/bash"
CONTENT = b"an archive\n" * 5000


@pytest.fixture
def server() -> Iterator[LookasideServer]:
    with serving() as server:
        yield server


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    directory = tmp_path / "bash"
    directory.mkdir()
    git(directory, "init", "--quiet")
    git(directory, "remote", "add", "origin", f"https://scm.example/git/{PACKAGE}")
    return directory


def name_in_sources(checkout: Path, name: str, content: bytes = CONTENT, hashtype: str = "sha512") -> str:
    digest = hashlib.new(hashtype, content).hexdigest()
    line = f"{digest}  {name}\n" if hashtype == "md5" else f"{hashtype.upper()} ({name}) = {digest}\n"
    with (checkout / "sources").open("a") as stream:
        stream.write(line)
    return digest


def fetch(checkout: Path, server: LookasideServer) -> list[str]:
    lookaside = Lookaside(Settings(server.url), sleep=lambda _: None)
    return fetch_sources.fetch_all(checkout, PACKAGE, lookaside)


@pytest.mark.parametrize("hashtype", ["sha512", "md5"])
def test_fetches(checkout: Path, server: LookasideServer, hashtype: str) -> None:
    name_in_sources(checkout, "bash+1%.tar.gz", hashtype=hashtype)
    server.add(PACKAGE, "bash+1%.tar.gz", CONTENT, hashtype)
    assert fetch(checkout, server) == ["bash+1%.tar.gz"]
    assert (checkout / "bash+1%.tar.gz").read_bytes() == CONTENT
    assert fetch(checkout, server) == [], "what is there is not fetched again"
    assert sorted(os.listdir(checkout)) == [".git", "bash+1%.tar.gz", "sources"]


def test_without_sources_there_is_nothing_to_do(checkout: Path, server: LookasideServer) -> None:
    assert fetch(checkout, server) == []
    assert server.requests == []


def test_command_finds_package_and_cache(
    checkout: Path, server: LookasideServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name_in_sources(checkout, "a.tar")
    server.add(PACKAGE, "a.tar", CONTENT)
    config = tmp_path / "sources.json"
    config.write_text(json.dumps({"files": server.url}))
    assert fetch_sources.main([str(checkout), "--config", str(config)]) == 0
    assert capsys.readouterr().out == "a.tar\n"


def test_damaged_archive_does_not_appear(checkout: Path, server: LookasideServer) -> None:
    digest = name_in_sources(checkout, "a.tar")
    server.archives[f"{PACKAGE}/a.tar/sha512/{digest}/a.tar"] = CONTENT[:-1] + b"X"
    with pytest.raises(LookasideError, match="is not what `sources` says"):
        fetch(checkout, server)
    assert sorted(os.listdir(checkout)) == [".git", "sources"]


def test_missing_archive_names_what_mends_it(checkout: Path, server: LookasideServer) -> None:
    name_in_sources(checkout, "a.tar")
    with pytest.raises(LookasideError, match="goosepkg new-sources a.tar"):
        fetch(checkout, server)


def test_a_server_out_of_order_is_asked_again(checkout: Path, server: LookasideServer) -> None:
    name_in_sources(checkout, "a.tar")
    server.add(PACKAGE, "a.tar", CONTENT)
    server.answers = [503, 502]
    assert fetch(checkout, server) == ["a.tar"]


def test_a_file_that_git_holds_is_kept(checkout: Path, server: LookasideServer) -> None:
    name_in_sources(checkout, "a.tar")
    server.add(PACKAGE, "a.tar", CONTENT)
    (checkout / "a.tar").write_bytes(b"mine")
    with pytest.raises(LookasideError, match="another hash"):
        fetch(checkout, server)
    assert (checkout / "a.tar").read_bytes() == b"mine"


@pytest.mark.parametrize("dangling", [True, False])
def test_a_link_is_not_followed(checkout: Path, server: LookasideServer, tmp_path: Path, dangling: bool) -> None:
    name_in_sources(checkout, "a.tar")
    server.add(PACKAGE, "a.tar", CONTENT)
    outside = tmp_path / "outside"
    if not dangling:
        outside.write_bytes(b"precious")
    (checkout / "a.tar").symlink_to(outside)
    with pytest.raises(LookasideError, match="no plain file"):
        fetch(checkout, server)
    assert not outside.exists() if dangling else outside.read_bytes() == b"precious"


def test_sources_may_be_no_link_and_no_fifo(checkout: Path, server: LookasideServer, tmp_path: Path) -> None:
    (checkout / "sources").symlink_to("/etc/passwd")
    with pytest.raises(LookasideError, match="no plain file"):
        fetch(checkout, server)
    with pytest.raises(LookasideError, match="no directory of a checkout"):
        (tmp_path / "link").symlink_to(checkout)
        fetch(tmp_path / "link", server)


@pytest.mark.parametrize(
    ("url", "package"),
    [
        ("https://scm.example/git/rpms/bash", "rpms/bash"),
        ("ssh://gitolite3@scm.example/rpms/gtk+.git", "rpms/gtk+"),
        ("git@forge.example:goose/rpms/bash.git", "rpms/bash"),
        ("/var/lib/gitolite3/repositories/rpms/bash.git", "rpms/bash"),
    ],
)
def test_package_by_address(url: str, package: str) -> None:
    assert fetch_sources.package_of(url) == package


@pytest.mark.parametrize("url", ["https://scm.example/", "https://scm.example/rpms/..", "https://scm.example/a/b c"])
def test_no_package(url: str) -> None:
    with pytest.raises(LookasideError, match="names no package"):
        fetch_sources.package_of(url)
