"""mash_repo.py on real RPMs, with real signatures and metadata; the hub alone is a double."""

from __future__ import annotations

import copy
import gzip
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import createrepo_c
import pytest

import mash_doubles
from goose import mash, mash_dist_repo, mash_multilib, mash_records
from mash_doubles import HELPER, LIBFOO, SITE, Build, Hub, Keys, Place, Sub, rpmbuild

PROGRAM = Path(__file__).resolve().parents[2] / "scripts/mash_repo.py"


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    # Not below pytest's directories: the agent's socket has a short path.
    found = Keys(Path("/tmp") / f"goose-mash-keys-{os.getpid()}")
    found.make("goose")
    found.make("old")
    yield found
    found.end()
    # The agent, told to end, removes its sockets in its own time.
    shutil.rmtree(found.home, ignore_errors=True)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """The RPMs of all tests, by their build."""
    later = [replace(LIBFOO, release="2.el9"), replace(HELPER, subs=HELPER.subs[:2], release="2.el9")]
    return rpmbuild(tmp_path_factory.mktemp("rpms"), [*SITE, *later, TWICE, BROKEN, DEBUG])


TWICE = Build("libfoo2", [Sub("libfoo-doc", ["/usr/share/doc/libfoo2/README"], noarch=True)], version="2.0",
              targets=["x86_64"])  # fmt: skip
BROKEN = Build("broken", [Sub("broken", requires=["libnowhere.so.7", "/nowhere", "(gcc and nowhere)"])], targets=["x86_64"])
DEBUG = Build("kernel", [
    Sub("kernel", ["/boot/vmlinuz"], provides=["kernel = 1.0"]),
    Sub("kernel-devel", ["/usr/src/kernels/Makefile"], provides=["kernel-devel = 1.0"]),
    Sub("kernel-headers-devel", ["/usr/include/linux.h"], provides=["glibc-kernheaders"]),
])  # fmt: skip


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, keys: Keys, made: dict[str, list[Path]]) -> Place:
    top = tmp_path_factory.mktemp("place")
    hub = Hub(top / "koji")
    place = Place(top, hub, keys)
    hub.tag("goose-1-release")
    hub.tag("goose-1", "goose-1-release")
    for build in SITE:
        place.builds[build.nvr] = hub.add(build, made[build.nvr])
    hub.sign(keys, "goose", list(place.builds.values()))
    return place


@pytest.fixture
def place(template: Place, tmp_path: Path, keys: Keys) -> Place:
    """A hub with the builds of `SITE`, signed, in the tag's parent and in the tag."""
    shutil.copytree(template.top / "koji", tmp_path / "koji", copy_function=os.link)
    hub = copy.deepcopy(template.hub)
    hub.top = tmp_path / "koji"
    hub.paths = mash_doubles.koji.PathInfo(str(hub.top))
    found = Place(tmp_path, hub, keys, dict(template.builds))
    for number, build in enumerate(found.builds.values()):
        hub.change("goose-1-release" if number else "goose-1", build)
    keys.export("goose", tmp_path / "keys")
    found.configure()
    return found


