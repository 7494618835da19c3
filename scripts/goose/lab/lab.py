"""A lab as a whole: bring it up, converge it, look at it, take it away."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from goose.lab import base, converge, machine, network, record, seed
from goose.lab.converge import Outcome
from goose.lab.host import Host
from goose.lab.run import LabError, Progress

TREE = Path(__file__).resolve().parents[3]
"""The repository: the state tree that the lab's hosts are made with."""

# Addresses: the first host is .10, the others follow.
_FIRST_ADDRESS = 10

# Where the tree lies on the hosts that have it.
_SCRIPTS = "/srv/salt/scripts"
_PROGRAMS = "/usr/local/lib/goose"

# Stage and release of what `rebuild` composes: it stands at /compose/testing/VERSION-rebuild.
_STAGE = ("testing", "rebuild")

# What the master's host needs before any minion can be told anything.
_FIRST_ROLES = ("salt.master", "pki.ca")


def settings() -> dict[str, Any]:
    """What lab.yaml says."""
    loaded: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("lab.yaml").read_text())
    return loaded


@dataclass(frozen=True)
class Lab:
    """The lab that ``record`` tells of."""

    record: record.Record
    progress: Progress

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What lab.yaml says."""
        return settings()

    @cached_property
    def hosts(self) -> list[Host]:
        """All hosts, in the order of the profile."""
        return [
            Host(self.record, name, f"198.18.{self.record.subnet}.{_FIRST_ADDRESS + number}", tuple(roles))
            for number, (name, roles) in enumerate(self.record.hosts.items())
        ]

    @property
    def master(self) -> Host | None:
        """The Salt master, or nothing where the lab is masterless."""
        return self.with_role("salt.master")

    def with_role(self, role: str) -> Host | None:
        """The first host that has ``role``."""
        return next((host for host in self.hosts if role in host.roles), None)

    def need_role(self, role: str) -> Host:
        """The first host that has ``role``; `LabError` where none has."""
        host = self.with_role(role)
        if host is None:
            raise LabError(f"The profile {self.record.profile} has no host with the role {role}.", 2)
        return host

    def host(self, name: str) -> Host:
        """The host called ``name``; `LabError` with the names that there are."""
        for host in self.hosts:
            if name in (host.name, host.fqdn):
                return host
        names = ", ".join(host.name for host in self.hosts)
        raise LabError(f"The lab {self.record.name} has no host {name!r}: its hosts are {names}.", 2)

    # Up

    def boot(self) -> None:
        """Make and boot what is not there yet.

        First the Salt master's host, until the master and its CA are there: a minion that finds no
        master asks again only after most of a minute. Then the others, side by side.
        """
        cache = record.directory() / "cache"
        bases = [host.base() for host in self.hosts]
        root = next((known for known in bases if known), None) or base.make(cache, self.settings, self.progress)
        machine.allow(self.record)
        network.up(self.record, {host.fqdn: host.address for host in self.hosts})
        off = [host for host in self.hosts if host.leader() is None]
        for host in off:
            host.mount(root)
            seed.host(host, self.master)
        packager = seed.packager(self.hosts)
        own = {**self.settings["pillar"][self.record.profile], **({"scm": packager} if packager else {})}
        own = seed.merged(own, seed.recipient(self.record, self.hosts))
        seed.pillar(self.record, self.hosts, TREE, seed.merged(own, self.record.pillar))
        if self.master is not None:
            seed.keys(self.hosts, self.master)
            self._boot([host for host in off if host is self.master])
            self._configure(self.master)
        self._boot([host for host in off if host is not self.master])

    def _boot(self, hosts: list[Host]) -> None:
        for host in hosts:
            host.boot(seed.volumes(self.record, host, self.settings["volumes"], TREE, self.master))
        with ThreadPoolExecutor() as pool:
            for host, _ in zip(hosts, pool.map(Host.wait_until_up, hosts)):
                self.progress(f"{host.fqdn} is up at {host.address}")

    def _configure(self, master: Host) -> None:
        """The Salt master and the CA, which everything on the other hosts needs."""
        self.progress(f"{master.name}: configuring the Salt master and the certificate authority")
        outcome = converge.local(master, [role for role in _FIRST_ROLES if role in master.roles])
        if outcome.failed:
            raise LabError(f"{master.fqdn}: " + "\n".join(outcome.failures))
        master.run(["systemctl", "enable", "--quiet", "--now", "salt-minion"], what="Starting the master's own minion")

    def converge(self) -> None:
        """Highstate of all hosts side by side."""
        self.progress(f"applying the highstate to {', '.join(host.name for host in self.hosts)}")
        outcomes = converge.apply(self.hosts, self.master, self.progress)
        failed = [name for name, outcome in outcomes.items() if outcome.failed]
        if failed:
            raise LabError(
                f"The highstate failed on {', '.join(failed)}: mend what the lines above name, then run `up` again."
            )

    def apply(self, hosts: list[Host], *, test: bool = False, states: str = "") -> dict[str, Outcome]:
        """Highstate, or ``states``, of ``hosts``; outcomes by short name."""
        master = self.master
        if master is None or master not in hosts or test or states:
            return converge.apply(hosts, master, self.progress, test=test, states=states)
        # By itself: where this changes something the master restarts, and loses what all hosts have to say.
        early = [(master, converge.local(master, ["salt.master"]))]
        ca_host = self.need_role("pki.ca")
        if ca_host in hosts:
            # What the CA publishes, the others fetch.
            early.append((ca_host, converge.apply([ca_host], master, self.progress, states="pki.ca")[ca_host.name]))
        outcomes = converge.apply(hosts, master, self.progress)
        for host, first in early:
            rest = outcomes[host.name]
            outcomes[host.name] = replace(
                rest,
                changed=first.changed + rest.changed,
                failed=first.failed + rest.failed,
                changes=(*first.changes, *rest.changes),
                failures=(*first.failures, *rest.failures),
            )
            for line in (*first.changes, *first.failures):
                self.progress(f"{host.name}: {line}")
        return outcomes

    # Build

    def rebuild(self, srpms: list[Path], *, from_scm: bool = False) -> dict[str, Any]:
        """From ``srpms``, or the samples where there are none, to a medium; what `rebuild --json` prints.

        With ``from_scm`` they are imported first, and Koji builds from git and the lookaside cache.
        """
        start = time.monotonic()
        admin = self.need_role("koji.content")
        inbox = "/var/tmp/lab-srpms"
        admin.run(["mkdir", "-p", inbox])
        if srpms:
            names = []
            for srpm in srpms:
                names.append(f"{inbox}/{srpm.name}")
                shutil.copyfile(srpm, admin.root / names[-1].lstrip("/"))
        else:
            self.progress("making source RPMs of the samples")
            done = admin.run([f"{_SCRIPTS}/goose_samples.py", "--out", inbox, "--json"], what="Fetching the samples")
            names = json.loads(done.stdout)["srpms"]
        result = self._build(names, self._import(names) if from_scm else "")
        self._sign(result)
        self._mash(result)
        self._compose(result)
        result["seconds"] = round(time.monotonic() - start, 1)
        return result

    def _import(self, paths: list[str]) -> str:
        """Bring source RPMs into git and the lookaside cache; where the result is, on the same host."""
        admin = self.need_role("scm.client")
        self.progress("importing the source RPMs into git and the lookaside cache")
        done = admin.run([f"{_SCRIPTS}/srpm_import.py", "--json", *paths], what="Importing the source RPMs")
        result = "/var/tmp/lab-import.json"
        admin.run(["tee", result], stdin=done.stdout, what="Keeping the import's result")
        return result

    def first_package(self) -> dict[str, Any]:
        """Build the distribution's own release package."""
        admin = self.need_role("koji.content")
        site = yaml.safe_dump(self._site())
        admin.run(["tee", "/var/tmp/lab-site.yaml"], stdin=site, what="Handing over the site's data")
        command = [f"{_SCRIPTS}/goose_release.py", "--site", "/var/tmp/lab-site.yaml", "--out", "/var/tmp", "--json"]
        public = self.public_key()
        if public:
            name = f"/var/tmp/RPM-GPG-KEY-{self._release()}"
            admin.run(["tee", name], stdin=public, what="Handing over the public key")
            command += ["--key", name]
        done = admin.run(command, what="Making the release package's source RPM")
        result = self._build([json.loads(done.stdout)["srpm"]])
        self._sign(result)
        return result

    def public_key(self) -> str:
        """The key that packages are signed with, as the signing host publishes it; empty where there is none."""
        signer = self.with_role("sigul.client")
        if signer is None:
            return ""
        try:
            return self.get(f"https://{signer.fqdn}/keys/RPM-GPG-KEY-{self._release()}").decode()
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return ""
            raise LabError(f"{error.url} answers {error.code}: `scripts/lab apply {signer.name}` mends it.") from error
        except OSError as error:
            raise LabError(f"{signer.fqdn} does not hand out its public keys ({error}).") from error

    def _sign(self, result: dict[str, Any]) -> None:
        """Sign what is unsigned in the release's tag, where there is a key, and add to ``result`` what came out."""
        signer, key = self.with_role("sigul.client"), self._release()
        if signer is None:
            return
        if not self.public_key():
            self.progress(f"nothing is signed: {signer.fqdn} has published no key {key}, see sigul/README.rst")
            return
        self.progress(f"signing with {key}")
        if not self._started(signer, f"signing-{key}.service"):
            result["status"] = result["status"] or 1
        command = [f"{_PROGRAMS}/signing_key.py", "signed", "--json", "--tag", key]
        rows = json.loads(signer.run(command, what="Asking what is signed").stdout)["builds"]
        built = [rows[build["nvr"]] for build in result["builds"] if build["nvr"] in rows]
        result["signed"] = {"key": key, "rpms": sum(row["keys"].get(key, 0) for row in built)}

    def _mash(self, result: dict[str, Any]) -> None:
        """Make the release's repositories of what is signed, where there is a host for it, and add them to ``result``."""
        maker, name = self.with_role("mash"), self._release()
        if maker is None or "signed" not in result:
            return
        self.progress(f"making the repositories of {name}")
        if not self._started(maker, f"mash-{name}.service"):
            result["status"] = result["status"] or 1
            return
        top = f"https://{maker.fqdn}/repos/{name}"
        made = json.loads(self.get(f"{top}/mash.json"))["metadata"]
        places = sorted(path for path in made if path.endswith("/repodata/repomd.xml"))
        result["repos"] = [f"{top}/{path[: -len('repodata/repomd.xml')]}" for path in places]

    def _compose(self, result: dict[str, Any]) -> None:
        """Compose the repositories, where there is a host for it, and add the first medium to ``result``."""
        composer = self.with_role("pungi")
        if composer is None or "repos" not in result:
            return
        self.progress("composing variants and media")
        version = str(self._site()["version"])
        words = [f"{_PROGRAMS}/compose_iso.py", version, *_STAGE, "--json"]
        output = json.loads(composer.run(["cat", "/etc/goose/compose.json"]).stdout)["output"]
        owner = composer.run(["stat", "--format=%U", output]).stdout.strip()
        done = composer.run(["runuser", "-u", owner, "--", *words], check=False)
        try:
            made = json.loads(done.stdout)
        except ValueError:
            made = {}
        if done.returncode or not made.get("iso"):
            self.progress(f"nothing was composed on {composer.fqdn}:\n{done.stderr.strip()}")
            result["status"] = result["status"] or 1
            return
        result["iso"] = {key: made["iso"][key] for key in ("url", "sha256", "bytes")}

    def _started(self, host: Host, unit: str) -> bool:
        """Whether a unit that does its work and ends has succeeded; what it said last is told where not."""
        if host.run(["systemctl", "start", unit], check=False).returncode == 0:
            return True
        said = host.run(["journalctl", "--quiet", "--output=cat", "--lines=9", f"--unit={unit}"], check=False).stdout
        self.progress(f"{unit} failed on {host.fqdn}:\n{said.strip()}")
        return False

    def _site(self) -> dict[str, Any]:
        site: dict[str, Any] = yaml.safe_load((self.record.root / "pillar/site.yaml").read_text())
        return site

    def _release(self) -> str:
        """What the release's target, its tag and its key are called."""
        site = self._site()
        return f"{site['id']}-{site['version']}"

    def _build(self, paths: list[str], imported: str = "") -> dict[str, Any]:
        admin = self.need_role("koji.content")
        command = [f"{_SCRIPTS}/koji_rebuild.py", "--profile", self._site()["id"], "--json"]
        command += [*(["--from-scm", imported] if imported else []), self._release(), *paths]
        # Its progress goes straight to the terminal.
        done = subprocess.run([*admin.enter(), *command], stdout=subprocess.PIPE, text=True, check=False)
        try:
            result: dict[str, Any] = json.loads(done.stdout)
        except ValueError as error:
            web = self.services()["koji-web"]
            raise LabError(f"Nothing was built: see above, and {web}.", done.returncode) from error
        result["status"] = done.returncode
        return result

    # Look

    def status(self) -> dict[str, Any]:
        """The lab as `status --json` prints it."""
        with ThreadPoolExecutor() as pool:
            hosts = dict(zip((host.name for host in self.hosts), pool.map(_host_status, self.hosts)))
        return {
            "name": self.record.name,
            "profile": self.record.profile,
            "hosts": hosts,
            "services": self.services(),
            "ca": str(self.ca_path()),
        }

    def services(self) -> dict[str, str]:
        """Service -> URL, of what this lab offers."""
        paths = {
            "koji-hub": ("koji.hub", "/kojihub"),
            "koji-web": ("koji.web", "/koji"),
            "koji-files": ("koji.hub", "/kojifiles"),
            "lookaside": ("lookaside", "/lookaside"),
            "lookaside-upload": ("lookaside", "/lookaside-upload"),
            "scm": ("scm", "/git/"),
            "repos": ("mash", "/repos/"),
            "compose": ("pungi", "/compose/"),
            "monitoring": ("monitoring", "/prometheus/"),
        }
        found = {}
        for service, (role, path) in paths.items():
            host = self.with_role(role)
            if host is not None:
                found[service] = f"https://{host.fqdn}{path}"
        return found

    def ca_path(self) -> Path:
        """The CA's certificate, on this machine."""
        return self.record.root / "ca.pem"

    def fetch_ca(self) -> None:
        """Bring the CA's certificate to this machine; two, while one CA takes the place of another."""
        text = self.need_role("pki.ca").run(["cat", "/etc/pki/goose/ca.crt"]).stdout
        if not self.ca_path().exists() or self.ca_path().read_text() != text:
            self.ca_path().write_text(text)

    def answers(self, url: str) -> bool:
        """Whether a GET of ``url`` succeeds with the lab's CA."""
        try:
            self.get(url)
        except OSError:
            return False
        return True

    def get(self, url: str) -> bytes:
        """What a GET of ``url`` gives, with the lab's CA; `OSError` where it does not succeed."""
        context = ssl.create_default_context(cafile=str(self.ca_path()))
        with urllib.request.urlopen(url, timeout=10, context=context) as response:
            return bytes(response.read())

    # Away

    def stop(self) -> None:
        """Shut all hosts down, side by side."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(Host.stop, self.hosts))

    def destroy(self) -> None:
        """Remove the lab and all that it made of this machine, the base too where no other lab needs it."""
        for host in self.hosts:
            host.kill()
            host.remove()
        network.down(self.record)
        machine.withdraw(self.record)
        # The record goes last: a killed destroy is simply run again.
        for path in self.record.root.iterdir():
            if path.name != "record.json":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.rmtree(self.record.root)
        base.discard(record.directory() / "cache", _bases_in_use())


def read_pillar(path: Path) -> dict[str, Any]:
    """The pillar data in a YAML file; `LabError` where it is none."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        json.dumps(data)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError) as error:
        raise LabError(f"The pillar file {path} cannot be used: {' '.join(str(error).split())}.", 2) from error
    if not isinstance(data, dict):
        raise LabError(f"The pillar file {path} holds no map: write it as pillar's local.sls, without Jinja.", 2)
    return data


