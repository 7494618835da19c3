"""What a host's firewall shall open, by the tree's data, and what a rendered file opens, by its own reader."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

Opened = dict[int, set[str]]
"""Port -> addresses and networks that it is open to, `anywhere` among them."""


def roles_of(pillar: Mapping[str, Any]) -> list[str]:
    """The host's roles, with the one that every host of a site that watches has."""
    watched = any("monitoring" in host.get("roles", []) for host in pillar["hosts"].values())
    return [*pillar["roles"], *(["monitoring.exporter"] if watched else [])]


def declared(root: Path) -> dict[str, list[dict[str, Any]]]:
    """Return what the roles of common/ports.yaml serve."""
    data: dict[str, list[dict[str, Any]]] = yaml.safe_load((root / "common/ports.yaml").read_text(encoding="utf-8"))
    return data


def expected(root: Path, pillar: Mapping[str, Any], name: str) -> Opened:
    """Return what the host `name` shall open; a port that nobody may reach is left out."""
    settings = pillar.get("firewall") or {}
    hosts = {other: entry for other, entry in pillar["hosts"].items() if other != name}

    def addresses(word: str) -> set[str]:
        if word in ("anywhere", "hosts"):
            return {"anywhere"} if word == "anywhere" else {entry["address"] for entry in hosts.values()}
        if re.fullmatch(r"[0-9.:a-f]+(/\d+)?", word):
            return {word}
        return {entry["address"] for entry in hosts.values() if word in entry["roles"]}

    opened: Opened = {}
    for role, lines in {**declared(root), **settings.get("ports", {})}.items():
        for line in lines if role in ("common", *roles_of(pillar)) else []:
            value: Any = pillar
            for key in line.get("pillar", "").split(":"):
                value = (value or {}).get(key)
            words = settings.get("ssh_from", "anywhere") if line["from"] == "ssh_from" else line["from"]
            found = opened.setdefault(int(value or line["port"]), set())
            for word in [words] if isinstance(words, str) else words:
                found |= addresses(word)
    return {port: {"anywhere"} if "anywhere" in found else found for port, found in opened.items() if found}


def nftables(text: str) -> Opened:
    """Read an nftables file of the project: what its input chain accepts by a port of TCP."""
    opened: Opened = {}
    for sources, port in re.findall(r"^\s*(?:ip6? saddr \{ ([^}]*) \} )?tcp dport (\d+) accept$", text, re.MULTILINE):
        opened.setdefault(int(port), set()).update(sources.split(", ") if sources else ["anywhere"])
    return opened


def nftables_fault(text: str) -> str:
    """Return what nft, which knows no host's tables here, says against a file; empty where nothing, or no nft."""
    nft = shutil.which("nft", path="/usr/sbin:/usr/bin:/sbin")
    if nft is None:
        return ""
    # Loaded, and not only checked, into a network of nobody.
    line = ["unshare", "--map-root-user", "--net", nft, "--file", "-"]
    done = subprocess.run(line, input=text, capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""


def firewalld(text: str, directory: Path) -> Opened:
    """Read a zone by firewalld's own reader, which refuses what firewalld would."""
    from firewall.core.io.zone import zone_reader

    (directory / "goose.xml").write_text(text, encoding="utf-8")
    zone = zone_reader("goose.xml", str(directory))
    assert zone.target == "DROP"
    opened: Opened = {int(port): {"anywhere"} for port, protocol in zone.ports if protocol == "tcp"}
    for rule in zone.rules:
        assert str(rule).endswith(' protocol="tcp" accept'), rule
        opened.setdefault(int(rule.element.port), set()).add(rule.source.addr)
    return opened
