"""What a Koji hub holds, as pillar data."""

from __future__ import annotations

from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "koji_content"


def __virtual__() -> str:
    return __virtualname__


def managed(
    name: str,
    data: dict[str, Any],
    server: str,
    cert: str = "/etc/pki/goose/kojiadmin.pem",
    serverca: str = "/etc/pki/goose/ca.crt",
    timeout: float = 600,
) -> dict[str, Any]:
    """Make the hub at ``server`` hold ``data``: users, hosts, channels, tags, targets and the rest.

    Waits ``timeout`` seconds at most for the hub and for the administrator's log-in. All of the data
    is one state, because it is checked as a whole before anything is changed. ``changes`` is kind ->
    name -> old and new; what is on the hub and not in the data is named in the comment, and removed
    only where ``data`` says so under ``purge``.
    """
    request = {
        "action": "managed",
        "data": data,
        "server": server,
        "cert": cert,
        "serverca": serverca,
        "timeout": timeout,
        "test": __opts__["test"],
        "where": next(
            (n for n, h in sorted(__pillar__.get("hosts", {}).items()) if "koji.db" in h.get("roles", [])), ""
        ),
    }
    try:
        return {"name": name, **__salt__["koji_content.call"](request)}
    except CommandExecutionError as error:
        if __opts__["test"]:
            return {
                "name": name,
                "result": None,
                "changes": {},
                "comment": f"Everything would be created. {error}",
            }
        return {"name": name, "result": False, "changes": {}, "comment": str(error)}
