"""Koji's role, database and schema in PostgreSQL, and whether the hub and the schema fit.

Salt's own postgres states are not loaded before psql is installed, and so fail in test
mode on a fresh host; nor do they look at ownership, or load a schema in one transaction.
Everything on the database's host goes through ``psql`` as the superuser ``postgres``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from typing import Any, NamedTuple

Result = dict[str, Any]
SYSTEM_PYTHON = "/usr/bin/python3"


class DatabaseError(Exception):
    """What PostgreSQL, or the way to it, says."""


def __virtual__() -> str:
    return "koji_db"


def _ident(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _psql(database: str, sql: str) -> str:
    """Output of ``sql``; it goes by standard input, so it shows in no process list."""
    command = ["runuser", "-u", "postgres", "--", "psql", "-X", "-q", "-A", "-t"]
    command += ["-v", "ON_ERROR_STOP=1", "-d", database]
    answer = __salt__["cmd.run_all"](command, stdin=sql, python_shell=False, ignore_retcode=True, cwd="/")
    if answer["retcode"] != 0:
        said = answer["stderr"].strip() or answer["stdout"].strip()
        raise DatabaseError(said or f"psql ended with status {answer['retcode']} and said nothing")
    return answer["stdout"]


def _query(database: str, sql: str) -> Any:
    """The one JSON value that ``sql`` selects; None where it selects nothing."""
    out = _psql(database, sql).strip()
    return json.loads(out) if out else None


def _absent_server(name: str) -> Result | None:
    """In test mode on a host whose PostgreSQL does not run yet: what would happen."""
    if not __opts__["test"]:
        return None
    if shutil.which("psql"):
        try:
            _psql("postgres", "SELECT 1")
        except DatabaseError:
            pass
        else:
            return None
    comment = "PostgreSQL does not run here: it would be started, and this then looked at."
    return {"name": name, "result": None, "changes": {}, "comment": comment}


def _apply(name: str, database: str, wrong: dict[str, str], sql: list[str], good: str) -> Result:
    ret: Result = {"name": name, "result": True, "changes": {}, "comment": good}
    if not wrong:
        return ret
    ret["changes"] = wrong
    if __opts__["test"]:
        ret["result"] = None
        ret["comment"] = "Would be changed."
        return ret
    _psql(database, "\n".join(sql))
    ret["comment"] = "Changed."
    return ret


def _failed(name: str, comment: str) -> Result:
    return {"name": name, "result": False, "changes": {}, "comment": comment}


def current(name: str, files: list[str], restart: bool = True) -> Result:
    """Have PostgreSQL run with what its files say, by a reload, or a restart where only that does it.

    An apply that was killed, or that failed between a file and the service, would
    otherwise leave it with the old settings for good: the file is not written again.

    name
        The service.
    files
        Files that PostgreSQL reads when it loads its configuration.
    restart
        Whether it may be restarted, which ends what runs in it.
    """
    absent = _absent_server(name)
    if absent:
        return absent
    ret: Result = {
        "name": name,
        "result": True,
        "changes": {},
        "comment": "PostgreSQL runs with what its files say.",
    }
    ask = """SELECT json_build_object('loaded', extract(epoch FROM pg_conf_load_time()),
             'restart', EXISTS (SELECT 1 FROM pg_file_settings WHERE NOT applied))"""
    try:
        found = _query("postgres", ask)
        stale = [path for path in files if os.path.exists(path) and os.stat(path).st_ctime > found["loaded"]]
        action = "restart" if found["restart"] and restart else "reload" if stale else ""
        if not action:
            return ret
        ret["changes"] = {name: f"{action}ed"}
        if __opts__["test"]:
            ret["result"] = None
            ret["comment"] = f"PostgreSQL would be {action}ed: its files say something new."
            return ret
        __salt__[f"service.{action}"](name)
        for _ in range(60):
            time.sleep(0.5)
            try:
                if _query("postgres", ask)["loaded"] > found["loaded"]:
                    break
            except DatabaseError:
                continue
        else:
            return _failed(
                name, f"PostgreSQL does not answer after its {action}: journalctl -u {name} says why."
            )
        wrong = _query(
            "postgres",
            # What waits for a restart is an error there too, and no mistake; a setting that
            # left the files has no file.
            """SELECT coalesce(json_agg(concat_ws(': ', file.sourcefile, file.name, file.error)), '[]')
               FROM pg_file_settings file LEFT JOIN pg_settings setting ON setting.name = file.name
               WHERE file.error IS NOT NULL AND file.sourcefile IS NOT NULL
                   AND setting.pending_restart IS NOT TRUE""",
        )
        if wrong:
            return _failed(name, f"PostgreSQL does not take its settings: {'; '.join(wrong)}")
        ret["comment"] = f"PostgreSQL was {action}ed."
        return ret
    except DatabaseError as error:
        return _failed(name, f"PostgreSQL refuses: {error}")


def role(name: str) -> Result:
    """Keep a role that may log in and nothing else, without a password: it comes by certificate."""
    absent = _absent_server(name)
    if absent:
        return absent
    try:
        found = _query(
            "postgres",
            f"""SELECT json_build_object(
                    'login', rolcanlogin, 'superuser', rolsuper, 'createdb', rolcreatedb,
                    'createrole', rolcreaterole, 'replication', rolreplication, 'bypassrls', rolbypassrls,
                    'password', rolpassword IS NOT NULL, 'expires', coalesce(rolvaliduntil < 'infinity', false),
                    'limited', rolconnlimit <> -1,
                    'member_of', (SELECT coalesce(json_agg(g.rolname), '[]') FROM pg_auth_members m
                                  JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = a.oid),
                    'settings', (SELECT coalesce(json_agg(setdatabase), '[]')
                                 FROM pg_db_role_setting s WHERE s.setrole = a.oid))
                FROM pg_authid a WHERE rolname = {_literal(name)}""",
        )
        wrong: dict[str, str] = {}
        sql = []
        if found is None:
            wrong[f"role {name}"] = "made"
            sql.append(f"CREATE ROLE {_ident(name)};")
        else:
            if not found["login"]:
                wrong["login"] = "allowed again"
            for right in ("superuser", "createdb", "createrole", "replication", "bypassrls"):
                if found[right]:
                    wrong[right] = "taken away"
            for key in ("password", "expires", "limited"):
                if found[key]:
                    wrong[key] = "removed"
            for group in found["member_of"]:
                wrong[f"member of {group}"] = "taken away"
                sql.append(f"REVOKE {_ident(group)} FROM {_ident(name)};")
            if found["settings"]:
                wrong["settings of the role"] = "removed"
                sql.append(f"ALTER ROLE {_ident(name)} RESET ALL;")
                for database in _query(
                    "postgres",
                    f"""SELECT coalesce(json_agg(d.datname), '[]') FROM pg_db_role_setting s
                        JOIN pg_roles r ON r.oid = s.setrole JOIN pg_database d ON d.oid = s.setdatabase
                        WHERE r.rolname = {_literal(name)}""",
                ):
                    sql.append(f"ALTER ROLE {_ident(name)} IN DATABASE {_ident(database)} RESET ALL;")
        sql.append(
            f"ALTER ROLE {_ident(name)} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
            " CONNECTION LIMIT -1 PASSWORD NULL VALID UNTIL 'infinity';"
        )
        return _apply(name, "postgres", wrong, sql, f"The role {name} may log in, and nothing else.")
    except DatabaseError as error:
        return _failed(name, f"PostgreSQL refuses: {error}")


def database(name: str, owner: str) -> Result:
    """Keep a UTF8 database in UTC that its owner, and nobody else by default, may connect to."""
    absent = _absent_server(name)
    if absent:
        return absent
    try:
        found = _query(
            "postgres",
            f"""SELECT json_build_object(
                    'owner', pg_get_userbyid(datdba), 'encoding', pg_encoding_to_char(encoding),
                    'open', datallowconn AND datconnlimit = -1,
                    'rights', has_database_privilege(datdba, oid, 'CONNECT')
                              AND has_database_privilege(datdba, oid, 'TEMPORARY')
                              AND has_database_privilege(datdba, oid, 'CREATE'),
                    'public', EXISTS (SELECT 1 FROM aclexplode(coalesce(datacl, acldefault('d', datdba)))
                                      WHERE grantee = 0),
                    'settings', (SELECT to_json(setconfig) FROM pg_db_role_setting
                                 WHERE setdatabase = d.oid AND setrole = 0))
                FROM pg_database d WHERE datname = {_literal(name)}""",
        )
        wrong: dict[str, str] = {}
        sql = []
        if found is None:
            # CREATE DATABASE takes no part in a transaction: what follows is repaired
            # by the next apply where this one is killed in between.
            sql.append(
                f"CREATE DATABASE {_ident(name)} OWNER {_ident(owner)} TEMPLATE template0"
                " ENCODING 'UTF8' LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8';"
            )
            wrong[f"database {name}"] = "made"
        else:
            if found["encoding"] != "UTF8":
                return _failed(
                    name,
                    f"The database {name} has the encoding {found['encoding']}, and Koji needs UTF8: dump it, make it"
                    " anew with ENCODING 'UTF8' and load the dump.",
                )
            if found["owner"] != owner:
                wrong["owner"] = f"{owner} in place of {found['owner']}"
            if not found["rights"]:
                wrong["rights"] = f"given back to {owner}"
            if found["public"]:
                wrong["everybody's rights"] = "taken away"
            if not found["open"]:
                wrong["connections"] = "allowed again"
            zones = [entry for entry in found["settings"] or [] if entry.lower().startswith("timezone=")]
            if zones != ["TimeZone=UTC"]:
                wrong["time zone"] = "UTC"
        sql += [
            f"ALTER DATABASE {_ident(name)} OWNER TO {_ident(owner)};",
            f"GRANT ALL ON DATABASE {_ident(name)} TO {_ident(owner)};",
            f"REVOKE ALL ON DATABASE {_ident(name)} FROM PUBLIC;",
            f"ALTER DATABASE {_ident(name)} ALLOW_CONNECTIONS true CONNECTION LIMIT -1;",
            f"ALTER DATABASE {_ident(name)} SET TimeZone TO 'UTC';",
        ]
        return _apply(name, "postgres", wrong, sql, f"The database {name} is {owner}'s, in UTF8 and UTC.")
    except DatabaseError as error:
        return _failed(name, f"PostgreSQL refuses: {error}")


def _administrator_sql(administrator: str) -> str:
    return f"""
