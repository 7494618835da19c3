"""mash_repo.py on real RPMs, with real signatures and metadata; the hub alone is a double."""

from __future__ import annotations

import gzip
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
from goose import koji_call, mash, mash_dist_repo, mash_multilib, mash_records
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
    shutil.rmtree(found.home)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """The RPMs of all tests, by their build."""
    later = [replace(LIBFOO, release="2.el9"), replace(HELPER, subs=HELPER.subs[:2], release="2.el9")]
    return rpmbuild(tmp_path_factory.mktemp("rpms"), [*SITE, *later, TWICE, BROKEN, DEBUG])


TWICE = Build("libfoo2", [Sub("libfoo-doc", ["/usr/share/doc/libfoo2/README"], noarch=True)], version="2.0", targets=["x86_64"])
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
    import copy

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
