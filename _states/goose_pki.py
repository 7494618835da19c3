"""The project's CA on each host: publish, fetch, and certificate and key in one file."""

from __future__ import annotations

import os
import time
from typing import Any

__virtualname__ = "goose_pki"

Result = dict[str, Any]


def __virtual__() -> str:
    return __virtualname__


def _result(name: str, result: bool | None, comment: str, changes: dict[str, Any] | None = None) -> Result:
    return {"name": name, "result": result, "changes": changes or {}, "comment": comment}


def _masterless() -> bool:
    return __opts__.get("file_client") == "local"


def _read(path: str) -> str | None:
    if not os.path.isfile(path):
        return None
    with open(path, encoding="ascii") as stream:
        return stream.read()


def published(name: str, path: str) -> Result:
    """Make the mine's entry ``name`` hold the text of the file ``path``.

    The minion sends its mine once an hour; other hosts wait for the CA's certificate,
    so it is sent as soon as it differs. A masterless minion has nobody to send it to.
    """
    if _masterless():
        return _result(name, True, f"This minion has no master: {path} is published to nobody.")
    text = _read(path)
    if text is None:
        if __opts__["test"]:
            return _result(name, None, f"{path} would be made first, then published.", {name: path})
        return _result(name, False, f"{path} is missing: the CA's own states make it, look at their errors.")
    if __salt__["mine.get"](__opts__["id"], name).get(__opts__["id"]) == text:
        return _result(name, True, f"The mine holds {path} as it is.")
    if __opts__["test"]:
        return _result(name, None, f"{path} would be sent to the mine.", {name: path})
    __salt__["mine.update"]()
    return _result(name, True, f"{path} was sent to the mine.", {name: path})


def fetched(name: str, entry: str, ca_host: str, ca_path: str, timeout: int = 120) -> Result:
    """Keep the CA's file, from the CA host's mine or, on the CA host, from ``ca_path``, at ``name``.

    Where hosts are converged side by side the CA may be in the making: its publication is
    awaited for ``timeout`` seconds, but not with ``test=True``.
    """
    if ca_host == __opts__["id"]:
        text = _read(ca_path)
        missing = f"{ca_path} is missing: the role pki.ca makes it, look at its errors."
    elif _masterless():
        return _result(
            name,
            False,
            f"This minion has no master, and the CA is on {ca_host}: masterless hosts need the role pki.ca themselves.",
        )
    else:
        deadline = time.monotonic() + (0 if __opts__["test"] else timeout)
        text = __salt__["mine.get"](ca_host, entry).get(ca_host)
        while text is None and time.monotonic() < deadline:
            time.sleep(1)
            text = __salt__["mine.get"](ca_host, entry).get(ca_host)
        missing = (
            f"{ca_host} has not published {entry}: apply pki.ca there first"
            f" (salt {ca_host} state.apply pki.ca), then apply this host again."
        )
    if text is None:
        if __opts__["test"]:
            return _result(name, None, f"{name} would be fetched from {ca_host}.", {name: "fetched"})
        return _result(name, False, missing)
    return __states__["file.managed"](
        name=name, contents=text, contents_newline=False, user="root", group="root", mode="0644"
    )


def pem(
    name: str, certificate: str, private_key: str, user: str = "root", group: str = "root", mode: str = "0600"
) -> Result:
    """Keep ``certificate`` and ``private_key`` together in the file ``name``, as Koji wants them."""
    parts = [_read(certificate), _read(private_key)]
    if None in parts:
        if __opts__["test"]:
            return _result(name, None, f"{name} would be made of {certificate} and {private_key}.", {name: "made"})
        return _result(name, False, f"{certificate} or {private_key} is missing: look at the errors of their states.")
    text = "".join(part.rstrip("\n") + "\n" for part in parts if part is not None)
    return __states__["file.managed"](
        name=name,
        contents=text,
        contents_newline=False,
        user=user,
        group=group,
        mode=mode,
        show_changes=False,
    )
