"""Every state for every host of every case on every platform, rendered by Salt and held to checks.py."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import salt.states
import yaml

import checks
import firewalls
import salt_tree
import sources
from goose import exporter, signing_config

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
PLATFORMS = sources.platforms(ROOT)
CONTRACT = yaml.safe_load((HERE / "contract.yaml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Case:
    """A site: what it is called, its pillar roots, its hosts, and what others make there."""

    name: str
    pillar_roots: tuple[Path, ...]
    hosts: tuple[str, ...]
    given: tuple[str, ...]


def cases() -> Iterator[Case]:
    """Yield the directories of cases/."""
    for path in sorted(HERE.glob("cases/*/case.yaml")):
        about = yaml.safe_load(path.read_text(encoding="utf-8"))
        roots = tuple(root for root in (path.parent / "pillar", ROOT / "pillar") if root.is_dir())
        hosts = next(root / "hosts.yaml" for root in roots if (root / "hosts.yaml").is_file())
        names = yaml.safe_load(hosts.read_text(encoding="utf-8"))
        yield Case(path.parent.name, roots, tuple(names), tuple(about.get("given", ())))


CASES = list(cases())


@dataclass(frozen=True, eq=False)
class Rendered:
    """A host after rendering."""

    case: Case
    host: salt_tree.Host
    chunks: list[salt_tree.Chunk]
    files: list[salt_tree.File]


class Renders:
    """Renders a host when it is first asked for, and keeps it."""

    def __init__(self, directory: Path) -> None:
        self.cache = directory
        self._kept: dict[tuple[str, str, str], Rendered | salt_tree.RenderError] = {}

    def host(self, case: Case, name: str, platform: str, **options: Any) -> salt_tree.Host:
        """Return a host, not yet rendered."""
        return salt_tree.Host(name, platform, ROOT, self.cache, case.pillar_roots, **options)

    def __call__(self, case: Case, name: str, platform: str) -> Rendered | salt_tree.RenderError:
        """Return the host, rendered, or why it does not render."""
        key = (case.name, name, platform)
        if key not in self._kept:
            try:
                host = self.host(case, name, platform)
                chunks = host.highstate()
                self._kept[key] = Rendered(case, host, chunks, list(host.files(chunks)))
            except salt_tree.RenderError as error:
                self._kept[key] = error
        return self._kept[key]


@pytest.fixture(scope="session")
def renders(tmp_path_factory: pytest.TempPathFactory) -> Renders:
    """The hosts of all cases."""
    return Renders(tmp_path_factory.mktemp("salt"))


EVERY = [
    pytest.param(case, host, platform, id=f"{platform}-{case.name}-{host.split('.')[0]}")
    for platform in PLATFORMS
    for case in CASES
    for host in case.hosts
]
every_platform = pytest.mark.parametrize("platform", PLATFORMS)
# What the contract is for: nothing of it can be run here.
enterprise = pytest.mark.parametrize("platform", [name for name in PLATFORMS if name.startswith("RedHat")])


def hosts(renders: Renders, platform: str) -> Iterator[Rendered]:
    """Yield the hosts of all cases on a platform; those that do not render are reported by test_renders."""
    for case in CASES:
        for name in case.hosts:
            if isinstance(found := renders(case, name, platform), Rendered):
                yield found


def none(problems: Iterator[str]) -> None:
    """Fail with all problems, each once."""
    if found := list(dict.fromkeys(problems)):
        pytest.fail("\n".join(found), pytrace=False)


@cache
def salt_modules() -> dict[str, list[str]]:
    """Return Salt's state modules: the name that states use -> the modules that may bear it."""
    found: dict[str, list[str]] = {}
    for path in sorted(Path(salt.states.__file__).parent.glob("*.py")):
        virtual = re.search(
            r"^__virtualname__ = [\"'](\w+)[\"']", path.read_text(encoding="utf-8"), re.MULTILINE
        )
        found.setdefault(virtual.group(1) if virtual else path.stem, []).append(path.stem)
    return found


