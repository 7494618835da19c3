"""Sign what is unsigned in Koji: the RPMs of a tag's latest builds, or of builds that are named.

What is signed is asked of Koji, before and after each batch; neither the exit status of the program that signs
nor anything kept on the side counts. So a run that was killed is simply run again. Signed copies are written
while the next batch is signed, and only of RPMs that Koji says are signed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import json
import os
import pwd
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, TextIO, Union

from goose import signing_gpg
from goose.signing_backends import Backend, BatchFailed, Outage, Reasons, Rpmsign, Sigul, sigul
from goose.signing_config import (
    BACKENDS,
    CONFIG,
    EXIT_DONE,
    EXIT_KOJI,
    EXIT_PARTLY,
    EXIT_RUNNING,
    EXIT_TOOL,
    EXIT_USAGE,
    Config,
    Key,
    Passphrase,
    SigningError,
    need_passphrase,
)
from goose.signing_koji import WRITE_BYTES, WRITES, Hub, NotedCopies, Refused, Rpm, VolumeCopies

# Seconds before a batch is tried again that met a signing service which does not answer.
_OUTAGES = (5.0, 20.0, 20.0)
# … and before the rest of a batch, or a single RPM, is tried again; the last for all further ones.
_PAUSES = (0.0, 2.0, 10.0, 30.0)
# A single RPM that was tried so often without success has failed.
_TRIES = 2

Say = Callable[[str], None]
Copies = Union[VolumeCopies, NotedCopies]


@dataclass
class Result:
    """What was found and done; RPMs are named by NEVRA."""

    key: str = ""
    key_id: str = ""
    koji: str = ""
    backend: str = ""
    signed: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    already: int = 0
    """RPMs that were signed before."""
    failed: dict[str, str] = field(default_factory=dict)
    """RPM -> why, as a sentence."""
    unsigned: list[str] = field(default_factory=list)
    """What is unsigned at the end."""
    unwritten: list[str] = field(default_factory=list)
    """What is signed and has, as far as is known, no signed copy at the end."""
    discovery_calls: int = 0
    hub_calls: int = 0
    seconds: float = 0.0
    error: str = ""
    """Why the run ended early, as a sentence."""
    status: int = EXIT_DONE

    def as_dict(self) -> dict[str, Any]:
        """The object that --json prints."""
        failed = [{"rpm": rpm, "why": why} for rpm, why in sorted(self.failed.items())]
        return {
            **{word: getattr(self, word) for word in ("key", "key_id", "koji", "backend", "signed", "written", "already")},
            "failed": failed,
            "unsigned": self.unsigned,
            "unwritten": self.unwritten,
            "hub_calls": {"discovery": self.discovery_calls, "all": self.hub_calls},
            "seconds": round(self.seconds, 1),
            "error": self.error,
        }


@dataclass(frozen=True)
class Wishes:
    """What a run shall do."""

    nvrs: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    inherit: bool = False
    arches: tuple[str, ...] = ()
    sign: bool = True
    write: bool = True
    write_all: bool = False
    count: int = 100
    bytes: int = 1 << 30
    max_failures: int = 0
    """0: no limit."""


class Stop:
    """Whether the run shall end after this batch; a signal says so."""

    def __init__(self, say: Say) -> None:
        self._event = threading.Event()
        self._say = say

    def __bool__(self) -> bool:
        return self._event.is_set()

    def sleep(self, seconds: float) -> None:
        """Sleep, unless the run shall end."""
        self._event.wait(seconds)

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Let SIGINT and SIGTERM say so; the second one ends the run at once."""

        def handle(number: int, _: Any) -> None:
            if self:
                raise KeyboardInterrupt
            self._event.set()
            self._say("ends after this batch; once more ends it at once")

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def batches(rpms: Sequence[Rpm], count: int, size: int) -> Iterator[list[Rpm]]:
    """Parts of at most ``count`` RPMs and ``size`` bytes; a larger RPM is alone."""
    batch: list[Rpm] = []
    held = 0
    for rpm in rpms:
        if batch and (len(batch) >= count or held + rpm.size > size):
            yield batch
            batch, held = [], 0
        batch.append(rpm)
        held += rpm.size
    if batch:
        yield batch


