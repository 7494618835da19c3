"""Signed packages: what a user checks, what goes wrong while they are signed, and a key that is replaced."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from estate import forget
from goose.lab import lab as labs
from goose.lab.host import Host
from koji_client import Client, Hub, wait_for

if TYPE_CHECKING:
    from conftest import Command

KEY = "goose-1"
PROGRAMS = "/usr/local/lib/goose"
SEALED = f"/etc/credstore.encrypted/signing-{KEY}"

pytestmark = pytest.mark.usefixtures("rebuilt")


@pytest.fixture(scope="module")
def rebuilt(command: Command) -> dict[str, Any]:
    """What `lab rebuild --json` says of the samples, which earlier tests may have built."""
    result: dict[str, Any] = command.json("rebuild")
    return result


@pytest.fixture(scope="module")
def signer(lab: labs.Lab) -> Host:
    return lab.need_role("sigul.client")


@pytest.fixture(scope="module")
def rpms(rebuilt: dict[str, Any], hub: Hub) -> dict[str, dict[str, Any]]:
    """All RPMs of the samples' builds, by name, version, release and architecture."""
    found = [rpm for row in rebuilt["builds"] for rpm in hub("listRPMs", buildID=hub("getBuild", row["nvr"])["id"])]
    return {f"{rpm['nvr']}.{rpm['arch']}": rpm for rpm in found}


@dataclass(frozen=True)
class Run:
    """How a run of sigulsign_unsigned.py ended."""

    status: int
    said: str
    result: dict[str, Any]


