"""Hosts under test, each with the files of its roles.

``scripts/lab test`` tests a lab's hosts. Real ones are named, with a way that pytest-testinfra
knows: ``scripts/test tests/testinfra --hosts=ssh://hub.example.org,ssh://builder1.example.org``,
or ``salt://…`` on the master. Roles come from pillar/hosts.yaml, or ``--pillar`` names another
hosts.yaml; for a host that stands in none, ``--roles=koji.builder``.

Checks know `Host` alone; pytest-testinfra is behind it, and could be replaced here.
"""

from __future__ import annotations

import configparser
import functools
import json
import re
import shlex
import subprocess
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import testinfra
import yaml
from testinfra.backend.base import BaseBackend, CommandResult

import firewalls
from goose.lab import lab as labs
from goose.lab import record, seed
from goose.lab.run import LabError, Progress, wait_for

TREE = Path(__file__).resolve().parents[2]
# What every host has beside its roles.
EVERY_HOST = ("common", "pki")


class Lab(BaseBackend):
    """pytest-testinfra's way into a host of a lab."""

    NAME = "lab"

    def __init__(self, name: str, enter: Callable[[], list[str]]) -> None:
        super().__init__(name)
        self._enter = enter

    def run(self, command: str, *args: str, **_: Any) -> CommandResult:
        line = [*self._enter(), "sh", "-c", self.get_command(command, *args)]
        done = subprocess.run(line, capture_output=True, check=False, timeout=120)
        return self.result(done.returncode, line[-1].encode(), done.stdout, done.stderr)


@dataclass(frozen=True)
class Done:
    """A command that has run."""

    command: str
    status: int
    out: str
    err: str

    def __bool__(self) -> bool:
        return self.status == 0


