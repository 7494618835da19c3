"""Koji's content as data: what is refused, planned, applied, exported; against a hub in memory."""

from __future__ import annotations

import copy
from typing import Any, Callable

import pytest

from doubles import Hub
from goose import content, content_live, content_plan, koji_call
from goose.export import export

DATA: dict[str, Any] = {
    "permissions": {"build": "Build packages.", "odd": {}},
    "users": {
        "kojiadmin": {"permissions": ["admin"]},
        "kojira": {"permissions": ["repo"]},
        "alice": {"permissions": ["build", "sign"], "krb_principals": ["alice@GOOSE.TEST"]},
        "bob": {"status": "blocked"},
    },
    "channels": {"big": {"description": "Large builders"}, "rest": {"enabled": False, "comment": "not now"}},
    "hosts": {
        "builder1": {"arches": ["x86_64", "i386"], "capacity": 3, "channels": ["default", "createrepo"]},
        "builder2": {"arches": "x86_64", "channels": ["big"], "enabled": False, "comment": "slow"},
    },
    "external_repos": {"el": "https://repo.example/os", "crb": {"url": "https://repo.example/crb/"}},
    "tags": {
        "bootstrap": {},
        "dist": {
            "arches": "x86_64 i686",
            "perm": "odd",
            "packages": {
                "mode": "exact",
                "owner": "kojiadmin",
                "list": [
                    "bash",
                    {"gcc": {"owner": "alice", "extra_arches": "i686"}},
                    {"kde": {"blocked": True}},
                ],
            },
        },
        "dist-build": {
            "arches": "x86_64 i686",
            "inheritance": ["dist", {"bootstrap": {"maxdepth": 2, "noconfig": True, "pkg_filter": "^a"}}],
            "extra": {"mock.use_bootstrap": 0, "rpm.macro.dist": ".el1", "nested": {"a": [1, None]}},
            "blocked_extra": ["mock.new_chroot"],
            "groups": {
                "srpm-build": ["bash", "rpm-build"],
                "build": {"packages": ["bash", {"vi": {"blocked": True}}], "requires": ["srpm-build"]},
                "none": {"blocked": True},
            },
            "external_repos": ["el", {"crb": {"merge_mode": "bare", "arches": "x86_64"}}],
        },
        "dist-side": {
            "inheritance": ["dist-build"],
            "groups": {"build": {"inherited": True, "packages": ["make"]}},
        },
    },
    "targets": {"dist": {"build_tag": "dist-build", "dest_tag": "dist"}},
}


@pytest.fixture(params=["1.30.0", "1.35.3"])
def hub(request: pytest.FixtureRequest) -> Hub:
    return Hub(request.param)


def planned(hub: Hub, data: dict[str, Any]) -> content_plan.Plan:
    parsed = content.parse(data)
    session = hub.session()
    return content_plan.plan(parsed, content_live.read(session, parsed), session)


def applied(hub: Hub, data: dict[str, Any]) -> content_plan.Plan:
    done, failures = content_plan.apply(hub.session(), planned(hub, data))
    assert failures == []
    return done


@pytest.fixture
def full(hub: Hub) -> Hub:
    """A hub that holds DATA."""
    applied(hub, DATA)
    return hub


def changed(**parts: Any) -> dict[str, Any]:
    data = copy.deepcopy(DATA)
    data.update(parts)
    return data


def faults(data: Any) -> list[str]:
    with pytest.raises(content.BadData) as refused:
        content.parse(data)
    return list(refused.value.sentences)


# Applying


def test_the_plan_of_an_empty_hub_names_everything(hub: Hub) -> None:
    changes = planned(hub, DATA).changes()
    assert set(changes["tags"]) == set(DATA["tags"])
    assert changes["targets"] == {
        "dist": {"old": None, "new": {"build_tag": "dist-build", "dest_tag": "dist"}}
    }
    assert changes["users"]["bob"] == {"old": None, "new": {"status": "blocked"}}
    assert changes["inheritance"]["dist-build"]["bootstrap"]["new"]["maxdepth"] == 2


