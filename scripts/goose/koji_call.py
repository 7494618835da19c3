"""What Salt's modules run with the system's Python: one JSON object in, one out.

Salt's own Python (onedir on EL) cannot import the system's koji, so `_modules/koji_content.py`
starts ``/usr/bin/python3 -m goose.koji_call``. Standard input holds the request:

``{"action": "managed", "server", "serverca", "cert", "data", "timeout", "test", "where"}``
    compares the hub with the data and applies it; see `managed`.
``{"action": "hub", "server", "serverca", "cert", "permission", "timeout", "test"}``
    waits until the hub answers, `cert` logs in, and its user has `permission`; see `hub`.
``{"action": "host_registered", "host", "server", "serverca", "cert", "timeout", "test", "where"}``
    waits until the hub knows the builder; see `host_registered`.

Standard output gets ``{"result": true|false|null, "changes": {}, "comment": "…"}``. Waiting is
done here and bounded by ``timeout`` seconds; with ``test`` there is one attempt.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Callable, Optional, TypeVar

if TYPE_CHECKING:
    from goose import content_plan

# Seconds for a connection, and for an answer: a snapshot of a large hub takes its time.
_TIMEOUT = (10, 300)
_PAUSE = 3.0

_BAD = "Nothing was changed, because the data is wrong:"

Found = TypeVar("Found")
Connect = Callable[[str, str, Optional[str]], Any]
Result = dict[str, Any]


class Unanswered(Exception):
    """The hub cannot be used, in a sentence; ``later``: waiting may help."""

    status = 4
    """What a program that has only this to say exits with."""

    def __init__(self, sentence: str, later: bool = True) -> None:
        super().__init__(sentence)
        self.later = later


class Barred(Unanswered):
    """The hub answers, and lets nobody in."""

    status = 3


def connect(
    server: str, serverca: str, cert: str | None = None, timeout: tuple[float, float] = _TIMEOUT
) -> Any:
    """A session of the hub at ``server`` (URL), which has answered; logged in where ``cert`` is given.

    Args:
        serverca: path of the CA's certificate that the hub's certificate is checked against.
        cert: path of certificate and key in one PEM file.
        timeout: seconds for a connection, and for an answer.

    Raises:
        Unanswered: with the reason in a sentence; `Barred` where the hub refuses ``cert``.
    """
    try:
        koji: Any = importlib.import_module("koji")
    except ImportError as error:
        raise Unanswered(
            f"/usr/bin/python3 has no koji client ({error}): apply koji.client on this host first.",
            later=False,
        ) from error
    for path, maker in ((serverca, "pki"), (cert, "pki")):
        if path and not os.path.isfile(path):
            raise Unanswered(
                f"{path} is missing: the state {maker} makes it, apply it on this host first.", later=False
            )
    options = {
        "serverca": serverca,
        "timeout": timeout,
        "auth_timeout": timeout,
        "max_retries": 1,
        "retry_interval": 1,
    }
    session = koji.ClientSession(server, options)
    try:
        session.getAPIVersion()
    except Exception as error:  # requests', koji's and the parser's, all of them "no answer"
        raise Unanswered(f"The hub {server} does not answer: {_reason(error)}") from error
    if cert:
        try:
            session.ssl_login(cert, None, serverca)
        except Exception as error:
            raise Barred(f"The hub {server} does not let {cert} log in: {_reason(error)}") from error
    return session


# What the network's libraries say, and what it means; the first that fits.
_REASONS = (
    ("Connection refused", "nothing listens there"),
    ("Name or service not known", "its name is unknown; look at pillar hosts and at DNS"),
    ("Temporary failure in name resolution", "its name is unknown; look at pillar hosts and at DNS"),
    ("No route to host", "there is no route to it"),
    ("timed out", "it took too long"),
    ("unable to get local issuer", "its certificate is not signed by the project's CA"),
    ("self-signed certificate", "its certificate is not signed by the project's CA"),
    ("self signed certificate", "its certificate is not signed by the project's CA"),
    ("Hostname mismatch", "its certificate is for another name"),
    ("doesn't match", "its certificate is for another name"),
    ("alert_certificate_revoked", "the certificate is revoked"),
    ("alert_certificate_expired", "the certificate has expired"),
    ("alert_unknown_ca", "the certificate is not signed by the CA that the hub trusts"),
    ("EOF occurred in violation of protocol", "it ended the TLS connection, which refuses the certificate"),
    ("403 Client Error", "the certificate was refused by its web server"),
    ("404 Client Error", "there is no Koji hub at this URL"),
)


def _logout(session: Any) -> None:
    """End the session; where the hub no longer answers, it ends by itself."""
    with contextlib.suppress(Exception):
        session.logout()


def _reason(error: BaseException) -> str:
    """The most telling part of a chain of network errors, as the end of a sentence."""
    text = str(error).strip()
    for mark, reason in _REASONS:
        if mark.lower() in text.lower():
            return f"{reason}."
    # koji wraps: "unable to obtain a session (ssl auth failed: koji.AuthError: Unknown user: x\n)"
    lines = [line.strip() for line in text.splitlines() if len(line.strip()) > 1]
    line = lines[-1] if lines else type(error).__name__
    return f"{line.rpartition('ssl auth failed: ')[2].rpartition('Error: ')[2][:300]}."


def attempt(
    act: Callable[[], Found],
    timeout: float,
    test: bool,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> tuple[Found, float]:
    """What ``act`` returns once it no longer raises `Unanswered`, and the seconds waited for that.

    Tries for ``timeout`` seconds; only once with ``test``, or where waiting cannot help.
    """
    start = clock()
    while True:
        try:
            return act(), clock() - start
        except Unanswered as error:
            reason = error
        except Exception as error:  # the hub went away between two calls
            reason = Unanswered(f"The hub failed: {_reason(error)}")
        if test or not reason.later:
            raise reason
        if clock() - start + _PAUSE > timeout:
            raise Unanswered(f"{str(reason).rstrip('.')}; this was waited for {timeout:g} seconds.")
        sleep(_PAUSE)


def _result(result: bool | None, comment: str, changes: Mapping[str, Any] | None = None) -> Result:
    return {"result": result, "changes": dict(changes or {}), "comment": comment}


def _lines(*lines: str) -> str:
    return "\n".join(line for line in lines if line)


def _things(planned: content_plan.Plan) -> str:
    count = "1 thing" if len(planned.steps) == 1 else f"{len(planned.steps)} things"
    return f"{count} ({', '.join(planned.changes())})" if planned.steps else count


def managed(
    request: Mapping[str, Any], connect: Connect, clock: Callable[[], float], sleep: Callable[[float], None]
) -> Result:
    """Make the hub hold the data: the whole of ``koji_content.managed``."""
    # Here: they take longer to load than a short program that only asks the hub takes for all else.
    from goose import content, content_live, content_plan

    server, cert, test = request["server"], request["cert"], bool(request.get("test"))
    try:
        data = content.parse(request["data"])
    except content.BadData as error:
        return _result(False, _lines(_BAD, *error.sentences))

    def ready() -> Any:
        session = connect(server, request["serverca"], cert)
        if "admin" not in session.getPerms():
            name = (session.getLoggedInUser() or {}).get("name")
            _logout(session)
            raise Unanswered(
                f"The hub {server} takes {cert} for the user {name}, who is no administrator there: the state"
                f" koji.db makes the first one, apply it on {request.get('where') or 'its host'}."
            )
        return session

    try:
        session, _ = attempt(ready, float(request.get("timeout", 600)), test, clock, sleep)
    except Unanswered as error:
        if not test:
            return _result(False, str(error))
        everything = f"everything would be created ({content.counts(data)})"
        return _result(None, f"The hub does not answer yet: {everything}. {error}")
    try:
        planned = content_plan.plan(data, content_live.read(session, data), session)
        beyond = content_plan.surplus_text(planned)
        if not planned.steps:
            return _result(True, _lines(f"The hub is as the data says: {content.counts(data)}.", beyond))
        if test:
            return _result(None, _lines(f"{_things(planned)} would change.", beyond), planned.changes())
        done, failures = content_plan.apply(session, planned)
        return _result(not failures, _lines(*failures, f"{_things(done)} changed.", beyond), done.changes())
    except content.BadData as error:
        return _result(False, _lines(_BAD, *error.sentences))
    except Exception as error:  # a hub that fails in the middle, in whatever way
        return _result(False, f"The hub {server} failed, apply again: {_reason(error)}")
    finally:
        _logout(session)


def hub(
    request: Mapping[str, Any], connect: Connect, clock: Callable[[], float], sleep: Callable[[float], None]
) -> Result:
    """Wait for the hub: its answer, then a log-in where a certificate is given, then a permission."""
    server, cert, permission = request["server"], request.get("cert"), request.get("permission")
    test = bool(request.get("test"))

    def ready() -> None:
        session = connect(server, request["serverca"], cert)
        if not cert:
            return
        try:
            held = set(session.getPerms()) if permission else set()
        except Exception as error:
            _logout(session)
            # A service that was killed still holds its exclusive session. It takes that over itself.
            if type(error).__name__ == "AuthLockError":
                return
            raise Unanswered(f"The hub {server} does not take {cert}: {_reason(error)}") from error
        try:
            if permission and not {permission, "admin"} & held:
                raise Unanswered(
                    f"The hub {server} lets {cert} log in, but its user lacks the permission {permission!r}:"
                    f" the state koji.content grants it, apply it on {request.get('where') or 'its host'}."
                )
        finally:
            _logout(session)

    try:
        _, seconds = attempt(ready, float(request.get("timeout", 600)), test, clock, sleep)
    except Unanswered as error:
        return _result(None if test else False, str(error))
    waited = f" after {seconds:.0f} seconds" if seconds >= 1 else ""
    return _result(True, f"The hub {server} answers{waited}.")


def host_registered(
    request: Mapping[str, Any], connect: Connect, clock: Callable[[], float], sleep: Callable[[float], None]
) -> Result:
    """Wait until the hub knows the builder and takes its certificate for that builder.

    The builder logs in only once the hub has its host: a log-in before that makes an ordinary
    user of its name (hub option LoginCreatesUser), and a host of that name can then not be added.
    """
    server, name, cert = request["server"], request["host"], request["cert"]
    test = bool(request.get("test"))

    def ready() -> None:
        session = connect(server, request["serverca"], None)
        if session.getHost(name) is None:
            raise Unanswered(
                f"The hub {server} does not know the builder {name}: the state koji.content registers it,"
                f" apply it on {request.get('where') or 'the host with the role koji.content'}."
            )
        session = connect(server, request["serverca"], cert)
        try:
            user = session.getLoggedInUser()
        except Exception as error:
            # While kojid holds its exclusive session, the hub refuses any other: it is logged in as the host.
            if type(error).__name__ == "AuthLockError":
                return
            raise Unanswered(f"The hub {server} does not take {cert}: {_reason(error)}") from error
        finally:
            _logout(session)
        if user["name"] != name or user["usertype"] != 1:
            raise Unanswered(
                f"The hub {server} takes {cert} for the user {user['name']}, not for the builder {name}: the"
                " certificate's common name must be the name of the host."
            )

    try:
        _, seconds = attempt(ready, float(request.get("timeout", 600)), test, clock, sleep)
    except Unanswered as error:
        return _result(None if test else False, str(error))
    waited = f" after {seconds:.0f} seconds" if seconds >= 1 else ""
    return _result(True, f"The hub knows the builder {name}{waited}.")


ACTIONS = {"managed": managed, "hub": hub, "host_registered": host_registered}


def main() -> int:
    """Answer the one request on standard input."""
    request = json.load(sys.stdin)
    answer = ACTIONS[request["action"]](request, connect, time.monotonic, time.sleep)
    json.dump(answer, sys.stdout, default=str)
    return 0


if __name__ == "__main__":
    sys.exit(main())
