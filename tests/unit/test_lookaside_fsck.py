"""lookaside_fsck.py on real archives and real git repositories."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from goose import lookaside_fsck as fsck
from goose.lookaside import Archive, Config, Store
from goose.lookaside_fsck import FsckError, Pace, Progress, Report, Wishes
from goose.sources import Source, format_line

TREE = Path(__file__).resolve().parents[2]
LATER = time.time() + 365 * 86400


def archive(content: bytes, filename: str = "a.tar.gz", name: str = "rpms/bash", hashtype: str = "sha512") -> Archive:
    return Archive(name, filename, hashtype, hashlib.new(hashtype, content).hexdigest())


class Site:
    """A cache, and repositories beside it."""

    def __init__(self, path: Path) -> None:
        self.git_root = path / "git"
        self.git_root.mkdir(parents=True)
        cache = path / "lookaside"
        for name in ("archives", "incoming"):
            (cache / name).mkdir(parents=True)
        self.store = Store(cache)
        self.config = Config(path=cache, repositories=(self.git_root,))

    def put(self, content: bytes, *args: Any, **kwargs: Any) -> Archive:
        """Add an archive."""
        found = archive(content, *args, **kwargs)
        with self.store.partial() as partial:
            partial.stream.write(content)
            assert self.store.publish(partial, found, mtime=1000)
        return found

    def commit(self, *lines: str, repository: str = "rpms/bash", branch: str = "main") -> str:
        """Commit `sources` with these lines on top of ``branch``; the commit's id."""
        path = self.git_root / f"{repository}.git"
        git = ["git", f"--git-dir={path}", "-c", "user.name=x", "-c", "user.email=x@example.org"]
        call = functools.partial(subprocess.run, check=True, capture_output=True, text=True)
        if not path.exists():
            call(["git", "init", "-q", "--bare", str(path)])
        blob = call([*git, "hash-object", "-w", "--stdin"], input="".join(lines)).stdout.strip()
        tree = call([*git, "mktree"], input=f"100644 blob {blob}\tsources\n").stdout.strip()
        parent = subprocess.run([*git, "rev-parse", "-q", "--verify", branch], capture_output=True, text=True, check=False)
        parents = ["-p", parent.stdout.strip()] if parent.returncode == 0 else []
        commit = call([*git, "commit-tree", tree, *parents], input="x").stdout.strip()
        call([*git, "update-ref", f"refs/heads/{branch}", commit])
        return commit

    def run(self, **wishes: Any) -> Report:
        return fsck.run(self.config, Wishes(**wishes), now=lambda: LATER)

    def damage(self, found: Archive) -> None:
        """Flip one bit."""
        path = self.store.path(found)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.chmod(0o644)
        path.write_bytes(content)
        path.chmod(0o444)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site")


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[Site, str]]:
    """Another site, and the URL of its archives."""
    other = Site(tmp_path / "mirror")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name
            pass

    handler = functools.partial(Quiet, directory=str(other.store.archives))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield other, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def line(found: Archive) -> str:
    return format_line(found.source)


def test_all_is_well(site: Site) -> None:
    """Both formats of a line, a package with and without its namespace, and names that need quoting."""
    site.commit(line(site.put(b"1")), line(site.put(b"2", "ä b (1).zip")))
    old = site.put(b"3", "c.tgz", "gcc", "md5")
    site.commit(f"{old.hash}  c.tgz\n", repository="rpms/gcc")
    report = site.run()
    assert report == Report(archives=3, hashed=3, bytes_hashed=3, repositories=2)
    assert report.status == 0
    assert not (site.config.path / "fsck.json").exists()


def test_flipped_bit_is_found_and_repaired(site: Site, mirror: tuple[Site, str]) -> None:
    other, url = mirror
    good, bad = site.put(b"good"), site.put(b"bad" * 1000)
    other.put(b"bad" * 1000)
    site.commit(line(good), line(bad))
    site.damage(bad)
    report = site.run()
    assert (report.corrupt, report.status) == ([bad.path], 1)
    report = site.run(repair_from=url, dry_run=True)
    assert (report.corrupt, report.repaired) == ([bad.path], [])
    report = site.run(repair_from=url)
    assert (report.corrupt, report.repaired, report.status) == ([], [bad.path], 0)
    path = site.store.path(bad)
    assert path.read_bytes() == b"bad" * 1000
    assert (path.stat().st_mode & 0o777, path.stat().st_mtime) == (0o444, 1000)
    assert not list((site.config.path / "incoming").iterdir())
    assert site.run().status == 0


