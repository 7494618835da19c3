"""Sigul's server, which holds the keys."""

import json
import re

import pytest


@pytest.fixture
def server(host):
    return host.settings("sigul")["server"]


@pytest.fixture
def config(host):
    return host.config("/etc/sigul/server.conf")


def test_service(host, server):
    """Nothing is signed without it."""
    assert host.runs("sigul_server")
    assert host.starts_at_boot("sigul_server")
    pid = host.says("systemctl", "show", "--property=MainPID", "--value", "sigul_server")
    assert host.says("stat", "-c", "%U", f"/proc/{pid}") == server["user"]


def test_dials_the_bridge(host, config):
    """A server that does not reach it lets clients wait without an end."""
    port = config["server"]["bridge-port"]

    def connected():
        return host.says("ss", "-H", "-tn", "state", "established", f"( dport = :{port} )")

    host.becomes(connected, f"is connected to port {port}", seconds=90)


def test_takes_nothing_from_the_network(host, server):
    """It dials out, and has no port that somebody could knock at; to itself it speaks over the loopback."""
    outside = [line for line in host.says("ss", "-H", "-ltunp").splitlines() if " 127.0.0.1:" not in line]
    listening = set(re.findall(r"pid=(\d+),", "\n".join(outside)))
    owners = {host.says("stat", "-c", "%U", f"/proc/{pid}") for pid in listening}
    assert server["user"] not in owners


def test_closed(host, server, config):
    """What is in here signs packages for all systems."""
    owner = f"{server['user']}:{server['group']}"
    for path in (server["home"], config["gnupg"]["gnupg-home"], config["keys"]["keys-storage"], config["nss"]["nss-dir"]):
        assert host.access(path) == f"{owner} 700"
    assert host.access(config["database"]["database-path"]) == f"{owner} 600"
    for path in ("/etc/sigul/server.conf", "/etc/sigul/server-secret.conf"):
        assert host.access(path) == f"root:{server['group']} 640"
    kept = server["administrator_passphrase_file"]
    if host.run("test", "-e", kept):
        assert host.access(kept) == "root:root 600"


def test_certificate_is_the_hosts_own(host, config):
    """Renewed with the host's: with one that has run out nobody signs."""
    database = f"sql:{config['nss']['nss-dir']}"
    held = host.says("certutil", "-L", "-d", database, "-n", config["server"]["server-cert-nickname"], "-a")
    assert held.split() == host.text(f"{host.pki}/host.crt").split()


def test_gnupg_is_set_before_keys(host, config, server):
    """Without these a key cannot be made, or is slow for ever."""
    home = config["gnupg"]["gnupg-home"]
    assert "pinentry-mode loopback" in host.text(f"{home}/gpg.conf")
    assert "s2k-count 65536" in host.text(f"{home}/gpg-agent.conf")
    # A line that GnuPG does not know fails each request, and leaves a key without a name.
    done = host.run("gpg", "--homedir", home, "--gpgconf-test", user=server["user"])
    assert done and not done.err.strip(), done.err


def test_has_an_administrator(host, config):
    """Users and keys are made by one."""
    code = (
        "import json,sqlite3,sys\n"
        "with sqlite3.connect(f'file:{sys.argv[1]}?mode=ro',uri=True) as d:\n"
        "    print(json.dumps(d.execute('select name from users where admin').fetchall()))"
    )
    assert json.loads(host.says("/usr/bin/python3", "-c", code, config["database"]["database-path"]))