def finder(host: salt_tree.Host) -> Callable[[str], Callable[..., Any] | None]:
    """Return a finder of state functions: Salt's and the tree's.

    Salt's are looked up in its files, because its loader offers what this machine has programs for.
    """

    def find(name: str) -> Callable[..., Any] | None:
        module, _, function = name.partition(".")
        for candidate in salt_modules().get(module, []):
            loaded = importlib.import_module(f"salt.states.{candidate}")
            alias = {new: old for old, new in getattr(loaded, "__func_alias__", {}).items()}
            if callable(found := getattr(loaded, alias.get(function, function), None)):
                return found
        # Salt's loader has no get() that loads.
        return host.functions[name] if name in host.functions else None  # noqa: SIM401

    return find


@pytest.mark.parametrize(("case", "name", "platform"), EVERY)
def test_renders(renders: Renders, case: Case, name: str, platform: str) -> None:
    """Salt finds no fault in the states, their requisites included, nor in the templates."""
    if isinstance(found := renders(case, name, platform), salt_tree.RenderError):
        pytest.fail(str(found), pytrace=False)


@every_platform
def test_functions(renders: Renders, platform: str) -> None:
    """State functions exist and take what they are given."""
    none(fault for it in hosts(renders, platform) for fault in checks.functions(it.chunks, finder(it.host)))


@every_platform
def test_sources(renders: Renders, platform: str) -> None:
    """What states take from the tree is there."""
    none(fault for it in hosts(renders, platform) for fault in checks.sources(it.chunks, it.host.source))


@every_platform
def test_modes(renders: Renders, platform: str) -> None:
    """Modes are quoted."""
    none(fault for it in hosts(renders, platform) for fault in checks.modes(it.chunks))


@every_platform
def test_secret_files(renders: Renders, platform: str) -> None:
    """Files of secrets are closed, whatever their package gave them."""
    names, public = CONTRACT["secrets"]["files"], CONTRACT["secrets"]["public"]
    none(fault for it in hosts(renders, platform) for fault in checks.secret_files(it.chunks, names, public))


@every_platform
def test_no_secret_leaks(renders: Renders, platform: str) -> None:
    """What is secret in pillar is in closed files alone."""
    none(
        fault
        for it in hosts(renders, platform)
        for fault in checks.leaks(it.chunks, it.files, checks.canaries(it.host.pillar))
    )


@every_platform
def test_texts(renders: Renders, platform: str) -> None:
    """What is written can be read by the program that it is for."""
    none(fault for it in hosts(renders, platform) for fault in checks.texts(it.files))


@enterprise
def test_package_contract(renders: Renders, platform: str) -> None:
    """Units, directories, accounts and packages are there when a state needs them."""
    contract = checks.Contract.read(CONTRACT, platform)
    none(
        f"{it.case.name}: {it.host.name}: {fault}"
        for it in hosts(renders, platform)
        for fault in checks.contract_faults(
            it.chunks,
            it.files,
            contract,
            offered=offered(it.host.pillar),
            given=it.case.given,
            before=[name for role in it.host.pillar["roles"] for name in CONTRACT["before"].get(role, [])],
        )
    )


def offered(pillar: dict[str, Any]) -> set[str]:
    """Return the packages that the site's own repositories have."""
    return {name for repo in (pillar.get("package_repos") or {}).values() for name in repo.get("offers", [])}


def test_debian_packages(renders: Renders) -> None:
    """Debian has the packages that states name, by the list and by apt where the machine is one."""
    known = set(CONTRACT["debian"])
    named: dict[str, str] = {}
    for it in hosts(renders, "Debian-12"):
        repos = offered(it.host.pillar)
        for chunk in it.chunks:
            named.update(
                {name: checks.where(chunk) for name in checks.packages_of(chunk) if name not in repos}
            )
    problems = [
        f"{named[name]}: {name} is not in contract.yaml's list `debian`: see that apt has it, then add it."
        for name in sorted(set(named) - known)
    ]
    problems += [
        f"contract.yaml lists {name} for Debian, and no state names it."
        for name in sorted(known - set(named))
    ]
    problems += [
        f"apt has no package {name} on this Debian 12." for name in sorted(apt_lacks(known | set(named)))
    ]
    none(iter(problems))


