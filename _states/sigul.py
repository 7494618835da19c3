"""Sigul's NSS databases, its database and its first administrator."""

from __future__ import annotations

import configparser
import contextlib
import grp
import os
import pwd
import secrets
import shutil
import sqlite3
import stat
import tempfile
import time
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "sigul"

Result = dict[str, Any]

# Sigul asks for its own certificate by nickname, and for the CA not at all.
_CA = "ca"
_CA_TRUST = "CT,,"
_END = "-----END CERTIFICATE-----\n"
_TABLES = {"users", "keys", "key_accesses"}


def __virtual__() -> str:
    return __virtualname__


def _result(name: str, result: bool | None, comment: str, changes: dict[str, Any] | None = None) -> Result:
    return {"name": name, "result": result, "changes": changes or {}, "comment": comment}


def _call(command: list[str], **options: Any) -> tuple[int, str]:
    """Run a program; its exit status, and what it said. Neither is logged."""
    done = __salt__["cmd.run_all"](
        command, python_shell=False, output_loglevel="quiet", ignore_retcode=True, **options
    )
    return int(done["retcode"]), str(done["stdout"] if done["retcode"] == 0 else done["stderr"] or done["stdout"])


def _need(command: list[str], what: str, **options: Any) -> str:
    status, said = _call(command, **options)
    if status:
        last = said.strip().splitlines()[-1:] or [f"exit status {status}"]
        raise CommandExecutionError(f"{what} failed: {last[0]}")
    return said


# NSS


def _password(path: str) -> str:
    """The password of the NSS database, out of the file of Sigul's that it stands in."""
    parser = configparser.RawConfigParser()
    try:
        with open(path, encoding="utf-8") as stream:
            parser.read_file(stream)
        return parser.get("nss", "nss-password")
    except (OSError, configparser.Error) as error:
        raise CommandExecutionError(
            f"{path} does not hold the password of the NSS database ({error}): look at the errors of the state"
            " that makes it."
        ) from error


def _pem(path: str) -> str:
    with open(path, encoding="ascii") as stream:
        return "".join(stream.read().split())


def _cas(path: str) -> dict[str, str]:
    """Nickname -> text of each certificate in a file of CAs: two, while one takes the place of another."""
    with open(path, encoding="ascii") as stream:
        parts = [part + _END for part in stream.read().split(_END)[:-1]]
    return {f"{_CA}-{number}" if number > 1 else _CA: part.lstrip() for number, part in enumerate(parts, 1)}


def _differs(name: str, nickname: str, certificate: str, ca: str, password_file: str) -> list[str]:
    """What of a database is not as it should be."""
    if not os.path.isfile(f"{name}/cert9.db"):
        return ["there is no database"]
    database = ["-d", f"sql:{name}"]
    if _call(["certutil", "-K", *database, "-f", password_file])[0]:
        return ["its password or its keys are not the ones that they should be"]
    status, listed = _call(["certutil", "-L", *database])
    if status:
        return ["it cannot be read"]
    trust = dict(line.rsplit(None, 1) for line in listed.splitlines() if len(line.split()) == 2)
    cas = {entry: "".join(text.split()) for entry, text in _cas(ca).items()}
    found = [f"{entry} is there" for entry in sorted(set(trust) - {nickname, *cas})]
    for entry, path, wanted in (*((entry, ca, _CA_TRUST) for entry in cas), (nickname, certificate, None)):
        status, text = _call(["certutil", "-L", *database, "-n", entry, "-a"])
        if status or "".join(text.split()) != (cas[entry] if wanted else _pem(path)):
            found.append(f"{entry} is not {path}")
        elif wanted is None and "u" not in trust.get(entry, ""):
            found.append(f"{entry} has no key")
        elif wanted and trust.get(entry) != wanted:
            found.append(f"{entry} is not trusted")
    return found


def _open_to_others(name: str, user: str, group: str) -> list[str]:
    owner = (pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid)
    wrong = []
    for path, mode in ((name, 0o700), *((f"{name}/{entry}", 0o600) for entry in sorted(os.listdir(name)))):
        found = os.stat(path)
        if (found.st_uid, found.st_gid) != owner or stat.S_IMODE(found.st_mode) != mode:
            wrong.append(path)
    return wrong


