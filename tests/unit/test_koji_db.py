"""Upgrades of Koji's schema (_states/koji_db.py), on a real PostgreSQL; the steps are of the kinds that Koji's are."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import postgres

ROOT = Path(__file__).resolve().parents[2]

# The schema of 1.6, and the steps to it: a version without a file (1.5 to 1.6 is Koji's own), one that leaves
# nothing to be seen, an index alone, rows alone.
SCHEMA = """
BEGIN WORK;
CREATE TABLE users (id SERIAL PRIMARY KEY, name TEXT UNIQUE, status INTEGER, usertype INTEGER);
CREATE TABLE permissions (id SERIAL PRIMARY KEY, name TEXT UNIQUE, description TEXT);
CREATE TABLE user_perms (user_id INTEGER REFERENCES users(id), perm_id INTEGER);
CREATE TABLE build (id SERIAL PRIMARY KEY, task INTEGER, note TEXT);
CREATE INDEX build_task ON build(task);
CREATE TABLE kinds (name TEXT UNIQUE);
INSERT INTO kinds (name) VALUES ('rpm');
INSERT INTO kinds (name) VALUES ('image');
COMMIT WORK;
"""
OLDEST = """
CREATE TABLE users (id SERIAL PRIMARY KEY, name TEXT UNIQUE, status INTEGER, usertype INTEGER);
CREATE TABLE permissions (id SERIAL PRIMARY KEY, name TEXT UNIQUE, description TEXT);
CREATE TABLE user_perms (user_id INTEGER REFERENCES users(id), perm_id INTEGER);
CREATE TABLE build (id SERIAL PRIMARY KEY);
INSERT INTO build DEFAULT VALUES;
"""
STEPS = {
    "1.1-1.2": "ALTER TABLE build ADD COLUMN task INTEGER, ADD COLUMN note TEXT;",
    "1.2-1.3": "UPDATE build SET note = 'seen' WHERE note IS NULL;",
    "1.3-1.4": "DO $$ BEGIN EXECUTE 'CREATE INDEX build_task ON build(task)'; END $$;",
    "1.4-1.5": "CREATE TABLE kinds (name TEXT UNIQUE);\nINSERT INTO kinds (name) VALUES ('rpm');",
    "1.6-1.7": "-- CREATE TABLE commented (id INTEGER);\nINSERT INTO kinds (name) VALUES ('image') ON CONFLICT DO NOTHING;",
}


@pytest.fixture(scope="session")
def cluster() -> Iterator[postgres.Cluster]:
    with postgres.running() as found:
        yield found


class Place:
    """Koji's files in a directory, a database, and the state that looks at both."""

    number = 0

    def __init__(self, path: Path, cluster: postgres.Cluster) -> None:
        Place.number += 1
        self.name = f"schema{Place.number}"
        self.database = cluster.database(self.name)
        self.cluster, self.hub = cluster, "1.7.2"
        self.files, self.dumps = path / "koji", path / "dumps"
        self.files.mkdir()
        self.dumps.mkdir()
        (self.files / "schema.sql").write_text(SCHEMA)
        for name, text in STEPS.items():
            (self.files / f"schema-upgrade-{name}.sql").write_text(f"-- {name}\nBEGIN;\n{text}\nCOMMIT;\n")
        spec = importlib.util.spec_from_file_location("koji_db_states", ROOT / "_states/koji_db.py")
        assert spec and spec.loader
        module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.__salt__ = {"cmd.run_all": self.run_all}
        module.__opts__ = {"test": False}
        self.states = module

    def run_all(self, command: list[str], stdin: str = "", **_: Any) -> dict[str, Any]:
        """As the superuser of the tests' own PostgreSQL; the library says which Koji is installed."""
        if command[0] == self.states.SYSTEM_PYTHON:
            return {"retcode": 0, "stdout": self.hub, "stderr": ""}
        environment = {**os.environ, "PGHOST": str(self.cluster.directory), "PGUSER": "postgres"}
        done = subprocess.run(command[4:], input=stdin, capture_output=True, text=True, check=False, env=environment)
        return {"retcode": done.returncode, "stdout": done.stdout, "stderr": done.stderr}

    def load(self, sql: str) -> None:
        self.database.ask(sql)

    def upgrade(self, test: bool = False) -> Any:
        self.states.__opts__["test"] = test
        return self.states.upgraded(self.name, "koji", str(self.files / "schema.sql"), str(self.dumps))

    def columns(self) -> Any:
        return self.database.ask(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2"
        )


