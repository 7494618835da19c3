"""The project's CA on each host: publish, fetch, trust, and certificate and key in one file."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import time
from collections.abc import Callable
from typing import Any

__virtualname__ = "goose_pki"

_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

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
    return _kept(name, text)


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


# The CA host


def laid_out(name: str) -> Result:
    """Have each CA in a directory of its own below ``name``, also one that was made before there were several."""
    todo = __salt__["goose_pki.layout"](name)
    if not todo:
        return _result(name, True, "Every CA has a directory of its own.")
    changes = {path: f"moved to {name}/1" for path in todo}
    if __opts__["test"]:
        return _result(name, None, f"{', '.join(todo)} would be moved to {name}/1.", changes)
    __salt__["goose_pki.lay_out"](name)
    return _result(name, True, f"{', '.join(todo)} were moved to {name}/1.", changes)


def stepped(name: str, signing: int, trusted: list[int]) -> Result:
    """Fail where the CA cannot be replaced as far as pillar ``pki:ca`` says; change nothing.

    The states that would do it require this one.
    """
    problems = __salt__["goose_pki.step_lacks"](signing, trusted)
    if problems:
        return _result(name, False, "\n".join([*problems, "Nothing was changed; pki/README.rst has the steps."]))
    return _result(name, True, f"CA {signing} may sign, and those trusted are {', '.join(map(str, trusted))}.")


def signing(name: str, number: int) -> Result:
    """Have the symbolic link ``name`` lead to the CA ``number``, so that it signs from now on."""
    target = str(number)
    before = os.readlink(name) if os.path.islink(name) else None
    if before == target:
        return _result(name, True, f"CA {number} signs.")
    changes = {name: {"old": before, "new": target}}
    if __opts__["test"]:
        return _result(name, None, f"CA {number} would sign.", changes)
    __salt__["goose_pki.link"](name, target)
    return _result(name, True, f"CA {number} signs now.", changes)


def crl(name: str, key: str, certificate: str, days_valid: float, days_remaining: float) -> Result:
    """Keep the revocation list ``name`` of the CA ``certificate``: all that is revoked, and not near its end.

    An empty list too: Apache refuses every client where the list is missing.

    days_valid, days_remaining
        Days that a list is good for, and that one has left when the next is issued.
    """
    if not (os.path.isfile(key) and os.path.isfile(certificate)):
        if __opts__["test"]:
            return _result(name, None, f"{certificate} would be made first, then its list.", {name: "issued"})
        return _result(name, False, f"{key} or {certificate} is missing: look at the errors of their states.")
    why = __salt__["goose_pki.crl_lacks"](name, certificate, days_remaining)
    if why and __opts__["test"]:
        return _result(name, None, f"It would be issued again: {'; '.join(why)}.", {name: "issued"})
    text = __salt__["goose_pki.crl"](name, key, certificate, days_valid) if why else _read(name)
    written = _kept(name, str(text))
    if why and written["result"]:
        return _result(name, True, f"It was issued again: {'; '.join(why)}.", {name: "issued"})
    return written


def joined(name: str, files: list[str]) -> Result:
    """Keep the texts of ``files``, one after the other, in the file ``name``."""
    parts = [_read(path) for path in files]
    missing = [path for path, part in zip(files, parts) if part is None]
    if missing:
        if __opts__["test"]:
            return _result(name, None, f"{', '.join(missing)} would be made first, then joined.", {name: "made"})
        return _result(name, False, f"{', '.join(missing)}: missing, look at the errors of the states that make them.")
    return _kept(name, "".join(part.rstrip("\n") + "\n" for part in parts if part is not None))


def revoked(name: str) -> Result:
    """Keep in the file ``name`` who is revoked since when, for those that know people by their names."""
    rows = [{key: row[key] for key in ("name", "revocation_date")} for row in __salt__["goose_pki.revoked"]()]
    return _kept(name, json.dumps(rows, indent=1) + "\n")


# Every host


def anchored(name: str, prefix: str, ca: str, bundle: str, command: str) -> Result:
    """Have the system trust the CAs in the file ``ca``, and none that it held for the project before.

    A CA keeps the name of its file while others come and go beside it, so that it is trusted at any moment.

    name
        Directory of the system's anchors.
    prefix
        With what the names of the project's files there begin.
    bundle
        The file that programs read: asked, not the time stamp of a file.
    command
        Makes the bundle of the anchors.
    """
    text = _read(ca)
    if text is None:
        if __opts__["test"]:
            return _result(name, None, f"{ca} would be fetched first, then trusted.", {name: "trusted"})
        return _result(name, False, f"{ca} is missing: look at the errors of the state that fetches it.")
    wanted = {f"{name}/{prefix}{_number(part)}.crt": f"{part}\n" for part in _CERTIFICATE.findall(text)}
    changes: dict[str, Any] = {path: "trusted" for path, part in wanted.items() if _read(path) != part}
    gone = sorted(set(glob.glob(f"{name}/{prefix}.crt") + glob.glob(f"{name}/{prefix}-[0-9]*.crt")) - set(wanted))
    bare = {_bare(part) for part in _CERTIFICATE.findall(_read(bundle) or "")}
    if changes or not {_bare(part) for part in wanted.values()} <= bare:
        changes[bundle] = "made anew"
    changes.update({path: "trusted no more" for path in gone})
    if not changes:
        return _result(name, True, "The system trusts the project's CA.")
    if __opts__["test"]:
        return _result(name, None, "The system's store of CAs would be changed.", changes)
    for path, part in wanted.items():
        written = _kept(path, part)
        if written["result"] is False:
            return {**written, "name": name}
    # First what is new: there is no moment without.
    for step in ((), gone) if gone else ((),):
        for path in step:
            # A renewal beside a highstate may have been here before.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        done = __salt__["cmd.run_all"](command, ignore_retcode=True)
        if done["retcode"]:
            said = done["stderr"].strip() or done["stdout"].strip()
            return _result(name, False, f"{command} ended with {done['retcode']}: {said}")
    return _result(name, True, "The system's store of CAs was changed.", changes)


def reported(name: str) -> Result:
    """Keep in the file ``name`` what this host trusts and holds, and send it to the mine.

    It comes last: what it tells of is in use. The CA host lets no CA sign, and drops none, before all hosts
    are that far.
    """
    text = json.dumps(__salt__["goose_pki.held"](), indent=1, sort_keys=True) + "\n"
    written = _kept(name, text)
    if written["result"] is False or _masterless():
        return written
    sent = published("pki_held", name)
    changes = {**written["changes"], **sent["changes"]}
    result = None if None in (written["result"], sent["result"]) else sent["result"]
    return _result(name, result, f"{written['comment']} {sent['comment']}", changes)


def _kept(name: str, text: str) -> Result:
    """A file of root's that all may read."""
    managed: Callable[..., Result] = __states__["file.managed"]
    # Salt takes the last line's end away, and gives it back where it is told so.
    newline = text.endswith("\n")
    return managed(name=name, contents=text, contents_newline=newline, user="root", group="root", mode="0644")


def _bare(certificate: str) -> str:
    return "".join(certificate.split())


def _number(certificate: str) -> str:
    """``-2`` for the second CA of the project, by its name; nothing for the first."""
    subject = __salt__["x509.read_certificate"](certificate)["subject"].get("CN", "")
    found = re.search(r" CA ([0-9]+)$", subject)
    return f"-{found.group(1)}" if found else ""
