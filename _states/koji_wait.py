"""Waiting for what another host does: hosts are converged side by side.

Each state tries until it succeeds or ``timeout`` seconds have passed, and never changes anything.
With ``test=True`` it looks once, and gives None where it would have to wait.
"""

from __future__ import annotations

from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "koji_wait"


def __virtual__() -> str:
    return __virtualname__


def _wait(name: str, request: dict[str, Any]) -> dict[str, Any]:
    request = {**request, "test": __opts__["test"], "where": __salt__["koji_content.content_host"]()}
    try:
        return {"name": name, **__salt__["koji_content.call"](request)}
    except CommandExecutionError as error:
        return {
            "name": name,
            "result": None if __opts__["test"] else False,
            "changes": {},
            "comment": str(error),
        }


def hub(
    name: str,
    server: str,
    serverca: str = "/etc/pki/goose/ca.crt",
    cert: str | None = None,
    permission: str | None = None,
    timeout: float = 600,
) -> dict[str, Any]:
    """Wait until the hub at ``server`` answers.

    With ``cert`` (PEM of certificate and key) until that logs in as well, and with ``permission``
    until its user has it: kojira is of no use before the hub knows it as ``repo``.
    """
    request = {
        "server": server,
        "serverca": serverca,
        "cert": cert,
        "permission": permission,
        "timeout": timeout,
    }
    return _wait(name, {"action": "hub", **request})


def host_registered(
    name: str,
    server: str,
    cert: str = "/etc/pki/goose/kojid.pem",
    serverca: str = "/etc/pki/goose/ca.crt",
    timeout: float = 600,
) -> dict[str, Any]:
    """Wait until the hub at ``server`` knows the builder ``name``, and ``cert`` logs in as that builder.

    kojid must not start before: it would make an ordinary user of its name.
    """
    request = {"host": name, "server": server, "cert": cert, "serverca": serverca, "timeout": timeout}
    return _wait(name, {"action": "host_registered", **request})
