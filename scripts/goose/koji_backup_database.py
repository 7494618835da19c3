"""Koji's database: how the hub reaches it, its dump, and what a dump holds.

The dump is read back in full, by pg_restore and without a server: what it says of builds, RPMs and signatures
is what the volume's files are held against, and what must be there again after a restore.

Sessions are left out: they are keys to the hub, and everybody logs in again by certificate.
"""

from __future__ import annotations

import configparser
import contextlib
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from goose.koji_backup_config import EXIT_KOJI, EXIT_USAGE, BackupError, last_words, run, scratch

_SERVICE = "koji"

# hub.conf's words for libpq's, where it has no DBConnectionString.
_KEYS = {"DBName": "dbname", "DBUser": "user", "DBHost": "host", "DBPort": "port", "DBPass": "password"}

# States of builds and repos, as koji/__init__.py numbers them.
_COMPLETE = "1"
_NULL = "\\N"


def settings(hub_conf: Path) -> dict[str, str]:
    """libpq's settings by which the hub reaches its database; `BackupError` where its configuration has none.

    As the hub itself does it: what is in hub.conf.d counts less than hub.conf.
    """
    parser = configparser.RawConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        for path in (*sorted(hub_conf.with_name("hub.conf.d").glob("*.conf")), hub_conf):
            parser.read_string(path.read_text(encoding="utf-8"), str(path))
    except (OSError, configparser.Error) as error:
        raise BackupError(f"The hub's configuration cannot be read: {error}.", EXIT_USAGE) from error
    hub = dict(parser["hub"]) if parser.has_section("hub") else {}
    text = hub.get("DBConnectionString", "")
    if "://" in text:
        raise BackupError(f"DBConnectionString in {hub_conf} is a URL: give it as key=value.", EXIT_USAGE)
    try:
        found = dict(word.split("=", 1) for word in shlex.split(text))
    except ValueError as error:
        raise BackupError(f"DBConnectionString in {hub_conf} is not key=value, with spaces between.", EXIT_USAGE) from error
    if not text:
        found = {word: hub[key] for key, word in _KEYS.items() if hub.get(key)}
    if not found.get("dbname"):
        raise BackupError(f"{hub_conf} names no database: it has neither DBConnectionString nor DBName.", EXIT_USAGE)
    return found


@dataclass(frozen=True)
class Database:
    """The hub's database, by libpq's ``settings``."""

    settings: Mapping[str, str]

    @contextlib.contextmanager
    def _environment(self) -> Iterator[dict[str, str]]:
        """What libpq is told by: a file in memory, because a password would show in an argument or a variable."""
        with scratch() as directory:
            path = directory / "service"
            path.touch(mode=0o600)
            lines = [f"[{_SERVICE}]", *(f"{key}={value}" for key, value in self.settings.items())]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
            yield {"PGSERVICEFILE": str(path), "PGSERVICE": _SERVICE}

    def dump(self, path: Path) -> None:
        """Write the whole of it as one moment has it, compressed, into ``path``."""
        with self._environment() as env:
            path.unlink(missing_ok=True)
            path.touch(mode=0o600)
            command = ["pg_dump", "--format=custom", "--exclude-table-data=public.sessions", f"--file={path}"]
            try:
                run(command, env=env)
            except BackupError as error:
                raise BackupError(f"Koji's database was not dumped: {error}", EXIT_KOJI) from error

    def ask(self, sql: str) -> list[list[str]]:
        """Rows of a query, each value as text."""
        with self._environment() as env:
            try:
                done = run(["psql", *_PSQL, "--field-separator=\t", "--file=-"], stdin=sql, env=env)
            except BackupError as error:
                raise BackupError(f"Koji's database does not answer: {error}", EXIT_KOJI) from error
        return [line.split("\t") for line in done.stdout.decode().splitlines() if line]

    def builds(self) -> int:
        """How many builds it has, whatever became of them; 0 where it has not got Koji's tables."""
        if self.ask("SELECT to_regclass('public.build') IS NOT NULL") != [["t"]]:
            return 0
        return int(self.ask("SELECT count(*) FROM build")[0][0])

    def counts(self, tables: Sequence[str]) -> dict[str, int]:
        """Rows of each of the ``tables``."""
        parts = [f"SELECT '{table}', count(*) FROM public.\"{table}\"" for table in tables]
        return {name: int(count) for name, count in self.ask(" UNION ALL ".join(parts))} if parts else {}

    def event(self) -> int:
        """The last event."""
        return int(self.ask("SELECT coalesce(max(id), 0) FROM events")[0][0])

    def restore(self, dump: Path) -> None:
        """Put what the dump holds in place of all that is there, in one transaction: whole or not at all.

        Repos are no part of a backup. All are marked as deleted, and kojira has new ones made.
        """
        with self._environment() as env, scratch() as directory:
            before, after = directory / "before.sql", directory / "after.sql"
            before.write_text(_EMPTY, encoding="utf-8")
            after.write_text(_NO_REPOS, encoding="utf-8")
            command = ["pg_restore", "--no-owner", "--no-acl", "--schema=public", "--file=-", str(dump)]
            psql = ["psql", *_PSQL, "--single-transaction", "--output=/dev/null",
                    f"--file={before}", "--file=-", f"--file={after}"]  # fmt: skip
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as reader:
                _load(reader, psql, env)


