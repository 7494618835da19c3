"""The koji client for Salt: runs ``goose.koji_call`` with the system's Python.

Salt's own Python cannot import koji where Salt is a onedir package (EL), so the work is done by a
program that gets and gives JSON. The program comes from this tree's ``scripts/goose``.
"""

from __future__ import annotations

import json
import os
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "koji_content"

_PYTHON = "/usr/bin/python3"
_PROGRAM = ("content.py", "content_live.py", "content_plan.py", "koji_call.py")


def __virtual__() -> str:
    return __virtualname__


def call(request: dict[str, Any]) -> dict[str, Any]:
    """Answer one request of `goose.koji_call`: ``{"result", "changes", "comment"}``.

    Raises CommandExecutionError where the program itself could not be run.

    CLI Example:

    .. code-block:: bash

        salt-call koji_content.call '{action: hub, server: "https://hub.example/kojihub", serverca: /ca.crt}'
    """
    paths = [__salt__["cp.cache_file"](f"salt://scripts/goose/{name}", _saltenv()) for name in _PROGRAM]
    for name, path in zip(_PROGRAM, paths):
        if not path:
            raise CommandExecutionError(
                f"salt://scripts/goose/{name} is not to be had: the file root must be this repository's root."
            )
    if not os.path.exists(_PYTHON):
        raise CommandExecutionError(f"{_PYTHON} is missing: apply koji.client on this host first.")
    done = __salt__["cmd.run_all"](
        [_PYTHON, "-B", "-m", "goose.koji_call"],
        cwd=os.path.dirname(os.path.dirname(paths[0])),
        stdin=json.dumps(request),
        timeout=float(request.get("timeout", 600)) + 900,
        python_shell=False,
        output_loglevel="quiet",
        ignore_retcode=True,
    )
    try:
        return dict(json.loads(done["stdout"]))
    except ValueError as error:
        lines = (done["stderr"] or done["stdout"] or f"exit status {done['retcode']}").strip().splitlines()
        raise CommandExecutionError(f"goose.koji_call failed: {lines[-1]}") from error


def _saltenv() -> str:
    return __opts__.get("saltenv") or "base"


def content_host() -> str:
    """The host that has the role koji.content, for sentences; empty where pillar names none."""
    for name, host in sorted(__pillar__.get("hosts", {}).items()):
        if "koji.content" in host.get("roles", []):
            return str(name)
    return ""