def apt_lacks(names: set[str]) -> set[str]:
    """Return those of the packages that apt does not know; none where it cannot tell."""
    release = Path("/etc/os-release")
    is_debian_12 = release.is_file() and "VERSION_CODENAME=bookworm" in release.read_text(encoding="utf-8")
    if not is_debian_12 or not shutil.which("apt-cache"):
        return set()
    done = subprocess.run(
        ["apt-cache", "policy", "base-files", *sorted(names)], capture_output=True, text=True, check=True
    )
    there = {
        name
        for name, candidate in re.findall(
            r"^(\S+):\n  Installed: .*\n  Candidate: (.*)$", done.stdout, re.MULTILINE
        )
        if candidate != "(none)"
    }
    # Without package lists apt knows what is installed and nothing else.
    listed = any(Path("/var/lib/apt/lists").glob("*Packages*"))
    return names - there if listed else set()


def test_contract_is_sound() -> None:
    """What the contract's packages require is in it, and so are its lists what they seem."""
    problems = []
    for name, entry in CONTRACT["packages"].items():
        for key in set(entry) - {
            "repo",
            "unsure",
            "requires",
            "units",
            "files",
            "dirs",
            "executables",
            "users",
            "groups",
        }:
            if key not in PLATFORMS:
                problems.append(f"{name}: {key} is no key of a package.")
        if not entry.get("repo"):
            problems.append(f"{name} has no repo.")
        for required in entry.get("requires", []):
            if required not in CONTRACT["packages"]:
                problems.append(f"{name} requires {required}, which is not in the contract.")
    none(iter(problems))


def test_no_orphans(renders: Renders) -> None:
    """Every file of a service directory has a use in some case."""
    used: set[str] = set()
    found = [it for platform in PLATFORMS for it in hosts(renders, platform)]
    if len(found) < len(EVERY):
        pytest.skip("some hosts do not render, see test_renders")
    for it in found:
        for url in {url for chunk in it.chunks for url in checks.salt_urls(chunk)}:
            path = it.host.source(url)
            within = [path] if path and path.is_file() else path.rglob("*") if path else []
            used |= {str(file.relative_to(ROOT)) for file in within}
    for it in hosts(renders, "Debian-12"):
        # No role includes it: each host's timer applies it.
        it.host.states("pki.renew")
    used |= salt_tree.requested(renders.cache)
    services = sources.services(ROOT)
    naming = [path for path in sources.files(ROOT) if path.suffix in (".py", ".sls", ".yaml", ".jinja")]
    said = "\n".join(sources.text(path) or "" for path in naming if not path.is_relative_to(ROOT / "tests"))
    used |= checks.named_files(ROOT, services, said)
    none(checks.orphans(ROOT, services, used))


@every_platform
def test_firewall(renders: Renders, platform: str, tmp_path: Path) -> None:
    """A host opens what its roles declare, to those that may, and nothing else; the file's own reader takes it."""
    problems = []
    for it in hosts(renders, platform):
        path = "/etc/nftables.conf" if platform == "Debian-12" else "/etc/firewalld/zones/goose.xml"
        (text,) = [file.text for file in it.files if file.path == path]
        wanted = firewalls.expected(ROOT, it.host.pillar, it.host.name)
        if platform == "Debian-12":
            found = firewalls.nftables(text)
            if fault := firewalls.nftables_fault(text):
                problems.append(f"{it.case.name}: {it.host.name}: nft refuses {path}: {fault}")
        else:
            found = firewalls.firewalld(text, tmp_path)
        if found != wanted:
            problems.append(f"{it.case.name}: {it.host.name}: {path} opens {found}, and its roles serve {wanted}.")
    none(iter(problems))


@every_platform
def test_what_listens_is_declared(renders: Renders, platform: str) -> None:
    """A host with a service that listens declares its ports, and no host declares what it does not serve."""
    ports = firewalls.declared(ROOT)
    none(
        f"{it.case.name}: {it.host.name}: {fault}"
        for it in hosts(renders, platform)
        for fault in checks.undeclared(
            it.chunks,
            {line["port"] for role in ("common", *firewalls.roles_of(it.host.pillar)) for line in ports.get(role, [])},
        )
    )


