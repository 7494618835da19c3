"""What signing asks of Koji, and tells it: RPMs with their signatures, signature headers, signed copies.

Koji keeps one unsigned RPM, a signature header for each key, and of RPM and header it writes a signed copy
when it is asked to. A key is known to it by the last eight hexadecimal digits of the id of the (sub)key that
signed, in lower case.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import threading
import xmlrpc.client
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from goose.signing_config import EXIT_AUTHENTICATION, EXIT_KOJI, EXIT_TOOL, EXIT_USAGE, Instance, SigningError

# Calls in one multicall: the hub works on one for as long as it takes, in one transaction.
QUERIES = 1000
WRITES = 50
# Bytes of RPMs in one multicall that copies them.
WRITE_BYTES = 512 << 20
_COMPLETE = 1

Call = tuple[str, tuple[Any, ...], dict[str, Any]]


class Refused(Exception):
    """What the hub answered instead of a result."""


@dataclass(frozen=True)
class Rpm:
    """An RPM of a build in Koji."""

    id: int
    nvr: str
    """Of its build."""
    nvra: str
    nevra: str
    arch: str
    size: int
    """Bytes."""
    md5: str
    """MD5 of header and payload, as Koji recorded it when the RPM was built."""
    directory: str
    """Of its build, below Koji's volume or URL."""
    file: str
    """The RPM, below `directory`."""

    @property
    def path(self) -> str:
        """The unsigned RPM, below Koji's volume or URL."""
        return f"{self.directory}/{self.file}"

    def signed_path(self, key_id: str) -> str:
        """The copy that is signed with a key, below Koji's volume or URL."""
        return f"{self.directory}/data/signed/{key_id}/{self.file}"


def library() -> Any:
    """Koji's Python library; `SigningError` where there is none."""
    try:
        return importlib.import_module("koji")
    except ImportError as error:
        raise SigningError(
            f"/usr/bin/python3 has no koji client ({error}): apply koji.client on this host first.", EXIT_TOOL
        ) from error


