"""The lab's network on this machine: a bridge, NAT to the outside, names."""

from __future__ import annotations

import json
from pathlib import Path

from goose.lab.record import Record, all_records
from goose.lab.run import LabError, run

_HOSTS = Path("/etc/hosts")


def free_subnet() -> int:
    """A network 198.18.N.0/24 that neither this machine nor another lab uses.

    198.18.0.0/15 is set aside for tests of network devices (RFC 2544), so that it is nobody's own.
    """
    routes = json.loads(run(["ip", "-json", "-4", "route"], what="ip route").stdout or "[]")
    used = {route["dst"].split("/")[0] for route in routes}
    taken = {record.subnet for record in all_records()}
    for number in range(10, 250):
        if f"198.18.{number}.0" not in used and number not in taken:
            return number
    raise LabError("All networks from 198.18.10.0 to 198.18.249.0 are in use: destroy a lab that nobody needs.")


def up(record: Record, addresses: dict[str, str]) -> None:
    """Make bridge, NAT and names; what is there already stays.

    ``addresses``: full host name -> address.
    """
    links = {link["ifname"] for link in json.loads(run(["ip", "-json", "link"], what="ip link").stdout)}
    if record.bridge not in links:
        run(["ip", "link", "add", record.bridge, "type", "bridge"], what=f"Making the bridge {record.bridge}")
    run(["ip", "address", "replace", f"{record.gateway}/24", "dev", record.bridge], what="ip address")
    run(["ip", "link", "set", record.bridge, "up"], what="ip link")
    for table, chain, rule in _rules(record):
        if run(["iptables", "-w", "-t", table, "-C", chain, *rule], what="iptables", check=False).returncode != 0:
            run(["iptables", "-w", "-t", table, "-I", chain, *rule], what="Adding a rule of the lab's network")
    _write_names(record, addresses)


def down(record: Record) -> None:
    """Take away what `up` has made, as far as it is there."""
    for table, chain, rule in _rules(record):
        while run(["iptables", "-w", "-t", table, "-D", chain, *rule], what="iptables", check=False).returncode == 0:
            pass
    run(["ip", "link", "delete", record.bridge], what="ip link", check=False)
    _write_names(record, {})


def mtu() -> int:
    """The MTU of this machine's way out, in bytes: hosts must not send more."""
    routes = json.loads(run(["ip", "-json", "-4", "route", "show", "default"], what="ip route").stdout or "[]")
    if not routes:
        return 1500
    return int(Path(f"/sys/class/net/{routes[0]['dev']}/mtu").read_text())


def _rules(record: Record) -> list[tuple[str, str, list[str]]]:
    mark = ["-m", "comment", "--comment", f"goose-lab {record.name}"]
    masquerade = ["-s", record.network, "!", "-d", record.network, *mark, "-j", "MASQUERADE"]
    return [
        ("nat", "POSTROUTING", masquerade),
        # Container engines set the policy of FORWARD to DROP.
        ("filter", "FORWARD", ["-i", record.bridge, *mark, "-j", "ACCEPT"]),
        ("filter", "FORWARD", ["-o", record.bridge, *mark, "-j", "ACCEPT"]),
    ]


def _write_names(record: Record, addresses: dict[str, str]) -> None:
    start, end = f"# lab {record.name}: begin", f"# lab {record.name}: end"
    block = [start, *(f"{address} {name}" for name, address in addresses.items()), end] if addresses else []
    lines = _HOSTS.read_text().splitlines()
    # Where it stood before: another lab's lines may have come behind it.
    begin = lines.index(start) if start in lines else len(lines)
    behind = lines.index(end, begin) + 1 if end in lines[begin:] else begin
    text = "".join(f"{line}\n" for line in lines)
    lines[begin:behind] = block
    new = "".join(f"{line}\n" for line in lines)
    if new != text:
        # In place: the file may be a mount of its own, which a rename cannot replace.
        _HOSTS.write_text(new)
