"""What every host tells Prometheus about itself."""

import json
from typing import Any

import pytest

CONFIG = "/etc/goose/exporter.json"


@pytest.fixture
def config(host):
    return json.loads(host.text(CONFIG))


@pytest.fixture
def samples(host):
    """What it would tell now, by series."""
    user = host.settings("monitoring")["exporter_user"]
    program = ["/usr/bin/python3", "-B", "/usr/local/lib/goose/goose_exporter.py", "--config", CONFIG, "--json"]
    found: dict[str, list[dict[str, Any]]] = {}
    for row in json.loads(host.says(*program, user=user))["samples"]:
        found.setdefault(row["series"], []).append(row)
    return found


def test_service(host):
    """A host that says nothing is an alert of its own."""
    assert host.runs("goose-exporter")
    assert host.starts_at_boot("goose-exporter")


def test_only_prometheus_reads(host, config):
    """This host's own certificate is good, and of the wrong name."""
    pair = "/run/goose-testinfra-exporter.pem"
    host.says("sh", "-c", f"umask 077; cat {host.pki}/host.crt {host.pki}/host.key > {pair}")
    url = f"https://{host.name}:{config['port']}/metrics"
    try:
        status, body = host.get(url, cert=pair)
    finally:
        host.says("rm", pair)
    assert status == 403 and host.name in body
    assert host.get(url)[0] == 0, "it answers without a certificate"


def test_only_one_address(host, config):
    """Its address in the project's network, and not all that the host has."""
    listening = [line.split()[3] for line in host.says("ss", "-Hltn").splitlines()]
    port = f":{config['port']}"
    assert [place for place in listening if place.endswith(port)] == [config["address"] + port]


def test_runs_as_nobody_in_particular(host):
    """It listens on the network: it must be able to change nothing, and read no key."""
    pid = host.says("systemctl", "show", "--value", "--property=MainPID", "goose-exporter")
    assert "Uid:\t0\t" not in host.text(f"/proc/{pid}/status")


def test_checks_work(host, samples):
    """Each check has a result, as a user without any right."""
    failing = [row["labels"]["check"] for row in samples["goose_check_up"] if row["value"] != 1]
    assert failing == []


def test_certificates_are_told(host, samples):
    """All of this host, by their real end."""
    told = {row["labels"]["file"]: row["value"] for row in samples["goose_certificate_not_after_timestamp_seconds"]}
    there = [path.rpartition("/")[2] for path in host.says("sh", "-c", f"ls {host.pki}/*.crt").split()]
    assert sorted(told) == sorted(there)
    days = int((told["host.crt"] - float(host.says("date", "+%s"))) / 86400)
    assert host.expires_after(f"{host.pki}/host.crt", days)
    assert not host.expires_after(f"{host.pki}/host.crt", days + 1)


def test_units_are_real(host, config, samples):
    """A unit that is named wrongly would look as if it never ran."""
    told = {row["labels"]["unit"] for row in samples.get("goose_unit_active", [])}
    for unit in told:
        loaded = host.says("systemctl", "show", "--value", "--property=LoadState", unit)
        assert loaded == "loaded", f"{unit} is {loaded}"
    assert {unit for unit in config["units"] if "*" not in unit} <= told
