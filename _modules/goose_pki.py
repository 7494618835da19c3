"""The life of certificates: renewed on every host; people's, signed and revoked on the CA host."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import glob
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from typing import Any

from cryptography import x509
from salt.exceptions import CommandExecutionError

__virtualname__ = "goose_pki"

# Koji's user names; no slash and no leading dot, because files are named after them.
_NAME = re.compile(r"[a-z_][a-z0-9_.-]{0,30}")
_SERIAL = re.compile(r"[0-9A-Fa-f]{1,2}(:?[0-9A-Fa-f]{2})+")
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)
# As Salt's x509 functions read and write it; always UTC.
_TIME = "%Y-%m-%d %H:%M:%S"
_FIRST = {"signing": 1, "trusted": [1]}


def __virtual__() -> str:
    return __virtualname__


# People


def sign(name: str, csr: str, out: str = "") -> str:
    """Sign the certificate request of the person ``name``; return the certificate's PEM text.

    Of the request (a path, or its PEM text) only the public key is taken: the subject is the
    Koji user ``name``, and lifetime and usages are pillar ``pki``'s. A copy stays in the CA's
    ``issued`` directory, where `issued` finds its serial number when it must be revoked. With
    ``out`` the certificate is written to that file too.

    CLI Example:

    .. code-block:: bash

        salt-call goose_pki.sign alice /root/alice.csr out=/root/alice.crt
    """
    pki, ca_dir = _ca()
    if not _NAME.fullmatch(name):
        raise CommandExecutionError(
            f"{name!r} is no name for a Koji user: use a-z, 0-9, '_', '.', '-', 31 characters at most."
        )
    if name in _reserved(pki):
        raise CommandExecutionError(
            f"{name!r} is the name of a host or a service, and no person may have its certificate: choose another."
        )
    try:
        public_key = __salt__["x509.get_public_key"](csr)
        __salt__["x509.read_csr"](csr)
    except Exception as error:
        raise CommandExecutionError(
            f"{csr if os.path.exists(csr) else 'the text given'} is no certificate request in PEM form ({error}):"
            " make one with `openssl req -new -newkey rsa:3072 -nodes -keyout NAME.key -subj /CN=NAME -out NAME.csr`."
        ) from error
    certificate = __salt__["x509.create_certificate"](
        public_key=public_key,
        signing_private_key=f"{ca_dir}/current/ca.key",
        signing_cert=f"{ca_dir}/current/ca.crt",
        subject=f"CN={name},O={__pillar__['site']['name']}",
        basicConstraints="critical, CA:FALSE",
        keyUsage="critical, digitalSignature, keyEncipherment",
        extendedKeyUsage="clientAuth",
        subjectKeyIdentifier="hash",
        authorityKeyIdentifier="keyid:always",
        digest="sha256",
        days_valid=float(pki["user_days"]),
        copypath=f"{ca_dir}/issued",
        prepend_cn=False,
    )
    if out:
        __salt__["file.write"](out, certificate)
    return certificate


def issued() -> list[dict[str, Any]]:
    """List what the CA has signed: common name, serial number, end of life; oldest end first.

    CLI Example:

    .. code-block:: bash

        salt-call goose_pki.issued
    """
    _, ca_dir = _ca()
    gone = {entry["serial_number"] for entry in revoked()}
    return [
        {
            "name": _common_name(certificate),
            "serial_number": _serial(certificate.serial_number),
            "not_after": _ends(certificate).strftime(_TIME),
            "revoked": _serial(certificate.serial_number) in gone,
        }
        for certificate in _issued(ca_dir)
    ]


def revoke(name: str) -> dict[str, Any]:
    """Revoke all certificates of the person ``name``, or the one with the serial number ``name``.

    They are added to ``revoked.json`` in the CA's directory, which no apply forgets, and the
    revocation list is issued again and published. Every host fetches it by its timer
    (``pki:renew:every``), or at once by ``salt '*' goose_pki.renew``. The hub then ends the
    sessions that the person has open, too.

    CLI Example:

    .. code-block:: bash

        salt-call goose_pki.revoke alice
        salt-call goose_pki.revoke 4F:1A:02
    """
    pki, ca_dir = _ca()
    name = str(name).strip()
    now = _now()
    known = {entry["serial_number"]: entry for entry in revoked()}
    serial = _normal(name) if _SERIAL.fullmatch(name) else ""
    found = [
        certificate
        for certificate in _issued(ca_dir)
        if (_serial(certificate.serial_number) == serial if serial else _common_name(certificate) == name)
    ]
    if not found:
        raise CommandExecutionError(
            f"Nothing that this CA has signed has the name or serial number {name!r}: `goose_pki.issued` lists all."
        )
    everybody = {entry["name"] for entry in pki["identities"].values()} | _reserved(pki)
    if not serial and name in everybody:
        raise CommandExecutionError(
            f"{name!r} is what a host or a service logs in with: choose the serial number of one certificate"
            " (`goose_pki.issued` lists them)."
        )
    fresh = [
        {
            "name": _common_name(certificate),
            "serial_number": _serial(certificate.serial_number),
            "revocation_date": now.strftime(_TIME),
            "not_after": _ends(certificate).strftime(_TIME),
        }
        for certificate in found
        if _serial(certificate.serial_number) not in known and _ends(certificate) > now
    ]
    if fresh:
        _write(f"{ca_dir}/revoked.json", json.dumps(_own(ca_dir) + fresh, indent=1) + "\n")
    # Also where nothing is new: a run that was killed has not come to this.
    _apply("pki.ca")
    return {
        "revoked": [entry["serial_number"] for entry in fresh],
        "before": [serial for serial in map(_serial_of, found) if serial in known],
        "hosts": "fetch the list by their timers; at once by: salt '*' goose_pki.renew",
    }


def revoked() -> list[dict[str, Any]]:
    """List what is revoked, by pillar ``pki:revoked`` and by `revoke`.

    CLI Example:

    .. code-block:: bash

        salt-call goose_pki.revoked
    """
    pki, ca_dir = _ca()
    rows = _own(ca_dir)
    known = {row["serial_number"] for row in rows}
    by_serial: dict[str, x509.Certificate] | None = None
    for entry in pki.get("revoked") or []:
        serial = _normal(str(entry["serial_number"]))
        if serial in known:
            continue
        if by_serial is None:
            by_serial = {_serial_of(certificate): certificate for certificate in _issued(ca_dir)}
        row = {"name": "", **entry, "serial_number": serial, "revocation_date": str(entry["revocation_date"])}
        if serial in by_serial:
            row["name"] = _common_name(by_serial[serial])
            row["not_after"] = _ends(by_serial[serial]).strftime(_TIME)
        rows.append(row)
    return rows


def crl_lacks(path: str, certificate: str, days_remaining: float) -> list[str]:
    """Why the revocation list at ``path`` must be issued again by the CA ``certificate``; empty where it is good."""
    if not os.path.isfile(path):
        return ["it is not there"]
    try:
        crl = x509.load_pem_x509_crl(_bytes(path))
        good = crl.is_signature_valid(_load(certificate).public_key())  # type: ignore[arg-type]
    except ValueError:
        return ["it cannot be read"]
    why = [] if good else ["it is another CA's"]
    due = _utc(crl, "next_update")
    if due is None or due < _now() + datetime.timedelta(days=days_remaining):
        why.append("it ends soon")
    wanted = {row["serial_number"] for row in _current(revoked())}
    there = {_serial(entry.serial_number) for entry in crl}
    why += [f"{serial} is revoked" for serial in sorted(wanted - there)]
    why += [f"{serial} is revoked no more" for serial in sorted(there - wanted)]
    return why


def crl(path: str, key: str, certificate: str, days_valid: float) -> str:
    """Issue a revocation list, the one after that at ``path``; return its PEM text."""
    number = 0
    with contextlib.suppress(OSError, ValueError, x509.ExtensionNotFound):
        before = x509.load_pem_x509_crl(_bytes(path)).extensions.get_extension_for_class(x509.CRLNumber)
        number = before.value.crl_number
    return __salt__["x509.create_crl"](
        key,
        [{k: v for k, v in row.items() if k != "name"} for row in _current(revoked())],
        signing_cert=certificate,
        days_valid=days_valid,
        digest="sha256",
        extensions={"authorityKeyIdentifier": "keyid:always", "cRLNumber": number + 1},
    )


# The CA's own life


def layout(ca_dir: str) -> list[str]:
    """What is still to be done for the CA's files to lie in a directory for each CA; see `lay_out`."""
    if os.path.lexists(f"{ca_dir}/current") or not os.path.isfile(f"{ca_dir}/ca.key"):
        return []
    return [f"{ca_dir}/{name}" for name in ("ca.key", "ca.crt", "crl.pem") if os.path.isfile(f"{ca_dir}/{name}")]


