"""Doubles of what the unit tests must not reach."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SCHEMA_PERMISSIONS = ("admin", "appliance", "dist-repo", "host", "image", "repo", "sign", "tag", "target")
SCHEMA_CHANNELS = ("default", "createrepo", "maven", "image")


@contextmanager
def answering(server: socketserver.BaseServer) -> Iterator[None]:
    """``server`` answers, in a thread of its own, for a while."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Fault(Exception):
    """What the hub answers instead of a result."""


class AuthLockError(Fault):
    """koji's error for a session beside an exclusive one; known by this name."""


class Hub:
    """A Koji hub in memory, with the hub's habits that matter to content.

    It drops additions that a parent gives alike, refuses a priority that is taken, puts new hosts
    into "default", wants ids of parents, and keeps users and hosts forever. ``version`` 1.35 takes
    ``with_groups``, which 1.30 refuses. ``requests`` counts what goes over the network.
    """

    def __init__(self, version: str = "1.30.0") -> None:
        self.version = version
        self.requests = 0
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.locked_by_kojid = False
        self.builds: dict[tuple[str, str], int] = {}
        self.perms: dict[str, str] = {name: "" for name in SCHEMA_PERMISSIONS}
        self.users: dict[str, dict[str, Any]] = {}
        self.channels: dict[str, dict[str, Any]] = {
            name: {"description": None, "comment": None, "enabled": True} for name in SCHEMA_CHANNELS
        }
        self.hosts: dict[str, dict[str, Any]] = {}
        self.tags: dict[str, dict[str, Any]] = {}
        self.ids: dict[str, int] = {}
        self.targets: dict[str, tuple[str, str]] = {}
        self.repos: dict[str, str] = {}
        self.make_user("kojiadmin", "admin")

    def make_user(self, name: str, *permissions: str, usertype: int = 0) -> None:
        self.users[name] = {"status": 0, "usertype": usertype, "permissions": set(permissions), "krb": set()}

    def session(self, user: str | None = "kojiadmin") -> Session:
        return Session(self, user)

    def dispatch(self, user: str | None, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # XML-RPC carries what JSON carries, and nothing that is shared.
        args, kwargs = json.loads(json.dumps([args, kwargs]))
        self.calls.append((method, tuple(args), kwargs))
        if method in ("getLoggedInUser", "getPerms"):
            if self.locked_by_kojid:
                raise AuthLockError("User locked by another session")
            args = (user,)
        return json.loads(json.dumps(getattr(self, f"do_{method}")(*args, **kwargs)))

    def parents(self, tag: str) -> Iterator[str]:
        """The tag itself, then all that it inherits from, in order."""
        yield tag
        for name, _ in sorted(self.tags[tag]["links"].items(), key=lambda link: link[1]["priority"]):
            yield from self.parents(name)

    def tag(self, name: str) -> dict[str, Any]:
        if name not in self.tags:
            raise Fault(f"No such tagInfo: {name!r}")
        return self.tags[name]

    # Asking

    def do_getAPIVersion(self) -> int:
        return 1

    def do_getKojiVersion(self) -> str:
        return self.version

    def do_getLoggedInUser(self, user: str | None) -> Any:
        return {"name": user, "usertype": self.users[user]["usertype"]} if user else None

    def do_getPerms(self, user: str) -> list[str]:
        return sorted(self.users[user]["permissions"])

    def do_getAllPerms(self) -> Any:
        return [{"id": i, "name": n, "description": d or None} for i, (n, d) in enumerate(self.perms.items())]

    def do_listUsers(self) -> Any:
        return [
            {"name": n, "status": u["status"], "usertype": 0, "krb_principals": sorted(u["krb"])}
            for n, u in self.users.items()
            if u["usertype"] == 0
        ]

    def do_getUserPerms(self, user: str, **kwargs: Any) -> list[str]:
        if kwargs and self.version.startswith("1.30"):
            raise Fault("got an unexpected keyword argument 'with_groups'")
        return sorted(self.users[user]["permissions"])

    def do_listChannels(self, host: str | None = None) -> Any:
        names = self.hosts[host]["channels"] if host else self.channels
        return [{"name": name, **self.channels[name]} for name in names]

    def do_listHosts(self) -> Any:
        return [
            {"name": name, **{k: v for k, v in host.items() if k != "channels"}}
            for name, host in self.hosts.items()
        ]

    def do_getHost(self, name: str) -> Any:
        return {"name": name} if name in self.hosts else None

    def do_listTags(self) -> Any:
        return [{"id": self.ids[name], "name": name} for name in self.tags]

    def do_getTag(self, name: str, strict: bool, blocked: bool) -> Any:
        tag = self.tag(name)
        return {
            "id": self.ids[name],
            "name": name,
            **{k: tag[k] for k in ("arches", "perm", "locked", "extra")},
        }

    def do_getInheritanceData(self, name: str) -> Any:
        links = sorted(self.tag(name)["links"].items(), key=lambda link: link[1]["priority"])
        return [{"name": parent, "parent_id": self.ids[parent], **link} for parent, link in links]

    def do_listPackages(self, tagID: str, inherited: bool) -> Any:
        return [
            {
                "package_name": name,
                "owner_name": p["owner"],
                "extra_arches": p["arches"],
                "blocked": p["blocked"],
            }
            for name, p in self.tag(tagID)["packages"].items()
        ]

    def effective(self, tag: str) -> dict[str, dict[str, Any]]:
        """Groups with inheritance, each entry marked with the tag it is from."""
        groups: dict[str, dict[str, Any]] = {}
        for name in self.parents(tag):
            for group, config in self.tags[name]["groups"].items():
                groups.setdefault(
                    group, {**config, "name": group, "tag_id": self.ids[name], "packages": {}, "requires": {}}
                )
        for name in self.parents(tag):
            for kind in ("packages", "requires"):
                for group, entries in self.tags[name][f"group_{kind}"].items():
                    if group in groups and not groups[group]["blocked"]:
                        for member, entry in entries.items():
                            groups[group][kind].setdefault(member, {**entry, "tag_id": self.ids[name]})
        return groups

    def do_getTagGroups(self, name: str, inherit: bool, incl_blocked: bool) -> Any:
        return [
            {
                **{k: v for k, v in group.items() if k not in ("packages", "requires")},
                "packagelist": [{"package": p, **entry} for p, entry in group["packages"].items()],
                "grouplist": [{"name": r, **entry} for r, entry in group["requires"].items()],
            }
            for group in self.effective(name).values()
        ]

    def do_getBuildTargets(self) -> Any:
        return [{"name": n, "build_tag_name": b, "dest_tag_name": d} for n, (b, d) in self.targets.items()]

    def do_listExternalRepos(self) -> Any:
        return [{"name": name, "url": url} for name, url in self.repos.items()]

    def do_getTagExternalRepos(self) -> Any:
        return [
            {"tag_name": tag, "external_repo_name": name, **entry}
            for tag, config in self.tags.items()
            for name, entry in config["repos"].items()
        ]

    def do_listTagged(self, tag: str) -> Any:
        held = [(package, number) for (name, package), number in self.builds.items() if name == tag]
        return [{"package_name": package} for package, number in held for _ in range(number)]

    # Changing

    def do_grantPermission(
        self, user: str, permission: str, create: bool = False, description: str = ""
    ) -> None:
        if permission not in self.perms:
            if not create:
                raise Fault(f"No such entry in table permissions: {permission}")
            self.perms[permission] = description
        if permission in self.users[user]["permissions"]:
            raise Fault(f"user {user} already has permission: {permission}")
        self.users[user]["permissions"].add(permission)

    def do_revokePermission(self, user: str, permission: str) -> None:
        self.users[user]["permissions"].remove(permission)

    def do_editPermission(self, permission: str, description: str) -> None:
        self.perms[permission] = description

    def do_createUser(self, name: str, status: int) -> None:
        if name in self.users:
            raise Fault(f"user already exists: {name}")
        self.make_user(name)
        self.users[name]["status"] = status

    def do_enableUser(self, name: str) -> None:
        self.users[name]["status"] = 0

    def do_disableUser(self, name: str) -> None:
        self.users[name]["status"] = 1

    def do_addUserKrbPrincipal(self, name: str, principal: str) -> None:
        self.users[name]["krb"].add(principal)

    def do_removeUserKrbPrincipal(self, name: str, principal: str) -> None:
        self.users[name]["krb"].remove(principal)

    def do_addChannel(self, name: str, description: str | None = None) -> None:
        self.channels[name] = {"description": description, "comment": None, "enabled": True}

    def do_editChannel(self, name: str, **kwargs: Any) -> None:
        self.channels[name].update(kwargs)

    def do_enableChannel(self, name: str) -> None:
        self.channels[name]["enabled"] = True

    def do_disableChannel(self, name: str) -> None:
        self.channels[name]["enabled"] = False

    def do_addHost(self, name: str, arches: list[str], force: bool = False) -> None:
        user = self.users.get(name)
        if user and user["usertype"] == 0 and not force:
            raise Fault(f"user {name} already exists and it is not a host")
        self.make_user(name, usertype=1)
        self.hosts[name] = {"arches": " ".join(arches), "capacity": 2.0, "enabled": True, "description": None,
                            "comment": None, "channels": ["default"]}  # fmt: skip

    def do_editHost(self, name: str, **kwargs: Any) -> None:
        self.hosts[name].update(kwargs)

    def do_enableHost(self, name: str) -> None:
        self.hosts[name]["enabled"] = True

    def do_disableHost(self, name: str) -> None:
        self.hosts[name]["enabled"] = False

    def do_addHostToChannel(self, name: str, channel: str, force: bool = False) -> None:
        if channel not in self.channels or channel in self.hosts[name]["channels"]:
            raise Fault(f"host {name} cannot be added to {channel}")
        self.hosts[name]["channels"].append(channel)

    def do_removeHostFromChannel(self, name: str, channel: str) -> None:
        self.hosts[name]["channels"].remove(channel)

    def do_createExternalRepo(self, name: str, url: str) -> None:
        self.repos[name] = url

    def do_editExternalRepo(self, name: str, url: str) -> None:
        self.repos[name] = url

    def do_deleteExternalRepo(self, name: str) -> None:
        del self.repos[name]
        for tag in self.tags.values():
            tag["repos"].pop(name, None)

    def do_createTag(self, name: str, arches: str, locked: bool, extra: dict[str, Any]) -> None:
        if name in self.tags:
            raise Fault(f"A tag with the name '{name}' already exists")
        self.ids.setdefault(name, 100 + len(self.ids))
        parts = ("links", "packages", "groups", "group_packages", "group_requires", "repos")
        self.tags[name] = {"arches": arches, "locked": locked, "perm": None, **{part: {} for part in parts}}
        self.tags[name]["extra"] = {key: [False, value] for key, value in extra.items()}

    def do_editTag2(
        self, name: str, extra: Any = None, block_extra: Any = (), remove_extra: Any = (), **kwargs: Any
    ) -> None:
        tag = self.tag(name)
        tag.update(kwargs)
        for key, value in (extra or {}).items():
            tag["extra"][key] = [False, value]
        for key in block_extra:
            tag["extra"][key] = [True, None]
        for key in remove_extra:
            if tag["extra"].get(key, [True])[0]:
                raise Fault(f"Tag: {name} doesn't have extra: {key}")
            del tag["extra"][key]

    def do_deleteTag(self, name: str) -> None:
        del self.tags[name]
        for tag in self.tags.values():
            tag["links"].pop(name, None)
        self.targets = {n: pair for n, pair in self.targets.items() if name not in pair}

    def do_setInheritanceData(self, name: str, links: list[dict[str, Any]], clear: bool) -> None:
        names = {number: tag for tag, number in self.ids.items()}
        if len({link["priority"] for link in links}) < len(links):
            raise Fault("Multiple parent tags cannot have the same priority value")
        self.tag(name)["links"] = {names[link.pop("parent_id")]: link for link in links}

    def do_groupListAdd(self, tag: str, group: str, block: bool, force: bool, **config: Any) -> None:
        config["blocked"] = block
        old = self.effective(tag).get(group)
        if old is None or any(old[key] != value for key, value in config.items()):
            self.tags[tag]["groups"][group] = config

    def do_groupListRemove(self, tag: str, group: str) -> None:
        del self.tags[tag]["groups"][group]

    def do_groupPackageListAdd(
        self, tag: str, group: str, package: str, block: bool, force: bool, **entry: Any
    ) -> None:
        if group not in self.effective(tag):
            raise Fault(f"group {group} not present in tag {tag}")
        self.tags[tag]["group_packages"].setdefault(group, {})[package] = {**entry, "blocked": block}

    def do_groupPackageListRemove(self, tag: str, group: str, package: str) -> None:
        del self.tags[tag]["group_packages"][group][package]

    def do_groupReqListAdd(
        self, tag: str, group: str, required: str, block: bool, force: bool, **entry: Any
    ) -> None:
        old = self.effective(tag)[group]["requires"].get(required)
        new = {**entry, "blocked": block}
        if old is None or any(old[key] != value for key, value in new.items()):
            self.tags[tag]["group_requires"].setdefault(group, {})[required] = new

    def do_groupReqListRemove(self, tag: str, group: str, required: str) -> None:
        del self.tags[tag]["group_requires"][group][required]

    def do_packageListAdd(
        self, tag: str, name: str, extra_arches: str, force: bool, block: bool, owner: str = "kojiadmin"
    ) -> None:
        old = next(
            (self.tags[t]["packages"][name] for t in self.parents(tag) if name in self.tags[t]["packages"]),
            None,
        )
        new = {"owner": owner, "arches": extra_arches, "blocked": block}
        if old is None or (old["arches"], old["blocked"]) != (extra_arches, block):
            self.tag(tag)["packages"][name] = new
        elif name in self.tags[tag]["packages"]:
            self.tags[tag]["packages"][name]["owner"] = owner

    def do_packageListRemove(self, tag: str, name: str, force: bool) -> None:
        del self.tags[tag]["packages"][name]

    def do_addExternalRepoToTag(
        self, tag: str, name: str, priority: int, merge_mode: str, arches: str | None
    ) -> None:
        if priority in [entry["priority"] for entry in self.tag(tag)["repos"].values()]:
            raise Fault(f"tag {tag} already associated with an external repo at priority {priority}")
        self.tags[tag]["repos"][name] = {"priority": priority, "merge_mode": merge_mode, "arches": arches}

    def do_removeExternalRepoFromTag(self, tag: str, name: str) -> None:
        del self.tag(tag)["repos"][name]

    def do_createBuildTarget(self, name: str, build_tag: str, dest_tag: str) -> None:
        self.tag(build_tag), self.tag(dest_tag)
        self.targets[name] = (build_tag, dest_tag)

    def do_editBuildTarget(self, name: str, new_name: str, build_tag: str, dest_tag: str) -> None:
        self.targets[name] = (build_tag, dest_tag)

    def do_deleteBuildTarget(self, name: str) -> None:
        del self.targets[name]


class _Promise:
    """koji's VirtualCall: ``result`` gives or raises what the hub answered."""

    def __init__(self) -> None:
        self.value: Any = None
        self.error: Exception | None = None

    @property
    def result(self) -> Any:
        if self.error:
            raise self.error
        return self.value


class _Multi:
    def __init__(self, session: Session) -> None:
        self.session = session
        self.promised: list[tuple[_Promise, str, tuple[Any, ...], dict[str, Any]]] = []

    def __enter__(self) -> _Multi:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None and self.promised:
            self.session.hub.requests += 1
            for promise, method, args, kwargs in self.promised:
                try:
                    promise.value = self.session.hub.dispatch(self.session.user, method, args, kwargs)
                except Exception as error:
                    promise.error = error

    def callMethod(self, method: str, *args: Any, **kwargs: Any) -> _Promise:
        promise = _Promise()
        self.promised.append((promise, method, args, kwargs))
        return promise


class Session:
    """koji's ClientSession, as far as the project uses it."""

    def __init__(self, hub: Hub, user: str | None) -> None:
        self.hub = hub
        self.user = user

    def multicall(self) -> _Multi:
        return _Multi(self)

    def logout(self) -> None:
        self.user = None

    def __getattr__(self, method: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.hub.requests += 1
            return self.hub.dispatch(self.user, method, args, kwargs)

        return call
