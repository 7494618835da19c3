"""Alert rules, held against promtool by what a fault does to its series; and the dashboard's queries."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from goose.exporter_checks import SERIES

TREE = Path(__file__).resolve().parents[2]
ALERTS: dict[str, Any] = yaml.safe_load((TREE / "monitoring/defaults.yaml").read_text())["alerts"]
DAY = 24 * 60

pytestmark = pytest.mark.skipif(not shutil.which("promtool"), reason="scripts/test brings promtool on Debian alone")


def template(name: str, **context: Any) -> str:
    """A file as the state writes it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TREE), extensions=["jinja2.ext.do"], undefined=jinja2.StrictUndefined
    )
    return environment.get_template(f"monitoring/files/{name}").render(**context)


def rules(alerts: Mapping[str, Any] = ALERTS) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(template("rules.yaml.jinja", alerts=alerts))["groups"][0]["rules"]
    return found


@dataclass(frozen=True)
class Case:
    """A series, a value each ``step``; when its alert is not raised yet, when it is, and when no more (minutes)."""

    alert: str
    series: str
    values: str
    quiet: tuple[int, ...]
    raised: int
    over: int
    summary: str
    step: int = 1
    """Minutes; the rules are evaluated as often. A quarter of a year by the minute takes promtool as many."""


def steps(good: Any, bad: Any) -> str:
    """An hour of the one, five hours of the other, and good again."""
    return f"{good}x59 {bad}x299 {good}x60"


CASES = [
    Case("GooseHostSilent", 'up{job="goose",instance="h"}', steps(1, 0), (59, 61), 64, 365, "h does not tell how it does."),
    Case("GooseCheckFailing", 'goose_check_up{instance="h",check="units"}', steps(1, 0), (59, 68), 72, 365,
         "h cannot tell about its units."),
    Case("GooseKojiDown", 'goose_koji_up{instance="h"}', steps(1, 0), (59, 61), 63, 365, "Koji's hub does not answer."),
    Case("GooseQueueWaits", 'goose_koji_oldest_free_task_seconds{channel="vm"}', steps(1800, 1860), (59, 63), 67, 365,
         "A task of the channel vm waits for a builder for 31m 0s."),
    # Heard of each minute, then for an hour not.
    Case("GooseBuilderSilent", 'goose_koji_builder_checkin_timestamp_seconds{builder="b"}',
         "0+60x60 3600x60 7200+60x60", (60, 65), 68, 130, "b has not spoken to the hub for 8m 0s."),
    Case("GooseBuilderDisabled", 'goose_koji_builder_enabled{builder="b"}', steps(1, 0), (59, 110), 125, 365,
         "b is disabled."),
    Case("GooseRepoOutdated", 'goose_koji_repo_outdated{tag="t"}', steps(0, 1), (59, 110), 125, 365,
         "t has changed, and has no new repo."),
    Case("GooseRpmsUnsigned", 'goose_koji_unsigned_rpms{tag="t"}', steps(0, 7), (59, 170), 185, 365,
         "7 RPMs of t are not signed."),
    # Good for twenty days and two hours; renewed after six hours.
    Case("GooseCertificateEnds", 'goose_certificate_not_after_timestamp_seconds{instance="h",file="f"}',
         f"{(20 * DAY + 120) * 60}x359 {365 * DAY * 60}x60", (115, 122), 240, 365,
         "The certificate f of h ends in 19.9 days."),
    Case("GooseCrlEnds", 'goose_crl_next_update_timestamp_seconds{instance="h",file="f"}',
         f"{(7 * DAY + 120) * 60}x359 {365 * DAY * 60}x60", (115, 122), 240, 365,
         "The list of revoked certificates of h ends in 6.9 days."),
    Case("GooseDiskFull", 'goose_disk_free_bytes{instance="h",path="/p"}', steps(100, 95), (59, 63), 67, 365,
         "/p of h has 9.5% left."),
    Case("GooseUnitFailed", 'goose_unit_failed{instance="h",unit="u"}', steps(0, 1), (59,), 62, 365, "u has failed on h."),
    Case("GooseUnitDown", 'goose_unit_active{instance="h",unit="u"}', steps(1, 0), (59, 63), 67, 365,
         "u does not run on h."),
    Case("GooseMashOld", 'goose_mash_published_timestamp_seconds{repository="r"}', f"0x{15 * 24} {15 * DAY * 60}x9",
         (13 * DAY, 14 * DAY), 14 * DAY + 180, 15 * DAY + 120, "The repository r was published 14.1 days ago.", 60),
    Case("GooseComposeOld", 'goose_compose_published_timestamp_seconds{stage="s"}', f"0x{92 * 4} {92 * DAY * 60}x9",
         (89 * DAY, 90 * DAY), 91 * DAY, 92 * DAY + 720, "The last compose of s was published 91.0 days ago.", 360),
    Case("GooseBackupOld", 'goose_backup_timestamp_seconds{instance="h",path="/b"}', f"0x{31 * 6} {31 * 3600}x9",
         (29 * 60, 30 * 60), 30 * 60 + 30, 31 * 60 + 40, "The last backup in /b of h is 30.5 hours old.", 10),
]  # fmt: skip
# What a rule compares with.
BESIDE = {
    "GooseBuilderSilent": [{"series": 'goose_koji_builder_enabled{builder="b"}', "values": "1x400"}],
    "GooseDiskFull": [{"series": 'goose_disk_size_bytes{instance="h",path="/p"}', "values": "1000x420"}],
}