class Writer:
    """Has Koji write signed copies, in a thread and with a session of its own."""

    def __init__(self, hub: Hub, key_id: str, copies: Copies, say: Say) -> None:
        self._hub, self._key_id, self._copies, self._say = hub, key_id, copies, say
        self._waiting: queue.SimpleQueue[list[Rpm] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._started = False
        self.written: list[Rpm] = []
        self.failed: dict[str, str] = {}
        self.error: SigningError | None = None
        """Why nothing more is written."""

    def put(self, rpms: Sequence[Rpm]) -> None:
        """Write these, soon."""
        if rpms:
            self._waiting.put(list(rpms))
            if not self._started:
                self._started = True
                self._thread.start()

    def end(self) -> None:
        """Wait until all is written that was asked for."""
        if self._started:
            self._waiting.put(None)
            self._thread.join()

    def _run(self) -> None:
        session: Hub | None = None
        try:
            for rpms in iter(self._waiting.get, None):
                if self.error is None:
                    session = session or self._hub.another()
                    for part in batches(rpms, WRITES, WRITE_BYTES):
                        self._write(session, part)
        except SigningError as error:
            self.error = error
        except Exception as error:  # a thread's traceback would be seen by nobody
            self.error = SigningError(f"Writing signed copies failed: {error!r}.", EXIT_TOOL)
        finally:
            if session:
                session.logout()

    def _write(self, session: Hub, rpms: Sequence[Rpm]) -> None:
        answers = session.many([("writeSignedRPM", (rpm.id, self._key_id), {}) for rpm in rpms], WRITES)
        done = []
        for rpm, answer in zip(rpms, answers):
            if not isinstance(answer, Refused):
                done.append(rpm)
                continue
            self.failed[rpm.nevra] = f"Koji did not write its signed copy: {answer}"
            if "No space left" in str(answer) or "Disk quota" in str(answer):
                self.error = SigningError(
                    f"The volume of the hub {session.server} is full: nothing more was written. What is signed stays"
                    " signed; make room, and run this again.",
                    EXIT_KOJI,
                )
        self._copies.done(done)
        self.written += done
        if self.error:
            raise self.error


class Run:
    """One run, for a key and a Koji."""

    def __init__(
        self,
        hub: Hub,
        key_id: str,
        wishes: Wishes,
        backend: Callable[[], Backend],
        copies: Copies,
        stop: Stop,
        say: Say,
        detail: Say = lambda line: None,
        show: Callable[[int, int], None] = lambda number, count: None,
    ) -> None:
        self.hub, self.key_id, self.wishes, self.make_backend = hub, key_id, wishes, backend
        self.copies, self.stop, self.say, self.detail, self.show = copies, stop, say, detail, show
        self.result = Result(key_id=key_id)
        self.rpms: list[Rpm] = []
        self.signed: set[int] = set()
        self.failed: dict[int, str] = {}
        self.writer = Writer(hub, key_id, copies, say)
        self._outages = 0
        self._answered = False
        """Whether an RPM of this batch was signed: then the signing service is there."""
        self._old: list[Rpm] = []

    def discover(self) -> None:
        """Find the RPMs and their signatures: a call for each tag, or some multicalls for builds."""
        before = self.hub.calls
        wishes = self.wishes
        found: dict[int, Rpm] = {}
        for tag in wishes.tags:
            rpms, signatures = self.hub.tagged(tag, wishes.inherit, wishes.arches)
            found.update({rpm.id: rpm for rpm in rpms})
            self.signed |= {number for number, keys in signatures.items() if self.key_id in keys}
        if wishes.nvrs:
            rpms = self.hub.of_builds(wishes.nvrs, wishes.arches)
            found.update({rpm.id: rpm for rpm in rpms})
            self.signed |= self.hub.signed(rpms, self.key_id)
        self.rpms = list(found.values())
        self.result.already = len(self.signed)
        self.result.discovery_calls = self.hub.calls - before

    @property
    def unsigned(self) -> list[Rpm]:
        """RPMs that are unsigned, as far as Koji has said."""
        return [rpm for rpm in self.rpms if rpm.id not in self.signed]

    def to_write(self) -> list[Rpm]:
        """RPMs that were signed before this run, and whose copies are to be written."""
        signed = [rpm for rpm in self.rpms if rpm.id in self.signed]
        return signed if self.wishes.write_all else self.copies.missing(signed)

    def work(self) -> None:
        """Sign and write. What ends it early is in the result, as a sentence and an exit status."""
        error: SigningError | None = None
        try:
            todo = self.unsigned if self.wishes.sign else []
            self._old = self.to_write() if self.wishes.write else []
            if todo or self._old:
                self.hub.may_sign()
            self.writer.put(self._old)
            if todo:
                self._sign(todo)
        except SigningError as caught:
            error = caught
        finally:
            self.writer.end()
        self._conclude(error or self.writer.error)

    def _sign(self, todo: Sequence[Rpm]) -> None:
        backend = self.make_backend()
        if backend.notice:
            self.say(backend.notice)
        try:
            backend.check()
            done = 0
            for batch in batches(todo, self.wishes.count, self.wishes.bytes):
                if self._ends():
                    break
                self.show(done, len(todo))
                self.copies.expect(batch)
                self._batch(backend, batch)
                done += len(batch)
        finally:
            backend.close()

    def _ends(self) -> bool:
        limit = self.wishes.max_failures
        if limit and len(self.failed) + len(self.writer.failed) >= limit:
            return True
        return bool(self.stop) or self.writer.error is not None

    def _batch(self, backend: Backend, batch: Sequence[Rpm]) -> None:
        """Sign a batch; what Koji does not have afterwards is tried again, in halves where nothing at all was signed."""
        self._answered = False
        todo = deque([(list(batch), 0)])
        while todo:
            group, tries = todo.popleft()
            if tries:
                self.stop.sleep(_PAUSES[min(tries, len(_PAUSES)) - 1])
                if self.stop or self._ends():
                    return
            reasons, why, outage = self._attempt(backend, group)
            have = self.hub.signed(group, self.key_id)
            self._confirmed([rpm for rpm in group if rpm.id in have])
            missing = []
            for rpm in group:
                if rpm.id in have:
                    continue
                if rpm.id in reasons.final:
                    self._fail(rpm, reasons.final[rpm.id])
                else:
                    missing.append(rpm)
            if not missing:
                continue
            self.detail(f"{len(missing)} of {len(group)} were not signed. {why}")
            if len(missing) < len(group):
                todo.append((missing, tries + 1))
            elif outage and not self._answered:
                self._after_outage(todo, missing, why)
            elif len(missing) > 1:
                # One of them may be the reason for all.
                half = len(missing) // 2
                todo.extend([(missing[:half], 1), (missing[half:], 1)])
            elif tries < _TRIES:
                todo.append((missing, tries + 1))
            else:
                self._fail(missing[0], reasons.other.get(missing[0].id) or why)

    def _attempt(self, backend: Backend, group: Sequence[Rpm]) -> tuple[Reasons, str, bool]:
        """Why RPMs were not signed; the reason for those without one of their own; whether nobody answered."""
        self.detail(f"signing {len(group)} RPMs, {sum(rpm.size for rpm in group) / 1e6:.1f} MB")
        try:
            reasons = backend.sign(group)
        except (Outage, BatchFailed) as error:
            return Reasons(), str(error), isinstance(error, Outage)
        why = next(iter(reasons.other.values()), "No reason was given, and Koji has no signature.")
        return reasons, why, False

    def _after_outage(self, todo: deque[tuple[list[Rpm], int]], missing: list[Rpm], why: str) -> None:
        """Wait and try again; at last in halves, because an RPM may be what it does not answer to."""
        if self._outages >= len(_OUTAGES):
            raise SigningError(why, EXIT_TOOL)
        self.say(f"{why} Trying again in {_OUTAGES[self._outages]:g} seconds.")
        self.stop.sleep(_OUTAGES[self._outages])
        if self.stop:
            raise SigningError(why, EXIT_TOOL)
        self._outages += 1
        half = len(missing) // 2
        if self._outages < len(_OUTAGES) - 1 or not half:
            todo.appendleft((missing, 0))
        else:
            todo.extend([(missing[:half], 0), (missing[half:], 0)])

    def _confirmed(self, rpms: Sequence[Rpm]) -> None:
        if rpms:
            self._outages, self._answered = 0, True
        self.signed |= {rpm.id for rpm in rpms}
        self.result.signed += [rpm.nevra for rpm in rpms]
        for rpm in rpms:
            self.detail(f"signed: {rpm.nevra}")
        if self.wishes.write:
            self.writer.put(rpms)

    def _fail(self, rpm: Rpm, why: str) -> None:
        self.failed[rpm.id] = why
        self.result.failed[rpm.nevra] = why
        self.say(f"not signed: {rpm.nevra}: {why}")

    def _conclude(self, error: SigningError | None) -> None:
        result = self.result
        result.failed.update(self.writer.failed)
        result.written = [rpm.nevra for rpm in self.writer.written]
        result.unsigned = [rpm.nevra for rpm in self.unsigned]
        written = set(result.written)
        wanted = dict.fromkeys([*result.signed, *(rpm.nevra for rpm in self._old)])
        result.unwritten = [nevra for nevra in wanted if nevra not in written]
        result.hub_calls = self.hub.calls
        if error:
            result.error, result.status = str(error), error.status
        elif result.failed or (self.wishes.sign and result.unsigned) or (self.wishes.write and result.unwritten):
            result.status = EXIT_PARTLY


# The command line


@contextlib.contextmanager
def locked(config: Config, key: Key) -> Iterator[None]:
    """Hold the lock of a hub and key; `SigningError` (already running) where another run holds it."""
    path = config.state_dir / f"{key.koji}-{key.name}.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SigningError(
            f"{path} cannot be opened ({error.strerror}): run this as the user that signs, on a host with the"
            " signing state."
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SigningError(
                f"Another run signs with {key.name} in {key.koji}: wait for it.", EXIT_RUNNING
            ) from error
        yield
    finally:
        os.close(descriptor)


def check_user(config: Config) -> None:
    """`SigningError` (usage) where the state's directory is another user's: files of root there would shut that user out."""
    try:
        owner = config.state_dir.stat().st_uid
    except OSError as error:
        raise SigningError(
            f"{config.state_dir} cannot be used ({error.strerror}): the state of the signing host makes it."
        ) from error
    if owner != os.geteuid():
        try:
            name = pwd.getpwuid(owner).pw_name
        except KeyError:
            name = str(owner)
        raise SigningError(f"{config.state_dir} is {name}'s: run this as that user, by runuser -u {name} -- …")


def published(config: Config, key: Key) -> Path:
    """Where the public key is published."""
    return config.keys_dir / f"RPM-GPG-KEY-{key.name}"


def known_pair(config: Config, key: Key) -> signing_gpg.KeyPair | None:
    """The key as the keyring has it, or as it is published; None where it is neither."""
    pair = signing_gpg.pair_of(config.gnupg_home, key) if config.backend == "rpmsign" else None
    path = published(config, key)
    if pair is None and path.is_file():
        return signing_gpg.id_of_public(path.read_bytes(), str(path))
    return pair


def key_id_of(config: Config, key: Key, secret: Callable[[], Passphrase]) -> str:
    """What Koji knows ``key`` by: from the configuration, the keyring, the published key, or Sigul, in this order."""
    if key.key_id:
        return key.key_id
    pair = known_pair(config, key)
    if pair:
        return pair.koji_id
    if config.backend == "rpmsign":
        return signing_gpg.need_pair(config.gnupg_home, key).koji_id
    try:
        status, text, errors = sigul(config, ["get-public-key", key.sigul_name], [secret()], 120)
    except Outage as error:
        raise SigningError(str(error), EXIT_TOOL) from error
    if status:
        raise SigningError(f"Sigul does not give the public key of {key.sigul_name}: {errors.strip()[-300:]}", EXIT_TOOL)
    return signing_gpg.id_of_public(text.encode(), f"Sigul's answer for {key.sigul_name}").koji_id


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sigulsign_unsigned.py",
        description="Sign the RPMs of builds in Koji that KEY has not signed yet, and write signed copies of them.",
        epilog="Exit status: 0 all is signed, 1 some is not, 2 usage, 3 a passphrase, certificate or permission was"
        " refused, 4 Koji failed, 5 the signing service failed, 75 already running. Run again, it goes on.",
    )
    parser.add_argument("key", metavar="KEY", help="a key of the configuration")
    parser.add_argument("nvrs", nargs="*", metavar="NVR", help="builds; without one, and without --tag, the key's own tags")
    parser.add_argument("--tag", action="append", default=[], help="sign the latest builds of this tag (may be repeated)")
    parser.add_argument("--inherit", action="store_true", help="… and what the tag inherits")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--just-list", action="store_true", help="list unsigned RPMs, and do nothing")
    only.add_argument("--just-sign", action="store_true", help="write no signed copies")
    only.add_argument("--just-write", action="store_true", help="sign nothing, write signed copies that are missing")
    parser.add_argument("--write-all", action="store_true", help="write signed copies of all, not only where one is missing")
    parser.add_argument("--arch", action="append", default=[], help="only RPMs of this architecture (may be repeated)")
    parser.add_argument("--sigul-batch-size", type=int, metavar="N", help="RPMs in a batch (default: the configuration's)")
    parser.add_argument("--max-failures", type=int, default=0, metavar="N", help="end once N RPMs have failed")
    parser.add_argument("--koji", metavar="INSTANCE", help="a Koji of the configuration (default: the key's)")
    parser.add_argument("--backend", choices=BACKENDS, help="who signs (default: the configuration's)")
    parser.add_argument("--config", type=Path, default=CONFIG, metavar="FILE", help=f"(default: {CONFIG})")
    add_passphrase_options(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would be signed and written")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    parser.add_argument("-v", "--verbose", action="store_true", help="say more")
    return parser


def add_passphrase_options(parser: argparse.ArgumentParser, what: str = "the key's passphrase") -> None:
    """Add --passphrase-fd and --passphrase-file."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--passphrase-fd", type=int, metavar="N", help=f"descriptor with {what}")
    group.add_argument("--passphrase-file", type=Path, metavar="FILE", help=f"file with {what}, open to its owner alone"
                       " (default: the systemd credential of the key, or a question at the terminal)")  # fmt: skip


def _wishes(args: argparse.Namespace, config: Config, key: Key, parser: argparse.ArgumentParser) -> Wishes:
    if args.nvrs and args.tag:
        parser.error("give NVRs or --tag, not both.")
    if args.sigul_batch_size is not None and args.sigul_batch_size < 1:
        parser.error("--sigul-batch-size is 1 or more.")
    if args.max_failures < 0:
        parser.error("--max-failures is not negative.")
    asked = bool(args.nvrs or args.tag)
    if not asked and not key.tags:
        parser.error(f"give NVRs or --tag: {config.path} gives {key.name} no tags.")
    if key.state == "retired" and not (args.just_list or args.just_write):
        raise SigningError(f"{key.name} is retired and signs nothing: pillar signing:keys:{key.name}:state says so.")
    return Wishes(
        nvrs=tuple(dict.fromkeys(args.nvrs)),
        tags=() if args.nvrs else tuple(dict.fromkeys(args.tag or key.tags)),
        inherit=args.inherit or (not asked and key.inherit),
        arches=tuple(args.arch or (() if asked else key.arches)),
        # A key that is being retired signs nothing new by itself.
        sign=not args.just_write and (asked or key.state == "active"),
        write=not args.just_sign,
        write_all=args.write_all,
        count=args.sigul_batch_size or config.batch_count,
        bytes=config.batch_bytes,
        max_failures=args.max_failures,
    )


def main(argv: Sequence[str] | None = None, output: TextIO | None = None) -> int:
    """``scripts/sigulsign_unsigned.py``; the exit status."""
    output = output or sys.stdout
    parser = _parser()
    args = parser.parse_args(argv)
    start = time.monotonic()
    terminal = sys.stderr.isatty()

    def say(line: str) -> None:
        print(f"{chr(13) + chr(27) + '[K' if terminal else ''}{line}", file=sys.stderr, flush=True)

    def show(number: int, count: int) -> None:
        if terminal:
            print(f"\r{number} of {count} RPMs", end="", file=sys.stderr, flush=True)

    detail = say if args.verbose else (lambda line: None)
    result = Result(key=args.key)
    try:
        config = Config.read(args.config, args.backend)
        key = config.key(args.key)
        if args.koji:
            key = dataclasses.replace(key, koji=config.instance(args.koji).name)
        wishes = _wishes(args, config, key, parser)
        result.koji, result.backend = key.koji, config.backend
        secrets: list[Passphrase] = []

        def secret() -> Passphrase:
            # Asked for once, and only where something needs it.
            if not secrets:
                secrets.append(need_passphrase(key, args.passphrase_fd, args.passphrase_file))
            return secrets[0]

        check_user(config)
        looks = args.just_list or args.dry_run
        with contextlib.ExitStack() as stack:
            if not looks:
                stack.enter_context(locked(config, key))
            key_id = key_id_of(config, key, secret)
            hub = Hub(config.instance(key.koji))
            hub.login()
            stack.callback(hub.logout)
            copies: Copies = (
                VolumeCopies(hub.volume, key_id)
                if hub.volume
                else NotedCopies(config.state_dir / f"{key.koji}-{key.name}.unwritten", set())
            )
            stop = Stop(say)
            work = config.state_dir / f"{key.koji}-{key.name}.work"

            def backend() -> Backend:
                if config.backend == "sigul":
                    return Sigul(config, key, secret(), work)
                return Rpmsign(config, key, secret(), work, hub, signing_gpg.need_pair(config.gnupg_home, key))

            run = Run(hub, key_id, wishes, backend, copies, stop, say, detail, show)
            run.result.key, run.result.koji, run.result.backend = key.name, key.koji, config.backend
            result = run.result
            run.discover()
            if run.unsigned and not wishes.sign and not args.just_write:
                say(f"{key.name} is being retired: it signs nothing new unless NVRs or --tag are given.")
            if looks:
                result.unsigned = [rpm.nevra for rpm in run.unsigned]
                result.unwritten = [rpm.nevra for rpm in run.to_write()] if wishes.write else []
                result.hub_calls = hub.calls
            else:
                with stop.on_signals():
                    run.work()
    except SigningError as error:
        result.error, result.status = str(error), error.status
    except KeyboardInterrupt:
        result.error, result.status = "Interrupted: run this again, it goes on.", EXIT_PARTLY
    result.seconds = time.monotonic() - start
    if result.error:
        print(f"sigulsign_unsigned.py: {result.error}", file=sys.stderr)
    if args.json:
        print(json.dumps(result.as_dict()), file=output)
    elif args.just_list or args.dry_run:
        if not result.error:
            _print_list(result, args.dry_run, output)
    elif result.status != EXIT_USAGE and result.status != EXIT_RUNNING:
        say(
            f"{len(result.signed)} RPMs signed, {len(result.written)} signed copies written, {result.already} were"
            f" signed before, {len(result.failed)} failed, {len(result.unsigned)} unsigned;"
            f" {result.hub_calls} calls to the hub, {result.seconds:.1f} seconds"
        )
    return result.status


def _print_list(result: Result, dry_run: bool, output: TextIO) -> None:
    for nevra in result.unsigned:
        print(f"would be signed: {nevra}" if dry_run else nevra, file=output)
    if dry_run:
        for nevra in result.unwritten:
            print(f"would be written: {nevra}", file=output)
