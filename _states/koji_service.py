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


def _since(unit: str, stamp: str = "StateChangeTimestamp") -> tuple[str, float | None]:
    """A unit's state, and when systemd last started or reloaded it, in seconds since the epoch; None: it does not run.

    With ``ActiveEnterTimestamp`` for ``stamp``: when systemd last started it.
    """
    command = ["systemctl", "show", "--timestamp=us+utc", f"--property=ActiveState,{stamp}", unit]
    out = __salt__["cmd.run_stdout"](command, python_shell=False, env={"LC_ALL": "C"})
    values = dict(line.partition("=")[::2] for line in out.splitlines())
    state = values.get("ActiveState", "")
    if state not in ("active", "reloading") or not values.get(stamp):
        return state, None
    when = values[stamp].replace(" UTC", " +0000")
    return state, datetime.strptime(when, "%a %Y-%m-%d %H:%M:%S.%f %z").timestamp()


def _newer(files: list[str], since: float) -> list[str]:
    """Which of ``files`` have changed after ``since``; a link, or what it leads to."""
    return [
        path for path in files
        if os.path.exists(path) and max(os.lstat(path).st_ctime, os.stat(path).st_ctime) > since
    ]  # fmt: skip


def current(name: str, files: list[str], reload: bool = False) -> dict[str, Any]:
    """Restart, or reload, the service where one of ``files`` is newer than its last start or reload.

    `watch` does this in the run that writes the file. Where that run was killed, or
    failed before it came to the service, no later one would: the file is as it should be.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    for _ in range(_TRIES):
        state, since = _since(name)
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
    newer = _newer(files, since)
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
        if (_since(name)[1] or 0) > since:
            ret["comment"] = f"{name} was {action}ed."
            return ret
        time.sleep(_PAUSE)
    ret["result"] = False
    ret["comment"] = f"{name} does not run after its {action}: journalctl -u {name} says why."
    return ret


def ended(name: str, files: list[str]) -> dict[str, Any]:
    """End the service where one of ``files``, which it takes when it starts and by no reload, is newer than its start.

    A state that comes later, with all its files written, starts it again.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": f"{name} has what it starts with."}
    _, since = _since(name, "ActiveEnterTimestamp")
    newer = [] if since is None else _newer(files, since)
    if not newer:
        return ret
    ret["changes"] = {name: f"ended, for {', '.join(newer)}"}
    if __opts__["test"]:
        ret["result"] = None
        ret["comment"] = f"{name} would be ended, and started with its files as they are then."
        return ret
    __salt__["service.stop"](name)
    if _since(name)[1] is not None:
        ret["result"] = False
        ret["comment"] = f"{name} does not end: journalctl -u {name} says why."
    else:
        ret["comment"] = f"{name} was ended."
    return ret
