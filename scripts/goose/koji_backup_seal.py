"""Secrets of a host, sealed: a tar archive that only exists encrypted, for the keys that pillar names.

The archive goes through a pipe to GnuPG. Its members are ``files/PATH``, and ``credentials/NAME`` for what systemd
keeps sealed for this host alone and no other could open.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sqlite3
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from goose.koji_backup_config import (
    EXIT_AUTHENTICATION,
    EXIT_USAGE,
    BackupError,
    Part,
    last_words,
    run,
    scratch,
)

# Sockets have no content; locks are those of processes that will not be there.
_LEFT_OUT = re.compile(r"(^|/)(\.#lk[^/]*|[^/]*\.lock|S\.[^/]*|random_seed)$")


def seal(part: Part, target: Path, recipients: Sequence[Path]) -> None:
    """Write the secrets of ``part`` into ``target``, encrypted for all ``recipients`` (files with public keys)."""
    if not recipients:
        raise BackupError(f"Nobody is named for whom to seal {part.name}: set pillar koji:backup:recipients.", EXIT_USAGE)
    for path in (*part.paths, *part.sqlite):
        if not path.exists():
            raise BackupError(f"{path} is missing, which is to be backed up as {part.name}.")
    with scratch() as home:
        command = [*_gpg(home), "--trust-model", "always", "--output", str(target), "--encrypt"]
        for path in recipients:
            command += ["--recipient-file", str(path)]
        target.unlink(missing_ok=True)
        try:
            with _piped(command) as process:
                assert process.stdin is not None
                with contextlib.suppress(BrokenPipeError):
                    _write(part, process.stdin, home)
                    process.stdin.close()
        except BackupError as error:
            raise BackupError(f"{part.name} was not sealed: {error}") from error


@contextlib.contextmanager
def _piped(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that reads from a pipe; at the end it has ended, and it is an error where it failed."""
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    except FileNotFoundError as error:
        raise BackupError("gpg is not installed on this host: apply the role koji.backup.") from error
    try:
        yield process
        assert process.stderr is not None
        said = process.stderr.read()
        if process.wait() != 0:
            raise BackupError(f"{command[0]} failed: {last_words(said)}")
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def _gpg(home: Path) -> list[str]:
    return ["gpg", "--homedir", str(home), "--batch", "--no-tty", "--quiet", "--no-autostart"]


def _write(part: Part, stream: object, home: Path) -> None:
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:  # type: ignore[call-overload]
        for path in part.paths:
            archive.add(path, f"files{path}", filter=_wanted)
        for number, path in enumerate(part.sqlite):
            copied = home / f"database-{number}"
            _copy_sqlite(path, copied)
            member = archive.gettarinfo(str(path), f"files{path}")
            member.size = copied.stat().st_size
            with copied.open("rb") as content:
                archive.addfile(member, content)
            copied.unlink()
        for name in part.credentials:
            secret = run(["systemd-creds", "decrypt", f"--name={name}", str(part.credstore / name), "-"]).stdout
            member = tarfile.TarInfo(f"credentials/{name}")
            member.size, member.mode = len(secret), 0o600
            archive.addfile(member, io.BytesIO(secret))


def _wanted(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    kind = member.isfile() or member.isdir() or member.issym()
    return member if kind and not _LEFT_OUT.search(member.name) else None


def _copy_sqlite(path: Path, target: Path) -> None:
    """As one moment has it, whoever writes to it."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as source:
        target.touch(mode=0o600)
        with contextlib.closing(sqlite3.connect(target)) as copied:
            source.backup(copied)


def sealed_for(path: Path) -> list[str]:
    """Ids of the keys that can open what is in ``path``; `BackupError` where it is not encrypted, or damaged."""
    with scratch() as home:
        done = run([*_gpg(home), "--list-only", "--list-packets", str(path)], good=range(256))
    said = done.stdout.decode(errors="replace")
    keys = re.findall(r"^:pubkey enc packet: .* keyid ([0-9A-F]+)$", said, re.MULTILINE)
    if not keys or not re.search(r"^:(aead )?encrypted data packet:|^:encrypted data packet:", said, re.MULTILINE):
        raise BackupError(f"{path} is not encrypted, or damaged: {last_words(done.stderr)}")
    return keys


def unseal(path: Path, part: Part, root: Path, gnupg_home: Path | None, put_credentials: bool) -> int:
    """Unpack ``path`` below ``root``; returns the number of files.

    ``gnupg_home``: where the secret key is; None for the user's own. ``put_credentials``: whether the credentials
    are sealed for this host and put where the part has them; else they become files of ``root/credentials``.
    """
    command = ["gpg", *(["--homedir", str(gnupg_home)] if gnupg_home else []), "--batch", "--quiet", "--decrypt", str(path)]
    count = 0
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    try:
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                # Newer Pythons would else leave out who files belong to.
                archive.extraction_filter = lambda member, path: member  # type: ignore[attr-defined,unused-ignore]
                for member in archive:
                    count += _unpack(archive, member, part, root, put_credentials)
            broken = None
            process.stdout.read()
        except tarfile.TarError as error:
            broken = error
            process.stdout.close()
        said = process.stderr.read()
        if process.wait() != 0:
            raise BackupError(
                f"{path} was not opened: {last_words(said)}. Name the directory that has the secret key by --gnupg-home.",
                EXIT_AUTHENTICATION,
            )
        if broken:
            raise BackupError(f"{path} holds no archive: {broken}.")
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    return count


def _unpack(archive: tarfile.TarFile, member: tarfile.TarInfo, part: Part, root: Path, put_credentials: bool) -> int:
    """One member; anybody can encrypt for a public key, so only what is the part's own is taken."""
    kind, _, name = member.name.partition("/")
    path = Path("/", name)
    if kind == "files":
        own = (member.isfile() or member.isdir() or member.issym()) and _within(path, part)
        if member.issym():
            own = own and _within(path.parent / member.linkname, part)
    else:
        own = kind == "credentials" and member.isfile() and name in part.credentials
    if not own:
        raise BackupError(f"The archive of {part.name} has a member {member.name!r}, which this host's part has not.")
    if kind == "credentials" and put_credentials:
        content = archive.extractfile(member)
        assert content is not None
        _put_credential(part, name, content.read())
        return 1
    if kind == "files":
        member.name = name
    # By the names of user and group, which have other numbers on another host.
    archive.extract(member, root, numeric_owner=False)
    return 0 if member.isdir() else 1


def _within(path: Path, part: Part) -> bool:
    path = Path(os.path.normpath(path))
    return any(place == path or place in path.parents for place in (*part.paths, *part.sqlite))


def _put_credential(part: Part, name: str, secret: bytes) -> None:
    sealed = run(["systemd-creds", "encrypt", f"--name={name}", "-", "-"], stdin=secret.decode()).stdout
    part.credstore.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = part.credstore / f".{name}.new"
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(sealed)
    partial.replace(part.credstore / name)
