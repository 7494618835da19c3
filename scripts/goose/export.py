"""A live hub's content as the data that ``goose.content`` takes."""

from __future__ import annotations

import argparse
import fnmatch
import importlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from goose import content, content_live, koji_call


def _options(thing: Any, skip: Iterable[str] = ()) -> dict[str, Any]:
    """What of ``thing`` the data must say: fields off their defaults; an empty text says nothing."""
    return {key: value for key, value in content.describe(thing, skip).items() if value not in ("", [])}


def _in_work(host: content.Host) -> content.Host:
    """A builder as it was before koji_builder.py took it out of work, which pillar knows nothing of."""
    hold = content.Hold.read(host.comment)
    if hold is None:
        return host
    return replace(host, enabled=not hold.retired, channels=frozenset(hold.channels), comment=hold.comment)


def _listed(things: Mapping[str, Any]) -> list[Any]:
    """Names, and name with options where there are some, in order."""
    return [{name: _options(thing)} if _options(thing) else name for name, thing in sorted(things.items())]


def _packages(packages: Mapping[str, content.Package], mode: str) -> dict[str, Any]:
    owners = Counter(package.owner for package in packages.values())
    owner = owners.most_common(1)[0][0]
    shown = {name: replace(p, owner=None if p.owner == owner else p.owner) for name, p in packages.items()}
    return {"mode": mode, "owner": owner, "list": _listed(shown)}


def _tag(tag: content.Tag, mode: str) -> dict[str, Any]:
    found = _options(tag, ("inheritance", "groups", "packages", "external_repos"))
    if tag.extra:
        found["extra"] = dict(sorted(tag.extra.items()))
    if tag.inheritance:
        ordered = sorted(tag.inheritance.items(), key=lambda entry: entry[1].priority)
        found["inheritance"] = {name: {"priority": link.priority, **_options(link)} for name, link in ordered}
    if tag.external_repos:
        repos = sorted(tag.external_repos.items(), key=lambda entry: entry[1].priority)
        found["external_repos"] = {
            name: {"priority": repo.priority, **_options(repo)} for name, repo in repos
        }
    groups = {}
    for name, group in sorted(tag.groups.items()):
        groups[name] = _options(group, ("packages", "requires"))
        if group.packages:
            groups[name]["packages"] = _listed(group.packages)
        if group.requires:
            groups[name]["requires"] = _listed(group.requires)
    if groups:
        found["groups"] = groups
    if tag.packages.list:
        found["packages"] = _packages(tag.packages.list, mode)
    return found


def export(
    session: Any, kinds: Sequence[str] = content.KINDS, tags: str = "*", mode: str = "at-least"
) -> dict[str, Any]:
    """The data of the hub behind ``session``, defaults left out; nothing of it needs a log-in.

    Args:
        kinds: which of `content.KINDS`.
        tags: a glob; only tags that match, and targets whose two tags match.
        mode: of every tag's package list, ``at-least`` or ``exact``.
    """
    names = content_live.multicall(session, [content_live.Call("listTags")])[0] if "tags" in kinds else []
    wanted = {entry["name"]: content.Tag() for entry in names if fnmatch.fnmatchcase(entry["name"], tags)}
    # A first look without details gives the names; users and hosts are few, packages are many.
    overview = content_live.read(session, content.Content())
    selection = content.Content(
        users=overview.content.users if "users" in kinds else {},
        hosts=overview.content.hosts if "hosts" in kinds else {},
        tags=wanted,
    )
    live = content_live.read(session, selection)
    held = live.content
    targets = {
        name: target
        for name, target in held.targets.items()
        if fnmatch.fnmatchcase(target.build_tag, tags) and fnmatch.fnmatchcase(target.dest_tag, tags)
    }
    data: dict[str, Any] = {
        "permissions": {
            name: _options(p)
            for name, p in sorted(held.permissions.items())
            if name not in content.SCHEMA_PERMISSIONS
        },
        "users": {name: _options(user) for name, user in sorted(held.users.items())},
        "channels": {
            name: _options(channel)
            for name, channel in sorted(held.channels.items())
            if name not in content.SCHEMA_CHANNELS or _options(channel)
        },
        "hosts": {name: _options(_in_work(host)) for name, host in sorted(held.hosts.items())},
        "external_repos": {name: repo.url for name, repo in sorted(held.external_repos.items())},
        "tags": {name: _tag(tag, mode) for name, tag in sorted(held.tags.items())},
        "targets": {name: _options(target) for name, target in sorted(targets.items())},
    }
    data = {kind: data[kind] for kind in content.KINDS if kind in kinds and data[kind]}
    built = {target.build_tag for target in targets.values()} & set(held.tags)
    if any(content.REPO_AUTO not in held.tags[name].extra for name in built) and live.version >= (1, 35):
        data["repo_auto"] = False
    return data


