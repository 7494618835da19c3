"""What must change on a Koji hub to make it hold the data: the plan, and its execution.

The rules about the hub's behaviour were read in kojihub.py of Koji 1.30.0 and 1.35.3, and tried on
both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from goose.content import (
    KINDS,
    REPO_AUTO,
    SCHEMA_CHANNELS,
    SCHEMA_PERMISSIONS,
    BadData,
    Channel,
    Content,
    Group,
    Hold,
    Host,
    Tag,
    User,
    describe,
    differences,
    nearest,
    plain,
)
from goose.content_live import BATCH, Call, Live, multicall

# The order in which changes are made: each needs only what stands before it. Packages and groups
# come before inheritance, because the hub drops an entry that a parent already gives; entries of
# groups that only a parent has come after it.
STAGES = (
    "permissions",
    "users",
    "channels",
    "hosts",
    "external_repos",
    "tags",
    "groups",
    "group_packages",
    "packages",
    "tag_repos",
    "inheritance",
    "inherited_groups",
    "targets",
    "removals",
)


class TagId(str):
    """A tag's name in a planned call, where the hub wants its id: known only once the tag is there."""


@dataclass(frozen=True)
class Step:
    """One change: what it does to which thing, and the calls that do it."""

    stage: str
    kind: str
    name: str
    item: str
    old: Any
    new: Any
    calls: tuple[Call, ...]

    def sentence(self) -> str:
        """What the step does, to begin a sentence about its failure."""
        thing = f"{self.kind} {self.name}" + (f": {self.item}" if self.item else "")
        return f"{'create' if self.old is None else 'remove' if self.new is None else 'change'} {thing}"


@dataclass(frozen=True)
class Plan:
    """The steps, in order; what the hub has beyond the data, by kind; why some of it is kept."""

    steps: tuple[Step, ...]
    surplus: Mapping[str, tuple[str, ...]]
    kept: tuple[str, ...] = ()

    def changes(self, limit: int = 25) -> dict[str, Any]:
        """The steps as Salt's changes: kind -> name -> (item ->) old and new; ``limit`` items a name."""
        found: dict[str, Any] = {}
        left_out: dict[tuple[str, str], int] = {}
        for step in self.steps:
            names = found.setdefault(step.kind, {})
            change = {"old": step.old, "new": step.new}
            if not step.item:
                names[step.name] = change
                continue
            items = names.setdefault(step.name, {})
            if len(items) < limit:
                items[step.item] = change
            else:
                left_out[step.kind, step.name] = left_out.get((step.kind, step.name), 0) + 1
        for (kind, name), count in left_out.items():
            found[kind][name]["…"] = f"and {count} more"
        return found