@pytest.fixture
def place(tmp_path: Path, cluster: postgres.Cluster) -> Place:
    return Place(tmp_path, cluster)


def names(*versions: str) -> list[str]:
    return [f"schema-upgrade-{version}.sql" for version in versions]


def test_current(place: Place) -> None:
    """A database that the schema itself has made."""
    place.load(SCHEMA)
    for test in (True, False):
        ret = place.upgrade(test)
        assert (ret["result"], ret["changes"]) == (True, {}), ret
    assert "the schema of Koji 1.7" in ret["comment"]
    assert not list(place.dumps.iterdir())


def test_all_steps(place: Place) -> None:
    """From the oldest: told first, dumped, taken in order, and not again."""
    place.load(OLDEST)
    plan = place.upgrade(test=True)
    assert (plan["result"], plan["changes"]["steps"]) == (None, names(*STEPS))
    assert not list(place.dumps.iterdir()) and place.database.ask("SELECT to_regclass('kinds') IS NULL") == [["t"]]
    ret = place.upgrade()
    assert (ret["result"], ret["changes"]) == (True, {"schema": "1.1 -> 1.7", "steps": names(*STEPS)}), ret
    assert place.database.ask("SELECT note FROM build") == [["seen"]]
    assert place.database.ask("SELECT name FROM kinds ORDER BY 1") == [["image"], ["rpm"]]
    assert place.database.ask("SELECT tableowner FROM pg_tables WHERE tablename = 'kinds'") == [["koji"]]
    (dump,) = place.dumps.iterdir()
    assert dump.name.startswith(f"{place.name}-1.1-") and dump.suffix == ".dump" and str(dump) in ret["comment"]
    listed = subprocess.run(["pg_restore", "--list", dump], check=True, capture_output=True, text=True).stdout
    assert "TABLE public build" in listed and "kinds" not in listed
    assert place.upgrade()["changes"] == {}


@pytest.mark.parametrize(("taken", "left"), [(1, 4), (3, 2), (4, 1)])
def test_from_in_between(place: Place, taken: int, left: int) -> None:
    """Where a database is, it says itself: by columns, by an index, by rows."""
    place.load(OLDEST + "".join(list(STEPS.values())[:taken]))
    assert place.upgrade()["changes"]["steps"] == names(*list(STEPS)[-left:])
    assert place.columns()[:3] == [["build", "id"], ["build", "note"], ["build", "task"]]


def test_step_that_leaves_nothing_behind(place: Place) -> None:
    """Whether it was taken cannot be seen: it is taken with the next that leaves something."""
    place.load(OLDEST + STEPS["1.1-1.2"] + STEPS["1.2-1.3"])
    assert place.upgrade()["changes"]["steps"][0] == names("1.2-1.3")[0]
    place.hub = "1.8.0"
    (place.files / "schema-upgrade-1.7-1.8.sql").write_text("BEGIN; UPDATE build SET note = 'x'; COMMIT;")
    assert place.upgrade()["changes"] == {}, "the last, of which nothing can be seen"


@pytest.mark.parametrize("gone", ["1.3-1.4", "1.4-1.5", "1.6-1.7"])
def test_missing_step(place: Place, gone: str) -> None:
    """Refused with the file's name, in a plan too, and nothing is changed."""
    place.load(OLDEST)
    (place.files / names(gone)[0]).unlink()
    before = place.columns()
    for test in (True, False):
        ret = place.upgrade(test)
        assert ret["result"] is False and ret["changes"] == {}
        assert f": {place.files}/schema-upgrade-{gone}.sql is missing" in ret["comment"], ret
        assert "was not changed" in ret["comment"]
    assert place.columns() == before and not list(place.dumps.iterdir())


