"""What every host has."""

import json
import re
from pathlib import Path

import pytest
import yaml

TREE = Path(__file__).resolve().parents[2]
DECLARED = yaml.safe_load((TREE / "common/ports.yaml").read_text())


def ports(host):
    """What the host's roles declare."""
    return {line["port"] for role in ("common", *host.all_roles) for line in DECLARED.get(role, [])}


@pytest.fixture
def firewall(host):
    """Which firewall the platform has; skipped where the site has switched ours off."""
    kind = host.settings("common")["firewall"]["kind"]
    ours = {"nftables": "/etc/systemd/system/nftables.service.d/goose.conf", "firewalld": "/etc/firewalld/zones/goose.xml"}
    if not host.run("test", "-e", ours[kind]):
        pytest.skip("firewall:enabled is false here")
    return kind


@pytest.fixture
def https(host):
    """Skipped where no role serves HTTPS."""
    if 443 not in ports(host):
        pytest.skip("no role of this host serves HTTPS")


def test_own_name(host):
    """The minion id, the certificate and Apache's name are the host's full name: the system must agree."""
    assert host.text("/etc/hostname").strip() == host.name


def test_names_of_the_others(host):
    """Hub, database and CA are reached by name, and their certificates are checked by it."""
    for name, entry in host.entries.items():
        if "address" in entry:
            addresses = {line.split()[0] for line in host.says("getent", "ahosts", name).splitlines()}
            assert entry["address"] in addresses, f"{name} is {addresses} on {host.name}"


def test_no_unit_has_failed(host):
    """A unit that failed at boot is otherwise seen when it is missed."""
    assert host.says("systemctl", "list-units", "--failed", "--plain", "--no-legend") == ""


def test_journal_outlives_a_boot(host):
    """What a host said before it went down is in the journal on disk, not in memory."""
    host.says("systemd-cat", "--identifier=goose-testinfra", "echo", "written by the tests")

    def written():
        done = host.run("journalctl", "--directory=/var/log/journal", "--identifier=goose-testinfra", "--lines=1")
        return "written by the tests" in done.out

    host.becomes(written, "a message to reach /var/log/journal")


def test_logs_are_rotated(host):
    """A builder's or hub's log fills the disk in weeks; logrotate must be due, and understand its files."""
    assert host.runs("logrotate.timer")
    assert host.starts_at_boot("logrotate.timer")
    host.says("logrotate", "--debug", "/etc/logrotate.conf")


def test_what_listens_is_declared(host):
    """A service that came along with a package is nobody's plan, and open as soon as a firewall is not."""
    sockets = [line.split()[3].rpartition(":") for line in host.says("ss", "-H", "-ltn").splitlines()]
    stray = {
        f"{address}:{port}"
        for address, _, port in sockets
        if int(port) not in ports(host) and not address.startswith(("127.", "[::1]", "[::ffff:127."))
    }
    assert not stray, f"no role of common/ports.yaml declares {sorted(stray)}: {host.says('ss', '-ltnp')}"


def test_firewall_is_on(host, firewall):
    """What the kernel does, against the file that says it; and after a boot, too."""
    unit = firewall
    assert host.runs(unit)
    assert host.starts_at_boot(unit)
    if firewall == "nftables":
        live = host.says("nft", "--stateless", "list", "table", "inet", "goose")
        load = "nft --file /etc/nftables.conf && nft --stateless list table inet goose"
        assert live == host.says("unshare", "--net", "sh", "-c", load)
        assert "policy drop" in live
    else:
        # An interface or a source in another zone would be another firewall.
        zones = [line for line in host.says("firewall-cmd", "--get-active-zones").splitlines() if not line.startswith(" ")]
        assert [zone.split()[0] for zone in zones] == ["goose"]
        assert host.says("firewall-cmd", "--get-default-zone") == "goose"


def test_old_tls_is_refused(host, https):
    """TLS 1.1 and older are broken; the client here would take them."""
    ask = ["openssl", "s_client", "-connect", f"{host.name}:443", "-servername", host.name, "-CAfile", f"{host.pki}/ca.crt"]
    for version in ("-tls1_1", "-tls1"):
        done = host.run("timeout", "20", *ask, version, "-cipher", "ALL:@SECLEVEL=0")
        assert not done and re.search("protocol version|unsupported protocol", done.out + done.err), done.out + done.err
    for version in ("-tls1_2", "-tls1_3"):
        host.says("sh", "-c", f"timeout 20 {' '.join(ask)} {version} -verify_return_error </dev/null")


def test_headers(host, https):
    """Browsers come back by HTTPS alone, guess no types, run nothing in a listing, and show nothing in a frame."""
    code = (
        "import json,ssl,sys,urllib.request,urllib.error\n"
        "c=ssl.create_default_context(cafile=sys.argv[2])\n"
        "try: r=urllib.request.urlopen(sys.argv[1],timeout=20,context=c)\n"
        "except urllib.error.HTTPError as e: r=e\n"
        "print(json.dumps({k.lower(): v for k, v in r.headers.items()}))"
    )
    url = f"https://{host.name}/"
    headers = json.loads(host.says("/usr/bin/python3", "-c", code, url, f"{host.pki}/ca.crt"))
    assert headers["strict-transport-security"].startswith("max-age=")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert "default-src 'none'" in headers["content-security-policy"]


def test_slow_requests_are_ended(host, https):
    """Some hundred connections that never say anything would keep builders and people out."""
    # Connected, the first byte of a handshake, and no more: the server waits for 10 seconds. Without
    # that byte the kernel would not even hand it on.
    code = (
        "import socket,sys,time\n"
        "s=socket.create_connection((sys.argv[1],443)); s.settimeout(60); t=time.monotonic()\n"
        "s.send(b'\\x16')\n"
        "print(s.recv(99), time.monotonic()-t)"
    )
    answer, seconds = host.says("/usr/bin/python3", "-c", code, host.name).rsplit(" ", 1)
    assert answer == "b''" and 5 < float(seconds) < 30


def test_ssh_server(host):
    """Where there is one: no empty passwords, and the protocol's second version, which all newer ones speak alone."""
    if not host.run("test", "-x", "/usr/sbin/sshd"):
        pytest.skip("no ssh server")
    assert "permitemptypasswords no" in host.says("sh", "-c", "mkdir -p /run/sshd; /usr/sbin/sshd -T").lower()
