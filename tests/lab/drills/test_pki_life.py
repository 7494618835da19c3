"""The life of certificates while people work: renewed, revoked, and the CA itself replaced.

All the while clients log in to the hub, call it, and fetch from every server; each request has a connection
of its own. None may fail, and nothing is sent again. While certificates are renewed packages are built, too.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import secrets
import ssl
import subprocess
import threading
import time
import urllib.parse
import xmlrpc.client
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from conftest import Command
from estate import Estate
from goose.lab import client as lab_client
from goose.lab import lab as labs
from goose.lab import testing
from goose.lab.host import Host
from koji_client import Hub, wait_for

PKI = "etc/pki/goose"
CA = "etc/pki/goose-ca"

# A drill's certificates live four minutes and are renewed from half a minute on. More often, and six hosts on one
# machine keep it at a load at which kojid takes no task.
DRILL = {
    "leaf_days": "4m",
    "leaf_days_remaining": "3.5m",
    "crl_days": "4m",
    "crl_days_remaining": "3.5m",
    "renew": {"every": "0.75m", "jitter": 0},
}


@dataclass
class Person:
    """Somebody with a certificate: a file with certificate and key, and the CAs that they trust."""

    lab: labs.Lab
    name: str
    directory: Path
    # OpenSSL opens a file twice, for the certificate and for the key, and both must be of one time.
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def cert(self) -> Path:
        return self.directory / f"{self.name}.pem"

    @property
    def trusted(self) -> Path:
        return self.directory / "ca.pem"

    def certified(self) -> None:
        """Get a certificate, a new one where there is one, by the documented command."""
        key = run("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
        request = run("openssl", "req", "-new", "-key", "/dev/stdin", "-subj", f"/CN={self.name}", stdin=key)
        both = lab_client.sign(self.lab, self.name, request) + key
        with self.lock:
            self._write(self.cert, both)

    def trusts(self) -> None:
        """Trust what the hosts trust now."""
        host = self.lab.need_role("pki.ca")
        self._write(self.trusted, (host.root / PKI / "ca.crt").read_text())

    @staticmethod
    def _write(path: Path, text: str) -> None:
        partial = path.with_suffix(".new")
        partial.write_text(text)
        partial.rename(path)

    def context(self, certificate: bool = True) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.trusted))
        if certificate:
            with self.lock:
                context.load_cert_chain(self.cert)
        return context

    def send(
        self, method: str, url: str, body: bytes | None = None, certificate: bool = True, kind: str = "text/xml"
    ) -> tuple[int, bytes, int]:
        """One request on a connection of its own: status, body, and the serial number of the server's certificate."""
        parts = urllib.parse.urlsplit(url)
        connection = http.client.HTTPSConnection(parts.hostname or "", timeout=60, context=self.context(certificate))
        with contextlib.closing(connection):
            connection.connect()
            assert isinstance(connection.sock, ssl.SSLSocket)
            der = connection.sock.getpeercert(binary_form=True)
            assert der is not None
            path = parts.path + (f"?{parts.query}" if parts.query else "")
            connection.request(method, path, body, {"Content-Type": kind} if body is not None else {})
            answer = connection.getresponse()
            return answer.status, answer.read(), x509.load_der_x509_certificate(der).serial_number


def run(*command: str, stdin: str | None = None) -> str:
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=True).stdout


@dataclass
class Session:
    """A session at the hub, by nothing but its protocol."""

    person: Person
    url: str
    words: dict[str, Any] = field(default_factory=dict)
    calls: int = 0

    def log_in(self) -> Session:
        answer = self._call(f"{self.url}/ssllogin", "sslLogin", True)
        self.words = {"session-id": answer["session-id"], "session-key": answer["session-key"]}
        self.calls = 0
        return self

    def __call__(self, method: str, *arguments: Any, certificate: bool = True) -> Any:
        query = urllib.parse.urlencode({**self.words, "callnum": self.calls})
        self.calls += 1
        return self._call(f"{self.url}?{query}", method, certificate, *arguments)

    def _call(self, url: str, method: str, certificate: bool, *arguments: Any) -> Any:
        body = xmlrpc.client.dumps(arguments, method, allow_none=True).encode()
        status, said, _ = self.person.send("POST", url, body, certificate)
        assert status == 200, f"{method}: HTTP {status}"
        return xmlrpc.client.loads(said.decode())[0][0]


