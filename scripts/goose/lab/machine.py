"""The machine that runs the lab: what it offers, what it needs, and its registry settings."""

from __future__ import annotations

import configparser
import os
import platform
import re
import shutil
from pathlib import Path
from typing import Any

from goose.lab.record import Record, all_records
from goose.lab.run import LabError, Progress, run

# What pip settings name files of this machine that a host does not have.
_PIP_SETTINGS = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy")
# What the kernel must allow: the hosts' traffic to the outside, and, by what systemd of each host watches, some
# ten hosts beside one another. Inside a container the second may be what it is.
_FORWARDING = "/proc/sys/net/ipv4/ip_forward"
_KERNEL = {_FORWARDING: 1, "/proc/sys/fs/inotify/max_user_instances": 1024}


def require(needs: dict[str, Any], directory: Path) -> None:
    """Refuse a machine that cannot carry the lab, before anything is changed.

    ``needs`` holds ``disk_gib`` and ``memory_gib``; ``directory`` is where the hosts will lie.
    """
    if os.geteuid() != 0:
        raise LabError("The lab makes mounts and network interfaces: run it as root.", 2)
    if shutil.which("apt-get") is None or platform.machine() != "x86_64":
        raise LabError(
            f"The lab runs on Debian 12 on x86_64, and this is {_os_name()} on {platform.machine()}:"
            " use such a machine, or a virtual one.",
            2,
        )
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(existing).free / 2**30
    if free < needs["disk_gib"]:
        raise LabError(
            f"{existing} has {free:.1f} GiB free and the lab needs {needs['disk_gib']}:"
            " make room, or set GOOSE_LAB_DIR to a directory on a larger disk.",
            2,
        )
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    if memory < needs["memory_gib"]:
        raise LabError(f"This machine has {memory:.1f} GiB of memory and the lab needs {needs['memory_gib']}.", 2)


def allow(record: Record) -> None:
    """Let the kernel carry the lab's hosts; what it allows already stays."""
    for path, wanted in _KERNEL.items():
        now = int(Path(path).read_text())
        if now >= wanted:
            continue
        record.kernel.setdefault(path, now)
        record.save()
        _set(path, wanted)


def withdraw(record: Record) -> None:
    """Set back what `allow` has set; where there are other labs, the last one to go does."""
    others = [other for other in all_records() if other.name != record.name]
    for path, was in record.kernel.items():
        if others:
            others[0].kernel.setdefault(path, was)
            others[0].save()
        else:
            _set(path, was)


def _set(path: str, value: int) -> None:
    try:
        Path(path).write_text(f"{value}\n")
    except OSError as error:
        if path == _FORWARDING:
            raise LabError(f"{path} cannot be set to {value}: {error.strerror}.") from error


def _os_name() -> str:
    try:
        named = re.search(r'^PRETTY_NAME="?([^"\n]*)', Path("/etc/os-release").read_text(), re.MULTILINE)
    except OSError:
        named = None
    return named.group(1) if named else platform.system()


def install_tools(tools: dict[str, str], progress: Progress) -> None:
    """Install the packages (name -> a program of it) whose program is missing."""
    missing = [package for package, program in tools.items() if shutil.which(program) is None]
    if not missing:
        return
    progress(f"installing {', '.join(missing)} on this machine")
    environment = ["env", "DEBIAN_FRONTEND=noninteractive"]
    install = ["apt-get", "-q", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300", "install", *missing]
    if run([*environment, *install], what="apt-get", check=False).returncode != 0:
        run(["apt-get", "-q", "update"], what="apt-get update")
        run([*environment, *install], what=f"Installing {', '.join(missing)}")


def apt_sources(suite: str) -> str:
    """This machine's own Debian repositories for ``suite``, as the text of a .sources file."""
    listing = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)"
    command = ["apt-get", "indextargets", "--format", listing, "Created-By: Packages"]
    if not run(command, what="apt-get indextargets").stdout.strip():
        run(["apt-get", "-q", "update"], what="apt-get update")
    stanzas: dict[tuple[str, str], list[str]] = {}
    for line in run(command, what="apt-get indextargets").stdout.splitlines():
        uri, release, component, origin = line.split("|")
        if origin in ("", "Debian") and release.split("-")[0] == suite:
            components = stanzas.setdefault((uri, release), [])
            if component not in components:
                components.append(component)
    if not any(release == suite for _, release in stanzas):
        raise LabError(
            f"apt on this machine has no repository of Debian {suite}, which the lab's hosts are made of:"
            " add one to /etc/apt/sources.list.d and run `apt-get update`.",
            2,
        )
    return "\n".join(
        f"Types: deb\nURIs: {uri}\nSuites: {release}\nComponents: {' '.join(components)}\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
        for (uri, release), components in stanzas.items()
    )


def apt_settings() -> str:
    """This machine's own proxies and TLS settings of apt, as the text of a configuration file."""
    dump = run(["apt-config", "dump"], what="apt-config").stdout
    return "".join(f"{line}\n" for line in dump.splitlines() if re.match(r"Acquire::https?::", line))


def pip_settings() -> str:
    """This machine's own pip settings that say where packages come from, as the text of a pip.conf."""
    settings: dict[str, str] = {}
    home = Path.home()
    for path in ("/etc/pip.conf", home / ".config/pip/pip.conf", home / ".pip/pip.conf"):
        parser = configparser.RawConfigParser()
        parser.read(path)
        if parser.has_section("global"):
            settings.update({key: value for key, value in parser.items("global") if key in _PIP_SETTINGS})
    for key in _PIP_SETTINGS:
        variable = f"PIP_{key.upper().replace('-', '_')}"
        if variable in os.environ:
            settings[key] = os.environ[variable]
    lines = []
    for key, value in settings.items():
        # Places on this machine's disk are not there on a host.
        kept = [word for word in value.split() if not word.startswith(("file:", "/"))]
        if kept:
            lines.append(f"{key} = {' '.join(kept)}\n")
    return "[global]\ndisable-pip-version-check = 1\nroot-user-action = ignore\n" + "".join(lines)


def proxies() -> dict[str, str]:
    """This machine's proxy variables."""
    return {key: os.environ[key] for key in (*_PROXIES, *map(str.upper, _PROXIES)) if key in os.environ}


def certificates() -> list[str]:
    """The CA certificates that this machine trusts, PEM texts."""
    for variable in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        path = Path(os.environ.get(variable, ""))
        if path.is_file():
            break
    else:
        path = Path("/etc/ssl/certs/ca-certificates.crt")
    if not path.is_file():
        return []
    pattern = r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n"
    return re.findall(pattern, path.read_text(errors="replace"), re.DOTALL)


def resolvers() -> str:
    """The text of a resolv.conf that works away from this machine too."""
    # systemd-resolved's stub listens on this machine's loopback alone.
    stub = Path("/run/systemd/resolve/resolv.conf")
    own = Path("/etc/resolv.conf")
    text = own.read_text() if own.exists() else ""
    if re.search(r"^nameserver\s+127\.", text, re.MULTILINE) and stub.exists():
        text = stub.read_text()
    # Two questions from one port race in the kernel's NAT, and the one that is lost costs five seconds.
    return text.rstrip("\n") + "\noptions single-request\n"