class _Planner:
    def __init__(self, data: Content, live: Live) -> None:
        self.data = data
        self.live = live
        self.steps: list[Step] = []
        self.surplus: dict[str, list[str]] = {}
        self.kept: list[str] = []
        self.faults: list[str] = []

    def step(
        self,
        kind: str,
        name: str,
        old: Any,
        new: Any,
        calls: Iterable[Call | None],
        item: str = "",
        stage: str = "",
    ) -> None:
        made = tuple(call for call in calls if call is not None)
        self.steps.append(Step(stage or kind, kind, name, item, old, new, made))

    def create(
        self, kind: str, name: str, thing: Any, calls: Iterable[Call | None], item: str = "", stage: str = ""
    ) -> None:
        self.step(kind, name, None, describe(thing) or "present", calls, item, stage)

    def edit(
        self,
        kind: str,
        name: str,
        changed: Mapping[str, tuple[Any, Any]],
        calls: Iterable[Call | None],
        item: str = "",
        stage: str = "",
    ) -> None:
        old = {key: plain(before) for key, (before, _) in changed.items()}
        new = {key: plain(after) for key, (_, after) in changed.items()}
        self.step(kind, name, old, new, calls, item, stage)

    def extra(
        self,
        kind: str,
        name: str,
        item: str = "",
        calls: Iterable[Call] = (),
        old: Any = "present",
        shown: str = "",
    ) -> bool:
        """Something on the hub that is not in the data: reported, or removed where pillar says so."""
        if kind in self.data.purge:
            self.step(shown or kind, name, old, None, calls, item, "removals")
            return True
        self.surplus.setdefault(kind, []).append(f"{name}: {item}" if item else name)
        return False

    # Each kind

    def permissions(self) -> None:
        me = self.live.me
        for name, wanted in self.data.permissions.items():
            old = self.live.content.permissions.get(name)
            if old is None:
                # The hub makes a permission only by granting it.
                keeps = name in self.data.users.get(me, User()).permissions
                options = {"create": True}
                if wanted.description is not None:
                    options["description"] = wanted.description  # type: ignore[assignment]
                revoke = None if keeps else Call("revokePermission", (me, name))
                self.create(
                    "permissions", name, wanted, [Call("grantPermission", (me, name), options), revoke]
                )
                continue
            changed = differences(old, wanted)
            if changed:
                self.edit("permissions", name, changed, [Call("editPermission", (name, wanted.description))])
        for name in sorted(self.live.names["permissions"] - set(self.data.permissions) - SCHEMA_PERMISSIONS):
            # No hub can delete a permission.
            self.surplus.setdefault("permissions", []).append(name)

    def users(self) -> None:
        me = self.live.me
        for name, wanted in self.data.users.items():
            old = self.live.content.users.get(name)
            calls: list[Call | None] = []
            if old is None:
                if name in self.live.names["hosts"]:
                    self.faults.append(f"koji:content:users:{name}: the hub has a host of this name.")
                    continue
                calls.append(Call("createUser", (name,), {"status": int(wanted.status == "blocked")}))
                has: frozenset[str] = frozenset()
            else:
                has = old.permissions
                if old.status != wanted.status:
                    calls.append(Call("enableUser" if wanted.status == "normal" else "disableUser", (name,)))
            new_here = set(self.data.permissions) - self.live.names["permissions"]
            grants = sorted(wanted.permissions - has)
            # A permission that was just made is already granted to whoever made it.
            calls += [
                Call("grantPermission", (name, p)) for p in grants if not (name == me and p in new_here)
            ]
            revoked = has - wanted.permissions
            kept = frozenset() if "grants" in self.data.purge else revoked
            if name == me and "admin" in revoked - kept:
                self.faults.append(
                    f"koji:content:users:{name}: permissions lack 'admin', and states log in as this user."
                )
            calls += [Call("revokePermission", (name, p)) for p in sorted(revoked - kept)]
            for permission in sorted(kept):
                self.surplus.setdefault("grants", []).append(f"{name}: {permission}")
            principals = old.krb_principals or frozenset() if old else frozenset()
            if wanted.krb_principals is not None:
                calls += [
                    Call("addUserKrbPrincipal", (name, p)) for p in sorted(wanted.krb_principals - principals)
                ]
                calls += [
                    Call("removeUserKrbPrincipal", (name, p))
                    for p in sorted(principals - wanted.krb_principals)
                ]
            if old is None:
                self.create("users", name, wanted, calls)
            elif calls:
                effective = User(wanted.status, wanted.permissions | kept, wanted.krb_principals)
                self.edit("users", name, differences(old, effective), calls)
            elif grants:
                self.edit("users", name, {"permissions": (old.permissions, wanted.permissions | kept)}, [])
        others = self.live.names["users"] - set(self.data.users) - {me} - set(self.data.hosts)
        for name in sorted(others):
            if self.live.content.users[name].status == "normal":
                # The hub keeps users forever; a blocked one cannot log in.
                self.extra("users", name, "", [Call("disableUser", (name,))])

    def channels(self) -> None:
        for name, wanted in self.data.channels.items():
            old = self.live.content.channels.get(name)
            calls: list[Call | None] = []
            if old is None:
                calls.append(Call("addChannel", (name,), {"description": wanted.description}))
                changed = differences(Channel(description=wanted.description, comment=""), wanted)
            else:
                changed = differences(old, wanted)
            texts = {key: new for key, (_, new) in changed.items() if key != "enabled"}
            if texts:
                calls.append(Call("editChannel", (name,), texts))
            if "enabled" in changed:
                calls.append(Call("enableChannel" if wanted.enabled else "disableChannel", (name,)))
            if old is None:
                self.create("channels", name, wanted, calls)
            elif changed:
                self.edit("channels", name, changed, calls)
        for name in sorted(self.live.names["channels"] - set(self.data.channels) - SCHEMA_CHANNELS):
            if self.live.content.channels[name].enabled:
                self.extra("channels", name, "", [Call("disableChannel", (name,))])

    def hosts(self) -> None:
        for name, wanted in self.data.hosts.items():
            old = self.live.content.hosts.get(name)
            calls: list[Call | None] = []
            if old is None:
                # A builder that logged in too early has become an ordinary user; force makes it a host.
                options = {"force": True} if name in self.live.names["users"] else {}
                calls.append(Call("addHost", (name, list(wanted.arches)), options))
                compare = Host(wanted.arches, channels=frozenset({"default"}), description="", comment="")
            else:
                compare = old
                if hold := Hold.read(old.comment):
                    wanted = self.held(name, hold, old, wanted)
            changed = differences(compare, wanted, skip=("channels",))
            edits = {
                k: " ".join(new) if k == "arches" else new
                for k, (_, new) in changed.items()
                if k != "enabled"
            }
            if edits:
                calls.append(Call("editHost", (name,), edits))
            if "enabled" in changed:
                calls.append(Call("enableHost" if wanted.enabled else "disableHost", (name,)))
            calls += [
                Call("addHostToChannel", (name, c), {"force": True})
                for c in sorted(wanted.channels - compare.channels)
            ]
            # The hub puts every new host into "default"; that one leaves again without being asked.
            leaves = compare.channels - wanted.channels
            kept = frozenset() if old is None or "host_channels" in self.data.purge else leaves
            calls += [Call("removeHostFromChannel", (name, c)) for c in sorted(leaves - kept)]
            for channel in sorted(kept):
                self.surplus.setdefault("host_channels", []).append(f"{name}: {channel}")
            if old is None:
                self.create("hosts", name, wanted, calls)
            elif calls:
                if compare.channels != wanted.channels | kept:
                    changed["channels"] = (compare.channels, wanted.channels | kept)
                self.edit("hosts", name, changed, calls)
        for name in sorted(self.live.names["hosts"] - set(self.data.hosts)):
            if self.live.content.hosts[name].enabled and not Hold.read(self.live.content.hosts[name].comment):
                self.extra("hosts", name, "", [Call("disableHost", (name,))])

    def held(self, name: str, hold: Hold, old: Host, wanted: Host) -> Host:
        """``wanted`` without what koji_builder.py has changed on the hub for a while, which stays as it is."""
        if hold.retired:
            self.kept.append(
                f"Left the builder {name} out: koji_builder.py retired it on {hold.since}. Take it out of"
                " pillar hosts, or bring it back by `koji_builder.py add`."
            )
        else:
            self.kept.append(
                f"Left the builder {name} as it is: koji_builder.py drained it on {hold.since}, and"
                " `koji_builder.py enable` puts it back to work."
            )
        return replace(wanted, enabled=old.enabled, channels=old.channels, comment=None)

    def external_repos(self) -> None:
        for name, wanted in self.data.external_repos.items():
            old = self.live.content.external_repos.get(name)
            if old is None:
                self.create("external_repos", name, wanted, [Call("createExternalRepo", (name, wanted.url))])
            elif old.url.rstrip("/") != wanted.url.rstrip("/"):
                changed = differences(old, wanted)
                self.edit(
                    "external_repos", name, changed, [Call("editExternalRepo", (name,), {"url": wanted.url})]
                )
        for name in sorted(self.live.names["external_repos"] - set(self.data.external_repos)):
            old = self.live.content.external_repos[name]
            self.extra("external_repos", name, "", [Call("deleteExternalRepo", (name,))], describe(old))

    def wanted_extra(self, name: str, tag: Tag) -> dict[str, Any]:
        extra = dict(tag.extra)
        builds = any(target.build_tag == name for target in self.data.targets.values())
        if (
            builds
            and self.data.repo_auto
            and self.live.version >= (1, 35)
            and REPO_AUTO not in tag.blocked_extra
        ):
            extra.setdefault(REPO_AUTO, True)
        return extra

    def tags(self) -> None:
        for name in _parents_first(self.data.tags):
            tag = self.data.tags[name]
            old = self.live.content.tags.get(name)
            extra = self.wanted_extra(name, tag)
            # The hub takes a permission's name here only; createTag of 1.30 wants its id.
            if old is None:
                options = {"arches": " ".join(tag.arches), "locked": tag.locked, "extra": extra}
                edits: dict[str, Any] = {"perm": tag.perm} if tag.perm else {}
                if tag.blocked_extra:
                    edits["block_extra"] = sorted(tag.blocked_extra)
                new = {**describe(tag, ("inheritance", "groups", "packages", "external_repos"))}
                if extra:
                    new["extra"] = extra
                calls = [
                    Call("createTag", (name,), options),
                    Call("editTag2", (name,), edits) if edits else None,
                ]
                self.step("tags", name, None, new or "present", calls)
            else:
                self.edit_tag(name, old, tag, extra)
            self.groups(name, old.groups if old else {}, tag)
            self.packages(name, old, tag)
            self.tag_repos(name, old, tag)
            self.inheritance(name, old, tag)
        for name in sorted(self.live.names["tags"] - set(self.data.tags)):
            self.extra("tags", name, "", [Call("deleteTag", (name,))])

    def edit_tag(self, name: str, old: Tag, tag: Tag, extra: Mapping[str, Any]) -> None:
        parts = ("inheritance", "groups", "packages", "external_repos", "extra", "blocked_extra")
        changed = differences(old, tag, parts)
        edits: dict[str, Any] = {
            k: " ".join(new) if k == "arches" else new for k, (_, new) in changed.items()
        }
        calls: list[Call | None] = []
        values = {k: v for k, v in extra.items() if k not in old.extra or old.extra[k] != v}
        blocks = sorted(tag.blocked_extra - old.blocked_extra)
        gone = (set(old.extra) | old.blocked_extra) - set(extra) - tag.blocked_extra
        if "extra" not in self.data.purge:
            self.surplus.setdefault("extra", []).extend(f"{name}: {key}" for key in sorted(gone))
            gone = set()
        if values:
            edits["extra"] = values
        if blocks:
            edits["block_extra"] = blocks
        if gone:
            # The hub takes away only what has a value, so a blocked key is given one first.
            unblock = {key: "" for key in sorted(gone & old.blocked_extra)}
            if unblock:
                calls.append(Call("editTag2", (name,), {"extra": unblock}))
            edits["remove_extra"] = sorted(gone)
        if edits:
            before, after = (
                {k: plain(o) for k, (o, _) in changed.items()},
                {k: plain(n) for k, (_, n) in changed.items()},
            )
            touched = [*values, *blocks, *sorted(gone)]
            if touched:
                shown = {**old.extra, **{key: "(blocked)" for key in old.blocked_extra}}
                before["extra"] = {key: shown[key] for key in touched if key in shown}
                after["extra"] = {**values, **{key: "(blocked)" for key in blocks}}
            self.step("tags", name, before, after, [*calls, Call("editTag2", (name,), edits)])

    def groups(self, tag: str, had: Mapping[str, Group], wanted: Tag) -> None:
        heir = tag in self.live.heirs
        for name, group in wanted.groups.items():
            where = (tag, name)
            old = had.get(name)
            members = ("packages", "requires", "inherited")
            options = {
                "display_name": group.display_name or name,
                "description": group.description,
                "is_default": group.is_default,
                "uservisible": group.uservisible,
                "exported": group.exported,
                "langonly": group.langonly,
                "biarchonly": group.biarchonly,
            }
            if not group.inherited:
                add = Call("groupListAdd", where, {"block": group.blocked, "force": True, **options})
                if old is None or old.inherited:
                    # The hub drops an addition that a parent gives alike: differ once, then say it.
                    nudge = Call("groupListAdd", where, {**add.kwargs, "is_default": not group.is_default})
                    self.step(
                        "groups",
                        tag,
                        None,
                        describe(group, members) or "present",
                        [nudge if heir else None, add],
                        name,
                    )
                elif differences(old, group, members):
                    self.edit("groups", tag, differences(old, group, members), [add], name)
            old_packages = old.packages if old else {}
            for package, entry in group.packages.items():
                before = old_packages.get(package)
                opts = {"type": entry.type, "basearchonly": entry.basearchonly, "requires": entry.requires}
                # With force the hub writes the entry even where a parent gives it.
                call = Call(
                    "groupPackageListAdd", (*where, package), {"block": entry.blocked, "force": True, **opts}
                )
                self.member(tag, name, package, before, entry, [call], group.inherited)
            old_requires = old.requires if old else {}
            for required, need in group.requires.items():
                was = old_requires.get(required)
                opts = {
                    "block": need.blocked,
                    "force": True,
                    "type": need.type,
                    "is_metapkg": need.is_metapkg,
                }
                req = Call("groupReqListAdd", (*where, required), opts)
                nudge = Call(
                    "groupReqListAdd", (*where, required), {**opts, "is_metapkg": not need.is_metapkg}
                )
                calls = [nudge if heir and was is None else None, req]
                self.member(tag, name, f"@{required}", was, need, calls, group.inherited)
            for package in sorted(set(old_packages) - set(group.packages)):
                gone = [Call("groupPackageListRemove", (*where, package))]
                self.extra("group_packages", tag, f"{name}: {package}", gone)
            for required in sorted(set(old_requires) - set(group.requires)):
                gone = [Call("groupReqListRemove", (*where, required))]
                self.extra("group_packages", tag, f"{name}: @{required}", gone)
        for name in sorted(set(had) - set(wanted.groups)):
            gone = [Call("groupPackageListRemove", (tag, name, package)) for package in had[name].packages]
            gone += [Call("groupReqListRemove", (tag, name, required)) for required in had[name].requires]
            if not had[name].inherited:
                gone.append(Call("groupListRemove", (tag, name)))
            self.extra("groups", tag, name, gone, describe(had[name]) or "present")

    def member(
        self,
        tag: str,
        group: str,
        member: str,
        old: Any,
        new: Any,
        calls: Iterable[Call | None],
        inherited: bool,
    ) -> None:
        """A package or a requirement (@group) of a group."""
        item = f"{group}: {member}"
        stage = "inherited_groups" if inherited else "group_packages"
        if old is None:
            self.create("group_packages", tag, new, calls, item, stage)
        elif differences(old, new):
            self.edit("group_packages", tag, differences(old, new), calls, item, stage)

    def packages(self, tag: str, old_tag: Tag | None, wanted: Tag) -> None:
        had = old_tag.packages.list if old_tag else {}
        for name, package in wanted.packages.list.items():
            old = had.get(name)
            if old is not None and not differences(old, package):
                continue
            owner = package.owner or (old.owner if old else None)
            options = {"extra_arches": " ".join(package.extra_arches), "force": True}
            if owner:
                options["owner"] = owner
            add = Call("packageListAdd", (tag, name), {**options, "block": package.blocked})
            if old is None:
                # As for groups: what a parent gives alike, the hub would not write.
                nudge = Call("packageListAdd", (tag, name), {**options, "block": not package.blocked})
                self.create("packages", tag, package, [nudge if tag in self.live.heirs else None, add], name)
            else:
                self.edit("packages", tag, differences(old, package), [add], name)
        if wanted.packages.mode == "exact":
            for name in sorted(set(had) - set(wanted.packages.list)):
                gone = Call("packageListRemove", (tag, name), {"force": True})
                self.step("packages", tag, describe(had[name]) or "present", None, [gone], name, "removals")

    def tag_repos(self, tag: str, old_tag: Tag | None, wanted: Tag) -> None:
        had = dict(old_tag.external_repos) if old_tag else {}
        surplus = {name: repo for name, repo in had.items() if name not in wanted.external_repos}
        for name, repo in sorted(surplus.items()):
            gone = [Call("removeExternalRepoFromTag", (tag, name))]
            if "tag_repos" in self.data.purge:
                self.step("tag_repos", tag, describe(repo), None, gone, name)
            else:
                self.extra("tag_repos", tag, name, gone, describe(repo))
                self.taken(tag, "external_repos", name, repo.priority, wanted.external_repos)
        # Two repos cannot have one priority even for a moment: take away all that change, then add.
        changed = {n: r for n, r in wanted.external_repos.items() if n not in had or differences(had[n], r)}
        first = [Call("removeExternalRepoFromTag", (tag, name)) for name in changed if name in had]
        for name, repo in changed.items():
            options = {"merge_mode": repo.merge_mode, "arches": " ".join(repo.arches) or None}
            add = Call("addExternalRepoToTag", (tag, name, repo.priority), options)
            if name in had:
                self.edit("tag_repos", tag, differences(had[name], repo), [*first, add], name)
            else:
                self.create("tag_repos", tag, repo, [*first, add], name)
            first = []

    def taken(self, tag: str, what: str, name: str, priority: int, wanted: Mapping[str, Any]) -> None:
        for other, entry in wanted.items():
            if entry.priority == priority:
                kind = "tag_repos" if what == "external_repos" else what
                self.faults.append(
                    f"koji:content:tags:{tag}:{what}: on the hub {name}, which is not in the data, has the"
                    f" priority {priority} that {other} is to get: choose another, or say purge:"
                    f" {{{kind}: true}}."
                )

    def inheritance(self, tag: str, old_tag: Tag | None, wanted: Tag) -> None:
        had = dict(old_tag.inheritance) if old_tag else {}
        surplus = {name: link for name, link in had.items() if name not in wanted.inheritance}
        final = dict(wanted.inheritance)
        purged = "inheritance" in self.data.purge
        if not purged:
            for name, link in sorted(surplus.items()):
                self.extra("inheritance", tag, name)
                self.taken(tag, "inheritance", name, link.priority, wanted.inheritance)
            final.update(surplus)
        changed = [name for name, link in final.items() if name not in had or differences(had[name], link)]
        if not changed and not (purged and surplus):
            return
        # The whole list in one call: priorities may swap, and nobody sees half of it.
        links = [
            {
                "parent_id": TagId(name),
                "priority": link.priority,
                "maxdepth": link.maxdepth,
                "intransitive": link.intransitive,
                "noconfig": link.noconfig,
                "pkg_filter": link.pkg_filter,
            }
            for name, link in sorted(final.items(), key=lambda entry: entry[1].priority)
        ]
        calls: list[Call] = [Call("setInheritanceData", (tag, links), {"clear": True})]
        for name in changed:
            if name not in had:
                self.step(
                    "inheritance",
                    tag,
                    None,
                    {"priority": final[name].priority, **describe(final[name])},
                    calls,
                    name,
                )
            else:
                self.edit("inheritance", tag, differences(had[name], final[name]), calls, name)
            calls = []
        for name in sorted(surplus) if purged else ():
            self.step("inheritance", tag, describe(surplus[name]), None, calls, name)
            calls = []

    def targets(self) -> None:
        for name, wanted in self.data.targets.items():
            old = self.live.content.targets.get(name)
            args = (name, wanted.build_tag, wanted.dest_tag)
            if old is None:
                self.create("targets", name, wanted, [Call("createBuildTarget", args)])
            elif differences(old, wanted):
                self.edit("targets", name, differences(old, wanted), [Call("editBuildTarget", (name, *args))])
        for name in sorted(self.live.names["targets"] - set(self.data.targets)):
            old = self.live.content.targets[name]
            self.extra("targets", name, "", [Call("deleteBuildTarget", (name,))], describe(old))


