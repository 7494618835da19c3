"""Koji's volume where someone else mounts it."""

from __future__ import annotations

import os
from typing import Any


def __virtual__() -> str:
    return "koji_volume"


def provided(name: str, writable: bool) -> dict[str, Any]:
    """Say whether ``name`` is a mount point that can be used; change nothing.

    writable
        Whether this host's roles write to it.
    """
    ret: dict[str, Any] = {"name": name, "result": False, "changes": {}, "comment": ""}
    if not os.path.isdir(name):
        ret["comment"] = (
            f"Koji's volume {name} is missing: pillar koji:volume:kind is 'provided', so mount it here,"
            " or set the kind to local or nfs."
        )
    elif not os.path.ismount(name):
        ret["comment"] = (
            f"{name} is a plain directory and no mount point: pillar koji:volume:kind is 'provided', so mount"
            " Koji's volume there, or set the kind to local or nfs."
        )
    elif writable and os.statvfs(name).f_flag & os.ST_RDONLY:
        ret["comment"] = (
            f"{name} is mounted read-only, and this host's roles write to it: mount it for writing."
        )
    else:
        ret["result"] = True
        ret["comment"] = f"{name} is mounted."
    return ret