def write(path: str, text: str) -> None:
    """Write ``text`` to ``path`` by rename, whole or not at all."""
    partial = f"{path}.new"
    with open(partial, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.replace(partial, path)


def main(argv: Sequence[str] | None = None) -> int:
    """``scripts/koji_export.py``."""
    parser = argparse.ArgumentParser(
        prog="koji_export.py",
        description="Write what a Koji hub holds (users, hosts, tags …) as pillar data koji:content.",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--server", help="URL of the hub, such as https://hub.example/kojihub")
    where.add_argument(
        "--profile", default="koji", help="koji's configuration to take URL and CA from (koji)"
    )
    parser.add_argument("--serverca", help="certificate of the CA that signed the hub's (with --server)")
    parser.add_argument("--cert", help="certificate and key of a user; reading needs none")
    parser.add_argument("--kind", action="append", choices=content.KINDS, metavar="KIND",
                        help=f"only this kind, may be repeated: {', '.join(content.KINDS)}")  # fmt: skip
    parser.add_argument("--tags", default="*", metavar="GLOB", help="only tags that match, and their targets")
    parser.add_argument(
        "--exact", action="store_true", help="package lists with mode exact instead of at-least"
    )
    parser.add_argument("--json", action="store_true", help="JSON instead of YAML")
    parser.add_argument(
        "--output", metavar="FILE", help="write to FILE, by rename; standard output by default"
    )
    args = parser.parse_args(argv)
    server, serverca = args.server, args.serverca
    try:
        if not server:
            koji: Any = importlib.import_module("koji")
            profile = koji.read_config(args.profile)
            server = profile["server"]
            serverca = serverca or (profile.get("serverca") and os.path.expanduser(profile["serverca"]))
        session = koji_call.connect(server, serverca or "", args.cert)
    except koji_call.Unanswered as error:
        print(f"koji_export.py: {error}", file=sys.stderr)
        return error.status
    except Exception as error:
        print(
            f"koji_export.py: no hub to ask ({error}): give --server, or the --profile of a koji.conf.",
            file=sys.stderr,
        )
        return 2
    try:
        data = export(session, args.kind or content.KINDS, args.tags, "exact" if args.exact else "at-least")
    except Exception as error:
        print(f"koji_export.py: the hub {server} could not be read: {error}", file=sys.stderr)
        return 4
    whole = {"koji": {"content": data}}
    if args.json:
        text = json.dumps(whole, indent=2, ensure_ascii=False) + "\n"
    else:
        try:
            import yaml
        except ImportError:
            print("koji_export.py: /usr/bin/python3 has no yaml module: install python3-pyyaml (EL) or"
                  " python3-yaml (Debian), or use --json.", file=sys.stderr)  # fmt: skip
            return 5
        text = yaml.safe_dump(whole, sort_keys=False, default_flow_style=False, allow_unicode=True, width=110)
    if args.output:
        write(args.output, text)
    else:
        sys.stdout.write(text)
    return 0