INSERT INTO users (name, status, usertype)
    SELECT {_literal(administrator)}, 0, 0
    WHERE NOT EXISTS (SELECT 1 FROM users WHERE name = {_literal(administrator)});
INSERT INTO user_perms (user_id, perm_id, creator_id)
    SELECT u.id, p.id, u.id FROM users u, permissions p
    WHERE u.name = {_literal(administrator)} AND p.name = 'admin';
"""


def schema(name: str, owner: str, schema: str, administrator: str) -> Result:
    """Load Koji's schema into an empty database, with its first administrator, in one transaction.

    The database is asked whether the schema is there. Where it is but nobody is an
    administrator any more, ``administrator`` becomes one: nothing else could repair that.

    schema
        Path of ``schema.sql``.
    administrator
        Koji user name, the common name of a client certificate.
    """
    absent = _absent_server(name)
    if absent:
        return absent
    try:
        if __opts__["test"] and not _query(
            "postgres", f"SELECT to_json(count(*) = 1) FROM pg_database WHERE datname = {_literal(name)}"
        ):
            comment = f"The database {name} would be made, and then given Koji's schema."
            return {"name": name, "result": None, "changes": {}, "comment": comment}
        found = _query(
            name,
            """SELECT json_build_object(
                    'tables', (SELECT count(*) FROM pg_class WHERE relkind = 'r'
                               AND relnamespace = 'public'::regnamespace),
                    'koji', to_regclass('public.users') IS NOT NULL
                            AND to_regclass('public.user_perms') IS NOT NULL)""",
        )
        if not found["koji"]:
            if found["tables"]:
                return _failed(
                    name,
                    f"The database {name} holds tables that are not Koji's: give Koji an empty database"
                    " (pillar koji:db:name), or remove them.",
                )
            if __opts__["test"]:
                wrong = {"schema": f"{schema} would be loaded", "administrator": administrator}
                return {"name": name, "result": None, "changes": wrong, "comment": "Would be loaded."}
            with open(schema, encoding="utf-8") as stream:
                # Its own BEGIN and COMMIT would end the transaction before the administrator is in.
                text = re.sub(r"(?im)^\s*(BEGIN|COMMIT)(\s+WORK)?\s*;\s*$", "", stream.read())
            sql = [
                "BEGIN;",
                "SELECT pg_advisory_xact_lock(hashtext('koji schema')) \\g /dev/null",
                f"GRANT ALL ON SCHEMA public TO {_ident(owner)};",
                f"SET LOCAL ROLE {_ident(owner)};",
                "SET LOCAL TimeZone TO 'UTC';",
                text,
                _administrator_sql(administrator),
                "COMMIT;",
            ]
            return _apply(name, name, {"schema": f"{schema} loaded", "administrator": administrator}, sql, "")
        admins = _query(
            name,
            """SELECT to_json(count(*)) FROM user_perms up JOIN permissions p ON p.id = up.perm_id
               JOIN users u ON u.id = up.user_id WHERE p.name = 'admin' AND up.active AND u.status = 0""",
        )
        wrong = {} if admins else {"administrator": administrator}
        sql = [
            "BEGIN;",
            f"SET LOCAL ROLE {_ident(owner)};",
            f"UPDATE users SET status = 0 WHERE name = {_literal(administrator)};",
            _administrator_sql(administrator).rstrip().rstrip(";")
            + """ AND NOT EXISTS (SELECT 1 FROM user_perms WHERE user_id = u.id AND perm_id = p.id AND active);""",
            "COMMIT;",
        ]
        return _apply(
            name, name, wrong, sql, f"The database {name} holds Koji's schema and an administrator."
        )
    except OSError as error:
        return _failed(name, f"Koji's schema cannot be read: {error}. Koji's library package brings it.")
    except DatabaseError as error:
        return _failed(name, f"PostgreSQL refuses: {error}")


_OWNERSHIP = """
WITH role AS (SELECT oid FROM pg_roles WHERE rolname = {owner}),
relations AS (
    SELECT c.oid, c.relkind, c.relowner, c.relacl, c.oid::regclass::text AS name,
           EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass
                   AND d.deptype IN ('a', 'i') AND d.refclassid = 'pg_class'::regclass
                   AND d.refobjid <> c.oid AND c.relkind = 'S') AS follows
    FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
    AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass
                    AND d.deptype = 'e')),