@pytest.fixture
def run(place: Place, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run the program in this process; the report of the mash, what it said added."""

    def found(*words: str, status: int = 0, names: Sequence[str] = ("goose-1",)) -> Any:
        handler = signal.getsignal(signal.SIGTERM)
        arguments = [*names, "--config", str(place.top / "mash"), "--json", *words]
        try:
            code = mash.main(arguments, connect=lambda site: place.hub.session())
        finally:
            signal.signal(signal.SIGTERM, handler)
        said = capsys.readouterr()
        assert code == status, said.err
        report = json.loads(said.out)["mashes"][0] if said.out else {}
        return {**report, "stderr": said.err}

    return found


def test_a_tag_becomes_repositories(place: Place, run: Callable[..., Any]) -> None:
    """Trees, links, keys, and why each package is there."""
    report = run()
    assert report["result"] == "published"
    assert place.nevras() == ["helper-data.noarch", "helper-tools.x86_64", "helper.i686", "helper.x86_64",
                              "libfoo-devel.i686", "libfoo-devel.x86_64", "libfoo-doc.noarch", "libfoo.i686",
                              "libfoo.x86_64", "only.noarch"]  # fmt: skip
    assert place.nevras("i386") == ["helper-data.noarch", "helper-tools.i686", "helper.i686", "libfoo-devel.i686",
                                    "libfoo-doc.noarch", "libfoo.i686"]  # fmt: skip
    assert place.nevras("x86_64-debug") == ["libfoo-debuginfo.x86_64"]
    assert place.nevras("i386-debug") == ["libfoo-debuginfo.i686"]
    assert place.nevras("source") == ["helper.src", "libfoo.src", "only.src"]
    path = place.link / "x86_64/os/Packages/libfoo-1.0-1.el9.i686.rpm"
    assert path.samefile(place.hub.path(place.hub.row("libfoo-1.0-1.el9.i686"), place.keys.ids["goose"]))
    assert place.hub.calls.count("listTaggedRPMS") == 1


def test_why(run: Callable[..., Any]) -> None:
    """--explain names the rule, or who needs it."""

    def why(text: str) -> str:
        return "\n".join(run("--explain", text)["explained"])

    assert "is in x86_64: multilib by devel: runtime: the library /usr/lib/libfoo.so.1." in why("libfoo-1.0-1.el9.i686")
    assert "is in x86_64: multilib by devel: its name ends in -devel." in why("libfoo-devel.i686")
    assert "is in x86_64: pulled in by libfoo-1.0-1.el9.i686, which requires helper(x86-32)." in why("helper.i686")
    assert "is not in x86_64: multilib by devel: neither" in why("helper-tools.i686")
    assert "no package in the tree needs it" in why("helper-tools.i686")
    assert "is in i386: native." in why("helper-tools.i686")
    assert "is not in i386: its source RPM excludes i686 (ExcludeArch)." in why("only")
    assert "debuginfo does not come in beside" in why("libfoo-debuginfo.i686")
    assert "is not in i386: x86_64 does not run on i386." in why("libfoo.x86_64")
    assert "has no nobody" in run("--explain", "nobody", status=2)["error"]


def test_again_changes_nothing(place: Place, run: Callable[..., Any]) -> None:
    run()
    before = place.link.readlink()
    place.hub.event += 5
    report = run()
    assert (report["result"], place.link.readlink()) == ("unchanged", before)


def test_dry_run_tells_and_writes_nothing(place: Place, run: Callable[..., Any], made: dict[str, list[Path]]) -> None:
    report = run("--dry-run")
    assert len(report["added"]) == 21 and not place.output.exists()
    run()
    before = place.link.readlink()
    helper = place.hub.add(replace(HELPER, release="2.el9"), made["helper-1.0-2.el9"])
    place.hub.sign(place.keys, "goose", [helper])
    place.hub.change("goose-1", helper)
    report = run("--dry-run")
    assert report["result"] == "would-publish"
    assert "x86_64: helper-1.0-2.el9.x86_64" in report["added"]
    assert "x86_64: helper-1.0-1.el9.x86_64" in report["removed"]
    assert "x86_64: helper-tools-1.0-1.el9.x86_64" in report["removed"]
    assert place.link.readlink() == before
    assert run()["removed"] == report["removed"]


def test_a_tag_at_an_event(place: Place, run: Callable[..., Any]) -> None:
    """What came and went since does not show."""
    event = place.hub.event
    place.hub.change("goose-1-release", place.builds["helper-1.0-1.el9"], tagged=False)
    assert "broken-deps" in run(status=1)["refused"][0]
    run("--event", str(event))
    assert "helper.x86_64" in place.nevras()


def test_resigned(place: Place, run: Callable[..., Any]) -> None:
    """The earliest key in `keys` wins; the other copies are taken as soon as keys say so."""
    place.hub.sign(place.keys, "old", list(place.builds.values()))
    place.configure(keys=f"{place.keys.ids['old']} goose")
    run()
    path = place.link / "x86_64/os/Packages/libfoo-1.0-1.el9.i686.rpm"
    assert mash_records.key_of(mash_doubles.koji.get_rpm_header(str(path))) == place.keys.ids["old"]
    place.configure(keys="goose")
    assert len(run()["resigned"]) == 21
    assert mash_records.key_of(mash_doubles.koji.get_rpm_header(str(path))) == place.keys.ids["goose"]


def test_two_repositories_in_one_run(place: Place, run: Callable[..., Any]) -> None:
    place.configure("other", keys=None, multilib=False, source=False, hash_packages=True, debuginfo=False)
    report = run(names=["other", "goose-1"])
    assert "no keys are named" in report["warnings"][0]
    assert (place.output / "other/x86_64/os/Packages/l/libfoo-1.0-1.el9.x86_64.rpm").exists()
    assert place.link.is_symlink() and not (place.output / "other/source").exists()
    place.configure("other", tag="nosuch")
    assert "no tag nosuch" in run(names=["other", "goose-1"], status=1)["error"]


# The gate


def test_unsigned_is_refused(place: Place, run: Callable[..., Any], made: dict[str, list[Path]]) -> None:
    run()
    before = place.link.readlink()
    place.hub.change("goose-1", place.hub.add(replace(LIBFOO, release="2.el9"), made["libfoo-1.0-2.el9"]))
    report = run(status=1)
    assert report["result"] == "refused"
    assert "unsigned: libfoo-1.0-2.el9.i686 is signed by nobody." in report["refused"]
    assert "--allow unsigned" in report["stderr"]
    assert place.link.readlink() == before
    assert "unsigned: libfoo" in run("--allow", "unsigned:bash", status=1)["refused"][0]
    report = run("--allow", "unsigned:libfoo")
    assert report["result"] == "published" and len(report["allowed"]) == 8
    place.configure(strict_keys=False)
    assert run()["resigned"] == []


def test_two_versions_are_refused(place: Place, run: Callable[..., Any], made: dict[str, list[Path]]) -> None:
    """As when a subpackage moves to another source package, and the old one stays in the tag."""
    number = place.hub.add(TWICE, made[TWICE.nvr])
    place.hub.sign(place.keys, "goose", [number])
    place.hub.change("goose-1", number)
    report = run(status=1)
    (refused,) = report["refused"]
    assert refused == (
        "duplicates: libfoo-doc-1.0-1.el9.noarch and libfoo-doc-2.0-1.el9.noarch are in the tag at once, from the"
        " packages libfoo, libfoo2."
    )
    run("--allow", "duplicates")
    assert {"libfoo-doc.noarch", "libfoo-doc-2.0-1.el9.noarch"} <= set(place.nevras())


def test_a_broken_closure_is_refused(place: Place, run: Callable[..., Any], made: dict[str, list[Path]]) -> None:
    number = place.hub.add(BROKEN, made[BROKEN.nvr])
    place.hub.sign(place.keys, "goose", [number])
    place.hub.change("goose-1", number)
    report = run(status=1)
    needs = ["libnowhere.so.7", "/nowhere", "(gcc and nowhere)"]
    assert sorted(report["refused"]) == sorted(
        f"broken-deps: x86_64: broken-1.0-1.el9.x86_64 requires {text}, which nothing provides." for text in needs
    )
    assert not place.link.exists()
    place.configure(allow="broken-deps:broken")
    assert run()["result"] == "published"


def test_parents_count(place: Place, run: Callable[..., Any], made: dict[str, list[Path]], tmp_path: Path) -> None:
    """What a repository beside provides is not missed; its files, too."""
    run()
    place.configure("layer", tag="goose-1-layer", inherit=False, arches="x86_64", multilib=False,
                    parent_repos=f"{place.output}/goose-1/%(arch)s/os")  # fmt: skip
    place.hub.tag("goose-1-layer")
    place.hub.change("goose-1-layer", place.builds["libfoo-1.0-1.el9"])
    report = run(names=["layer"])
    assert report["trees"]["x86_64"]["rpms"] == 3
    place.configure("layer", tag="goose-1-layer", inherit=False, arches="x86_64", multilib=False)
    assert "requires /usr/share/helper/data" in str(run(names=["layer"], status=1)["refused"])
    place.configure("layer", tag="goose-1-layer", arches="x86_64", parent_repos="/nowhere")
    assert "parent_repos: file:///nowhere/repodata/repomd.xml cannot be read" in run(names=["layer"], status=5)["error"]


# What people and tools see


def test_other_tools_agree(place: Place, run: Callable[..., Any], tmp_path: Path) -> None:
    """createrepo_c makes the same of the same files; dnf finds nothing that is missing."""
    run()
    top = place.link / "x86_64/os"

    def read(directory: Path) -> dict[str, tuple[Any, ...]]:
        found = createrepo_c.Metadata()
        found.locate_and_load_xml(str(directory))
        packages = [found.get(key) for key in found.keys()]  # noqa: SIM118 - no mapping
        return {package.nevra(): (package.pkgId, package.requires, package.provides, package.files, package.changelogs,
                                  package.location_href, package.time_file) for package in packages}  # fmt: skip

    ours = read(top)
    theirs = tmp_path / "theirs"
    shutil.copytree(top, theirs, ignore=shutil.ignore_patterns("repodata"))
    subprocess.run(["createrepo_c", "--quiet", str(theirs)], check=True)
    assert ours == read(theirs) and len(ours) == 10
    command = ["dnf", "--quiet", f"--repofrompath=ours,{top}", "--repo=ours", f"--setopt=cachedir={tmp_path}/dnf",
               "repoclosure"]  # fmt: skip
    if shutil.which("dnf"):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        # It knows no conditions: what they would need is told as missing.
        missing = [line.strip() for line in done.stdout.splitlines() if line.startswith("    ")]
        assert set(missing) <= {"(nobody if nowhere)"}, done.stdout + done.stderr


def test_same_input_same_bytes(place: Place, run: Callable[..., Any]) -> None:
    run()
    other = place.output.with_name("other")
    run("--output", str(other))
    for path in sorted(place.link.rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (other / "goose-1" / path.relative_to(place.link)).read_bytes(), path


def test_comps_updateinfo_tags_and_signature(place: Place, run: Callable[..., Any]) -> None:
    """All that the metadata may hold beside packages, and what dnf makes of it."""
    comps = "<comps><group><id>core</id><name>Core</name><uservisible>true</uservisible></group></comps>"
    for name, text in (("comps.xml", comps), ("updateinfo.xml", "<updates/>")):
        (place.top / name).write_text(text)
    sign = f"gpg --batch --quiet --homedir {place.keys.home} --local-user goose@example.org --armor --detach-sign"
    sign += " --output {asc} {repomd}"
    place.configure(compsfile=place.top / "comps.xml", updateinfo=place.top / "updateinfo.xml", content_tags="binary",
                    distro_tags="cpe:/o:goose:1,GoOSe 1", repomd_sign=sign)  # fmt: skip
    run()
    repodata = place.link / "x86_64/os/repodata"
    repomd = createrepo_c.Repomd(str(repodata / "repomd.xml"))
    records = {record.type: record for record in repomd.records}
    assert set(records) == {"primary", "filelists", "other", "group", "updateinfo"}
    assert repomd.content_tags == ["binary"] and repomd.distro_tags == [("cpe:/o:goose:1", "GoOSe 1")]
    assert (place.link / "x86_64/os" / records["group"].location_href).read_text() == comps
    assert gzip.decompress((place.link / "x86_64/os" / records["updateinfo"].location_href).read_bytes()) == b"<updates/>"
    place.keys.gpg("--verify", str(repodata / "repomd.xml.asc"), str(repodata / "repomd.xml"))
    place.configure(repomd_sign="false {repomd}")
    assert "repomd_sign (false) failed with status 1" in run(status=5)["error"]
    place.configure(repomd_sign="true")
    assert "made no armored signature" in run(status=5)["error"]


def test_zstd(place: Place, run: Callable[..., Any]) -> None:
    place.configure(defaults={"compress_type": "zstd"})
    run()
    (path,) = (place.link / "x86_64/os/repodata").glob("*-primary.xml.zst")
    done = subprocess.run(["zstd", "--decompress", "--stdout", str(path)], capture_output=True, check=True)
    assert done.stdout.count(b"<package ") == 10


def test_generations(place: Place, run: Callable[..., Any]) -> None:
    """As many as `keep` says stay, the published one is never among those that go; copies are linked again."""
    place.configure(defaults={"keep": 2})
    seen = []
    for number in range(4):
        place.configure(defaults={"keep": 2}, content_tags=f"t{number}")
        run()
        seen.append(place.link.readlink().name)
    base = place.output / ".mash/goose-1"
    assert sorted(path.name for path in base.iterdir()) == [*seen[-2:], "lock"]
    one, other = (base / name / "i386/os/Packages/libfoo-1.0-1.el9.i686.rpm" for name in seen[-2:])
    assert one.samefile(other)


def test_a_damaged_publication_is_made_anew(place: Place, run: Callable[..., Any]) -> None:
    run()
    paths = ("x86_64/os/repodata/repomd.xml", "x86_64/os/Packages/libfoo-1.0-1.el9.i686.rpm", "mash.json")
    for number, path in enumerate(paths):
        before = place.link.readlink()
        (place.link / path).unlink()
        assert run()["result"] == "published", number
        assert place.link.readlink() != before and (place.link / path).exists()


def test_what_is_not_ours_stays(place: Place, run: Callable[..., Any]) -> None:
    (place.output / "goose-1").mkdir(parents=True)
    assert "move it away" in run(status=5)["error"]
    (place.output / "goose-1").rmdir()
    (place.output / "goose-1").symlink_to("/tmp")
    assert "which this program has not made" in run(status=5)["error"]


# What goes wrong


def test_a_signed_copy_is_missing(place: Place, run: Callable[..., Any]) -> None:
    run()
    before = place.link.readlink()
    row = place.hub.row("libfoo-1.0-1.el9.i686")
    path = place.hub.path(row, place.keys.ids["goose"])
    hidden = path.rename(path.with_name("hidden"))
    error = run(status=5)["error"]
    assert error == (
        f"libfoo-1.0-1.el9.i686: its copy signed by {place.keys.ids['goose']} is missing ({path}):"
        " sigulsign_unsigned.py --just-write KEY libfoo-1.0-1.el9 writes it, with the name of that key."
    )
    assert place.link.readlink() == before
    hidden.rename(path)
    assert run()["result"] == "unchanged"


@pytest.mark.parametrize("damage", ["flip", "cut", "text", "signature", "other key", "unsigned"])
def test_a_corrupt_rpm(place: Place, run: Callable[..., Any], damage: str) -> None:
    """Found whatever part of the file it is, and by whatever key the wrong one is signed."""
    row = place.hub.row("libfoo-1.0-1.el9.i686")
    path = place.hub.path(row, place.keys.ids["goose"])
    good, data = path.read_bytes(), bytearray(path.read_bytes())
    path.unlink()
    if damage == "flip":
        data[-20] ^= 1
    elif damage == "cut":
        del data[len(data) // 2 :]
    elif damage == "signature":
        # Right behind the lead.
        data[96] ^= 1
    elif damage == "unsigned":
        data = bytearray(place.hub.path(row).read_bytes())
    path.write_bytes(b"no RPM\n" if damage == "text" else data)
    if damage == "other key":
        place.keys.sign("old", [path])
    error = run(status=5)["error"]
    assert error.startswith("libfoo-1.0-1.el9.i686: ") and str(path) in error
    assert {"other key": "is signed by", "unsigned": "is not signed"}.get(damage, "is damaged") in error
    assert "\n" not in error and not place.link.exists()
    path.write_bytes(good)
    assert run()["result"] == "published"


def test_the_hub_is_gone(place: Place, run: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Before, and in the middle."""
    run()
    before = place.link.readlink()
    assert mash.main(["goose-1", "--config", str(place.top / "mash")]) == 4
    assert "nothing listens there" in capsys.readouterr().err

    def fails(*_: Any, **__: Any) -> None:
        raise ConnectionError("Connection reset by peer")

    for method in ("getLastEvent", "tagChangedSinceEvent", "listTaggedRPMS"):
        setattr(place.hub, f"do_{method}", fails)
        words = ["--event", str(place.hub.event)] if method == "listTaggedRPMS" else []
        assert "gives no answer (Connection reset by peer)" in run(*words, status=4)["error"]
        delattr(place.hub, f"do_{method}")
    assert run()["result"] == "unchanged"
    assert place.link.readlink() == before


def test_over_the_network(place: Place) -> None:
    """The program and koji's own client."""
    with mash_doubles.serving(place.hub) as place.url:
        place.configure()
        command = [sys.executable, "-B", str(PROGRAM), "goose-1", "--config", str(place.top / "mash")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert f"goose-1: {place.link} is published at event {place.hub.event}" in done.stdout
        place.configure(tag="nosuch")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 4 and "Koji has no tag nosuch" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system is mounted")
def test_the_disk_is_full(place: Place, run: Callable[..., Any]) -> None:
    """At the RPM that does not fit, and at the metadata; what is published stays whole."""
    place.output.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place.output)], check=True)
    try:
        place.configure(arches="x86_64", source=False, debuginfo=False)
        run()
        before = place.link.readlink()
        fill = place.output / "fill"
        place.configure(arches="x86_64", source=True, debuginfo=False)
        for left in (0, 8192, 40960):
            with fill.open("wb") as stream:
                free = os.statvfs(place.output)
                stream.write(bytes(free.f_bavail * free.f_frsize - left))
            error = run(status=5)["error"]
            assert "No space left" in error, error
            assert place.link.readlink() == before
            fill.unlink()
        assert "libfoo.src" not in str(json.loads((place.link / "mash.json").read_text()))
        assert run()["result"] == "published"
    finally:
        subprocess.run(["umount", str(place.output)], check=True)


