"""Highstates: run them, and read from Salt what really happened."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from goose.lab.host import Host
from goose.lab.run import LabError, Progress, wait_for

# Seconds to wait for another state run on a host, and for a minion to answer.
_BUSY = 900
_ANSWER = 120


@dataclass(frozen=True)
class Outcome:
    """What an apply did to one host."""

    succeeded: int = 0
    changed: int = 0
    failed: int = 0
    seconds: float = 0.0
    failures: tuple[str, ...] = ()
    changes: tuple[str, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """The counts that `scripts/lab apply --json` prints."""
        return {
            "succeeded": self.succeeded,
            "changed": self.changed,
            "failed": self.failed,
            "seconds": round(self.seconds, 1),
        }


def read(returned: Any, seconds: float, test: bool) -> Outcome:
    """Read what a host returned for a `state.apply`.

    A list or a string in place of the states is an error of compilation. A state has failed
    where its result is false; it has changed, or with ``test`` would change, where it names
    changes or (``test``) its result is none.
    """
    if not isinstance(returned, dict):
        lines = returned if isinstance(returned, list) else [returned]
        # The sentence stands first, then the place in the template; Salt's own stack says nothing more.
        said = (str(line).partition("\nTraceback (most recent call last)")[0] for line in lines)
        return Outcome(failed=1, seconds=seconds, failures=tuple(said))
    failures, changes = [], []
    succeeded = 0
    for key, state in sorted(returned.items(), key=lambda item: item[1].get("__run_num__", 0)):
        label = state.get("__id__", key)
        if state["result"] is False:
            failures.append(f"{label} ({state.get('name')}): {state['comment']}")
            continue
        if state.get("changes") or (test and state["result"] is None):
            changes.append(f"{label} ({state.get('name')}): {state['comment']}")
        succeeded += 1
    return Outcome(succeeded, len(changes), len(failures), seconds, tuple(failures), tuple(changes))


def apply(
    hosts: Sequence[Host],
    master: Host | None,
    progress: Progress,
    *,
    test: bool = False,
    states: str = "",
) -> dict[str, Outcome]:
    """Apply ``states`` (a highstate where empty) to ``hosts`` side by side.

    Returns the outcome of each by its short name; a host that does not answer has failed.
    """
    arguments = ["state.apply", *([states] if states else []), *(["test=True"] if test else [])]
    outcomes: dict[str, Outcome] = {}
    by_id = {host.fqdn: host for host in hosts}

    def note(fqdn: str, returned: Any, seconds: float) -> None:
        outcome = read(returned, seconds, test)
        earlier = mended.get(fqdn, ())
        outcome = replace(outcome, changed=outcome.changed + len(earlier), changes=(*earlier, *outcome.changes))
        outcomes[by_id[fqdn].name] = outcome
        verb = "would change" if test else "changed"
        progress(
            f"{by_id[fqdn].name}: {outcome.succeeded} succeeded, {outcome.changed} {verb},"
            f" {outcome.failed} failed, {seconds:.1f} s"
        )
        for failure in outcome.failures:
            progress(f"{by_id[fqdn].name}: FAILED {failure}")

    start = time.monotonic()
    mended: dict[str, tuple[str, ...]] = {}
    if master is None:
        for host in hosts:
            note(host.fqdn, _call(host, arguments), time.monotonic() - start)
    else:
        running = _answering(master, [fqdn for fqdn, host in by_id.items() if host.leader() is not None])
        # After so many seconds Salt asks those that have not returned whether they are still at it, and
        # gives up a host that does not say so within gather_job_timeout: a busy one may take longer.
        salt = ["salt", "--out=json", "--out-indent=-1", "--timeout=300", "-L"]
        while running:
            busy = []
            for fqdn, returned in _stream(master, [*salt, ",".join(running), *arguments]):
                # Whether the job was lost on its way or only its return, asking again tells.
                again = _is_busy(returned) or _is_lost(returned) or _is_raced(returned)
                if fqdn in by_id and again and time.monotonic() < start + _BUSY:
                    busy.append(fqdn)
                    if not test:
                        changes = read(returned, 0, test).changes
                        mended[fqdn] = (*mended.get(fqdn, ()), *changes)
                elif fqdn in by_id:
                    note(fqdn, returned, time.monotonic() - start)
            running = busy
            time.sleep(2 if busy else 0)
    for fqdn, host in by_id.items():
        if host.name not in outcomes:
            why = "does not answer its Salt master" if host.leader() is not None else "is off"
            returned = f"{fqdn} {why}: `scripts/lab status` tells more, `scripts/lab up` boots it."
            note(fqdn, returned, time.monotonic() - start)
    return outcomes


def local(host: Host, states: Sequence[str]) -> Outcome:
    """Apply ``states`` by a masterless `salt-call` on ``host`` itself."""
    start = time.monotonic()
    # Unlike a highstate, a list of states does not bring the tree's own modules.
    host.run(["salt-call", "--local", "saltutil.sync_all"], what=f"Bringing the tree's modules to {host.fqdn}")
    return read(_call(host, ["state.apply", ",".join(states)]), time.monotonic() - start, False)


def _call(host: Host, arguments: Sequence[str]) -> Any:
    """What a masterless `salt-call` on ``host`` returns, once no other state run is under way there."""
    start = time.monotonic()
    while True:
        done = host.run(["salt-call", "--local", "--out=json", "--out-indent=-1", *arguments], check=False)
        try:
            returned = json.loads(done.stdout)["local"]
        except (ValueError, KeyError):
            return f"salt-call did not say what it did:\n{done.stdout}\n{done.stderr}".strip()
        if not _is_busy(returned) or time.monotonic() > start + _BUSY:
            return returned
        time.sleep(2)


def _is_busy(returned: Any) -> bool:
    """Whether Salt refused because another state run is under way on the host.

    Its own `queue=True` does not wait: it answers at once, and a masterless host never runs the job.
    """
    return isinstance(returned, list) and any("is running as PID" in str(line) for line in returned)


def _stream(master: Host, command: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Each host's id and return as it comes in. Without `--static`, which hides failures."""
    with subprocess.Popen(
        [*master.enter(), *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            try:
                yield from json.loads(line).items()
            except (ValueError, AttributeError):
                # A line for people ("No minions matched …"): such a host is missed below.
                continue


def _is_lost(returned: Any) -> bool:
    """Whether Salt says in place of a host that it got no return."""
    return isinstance(returned, str) and returned.startswith("Minion did not return")


def _is_raced(returned: Any) -> bool:
    """Whether a state fell to a fault of Python's that Salt meets once in some hundred runs.

    Each x509 state asks the master for the pillar anew and makes an event loop for it. Tornado copies its
    dictionary of loops then, and where the garbage collector ends an old loop in that very moment, CPython
    leaves a broken copy behind. Nothing of the host is at fault, and the next run goes through.
    """
    states = returned.values() if isinstance(returned, dict) else ()
    return any(
        "RuntimeError: dictionary keys changed during iteration" in str(state.get("comment"))
        for state in states
        if isinstance(state, dict)
    )


def _answering(master: Host, ids: Sequence[str]) -> list[str]:
    """Those of the hosts that answer their master, which just after a boot takes some seconds."""
    missing = list(ids)

    def all_answer() -> bool:
        if missing:
            ping = ["salt", "--out=json", "--out-indent=-1", "--timeout=2", "-L", ",".join(missing), "test.ping"]
            answers = {fqdn for fqdn, answer in _stream(master, ping) if answer is True}
            missing[:] = [fqdn for fqdn in missing if fqdn not in answers]
        return not missing

    with contextlib.suppress(LabError):
        wait_for(all_answer, what="every minion to answer", seconds=_ANSWER)
    return [fqdn for fqdn in ids if fqdn not in missing]
