"""Certificates for people: called on the CA host, by hand."""

from __future__ import annotations

import os
import re
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "goose_pki"

# Koji's user names; no slash and no leading dot, because files are named after them.
_NAME = re.compile(r"[a-z_][a-z0-9_.-]{0,30}")


def __virtual__() -> str:
    return __virtualname__


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
        signing_private_key=f"{ca_dir}/ca.key",
        signing_cert=f"{ca_dir}/ca.crt",
        subject=f"CN={name},O={__pillar__['site']['name']}",
        basicConstraints="critical, CA:FALSE",
        keyUsage="critical, digitalSignature, keyEncipherment",
        extendedKeyUsage="clientAuth",
        subjectKeyIdentifier="hash",
        authorityKeyIdentifier="keyid:always",
        digest="sha256",
        days_valid=int(pki["user_days"]),
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
    pki, ca_dir = _ca()
    revoked = {entry["serial_number"] for entry in pki.get("revoked", [])}
    found = []
    for entry in sorted(os.listdir(f"{ca_dir}/issued")):
        certificate = __salt__["x509.read_certificate"](f"{ca_dir}/issued/{entry}")
        found.append(
            {
                "name": certificate["subject"].get("CN", ""),
                "serial_number": certificate["serial_number"],
                "not_after": certificate["not_after"],
                "revoked": certificate["serial_number"] in revoked,
            }
        )
    return sorted(found, key=lambda row: (row["not_after"], row["name"]))


def _ca() -> tuple[dict[str, Any], str]:
    if "pki.ca" not in __pillar__.get("roles", []):
        raise CommandExecutionError(
            f"{__opts__['id']} is not the CA host: call this where pillar/hosts.yaml gives the role pki.ca."
        )
    return __pillar__["pki"], __pillar__["pki"].get("ca_dir", "/etc/pki/goose-ca")


def _reserved(pki: dict[str, Any]) -> set[str]:
    services = {entry["name"] for entry in pki["identities"].values() if not entry.get("person")}
    return services | set(__pillar__["hosts"]) | {host.split(".")[0] for host in __pillar__["hosts"]}
