"""What each host of the lab shows to the others, and what keeps it so."""

from __future__ import annotations

import json
import re
import subprocess
import xml.etree.ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import firewalls
from goose.lab import lab as labs
from goose.lab.host import Host
from goose.lab.run import wait_for

if TYPE_CHECKING:
    from conftest import Command

ROOT = Path(__file__).resolve().parents[3]
# Nobody listens there until a test does.
STRAY = 48123


def opened_by(lab: labs.Lab, target: Host) -> firewalls.Opened:
    """What ``target`` opens, by the roles of the lab's hosts."""
    hosts = {host.fqdn: {"address": host.address, "roles": host.roles} for host in lab.hosts}
    return firewalls.expected(ROOT, {"hosts": hosts, "roles": target.roles}, target.fqdn)


def may_reach(lab: labs.Lab, source: Host, target: Host) -> set[int]:
    """Ports that ``target`` declares for ``source``."""
    return {port for port, sources in opened_by(lab, target).items() if sources & {"anywhere", source.address}}


def scan(source: Host, targets: list[Host]) -> dict[str, set[int]]:
    """TCP ports of ``targets`` that are open to ``source``, by address: nmap of this machine in its network.

    The first 10,000, and all others that any of them listens on: more cannot be open, and would take an hour.
    """
    asked = ",".join(["1-10000", *(str(port) for port in sorted(set().union(*map(listening, targets))) if port > 10000)])
    line = ["nsenter", "--net", f"--target={source.leader()}", "--", "nice", "-n", "19"]
    line += ["nmap", "-sS", "-Pn", "-n", f"-p{asked}"]
    # Each port is asked twice where nothing answers; all is one bridge of this machine.
    line += ["--max-retries=1", "--min-rate=25000", "--min-hostgroup=16", "-T5", "--host-timeout=15m", "-oX", "-"]
    done = subprocess.run([*line, *(host.address for host in targets)], capture_output=True, text=True, check=True)
    found = {}
    for host in xml.etree.ElementTree.fromstring(done.stdout).iter("host"):
        address = next(each.attrib["addr"] for each in host.iter("address") if each.attrib["addrtype"] == "ipv4")
        ports = [port for port in host.iter("port") if port.find("state[@state='open']") is not None]
        found[address] = {int(port.attrib["portid"]) for port in ports}
    assert found.keys() == {host.address for host in targets}, done.stdout[-2000:]
    return found


def connects(source: Host, target: Host, port: int) -> bool:
    """Whether a connection from ``source`` comes through."""
    code = "import socket,sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=2).close()"
    return source.run(["/usr/bin/python3", "-c", code, target.address, str(port)], check=False).returncode == 0


def listening(host: Host) -> set[int]:
    """TCP ports that somebody listens on, at other addresses than the host's own loopback."""
    sockets = [line.split()[3].rpartition(":") for line in host.run(["ss", "-H", "-ltn"]).stdout.splitlines()]
    return {int(port) for address, _, port in sockets if not address.startswith(("127.", "[::1]"))}


@pytest.fixture
def stray(lab: labs.Lab) -> Iterator[Host]:
    """A host where somebody has left a server that no role declares."""
    host = lab.need_role("koji.builder")
    unit = ["systemd-run", "--quiet", "--collect", "--unit=stray-test"]
    host.run([*unit, "/usr/bin/python3", "-m", "http.server", "--directory", "/var/empty", str(STRAY)])
    try:
        wait_for(lambda: connects(host, host, STRAY), what="the stray server to listen", seconds=30)
        yield host
    finally:
        host.run(["systemctl", "stop", "stray-test"])


def test_hosts_find_only_what_is_declared(lab: labs.Lab, stray: Host) -> None:
    """From every host, the ports of every other; a server that no role declares among them."""
    wrong, looked = [], 0
    for source in lab.hosts:
        targets = [host for host in lab.hosts if host != source]
        found = scan(source, targets)
        for target in targets:
            looked += 1
            # What is declared and served is found, too: a scan that finds nothing proves nothing.
            wanted, seen = may_reach(lab, source, target) & listening(target), found[target.address]
            if seen != wanted:
                wrong.append(f"{source.name} finds {sorted(seen)} open on {target.name}, in place of {sorted(wanted)}")
    assert looked == len(lab.hosts) * (len(lab.hosts) - 1)
    assert not wrong, "\n".join(wrong)


