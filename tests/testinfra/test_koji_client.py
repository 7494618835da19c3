"""The command line client."""

import pytest


@pytest.mark.parametrize("own", [False, True], ids=["default", "site"])
def test_profile_speaks_to_this_hub(host, own):
    """EPEL's client points at Fedora's Koji; both the default and the site's profile must mean ours."""
    profile = [f"--profile={host.site['id']}"] if own else []
    path = "/etc/koji.conf.d/goose.conf" if own else "/etc/koji.conf"
    config = host.config(path)
    assert host.with_role("koji.hub") in config.get(host.site["id"] if own else "koji", "server")
    assert host.says("koji", "--noauth", *profile, "call", "getAPIVersion") == "1"


def test_files_are_reached(host):
    """`koji download-build` takes them by topurl."""
    url = host.config("/etc/koji.conf").get("koji", "topurl")
    assert host.get(f"{url}/")[0] == 200


def test_configuration_is_for_everybody(host):
    """People on this host use it with certificates of their own."""
    assert host.reads("nobody", "/etc/koji.conf")
    assert host.reads("nobody", "/etc/koji.conf.d/goose.conf")