def test_mirror_that_is_damaged_too(site: Site, mirror: tuple[Site, str]) -> None:
    """What it sends is checked: a bad copy never takes the place of another."""
    other, url = mirror
    bad = site.put(b"content")
    other.damage(other.put(b"content"))
    site.damage(bad)
    before = site.store.path(bad).read_bytes()
    report = site.run(repair_from=url)
    assert (report.corrupt, report.status) == ([bad.path], 1)
    assert "has another sha512" in report.failures[0]
    assert site.store.path(bad).read_bytes() == before
    assert "was not fetched" in site.run(repair_from="http://127.0.0.1:1/").failures[0]


def test_missing(site: Site, mirror: tuple[Site, str]) -> None:
    """What any commit names, an old one and one of another branch as well."""
    other, url = mirror
    wanted = [archive(content) for content in (b"old", b"new", b"branch")]
    site.commit(line(wanted[0]))
    site.commit(line(wanted[1]))
    site.commit(line(wanted[2]), branch="other")
    report = site.run()
    assert {row["hash"] for row in report.missing} == {found.hash for found in wanted}
    assert {"repository": "rpms/bash", **dataclasses.asdict(wanted[0].source)} in report.missing
    assert report.status == 1
    for content in (b"old", b"new"):
        other.put(content)
    other.put(b"branch", name="bash")
    report = site.run(repair_from=url)
    assert not report.missing and len(report.repaired) == 3
    assert site.run().status == 0


def test_unreferenced(site: Site) -> None:
    """Reported always, deleted on request and when old, and the empty directories with it."""
    site.commit(line(site.put(b"named")))
    stray = site.put(b"stray", "stray.tgz", "rpms/stray")
    report = site.run()
    assert (report.unreferenced, report.deleted, report.status) == ([stray.path], [], 0)
    report = fsck.run(site.config, Wishes(delete_unreferenced=True))
    assert (report.deleted, site.store.has(stray)) == ([], True), "it came just now"
    report = site.run(delete_unreferenced=True, dry_run=True)
    assert (report.deleted, site.store.has(stray)) == ([stray.path], True)
    report = site.run(delete_unreferenced=True, hash=False)
    assert (report.deleted, site.store.has(stray)) == ([stray.path], False)
    assert sorted(path.name for path in (site.store.archives / "rpms").iterdir()) == ["bash"]


def test_what_a_commit_names_is_kept(site: Site) -> None:
    """Whatever the repository is called, on whatever branch, and on none: Koji builds commits by hash."""
    other = site.put(b"1", "1.tgz", "rpms/one")
    site.commit(line(other), repository="forks/alice/renamed")
    lost = site.put(b"2", "2.tgz")
    site.commit(line(lost), branch="gone")
    subprocess.run(["git", f"--git-dir={site.git_root}/rpms/bash.git", "update-ref", "-d", "refs/heads/gone"], check=True)
    bad = site.put(b"3", "3.tgz")
    site.commit(f"rubbish\nSHA512 [3.tgz] {bad.hash}\n", repository="rpms/three")
    report = site.run(delete_unreferenced=True, min_age=0)
    assert (report.unreferenced, report.deleted) == ([], [])
    assert report.bad_sources[0].startswith("rpms/three, blob ")
    assert all(site.store.has(found) for found in (other, lost, bad))


def test_nothing_is_deleted_in_doubt(site: Site, tmp_path: Path) -> None:
    """A repository that cannot be read, a directory that is not there or empty, or none named."""
    stray = site.put(b"stray")
    assert "there is no repository" in site.run(delete_unreferenced=True, min_age=0).failures[0]
    site.commit(line(archive(b"y")), repository="rpms/good")
    config = dataclasses.replace(site.config, repositories=(site.git_root, tmp_path / "absent"))
    report = fsck.run(config, Wishes(delete_unreferenced=True, min_age=0), now=lambda: LATER)
    assert not report.deleted and "a repository cannot be read" in report.failures[0]
    assert report.status == 5
    site.commit(line(archive(b"x")))
    objects = [path for path in (site.git_root / "rpms/bash.git/objects").glob("??/*") if path.is_file()]
    for path in objects:
        path.chmod(0o644)
        path.write_bytes(b"rubbish")
    report = site.run(delete_unreferenced=True, min_age=0)
    assert not report.deleted and "cannot be read" in report.unreadable[0]
    with pytest.raises(FsckError, match="--delete-unreferenced needs the repositories") as raised:
        fsck.run(dataclasses.replace(site.config, repositories=()), Wishes(delete_unreferenced=True))
    assert raised.value.status == 2
    assert site.store.has(stray)