class Host:
    """A host, and what the tree says about it."""

    def __init__(self, remote: Any, name: str, entries: dict[str, Any], site: dict[str, Any]) -> None:
        self._remote = remote
        self.name = name
        """Full name, which is the minion id and the certificate's."""
        self.entries = entries
        """Pillar `hosts`, as far as it is known: id -> address, roles."""
        self.roles: list[str] = entries[name]["roles"]
        self.site = site
        """Pillar `site`."""

    @property
    def all_roles(self) -> list[str]:
        """With the one that every host of a site that watches has."""
        return firewalls.roles_of({"hosts": self.entries, "roles": self.roles})

    def run(self, *words: str, user: str | None = None) -> Done:
        """Run a command as root, or as ``user``."""
        words = (*(("runuser", "-u", user, "--") if user else ()), *words)
        line = " ".join(map(shlex.quote, words))
        # Without arguments of its own it leaves % alone.
        done = self._remote.run(line)
        return Done(line, done.rc, done.stdout, done.stderr)

    def says(self, *words: str, user: str | None = None) -> str:
        """What a command prints; the test fails where the command does."""
        done = self.run(*words, user=user)
        if not done:
            what = f"{self.name}: {done.command} ended with {done.status}: {done.out}{done.err}"
            pytest.fail(what, pytrace=False)
        return done.out.strip()

    def becomes(self, condition: Callable[[], Any], what: str, seconds: float = 30) -> None:
        """Wait for what a service does in its own time; the test fails after ``seconds``."""
        try:
            wait_for(condition, what=what, seconds=seconds, pause=0.5)
        except LabError as error:
            pytest.fail(f"{self.name}: {error}", pytrace=False)

    def runs(self, unit: str) -> bool:
        """Whether a unit is active."""
        return bool(self.run("systemctl", "--quiet", "is-active", unit))

    def starts_at_boot(self, unit: str) -> bool:
        """Whether a unit is enabled, by itself or by what generated it."""
        return self.run("systemctl", "is-enabled", unit).out.strip() in (
            "enabled", "generated", "indirect", "enabled-runtime", "static", "alias",
        )

    def exposure(self, unit: str) -> float:
        """How much a unit leaves open: 0 nothing, 10 everything, as `systemd-analyze security` reckons."""
        said = self.says("systemd-analyze", "security", "--no-pager", unit)
        return float(re.findall(r"Overall exposure level for \S+: ([0-9.]+)", said)[0])

    def access(self, path: str) -> str:
        """Owner, group and mode of a file, as in ``root:root 600``."""
        return self.says("stat", "-L", "-c", "%U:%G %a", path)

    def reads(self, user: str, path: str) -> bool:
        """Whether ``user`` can read a file: tried, not reckoned."""
        return bool(self.run("cat", path, user=user))

    def text(self, path: str) -> str:
        """The text of a file."""
        return self.says("cat", path)

    def config(self, path: str) -> configparser.RawConfigParser:
        """A file of sections and keys."""
        parser = configparser.RawConfigParser(strict=False)
        parser.read_string(self.text(path))
        return parser

    def expires_after(self, certificate: str, days: int) -> bool:
        """Whether a certificate is good for ``days`` more days."""
        return bool(self.run("openssl", "x509", "-noout", "-in", certificate, "-checkend", str(days * 86400)))

    def subject(self, certificate: str) -> str:
        """A certificate's subject, the common name first, as in ``CN=x,O=y``."""
        line = self.says("openssl", "x509", "-noout", "-subject", "-nameopt", "RFC2253", "-in", certificate)
        return ",".join(sorted(line.partition("=")[2].split(",")))

    def get(self, url: str, cert: str | None = None) -> tuple[int, str]:
        """Status and body of a GET, by the project's CA alone; status 0 where there was no answer."""
        code = (
            "import ssl,sys,urllib.request,urllib.error\n"
            "c=ssl.create_default_context(cafile=sys.argv[2])\n"
            "if sys.argv[3]: c.load_cert_chain(sys.argv[3])\n"
            "try: r=urllib.request.urlopen(sys.argv[1],timeout=20,context=c)\n"
            "except urllib.error.HTTPError as e: r=e\n"
            "except OSError as e: sys.exit(print(0,e))\n"
            "print(r.status); print(r.read().decode('utf-8','replace'))"
        )
        done = self.says("/usr/bin/python3", "-c", code, url, f"{self.pki}/ca.crt", cert or "")
        status, _, body = done.partition("\n")
        return int(status.split()[0]), body or status

    def ask(self, url: str, method: str, *args: Any, cert: str = "") -> Any:
        """What the hub at ``url`` answers anybody who trusts the project's CA; a fault's text begins with FAULT."""
        code = (
            "import json,ssl,sys,xmlrpc.client\n"
            "url,method,args,ca,cert=sys.argv[1:]\n"
            "c=ssl.create_default_context(cafile=ca)\n"
            "if cert: c.load_cert_chain(cert)\n"
            "hub=xmlrpc.client.ServerProxy(url,context=c,allow_none=True)\n"
            "try: answer=getattr(hub,method)(*json.loads(args))\n"
            "except xmlrpc.client.Fault as e: answer='FAULT '+e.faultString\n"
            "except xmlrpc.client.ProtocolError as e: answer='HTTP %d' % e.errcode\n"
            "print(json.dumps(answer,default=str))"
        )
        line = ["/usr/bin/python3", "-c", code, url, method, json.dumps(args), f"{self.pki}/ca.crt", cert]
        return json.loads(self.says(*line))

    @property
    def pki(self) -> str:
        """Where the host's certificates lie."""
        return str(self.settings("pki")["dir"])

    def with_role(self, role: str) -> str:
        """The host that has ``role``; the test is skipped where none is known."""
        found = next((name for name, entry in self.entries.items() if role in entry["roles"]), "")
        if not found:
            pytest.skip(f"no host is known to have the role {role}")
        return found

    @functools.cached_property
    def platform(self) -> str:
        """As in common/platforms.yaml."""
        release = dict(re.findall(r'^(\w+)="?([^"\n]*)', self.text("/etc/os-release"), re.MULTILINE))
        family = "Debian" if "debian" in (release["ID"], *release.get("ID_LIKE", "").split()) else "RedHat"
        return f"{family}-{release['VERSION_ID'].split('.')[0]}"

    @functools.cache  # noqa: B019 - one host a session
    def settings(self, service: str) -> Any:
        """Defaults and platform data of a service, as map.jinja merges them; without the site's pillar."""
        merged: dict[str, Any] = {}
        for name in ("defaults", f"os/{self.platform}"):
            merged = seed.merged(merged, yaml.safe_load((TREE / service / f"{name}.yaml").read_text()) or {})
        return merged

    def koji(self, *words: str) -> Any:
        """What the hub answers the administrator: ``koji call``, as JSON."""
        return json.loads(self.says("koji", "call", "--json-output", *words))


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("goose")
    group.addoption("--lab", metavar="NAME", help="test the hosts of this lab")
    group.addoption("--pillar", type=Path, default=TREE / "pillar", metavar="DIR", help="where hosts.yaml is")
    group.addoption("--roles", metavar="ROLE,…", help="roles of the hosts that hosts.yaml does not name")