def _load(reader: subprocess.Popen[bytes], psql: Sequence[str], env: Mapping[str, str]) -> None:
    """Give psql what ``reader`` says. It commits at the end of its input, and gets there only with a reader that did."""
    assert reader.stdout is not None and reader.stderr is not None
    writer = subprocess.Popen(psql, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **env})
    assert writer.stdin is not None and writer.stderr is not None
    try:
        with contextlib.suppress(BrokenPipeError):
            shutil.copyfileobj(reader.stdout, writer.stdin, 1 << 20)
            said = reader.stderr.read()
            if reader.wait() != 0:
                raise BackupError(f"The dump cannot be read, and the database is as it was: {last_words(said)}")
            writer.stdin.close()
        said = writer.stderr.read()
        if writer.wait() != 0:
            raise BackupError(f"The database does not take the dump, and is as it was: {last_words(said)}", EXIT_KOJI)
    finally:
        writer.kill()
        writer.wait()
        with contextlib.suppress(BrokenPipeError):
            writer.stdin.close()
        writer.stderr.close()
        reader.kill()


_PSQL = ["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1"]

# Everything in the schema public, whichever version of Koji made it.
_EMPTY = """
SET client_min_messages TO error;
DO $$
DECLARE each record;
BEGIN
    FOR each IN SELECT format('%I.%I', n.nspname, c.relname) AS name,
                       CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW'
                                      WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind
                FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
                AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
    LOOP
        EXECUTE format('DROP %s IF EXISTS %s CASCADE', each.kind, each.name);
    END LOOP;
    FOR each IN SELECT p.oid::regprocedure AS name FROM pg_proc p
                WHERE p.pronamespace = 'public'::regnamespace
                AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')
    LOOP
        EXECUTE format('DROP ROUTINE IF EXISTS %s CASCADE', each.name);
    END LOOP;
    FOR each IN SELECT format('%I.%I', n.nspname, t.typname) AS name
                FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
                WHERE n.nspname = 'public' AND t.typtype IN ('e', 'd')
                AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = t.oid AND d.deptype = 'e')
    LOOP
        EXECUTE format('DROP TYPE IF EXISTS %s CASCADE', each.name);
    END LOOP;
END $$;
"""

# 0 init, 1 ready, 2 expired, 3 deleted (koji.REPO_STATES).
_NO_REPOS = """
SET client_min_messages TO error;
UPDATE public.repo SET state = 3 WHERE state IN (0, 1, 2);
ANALYZE;
"""


# What a dump holds


