"""Signing keys, from their making to their end: with Sigul, or in the keyring of this host.

Which keys there are, and which state each is in, stands in the configuration (pillar signing:keys): this makes
what is written there real, and says what to write there next.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from goose import signing_gpg
from goose.signing import add_passphrase_options, key_id_of, known_pair, published
from goose.signing_backends import Outage, sigul
from goose.signing_config import (
    BACKENDS,
    CONFIG,
    EXIT_DONE,
    EXIT_KOJI,
    EXIT_PARTLY,
    EXIT_TOOL,
    Config,
    Key,
    Passphrase,
    SigningError,
    passphrase,
)
from goose.signing_koji import Hub, Rpm

CREDSTORE = Path("/etc/credstore.encrypted")
_SIGUL_SECONDS = 300

Say = Callable[[str], None]


class Keys:
    """Work on the keys of a configuration; ``dry_run``: only say what would be done."""

    def __init__(self, config: Config, args: argparse.Namespace, say: Say, credstore: Path = CREDSTORE) -> None:
        self.config, self.args, self.say, self.credstore = config, args, say, credstore
        self.dry_run = bool(args.dry_run)

    # Making

    def create(self, name: str) -> dict[str, Any]:
        """Make the key and publish it, where it is not there."""
        key = self.config.key(name)
        made = self._create_here(key) if self.config.backend == "rpmsign" else self._create_in_sigul(key)
        row: dict[str, Any] = {"key": name, "created": made}
        if self.dry_run and made:
            return {**row, "published": str(published(self.config, key))}
        return {**row, **self.publish(name)}

    def _create_here(self, key: Key) -> bool:
        home = self.config.gnupg_home
        if signing_gpg.pair_of(home, key):
            self.say(f"{key.name} is there.")
            return False
        if key.state == "retired":
            raise SigningError(f"{key.name} is retired, and is not made again: give the new key a new name.")
        if key.key_id:
            raise SigningError(
                f"{home} has no key {key.key_id}, which pillar signing:keys:{key.name}:key_id names: import it there, or"
                " take the key_id away to have a new one made."
            )
        if published(self.config, key).exists():
            raise SigningError(
                f"The key {key.name} is published ({published(self.config, key)}), and {home} has not got it: bring {home}"
                " back from a backup. Where it is lost, give a new key a new name and another uid; or, where nobody has the"
                " public key yet, remove the published file."
            )
        self.say(f"{key.name} {'would be' if self.dry_run else 'is'} made in {home}: {key.type}, {key.uid}")
        if self.dry_run:
            return True
        signing_gpg.prepare(home)
        # Before the key: one whose passphrase is lost cannot be used, a passphrase without a key can.
        secret = self._new_passphrase(key)
        uid = re.fullmatch(r"(.*) <(.*)>", key.uid)
        assert uid is not None  # the configuration was checked
        kind = f"RSA\nKey-Length: {key.type[3:]}" if key.type.startswith("rsa") else "EDDSA\nKey-Curve: ed25519"
        wanted = f"Key-Type: {kind}\nKey-Usage: sign\nName-Real: {uid[1]}\nName-Email: {uid[2]}\n"
        wanted += "Expire-Date: 0\n%commit\n"
        with signing_gpg.held(secret) as descriptor:
            words = ["--status-fd", "1", *signing_gpg.with_passphrase(descriptor), "--generate-key"]
            done = signing_gpg.gpg(words, home, wanted.encode(), (descriptor,))
        if done.returncode or b"KEY_CREATED" not in done.stdout:
            raise SigningError(f"GnuPG made no key: {done.stderr.decode('utf-8', 'replace').strip()[-300:]}", EXIT_TOOL)
        return True

    def _new_passphrase(self, key: Key) -> Passphrase:
        """The one that is given, or that an earlier run stored; else a new one, stored as a credential."""
        given = passphrase("", self.args.passphrase_fd, self.args.passphrase_file) if self._given else None
        if given or key.passphrase_file:
            return given or passphrase("", file=key.passphrase_file)  # type: ignore[return-value]
        path = self.credstore / key.credential
        if path.exists():
            value = self._creds("decrypt", key.credential, str(path), "-")
            return Passphrase(value, str(path))
        value = secrets.token_urlsafe(48).encode()
        sealed = self._creds("encrypt", key.credential, "-", "-", given=value)
        self.credstore.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = self.credstore / f".{key.credential}.new"
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
            stream.write(sealed)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
        self.say(f"Its passphrase is in {path}, which this host alone can open (systemd-creds).")
        return Passphrase(value, str(path))

    @property
    def _given(self) -> bool:
        return self.args.passphrase_fd is not None or self.args.passphrase_file is not None

    def _creds(self, verb: str, name: str, source: str, target: str, given: bytes = b"") -> bytes:
        try:
            done = subprocess.run(["systemd-creds", verb, f"--name={name}", source, target], input=given,
                                  capture_output=True, check=False, timeout=120)  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SigningError(
                f"systemd-creds cannot be used ({error}): give --passphrase-fd or --passphrase-file.", EXIT_TOOL
            ) from error
        if done.returncode:
            raise SigningError(
                f"systemd-creds cannot {verb} the credential {name}:"
                f" {done.stderr.decode('utf-8', 'replace').strip()[-300:]}"
                " Run this as root, or give --passphrase-fd or --passphrase-file.",
                EXIT_TOOL,
            )
        return done.stdout

    def _create_in_sigul(self, key: Key) -> bool:
        admin = self._admin()
        if key.sigul_name in self._sigul(["list-keys"], [admin]).split():
            self.say(f"{key.name} is there.")
            return False
        self.say(f"{key.name} {'would be' if self.dry_run else 'is'} made by Sigul's server, which chooses its type.")
        if self.dry_run:
            return True
        uid = re.fullmatch(r"(.*) <(.*)>", key.uid)
        assert uid is not None
        words = ["new-key", f"--gnupg-name-real={uid[1]}", f"--gnupg-name-email={uid[2]}", key.sigul_name]
        text = self._sigul(words, [admin, self._new_passphrase(key)])
        self._write_public(key, text)
        return True

    def _admin(self) -> Passphrase:
        fd, file = self.args.admin_passphrase_fd, self.args.admin_passphrase_file
        found = passphrase("Password of the Sigul admin: ", fd, file)
        if found is None:
            raise SigningError(
                "There is no password of Sigul's administrator: give --admin-passphrase-fd or --admin-passphrase-file,"
                " or run this at a terminal."
            )
        return found

    def _sigul(self, words: Sequence[str], given: Sequence[Passphrase]) -> str:
        try:
            status, output, errors = sigul(self.config, words, given, _SIGUL_SECONDS)
        except Outage as error:
            raise SigningError(str(error), EXIT_TOOL) from error
        if status:
            raise SigningError(f"Sigul's {words[0]} failed: {errors.strip()[-300:]}", EXIT_TOOL)
        return output

    def grant(self, name: str, user: str) -> dict[str, Any]:
        """Let a user of Sigul sign with the key, by a passphrase of the user's own."""
        if self.config.backend != "sigul":
            raise SigningError("grant is Sigul's: with rpmsign, who can read the keyring and the passphrase can sign.")
        key = self.config.key(name)
        secret = self._secret(key)
        new = passphrase(f"New passphrase of {user}: ", self.args.new_passphrase_fd, self.args.new_passphrase_file)
        if new is None:
            raise SigningError(f"There is no passphrase for {user}: give --new-passphrase-fd or --new-passphrase-file.")
        users = self._sigul(["list-key-users", key.sigul_name], [secret]).split()
        granted = user not in users
        if granted and not self.dry_run:
            self._sigul(["grant-key-access", key.sigul_name, user], [secret, new])
        self.say(f"{user} {'would be' if self.dry_run else 'is'} granted {name}." if granted else f"{user} has {name}.")
        return {"key": name, "user": user, "granted": granted}

    def _secret(self, key: Key) -> Passphrase:
        found = passphrase(f"Passphrase of {key.name}: ", self.args.passphrase_fd, self.args.passphrase_file,
                           key.credential, key.passphrase_file)  # fmt: skip
        if found is None:
            raise SigningError(f"There is no passphrase for {key.name}: give --passphrase-fd or --passphrase-file.")
        return found

    # The public key

    def public(self, key: Key) -> str:
        """The public key, as text: of the keyring, as it is published, or of Sigul."""
        if self.config.backend == "rpmsign":
            pair = signing_gpg.need_pair(self.config.gnupg_home, key)
            done = signing_gpg.gpg(["--armor", "--export", pair.fingerprint], self.config.gnupg_home)
            return done.stdout.decode("ascii")
        path = published(self.config, key)
        if path.is_file():
            return path.read_text(encoding="ascii")
        return self._sigul(["get-public-key", key.sigul_name], [self._secret(key)])

    def export(self, name: str) -> dict[str, Any]:
        """The public key, for standard output."""
        return {"key": name, "public_key": self.public(self.config.key(name))}

    def publish(self, name: str) -> dict[str, Any]:
        """Put the public key where the web server gives it out; the pillar data that the release package needs."""
        key = self.config.key(name)
        text = self.public(key)
        pair = signing_gpg.id_of_public(text.encode(), f"The public key of {name}")
        changed = self._write_public(key, text)
        return {
            "fingerprint": pair.fingerprint.lower(),
            "key_id": pair.koji_id,
            "published": str(published(self.config, key)),
            "changed": changed,
            "pillar": {"signing": {"public_keys": {name: text}}},
        }

    def _write_public(self, key: Key, text: str) -> bool:
        path = published(self.config, key)
        with contextlib.suppress(OSError):
            if path.read_text(encoding="ascii") == text:
                return False
        self.say(f"{path} {'would be' if self.dry_run else 'is'} written.")
        if not self.dry_run:
            try:
                partial = path.with_name(f".{path.name}.new")
                partial.write_text(text, encoding="ascii")
                partial.chmod(0o644)
                partial.replace(path)
            except OSError as error:
                raise SigningError(
                    f"The public key cannot be written to {path} ({error.strerror}): the state of the signing host makes"
                    " keys_dir.",
                    EXIT_TOOL,
                ) from error
        return True

    # What there is

    def list_keys(self) -> dict[str, Any]:
        """Every key of the configuration."""
        rows = []
        for name, key in sorted(self.config.keys.items()):
            path = published(self.config, key)
            pair = known_pair(self.config, key)
            rows.append({
                "key": name,
                "fingerprint": pair.fingerprint.lower() if pair else None,
                "key_id": pair.koji_id if pair else key.key_id,
                "state": key.state if pair else f"{key.state}, not made",
                "created": time.strftime("%Y-%m-%d", time.gmtime(pair.created)) if pair else None,
                "published": str(path) if path.is_file() else None,
                "tags": list(key.tags),
            })  # fmt: skip
        return {"keys": rows}

    def signed(self, tags: Sequence[str], inherit: bool) -> dict[str, Any]:
        """Which keys signed what of the latest builds in ``tags``: by NVR, a number of RPMs for each key."""
        names = self._names()
        builds: dict[str, dict[str, Any]] = {}
        with self._hub(self.args.koji or self.config.default_koji) as hub:
            for tag in tags:
                for rpm, keys in _signatures(hub, tag, inherit):
                    row = builds.setdefault(rpm.nvr, {"rpms": 0, "unsigned": 0, "keys": {}})
                    row["rpms"] += 1
                    row["unsigned"] += not keys
                    for key_id in keys:
                        name = names.get(key_id, key_id)
                        row["keys"][name] = row["keys"].get(name, 0) + 1
        return {"builds": dict(sorted(builds.items()))}

    def _names(self) -> dict[str, str]:
        found = {}
        for row in self.list_keys()["keys"]:
            if row["key_id"]:
                found[row["key_id"]] = row["key"]
        return found

    @contextlib.contextmanager
    def _hub(self, instance: str) -> Iterator[Hub]:
        hub = Hub(self.config.instance(instance))
        hub.login()
        try:
            yield hub
        finally:
            hub.logout()

    # The end

    def rotate(self, old: str, new: str) -> dict[str, Any]:
        """Make and publish the new key, and say what follows."""
        before, after = self.config.key(old), self.config.key(new)
        if old == new:
            raise SigningError("rotate takes two keys: the one that is to go, and the one that is to come.")
        if after.state != "active":
            raise SigningError(f"{new} is to come, and pillar signing:keys:{new}:state says {after.state}: make it active.")
        lacking = sorted(set(before.tags) - set(after.tags))
        if lacking:
            raise SigningError(
                f"{new} does not sign what {old} signs: pillar signing:keys:{new}:tags lacks {', '.join(lacking)}."
            )
        row = self.create(new)
        steps = [
            f"build the release package with the keys of {old} and {new}, sign it with {old}, and let systems update to it",
            *(f"sigulsign_unsigned.py {new} --tag {tag}" for tag in after.tags),
            f"set pillar signing:keys:{old}:state to retiring, and compose with {new}",
            f"signing_key.py retire {old}",
        ]
        return {**row, "old": old, "steps": steps}

    def retire(self, name: str) -> dict[str, Any]:
        """Check that nothing depends on the key alone; delete copies that it signed, and itself, where that is asked for."""
        key = self.config.key(name)
        key_id = key_id_of(self.config, key, lambda: self._secret(key))
        others = {row["key_id"] for row in self.list_keys()["keys"]
                  if row["key_id"] and row["key"] != name and self.config.keys[row["key"]].state == "active"}  # fmt: skip
        alone: list[Rpm] = []
        both: list[Rpm] = []
        with self._hub(key.koji) as hub:
            for tag in key.tags:
                for rpm, keys in _signatures(hub, tag, key.inherit):
                    if key_id in keys:
                        (both if keys & others else alone).append(rpm)
            row: dict[str, Any] = {
                "key": name,
                "key_id": key_id,
                "only_by_this_key": [rpm.nevra for rpm in alone],
                "deleted_copies": [],
                "deleted_secret": False,
                "pillar": {"signing": {"keys": {name: {"state": "retired"}}}},
            }
            if alone:
                row["error"] = (
                    f"{name} cannot be retired: {len(alone)} RPMs in {', '.join(key.tags)} are signed by no active key"
                    f" but this, {alone[0].nevra} among them. Sign them first: sigulsign_unsigned.py NEW --tag …"
                )
                return row
            if self.args.delete_copies:
                row["deleted_copies"] = self._delete_copies(hub, both, key_id)
        if self.args.delete_secret:
            row["deleted_secret"] = self._delete_secret(key)
        self.say(f"Nothing in {', '.join(key.tags) or 'its tags'} needs {name}. In pillar, set signing:keys:{name}:state"
                 " to retired; leave its public key published for systems that hold packages of old.")  # fmt: skip
        return row

    def _delete_copies(self, hub: Hub, rpms: Sequence[Rpm], key_id: str) -> list[str]:
        # Only copies: Koji keeps the signature, and writes a copy again when it is asked to.
        volume = hub.volume
        if volume is None:
            raise SigningError(
                f"Koji's volume is not on this host (topdir in {hub.instance.config}): run this where it is, as the"
                " user that owns it.",
            )
        deleted = []
        for rpm in rpms:
            path = volume / rpm.signed_path(key_id)
            if not path.is_file():
                continue
            try:
                if not self.dry_run:
                    path.unlink()
            except OSError as error:
                raise SigningError(
                    f"{path} cannot be deleted ({error.strerror}): run this as the user that owns Koji's volume.", EXIT_KOJI
                ) from error
            deleted.append(str(path))
        return deleted

    def _delete_secret(self, key: Key) -> bool:
        if self.config.backend != "rpmsign":
            raise SigningError(f"--delete-secret is for rpmsign: with Sigul, run sigul delete-key {key.sigul_name}.")
        home = self.config.gnupg_home
        pair = signing_gpg.pair_of(home, key)
        if pair is None or signing_gpg.gpg(["--list-secret-keys", pair.fingerprint], home).returncode:
            return False
        if not self.dry_run:
            done = signing_gpg.gpg(["--yes", "--delete-secret-and-public-key", pair.fingerprint], home)
            if done.returncode:
                told = done.stderr.decode("utf-8", "replace").strip()[-300:]
                raise SigningError(f"GnuPG did not delete {key.name}: {told}", EXIT_TOOL)
            with contextlib.suppress(FileNotFoundError):
                (self.credstore / key.credential).unlink()
        return True


