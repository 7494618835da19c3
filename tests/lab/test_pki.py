"""The CA from a packager's side, and certificates near their end."""

from __future__ import annotations

import datetime
import json
import ssl
import subprocess
import xmlrpc.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from goose.lab import lab as labs
from goose.lab import testing
from goose.lab.host import Host

PKI = "etc/pki/goose"
CSR = "/root/alice.csr"


@pytest.fixture(scope="module")
def ca_host(lab: labs.Lab) -> Host:
    return lab.need_role("pki.ca")


@pytest.fixture(scope="module")
def key() -> ec.EllipticCurvePrivateKey:
    """The packager's, which stays with the packager."""
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="module")
def csr(ca_host: Host, key: ec.EllipticCurvePrivateKey) -> Iterator[str]:
    """A request on the CA host that asks for more than it should get."""
    asked = {NameOID.COMMON_NAME: "kojiadmin", NameOID.ORGANIZATION_NAME: "Evil"}
    names = [x509.NameAttribute(oid, value) for oid, value in asked.items()]
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name(names))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("hub.goose.test")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = ca_host.root / CSR.lstrip("/")
    path.write_bytes(request.public_bytes(serialization.Encoding.PEM))
    yield CSR
    path.unlink()


def sign(host: Host, name: str, csr: str) -> subprocess.CompletedProcess[str]:
    """The documented command."""
    command = ["salt-call", "--out=newline_values_only", "--retcode-passthrough", "goose_pki.sign", name, csr]
    return host.run(command, check=False)


@pytest.fixture(scope="module")
def alice(ca_host: Host, csr: str) -> x509.Certificate:
    done = sign(ca_host, "alice", csr)
    assert done.returncode == 0, done.stdout + done.stderr
    return x509.load_pem_x509_certificate(done.stdout.encode())


def test_request_of_a_packager(
    alice: x509.Certificate, key: ec.EllipticCurvePrivateKey, ca_host: Host, lab: labs.Lab
) -> None:
    """Of the request only the key counts: name, life and uses are the CA host's word."""
    subject = {each.oid: each.value for each in alice.subject}
    assert subject == {NameOID.COMMON_NAME: "alice", NameOID.ORGANIZATION_NAME: "GoOSe"}
    assert alice.public_key() == key.public_key()
    alice.verify_directly_issued_by(x509.load_pem_x509_certificate(lab.ca_path().read_bytes()))
    constraints = alice.extensions.get_extension_for_oid(ExtensionOID.BASIC_CONSTRAINTS).value
    assert constraints == x509.BasicConstraints(ca=False, path_length=None)
    uses = alice.extensions.get_extension_for_oid(ExtensionOID.EXTENDED_KEY_USAGE).value
    assert list(uses) == [ExtendedKeyUsageOID.CLIENT_AUTH]  # type: ignore[call-overload]
    with pytest.raises(x509.ExtensionNotFound):
        alice.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    assert (alice.not_valid_after_utc - alice.not_valid_before_utc).days <= 365


def test_apache_takes_it(
    alice: x509.Certificate, key: ec.EllipticCurvePrivateKey, lab: labs.Lab, tmp_path: Path
) -> None:
    """The certificate passes the hub's TLS; Koji then knows no user alice, and says that."""
    pem = alice.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "alice.pem").write_bytes(pem)
    context = ssl.create_default_context(cafile=str(lab.ca_path()))
    context.load_cert_chain(tmp_path / "alice.pem")
    hub: Any = xmlrpc.client.ServerProxy(f"{lab.services()['koji-hub']}/ssllogin", context=context)
    with pytest.raises(xmlrpc.client.Fault, match="Unknown user: alice"):
        hub.sslLogin()


def test_issued_knows_it(alice: x509.Certificate, ca_host: Host) -> None:
    """What must be revoked one day is found by its name."""
    done = ca_host.run(["salt-call", "--out=json", "--out-indent=-1", "goose_pki.issued"])
    rows = json.loads(done.stdout)["local"]
    numbers = {int(row["serial_number"].replace(":", ""), 16): row for row in rows}
    assert numbers[alice.serial_number]["name"] == "alice"
    assert numbers[alice.serial_number]["revoked"] is False
    assert numbers[alice.serial_number]["not_after"].startswith(f"{alice.not_valid_after_utc:%Y-%m-%d}")
    assert sorted(rows, key=lambda row: row["not_after"]) == rows