def plan(data: Content, live: Live, session: Any = None) -> Plan:
    """What must be done to make the hub, read as ``live``, hold ``data``.

    Args:
        session: asked whether what is to be removed still holds builds; such tags and packages are kept.

    Raises:
        BadData: where data and hub do not fit together (an unknown tag, a priority that is taken).
    """
    planner = _Planner(data, live)
    planner.faults.extend(unknown_names(data, live))
    for kind in KINDS:
        getattr(planner, kind)()
    if planner.faults:
        raise BadData(planner.faults)
    steps = sorted(planner.steps, key=lambda step: STAGES.index(step.stage))
    kept = planner.kept
    if session is not None:
        steps, builds = _keep_builds(session, steps)
        kept = [*kept, *builds]
    surplus = {kind: tuple(sorted(names)) for kind, names in planner.surplus.items() if names}
    return Plan(tuple(steps), surplus, tuple(kept))


def _keep_builds(session: Any, steps: list[Step]) -> tuple[list[Step], list[str]]:
    """Leave out removals of tags and packages that hold builds: the hub would let the builds go too."""
    removals = [s for s in steps if s.new is None and s.stage == "removals" and s.kind in ("tags", "packages")]
    tags = sorted({step.name for step in removals})
    held: dict[str, list[str]] = {}
    for tag, builds in zip(tags, multicall(session, [Call("listTagged", (tag,)) for tag in tags])):
        held[tag] = [build["package_name"] for build in builds]
    kept, sentences = set(), []
    for step in removals:
        number = held[step.name].count(step.item) if step.item else len(held[step.name])
        if number:
            kept.add(id(step))
            what = f"the package {step.item} of the tag {step.name}" if step.item else f"the tag {step.name}"
            builds = "1 build" if number == 1 else f"{number} builds"
            sentences.append(f"Kept {what}: it holds {builds}; untag them first.")
    return [step for step in steps if id(step) not in kept], sentences


