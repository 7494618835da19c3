"""Kojiweb."""

import pytest


@pytest.fixture
def web(host):
    return f"https://{host.name}/koji"


@pytest.fixture
def httpd(host):
    return host.settings("common")["httpd"]


@pytest.mark.parametrize("page", ["", "/tasks", "/builds", "/tags", "/hosts", "/users", "/buildtargets", "/api"])
def test_pages(host, web, page):
    """Each page is a template of its own over calls of its own: a library that is missing breaks some."""
    status, body = host.get(f"{web}{page}")
    assert status == 200
    assert "<html" in body.lower() and "Traceback" not in body


def test_style_is_served(host, web):
    """Without it the pages are a heap of text."""
    _, body = host.get(web)
    assert "/koji-static/koji.css" in body
    assert host.get(f"https://{host.name}/koji-static/koji.css")[0] == 200


def test_log_in_demands_a_certificate(host, web):
    """Anonymous people must not get a session in anybody's name, and should read why."""
    status, body = host.get(f"{web}/login")
    assert status == 403
    assert "certificate" in body


def test_pages_act_for_nobody(host, web):
    """Changing pages refuse without a log-in."""
    status, body = host.get(f"{web}/canceltask?taskID=1")
    assert status in (401, 403, 500) or "login" in body.lower() or "log in" in body.lower()


def test_hub_lets_kojiweb_in(host, httpd):
    """The pages log in at the hub with this certificate, which must be kojiweb's and readable to Apache."""
    config = host.config("/etc/kojiweb/web.conf")
    cert = config.get("web", "WebCert")
    assert host.subject(cert).startswith("CN=kojiweb,")
    assert host.reads(httpd["user"], cert)
    assert not host.reads("nobody", cert)


def test_secret_is_private(host, httpd):
    """Who knows it makes cookies in anybody's name."""
    for path in ("/etc/kojiweb/web.conf", "/etc/kojiweb/web.conf.d/secret.conf"):
        assert host.reads(httpd["user"], path)
        assert not host.reads("nobody", path)
    secret = host.config("/etc/kojiweb/web.conf.d/secret.conf").get("web", "Secret")
    assert len(secret) >= 32, "short enough to guess"
    assert "CHANGE" not in secret
