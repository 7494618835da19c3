"""Who signs: Sigul, or `rpmsign` with a key on this host. Both leave the signatures in Koji.

A backend is handed a batch of RPMs and tries to get all of them signed. Whether it did is asked of Koji
afterwards; what a backend reports is only why one was not.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from goose import signing_gpg
from goose.signing_config import EXIT_AUTHENTICATION, EXIT_TOOL, Config, Key, Passphrase, SigningError
from goose.signing_koji import Call, Hub, Refused, Rpm

_CHUNK = 1 << 20
# Calls with a signature header of some kilobytes each, in one multicall.
_HEADERS = 100
_FETCHES = 4


class Outage(Exception):
    """The signing service does not answer, in a sentence; waiting may help."""


class BatchFailed(Exception):
    """The batch failed, in a sentence; one of its RPMs may be the reason."""


@dataclass
class Reasons:
    """Why RPMs were not signed, by their ids."""

    final: dict[int, str] = field(default_factory=dict)
    """Trying again cannot help."""
    other: dict[int, str] = field(default_factory=dict)


class Backend(Protocol):
    """A way to sign."""

    notice: str
    """What it does not protect against; empty where there is nothing to say."""

    def check(self) -> None:
        """Try the passphrase, where that costs little. `SigningError` (authentication) where it is wrong."""

    def sign(self, rpms: Sequence[Rpm]) -> Reasons:
        """Sign them and store the signatures in Koji.

        Raises:
            Outage, BatchFailed: where the batch, or the rest of it, was not signed.
            SigningError: where no batch would be.
        """

    def close(self) -> None:
        """Leave nothing behind."""


def seconds_for(rpms: Sequence[Rpm]) -> float:
    """How long a batch may take: about ten times what was measured of Sigul, which is the slower one."""
    return 120 + 2 * len(rpms) + sum(rpm.size for rpm in rpms) / (2 << 20)


def run(
    command: Sequence[str], seconds: float, given: bytes = b"", directory: Path | None = None, fds: Sequence[int] = ()
) -> tuple[int | None, bytes, bytes]:
    """Run a program to its end: exit status (None where it was killed for taking too long), output, errors.

    It is in a session of its own: Ctrl-C at the terminal ends us after the batch, and not the batch.
    """
    environment = {word: value for word, value in os.environ.items() if word != "CREDENTIALS_DIRECTORY"}
    environment["LC_ALL"] = "C.UTF-8"
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   cwd=directory, pass_fds=fds, start_new_session=True, env=environment)  # fmt: skip
    except OSError as error:
        raise SigningError(f"{command[0]} cannot be run ({error.strerror}): install it on this host.", EXIT_TOOL) from error
    try:
        output, errors = process.communicate(given, timeout=seconds)
        return process.returncode, output, errors
    except subprocess.TimeoutExpired:
        return None, b"", b""
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@dataclass
class Sigul:
    """Signing by a Sigul server, through its bridge, which also stores the signatures in Koji."""

    config: Config
    key: Key
    secret: Passphrase
    work: Path
    """An empty directory of ours: Sigul's client takes a file of an RPM's name for the RPM."""
    notice: str = ""

    def check(self) -> None:
        """Nothing cheap can be asked: the first batch shows it."""

    def close(self) -> None:
        """Remove the empty directory."""
        shutil.rmtree(self.work, ignore_errors=True)

    def sign(self, rpms: Sequence[Rpm]) -> Reasons:
        """One `sigul sign-rpms`, whose bridge stores the signatures in Koji."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(mode=0o700)
        instance = self.config.sigul_instances.get(self.key.koji, self.key.koji)
        status, _, errors = sigul(
            self.config,
            ["sign-rpms", "--store-in-koji", "--koji-only", f"--koji-instance={instance}", self.key.sigul_name,
             *(rpm.nvra for rpm in rpms)],
            [self.secret],
            seconds_for(rpms),
            self.work,
        )  # fmt: skip
        reasons = Reasons()
        by_nvra = {rpm.nvra: rpm.id for rpm in rpms}
        for line in errors.splitlines():
            found = re.search(r"Error signing (\S+): (.+)", line)
            if found and found[1] in by_nvra:
                reasons.other[by_nvra[found[1]]] = f"Sigul: {found[2].rstrip('.')}."
        if status and not reasons.other:
            raise BatchFailed(f"Sigul ended with {status}: {_telling(errors)}")
        return reasons


