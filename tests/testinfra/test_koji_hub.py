"""The hub."""

import pytest


@pytest.fixture
def hub(host):
    return f"https://{host.name}/kojihub"


@pytest.fixture
def httpd(host):
    return host.settings("common")["httpd"]


def volume(host):
    return host.config("/etc/koji-hub/hub.conf").get("hub", "KojiDir")


def test_service(host, httpd):
    """The hub is a part of Apache, and must be back after a boot."""
    assert host.runs(httpd["service"])
    assert host.starts_at_boot(httpd["service"])


def test_answers(host, hub):
    """A call that goes to the database and back: certificate, Apache, Python, PostgreSQL all work."""
    assert host.ask(hub, "getAPIVersion") == 1
    assert host.ask(hub, "getTag", "no-such-tag") is None
    administrator = host.settings("koji")["administrator"]
    assert host.ask(hub, "getUser", administrator)["name"] == administrator


def test_tells_its_methods(host, hub):
    """Clients and kojiweb list the API; with a newer Python than Koji knows that is what breaks first."""
    assert "listTagged" in host.ask(hub, "system.listMethods")
    methods = {method["name"]: method for method in host.ask(hub, "_listapi")}
    assert "argspec" in methods["getBuild"]


def test_log_in_demands_a_certificate(host, hub):
    """Sessions begin here: without a certificate nobody gets one."""
    assert host.ask(f"{hub}/ssllogin", "sslLogin") == "HTTP 403"


def test_strangers_become_no_users(host, hub):
    """A good certificate of a name that the data does not hold (this host's own) is not enough."""
    if "koji.builder" in host.roles:
        pytest.skip("this host is a builder, and so a user by its name")
    pair = "/run/goose-testinfra.pem"
    host.says("sh", "-c", f"umask 077; cat {host.pki}/host.crt {host.pki}/host.key > {pair}")
    try:
        assert "FAULT" in str(host.ask(f"{hub}/ssllogin", "sslLogin", cert=pair))
    finally:
        host.says("rm", pair)
    assert host.ask(hub, "getUser", host.name) is None


def test_changes_need_a_log_in(host, hub):
    """Everybody may read; nobody may change anything without a session."""
    for method in ("createTag", "build", "packageListAdd", "grantPermission", "enableHost"):
        assert "FAULT" in str(host.ask(hub, method, "x", "x", "x")[:200])


def test_http_leads_to_https(host):
    """A session's key must not cross the network in the clear."""
    done = host.says("/usr/bin/python3", "-c",
                     "import http.client,sys; c=http.client.HTTPConnection(sys.argv[1],timeout=20);"
                     "c.request('GET','/kojihub'); r=c.getresponse(); print(r.status,r.headers['Location'])",
                     host.name)  # fmt: skip
    assert done == f"301 https://{host.name}/kojihub"


def test_files_are_served(host):
    """Builders and clients fetch RPMs and repos from here."""
    status, body = host.get(f"https://{host.name}/kojifiles/")
    assert status == 200
    assert "repos/" in body and "packages/" in body


def test_volume_is_writable(host, httpd):
    """Uploads and builds fail at their end where Apache's user cannot write."""
    for directory in ("packages", "repos", "scratch", "work"):
        host.says("test", "-w", f"{volume(host)}/{directory}", user=httpd["user"])


def test_volume_is_not_anybodys(host):
    """RPMs that any local user can replace are not worth signing."""
    for directory in ("packages", "repos", "work"):
        assert not host.run("test", "-w", f"{volume(host)}/{directory}", user="nobody")


def test_configuration_is_private(host, httpd):
    """It may hold the database's password, and leads to the key that opens the database."""
    for path in ("/etc/koji-hub/hub.conf", "/etc/koji-hub/db/host.key"):
        assert host.reads(httpd["user"], path)
        assert not host.reads("nobody", path), f"nobody reads {path}"


def test_policy_can_be_read(host):
    """Koji takes a policy with a mistake in it until somebody builds."""
    for path in ("/etc/koji-hub/hub.conf", "/etc/koji-hub/hub.conf.d/policy.conf"):
        host.says("/usr/local/sbin/koji-check-hub-conf", path)
