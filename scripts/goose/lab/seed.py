"""What a host is given before its first boot: names, network, Salt's configuration and keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from goose.lab.host import Host
from goose.lab.network import mtu
from goose.lab.record import Record
from goose.lab.run import run

_SECRET = 0o600

PACKAGER = "kojiadmin"
"""Who root is to the lab's SCM, wherever there is the packagers' command."""


def pillar(record: Record, hosts: Sequence[Host], tree: Path, profile_pillar: dict[str, Any]) -> None:
    """Write the lab's own pillar root, which wins over the repository's."""
    directory = record.root / "pillar"
    (directory / "secrets").mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    entries = {host.fqdn: {"address": host.address, "roles": list(host.roles)} for host in hosts}
    site = yaml.safe_load((tree / "pillar/site.yaml").read_text())
    site["domain"] = record.domain
    for name, data in (("hosts.yaml", entries), ("site.yaml", site), ("local.sls", profile_pillar)):
        _write(directory / name, yaml.safe_dump(data, sort_keys=False))


def merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``over`` put over ``under`` as Salt does it: maps are joined, all else is replaced."""
    result = dict(under)
    for key, value in over.items():
        known = result.get(key)
        result[key] = merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return result


def host(host: Host, master: Host | None) -> None:
    """Prepare ``host``'s own layer. Without ``master`` it is masterless."""
    _write(host.root / "etc/hostname", f"{host.fqdn}\n")
    names = host.root / "etc/hosts"
    known = names.read_text() if names.exists() else ""
    if host.fqdn not in known:
        # Salt asks for its own name at every start, many times. The states add the others.
        _write(names, f"{known}{host.address} {host.fqdn} {host.name}\n")
    network = (
        "[Match]\nName=host0\n\n"
        f"[Link]\nMTUBytes={mtu()}\n\n"
        f"[Network]\nAddress={host.address}/24\nGateway={host.record.gateway}\n"
        "LinkLocalAddressing=no\nIPv6AcceptRA=no\n"
    )
    _write(host.root / "etc/systemd/network/10-lab.network", network)
    minion: dict[str, Any] = {"id": host.fqdn}
    if master is None:
        minion["file_client"] = "local"
    else:
        minion["master"] = master.address
        # Hosts boot side by side: do not wait long for a master that comes up just now.
        minion.update(auth_timeout=3, acceptance_wait_time=1, recon_default=200, recon_max=1000)
    if master in (None, host):
        # For salt-call --local; the master's own come from the state salt.master.
        minion["file_roots"] = {"base": ["/srv/salt"]}
        minion["pillar_roots"] = {"base": ["/srv/site-pillar", "/srv/salt/pillar"]}
    _write(host.root / "etc/salt/minion.d/lab.conf", yaml.safe_dump(minion, sort_keys=False))
    # The master's own minion is switched on when the master is there, and then starts after it.
    if host == master:
        _write(host.root / "etc/systemd/system/salt-minion.service.d/lab.conf", "[Unit]\nAfter=salt-master.service\n")
    elif master is not None:
        wants = host.root / "etc/systemd/system/multi-user.target.wants/salt-minion.service"
        if not wants.is_symlink():
            wants.symlink_to("/etc/systemd/system/salt-minion.service")


def packager(hosts: Sequence[Host]) -> dict[str, Any]:
    """Give root on each host with role scm.client an ssh key; pillar by which the lab's SCM takes it."""
    lines = []
    for host in hosts:
        if "scm.client" not in host.roles:
            continue
        key = host.root / "root/.ssh/id_ed25519"
        public = key.with_name("id_ed25519.pub")
        key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not public.exists():
            key.unlink(missing_ok=True)
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"root@{host.fqdn}", "-f", str(key)]
            run(command, what="Making an ssh key")
        lines.append(public.read_text().strip())
    return {"users": {PACKAGER: lines}, "administrators": [PACKAGER]} if lines else {}


def recipient(record: Record, hosts: Sequence[Host]) -> dict[str, Any]:
    """Make the key that the lab's backups are sealed for; pillar by which the hosts take its public half.

    Its secret half stays on this machine, as a site's does somewhere that no backup is.
    """
    if not any("koji.backup" in host.roles for host in hosts):
        return {}
    home = gnupg_home(record)
    name = f"Backups of the lab {record.name}"
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--no-tty"]
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    public = run([*gpg, "--armor", "--export", f"={name}"], what="Reading the backups' key").stdout
    if not public:
        words = ["--passphrase", "", "--pinentry-mode", "loopback", "--quick-generate-key", name]
        run([*gpg, *words, "default", "default", "never"], what="Making the backups' key")
        # What was started for it would else be left running.
        run(["gpgconf", "--homedir", str(home), "--kill", "all"], what="Ending gpg-agent")
        public = run([*gpg, "--armor", "--export", f"={name}"], what="Reading the backups' key").stdout
    return {"koji": {"backup": {"recipients": {record.name: public}}}}


def gnupg_home(record: Record) -> Path:
    """Where the key lies that opens what is sealed in the lab's backups."""
    return record.root / "backup-key"


def keys(hosts: Sequence[Host], master: Host) -> None:
    """Give the master and every minion their keys, each known to the other before they meet."""
    master_pki = master.root / "etc/salt/pki/master"
    (master_pki / "minions").mkdir(parents=True, exist_ok=True)
    master_pki.chmod(0o700)
    # Salt 3008 names the master's key after its id, and moves a master.pem there at its first start.
    master_public = _key_pair(master_pki, master.fqdn)
    for host in hosts:
        minion_pki = host.root / "etc/salt/pki/minion"
        minion_pki.mkdir(parents=True, exist_ok=True)
        minion_pki.chmod(0o700)
        public = _key_pair(minion_pki, "minion")
        _write(minion_pki / "minion_master.pub", master_public)
        _write(master_pki / "minions" / host.fqdn, public)


def _key_pair(directory: Path, name: str) -> str:
    private = directory / f"{name}.pem"
    if not private.exists():
        made = run(["openssl", "genrsa", "2048"], what="Making a Salt key").stdout
        _write(private, made, mode=_SECRET)
    public = run(["openssl", "rsa", "-in", str(private), "-pubout"], what="Reading a Salt key").stdout
    _write(directory / f"{name}.pub", public)
    return public


def volumes(record: Record, host: Host, settings: dict[str, Any], tree: Path, master: Host | None) -> list[str]:
    """The directories of this machine that ``host`` shares, as options of systemd-nspawn."""
    binds = []
    if master in (None, host):
        binds += [f"--bind-ro={tree}:/srv/salt", f"--bind-ro={record.root}/pillar:/srv/site-pillar"]
    local = len(record.hosts) == 1
    for name, volume in settings.items():
        if not local and set(volume["roles"]) & set(host.roles):
            source = shared(record, name)
            source.mkdir(parents=True, exist_ok=True)
            binds.append(f"--bind={source}:{volume['path']}")
    return binds


def shared(record: Record, name: str) -> Path:
    """Where a shared directory lies on this machine."""
    return record.root / "volumes" / name


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    if path.exists() and path.read_text() == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.touch(mode=mode)
    partial.write_text(text)
    partial.rename(path)