def lay_out(ca_dir: str) -> None:
    """Give the files of a CA that was made before there were several the place of the first.

    They can be read under one path or the other at any moment, and a killed run is run again.
    """
    os.makedirs(f"{ca_dir}/1", mode=0o700, exist_ok=True)
    for name in ("ca.key", "ca.crt", "crl.pem"):
        with contextlib.suppress(FileExistsError, FileNotFoundError):
            os.link(f"{ca_dir}/{name}", f"{ca_dir}/1/{name}")
    link(f"{ca_dir}/current", "1")


def link(path: str, target: str) -> None:
    """Have the symbolic link ``path`` lead to ``target``, in one step."""
    partial = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(partial)
    os.symlink(target, partial)
    os.rename(partial, path)


def held() -> dict[str, Any]:
    """What this host trusts and holds, by identifiers of the CAs' keys.

    ``trusted`` and ``lists``: CAs whose certificate and whose revocation list it has; ``leaves``:
    path -> the CA that has signed.
    """
    directory = _directory()
    leaves = {
        path: _authority(certificate)
        for path in sorted(glob.glob(f"{directory}/*.crt"))
        if path != f"{directory}/ca.crt"
        for certificate in _certificates(path)[:1]
    }
    trusted = [_subject_key(certificate) for certificate in _certificates(f"{directory}/ca.crt")]
    return {"trusted": trusted, "lists": _lists(f"{directory}/crl.pem"), "leaves": leaves}