class Hub:
    """A session of a Koji; ``calls`` counts what was asked over the network, a multicall as one."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.calls = 0
        self.koji = library()
        try:
            self.profile: Mapping[str, Any] = self.koji.read_config(instance.profile, user_config=str(instance.config))
        except Exception as error:  # koji's own, and those of the parser
            raise SigningError(
                f"The client configuration {instance.config} of Koji {instance.name} cannot be used: {error}."
                f" It needs the section [{instance.profile}]."
            ) from error
        self.server: str = self.profile["server"]
        self.session: Any = self.koji.ClientSession(self.server, self.koji.grab_session_options(self.profile))
        self._lock = threading.Lock()

    def login(self) -> None:
        """Log in as the profile says, by certificate or Kerberos.

        Raises:
            SigningError: (authentication) where the hub refuses, (Koji) where it does not answer.
        """
        profile = self.profile
        try:
            self.calls += 1
            if profile["authtype"] == "kerberos" or (profile["authtype"] is None and not profile["cert"]):
                self.session.gssapi_login(principal=profile["principal"], keytab=profile["keytab"])
            else:
                self.session.ssl_login(profile["cert"], None, profile["serverca"])
        except Exception as error:
            text = _last_line(error)
            if re.search(r"ConnectionError|ConnectTimeout|ReadTimeout|50[0-9] Server Error|OfflineError", str(error)):
                raise SigningError(f"The hub {self.server} does not answer: {text}", EXIT_KOJI) from error
            raise SigningError(f"The hub {self.server} lets nobody in: {text}", EXIT_AUTHENTICATION) from error

    def another(self) -> Hub:
        """A session of its own for another thread, logged in; it counts its calls here."""
        other = Hub(self.instance)
        other.login()
        self.count(1)
        other.count = self.count  # type: ignore[method-assign]
        return other

    def count(self, calls: int) -> None:
        """Count ``calls``."""
        with self._lock:
            self.calls += calls

    def logout(self) -> None:
        """End the session; where the hub no longer answers, it ends by itself."""
        try:
            self.session.logout()
        except Exception:
            pass

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """What the hub answers. `Refused` where that is a fault, `SigningError` (Koji) where it does not answer."""
        self.count(1)
        try:
            return self.session.callMethod(method, *args, **kwargs)
        except Exception as error:
            raise self._told(error, method) from error

    def many(self, calls: Sequence[Call], most: int = QUERIES) -> list[Any]:
        """What the hub answers to each, a fault as a `Refused`; ``most`` calls to a multicall.

        Raises:
            SigningError: (Koji) where it does not answer.
        """
        answers: list[Any] = []
        for start in range(0, len(calls), most):
            part = calls[start : start + most]
            self.count(1)
            try:
                with self.session.multicall() as multi:
                    promised = [multi.callMethod(method, *args, **kwargs) for method, args, kwargs in part]
            except Exception as error:
                raise self._told(error, part[0][0], whole=True) from error
            for promise in promised:
                try:
                    answers.append(promise.result)
                except Exception as error:
                    told = self._told(error, part[0][0])
                    if not isinstance(told, Refused):
                        raise told from error
                    answers.append(told)
        return answers

    def _told(self, error: Exception, method: str, whole: bool = False) -> Exception:
        koji = self.koji
        if isinstance(error, koji.ActionNotAllowed):
            return SigningError(
                f"The hub {self.server} does not let this host's user call {method}: it needs the permission sign"
                " (koji grant-permission sign USER, or pillar koji:content).",
                EXIT_AUTHENTICATION,
            )
        # A call that was answered, and whose answer was lost: asking again later finds what it did.
        offline = (koji.RetryError, koji.ServerOffline)
        if isinstance(error, koji.AuthError) and not isinstance(error, offline):
            return SigningError(f"The hub {self.server} ended the session: {_last_line(error)}", EXIT_AUTHENTICATION)
        if isinstance(error, koji.GenericError) and not isinstance(error, offline) and not whole:
            return Refused(_last_line(error))
        if isinstance(error, xmlrpc.client.Fault):
            # What the hub did not expect, a full disk among it.
            return Refused(_last_line(Exception(error.faultString)))
        return SigningError(f"The hub {self.server} failed in {method}: {_last_line(error)}", EXIT_KOJI)

    # What is there

    def tagged(self, tag: str, inherit: bool, arches: Sequence[str]) -> tuple[list[Rpm], dict[int, set[str]]]:
        """RPMs of the latest builds in ``tag``, and by their ids the keys that have signed them. One call."""
        options: dict[str, Any] = {"inherit": inherit, "latest": True, "rpmsigs": True, "extra": False}
        if arches:
            options["arch"] = list(arches)
        try:
            rows, builds = self.call("listTaggedRPMS", tag, **options)
        except Refused as error:
            raise SigningError(f"The hub {self.server} cannot list the tag {tag}: {error}") from error
        return self._rows(rows, {build["build_id"]: build for build in builds})

    def of_builds(self, nvrs: Sequence[str], arches: Sequence[str]) -> list[Rpm]:
        """RPMs of the builds ``nvrs``; a multicall for each kind of question.

        Raises:
            SigningError: (usage) naming every build that is not there, or not complete.
        """
        builds = self.many([("getBuild", (nvr,), {}) for nvr in nvrs])
        wrong = [f"{nvr} does not exist" for nvr, build in zip(nvrs, builds) if build is None or isinstance(build, Refused)]
        wrong += [f"{nvr} is not complete" for nvr, build in zip(nvrs, builds)
                  if isinstance(build, dict) and build["state"] != _COMPLETE]  # fmt: skip
        if wrong:
            raise SigningError(f"Nothing was signed, because in {self.server} {', '.join(wrong)}.", EXIT_USAGE)
        found = {build["id"]: build for build in builds}
        rows: list[dict[str, Any]] = []
        for answer in self.many([("listRPMs", (), {"buildID": number}) for number in found]):
            if isinstance(answer, Refused):
                raise SigningError(f"The hub {self.server} cannot list a build's RPMs: {answer}", EXIT_KOJI)
            rows += [row for row in answer if not arches or row["arch"] in arches]
        return self._rows(rows, found)[0]

    def _rows(
        self, rows: Iterable[Mapping[str, Any]], builds: Mapping[int, Mapping[str, Any]]
    ) -> tuple[list[Rpm], dict[int, set[str]]]:
        paths = self.koji.PathInfo(topdir="")
        directories = {number: paths.build(build).lstrip("/") for number, build in builds.items()}
        rpms: dict[int, Rpm] = {}
        signatures: dict[int, set[str]] = {}
        for row in rows:
            # An RPM without a signature has one of the key ''.
            if row.get("sigkey"):
                signatures.setdefault(row["id"], set()).add(row["sigkey"])
            # Without a file there is nothing to sign: content generators may report such RPMs.
            if row["id"] in rpms or row.get("metadata_only"):
                continue
            build = builds[row["build_id"]]
            version = f"{row['version']}-{row['release']}.{row['arch']}"
            epoch = "" if row["epoch"] is None else f"{row['epoch']}:"
            rpms[row["id"]] = Rpm(
                id=row["id"],
                nvr=f"{build['name']}-{build['version']}-{build['release']}",
                nvra=f"{row['name']}-{version}",
                nevra=f"{row['name']}-{epoch}{version}",
                arch=row["arch"],
                size=int(row["size"]),
                md5=row["payloadhash"],
                directory=directories[row["build_id"]],
                file=paths.rpm(row),
            )
        ordered = sorted(rpms.values(), key=lambda rpm: (rpm.nvr, rpm.nvra))
        return ordered, {number: keys for number, keys in signatures.items() if number in rpms}

    def signed(self, rpms: Sequence[Rpm], key_id: str) -> set[int]:
        """Ids of those that are signed with the key, as the hub now says."""
        calls: list[Call] = [("queryRPMSigs", (), {"rpm_id": rpm.id, "sigkey": key_id}) for rpm in rpms]
        found = set()
        for rpm, answer in zip(rpms, self.many(calls)):
            if isinstance(answer, Refused):
                raise SigningError(f"The hub {self.server} does not say how {rpm.nevra} is signed: {answer}", EXIT_KOJI)
            if answer:
                found.add(rpm.id)
        return found

    def may_sign(self) -> None:
        """`SigningError` (authentication) where the session's user lacks the permission sign."""
        if not {"sign", "admin"} & set(self.call("getPerms")):
            raise SigningError(
                f"The hub {self.server} lets this host in, but its user lacks the permission sign: grant it in"
                " pillar koji:content, or by koji grant-permission sign USER.",
                EXIT_AUTHENTICATION,
            )

    @property
    def volume(self) -> Path | None:
        """Koji's volume, where it is on this host."""
        top = Path(self.profile["topdir"] or "/mnt/koji")
        return top if (top / "packages").is_dir() else None


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if len(line.strip()) > 1]
    line = lines[-1] if lines else type(error).__name__
    return f"{line[:300].rstrip('.)')}."


