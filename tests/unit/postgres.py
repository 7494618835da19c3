"""A PostgreSQL of the tests' own: a cluster in a directory, reached by its socket alone."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from goose.koji_backup_database import Database

# As far as backups look at Koji's, and a bit of everything that a schema can have.
SCHEMA = """
CREATE TABLE events (id SERIAL NOT NULL PRIMARY KEY, time TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp());
CREATE FUNCTION get_event() RETURNS INTEGER AS '
    INSERT INTO events (time) VALUES (clock_timestamp());
    SELECT currval(''events_id_seq'')::INTEGER;
' LANGUAGE SQL;
CREATE TABLE users (id SERIAL PRIMARY KEY, name VARCHAR(255) UNIQUE NOT NULL, password VARCHAR(255));
CREATE TABLE sessions (id SERIAL PRIMARY KEY, user_id INTEGER REFERENCES users(id), key VARCHAR(255));
CREATE TABLE package (id SERIAL PRIMARY KEY, name TEXT UNIQUE NOT NULL);
CREATE TABLE volume (id SERIAL PRIMARY KEY, name TEXT UNIQUE NOT NULL);
CREATE TABLE task (id SERIAL PRIMARY KEY, state INTEGER, request TEXT);
CREATE TABLE tag (id SERIAL PRIMARY KEY, name VARCHAR(50) UNIQUE NOT NULL);
CREATE TABLE repo (id SERIAL PRIMARY KEY, create_event INTEGER REFERENCES events(id) DEFAULT get_event(), state INTEGER);
CREATE TABLE build (id SERIAL PRIMARY KEY, volume_id INTEGER NOT NULL REFERENCES volume (id),
    pkg_id INTEGER NOT NULL REFERENCES package (id), version TEXT NOT NULL, release TEXT NOT NULL, state INTEGER NOT NULL);
CREATE TABLE rpminfo (id SERIAL PRIMARY KEY, build_id INTEGER REFERENCES build (id), name TEXT, version TEXT, release TEXT,
    arch VARCHAR(16), external_repo_id INTEGER NOT NULL, size BIGINT NOT NULL, metadata_only BOOLEAN NOT NULL DEFAULT FALSE);
CREATE TABLE rpmsigs (rpm_id INTEGER NOT NULL REFERENCES rpminfo (id), sigkey TEXT NOT NULL, sighash TEXT NOT NULL);
CREATE INDEX rpminfo_build ON rpminfo(build_id);
CREATE VIEW complete AS SELECT * FROM build WHERE state = 1;
CREATE TYPE colour AS ENUM ('red', 'blue');
INSERT INTO volume (id, name) VALUES (0, 'DEFAULT');
INSERT INTO users (name) VALUES ('kojiadmin');
"""


@dataclass(frozen=True)
class Cluster:
    """A running PostgreSQL."""

    directory: Path

    def database(self, name: str, schema: str = "") -> Database:
        """A new database ``name`` of the role koji, which is no superuser."""
        root = Database({"dbname": "postgres", "host": str(self.directory), "user": "postgres"})
        if root.ask("SELECT 1 FROM pg_roles WHERE rolname = 'koji'") == []:
            root.ask("CREATE ROLE koji LOGIN")
        root.ask(f"CREATE DATABASE {name} OWNER koji")
        found = Database({"dbname": name, "host": str(self.directory), "user": "koji"})
        if schema:
            found.ask(schema)
        return found


@contextmanager
def running() -> Iterator[Cluster]:
    """A cluster, for a while. PostgreSQL refuses root, and so runs as its own user where a test is root's."""
    bin_dir = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
    initdb = shutil.which("initdb", path=f"{bin_dir}:{os.environ['PATH']}")
    assert initdb, "PostgreSQL is not installed: scripts/test brings it"
    path = os.environ["PATH"]
    # Debian's psql and pg_dump are wrappers in Perl, which take longer to start than what they start.
    os.environ["PATH"] = f"{Path(initdb).resolve().parent}:{path}"
    directory = Path(tempfile.mkdtemp(prefix="goose-pg-"))
    prefix: list[str] = []
    if os.geteuid() == 0:
        prefix = ["runuser", "-u", "postgres", "--"]
        owner = pwd.getpwnam("postgres")
        os.chown(directory, owner.pw_uid, owner.pw_gid)
    data = directory / "data"

    def call(*words: str) -> None:
        done = subprocess.run([*prefix, *words], capture_output=True, text=True, check=False, cwd="/")
        assert done.returncode == 0, done.stdout + done.stderr

    try:
        call(initdb, "--username=postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8", str(data))
        options = f"-c listen_addresses='' -c unix_socket_directories={directory} -c fsync=off -c autovacuum=off"
        pg_ctl = str(Path(initdb).resolve().with_name("pg_ctl"))
        call(pg_ctl, "--wait", f"--pgdata={data}", f"--options={options}", f"--log={directory}/log", "start")
        try:
            yield Cluster(directory)
        finally:
            call(pg_ctl, "--wait", "--mode=immediate", f"--pgdata={data}", "stop")
    finally:
        os.environ["PATH"] = path
        shutil.rmtree(directory)
