"""What must not work, against the real lab; each beside the like that does."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import json
import secrets
import socket
import ssl
import subprocess
import urllib.parse
import xmlrpc.client
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID, NameOID

from goose.lab import lab as labs
from goose.lab import testing
from goose.lab.host import Host
from goose.lab.run import wait_for

PKI = "etc/pki/goose"
CA = "etc/pki/goose-ca"


# --- Certificates at the hub -----------------------------------------------------------------------


@dataclass
class Koji:
    """A client of the hub that knows only what the protocol needs: koji's own is not in this environment."""

    url: str
    ca: Path
    cert: Path | None = None
    session: dict[str, Any] | None = None
    calls: int = 0

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca))
        if self.cert is not None:
            context.load_cert_chain(self.cert)
        return context

    def log_in(self) -> Koji:
        hub = xmlrpc.client.ServerProxy(f"{self.url}/ssllogin", context=self.context(), allow_none=True)
        answer: Any = hub.sslLogin()
        self.session = dict(answer)
        return self

    def __call__(self, method: str, *args: Any) -> Any:
        url = self.url
        if self.session is not None:
            words = {"session-id": self.session["session-id"], "session-key": self.session["session-key"]}
            url += "?" + urllib.parse.urlencode({**words, "callnum": self.calls})
            self.calls += 1
        hub = xmlrpc.client.ServerProxy(url, context=self.context(), allow_none=True)
        return getattr(hub, method)(*args)

    def handshake(self) -> str:
        """Why a TLS connection with this certificate ends, as OpenSSL names it; empty where it stands."""
        context = self.context()
        # With TLS 1.3 the client is ready before the server has looked at its certificate.
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        name = urllib.parse.urlsplit(self.url).hostname or ""
        try:
            with socket.create_connection((name, 443), 10) as plain, context.wrap_socket(plain, server_hostname=name):
                return ""
        except ssl.SSLError as error:
            return error.reason or str(error)


@dataclass(frozen=True)
class Issuer:
    """A CA in the hands of the tests: the lab's own, or another."""

    key: ec.EllipticCurvePrivateKey
    name: x509.Name

    def issue(self, path: Path, user: str, days: int) -> Path:
        """Certificate and key of ``user`` in a file, good until ``days`` from now, or past where negative."""
        key = ec.generate_private_key(ec.SECP256R1())
        end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)
        subject = x509.Name(
            [x509.NameAttribute(NameOID.COMMON_NAME, user), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "GoOSe")]
        )
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(end - datetime.timedelta(days=30))
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        text = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + text)
        return path


@pytest.fixture(scope="module")
def hub(lab: labs.Lab) -> Host:
    return lab.need_role("koji.hub")


@pytest.fixture(scope="module")
def ca_host(lab: labs.Lab) -> Host:
    return lab.need_role("pki.ca")


@pytest.fixture(scope="module")
def builder(lab: labs.Lab) -> Host:
    found = lab.need_role("koji.builder")
    if set(found.roles) != {"koji.builder"}:
        pytest.skip("the builder of this profile is the hub, too")
    return found


@pytest.fixture(scope="module")
def issuer(ca_host: Host) -> Issuer:
    """The lab's own CA: what it signs here differs from a good certificate in one thing alone."""
    key = serialization.load_pem_private_key((ca_host.root / CA / "ca.key").read_bytes(), None)
    certificate = x509.load_pem_x509_certificate((ca_host.root / CA / "ca.crt").read_bytes())
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Issuer(key, certificate.subject)


@pytest.fixture(scope="module")
def koji(lab: labs.Lab) -> Callable[..., Koji]:
    """Makes a client with a certificate, not logged in yet."""

    def make(cert: Path | None = None) -> Koji:
        return Koji(lab.services()["koji-hub"], lab.ca_path(), cert)

    return make


@pytest.fixture
def admin(koji: Callable[..., Koji], client: Path) -> Iterator[Koji]:
    """kojiadmin, logged in by a certificate that was signed by the documented command."""
    session = koji(client / "client.pem").log_in()
    yield session
    session("logout")


