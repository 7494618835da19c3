"""PostgreSQL for the hub."""

import re

import pytest


@pytest.fixture
def db(host):
    return host.settings("koji")["db"]


@pytest.fixture
def sql(host, db):
    """Ask as the superuser, on the host itself."""

    def ask(query, database=db["name"]):
        return host.says("psql", "-X", "-q", "-At", "-d", database, "-c", query, user="postgres")

    return ask


def test_service(host, db):
    """Without it the hub answers every call with an error."""
    for service in db["services"]:
        assert host.runs(service)
    assert host.starts_at_boot(db["services"][0])


def test_answers_on_the_network(host, db):
    """The hub comes by the host's own address, though it may be on the same host."""
    host.says("pg_isready", "-h", host.name, "-p", str(db["port"]))


def test_utc(sql):
    """Koji stores times without a zone: a server on local time shifts its events twice a year."""
    assert sql("show timezone") == "UTC"


def test_schema_is_there_once(host, sql):
    """The hub fails late on half a schema; a second load would have failed, or doubled the first rows."""
    schema = host.text(host.settings("koji")["hub"]["schema"])
    tables = sql("select tablename from pg_tables where schemaname = 'public'").split()
    assert set(re.findall(r"^CREATE TABLE (\w+)", schema, re.MULTILINE)) <= set(tables)
    assert sql("select count(*) from permissions where name = 'admin'") == "1"
    administrator = host.settings("koji")["administrator"]
    assert sql(f"select count(*) from users where name = '{administrator}'") == "1"


def test_encoding(sql, db):
    """Changelogs hold every alphabet."""
    assert sql("show server_encoding") == "UTF8"


def test_pages_have_checksums(sql):
    """Without them a page that the disk has changed is a wrong answer, and goes into every backup."""
    assert sql("show data_checksums") == "on"


def test_role_can_do_no_more_than_koji_needs(sql, db):
    """Someone who gets into the hub must not get the server, or the database's host, with it."""
    rights = "rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls"
    assert sql(f"select {rights} from pg_roles where rolname = '{db['user']}'") == "f"
    member = f"select count(*) from pg_auth_members where member = '{db['user']}'::regrole"
    assert sql(member) == "0"


def test_access_rules_are_in_force(sql):
    """A line that PostgreSQL cannot read keeps the old rules in force; its own view names it."""
    assert sql("select count(*) from pg_hba_file_rules where error is not null") == "0"


def test_nobody_gets_in_without_a_name(sql):
    """No rule may trust a client for where it comes from."""
    weak = "select count(*) from pg_hba_file_rules where auth_method in ('trust', 'ident', 'password', 'md5')"
    assert sql(weak) == "0"


def test_network_only_with_tls(sql):
    """Everything from the network is encrypted, or refused."""
    plain = "select count(*) from pg_hba_file_rules where type in ('host', 'hostnossl') and auth_method <> 'reject'"
    assert sql(plain) == "0"
    assert sql("show ssl") == "on"


@pytest.mark.parametrize("role", ["postgres", "koji"])
def test_local_users_are_refused(host, db, role):
    """A process that gets onto the host, as any other user, must not get at the data."""
    done = host.run("psql", "-X", "-U", role, "-d", db["name"], "-c", "select 1", user="nobody")
    assert done.status != 0
    assert "Peer authentication failed" in done.err or "pg_hba.conf rejects" in done.err


def test_listens_where_it_must(sql):
    """Addresses are named, so that a new network card serves nobody."""
    assert sql("show listen_addresses") not in ("*", "0.0.0.0", "::")


def test_key_is_the_servers(host, db):
    """PostgreSQL has a copy of the host's key, which is as private as the key."""
    assert host.access(f"{db['tls_dir']}/host.key") == "root:postgres 640"
    assert not host.reads("nobody", f"{db['tls_dir']}/host.key")
