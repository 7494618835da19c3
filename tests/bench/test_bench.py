"""What an unchanged run costs, against the least that it could cost: ratios, printed as a table at the end.

Both sides of a ratio take turns, and each is the median of its runs, so that a slow moment of the
machine meets both. A test fails where what was measured did not do its work, or was not unchanged;
a ratio above its aim is marked and no failure, because a busy machine is none.

The lab is the one that tests/lab has made in the same run, or the one that GOOSE_TEST_LAB names. None
is made here: without one these tests are skipped.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import rpkg_client
from bench_table import Table, Times, table_of
from goose.lab import client as lab_client
from goose.lab import converge, record
from goose.lab import lab as labs
from goose.lab.host import Host
from goose.lab.run import Progress
from package_doubles import Package, make_srpms

TREE = Path(__file__).resolve().parents[2]
SALT_CALL = ("salt-call", "--out=json", "--out-indent=-1")
# No new round of a comparison is begun after so long: all of them together have a minute.
SECONDS = 15
BUILDROOT = ("/usr/bin/python3", "/usr/local/lib/goose/koji_buildroot.py", "--json")


@pytest.fixture(scope="session")
def table(request: pytest.FixtureRequest) -> Table:
    return table_of(request.config)


@pytest.fixture(scope="session")
def lab() -> labs.Lab:
    """The lab that is up."""
    name = os.environ.get("GOOSE_TEST_LAB", "ci")
    known = record.load(name)
    if known is not None:
        found = labs.Lab(known, Progress())
        if all(host.leader() is not None for host in found.hosts):
            return found
    raise pytest.skip.Exception(
        f"The lab {name} is not up: run tests/lab in the same run, or name a lab that is up by GOOSE_TEST_LAB."
    )


@pytest.fixture(scope="session")
def quiet(lab: labs.Lab) -> labs.Lab:
    """The lab after an apply to the hosts that are measured.

    What earlier tests have left is repaired, and every cache is filled.
    """
    run_lab(lab, "apply", *sorted({lab.need_role(role).name for role in ("koji.hub", "koji.content")}))
    return lab


@pytest.fixture(scope="session")
def hub(quiet: labs.Lab) -> Host:
    return quiet.need_role("koji.hub")


@pytest.fixture(scope="session")
def admin(quiet: labs.Lab) -> Host:
    """The host with the administrator's client."""
    return quiet.need_role("koji.content")