def test_two_runs_do_not_meet(place: Place, run: Callable[..., Any]) -> None:
    with mash.Published(place.output, "goose-1").alone():
        assert "another run makes" in run(status=75)["error"]
        assert run("--dry-run")["result"] == "would-publish"


def _killed(place: Place, at: int) -> tuple[int, int]:
    """Run in a child that is killed at its ``at``-th step at the file system; exit status, and the steps that it took."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        steps = 0
        wanted = ("open", "os.link", "os.rename", "os.mkdir", "os.symlink", "os.remove", "os.rmdir", "os.chmod",
                  "subprocess.Popen", "shutil.rmtree", "os.utime", "fcntl.flock")  # fmt: skip

        def step(event: str, words: Any) -> None:
            nonlocal steps
            if event in wanted and not (event == "open" and str(words[0]).endswith((".py", ".pyc", ".so"))):
                steps += 1
                if steps == at:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.stdout = sys.stderr = io.StringIO()
            sys.addaudithook(step)
            status = mash.main(["goose-1", "--config", str(place.top / "mash")], connect=lambda site: place.hub.session())
            os.write(write, str(steps).encode())
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as stream:
        told = stream.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), int(told or 0)


def test_killed_at_twenty_points(place: Place, run: Callable[..., Any], made: dict[str, list[Path]]) -> None:
    """The published repository is the old one or the new one, whole; the next run completes, and sweeps."""
    run()
    old = place.nevras()
    number = place.hub.add(replace(LIBFOO, release="2.el9"), made["libfoo-1.0-2.el9"])
    place.hub.sign(place.keys, "goose", [number])
    place.hub.change("goose-1", number)
    saved = place.top / "saved"
    for name in ("repos", "cache"):
        shutil.copytree(place.top / name, saved / name, symlinks=True)

    def reset() -> None:
        for name in ("repos", "cache"):
            shutil.rmtree(place.top / name)
            shutil.copytree(saved / name, place.top / name, symlinks=True)

    reset()
    code, steps = _killed(place, 0)
    assert code == 0 and steps > 100
    new = place.nevras()
    assert new != old
    killed = 0
    for point in range(20):
        reset()
        code, _ = _killed(place, 1 + point * (steps - 1) // 19)
        killed += code == -signal.SIGKILL
        published = mash.Published(place.output, "goose-1")
        assert place.nevras() in (old, new), point
        assert published.whole(published.manifest()), point
        assert run()["result"] in ("published", "unchanged"), point
        assert place.nevras() == new
        assert not list(published.base.glob("staging*")) and not list(published.base.glob("link*"))
        assert len(published.generations()) == 2, point
    assert killed == 20


def test_a_damaged_cache_is_made_anew(place: Place, run: Callable[..., Any]) -> None:
    run()
    (path,) = (place.top / "cache").glob("*.sqlite")
    path.write_bytes(b"no database" * 1000)
    place.configure(content_tags="x")
    assert run()["result"] == "published"


# dist-repo


def test_dist_repo(place: Place, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub gets what `koji dist-repo` would send; the gate is the same."""
    monkeypatch.setattr(mash_dist_repo, "_PAUSE", 0)
    (place.top / "comps.xml").write_text("<comps/>")
    place.configure(compsfile=place.top / "comps.xml")
    report = run("--engine", "dist-repo")
    (task,) = place.hub.tasks
    tag, repo, keys, options = place.hub.tasks[task]["request"]
    assert (report["task"], report["path"]) == (task, place.hub.paths.distrepo(repo, tag))
    assert keys == [place.keys.ids["goose"]]
    assert sorted(options["arch"]) == ["i686", "src", "x86_64"]
    assert options["event"] == place.hub.event and options["inherit"] and options["latest"]
    assert not options["allow_missing_signatures"] and not options["skip_missing_signatures"]
    assert place.hub.uploads[options["comps"]] == b"<comps/>"
    assert b"[runtime]" in place.hub.uploads[options["multilib"]]
    place.hub.fails = "Unable to create dist repo"
    assert "Unable to create dist repo" in run("--engine", "dist-repo", status=4)["error"]
    place.configure(keys="ffffffff")
    assert "unsigned: " in run("--engine", "dist-repo", status=1)["refused"][0]
    place.configure(multilib_method="runtime")
    assert "has only devel" in run("--engine", "dist-repo", status=2)["error"]