@pytest.mark.parametrize(
    ("pillar", "said"),
    [
        ({"ports": {"web": []}}, "'firewall:ports' names the role 'web', which is no role"),
        ({"ports": {"koji.db": [{"port": 5432}]}}, "Pillar 'firewall:ports:koji.db' has a line"),
        ({"ports": {"koji.db": [{"port": 0, "from": "hosts"}]}}, "Pillar 'firewall:ports:koji.db' has a line"),
        ({"ports": {"koji.db": [{"port": 70000, "from": "hosts"}]}}, "gives the port '70000'"),
        ({"ports": {"koji.db": [{"port": 5432, "from": ["koji.hup"]}]}}, "opens a port to 'koji.hup'"),
        ({"ssh_from": ["admin.example.org"]}, "Pillar 'firewall:ssh_from' opens a port to 'admin.example.org'"),
    ],
)
def test_firewall_that_is_wrong(renders: Renders, pillar: dict[str, Any], said: str) -> None:
    """Before anything is changed, with the key that is to be mended."""
    case = next(case for case in CASES if case.name == "example")
    name = "hub.goose.example"
    whole = {**renders.host(case, name, "Debian-12").pillar, "firewall": pillar}
    with pytest.raises(salt_tree.RenderError, match=re.escape(said)):
        renders.host(case, name, "Debian-12", pillar=whole).states("common.firewall")


@every_platform
def test_firewall_by_pillar(renders: Renders, platform: str, tmp_path: Path) -> None:
    """Sites move ports, close ssh and open what their own programs need; both families of addresses."""
    case = next(case for case in CASES if case.name == "example")
    name = "hub.goose.example"
    pillar = renders.host(case, name, platform).pillar
    pillar["koji"]["db"] = {"port": 6543}
    pillar["hosts"]["other.goose.example"] = {"address": "2001:db8::7", "roles": ["koji.hub"]}
    pillar["firewall"] = {
        "ssh_from": ["203.0.113.0/24", "2001:db8:1::/48", "salt.master"],
        "ports": {"koji.kojira": [{"port": 8080, "from": "hosts"}]},
    }
    host = renders.host(case, name, platform, pillar=pillar)
    names = ("/etc/nftables.conf", "/etc/firewalld/zones/goose.xml")
    (file,) = [file for file in host.files(host.states("common.firewall")) if file.path in names]
    found = firewalls.nftables(file.text) if platform == "Debian-12" else firewalls.firewalld(file.text, tmp_path)
    assert found == firewalls.expected(ROOT, pillar, name)
    assert found[6543] == {"2001:db8::7"} and 5432 not in found
    assert found[22] == {"203.0.113.0/24", "2001:db8:1::/48", "192.0.2.10"}
    assert len(found[8080]) == len(pillar["hosts"]) - 1
    if platform == "Debian-12":
        assert firewalls.nftables_fault(file.text) == ""

    pillar["firewall"] = {"enabled": False}
    chunks = renders.host(case, name, platform, pillar=pillar).states("common.firewall")
    assert {f"{chunk['state']}.{chunk['fun']}" for chunk in chunks if "firewall" in chunk["__id__"]} <= {
        "service.dead", "file.absent", "cmd.run",
    }  # fmt: skip


# What must be refused


@pytest.mark.parametrize("platform", ["Debian-11", "RedHat-40"])
@pytest.mark.parametrize("service", [path.name for path in sources.services(ROOT)])
def test_unknown_platform(renders: Renders, service: str, platform: str) -> None:
    """A platform that the project does not serve is refused by its name, whatever the state."""
    case = next(case for case in CASES if case.name == "single")
    states = [role for role in sources.roles(ROOT) if role.split(".")[0] == service]
    name = case.hosts[0]
    host = renders.host(case, name, platform)
    for state in states:
        if state == "koji.nfs":
            continue
        with pytest.raises(salt_tree.RenderError, match=rf"{re.escape(name)} runs .*\({platform}\)"):
            host.states(state)


def test_unknown_role(renders: Renders) -> None:
    """A role that is none is refused, with the host, the role and the choice."""
    case = next(case for case in CASES if case.name == "single")
    name = case.hosts[0]
    pillar = {**renders.host(case, name, "Debian-12").pillar, "roles": ["koji.hup"]}
    with pytest.raises(
        salt_tree.RenderError, match=rf"{re.escape(name)} the role 'koji.hup'.*choose from .*koji.hub"
    ):
        renders.host(case, name, "Debian-12", pillar=pillar).highstate()


