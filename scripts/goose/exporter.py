"""How a host does, for Prometheus: ``goose_exporter.py``.

Every check runs in a thread of its own, each so many seconds, and a scrape gets what is known at that moment.
So a scrape takes milliseconds whatever happens: where a hub or a disk hangs, its check's result grows old, is left
out after a while, and ``goose_check_up`` says so.

``/metrics`` is served over TLS, on one address, to clients whose certificate is the project's CA's, not revoked,
and has one of the names that the configuration lists. Certificate and list are read for each connection: what is
renewed needs no restart.
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import json
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Callable

from goose import exporter_checks as checks
from goose.exporter_checks import SERIES, Sample
from goose.exporter_koji import Koji

CONFIG = Path("/etc/goose/exporter.json")
"""What the state `monitoring.exporter` writes: `Config` as JSON."""

EXIT_OK = 0
EXIT_USAGE = 2
EXIT_TOOL = 5

# Seconds after which a client that says nothing is left alone.
_SILENCE = 10


class ConfigError(Exception):
    """The configuration cannot be used, in a sentence."""


@dataclass(frozen=True)
class Config:
    """What the exporter is told: pillar `monitoring`, and what follows from the host's roles."""

    address: str
    """IP address to listen on."""
    port: int
    certificate: str
    ca: str
    crl: str
    clients: tuple[str, ...]
    """Common names of certificates that may read."""
    every: float = 15
    """Seconds between two runs of a check."""
    lookaside_every: float = 3600
    """… of the one that walks through the lookaside cache."""
    koji_every: float = 60
    unsigned_every: float = 300
    """Seconds, at least, between two looks at a tag's RPMs."""
    koji_hub: str = ""
    """URL; empty: this host does not ask."""
    serverca: str = ""
    tags: dict[str, bool] = field(default_factory=dict)
    certificates: str = "/etc/pki/goose"
    """Directory."""
    disks: tuple[str, ...] = ("/",)
    units: tuple[str, ...] = ()
    """Units that shall run: names, or patterns of loaded ones."""
    lookaside: str = ""
    """Directories of the services; empty: not on this host."""
    mash: str = ""
    composes: str = ""
    backups: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path = CONFIG) -> Config:
        """The configuration in the file ``path``; `ConfigError` where it cannot be used."""
        try:
            data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if unknown := sorted(set(data) - {one.name for one in fields(cls)}):
                raise ConfigError(
                    f"{path} has the unknown keys {', '.join(unknown)}: apply the state monitoring.exporter again."
                )
            data = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
            return cls(**data)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{path} cannot be read ({error}): apply the state monitoring.exporter on this host."
            ) from error


@dataclass(frozen=True)
class Check:
    """Something that is measured again and again."""

    name: str
    every: float
    """Seconds."""
    measure: Callable[[], Iterable[Sample]]
    absent: tuple[Sample, ...] = ()
    """What is told in place of a result that is too old."""


def all_checks(config: Config) -> list[Check]:
    """The checks of this host."""
    every = config.every
    found = [
        Check("certificates", every, checks.Certificates(Path(config.certificates))),
        Check("disks", every, lambda: checks.disks([Path(path) for path in config.disks])),
        Check("units", every, lambda: checks.units(config.units)),
    ]
    if config.koji_hub:
        koji = Koji(config.koji_hub, config.serverca, config.tags, config.unsigned_every)
        found.append(Check("koji", config.koji_every, koji, koji.DOWN))
    if config.lookaside:
        found.append(Check("lookaside", config.lookaside_every, lambda: checks.lookaside(Path(config.lookaside))))
    if config.mash:
        found.append(Check("mash", every, lambda: checks.repositories(Path(config.mash))))
    if config.composes:
        found.append(Check("composes", every, lambda: checks.composes(Path(config.composes))))
    if config.backups:
        found.append(Check("backups", every, lambda: [one for path in config.backups for one in checks.backups(Path(path))]))
    return found