def sigul(
    config: Config, words: Sequence[str], secrets: Sequence[Passphrase], seconds: float, directory: Path | None = None
) -> tuple[int, str, str]:
    """Run Sigul's client; exit status, output and errors. Passphrases go to its standard input, NUL after each.

    Raises:
        SigningError: (authentication) where Sigul refuses, (tool) where the client cannot be used.
        Outage: where bridge or server do not answer.
    """
    command = [config.sigul_command, "--batch", "-c", str(config.sigul_config), *words]
    given = b"".join(secret.value + b"\0" for secret in secrets)
    status, output, error_bytes = run(command, seconds, given, directory)
    errors = error_bytes.decode("utf-8", "replace")
    if status is None:
        # A bridge takes requests while its server is away, and lets them wait without end.
        raise Outage(
            f"Sigul gave no answer in {seconds:.0f} seconds: its server is down, or hangs; look at sigul_server there."
        )
    if "Authentication failed" in errors:
        raise SigningError(
            f"Sigul refuses ({secrets[0].source}): the passphrase is wrong, the server has no key of this name or has"
            " not granted it to this user, or the certificate's common name is not the user's name. It says no more.",
            EXIT_AUTHENTICATION,
        )
    if "Connection refused" in errors:
        raise Outage(f"Sigul's bridge does not listen; look at sigul_bridge on the host that {config.sigul_config} names.")
    if "Unexpected EOF in NSPR" in errors or "connection reset" in errors:
        raise Outage("Sigul's bridge ended the connection, as it does once after its server was restarted.")
    if status == 2:
        raise SigningError(f"Sigul's client does not take what it is told: {_telling(errors)}", EXIT_TOOL)
    return status, output.decode("utf-8", "replace"), errors


def _telling(errors: str) -> str:
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("warning: Could not set GPG_TTY", "Usage:"))]
    return f"{lines[-1][:300].rstrip('.')}." if lines else "it said nothing."