@every_platform
@pytest.mark.parametrize("role", ["server", "bridge", "client"])
def test_sigul_that_cannot_be_had(renders: Renders, platform: str, role: str) -> None:
    """EPEL 9 has Sigul; elsewhere, and without a repository that offers it, the choices are named."""
    case = next(case for case in CASES if case.name == "sigul")
    name = next(name for name in case.hosts if f"sigul.{role}" in renders.host(case, name, platform).pillar["roles"])
    host = renders.host(case, name, platform)
    host = renders.host(case, name, platform, pillar={**host.pillar, "package_repos": {}})
    if platform == "RedHat-9":
        assert host.states(f"sigul.{role}")
        return
    said = rf"There is no package sigul.* for {re.escape(name)}.*EL9.*package_repos.*signing:backend: rpmsign.*siguldry"
    with pytest.raises(salt_tree.RenderError, match=said):
        host.states(f"sigul.{role}")


@pytest.mark.parametrize(
    ("platform", "repos", "bridge", "backend"),
    [
        ("RedHat-9", False, True, "sigul"),
        ("RedHat-9", False, False, "rpmsign"),
        ("RedHat-10", False, True, "rpmsign"),
        ("RedHat-10", True, True, "sigul"),
        ("Debian-12", False, True, "rpmsign"),
        ("Debian-12", True, True, "sigul"),
        ("Debian-12", True, False, "rpmsign"),
    ],
)
def test_who_signs(renders: Renders, platform: str, repos: bool, bridge: bool, backend: str) -> None:
    """Sigul where there is one; and the signing host's own key elsewhere."""
    case = next(case for case in CASES if case.name == "sigul")
    name = "compose.goose.example"
    pillar = renders.host(case, name, platform).pillar
    pillar["signing"]["backend"] = None
    if not repos:
        pillar["package_repos"] = {}
    if not bridge:
        del pillar["hosts"]["bridge.goose.example"]
    states = renders.host(case, name, platform, pillar=pillar).states("sigul.client")
    (config,) = [chunk for chunk in states if chunk["name"] == "/etc/goose/signing.json"]
    assert config["dataset"]["backend"] == backend
    assert bool([chunk for chunk in states if chunk["__id__"] == "sigul-client-nss"]) == (backend == "sigul")
    assert bool([chunk for chunk in states if chunk["__id__"] == "sigul-client-key-goose-1"]) == (backend == "rpmsign")


@every_platform
def test_signing_configuration(renders: Renders, platform: str, tmp_path: Path) -> None:
    """The programs take what the state writes."""
    path = tmp_path / "signing.json"
    written = [
        chunk["dataset"]
        for it in hosts(renders, platform)
        for chunk in it.chunks
        if chunk["name"] == "/etc/goose/signing.json"
    ]
    assert {data["backend"] for data in written} == {"sigul", "rpmsign"}
    for data in written:
        path.write_text(json.dumps(data), encoding="utf-8")
        assert set(signing_config.Config.read(path).keys) == set(data["keys"])


@pytest.mark.parametrize(
    ("signing", "said"),
    [
        ({"backend": "gpg"}, "Pillar 'signing:backend' is 'gpg': choose"),
        ({"keys": {"a/b": {"uid": "A <a@b>"}}}, "a key 'a/b': use letters"),
        ({"keys": {"a": {}}}, "Pillar 'signing:keys:a:uid' is missing"),
        ({"keys": {"a": {"uid": "A <a@b>", "state": "gone"}}}, "signing:keys:a:state' is 'gone': choose"),
        ({"keys": {"a": {"uid": "A <a@b>", "koji": "other"}}}, "signing:keys:a:koji' is 'other'"),
        ({"default_koji": "other"}, "'signing:default_koji' is 'other'"),
        ({"koji": {"other": {"server": "https://x"}}}, "'signing:koji:other:topurl' is missing"),
    ],
)
def test_signing_that_is_wrong(renders: Renders, signing: dict[str, Any], said: str) -> None:
    """Before anything is changed, with the key that is to be mended."""
    case = next(case for case in CASES if case.name == "example")
    name = "compose.goose.example"
    pillar = {**renders.host(case, name, "Debian-12").pillar, "signing": signing}
    with pytest.raises(salt_tree.RenderError, match=re.escape(said)):
        renders.host(case, name, "Debian-12", pillar=pillar).states("sigul.client")


