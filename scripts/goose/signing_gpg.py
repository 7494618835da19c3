"""GnuPG on a signing host: its directory, its keys, and how it is told a passphrase.

The passphrase is in a file in memory that has no name. GnuPG opens it anew for each RPM, through the
descriptor that it inherits; so it is in no argument, no environment and on no disk. The agent keeps none.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from goose.signing_config import EXIT_AUTHENTICATION, EXIT_TOOL, EXIT_USAGE, Key, Passphrase, SigningError

AGENT_CONF = """\
# No passphrase is kept: each signature is given it anew.
allow-loopback-pinentry
default-cache-ttl 0
max-cache-ttl 0
# Rounds that turn the passphrase into a key, gone through for each signature. It is long and random,
# and gains nothing from more; with the default, 200 RPMs take some 20 seconds longer.
s2k-count 65536
"""
GPG_CONF = """\
pinentry-mode loopback
no-secmem-warning
digest-algo SHA256
"""


@dataclass(frozen=True)
class KeyPair:
    """A key as GnuPG lists it."""

    fingerprint: str
    """Of the primary key, 40 digits."""
    signer: str
    """Fingerprint of the key or subkey that signs."""
    created: int
    """Seconds since 1970."""
    uids: tuple[str, ...]

    @property
    def koji_id(self) -> str:
        """What Koji knows it by."""
        return self.signer[-8:].lower()


def gpg(
    words: Sequence[str], home: Path | None = None, given: bytes = b"", fds: Sequence[int] = ()
) -> subprocess.CompletedProcess[bytes]:
    """Run gpg, in English; `SigningError` (tool) where it is not installed."""
    command = ["gpg", *(["--homedir", str(home)] if home else []), "--batch", "--no-tty", *words]
    try:
        return subprocess.run(command, input=given, capture_output=True, pass_fds=fds, check=False, timeout=600,
                              env={**os.environ, "LC_ALL": "C.UTF-8"}, **_owner(home))  # fmt: skip
    except FileNotFoundError as error:
        raise SigningError("gpg is not installed on this host: install GnuPG.", EXIT_TOOL) from error
    except subprocess.TimeoutExpired as error:
        raise SigningError("gpg was not done after ten minutes.", EXIT_TOOL) from error


def _owner(home: Path | None) -> dict[str, Any]:
    """What makes a program of root's run as the owner of ``home``: it must be able to use what is written there."""
    if home is None or os.geteuid() or not home.is_dir():
        return {}
    status = home.stat()
    return {"user": status.st_uid, "group": status.st_gid, "extra_groups": []} if status.st_uid else {}


def prepare(home: Path) -> None:
    """Make GnuPG's directory with its two files, where it is not there; what is there stays."""
    if not home.exists():
        home.mkdir(mode=0o700, parents=True)
        if os.geteuid() == 0:
            above = home.parent.stat()
            os.chown(home, above.st_uid, above.st_gid)
    for name, text in (("gpg-agent.conf", AGENT_CONF), ("gpg.conf", GPG_CONF)):
        path = home / name
        if not path.exists():
            partial = home / f"{name}.new"
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)


def parse(listing: str) -> list[KeyPair]:
    """Keys in what ``gpg --with-colons`` lists (doc/DETAILS of GnuPG says what the columns are)."""
    found = []
    for block in re.split(r"^(?=pub:|sec:)", listing, flags=re.M):
        rows = [line.split(":") for line in block.splitlines()]
        if not rows or rows[0][0] not in ("pub", "sec"):
            continue
        keys = []  # (usable for signing, created, fingerprint), the primary key first
        for row, following in zip(rows, rows[1:]):
            if row[0] in ("pub", "sec", "sub", "ssb") and following[0] == "fpr":
                usable = "s" in row[11] and row[1] not in ("r", "e", "i", "d")
                keys.append((usable, int(row[5] or 0), following[9]))
        if not keys:
            continue
        # As GnuPG chooses: the newest subkey that can sign, else the primary key.
        usable_subkeys = [key for key in keys[1:] if key[0]]
        signer = max(usable_subkeys, key=lambda key: key[1]) if usable_subkeys else keys[0]
        uids = tuple(re.sub(r"\\x3a", ":", row[9]) for row in rows if row[0] == "uid")
        found.append(KeyPair(keys[0][2], signer[2], keys[0][1], uids))
    return found


