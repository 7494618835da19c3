"""Repositories of what the lab builds: made by `rebuild`, refused where something is wrong, installed from by dnf."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dnf_client import Dnf
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


def client(lab: labs.Lab, maker: Host, directory: Path) -> Dnf:
    """dnf with nothing but the published repository file, which names the published key."""
    dnf = Dnf(lab, directory)
    dnf.repository(NAME, lab.get(f"https://{maker.fqdn}/repos/{NAME}.repo").decode())
    return dnf


def build_root(lab: labs.Lab, arch: str = "x86_64") -> str:
    """What the lab's packages stand on: Koji's own repository, of the build root's packages, which nobody signs."""
    return f"{lab.services()['koji-files']}/repos/{NAME}-build/latest/{arch}"


def test_dnf_installs(repos: list[str], lab: labs.Lab, maker: Host, tmp_path: Path) -> None:
    """With nothing but the published repository file and key, into an empty root; metadata and package are checked."""
    dnf = client(lab, maker, tmp_path)
    assert "repo_gpgcheck=1" in (dnf.sources / f"{NAME}.repo").read_text()
    assert "Importing GPG key" in dnf("install", "goose-release")
    root = dnf.root
    assert (root / f"etc/pki/rpm-gpg/RPM-GPG-KEY-{NAME}").read_text().split() == lab.public_key().split()
    assert "gpgcheck=1" in (root / "etc/yum.repos.d/goose.repo").read_text()


def test_metadata_that_nobody_signed_is_refused(repos: list[str], lab: labs.Lab, maker: Host, tmp_path: Path) -> None:
    """A client that asks for signed metadata takes no other: here, that of the build root."""
    dnf = client(lab, maker, tmp_path)
    text = (dnf.sources / f"{NAME}.repo").read_text()
    lines = [f"baseurl={build_root(lab)}" if line.startswith("baseurl=") else line for line in text.splitlines()]
    (dnf.sources / f"{NAME}.repo").write_text("\n".join(lines))
    assert "repomd.xml.asc" in dnf("install", "goose-release", check=False)
    assert not list(dnf.root.glob("etc/os-release"))


def test_dnf_installs_dependencies(repos: list[str], lab: labs.Lab, maker: Host, tmp_path: Path) -> None:
    """64 and 32 bits side by side, with what they require: of the repository, and of what it stands on."""
    dnf = client(lab, maker, tmp_path)
    for arch in ("x86_64", "i386"):
        dnf.repository(f"root-{arch}", f"baseurl={build_root(lab, arch)}\ngpgcheck=0\n")
    dnf("install", "libcap-ng-devel.x86_64", "libcap-ng-devel.i686")
    done = subprocess.run(
        ["rpm", f"--root={dnf.root}", "-q", "--qf", "%{NAME}.%{ARCH} %{SIGPGP:pgpsig}%{RSAHEADER:pgpsig}\n", "-a"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    ours = {"libcap-ng.x86_64", "libcap-ng-devel.x86_64", "libcap-ng-devel.i686"}
    assert ours <= set(rows) and len(rows) > len(ours)
    assert all("Key ID" in rows[name] for name in ours)


def test_other_checkers_agree(repos: list[str], lab: labs.Lab, maker: Host, tmp_path: Path) -> None:
    """dnf's repoclosure, createrepo_c, which finds nothing to do, and rpmdeplint, which knows libsolv's rules."""
    dnf = client(lab, maker, tmp_path)
    for arch in ("x86_64", "i386"):
        dnf.repository(f"root-{arch}", f"baseurl={build_root(lab, arch)}\ngpgcheck=0\n")
    said = dnf("repoclosure", f"--check={NAME}", "--newest", plugins=True)
    assert "unresolved" not in said

    copy = tmp_path / "copy"
    shutil.copytree(maker.root / f"srv/repos/{NAME}/x86_64/os", copy)
    before = packages(copy)
    done = subprocess.run(["createrepo_c", "--quiet", "--update", str(copy)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert packages(copy) == before and len(before) > 8

    command = [*rpmdeplint(tmp_path), "check-sat", f"--repo=own,{copy}"]
    for arch in ("x86_64", "i386"):
        command.append(f"--repo=root-{arch},{lab.record.root}/volumes/koji/repos/{NAME}-build/latest/{arch}")
    # Not the 32-bit libraries: beside the 64-bit ones libsolv calls them of an inferior architecture.
    rpms = [str(path) for path in sorted(copy.rglob("*.rpm")) if ".i686." not in path.name]
    done = subprocess.run([*command, *rpms], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def packages(tree: Path) -> dict[str, str]:
    """Checksum -> place of the packages of a repository, by createrepo_c's own reader."""
    import createrepo_c

    metadata = createrepo_c.Metadata()
    metadata.locate_and_load_xml(str(tree))
    return {key: metadata.get(key).location_href for key in metadata.keys()}  # noqa: SIM118 (no mapping)


_RPMDEPLINT = """\
import sys, solv
made = solv.Pool
def pool():
    # Debian's libsolv compares in dpkg's way unless it is told.
    found = made()
    found.setdisttype(found.DISTTYPE_RPM)
    return found
solv.Pool = pool
from rpmdeplint.cli import main
sys.exit(main())
"""


def rpmdeplint(directory: Path) -> list[str]:
    """The program, of PyPI, on the system's own bindings of librepo, libsolv and rpm."""
    venv = directory / "venv"
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--system-site-packages", str(venv)], check=True)
    subprocess.run([str(venv / "bin/pip"), "install", "--quiet", "rpmdeplint==2.1"], check=True, capture_output=True)
    return [str(venv / "bin/python"), "-c", _RPMDEPLINT]


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


def test_dist_repo(repos: list[str], lab: labs.Lab, maker: Host) -> None:
    """The same gate, and then Koji's own task, by the certificate that the role brings."""
    config = maker.root / "var/tmp/dist-repo"
    config.mkdir(exist_ok=True)
    (config / "mash.conf").write_text((maker.root / "etc/mash/mash.conf").read_text())
    (config / "dist.mash").write_text(f"[dist]\ntag = {NAME}\nkeys = {NAME}\narches = x86_64\nengine = dist-repo\n")
    command = ["runuser", "-u", "goose-mash", "--", PROGRAM, "dist", "--config", "/var/tmp/dist-repo", "--json"]
    (made,) = json.loads(maker.run(command).stdout)["mashes"]
    assert made["result"] == "published"
    place = made["path"].replace("/mnt/koji", lab.services()["koji-files"])
    assert lab.answers(f"{place}/x86_64/repodata/repomd.xml") and lab.answers(f"{place}/src/repodata/repomd.xml")
