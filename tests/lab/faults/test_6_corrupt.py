"""A file of each state directory has other bits than were written: who finds it, and what brings it back."""

from __future__ import annotations

import json
import shlex

import pytest

from estate import (
    AS_MASH,
    FLIP,
    LIB,
    LOOKASIDE,
    Estate,
    Note,
    backup_key,
    compose_line,
    ended,
    flip,
    start_on,
)
from goose.lab.host import Host
from koji_client import wait_for

MASH = [*AS_MASH, f"{LIB}/mash_repo.py", "goose-1"]


def found(host: Host, line: str) -> str:
    """The first path that a shell line prints."""
    path = host.run(["sh", "-c", line]).stdout.splitlines()
    assert path, line
    return path[0]


BACKED_UP = [
    (
        "koji.db",
        "volume",
        "/mnt/koji/packages",
        "find /mnt/koji/packages -name 'logrotate-[0-9]*.x86_64.rpm' ! -path '*/signed/*'",
    ),
    (
        "scm",
        "git",
        "git's repositories",
        "find /var/lib/gitolite*/repositories -path '*/objects/*' -type f -size +0",
    ),
    ("lookaside", "lookaside", LOOKASIDE, f"find {LOOKASIDE}/archives -type f -size +0"),
]


@pytest.fixture
def imported(estate: Estate) -> None:
    """There are archives and repositories."""
    estate.command("rebuild", "--from-scm")


@pytest.mark.parametrize(
    ("role", "part", "where", "line"), BACKED_UP, ids=lambda value: value if "/" not in value else ""
)
def test_what_is_backed_up(
    estate: Estate, note: Note, imported: None, role: str, part: str, where: str, line: str
) -> None:
    """Found by the weekly look, though size and time are as they were, and brought back by one command."""
    host = estate.lab.need_role(role)
    host.run([f"{LIB}/koji_backup.py", "run"])
    path = found(host, line)
    whole = host.run(["sha256sum", path]).stdout
    flip(host, path)
    assert host.run(["sha256sum", path]).stdout != whole
    verdict = json.loads(
        host.run([f"{LIB}/koji_backup.py", "verify", "--live", "--json"], check=False).stdout
    )
    assert path in verdict["damaged"], verdict
    restore = [f"{LIB}/koji_restore.py", "--part", part, "--over", host.fqdn, "--json"]
    assert json.loads(host.run(restore).stdout)["wrong"] == []
    assert host.run(["sha256sum", path]).stdout == whole
    assert json.loads(host.run([f"{LIB}/koji_backup.py", "verify", "--live", "--json"]).stdout)["good"]
    estate.back()
    note(
        "corrupt file",
        f"{host.name}: {where}",
        "``koji_backup.py verify --live`` (weekly) names it",
        f"``koji_restore.py --part {part} --over {host.name}``",
    )


def test_database(estate: Estate, note: Note) -> None:
    """A page of PostgreSQL's own files: its checksum tells, backups do not take it, and the last one brings it back."""
    host = estate.lab.need_role("koji.db")
    backup, restore = f"{LIB}/koji_backup.py", f"{LIB}/koji_restore.py"
    host.run([backup, "run"])
    psql = ["runuser", "-u", "postgres", "--", "psql", "-X", "-A", "-t", "-d", "koji", "-c"]
    directory, table = (
        host.run([*psql, query]).stdout.strip()
        for query in ("SHOW data_directory", "SELECT pg_relation_filepath('rpmsigs')")
    )
    unit = "postgresql@15-main"
    host.run(["systemctl", "stop", unit])
    flip(host, f"{directory}/{table}")
    host.run(["systemctl", "start", unit])
    status, said = ended(start_on(host, backup, "run"))
    assert status != 0 and "invalid page" in said, said
    status, said = ended(start_on(host, restore, "--part", "database", "--over", host.fqdn))
    assert status == 0, said
    host.run([backup, "run"])
    estate.back()
    note(
        "corrupt file",
        f"{host.name}: {directory}",
        "PostgreSQL's checksum tells: calls that need it fail, the nightly backup fails and says *invalid page*",
        f"``koji_restore.py --part database --over {host.name}``",
    )


def test_archive_by_fsck(estate: Estate, note: Note, imported: None) -> None:
    """The lookaside cache knows by itself what an archive is: its name says it."""
    host = estate.lab.need_role("lookaside")
    path = found(host, f"find {LOOKASIDE}/archives -type f -size +0 | tail -n 1")
    good = host.root / path.lstrip("/")
    keep = good.read_bytes()
    fsck = [f"{LIB}/lookaside_fsck.py", "--from-start"]
    flip(host, path)
    try:
        status, said = ended(start_on(host, *fsck))
        assert status == 1 and path.rpartition("/")[2] in said, said
    finally:
        good.write_bytes(keep)
    status, said = ended(start_on(host, *fsck))
    assert status == 0, said
    note(
        "corrupt archive",
        f"{host.name}: {LOOKASIDE}",
        "``lookaside_fsck.py`` (by a timer) names it",
        "``--repair-from`` another cache, or the backup",
    )