@dataclass
class Contents:
    """What a dump holds."""

    event: int = 0
    """The last event."""
    counts: dict[str, int] = field(default_factory=dict)
    """Table -> rows."""
    complete: int = 0
    """Builds that are COMPLETE."""
    files: dict[str, int | None] = field(default_factory=dict)
    """What the volume must hold for these: path below it -> bytes, None where the database does not say."""
    rpms: int = 0
    """How many of the files are RPMs; the others are the signatures' headers."""
    passwords: int = 0
    """Users that have a password in the database."""


_COPY = re.compile(rb'COPY (?:"?public"?\.)?"?(\w+)"? \(([^)]*)\) FROM stdin;$')
_KEPT = {"build", "rpminfo", "rpmsigs", "package", "volume"}
_TABLES = {*_KEPT, "events", "tag", "task", "users"}


def contents(dump: Path) -> Contents:
    """Read a dump from its first to its last byte; `BackupError` where it is damaged or none of Koji's."""
    listed = run(["pg_restore", "--list", str(dump)]).stdout.decode()
    tables = set(re.findall(r"^\d+; \d+ \d+ TABLE public (\S+) ", listed, re.MULTILINE))
    if _TABLES - tables:
        raise BackupError(f"{dump} holds no database of Koji's: it lacks {', '.join(sorted(_TABLES - tables))}.")
    found = Contents()
    kept: dict[str, list[dict[str, str]]] = {table: [] for table in _KEPT}
    command = ["pg_restore", "--data-only", "--file=-", str(dump)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as reader:
        assert reader.stdout is not None and reader.stderr is not None
        _read(reader.stdout, kept, found)
        said = reader.stderr.read()
    if reader.returncode != 0:
        raise BackupError(f"{dump} is damaged: {last_words(said)}")
    _expect(kept, found)
    return found


def _read(lines: Iterable[bytes], kept: dict[str, list[dict[str, str]]], found: Contents) -> None:
    table, columns = "", [""]
    rows: list[dict[str, str]] | None = None
    for line in lines:
        if not table:
            match = _COPY.match(line.rstrip(b"\n"))
            if match:
                table = match[1].decode()
                columns = [word.strip().strip('"') for word in match[2].decode().split(",")]
                found.counts[table] = 0
                rows = kept.get(table)
            continue
        if line == b"\\.\n":
            table = ""
            continue
        found.counts[table] += 1
        if rows is not None:
            rows.append(dict(zip(columns, line.rstrip(b"\n").decode().split("\t"))))
        elif table == "events":
            found.event = max(found.event, int(line.split(b"\t", 1)[0]))
        elif table == "users":
            row = dict(zip(columns, line.rstrip(b"\n").decode().split("\t")))
            found.passwords += row.get("password", _NULL) != _NULL


def _expect(kept: Mapping[str, list[dict[str, str]]], found: Contents) -> None:
    """The paths are those of koji.PathInfo."""
    packages = {row["id"]: row["name"] for row in kept["package"]}
    volumes = {row["id"]: row["name"] for row in kept["volume"]}
    places: dict[str, str] = {}
    for build in kept["build"]:
        if build["state"] == _COMPLETE:
            volume = volumes[build["volume_id"]]
            top = "" if volume == "DEFAULT" else f"vol/{volume}/"
            places[build["id"]] = f"{top}packages/{packages[build['pkg_id']]}/{build['version']}/{build['release']}"
    found.complete = len(places)
    rpms: dict[str, tuple[str, str]] = {}
    for rpm in kept["rpminfo"]:
        place = places.get(rpm["build_id"])
        if place is None or rpm["external_repo_id"] != "0" or rpm.get("metadata_only") == "t":
            continue
        name = f"{rpm['arch']}/{rpm['name']}-{rpm['version']}-{rpm['release']}.{rpm['arch']}.rpm"
        rpms[rpm["id"]] = (place, name)
        found.files[f"{place}/{name}"] = int(rpm["size"])
    found.rpms = len(found.files)
    for signature in kept["rpmsigs"]:
        if signature["rpm_id"] in rpms and signature["sigkey"]:
            place, name = rpms[signature["rpm_id"]]
            found.files[f"{place}/data/sigcache/{signature['sigkey']}/{name}.sig"] = None