def refused(session: Koji) -> None:
    """The log-in fails, whatever TLS version the two agree on."""
    with pytest.raises((OSError, http.client.HTTPException, xmlrpc.client.ProtocolError)):
        session.log_in()


def test_a_certificate_of_this_ca_logs_in(koji: Callable[..., Koji], issuer: Issuer, tmp_path: Path) -> None:
    """What the tests sign is good where nothing is wrong with it; or those below would prove nothing."""
    session = koji(issuer.issue(tmp_path / "good.pem", "kojiadmin", 10))
    assert session.handshake() == ""
    assert session.log_in()("getLoggedInUser")["name"] == "kojiadmin"
    session("logout")


def test_no_certificate(koji: Callable[..., Koji]) -> None:
    """Everybody may read without one; nobody may log in."""
    session = koji()
    assert session("getAPIVersion") == 1
    with pytest.raises(xmlrpc.client.ProtocolError) as raised:
        session.log_in()
    assert raised.value.errcode == 403


def test_no_certificate_in_the_browser(lab: labs.Lab) -> None:
    context = ssl.create_default_context(cafile=str(lab.ca_path()))
    url = urllib.parse.urlsplit(lab.services()["koji-web"])
    connection = http.client.HTTPSConnection(url.hostname or "", timeout=20, context=context)
    with contextlib.closing(connection):
        connection.request("GET", f"{url.path}/login")
        assert connection.getresponse().status == 403


def test_another_ca(koji: Callable[..., Koji], issuer: Issuer, tmp_path: Path) -> None:
    """Anybody can make a CA of the same name and sign `kojiadmin` with it: the key counts."""
    other = Issuer(ec.generate_private_key(ec.SECP384R1()), issuer.name)
    session = koji(other.issue(tmp_path / "other.pem", "kojiadmin", 10))
    # It finds that the signature is wrong, or does not know whose it is: OpenSSL's versions differ.
    assert session.handshake() in ("TLSV1_ALERT_UNKNOWN_CA", "TLSV1_ALERT_DECRYPT_ERROR")
    refused(session)


def test_expired(koji: Callable[..., Koji], issuer: Issuer, tmp_path: Path) -> None:
    """A certificate that was lost is harmless after its end, revoked or not."""
    session = koji(issuer.issue(tmp_path / "expired.pem", "kojiadmin", -1))
    assert session.handshake() == "SSLV3_ALERT_CERTIFICATE_EXPIRED"
    refused(session)


def test_unknown_user(koji: Callable[..., Koji], issuer: Issuer, tmp_path: Path, admin: Koji) -> None:
    """A good certificate is not an account: users are data, and no log-in makes one."""
    session = koji(issuer.issue(tmp_path / "mallory.pem", "mallory", 10))
    with pytest.raises(xmlrpc.client.Fault, match="mallory"):
        session.log_in()
    assert admin("getUser", "mallory") is None


def test_hub_certificate_acts_for_nobody(koji: Callable[..., Koji], admin: Koji, hub: Host, tmp_path: Path) -> None:
    """kojiweb logs in for others; nobody else does, though the name be nearly the same."""
    for cert in (tmp_path / "host.pem", hub.root / PKI / "kojira.pem"):
        if not cert.exists():
            cert.write_bytes((hub.root / PKI / "host.crt").read_bytes() + (hub.root / PKI / "host.key").read_bytes())
        session = koji(cert)
        proxy: Any = xmlrpc.client.ServerProxy(f"{session.url}/ssllogin", context=session.context(), allow_none=True)
        with pytest.raises(xmlrpc.client.Fault, match="not authorized to login other users"):
            proxy.sslLogin("kojiadmin")
    session = koji(hub.root / PKI / "kojiweb.pem")
    proxy = xmlrpc.client.ServerProxy(f"{session.url}/ssllogin", context=session.context(), allow_none=True)
    session.session = proxy.sslLogin("kojiadmin")
    assert session("getLoggedInUser")["name"] == "kojiadmin"
    session("logout")