def create(name: str, profile: str, progress: Progress, pillar: dict[str, Any] | None = None) -> Lab:
    """The lab ``name``, with its record made where there is none yet; ``pillar`` takes the place of an earlier one."""
    found = record.load(name)
    if found is None:
        found = record.Record(name, profile, network.free_subnet(), settings()["profiles"][profile])
        found.save()
    elif found.profile != profile:
        raise LabError(
            f"The lab {name} has the profile {found.profile}: `scripts/lab --name {name} destroy` first,"
            " or give the new one another --name.",
            2,
        )
    if pillar is not None and pillar != found.pillar:
        found.pillar = pillar
        found.save()
    return Lab(found, progress)


def prepare(progress: Progress) -> None:
    """Check and equip this machine for a lab."""
    wanted = settings()
    machine.require(wanted["needs"], record.directory())
    machine.install_tools(wanted["tools"], progress)


def _bases_in_use() -> set[Path]:
    return {Path(noted.read_text().strip()) for noted in record.directory().glob("labs/*/hosts/*/base")}


def _host_status(host: Host) -> dict[str, Any]:
    failed_units: list[str] = []
    healthy = host.leader() is not None
    if healthy:
        done = host.run(["systemctl", "list-units", "--failed", "--output=json"], check=False)
        try:
            failed_units = [unit["unit"] for unit in json.loads(done.stdout)]
        except ValueError:
            healthy = False
        healthy = healthy and not failed_units
    return {"address": host.address, "roles": list(host.roles), "healthy": healthy, "failed_units": failed_units}