class Load:
    """Clients that never stop, until they are told to; what failed, with the second in which it did."""

    def __init__(self, person: Person, hub: str, urls: list[str]) -> None:
        self.failures: list[str] = []
        self.done: dict[str, int] = {}
        self.serials: dict[str, set[int]] = {url: set() for url in urls}
        self._person = person
        self._hub = hub
        self._stop = threading.Event()
        jobs: list[tuple[str, Callable[[], Any]]] = [(url, self._getter(url)) for url in urls]
        jobs += [("calls in a session", self._caller()), ("log-ins", self._logger())]
        self._threads = [threading.Thread(target=self._go, args=job) for job in jobs]

    def _getter(self, url: str) -> Callable[[], Any]:
        def get() -> None:
            status, _, serial = self._person.send("GET", url)
            # git's page leads to another.
            assert status in (200, 302), f"HTTP {status}"
            self.serials[url].add(serial)

        return get

    def _caller(self) -> Callable[[], Any]:
        session = Session(self._person, self._hub).log_in()
        return lambda: session("getLoggedInUser")["name"]

    def _logger(self) -> Callable[[], Any]:
        def log_in() -> None:
            session = Session(self._person, self._hub).log_in()
            assert session("getLoggedInUser")["name"] == self._person.name
            session("logout")

        return log_in

    def _go(self, what: str, job: Callable[[], Any]) -> None:
        # Slower than they could be: above a load of 4 a processor kojid takes no task.
        while not self._stop.wait(0.6):
            try:
                job()
            except Exception as error:
                self.failures.append(f"{time.strftime('%T')} {what}: {type(error).__name__}: {error}")
            self.done[what] = self.done.get(what, 0) + 1

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def judge(self) -> None:
        """No request failed, and there were some of each kind."""
        self.__exit__()
        print(f"\n{sum(self.done.values())} requests: {self.done}")
        assert not self.failures, f"{len(self.failures)} of {sum(self.done.values())}: {self.failures[:20]}"
        assert set(self.done) >= set(self.serials) and min(self.done.values()) > 20


@pytest.fixture(scope="module")
def ca_host(lab: labs.Lab) -> Host:
    if lab.master is None:
        pytest.skip("a host alone has nobody to renew for")
    return lab.need_role("pki.ca")


@pytest.fixture(scope="module")
def urls(lab: labs.Lab) -> list[str]:
    services = lab.services()
    tops = [services[name] for name in ("koji-files", "lookaside", "scm", "repos")]
    return [f"{services['koji-web']}/buildtargets", *(f"{top.rstrip('/')}/" for top in tops)]


@pytest.fixture(scope="module")
def person(lab: labs.Lab, ca_host: Host, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Person]:
    """Make a person: a user of Koji who may build, with a certificate."""
    admin = lab.need_role("koji.content")

    def make(name: str) -> Person:
        # Of an earlier run both are there.
        admin.run(["koji", "add-user", name], check=False)
        admin.run(["koji", "grant-permission", "build", name], check=False)
        found = Person(lab, name, tmp_path_factory.mktemp(name))
        found.trusts()
        found.certified()
        return found

    return make


@pytest.fixture(scope="module")
def worker(person: Callable[[str], Person]) -> Person:
    """Whose requests may not fail; of this run alone, for the CA knows what an earlier one has got."""
    return person(f"worker-{secrets.token_hex(3)}")


@pytest.fixture
def load(lab: labs.Lab, worker: Person, urls: list[str]) -> Iterator[Load]:
    with Load(worker, lab.services()["koji-hub"], urls) as found:
        yield found