def test_revoked(
    lab: labs.Lab, command: Any, koji: Callable[..., Koji], ca_host: Host, hub: Host, tmp_path: Path
) -> None:
    """From the next apply of CA and hub on a revoked certificate is none, and one that was not still is."""
    certs = []
    for name in ("lost", "kept"):
        command("client", str(tmp_path / name))
        certs.append(tmp_path / name / "client.pem")
    lost, kept = (koji(cert) for cert in certs)
    assert lost.handshake() == kept.handshake() == ""
    number = f"{x509.load_pem_x509_certificate(certs[0].read_bytes()).serial_number:X}"
    number = number.zfill(len(number) + len(number) % 2)
    serial = ":".join(number[at : at + 2] for at in range(0, len(number), 2))
    entry = {"serial_number": serial, "revocation_date": "2026-01-01 00:00:00"}
    list_before = (ca_host.root / CA / "crl.pem").read_bytes()
    try:
        with testing.pillar_over(lab.record, "pki.yaml", {"revoked": [entry]}):
            apply(lab, [ca_host], "pki.ca")
            apply(lab, [hub], "common.httpd")
            assert lost.handshake() == "SSLV3_ALERT_CERTIFICATE_REVOKED"
            refused(lost)
            kept.log_in()("logout")
            rows = salt_call(ca_host, "goose_pki.issued")
            assert [row["revoked"] for row in rows if row["serial_number"] == serial] == [True]
            assert not any(row["revoked"] for row in rows if row["serial_number"] != serial)
    finally:
        # The same list as before, which the other hosts have still.
        (ca_host.root / CA / "crl.pem").write_bytes(list_before)
        apply(lab, [ca_host], "pki.ca")
        apply(lab, [hub], "common.httpd")
    lost.log_in()("logout")


def apply(lab: labs.Lab, hosts: list[Host], states: str) -> None:
    outcomes = lab.apply(hosts, states=states)
    failures = [line for outcome in outcomes.values() for line in outcome.failures]
    assert not failures, "\n".join(failures)


def salt_call(host: Host, *words: str) -> Any:
    done = host.run(["salt-call", "--out=json", "--out-indent=-1", "--retcode-passthrough", *words])
    return json.loads(done.stdout)["local"]


@pytest.fixture
def as_builder(lab: labs.Lab, koji: Callable[..., Koji], admin: Koji) -> Iterator[Koji]:
    """Logged in as a builder, whose kojid rests meanwhile: its session shuts out all others of that user."""
    builders = [host for host in lab.hosts if "koji.builder" in host.roles]

    def idle() -> list[Host]:
        numbers = {host.fqdn: admin("getHost", host.fqdn)["id"] for host in builders}
        busy = {task["host_id"] for task in admin("listTasks", {"state": [1, 4]}, {"limit": 50})}
        return [host for host in builders if numbers[host.fqdn] not in busy]

    wait_for(lambda: bool(idle()), what="a builder without a task", seconds=120, pause=1)
    host = idle()[0]
    host.run(["systemctl", "stop", "kojid"])
    try:
        session = koji(host.root / PKI / "kojid.pem").log_in()
        yield session
        session("logout")
    finally:
        host.run(["systemctl", "start", "kojid"])


def test_builder_administers_nothing(as_builder: Koji, admin: Koji) -> None:
    """A builder runs foreign code: who takes one over must not get the whole of Koji with it."""
    user = as_builder("getLoggedInUser")
    assert user["name"].startswith("builder"), "the session is a builder's"
    assert as_builder("getUserPerms", user["id"]) == []
    target = admin("getBuildTargets")[0]
    build = admin("listTagged", target["dest_tag_name"])[0]
    others = [host["name"] for host in admin("listHosts") if host["name"] != user["name"]]
    calls: list[tuple[Any, ...]] = [
        ("grantPermission", user["name"], "admin"),
        ("createUser", "mallory"),
        ("createTag", "mallory"),
        ("editTag2", target["dest_tag_name"], {"perm": "admin", "__starstar": True}),
        ("packageListAdd", target["dest_tag_name"], "mallory", user["name"]),
        ("tagBuildBypass", target["dest_tag_name"], build["nvr"]),
        ("untagBuildBypass", target["dest_tag_name"], build["nvr"]),
        ("deleteBuildTarget", target["name"]),
        ("deleteBuild", build["nvr"]),
        ("createEmptyBuild", "mallory", "1", "1", None),
        ("addHost", "mallory.goose.test", ["x86_64"]),
        ("disableHost", others[0] if others else user["name"]),
        ("addExternalRepoToTag", target["build_tag_name"], "mallory", 1),
    ]
    for method, *args in calls:
        with pytest.raises(xmlrpc.client.Fault) as raised:
            as_builder(method, *args)
        words = raised.value.faultString
        assert "permission required" in words or "policy violation" in words or "needs the permission" in words, (
            f"{method}: {words}"
        )
    assert admin("getUser", "mallory") is None and admin("getTag", "mallory") is None
    # The administrator is refused none of it: the hub merely finds nothing to do.
    with pytest.raises(xmlrpc.client.Fault, match="already"):
        admin("createTag", target["dest_tag_name"])


