"""Source RPMs into git and the lookaside cache: real ones, real git, and runs that are killed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from goose import lookaside_client, srpm, srpm_import
from goose.lab.run import wait_for
from goose.lookaside_client import Settings
from goose.sources import Source, parse
from package_doubles import LookasideServer, Package, git, make_srpms, serving

PROGRAM = Path(__file__).resolve().parents[2] / "scripts/srpm_import.py"
BRANCH = "goose-1"

pytestmark = pytest.mark.skipif(not shutil.which("rpmbuild"), reason="rpmbuild is not installed")


@dataclass(frozen=True)
class Place:
    """Where imports go: repositories and a cache, on this machine."""

    root: Path

    @property
    def options(self) -> list[str]:
        return ["--local-repositories", str(self.root / "git"), "--local-lookaside", str(self.root / "cache"),
                "--config", str(self.root / "none"), "--branch", BRANCH, "--jobs", "4"]  # fmt: skip

    def run(self, *words: object, status: int | None = 0) -> dict[str, Any]:
        """Import, as a program; its result."""
        command = ["/usr/bin/python3", "-B", str(PROGRAM), "--json", *self.options, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert status is None or done.returncode == status, done.stderr
        result: dict[str, Any] = json.loads(done.stdout) if done.stdout else {"stderr": done.stderr}
        return result

    def repository(self, name: str) -> Path:
        return self.root / f"git/rpms/{name}.git"

    def archives(self) -> dict[str, Path]:
        """What the cache shows: path below its root -> file."""
        cache = self.root / "cache/archives"
        return {str(path.relative_to(cache)): path for path in cache.glob("rpms/**/*") if path.is_file()}

    def state(self) -> dict[str, str]:
        """All refs, and all archives."""
        found = {path: "archive" for path in self.archives()}
        for repository in sorted((self.root / "git/rpms").glob("*.git")):
            found[repository.name] = git(repository, "for-each-ref")
        return found


@pytest.fixture
def place(tmp_path: Path) -> Place:
    found = Place(tmp_path / "place")
    for name in ("git", "cache/archives", "cache/incoming"):
        (found.root / name).mkdir(parents=True)
    return found


FILES = {
    "bash-1.0.tar.xz": b"\xfd7zXZ\0" + b"archive" * 100,
    "fix.patch": "--- a\n+++ b\nü\n".encode("latin-1") + b"\r\ntrailing \n",
    "run.sh": b"#!/bin/sh\n",
    "logo": b"\x89\0\1\2",
    "long.txt": b"x" * (srpm_import.TEXT_LIMIT + 1),
}


@pytest.fixture(scope="module")
def bash(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_srpms(tmp_path_factory.mktemp("bash"), [Package("bash", files=FILES, executable=["run.sh"])])[0]


def test_every_byte_is_in_git_or_in_the_cache(place: Place, bash: Path) -> None:
    row = place.run(bash)["srpms"][0]
    assert (row["action"], row["nevra"], row["package"]) == ("imported", "bash-1.0-1.el9", "rpms/bash")
    assert row["archives"] == 3
    repository = place.repository("bash")
    names = git(repository, "ls-tree", "--name-only", BRANCH).split()
    assert names == [".gitignore", "bash.spec", "fix.patch", "run.sh", "sources"]
    for name in ("fix.patch", "run.sh"):
        done = subprocess.run(["git", "-C", str(repository), "cat-file", "blob", f"{BRANCH}:{name}"],
                              capture_output=True, check=True)  # fmt: skip
        assert done.stdout == FILES[name]
    sources = parse(git(repository, "show", f"{BRANCH}:sources"))
    assert [source.filename for source in sources] == ["bash-1.0.tar.xz", "logo", "long.txt"]
    for source in sources:
        path = place.root / "cache/archives" / lookaside_client.location("rpms/bash", source)
        assert path.read_bytes() == FILES[source.filename]
        assert hashlib.sha512(path.read_bytes()).hexdigest() == source.hash
    assert git(repository, "show", f"{BRANCH}:.gitignore").split() == ["/bash-1.0.tar.xz", "/logo", "/long.txt"]
    assert "100755 blob" in git(repository, "ls-tree", BRANCH, "run.sh")
    assert git(repository, "symbolic-ref", "HEAD").strip() == f"refs/heads/{BRANCH}"


def test_commit_and_tag_tell_who_and_when(place: Place, bash: Path) -> None:
    row = place.run(bash)["srpms"][0]
    repository = place.repository("bash")
    told = git(repository, "log", "--format=%H|%an|%ae|%at|%cn|%ct|%s|%b", BRANCH)
    who = "Jane Doe|jane@example.org|1704283200|Jane Doe|1704283200"
    assert told.startswith(f"{row['commit']}|{who}|import bash-1.0-1.el9|")
    assert "- second line" in told
    assert git(repository, "rev-parse", "imports/goose-1/bash-1.0-1.el9^{commit}").strip() == row["commit"]


def test_again_changes_nothing(place: Place, bash: Path) -> None:
    first = place.run(bash)
    before = place.state()
    again = place.run(bash, bash.parent)
    assert [row["action"] for row in again["srpms"]] == ["unchanged"], "named twice, it is one"
    assert again["srpms"][0]["commit"] == first["srpms"][0]["commit"]
    assert place.state() == before


def test_dry_run_writes_nothing(place: Place, bash: Path) -> None:
    assert place.run("--dry-run", bash)["srpms"][0]["action"] == "imported"
    assert place.state() == {}


def test_versions_in_rpms_order(place: Place, tmp_path: Path) -> None:
    """Given in any order: a pre-release is older, and a number is no word."""
    versions = ["1.10", "1.9", "2.0~rc1", "2.0"]
    paths = make_srpms(tmp_path, [Package("foo", version, files={"v": version.encode()}) for version in versions])
    place.run(*paths)
    subjects = git(place.repository("foo"), "log", "--reverse", "--format=%s", BRANCH).split("\n")[:4]
    assert subjects == [f"import foo-{version}-1.el9" for version in ("1.9", "1.10", "2.0~rc1", "2.0")]
    tags = git(place.repository("foo"), "tag").split()
    assert "imports/goose-1/foo-2.0%7Erc1-1.el9" in tags
    assert [row["action"] for row in place.run(*paths)["srpms"]] == ["unchanged"] * 4


def test_epoch_is_part_of_the_tag(place: Place, tmp_path: Path) -> None:
    paths = make_srpms(tmp_path, [Package("foo", epoch="2", files={"a": b"a"})])
    assert place.run(*paths)["srpms"][0]["nevra"] == "foo-2:1.0-1.el9"
    assert git(place.repository("foo"), "tag").split() == ["imports/goose-1/foo-2%3A1.0-1.el9"]


@pytest.mark.parametrize("nevra", ["a-1:2~rc1^git.lock", "a..b-1-1.", "gtk+-3.0-1.el9", "a-1-1.lock"])
def test_tags_are_gits_and_lead_back(nevra: str, tmp_path: Path) -> None:
    tag = srpm_import.tag_of(BRANCH, nevra)
    subprocess.run(["git", "check-ref-format", tag], check=True)
    assert srpm_import.nevra_of(tag, BRANCH) == nevra


def test_an_older_one_comes_too_late(place: Place, tmp_path: Path) -> None:
    old, new = make_srpms(tmp_path, [Package("foo", version, files={"v": version.encode()}) for version in ("1", "2")])
    place.run(new)
    row = place.run(old, status=5)["srpms"][0]
    assert "holds foo-2-1.el9, which is newer" in row["error"]


def test_other_content_under_a_known_name(place: Place, tmp_path: Path) -> None:
    one = make_srpms(tmp_path / "one", [Package("foo", files={"v": b"1"})])
    two = make_srpms(tmp_path / "two", [Package("foo", files={"v": b"2"})])
    place.run(*one)
    before = place.state()
    assert "other content" in place.run(*two, status=5)["srpms"][0]["error"]
    assert place.state() == before
    assert "give one of them" in place.run(*one, *two, status=1)["srpms"][1]["error"]


def test_work_of_people_is_not_undone(place: Place, tmp_path: Path) -> None:
    old, new = make_srpms(tmp_path, [Package("foo", version, files={"v": version.encode()}) for version in ("1", "2")])
    place.run(old)
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(place.repository("foo")), str(clone)], check=True)
    (clone / "own.patch").write_text("x\n")
    git(clone, "add", "own.patch")
    git(clone, "commit", "--quiet", "--message", "our change")
    git(clone, "push", "--quiet")
    before = place.state()
    assert "by somebody's hand" in place.run(new, status=5)["srpms"][0]["error"]
    assert place.state() == before


def test_one_bad_one_does_not_stop_the_rest(place: Place, tmp_path: Path, bash: Path) -> None:
    names = ("good", "cut", "flipped")
    packages = [Package(name, files={"a.tar": random.Random(name).randbytes(50000)}) for name in names]
    good, cut, flipped = make_srpms(tmp_path, packages)
    cut.write_bytes(cut.read_bytes()[:-20000])
    data = bytearray(flipped.read_bytes())
    data[-20000] ^= 1
    flipped.write_bytes(data)
    text = tmp_path / "srpms/text.src.rpm"
    text.write_text("no RPM\n")
    result = place.run(good.parent, bash, status=1)
    actions = {Path(row["srpm"]).name: row["action"] for row in result["srpms"]}
    assert actions == {good.name: "imported", bash.name: "imported", cut.name: "failed", flipped.name: "failed",
                       text.name: "failed"}  # fmt: skip
    errors = [row["error"] for row in result["srpms"] if row["action"] == "failed"]
    assert all("damaged" in error for error in errors), errors
    assert not any("cut" in path or "flipped" in path for path in place.archives())
    assert not git(place.repository("cut"), "for-each-ref") if place.repository("cut").exists() else True


def test_what_a_repository_cannot_hold(place: Place, tmp_path: Path) -> None:
    (path,) = make_srpms(tmp_path, [Package("foo", files={"sources": b"x"})])
    assert "a file called 'sources'" in place.run(path, status=5)["srpms"][0]["error"]
    assert place.state() == {}


def test_killed_between_commit_and_tag(place: Place, bash: Path) -> None:
    commit = place.run(bash)["srpms"][0]["commit"]
    before = place.state()
    git(place.repository("bash"), "tag", "--delete", "imports/goose-1/bash-1.0-1.el9")
    row = place.run(bash)["srpms"][0]
    assert (row["action"], row["commit"], row["archives"]) == ("imported", commit, 0)
    assert place.state() == before


def test_two_runs_do_not_meet(place: Place, bash: Path) -> None:
    scratch = place.root / "cache/incoming/import"
    scratch.mkdir()
    with srpm_import._alone(scratch) as alone:
        assert alone
        assert "another import is running" in place.run(bash, status=75)["stderr"]


def test_usage(place: Place, bash: Path, tmp_path: Path) -> None:
    assert "There is no file" in place.run(tmp_path / "no.src.rpm", status=2)["stderr"]
    (tmp_path / "empty").mkdir()
    assert "There is no source RPM" in place.run(tmp_path / "empty", status=2)["stderr"]
    assert "no name of a branch" in place.run("--branch", "a..b", bash, status=2)["stderr"]


# --- Repositories and cache of another host -------------------------------------------------------


@pytest.fixture
def server() -> Iterator[LookasideServer]:
    with serving() as server:
        yield server


def test_over_the_network(tmp_path: Path, server: LookasideServer, bash: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the addresses of the packagers' configuration; the result names what Koji is told."""
    bare = tmp_path / "git/rpms/bash.git"
    subprocess.run(["git", "init", "--quiet", "--bare", str(bare)], check=True)
    config = tmp_path / "goosepkg.conf"
    config.write_text(
        f"[goosepkg]\nlookaside = {server.url}\nlookaside_cgi = {server.url}-upload\ndefault_branch = {BRANCH}\n"
        f"gitbaseurl = {tmp_path}/git/%(repo)s.git\nanongiturl = file://{tmp_path}/git/%(repo)s.git\n"
    )
    words = ["--json", "--config", str(config), "--scratch", str(tmp_path / "scratch"), str(bash)]
    assert srpm_import.main(words) == 0
    row = json.loads(capsys.readouterr().out)["srpms"][0]
    assert row["url"] == f"git+file://{tmp_path}/git/rpms/bash.git#{row['commit']}"
    assert git(bare, "rev-parse", BRANCH, f"imports/{BRANCH}/bash-1.0-1.el9^{{}}").split() == [row["commit"]] * 2
    assert sorted(server.archives.values()) == sorted(FILES[name] for name in ("bash-1.0.tar.xz", "logo", "long.txt"))
    server.requests.clear()
    assert srpm_import.main(words) == 0
    assert json.loads(capsys.readouterr().out)["unchanged"] == 1
    assert server.requests == []
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_refused_archive_leaves_git_alone(tmp_path: Path, server: LookasideServer, bash: Path) -> None:
    bare = tmp_path / "git/rpms/bash.git"
    subprocess.run(["git", "init", "--quiet", "--bare", str(bare)], check=True)
    server.answers = [404, 403]
    words = ["--config", str(tmp_path / "none"), "--branch", BRANCH, "--scratch", str(tmp_path / "scratch")]
    words += ["--lookaside", server.url, "--lookaside-upload", f"{server.url}-upload"]
    assert srpm_import.main([*words, "--repositories", f"file://{tmp_path}/git/%(repo)s.git", str(bash)]) == 5
    assert git(bare, "for-each-ref") == ""


