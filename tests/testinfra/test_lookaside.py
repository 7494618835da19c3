"""The lookaside cache."""

import json

import pytest

CONFIG = "/etc/goose/lookaside.json"


@pytest.fixture
def config(host):
    return json.loads(host.text(CONFIG))


@pytest.fixture
def httpd(host):
    return host.settings("common")["httpd"]


@pytest.fixture
def user(host):
    return host.settings("lookaside")["user"]


def test_service(host, httpd):
    """The cache is a part of Apache, and must be back after a boot."""
    assert host.runs(httpd["service"])
    assert host.starts_at_boot(httpd["service"])


def test_archives_are_listed(host):
    """What people look at first; and an Apache that may not read the directory would answer 403."""
    status, body = host.get(f"https://{host.name}/lookaside/")
    assert status == 200 and "Index of" in body


def test_upload_demands_a_certificate(host):
    """Without one nobody gets as far as the program."""
    status, body = host.get(f"https://{host.name}/lookaside-upload")
    assert status == 403
    assert "certificate" in body


def test_upload_program_answers(host):
    """With a good certificate (this host's own) the program is what answers: Apache, mod_wsgi, werkzeug, the
    configuration all work. It takes nothing by GET."""
    pair = "/run/goose-testinfra.pem"
    host.says("sh", "-c", f"umask 077; cat {host.pki}/host.crt {host.pki}/host.key > {pair}")
    try:
        assert host.get(f"https://{host.name}/lookaside-upload", cert=pair)[0] == 405
    finally:
        host.says("rm", pair)


def test_hosts_are_no_uploaders(host):
    """A host has a good certificate, and no business here: who may upload is named, or may build in Koji."""
    pair = "/run/goose-testinfra.pem"
    host.says("sh", "-c", f"umask 077; cat {host.pki}/host.crt {host.pki}/host.key > {pair}")
    code = (
        "import http.client,ssl,sys\n"
        "c=ssl.create_default_context(cafile=sys.argv[2]); c.load_cert_chain(sys.argv[3])\n"
        "h=http.client.HTTPSConnection(sys.argv[1],context=c,timeout=60)\n"
        "h.request('POST','/lookaside-upload',b'',{'Content-Type':'multipart/form-data; boundary=x'})\n"
        "r=h.getresponse(); print(r.status,r.read().decode())"
    )
    try:
        said = host.says("/usr/bin/python3", "-c", code, host.name, f"{host.pki}/ca.crt", pair)
    finally:
        host.says("rm", pair)
    assert said.startswith(f"403 {host.name} may not upload"), said


def test_only_its_user_writes(host, config, httpd, user):
    """Archives that any program in Apache can replace are not worth a hash."""
    for directory in ("archives", "incoming"):
        path = f"{config['path']}/{directory}"
        host.says("test", "-w", path, user=user)
        for other in (httpd["user"], "nobody"):
            assert not host.run("test", "-w", path, user=other), f"{other} writes {path}"


def test_partial_uploads_are_not_served(host, config, httpd):
    """What is not whole must not be seen by anybody."""
    assert not host.run("ls", f"{config['path']}/incoming", user=httpd["user"])
    assert host.get(f"https://{host.name}/lookaside/incoming/")[0] == 404


def test_one_file_system(host, config):
    """An archive appears by link, which two file systems do not have."""
    devices = host.says("stat", "-c", "%d", f"{config['path']}/archives", f"{config['path']}/incoming").split()
    assert len(set(devices)) == 1


def test_leftovers_are_removed(host, config):
    """A killed upload leaves a file, and enough of them a full disk."""
    stale = f"{config['path']}/incoming/partial-testinfra"
    host.says("touch", stale)
    try:
        # By its time of change, which cannot be set: younger ones stay.
        host.says("systemd-tmpfiles", "--clean", "/etc/tmpfiles.d/lookaside.conf")
        assert host.run("test", "-e", stale), "an upload that comes in just now would be lost"
    finally:
        host.says("rm", "-f", stale)
    assert f"e {config['path']}/incoming" in host.text("/etc/tmpfiles.d/lookaside.conf")
    assert host.runs("systemd-tmpfiles-clean.timer")


def test_fsck_timer(host):
    """Nobody else looks whether the disk still has what was written."""
    assert host.runs("lookaside-fsck.timer")
    assert host.starts_at_boot("lookaside-fsck.timer")


def test_fsck_runs_in_its_sandbox(host, config):
    """What is too much closed shows first at night; a damaged or missing archive fails the unit as well."""
    host.says("systemctl", "start", "lookaside-fsck.service")
    for root in config["repositories"]:
        assert host.run("test", "-d", root), f"{root} is named in pillar, and not there"


def test_fsck_is_closed_up(host):
    """It is root, reads what everybody has sent, and may change archives alone."""
    assert host.exposure("lookaside-fsck.service") <= 2.2
