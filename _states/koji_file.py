"""Files with secrets that are made on the host: never shown, never in pillar."""

from __future__ import annotations

import os
import re
import secrets
from typing import Any

Result = dict[str, Any]


def __virtual__() -> str:
    return "koji_file"


def _managed(name: str, contents: str, user: str, group: str, mode: str) -> Result:
    return __states__["file.managed"](
        name=name,
        contents=contents.rstrip("\n"),
        user=user,
        group=group,
        mode=mode,
        show_changes=False,
    )


def copied(name: str, source: str, user: str = "root", group: str = "root", mode: str = "0640") -> Result:
    """Keep ``name`` equal to the file ``source`` of this host, for a service that may not read that one.

    In test mode a source that is still to be made is no error.
    """
    if os.path.isfile(source):
        with open(source, encoding="utf-8") as stream:
            return _managed(name, stream.read(), user, group, mode)
    if __opts__["test"]:
        return {
            "name": name,
            "result": None,
            "changes": {name: f"a copy of {source}"},
            "comment": f"{source} would be made first, then copied to {name}.",
        }
    return {
        "name": name,
        "result": False,
        "changes": {},
        "comment": f"{source} is missing: look at the errors of the state that makes it.",
    }


def secret(
    name: str,
    line: str,
    section: str = "",
    user: str = "root",
    group: str = "root",
    mode: str = "0640",
    size: int = 32,
) -> Result:
    """Keep in ``name`` the line ``LINE = <random>``, below ``[section]``; a good secret is kept.

    size
        Random bytes, written in hexadecimal.
    """
    head = f"[{section}]\n" if section else ""
    pattern = re.compile(re.escape(f"{head}{line} = ") + f"[0-9a-f]{{{2 * size}}}\n")
    contents = ""
    if os.path.isfile(name):
        with open(name, encoding="utf-8", errors="replace") as stream:
            contents = stream.read()
    if not pattern.fullmatch(contents):
        contents = f"{head}{line} = {secrets.token_hex(size)}\n"
    return _managed(name, contents, user, group, mode)
