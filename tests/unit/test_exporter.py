"""goose_exporter.py: what it measures, that it never hangs, and whom it answers."""

from __future__ import annotations

import datetime
import json
import os
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from doubles import Fault, Session, answering
from goose import compose_store
from goose import exporter_checks as checks
from goose.exporter import Check, Config, ConfigError, Server, Watched, all_checks, registry
from goose.exporter_checks import SERIES, CheckError, Sample
from goose.exporter_koji import Koji
from goose.koji_call import Unanswered

TREE = Path(__file__).resolve().parents[2]
NOW = 1_000_000.0


def values(samples: Any) -> dict[tuple[str, ...], float]:
    """(series, labels …) -> value; each series is one that is known, with its labels."""
    found = {}
    for sample in samples:
        assert len(sample.labels) == len(SERIES[sample.series][1]), sample
        key = (sample.series, *sample.labels)
        assert key not in found, f"{key} is told twice"
        found[key] = float(sample.value)
    return found


# Koji


class Hub:
    """What the exporter asks of a hub, answered as Koji 1.30's kojihub.py does; `requests` are those by network."""

    def __init__(self) -> None:
        self.requests = 0
        self.asked: list[str] = []
        self.hosts = [
            {"id": 1, "name": "b1", "arches": "x86_64 i686", "enabled": True, "ready": True, "task_load": 1.5},
            {"id": 2, "name": "b2", "arches": "x86_64", "enabled": False, "ready": False, "task_load": None},
        ]
        for host in self.hosts:
            host["capacity"] = 2.0
        self.updates = {1: NOW - 7, 2: None}
        self.tasks = [
            {"id": 5, "channel_id": 1, "arch": "noarch", "state": 0, "create_ts": NOW - 90},
            {"id": 6, "channel_id": 1, "arch": "noarch", "state": 0, "create_ts": NOW - 30},
            {"id": 7, "channel_id": 2, "arch": "x86_64", "state": 1, "create_ts": NOW - 500},
            {"id": 8, "channel_id": 2, "arch": "ppc64le", "state": 4, "create_ts": NOW - 5},
        ]
        repo = {"tag_id": 10, "tag_name": "dist-build", "dist": False}
        self.repos = [
            {**repo, "id": 1, "state": 2, "create_event": 50, "create_ts": NOW - 900},
            {**repo, "id": 2, "state": 1, "create_event": 60, "create_ts": NOW - 600},
            {**repo, "id": 4, "state": 0, "create_event": 90, "create_ts": NOW - 3},
            # A dist-repo, and a tag that nothing builds in: kojira makes no new ones of these.
            {**repo, "id": 5, "state": 1, "create_event": 80, "create_ts": NOW - 2, "dist": True},
            {"id": 6, "tag_id": 11, "tag_name": "old", "dist": False, "state": 1, "create_event": 5, "create_ts": 1.0},
        ]
        self.parents = {10: [12], 12: []}
        self.changes: dict[int, int] = {12: 60}
        self.event = 100
        self.rpms = [
            {"id": 1, "sigkey": "", "metadata_only": False},
            {"id": 1, "sigkey": "0123abcd", "metadata_only": False},
            {"id": 2, "sigkey": "", "metadata_only": False},
            {"id": 3, "sigkey": "", "metadata_only": True},
        ]
        self.fault = ""

    def dispatch(self, user: str | None, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if method == "callMethod":
            method, args = args[0], args[1:]
        self.asked.append(method)
        if method == self.fault:
            raise Fault(f"{method} failed")
        return getattr(self, f"do_{method}")(*args, **kwargs)

    def do_listChannels(self) -> Any:
        return [{"id": 1, "name": "createrepo"}, {"id": 2, "name": "default"}]

    def do_listHosts(self) -> Any:
        return self.hosts

    def do_listTasks(self, opts: Any, queryOpts: Any) -> Any:
        assert set(queryOpts) == {"limit", "order"}
        return [task for task in self.tasks if task["state"] in opts["state"]]

    def do_getActiveRepos(self) -> Any:
        return self.repos

    def do_getBuildTargets(self) -> Any:
        return [{"build_tag": 10, "dest_tag": 12}, {"build_tag": 10, "dest_tag": 12}]

    def do_getLastEvent(self) -> Any:
        return {"id": self.event, "ts": NOW}

    def do_getLastHostUpdate(self, number: int, ts: bool) -> Any:
        return self.updates[number]

    def do_getFullInheritance(self, tag: Any) -> Any:
        if tag not in self.parents and tag != "dist":
            raise Fault(f"No such entry in table tag: {tag}")
        return [{"parent_id": parent} for parent in self.parents.get(tag, [])]

    def do_getTag(self, name: str) -> Any:
        return {"id": 12, "name": name} if name == "dist" else None

    def do_tagChangedSinceEvent(self, event: int, tags: list[int]) -> bool:
        return any(self.changes.get(tag, 0) > event for tag in tags)

    def do_listTaggedRPMS(self, tag: str, inherit: bool, latest: bool, rpmsigs: bool, extra: bool) -> Any:
        assert latest and rpmsigs
        return [self.rpms, []]


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def hub() -> Hub:
    return Hub()


def koji(hub: Hub, clock: Callable[[], float] = lambda: NOW, **tags: bool) -> Koji:
    return Koji("https://hub/kojihub", "ca", tags, 300, connect=lambda *_, **__: Session(hub, None), clock=clock)  # type: ignore[arg-type]


def test_koji(hub: Hub) -> None:
    """Queue, builders and repos, in four requests."""
    found = values(koji(hub, dist=True)())
    assert found["goose_koji_up",] == 1
    assert found["goose_koji_tasks", "createrepo", "noarch", "free"] == 2
    assert found["goose_koji_tasks", "default", "x86_64", "open"] == 1
    assert found["goose_koji_tasks", "default", "ppc64le", "assigned"] == 1, "an architecture that no builder has"
    assert found["goose_koji_tasks", "default", "i686", "free"] == 0, "nothing waits: that is said"
    assert found["goose_koji_oldest_free_task_seconds", "createrepo"] == 90
    assert found["goose_koji_oldest_free_task_seconds", "default"] == 0
    assert found["goose_koji_builder_checkin_timestamp_seconds", "b1"] == NOW - 7
    assert found["goose_koji_builder_checkin_timestamp_seconds", "b2"] == 0, "never"
    assert [found["goose_koji_builder_enabled", name] for name in ("b1", "b2")] == [1, 0]
    assert [found["goose_koji_builder_ready", name] for name in ("b1", "b2")] == [1, 0]
    assert found["goose_koji_builder_load", "b2"] == 0
    states = ("init", "ready", "expired", "problem")
    assert [found["goose_koji_repos", "dist-build", state] for state in states] == [1, 2, 1, 0]
    assert found["goose_koji_repo_created_timestamp_seconds", "dist-build"] == NOW - 600, "the newest that is ready"
    assert ("goose_koji_repo_created_timestamp_seconds", "old") not in found
    assert found["goose_koji_unsigned_rpms", "dist"] == 1
    assert hub.requests == 4


@pytest.mark.parametrize(("event", "outdated"), [(60, 0), (61, 1)])
def test_repo_outdated(hub: Hub, event: int, outdated: int) -> None:
    """Where anything that the build tag inherits has changed after the repo was begun."""
    hub.changes = {12: event}
    assert values(koji(hub)())["goose_koji_repo_outdated", "dist-build"] == outdated


def test_unsigned_is_asked_seldom(hub: Hub) -> None:
    """A long answer: where the tag has changed or something is unsigned, and not more often than is set."""
    clock = Clock()
    check = koji(hub, clock, dist=False)

    def counted(later: float) -> bool:
        clock.now += later
        hub.asked.clear()
        list(check())
        return "listTaggedRPMS" in hub.asked

    assert counted(0) and not counted(60), "it has just been asked"
    assert counted(300), "one was unsigned"
    hub.rpms = [row for row in hub.rpms if row["id"] != 2]
    assert counted(300) and not counted(300), "all are signed, and nothing has changed"
    hub.changes = {12: hub.event + 1}
    assert counted(300)
    hub.changes, hub.event = {}, 200
    assert counted(12 * 300), "signatures can be deleted"


def test_tag_that_is_not_there(hub: Hub) -> None:
    """No sample, and no fault: pillar may name it before the hub has it."""
    found = values(koji(hub, absent=True, dist=True)())
    assert found["goose_koji_up",] == 1
    assert [key[1] for key in found if key[0] == "goose_koji_unsigned_rpms"] == ["dist"]


@pytest.mark.parametrize("method", ["listTasks", "tagChangedSinceEvent", "listTaggedRPMS"])
def test_hub_that_fails(hub: Hub, method: str) -> None:
    """Whatever it does not answer, it is down, with the reason; half an answer is none."""
    hub.fault = method
    check = koji(hub, dist=True)
    check._counted["dist"] = type("Known", (), {"event": 1, "moment": 0, "unsigned": 1})()
    found = []
    with pytest.raises(CheckError, match=f"The hub https://hub/kojihub failed: {method} failed"):
        for sample in check():
            found.append(sample)
    assert values(found) == {("goose_koji_up",): 0}


def test_hub_that_is_away() -> None:
    def away(*_: Any, **__: Any) -> Any:
        raise Unanswered("The hub x does not answer: nothing listens there.")

    watched = Watched(Check("koji", 5, Koji("x", "ca", {}, 300, connect=away), Koji.DOWN), print)
    watched.once()
    assert {("goose_koji_up",): 0.0, ("goose_check_up", "koji"): 0.0}.items() <= values(watched.told()).items()


# Threads


def test_check_that_hangs(hub: Hub) -> None:
    """What is known is told at once, and no longer than it is good for."""
    now = [0.0]
    gate = threading.Event()
    ready = threading.Event()
    rounds = [0]

    def measure() -> Iterator[Sample]:
        rounds[0] += 1
        if rounds[0] > 1:
            ready.set()
            gate.wait(20)
        yield Sample("goose_koji_up", (), 1)

    watched = Watched(Check("koji", 0.001, measure, Koji.DOWN), print, lambda: now[0])
    assert list(watched.told()) == []
    stop = threading.Event()
    thread = threading.Thread(target=watched.run, args=(stop,))
    thread.start()
    try:
        assert ready.wait(10)
        assert values(watched.told())["goose_koji_up",] == 1
        now[0] = watched.good_for + 1
        told = values(watched.told())
        assert (told["goose_koji_up",], told["goose_check_up", "koji"]) == (0, 0)
    finally:
        stop.set()
        gate.set()
        thread.join()


def test_check_that_fails() -> None:
    """What it had found counts; the reason is said once, and that it is over."""
    said: list[str] = []
    works = [False]

    def measure() -> Iterator[Sample]:
        yield Sample("goose_disk_size_bytes", ("/",), 1)
        if not works[0]:
            raise CheckError("The disk is gone.")

    watched = Watched(Check("disks", 1, measure), said.append)
    for _ in range(3):
        watched.once()
    assert said == ["disks: The disk is gone."]
    found = values(watched.told())
    assert (found["goose_disk_size_bytes", "/"], found["goose_check_up", "disks"]) == (1, 0)
    works[0] = True
    watched.once()
    assert said[1:] == ["disks: all is well again."] and values(watched.told())["goose_check_up", "disks"] == 1


# The host


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, a host, a list of revoked certificates, and three clients: one of them revoked, one of another name."""
    top = tmp_path_factory.mktemp("pki")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=top, check=True, capture_output=True)

    (top / "ca.cnf").write_text(
        "[ca]\ndefault_ca=x\n[x]\ndatabase=index.txt\ncrlnumber=crlnumber\ndefault_md=sha256\ndefault_crl_days=15\n"
        "private_key=ca.key\ncertificate=ca.crt\n"
    )
    (top / "index.txt").touch()
    (top / "crlnumber").write_text("01\n")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=ca", "-days", "100")
    names = (("host", "127.0.0.1"), ("prometheus", "prometheus"), ("revoked", "prometheus"), ("other", "other"))
    for name, subject in names:
        (top / "ext").write_text("subjectAltName=IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n")
        openssl("req", "-new", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={subject}")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "20",
                "-extfile", "ext", "-out", f"{name}.crt")  # fmt: skip
    openssl("ca", "-config", "ca.cnf", "-revoke", "revoked.crt")
    openssl("ca", "-config", "ca.cnf", "-gencrl", "-out", "crl.pem")
    return top


def test_certificates(pki: Path, tmp_path: Path) -> None:
    """To the second; read again only where a file has changed; a damaged one hides no other."""
    for name in ("ca.crt", "host.crt", "crl.pem"):
        (tmp_path / name).write_bytes((pki / name).read_bytes())
    (tmp_path / "kojid.pem").write_text("a key, which is nobody's business")
    asked: list[str] = []

    def output(*line: str) -> str:
        asked.append(line[-1])
        return checks.output(*line)

    check = checks.Certificates(tmp_path, output)
    found = values(check())
    wanted = subprocess.run(
        ["openssl", "x509", "-enddate", "-noout", "-dateopt", "iso_8601", "-in", str(pki / "host.crt")],
        check=True, capture_output=True, text=True,
    ).stdout.strip().partition("=")[2]  # fmt: skip
    end = datetime.datetime.strptime(wanted, "%Y-%m-%d %H:%M:%SZ").replace(tzinfo=datetime.timezone.utc)
    assert found["goose_certificate_not_after_timestamp_seconds", "host.crt"] == end.timestamp()
    assert found["goose_crl_next_update_timestamp_seconds", "crl.pem"] == pytest.approx(time.time() + 15 * 86400, abs=300)
    assert len(found) == 3 and len(asked) == 3
    list(check())
    assert len(asked) == 3
    (tmp_path / "ca.crt").write_text("rubbish")
    samples = []
    with pytest.raises(CheckError, match=r"ca\.crt cannot be read: openssl x509"):
        for sample in check():
            samples.append(sample)
    assert {key[1] for key in values(samples)} == {"host.crt", "crl.pem"}


def test_disks(tmp_path: Path) -> None:
    """A disk once, by the first path on it, and without what is not there."""
    (tmp_path / "a").mkdir()
    found = values(checks.disks([tmp_path, tmp_path / "a", tmp_path / "absent", Path("/proc")]))
    about = os.statvfs(tmp_path)
    assert found["goose_disk_size_bytes", str(tmp_path)] == about.f_blocks * about.f_frsize
    assert 0 < found["goose_disk_free_bytes", str(tmp_path)] < found["goose_disk_size_bytes", str(tmp_path)]
    assert {key[1] for key in found} == {str(tmp_path), "/proc"}


def test_units() -> None:
    """As systemctl of systemd 252 says it."""

    def output(*line: str) -> str:
        if "list-units" in line:
            return "mash-goose-1.service loaded failed failed Make the repository goose-1\n"
        assert line[line.index("--") + 1 :] == ("kojid.service", "mash-*.timer", "gone.service")
        return (
            "Id=kojid.service\nActiveState=activating\n\nId=mash-goose-1.timer\nActiveState=active\n\n"
            "Id=gone.service\nActiveState=inactive\n"
        )

    found = values(checks.units(["kojid.service", "mash-*.timer", "gone.service"], output))
    active = {key[1]: value for key, value in found.items() if key[0] == "goose_unit_active"}
    assert active == {"kojid.service": 0, "mash-goose-1.timer": 1, "gone.service": 0}
    assert found["goose_unit_failed", "mash-goose-1.service"] == 1
    assert found["goose_unit_failed", "kojid.service"] == 0


def test_lookaside(tmp_path: Path) -> None:
    assert list(checks.lookaside(tmp_path)) == []
    for number in range(3):
        (tmp_path / f"archives/rpms/bash/{number}").mkdir(parents=True)
        (tmp_path / f"archives/rpms/bash/{number}/a.tgz").write_bytes(b"x" * 100)
    (tmp_path / "incoming").mkdir()
    (tmp_path / "incoming/partial").write_bytes(b"x")
    assert values(checks.lookaside(tmp_path)) == {("goose_lookaside_files",): 3, ("goose_lookaside_bytes",): 300}


def test_repositories(tmp_path: Path) -> None:
    """By the link that publishes: what the generation holds may be far older."""
    assert list(checks.repositories(tmp_path / "absent")) == []
    (tmp_path / ".mash/goose-1/000001").mkdir(parents=True)
    os.utime(tmp_path / ".mash/goose-1/000001", (1, 1))
    (tmp_path / "goose-1").symlink_to(".mash/goose-1/000001")
    os.utime(tmp_path / "goose-1", (NOW, NOW), follow_symlinks=False)
    (tmp_path / "goose-1.repo").touch()
    (tmp_path / "other").symlink_to("/srv")
    assert values(checks.repositories(tmp_path)) == {("goose_mash_published_timestamp_seconds", "goose-1"): NOW}


def test_composes(tmp_path: Path) -> None:
    """The newest of each stage, by the record that the composer itself writes."""
    assert checks.RECORD == compose_store.RECORD
    for number, stage, moment in ((0, "Beta", 10), (1, "Beta", 30), (2, "testing", 20)):
        record = tmp_path / f"goose-1-2026010{number}.0" / checks.RECORD
        record.parent.mkdir(parents=True)
        record.write_text(json.dumps({"stage": stage}))
        os.utime(record, (moment, moment))
    (tmp_path / "latest-goose-1").symlink_to("goose-1-20260102.0")
    found = values(checks.composes(tmp_path))
    series = "goose_compose_published_timestamp_seconds"
    assert found == {(series, "Beta"): 30, (series, "testing"): 20}


def test_backups(tmp_path: Path) -> None:
    """The newest generation that is whole, or the file that a backup touches; nothing where there is none."""
    assert list(checks.backups(tmp_path / "absent")) == list(checks.backups(tmp_path)) == []
    for name, moment in (("2026-01-01", 10), ("2026-01-02", 20), (".2026-01-03", 30), ("2026-01-03.partial", 40)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (moment, moment))
    assert values(checks.backups(tmp_path)) == {("goose_backup_timestamp_seconds", str(tmp_path)): 20}
    mark = tmp_path / "mark"
    mark.touch()
    os.utime(mark, (50, 50))
    assert values(checks.backups(mark)) == {("goose_backup_timestamp_seconds", str(mark)): 50}


# The service


@pytest.fixture(scope="module")
def url(pki: Path) -> Iterator[str]:
    """An exporter that tells one series."""
    watched = Watched(Check("disks", 1, lambda: [Sample("goose_disk_size_bytes", ('/a"b',), 5)]), print)
    watched.once()
    config = Config("127.0.0.1", 0, str(pki / "host.crt"), str(pki / "ca.crt"), str(pki / "crl.pem"), ("prometheus",))
    server = Server(config, pki / "host.key", registry([watched]))
    with answering(server):
        yield f"https://127.0.0.1:{server.server_address[1]}"


def get(url: str, pki: Path, client: str) -> str:
    context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    if client:
        context.load_cert_chain(pki / f"{client}.crt", pki / f"{client}.key")
    with urllib.request.urlopen(url, timeout=10, context=context) as answer:
        return str(answer.read().decode())


def test_answers_prometheus(url: str, pki: Path) -> None:
    text = get(f"{url}/metrics", pki, "prometheus")
    assert 'goose_disk_size_bytes{path="/a\\"b"} 5.0' in text
    assert "# TYPE goose_disk_size_bytes gauge" in text and 'goose_check_up{check="disks"} 1.0' in text
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(f"{url}/", pki, "prometheus")


def test_answers_nobody_else(url: str, pki: Path) -> None:
    """Another's certificate of the same CA, a revoked one, and none."""
    with pytest.raises(urllib.error.HTTPError, match="403") as refused:
        get(f"{url}/metrics", pki, "other")
    assert refused.value.read().decode() == "other may not read this.\n"
    for client in ("revoked", ""):
        with pytest.raises(OSError, match="(?i)revoked|certificate required|reset|EOF"):
            get(f"{url}/metrics", pki, client)


def test_silent_client(url: str, pki: Path) -> None:
    """One who connects and says nothing keeps nobody waiting."""
    port = int(url.rpartition(":")[2])
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
    start = time.monotonic()
    assert "goose_check_up" in get(f"{url}/metrics", pki, "prometheus")
    assert time.monotonic() - start < 3
    for one in silent:
        one.close()


def test_host_without_services(tmp_path: Path, pki: Path) -> None:
    """A host is asked for what its configuration names, and nothing more."""
    config = Config("127.0.0.1", 1, "x", "x", "x", ())
    assert [check.name for check in all_checks(config)] == ["certificates", "disks", "units"]


def test_configuration_that_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "exporter.json"
    for text, said in (("{", "cannot be read"), ('{"x": 1}', "unknown keys x"), ("{}", "missing"), ("[]", "cannot be read")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=said):
            Config.read(path)


def test_command(pki: Path, tmp_path: Path) -> None:
    """--dry-run and --json print what would be served; an address that cannot be had is told in a sentence."""
    config = tmp_path / "exporter.json"
    data = {
        "address": "192.0.2.1", "port": 1, "certificate": str(pki / "host.crt"),
        "ca": str(pki / "ca.crt"), "crl": str(pki / "crl.pem"),
        "clients": ["prometheus"], "certificates": str(pki), "disks": ["/"], "lookaside": str(tmp_path),
    }  # fmt: skip
    config.write_text(json.dumps(data))
    line = ["/usr/bin/python3", "-B", str(TREE / "scripts/goose_exporter.py"), "--config", str(config)]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*line, *words], capture_output=True, text=True, check=False, timeout=60)

    assert 'goose_certificate_not_after_timestamp_seconds{file="host.crt"}' in run("--dry-run").stdout
    told = json.loads(run("--json").stdout)["samples"]
    assert {"series": "goose_check_up", "labels": {"check": "certificates"}, "value": 1.0} in told
    assert run().returncode == 2
    done = run("--key", str(pki / "host.key"))
    assert done.returncode == 5 and "192.0.2.1, port 1, cannot be served" in done.stderr, done.stderr
    config.write_text("{")
    assert run("--dry-run").returncode == 2
