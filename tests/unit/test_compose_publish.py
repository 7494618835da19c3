"""publish_compose.py: composes to directories and mirrors by rsync, metadata and links last."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compose_doubles import TREE, Site, env, make
from goose import compose_publish
from goose.compose_config import Target


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("mash") / "goose-1")


@pytest.fixture
def site(tmp_path: Path, repository: Path) -> Site:
    site = Site(tmp_path, repository)
    site.configure(targets={"web": {"to": str(tmp_path / "www"), "stages": ["Beta", "Final"]}})
    return site


Publish = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def publish(site: Site) -> Publish:
    def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        line = [
            "/usr/bin/python3",
            "-B",
            str(TREE / "scripts/publish_compose.py"),
            "--config",
            str(site.top / "compose.json"),
            *words,
        ]
        return subprocess.run(line, capture_output=True, text=True, check=False, env=env(**environment))

    return run


def told(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["targets"][0]
    return found


def same(one: Path, other: Path) -> bool:
    return (
        subprocess.run(["diff", "-r", str(one), str(other)], capture_output=True, check=False).returncode == 0
    )


def test_publish(site: Site, publish: Publish) -> None:
    """All of it, with its hard links, and the links of its stage; again, and nothing is sent."""
    compose = Path(site.told()["path"])
    dry = told(publish("1/Beta-RC4", "--dry-run", "--json"))
    assert dry["result"] == "would-publish" and dry["files"] > 20 and not (site.top / "www").exists()
    sent = told(publish("1/Beta-RC4", "--json"))
    www = site.top / "www"
    assert sent["result"] == "published" and sent["links"] == ["1/Beta-RC4", "latest-goose-1-Beta"]
    assert sent["files"] == dry["files"]
    assert same(compose, www / compose.name)
    assert (www / "1/Beta-RC4").resolve() == www / compose.name / "compose"
    assert (www / "latest-goose-1-Beta").resolve() == www / compose.name
    assert not (www / ".compose").exists()
    again = told(publish("latest-goose-1-Beta", "--json"))
    assert (again["result"], again["files"], again["bytes"]) == ("unchanged", 0, 0)


def test_next_compose_links_the_last(site: Site, publish: Publish) -> None:
    """What the mirror has of the compose before is linked there, and not sent again."""
    first = site.told("1", "Beta", "RC1", "--date", "20260101")["compose"]
    told(publish(first, "--json"))
    second = site.told("1", "Beta", "RC2", "--date", "20260102")["compose"]
    sent = told(publish(second, "--json"))
    rpm = "compose/Apps/x86_64/os/Packages/a/app-1.0-1.x86_64.rpm"
    www = site.top / "www"
    assert os.path.samefile(www / first / rpm, www / second / rpm)
    assert sent["bytes"] < (site.output / second / rpm).stat().st_size + sum(
        path.stat().st_size
        for path in (site.output / second).rglob("*")
        if path.suffix != ".rpm" and path.is_file()
    )
    assert (www / "latest-goose-1-Beta").resolve().name == second


def test_metadata_and_links_last(site: Site, publish: Publish) -> None:
    """rsync, called in the order that a client of the mirror needs."""
    site.told()
    programs = site.top / "bin"
    programs.mkdir()
    (programs / "rsync").write_text(f'#!/bin/sh\necho "$@" >>{site.top}/said\nexec /usr/bin/rsync "$@"\n')
    (programs / "rsync").chmod(0o755)
    told(publish("1/Beta-RC4", "--json", PATH=f"{programs}:{os.environ['PATH']}"))
    lines = (site.top / "said").read_text().splitlines()
    assert len(lines) == 4
    assert (
        "--exclude=repomd.xml" in lines[0]
        and "--delete" not in lines[0]
        and "--exclude=/compose/metadata" in lines[0]
    )
    assert "--exclude" not in lines[1] and "--delete-after" in lines[1] and "--hard-links" in lines[1]
    assert "/./1/Beta-RC4" in lines[2] and "/./latest-goose-1-Beta" in lines[3]


def test_killed_between(site: Site, publish: Publish) -> None:
    """A first go that dies leaves no metadata there, and the next run completes it."""
    compose = Path(site.told()["path"])
    programs = site.top / "bin"
    programs.mkdir()
    (programs / "rsync").write_text(
        f'#!/bin/sh\n[ -e {site.top}/once ] && exit 23\ntouch {site.top}/once\nexec /usr/bin/rsync "$@"\n'
    )
    (programs / "rsync").chmod(0o755)
    done = publish("1/Beta-RC4", "--json", PATH=f"{programs}:{os.environ['PATH']}")
    assert done.returncode == 1 and json.loads(done.stdout)["targets"][0]["result"] == "failed"
    www = site.top / "www"
    assert (www / compose.name / "compose/Apps/x86_64/os/Packages/a/app-1.0-1.x86_64.rpm").exists()
    assert (
        not list(www.rglob("repomd.xml"))
        and not list(www.rglob("composeinfo.json"))
        and not (www / "latest-goose-1-Beta").is_symlink()
    )
    assert told(publish("1/Beta-RC4", "--json"))["result"] == "published"
    assert same(compose, www / compose.name)


def test_damage_is_not_published(site: Site, publish: Publish) -> None:
    iso = Path(site.told()["iso"]["path"])
    with iso.open("r+b") as stream:
        stream.seek(100_000)
        stream.write(b"damage")
    done = publish("1/Beta-RC4")
    assert done.returncode == 5 and f"{iso.name} is damaged" in done.stderr
    iso.unlink()
    done = publish("1/Beta-RC4")
    assert done.returncode == 5 and "a file is missing or has another size" in done.stderr
    assert not (site.top / "www").exists()


def test_refused(site: Site, publish: Publish) -> None:
    site.told("1", "testing", "1")
    for words, said in (
        (("9/Final",), "is no compose of compose_iso.py"),
        (("../../etc",), "is no compose of compose_iso.py"),
        (("testing/1-1",), "No target takes composes of the stage testing"),
        (("testing/1-1", "--target", "web"), "is of the stage testing, which the target web does not take"),
        (("testing/1-1", "--target", "moon"), "There is no target moon: choose from web."),
    ):
        done = publish(*words)
        assert (done.returncode, said in done.stderr) == (2, True), (words, done.stderr)


def test_an_older_compose_moves_no_link(site: Site, publish: Publish) -> None:
    first = site.told("1", "Beta", "RC1", "--date", "20260101")["compose"]
    second = site.told("1", "Beta", "RC2", "--date", "20260102")["compose"]
    told(publish(second, "--json"))
    assert told(publish(first, "--json"))["links"] == ["1/Beta-RC1"]
    assert (site.top / "www/latest-goose-1-Beta").resolve().name == second


def test_network_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that breaks is made again, three times; what no retry mends is said at once."""
    (tmp_path / "rsync").write_text(
        f'#!/bin/sh\necho x >>{tmp_path}/tries\necho "rsync: connection unexpectedly closed" >&2\n'
        f"exit $(cat {tmp_path}/status)\n"
    )
    (tmp_path / "rsync").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    slept: list[float] = []
    for status, tries in (("12", 3), ("23", 1)):
        (tmp_path / "status").write_text(status)
        shutil.rmtree(tmp_path / "tries", ignore_errors=True)
        (tmp_path / "tries").unlink(missing_ok=True)
        with pytest.raises(
            compose_publish.PublishError, match=f"status {status}: rsync: connection unexpectedly closed"
        ):
            compose_publish.rsync(["a", "b"], Target("host::module"), lambda line: None, slept.append)
        assert len((tmp_path / "tries").read_text().split()) == tries
    assert slept == [5.0, 10.0]