@every_platform
def test_renewal_reaches_all(renders: Renders, platform: str) -> None:
    """What hands a certificate on, and what a service is reloaded for, is in the state that renews, and in its report."""
    kinds = {"koji_file.copied", "sigul.nss", "koji_service.current", "koji_db.current", "service.running"}

    def hand_on(chunks: Iterable[dict[str, Any]]) -> dict[str, set[str]]:
        """By state: the files of /etc/pki/goose that it names, or the files that it makes of them."""
        found: dict[str, set[str]] = {}
        for chunk in chunks:
            kind = f"{chunk['state']}.{chunk['fun']}"
            named = set(re.findall(r"/etc/pki/goose/[\w.-]+", json.dumps(chunk, default=str)))
            waits = [each for each in chunk.get("watch", []) if isinstance(each, dict) and set(each.values()) & watched]
            if kind in kinds and (named or (kind == "service.running" and waits)):
                found[f"{kind} {chunk['name']}"] = named
        return found

    watched = {"pki-host-certificate", "pki-ca-certificate", "pki-crl"}
    problems = []
    for it in hosts(renders, platform):
        renewing = it.host.states("pki.renew")
        missing = set(hand_on(it.chunks)) - set(hand_on(renewing))
        problems += [f"{it.case.name}: {it.host.name}: pki.renew lacks {state}" for state in sorted(missing)]
        (report,) = [chunk["dataset"]["uses"] for chunk in it.chunks if chunk["__id__"] == "pki-uses"]
        copies = [
            chunk["name"]
            for chunk in it.chunks
            if (chunk["state"], chunk["fun"]) == ("koji_file", "copied") and not chunk["name"].endswith(".key")
            and chunk["source"].startswith("/etc/pki/goose/")
        ]
        problems += [
            f"{it.host.name}: pki/defaults.yaml does not know who uses {path}" for path in copies if path not in report
        ]
    none(iter(dict.fromkeys(problems)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"leaf_days": "ten"}, "'pki:leaf_days' is 'ten': give a number of days, or a text with a unit"),
        ({"crl_days": 0}, "'pki:crl_days' is '0'"),
        ({"leaf_days_remaining": 365}, "'pki:leaf_days_remaining' is not less than 'pki:leaf_days'"),
        ({"renew": {"every": 16, "jitter": 0}}, "'pki:renew:every' and 'pki:renew:jitter' are too long"),
        ({"renew": {"every": "often", "jitter": 0}}, "'pki:renew:every' is 'often'"),
        ({"ca": {"signing": 2, "trusted": [1]}}, "Pillar 'pki:ca' is"),
        ({"ca": {"signing": 1, "trusted": [1, 2, 3]}}, "Pillar 'pki:ca' is"),
        ({"ca": {"signing": 1, "trusted": [1, 1]}}, "Pillar 'pki:ca' is"),
        ({"ca": {"signing": 1, "trusted": "1"}}, "Pillar 'pki:ca' is"),
    ],
)
def test_pki_that_is_wrong(renders: Renders, changes: dict[str, Any], said: str) -> None:
    """Before a certificate is touched, with the key that is to be mended."""
    case = next(case for case in CASES if case.name == "example")
    pillar = renders.host(case, case.hosts[0], "Debian-12").pillar
    pillar = {**pillar, "pki": {**pillar["pki"], **changes}}
    with pytest.raises(salt_tree.RenderError, match=re.escape(said)):
        renders.host(case, case.hosts[0], "Debian-12", pillar=pillar).states("pki")


@pytest.mark.parametrize(
    ("monitoring", "said"),
    [
        ({"port": "9799"}, "Pillar 'monitoring:port' is '9799': give a number."),
        ({"interval": 0}, "Pillar 'monitoring:interval' is '0': give a number of seconds."),
        ({"path": "data"}, "Pillar 'monitoring:path' is 'data': give an absolute path"),
        ({"backups": "/srv"}, "Pillar 'monitoring:backups' is '/srv': give a list."),
        ({"readers": "all"}, "Pillar 'monitoring:readers' is 'all': choose certificate or everybody."),
        ({"alerts": {"disk": None}}, "Pillar 'monitoring:alerts' has 'disk', which is no alert: choose from"),
        ({"alerts": {"disk_full": {"over": 1}}}, "'monitoring:alerts:disk_full:over' is '1': an alert has for and under"),
        ({"alerts": {"disk_full": {"under": "1%"}}}, "'monitoring:alerts:disk_full:under' is '1%'"),
    ],
)
def test_monitoring_that_is_wrong(renders: Renders, monitoring: dict[str, Any], said: str) -> None:
    """Before anything is changed, with the key that is to be mended."""
    case = next(case for case in CASES if case.name == "site")
    name = "scm.goose.example"
    pillar = {**renders.host(case, name, "Debian-12").pillar, "monitoring": monitoring}
    with pytest.raises(salt_tree.RenderError, match=re.escape(said)):
        renders.host(case, name, "Debian-12", pillar=pillar).states("monitoring")