def test_builder_builds_nothing(as_builder: Koji, admin: Koji) -> None:
    """Koji takes anybody's task, and asks the policy when a builder starts it: the task must fail for that."""
    target = admin("getBuildTargets")[0]["name"]
    task = as_builder("build", "cli-build/x/mallory-1-1.src.rpm", target)
    states = {2: "closed", 3: "canceled", 5: "failed"}
    wait_for(lambda: admin("getTaskInfo", task)["state"] in states, what=f"task {task} to end", seconds=90)
    with pytest.raises(xmlrpc.client.Fault, match="policy violation .*needs the permission build"):
        admin("getTaskResult", task)
    assert admin("getPackageID", "mallory") is None


# --- The database ----------------------------------------------------------------------------------

# PostgreSQL's protocol as far as the first answer to a log-in: the hosts have no psql, and need none.
_POSTGRES = """
import socket, ssl, struct, sys
address, port, user, tls, cert, key = sys.argv[1:]
try:
    connection = socket.create_connection((address, int(port)), 10)
    if tls:
        connection.sendall(struct.pack("!ii", 8, 80877103))
        assert connection.recv(1) == b"S", "no TLS"
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if cert:
            context.load_cert_chain(cert, key)
        connection = context.wrap_socket(connection)
    words = b"user\\0" + user.encode() + b"\\0database\\0koji\\0\\0"
    connection.sendall(struct.pack("!ii", len(words) + 8, 196608) + words)
    answer = connection.recv(4096)
except OSError as error:
    sys.exit(print("no answer:", error))
if answer[:1] == b"R":
    print("welcome" if struct.unpack("!i", answer[5:9])[0] == 0 else "asks for a password")
else:
    fields = dict((field[:1].decode(), field[1:].decode()) for field in answer[5:].split(b"\\0") if field)
    print(fields["M"])
"""


