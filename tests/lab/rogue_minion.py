"""A minion that does not keep to what Salt's own client would send.

Run on a host by Salt's Python; standard input is a JSON list of requests, each sent with this
minion's own key, standard output the list of the master's answers. A request that names an ``id``
is sent under that id. ``_auth`` is the log-in itself, which a minion may send for any id. What a
published command returns is waited for.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import salt.channel.client
import salt.config
import salt.crypt
import salt.minion
import salt.payload


class Request(dict[str, Any]):
    """Salt puts the true id into every request: this keeps the one that was given."""

    def __setitem__(self, key: str, value: Any) -> None:
        if key != "id":
            super().__setitem__(key, value)


def plain(value: Any) -> Any:
    """JSON has no bytes: certificates (DER, which begins with 0) as hexadecimal digits, else text."""
    if isinstance(value, bytes):
        return value.hex() if value[:1] == b"0" else value.decode("utf-8", "replace")
    if isinstance(value, dict):
        return {str(plain(key)): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value


def answer(channel: Any, opts: dict[str, Any], request: Request) -> Any:
    """What the master answers; an error as a text."""
    try:
        if request["cmd"] == "_pillar":
            return channel.crypted_transfer_decode_dictentry(request, dictkey="pillar", timeout=10, tries=1)
        given = channel.send(request, timeout=10, tries=1)
        if request["cmd"] != "minion_pub" or "jid" not in given:
            return given
        returned: Any = {}
        deadline = time.monotonic() + 20
        while set(returned) != set(given["minions"]) and time.monotonic() < deadline:
            time.sleep(0.1)
            returned = channel.send({"cmd": "pub_ret", "id": opts["id"], "jid": given["jid"]})
        return {minion: each["ret"] for minion, each in returned.items()}
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def log_in(opts: dict[str, Any], name: str) -> bool:
    """Whether the master takes this minion's key for that of the minion ``name``."""
    claimed = {**opts, "id": name}
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    payload = salt.crypt.AsyncAuth(claimed, io_loop=loop).minion_sign_in_payload()
    with salt.channel.client.ReqChannel.factory(claimed, crypt="clear") as channel:
        given = salt.payload.loads(channel.send(payload, timeout=10, tries=1)["load"])
    return "aes" in given


def main() -> None:
    requests = json.load(sys.stdin)
    opts = salt.config.minion_config("/etc/salt/minion", cache_minion_id=False)
    opts.update(salt.minion.resolve_dns(opts))
    grains = {"os": "Debian", "os_family": "Debian"}
    base = {"id": opts["id"], "saltenv": "base", "pillarenv": None, "grains": grains, "ver": "2"}
    answers: list[Any] = []
    with salt.channel.client.ReqChannel.factory(opts) as channel:
        for request in requests:
            if request["cmd"] == "_auth":
                answers.append(log_in(opts, request["id"]))
            else:
                answers.append(plain(answer(channel, opts, Request({**base, **request}))))
    print(json.dumps(answers, default=str))


if __name__ == "__main__":
    main()