def test_repository_of_somebody_else(site: Site) -> None:
    """git refuses repositories of other users, unless they are named."""
    if os.geteuid():
        pytest.skip("only root can give a repository away")
    site.commit(line(site.put(b"1")))
    for path in [site.git_root, *site.git_root.rglob("*")]:
        os.chown(path, 12345, 12345)
    assert site.run().status == 0


def test_no_archive(site: Site) -> None:
    """Reported, and left: nobody knows what it is."""
    path = site.store.archives / "README"
    path.write_text("x")
    report = site.run(delete_unreferenced=True)
    assert report.foreign == ["README"] and path.exists()


def test_goes_on_where_it_was(site: Site) -> None:
    """What an earlier run has hashed is not read again, and what it found damaged is not forgotten."""
    found = sorted((site.put(str(number).encode(), f"{number}.tgz") for number in range(6)), key=lambda a: a.filename)
    site.damage(found[1])
    note = site.config.path / "fsck.json"
    note.write_text(json.dumps({"after": found[3].path, "corrupt": [found[1].path]}))
    report = site.run()
    assert (report.hashed, report.corrupt) == (3, [found[1].path])
    assert not note.exists()
    note.write_text("rubbish")
    assert site.run().hashed == 6
    note.write_text(json.dumps({"after": found[3].path, "corrupt": []}))
    assert site.run(from_start=True).hashed == 6


def test_killed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A note at every archive, a kill in the middle: together the two runs hash each archive once or little more."""
    monkeypatch.setattr(fsck, "_NOTE", 0.0)
    for number in range(20):
        site.put(str(number).encode(), f"{number}.tgz")
    archives = sorted((Archive.at(path) for path in site.store.walk()), key=lambda a: a.path.split("/"))  # type: ignore[union-attr]
    seen: list[int] = []

    def killed(size: int) -> None:
        seen.append(size)
        if len(seen) == 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fsck.hash_all(site.store, archives, Progress(site.config.path / "fsck.json"), killed, Report(), lambda a, b: None)  # type: ignore[arg-type]
    assert site.run().hashed == 10


def test_rate() -> None:
    """A limit on the whole, and no credit for time that went by unused."""
    now = [0.0]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    pace = Pace(100, lambda: now[0], sleep)
    for _ in range(10):
        pace(100)
    assert now[0] == pytest.approx(10)
    now[0] += 1000
    pace(1000)
    assert slept[-1] == pytest.approx(9)
    Pace(0, lambda: now[0], sleep)(10**12)
    assert slept[-1] == pytest.approx(9)


def command(site: Site, *words: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    config = site.config.path / "config.json"
    config.write_text(json.dumps({"path": str(site.config.path), "repositories": [str(site.git_root)]}))
    line = [sys.executable, "-B", str(TREE / "scripts/lookaside_fsck.py"), "--config", str(config), *words]
    return subprocess.run(line, capture_output=True, text=True, check=False, **kwargs)


def test_command(site: Site) -> None:
    stray = site.put(b"1")
    site.commit(line(archive(b"2")))
    done = command(site, "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["unreferenced"], len(told["missing"]), told["hashed"]) == (1, [stray.path], 1, 1)
    done = command(site, "--no-hash")
    assert "missing: rpms/bash names a.tar.gz (sha512 " in done.stdout
    assert "\r" not in done.stdout + done.stderr, "progress is for terminals"
    assert command(site, "--repair-from", "mirror.example.org").returncode == 2
    assert command(site, "--config", "/nowhere").returncode == 2


def test_one_at_a_time(site: Site) -> None:
    with fsck.locked(site.config.path / "fsck.lock"):
        done = command(site)
    assert (done.returncode, "Another lookaside_fsck.py runs" in done.stderr) == (75, True)


def test_thousands_of_commits_are_read_at_once(site: Site) -> None:
    """Three runs of git a repository, however many commits it has."""
    repository = site.git_root / "big.git"
    subprocess.run(["git", "init", "-q", "--bare", repository], check=True)
    stream = "".join(
        f"commit refs/heads/main\ncommitter x <x@example.org> {number} +0000\ndata 1\nx\n"
        f"M 100644 inline sources\ndata <<EOT\n{format_line(Source(f'{number % 50}.tgz', 'md5', '0' * 32))}EOT\n\n"
        for number in range(5000)
    )
    subprocess.run(["git", f"--git-dir={repository}", "fast-import", "--quiet"], input=stream, text=True, check=True)
    start = time.monotonic()
    told = fsck.named([site.git_root])
    assert len(told.by) == 50
    assert time.monotonic() - start < 5