functions AS (
    SELECT p.oid, p.proowner, p.oid::regprocedure::text AS name FROM pg_proc p
    WHERE p.pronamespace = 'public'::regnamespace
    AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = p.oid AND d.classid = 'pg_proc'::regclass
                    AND d.deptype = 'e'))
SELECT json_build_object(
    'schema', has_schema_privilege((SELECT oid FROM role), 'public', 'USAGE')
              AND has_schema_privilege((SELECT oid FROM role), 'public', 'CREATE'),
    'public', EXISTS (SELECT 1 FROM pg_namespace n, aclexplode(n.nspacl) a
                      WHERE n.nspname = 'public' AND a.grantee = 0),
    'unowned', (SELECT coalesce(json_agg(json_build_array(name, relkind)), '[]') FROM relations, role
                WHERE relowner <> role.oid AND NOT follows),
    'ungranted', (SELECT coalesce(json_agg(json_build_array(name, relkind)), '[]') FROM relations r, role
                  WHERE CASE WHEN relkind = 'S'
                        THEN NOT (has_sequence_privilege(role.oid, r.oid, 'USAGE')
                                  AND has_sequence_privilege(role.oid, r.oid, 'SELECT')
                                  AND has_sequence_privilege(role.oid, r.oid, 'UPDATE'))
                        ELSE NOT (has_table_privilege(role.oid, r.oid, 'SELECT')
                                  AND has_table_privilege(role.oid, r.oid, 'INSERT')
                                  AND has_table_privilege(role.oid, r.oid, 'UPDATE')
                                  AND has_table_privilege(role.oid, r.oid, 'DELETE')
                                  AND has_table_privilege(role.oid, r.oid, 'TRUNCATE')
                                  AND has_table_privilege(role.oid, r.oid, 'REFERENCES')) END),
    'open', (SELECT coalesce(json_agg(json_build_array(name, relkind)), '[]') FROM relations r
             WHERE EXISTS (SELECT 1 FROM aclexplode(r.relacl) WHERE grantee = 0)),
    'functions', (SELECT coalesce(json_agg(name), '[]') FROM functions f, role
                  WHERE proowner <> role.oid OR NOT has_function_privilege(role.oid, f.oid, 'EXECUTE')))
