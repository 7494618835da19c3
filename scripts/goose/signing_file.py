"""Signatures of files, for programs of other users on the signing host: repomd.xml, CHECKSUM.

Who makes repositories must have them signed, and must not have the key. So the signing host has a socket for each
key, ``/run/goose-signing/KEY``, which members of one group may use. Whoever dials sends what shall be signed, and
gets the signature; systemd starts the answering side for each call, as the user that owns the keys, with the sealed
passphrase. Key and passphrase stay there, and each signature is noted in the journal with who asked for it.

A request is a line, ``detached`` or ``clear``, and the text, up to the end of what is sent. An answer is a line,
``signed`` or ``refused``, and the signature or a sentence.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import pwd
import socket
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

from goose import signing_gpg
from goose.signing import check_user
from goose.signing_backends import Outage, sigul
from goose.signing_config import (
    CONFIG,
    EXIT_DONE,
    EXIT_TOOL,
    EXIT_USAGE,
    Config,
    SigningError,
    need_passphrase,
)

SOCKETS = Path("/run/goose-signing")
HOW = ("detached", "clear")

# repomd.xml and CHECKSUM have some kilobytes; packages are signed by another program.
_LIMIT = 1 << 20
# Seconds; Sigul and its bridge are the slowest that answers.
_PATIENCE = 180.0
_BEGINS = {"detached": b"-----BEGIN PGP SIGNATURE-----", "clear": b"-----BEGIN PGP SIGNED MESSAGE-----"}


def sign(config: Config, name: str, how: str, text: bytes) -> bytes:
    """The armored signature of ``text``, or with ``clear`` the text with the signature below.

    Raises:
        SigningError: where it is not made.
    """
    key = config.key(name)
    if key.state == "retired":
        raise SigningError(f"{name} is retired and signs nothing: pillar signing:keys:{name}:state says so.")
    secret = need_passphrase(key, None, None)
    if config.backend == "rpmsign":
        pair = signing_gpg.need_pair(config.gnupg_home, key)
        word = {"detached": "--detach-sign", "clear": "--clear-sign"}[how]
        made = signing_gpg.sign(config.gnupg_home, pair, secret, ["--armor", word], text)
    else:
        work = config.state_dir / f"file-{os.getpid()}.work"
        work.mkdir(mode=0o700)
        try:
            given, answer = work / "text", work / "signed"
            given.write_bytes(text)
            words = {"detached": ["sign-data", "--armor"], "clear": ["sign-text"]}[how]
            sigul(config, [*words, "-o", str(answer), key.sigul_name, str(given)], [secret], _PATIENCE - 10)
            made = answer.read_bytes() if answer.exists() else b""
        except Outage as error:
            raise SigningError(str(error), EXIT_TOOL) from error
        finally:
            for path in work.iterdir():
                path.unlink()
            work.rmdir()
    if not made.startswith(_BEGINS[how]):
        raise SigningError(f"What {config.backend} made with {name} is no {how} signature.", EXIT_TOOL)
    return made


def answer(config: Config, name: str, request: bytes) -> tuple[bytes, str]:
    """What a request is answered, and a line for the journal."""
    how, found, text = request.partition(b"\n")
    try:
        if not found or how.decode("ascii", "replace") not in HOW:
            raise SigningError(f"The first line of a request is {' or '.join(HOW)}.")
        if len(request) > _LIMIT:
            raise SigningError(f"More than {_LIMIT >> 20} MiB are not signed here: these signatures are for metadata.")
        made = sign(config, name, how.decode(), text)
    except SigningError as error:
        return f"refused\n{error}".encode(), f"refused: {error}"
    return b"signed\n" + made, f"signed {len(text)} bytes, {how.decode()}, SHA-256 {hashlib.sha256(text).hexdigest()}"


def _serve(name: str, path: Path) -> int:
    """Answer the one request that standard input, a connection, brings."""
    with socket.socket(fileno=os.dup(0)) as connection:
        connection.settimeout(_PATIENCE)
        who = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))[1]
        asker = str(who)
        with contextlib.suppress(KeyError):
            asker = pwd.getpwuid(who).pw_name
        request = _all(connection, _LIMIT + 1)
        try:
            config = Config.read(path)
            check_user(config)
            said, line = answer(config, name, request)
        except SigningError as error:
            said, line = f"refused\n{error}".encode(), f"refused: {error}"
        print(f"{name}, for {asker}: {line}", file=sys.stderr)
        connection.sendall(said)
    return EXIT_DONE


def _all(connection: socket.socket, limit: int) -> bytes:
    parts, size = [], 0
    while size <= limit and (part := connection.recv(1 << 16)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def ask(name: str, how: str, text: bytes, sockets: Path = SOCKETS) -> bytes:
    """Have this host's signing service sign ``text``; see `sign`.

    Raises:
        SigningError: where it does not.
    """
    path = sockets / name
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_PATIENCE)
        try:
            connection.connect(str(path))
            # Where more is sent than is taken, its answer is there all the same.
            with contextlib.suppress(BrokenPipeError):
                connection.sendall(how.encode() + b"\n" + text)
                connection.shutdown(socket.SHUT_WR)
            said = _all(connection, 2 * _LIMIT)
        except FileNotFoundError as error:
            raise SigningError(
                f"{path} is not there: this host has no role sigul.client, or {name} is no key that is in use."
            ) from error
        except PermissionError as error:
            raise SigningError(
                f"{path} is not open to {pwd.getpwuid(os.geteuid()).pw_name}: it is for the group in pillar"
                " signing:files_group.",
            ) from error
        except OSError:
            # A unit that fails before it reads resets the connection.
            said = b""
    kind, _, rest = said.partition(b"\n")
    if kind == b"refused":
        raise SigningError(rest.decode("utf-8", "replace"), EXIT_TOOL)
    if kind != b"signed" or not rest.startswith(_BEGINS[how]):
        raise SigningError(
            f"{path} gives no answer: look at `journalctl -u signing-{name}-files.socket -u 'signing-{name}-files@*'`."
            " Status 243 there: the passphrase is not sealed on this host.",
            EXIT_TOOL,
        )
    return rest


def main(argv: Sequence[str] | None = None) -> int:
    """``scripts/sign_file.py``; the exit status."""
    parser = argparse.ArgumentParser(
        prog="sign_file.py",
        description="Have a file signed by the signing service of this host, as a member of its group.",
        epilog="Exit status: 0 signed, 2 usage, 5 the signing service failed.",
    )
    parser.add_argument("key", metavar="KEY", help="a key of the signing host")
    parser.add_argument("file", metavar="FILE", type=Path, nargs="?", help="what shall be signed")
    parser.add_argument("signed", metavar="SIGNED", type=Path, nargs="?", help="where the signature goes; it appears whole")
    parser.add_argument("--clear", action="store_true", help="text and signature in one, instead of the signature alone")
    parser.add_argument("--serve", action="store_true", help="answer the request on standard input: for the unit")
    parser.add_argument("--config", type=Path, default=CONFIG, metavar="FILE", help=f"with --serve (default: {CONFIG})")
    args = parser.parse_args(argv)
    if args.serve:
        return _serve(args.key, args.config)
    if not args.file or not args.signed:
        parser.error("give FILE and SIGNED.")
    try:
        try:
            text = args.file.read_bytes()
        except OSError as error:
            raise SigningError(f"{args.file} cannot be read: {error.strerror}.") from error
        made = ask(args.key, "clear" if args.clear else "detached", text)
        partial = args.signed.with_name(f".{args.signed.name}.partial")
        try:
            partial.write_bytes(made)
            partial.replace(args.signed)
        except OSError as error:
            raise SigningError(f"{args.signed} cannot be written: {error.strerror}.", EXIT_USAGE) from error
    except SigningError as error:
        print(f"sign_file.py: {error}", file=sys.stderr)
        return error.status
    return EXIT_DONE
