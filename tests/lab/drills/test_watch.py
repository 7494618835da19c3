"""Prometheus sees every series of the lab; each alert is raised by its fault, and ends with it.

All faults are made at once, those of the hub apart: while it is away, nothing is known of what it knows.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import ssl
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable

import pytest

from goose.exporter_checks import SERIES
from goose.lab import lab as labs
from goose.lab.host import Host
from koji_client import Hub, wait_for

if TYPE_CHECKING:
    from conftest import Command

KEY = "goose-1"
BACKUPS = "/srv/lab-backup"


@dataclass(frozen=True)
class Prometheus:
    """The page's interface, over Apache."""

    url: str
    context: ssl.SSLContext

    def get(self, path: str, **query: str) -> Any:
        """What it answers."""
        url = f"{self.url}api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=20, context=self.context) as answer:
            return json.load(answer)["data"]

    def names(self) -> set[str]:
        """Series that are there now."""
        found = self.get("query", query='group by (__name__) ({__name__=~"goose_.*"})')
        return {row["metric"]["__name__"] for row in found["result"]}

    def firing(self) -> list[dict[str, str]]:
        """Labels of what is wrong."""
        return [one["labels"] for one in self.get("alerts")["alerts"] if one["state"] == "firing"]


@dataclass
class Fault:
    """Something wrong, and how it is mended; it knows by what alerts it is told."""

    told: list[dict[str, str]]
    undo: Callable[[], Any]
    seconds: dict[str, float] = field(default_factory=dict)


Sh = Callable[..., str]


def sh(host: Host, line: str, **values: str) -> str:
    """A shell line on a host; ``values`` are its variables."""
    given = "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
    return host.run(["sh", "-ec", given + line]).stdout.strip()


@pytest.fixture(scope="module")
def prometheus(lab: labs.Lab) -> Prometheus:
    return Prometheus(lab.services()["monitoring"], ssl.create_default_context(cafile=str(lab.ca_path())))