def step_lacks(signing: int, trusted: list[int]) -> list[str]:
    """Why the CA cannot be replaced this far yet, in sentences; empty where it can, or where nothing changes.

    A CA may sign once every host trusts it and has its revocation list; it may be dropped once no
    host, and nobody, holds a certificate of its any more. What hosts hold they say themselves at
    the end of ``goose_pki.renew``, by the mine.
    """
    _, ca_dir = _ca()
    if not os.path.islink(f"{ca_dir}/current"):
        return []
    now_signing = int(os.readlink(f"{ca_dir}/current"))
    keys = {
        int(os.path.basename(os.path.dirname(path))): _subject_key(certificate)
        for path in glob.glob(f"{ca_dir}/[0-9]*/ca.crt")
        for certificate in _certificates(path)[:1]
    }
    published = {_subject_key(certificate) for certificate in _certificates(f"{ca_dir}/trusted.crt")}
    dropped = [number for number, key in keys.items() if key in published and number not in trusted]
    if signing == now_signing and not dropped:
        return []
    certificates = [cert for cert in _issued(ca_dir) if _ends(cert) > _now()]
    said, problems = _said(certificates)
    if signing != now_signing:
        key = keys.get(signing, "")
        if key not in published:
            problems = [
                (
                    f"CA {signing} cannot sign yet, because no host knows it: first set pki:ca to signing {now_signing},"
                    f" trusted {sorted({now_signing, signing})}, then run goose_pki.renew here and everywhere."
                )
            ]
        else:
            problems += [
                f"CA {signing} cannot sign yet, because {host} does not trust it: run goose_pki.renew there."
                for host, its in said.items()
                if key not in its["trusted"] or key not in its["lists"]
            ]
    for number in dropped:
        problems += [
            f"CA {number} cannot be dropped yet, because {host} has {path} from it: run goose_pki.renew there."
            for host, its in said.items()
            for path, key in its["leaves"].items()
            if key == keys[number]
        ]
        problems += [
            (
                f"CA {number} cannot be dropped yet, because {_common_name(cert)} has the certificate"
                f" {_serial_of(cert)} from it (good until {_ends(cert):{_TIME}}): sign a new one, or revoke this."
            )
            for cert in _left_with(keys[number], certificates)
        ]
    return problems