def test_a_stranger_finds_only_what_is_open_to_all(lab: labs.Lab, stray: Host) -> None:
    """An address that is no host of pillar: this machine, on the lab's own bridge."""
    for host in lab.hosts:
        opened = opened_by(lab, host)
        for port in (22, 80, 443, 4505, 4506, 5432, STRAY):
            line = ["nmap", "-sT", "-Pn", "-n", "--max-retries=1", f"-p{port}", "-oG", "-", host.address]
            said = subprocess.run(line, capture_output=True, text=True, check=True).stdout
            assert opened.get(port) == {"anywhere"} or "/open/" not in said, said


def test_rules_are_repaired(command: Command, lab: labs.Lab, stray: Host) -> None:
    """A rule taken away, one added by hand, and the whole table: seen by a test, mended by one apply."""
    hub = lab.need_role("koji.hub")
    handle = "nft -a list chain inet goose input | sed -n 's/.*tcp dport 443 accept # handle //p'"
    hub.run(["sh", "-c", f"nft delete rule inet goose input handle $({handle})"])
    stray.run(["nft", "add", "rule", "inet", "goose", "input", "tcp", "dport", str(STRAY), "accept"])
    mash = lab.need_role("mash")
    mash.run(["nft", "delete", "table", "inet", "goose"])
    assert not connects(stray, hub, 443) and connects(hub, stray, STRAY), "the damage does not show"

    broken = (hub, stray, mash)
    plan = command("apply", "--test", *(host.name for host in broken))
    done = command("apply", *(host.name for host in broken))
    for said in (plan.stdout, done.stdout):
        for host in broken:
            assert re.search(rf"^{host.name}: common-firewall-loaded ", said, re.MULTILINE), said
    assert connects(stray, hub, 443) and not connects(hub, stray, STRAY)
    mash.run(["nft", "list", "table", "inet", "goose"])
    again = command.apply("--test")
    assert {(outcome["changed"], outcome["failed"]) for outcome in again.values()} == {(0, 0)}


def test_others_tables_stay(command: Command, lab: labs.Lab) -> None:
    """Containers and virtual machines have tables of their own, which outlive a reload and a stop."""
    host = lab.need_role("koji.builder")
    host.run(["nft", "add table ip containers; add chain ip containers nat { type nat hook postrouting priority 100; }"])
    try:
        before = host.run(["nft", "list", "table", "ip", "containers"]).stdout
        for verb in ("reload", "restart"):
            host.run(["systemctl", verb, "nftables"])
            assert host.run(["nft", "list", "table", "ip", "containers"]).stdout == before
            assert "policy drop" in host.run(["nft", "list", "table", "inet", "goose"]).stdout
        host.run(["systemctl", "stop", "nftables"])
        assert host.run(["nft", "list", "table", "ip", "containers"]).stdout == before
    finally:
        host.run(["nft", "delete", "table", "ip", "containers"], check=False)
        host.run(["systemctl", "start", "nftables"])


def test_connections_outlive_the_first_load(command: Command, lab: labs.Lab) -> None:
    """A minion's connection is older than the rules when they are first loaded, and its master speaks next."""
    host = lab.need_role("koji.builder")
    master = lab.master
    assert master is not None
    # Without the table the kernel forgets what it knew of connections.
    host.run(["nft", "delete", "table", "inet", "goose"])
    host.run(["sh", "-c", "nft --file /etc/nftables.conf"])
    said = master.run(["salt", "--out=json", "--out-indent=-1", "--timeout=10", "-L", host.fqdn, "test.ping"], check=False)
    assert json.loads(said.stdout) == {host.fqdn: True}


SECRET = "s3cret-of-builder1-alone"