def _own(name: str, user: str, group: str) -> None:
    owner = (pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid)
    for path, mode in ((name, 0o700), *((f"{name}/{entry}", 0o600) for entry in os.listdir(name))):
        os.chown(path, *owner)
        os.chmod(path, mode)


def _fill(name: str, nickname: str, certificate: str, private_key: str, ca: str, work: str) -> None:
    """Make the database in a new directory, which then takes the place of the old one."""
    new, old = f"{name}.new", f"{name}.old"
    for path in (new, old):
        shutil.rmtree(path, ignore_errors=True)
    os.mkdir(new, 0o700)
    password, bundle = f"{work}/password", f"{work}/bundle.p12"
    database = ["-d", f"sql:{new}"]
    _need(["certutil", "-N", *database, "-f", password], "Making the NSS database")
    for entry, text in _cas(ca).items():
        with open(f"{work}/ca", "w", encoding="ascii") as stream:
            stream.write(text)
        _need(
            ["certutil", "-A", *database, "-f", password, "-n", entry, "-t", _CA_TRUST, "-a", "-i", f"{work}/ca"],
            "Adding the CA's certificate",
        )
    _need(
        ["openssl", "pkcs12", "-export", "-in", certificate, "-inkey", private_key, "-name", nickname]
        + ["-passout", f"file:{password}", "-out", bundle],
        "Packing certificate and key",
        umask="077",
    )
    _need(
        ["pk12util", *database, "-i", bundle, "-k", password, "-w", password],
        "Adding certificate and key",
    )