def promtool(directory: Path, *words: str) -> None:
    done = subprocess.run(["promtool", *words], cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "rules.yaml").write_text(template("rules.yaml.jinja", alerts=ALERTS))
    return tmp_path


def expected(case: Case) -> dict[str, Any]:
    """The alert as promtool wants it told: labels of the series, and the rule's own."""
    severity = next(rule["labels"]["severity"] for rule in rules() if rule["alert"] == case.alert)
    labels = dict(re.findall(r'(\w+)="([^"]*)"', case.series))
    return {"exp_labels": {**labels, "severity": severity}, "exp_annotations": {"summary": case.summary}}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_alert(directory: Path, case: Case) -> None:
    """Not before its time, then with its words, and not once all is well."""
    moments: list[tuple[int, list[dict[str, Any]]]] = [(minute, []) for minute in (*case.quiet, case.over)]
    table = [
        {"eval_time": f"{minute}m", "alertname": case.alert, "exp_alerts": alerts}
        for minute, alerts in [*moments, (case.raised, [expected(case)])]
    ]
    test = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": f"{case.step}m",
        "tests": [
            {
                "interval": f"{case.step}m",
                "input_series": [{"series": case.series, "values": case.values}, *BESIDE.get(case.alert, [])],
                "alert_rule_test": table,
            }
        ],
    }
    (directory / "test.yaml").write_text(yaml.safe_dump(test))
    promtool(directory, "test", "rules", "test.yaml")


def test_every_alert_has_a_case() -> None:
    assert {rule["alert"] for rule in rules()} == {case.alert for case in CASES}


def test_disabled_builder_is_not_silent(directory: Path) -> None:
    """Somebody has taken it away: that is told once, by the other alert."""
    series = [
        {"series": 'goose_koji_builder_enabled{builder="b"}', "values": "0x60"},
        {"series": 'goose_koji_builder_checkin_timestamp_seconds{builder="b"}', "values": "0x60"},
    ]
    test = {
        "rule_files": ["rules.yaml"],
        "tests": [
            {
                "interval": "1m",
                "input_series": series,
                "alert_rule_test": [{"eval_time": "50m", "alertname": "GooseBuilderSilent", "exp_alerts": []}],
            }
        ],
    }
    (directory / "test.yaml").write_text(yaml.safe_dump(test))
    promtool(directory, "test", "rules", "test.yaml")


