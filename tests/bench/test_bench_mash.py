"""mash of 10,000 RPMs against createrepo_c on the same tree, and against one sack for each RPM.

No lab is needed. What is compared: a cold mash (no cache, no output) with `createrepo_c`, one that finds nothing
changed and one that finds one package changed with `createrepo_c --update`, and the closure of all with one
libsolv pool for each package, which is how dist-repo looks at dependencies.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import koji
import pytest

from bench_table import Table, Times, table_of
from goose import mash_config, mash_plan, mash_records, mash_tag
from mash_doubles import Build, Hub, Keys, Place, Sub, rpmbuild, serving

TREE = Path(__file__).resolve().parents[2]
RPMS = int(os.environ.get("GOOSE_BENCH_RPMS", "10000"))
# Binary RPMs of a build, of both architectures.
_SUBS = 500
ROUNDS = 3
# In the RPMs that the others are made from: a name, and five that it requires.
_NAME = "aaaaaaaaaa"
_NEEDS = [f"bbbbbbbbb{number}" for number in range(5)]


@pytest.fixture(scope="session")
def table(request: pytest.FixtureRequest) -> Table:
    return table_of(request.config)



def rpms(directory: Path) -> Iterator[tuple[Build, list[Path]]]:
    """RPMS valid RPMs of 13 KB, libraries that require each other, in builds.

    rpmbuild makes one of each kind; the others differ from it in names of the same length, and in the checksum
    of header and payload.
    """
    files = [f"/usr/%{{lib}}/lib{_NAME}.so.1", *(f"/usr/share/doc/{_NAME}/{part}" for part in range(10))]
    needs, gives = [f"lib{need}.so.1%{{bits}}" for need in _NEEDS], [f"lib{_NAME}.so.1%{{bits}}"]
    template = Build("template", [Sub(f"{_NAME}{end}", files, needs, gives) for end in ("", "-devel")])
    with_blob = template.spec() + f"head -c 10000 /dev/urandom >%{{buildroot}}/usr/%{{lib}}/lib{_NAME}.so.1\n"
    made = rpmbuild(directory / "template", [template], {template.nvr: with_blob})[template.nvr]
    kinds = {(path.name.split("-1.0")[0][len(_NAME) :], path.name.split(".")[-2]): path for path in made}
    directory.joinpath("out").mkdir()
    for number in range(RPMS // _SUBS):
        build, paths = Build(f"src{number}", []), []
        for sub in range(_SUBS // 2):
            for arch in ("x86_64", "i686"):
                end = "-devel" if sub % 3 == 0 else ""
                source = kinds[end, arch]
                data = source.read_bytes()
                old = koji.get_rpm_header(str(source))["sigmd5"]
                offset, size = koji.find_rpm_sighdr(str(source))
                data = data.replace(_NAME.encode(), f"n{number:04d}x{sub:04d}".encode())
                for step, need in enumerate(_NEEDS):
                    data = data.replace(need.encode(), f"n{number:04d}x{(sub + step + 1) % (_SUBS // 2):04d}".encode())
                new = hashlib.md5(data[offset + size + -size % 8 :]).digest()
                path = directory / "out" / f"n{number:04d}x{sub:04d}{end}-1.0-1.el9.{arch}.rpm"
                path.write_bytes(data.replace(old, new, 1))
                paths.append(path)
        yield build, paths


@dataclass
class Big:
    """A place with many RPMs, and a tree of the same for createrepo_c."""

    place: Place
    plain: Path
    builds: list[int]

    def program(self, *words: str) -> tuple[float, dict[str, Any], int]:
        """Seconds, report and the most memory in KiB."""
        command = ["/usr/bin/time", "-f", "%M", sys.executable, "-B", str(TREE / "scripts/mash_repo.py"), "goose-1",
                   "--config", str(self.place.top / "mash"), "--json", *words]  # fmt: skip
        start = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - start
        assert done.returncode == 0, done.stderr
        return seconds, json.loads(done.stdout)["mashes"][0], int(done.stderr.splitlines()[-1])

    def createrepo(self, *words: str) -> float:
        start = time.monotonic()
        subprocess.run(["createrepo_c", "--quiet", "--no-database", *words, str(self.plain)], check=True)
        return time.monotonic() - start


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Big]:
    if not all(map(shutil.which, ("createrepo_c", "rpmbuild"))):
        raise pytest.skip.Exception("createrepo_c and rpmbuild are needed")
    top = tmp_path_factory.mktemp("big")
    hub = Hub(top / "koji")
    hub.tag("goose-1")
    numbers = [hub.add(build, paths, link=True) for build, paths in rpms(top / "rpms")]
    for number in numbers:
        hub.change("goose-1", number)
    plain = top / "rpms/out"
    with serving(hub) as url:
        place = Place(top, hub, Keys.__new__(Keys), url=url)
        # Two architectures of which the second is biarch: every RPM is in a tree once, i686's in that of x86_64.
        place.configure(keys=None, arches="x86_64", multilib_method="all", debuginfo=False, source=False)
        yield Big(place, plain, numbers)
    shutil.rmtree(top)


def test_mash(big: Big, table: Table) -> None:
    cold: Times = []
    unchanged: Times = []
    changed: Times = []
    plain: Times = []
    update: Times = []
    memory = []
    for _ in range(ROUNDS):
        for name in ("cache", "repos"):
            shutil.rmtree(big.place.top / name, ignore_errors=True)
        shutil.rmtree(big.plain / "repodata", ignore_errors=True)
        plain.append(big.createrepo())
        seconds, report, used = big.program()
        assert report["result"] == "published" and report["trees"]["x86_64"]["rpms"] == RPMS, report
        cold.append(seconds)
        memory.append(used)
        update.append(big.createrepo("--update"))
        seconds, report, used = big.program()
        assert report["result"] == "unchanged"
        unchanged.append(seconds)
        # As when one build is taken away: all but it comes from the cache.
        big.place.hub.change("goose-1", big.builds[-1], tagged=False)
        seconds, report, _ = big.program()
        assert report["result"] == "published" and len(report["removed"]) == _SUBS
        changed.append(seconds)
        big.place.hub.change("goose-1", big.builds[-1])
    table.add(f"mash of {RPMS} RPMs, cold", cold, "createrepo_c", plain, 1.5)
    table.add(f"mash of {RPMS} RPMs, unchanged", unchanged, "createrepo_c --update", update, 0.5)
    table.add("mash, one build taken away", changed, "createrepo_c --update", update)
    print(f"memory of a cold mash: {max(memory) // 1024} MiB")


def test_selection(big: Big, table: Table) -> None:
    """What multilib picks of all, and their closure, in one pool; and in dist-repo's way a sack for each RPM."""
    dnf = pytest.importorskip("dnf")
    warnings: list[str] = []
    site = mash_config.read_site(big.place.top / "mash", warnings)
    big.place.configure(keys=None, arches="x86_64", multilib_method="devel", debuginfo=False, source=False)
    config = mash_config.read_mash(site, "goose-1", warnings)
    rpms, builds = mash_tag.listing(big.place.hub.session(), config, big.place.hub.event)
    found = mash_tag.locate(mash_tag.choose(config, rpms)[0], builds, site.topdir)
    wanted = {rpm: rpm.wanted(site.hash) for rpm in found}
    records = mash_records.Records(site.cache)
    briefs = records.briefs(list(wanted.values()), lambda done, count: None)
    ours: Times = []
    theirs: Times = []
    few = 300
    for _ in range(ROUNDS):
        start = time.monotonic()
        plan = mash_plan.make(config, found, wanted, briefs, records, {})
        ours.append((time.monotonic() - start) / len(found))
        assert not plan.broken and len(plan.trees[0].members) == RPMS
        base = dnf.Base()
        start = time.monotonic()
        for rpm in found[:few]:
            base.fill_sack(load_system_repo=False, load_available_repos=False)
            assert base.sack.add_cmdline_package(rpm.path).files
        theirs.append((time.monotonic() - start) / few)
        base.close()
    records.close()
    thousand = [[seconds * 1000 for seconds in times] for times in (ours, theirs)]
    table.add("multilib and closure, 1,000 RPMs", thousand[0], "one sack for each RPM", thousand[1], 0.5)
