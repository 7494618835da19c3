"""What the exporter asks Koji's hub: queue, builders, repos, unsigned RPMs. Nobody needs to log in for that.

All of it takes four requests, however many builders and tags there are; a tag's RPMs, a long answer, are asked
for only where the tag has changed or had unsigned ones, and not more often than `Koji.unsigned_every`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable

from goose.exporter_checks import CheckError, Sample
from goose.koji_call import Unanswered, connect

# Seconds for a connection, and for an answer: a hub that takes longer is of no use to builders either.
TIMEOUT = (5.0, 20.0)

# koji.TASK_STATES and koji.REPO_STATES, as the hub counts them.
_TASK_STATES = {0: "free", 1: "open", 4: "assigned"}
_REPO_STATES = {0: "init", 1: "ready", 2: "expired", 4: "problem"}
_READY = 1
# Tasks in one answer, the oldest first. A longer queue is reported as this long.
_MOST_TASKS = 5000
# A tag is counted again after so many times `unsigned_every`, changed or not: signatures can be deleted.
_RECOUNT = 12

Call = tuple[str, tuple[Any, ...], dict[str, Any]]


@dataclass
class _Counted:
    """How many RPMs of a tag were unsigned, at an event of the hub and a moment of ours."""

    event: int
    moment: float
    unsigned: int


@dataclass
class Koji:
    """The hub at ``server``."""

    server: str
    serverca: str
    tags: Mapping[str, bool]
    """Tags whose RPMs are to be signed; true: with what they inherit."""
    unsigned_every: float
    """Seconds."""
    connect: Callable[..., Any] = connect
    clock: Callable[[], float] = time.time
    _counted: dict[str, _Counted] = field(default_factory=dict)

    DOWN = (Sample("goose_koji_up", (), 0),)
    """What is told where nothing is known."""

    def __call__(self) -> Iterator[Sample]:
        """The samples; where the hub does not answer, that alone, and then `CheckError` with the reason."""
        start = self.clock()
        try:
            found = list(self._ask(self.connect(self.server, self.serverca, timeout=TIMEOUT)))
        except Exception as error:  # the client's, requests', the parser's: all of them "no answer"
            yield from self.DOWN
            reason = str(error) if isinstance(error, Unanswered) else f"The hub {self.server} failed: {error}."
            raise CheckError(reason) from error
        yield Sample("goose_koji_up", (), 1)
        yield Sample("goose_koji_answer_seconds", (), self.clock() - start)
        yield from found

    def _ask(self, session: Any) -> Iterator[Sample]:
        opts = {"state": list(_TASK_STATES)}
        channels, hosts, tasks, repos, targets, event = _many(
            session,
            ("listChannels", (), {}),
            ("listHosts", (), {}),
            ("listTasks", (opts,), {"queryOpts": {"limit": _MOST_TASKS, "order": "id"}}),
            ("getActiveRepos", (), {}),
            ("getBuildTargets", (), {}),
            ("getLastEvent", (), {}),
        )
        wanted = {target["build_tag"] for target in targets}
        newest: dict[int, Mapping[str, Any]] = {}
        for repo in repos:
            usable = repo["tag_id"] in wanted and not repo["dist"] and repo["state"] == _READY
            if usable and repo["create_event"] > newest.get(repo["tag_id"], {"create_event": -1})["create_event"]:
                newest[repo["tag_id"]] = repo
        signed = sorted(self.tags)
        answers = _many(
            session,
            *(("getLastHostUpdate", (host["id"],), {"ts": True}) for host in hosts),
            *(("getFullInheritance", (tag,), {}) for tag in newest),
            *(("getTag", (tag,), {}) for tag in signed),
            # A tag that is not there yet: an id that no tag has.
            *(("getFullInheritance", (tag,), {}) for tag in signed if self.tags[tag]),
            lenient=True,
        )
        checkins = [answers.pop(0) for _ in hosts]
        families = {tag: _family(tag, answers.pop(0)) for tag in newest}
        ids = {tag: answers.pop(0) for tag in signed}
        inherited = {tag: answers.pop(0) for tag in signed if self.tags[tag]}
        there = [tag for tag in signed if ids[tag]]
        since = [tag for tag in there if tag in self._counted]
        changed = _many(
            session,
            *(("tagChangedSinceEvent", (repo["create_event"], families[tag]), {}) for tag, repo in newest.items()),
            *(
                ("tagChangedSinceEvent", (self._counted[tag].event, _family(ids[tag]["id"], inherited.get(tag))), {})
                for tag in since
            ),
        )
        yield from _queue(channels, hosts, tasks, self.clock())
        for host, checkin in zip(hosts, checkins):
            yield Sample("goose_koji_builder_checkin_timestamp_seconds", (host["name"],), checkin or 0)
            yield Sample("goose_koji_builder_enabled", (host["name"],), bool(host["enabled"]))
            yield Sample("goose_koji_builder_ready", (host["name"],), bool(host["ready"]))
            yield Sample("goose_koji_builder_load", (host["name"],), host["task_load"] or 0)
            yield Sample("goose_koji_builder_capacity", (host["name"],), host["capacity"] or 0)
        counts = Counter((repo["tag_name"], repo["state"]) for repo in repos)
        for tag in sorted({repo["tag_name"] for repo in repos}):
            for state, word in _REPO_STATES.items():
                yield Sample("goose_koji_repos", (tag, word), counts[tag, state])
        for repo, outdated in zip(newest.values(), changed):
            yield Sample("goose_koji_repo_created_timestamp_seconds", (repo["tag_name"],), repo["create_ts"])
            yield Sample("goose_koji_repo_outdated", (repo["tag_name"],), bool(outdated))
        news = dict(zip(since, changed[len(newest) :]))
        for tag in there:
            yield Sample("goose_koji_unsigned_rpms", (tag,), self._unsigned(session, tag, event["id"], news.get(tag, True)))

    def _unsigned(self, session: Any, tag: str, event: int, changed: bool) -> int:
        known = self._counted.get(tag)
        if known is not None:
            waited = self.clock() - known.moment
            due = waited >= self.unsigned_every and (changed or known.unsigned)
            if not due and waited < _RECOUNT * self.unsigned_every:
                return known.unsigned
        rows, _ = session.callMethod(
            "listTaggedRPMS", tag, inherit=self.tags[tag], latest=True, rpmsigs=True, extra=False
        )
        # An RPM has a row for each signature, and one without a key for itself.
        rpms = {row["id"] for row in rows if not row.get("metadata_only")}
        unsigned = len(rpms - {row["id"] for row in rows if row.get("sigkey")})
        self._counted[tag] = _Counted(event, self.clock(), unsigned)
        return unsigned


def _many(session: Any, *calls: Call, lenient: bool = False) -> list[Any]:
    """The answers, by one request; with ``lenient`` None for one that the hub refuses."""
    if not calls:
        return []
    with session.multicall() as multi:
        promised = [multi.callMethod(method, *args, **kwargs) for method, args, kwargs in calls]
    answers = []
    for promise in promised:
        try:
            answers.append(promise.result)
        except Exception:
            if not lenient:
                raise
            answers.append(None)
    return answers


def _family(tag: int, parents: Sequence[Mapping[str, Any]] | None = None) -> list[int]:
    """A tag and all that it inherits from."""
    return [tag, *(parent["parent_id"] for parent in parents or ())]


def _queue(
    channels: Sequence[Mapping[str, Any]],
    hosts: Sequence[Mapping[str, Any]],
    tasks: Sequence[Mapping[str, Any]],
    now: float,
) -> Iterator[Sample]:
    names = {channel["id"]: channel["name"] for channel in channels}
    counts = Counter((task["channel_id"], task["arch"], task["state"]) for task in tasks)
    # Nothing waits is said too: a graph without a line would be no answer.
    arches = {"noarch", *(arch for host in hosts for arch in (host["arches"] or "").split())}
    arches |= {arch for _, arch, _ in counts if arch}
    for channel, name in sorted(names.items()):
        for arch in sorted(arches):
            for state, word in _TASK_STATES.items():
                yield Sample("goose_koji_tasks", (name, arch, word), counts[channel, arch, state])
        free = [now - task["create_ts"] for task in tasks if (task["channel_id"], task["state"]) == (channel, 0)]
        yield Sample("goose_koji_oldest_free_task_seconds", (name,), max(0.0, *free, 0.0))
