"""Sigul's bridge."""

import pytest


@pytest.fixture
def bridge(host):
    return host.settings("sigul")["bridge"]


def test_service(host, bridge):
    """Server and clients dial it: it must be there first, and after a boot."""
    assert host.runs("sigul_bridge")
    assert host.starts_at_boot("sigul_bridge")
    pid = host.says("systemctl", "show", "--property=MainPID", "--value", "sigul_bridge")
    assert host.says("stat", "-c", "%U", f"/proc/{pid}") == bridge["user"]


def test_listens(host):
    """One port for the server, one for clients; the first is closed while a server waits for a client."""
    wanted = host.config("/etc/sigul/bridge.conf")["bridge"]
    ports = {int(wanted["server-listen-port"]), int(wanted["client-listen-port"])}

    def open_ports():
        lines = host.says("ss", "-H", "-ltn").splitlines()
        return {int(line.split()[3].rpartition(":")[2]) for line in lines}

    host.becomes(lambda: ports <= open_ports(), f"listens on {ports}")


def test_certificate_is_the_hosts_own(host, bridge):
    """Renewed with the host's: with one that has run out nobody signs."""
    nick = host.config("/etc/sigul/bridge.conf")["bridge"]["bridge-cert-nickname"]
    held = host.says("certutil", "-L", "-d", f"sql:{bridge['home']}/nss", "-n", nick, "-a")
    assert held.split() == host.text(f"{host.pki}/host.crt").split()


def test_closed(host, bridge):
    """Who has the key or the password in these can stand between server and clients."""
    assert host.access(f"{bridge['home']}/nss") == f"{bridge['user']}:{bridge['group']} 700"
    for path in ("/etc/sigul/bridge-secret.conf", "/etc/sigul/bridge.conf"):
        assert host.access(path) == f"root:{bridge['group']} 640"
        assert not host.reads("nobody", path)


_LOGIN = """
import sys, koji
server, cert, ca, name = sys.argv[1:]
session = koji.ClientSession(server, {"max_retries": 1})
try:
    session.ssl_login(cert, None, ca, proxyuser=name)
    print(session.getLoggedInUser()["name"], session.hasPerm("sign"))
    session.logout()
except koji.AuthError as error:
    print("refused:", error)
"""


def test_hub_takes_it_for_those_who_sign(host):
    """It stores signatures in the name of the one who asked, by ProxyDNs of the hub."""
    config = host.config(f"/etc/sigul/koji-{host.site['id']}.conf")["koji"]
    line = ["/usr/bin/python3", "-c", _LOGIN, config["server"]]
    assert host.says(*line, config["cert"], config["serverca"], "signer") == "signer True"
    pair = "/run/goose-testinfra.pem"
    host.says("sh", "-c", f"umask 077; cat {host.pki}/host.crt {host.pki}/host.key > {pair}")
    try:
        assert "not authorized to login other users" in host.says(*line, pair, config["serverca"], "signer")
    finally:
        host.says("rm", pair)


def test_stops_in_time(host, bridge):
    """It is deaf to SIGTERM: a restart would take a minute and a half."""
    stop = host.says("systemctl", "show", "--property=TimeoutStopUSec", "--value", "sigul_bridge")
    assert stop == f"{bridge['stop_seconds']}s"