# Which RPMs have no signed copy, which the hub cannot be asked


@dataclass
class VolumeCopies:
    """Signed copies, seen on the volume."""

    top: Path
    key_id: str

    def missing(self, rpms: Sequence[Rpm]) -> list[Rpm]:
        """Those without a signed copy."""
        with ThreadPoolExecutor(8) as pool:
            there = pool.map(lambda rpm: (self.top / rpm.signed_path(self.key_id)).is_file(), rpms)
            return [rpm for rpm, found in zip(rpms, there) if not found]

    def expect(self, rpms: Sequence[Rpm]) -> None:
        """Nothing to note: the volume shows it."""

    done = expect


@dataclass
class NotedCopies:
    """Signed copies that are still to be written, noted in a file before their RPMs are signed.

    For hosts that do not see Koji's volume. So a run that was killed between signing and writing is
    completed by the next; what was lost otherwise is written by --write-all.
    """

    path: Path
    waiting: set[int] = field(default_factory=set)
    lock: Any = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        try:
            self.waiting = {int(number) for number in json.loads(self.path.read_text(encoding="ascii"))}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError) as error:
            raise SigningError(
                f"{self.path}, which says what signed copies are still to be written, cannot be read ({error}):"
                " remove it, and run this with --write-all.",
                EXIT_TOOL,
            ) from error

    def missing(self, rpms: Sequence[Rpm]) -> list[Rpm]:
        """Those whose copy is still to be written."""
        return [rpm for rpm in rpms if rpm.id in self.waiting]

    def expect(self, rpms: Sequence[Rpm]) -> None:
        """Note that these are about to be signed."""
        self._save({rpm.id for rpm in rpms}, set())

    def done(self, rpms: Sequence[Rpm]) -> None:
        """Note that these are written."""
        self._save(set(), {rpm.id for rpm in rpms})

    def _save(self, more: set[int], less: set[int]) -> None:
        with self.lock:
            now = (self.waiting | more) - less
            if now == self.waiting:
                return
            self.waiting = now
            partial = self.path.with_name(f"{self.path.name}.new")
            with partial.open("w", encoding="ascii") as stream:
                json.dump(sorted(now), stream)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(self.path)
