"""The certificate authority."""

import json
import re

import pytest


@pytest.fixture
def ca(host):
    return host.settings("pki")["ca_dir"]


def test_key_is_roots_alone(host, ca):
    """Whoever reads it is every user and every host."""
    assert host.access(ca) == "root:root 700"
    assert host.access(f"{ca}/ca.key") == "root:root 600"
    assert not host.reads("nobody", f"{ca}/ca.key")


def test_certificate_is_a_small_ca(host, ca):
    """pathlen:0: what it signs can sign nothing."""
    text = host.says("openssl", "x509", "-noout", "-text", "-in", f"{ca}/ca.crt")
    assert "CA:TRUE, pathlen:0" in text
    assert "Certificate Sign, CRL Sign" in text
    key = host.says("openssl", "pkey", "-pubout", "-in", f"{ca}/ca.key")
    assert host.says("openssl", "x509", "-noout", "-pubkey", "-in", f"{ca}/ca.crt") == key
    assert host.expires_after(f"{ca}/ca.crt", 60), "a new CA has to reach every host in time"


def test_hosts_trust_this_one(host, ca):
    """After a restore from backup, say, hosts could trust another CA than the one that signs."""
    assert host.text(f"{host.pki}/ca.crt") == host.text(f"{ca}/trusted.crt")
    assert host.text(f"{ca}/ca.crt") in host.text(f"{ca}/trusted.crt")


def test_one_signs(host, ca):
    """Key, certificate and list under the CA's own names are those of the one that signs now."""
    current = host.says("readlink", f"{ca}/current")
    for name in ("ca.key", "ca.crt", "crl.pem"):
        assert host.says("readlink", "-f", f"{ca}/{name}") == f"{ca}/{current}/{name}"


def test_who_is_revoked_is_on_the_list(host, ca):
    """What `goose_pki.revoke` has kept and what pillar says is what every host refuses."""
    rows = json.loads(host.says("salt-call", "--out=json", "--out-indent=-1", "goose_pki.revoked"))["local"]
    now = host.says("date", "-u", "+%F %T")
    wanted = {row["serial_number"].replace(":", "") for row in rows if row.get("not_after", now) >= now}
    text = host.says("openssl", "crl", "-noout", "-text", "-in", f"{ca}/crl.pem")
    assert wanted <= set(re.findall(r"Serial Number: ([0-9A-F]+)", text))


def test_revocation_list_is_the_cas(host, ca):
    """Apache refuses everybody where the list is another CA's or too old."""
    host.says("openssl", "crl", "-noout", "-CAfile", f"{ca}/ca.crt", "-in", f"{ca}/crl.pem")
    host.says("openssl", "verify", "-crl_check", "-CAfile", f"{ca}/ca.crt", "-CRLfile", f"{ca}/crl.pem",
              f"{host.pki}/host.crt")  # fmt: skip


def test_what_was_signed_is_known(host):
    """To revoke a certificate one needs its serial number: everything signed is listed."""
    line = host.says("openssl", "x509", "-noout", "-serial", "-in", f"{host.pki}/host.crt")
    serial = line.partition("=")[2].lower()
    rows = json.loads(host.says("salt-call", "--out=json", "--out-indent=-1", "goose_pki.issued"))["local"]
    known = {row["serial_number"].replace(":", "").lower(): row["name"] for row in rows}
    assert known.get(serial) == host.name


def test_names_of_services_are_not_for_people(host):
    """A person with kojira's or a host's certificate would be that service."""
    for name in ("kojira", host.name, "../x"):
        done = host.run("salt-call", "--retcode-passthrough", "goose_pki.sign", name, f"{host.pki}/host.crt")
        assert done.status != 0, f"a certificate for {name} was signed"
        assert "BEGIN CERTIFICATE" not in done.out
        assert "choose another" in done.out + done.err or "no name for a Koji user" in done.out + done.err