def run_lab(lab: labs.Lab, *words: str) -> subprocess.CompletedProcess[str]:
    """`scripts/lab` as a user runs it; the test fails where it fails."""
    command = [str(TREE / "scripts/lab"), "--name", lab.record.name, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode != 0:
        pytest.fail(f"lab {' '.join(words)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


def apply(lab: labs.Lab, host: str) -> None:
    """An apply that changes nothing."""
    done = run_lab(lab, "apply", host)
    assert not done.stdout, f"{host} was not unchanged:\n{done.stdout}"
    assert re.search(rf"{host}: [1-9][0-9]* succeeded, 0 changed, 0 failed", done.stderr), done.stderr


def state_apply(host: Host, *states: str) -> dict[str, Any]:
    """A `salt-call state.apply` that changes nothing; its states as Salt returns them."""
    # Without queue=True: Salt 3008 then answers at once that it will run later, and nothing is measured.
    done = host.run([*SALT_CALL, "state.apply", *states], check=False)
    returned: dict[str, Any] = json.loads(done.stdout)["local"]
    outcome = converge.read(returned, 0, False)
    assert outcome.succeeded > 0 and not outcome.failures, outcome.failures
    assert not outcome.changes, f"{host.fqdn} was not unchanged: {outcome.changes}"
    return returned


def grains(host: Host) -> None:
    assert "os_family" in json.loads(host.run([*SALT_CALL, "grains.items"]).stdout)["local"]


def koji(host: Host, *words: str) -> None:
    assert host.run(["koji", *words]).stdout.strip(), f"koji {' '.join(words)} printed nothing"


def take_turns(rounds: int, *runs: Callable[[], object]) -> Iterator[Times]:
    """The times of each of ``runs``; every other round goes backwards, so that none always follows another.

    A machine that is too busy for all ``rounds`` does fewer, and the table says so.
    """
    taken: list[Times] = [[] for _ in runs]
    end = time.monotonic() + SECONDS
    for number in range(rounds):
        order = range(len(runs)) if number % 2 == 0 else range(len(runs) - 1, -1, -1)
        for each in order:
            start = time.monotonic()
            runs[each]()
            taken[each].append(time.monotonic() - start)
        if time.monotonic() > end:
            break
    return iter(taken)


def test_highstate(quiet: labs.Lab, hub: Host, table: Table) -> None:
    """What `lab apply` and Salt add to reading one host's facts."""
    base, by_lab, by_call = take_turns(
        3, lambda: grains(hub), lambda: apply(quiet, hub.name), lambda: state_apply(hub)
    )
    table.add(f"lab apply {hub.name}", by_lab, "salt-call grains.items", base, aim=10)
    table.add(f"salt-call state.apply ({hub.name})", by_call, "salt-call grains.items", base, aim=10)


def test_content(admin: Host, table: Table) -> None:
    """What it costs to compare all of Koji's content, against one question to the hub."""
    own: Times = []

    def content() -> None:
        for key, state in state_apply(admin, "koji.content").items():
            if key.startswith("koji_content_|-"):
                own.append(float(state["duration"]) / 1000)

    base, whole = take_turns(3, lambda: koji(admin, "list-tags"), content)
    assert len(own) == len(whole), "koji.content was not applied"
    table.add("salt-call state.apply koji.content", whole, "koji list-tags", base)
    table.add("… the state koji-content alone", own, "koji list-tags", base)


def test_buildroot(quiet: labs.Lab, table: Table) -> None:
    """A build root that is there must not be made or imported again."""
    host = quiet.need_role("koji.bootstrap")
    tag = json.loads((host.root / "etc/goose/buildroot.json").read_text())["tag"]

    def status() -> None:
        assert json.loads(host.run([*BUILDROOT, "status"]).stdout)["done"] is True

    def bring_in() -> None:
        assert json.loads(host.run([*BUILDROOT, "import"]).stdout)["imported"] == 0

    base, asked, imported = take_turns(5, lambda: koji(host, "list-tagged", tag), status, bring_in)
    table.add("koji_buildroot.py status", asked, f"koji list-tagged {tag}", base)
    table.add("koji_buildroot.py import", imported, f"koji list-tagged {tag}", base)


def test_status(quiet: labs.Lab, hub: Host, table: Table) -> None:
    """Looking at all hosts, against entering one."""

    def status() -> None:
        hosts = json.loads(run_lab(quiet, "status", "--json").stdout)["hosts"]
        assert hosts.keys() == {host.name for host in quiet.hosts}

    base, whole = take_turns(5, lambda: hub.run(["true"]), status)
    table.add("lab status", whole, "nsenter true", base)


def test_lookaside_upload(quiet: labs.Lab, table: Table, tmp_path: Path) -> None:
    """1 GB to the cache by rpkg's client, against hashing and against writing it here; memory that stays flat."""
    cache = quiet.need_role("lookaside")
    lab_client.write(quiet, tmp_path / "client")
    services = quiet.services()
    client = rpkg_client.client(
        services["lookaside"], services["lookaside-upload"],
        cert=tmp_path / "client/client.pem", ca=quiet.ca_path(),
    )  # fmt: skip
    archive, copy = tmp_path / "gigabyte.tar", tmp_path / "copy"
    with archive.open("wb") as stream:
        for _ in range(1024):
            stream.write(os.urandom(1 << 20))
    digest = client.hash_file(str(archive))
    config = json.loads((cache.root / "etc/goose/lookaside.json").read_text())
    stored = cache.root / config["path"].lstrip("/") / "archives/rpms/bench"

    def blocks() -> Iterator[bytes]:
        with archive.open("rb") as stream:
            while block := stream.read(1 << 20):
                yield block

    def hash_it() -> None:
        found = hashlib.sha512()
        for block in blocks():
            found.update(block)
        assert found.hexdigest() == digest

    def write_it() -> None:
        with copy.open("wb") as stream:
            stream.writelines(blocks())
            stream.flush()
            os.fsync(stream.fileno())

    def upload() -> None:
        shutil.rmtree(stored, ignore_errors=True)
        client.upload("rpms/bench", str(archive), digest)

    def most_memory() -> int:
        """KiB that the program's largest process ever had."""
        script = "for p in $(grep -lz '^lookaside' /proc/[0-9]*/cmdline); do grep VmHWM ${p%cmdline}status; done"
        found = re.findall(r"VmHWM:\s+(\d+)", cache.run(["sh", "-c", script]).stdout)
        return max(map(int, found))

    try:
        uploaded, hashed, written = take_turns(3, upload, hash_it, write_it)
    finally:
        shutil.rmtree(stored, ignore_errors=True)
        archive.unlink()
        copy.unlink(missing_ok=True)
    what, slower = max(("hashing", hashed), ("writing", written), key=lambda side: statistics.median(side[1]))
    # 0.7 of the slower one's speed
    table.add("lookaside upload of 1 GiB", uploaded, f"{what} it locally", slower, aim=1 / 0.7)
    assert most_memory() < 100 * 1024, f"the upload program took {most_memory()} KiB"


# What a release engineer would write: one source RPM after the other, and no look at what is there.
SHELL_LOOP = r"""
set -eu
for srpm in "$1"/*.src.rpm; do
    work=$(mktemp -d); cd "$work"
    rpm2cpio "$srpm" | cpio -id --quiet
    name=$(rpm -qp --nosignature --qf '%{NAME}' "$srpm"); nvr=$(rpm -qp --nosignature --qf '%{NVR}' "$srpm")
    who=$(rpm -qp --nosignature --qf '%{CHANGELOGNAME}' "$srpm")
    when=$(rpm -qp --nosignature --qf '%{CHANGELOGTIME}' "$srpm")
    : >sources; : >.gitignore
    for file in *.tar.gz; do
        hash=$(sha512sum "$file" | cut -d' ' -f1)
        place=$2/cache/rpms/$name/$file/sha512/$hash
        mkdir -p "$place"; mv "$file" "$place/$file"
        echo "SHA512 ($file) = $hash" >>sources; echo "/$file" >>.gitignore
    done
    git init --quiet --bare "$2/git/rpms/$name.git"
    git init --quiet .; git add --all
    GIT_COMMITTER_NAME=$who GIT_COMMITTER_EMAIL=import GIT_COMMITTER_DATE="$when +0000" \
        git commit --quiet --author "$who" --date "$when +0000" --message "import $nvr"
    GIT_COMMITTER_NAME=$who GIT_COMMITTER_EMAIL=import git tag --annotate --message "$nvr" "imports/goose-1/$nvr"
    git push --quiet "$2/git/rpms/$name.git" HEAD:refs/heads/goose-1 "imports/goose-1/$nvr"
    cd /; rm -rf "$work"
done
"""
IMPORTED = 60


def test_import(table: Table, tmp_path: Path) -> None:
    """Source RPMs into git and the lookaside cache, against a plain loop that does the same one by one."""
    packages = [
        Package(f"bench{number:03}", files={f"bench{number:03}-1.0.tar.gz": os.urandom(400_000), "fix.patch": b"+x\n"})
        for number in range(IMPORTED)
    ]
    srpms = make_srpms(tmp_path / "made", packages)[0].parent
    places = iter(range(1000))

    def place() -> Path:
        found = tmp_path / f"place{next(places)}"
        (found / "git/rpms").mkdir(parents=True)
        (found / "cache").mkdir()
        return found

    def done(where: Path) -> None:
        assert len(list((where / "git/rpms").glob("*.git"))) == IMPORTED
        assert sum(path.is_file() for path in (where / "cache/rpms").rglob("*")) == IMPORTED

    def by_shell() -> None:
        where = place()
        subprocess.run(["sh", "-c", SHELL_LOOP, "loop", str(srpms), str(where)], check=True)
        done(where)

    def by_import() -> None:
        where = place()
        command = ["/usr/bin/python3", "-B", str(TREE / "scripts/srpm_import.py"), "--branch", "goose-1"]
        command += ["--local-repositories", str(where / "git"), "--local-lookaside", str(where / "cache"), str(srpms)]
        subprocess.run(command, check=True, capture_output=True)
        done(where)

    base, own = take_turns(3, by_shell, by_import)
    table.add(f"srpm_import.py, {IMPORTED} source RPMs", own, "shell loop", base, aim=0.2)
