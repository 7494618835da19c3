"""The monitoring host: Prometheus, its rules, and its page."""

import json

import pytest

RULES = "/etc/prometheus/goose-rules.yaml"


@pytest.fixture
def ask(host):
    """What Prometheus's interface answers on its own host."""

    def ask(path):
        code = "import sys,urllib.request; print(urllib.request.urlopen(sys.argv[1],timeout=20).read().decode())"
        answer = host.says("/usr/bin/python3", "-c", code, f"http://127.0.0.1:9090/prometheus/api/v1/{path}")
        return json.loads(answer)["data"]

    return ask


def test_service(host):
    """It watches the others, and must be back after a boot."""
    assert host.runs("prometheus")
    assert host.starts_at_boot("prometheus")


def test_unit_is_read(host):
    """systemd may have the package's own from before: then Prometheus listens on all addresses."""
    assert host.says("systemctl", "show", "--value", "--property=FragmentPath", "prometheus").startswith("/etc/")


def test_only_apache_reaches_it(host):
    """Its own port asks nobody who they are."""
    listening = [line.split()[3] for line in host.says("ss", "-Hltn").splitlines()]
    assert [place for place in listening if place.endswith(":9090")] == ["127.0.0.1:9090"]


def test_page(host):
    """By its name and TLS: to everybody, or to those with a certificate, as pillar says."""
    pair = "/run/goose-testinfra-monitoring.pem"
    host.says("sh", "-c", f"umask 077; cat {host.pki}/host.crt {host.pki}/host.key > {pair}")
    url = f"https://{host.name}/prometheus/"
    try:
        status, body = host.get(f"{url}graph", cert=pair)
    finally:
        host.says("rm", pair)
    assert status == 200 and "Prometheus" in body
    status, body = host.get(f"{url}-/ready")
    assert status == 200 or (status == 403 and "certificate" in body)


def test_every_host_is_scraped(host, ask):
    """Each of pillar hosts, over TLS and by Prometheus's certificate."""
    wanted = set(host.entries)

    def all_up():
        up = {one["labels"]["instance"] for one in ask("targets?state=active")["activeTargets"] if one["health"] == "up"}
        return wanted <= up

    host.becomes(all_up, f"Prometheus to reach {', '.join(sorted(wanted))}", seconds=90)


def test_rules_are_loaded(host, ask):
    """The file's, each evaluated without an error."""
    named = [line.split()[-1] for line in host.text(RULES).splitlines() if line.strip().startswith("- alert:")]
    rules = [rule for group in ask("rules")["groups"] for rule in group["rules"]]
    assert named and [rule["name"] for rule in rules] == named
    assert [rule["lastError"] for rule in rules if rule.get("lastError")] == []


def test_rules_are_checked(host):
    """As the state does before it replaces the file."""
    host.says("promtool", "check", "rules", RULES)
    host.says("promtool", "check", "config", "/etc/prometheus/prometheus.yml", user="prometheus")


def test_key_is_closed(host):
    """Who has it can read what all hosts tell."""
    assert host.access(f"{host.pki}/prometheus.pem") == "root:prometheus 640"
    assert not host.reads("nobody", f"{host.pki}/prometheus.pem")


def test_dashboard(host):
    """For Grafana, to import."""
    assert json.loads(host.text("/usr/local/share/goose/grafana-dashboard.json"))["panels"]
