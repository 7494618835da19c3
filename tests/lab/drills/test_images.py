"""Image tasks, all the way but for the tools: no Debian has livecd-creator and its kin.

Their place in the build roots is taken by programs that this drill builds and tags: each insists on the
options that kojid gives the real one, and leaves behind what that leaves. All else is as in production:
groups, channels, kickstarts from git and from pillar, Koji's repository in the kickstart, the import.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import TREE
from estate import created
from goose.lab import lab as labs
from koji_client import Client, Hub

TOOLS = "lab-image-tools"
IMAGES = ("lab-live", "lab-media", "lab-cloud")
TARGET = "goose-1"

KICKSTART = """\
lang en_US.UTF-8
rootpw --lock
part / --size 1024 --fstype ext4 --ondisk sda
bootloader --append="quiet lab=yes"
repo --name=elsewhere --baseurl=https://elsewhere.example/os/
%packages
goose-release
%end
"""

# Words are taken as kojid 1.30 gives them. What a kickstart has to say by then: Koji's repository, no other.
_OPTIONS = """\
#!/bin/sh -eu
ks= log= cache= name= iso= results= output=
while [ $# -gt 0 ]; do
    case $1 in
        -c|--ks) ks=$2 ;;
        --logfile) log=$2 ;;
        --cache) cache=$2 ;;
        -f|--name) name=$2 ;;
        -o) output=$2 ;;
        --resultdir) results=$2 ;;
        --iso-name) iso=$2 ;;
        --project|--volid|--releasever|--version|--release|--extra-boot-args|--vmem|--vcpu|--format) ;;
        -d|-v|--no-virt|--make-iso|--iso-only|--macboot|--nomacboot) shift; continue ;;
        *) echo "no option $1 is known" >&2; exit 2 ;;
    esac
    shift 2
