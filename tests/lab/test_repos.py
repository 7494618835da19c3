"""Repositories of what the lab builds: made by `rebuild`, refused where something is wrong, installed from by dnf."""

from __future__ import annotations

import json
import subprocess
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from goose.lab import lab as labs
from goose.lab.host import Host
from koji_client import Client

if TYPE_CHECKING:
    from conftest import Command

NAME = "goose-1"
PROGRAM = "/usr/local/lib/goose/mash_repo.py"


@pytest.fixture(scope="module")
def repos(command: Command) -> list[str]:
    """URLs that `lab rebuild --json` prints; the samples may have been built by earlier tests."""
    found: list[str] = command.json("rebuild")["repos"]
    return found


@pytest.fixture(scope="module")
def maker(lab: labs.Lab) -> Host:
    return lab.need_role("mash")


def mash(maker: Host, *words: str, check: bool = True) -> tuple[int, dict[str, Any], str]:
    """Status, result and messages of mash_repo.py, by its own user."""
    command = ["runuser", "-u", "goose-mash", "--", PROGRAM, NAME, "--json", *words]
    done = maker.run(command, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done.returncode, json.loads(done.stdout) if done.stdout.strip() else {}, done.stderr


def published(lab: labs.Lab, maker: Host) -> dict[str, Any]:
    """The published manifest."""
    manifest: dict[str, Any] = json.loads(lab.get(f"https://{maker.fqdn}/repos/{NAME}/mash.json"))
    return manifest


def test_rebuild_ends_with_repositories(repos: list[str], lab: labs.Lab) -> None:
    places = {urllib.parse.urlsplit(url).path for url in repos}
    assert places == {f"/repos/{NAME}/{place}/" for place in ("source/SRPMS", "x86_64/debug", "x86_64/os")}
    for url in repos:
        assert lab.answers(f"{url}repodata/repomd.xml")


def test_multilib(repos: list[str], lab: labs.Lab, maker: Host) -> None:
    """32-bit libraries and what is needed to build with them, out of real builds; no 32-bit programs."""
    trees = published(lab, maker)["trees"]
    (tree,) = (tree for tree in trees.values() if any("x86_64/os" in row[0] for row in tree["rpms"].values()))
    inside = {nevra.rsplit("-", 2)[0] + "." + nevra.rsplit(".", 1)[1] for nevra in tree["rpms"]}
    assert {"libcap-ng.x86_64", "libcap-ng.i686", "libcap-ng-devel.i686", "logrotate.x86_64"} <= inside
    assert "logrotate.i686" not in inside and "sdparm.i686" not in inside
    said = maker.run(["runuser", "-u", "goose-mash", "--", PROGRAM, NAME, "--explain", "libcap-ng-devel.i686"]).stdout
    assert "libcap-ng-devel" in said and "devel" in said


def test_again_changes_nothing(repos: list[str], maker: Host) -> None:
    before = maker.run(["readlink", f"/srv/repos/{NAME}"]).stdout
    mash(maker)
    assert maker.run(["readlink", f"/srv/repos/{NAME}"]).stdout == before


def test_dnf_installs(repos: list[str], lab: labs.Lab, maker: Host, tmp_path: Path) -> None:
    """With nothing but the published repository file and key, into an empty root; every package is checked."""
    sources = tmp_path / "repos"
    sources.mkdir()
    (sources / f"{NAME}.repo").write_bytes(lab.get(f"https://{maker.fqdn}/repos/{NAME}.repo"))
    root = tmp_path / "root"
    # Debian's dnf has a plug-in with a repository of its own.
    command = ["dnf", "--noplugins", "--assumeyes", f"--installroot={root}", "--releasever=1", "--forcearch=x86_64"]
    command += [f"--setopt={option}" for option in (
        f"reposdir={sources}", f"sslcacert={lab.ca_path()}", f"cachedir={tmp_path}/cache", "install_weak_deps=False",
        "varsdir=/dev/null", "logdir=/tmp",
    )]  # fmt: skip
    done = subprocess.run([*command, "install", "goose-release"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Importing GPG key" in done.stdout + done.stderr
    assert (root / f"etc/pki/rpm-gpg/RPM-GPG-KEY-{NAME}").read_text().split() == lab.public_key().split()
    assert "gpgcheck=1" in (root / "etc/yum.repos.d/goose.repo").read_text()


def test_an_unsigned_package_refuses_it(
    repos: list[str], lab: labs.Lab, maker: Host, koji: Client, command: Command
) -> None:
    """The published repository stays as it is, and the message names the package; once it is signed, it goes on."""
    before = published(lab, maker)
    row = next(row for tree in before["trees"].values() for nevra, row in tree["rpms"].items() if "logrotate" in nevra)
    victim = Path(row[0]).name[: -len(".rpm")]
    koji("remove-sig", f"--sigkey={row[1]}", victim)
    try:
        status, result, said = mash(maker, check=False)
        assert status == 1
        assert victim.rsplit(".", 1)[0].rsplit("-", 2)[0] in said + json.dumps(result)
        assert "unsigned" in said + json.dumps(result)
        assert published(lab, maker) == before
    finally:
        signer = lab.need_role("sigul.client")
        signer.run(["systemctl", "start", f"signing-{NAME}.service"])
    mash(maker)
    after = published(lab, maker)
    assert {name: set(tree["rpms"]) for name, tree in after["trees"].items()} == {
        name: set(tree["rpms"]) for name, tree in before["trees"].items()
    }
