"""What a Koji hub holds, read in a few requests into the model of ``goose.content``.

A session is koji's ``ClientSession`` or a double of it with ``multicall()``. The rules about the
hub's behaviour were read in kojihub.py of Koji 1.30.0 and 1.35.3, and tried on both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from goose.content import (
    Channel,
    Content,
    ExternalRepo,
    Group,
    GroupPackage,
    GroupRequirement,
    Host,
    Link,
    Package,
    PackageList,
    Permission,
    Tag,
    TagRepo,
    Target,
    User,
)

# Calls in one request: the hub answers a request as a whole, from one transaction.
BATCH = 500


@dataclass(frozen=True)
class Call:
    """One hub call; for `multicall`."""

    method: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def multicall(session: Any, calls: Iterable[Call], batch: int = BATCH) -> list[Any]:
    """What the hub answers to ``calls``, in their order, in requests of at most ``batch`` calls.

    Raises what the first faulty call raised.
    """
    answers: list[Any] = []
    calls = list(calls)
    for start in range(0, len(calls), batch):
        with session.multicall() as multi:
            promised = [multi.callMethod(c.method, *c.args, **c.kwargs) for c in calls[start : start + batch]]
        answers.extend(promise.result for promise in promised)
    return answers


@dataclass(frozen=True)
class Live:
    """What the hub holds: ``content`` in full for what was asked, ``names`` for everything."""

    content: Content
    names: Mapping[str, frozenset[str]]
    tag_ids: Mapping[str, int]
    version: tuple[int, ...]
    me: str
    # Tags that inherit now: there the hub drops an addition that a parent already gives.
    heirs: frozenset[str]


def version_of(text: Any) -> tuple[int, ...]:
    """(1, 35, 3) of '1.35.3'."""
    return tuple(int(number) for number in re.findall(r"\d+", str(text))[:3]) or (0,)


def read(session: Any, selection: Content | None = None) -> Live:
    """What the hub holds, in three requests (and one more for every 500 things asked for).

    Args:
        session: logged in.
        selection: details of users, hosts and tags are read for those that stand in it; None: for all.
    """
    version = version_of(multicall(session, [Call("getKojiVersion")])[0])
    (me, permissions, users, channels, hosts, tags, targets, repos, tag_repos) = multicall(
        session,
        [
            Call("getLoggedInUser"),
            Call("getAllPerms"),
            Call("listUsers"),
            Call("listChannels"),
            Call("listHosts"),
            Call("listTags"),
            Call("getBuildTargets"),
            Call("listExternalRepos"),
            Call("getTagExternalRepos"),
        ],
    )
    names = {
        "permissions": frozenset(entry["name"] for entry in permissions),
        "users": frozenset(entry["name"] for entry in users),
        "channels": frozenset(entry["name"] for entry in channels),
        "hosts": frozenset(entry["name"] for entry in hosts),
        "external_repos": frozenset(entry["name"] for entry in repos),
        "tags": frozenset(entry["name"] for entry in tags),
        "targets": frozenset(entry["name"] for entry in targets),
    }

    def wanted(kind: str) -> list[str]:
        return sorted(names[kind] if selection is None else names[kind] & set(getattr(selection, kind)))

    # Permissions that come through a group of users (1.34 on) can be neither granted nor revoked here.
    own_only = {"with_groups": False} if version >= (1, 34) else {}
    asked_users, asked_hosts, asked_tags = wanted("users"), wanted("hosts"), wanted("tags")
    calls = [Call("getUserPerms", (name,), own_only) for name in asked_users]
    calls += [Call("listChannels", (name,)) for name in asked_hosts]
    for name in asked_tags:
        calls += [
            Call("getTag", (name,), {"strict": True, "blocked": True}),
            Call("getInheritanceData", (name,)),
            # Without inheritance the hub hides requirements on groups of parents; see _groups.
            Call("getTagGroups", (name,), {"inherit": True, "incl_blocked": True}),
            Call("listPackages", (), {"tagID": name, "inherited": False}),
        ]
    answers = iter(multicall(session, calls))
    grants = {name: frozenset(next(answers)) for name in asked_users}
    host_channels = {name: frozenset(entry["name"] for entry in next(answers)) for name in asked_hosts}
    of_tag: dict[str, list[dict[str, Any]]] = {}
    for entry in tag_repos:
        of_tag.setdefault(entry["tag_name"], []).append(entry)
    live_tags = {}
    for name in asked_tags:
        config, links, groups, packages = (next(answers) for _ in range(4))
        live_tags[name] = _live_tag(config, links, groups, packages, of_tag.get(name, []))
    return Live(
        content=Content(
            permissions={p["name"]: Permission(p.get("description") or "") for p in permissions},
            users={
                user["name"]: User(
                    status="blocked" if user["status"] else "normal",
                    permissions=grants.get(user["name"], frozenset()),
                    krb_principals=frozenset(user.get("krb_principals") or ()),
                )
                for user in users
            },
            channels={
                c["name"]: Channel(
                    c.get("enabled") is not False, c.get("description") or "", c.get("comment") or ""
                )
                for c in channels
            },
            hosts={
                h["name"]: Host(
                    arches=tuple((h["arches"] or "").split()),
                    capacity=float(h["capacity"]),
                    channels=host_channels.get(h["name"], frozenset()),
                    enabled=bool(h["enabled"]),
                    description=h.get("description") or "",
                    comment=h.get("comment") or "",
                )
                for h in hosts
            },
            external_repos={entry["name"]: ExternalRepo(entry["url"]) for entry in repos},
            tags=live_tags,
            targets={t["name"]: Target(t["build_tag_name"], t["dest_tag_name"]) for t in targets},
        ),
        names=names,
        tag_ids={entry["name"]: entry["id"] for entry in tags},
        version=version,
        me=me["name"] if me else "",
        heirs=frozenset(name for name, tag in live_tags.items() if tag.inheritance),
    )


def _live_tag(
    config: Mapping[str, Any],
    links: list[dict[str, Any]],
    groups: list[dict[str, Any]],
    packages: list[dict[str, Any]],
    repos: list[dict[str, Any]],
) -> Tag:
    # getTag(blocked=True) gives [blocked, value] for each key.
    extra = config.get("extra") or {}
    return Tag(
        arches=tuple((config["arches"] or "").split()),
        perm=config.get("perm"),
        locked=bool(config["locked"]),
        extra={key: value for key, (blocked, value) in extra.items() if not blocked},
        blocked_extra=frozenset(key for key, (blocked, _) in extra.items() if blocked),
        inheritance={
            link["name"]: Link(
                link["priority"],
                link["maxdepth"],
                bool(link["intransitive"]),
                bool(link["noconfig"]),
                link["pkg_filter"] or "",
            )
            for link in links
        },
        groups=_groups(groups, config["id"]),
        packages=PackageList(
            "at-least",
            {
                p["package_name"]: Package(
                    p["owner_name"], tuple((p["extra_arches"] or "").split()), bool(p["blocked"])
                )
                for p in packages
            },
        ),
        external_repos={
            entry["external_repo_name"]: TagRepo(
                entry["priority"],
                entry.get("merge_mode") or "koji",
                tuple((entry.get("arches") or "").split()),
            )
            for entry in repos
        },
    )


def _groups(groups: list[dict[str, Any]], tag_id: int) -> dict[str, Group]:
    """A tag's own groups, out of its groups with inheritance: what has the tag's own id."""
    found = {}
    for group in groups:
        packages = {
            p["package"]: GroupPackage(
                p["type"], bool(p["basearchonly"]), p["requires"] or "", bool(p["blocked"])
            )
            for p in group.get("packagelist", ())
            if p["tag_id"] == tag_id
        }
        requires = {
            r["name"]: GroupRequirement(r["type"], bool(r["is_metapkg"]), bool(r["blocked"]))
            for r in group.get("grouplist", ())
            if r["tag_id"] == tag_id
        }
        if group["tag_id"] == tag_id:
            display = group["display_name"]
            found[group["name"]] = Group(
                display_name=None if display == group["name"] else display,
                description=group["description"] or "",
                is_default=bool(group["is_default"]),
                uservisible=group["uservisible"] is not False,
                exported=group["exported"] is not False,
                langonly=group["langonly"] or "",
                biarchonly=bool(group["biarchonly"]),
                blocked=bool(group["blocked"]),
                packages=packages,
                requires=requires,
            )
        elif packages or requires:
            found[group["name"]] = Group(inherited=True, packages=packages, requires=requires)
    return found