def matches(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return wanted.items() <= labels.items()


def wait_until_told(prometheus: Prometheus, faults: Mapping[str, Fault], there: bool, seconds: float) -> None:
    """Return once all alerts of the faults are raised (or none is), and note when each was."""
    start = time.monotonic()
    waiting = {(name, json.dumps(one)) for name, fault in faults.items() for one in fault.told}

    def done() -> bool:
        firing = prometheus.firing()
        for name, wanted in sorted(waiting):
            if any(matches(labels, json.loads(wanted)) for labels in firing) == there:
                waiting.discard((name, wanted))
                faults[name].seconds["raised" if there else "ended"] = time.monotonic() - start
        return not waiting

    with contextlib.suppress(pytest.fail.Exception):
        wait_for(done, "alerts", seconds)
    assert not waiting, f"{'not raised' if there else 'not ended'}: {sorted(waiting)}; firing: {prometheus.firing()}"


@pytest.fixture(scope="module")
def published(lab: labs.Lab, prometheus: Prometheus) -> None:
    """Something was signed, published and composed: earlier tests may have done it."""
    compose = lab.need_role("mash")
    if not sh(compose, "find /srv/repos -maxdepth 1 -type l -name goose-1"):
        sh(compose, "systemctl start signing-goose-1.service && systemctl start mash-goose-1.service")
    if not sh(compose, "find /srv/compose -maxdepth 4 -path '*/compose/metadata/goose.json'"):
        sh(compose, "runuser -u goose-mash -- /usr/local/lib/goose/compose_iso.py 1 testing 1 >&2")


@pytest.fixture(scope="module")
def backup(lab: labs.Lab) -> Iterator[tuple[Host, str]]:
    """The host with backups and one of them, made here where none is."""
    host = lab.need_role("monitoring")
    name = f"{BACKUPS}/lab-test"
    sh(host, "mkdir -p $name && touch $name", name=name)
    yield host, name
    sh(host, "rmdir $name; rmdir --ignore-fail-on-non-empty $top", name=name, top=BACKUPS)


def test_every_series(prometheus: Prometheus, published: None, backup: Any) -> None:
    """Of this lab, by way of TLS, the hosts' checks and Prometheus's own storage."""
    missing = set(SERIES)

    def none_is_missing() -> bool:
        missing.difference_update(prometheus.names())
        return not missing

    with contextlib.suppress(pytest.fail.Exception):
        wait_for(none_is_missing, "all series", 60)
    assert missing == set()


def test_every_host(prometheus: Prometheus, lab: labs.Lab) -> None:
    up = {row["metric"]["instance"] for row in prometheus.get("query", query='up{job="goose"} == 1')["result"]}
    assert up == {host.fqdn for host in lab.hosts}


def test_hub_goes_away(prometheus: Prometheus, lab: labs.Lab) -> None:
    """It is told within seconds, and everything else goes on being scraped."""
    hub, watcher = lab.need_role("koji.hub"), lab.need_role("monitoring")
    if hub == watcher:
        pytest.skip("Prometheus's page is behind the same Apache")
    told = [{"alertname": "GooseKojiDown", "instance": watcher.fqdn}]
    told += [{"alertname": "GooseUnitDown", "instance": hub.fqdn, "unit": "apache2.service"}]
    fault = Fault(told, lambda: sh(hub, "systemctl start apache2"))
    sh(hub, "systemctl stop apache2")
    try:
        wait_until_told(prometheus, {"hub": fault}, True, 60)
        found = prometheus.get("query", query='max(scrape_duration_seconds{job="goose"})')["result"]
        assert float(found[0]["value"][1]) < 2, "a scrape waits for the hub"
    finally:
        fault.undo()
    wait_until_told(prometheus, {"hub": fault}, False, 60)
    print({name: round(value, 1) for name, value in fault.seconds.items()})


FORGET = """
import sys
sys.path.insert(0, "/srv/salt/scripts")
from goose.rebuild import log_in
session = log_in("goose")
rows, _ = session.listTaggedRPMS("goose-1", latest=True, rpmsigs=True)
row = next(row for row in rows if row["sigkey"])
session.deleteRPMSig(row["id"], sigkey=row["sigkey"])
"""


class Faults:
    """One for each alert, on hosts that differ as far as there are some."""

    def __init__(self, lab: labs.Lab, command: Command, backup: tuple[Host, str]) -> None:
        self.lab, self.command = lab, command
        self.admin, self.hub = lab.need_role("koji.content"), lab.need_role("koji.hub")
        self.compose, self.watcher = lab.need_role("mash"), lab.need_role("monitoring")
        self.builders = [host for host in lab.hosts if "koji.builder" in host.roles]
        self.backup = backup

    def make(self, name: str) -> Fault:
        """Make the fault ``name``."""
        found: Fault = getattr(self, name)()
        return found

    def builder_disabled(self) -> Fault:
        name = self.builders[0].fqdn
        sh(self.admin, "koji disable-host $name", name=name)
        told = [{"alertname": "GooseBuilderDisabled", "builder": name}]
        return Fault(told, lambda: sh(self.admin, "koji enable-host $name", name=name))

    def builder_stopped(self) -> Fault:
        host = self.builders[-1]
        sh(host, "systemctl stop kojid")
        told = [{"alertname": "GooseBuilderSilent", "builder": host.fqdn}]
        told += [{"alertname": "GooseUnitDown", "instance": host.fqdn, "unit": "kojid.service"}]
        return Fault(told, lambda: sh(host, "systemctl start kojid"))

    def queue(self) -> Fault:
        """A task for which there is no builder."""
        task = sh(self.admin, "koji make-task --channel=vm sleep 1").split()[-1]
        told = [{"alertname": "GooseQueueWaits", "channel": "vm"}]
        return Fault(told, lambda: sh(self.admin, "koji cancel $task", task=task))

    def repo(self) -> Fault:
        """The build tag changes, and nobody makes a new repo."""
        sh(self.hub, "systemctl stop kojira")
        sh(self.admin, "koji edit-tag goose-1-build --extra lab.test=1")

        def undo() -> None:
            sh(self.admin, "koji edit-tag goose-1-build --remove-extra lab.test")
            sh(self.hub, "systemctl start kojira")

        return Fault([{"alertname": "GooseRepoOutdated", "tag": "goose-1-build"}], undo)

    def unsigned(self) -> Fault:
        self.admin.run(["/usr/bin/python3", "-c", FORGET])
        told = [{"alertname": "GooseRpmsUnsigned", "tag": "goose-1"}]
        return Fault(told, lambda: sh(self.compose, "systemctl start signing-goose-1.service"))

    def certificate(self) -> Fault:
        path = "/etc/pki/goose/lab-test.crt"
        line = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /dev/null -out $path -days 3"
        sh(self.compose, f"{line} -subj /CN=lab-test 2>&1", path=path)
        told = [{"alertname": "GooseCertificateEnds", "instance": self.compose.fqdn, "file": "lab-test.crt"}]
        return Fault(told, lambda: sh(self.compose, "rm $path", path=path))

    def rubbish(self) -> Fault:
        path = "/etc/pki/goose/lab-test-rubbish.crt"
        sh(self.watcher, "echo rubbish >$path", path=path)
        told = [{"alertname": "GooseCheckFailing", "instance": self.watcher.fqdn, "check": "certificates"}]
        return Fault(told, lambda: sh(self.watcher, "rm $path", path=path))

    def crl(self) -> Fault:
        """The CA's own list, good for three days more, on one host."""
        ca = self.lab.need_role("pki.ca")
        line = (
            "cd $(mktemp -d) && touch index.txt && echo 01 >number && cat >ca.cnf <<END\n"
            "[ca]\ndefault_ca=x\n[x]\ndatabase=index.txt\ncrlnumber=number\ndefault_md=sha256\n"
            "private_key=/etc/pki/goose-ca/ca.key\ncertificate=/etc/pki/goose-ca/ca.crt\nEND\n"
            "openssl ca -config ca.cnf -gencrl -crldays 3 2>/dev/null; rm -r $PWD"
        )
        text, host, path = sh(ca, line), self.hub, "/etc/pki/goose/crl.pem"
        # The host's own renewal would mend it.
        sh(host, "systemctl stop goose-pki-renew.timer")
        sh(host, "cp -p $path $path.lab-test; printf '%s\\n' \"$text\" >$path", path=path, text=text)
        told = [{"alertname": "GooseCrlEnds", "instance": host.fqdn}]
        back = "cp -p $path.lab-test $path; rm $path.lab-test; systemctl start goose-pki-renew.timer"
        return Fault(told, lambda: sh(host, back, path=path))

    def disk(self) -> Fault:
        """A small one where the builder that is disabled has its build roots, and full."""
        host, path = self.builders[0], "/var/lib/mock"
        sh(host, "mount -t tmpfs -o size=2M,mode=2775 lab-test $path; head -c 2M /dev/zero >$path/full || true", path=path)
        told = [{"alertname": "GooseDiskFull", "instance": host.fqdn, "path": path}]
        return Fault(told, lambda: sh(host, "umount $path", path=path))

    def unit(self) -> Fault:
        sh(self.hub, "systemd-run --wait --unit=lab-test-fails /bin/false || true")
        told = [{"alertname": "GooseUnitFailed", "instance": self.hub.fqdn, "unit": "lab-test-fails.service"}]
        return Fault(told, lambda: sh(self.hub, "systemctl reset-failed lab-test-fails"))

    def silent(self) -> Fault:
        host = self.admin
        sh(host, "systemctl stop goose-exporter")
        told = [{"alertname": "GooseHostSilent", "instance": host.fqdn}]
        return Fault(told, lambda: sh(host, "systemctl start goose-exporter"))

    def mash(self) -> Fault:
        labels = {"alertname": "GooseMashOld", "repository": KEY}
        return self._older(self.compose, "/srv/repos/goose-1", labels)

    def composed(self) -> Fault:
        found = sh(self.compose, "ls -td /srv/compose/*/compose/metadata/goose.json | grep -v /latest-").splitlines()
        labels = {"alertname": "GooseComposeOld", "instance": self.compose.fqdn}
        faults = [self._older(self.compose, path, labels) for path in found]
        return Fault([labels], lambda: [fault.undo() for fault in faults])

    def backed_up(self) -> Fault:
        host, name = self.backup
        # Those of the lab's own are older still, or there is none.
        names = sh(host, "find $top -mindepth 1 -maxdepth 1", top=BACKUPS).splitlines()
        assert name in names
        labels = {"alertname": "GooseBackupOld", "instance": host.fqdn, "path": BACKUPS}
        faults = [self._older(host, one, labels) for one in names]
        return Fault([labels], lambda: [fault.undo() for fault in faults])

    def _older(self, host: Host, path: str, labels: dict[str, str]) -> Fault:
        """A file, a directory or a link whose time is long ago."""
        before = sh(host, "stat -c %Y $path", path=path)
        sh(host, "touch -h -d '200 days ago' $path", path=path)
        return Fault([labels], lambda: sh(host, "touch -h -d @$before $path", path=path, before=before))


# Mended in this order, too: a builder must be back before there can be a new repo.
EVERY = ("builder_disabled", "builder_stopped", "queue", "disk", "repo", "unsigned", "certificate", "rubbish", "crl", "unit",
         "silent", "mash", "composed", "backed_up")  # fmt: skip


def test_every_alert(
    prometheus: Prometheus, lab: labs.Lab, command: Command, published: None, backup: tuple[Host, str], hub: Hub
) -> None:
    """Each fault is told, by the alert that says what it is, and no longer once it is mended."""
    if len(lab.hosts) == 1:
        pytest.skip("what Prometheus needs itself would be broken: the full lab has hosts to break")
    faults = Faults(lab, command, backup)
    sh(lab.need_role("mash"), "systemctl start signing-goose-1.service")
    made: dict[str, Fault] = {}
    try:
        for name in EVERY:
            made[name] = faults.make(name)
        wait_until_told(prometheus, made, True, 90)
        raised = {labels["alertname"] for labels in prometheus.firing()}
        rules = {rule["name"] for group in prometheus.get("rules")["groups"] for rule in group["rules"]}
        assert raised >= rules - {"GooseKojiDown"}, "an alert that no fault here raises"
    finally:
        failed = []
        # The task first: a builder that is back would take it.
        for name, fault in sorted(made.items(), key=lambda item: item[0] != "queue"):
            try:
                fault.undo()
            except Exception as error:  # the others are to be mended all the same
                failed.append(f"{name}: {error}")
    assert failed == []
    wait_until_told(prometheus, made, False, 240)
    for name, fault in made.items():
        print(name, {key: round(value, 1) for key, value in fault.seconds.items()})