"""


def owned(name: str, owner: str) -> Result:
    """Keep everything in the database the owner's, with all its rights, and closed to everybody else.

    Rights that a site has given to roles of its own are left alone.
    """
    absent = _absent_server(name)
    if absent:
        return absent
    try:
        if __opts__["test"] and not _query(
            "postgres",
            f"""SELECT to_json((SELECT count(*) FROM pg_database WHERE datname = {_literal(name)}) = 1
                AND (SELECT count(*) FROM pg_roles WHERE rolname = {_literal(owner)}) = 1)""",
        ):
            comment = f"The database {name} would be made first."
            return {"name": name, "result": None, "changes": {}, "comment": comment}
        found = _query(name, _OWNERSHIP.format(owner=_literal(owner)))
        wrong: dict[str, list[str]] = {}
        sql = ["BEGIN;"]
        kinds = {"r": "TABLE", "p": "TABLE", "v": "VIEW", "m": "MATERIALIZED VIEW", "S": "SEQUENCE"}

        def repair(what: str, why: str, *statements: str) -> None:
            wrong.setdefault(what, []).append(why)
            sql.extend(statements)

        given, taken = f"rights given back to {owner}", "everybody's rights taken away"
        for relation, kind in found["unowned"]:
            repair(relation, f"owner {owner}", f"ALTER {kinds[kind]} {relation} OWNER TO {_ident(owner)};")
        for relation, kind in found["ungranted"]:
            what = "SEQUENCE" if kind == "S" else "TABLE"
            repair(relation, given, f"GRANT ALL ON {what} {relation} TO {_ident(owner)};")
        for relation, kind in found["open"]:
            what = "SEQUENCE" if kind == "S" else "TABLE"
            repair(relation, taken, f"REVOKE ALL ON {what} {relation} FROM PUBLIC;")
        for function in found["functions"]:
            repair(
                function,
                f"owner {owner}",
                f"ALTER FUNCTION {function} OWNER TO {_ident(owner)};",
                f"GRANT EXECUTE ON FUNCTION {function} TO {_ident(owner)};",
            )
        if not found["schema"]:
            repair("schema public", given, f"GRANT ALL ON SCHEMA public TO {_ident(owner)};")
        if found["public"]:
            repair("schema public", taken, "REVOKE ALL ON SCHEMA public FROM PUBLIC;")
        sql.append("COMMIT;")
        lines = {what: ", ".join(whys) for what, whys in wrong.items()}
        if len(lines) > 20:
            lines = {f"{len(lines)} objects": "owner and rights"}
        return _apply(name, name, lines, sql, f"Everything in {name} is {owner}'s.")
    except DatabaseError as error:
        return _failed(name, f"PostgreSQL refuses: {error}")


_CONSTRAINTS = {"primary", "unique", "constraint", "check", "foreign", "exclude", "like"}


def schema_columns(text: str) -> dict[str, set[str]]:
    """Columns of each table that a schema's ``CREATE TABLE`` statements make.

    Knows what Koji's schema uses: comments, quoted text, brackets, table constraints.
    """
    text = re.sub(r"--[^\n]*", "", text)
    tables: dict[str, set[str]] = {}
    for match in re.finditer(r"(?i)\bCREATE\s+TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?(\w+)\s*\(", text):
        depth, quoted, item, items = 1, False, "", []
        for character in text[match.end() :]:
            if character == "'":
                quoted = not quoted
            elif not quoted and character == "(":
                depth += 1
            elif not quoted and character == ")":
                depth -= 1
                if depth == 0:
                    break
            elif not quoted and character == "," and depth == 1:
                items.append(item)
                item = ""
                continue
            item += character
        items.append(item)
        words = [entry.split()[0].split("(")[0].strip('"').lower() for entry in items if entry.split()]
        tables[match.group(1).lower()] = {word for word in words if word not in _CONSTRAINTS}
    return tables


# Upgrades of the schema


# No dataclasses: Salt's loader runs this module before Python knows it by its name.


class Traces(NamedTuple):
    """What a step of Koji's schema leaves behind in a database, as far as that stays."""

    tables: frozenset[str] = frozenset()
    columns: frozenset[tuple[str, str]] = frozenset()
    indexes: frozenset[str] = frozenset()
    rows: frozenset[tuple[str, str]] = frozenset()
    """Table and what its column `name` holds."""

    @property
    def strong(self) -> set[tuple[str, ...]]:
        """Those that nobody drops."""
        return {*(("table", name) for name in self.tables), *(("column", *pair) for pair in self.columns)}

    def telling(self) -> set[tuple[str, ...]]:
        """Those that prove the step; indexes and rows, which a site may have dropped, only where it has no others."""
        return self.strong or {*(("index", name) for name in self.indexes), *(("row", *pair) for pair in self.rows)}