def _parents_first(tags: Mapping[str, Tag]) -> list[str]:
    order: dict[str, None] = {}

    def walk(name: str) -> None:
        if name in tags and name not in order:
            for parent in tags[name].inheritance:
                walk(parent)
            order[name] = None

    for name in tags:
        walk(name)
    return list(order)


def unknown_names(data: Content, live: Live) -> list[str]:
    """A sentence for each name that the data uses and neither the data nor the hub knows.

    What stands on the hub alone and the same data would purge counts as unknown.
    """
    faults = []

    def check(kind: str, name: str, where: str, what: str) -> None:
        known = set(getattr(data, kind))
        known |= live.names[kind] & SCHEMA_CHANNELS if kind in data.purge else live.names[kind]
        if name not in known:
            end = nearest(name, known) or "."
            end = end if end[-1] in ".?" else f"{end}."
            faults.append(
                f"koji:content:{where}: the {what} {name!r} is neither in the data nor on the hub{end}"
            )

    for name, user in data.users.items():
        for permission in sorted(user.permissions):
            check("permissions", permission, f"users:{name}:permissions", "permission")
    for name, host in data.hosts.items():
        for channel in sorted(host.channels):
            check("channels", channel, f"hosts:{name}:channels", "channel")
    for name, tag in data.tags.items():
        if tag.perm:
            check("permissions", tag.perm, f"tags:{name}:perm", "permission")
        for owner in sorted({package.owner for package in tag.packages.list.values() if package.owner}):
            check("users", owner, f"tags:{name}:packages", "owner")
        for parent in tag.inheritance:
            check("tags", parent, f"tags:{name}:inheritance", "tag")
        for repo in tag.external_repos:
            check("external_repos", repo, f"tags:{name}:external_repos", "external repo")
    for name, target in data.targets.items():
        check("tags", target.build_tag, f"targets:{name}:build_tag", "tag")
        check("tags", target.dest_tag, f"targets:{name}:dest_tag", "tag")
    return faults