def test_upload_is_not_repeated(server: LookasideServer, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"\r\n--content--\r\n" * 1000)
    source = Source("a.tar", "sha512", hashlib.sha512(path.read_bytes()).hexdigest())
    lookaside = lookaside_client.Lookaside(Settings(server.url, f"{server.url}-upload"))
    assert lookaside.put("rpms/a", source, path)
    assert not lookaside.put("rpms/a", source, path)
    assert list(server.archives.values()) == [path.read_bytes()]


# --- Many, and killed ------------------------------------------------------------------------------

MANY = 300
KILLS = 20


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of source RPMs, some packages in two versions."""
    packages = []
    for number in range(MANY):
        name = f"pkg{number // 3 * 3 if number % 3 == 1 else number:03}"
        version = "1.1" if number % 3 == 1 else "1.0"
        content = random.Random(number).randbytes(2000 + 50 * number)
        files = {f"{name}-{version}.tar.gz": content, "fix.patch": f"+{number}\n".encode()}
        packages.append(Package(name, version, files=files))
    return make_srpms(tmp_path_factory.mktemp("many"), packages)[0].parent


def whole(path: Path) -> bool:
    """Whether an archive is what its path says."""
    return hashlib.sha512(path.read_bytes()).hexdigest() == path.parent.name


class Watch(threading.Thread):
    """Looks at the cache all the time, as its users do."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._place = place
        self._seen: set[str] = set()
        self.ended = threading.Event()
        self.half: list[str] = []

    def run(self) -> None:
        while not self.ended.wait(0.02):
            for name, path in self._place.archives().items():
                if name not in self._seen:
                    self._seen.add(name)
                    if not whole(path):
                        self.half.append(name)