class Step(NamedTuple):
    """One file ``schema-upgrade-FROM-TO.sql``."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    path: str
    text: str


# Versions whose schema is that of the version before: Koji has no file for these.
_SAME = {((1, 5), (1, 6)), ((1, 26), (1, 27))}

_FILE = re.compile(r"schema-up(?:grade|date)-(\d+(?:\.\d+)+)-(\d+(?:\.\d+)+)\.sql")


def _version(text: str) -> tuple[int, ...]:
    """Major and minor: a third number never changes the schema."""
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def _words(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def steps_in(directory: str) -> list[Step]:
    """Koji's steps in ``directory``, the oldest first."""
    found = []
    for name in os.listdir(directory):
        match = _FILE.fullmatch(name)
        if match:
            path = os.path.join(directory, name)
            with open(path, encoding="utf-8") as stream:
                found.append(Step(_version(match[1]), _version(match[2]), path, stream.read()))
    return sorted(found, key=lambda step: (step.after, step.before))


def traces(text: str, schema: str) -> Traces:
    """What the statements of a step leave behind, of what the whole ``schema`` has still."""
    text, schema = re.sub(r"--[^\n]*", "", text), re.sub(r"--[^\n]*", "", schema)
    wanted = schema_columns(schema)
    tables = {name for name in schema_columns(text) if name in wanted}
    columns = {
        (match[1].lower(), column.lower())
        for match in re.finditer(r"(?is)\bALTER\s+TABLE\s+(?:ONLY\s+)?(\w+)\s+([^;]*)", text)
        for column in re.findall(r"(?i)\bADD\s+COLUMN\s+(?:IF\s+NOT\s+EXISTS\s+)?\"?(\w+)", match[2])
        if column.lower() in wanted.get(match[1].lower(), ())
    }
    index = r"(?i)\bCREATE\s+(?:UNIQUE\s+)?INDEX\s+(?:IF\s+NOT\s+EXISTS\s+)?(\w+)"
    indexes = {name.lower() for name in re.findall(index, text)} & {name.lower() for name in re.findall(index, schema)}
    row = r"(?i)\bINSERT\s+INTO\s+(\w+)\s*\(\s*name\b[^)]*\)\s*VALUES\s*\(\s*'([^']*)'"
    rows = {(table.lower(), name) for table, name in re.findall(row, text)}
    rows &= {(table.lower(), name) for table, name in re.findall(row, schema)}
    return Traces(frozenset(tables), frozenset(columns), frozenset(indexes), frozenset(rows))


class NoWay(Exception):
    """The schema cannot be upgraded; says why."""