class Watched:
    """A check, and what it has last found."""

    def __init__(self, check: Check, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.check = check
        self._say = say
        self._clock = clock
        self._lock = threading.Lock()
        self._found: tuple[Sample, ...] = ()
        self._up = False
        self._seconds = 0.0
        self._at: float | None = None
        self._fault = ""

    @property
    def good_for(self) -> float:
        """Seconds after which a result is too old to be told: three times its turn, and a minute at least."""
        return max(3 * self.check.every, 60.0)

    def once(self) -> None:
        """Measure. A fault is said once, and again when it is another; what was found before it counts."""
        start, found, fault = self._clock(), [], ""
        try:
            for sample in self.check.measure():
                found.append(sample)
        except Exception as error:  # whatever it is, the other checks go on
            fault = str(error) or type(error).__name__
        if fault != self._fault:
            self._say(f"{self.check.name}: {fault or 'all is well again.'}")
        with self._lock:
            self._found, self._fault, self._up = tuple(found), fault, not fault
            self._at = self._clock()
            self._seconds = self._at - start

    def run(self, stop: threading.Event) -> None:
        """Measure, again and again."""
        while not stop.is_set():
            self.once()
            stop.wait(self.check.every)

    def told(self) -> Iterator[Sample]:
        """What is known now."""
        with self._lock:
            found, up, at, seconds = self._found, self._up, self._at, self._seconds
        if at is None:
            # It has just begun: nothing is wrong yet.
            return
        fresh = self._clock() - at < self.good_for
        yield Sample("goose_check_up", (self.check.name,), up and fresh)
        yield Sample("goose_check_seconds", (self.check.name,), seconds)
        yield from found if fresh else self.check.absent


class Collector:
    """What Prometheus's client library asks for all series."""

    def __init__(self, watched: Sequence[Watched]) -> None:
        self.watched = watched

    def collect(self) -> Iterator[Any]:
        """The samples, by series."""
        from prometheus_client.core import GaugeMetricFamily

        families: dict[str, Any] = {}
        for one in self.watched:
            for sample in one.told():
                if sample.series not in families:
                    text, labels = SERIES[sample.series]
                    families[sample.series] = GaugeMetricFamily(sample.series, text, labels=labels)
                families[sample.series].add_metric(sample.labels, float(sample.value))
        yield from families.values()


def registry(watched: Sequence[Watched]) -> Any:
    """A registry of the client library with this host's series alone; `ConfigError` where the library is missing."""
    try:
        from prometheus_client import CollectorRegistry
    except ImportError as error:
        raise ConfigError(
            f"/usr/bin/python3 has no Prometheus client ({error}): apply the state monitoring.exporter on this host."
        ) from error
    found = CollectorRegistry(auto_describe=False)
    found.register(Collector(watched))
    return found


class Server(http.server.ThreadingHTTPServer):
    """``/metrics`` over TLS."""

    daemon_threads = True

    def __init__(self, config: Config, key: Path, series: Any) -> None:
        self.config = config
        self.key = key
        self.series = series
        self.address_family = socket.AF_INET6 if ":" in config.address else socket.AF_INET
        self.context()
        super().__init__((config.address, config.port), _Handler)

    def context(self) -> ssl.SSLContext:
        """As certificate, CA and list of revoked certificates are now."""
        found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        found.minimum_version = ssl.TLSVersion.TLSv1_2
        found.verify_mode = ssl.CERT_REQUIRED
        found.load_cert_chain(self.config.certificate, self.key)
        found.load_verify_locations(self.config.ca)
        found.load_verify_locations(self.config.crl)
        found.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        return found

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answer one client, in its thread, so that one who says nothing keeps nobody waiting."""
        request.settimeout(_SILENCE)
        # Who does not get through TLS has the reason from TLS.
        with contextlib.suppress(OSError), self.context().wrap_socket(request, server_side=True) as tls:
            super().finish_request(tls, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    timeout = _SILENCE
    server_version = "goose_exporter"
    sys_version = ""

    def do_GET(self) -> None:
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        subject = self.connection.getpeercert().get("subject", ())
        names = [value for part in subject for key, value in part if key == "commonName"]
        if not set(names) & set(self.server.config.clients):
            self._answer(403, "text/plain", f"{', '.join(names)} may not read this.\n".encode())
        elif self.path.partition("?")[0] != "/metrics":
            self._answer(404, "text/plain", b"There is /metrics, and nothing else.\n")
        else:
            self._answer(200, CONTENT_TYPE_LATEST, generate_latest(self.server.series))

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """A line for each scrape would fill the journal."""


def main(argv: Sequence[str] | None = None) -> int:
    """``scripts/goose_exporter.py``; the exit status."""
    parser = argparse.ArgumentParser(
        prog="goose_exporter.py",
        description="Tell Prometheus how this host does: over TLS, at https://ADDRESS:PORT/metrics.",
        epilog="Exit status: 0 ended by a signal, 2 usage, 5 the address or the certificate cannot be used.",
    )
    parser.add_argument("--config", type=Path, default=CONFIG, metavar="FILE", help=f"(default: {CONFIG})")
    parser.add_argument("--key", type=Path, metavar="FILE", help="the key of the host's certificate")
    parser.add_argument("--dry-run", action="store_true", help="measure once, print it, and serve nothing")
    parser.add_argument("--json", action="store_true", help="… as one object: series, labels, value")
    args = parser.parse_args(argv)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        config = Config.read(args.config)
        watched = [Watched(check, say) for check in all_checks(config)]
        series = registry(watched)
    except ConfigError as error:
        say(f"goose_exporter.py: {error}")
        return EXIT_USAGE
    if args.dry_run or args.json:
        return _show(watched, series, args.json)
    if args.key is None:
        parser.error("--key is missing: name the file with the key of the host's certificate.")
    try:
        server = Server(config, args.key, series)
    except OSError as error:
        say(
            f"goose_exporter.py: {config.address}, port {config.port}, cannot be served ({error}): look at pillar"
            " monitoring:port and hosts, and that the state pki was applied on this host."
        )
        return EXIT_TOOL
    stop = threading.Event()
    for one in watched:
        threading.Thread(target=one.run, args=(stop,), name=one.check.name, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
    stop.set()
    server.server_close()
    return EXIT_OK


def _show(watched: Sequence[Watched], series: Any, as_json: bool) -> int:
    from prometheus_client import generate_latest

    for one in watched:
        one.once()
    if as_json:
        rows = [
            {
                "series": sample.series,
                "labels": dict(zip(SERIES[sample.series][1], sample.labels)),
                "value": float(sample.value),
            }
            for one in watched
            for sample in one.told()
        ]
        print(json.dumps({"samples": rows}))
    else:
        sys.stdout.write(generate_latest(series).decode())
    return EXIT_OK
