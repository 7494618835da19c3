"""What Koji leaves lying: old and unused goes, all else stays; on real directories."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from doubles import Hub
from goose import koji_clean
from goose.koji_clean import Area, CleanError, Config, Report, clean_roots, clean_volume

TREE = Path(__file__).resolve().parents[2]
NOW = 100 * 86400.0
FREE, OPEN, CLOSED, FAILED = 0, 1, 2, 5


class Tasks(Hub):
    """A hub with tasks: number -> state, parent, request."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: dict[int, tuple[int, Any, Any]] = {}

    def do_getTaskInfo(self, number: int) -> Any:
        if number not in self.tasks:
            return None
        state, parent, _ = self.tasks[number]
        return {"id": number, "state": state, "parent": parent}

    def do_listTasks(self, opts: dict[str, Any], query: dict[str, Any]) -> Any:
        assert opts["decode"]
        found = self.tasks.items()
        return [{"id": n, "request": request} for n, (state, _, request) in found if state in opts["state"]]


class Site:
    """A volume and a directory of build roots, below a directory of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.hub = Tasks()
        self.config = Config(root / "koji", root / "mock", "", "", 21, 21, 3, False)
        for name in ("packages/bash/5/1/x86_64", "repos/dist/1", "scratch", "work/tasks"):
            (self.config.topdir / name).mkdir(parents=True)
        self.config.mockdir.mkdir()
        self.etc = root / "etc"
        self.etc.mkdir()

    def put(self, path: str, days: float, what: str = "file") -> Path:
        """A directory with a file in it, written so many days ago."""
        directory = self.root / path
        directory.mkdir(parents=True, exist_ok=True)
        (directory / what).write_text("x" * 5000)
        for each in (directory / what, directory):
            os.utime(each, (NOW - days * 86400,) * 2)
        return directory

    def volume(self, dry_run: bool = False) -> Report:
        report = Report(dry_run)
        clean_volume(self.config, self.hub.session(None), report, lambda line: None, lambda: NOW)
        return report

    def roots(self, dry_run: bool = False, proc: Path = Path("/proc")) -> Report:
        report = Report(dry_run)
        clean_roots(self.config, report, lambda line: None, lambda: NOW, proc, self.etc)
        return report


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def names(report: Report) -> set[str]:
    return {os.path.basename(path) for path in report.removed}


def test_scratch(site: Site) -> None:
    """Old output of scratch builds goes; a new file in an old directory keeps it."""
    old = site.put("koji/scratch/alice/task_1", 30)
    young = [site.put("koji/scratch/alice/task_2", 5), site.put("koji/scratch/bob/task_3", 30, "a")]
    site.put("koji/scratch/bob/task_3/logs", 1)
    other = [site.put("koji/scratch/alice/notes", 300), site.put("koji/packages/bash/5/1/x86_64", 3000)]
    listed = site.volume(dry_run=True)
    assert (names(listed), old.is_dir(), listed.bytes > 4096) == ({"task_1"}, True, True)
    report = site.volume()
    assert (report.removed, report.bytes) == (listed.removed, listed.bytes)
    assert (report.status, old.exists(), [str(other[0])]) == (0, False, report.foreign)
    assert all(path.is_dir() for path in (*young, *other))
    assert site.volume().removed == []
    assert not list((site.config.topdir / "scratch/.removed").iterdir())


def test_work_of_tasks(site: Site) -> None:
    """What a task, or one that it is a part of, may still read is kept, however old; the hub says which."""
    paths = {number: site.put(f"koji/work/tasks/{number % 10000}/{number}", 30) for number in (1, 2, 3, 4, 5, 20001)}
    site.hub.tasks = {1: (CLOSED, None, []), 2: (FAILED, 4, []), 3: (CLOSED, 5, []), 4: (FAILED, None, []),
                      5: (OPEN, None, []), 20001: (CLOSED, 3, [])}  # fmt: skip
    report = site.volume()
    assert {number for number, path in paths.items() if path.exists()} == {3, 5, 20001}
    assert "task 5 is not at its end" in report.kept.values()
    del site.hub.tasks[5]
    site.hub.tasks[3] = (CLOSED, None, [])
    assert len(site.volume().removed) == 3, "a task that the hub has forgotten needs nothing"


def test_uploads(site: Site) -> None:
    """An upload that a waiting task names is kept: its task may wait for a builder since weeks."""
    for name in ("cli-build/1.x", "cli-build/2.x", "cli-image/3.x", "cli-build/4.x"):
        site.put(f"koji/work/{name}", 1 if name.startswith("cli-build/4") else 30)
    foreign = site.put("koji/work/debian-bootstrap/x", 300)
    site.hub.tasks = {7: (FREE, None, ["cli-build/2.x/a.src.rpm", "dist", {"repo": 1}]),
                      8: (CLOSED, None, ["cli-build/1.x/a.src.rpm"]),
                      9: (OPEN, None, [{"ks": {"file": "cli-image/3.x/a.ks"}}])}  # fmt: skip
    report = site.volume()
    assert names(report) == {"1.x"}
    assert sorted(report.kept.values()) == ["task 7 is not at its end", "task 9 is not at its end"]
    assert foreign.is_dir() and report.foreign == [str(foreign.parent)]


def test_hub_that_does_not_answer(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is removed where nobody says what is under way."""
    old = site.put("koji/scratch/alice/task_1", 30)
    monkeypatch.setattr(Tasks, "do_listTasks", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        site.volume()
    assert old.is_dir()


def test_no_volume(site: Site) -> None:
    """An empty mount point is no volume."""
    (site.config.topdir / "packages").rename(site.root / "elsewhere")
    with pytest.raises(CleanError, match="it is no Koji volume: is it mounted") as raised:
        site.volume()
    assert raised.value.status == 2


def test_links_are_not_followed(site: Site) -> None:
    """A link in scratch, or where a task's directory should be, leads nowhere."""
    target = site.put("precious/task_1", 300)
    (site.config.topdir / "scratch/alice").symlink_to(target.parent)
    (site.config.topdir / "work/cli-build").symlink_to(target.parent)
    inside = site.put("koji/scratch/bob/task_2", 30)
    (inside / "link").symlink_to(target)
    os.utime(inside / "link", (0, 0), follow_symlinks=False)
    os.utime(inside, (0, 0))
    report = site.volume()
    assert names(report) == {"task_2"}
    assert (target / "file").is_file()
    assert len(report.foreign) == 2


def test_outside_is_refused(site: Site) -> None:
    area = Area(site.config.topdir / "scratch", Report(False), lambda line: None)
    other = site.put("koji/packages/bash/5/1/x86_64", 0)
    (area.path / "alice").symlink_to(other.parent)
    for path in (other, area.path, area.path / "..", area.path / "../packages/bash", Path("/"), area.path / "alice/x86_64"):
        with pytest.raises(CleanError, match="left alone"):
            area.remove(path)
    assert (other / "file").is_file()


def test_killed_run(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was moved aside is gone from sight, and the next run deletes it."""
    old = site.put("koji/scratch/alice/task_1", 30)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            site.volume()
    aside = site.config.topdir / "scratch/.removed"
    assert not old.exists() and len(list(aside.iterdir())) == 1
    assert site.volume().removed == [] and not list(aside.iterdir())


def test_roots(site: Site) -> None:
    """Old ones that no process uses go, with their configuration; mock's own of other names stay."""
    old = site.put("mock/dist-build-12-34", 5)
    boot = site.put("mock/dist-build-12-34-bootstrap", 5)
    (site.etc / "dist-build-12-34.cfg").write_text("")
    young = site.put("mock/dist-build-13-34", 1)
    grown = site.put("mock/dist-build-15-34/result", 1).parent
    os.utime(grown, (0, 0))
    other = site.put("mock/fedora-41-x86_64", 300)
    used = site.put("mock/dist-build-14-34", 50)
    with subprocess.Popen(["sleep", "60"], cwd=used) as process:
        listed = site.roots(dry_run=True)
        assert (names(listed), old.is_dir()) == ({old.name, boot.name}, True)
        report = site.roots()
        process.kill()
    assert names(report) == {old.name, boot.name} and not old.exists()
    assert report.kept == {str(used): f"process {process.pid} uses it"}
    assert not list(site.etc.iterdir()) and report.foreign == [str(other)]
    assert all(path.is_dir() for path in (young, grown, other, used))
    assert names(site.roots()) == {used.name}


def test_root_with_a_mount(site: Site) -> None:
    """Deleting would go through into what is mounted."""
    path = site.put("mock/dist build-1-2", 5)
    proc = site.root / "proc"
    (proc / "self").mkdir(parents=True)
    mounted = str(path / "root/proc").replace(" ", "\\040")
    (proc / "self/mountinfo").write_text(f"20 1 0:1 / / rw - ext4 x rw\n21 20 0:2 / {mounted} rw - proc proc rw\n")
    report = site.roots(proc=proc)
    assert report.kept == {str(path): f"{path}/root/proc is mounted"} and path.is_dir()


def write(path: Path, **changes: Any) -> Path:
    data = {"topdir": str(path / "koji"), "mockdir": str(path / "mock"), "server": "https://hub/", "serverca": "/ca.crt",
            "scratch_days": 21, "work_days": 21, "roots_days": 3, "dry_run": True, **changes}  # fmt: skip
    file = path / "config.json"
    file.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))
    return file


