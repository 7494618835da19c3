"""The embedded build root, where the site has one."""

import json

import pytest

CONFIG = "/etc/goose/buildroot.json"


@pytest.fixture
def buildroot(host):
    if not host.run("test", "-e", CONFIG):
        pytest.skip("this site builds from external repositories")
    return json.loads(host.text(CONFIG))


def test_imported(host, buildroot):
    """Every build starts from it: the hub must have the one that pillar describes, tagged."""
    host.says("/usr/bin/python3", "/usr/local/lib/goose/koji_buildroot.py", "status")


def test_is_complete(host, buildroot):
    """Each group that a build root starts with is one RPM of it, for each architecture."""
    build = host.koji("listTagged", buildroot["tag"])[0]
    assert build["state"] == 1
    rpms = {(rpm["name"], rpm["arch"]) for rpm in host.koji("listBuildRPMs", str(build["id"]))}
    for group in buildroot["groups"]:
        for arch in buildroot["arches"]:
            found = {(f"{buildroot['name']}-{group}", arch), (f"{buildroot['name']}-{group}", "noarch")} & rpms
            assert found, f"{group} has no RPM for {arch}"


def test_is_downloaded(host, buildroot):
    """A builder gets it from the files' URL, not from this host."""
    build = host.koji("listTagged", buildroot["tag"])[0]
    url = host.config("/etc/koji.conf").get("koji", "topurl")
    path = f"packages/{build['package_name']}/{build['version']}/{build['release']}/"
    assert host.get(f"{url}/{path}")[0] == 200