def _signatures(hub: Hub, tag: str, inherit: bool) -> Iterator[tuple[Rpm, set[str]]]:
    rpms, signatures = hub.tagged(tag, inherit, ())
    for rpm in rpms:
        yield rpm, signatures.get(rpm.id, set())


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def _text(command: str, answer: dict[str, Any]) -> str:
    """The answer for people."""
    if command == "export":
        return str(answer["public_key"]).rstrip("\n")
    if command == "list":
        words = ("key", "state", "key_id", "fingerprint", "created", "published")
        return _table([words, *([str(row[word] or "-") for word in words] for row in answer["keys"])])
    if command == "signed":
        rows = [("build", "RPMs", "signed by")]
        for nvr, row in answer["builds"].items():
            by = [f"{name} ({number})" for name, number in sorted(row["keys"].items())]
            by += [f"nobody ({row['unsigned']})"] if row["unsigned"] else []
            rows.append((nvr, str(row["rpms"]), ", ".join(by)))
        return _table(rows)
    if command == "rotate":
        return "\n".join(["Next:", *(f"{number}. {step}" for number, step in enumerate(answer["steps"], 1))])
    if command == "publish":
        lines = answer["pillar"]["signing"]["public_keys"].items()
        return "\n".join(["signing:", "  public_keys:"] + [
            f"    {name}: |\n" + "\n".join(f"      {line}".rstrip() for line in text.splitlines()) for name, text in lines
        ])  # fmt: skip
    return "\n".join(answer.get("deleted_copies", []))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="signing_key.py",
        description="Make, publish, list, rotate and retire the keys that packages are signed with.",
        epilog="Exit status: 0 done, 1 a key cannot be retired yet, 2 usage, 3 a passphrase or certificate was refused,"
        " 4 Koji failed, 5 GnuPG, Sigul or systemd-creds failed.",
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", type=Path, default=CONFIG, metavar="FILE", help=f"(default: {CONFIG})")
    common.add_argument("--backend", choices=BACKENDS, help="where keys are (default: the configuration's)")
    common.add_argument("--koji", metavar="INSTANCE", help="a Koji of the configuration")
    common.add_argument("--dry-run", action="store_true", help="change nothing")
    common.add_argument("--json", action="store_true", help="one object on standard output")
    add_passphrase_options(common)
    admin = argparse.ArgumentParser(add_help=False)
    group = admin.add_mutually_exclusive_group()
    group.add_argument("--admin-passphrase-fd", type=int, metavar="N", help="descriptor with the Sigul admin's password")
    group.add_argument("--admin-passphrase-file", type=Path, metavar="FILE", help="file with it, open to its owner alone")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, *more: argparse.ArgumentParser) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, parents=[common, *more])

    add("create", "make a key and publish it", admin).add_argument("name", metavar="NAME")
    grant = add("grant", "let a user of Sigul sign with a key")
    grant.add_argument("name", metavar="NAME")
    grant.add_argument("user", metavar="USER")
    new = grant.add_mutually_exclusive_group()
    new.add_argument("--new-passphrase-fd", type=int, metavar="N", help="descriptor with the user's new passphrase")
    new.add_argument("--new-passphrase-file", type=Path, metavar="FILE", help="file with it, open to its owner alone")
    add("export", "print a public key").add_argument("name", metavar="NAME")
    add("publish", "put a public key where it is published").add_argument("name", metavar="NAME")
    add("list", "list the keys")
    signed = add("signed", "list what is signed by which key")
    signed.add_argument("--tag", action="append", required=True, help="latest builds of this tag (may be repeated)")
    signed.add_argument("--inherit", action="store_true", help="… and what the tag inherits")
    rotate = add("rotate", "make the key that follows another", admin)
    rotate.add_argument("old", metavar="OLD")
    rotate.add_argument("new", metavar="NEW")
    retire = add("retire", "check that a key is needed no more")
    retire.add_argument("name", metavar="NAME")
    retire.add_argument("--delete-copies", action="store_true", help="delete copies signed by it from Koji's volume")
    retire.add_argument("--delete-secret", action="store_true", help="delete it from the keyring, with its passphrase")
    return parser


def main(argv: Sequence[str] | None = None, output: TextIO | None = None, credstore: Path = CREDSTORE) -> int:
    """``scripts/signing_key.py``; the exit status."""
    output = output or sys.stdout
    args = _parser().parse_args(argv)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        config = Config.read(args.config, args.backend)
        keys = Keys(config, args, say, credstore)
        command: str = args.command
        if command in ("create", "export", "publish", "retire"):
            answer: dict[str, Any] = getattr(keys, command)(args.name)
        elif command == "grant":
            answer = keys.grant(args.name, args.user)
        elif command == "list":
            answer = keys.list_keys()
        elif command == "signed":
            answer = keys.signed(args.tag, args.inherit)
        else:
            answer = keys.rotate(args.old, args.new)
    except SigningError as error:
        print(f"signing_key.py: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("signing_key.py: interrupted; run it again.", file=sys.stderr)
        return EXIT_PARTLY
    if answer.get("error"):
        print(f"signing_key.py: {answer['error']}", file=sys.stderr)
    text = json.dumps(answer) if args.json else _text(command, answer)
    if text:
        print(text, file=output)
    return EXIT_PARTLY if answer.get("error") else EXIT_DONE