def plan(schema: str, steps: list[Step], present: set[tuple[str, ...]], hub: tuple[int, ...], directory: str) -> list[Step]:
    """The steps that lead from a database to the ``schema`` of the hub's version, in order.

    A step has been taken where all is there that it leaves behind. One that leaves nothing behind to be seen counts
    as taken with the next that does: Koji's own of that kind change nothing the second time.

    Args:
        present: what the database has, as `Traces.telling` names it.
        hub: version of the hub that is installed.

    Raises:
        NoWay: where a step's file is missing, or the database is none that Koji's steps can have left.
    """
    wanted = schema_columns(schema)
    needed: set[tuple[str, ...]] = {("table", table) for table in wanted}
    needed |= {("column", table, column) for table, names in wanted.items() for column in names}
    lacking = needed - present
    left = [(step, traces(step.text, schema)) for step in steps if step.after <= hub]
    taken = [number for number, (_, found) in enumerate(left) if found.telling() and found.telling() <= present]
    last = taken[-1] if taken else -1
    for step, found in left[: last + 1]:
        if not found.strong <= present:
            raise NoWay(
                f"it lacks {_list(found.strong - present)}, which {os.path.basename(step.path)} brings, and has what"
                f" {os.path.basename(left[last][0].path)} brings: something was dropped by hand"
            )
    pending = [step for step, _ in left[last + 1 :]]
    # Nothing to see of these, and nothing after them: the database is as the schema says.
    if not lacking and not any(found.telling() for _, found in left[last + 1 :]):
        return []
    at = left[last][0].after if taken else pending[0].before if pending else (hub[0], hub[1] - 1)
    for before, after in [*((step.before, step.after) for step in pending), (hub, hub)]:
        absent = _between(at, before)
        if absent:
            paths = ", ".join(os.path.join(directory, name) for name in absent)
            raise NoWay(f"{paths} is missing; Koji's packages bring it")
        at = after
    brought = {mark for step in pending for mark in traces(step.text, schema).strong}
    tables = {mark[1] for mark in brought if mark[0] == "table"}
    others = {mark for mark in lacking - brought if not (mark[0] == "column" and mark[1] in tables)}
    if others:
        since = f"of the steps from {_words(pending[0].before)} on" if pending else f"step to {_words(hub)}"
        raise NoWay(
            f"it lacks {_list(others)}, which none {since} brings: the file of an older step is missing from"
            f" {directory}, or something was dropped by hand"
        )
    return pending


def _list(marks: set[tuple[str, ...]]) -> str:
    words = sorted(f"{mark[0]} {'.'.join(mark[1:])}" for mark in marks)
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")


def _between(before: tuple[int, ...], after: tuple[int, ...]) -> list[str]:
    """Names of the files that lead from one version to another, a file a version; none for one with the same schema."""
    if before[0] != after[0]:
        return [f"schema-upgrade-{_words(before)}-{_words(after)}.sql"]
    pairs = [((before[0], minor), (before[0], minor + 1)) for minor in range(before[1], after[1])]
    return [f"schema-upgrade-{_words(pair[0])}-{_words(pair[1])}.sql" for pair in pairs if pair not in _SAME]


# What a database has, in the words of `Traces.telling`.
_PRESENT = """
SELECT coalesce(json_agg(mark), '[]') FROM (
    SELECT json_build_array('table', lower(table_name)) AS mark
        FROM information_schema.tables WHERE table_schema = 'public'
    UNION ALL SELECT json_build_array('column', lower(table_name), lower(column_name))
        FROM information_schema.columns WHERE table_schema = 'public'
    UNION ALL SELECT json_build_array('index', lower(indexname)) FROM pg_indexes WHERE schemaname = 'public'
{rows}) AS marks
"""


def _present(database: str, marks: list[Traces]) -> set[tuple[str, ...]]:
    tables = {tuple(mark) for mark in _query(database, _PRESENT.format(rows=""))}
    named = {table for each in marks for table, _ in each.rows if ("column", table, "name") in tables}
    rows = "".join(
        f"    UNION ALL SELECT json_build_array('row', {_literal(table)}, name) FROM {_ident(table)}\n"
        for table in sorted(named)
    )
    return {tuple(mark) for mark in _query(database, _PRESENT.format(rows=rows))}


def _hub_version() -> tuple[int, ...]:
    """Of Koji's library, which is the hub's own."""
    command = [SYSTEM_PYTHON, "-c", "import koji; print(koji.__version__)"]
    answer = __salt__["cmd.run_all"](command, python_shell=False, ignore_retcode=True, cwd="/")
    found = _version(answer["stdout"]) if answer["retcode"] == 0 else ()
    if len(found) != 2:
        said = answer["stderr"].strip() or "its library does not say"
        raise NoWay(f"it is not known which version of Koji is installed here: {said}")
    return found