def pytest_configure(config: pytest.Config) -> None:
    try:
        config.stash[_HOSTS] = _hosts(config)
    except LabError as error:
        raise pytest.UsageError(str(error)) from error


_HOSTS = pytest.StashKey[list[Host]]()


def _hosts(config: pytest.Config) -> list[Host]:
    named = [word for word in (config.option.hosts or "").split(",") if word]
    # Where this file is found late, below another path, its options are not there.
    if name := config.getoption("lab", None):
        lab = labs.Lab(record.existing(name), Progress())
        entries, site = _pillar(lab.record.root / "pillar")
        chosen = [lab.host(name) for name in named] or lab.hosts
        return [Host(testinfra.host.Host(Lab(host.name, host.enter)), host.fqdn, entries, site) for host in chosen]
    if not named:
        return []
    entries, site = _pillar(config.option.pillar)
    found = []
    for url in named:
        name = urllib.parse.urlsplit(url if "://" in url else f"ssh://{url}").hostname or url
        if name not in entries:
            if not config.option.roles:
                raise pytest.UsageError(
                    f"{name} does not stand in {config.option.pillar}/hosts.yaml:"
                    " name another --pillar, or the host's --roles."
                )
            entries[name] = {"roles": config.option.roles.split(",")}
        keys = ("ssh_config", "ssh_extra_args", "ssh_identity_file", "sudo", "sudo_user")
        remote = testinfra.get_host(url, **{key: config.getoption(key) for key in keys})
        found.append(Host(remote, name, entries, site))
    return found


def _pillar(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    entries, site = (yaml.safe_load((directory / name).read_text()) or {} for name in ("hosts.yaml", "site.yaml"))
    return entries, site


def _role(path: Path) -> str:
    """The role of a file: common/roles.yaml says which underscore is a dot."""
    known = yaml.safe_load((TREE / "common/roles.yaml").read_text())
    return next((role for role in known if path.name == f"test_{role.replace('.', '_')}.py"), "")


def _tested(hosts: Sequence[Host], path: Path) -> list[Host]:
    role = _role(path)
    return [host for host in hosts if role in host.all_roles or role in EVERY_HOST]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A file whose role no host has is not for these hosts."""
    if collection_path.name.startswith("test_") and config.stash[_HOSTS]:
        return not _tested(config.stash[_HOSTS], collection_path) or None
    return None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "host" in metafunc.fixturenames:
        hosts = metafunc.config.stash[_HOSTS]
        if not hosts:
            raise pytest.UsageError("No host to test was named: use --lab=NAME or --hosts=ssh://NAME.")
        found = _tested(hosts, metafunc.definition.path)
        metafunc.parametrize("host", found, ids=[host.name for host in found], indirect=True, scope="session")


@pytest.fixture(scope="session")
def host(request: pytest.FixtureRequest) -> Host:
    """The host that is tested."""
    found: Host = request.param
    return found