@pytest.mark.parametrize("left_out", [[], ["mash_old"], sorted(ALERTS)])
def test_rules_are_valid(tmp_path: Path, left_out: list[str]) -> None:
    """As promtool reads them, whatever pillar leaves out."""
    kept = {name: alert for name, alert in ALERTS.items() if name not in left_out}
    (tmp_path / "rules.yaml").write_text(template("rules.yaml.jinja", alerts=kept))
    promtool(tmp_path, "check", "rules", "rules.yaml")
    assert len(yaml.safe_load((tmp_path / "rules.yaml").read_text())["groups"][0]["rules"] or []) == len(kept)


def test_limits_are_pillars() -> None:
    """Each limit and each time stands in its rule."""
    alerts = {
        name: {key: f"{number}m" if key == "for" else number for key in alert}
        for number, (name, alert) in enumerate(ALERTS.items(), 1000)
    }
    found = rules(alerts)
    assert len(found) == len(ALERTS)
    for number, (name, alert) in enumerate(alerts.items(), 1000):
        rule = next(rule for rule in found if rule["for"] == f"{number}m")
        assert ("for" in alert and len(alert) == 1) or rule["expr"].split(" and ")[0].endswith(f" {number}"), name


def test_series_exist() -> None:
    """What rules and panels ask for is what the exporter tells, and by labels that it has."""
    panels = yaml.safe_load((TREE / "monitoring/dashboard.yaml").read_text())["panels"]
    queries = [*(query for _, _, query, _ in panels), *(rule["expr"] for rule in rules())]
    used = {name for query in queries for name in re.findall(r"\bgoose_\w+", query)}
    assert used <= set(SERIES)
    for title, _, query, labels in panels:
        names = re.findall(r"\bgoose_\w+", query)
        assert names, title
        for label in labels:
            assert all(label in (*SERIES[name][1], "instance") for name in names), f"{title}: {label}"
    shown = set(SERIES) - used
    assert shown <= {"goose_check_seconds", "goose_lookaside_files", "goose_koji_builder_ready"}, "nobody looks at these"


def test_queries_are_valid(tmp_path: Path) -> None:
    """promtool parses each panel's query, as a rule that records it."""
    panels = yaml.safe_load((TREE / "monitoring/dashboard.yaml").read_text())["panels"]
    recorded = [{"record": f"panel:{number}", "expr": query} for number, (_, _, query, _) in enumerate(panels)]
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))
    promtool(tmp_path, "check", "rules", "panels.yaml")


def test_dashboard() -> None:
    """JSON of Grafana's shape: a panel each, none over another, with a legend."""
    panels = yaml.safe_load((TREE / "monitoring/dashboard.yaml").read_text())["panels"]
    found = json.loads(template("dashboard.json.jinja", title="GoOSe", panels=panels))
    assert [panel["title"] for panel in found["panels"]] == [title for title, *_ in panels]
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in found["panels"]}) == len(panels)
    assert found["panels"][7]["targets"][0]["legendFormat"] == "{{tag}} {{state}}"


@pytest.mark.parametrize("interval", [5, 30])
def test_prometheus_configuration(tmp_path: Path, interval: int) -> None:
    """promtool takes it; every host of pillar is in it, called by its name."""
    text = template(
        "prometheus.yml.jinja", hosts=["hub.goose.example", "b1.goose.example"], port=9799, interval=interval, ca="/ca.crt",
        certificate="/p.pem", alertmanagers=["a:9093"] if interval == 5 else [], rules="/rules.yaml",
    )  # fmt: skip
    (tmp_path / "prometheus.yml").write_text(text)
    promtool(tmp_path, "check", "config", "--syntax-only", "prometheus.yml")
    job = yaml.safe_load(text)["scrape_configs"][0]
    assert job["static_configs"][0]["targets"] == ["hub.goose.example:9799", "b1.goose.example:9799"]
    assert job["scheme"] == "https" and job["tls_config"]["cert_file"] == "/p.pem"