def test_missing_first_step(place: Place) -> None:
    place.load(OLDEST)
    (place.files / names("1.1-1.2")[0]).unlink()
    ret = place.upgrade()
    assert ret["result"] is False and "it lacks column build.note, column build.task" in ret["comment"], ret


def test_hub_that_is_newer_than_its_steps(place: Place) -> None:
    """The hub's own schema has more, and no file says how."""
    place.load(SCHEMA)
    place.hub = "1.8.0"
    (place.files / "schema.sql").write_text(SCHEMA.replace("note TEXT", "note TEXT, extra TEXT"))
    ret = place.upgrade()
    assert ret["result"] is False and "schema-upgrade-1.7-1.8.sql is missing" in ret["comment"]


def test_database_that_somebody_has_changed(place: Place) -> None:
    """Steps are not guessed at where Koji's cannot have left this."""
    place.load(SCHEMA + "ALTER TABLE build DROP COLUMN note;")
    ret = place.upgrade()
    assert ret["result"] is False and "lacks column build.note, which schema-upgrade-1.1-1.2.sql brings" in ret["comment"]


def test_index_that_a_site_has_dropped(place: Place) -> None:
    place.load(SCHEMA + "DROP INDEX build_task; CREATE TABLE site (id INTEGER); ALTER TABLE build ADD COLUMN site TEXT;")
    assert place.upgrade()["result"] is True and place.upgrade()["changes"] == {}


def test_step_that_fails(place: Place) -> None:
    """All or nothing; and a sentence."""
    place.load(OLDEST)
    with (place.files / names("1.6-1.7")[0]).open("a") as stream:
        stream.write("ALTER TABLE absent ADD COLUMN x INTEGER;\n")
    before = place.columns()
    ret = place.upgrade()
    assert ret["result"] is False and "was not upgraded, and is as it was" in ret["comment"], ret
    assert place.columns() == before and len(list(place.dumps.iterdir())) == 1


def test_no_dump_no_upgrade(place: Place) -> None:
    place.load(OLDEST)
    place.dumps.rmdir()
    before = place.columns()
    ret = place.upgrade()
    assert ret["result"] is False and "made no dump" in ret["comment"]
    assert place.columns() == before


def test_unknown_version(place: Place) -> None:
    place.load(SCHEMA)
    place.hub = ""
    assert "which version of Koji" in place.upgrade()["comment"]


def test_settings_that_wait_for_a_restart(place: Place) -> None:
    """One that left the files, and one that came: a reload has to leave both, and neither is a mistake."""
    config = place.cluster.directory / "data/postgresql.conf"
    before = config.read_text()
    assert "\ndynamic_shared_memory_type" in before
    reloads: list[str] = []

    def reload(name: str) -> None:
        reloads.append(name)
        place.states._psql("postgres", "SELECT pg_reload_conf()")

    place.states.__salt__["service.reload"] = reload
    try:
        kept = before.replace("\ndynamic_shared_memory_type", "\n#") + "\nmax_connections = 77\n"
        config.write_text(kept)
        ret = place.states.current("postgresql", [str(config)], restart=False)
        assert (ret["result"], ret["changes"]) == (True, {"postgresql": "reloaded"}), ret
        config.write_text(kept + "work_mem = plenty\n")
        ret = place.states.current("postgresql", [str(config)], restart=False)
        assert ret["result"] is False and f"{config}: work_mem" in ret["comment"], ret
        assert "max_connections" not in ret["comment"] and "dynamic" not in ret["comment"]
    finally:
        config.write_text(before)
        place.states._psql("postgres", "SELECT pg_reload_conf()")
    assert len(reloads) == 2
