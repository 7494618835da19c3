"""mash of 10,000 RPMs against createrepo_c on the same tree, and against one sack for each RPM.

No lab is needed. What is compared: a cold mash (no cache, no output) with `createrepo_c`, one that finds nothing
changed and one that finds one package changed with `createrepo_c --update`, and the closure of all with one
libsolv pool for each package, which is how dist-repo looks at dependencies.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from bench_table import Table, Times
from mash_doubles import Build, Hub, Keys, Place, Sub, rpmbuild, serving

TREE = Path(__file__).resolve().parents[2]
RPMS = int(os.environ.get("GOOSE_BENCH_RPMS", "10000"))
# Binary RPMs of a build.
_SUBS = 250
ROUNDS = 3


def builds() -> Iterator[Build]:
    """So many that they have RPMS binary RPMs: libraries that require each other, of both architectures."""
    for number in range(RPMS // (2 * _SUBS)):
        subs = [
            Sub(
                f"lib{number}x{sub}{'-devel' if sub % 3 == 0 else ''}",
                [f"/usr/%{{lib}}/lib{number}x{sub}.so.1", *(f"/usr/share/doc/{number}-{sub}-{part}" for part in range(4))],
                [f"lib{number}x{(sub + step) % _SUBS}.so.1%{{bits}}" for step in range(1, 6)],
                [f"lib{number}x{sub}.so.1%{{bits}}"],
            )
            for sub in range(_SUBS)
        ]
        yield Build(f"src{number}", subs)


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
    all_builds = list(builds())
    made = rpmbuild(top / "rpms", all_builds)
    hub = Hub(top / "koji")
    hub.tag("goose-1")
    numbers = [hub.add(build, made[build.nvr], link=True) for build in all_builds]
    for number in numbers:
        hub.change("goose-1", number)
    plain = top / "plain"
    plain.mkdir()
    for paths in made.values():
        for path in paths:
            if not path.name.endswith(".src.rpm"):
                os.link(path, plain / path.name)
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
        assert report["result"] == "published" and len(report["removed"]) == 2 * _SUBS
        changed.append(seconds)
        big.place.hub.change("goose-1", big.builds[-1])
    table.add(f"mash of {RPMS} RPMs, cold", cold, "createrepo_c", plain, 1.5)
    table.add(f"mash of {RPMS} RPMs, unchanged", unchanged, "createrepo_c --update", update, 0.5)
    table.add("mash, one build taken away", changed, "createrepo_c --update", update)
    print(f"memory of a cold mash: {max(memory) // 1024} MiB")