@dataclass(frozen=True)
class Signing:
    """sigulsign_unsigned.py on the signing host, by the user that signs."""

    host: Host
    user: str

    @property
    def line(self) -> str:
        """A shell line that gives it the passphrase and its own arguments ("$@")."""
        program = f"runuser -u {self.user} -- {PROGRAMS}/sigulsign_unsigned.py"
        return f'systemd-creds decrypt --name=signing-{KEY} {SEALED} - | {program} --passphrase-fd 0 --json "$@"'

    def start(self, *words: str, line: str = "") -> subprocess.Popen[str]:
        """Start it; with ``line``, in another way."""
        command = ["bash", "-o", "pipefail", "-c", line or self.line, "sign", *words]
        return subprocess.Popen(
            [*self.host.enter(), *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def end(self, process: subprocess.Popen[str]) -> Run:
        """Wait for it."""
        output, said = process.communicate(timeout=300)
        return Run(process.returncode, said, json.loads(output) if output.strip() else {})

    def __call__(self, *words: str, line: str = "") -> Run:
        return self.end(self.start(*words, line=line))


@pytest.fixture(scope="module")
def sign(signer: Host) -> Signing:
    config = json.loads(signer.run(["cat", "/etc/goose/signing.json"]).stdout)
    return Signing(signer, signer.run(["stat", "--format=%U", config["state_dir"]]).stdout.strip())


@pytest.fixture(scope="module")
def key_id(sign: Signing) -> str:
    """What Koji knows the key by."""
    rows = json.loads(sign.host.run([f"{PROGRAMS}/signing_key.py", "list", "--json"]).stdout)["keys"]
    return next(str(row["key_id"]) for row in rows if row["key"] == KEY)


def unsigned(sign: Signing) -> list[str]:
    """What Koji says is unsigned now."""
    return list(sign(KEY, "--just-list").result["unsigned"])


@pytest.fixture
def forgotten(
    rpms: dict[str, dict[str, Any]], lab: labs.Lab, key_id: str, sign: Signing, hub: Hub
) -> Iterator[list[str]]:
    """The samples' signatures and signed copies are away, as of builds that are new; in the end all is signed again."""
    signed = [rpm["id"] for rpm in rpms.values() if hub("queryRPMSigs", rpm_id=rpm["id"], sigkey=key_id)]
    forget(lab.need_role("koji.content"), [(rpm, key_id) for rpm in signed])
    yield sorted(rpms)
    assert sign(KEY).status == 0
    assert unsigned(sign) == []


def some_signed(rpms: dict[str, dict[str, Any]], hub: Hub, key_id: str, least: int = 1) -> None:
    """Wait until Koji has ``least`` of the signatures."""

    def some() -> bool:
        signed = (rpm for rpm in rpms.values() if hub("queryRPMSigs", rpm_id=rpm["id"], sigkey=key_id))
        return len(list(islice(signed, least))) == least

    wait_for(some, "some RPMs to be signed", 60)


def names(nevras: list[str]) -> set[str]:
    """Without epochs, which file names have not got either."""
    return {re.sub(r"-\d+:", "-", nevra) for nevra in nevras}


def checked(directory: Path, key: str) -> dict[str, str]:
    """What `rpm -K` says of each RPM in ``directory`` with this one key imported, and nothing else."""
    public = directory / "key.asc"
    public.write_text(key)
    database = ["--dbpath", str(directory / "db")]
    subprocess.run(["rpm", *database, "--import", str(public)], check=True)
    files = sorted(map(str, directory.glob("*.rpm")))
    done = subprocess.run(["rpmkeys", *database, "-Kv", *files], capture_output=True, text=True, check=False)
    found: dict[str, str] = {}
    for line in done.stdout.splitlines():
        if line.endswith(".rpm:"):
            found[current := Path(line[:-1]).name] = ""
        else:
            found[current] += f"{line.strip()}\n"
    return found


def test_rebuild_ends_with_signed_packages(
    rebuilt: dict[str, Any], rpms: dict[str, dict[str, Any]], koji: Client, key_id: str, lab: labs.Lab, tmp_path: Path
) -> None:
    """As a user sees it: binary and source RPMs, from the hub, checked with nothing but the published key."""
    assert rebuilt["signed"] == {"key": KEY, "rpms": len(rpms)}
    for row in rebuilt["builds"]:
        koji("download-build", "--noprogress", "--debuginfo", f"--key={key_id}", row["nvr"], cwd=tmp_path)
    found = checked(tmp_path, lab.public_key())
    assert set(found) == {f"{name}.rpm" for name in rpms}
    for name, said in found.items():
        assert re.search(rf"Signature, key ID {key_id}: OK|key ID \w*{key_id}: OK", said), f"{name}: {said}"
        assert "NOKEY" not in said and "BAD" not in said, f"{name}: {said}"


def test_release_package_brings_the_key(koji: Client, lab: labs.Lab, tmp_path: Path) -> None:
    """Systems have the key before the first package that is checked by it."""
    koji("download-build", "--noprogress", "--arch=noarch", "--latestfrom=goose-1", "goose-release", cwd=tmp_path)
    (package,) = tmp_path.glob("goose-gpg-keys-*.noarch.rpm")
    script = f"rpm2cpio {package} | cpio --quiet --to-stdout -i './etc/pki/rpm-gpg/RPM-GPG-KEY-{KEY}'"
    inside = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert inside.split() == lab.public_key().split()


def test_again_signs_nothing(sign: Signing) -> None:
    run = sign(KEY)
    assert run.status == 0, run.said
    assert (run.result["signed"], run.result["written"], run.result["unsigned"]) == ([], [], [])
    assert run.result["hub_calls"]["all"] <= 10


def test_published_key(lab: labs.Lab, signer: Host) -> None:
    assert lab.public_key().startswith("-----BEGIN PGP PUBLIC KEY BLOCK-----")


def test_passphrase_is_nowhere(forgotten: list[str], sign: Signing) -> None:
    """Looked for in every process's arguments and environment while it signs, and afterwards in all that it wrote."""
    words = ["systemd-creds", "decrypt", f"--name=signing-{KEY}", SEALED, "-"]
    secret = sign.host.run(words).stdout.strip()
    assert len(secret) > 20
    process = sign.start(KEY, "-v")
    seen: list[str] = []
    looked = 0

    def look() -> None:
        nonlocal looked
        while process.poll() is None:
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit():
                    for kind in ("cmdline", "environ"):
                        try:
                            content = (entry / kind).read_bytes()
                        except OSError:
                            continue
                        looked += 1
                        if secret.encode() in content:
                            seen.append(f"{entry.name} {kind}")

    watcher = threading.Thread(target=look)
    watcher.start()
    run = sign.end(process)
    watcher.join()
    assert run.status == 0, run.said
    assert names(run.result["signed"]) == set(forgotten)
    assert looked > 1000 and not seen
    assert secret not in run.said and secret not in json.dumps(run.result)
    # The pattern comes by a descriptor: in the arguments of grep it would find itself.
    search = "grep -rlFf /dev/stdin /var/log /etc/goose /srv /var/lib/goose-sign /run/systemd/system; true"
    assert sign.host.run(["sh", "-c", search], stdin=secret).stdout == ""
    journal = sign.host.run(["journalctl", "--quiet", "--output=json", "--since=-1h"]).stdout
    assert secret not in journal


def test_wrong_passphrase(forgotten: list[str], sign: Signing) -> None:
    program = f"runuser -u {sign.user} -- {PROGRAMS}/sigulsign_unsigned.py"
    run = sign(KEY, line=f'echo wrong | {program} --passphrase-fd 0 --json "$@"')
    assert run.status == 3
    assert "is not the passphrase" in run.said
    assert run.result["signed"] == []


def test_unknown_key_and_build(sign: Signing) -> None:
    run = sign("nobody")
    assert run.status == 2 and "nobody" in run.said
    run = sign(KEY, "no-such-build-1-1")
    assert run.status in (1, 2) and "no-such-build-1-1" in run.said + json.dumps(run.result)


def test_two_at_once(forgotten: list[str], sign: Signing) -> None:
    """The second says so and goes; nothing is signed twice."""
    first = sign.start(KEY, "--sigul-batch-size", "3")
    lock = f"/var/lib/goose-sign/goose-{KEY}.lock"
    held = ["flock", "--nonblock", lock, "true"]
    wait_for(lambda: sign.host.run(held, check=False).returncode or None, "the first to have the lock", 30)
    second = sign(KEY)
    assert second.status == 75
    assert "Another run signs" in second.said
    assert sign.end(first).status == 0


def test_killed(forgotten: list[str], sign: Signing, rpms: dict[str, dict[str, Any]], hub: Hub, key_id: str) -> None:
    """With -9, while the first batches are signed and written; the next run does what is left, and that alone."""
    process = sign.start(KEY, "--sigul-batch-size", "4")
    some_signed(rpms, hub, key_id, 3)
    sign.host.run(["pkill", "-9", "-f", f"{PROGRAMS}/sigulsign_unsigned.py"], check=False)
    sign.end(process)
    left = unsigned(sign)
    assert 0 < len(left) < len(forgotten)
    run = sign(KEY)
    assert run.status == 0, run.said
    assert names(run.result["signed"]) == names(left)


def test_hub_goes_away(
    forgotten: list[str], sign: Signing, rpms: dict[str, dict[str, Any]], hub: Hub, key_id: str, lab: labs.Lab
) -> None:
    """Half-way through: the status says Koji, and the next run completes."""
    hub_host = lab.need_role("koji.hub")
    process = sign.start(KEY, "--sigul-batch-size", "2")
    some_signed(rpms, hub, key_id)
    # At once: by a stop alone Apache takes its time, and the signer could be at its end before.
    gone = "systemctl kill --signal=KILL apache2; systemctl stop apache2"
    try:
        hub_host.run(["sh", "-c", gone])
        run = sign.end(process)
    finally:
        hub_host.run(["systemctl", "start", "apache2"])
    assert run.status == 4, run.said
    left = unsigned(sign)
    again = sign(KEY)
    assert again.status == 0, again.said
    assert names(again.result["signed"]) == names(left)


def test_the_timers_unit_signs(forgotten: list[str], sign: Signing) -> None:
    """Without a person: the passphrase is a credential of the unit's."""
    start = time.time()
    sign.host.run(["systemctl", "start", f"signing-{KEY}.service"])
    assert unsigned(sign) == []
    journal = ["journalctl", "--quiet", "--output=cat", f"--since=@{int(start)}", f"--unit=signing-{KEY}.service"]
    assert f"{len(forgotten)} RPMs signed" in sign.host.run(journal).stdout


def test_rotation(sign: Signing, rpms: dict[str, dict[str, Any]], lab: labs.Lab, hub: Hub, key_id: str) -> None:
    """For a time packages carry both keys' copies; then the old key goes, and its copies where that is asked for."""
    config = json.loads(sign.host.run(["cat", "/etc/goose/signing.json"]).stdout)
    new = f"{KEY}-next{int(time.time())}"
    old = config["keys"][KEY]
    about = {"name": new, "uid": f"{new} <security@{lab.record.domain}>", "credential": f"signing-{new}"}
    config["keys"][new] = {**old, **about, "type": "ed25519"}
    path = "/etc/goose/signing-rotation.json"
    sign.host.run(["tee", path], stdin=json.dumps(config))
    program = [f"{PROGRAMS}/signing_key.py"]
    sealed = f"/etc/credstore.encrypted/signing-{new}"
    line = (
        f"systemd-creds decrypt --name=signing-{new} {sealed} - | runuser -u {sign.user} --"
        f' {PROGRAMS}/sigulsign_unsigned.py --config {path} --passphrase-fd 0 --json "$@"'
    )
    try:
        refused = sign.host.run([*program, "retire", KEY, "--config", path, "--json"], check=False)
        assert refused.returncode == 1, refused.stderr
        assert "cannot be retired" in refused.stdout
        rotated = json.loads(sign.host.run([*program, "rotate", KEY, new, "--config", path, "--json"]).stdout)
        assert rotated["created"] and rotated["steps"]
        run = sign(new, line=line)
        assert run.status == 0, run.said
        new_id = run.result["key_id"]
        listing = sign.host.run([*program, "signed", "--config", path, "--tag", "goose-1", "--json"]).stdout
        for row in json.loads(listing)["builds"].values():
            # Earlier runs of these tests may have signed them with keys of theirs.
            assert row["keys"].items() >= {KEY: row["rpms"], new: row["rpms"]}.items()
        volume = lab.record.root / "volumes/koji"
        nvr = next(iter(rpms.values()))["nvr"]
        both = {path.relative_to(volume).parts for path in volume.glob(f"packages/*/*/*/data/signed/*/*/{nvr}*.rpm")}
        assert {key_id, new_id} <= {part for parts in both for part in parts}
        words = ["retire", KEY, "--config", path, "--delete-copies", "--json"]
        retired = json.loads(sign.host.run([*program, *words]).stdout)
        assert retired["deleted_copies"]
        assert not list(volume.glob(f"packages/*/*/*/data/signed/{key_id}/*/{nvr}*.rpm"))
        assert list(volume.glob(f"packages/*/*/*/data/signed/{new_id}/*/{nvr}*.rpm"))
    finally:
        sign.host.run([*program, "retire", new, "--config", path, "--delete-secret"], check=False)
        sign.host.run(["sh", "-c", f"rm -f {path} {sealed} {config['keys_dir']}/RPM-GPG-KEY-{shlex.quote(new)}"])
        assert sign(KEY, "--just-write").status == 0