def test_published_repository(estate: Estate, note: Note) -> None:
    """Metadata that is not what was published is refused by dnf's signature, and made anew."""
    host = estate.lab.need_role("mash")
    path = found(host, "find -L /srv/repos/goose-1/x86_64/os/repodata -name '*primary.xml*'")
    flip(host, path)
    status, said = ended(start_on(host, *MASH))
    assert status == 0, said
    again = found(host, "find -L /srv/repos/goose-1/x86_64/os/repodata -name '*primary.xml*'")
    digest = host.run(["sha256sum", again]).stdout.split()[0]
    assert again.rpartition("/")[2].startswith(digest), said
    note(
        "corrupt metadata",
        f"{host.name}: /srv/repos",
        "the next mash finds that it is not what was published",
        "it is made anew",
    )


CACHES = [
    ("mash", "/var/cache/mash", shlex.join(MASH)),
    ("pungi", "/var/cache/goose-compose", shlex.join(compose_line("fault"))),
    ("koji.builder", "/var/cache/salt/minion", "salt-call --retcode-passthrough state.apply"),
    (
        "salt.master",
        "/var/cache/salt/master",
        "systemctl restart salt-master && salt-call --retcode-passthrough test.ping",
    ),
]


@pytest.mark.parametrize(("role", "directory", "line"), CACHES, ids=[row[1] for row in CACHES])
def test_caches(estate: Estate, note: Note, role: str, directory: str, line: str) -> None:
    """All files of a cache have other bits: what reads it goes on, with what is right."""
    host = estate.lab.need_role(role)
    before = estate.manifest("goose-1")
    flips = f'find {directory} -type f -size +0 | while read p; do /usr/bin/python3 -c "$1" "$p"; done'
    host.run(["sh", "-c", flips, "flips", FLIP])
    status, said = ended(start_on(host, "sh", "-c", line), 400)
    assert status == 0, said
    assert json.loads(estate.manifest("goose-1"))["trees"] == json.loads(before)["trees"]
    estate.back()
    note(
        "corrupt files",
        f"{host.name}: {directory}",
        "what is not as it was written is not used",
        "by itself, in the next run",
    )


def test_prometheus(estate: Estate, note: Note) -> None:
    """Its log of the last hours is damaged: it starts with what can be read."""
    host = estate.lab.need_role("monitoring")
    path = found(host, "ls -t $(find /var/lib/prometheus -path '*/wal/0*' -type f -size +0)")
    host.run(["systemctl", "stop", "prometheus"])
    flip(host, path)
    host.run(["systemctl", "start", "prometheus"])
    code = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:9090/prometheus/-/ready',timeout=5).status)"
    wait_for(
        lambda: "200" in host.run(["/usr/bin/python3", "-c", code], check=False).stdout or None,
        "Prometheus to be ready",
        120,
    )
    estate.back()
    note(
        "corrupt file",
        f"{host.name}: /var/lib/prometheus",
        "Prometheus leaves out what it cannot read",
        "by itself; minutes of measurements may be gone, and nothing else",
    )


SEALED = [
    ("sigul.client", "signing", "find /var/lib/goose-sign/gnupg/private-keys-v1.d -name '*.key'",
     "systemctl start signing-goose-1.service"),
    ("pki.ca", "ca", "find /etc/pki/goose-ca -type f -name '*.key'",
     "rm -f /etc/pki/goose/host.crt; salt-call --retcode-passthrough state.apply pki.ca,pki"),
]  # fmt: skip


@pytest.mark.parametrize(("role", "part", "line", "use"), SEALED, ids=["signing", "ca"])
def test_keys(estate: Estate, note: Note, role: str, part: str, line: str, use: str) -> None:
    """A private key is destroyed: what needs it fails and says so, and the sealed backup brings it back."""
    host = estate.lab.need_role(role)
    host.run([f"{LIB}/koji_backup.py", "run"])
    path = found(host, line)
    whole = host.run(["sha256sum", path]).stdout
    if part == "signing":
        estate.forget_signatures()
    # All of it: what GnuPG does not know in a key's file it passes over.
    host.run(["sh", "-c", f"yes damaged | head -c $(stat -c %s {path}) | dd of={path} conv=notrunc"])
    host.run(
        [
            "sh",
            "-c",
            "runuser -u goose-sign -- gpgconf --homedir /var/lib/goose-sign/gnupg --kill all || true",
        ]
    )
    assert host.run(["sh", "-c", use], check=False).returncode != 0
    # Nobody makes another in its place: what the first has signed would be worth nothing.
    assert host.run(["head", "-c", "7", path]).stdout == "damaged"
    restore = [f"{LIB}/koji_restore.py", "--part", part, "--over", host.fqdn, "--json"]
    with backup_key(estate.lab, host) as home:
        assert json.loads(host.run([*restore, "--gnupg-home", home]).stdout)["wrong"] == []
    assert host.run(["sha256sum", path]).stdout == whole
    host.run(["sh", "-c", use])
    estate.back()
    note(
        "corrupt key",
        f"{host.name}: {path.rpartition('/')[0]}",
        "what needs it fails with a sentence",
        f"``koji_restore.py --part {part}``, with the key that is on no host",
    )