def test_applied_once_and_the_second_plan_is_empty(full: Hub) -> None:
    again = planned(full, DATA)
    assert again.steps == ()
    assert again.surplus == {}


def test_planning_changes_nothing(hub: Hub) -> None:
    planned(hub, DATA)
    assert hub.tags == {}
    assert set(hub.users) == {"kojiadmin"}


def test_a_permission_that_had_to_be_granted_to_be_made_is_taken_back(full: Hub) -> None:
    assert full.users["kojiadmin"]["permissions"] == {"admin"}


def test_a_new_host_leaves_the_channel_that_the_hub_puts_it_into(full: Hub) -> None:
    assert full.hosts["builder2"]["channels"] == ["big"]


def test_build_tags_of_a_new_hub_ask_for_repos(full: Hub) -> None:
    """From 1.35 on, kojira makes repos unasked only of tags with repo.auto."""
    assert ("repo.auto" in full.tags["dist-build"]["extra"]) is (full.version == "1.35.3")
    assert "repo.auto" not in full.tags["dist"]["extra"]


def test_repo_auto_may_be_refused_by_data(hub: Hub) -> None:
    applied(hub, changed(repo_auto=False))
    assert "repo.auto" not in hub.tags["dist-build"]["extra"]


DAMAGE: dict[str, Callable[[Hub], Any]] = {
    "host disabled": lambda hub: hub.do_disableHost("builder1"),
    "host enabled": lambda hub: hub.do_enableHost("builder2"),
    "host's capacity": lambda hub: hub.do_editHost("builder1", capacity=9.0),
    "host's arches": lambda hub: hub.do_editHost("builder1", arches="x86_64"),
    "host out of its channel": lambda hub: hub.do_removeHostFromChannel("builder1", "createrepo"),
    "channel enabled": lambda hub: hub.do_enableChannel("rest"),
    "channel's description": lambda hub: hub.do_editChannel("big", description="x"),
    "permission dropped": lambda hub: hub.do_revokePermission("kojira", "repo"),
    "permission's description": lambda hub: hub.do_editPermission("build", "x"),
    "user blocked": lambda hub: hub.do_disableUser("alice"),
    "user's principal": lambda hub: hub.do_removeUserKrbPrincipal("alice", "alice@GOOSE.TEST"),
    "tag deleted": lambda hub: hub.do_deleteTag("dist-build"),
    "parent tag deleted": lambda hub: hub.do_deleteTag("dist"),
    "tag locked": lambda hub: hub.do_editTag2("dist", locked=True),
    "tag's arches": lambda hub: hub.do_editTag2("dist", arches="x86_64"),
    "tag's permission": lambda hub: hub.do_editTag2("dist", perm=None),
    "extra changed": lambda hub: hub.do_editTag2("dist-build", extra={"nested": 1}),
    "extra removed": lambda hub: hub.do_editTag2("dist-build", remove_extra=["rpm.macro.dist"]),
    "blocked extra set": lambda hub: hub.do_editTag2("dist-build", extra={"mock.new_chroot": 1}),
    "inheritance dropped": lambda hub: hub.tags["dist-build"].update(links={}),
    "priorities swapped": lambda hub: [
        link.update(priority=10 - link["priority"]) for link in hub.tags["dist-build"]["links"].values()
    ],
    "group removed": lambda hub: hub.do_groupListRemove("dist-build", "build"),
    "group package gone": lambda hub: hub.do_groupPackageListRemove("dist-build", "build", "bash"),
    "group requirement gone": lambda hub: hub.do_groupReqListRemove("dist-build", "build", "srpm-build"),
    "package removed": lambda hub: hub.do_packageListRemove("dist", "bash", True),
    "package's owner": lambda hub: hub.do_packageListAdd("dist", "bash", "", True, False, "bob"),
    "package unblocked": lambda hub: hub.do_packageListAdd("dist", "kde", "", True, False),
    "package beyond an exact list": lambda hub: hub.do_packageListAdd("dist", "emacs", "", True, False),
    "external repo's URL": lambda hub: hub.do_editExternalRepo("el", "https://x.example/"),
    "external repo off its tag": lambda hub: hub.do_removeExternalRepoFromTag("dist-build", "el"),
    "repo priorities swapped": lambda hub: [
        repo.update(priority=30 - repo["priority"]) for repo in hub.tags["dist-build"]["repos"].values()
    ],
    "target removed": lambda hub: hub.do_deleteBuildTarget("dist"),
    "target moved": lambda hub: hub.do_editBuildTarget("dist", "dist", "dist-side", "dist"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_repaired_by_one_apply_and_reported(full: Hub, damage: str) -> None:
    before = copy.deepcopy((full.users, full.channels, full.hosts, full.targets, full.repos, full.perms))
    tags = export(full.session())["tags"]
    DAMAGE[damage](full)
    assert applied(full, DATA).steps, "nothing was reported"
    assert planned(full, DATA).steps == ()
    for host in full.hosts.values():
        host["channels"].sort()
    for host in before[2].values():
        host["channels"].sort()
    assert (full.users, full.channels, full.hosts, full.targets, full.repos, full.perms) == before
    assert export(full.session())["tags"] == tags


def test_what_a_parent_gives_alike_is_still_written(full: Hub) -> None:
    """The hub drops such additions silently, and the plan would never come to an end."""
    data = copy.deepcopy(DATA)
    data["tags"]["dist-side"] = {
        "inheritance": ["dist-build"],
        "packages": {"owner": "kojiadmin", "list": ["bash", {"kde": {"blocked": True}}]},
        "groups": {
            "build": {"packages": ["bash"], "requires": ["srpm-build"]},
            "none": {"blocked": True},
            "srpm-build": {},
        },
    }
    applied(full, data)
    assert [step for step in planned(full, data).steps] == []
    assert full.tags["dist-side"]["packages"]["kde"]["blocked"] is True
    assert full.tags["dist-side"]["packages"]["bash"]["blocked"] is False


def test_a_builder_that_logged_in_too_early_becomes_a_host(hub: Hub) -> None:
    hub.make_user("builder1")
    applied(hub, DATA)
    assert hub.users["builder1"]["usertype"] == 1


def test_a_package_that_has_no_owner_in_the_data_keeps_its_owner(full: Hub) -> None:
    data = copy.deepcopy(DATA)
    data["tags"]["dist"]["packages"] = ["bash", {"gcc": {"extra_arches": "i686"}}, {"kde": {"blocked": True}}]
    assert planned(full, data).steps == ()


def test_a_fault_ends_with_a_sentence_and_later_stages_are_left(
    full: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    full.do_deleteTag("dist-build")

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("policy violation")

    monkeypatch.setattr(full, "do_groupListAdd", refuse)
    done, failures = content_plan.apply(full.session(), planned(full, DATA))
    assert failures[0] == "The hub refused to create groups dist-build: srpm-build: policy violation"
    assert "later changes were not tried" in failures[-1]
    assert {step.kind for step in done.steps} == {"tags"}


# On the hub and not in the data

PLAIN_GROUP: dict[str, Any] = {
    "display_name": "stray",
    "description": "",
    "is_default": False,
    "uservisible": True,
    "exported": True,
    "langonly": "",
    "biarchonly": False,
}
STRAY: dict[str, Callable[[Hub], Any]] = {
    "users": lambda hub: hub.make_user("carol"),
    "grants": lambda hub: hub.do_grantPermission("kojira", "sign"),
    "channels": lambda hub: hub.do_addChannel("stray"),
    "hosts": lambda hub: hub.do_addHost("stray", ["x86_64"]),
    "host_channels": lambda hub: hub.do_addHostToChannel("builder1", "big"),
    "external_repos": lambda hub: hub.do_createExternalRepo("stray", "https://x.example/"),
    "tags": lambda hub: hub.do_createTag("stray", "", False, {}),
    "extra": lambda hub: hub.do_editTag2("dist-build", extra={"stray": 1}),
    "inheritance": lambda hub: hub.tags["dist"]["links"].update(
        bootstrap=dict(priority=7, maxdepth=None, intransitive=False, noconfig=False, pkg_filter="")
    ),
    "groups": lambda hub: hub.do_groupListAdd("dist", "stray", False, True, **PLAIN_GROUP),
    "group_packages": lambda hub: hub.do_groupPackageListAdd(
        "dist-build", "build", "emacs", False, True, type="mandatory", basearchonly=False, requires=""
    ),
    "tag_repos": lambda hub: hub.do_addExternalRepoToTag("dist", "el", 5, "koji", None),
    "targets": lambda hub: hub.do_createBuildTarget("stray", "dist-build", "dist"),
}  # fmt: skip


@pytest.mark.parametrize("kind", content.PURGE)
def test_surplus_is_reported_and_left(full: Hub, kind: str) -> None:
    STRAY[kind](full)
    found = planned(full, DATA)
    assert found.steps == ()
    assert list(found.surplus) == [kind]
    assert kind in content_plan.surplus_text(found)


@pytest.mark.parametrize("kind", content.PURGE)
def test_surplus_is_removed_where_the_data_says_so(full: Hub, kind: str) -> None:
    STRAY[kind](full)
    data = changed(purge={kind: True})
    assert applied(full, data).steps
    after = planned(full, data)
    assert (after.steps, after.surplus) == ((), {})


def test_a_blocked_extra_beyond_the_data_is_removed_too(full: Hub) -> None:
    full.do_editTag2("dist-build", block_extra=["stray"])
    applied(full, changed(purge={"extra": True}))
    assert "stray" not in full.tags["dist-build"]["extra"]


def test_tags_and_packages_that_hold_builds_are_kept(full: Hub) -> None:
    full.do_createTag("old", "", False, {})
    full.do_packageListAdd("dist", "emacs", "", True, False)
    full.builds.update({("old", "x"): 2, ("dist", "emacs"): 1})
    found = planned(full, changed(purge={"tags": True}))
    assert found.steps == ()
    assert found.kept == (
        "Kept the package emacs of the tag dist: it holds 1 build; untag them first.",
        "Kept the tag old: it holds 2 builds; untag them first.",
    )


def test_an_open_list_leaves_other_packages_alone(full: Hub) -> None:
    full.do_packageListAdd("dist-build", "emacs", "", True, False)
    found = planned(full, DATA)
    assert (found.steps, found.surplus) == ((), {})


def test_what_every_hub_is_born_with_is_not_reported(hub: Hub) -> None:
    assert planned(hub, {}).surplus == {}


# Bad data


def test_every_fault_is_a_sentence_with_its_place() -> None:
    data = {
        "tagz": {},
        "tags": {
            "a": {"arches": "x86-64"},
            "b": {"inheritence": []},
            "c d": {},
            "e": {"packages": {"mode": "exakt"}},
            "f": {"inheritance": {"a": {"priority": 1}, "b": {"priority": 1}}},
            "g": {"inheritance": {"a": {}, "b": {"priority": 1}}},
            "h": {"locked": "yes"},
            7: {},
        },
        "users": {"x": {"status": "off"}, "a b": {}},
        "hosts": {"h": {}},
        "targets": {"t": {"build_tag": "a"}},
        "external_repos": {"r": "repo.example"},
        "purge": {"tag": True},
    }
    assert sorted(faults(data)) == sorted(
        [
            "koji:content: 'tagz' is no key here: did you mean 'tags'?",
            "koji:content:tags:a:arches: 'x86-64' is no architecture known here: did you mean 'x86_64'?",
            "koji:content:tags:b: 'inheritence' is no key here: did you mean 'inheritance'?",
            "koji:content:tags: 'c d' is no name: the hub takes [A-Za-z0-9/_.+-]{1,256}.",
            "koji:content:tags: 7 is no name: put it in quotes.",
            "koji:content:tags:e:packages: 'exakt' is not known here: did you mean 'exact'?",
            "koji:content:tags:f:inheritance: a and b have the same priority 1.",
            "koji:content:tags:g:inheritance:a: 'priority' is missing.",
            "koji:content:tags:h:locked: 'yes' is neither true nor false.",
            "koji:content:users:x:status: 'off' is not known here: choose from blocked, normal.",
            "koji:content:users: 'a b' is no user name: the hub takes [A-Za-z0-9/_.@-]{1,256}.",
            "koji:content:hosts:h: 'arches' is missing.",
            "koji:content:targets:t: 'dest_tag' is missing.",
            "koji:content:external_repos:r:url: 'repo.example' is no URL: give one such as https://repo.example/el9/$arch/.",
            "koji:content:purge: 'tag' is no key here: did you mean 'tags'?",
        ]
    )


def test_a_circle_of_tags_is_named() -> None:
    data = {"tags": {"a": {"inheritance": ["b"]}, "b": {"inheritance": ["c"]}, "c": {"inheritance": ["a"]}}}
    assert faults(data) == ["koji:content:tags: inheritance runs in a circle: a -> b -> c -> a."]


def test_a_site_may_have_architectures_of_its_own() -> None:
    data = {"tags": {"a": {"arches": "sw_64"}}}
    assert faults(data)
    assert content.parse({**data, "known_arches": ["sw_64"]}).tags["a"].arches == ("sw_64",)


@pytest.mark.parametrize(
    "junk",
    [
        "text",
        ["text"],
        7,
        {"tags": "text"},
        {"tags": {"a": "text"}},
        {"users": {"x": ["y"]}},
        {"tags": {"a": {"groups": {"g": "text"}, "packages": 7, "extra": 7}}},
    ],
)
def test_junk_is_refused_and_does_not_crash(junk: Any) -> None:
    assert faults(junk)


@pytest.mark.parametrize(
    "part, sentence",
    [
        (
            {"tags": {**DATA["tags"], "x": {"inheritance": ["dist-bild"]}}},
            (
                "koji:content:tags:x:inheritance: the tag 'dist-bild' is neither in the data nor on the hub:"
                " did you mean 'dist-build'?"
            ),
        ),
        (
            {"users": {**DATA["users"], "x": {"permissions": ["sing"]}}},
            (
                "koji:content:users:x:permissions: the permission 'sing' is neither in the data nor on the hub:"
                " did you mean 'sign'?"
            ),
        ),
        (
            {"targets": {"dist": {"build_tag": "dist-build", "dest_tag": "dest"}}},
            (
                "koji:content:targets:dist:dest_tag: the tag 'dest' is neither in the data nor on the hub:"
                " did you mean 'dist'?"
            ),
        ),
        (
            {"users": {**DATA["users"], "kojiadmin": {}}, "purge": {"grants": True}},
            "koji:content:users:kojiadmin: permissions lack 'admin', and states log in as this user.",
        ),
    ],
)
def test_names_that_nobody_knows_are_refused(full: Hub, part: dict[str, Any], sentence: str) -> None:
    with pytest.raises(content.BadData) as refused:
        planned(full, changed(**part))
    assert refused.value.sentences == (sentence,)


def test_a_parent_that_only_the_hub_knows_is_fine(full: Hub) -> None:
    full.do_createTag("side", "", False, {})
    data = copy.deepcopy(DATA)
    data["tags"]["dist-side"]["inheritance"] = ["dist-build", "side"]
    applied(full, data)
    assert set(full.tags["dist-side"]["links"]) == {"dist-build", "side"}


def test_a_priority_taken_by_what_is_left_alone_is_a_sentence(full: Hub) -> None:
    full.do_createTag("side", "", False, {})
    links = full.tags["dist-side"]["links"]
    links["side"] = {**links.pop("dist-build")}
    with pytest.raises(
        content.BadData, match="side, which is not in the data, has the priority 0 that dist-build"
    ):
        planned(full, DATA)
    applied(full, changed(purge={"inheritance": True}))
    assert set(links := full.tags["dist-side"]["links"]) == {"dist-build"}, links


# The export


def test_the_export_of_a_hub_plans_to_nothing_on_it(full: Hub) -> None:
    found = planned(full, export(full.session()))
    assert (found.steps, found.surplus) == ((), {})


def test_the_export_of_a_hub_makes_an_empty_one_the_same(full: Hub) -> None:
    STRAY["groups"](full)
    full.do_packageListAdd("bootstrap", "emacs", "", True, False, "alice")
    exported = export(full.session())
    other = Hub(full.version)
    applied(other, exported)
    assert export(other.session()) == exported


def test_the_export_of_an_old_style_build_tag_stays_as_it_is(hub: Hub) -> None:
    applied(hub, changed(repo_auto=False))
    exported = export(hub.session())
    assert planned(hub, exported).steps == ()
    assert exported.get("repo_auto", True) is (hub.version == "1.30.0")


def test_the_export_needs_no_login_and_may_be_a_part(full: Hub) -> None:
    exported = export(full.session(None), kinds=("tags", "targets"), tags="dist*")
    assert set(exported) - {"repo_auto"} == {"tags", "targets"}
    assert set(exported["tags"]) == {"dist", "dist-build", "dist-side"}


def test_the_export_says_only_what_is_no_default(full: Hub) -> None:
    exported = export(full.session())
    assert exported["tags"]["bootstrap"] == {}
    assert exported["users"]["bob"] == {"status": "blocked"}
    assert exported["tags"]["dist-build"]["groups"]["build"]["packages"] == [
        "bash",
        {"vi": {"blocked": True}},
    ]
    assert "admin" not in exported["permissions"]


# Numbers


def test_three_thousand_packages_cost_a_few_requests(hub: Hub) -> None:
    data = changed()
    data["tags"]["dist"]["packages"] = {"owner": "kojiadmin", "list": [f"package-{n}" for n in range(3000)]}
    parsed = content.parse(data)
    hub.requests = 0
    plan = content_plan.plan(parsed, content_live.read(hub.session(), parsed))
    assert hub.requests == 3
    shown = plan.changes()["packages"]["dist"]
    assert len(shown) == 26
    assert shown["…"] == "and 2975 more"
    hub.requests = 0
    content_plan.apply(hub.session(), plan)
    assert hub.requests <= 20


# What Salt's modules run


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def ask(hub: Hub, action: str, up_after: float = 0, **request: Any) -> dict[str, Any]:
    """One request; certificates are named after their users; the hub is up after so many seconds."""
    clock = Clock()

    def connect(server: str, serverca: str, cert: str | None = None) -> Any:
        if clock.now < up_after:
            raise koji_call.Unanswered(f"The hub {server} does not answer: nothing listens there.")
        user = cert.rpartition("/")[2][: -len(".pem")] if cert else None
        if user and user not in hub.users:
            raise koji_call.Unanswered(f"The hub {server} does not let {cert} log in: Unknown user: {user}.")
        return hub.session(user)

    whole = {"server": "https://hub/kojihub", "serverca": "ca.crt", "timeout": 600, **request}
    return koji_call.ACTIONS[action](whole, connect, clock, clock.sleep)


def test_managed_changes_and_then_has_nothing_to_do(hub: Hub) -> None:
    first = ask(hub, "managed", cert="/pki/kojiadmin.pem", data=DATA, up_after=60)
    assert first["result"] is True
    assert "targets" in first["changes"]
    second = ask(hub, "managed", cert="/pki/kojiadmin.pem", data=DATA)
    assert (second["result"], second["changes"]) == (True, {})
    assert second["comment"].startswith("The hub is as the data says: 2 permissions, 4 users")


def test_managed_in_test_mode_tells_and_does_not_act(full: Hub) -> None:
    full.do_disableHost("builder1")
    answer = ask(full, "managed", cert="/pki/kojiadmin.pem", data=DATA, test=True)
    assert answer["result"] is None
    assert answer["changes"] == {"hosts": {"builder1": {"old": {"enabled": False}, "new": {"enabled": True}}}}
    assert full.hosts["builder1"]["enabled"] is False


def test_managed_in_test_mode_before_there_is_a_hub(hub: Hub) -> None:
    answer = ask(hub, "managed", cert="/pki/kojiadmin.pem", data=DATA, test=True, up_after=9)
    assert answer["result"] is None
    assert answer["comment"].startswith(
        "The hub does not answer yet: everything would be created (2 permissions"
    )


def test_managed_refuses_bad_data_without_a_hub(hub: Hub) -> None:
    answer = ask(hub, "managed", cert="/pki/kojiadmin.pem", data={"tagz": {}}, test=True, up_after=9)
    assert answer["result"] is False
    assert "did you mean 'tags'?" in answer["comment"]


def test_managed_gives_up_in_a_sentence(hub: Hub) -> None:
    answer = ask(hub, "managed", cert="/pki/kojiadmin.pem", data=DATA, up_after=601)
    assert answer["result"] is False
    assert answer["comment"].endswith("nothing listens there; this was waited for 600 seconds.")


def test_managed_needs_an_administrator(full: Hub) -> None:
    answer = ask(full, "managed", cert="/pki/kojira.pem", data=DATA, where="db.goose.test")
    assert answer["result"] is False
    assert "the user kojira, who is no administrator there" in answer["comment"]
    assert "apply it on db.goose.test" in answer["comment"]


def test_waiting_for_the_hub_and_a_permission(full: Hub) -> None:
    assert ask(full, "hub", up_after=5)["comment"] == "The hub https://hub/kojihub answers after 6 seconds."
    assert ask(full, "hub", cert="/pki/kojira.pem", permission="repo")["result"] is True
    lacking = ask(full, "hub", cert="/pki/kojira.pem", permission="sign", where="salt.goose.test")
    assert lacking["result"] is False
    assert "lacks the permission 'sign'" in lacking["comment"]
    assert "apply it on salt.goose.test" in lacking["comment"]
    assert ask(full, "hub", up_after=5, test=True)["result"] is None


def test_a_builder_does_not_log_in_before_it_is_registered(hub: Hub) -> None:
    answer = ask(hub, "host_registered", host="builder1", cert="/pki/builder1.pem", where="salt.goose.test")
    assert answer["result"] is False
    assert "does not know the builder builder1: the state koji.content registers it" in answer["comment"]
    assert {method for method, _, _ in hub.calls} == {"getHost"}


def test_a_registered_builder_logs_in_also_beside_kojid(full: Hub) -> None:
    assert ask(full, "host_registered", host="builder1", cert="/pki/builder1.pem")["result"] is True
    full.locked_by_kojid = True
    assert ask(full, "host_registered", host="builder1", cert="/pki/builder1.pem")["result"] is True


def test_a_builder_with_the_certificate_of_another(full: Hub) -> None:
    answer = ask(full, "host_registered", host="builder1", cert="/pki/builder2.pem")
    assert answer["result"] is False
    assert "for the user builder2, not for the builder builder1" in answer["comment"]


@pytest.mark.parametrize(
    "text, reason",
    [
        (
            "HTTPSConnectionPool(…): Max retries exceeded (Caused by … [Errno 111] Connection refused'))",
            "nothing listens there.",
        ),
        (
            "unable to obtain a session (ssl auth failed: koji.AuthError: Unknown user: nobody\n)",
            "Unknown user: nobody.",
        ),
        (
            "[SSL: TLSV1_ALERT_UNKNOWN_CA] tlsv1 alert",
            "the certificate is not signed by the CA that the hub trusts.",
        ),
        ("database outage", "database outage."),
        ("", "ValueError."),
    ],
)
def test_network_errors_are_put_into_words(text: str, reason: str) -> None:
    assert koji_call._reason(ValueError(text)) == reason