def test_encrypted_pillar_reaches_its_host_alone(command: Command, lab: labs.Lab) -> None:
    """A value of `#!yaml|gpg`: in its host's closed file, and in no diff, log, cache that others read, or host."""
    master, host = lab.master, lab.need_role("koji.builder")
    assert master is not None
    others = [each for each in lab.hosts if each != host]
    # As an administrator does it, anywhere: with the public key alone.
    home = master.run(["mktemp", "-d"]).stdout.strip()
    gpg = f"gpg --homedir {home} --batch --quiet --trust-model always"
    public = "/etc/salt/pillar-key.asc"
    script = f"{gpg} --import {public} && {gpg} --armor --encrypt --recipient-file {public}"
    script += f"; gpgconf --homedir {home} --kill all; rm -rf {home}"
    message = master.run(["sh", "-c", script], stdin=SECRET).stdout
    assert message.startswith("-----BEGIN PGP MESSAGE-----")
    lines = "".join(f"        {line}\n" for line in message.splitlines())
    secret = lab.record.root / "pillar/secrets" / f"{host.fqdn.replace('.', '_')}.sls"
    assert not secret.exists()
    secret.write_text(f"#!yaml|gpg\nkoji:\n  builder:\n    options:\n      smtp_pass: |\n{lines}")
    secret.chmod(0o600)
    config = "/etc/kojid/kojid.conf"
    try:
        plan = command("apply", "--test", host.name)
        done = command("apply", host.name)
        assert "koji-builder-config" in plan.stdout and "koji-builder-config" in done.stdout
        assert SECRET in host.run(["cat", config]).stdout
        assert host.run(["stat", "-c", "%a", config]).stdout.strip() == "640"
        for text in (plan.stdout, plan.stderr, done.stdout, done.stderr):
            assert SECRET not in text
        # Nobody else's pillar, no file that others read, no journal, no log.
        for each in others:
            items = each.run(["salt-call", "--out=json", "pillar.items", "unmask=True"]).stdout
            assert each.fqdn in items and SECRET not in items
            found = each.run(["grep", "-rlsF", SECRET, "/etc", "/home", "/root", "/run/log", "/var/log"], check=False)
            assert found.stdout == ""
        for each in lab.hosts:
            journal = each.run(["journalctl", "--quiet", "--boot", "--grep", SECRET], check=False).stdout
            assert SECRET not in journal, journal
            logs = each.run(["grep", "-rlsF", SECRET, "/var/log"], check=False).stdout
            assert logs == ""
        seen = master.run(["runuser", "-u", "nobody", "--", "grep", "-rlsF", SECRET, "/var/cache/salt", "/etc"], check=False)
        assert seen.stdout == ""
        again = command.apply(host.name)
        assert again[host.name]["changed"] == again[host.name]["failed"] == 0
    finally:
        secret.unlink()
        command("apply", host.name, check=False)
    assert SECRET not in host.run(["cat", config]).stdout


def test_a_value_that_cannot_be_read_is_told(command: Command, lab: labs.Lab) -> None:
    """Encrypted for another key: the host's apply fails, and no file gets the message in place of the value."""
    host = lab.need_role("koji.builder")
    secret = lab.record.root / "pillar/secrets" / f"{host.fqdn.replace('.', '_')}.sls"
    assert not secret.exists()
    message = "-----BEGIN PGP MESSAGE-----\n\n        hF4DAAAAAAAAAAA=\n        -----END PGP MESSAGE-----\n"
    secret.write_text(f"#!yaml|gpg\nkoji:\n  builder:\n    options:\n      smtp_pass: |\n        {message}")
    try:
        outcome = command.apply(host.name)[host.name]
        assert outcome["failed"] >= 1
        assert "PGP" not in host.run(["cat", "/etc/kojid/kojid.conf"]).stdout
    finally:
        secret.unlink()
    assert command.apply(host.name)[host.name]["failed"] == 0


def test_all_of_it_is_unchanged(command: Command) -> None:
    """After all that, a plan has nothing to do, and neither has an apply."""
    for words in (("--test",), ()):
        outcomes = command.apply(*words)
        assert {(outcome["changed"], outcome["failed"]) for outcome in outcomes.values()} == {(0, 0)}, outcomes