# Configuration


@pytest.mark.parametrize(
    ("own", "defaults", "says"),
    [
        ({"strict_key": "true"}, {}, "line 7: 'strict_key' is no key of mash; is 'strict_keys' meant?"),
        ({"hash_packages": "perhaps"}, {}, "line 7: hash_packages is 'perhaps': give true or false."),
        ({"tag": None}, {}, "goose-1.mash: tag is missing: give the tag to take packages from."),
        ({"rpm_path": "Packages"}, {}, "one place for 2 architectures: put %(arch)s into it."),
        ({"rpm_path": "%(arch)s/%(name)s"}, {}, "only %(arch)s may stand there."),
        ({"rpm_path": "../x/%(arch)s"}, {}, "a path inside of the repository"),
        ({"debuginfo_path": "%(arch)s/os/debug"}, {}, "lies in"),
        ({"repodata_path": "%(arch)s/elsewhere"}, {}, "which rpm_path"),
        ({"multilib_method": "most"}, {}, "multilib_method is 'most': give one of none, all"),
        ({"multilib_method": "file"}, {}, "needs multilib_file"),
        ({"keys": "nosuch"}, {}, "there is no "),
        ({"allow": "everything"}, {}, "words among unsigned, duplicates, broken-deps"),
        ({"output_subdir": "a/b"}, {}, "give a plain name"),
        ({"arches": "x86_64 vax"}, {}, "arches has vax, for which there are no rules"),
        ({}, {"compress_type": "bz2"}, "compress_type is 'bz2': give one of gz, zstd."),
        ({}, {"buildhost": None}, "buildhost is missing"),
        ({}, {"keep": "0"}, "a number from 1 on"),
    ],
)  # fmt: skip
def test_bad_configuration(place: Place, run: Callable[..., Any], own: Any, defaults: Any, says: str) -> None:
    place.configure(defaults=defaults, **own)
    assert says in run(status=2)["stderr"]
    assert not place.output.exists()


