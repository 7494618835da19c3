"""The host from which Koji's content is managed."""


def administrator(host):
    return host.settings("koji")["administrator"]


def test_root_is_the_administrator(host):
    """Content is applied from here; without this log-in every apply stops."""
    name = administrator(host)
    assert name in host.says("koji", "hello")
    assert host.koji("getLoggedInUser")["name"] == name
    assert "admin" in host.koji("getUserPerms", name)


def test_only_root_is(host):
    """Others on this host have certificates of their own, or none."""
    assert not host.reads("nobody", f"{host.pki}/{administrator(host)}.pem")


def test_builders_are_known(host):
    """A builder that is not registered before kojid starts becomes an ordinary user, and never works."""
    known = {row["name"] for row in host.koji("listHosts")}
    assert {name for name, entry in host.entries.items() if "koji.builder" in entry["roles"]} <= known


def test_targets_can_be_built(host):
    """A build fails at its first step where a target's tags have no architecture or no groups."""
    targets = host.koji("getBuildTargets")
    assert targets
    for target in targets:
        tag = host.koji("getTag", target["build_tag_name"])
        assert tag["arches"], f"{tag['name']} has no architectures"
        groups = {group["name"]: group for group in host.koji("getTagGroups", tag["name"])}
        for name in ("build", "srpm-build"):
            assert groups.get(name, {}).get("packagelist"), f"{tag['name']} has no packages in the group {name}"


def test_kojira_may_make_repos(host):
    """Without the permission kojira runs, and no repo is ever made."""
    assert "repo" in host.koji("getUserPerms", "kojira")