def _said(certificates: Iterable[x509.Certificate]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """What each host says it holds; and sentences for those that hold something and say nothing."""
    own = __opts__["id"]
    if __opts__.get("file_client") == "local":
        return {own: held()}, []
    said, problems = {}, []
    names = {_common_name(certificate) for certificate in certificates}
    told = __salt__["mine.get"](",".join(__pillar__["hosts"]), "pki_held", "list")
    for host in __pillar__["hosts"]:
        try:
            said[host] = json.loads(told[host])
        except (KeyError, TypeError, ValueError):
            if host in names:
                problems.append(
                    f"{host} has not said what it holds: run goose_pki.renew there, or take it out of hosts.yaml."
                )
    return said, problems


def _left_with(key: str, certificates: Iterable[x509.Certificate]) -> list[x509.Certificate]:
    """What people have from the CA with this ``key``, where they have nothing from another."""
    pki, _ = _ca()
    gone = {row["serial_number"] for row in revoked()}
    found: dict[str, list[x509.Certificate]] = {}
    for certificate in certificates:
        if _common_name(certificate) not in _reserved(pki) and _serial_of(certificate) not in gone:
            found.setdefault(_common_name(certificate), []).append(certificate)
    return [its[-1] for _, its in sorted(found.items()) if {_authority(certificate) for certificate in its} == {key}]


# Every host


def renew(timeout: float = 900) -> list[str]:
    """Renew what ends soon on this host, fetch the CA's certificates and its revocation list, reload what uses them.

    What the timer of each host runs: the state ``pki.renew``, once no other state run is under way.

    timeout
        Seconds to wait for another run.

    CLI Example:

    .. code-block:: bash

        salt '*' goose_pki.renew
    """
    return _apply("pki.renew", timeout)


def certificates() -> list[dict[str, Any]]:
    """List every certificate and revocation list of this host that is the project's, and who uses it.

    ``path``; ``kind`` (``ca``, ``leaf`` or ``list``); ``subject``, ``issuer``, ``serial_number``;
    ``not_after``, UTC; ``days``, left; ``used_by``; ``problems``, sentences.

    CLI Example:

    .. code-block:: bash

        salt '*' goose_pki.certificates
    """
    directory = _directory()
    uses: dict[str, list[str]] = {}
    with contextlib.suppress(OSError, ValueError):
        uses = json.loads(_bytes("/etc/goose/pki.json"))["uses"]
    now = _now()
    cas = _certificates(f"{directory}/ca.crt")
    lists = _crls(f"{directory}/crl.pem")
    gone = {(_list_key(crl), entry.serial_number) for crl in lists for entry in crl}
    paths = sorted({*uses, *glob.glob(f"{directory}/*.crt"), *glob.glob(f"{directory}/*.pem")})
    rows = []
    for path in paths:
        used_by = uses.get(path, [])
        for crl in _crls(path):
            due = _utc(crl, "next_update")
            rows.append(_row(path, "list", "", crl.issuer, "", due, now, used_by))
        for certificate in _certificates(path):
            kind = "ca" if certificate.issuer == certificate.subject else "leaf"
            row = _row(
                path, kind, certificate.subject.rfc4514_string(), certificate.issuer, _serial_of(certificate),
                _ends(certificate), now, used_by,
            )  # fmt: skip
            if kind == "leaf":
                row["problems"] += _leaf_problems(certificate, cas, gone)
            rows.append(row)
        if not os.path.isfile(path):
            rows.append({**_row(path, "leaf", "", None, "", None, now, used_by), "problems": ["it is not there"]})
    return rows


def _row(
    path: str, kind: str, subject: str, issuer: x509.Name | None, serial: str,
    end: datetime.datetime | None, now: datetime.datetime, used_by: list[str],
) -> dict[str, Any]:  # fmt: skip
    return {
        "path": path,
        "kind": kind,
        "subject": subject,
        "issuer": issuer.rfc4514_string() if issuer is not None else "",
        "serial_number": serial,
        "not_after": end.strftime(_TIME) if end else "",
        "days": round((end - now).total_seconds() / 86400, 3) if end else None,
        "used_by": used_by,
        "problems": ["it has expired"] if end and end <= now else [],
    }


def _leaf_problems(
    certificate: x509.Certificate, cas: list[x509.Certificate], gone: set[tuple[str, int]]
) -> Iterator[str]:
    for ca in cas:
        with contextlib.suppress(Exception):
            certificate.verify_directly_issued_by(ca)
            break
    else:
        yield "no CA that this host trusts has signed it"
    if (_authority(certificate), certificate.serial_number) in gone:
        yield "it is revoked"


# Underneath


def _apply(states: str, timeout: float = 900) -> list[str]:
    """Apply ``states``, when no other state run is under way; return what changed."""
    deadline = time.monotonic() + timeout
    # Salt does not count this function's own runs among those of states: the timer's and a person's would meet.
    lock = os.open(__opts__["cachedir"], os.O_RDONLY)
    try:
        while True:
            free = _locked(lock) and not __salt__["saltutil.is_running"]("state.*")
            done = __salt__["state.apply"](states) if free else None
            # Another run may have begun between the two.
            busy = done is None or (isinstance(done, list) and any("is running as PID" in str(line) for line in done))
            if not busy:
                break
            if time.monotonic() > deadline:
                raise CommandExecutionError(
                    f"Another state run has been under way for {timeout:.0f} seconds: {states} was not applied."
                )
            time.sleep(1)
    finally:
        os.close(lock)
    if not isinstance(done, dict):
        raise CommandExecutionError("\n".join(map(str, done if isinstance(done, list) else [done])))
    failed = [f"{it.get('__id__', key)}: {it['comment']}" for key, it in done.items() if it["result"] is False]
    if failed:
        raise CommandExecutionError("\n".join(failed))
    return [f"{it.get('__id__', key)}: {it['comment']}" for key, it in done.items() if it.get("changes")]


def _locked(lock: int) -> bool:
    """Take the lock, where nobody else has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _ca() -> tuple[dict[str, Any], str]:
    if "pki.ca" not in __pillar__.get("roles", []):
        raise CommandExecutionError(
            f"{__opts__['id']} is not the CA host: call this where pillar/hosts.yaml gives the role pki.ca."
        )
    return __pillar__["pki"], __pillar__["pki"].get("ca_dir", "/etc/pki/goose-ca")


def _directory() -> str:
    return str(__pillar__.get("pki", {}).get("dir", "/etc/pki/goose"))


def _reserved(pki: dict[str, Any]) -> set[str]:
    services = {entry["name"] for entry in pki["identities"].values() if not entry.get("person")}
    return services | set(__pillar__["hosts"]) | {host.split(".")[0] for host in __pillar__["hosts"]}


def _own(ca_dir: str) -> list[dict[str, Any]]:
    """The CA host's own list of what is revoked."""
    path = f"{ca_dir}/revoked.json"
    if not os.path.exists(path):
        return []
    try:
        rows: list[dict[str, Any]] = json.loads(_bytes(path))
        return [{**row, "serial_number": _normal(row["serial_number"])} for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise CommandExecutionError(
            f"{path} is damaged ({error}): put the last backup in its place; it holds what is revoked."
        ) from error


def _current(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what has expired, which needs no revoking."""
    now = _now().strftime(_TIME)
    return [row for row in rows if row.get("not_after", now) >= now]


def _issued(ca_dir: str) -> list[x509.Certificate]:
    """All that was signed and can be read, the one that ends first in front."""
    found = [certificate for path in glob.glob(f"{ca_dir}/issued/*") for certificate in _certificates(path)[:1]]
    return sorted(found, key=lambda certificate: (_ends(certificate), _common_name(certificate)))


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


def _utc(it: Any, name: str) -> Any:
    """A time of a certificate or a list; cryptography before 42 has them without a zone."""
    if hasattr(it, f"{name}_utc"):
        return getattr(it, f"{name}_utc")
    value = getattr(it, name)
    return value.replace(tzinfo=datetime.timezone.utc) if value else value


def _ends(certificate: x509.Certificate) -> datetime.datetime:
    end: datetime.datetime = _utc(certificate, "not_valid_after")
    return end


def _serial(number: int) -> str:
    """As Salt's x509 writes it: ``4F:1A:…``."""
    digits = f"{number:X}"
    digits = digits.zfill(len(digits) + len(digits) % 2)
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2))


def _serial_of(certificate: x509.Certificate) -> str:
    return _serial(certificate.serial_number)


def _normal(serial: str) -> str:
    return _serial(int(serial.replace(":", ""), 16))


def _common_name(certificate: x509.Certificate) -> str:
    found = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def _subject_key(certificate: x509.Certificate) -> str:
    extension = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return extension.value.digest.hex()


def _authority(certificate: x509.Certificate) -> str:
    with contextlib.suppress(x509.ExtensionNotFound):
        extension = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
        return (extension.value.key_identifier or b"").hex()
    return ""


def _list_key(crl: x509.CertificateRevocationList) -> str:
    with contextlib.suppress(x509.ExtensionNotFound):
        extension = crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
        return (extension.value.key_identifier or b"").hex()
    return ""


def _lists(path: str) -> list[str]:
    return [_list_key(crl) for crl in _crls(path)]


def _blocks(path: str, kind: bytes) -> list[bytes]:
    try:
        return [found.group(0) for found in _PEM.finditer(_bytes(path)) if found.group(1) == kind]
    except OSError:
        return []


def _certificates(path: str) -> list[x509.Certificate]:
    """The certificates in a PEM file; none where it is not there or holds something else."""
    with contextlib.suppress(ValueError):
        return [x509.load_pem_x509_certificate(block) for block in _blocks(path, b"CERTIFICATE")]
    return []


def _crls(path: str) -> list[x509.CertificateRevocationList]:
    with contextlib.suppress(ValueError):
        return [x509.load_pem_x509_crl(block) for block in _blocks(path, b"X509 CRL")]
    return []


def _load(path: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(_bytes(path))


def _bytes(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


def _write(path: str, text: str) -> None:
    """Whole or not at all, and on the disk."""
    partial = f"{path}.new"
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(partial, path)
