"""koji_backup.py and koji_restore.py on a real database, real repositories, real keys."""

from __future__ import annotations

import dataclasses
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import postgres
from goose import koji_backup as backup
from goose import koji_backup_database as db
from goose import koji_backup_files as files
from goose import koji_backup_seal as seals
from goose import koji_restore as restores
from goose.koji_backup_config import BackupError, Config, Keep, Part, locked, need_place

TREE = Path(__file__).resolve().parents[2]
HOST = "hub.goose.example"


def quiet(line: str) -> None:
    pass


def still(number: int, count: int) -> None:
    pass


@pytest.fixture(autouse=True)
def no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk of the machine has others to serve."""
    monkeypatch.setattr(files, "flush", lambda path: None)


@pytest.fixture(scope="session")
def cluster() -> Iterator[postgres.Cluster]:
    with postgres.running() as found:
        yield found


def git(*words: str, **kwargs: Any) -> str:
    command = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, **kwargs).stdout.strip()


class Killed(Exception):
    """What kill -9 is here."""


class Site:
    """A hub with its volume, and repositories beside it; each test has a database of its own."""

    number = 0

    def __init__(self, path: Path, cluster: postgres.Cluster, kinds: str = "database volume git tree") -> None:
        Site.number += 1
        self.path, self.cluster = path, cluster
        self.volume, self.git, self.tree = path / "mnt/koji", path / "git", path / "archives"
        for directory in (self.volume / "packages", self.git, self.tree, path / "backups"):
            directory.mkdir(parents=True)
        self.parts = {}
        if "database" in kinds:
            self.database = self.new_database()
            self.parts["database"] = Part("database", "database", path / "hub.conf")
            self.parts["volume"] = Part("volume", "volume", self.volume)
        if "git" in kinds:
            self.parts["git"] = Part("git", "git", self.git)
        if "tree" in kinds:
            self.parts["lookaside"] = Part("lookaside", "tree", self.tree)
        self.config = Config(HOST, path / "backups", False, Keep(), (), self.parts)
        self.config.own.mkdir()
        self.clock = 1_700_000_000.0

    def new_database(self) -> db.Database:
        """Another one, which the hub then has."""
        Site.number += 1
        found = self.cluster.database(f"koji{Site.number}", postgres.SCHEMA)
        words = " ".join(f"{key}={value}" for key, value in found.settings.items())
        (self.path / "hub.conf").write_text(f"[hub]\nDBConnectionString = {words}\n")
        self.database = found
        return found

    def build(self, name: str, state: int = 1, volume: str = "DEFAULT", sigkey: str = "") -> Path:
        """A build with one RPM, on the volume and in the database; the RPM."""
        top = self.volume if volume == "DEFAULT" else self.volume / "vol" / volume
        place = top / "packages" / name / "1.0" / "1"
        rpm = place / "noarch" / f"{name}-1.0-1.noarch.rpm"
        rpm.parent.mkdir(parents=True)
        rpm.write_bytes(name.encode() * 1000)
        self.database.ask(f"""
            INSERT INTO volume (name) VALUES ('{volume}') ON CONFLICT DO NOTHING;
            INSERT INTO package (name) VALUES ('{name}');
            INSERT INTO build (volume_id, pkg_id, version, release, state)
                SELECT v.id, p.id, '1.0', '1', {state} FROM volume v, package p
                WHERE v.name = '{volume}' AND p.name = '{name}';
            INSERT INTO rpminfo (build_id, name, version, release, arch, external_repo_id, size)
                SELECT max(id), '{name}', '1.0', '1', 'noarch', 0, {len(name) * 1000} FROM build;
            INSERT INTO task (state, request) VALUES (2, E'a\\tb\\nc \\\\.');
            INSERT INTO repo (state) VALUES (1);""")
        if sigkey:
            self.database.ask(f"INSERT INTO rpmsigs SELECT max(id), '{sigkey}', 'x' FROM rpminfo")
            header = place / "data/sigcache" / sigkey / "noarch" / f"{rpm.name}.sig"
            header.parent.mkdir(parents=True)
            header.write_bytes(b"signature")
        return rpm

    def commit(self, repository: str, text: str) -> str:
        """A commit in a bare repository; its id."""
        path = self.git / f"{repository}.git"
        if not path.exists():
            git("init", "-q", "--bare", str(path))
        at = ["--git-dir", str(path)]
        blob = git(*at, "hash-object", "-w", "--stdin", input=text)
        tree = git(*at, "mktree", input=f"100644 blob {blob}\tsources\n")
        commit = git(*at, "commit-tree", tree, input="x")
        git(*at, "update-ref", "refs/heads/main", commit)
        return commit

    def run(self, **kwargs: Any) -> backup.Report:
        self.clock += 86400
        with locked(self.config):
            return backup.make(self.config, quiet, still, now=self.clock, **kwargs)

    def newest(self) -> backup.Generation:
        return backup.choose(self.config.own, "")

    def verify(self, hashed: bool = True) -> backup.Verdict:
        return backup.verify(self.newest(), self.parts, hashed, still)

    def verify_live(self) -> backup.Verdict:
        return backup.verify_live(self.newest(), self.parts, still)

    def restore(self, *names: str, **kwargs: Any) -> restores.Report:
        parts = [self.parts[name] for name in names or self.parts]
        return restores.restore(self.config, self.newest(), parts, **kwargs)


@pytest.fixture
def site(tmp_path: Path, cluster: postgres.Cluster) -> Site:
    return Site(tmp_path, cluster)


def content(root: Path) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name, _ in files.walk(root)}


# Making and judging


def test_generation(site: Site) -> None:
    """All parts, in one directory; and what is in it is told."""
    site.build("bash", sigkey="abcd1234")
    site.build("zlib", volume="slow")
    site.build("half", state=0)
    site.build("lost", state=2)
    commit = site.commit("rpms/bash", "1")
    (site.tree / "a.tar").write_bytes(b"archive")
    (site.volume / "work").mkdir()
    (site.volume / "work/x").write_bytes(b"not of it")
    report = site.run()
    assert (report.status, report.missing) == (0, [])
    newest = site.newest()
    there = content(newest.path)
    assert "volume/packages/bash/1.0/1/noarch/bash-1.0-1.noarch.rpm" in there
    assert "volume/vol/slow/packages/zlib/1.0/1/noarch/zlib-1.0-1.noarch.rpm" in there
    assert "volume/work/x" not in there
    assert there["lookaside/a.tar"] == b"archive"
    assert git("--git-dir", str(newest.path / "git/rpms/bash.git"), "rev-parse", "main") == commit
    noted = newest.about["koji"]
    assert (noted["complete_builds"], noted["rpms"], noted["counts"]["build"]) == (2, 2, 4)
    assert noted["event"] == int(site.database.ask("SELECT max(id) FROM events")[0][0]) > 0
    assert newest.path.stat().st_mode & 0o777 == 0o700
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=newest.path, check=True)
    verdict = site.verify()
    assert (verdict.good, verdict.complete_builds, verdict.rpms, verdict.event) == (True, 2, 2, noted["event"])
    assert not (site.config.own / ".partial").exists()


def test_sessions_are_left_out(site: Site) -> None:
    """They are keys to the hub."""
    site.database.ask("INSERT INTO sessions (user_id, key) VALUES (1, 'canary-session')")
    site.run()
    dump = site.newest().path / "database.dump"
    text = subprocess.run(["pg_restore", "--file=-", dump], check=True, capture_output=True, text=True).stdout
    assert "canary-session" not in text and "CREATE TABLE public.sessions" in text


def test_passwords_are_told_of(site: Site) -> None:
    assert site.run().notes == []
    site.database.ask("UPDATE users SET password = 'x'")
    assert "1 users have a password" in site.run().notes[0]


def test_what_is_alike_is_shared(site: Site) -> None:
    """A second generation costs what is new, and hashes no more than that."""
    old = site.build("bash")
    site.run()
    first = site.newest()
    site.build("zlib")
    report = site.run()
    second = site.newest()
    name = old.relative_to(site.volume)
    assert (second.path / "volume" / name).stat().st_ino == (first.path / "volume" / name).stat().st_ino
    assert report.new_files == 2, "the dump and one RPM"
    assert site.verify().good


def test_build_that_is_deleted_meanwhile(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the dump and the files: both are taken again, and then agree."""
    site.build("bash")
    rpm = site.build("zlib")
    copy = files.copy
    said: list[str] = []

    def deleting(part: Part, *args: Any) -> None:
        if part.kind == "volume" and rpm.exists():
            site.database.ask("UPDATE build SET state = 2 WHERE id = 2")
            rpm.unlink()
        copy(part, *args)

    monkeypatch.setattr(files, "copy", deleting)
    report = backup.make(site.config, said.append, still, now=site.clock)
    assert (report.missing, report.status) == ([], 0)
    assert any("zlib-1.0-1.noarch.rpm" in line for line in said)
    assert site.newest().about["koji"]["complete_builds"] == 1
    assert site.verify().good