def test_names_refused(ca_host: Host, lab: labs.Lab, csr: str) -> None:
    """Files are named after people, and no person may be a service or a host."""
    # One start of Salt for all: it takes longer than the answers.
    names = ["../x", "../../../../root/x", "a/b", ".x", "", "Alice", "x" * 32, "alice\nbob", "alice,O=Evil"]
    services = ["kojira", "kojiweb", "kojid", lab.hosts[0].fqdn, lab.hosts[-1].fqdn, lab.need_role("koji.hub").name]
    before = sorted(path.name for path in (ca_host.root / "etc/pki/goose-ca/issued").iterdir())
    script = (
        "import json, sys, salt.client\n"
        "caller = salt.client.Caller('/etc/salt/minion')\n"
        "answers = []\n"
        "for name in json.load(sys.stdin):\n"
        "    try:\n"
        "        answers.append(caller.cmd('goose_pki.sign', name, sys.argv[1]))\n"
        "    except Exception as error:\n"
        "        answers.append(f'refused: {error}')\n"
        "print(json.dumps(answers))"
    )
    done = ca_host.run(["/opt/salt/bin/python", "-c", script, csr], stdin=json.dumps([*names, *services]))
    answers = json.loads(done.stdout.splitlines()[-1])
    for name, answer in zip(names, answers):
        assert "is no name for a Koji user: use a-z" in answer, f"{name!r}: {answer}"
    for name, answer in zip(services, answers[len(names) :]):
        assert "is the name of a host or a service" in answer, f"{name!r}: {answer}"
    assert sorted(path.name for path in (ca_host.root / "etc/pki/goose-ca/issued").iterdir()) == before


def test_what_is_no_request(ca_host: Host) -> None:
    """A sentence, and an exit status that a script sees."""
    for path in ("/etc/hostname", "/root/there-is-none.csr"):
        done = sign(ca_host, "alice", path)
        assert done.returncode != 0
        assert "is no certificate request in PEM form" in done.stdout + done.stderr
        assert "openssl req -new" in done.stdout + done.stderr


def test_only_the_ca_host_signs(lab: labs.Lab) -> None:
    """Elsewhere the command says where to go."""
    others = [host for host in lab.hosts if "pki.ca" not in host.roles]
    if not others:
        pytest.skip("one host has every role")
    other = others[0]
    done = sign(other, "alice", "/etc/hostname")
    assert done.returncode != 0
    assert f"{other.fqdn} is not the CA host" in done.stdout + done.stderr


def test_every_host_trusts_the_ca(lab: labs.Lab) -> None:
    """Programs read the system's bundle; the hub's certificate is good by it, and by nothing else there."""
    url = lab.services()["koji-hub"]
    code = "import ssl, sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=20).status)"
    for host in lab.hosts:
        assert host.run(["/usr/bin/python3", "-c", code, url.replace("kojihub", "kojifiles/")]).stdout.strip() == "200"
    bundle = lab.hosts[0].root / "etc/ssl/certs/ca-certificates.crt"
    own = lab.ca_path().read_bytes()
    assert own.strip() in bundle.read_bytes()


@pytest.fixture(scope="module")
def builder(lab: labs.Lab) -> Host:
    found = [host for host in lab.hosts if "koji.builder" in host.roles][-1]
    if "pki.ca" in found.roles:
        pytest.skip("the builder of this profile signs for itself")
    return found


def read(host: Host, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((host.root / PKI / name).read_bytes())


def apply(lab: labs.Lab, host: Host, states: str) -> Any:
    outcome = lab.apply([host], states=states)[host.name]
    assert not outcome.failures, "\n".join(outcome.failures)
    return outcome


def test_renewal(lab: labs.Lab, builder: Host) -> None:
    """A certificate that ends soon is renewed by an ordinary apply, with the same key; the service follows."""
    keys = {name: (builder.root / PKI / f"{name}.key").read_bytes() for name in ("host", "kojid")}
    # The CA gives three days for a while, and the host has lost its year.
    with testing.pillar_over(lab.record, "pki.yaml", {"leaf_days": 3, "leaf_days_remaining": 1}):
        lab.need_role("pki.ca").run(["salt-call", "saltutil.refresh_pillar", "wait=True"])
        builder.run(["rm", *(f"/{PKI}/{name}.crt" for name in keys)])
        apply(lab, builder, "pki")
    lab.need_role("pki.ca").run(["salt-call", "saltutil.refresh_pillar", "wait=True"])
    short = {name: read(builder, f"{name}.crt") for name in keys}
    for name, certificate in short.items():
        left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.timezone.utc)
        assert left.days <= 3, f"{name}.crt could not be made to end soon"
    assert any("pki-kojid-certificate" in change for change in apply(lab, builder, "koji.builder").changes)
    for name, key in keys.items():
        renewed = read(builder, f"{name}.crt")
        assert (renewed.not_valid_after_utc - short[name].not_valid_after_utc).days > 300
        assert renewed.serial_number != short[name].serial_number
        assert (builder.root / PKI / f"{name}.key").read_bytes() == key, "the key is kept"
        assert renewed.public_key() == serialization.load_pem_private_key(key, None).public_key()
    assert read(builder, "kojid.pem") == read(builder, "kojid.crt"), "Koji's file holds the new one"
    assert not builder.run(["systemctl", "is-active", "kojid"], check=False).returncode