def upgraded(name: str, owner: str, schema: str, dumps: str) -> Result:
    """Bring an older schema of Koji's to that of the hub that is installed, by Koji's own steps.

    The database is asked what it has; no note of a version is kept. It is dumped first. Then all steps are taken in one
    transaction: the database has them all, or is as it was.

    schema
        Path of ``schema.sql``; the files of the steps lie beside it.
    dumps
        Directory for the dump that is made before.
    """
    absent = _absent_server(name)
    if absent:
        return absent
    ret: Result = {"name": name, "result": True, "changes": {}, "comment": ""}
    directory = os.path.dirname(schema)
    try:
        there = f"SELECT to_json(count(*) = 1) FROM pg_database WHERE datname = {_literal(name)}"
        loaded = "SELECT to_json(to_regclass('public.users') IS NOT NULL)"
        if __opts__["test"] and not (_query("postgres", there) and _query(name, loaded)):
            ret["result"] = None
            ret["comment"] = f"The database {name} would be made with the schema as it is."
            return ret
        with open(schema, encoding="utf-8") as stream:
            text = stream.read()
        steps = steps_in(directory)
        present = _present(name, [traces(step.text, text) for step in steps])
        hub = _hub_version()
        pending = plan(text, steps, present, hub, directory)
        if not pending:
            ret["comment"] = f"The database {name} has the schema of Koji {_words(hub)}."
            return ret
        files = [os.path.basename(step.path) for step in pending]
        what = f"{_words(pending[0].before)} -> {_words(hub)}"
        ret["changes"] = {"schema": what, "steps": files}
        if __opts__["test"]:
            ret["result"] = None
            ret["comment"] = f"Would be dumped to {dumps} and upgraded, {what}, by {', '.join(files)}."
            return ret
        dump = _dump(name, dumps, f"{name}-{_words(pending[0].before)}")
        _psql(name, _upgrade_sql(pending, owner))
        again = plan(text, steps, _present(name, [traces(step.text, text) for step in steps]), hub, directory)
        if again:
            return _failed(name, f"All steps have run, and {again[0].path} shows no effect: see what it does.")
        ret["comment"] = f"Upgraded, {what}, by {', '.join(files)}. As it was before: {dump}."
        return ret
    except OSError as error:
        return _failed(name, f"Koji's schema cannot be read: {error}. Koji's library package brings it.")
    except NoWay as error:
        return _failed(
            name,
            f"The database {name} is not of the version of the hub that is installed, and was not changed: {error}.",
        )
    except DatabaseError as error:
        return _failed(
            name,
            f"The schema was not upgraded, and is as it was: {error}. Where it waited for a lock, stop the hub (Apache)"
            " and apply again.",
        )


def _upgrade_sql(pending: list[Step], owner: str) -> str:
    # The files' own BEGIN and COMMIT would end the one transaction.
    bodies = [re.sub(r"(?im)^\s*(BEGIN|COMMIT)(\s+WORK)?\s*;\s*$", "", step.text) for step in pending]
    begin = ["BEGIN;", "SELECT pg_advisory_xact_lock(hashtext('koji schema')) \\g /dev/null"]
    # A hub that still runs must not be waited for without end, while all its calls wait for this.
    begin += ["SET LOCAL lock_timeout TO '60s';", f"SET LOCAL ROLE {_ident(owner)};", "SET LOCAL TimeZone TO 'UTC';"]
    # What steps select goes nowhere.
    return "\n".join([*begin, "\\o /dev/null", *bodies, "COMMIT;"])


def _dump(database: str, directory: str, label: str) -> str:
    """Dump the database into ``directory``, read the dump once, and return its path."""
    path = f"{directory}/{label}-{time.strftime('%Y-%m-%dT%H%M%SZ', time.gmtime())}.dump"
    partial = f"{path}.partial"
    for command in (
        ["pg_dump", "-Fc", "-f", partial, database],
        ["pg_restore", "-f", "/dev/null", partial],
        ["mv", partial, path],
    ):
        answer = __salt__["cmd.run_all"](
            ["runuser", "-u", "postgres", "--", *command], python_shell=False, ignore_retcode=True, cwd="/", umask="077"
        )
        if answer["retcode"] != 0:
            raise DatabaseError(f"{command[0]} made no dump in {directory}: {answer['stderr'].strip()}")
    return path


# Run by the system's Python, as Apache's user: Salt's own may not see psycopg2, and
# what this user may read and reach is what counts.
_ASK = """
import json, sys
import psycopg2
connection = psycopg2.connect(sys.stdin.read())
cursor = connection.cursor()
cursor.execute("SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'")
json.dump(cursor.fetchall(), sys.stdout)
"""