def test_volume_that_lacks_a_build(site: Site) -> None:
    """Kept, because it is the best that there is, and told of, by the run and by each check."""
    rpm = site.build("bash", sigkey="abcd1234")
    site.build("zlib").write_bytes(b"short")
    rpm.unlink()
    header = next(site.volume.rglob("*.sig"))
    header.unlink()
    report = site.run()
    assert report.status == 1
    assert sorted(report.missing) == sorted(site.verify().builds)
    assert sorted(Path(name).name for name in report.missing) == [rpm.name, header.name, "zlib-1.0-1.noarch.rpm"]


def damage(path: Path) -> None:
    """Flip one bit, and leave size and times as they are."""
    status = path.stat()
    text = bytearray(path.read_bytes())
    text[len(text) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(text)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    path.chmod(status.st_mode & 0o777)


@pytest.mark.parametrize("name", ["volume/packages/bash/1.0/1/noarch/bash-1.0-1.noarch.rpm", "lookaside/a.tar",
                                  "database.dump", "SHA256SUMS"])  # fmt: skip
def test_flipped_bit(site: Site, name: str) -> None:
    site.build("bash")
    (site.tree / "a.tar").write_bytes(b"archive")
    site.run()
    damage(site.newest().path / name)
    verdict = site.verify()
    assert not verdict.good and verdict.status == 1
    assert name in verdict.damaged or any(name in line for line in verdict.failures)


def test_damage_heals(site: Site) -> None:
    """A later generation shares the damaged file, unless it is told to look."""
    name = "volume/packages/bash/1.0/1/noarch/bash-1.0-1.noarch.rpm"
    site.build("bash")
    site.run()
    damage(site.newest().path / name)
    site.run()
    assert site.verify().damaged == [name]
    site.run(checksum=True)
    assert site.verify().good


def test_rot_of_what_was_backed_up(site: Site) -> None:
    """Bits of the host's own files change behind its back: found by what the backup knows, and brought back."""
    rpm = site.build("bash")
    (site.tree / "a.tar").write_bytes(b"archive")
    site.commit("rpms/bash", "text")
    site.run()
    assert site.verify_live().good and site.verify_live().files > 3
    whole = rpm.read_bytes()
    damage(rpm)
    site.run()
    (site.tree / "a.tar").write_bytes(b"another, of today")
    verdict = site.verify_live()
    assert (verdict.damaged, verdict.status) == ([str(rpm)], 1)
    report = site.restore("volume", over=HOST)
    assert report.wrong == [] and rpm.read_bytes() == whole
    assert site.verify_live().good


def test_rot_of_a_repository(site: Site) -> None:
    commit = site.commit("rpms/bash", "text")
    site.run()
    loose = site.git / "rpms/bash.git/objects" / commit[:2] / commit[2:]
    loose.chmod(0o600)
    damage(loose)
    verdict = site.verify_live()
    assert str(loose) in verdict.damaged and "bash.git is not whole" in verdict.failures[0]


def test_missing_and_foreign_files(site: Site) -> None:
    rpm = site.build("bash")
    site.run()
    newest = site.newest().path
    name = f"volume/{rpm.relative_to(site.volume)}"
    (newest / name).unlink()
    (newest / "volume/foreign").write_bytes(b"x")
    for hashed in (True, False):
        verdict = site.verify(hashed)
        assert (verdict.missing, verdict.builds, verdict.unknown) == ([name], [name[len("volume/"):]], ["volume/foreign"])


def test_rows_of_another_dump(site: Site) -> None:
    """The dump of another moment, with sums to match: the rows betray it."""
    site.run()
    site.build("bash")
    newest = site.newest()
    site.database.dump(newest.path / "database.dump")
    sums = {**newest.sums(), "database.dump": files.sha256(newest.path / "database.dump")}
    files.write_sums(newest.path / "SHA256SUMS", sums)
    about = {**newest.about, "sums": files.sha256(newest.path / "SHA256SUMS")}
    (newest.path / "generation.json").write_text(json.dumps(about))
    verdict = site.verify()
    assert not verdict.damaged and "holds other rows" in verdict.failures[0] and verdict.builds


def test_repository_that_changes_meanwhile(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A push and a repack between the two halves of the copy; what has names has its objects."""
    for number in range(5):
        site.commit("rpms/bash", str(number))
    rsync = files.rsync
    calls = []

    def meanwhile(source: Path, target: Path, options: Any) -> None:
        if source == site.git:
            calls.append(options)
            if len(calls) == 2:
                site.commit("rpms/bash", "pushed")
                git("--git-dir", str(site.git / "rpms/bash.git"), "gc", "-q", "--prune=now")
        rsync(source, target, options)

    monkeypatch.setattr(files, "rsync", meanwhile)
    site.run()
    assert len(calls) > 2, "the old commit was named and is gone: it had to be copied again"
    for repository in files.repositories(site.newest().path / "git"):
        assert files.fsck(repository) == ""
    assert site.verify().good


def test_damaged_repository(site: Site) -> None:
    site.commit("rpms/bash", "1")
    site.run()
    objects = [path for path in (site.newest().path / "git/rpms/bash.git/objects").glob("??/*")]
    objects[0].unlink()
    assert "rpms/bash.git is not whole" in site.verify(hashed=False).failures[0]
    next(path for path in (site.git / "rpms/bash.git/objects").glob("??/*")).unlink()
    with pytest.raises(BackupError, match="rpms/bash.git is not whole"):
        site.run()
    assert len(backup.generations(site.config.own)) == 1


def test_killed_run(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves no generation, and the next run goes on from what is there."""
    site.build("bash")
    site.commit("rpms/bash", "1")

    def killed(*args: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "hash_all", killed)
        with pytest.raises(KeyboardInterrupt):
            site.run()
    partial = site.config.own / ".partial"
    copied = next(partial.rglob("bash-1.0-1.noarch.rpm"))
    number = copied.stat().st_ino
    (partial / "SHA256SUMS").write_text("of the killed run")
    (partial / "ca.tar.gpg").write_text("a part that this host no longer has")
    assert backup.generations(site.config.own) == []
    site.run()
    assert next(site.newest().path.rglob("bash-1.0-1.noarch.rpm")).stat().st_ino == number
    assert site.verify().good


def test_names_that_sha256sum_escapes(tmp_path: Path) -> None:
    for name in ("a\nb", "a\\b", "\\n", "ä \udcff"):
        (tmp_path / name).write_bytes(name.encode("utf-8", "surrogateescape"))
    hashed = files.hash_all(tmp_path, None, still)
    files.write_sums(tmp_path / "SHA256SUMS", hashed.sums)
    assert files.read_sums(tmp_path / "SHA256SUMS") == hashed.sums
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path, check=True)


# Which stay


def names(*days: str) -> list[str]:
    return [f"{day}T013000Z" for day in days]


def test_kept() -> None:
    """The newest of each day, week and month; gaps do not count, and the newest of all always stays."""
    days = [f"2026-{month:02}-{day:02}" for month in range(1, 13) for day in range(1, 29)]
    stay = backup.kept(names(*days), Keep(3, 3, 4))
    assert sorted(stay) == names("2026-09-28", "2026-10-28", "2026-11-28", "2026-12-20", "2026-12-26", "2026-12-27",
                                 "2026-12-28")  # fmt: skip
    twice = ["2026-01-01T000000Z", "2026-01-01T120000Z"]
    assert backup.kept(twice, Keep(5, 0, 0)) == {twice[1]}
    assert backup.kept(twice, Keep(0, 0, 0)) == {twice[1]}
    assert backup.kept([], Keep()) == set()


def test_prune(tmp_path: Path, cluster: postgres.Cluster) -> None:
    site = Site(tmp_path, cluster, "tree")
    site.config = dataclasses.replace(site.config, keep=Keep(2, 0, 0))
    made = [site.run().generation for _ in range(3)]
    assert [each.name for each in backup.generations(site.config.own)] == made[1:]
    (site.config.own / f".removed-{made[0]}").mkdir()
    assert backup.prune(dataclasses.replace(site.config, keep=Keep(1, 0, 0)), dry_run=True) == [made[1]]
    assert site.run().removed == [made[1]]
    assert not list(site.config.own.glob(".removed-*"))


# Restoring


def test_restore(site: Site) -> None:
    """Onto an empty hub of the same schema: the same rows, the same files, new ids after the old ones."""
    site.build("bash", sigkey="abcd1234")
    site.build("zlib", volume="slow")
    site.commit("rpms/bash", "1")
    (site.tree / "a.tar").write_bytes(b"archive")
    site.run()
    before = {root: content(root) for root in (site.volume, site.git, site.tree)}
    old = site.database
    for root in before:
        subprocess.run(["rm", "-rf", root], check=True)
        root.mkdir()
    site.new_database()
    site.database.ask("INSERT INTO users (name) VALUES ('made by the highstate'); INSERT INTO tag (name) VALUES ('x')")
    report = site.restore()
    assert (report.wrong, report.status, report.complete_builds, report.rpms) == ([], 0, 2, 2)
    assert {root: content(root) for root in before} == before
    tables = sorted(report.counts)
    assert site.database.counts(tables) == old.counts(tables) == report.counts
    for query in ("SELECT * FROM task ORDER BY id", "SELECT * FROM rpmsigs", "SELECT name FROM users",
                  "SELECT * FROM complete"):  # fmt: skip
        assert site.database.ask(query) == old.ask(query)
    assert site.database.event() == old.event() == report.event
    assert site.database.ask("SELECT count(*) FROM repo WHERE state <> 3") == [["0"]]
    assert site.database.ask("SELECT get_event()") == [[str(report.event + 1)]]
    site.build("new")


def test_occupied_hub(site: Site) -> None:
    """Nothing is replaced, unless the host is named."""
    rpm = site.build("bash")
    (site.tree / "a.tar").write_bytes(b"archive")
    site.run()
    (site.tree / "later.tar").write_bytes(b"later")
    site.build("later")
    with pytest.raises(BackupError, match=rf"Koji's database has 2 builds; .* is not empty.*--over {HOST}") as raised:
        site.restore()
    assert raised.value.status == 2
    assert site.database.builds() == 2
    rpm.unlink()
    report = site.restore(over=HOST)
    assert report.wrong == [] and rpm.exists() and site.database.builds() == 1
    assert (site.tree / "later.tar").exists(), "nothing is deleted"


def test_dry_run(site: Site) -> None:
    site.build("bash")
    site.run()
    with pytest.raises(BackupError, match="is not empty"):
        site.restore(dry_run=True)
    site.new_database()
    report = site.restore("database", "volume", dry_run=True)
    assert (report.complete_builds, site.database.builds()) == (1, 0)


def test_database_of_another_version(site: Site) -> None:
    """What the highstate has made goes, whichever tables these are."""
    site.build("bash")
    site.run()
    site.new_database()
    site.database.ask("CREATE TABLE newer (id SERIAL, build_id INTEGER REFERENCES build(id)); DROP TABLE rpmsigs")
    assert site.restore("database", "volume").wrong == []
    assert site.database.ask("SELECT to_regclass('public.newer') IS NULL") == [["t"]]


def test_restore_is_whole_or_not_at_all(site: Site) -> None:
    """A dump that breaks off changes nothing."""
    for number in range(5):
        site.build(f"p{number}")
    site.run()
    site.new_database()
    site.database.ask("INSERT INTO tag (name) VALUES ('kept')")
    dump = site.newest().path / "database.dump"
    with pytest.raises(BackupError, match="cannot be read|does not take"):
        short = site.path / "short.dump"
        short.write_bytes(dump.read_bytes()[:-300])
        site.database.restore(short)
    assert site.database.ask("SELECT name FROM tag") == [["kept"]]
    assert site.database.ask("SELECT name FROM users") == [["kojiadmin"]]
    site.database.ask("CREATE DOMAIN even AS INTEGER CHECK (VALUE % 2 = 0)")
    assert site.restore("database", "volume").wrong == []


def test_damaged_backup_comes_back_told(site: Site) -> None:
    rpm = site.build("bash")
    site.run()
    damage(site.newest().path / "volume" / rpm.relative_to(site.volume))
    subprocess.run(["rm", "-rf", site.volume / "packages"], check=True)
    site.new_database()
    report = site.restore("volume", "database")
    assert report.status == 1 and f"{rpm} is not what was backed up" in report.wrong[0]


def test_services_of_a_killed_run(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has stopped them, and could start none; the next run finds them stopped, and starts them."""
    site.build("bash")
    site.run()
    ran: list[list[str]] = []
    active = True
    monkeypatch.setattr(restores, "run", ran.append)
    monkeypatch.setattr(restores, "_is_active", lambda unit: active)
    part = Part("volume", "volume", site.volume, services=("apache2",))

    def killed(*args: Any) -> None:
        raise Killed

    with monkeypatch.context() as context:
        context.setattr(restores, "_tree", killed)
        # kill -9 runs no `finally`.
        context.setattr(restores, "run", lambda words: ran.append(words) if "stop" in words else killed())
        with pytest.raises(Killed):
            restores.restore(site.config, site.newest(), [part])
    active = False
    # Of another part they are no business, and are not forgotten.
    restores.restore(site.config, site.newest(), [Part("git", "git", site.git)], over=HOST)
    restores.restore(site.config, site.newest(), [part])
    assert ran == [["systemctl", "stop", "apache2"]] * 2 + [["systemctl", "start", "apache2"]]
    ran.clear()
    restores.restore(site.config, site.newest(), [part])
    assert ran == []


def test_parts_that_are_not_there(site: Site) -> None:
    site.run()
    with pytest.raises(BackupError, match="has no part ca: it has database, git, lookaside, volume"):
        restores.restore(site.config, site.newest(), [Part("ca", "sealed")])
    with pytest.raises(BackupError, match="no generation 2020"):
        backup.choose(site.config.own, "2020-01-01T000000Z")
    with pytest.raises(BackupError, match="no generation yet"):
        backup.choose(site.config.path / "other", "")


def test_place(tmp_path: Path) -> None:
    config = Config(HOST, tmp_path, True, Keep(), (), {})
    with pytest.raises(BackupError, match="Nothing is mounted"):
        need_place(config)
    need_place(dataclasses.replace(config, mounted=False))


# The hub's configuration


def test_settings(tmp_path: Path) -> None:
    conf = tmp_path / "hub.conf"
    conf.write_text("[hub]\nDBConnectionString = dbname=koji user=koji password='a b%c' host=db\nDBName = other\n")
    assert db.settings(conf) == {"dbname": "koji", "user": "koji", "password": "a b%c", "host": "db"}
    conf.write_text("[hub]\nDBName = koji\nDBUser = k\nDBPass = x\n")
    (tmp_path / "hub.conf.d").mkdir()
    (tmp_path / "hub.conf.d/x.conf").write_text("[hub]\nDBHost = db\nDBUser = other\n[policy]\ntag =\n    all :: allow\n")
    assert db.settings(conf) == {"dbname": "koji", "user": "k", "password": "x", "host": "db"}
    conf.write_text("[hub]\n")
    for text, said in (("[hub]\n", "names no database"), ("x", "cannot be read"),
                       ("[hub]\nDBConnectionString = postgresql://x/y\n", "is a URL")):  # fmt: skip
        conf.write_text(text)
        with pytest.raises(BackupError, match=said):
            db.settings(conf)
    with pytest.raises(BackupError, match="cannot be read"):
        db.settings(tmp_path / "absent/hub.conf")


def test_password_is_in_no_argument(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    run = db.run

    def watching(command: Any, **kwargs: Any) -> Any:
        seen.extend(command)
        seen.extend(f"{key}={value}" for key, value in (kwargs.get("env") or {}).items())
        return run(command, **kwargs)

    monkeypatch.setattr(db, "run", watching)
    secret = db.Database({**site.database.settings, "password": "canary-password"})
    secret.ask("SELECT 1")
    secret.dump(site.path / "x.dump")
    assert seen and "canary-password" not in " ".join(seen)


def test_no_database_of_koji(site: Site, cluster: postgres.Cluster) -> None:
    other = cluster.database("other", "CREATE TABLE build (id INTEGER)")
    other.dump(site.path / "x.dump")
    with pytest.raises(BackupError, match="no database of Koji's: it lacks events"):
        db.contents(site.path / "x.dump")
    with pytest.raises(BackupError, match="does not answer"):
        db.Database({"dbname": "absent", "host": str(cluster.directory), "user": "koji"}).builds()


# Secrets


@pytest.fixture(scope="session")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A directory with a secret key, and a file with the public one."""
    home = tmp_path_factory.mktemp("g")
    home.chmod(0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]
    subprocess.run([*gpg, "--quick-generate-key", "safe", "default", "default", "never"], check=True, capture_output=True)
    public = home / "public.asc"
    public.write_bytes(subprocess.run([*gpg, "--armor", "--export"], check=True, capture_output=True).stdout)
    yield home, public
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True)


def sealed_part(tmp_path: Path) -> Part:
    home, database = tmp_path / "secret/gnupg", tmp_path / "secret/server.sqlite"
    home.mkdir(parents=True)
    (home / "private").write_text("canary-key")
    (home / "private").chmod(0o600)
    (home / ".#lk0x1234").write_text("a lock")
    (home / "current").symlink_to("private")
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE keys (name TEXT)")
    connection.execute("INSERT INTO keys VALUES ('canary-row')")
    connection.commit()
    return Part("sigul", "sealed", paths=(home,), sqlite=(database,))


def test_sealed(tmp_path: Path, keyring: tuple[Path, Path]) -> None:
    """Nothing of it is readable, and what is in the database's journal is in the copy too."""
    home, public = keyring
    part = sealed_part(tmp_path)
    target = tmp_path / "sigul.tar.gpg"
    seals.seal(part, target, [public])
    assert b"canary" not in target.read_bytes()
    assert len(seals.sealed_for(target)) == 1
    into = tmp_path / "into"
    into.mkdir()
    assert seals.unseal(target, part, into, home, False) == 3
    gnupg = into / str(part.paths[0]).lstrip("/")
    assert content(gnupg) == {"private": b"canary-key"}
    assert os.readlink(gnupg / "current") == "private"
    assert (gnupg / "private").stat().st_mode & 0o777 == 0o600
    rows = sqlite3.connect(into / str(part.sqlite[0]).lstrip("/")).execute("SELECT name FROM keys").fetchall()
    assert rows == [("canary-row",)]


def test_sealed_for_somebody_else(tmp_path: Path, keyring: tuple[Path, Path]) -> None:
    _, public = keyring
    part = sealed_part(tmp_path)
    target = tmp_path / "sigul.tar.gpg"
    seals.seal(part, target, [public])
    empty = tmp_path / "h"
    empty.mkdir(mode=0o700)
    with pytest.raises(BackupError, match="was not opened: .*--gnupg-home") as raised:
        seals.unseal(target, part, tmp_path, empty, False)
    assert raised.value.status == 3
    with pytest.raises(BackupError, match="recipients"):
        seals.seal(part, target, [])
    (tmp_path / "x.asc").write_text("no key")
    with pytest.raises(BackupError, match="sigul was not sealed"):
        seals.seal(part, target, [tmp_path / "x.asc"])
    target.write_bytes(b"secrets in clear")
    with pytest.raises(BackupError, match="not encrypted"):
        seals.sealed_for(target)
    with pytest.raises(BackupError, match="is missing, which is to be backed up"):
        seals.seal(dataclasses.replace(part, paths=(tmp_path / "absent",)), target, [public])


def test_forged_archive(tmp_path: Path, keyring: tuple[Path, Path]) -> None:
    """Anybody can encrypt for a public key: what is not the part's own is not unpacked."""
    home, public = keyring
    evil = tmp_path / "etc"
    evil.mkdir()
    (evil / "passwd").write_text("x")
    target = tmp_path / "forged.tar.gpg"
    seals.seal(Part("sigul", "sealed", paths=(evil,)), target, [public])
    into = tmp_path / "into"
    into.mkdir()
    with pytest.raises(BackupError, match="which this host's part has not"):
        seals.unseal(target, sealed_part(tmp_path), into, home, False)
    assert not content(into)


@pytest.mark.parametrize("points_to", ["/etc", "../../../etc", "x/../../../etc"])
def test_forged_link(tmp_path: Path, keyring: tuple[Path, Path], points_to: str) -> None:
    """Through a link out of the part's own, the next member would write anywhere."""
    home, public = keyring
    part = sealed_part(tmp_path)
    (part.paths[0] / "out").symlink_to(points_to)
    target = tmp_path / "forged.tar.gpg"
    seals.seal(part, target, [public])
    into = tmp_path / "into"
    into.mkdir()
    with pytest.raises(BackupError, match="out', which this host's part has not"):
        seals.unseal(target, part, into, home, False)


def test_sealed_generation(tmp_path: Path, cluster: postgres.Cluster, keyring: tuple[Path, Path]) -> None:
    """A host with secrets alone; its check finds a part that is not sealed."""
    site = Site(tmp_path, cluster, "")
    part = sealed_part(tmp_path)
    site.parts = {"sigul": part}
    site.config = dataclasses.replace(site.config, parts=site.parts, recipients=(keyring[1],))
    site.run()
    assert site.verify().good
    with pytest.raises(BackupError, match="gnupg is there"):
        site.restore(gnupg_home=keyring[0])
    (part.paths[0] / "private").write_text("overwritten")
    assert site.restore(over=HOST, gnupg_home=keyring[0]).files == 3
    assert (part.paths[0] / "private").read_text() == "canary-key"
    damage(site.newest().path / "sigul.tar.gpg")
    assert site.verify().damaged == ["sigul.tar.gpg"]


# The commands


def command(site: Site, program: str, *words: str) -> subprocess.CompletedProcess[str]:
    config = site.path / "backup.json"
    parts = {
        name: {"kind": part.kind, "path": str(part.path)} for name, part in site.parts.items()
    }
    given = {"host": HOST, "path": str(site.config.path), "mounted": False, "keep": {"daily": 7, "weekly": 1, "monthly": 1},
             "recipients": [], "parts": parts}  # fmt: skip
    config.write_text(json.dumps(given))
    line = [sys.executable, "-B", str(TREE / "scripts" / program), "--config", str(config), *words]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_commands(site: Site) -> None:
    site.build("bash")
    assert command(site, "koji_backup.py", "verify").returncode == 2
    told = json.loads(command(site, "koji_backup.py", "run", "--dry-run", "--json").stdout)
    assert told == {"parts": ["database", "git", "lookaside", "volume"], "removed": []}
    assert not backup.generations(site.config.own)
    told = json.loads(command(site, "koji_backup.py", "run", "--json").stdout)
    assert told["files"] == 2
    done = command(site, "koji_backup.py", "verify", "--json")
    assert (done.returncode, json.loads(done.stdout)["good"]) == (0, True)
    assert "1 builds at event" in command(site, "koji_backup.py", "list").stdout
    done = command(site, "koji_backup.py", "verify")
    assert "1 builds with 1 RPMs" in done.stdout and "\r" not in done.stdout + done.stderr
    done = command(site, "koji_restore.py")
    assert (done.returncode, "--over" in done.stderr) == (2, True)
    assert "names other" in command(site, "koji_restore.py", "--over", "other").stderr
    assert "no part ca" in command(site, "koji_restore.py", "--part", "ca").stderr
    done = command(site, "koji_restore.py", "--part", "volume", "--part", "database", "--over", HOST, "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["complete_builds"], told["wrong"]) == (0, 1, [])
    done = command(site, "koji_restore.py", "--into", str(site.path / "into"))
    assert done.returncode == 0, done.stderr
    assert "database.dump" in content(site.path / "into")
    assert command(site, "koji_restore.py", "--into", str(site.path / "into")).returncode == 2
    assert command(site, "koji_backup.py", "verify", "--live").returncode == 0
    assert "leave out" in command(site, "koji_backup.py", "verify", "--live", "--no-hash").stderr
    damage(site.newest().path / "database.dump")
    done = command(site, "koji_backup.py", "verify")
    assert (done.returncode, "NOT GOOD" in done.stdout) == (1, True)


def test_one_at_a_time(site: Site) -> None:
    site.run()
    with locked(site.config):
        for words in (("koji_backup.py", "run"), ("koji_restore.py", "--over", HOST)):
            done = command(site, *words)
            assert (done.returncode, "Another run holds" in done.stderr) == (75, True)
    assert command(site, "koji_backup.py", "--config", "/nowhere", "list").returncode == 2
