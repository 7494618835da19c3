"""The root file system that all hosts are overlays of: a minimal Debian with Salt."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from goose.lab import machine
from goose.lab.run import Progress, run

_UNIT = """\
[Unit]
Description=Salt {name}
After=network-online.target
Wants=network-online.target

[Service]
Type=notify
NotifyAccess=all
LimitNOFILE=8192
ExecStart=/opt/salt/bin/salt-{name}
Restart=on-failure
{extra}
[Install]
WantedBy=multi-user.target
"""

# A state that restarts the minion must outlive it.
_UNIT_EXTRA = {"minion": "KillMode=process\n", "master": ""}


def path(cache: Path, settings: dict[str, Any]) -> Path:
    """Where the base for these settings lies: its name changes with all that goes into it."""
    ingredients = json.dumps([settings["base"], settings["salt"]], sort_keys=True) + Path(__file__).read_text()
    return cache / f"base-{hashlib.sha256(ingredients.encode()).hexdigest()[:12]}"


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Wait for other labs that make the base."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def make(cache: Path, settings: dict[str, Any], progress: Progress) -> Path:
    """Return the base; make it first where there is none, and appear whole or not at all."""
    root = path(cache, settings)
    with locked(cache):
        if root.is_dir():
            return root
        for old in cache.glob("*.partial"):
            remove_tree(old)
        partial = root.with_suffix(".partial")
        log = cache / "base.log"
        log.write_text("")
        _bootstrap(partial, settings["base"], log, progress)
        _take_over_registries(partial, settings["base"]["suite"], log)
        _install_salt(partial, settings["salt"], settings["base"]["build_packages"], log, progress)
        _finish(partial)
        partial.rename(root)
    return root


def discard(cache: Path, used: set[Path]) -> None:
    """Remove the bases that are not ``used``, and with the last one what else the cache holds."""
    with locked(cache):
        for tree in cache.glob("base-*"):
            if tree not in used:
                remove_tree(tree)
        if not used:
            shutil.rmtree(cache)


def remove_tree(tree: Path) -> None:
    """Remove a tree on this file system, and what a killed run left mounted in it."""
    points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((each for each in points if each.startswith(f"{tree}/")), reverse=True):
        run(["umount", "-l", mount], what=f"Unmounting {mount}")
    if tree.exists():
        shutil.rmtree(tree)


def _bootstrap(root: Path, base: dict[str, Any], log: Path, progress: Progress) -> None:
    progress(f"making the base: Debian {base['suite']}")
    sources = log.with_name("base.sources")
    sources.write_text(machine.apt_sources(base["suite"]))
    apt_conf = log.with_name("base.apt.conf")
    apt_conf.write_text(machine.apt_settings())
    command = [
        "mmdebstrap",
        "--variant=minbase",
        "--mode=root",
        f"--include={','.join([*base['packages'], *base['build_packages']])}",
        # A lab is made again, not repaired: its disks need not outlive a power cut.
        "--dpkgopt=force-unsafe-io",
        f"--aptopt={apt_conf}",
        # The package lists stay: hosts install from them at once.
        "--skip=cleanup/apt/lists",
        base["suite"],
        str(root),
        str(sources),
    ]
    run(command, what="mmdebstrap", log=log)


def _take_over_registries(root: Path, suite: str, log: Path) -> None:
    shutil.rmtree(root / "etc/apt/sources.list.d", ignore_errors=True)
    (root / "etc/apt/sources.list.d").mkdir()
    (root / "etc/apt/sources.list").unlink(missing_ok=True)
    (root / "etc/apt/sources.list.d/debian.sources").write_text(machine.apt_sources(suite))
    (root / "etc/apt/apt.conf.d/90lab").write_text('Acquire::Retries "3";\n' + machine.apt_settings())
    (root / "etc/dpkg/dpkg.cfg.d/lab").write_text("force-unsafe-io\n")
    (root / "etc/pip.conf").write_text(machine.pip_settings())
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").write_text(machine.resolvers())
    environment = "".join(f"{key}={value}\n" for key, value in machine.proxies().items())
    (root / "etc/environment").write_text(environment)
    known = (root / "etc/ssl/certs/ca-certificates.crt").read_text()
    extra = [text for text in machine.certificates() if text not in known]
    for number, text in enumerate(extra):
        (root / f"usr/local/share/ca-certificates/machine-{number}.crt").write_text(text)
    if extra:
        run(["chroot", str(root), "update-ca-certificates"], what="update-ca-certificates", log=log)


def _install_salt(root: Path, version: str, build_packages: list[str], log: Path, progress: Progress) -> None:
    progress(f"making the base: Salt {version}")
    inside = ["chroot", str(root), "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"]
    inside += [f"{key}={value}" for key, value in machine.proxies().items()]
    # Salt's rpm and dnf helpers are apt's packages: the virtual environment sees them.
    run([*inside, "python3", "-m", "venv", "--system-site-packages", "/opt/salt"], what="python3 -m venv", log=log)
    pip = ["/opt/salt/bin/pip", "install", "--quiet", "--no-cache-dir", f"salt=={version}"]
    run([*inside, *pip], what="Installing Salt", log=log)
    apt = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y"]
    run([*inside, *apt, "purge", "--autoremove", *build_packages], what="Removing the compiler", log=log)
    for program in ("salt", "salt-call", "salt-key", "salt-run", "salt-master", "salt-minion", "salt-cp"):
        (root / "usr/local/bin" / program).symlink_to(f"/opt/salt/bin/{program}")
    for name, extra in _UNIT_EXTRA.items():
        (root / f"etc/systemd/system/salt-{name}.service").write_text(_UNIT.format(name=name, extra=extra))


def _finish(root: Path) -> None:
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    (wants / "systemd-networkd.service").symlink_to("/lib/systemd/system/systemd-networkd.service")
    # Each host gets names and an identity of its own.
    (root / "etc/machine-id").write_text("")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    os.chmod(root, 0o755)
    for directory in ("srv/salt", "srv/site-pillar", "etc/salt/minion.d", "etc/salt/master.d"):
        (root / directory).mkdir(parents=True, exist_ok=True)