def nss(
    name: str,
    nickname: str,
    certificate: str,
    private_key: str,
    ca: str,
    password_file: str,
    user: str = "root",
    group: str = "root",
) -> Result:
    """Keep an NSS database in the directory ``name`` that holds a certificate, its key and the CA's certificate.

    It is made anew, and put in place as a whole, where the certificate was renewed or anything is damaged.

    nickname
        What Sigul knows the certificate by.
    certificate, private_key, ca
        PEM files.
    password_file
        File of Sigul's with the password, as ``nss-password`` in the section ``nss``.
    """
    missing = [path for path in (certificate, private_key, ca, password_file) if not os.path.isfile(path)]
    if missing or not shutil.which("certutil"):
        what = ", ".join(missing) or "certutil"
        if __opts__["test"]:
            return _result(name, None, f"{what} would be there first, then {name} filled.", {name: "filled"})
        return _result(name, False, f"{what} is missing: look at the errors of the states before this one.")
    try:
        with tempfile.TemporaryDirectory(prefix="sigul-nss-", dir="/run") as work:
            with open(os.open(f"{work}/password", os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as stream:
                stream.write(_password(password_file) + "\n")
            why = _differs(name, nickname, certificate, ca, f"{work}/password")
            if why:
                if __opts__["test"]:
                    return _result(name, None, f"{name} would be filled: {'; '.join(why)}.", {name: "filled"})
                _fill(name, nickname, certificate, private_key, ca, work)
                _own(f"{name}.new", user, group)
                if os.path.lexists(name):
                    os.rename(name, f"{name}.old")
                os.rename(f"{name}.new", name)
                shutil.rmtree(f"{name}.old", ignore_errors=True)
                return _result(name, True, f"{name} was filled: {'; '.join(why)}.", {name: "filled"})
        if wrong := _open_to_others(name, user, group):
            changes = {path: "owner and mode" for path in wrong}
            if __opts__["test"]:
                return _result(name, None, f"Owner and mode of {', '.join(wrong)} would be set.", changes)
            _own(name, user, group)
            return _result(name, True, f"Owner and mode of {', '.join(wrong)} were set.", changes)
    except (CommandExecutionError, OSError) as error:
        if __opts__["test"]:
            # An earlier state mends it.
            return _result(name, None, f"{name} would be filled. Now: {error}", {name: "filled"})
        return _result(name, False, str(error))
    return _result(name, True, f"{name} holds the certificate {nickname} and its key.")


# The server's database


def _rows(path: str, query: str, *values: Any) -> list[Any]:
    """Rows of the database, which is only read; none where it is not there, or has no such table."""
    if not os.path.isfile(path):
        return []
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        try:
            return database.execute(query, values).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return []
            raise CommandExecutionError(f"{path} cannot be read: {error}.") from error
        except sqlite3.DatabaseError as error:
            raise CommandExecutionError(
                f"{path} is damaged ({error}): stop sigul_server and put the last backup in its place."
            ) from error


def database(name: str, config: str, user: str, group: str) -> Result:
    """Keep the server's database at ``name``, as ``sigul_server_create_db`` makes it, closed to others."""
    try:
        there = {row[0] for row in _rows(name, "select name from sqlite_master where type = 'table'")}
        changes = {}
        if not there >= _TABLES:
            if __opts__["test"]:
                return _result(name, None, f"{name} would be made.", {name: "made"})
            _need(["/usr/sbin/sigul_server_create_db", "-c", config], "sigul_server_create_db", runas=user, umask="077")
            changes = {name: "made"}
    except CommandExecutionError as error:
        return _result(name, False, str(error))
    closed = __states__["file.managed"](name=name, replace=False, user=user, group=group, mode="0600")
    if changes and closed["result"]:
        return _result(name, True, f"{name} was made.", changes)
    return {**closed, "name": name, "comment": closed["comment"] or f"{name} was closed to others."}


def administrator(
    name: str, config: str, database: str, passphrase_file: str, user: str, pillar_key: str = ""
) -> Result:
    """See to it that Sigul has the user ``name``, an administrator.

    The passphrase is what pillar has at ``pillar_key`` (a path, with colons); else it is made here and kept in
    ``passphrase_file``, for the one who administers. Once the user exists, that file is needed no more.
    """
    try:
        found = _rows(database, "select admin from users where name = ?", name)
    except CommandExecutionError as error:
        return _result(name, False, str(error))
    if found:
        if found[0][0]:
            return _result(name, True, f"{name} is an administrator.")
        return _result(
            name, False, f"{name} is a user of Sigul and no administrator: run sigul modify-user --admin=yes {name}."
        )
    if __opts__["test"]:
        return _result(name, None, f"{name} would be made an administrator.", {name: "added"})
    given: Any = __pillar__
    for part in filter(None, pillar_key.split(":")):
        given = given.get(part) if isinstance(given, dict) else None
    passphrase = given if pillar_key and given else _kept(passphrase_file)
    status, said = _call(
        ["/usr/sbin/sigul_server_add_admin", "-c", config, "--batch", "-n", name], runas=user, stdin=f"{passphrase}\0"
    )
    try:
        added = _rows(database, "select admin from users where name = ?", name)
    except CommandExecutionError as error:
        return _result(name, False, str(error))
    if status or not added:
        last = said.strip().splitlines()[-1:] or [f"exit status {status}"]
        return _result(name, False, f"sigul_server_add_admin failed: {last[0]}")
    where = f"the one of pillar {pillar_key}" if given and pillar_key else f"in {passphrase_file}"
    return _result(name, True, f"{name} was made an administrator; the passphrase is {where}.", {name: "added"})


def _kept(path: str) -> str:
    """The passphrase in the file; a new one where it is not there, or of a run that was killed."""
    if os.path.isfile(path):
        with open(path, encoding="utf-8") as stream:
            if found := stream.read().strip():
                return found
    made = secrets.token_urlsafe(32)
    partial = f"{path}.new"
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        stream.write(f"{made}\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(partial, path)
    return made


# The daemons


def ready(name: str, pid_file: str, timeout: float = 30) -> Result:
    """Wait until the daemon ``name`` has read its configuration, which it says by its PID file; change nothing.

    systemd takes it for started at once, and starts it again for ever where it falls.
    """
    deadline = time.monotonic() + (0 if __opts__["test"] else timeout)
    while True:
        shown = _call(["systemctl", "show", "--property=ActiveState,MainPID", name])[1]
        values = dict(line.partition("=")[::2] for line in shown.splitlines())
        pid = values.get("MainPID", "0")
        if values.get("ActiveState") == "active" and pid != "0" and _first_line(pid_file) == pid:
            return _result(name, True, f"{name} is ready.")
        if time.monotonic() >= deadline:
            break
        time.sleep(0.25)
    if __opts__["test"]:
        return _result(name, None, f"{name} would be started first.")
    said = _call(["journalctl", "--no-pager", "--output=cat", "--lines=1", f"_SYSTEMD_UNIT={name}.service"])[1]
    why = said.strip() or "it said nothing"
    return _result(name, False, f"{name} does not stay up: {why}. journalctl -u {name} has more.")


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as stream:
            return stream.readline().strip()
    except OSError:
        return ""