def fits(name: str, schema: str, user: str, timeout: int = 300, interval: float = 3.0) -> Result:
    """Wait until the hub's database answers, then compare it with the schema of the hub that is installed.

    A hub that is newer than its database fails late, with missing columns.

    name
        libpq connection string, as in hub.conf.
    schema
        The hub's own ``schema.sql``.
    user
        Apache's user: the hub connects as it.
    timeout, interval
        Seconds to wait for a database that is being made on another host, and between two tries.
    """
    ret: Result = {"name": name, "result": True, "changes": {}, "comment": ""}
    deadline = time.monotonic() + (0 if __opts__["test"] else timeout)
    command = ["runuser", "-u", user, "--", SYSTEM_PYTHON, "-c", _ASK]
    while True:
        answer = __salt__["cmd.run_all"](
            command, stdin=name, python_shell=False, ignore_retcode=True, cwd="/"
        )
        rows = json.loads(answer["stdout"]) if answer["retcode"] == 0 else []
        if rows:
            break
        # The last paragraph of the traceback is what libpq says, in more lines than one.
        said = answer["stderr"].rpartition("Error: ")[2].split()
        reason = " ".join(said).rstrip(".") or "it holds no tables"
        if __opts__["test"]:
            ret["result"] = None
            ret["comment"] = f"The database does not answer the hub yet ({reason}): it would be waited for."
            return ret
        if time.monotonic() > deadline:
            ret["result"] = False
            ret["comment"] = (
                f"The hub's database did not answer within {timeout} s: {reason}. Apply the role koji.db on its host,"
                " or mend what this says."
            )
            return ret
        time.sleep(interval)
    found: dict[str, set[str]] = {}
    for table, column in rows:
        found.setdefault(table, set()).add(column)
    try:
        with open(schema, encoding="utf-8") as stream:
            wanted = schema_columns(stream.read())
    except OSError as error:
        if __opts__["test"]:
            ret["result"] = None
            ret["comment"] = f"{schema} is not installed yet: the schema would be compared after it is."
            return ret
        return _failed(name, f"The hub's schema cannot be read: {error}.")
    missing = [f"table {table}" for table in sorted(set(wanted) - set(found))]
    for table in sorted(set(wanted) & set(found)):
        missing += [f"column {table}.{column}" for column in sorted(wanted[table] - found[table])]
    if missing:
        more = f" and {len(missing) - 6} more" if len(missing) > 6 else ""
        ret["result"] = False
        ret["comment"] = (
            f"The database is older than the hub that is installed: it lacks {', '.join(missing[:6])}{more}. The role"
            " koji.db upgrades it: apply that on the database's host."
        )
        return ret
    ret["comment"] = f"The database has all {len(wanted)} tables of the hub's schema."
    return ret


_END = """
import json, sys
import psycopg2
given = json.load(sys.stdin)
connection = psycopg2.connect(given["dsn"])
cursor = connection.cursor()
condition = " WHERE users.id = sessions.user_id AND users.name = ANY(%s) AND NOT sessions.expired"
sql = "SELECT users.name, sessions.id FROM sessions, users" + condition
if not given["test"]:
    sql = "UPDATE sessions SET expired = TRUE, exclusive = NULL FROM users" + condition
    sql += " RETURNING users.name, sessions.id"
cursor.execute(sql, (given["names"],))
ended = cursor.fetchall()
connection.commit()
json.dump(ended, sys.stdout)
"""


def sessions_ended(name: str, revoked: str, record: str, user: str) -> Result:
    """End the sessions at the hub of those whose certificate was revoked: a session needs none once it has begun.

    It follows the reload after which Apache refuses them. Whoever has another certificate logs in again, and that
    session must stay: so each revocation is dealt with once, and noted.

    name
        libpq connection string, as in hub.conf.
    revoked
        File of the CA's: JSON, a list of ``name`` and ``revocation_date``.
    record
        File with what of that was dealt with. Without it sessions end once more.
    user
        Apache's user: the hub connects as it.
    """
    ret: Result = {"name": name, "result": True, "changes": {}, "comment": "Every revocation was dealt with."}
    try:
        rows = _rows(revoked)
        done = _rows(record) if os.path.exists(record) else []
    except (OSError, ValueError) as error:
        if __opts__["test"]:
            ret["result"] = None
            ret["comment"] = f"{revoked} would be fetched first."
            return ret
        return _failed(name, f"{revoked} or {record} cannot be read ({error}): remove it, and apply this again.")
    names = sorted({row["name"] for row in rows if row not in done and row["name"]})
    if names:
        given = {"dsn": name, "names": names, "test": __opts__["test"]}
        answer = __salt__["cmd.run_all"](
            ["runuser", "-u", user, "--", SYSTEM_PYTHON, "-c", _END],
            stdin=json.dumps(given), python_shell=False, ignore_retcode=True, cwd="/",
        )  # fmt: skip
        if answer["retcode"] != 0:
            reason = answer["stderr"].rpartition("Error: ")[2].strip()
            if __opts__["test"]:
                ret["result"] = None
                ret["comment"] = f"The database does not answer the hub yet ({reason}): it would be asked."
                return ret
            return _failed(name, f"The hub's database does not end sessions: {reason}")
        for who, number in json.loads(answer["stdout"]):
            ret["changes"][f"session {number}"] = f"ended, {who}'s"
    # Last: of a run that was killed before it the next one does all again.
    written = __states__["file.managed"](
        name=record, contents=json.dumps(rows, indent=1), user="root", group="root", mode="0644"
    )
    if written["result"] is False:
        return {**written, "name": name}
    if written["changes"] or ret["changes"]:
        ret["changes"].setdefault("revoked", names)
        ret["result"] = None if __opts__["test"] else True
        verb = "would be" if __opts__["test"] else "were"
        ret["comment"] = f"Sessions of those whose certificate is revoked {verb} ended."
    return ret


def _rows(path: str) -> list[dict[str, str]]:
    with open(path, encoding="utf-8") as stream:
        rows: list[dict[str, str]] = json.load(stream)
        return rows