def pair_of(home: Path, key: Key) -> KeyPair | None:
    """The pair in the keyring that ``key`` means, by its key_id or else its uid; None where there is none.

    Public keys are looked at: secret ones are the agent's to show, which may be ending with another run.

    Raises:
        SigningError: where several have this uid.
    """
    if not home.is_dir():
        return None
    listed = parse(gpg(["--list-keys", "--with-colons"], home).stdout.decode("utf-8", "replace"))
    if key.key_id:
        found = [pair for pair in listed if pair.koji_id == key.key_id]
    else:
        found = [pair for pair in listed if key.uid in pair.uids]
    if len(found) > 1:
        ids = ", ".join(pair.signer[-16:].lower() for pair in found)
        raise SigningError(
            f"{home} has several keys of {key.uid} ({ids}): name one in pillar signing:keys:{key.name}:key_id."
        )
    return found[0] if found else None


def need_pair(home: Path, key: Key) -> KeyPair:
    """As `pair_of`; `SigningError` (usage) where there is none."""
    found = pair_of(home, key)
    if found is None:
        what = key.key_id or key.uid
        raise SigningError(
            f"{home} has no key {what} for {key.name}: make it by signing_key.py create {key.name}, as the user that"
            " signs.",
            EXIT_USAGE,
        )
    return found


def id_of_public(text: bytes, where: str) -> KeyPair:
    """The one key in an exported public key. `SigningError` where it is none."""
    done = gpg(["--with-colons", "--import-options", "show-only", "--import"], given=text)
    found = parse(done.stdout.decode("utf-8", "replace"))
    if len(found) != 1:
        raise SigningError(f"{where} holds no public key, or several: it must hold one, as gpg --export --armor gives it.")
    return found[0]


@contextlib.contextmanager
def held(secret: Passphrase) -> Iterator[int]:
    """A descriptor for programs that inherit it: ``/dev/fd/N`` in them is a file with the passphrase."""
    descriptor = os.memfd_create("passphrase", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, secret.value)
        yield descriptor
    finally:
        os.close(descriptor)


def with_passphrase(descriptor: int) -> list[str]:
    """Options that let gpg take the passphrase from `held`."""
    return ["--pinentry-mode", "loopback", "--passphrase-file", f"/dev/fd/{descriptor}"]


def rpm_macros(home: Path, pair: KeyPair, descriptor: int) -> list[str]:
    """Options of rpmsign (4.16 and newer) that name program, directory and key, whatever rpm's configuration says."""
    macros = {
        "__gpg": shutil.which("gpg") or "/usr/bin/gpg",
        "_gpg_path": str(home),
        # The mark makes GnuPG take this very key, and no other that the same name has.
        "_gpg_name": f"{pair.signer}!",
        "_gpg_digest_algo": "sha256",
        "_gpg_sign_cmd_extra_args": " ".join(["--batch", "--no-tty", *with_passphrase(descriptor)]),
    }
    return [word for name, value in macros.items() for word in ("--define", f"{name} {value}")]


def told(errors: str, secret: Passphrase) -> None:
    """`SigningError` (authentication) where gpg says that the passphrase is wrong."""
    if "Bad passphrase" in errors or "No passphrase given" in errors:
        raise SigningError(f"{secret.source} is not the passphrase of the key: GnuPG refuses it.", EXIT_AUTHENTICATION)


def sign(
    home: Path, pair: KeyPair, secret: Passphrase, words: Sequence[str], text: bytes,
    sleep: Callable[[float], None] = time.sleep,
) -> bytes:
    """What gpg makes of ``text`` with ``words``, as in ["--armor", "--detach-sign"].

    Raises:
        SigningError: where that fails, or another key signs.
    """  # fmt: skip
    for pause in (0.5, 2.0, None):
        with held(secret) as descriptor:
            # Never to /dev/null: gpg removes the file that it is to write, this one too, and writes it anew.
            options = ["--status-fd", "2", *with_passphrase(descriptor), "-u", f"{pair.signer}!", "-o", "-"]
            done = gpg([*options, *words], home, text, (descriptor,))
        errors = done.stderr.decode("utf-8", "replace")
        told(errors, secret)
        made = re.search(rb"SIG_CREATED \S+ \S+ \S+ \S+ \S+ (\w+)", done.stderr)
        if done.returncode == 0 and made and made[1].decode() == pair.signer:
            return done.stdout
        # An agent that another run has started ends with that run, and gpg then starts another.
        if pause:
            sleep(pause)
    lines = [line for line in errors.splitlines() if line.strip() and "[GNUPG:]" not in line] or ["it said nothing"]
    raise SigningError(f"GnuPG cannot sign with {pair.signer[-16:].lower()}: {lines[-1]}.", EXIT_TOOL)


def end_agent(home: Path) -> None:
    """End the agent of this directory, which gpg starts by itself."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "gpg-agent"], stdin=subprocess.DEVNULL,
                       capture_output=True, check=False, timeout=30, **_owner(home))  # fmt: skip