done
repositories=$(while read -r word rest; do if [ "$word" = repo ]; then echo "$rest"; fi; done <"$ks")
case $repositories in
    *elsewhere*) echo "the kickstart has another repository" >&2; exit 3 ;;
    *-build/*/x86_64) ;;
    *) echo "the kickstart has no repository of Koji's" >&2; exit 4 ;;
esac
mkdir -p "$(dirname "$log")"
cp "$ks" "$log"
"""

# Package -> program, and what it leaves.
PROGRAMS = {
    "livecd-tools": (
        "/usr/bin/livecd-creator",
        'mkdir -p "$cache/x"; cp {share}/*.rpm "$cache/x/"; cp {share}/medium.iso "$name.iso"',
    ),
    "appliance-tools": (
        "/usr/bin/appliance-creator",
        'mkdir -p "$cache/x" "$output"; cp {share}/*.rpm "$cache/x/"; cp {share}/medium.iso "$output/$name-sda.raw"',
    ),
    "lorax-lmc-novirt": (
        "/usr/sbin/livemedia-creator",
        'mkdir -p "$results"; cp {share}/medium.iso "$results/$iso"; ls / >"$(dirname "$log")/program.log"',
    ),
}


def spec(version: int, others: list[str], package: str) -> str:
    """Of the tools: a package for each name that the groups have and the lab has not."""
    share = f"/usr/share/{TOOLS}"
    lines = [
        f"Name: {TOOLS}", f"Version: {version}", "Release: 1%{?dist}", "Summary: Stands in for tools that make images",
        "License: MIT", "BuildArch: noarch", "Source0: medium.iso", f"Source1: {package}", "Source2: live.ks",
        "%description", "Stands in for tools that make images.", "%prep", "%build", "%install",
        f"mkdir -p %{{buildroot}}{share} %{{buildroot}}/usr/bin %{{buildroot}}/usr/sbin",
        f"cp %{{SOURCE0}} %{{SOURCE1}} %{{buildroot}}{share}",
    ]  # fmt: skip
    for program, body in PROGRAMS.values():
        lines += [f"cat >%{{buildroot}}{program} <<'END'", _OPTIONS + body.format(share=share), "END"]
        lines += [f"chmod 0755 %{{buildroot}}{program}"]
    for name in [*PROGRAMS, *others]:
        lines += [f"%package -n {name}", f"Summary: Stands in for {name}", f"Requires: {TOOLS}"]
        lines += [f"%description -n {name}", f"Stands in for {name}.", f"%files -n {name}"]
        lines += [PROGRAMS[name][0]] if name in PROGRAMS else []
    return "\n".join([*lines, "%files", share, ""])


def submitted(koji: Client, *words: str) -> int:
    return created(koji(words[0], "--nowait", "--noprogress", *words[1:]))


def of_image(hub: Hub, task: int, method: str) -> dict[str, Any]:
    """The one task that makes the image."""
    (child,) = hub.children(task, method)
    return child


def output(lab: labs.Lab, hub: Hub, task: int, name: str) -> bytes:
    """A file that a task has left, as anybody downloads it."""
    relative = f"tasks/{task % 10000}/{task}/{name}"
    return lab.get(f"https://{lab.need_role('koji.hub').fqdn}/kojifiles/work/{relative}")


def archives(hub: Hub, nvr: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = hub("listArchives", buildID=hub("getBuild", nvr)["id"], type="image")
    return found


@pytest.fixture(scope="module")
def missing() -> list[str]:
    """What the groups have and the lab's build root has not, as the state gives them."""
    groups = yaml.safe_load((TREE / "koji/defaults.yaml").read_text())["image"]["groups"]
    return sorted({name for packages in groups.values() for name in packages} - {"bash", "coreutils"})


@pytest.fixture(scope="module")
def local(lab: labs.Lab) -> str:
    """A kickstart of pillar, where the role koji.client has put it; in a place that this machine reads."""
    return str(lab.need_role("koji.client").root / "etc/goose/kickstarts/example.ks")


@pytest.fixture(scope="module")
def builder(lab: labs.Lab) -> str:
    return lab.need_role("koji.image").fqdn


def test_tools_are_missing(lab: labs.Lab, hub: Hub, koji: Client, local: str, builder: str) -> None:
    """As the lab is: the tasks are taken, by the right builder, and say what is not there."""
    task = submitted(koji, "spin-livecd", "--scratch", "lab-live", "1", TARGET, "x86_64", local)
    assert hub.wait_for_task(task) == "FAILED"
    child = of_image(hub, task, "createLiveCD")
    assert child["host"] == builder
    assert "livecd-tools" in output(lab, hub, child["id"], "root.log").decode()


@pytest.fixture(scope="module")
def source(lab: labs.Lab, hub: Hub, koji: Client, missing: list[str]) -> Iterator[str]:
    """Tools and kickstart are in git, and the tools in the build root; the repository at its commit."""
    host, pungi = lab.need_role("scm.client"), lab.need_role("pungi")
    directory = f"/var/tmp/lab-tests/{TOOLS}"
    host.run(["sh", "-c", f"rm -rf {directory}; mkdir -p {directory}"])
    pungi.run(["sh", "-c", f"rm -rf {directory}; mkdir -p {directory}; cp /etc/os-release {directory}"])
    pungi.run(["xorrisofs", "-quiet", "-V", "LAB", "-o", f"{directory}/medium.iso", f"{directory}/os-release"])
    here = host.root / directory.lstrip("/")
    (here / "medium.iso").write_bytes((pungi.root / directory.lstrip("/") / "medium.iso").read_bytes())
    # An image's list of packages names what Koji has.
    (release,) = hub("listTagged", TARGET, package="goose-release", latest=True, inherit=True)
    koji("download-build", "--arch=noarch", "--noprogress", release["nvr"], cwd=here)
    (package,) = (path.name for path in here.glob("goose-release-*.noarch.rpm"))
    (here / "live.ks").write_text(KICKSTART)
    version = int(time.time())
    others = [name for name in missing if name not in PROGRAMS]
    (here / f"{TOOLS}.spec").write_text(spec(version, others, package))
    defines = ["--define", f"_srcrpmdir {directory}", "--define", f"_sourcedir {directory}"]
    host.run(["rpmbuild", "--quiet", "-bs", *defines, f"{directory}/{TOOLS}.spec"])
    (srpm,) = here.glob("*.src.rpm")
    told = host.run(["/srv/salt/scripts/srpm_import.py", "--json", f"{directory}/{srpm.name}"]).stdout
    commit = re.findall(r"\b[0-9a-f]{40}\b", told)[-1]
    url = f"git+https://{lab.need_role('scm').fqdn}/git/rpms/{TOOLS}#{commit}"

    koji("add-pkg", "--force", "--owner=kojiadmin", f"{TARGET}-release", TOOLS, *IMAGES)
    task = submitted(koji, "build", TARGET, url)
    assert hub.wait_for_task(task) == "CLOSED"
    (build,) = hub("listBuilds", taskID=task)
    try:
        # The client's own patience ends before a repository's.
        wait = ["wait-repo", f"{TARGET}-build", f"--build={build['nvr']}", "--timeout=2"]
        assert any(koji.run(*wait).returncode == 0 for _ in range(4)), "Koji made no repository with the tools"
        yield url
    finally:
        # Nobody else builds with these.
        koji("untag-build", TARGET, build["nvr"])


def test_live_medium_from_git(source: str, lab: labs.Lab, hub: Hub, koji: Client, builder: str) -> None:
    """A build of Koji, tagged, whose medium and list of packages are what the tool has left."""
    release = str(int(time.time()))
    words = [f"--ksurl={source}", f"--release={release}", "lab-live", "1", TARGET, "x86_64", "live.ks"]
    task = submitted(koji, "spin-livecd", *words)
    assert hub.wait_for_task(task) == "CLOSED"
    child = of_image(hub, task, "createLiveCD")
    assert child["host"] == builder
    assert hub("getChannel", child["channel_id"])["name"] == "livecd"
    nvr = f"lab-live-1-{release}"
    assert nvr in {build["nvr"] for build in hub("listTagged", TARGET, package="lab-live")}
    (archive,) = archives(hub, nvr)
    built = lab.record.root / f"volumes/koji/packages/lab-live/1/{release}"
    content = (built / "images" / archive["filename"]).read_bytes()
    medium = lab.need_role("scm.client").root / f"var/tmp/lab-tests/{TOOLS}/medium.iso"
    assert content == medium.read_bytes()
    assert len(content) == archive["size"]
    kind = ("md5", "sha1", "sha256")[archive["checksum_type"]]
    assert hashlib.new(kind, content).hexdigest() == archive["checksum"]
    assert [rpm["name"] for rpm in hub("listRPMs", imageID=archive["id"])] == ["goose-release"]
    # The manifest names the medium's one file, the log is the kickstart as the tool had it.
    logs = built / "data/logs/image"
    assert "OS_RELEASE" in (logs / "manifest.log").read_text().upper().replace("-", "_")
    assert f"/repos/{TARGET}-build/" in (logs / "livecd.log").read_text()


def test_live_media(source: str, hub: Hub, koji: Client, builder: str, lab: labs.Lab) -> None:
    """livemedia-creator's way, with an install tree; a build, too."""
    release = str(int(time.time()))
    tree = f"https://{lab.need_role('pungi').fqdn}/compose/latest"
    words = [f"--ksurl={source}", f"--release={release}", f"--install-tree-url={tree}"]
    task = submitted(koji, "spin-livemedia", *words, "lab-media", "1", TARGET, "x86_64", "live.ks")
    assert hub.wait_for_task(task) == "CLOSED"
    child = of_image(hub, task, "createLiveMedia")
    assert child["host"] == builder
    (archive,) = archives(hub, f"lab-media-1-{release}")
    assert archive["filename"] == f"lab-media-x86_64-1-{release}.iso"
    logs = lab.record.root / f"volumes/koji/packages/lab-media/1/{release}/data/logs/image/x86_64"
    assert f'url --url="{tree}"' in (logs / "livemedia-out.log").read_text()


def test_appliance_from_pillar(source: str, lab: labs.Lab, hub: Hub, koji: Client, local: str, builder: str) -> None:
    """A scratch image, of a kickstart that pillar has."""
    words = ["--scratch", "--release=1", "lab-cloud", "1", TARGET, "x86_64", local]
    task = submitted(koji, "spin-appliance", *words)
    assert hub.wait_for_task(task) == "CLOSED"
    child = of_image(hub, task, "createAppliance")
    assert child["host"] == builder
    said = output(lab, hub, child["id"], "appliance.log").decode()
    assert f"/repos/{TARGET}-build/" in said


def test_wrong_kickstart(source: str, hub: Hub, koji: Client, tmp_path: Path) -> None:
    """The task says which line."""
    wrong = tmp_path / "wrong.ks"
    wrong.write_text(KICKSTART.replace("rootpw --lock", "rootpw --lick"))
    task = submitted(koji, "spin-livecd", "--scratch", "lab-live", "1", TARGET, "x86_64", str(wrong))
    assert hub.wait_for_task(task) == "FAILED"
    said = koji.run("watch-task", str(task)).stdout
    assert "occurred on line 2 of the kickstart file" in said
    assert "rootpw" in said


def test_unpermitted(lab: labs.Lab) -> None:
    """Koji asks for the permission of the image's kind; the one who signs has none of them."""
    host = lab.need_role("sigul.client")
    kickstart = "/var/tmp/live.ks"
    (host.root / kickstart.lstrip("/")).write_text(KICKSTART)
    koji = ["koji", "--config=/etc/goose/signing/koji.conf", "--profile=goose"]
    words = ["spin-livecd", "--scratch", "--nowait", "--noprogress", "lab-live", "1", TARGET, "x86_64", kickstart]
    done = host.run([*koji, *words], check=False)
    assert done.returncode != 0
    assert "livecd permission required" in done.stdout + done.stderr