@pytest.fixture
def builds(lab: labs.Lab, hub: Hub, command: Command) -> Iterator[list[str]]:
    """Packages are built all the while, one after the other; how each has ended, which must be well."""
    estate = Estate(lab, hub, command)
    stop = threading.Event()
    states: list[str] = []

    def go() -> None:
        while not stop.is_set():
            states.append(hub.wait_for_task(estate.scratch(f"lab-renewal{len(states)}", "sleep 3"), 400))

    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(go)
        yield states
        stop.set()
        job.result()
    print(f"\n{len(states)} builds")
    assert set(states) == {"CLOSED"}, states


def renew(lab: labs.Lab, *names: str) -> None:
    """The documented command: the CA host, then the others side by side; all, or some."""
    ca_host, master = lab.need_role("pki.ca"), lab.master
    assert master is not None
    ids = [host.fqdn for host in lab.hosts if host != ca_host and (not names or host.name in names)]
    for target in ([ca_host.fqdn], ids):
        salt = ["salt", "--out=json", "--out-indent=-1", "--timeout=300", "-L", ",".join(target), "goose_pki.renew"]
        done = master.run(salt, check=False)
        answers = {key: value for line in done.stdout.splitlines() for key, value in json.loads(line).items()}
        bad = {host: answers.get(host) for host in target if not isinstance(answers.get(host), list)}
        assert not bad, f"goose_pki.renew: {bad}"