@pytest.fixture(scope="module")
def postgres(lab: labs.Lab, hub: Host) -> Callable[..., str]:
    """What PostgreSQL says to a log-in from a host's network, with a host's certificate."""
    server = lab.need_role("koji.db")

    def ask(source: Host | None, holder: Host | None, user: str = "koji", tls: bool = True) -> str:
        files = [str(holder.root / PKI / f"host.{kind}") for kind in ("crt", "key")] if holder else ["", ""]
        line = ["/usr/bin/python3", "-c", _POSTGRES, server.address, "5432", user, "yes" if tls else "", *files]
        # The machine itself is a host of the network as well.
        if source is not None:
            line = ["nsenter", "--net", f"--target={source.leader()}", "--", *line]
        return subprocess.run(line, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    return ask


def test_database_lets_the_hub_in(postgres: Callable[..., str], hub: Host) -> None:
    """From its own address, by the certificate of its host, as koji."""
    assert postgres(hub, hub) == "welcome"


@pytest.fixture
def open_firewall(hub: Host) -> Iterator[None]:
    """The hub's host without its firewall: what is behind it must hold by itself."""
    hub.run(["nft", "delete", "table", "inet", "goose"])
    yield
    hub.run(["nft", "-f", "/etc/nftables.conf"])


def test_firewall_hides_the_database(postgres: Callable[..., str]) -> None:
    """From the machine, which is none of the hub's hosts: not even a refusal."""
    assert postgres(None, None) == "no answer: timed out"


@pytest.mark.usefixtures("open_firewall")
def test_database_refuses_other_hosts(postgres: Callable[..., str], lab: labs.Lab, hub: Host) -> None:
    """Not by a good certificate of their own, and not by the hub's if they have got hold of it."""
    others = [host for host in lab.hosts if "koji.hub" not in host.roles]
    for source in others:
        for holder in (source, hub, None):
            assert f'pg_hba.conf rejects connection for host "{source.address}"' in postgres(source, holder)
        assert "pg_hba.conf rejects connection" in postgres(source, None, tls=False)
    assert f'pg_hba.conf rejects connection for host "{lab.record.gateway}"' in postgres(None, hub)


def test_database_wants_the_hubs_certificate(postgres: Callable[..., str], hub: Host, builder: Host) -> None:
    """The hub's address alone is not enough: any process there has it."""
    assert "valid client certificate" in postgres(hub, None)
    assert "certificate authentication failed" in postgres(hub, builder)
    assert "pg_hba.conf rejects connection" in postgres(hub, hub, tls=False)


def test_database_superuser_is_local(postgres: Callable[..., str], hub: Host) -> None:
    """A hole in the hub gives Koji's data, and not the database server."""
    assert 'user "postgres"' in postgres(hub, hub, user="postgres")


def test_database_refuses_other_users_of_its_host(lab: labs.Lab) -> None:
    """Apache's user runs the web pages, nobody whatever else: neither is koji or postgres by the socket."""
    server = lab.need_role("koji.db")
    query = ["psql", "-X", "-At", "-d", "koji", "-c", "select count(*) > 0 from users"]
    assert server.run(["runuser", "-u", "postgres", "--", *query]).stdout.strip() == "t"
    for user in ("nobody", "www-data"):
        for role in ("koji", "postgres"):
            done = server.run(["runuser", "-u", user, "--", *query, "-U", role], check=False)
            assert done.returncode != 0
            assert "Peer authentication failed" in done.stderr or "pg_hba.conf rejects" in done.stderr


# --- Minions and their master ----------------------------------------------------------------------


def rogue(host: Host, requests: list[dict[str, Any]]) -> list[Any]:
    """What the master answers a minion that sends whatever it likes."""
    script = Path(__file__).with_name("rogue_minion.py").read_text()
    command = ["/opt/salt/bin/python", "-c", script]
    done = host.run(command, stdin=json.dumps(requests), what=f"A minion on {host.fqdn}")
    answers: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


@pytest.fixture(scope="module")
def canary(lab: labs.Lab, hub: Host) -> Iterator[str]:
    """A secret of the hub, in the second pillar root."""
    path = lab.record.root / "pillar/secrets" / f"{hub.fqdn.replace('.', '_')}.sls"
    before = path.read_bytes() if path.exists() else None
    word = secrets.token_hex(16)
    path.write_text(f"canary: {word}\n")
    yield word
    if before is None:
        path.unlink()
    else:
        path.write_bytes(before)


def test_secret_reaches_its_host_alone(hub: Host, builder: Host, ca_host: Host, canary: str) -> None:
    """A file a host under secrets/, and no other host's pillar has any of it."""
    assert rogue(hub, [{"cmd": "_pillar"}])[0]["canary"] == canary
    for other in (builder, ca_host):
        own = rogue(other, [{"cmd": "_pillar"}])[0]
        assert own["roles"] == list(other.roles), "its own pillar came"
        assert canary not in json.dumps(own)


def test_no_other_hosts_pillar(lab: labs.Lab, hub: Host, builder: Host, canary: str) -> None:
    """A minion is what its key says: neither grains nor a false name make it another."""
    grains = {"id": hub.fqdn, "host": hub.name, "fqdn": hub.fqdn, "roles": ["koji.hub"], "os": "Debian"}
    own, forged_grains, forged_id, itself, another = rogue(
        builder,
        [
            {"cmd": "_pillar"},
            {"cmd": "_pillar", "grains": grains, "extra_minion_data": {"id": hub.fqdn}},
            {"cmd": "_pillar", "id": hub.fqdn},
            {"cmd": "_auth", "id": builder.fqdn},
            {"cmd": "_auth", "id": hub.fqdn},
        ],
    )
    # The master keeps the key of whoever tried; it would stay.
    for denied in (lab.need_role("salt.master").root / "etc/salt/pki/master/minions_denied").iterdir():
        denied.unlink()
    assert own["roles"] == forged_grains["roles"] == ["koji.builder"]
    assert set(own) == set(forged_grains)
    assert "AuthenticationError" in forged_id
    assert itself is True and another is False
    assert canary not in json.dumps([own, forged_grains, forged_id])


def test_signing_policies_stay_at_the_ca(ca_host: Host, builder: Host) -> None:
    """Other hosts need them for nothing; where they lie, the CA is told what it may sign."""
    assert "x509_signing_policies" in rogue(ca_host, [{"cmd": "_pillar"}])[0]
    assert "x509_signing_policies" not in rogue(builder, [{"cmd": "_pillar"}])[0]


def test_no_pillar_as_files(hub: Host, builder: Host, canary: str) -> None:
    """The tree is the file root, and pillar lies in it: asked for by any name, it is not there."""
    secret = f"secrets/{hub.fqdn.replace('.', '_')}.sls"
    paths = [
        "pillar/hosts.yaml",
        "pillar/top.sls",
        "./pillar/hosts.yaml",
        "/pillar/hosts.yaml",
        "pki/../pillar/hosts.yaml",
        "pillar//hosts.yaml",
        "Pillar/../pillar/hosts.yaml",
        "|pillar/hosts.yaml",
        ".git/config",
        ".git/HEAD",
        secret,
        f"../site-pillar/{secret}",
        f"/srv/site-pillar/{secret}",
        f"pki/../../site-pillar/{secret}",
        "../../etc/shadow",
        "/etc/pki/goose-ca/ca.key",
        "../../etc/salt/pki/master/minions/" + hub.fqdn,
    ]
    asks = [{"cmd": "_serve_file", "path": path, "loc": 0} for path in ("common/roles.yaml", *paths)]
    asks += [{"cmd": "_serve_file", "path": paths[0], "loc": 0, "saltenv": env} for env in ("__env__", "../srv", "")]
    asks += [{"cmd": kind, "path": "pillar/hosts.yaml"} for kind in ("_file_hash", "_file_find")]
    asks += [{"cmd": "_file_list"}, {"cmd": "_dir_list"}, {"cmd": "_symlink_list"}]
    served, *answers, digest, found, files, directories, links = rogue(builder, asks)
    assert "koji.builder" in served["data"], "an ordinary file is served"
    for ask, answer in zip(asks[1:], answers):
        assert not (isinstance(answer, dict) and answer.get("data")), f"{ask['path']} was served: {answer}"
    assert not digest and not found["path"]
    listed = [*files, *directories, *links]
    assert "pki/init.sls" in listed
    assert not [path for path in listed if path.split("/")[0] in ("pillar", ".git")]
    assert canary not in json.dumps([*answers, digest, found])


def test_no_pillar_by_the_documented_way(builder: Host) -> None:
    """The same by the command that a person would try."""
    assert salt_call(builder, "cp.get_file_str", "salt://pillar/hosts.yaml") in (False, "")


def test_no_command_on_other_minions(hub: Host, builder: Host, ca_host: Host) -> None:
    """Peers may ask the CA for a certificate. With anything more one builder is all hosts."""
    publish = {"cmd": "minion_pub", "arg": [], "tgt_type": "glob", "ret": "", "tmo": 5, "form": "clean"}
    name = f"host-{builder.fqdn}"
    asks: list[dict[str, Any]] = [
        {"fun": "test.ping", "tgt": "*"},
        {"fun": "test.ping", "tgt": ca_host.fqdn},
        {"fun": "test.ping", "tgt": builder.fqdn},
        {"fun": "cmd.run", "tgt": hub.fqdn, "arg": ["id"]},
        {"fun": "pillar.items", "tgt": hub.fqdn},
        {"fun": "x509.sign_remote_certificate", "tgt": hub.fqdn, "arg": [name, {}]},
        {"fun": "x509.sign_remote_certificate", "tgt": "*", "arg": [name, {}]},
        {"fun": "x509.sign_remote_certificate", "tgt": "*", "tgt_type": "compound", "arg": [name, {}]},
        {"fun": "x509.sign_remote_certificates", "tgt": ca_host.fqdn, "arg": [name, {}]},
        {"fun": "x509_sign_remote_certificate", "tgt": ca_host.fqdn, "arg": [name, {}]},
        {"fun": "x509.sign_remote_certificate,cmd.run", "tgt": ca_host.fqdn, "arg": [name, "id"]},
        {"fun": "x509.create_certificate", "tgt": ca_host.fqdn, "arg": [name, {}]},
        {"fun": "goose_pki.sign", "tgt": ca_host.fqdn, "arg": ["mallory", ""]},
    ]
    runners = [{"cmd": "minion_runner", "fun": fun, "arg": []} for fun in ("manage.up", "pillar.show_pillar")]
    for ask, answer in zip([*asks, *runners], rogue(builder, [*({**publish, **ask} for ask in asks), *runners])):
        assert answer in ({}, ""), f"{ask} was answered: {answer}"


# --- A minion and the CA ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def public_key() -> str:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.fixture(scope="module")
def ask_ca(builder: Host, ca_host: Host, public_key: str) -> Callable[..., list[Any]]:
    """What the CA answers a builder that asks by policies and with arguments of its choice."""

    def ask(*wishes: tuple[str, dict[str, Any]], more: tuple[Any, ...] = (), **words: Any) -> list[Any]:
        publish = {"cmd": "minion_pub", "tgt_type": "glob", "ret": "", "tmo": 15, "form": "clean"}
        base = {**publish, "fun": "x509.sign_remote_certificate", "tgt": ca_host.fqdn, **words}
        asks = [{**base, "arg": [policy, {"public_key": public_key, **wish}, *more]} for policy, wish in wishes]
        answers = rogue(builder, asks)
        return [answer.get(ca_host.fqdn, answer) if isinstance(answer, dict) else answer for answer in answers]

    return ask


def certificate(answer: Any) -> x509.Certificate:
    assert isinstance(answer, dict) and answer.get("data"), f"no certificate was issued: {answer}"
    return x509.load_der_x509_certificate(bytes.fromhex(answer["data"]))


def is_plain(issued: x509.Certificate, host: Host) -> None:
    """The certificate is what the host's own policy says, whatever was asked for."""
    assert issued.subject.rfc4514_string() in (f"CN={host.fqdn},O=GoOSe", f"O=GoOSe,CN={host.fqdn}")
    names = issued.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
    assert names == x509.SubjectAlternativeName([x509.DNSName(host.fqdn)])
    constraints = issued.extensions.get_extension_for_oid(ExtensionOID.BASIC_CONSTRAINTS)
    assert constraints.critical and constraints.value == x509.BasicConstraints(ca=False, path_length=None)
    usage = issued.extensions.get_extension_for_oid(ExtensionOID.KEY_USAGE).value
    assert isinstance(usage, x509.KeyUsage)
    assert not usage.key_cert_sign and not usage.crl_sign
    days = (issued.not_valid_after_utc - issued.not_valid_before_utc).days
    assert days <= 366, f"it lives for {days} days"
    now = datetime.datetime.now(datetime.timezone.utc)
    assert issued.not_valid_after_utc < now + datetime.timedelta(days=367)
    assert issued.serial_number.bit_length() > 100, "the CA chooses the number"


def test_ca_gives_a_host_its_own(ask_ca: Callable[..., list[Any]], builder: Host) -> None:
    """Its own policies, and only those, are granted."""
    own, kojid = ask_ca((f"host-{builder.fqdn}", {}), (f"kojid-{builder.fqdn}", {}))
    is_plain(certificate(own), builder)
    is_plain(certificate(kojid), builder)


def test_ca_gives_no_other_name(ask_ca: Callable[..., list[Any]], lab: labs.Lab, hub: Host, builder: Host) -> None:
    """Another host's policy, or that of a service whose role the host has not, is refused before it is run."""
    policies = [f"host-{host.fqdn}" for host in lab.hosts if host != builder]
    policies += [f"{name}-{hub.fqdn}" for name in ("kojira", "kojiweb")]
    policies += [f"{name}-{builder.fqdn}" for name in ("kojira", "kojiweb", "kojiadmin")]
    policies += [f"kojiadmin-{lab.need_role('koji.content').fqdn}", "", "host-"]
    own = f"host-{builder.fqdn}"
    policies += [f"{own}\nhost-{hub.fqdn}", f"x{own}", own.replace(".", "x")]
    for policy, answer in zip(policies, ask_ca(*((policy, {}) for policy in policies))):
        assert answer == {}, f"{policy!r} was answered: {answer}"


def test_ca_keeps_to_its_policy(ask_ca: Callable[..., list[Any]], ca_host: Host, hub: Host, builder: Host) -> None:
    """Each of these wishes was granted under the set-up that Salt documents; here the policy overrides it.

    A client can still add extensions that no policy names. None of them makes a CA, another name
    or a longer life; that is what `is_plain` looks at.
    """
    wishes: list[dict[str, Any]] = [
        {"CN": hub.fqdn},
        {"subject": f"CN={hub.fqdn}"},
        {"subject": {"CN": hub.fqdn}},
        {"commonName": "kojiadmin"},
        {"subjectAltName": f"DNS:{hub.fqdn}"},
        {"basicConstraints": "critical, CA:TRUE"},
        {"X509v3 Basic Constraints": "critical, CA:TRUE", "keyUsage": "keyCertSign, cRLSign"},
        {"days_valid": 36500},
        {"not_after": "2099-01-01 00:00:00"},
        {"not_before": "2000-01-01 00:00:00", "days_valid": 36500},
        {"serial_number": 5},
        {"signing_policy": f"host-{hub.fqdn}"},
        {"ca_server": hub.fqdn, "signing_cert": "/etc/pki/goose/ca.crt"},
    ]
    policy = f"host-{builder.fqdn}"
    for wish, answer in zip(wishes, ask_ca(*((policy, wish) for wish in wishes))):
        try:
            is_plain(certificate(answer), builder)
        except AssertionError as error:
            pytest.fail(f"{wish} was granted: {error}")


def test_ca_writes_where_it_likes(ask_ca: Callable[..., list[Any]], ca_host: Host, builder: Host) -> None:
    """`copypath` with a name of `../../` wrote any file as root on the CA host."""
    before = {path.name for path in (ca_host.root / CA / "issued").iterdir()}
    places = ["/var/tmp", "/var/tmp/mallory", "../../../var/tmp"]
    wish = {"prepend_cn": True, "CN": "../../../../var/tmp/mallory", "path": "/var/tmp/mallory.crt"}
    wishes: list[dict[str, Any]] = [{**wish, "copypath": place} for place in places]
    answers = ask_ca(*((f"host-{builder.fqdn}", wish) for wish in wishes))
    for answer in answers:
        is_plain(certificate(answer), builder)
    added = {path.name for path in (ca_host.root / CA / "issued").iterdir()} - before
    assert {f"{certificate(answer).serial_number:x}.crt" for answer in answers} <= added, "a copy of each is kept"
    strays = [path.name for path in (ca_host.root / "var/tmp").rglob("*")]
    assert not [name for name in strays if "mallory" in name or name.endswith(".crt")]


def test_ca_looks_who_asks(ask_ca: Callable[..., list[Any]], hub: Host, builder: Host) -> None:
    """The policy names its host, and Salt's own word for the asking minion cannot be given along."""
    claim = {"__kwarg__": True, "__pub_id": hub.fqdn}
    assert "AuthenticationError" in ask_ca((f"host-{hub.fqdn}", {}), id=hub.fqdn)[0]
    assert ask_ca((f"host-{hub.fqdn}", {}), more=(claim,)) == [{}]
    second = {"__kwarg__": True, "signing_policy": f"host-{hub.fqdn}"}
    assert "multiple values" in ask_ca((f"host-{builder.fqdn}", {}), more=(second,))[0]