def test_old_files_are_read(place: Place, run: Callable[..., Any]) -> None:
    """As people have them: dropped keys are told of, and do no harm."""
    place.configure(defaults={"use_sqlite": True, "use_repoview": False, "workdir": "/tmp"}, delta=True, repoviewurl="http://x",
                    strict_keys=True, hash_packages=False, multilib_devel_whitelist="helper-tools")  # fmt: skip
    report = run()
    assert "delta is left out, because delta RPMs are no longer made." in report["stderr"]
    assert "use_sqlite is left out" in report["stderr"] and len(report["warnings"]) == 2
    assert "helper-tools.i686" in place.nevras()


def test_no_such_mash(place: Place, run: Callable[..., Any]) -> None:
    assert "there are goose-1." in run(status=2, names=["goose-2"])["stderr"]
    assert "is no name of a mash" in run(status=2, names=["../goose-1"])["stderr"]
    shutil.rmtree(place.top / "mash")
    assert "mash.conf is missing: apply the state mash" in run(status=2)["stderr"]
    with pytest.raises(SystemExit):
        mash.main(["goose-1", "--allow", "anything"])


# Multilib, rule by rule


@pytest.mark.parametrize(
    ("method", "name", "path", "picked"),
    [
        ("runtime", "zlib", "/lib/libz.so.1", True),
        ("runtime", "zlib-devel", "/usr/lib/libz.so", False),
        ("devel", "zlib-devel", "/usr/lib/libz.so", True),
        ("devel", "zlib-static", "/usr/lib/libz.a", True),
        ("devel", "ghc-base-devel", "/usr/lib/ghc/x", False),
        ("devel", "php-devel", "/usr/include/php.h", False),
        # In python-multilib's list as text, "php" and "httpd" are found in anything that holds them.
        ("devel", "php-pear-devel", "/usr/include/pear.h", True),
        ("runtime", "httpd", "/usr/lib/libx.so.1", False),
        ("runtime", "wine", "/usr/bin/wine", True),
        ("runtime", "lib", "/usr/bin/x", False),
        ("runtime", "pam_krb5", "/usr/lib/security/pam_krb5.so", True),
        ("runtime", "nss_x", "/lib/libnss_x.so", True),
        ("runtime", "alsa-plugins", "/usr/lib/alsa-lib/x.so", True),
        ("runtime", "qt", "/usr/lib/qt5/plugins/platforms/x.so", True),
        ("runtime", "qt", "/usr/lib/qt5/plugins/x", False),
        ("runtime", "mysql-libs", "/etc/ld.so.conf.d/mysql.conf", True),
        ("runtime", "python-x", "/usr/lib/python3/libx.so.1", False),
        ("kernel", "zlib", "/lib/libz.so.1", False),
        ("base", "gdb", "/usr/bin/gdb", False),
        ("all", "x", "/x", True),
        ("none", "x", "/x", False),
        ("file", "glibc", "/x", True),
        ("file", "steam-x", "/x", True),
        ("file", "x", "/x", False),
    ],
)  # fmt: skip
def test_multilib_rules(method: str, name: str, path: str, picked: bool) -> None:
    lists = mash_multilib.Lists(file=mash_multilib.read_list("glibc # the library\n steam-*\n"))
    package = mash_multilib.Candidate(name, "i686", (), [path])
    assert mash_multilib.pick(method, package, lists)[0] is picked