# Doing it ----------------------------------------------------------------------------------------


def _resolved(value: Any, tag_ids: Mapping[str, int]) -> Any:
    if isinstance(value, TagId):
        return tag_ids[str(value)]
    if isinstance(value, dict):
        return {key: _resolved(entry, tag_ids) for key, entry in value.items()}
    if isinstance(value, list):
        return [_resolved(entry, tag_ids) for entry in value]
    return value


def apply(session: Any, planned: Plan, batch: int = BATCH) -> tuple[Plan, list[str]]:
    """Make the planned calls, stage by stage; each stage is a few multicalls.

    Returns the plan of what was done, and a sentence for each step that the hub refused. Where a
    stage has such a step, the later stages are left undone: they would only fail on its account.
    """
    done: list[Step] = []
    for stage in STAGES:
        steps = [step for step in planned.steps if step.stage == stage]
        if not steps:
            continue
        tag_ids: dict[str, int] = {}
        if stage == "inheritance":
            tag_ids = {entry["name"]: entry["id"] for entry in multicall(session, [Call("listTags")])[0]}
        failures = []
        refused: set[tuple[str, str]] = set()
        while steps:
            part: list[Step] = []
            size = 0
            while steps and (not part or size + len(steps[0].calls) <= batch):
                size += len(steps[0].calls)
                part.append(steps.pop(0))
            with session.multicall() as multi:
                promised = [
                    [
                        multi.callMethod(c.method, *_resolved(list(c.args), tag_ids), **c.kwargs)
                        for c in step.calls
                    ]
                    for step in part
                ]
            for step, promises in zip(part, promised):
                try:
                    for promise in promises:
                        promise.result  # noqa: B018 - raises what the hub answered
                    # Steps without a call of their own are done by the one before them.
                    if step.calls or (step.kind, step.name) not in refused:
                        done.append(step)
                except Exception as error:  # whatever fault the hub names
                    refused.add((step.kind, step.name))
                    failures.append(f"The hub refused to {step.sentence()}: {error}")
        if failures:
            later = [step for step in planned.steps if STAGES.index(step.stage) > STAGES.index(stage)]
            if later:
                failures.append(f"{len(later)} later changes were not tried.")
            return Plan(tuple(done), planned.surplus, planned.kept), failures
    return Plan(tuple(done), planned.surplus, planned.kept), []


# In words ----------------------------------------------------------------------------------------


def surplus_text(planned: Plan, limit: int = 10) -> str:
    """What the hub has beyond the data, in a line for each kind; empty where there is nothing."""
    lines = []
    for kind, names in sorted(planned.surplus.items()):
        shown = ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
        lines.append(f"  {kind}: {shown}")
    text = ""
    if lines:
        text = "On the hub and not in the data (left alone; koji:content:purge removes):\n" + "\n".join(lines)
    return "\n".join(part for part in (text, *planned.kept) if part)
