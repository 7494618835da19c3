"""A ready configuration for an unmodified koji client on this machine."""

from __future__ import annotations

import json
import os
from pathlib import Path

from goose.lab.lab import Lab
from goose.lab.run import LabError, run

_USER = "kojiadmin"


def write(lab: Lab, directory: Path) -> None:
    """Write ``config``, ``client.pem`` and ``ca.pem`` for `kojiadmin` into ``directory``.

    The private key is made here; the CA host signs a request, as it does for a packager.
    """
    ca_host = lab.need_role("pki.ca")
    if ca_host.leader() is None:
        raise LabError(f"{ca_host.fqdn} is off: `scripts/lab --name {lab.record.name} up` starts it.")
    directory = directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    key = run(
        ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"], what="Making a key"
    ).stdout
    request = run(
        ["openssl", "req", "-new", "-key", "/dev/stdin", "-subj", f"/CN={_USER}"], what="Making a request", stdin=key
    ).stdout
    certificate = sign(lab, _USER, request)
    _write(directory / "ca.pem", ca_host.run(["cat", "/etc/pki/goose/ca.crt"]).stdout, 0o644)
    _write(directory / "client.pem", certificate + key, 0o600)
    services = lab.services()
    config = (
        "[koji]\n"
        f"server = {services['koji-hub']}\n"
        f"weburl = {services['koji-web']}\n"
        f"topurl = {services['koji-files']}\n"
        "authtype = ssl\n"
        f"cert = {directory}/client.pem\n"
        f"serverca = {directory}/ca.pem\n"
    )
    _write(directory / "config", config, 0o644)


def sign(lab: Lab, user: str, request: str) -> str:
    """The certificate of ``user`` for the PEM ``request``, signed on the CA host."""
    ca_host = lab.need_role("pki.ca")
    path = f"/root/{user}.csr"
    ca_host.run(["tee", path], stdin=request, what="Handing the request to the CA host")
    command = ["salt-call", "--local", "--out=json", "goose_pki.sign", user, path]
    done = ca_host.run(command, what=f"Signing the certificate of {user}")
    ca_host.run(["rm", "-f", path])
    try:
        answer = str(json.loads(done.stdout)["local"]).strip()
    except (ValueError, KeyError):
        answer = done.stdout.strip()
    if not answer.startswith("-----BEGIN CERTIFICATE-----"):
        raise LabError(f"The CA host did not sign the certificate of {user}:\n{answer}{done.stderr}")
    return answer + "\n"


def _write(path: Path, text: str, mode: int) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as stream:
        stream.write(text)
    partial.rename(path)