@every_platform
def test_prometheus_that_cannot_be_had(renders: Renders, platform: str) -> None:
    """EPEL has none: without a repository that offers it, the choices are named."""
    case = next(case for case in CASES if case.name == "site")
    name = "scm.goose.example"
    host = renders.host(case, name, platform)
    host = renders.host(case, name, platform, pillar={**host.pillar, "package_repos": {}})
    if platform == "Debian-12":
        assert host.states("monitoring")
        return
    with pytest.raises(salt_tree.RenderError, match=r"no package prometheus for .*package_repos.*a host with Debian 12"):
        host.states("monitoring")


@every_platform
def test_exporter_configuration(renders: Renders, platform: str, tmp_path: Path) -> None:
    """The exporter takes what the state writes, on every host of a site that watches, and on no other's."""
    path = tmp_path / "exporter.json"
    watched = set()
    for it in hosts(renders, platform):
        for chunk in it.chunks:
            if chunk["name"] == "/etc/goose/exporter.json":
                path.write_text(json.dumps(chunk["dataset"]), encoding="utf-8")
                config = exporter.Config.read(path)
                assert bool(config.koji_hub) == ("monitoring" in it.host.pillar["roles"])
                watched.add((it.case.name, it.host.name))
    assert watched == {(case.name, name) for case in CASES if case.name in ("single", "site") for name in case.hosts}


def required_keys() -> set[str]:
    """Return the pillar keys that states demand by the macro `required`."""
    found: set[str] = set()
    for service in sources.services(ROOT):
        for path in [*service.rglob("*.sls"), *service.rglob("*.jinja")]:
            text = path.read_text(encoding="utf-8")
            found.update(re.findall(r"\brequired\(\s*['\"]([\w:.-]+)['\"]", text))
    return found


def test_missing_pillar(renders: Renders) -> None:
    """Where a value of pillar is missing, the states do without, or say in a sentence which one."""
    case = next(case for case in CASES if case.name == "single")
    (name,) = case.hosts
    pillar = renders.host(case, name, "Debian-12").pillar
    keys = set(pillar) - {"roles"}
    keys |= {f"{top}:{key}" for top in ("site", "pki", "common", "koji") for key in pillar.get(top) or {}}
    if isinstance(renders(case, name, "Debian-12"), salt_tree.RenderError):
        pytest.skip(f"{name} does not render with all values, see test_renders")
    problems = []
    for key in sorted(keys | required_keys()):
        try:
            renders.host(case, name, "Debian-12", pillar=checks.without(pillar, key)).highstate()
        except salt_tree.RenderError as error:
            # Either the key, or the file that it stands in; never Jinja's own words.
            told = [f"'{key}'", f"'{key}:", f"pillar/{key.split(':')[0]}."]
            raw = [
                line
                for line in str(error).splitlines()
                if "Jinja variable" in line or "Undefined" in line or not any(word in line for word in told)
            ]
            if raw:
                problems.append(f"Without pillar {key}, {name} gets no sentence that names it: {raw[0]}")
        else:
            if key in required_keys():
                problems.append(f"Without {key}, which a state requires, {name} renders.")
    none(iter(problems))


def test_checks_are_all_used() -> None:
    """A check that no test calls would keep nothing."""
    text = Path(__file__).read_text(encoding="utf-8")
    for name, check in inspect.getmembers(checks, inspect.isgeneratorfunction):
        if not name.startswith("_") and check.__module__ == "checks":
            assert f"checks.{name}(" in text or name in ("text_faults",), (
                f"checks.{name} is called by no test here"
            )