def test_kernels(place: Place, run: Callable[..., Any], made: dict[str, list[Path]]) -> None:
    """A 32-bit kernel and what modules are built with stay out; its headers come in."""
    number = place.hub.add(DEBUG, made[DEBUG.nvr])
    place.hub.sign(place.keys, "goose", [number])
    place.hub.change("goose-1", number)
    run()
    assert [name for name in place.nevras() if name.startswith("kernel")] == [
        "kernel-devel.x86_64", "kernel-headers-devel.i686", "kernel-headers-devel.x86_64", "kernel.x86_64"]  # fmt: skip


def test_hub_calls_stay_few(place: Place, run: Callable[..., Any], made: dict[str, list[Path]]) -> None:
    """Three for a whole tag; and where nothing has changed, none that takes long."""
    run()
    assert place.hub.calls == ["getLastEvent", "getTag", "listTaggedRPMS"]
    place.hub.calls.clear()
    place.hub.event += 10
    assert run()["result"] == "unchanged"
    assert place.hub.calls == ["getLastEvent", "getTag", "getFullInheritance", "tagChangedSinceEvent"]
    # A change in what is inherited, and one that brings nothing new.
    number = place.builds["only-1.0-1.el9"]
    for tagged, result in ((False, "published"), (True, "published")):
        place.hub.change("goose-1-release", number, tagged)
        assert run()["result"] == result
    place.hub.change("goose-1-release", number, False)
    place.hub.change("goose-1-release", number)
    assert run()["result"] == "unchanged"


def test_a_better_signature_is_seen(place: Place, run: Callable[..., Any]) -> None:
    """Though it is no event of Koji's: where one could matter, the whole tag is asked for."""
    place.configure(keys=f"{place.keys.ids['old']} goose")
    run()
    assert run()["result"] == "unchanged"
    place.hub.sign(place.keys, "old", list(place.builds.values()))
    assert len(run()["resigned"]) == 21


def test_a_copy_that_was_written_anew(place: Place, run: Callable[..., Any]) -> None:
    """The same signature at another time is another file."""
    run()
    path = place.hub.path(place.hub.row("libfoo-1.0-1.el9.i686"), place.keys.ids["goose"])
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    assert run()["result"] == "published"
