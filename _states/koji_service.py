"""Services that run with what their files say, also after an apply that was killed."""

from __future__ import annotations

import os
import time
from datetime import datetime
from typing import Any

# Twenty seconds: units of this project are started again ten seconds after they have died.
_TRIES, _PAUSE = 40, 0.5


def __virtual__() -> str:
    return "koji_service"


def _last_change(unit: str) -> tuple[str, float | None]:
    """A unit's state, and when systemd last started or reloaded it, in seconds since the epoch; None: it does not run."""
    command = ["systemctl", "show", "--timestamp=us+utc", "--property=ActiveState,StateChangeTimestamp", unit]
    out = __salt__["cmd.run_stdout"](command, python_shell=False, env={"LC_ALL": "C"})
    values = dict(line.partition("=")[::2] for line in out.splitlines())
    state = values.get("ActiveState", "")
    if state not in ("active", "reloading") or not values.get("StateChangeTimestamp"):
        return state, None
    stamp = values["StateChangeTimestamp"].replace(" UTC", " +0000")
    return state, datetime.strptime(stamp, "%a %Y-%m-%d %H:%M:%S.%f %z").timestamp()


def current(name: str, files: list[str], reload: bool = False) -> dict[str, Any]:
    """Restart, or reload, the service where one of ``files`` is newer than its last start or reload.

    `watch` does this in the run that writes the file. Where that run was killed, or
    failed before it came to the service, no later one would: the file is as it should be.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    for _ in range(_TRIES):
        state, since = _last_change(name)
        if state != "activating" or __opts__["test"]:
            break
        # Being started, or started again after it has died.
        time.sleep(_PAUSE)
    if since is None:
        if __opts__["test"]:
            ret["result"] = None
            ret["comment"] = f"{name} would be started first, with its files as they are then."
        else:
            ret["result"] = False
            ret["comment"] = f"{name} does not run: journalctl -u {name} says why."
        return ret
    newer = [path for path in files if os.path.exists(path) and os.stat(path).st_ctime > since]
    if not newer:
        ret["comment"] = f"{name} runs with what its files say."
        return ret
    action = "reload" if reload else "restart"
    ret["changes"] = {name: f"{action}ed, for {', '.join(newer)}"}
    if __opts__["test"]:
        ret["result"] = None
        ret["comment"] = f"{name} would be {action}ed."
        return ret
    __salt__[f"service.{action}"](name)
    for _ in range(_TRIES):
        if (_last_change(name)[1] or 0) > since:
            ret["comment"] = f"{name} was {action}ed."
            return ret
        time.sleep(_PAUSE)
    ret["result"] = False
    ret["comment"] = f"{name} does not run after its {action}: journalctl -u {name} says why."
    return ret