def read(host: Host, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((host.root / PKI / name).read_bytes())


def list_number(host: Host) -> int:
    crl = x509.load_pem_x509_crl((host.root / PKI / "crl.pem").read_bytes())
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def servers(lab: labs.Lab) -> list[Host]:
    """The hosts that the requests go to, and a builder."""
    roles = ("koji.hub", "lookaside", "mash", "koji.builder")
    return list({host.name: host for host in map(lab.need_role, roles)}.values())


def test_renewing_under_load(
    lab: labs.Lab, ca_host: Host, load: Load, urls: list[str], builds: list[str]
) -> None:
    """Certificates of minutes are renewed by the hosts' timers alone, again and again, and nobody notices."""
    hosts = servers(lab)
    keys = {host.name: (host.root / PKI / "host.key").read_bytes() for host in hosts}
    with testing.pillar_over(lab.record, "pki.yaml", DRILL):
        ca_host.run(["salt-call", "saltutil.refresh_pillar", "wait=True"])
        # What is there ends in months, and would not be renewed.
        ca_host.run(["sh", "-c", f"rm -f /{CA}/*/crl.pem"])
        for host in hosts:
            host.run(["sh", "-c", f"rm -f /{PKI}/host.crt /{PKI}/koji*.crt /{PKI}/signer.crt"])
        renew(lab, *(host.name for host in hosts))
        first = {host.name: read(host, "host.crt").serial_number for host in hosts}
        lists = {host.name: list_number(host) for host in hosts}
        for host in hosts:
            left = read(host, "host.crt").not_valid_after_utc.timestamp() - time.time()
            assert left < 250, f"{host.name} did not get a short certificate"
            host.run(["systemctl", "start", "goose-pki-renew.timer"])
        ca_host.run(["systemctl", "start", "goose-pki-renew.timer"])
        # By the timers: nobody applies anything here.
        served = {url: (urllib.parse.urlsplit(url).hostname or "").split(".")[0] for url in urls}
        before = len(builds)

        def all_renewed() -> bool:
            return (
                len(builds) >= before + 3
                and all(read(host, "host.crt").serial_number != first[host.name] for host in hosts)
                and all(list_number(host) > lists[host.name] for host in hosts)
                and all(len(load.serials[url] - {first[name]}) >= 2 for url, name in served.items())
            )

        wait_for(all_renewed, "three builds, and every timer to renew and every server to serve what it has renewed", 500)
    ca_host.run(["salt-call", "saltutil.refresh_pillar", "wait=True"])
    renew(lab, *(host.name for host in hosts))
    for host in hosts:
        assert read(host, "host.crt").not_valid_after_utc.timestamp() - time.time() > 300 * 86400
        assert (host.root / PKI / "host.key").read_bytes() == keys[host.name], "the key is kept"
    for host, unit in ((lab.need_role("koji.kojira"), "kojira"), (lab.need_role("koji.builder"), "kojid")):
        assert read(host, f"{unit}.pem") == read(host, f"{unit}.crt")
        assert not host.run(["systemctl", "is-active", unit], check=False).returncode
    load.judge()


def call(host: Host, *words: str) -> Any:
    """What a function of Salt's returns on a host."""
    done = host.run(["salt-call", "--out=json", "--out-indent=-1", "--retcode-passthrough", *words])
    return json.loads(done.stdout)["local"]


def upload(person: Person, lab: labs.Lab) -> int:
    """HTTP status of a question to the lookaside cache's upload program, whether it has an archive."""
    form = b"--x\r\nContent-Disposition: form-data; name=\"name\"\r\n\r\nnothing\r\n"
    form += b"--x\r\nContent-Disposition: form-data; name=\"sha512sum\"\r\n\r\n" + b"0" * 128 + b"\r\n"
    form += b"--x\r\nContent-Disposition: form-data; name=\"filename\"\r\n\r\nnothing.tar\r\n--x--\r\n"
    url = lab.services()["lookaside-upload"]
    return person.send("POST", url, form, kind="multipart/form-data; boundary=x")[0]


def test_a_revoked_person(lab: labs.Lab, ca_host: Host, person: Callable[[str], Person], worker: Person) -> None:
    """One command; then the hub and the lookaside cache refuse this one, sessions included, and nobody else."""
    leaver = person("leaver")
    hub = lab.services()["koji-hub"]
    session = Session(leaver, hub).log_in()
    assert session("getLoggedInUser")["name"] == "leaver"
    assert upload(leaver, lab) == upload(worker, lab) == 200
    revoked = call(ca_host, "goose_pki.revoke", "leaver")["revoked"]
    assert len(revoked) >= 1
    renew(lab, "hub", lab.need_role("lookaside").name)
    for ask in (lambda: Session(leaver, hub).log_in(), lambda: upload(leaver, lab), lambda: session("getLoggedInUser")):
        with pytest.raises((ssl.SSLError, http.client.HTTPException, ConnectionError)):
            ask()
    # A session needs no certificate after it has begun.
    with pytest.raises(xmlrpc.client.Fault):
        session("getLoggedInUser", certificate=False)
    assert Session(worker, hub).log_in()("getLoggedInUser")["name"] == worker.name
    assert upload(worker, lab) == 200
    assert call(ca_host, "goose_pki.revoke", "leaver")["revoked"] == []
    # What an apply does not forget.
    assert not lab.apply([ca_host], states="pki.ca")[ca_host.name].changes
    assert set(revoked) <= {row["serial_number"] for row in call(ca_host, "goose_pki.revoked")}


def set_ca(lab: labs.Lab, signing: int, trusted: list[int]) -> None:
    """Pillar `pki:ca`, in the lab's own pillar root, where it stays: nothing of it where it is the repository's."""
    path = lab.record.root / "pillar/pki.yaml"
    data = yaml.safe_load((labs.TREE / "pillar/pki.yaml").read_text())
    changed = {**data, "ca": {"signing": signing, "trusted": trusted}}
    if changed == data:
        path.unlink(missing_ok=True)
    else:
        path.write_text(yaml.safe_dump(changed, sort_keys=False))


def refused(lab: labs.Lab, ca_host: Host, *said: str) -> None:
    """The CA host does not go this step, says why, and changes nothing."""
    before = (ca_host.root / CA / "trusted.crt").read_bytes(), (ca_host.root / CA / "current").readlink()
    failures = "\n".join(lab.apply([ca_host], states="pki.ca")[ca_host.name].failures)
    assert "pki-ca-step" in failures
    for words in said:
        assert words in failures, failures
    assert before == ((ca_host.root / CA / "trusted.crt").read_bytes(), (ca_host.root / CA / "current").readlink())


def test_the_ca_is_replaced(
    lab: labs.Lab, command: Command, ca_host: Host, load: Load, worker: Person, client: Path
) -> None:
    """By its steps and under load: old, both, both with the new one signing, new alone. Steps are not skipped."""
    old = int(str((ca_host.root / CA / "current").readlink()))
    new = 2 if old == 1 else 1
    both = sorted((old, new))
    # The hosts say what they hold when they renew.
    renew(lab)
    set_ca(lab, new, [new])
    refused(lab, ca_host, f"CA {new} cannot sign yet, because no host knows it")
    set_ca(lab, old, both)
    renew(lab, "hub")
    set_ca(lab, new, both)
    refused(lab, ca_host, f"CA {new} cannot sign yet, because {lab.need_role('lookaside').fqdn} does not trust it")
    set_ca(lab, old, both)
    renew(lab)
    worker.trusts()
    assert worker.trusted.read_text().count("BEGIN CERTIFICATE") == 2
    set_ca(lab, new, both)
    ca_host.run(["salt-call", "--retcode-passthrough", "goose_pki.renew"])
    set_ca(lab, new, [new])
    refused(
        lab,
        ca_host,
        f"CA {old} cannot be dropped yet, because {lab.need_role('koji.hub').fqdn} has /{PKI}/host.crt from it",
        f"CA {old} cannot be dropped yet, because {worker.name} has the certificate",
    )
    set_ca(lab, new, both)
    renew(lab)
    worker.certified()
    # People of other tests, who have asked for none of the new CA's: they leave.
    set_ca(lab, new, [new])
    said = "\n".join(lab.apply([ca_host], states="pki.ca")[ca_host.name].failures)
    left = re.findall(r"because (\S+) has the certificate", said)
    set_ca(lab, new, both)
    for name in left:
        ca_host.run(["salt-call", "--retcode-passthrough", "goose_pki.revoke", name])
    set_ca(lab, new, [new])
    renew(lab)
    worker.trusts()
    assert worker.trusted.read_text().count("BEGIN CERTIFICATE") == 1
    (issuer,) = x509.load_pem_x509_certificates(worker.trusted.read_bytes())
    for host in lab.hosts:
        assert (host.root / PKI / "ca.crt").read_bytes() == worker.trusted.read_bytes()
        for path in (host.root / PKI).glob("*.crt"):
            if path.name != "ca.crt":
                x509.load_pem_x509_certificate(path.read_bytes()).verify_directly_issued_by(issuer)
        bundle = (host.root / "etc/ssl/certs/ca-certificates.crt").read_text()
        assert worker.trusted.read_text().strip() in bundle
    load.judge()
    # For what comes after: this machine's own copy of the CA, and the client's certificate.
    lab.fetch_ca()
    command("client", str(client))
    with ThreadPoolExecutor() as pool:
        kinds = {host.name: pool.submit(lab.apply, [host], states="pki.renew") for host in lab.hosts}
    assert {name: done.result()[name].changes for name, done in kinds.items()} == {name: () for name in kinds}


def test_report(lab: labs.Lab, ca_host: Host) -> None:
    """Every certificate of every host; exit 1 with sentences where one ends within the time that is asked for."""
    report = ["/srv/salt/scripts/pki_report.py"]
    done = ca_host.run([*report, "--json", "--days", "5"], check=False)
    made = json.loads(done.stdout)
    assert done.returncode == 0, made["problems"]
    assert set(made["hosts"]) == {host.fqdn for host in lab.hosts}
    hub = {row["path"]: row for row in made["hosts"][lab.need_role("koji.hub").fqdn]}
    assert {f"/{PKI}/host.crt", f"/{PKI}/kojira.pem", "/etc/koji-hub/db/host.crt", f"/{PKI}/crl.pem"} <= set(hub)
    assert any("Apache" in use for use in hub[f"/{PKI}/host.crt"]["used_by"])
    done = ca_host.run([*report, "--days", "366"], check=False)
    assert done.returncode == 1
    assert f"{lab.need_role('koji.hub').fqdn}: /{PKI}/kojira.pem" in done.stderr and "it ends in" in done.stderr
