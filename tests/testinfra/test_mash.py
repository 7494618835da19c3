"""Repositories of what tags have."""

import json

import pytest

PROGRAM = "/usr/local/lib/goose/mash_repo.py"


@pytest.fixture
def mash(host):
    return host.settings("mash")


@pytest.fixture
def names(host):
    """Repositories that this host makes, by their files."""
    return [name[: -len(".mash")] for name in host.says("ls", "/etc/mash").split() if name.endswith(".mash")]


def published(host, mash, name):
    """Whether anything was ever published under this name."""
    return host.run("test", "-L", f"{mash['output']}/{name}")


def test_service(host):
    """Repositories are files that Apache serves, and it must be back after a boot."""
    httpd = host.settings("common")["httpd"]["service"]
    assert host.runs(httpd)
    assert host.starts_at_boot(httpd)


def test_repositories_are_listed(host):
    """What people look at first; and an Apache that may not read the directory would answer 403."""
    status, body = host.get(f"https://{host.name}/repos/")
    assert status == 200 and "Index of" in body


def test_client_file(host, mash, names):
    """What a client needs, with this host's URL in it and the repository's name."""
    for name in names:
        status, body = host.get(f"https://{host.name}/repos/{name}.repo")
        assert status == 200 and f"[{name}]" in body
        assert f"baseurl=https://{host.name}/repos/" in body


def test_generations_are_not_served(host):
    """What was not published, or is no more, must not be found by anybody."""
    assert host.get(f"https://{host.name}/repos/.mash/")[0] == 404


def test_only_its_user_writes(host, mash):
    """Apache's own user must not be able to change what people install."""
    host.says("test", "-w", mash["output"], user=mash["user"])
    for other in (host.settings("common")["httpd"]["user"], "nobody"):
        assert not host.run("test", "-w", mash["output"], user=other), f"{other} writes {mash['output']}"


def test_it_only_reads_kojis_volume(host, mash):
    """It has no business there but to read what is built."""
    volume = host.settings("koji")["volume"]["path"]
    host.says("test", "-r", volume, user=mash["user"])
    assert not host.run("test", "-w", volume, user=mash["user"])


def test_libraries(host, mash):
    """The system's Python has all that the program works with, and libsolv knows RPM's versions."""
    code = (
        "import koji,createrepo_c,solv; p=solv.Pool(); p.setdisttype(p.DISTTYPE_RPM);"
        "assert hasattr(createrepo_c,'xml_from_rpm')"
    )
    host.says("/usr/bin/python3", "-c", code, user=mash["user"])


def test_configuration_is_understood(host, mash, names):
    """The program reads all of its files: a key that it does not know refuses them all, with status 2.

    What the tag has may refuse the repository, and is another matter.
    """
    for name in names:
        done = host.run("/usr/bin/python3", "-B", PROGRAM, name, "--dry-run", "--json", user=mash["user"])
        # A key that is named and not published yet is no mistake of these files.
        if done.status != 2 or "RPM-GPG-KEY-" not in done.err:
            assert done.status in (0, 1, 4, 5), done.err
            assert json.loads(done.out)["mashes"][0]["name"] == name


def test_timers(host, names):
    """A repository with a calendar is made without a person, and after a boot, too; any is made by its unit."""
    for name in names:
        unit = f"mash-{name}.timer"
        if host.run("test", "-e", f"/etc/systemd/system/{unit}"):
            assert host.runs(unit) and host.starts_at_boot(unit)
        else:
            assert not host.runs(unit)
        assert host.says("systemctl", "show", "--property=LoadState", f"mash-{name}.service") == "LoadState=loaded"


def test_what_is_published_is_whole(host, mash, names):
    """Metadata over HTTPS, and all files that the manifest names on the disk."""
    for name in names:
        if not published(host, mash, name):
            continue
        status, body = host.get(f"https://{host.name}/repos/{name}/mash.json")
        assert status == 200
        for tree in json.loads(body)["trees"].values():
            status, repomd = host.get(f"https://{host.name}/repos/{name}/{tree['repodata']}/repodata/repomd.xml")
            assert status == 200 and "primary" in repomd
            for place, *_ in list(tree["rpms"].values())[:5]:
                host.says("test", "-s", f"{mash['output']}/{name}/{place}")


def test_it_runs_in_its_sandbox(host, mash, names):
    """What is too much closed shows first at night; a repository that is refused fails the unit as well."""
    for name in names:
        if published(host, mash, name):
            host.says("systemctl", "start", f"mash-{name}.service")


def test_units_are_closed_up(host, names):
    """They read packages that others have built, and write where all people install from."""
    for name in names:
        assert host.exposure(f"mash-{name}.service") <= 2.0