@pytest.mark.parametrize(
    "changes",
    [{"topdir": "/"}, {"topdir": "koji"}, {"mockdir": "/var"}, {"mockdir": "/var/lib/../.."}, {"scratch_days": -1},
     {"work_days": "21"}, {"roots_days": True}, {"dry_run": "no"}, {"server": None}],
)  # fmt: skip
def test_bad_configuration(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(CleanError) as raised:
        Config.read(write(tmp_path, **changes))
    assert raised.value.status == 2


def test_command(site: Site) -> None:
    """dry_run of the configuration holds until --remove is said."""
    if os.geteuid():
        pytest.skip("its lock is root's")
    old = site.put("mock/dist-build-12-34", 0)
    os.utime(old, (time.time() - 9 * 86400,) * 2)

    def command(*words: str, **changes: Any) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-B", str(TREE / "scripts/koji_clean.py"), "roots", "--config"]
        line += [str(write(site.root, **changes)), *words]
        return subprocess.run(line, capture_output=True, text=True, check=False)

    done = command("--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["dry_run"], names(Report(True, told["removed"]))) == (0, True, {old.name})
    assert command("--dry-run", dry_run=False).returncode == 0 and old.is_dir()
    with koji_clean.locked(koji_clean.LOCKS / "koji-clean-roots.lock"):
        done = command("--remove")
    assert (done.returncode, "Another koji_clean.py" in done.stderr) == (75, True)
    assert "1 removed" in command("--remove").stdout and not old.exists()
    assert command(topdir="koji").returncode == 2
