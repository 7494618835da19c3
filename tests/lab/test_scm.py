"""From source RPMs by git and the lookaside cache to builds, and a packager's day."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from estate import ended, kill_uploads, start_on
from goose import srpm
from goose.lab import lab as labs
from koji_client import BUILD_STATES, Client, Hub, wait_for

if TYPE_CHECKING:
    from conftest import Command

SPEC = """\
Name: {name}
Version: {version}
Release: 1%{{?dist}}
Summary: A package of the lab's tests
License: MIT
BuildArch: noarch
Source0: {name}-{version}.tar.gz
Patch0: fix.patch
%description
A package of the lab's tests.
%prep
%setup -q
%patch0 -p1
%build
%install
install -D -m 0644 text %{{buildroot}}/usr/share/{name}/text
%files
/usr/share/{name}
%changelog
* Wed Jan 03 2024 Jane Doe <jane@example.org> - {version}-1
- made
"""

PATCH = "--- a/text\n+++ b/text\n@@ -1 +1 @@\n-before\n+after\n"

Packager = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def packager(command: Command, lab: labs.Lab) -> Packager:
    """Runs shell lines as the packager, on the host with the packager's command."""
    host = lab.need_role("scm.client").name

    def run(script: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return command("exec", host, "--", "bash", "-euo", "pipefail", "-c", script, check=check)

    run("git config --global user.name Packager; git config --global user.email packager@goose.example")
    return run


@pytest.fixture(scope="module")
def name() -> str:
    """A package that no earlier run has built."""
    return f"scmtest{int(time.time())}"


def archive(name: str, version: str) -> str:
    """Shell lines that make an upstream archive in the current directory, the same bytes each time."""
    top = f"{name}-{version}"
    return (
        f"mkdir {top}; echo before >{top}/text; tar --sort=name --mtime=@0 --owner=0 --group=0 -cf - {top}"
        f" | gzip -n >{top}.tar.gz; rm -r {top}\n"
    )


def write(path: str, text: str) -> str:
    """A shell line that writes a file."""
    return f"printf %s {shlex.quote(text)} >{path}\n"


@pytest.fixture(scope="module")
def source_rpm(packager: Packager, lab: labs.Lab, name: str) -> Path:
    """A source RPM with an archive and a patch; its path as this machine sees it."""
    directory = f"/var/tmp/lab-tests/{name}"
    packager(
        f"mkdir -p {directory}; cd {directory}\n"
        + archive(name, "1.0")
        + write("fix.patch", PATCH)
        + write(f"{name}.spec", SPEC.format(name=name, version="1.0"))
        + f"rpmbuild --quiet -bs --define '_srcrpmdir {directory}' --define '_sourcedir {directory}' {name}.spec"
    )
    (found,) = (lab.need_role("scm.client").root / directory.lstrip("/")).glob("*.src.rpm")
    return found


@pytest.fixture(scope="module")
def built(command: Command, source_rpm: Path, name: str) -> dict[str, Any]:
    """The one row of `lab rebuild --from-scm`."""
    (row,) = command.json("rebuild", "--from-scm", str(source_rpm))["builds"]
    assert "error" not in row, row
    return dict(row)


def files_of(path: Path) -> dict[str, bytes]:
    """Name -> content, of a source RPM."""
    return {member.name: b"".join(blocks) for member, blocks in srpm.contents(srpm.read(path))}


def made_by_koji(koji: Client, nvr: str, directory: Path) -> Path:
    koji("download-build", "--arch=src", "--noprogress", nvr, cwd=directory)
    (found,) = directory.glob("*.src.rpm")
    return found


def test_built_from_git(built: dict[str, Any], hub: Hub, lab: labs.Lab, name: str) -> None:
    build = hub("getBuild", built["nvr"])
    assert BUILD_STATES[build["state"]] == "COMPLETE"
    request = hub("getTaskRequest", build["task_id"])[0]
    assert request.startswith(f"git+https://{lab.need_role('scm').fqdn}/git/rpms/{name}#")


def test_same_bytes(built: dict[str, Any], source_rpm: Path, koji: Client, tmp_path: Path) -> None:
    """What upstream signed and what somebody patched is what is built, and can be published as source."""
    assert files_of(made_by_koji(koji, built["nvr"], tmp_path)) == files_of(source_rpm)


def test_again_imports_and_builds_nothing(built: dict[str, Any], command: Command, source_rpm: Path) -> None:
    (row,) = command.json("rebuild", "--from-scm", str(source_rpm))["builds"]
    assert row["nvr"] == built["nvr"]
    assert row["seconds"] < 5


def test_samples_from_git(command: Command) -> None:
    """Real packages: upstream's archives, other people's patches."""
    builds = command.json("rebuild", "--from-scm")["builds"]
    assert len(builds) == 4
    assert [row for row in builds if "error" in row] == []


def test_a_packagers_day(
    built: dict[str, Any], packager: Packager, hub: Hub, koji: Client, name: str, tmp_path: Path, lab: labs.Lab
) -> None:
    """Clone, change the spec, a new archive, commit, push, build."""
    directory = "/var/tmp/lab-tests/clones"
    packager(f"rm -rf {directory}; mkdir -p {directory}; cd {directory}; goosepkg clone {name}")
    # That is a format of sha512sum too, which is somebody else's opinion of the hashes.
    packager(f"cd {directory}/{name}; goosepkg sources; sha512sum --check --quiet --strict sources")
    packager(
        f"cd {directory}/{name}\n"
        + archive(name, "1.1")
        + write(f"{name}.spec", SPEC.format(name=name, version="1.1"))
        + f"goosepkg new-sources {name}-1.1.tar.gz; goosepkg srpm; git commit --quiet --all --message 1.1; git push"
    )
    commit = packager(f"cd {directory}/{name}; git rev-parse HEAD").stdout.strip()
    done = packager(f"cd {directory}/{name}; goosepkg build", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (build,) = (each for each in hub("listBuilds", packageID=hub("getPackageID", name)) if each["version"] == "1.1")
    assert BUILD_STATES[build["state"]] == "COMPLETE"
    assert hub("getTaskRequest", build["task_id"])[0].endswith(f"#{commit}")
    local = lab.need_role("scm.client").root / directory.lstrip("/") / name
    made = files_of(made_by_koji(koji, build["nvr"], tmp_path))
    for file in (f"{name}-1.1.tar.gz", "fix.patch", f"{name}.spec"):
        assert made[file] == (local / file).read_bytes()


def test_somebody_elses_source_rpm(built: dict[str, Any], packager: Packager, name: str) -> None:
    """Imported over what is there, built on the packager's own host, and pushed with its archive."""
    directory = "/var/tmp/lab-tests/imported"
    packager(
        f"rm -rf {directory}; mkdir -p {directory}; cd {directory}\n"
        + archive(name, "3.0")
        + write("fix.patch", PATCH)
        + write(f"{name}.spec", SPEC.format(name=name, version="3.0"))
        + f"rpmbuild --quiet -bs --define '_srcrpmdir {directory}' --define '_sourcedir {directory}' {name}.spec\n"
        f"goosepkg clone {name}; cd {name}; goosepkg import --skip-diffs ../{name}-3.0-1.src.rpm\n"
        "goosepkg local; git commit --quiet --all --message 3.0; git push"
    )
    listing = packager(f"cd {directory}/{name}; ls noarch; git show --name-only --format= HEAD; cat sources").stdout
    assert f"{name}-3.0-1.el1.noarch.rpm" in listing
    assert f"SHA512 ({name}-3.0.tar.gz) = " in listing
    assert f"{name}.spec" in listing


def test_upload_that_its_server_does_not_end(
    built: dict[str, Any], packager: Packager, lab: labs.Lab, name: str
) -> None:
    """As where Apache reloads, which ends the program after some seconds: the packager is told, and need do nothing."""
    directory = "/var/tmp/lab-tests/again"
    packager(f"rm -rf {directory}; mkdir -p {directory}; cd {directory}; goosepkg clone {name}; truncate -s 400M big.tar")
    cache = lab.need_role("lookaside")
    store = cache.root / "var/lib/lookaside"
    sender = start_on(lab.need_role("scm.client"), "sh", "-c", f"cd {directory}/{name} && goosepkg upload ../big.tar")

    def comes_in() -> bool:
        return any(path.stat().st_size > 1 << 20 for path in (store / "incoming").iterdir())

    wait_for(comes_in, "the archive to come in", 60, pause=0.01)
    kill_uploads(cache)
    status, said = ended(sender)
    there = list((store / "archives/rpms" / name / "big.tar").rglob("big.tar"))
    assert status == 0, said
    assert "The operation will be retried" in said
    assert [path.stat().st_size for path in there if path.is_file()] == [400 << 20]
    cache.run(["rm", "-r", f"/var/lib/lookaside/archives/rpms/{name}/big.tar"])


def test_push_without_its_archive(built: dict[str, Any], packager: Packager, name: str) -> None:
    """Refused before anybody tries to build it, with the command that mends it."""
    directory = "/var/tmp/lab-tests/missing"
    script = (
        f"rm -rf {directory}; mkdir -p {directory}; cd {directory}; goosepkg clone {name}; cd {name}\n"
        f"printf 'SHA512 ({name}-2.0.tar.gz) = %0128d\\n' 7 >sources; git commit --quiet --all --message 2.0; git push"
    )
    done = packager(script, check=False)
    assert done.returncode != 0
    assert f"lacks {name}-2.0.tar.gz" in done.stderr
    assert f"goosepkg new-sources {name}-2.0.tar.gz" in done.stderr
    there = packager(f"cd {directory}/{name}; git ls-remote origin refs/heads/goose-1; git rev-parse HEAD").stdout.split()
    assert there[0] != there[-1], "nothing of a refused push stays"


def test_build_without_its_archive(
    built: dict[str, Any], packager: Packager, command: Command, hub: Hub, lab: labs.Lab, name: str
) -> None:
    """Where an archive is gone from the cache, the task says which, and no build root is asked for it."""
    scm = lab.need_role("scm")
    path = f"/var/lib/gitolite3/repositories/rpms/{name}.git"
    script = (
        f"cd {path}; blob=$(printf 'SHA512 (gone.tar) = %0128d\\n' 3 | git hash-object -w --stdin)"
        " && tree=$( { git ls-tree goose-1 | grep -v 'sources$'; printf '100644 blob %s\\tsources\\n' $blob; } | git mktree)"
        " && git -c user.name=t -c user.email=t@example.org commit-tree -m t -p goose-1 $tree"
    )
    commit = command.on(scm.name, "runuser", "-u", "gitolite3", "--", "sh", "-c", script).strip()
    # A branch, because a clone brings what a ref leads to.
    git = ["runuser", "-u", "gitolite3", "--", "git", "-C", path]
    command.on(scm.name, *git, "update-ref", "refs/heads/gone", commit)
    try:
        url = f"git+https://{scm.fqdn}/git/rpms/{name}#{commit}"
        told = packager(f"koji build --nowait --noprogress goose-1 {url}").stdout
        task = int(told.split("Created task:")[1].split()[0])
        assert hub.wait_for_task(task) == "FAILED"
        failed = packager(f"koji watch-task {task}; koji taskinfo -v -r {task}; true", check=False)
        assert "does not hold gone.tar" in failed.stdout + failed.stderr
    finally:
        # lookaside_fsck.py rightly complains for as long as any commit names it.
        command.on(scm.name, *git, "update-ref", "-d", "refs/heads/gone")
        command.on(scm.name, *git, "prune", "--expire=now")


def test_other_places_are_not_built_from(packager: Packager, hub: Hub) -> None:
    """A builder runs what it checks out: not from anywhere."""
    told = packager("koji build --nowait --noprogress goose-1 git+https://elsewhere.example/git/rpms/bash#HEAD").stdout
    assert hub.wait_for_task(int(told.split("Created task:")[1].split()[0])) == "FAILED"


def test_a_typing_mistake_makes_no_repository(packager: Packager, command: Command, lab: labs.Lab) -> None:
    assert packager("cd /var/tmp; goosepkg clone no-such-package-here", check=False).returncode != 0
    listing = command.on(lab.need_role("scm").name, "ls", "/var/lib/gitolite3/repositories/rpms")
    assert "no-such-package-here" not in listing


def test_one_apply_repairs_the_scm(command: Command, lab: labs.Lab, built: dict[str, Any], name: str) -> None:
    """Rules, keys, hooks: what somebody broke by hand is as pillar says after an apply."""
    scm = lab.need_role("scm")
    home = "/var/lib/gitolite3"
    command.on(
        scm.name, "sh", "-c",
        f"echo 'repo @all' >{home}/.gitolite/conf/gitolite.conf; rm {home}/.gitolite/conf/gitolite.conf-compiled.pm"
        f" {home}/repositories/rpms/{name}.git/hooks/pre-receive /etc/gitolite3/gitolite.rc;"
        f" echo >{home}/.ssh/authorized_keys",
    )  # fmt: skip
    outcome = command.apply(scm.name)[scm.name]
    assert outcome["failed"] == 0
    assert outcome["changed"] >= 5
    assert command.apply(scm.name)[scm.name]["changed"] == 0
    command.on(scm.name, "test", "-x", f"{home}/repositories/rpms/{name}.git/hooks/pre-receive")
