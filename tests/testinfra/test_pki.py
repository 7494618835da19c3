"""The CA that every host trusts, and the host's own certificates."""

import json
import re
from pathlib import Path

import pytest
import yaml

PKI = yaml.safe_load((Path(__file__).resolve().parents[2] / "pillar/pki.yaml").read_text())


def identities(host):
    """Name -> common name, of the certificates that the host's roles bring."""
    found = [PKI["identities"][role] for role in host.roles if role in PKI["identities"]]
    return {each["name"]: host.name if each.get("common_name") == "host" else each["name"] for each in found}


def public_key(host, *words):
    return host.says("openssl", *words)


def test_system_trusts_the_ca(host):
    """dnf, git and browsers fetch over HTTPS with the system's store: the CA must be in the bundle they read."""
    bundle = host.text(host.settings("common")["ca_trust"]["bundle"])
    certificates = re.findall("-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----", host.text(f"{host.pki}/ca.crt"))
    assert 1 <= len(certificates) <= 2
    for certificate in certificates:
        assert certificate in bundle


def test_host_certificate_is_good(host):
    """Clients check the chain and the name; Apache checks the revocation list, and refuses all when it is old."""
    files = ["-CAfile", f"{host.pki}/ca.crt", "-CRLfile", f"{host.pki}/crl.pem"]
    host.says(
        "openssl", "verify", "-no-CApath", "-no-CAstore", "-x509_strict", "-crl_check", *files,
        "-verify_hostname", host.name, "-purpose", "sslserver", f"{host.pki}/host.crt",
    )  # fmt: skip


def test_certificates_name_their_service(host):
    """Koji takes the common name for the user: a wrong one is another user, or none."""
    assert re.fullmatch(rf"CN={re.escape(host.name)},O=.+", host.subject(f"{host.pki}/host.crt"))
    for name, common_name in identities(host).items():
        assert re.fullmatch(rf"CN={re.escape(common_name)},O=.+", host.subject(f"{host.pki}/{name}.pem"))


def test_keys_belong_to_certificates(host):
    """After a renewal that stopped half-way a service would start with a key of another certificate."""
    for name in ["host", *identities(host)]:
        of_key = public_key(host, "pkey", "-pubout", "-in", f"{host.pki}/{name}.key")
        files = [f"{name}.crt"] if name == "host" else [f"{name}.crt", f"{name}.pem"]
        for file in files:
            assert public_key(host, "x509", "-noout", "-pubkey", "-in", f"{host.pki}/{file}") == of_key, file
            if file.endswith(".pem"):
                assert public_key(host, "pkey", "-pubout", "-in", f"{host.pki}/{file}") == of_key, file


def test_certificates_cannot_sign(host):
    """One leaf that may sign others would make anybody who holds it a CA."""
    for name in ["host", *identities(host)]:
        text = host.says("openssl", "x509", "-noout", "-text", "-in", f"{host.pki}/{name}.crt")
        assert "CA:FALSE" in text and "CA:TRUE" not in text and "Certificate Sign" not in text


def test_certificates_are_renewed(host):
    """An apply renews them weeks before their end; one that ends within a week shows that nobody applies."""
    for name in ["host", *identities(host)]:
        assert host.expires_after(f"{host.pki}/{name}.crt", 7), f"{host.pki}/{name}.crt ends within a week"


def test_timer_renews(host):
    """Nobody has to apply anything for it."""
    assert host.runs("goose-pki-renew.timer")
    assert host.starts_at_boot("goose-pki-renew.timer")


def test_renewing_works_and_changes_nothing(host):
    """What the timer runs; it ends well, and, where nothing is due, leaves everything as it is."""
    files = host.says("sh", "-c", f"sha256sum {host.pki}/*.crt {host.pki}/ca.crt")
    host.says("systemctl", "start", "goose-pki-renew.service")
    assert host.says("sh", "-c", f"sha256sum {host.pki}/*.crt {host.pki}/ca.crt") == files


def test_host_says_what_it_holds(host):
    """The CA is replaced by steps, and goes by this: it must be true, and as good as now."""
    held = json.loads(host.text(f"{host.pki}/held.json"))
    assert set(held["leaves"]) == {f"{host.pki}/{name}.crt" for name in ["host", *identities(host)]}
    assert set(held["leaves"].values()) <= set(held["trusted"])
    assert set(held["trusted"]) <= set(held["lists"])


def test_keys_are_private(host):
    """A key that any process can read is anybody's."""
    for name in ["host", *identities(host)]:
        assert host.access(f"{host.pki}/{name}.key") == "root:root 600"
        files = [f"{name}.key"] if name == "host" else [f"{name}.key", f"{name}.pem"]
        for file in files:
            assert not host.reads("nobody", f"{host.pki}/{file}"), f"nobody reads {file}"


def test_service_keys_are_for_their_group_alone(host):
    """kojiweb's key is Apache's to read, because the pages run as Apache; all other services are root's."""
    groups = host.settings("pki")["groups"]
    for role in host.roles:
        if role in PKI["identities"]:
            identity = PKI["identities"][role]
            group = groups.get(identity.get("group", ""), "root")
            mode = 600 if group == "root" else 640
            assert host.access(f"{host.pki}/{identity['name']}.pem") == f"root:{group} {mode}"


def test_identities_are_known(host):
    """The checks above read pillar/pki.yaml: it must name what the states made."""
    made = {Path(path).stem for path in host.says("sh", "-c", f"ls {host.pki}/*.pem").split()} - {"crl"}
    if made != set(identities(host)):
        pytest.fail(f"{host.name} has {sorted(made)}, and its roles bring {sorted(identities(host))}")