@dataclass
class Rpmsign:
    """Signing by `rpmsign` with a key in this host's keyring."""

    config: Config
    key: Key
    secret: Passphrase
    work: Path
    hub: Hub
    pair: signing_gpg.KeyPair
    processes: int = field(default_factory=lambda: min(4, os.cpu_count() or 1))
    notice: str = (
        "Signing by rpmsign: the key is on this host, so root here, and whoever becomes root here, can sign anything"
        " and can take the key away. Sigul keeps it on a host of its own."
    )

    def __post_init__(self) -> None:
        self._downloads = threading.local()

    def check(self) -> None:
        """Sign nothing in particular, which shows whether the passphrase opens the key."""
        signing_gpg.sign(self.config.gnupg_home, self.pair, self.secret, ["--detach-sign"], b"")

    def close(self) -> None:
        """No copy of an RPM stays. GnuPG's agent may: it holds no passphrase, and another run may use it."""
        shutil.rmtree(self.work, ignore_errors=True)

    def sign(self, rpms: Sequence[Rpm]) -> Reasons:
        """Get copies, sign them, and give Koji the signature headers."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(mode=0o700)
        reasons = Reasons()
        try:
            with ThreadPoolExecutor(_FETCHES) as pool:
                got = list(pool.map(lambda rpm: self._fetch(rpm, reasons), rpms))
            there = [rpm for rpm, found in zip(rpms, got) if found]
            errors = self._rpmsign([self._copy(rpm) for rpm in there], seconds_for(rpms)) if there else ""
            headers = {}
            for rpm in there:
                header = self._header(rpm)
                if header is None:
                    reasons.other[rpm.id] = f"rpmsign did not sign it: {_telling(errors)}"
                else:
                    headers[rpm.id] = header
        finally:
            shutil.rmtree(self.work, ignore_errors=True)
        self._store(headers, reasons)
        return reasons

    def _copy(self, rpm: Rpm) -> Path:
        return self.work / f"{rpm.nvra}.rpm"

    def _fetch(self, rpm: Rpm, reasons: Reasons) -> bool:
        """Get a copy of exactly the RPM that Koji has recorded; whether that worked."""
        # MD5 of what follows the signature header is what Koji knows an RPM by: no security rests on it here.
        found = hashlib.md5(usedforsecurity=False)
        try:
            with self._copy(rpm).open("wb") as copy:
                size = 0
                skip: int | None = None
                head = b""
                for data in self._read(rpm):
                    copy.write(data)
                    size += len(data)
                    if skip is None:
                        head += data
                        skip = _header_end(head)
                        if skip is None:
                            continue
                        data, skip = head[skip:], 0
                    found.update(data)
        except ValueError as error:
            reasons.final[rpm.id] = f"{self._where(rpm)} is no RPM: {error}."
            return False
        except FileNotFoundError:
            reasons.final[rpm.id] = f"{self._where(rpm)} is not there."
            return False
        except OSError as error:
            # requests' errors are of this kind too.
            reasons.other[rpm.id] = f"{self._where(rpm)} was not read: {error}."
            return False
        if size != rpm.size or found.hexdigest() != rpm.md5:
            reasons.final[rpm.id] = (
                f"{self._where(rpm)} is damaged: it is not the RPM that Koji has recorded"
                f" ({size} bytes, MD5 {found.hexdigest()} instead of {rpm.size}, {rpm.md5})."
            )
            return False
        return True

    def _where(self, rpm: Rpm) -> str:
        volume = self.hub.volume
        return str(volume / rpm.path) if volume else f"{self.hub.profile['topurl']}/{rpm.path}"

    def _read(self, rpm: Rpm) -> Any:
        volume = self.hub.volume
        if volume:
            with (volume / rpm.path).open("rb") as stream:
                while data := stream.read(_CHUNK):
                    yield data
            return
        if not self.hub.profile["topurl"]:
            raise SigningError(
                f"There is neither Koji's volume on this host nor a topurl in {self.hub.instance.config}: mount"
                " the volume, or name the URL of Koji's files there."
            )
        import requests

        if not hasattr(self._downloads, "session"):
            self._downloads.session = requests.Session()
        # With the request, not the session: there REQUESTS_CA_BUNDLE of the environment would win.
        verify = self.hub.profile["serverca"] or True
        with self._downloads.session.get(self._where(rpm), stream=True, timeout=(10, 300), verify=verify) as answer:
            if answer.status_code == 404:
                raise FileNotFoundError
            answer.raise_for_status()
            yield from answer.iter_content(_CHUNK)

    def _rpmsign(self, paths: Sequence[Path], seconds: float) -> str:
        """Sign files in place; what rpmsign wrote to standard error."""
        # Two at a time are faster on two cores; a handful is not worth a second process.
        count = max(1, min(self.processes, len(paths) // 8))
        with signing_gpg.held(self.secret) as descriptor:
            command = ["rpmsign", *signing_gpg.rpm_macros(self.config.gnupg_home, self.pair, descriptor), "--addsign"]
            parts = [[*command, *map(str, paths[start::count])] for start in range(count)]
            with ThreadPoolExecutor(count) as pool:
                ended = list(pool.map(lambda part: run(part, seconds, fds=(descriptor,)), parts))
        errors = "\n".join(errors.decode("utf-8", "replace") for _, _, errors in ended)
        if any(status is None for status, _, _ in ended):
            raise Outage(f"rpmsign was not done after {seconds:.0f} seconds: this host is overloaded, or its disk hangs.")
        signing_gpg.told(errors, self.secret)
        return errors

    def _header(self, rpm: Rpm) -> bytes | None:
        """The signature header of the signed copy, or None; `SigningError` where another key signed."""
        header: bytes = self.hub.koji.rip_rpm_sighdr(str(self._copy(rpm)))
        signer = self.hub.koji.get_sighdr_key(header)
        # An RPM may have come to Koji with a signature of another: rpmsign failed, and left it.
        if signer is None or (signer != self.pair.koji_id and header == self._original(rpm)):
            return None
        if signer != self.pair.koji_id:
            raise SigningError(
                f"GnuPG signed {rpm.nevra} with {signer} instead of {self.pair.koji_id}: nothing of this batch was sent"
                f" to Koji. Look at key_id in {self.config.path} and at gpg.conf in {self.config.gnupg_home}.",
                EXIT_TOOL,
            )
        return header

    def _original(self, rpm: Rpm) -> bytes:
        head = b""
        for data in self._read(rpm):
            head += data
            end = _header_end(head)
            if end is not None:
                return head[96:end]
        return b""

    def _store(self, headers: dict[int, bytes], reasons: Reasons) -> None:
        calls: list[Call] = [
            ("addRPMSig", (number, base64.b64encode(data).decode()), {}) for number, data in headers.items()
        ]
        for number, answer in zip(headers, self.hub.many(calls, _HEADERS)):
            if isinstance(answer, Refused):
                reasons.other[number] = f"Koji did not take the signature: {answer}"


def _header_end(head: bytes) -> int | None:
    """Where the signature header ends, and what is signed begins; None where ``head`` is too short to tell.

    After a lead of 96 bytes comes a header: magic, number of 16-byte entries, bytes of data, all of it padded
    to eight bytes. ValueError where this is no RPM.
    """
    if head[:4] != b"\xed\xab\xee\xdb"[: len(head)] or (len(head) >= 99 and head[96:99] != b"\x8e\xad\xe8"):
        raise ValueError("it does not begin as one")
    if len(head) < 112:
        return None
    entries, size = int.from_bytes(head[104:108], "big"), int.from_bytes(head[108:112], "big")
    end = 112 + 16 * entries + size
    end += -end % 8
    if end > 1 << 26:
        raise ValueError("its signature header has no end")
    return end if len(head) >= end else None