def complete(place: Place, many: Path) -> None:
    """Every source RPM is a commit and a tag, once, with its archives; and nothing else is there."""
    tags = commits = 0
    named = set()
    for repository in (place.root / "git/rpms").glob("*.git"):
        found = git(repository, "tag").split()
        tags += len(found)
        commits += len(git(repository, "rev-list", BRANCH).split())
        for tag in found:
            for source in parse(git(repository, "show", f"{tag}:sources")):
                named.add(lookaside_client.location(f"rpms/{repository.stem}", source))
    assert tags == commits == len(list(many.iterdir())) == MANY
    archives = place.archives()
    assert named == set(archives)
    assert all(whole(path) for path in archives.values())
    assert list((place.root / "cache/incoming/import").iterdir()) == []
    assert [path for path in (place.root / "git/rpms").iterdir() if path.name.startswith(".")] == []


def test_many(place: Place, many: Path) -> None:
    result = place.run(many)
    assert (result["imported"], result["failed"]) == (MANY, 0)
    complete(place, many)
    before = place.state()
    assert place.run(many)["unchanged"] == MANY
    assert place.state() == before


def test_killed_at_any_moment(place: Place, many: Path) -> None:
    watch = Watch(place)
    watch.start()
    chance = random.Random(2700)
    try:
        for _ in range(KILLS):
            # A group of its own, of which the import alone is killed: what it started is left to itself.
            process = subprocess.Popen(
                ["/usr/bin/python3", "-B", str(PROGRAM), *place.options, str(many)],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            time.sleep(chance.uniform(0.2, 0.9))
            process.kill()
            process.wait()
        # Programs of the last one that was killed end by themselves, and must do no harm.
        assert place.run(many)["failed"] == 0
    finally:
        watch.ended.set()
        watch.join()
    assert watch.half == []
    complete(place, many)


def test_interrupted_says_how_to_go_on(place: Place, many: Path) -> None:
    process = subprocess.Popen(
        ["/usr/bin/python3", "-B", str(PROGRAM), *place.options, str(many)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        # A shell's background job hands on that it is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    wait_for(lambda: bool(place.archives()), what="the first archive", seconds=60, pause=0.05)
    os.kill(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "run it again to go on" in told
    assert place.run(many)["failed"] == 0
    complete(place, many)


def test_a_rebuilt_source_rpm_is_the_same(place: Place, bash: Path, tmp_path: Path) -> None:
    """What identifies an import are the files: not the time of packing, nor a signature."""
    (again,) = make_srpms(tmp_path, [Package("bash", files=FILES, executable=["run.sh"])])
    # The spec names the directory that it was packed in; what a packager writes does not.
    one, two = srpm.read(bash), srpm.read(again)
    others = [[member for member in header.members if not member.name.endswith(".spec")] for header in (one, two)]
    assert others[0] == others[1]


def test_a_push_that_failed_without_a_reason_is_tried_again(tmp_path: Path, bash: Path) -> None:
    """Gitolite has such a moment whenever a repository is made; a reason, though, is final."""
    bare = tmp_path / "git/rpms/bash.git"
    subprocess.run(["git", "init", "--quiet", "--bare", str(bare)], check=True)
    hook = bare / "hooks/update"
    hook.write_text(f"#!/bin/sh\n[ -e {tmp_path}/second ] || {{ touch {tmp_path}/second; exit 1; }}\n")
    hook.chmod(0o755)
    place = tmp_path / "cache"
    for part in ("archives", "incoming"):
        (place / part).mkdir(parents=True)
    words = ["--config", str(tmp_path / "none"), "--branch", BRANCH, "--local-lookaside", str(place), str(bash)]
    words += ["--repositories", f"file://{tmp_path}/git/%(repo)s.git"]
    assert srpm_import.main(words) == 0
    hook.write_text("#!/bin/sh\necho refused >&2\nexit 1\n")
    git(bare, "update-ref", "-d", f"refs/tags/imports/{BRANCH}/bash-1.0-1.el9")
    start = time.monotonic()
    assert srpm_import.main(words) == 5
    assert time.monotonic() - start < 1
