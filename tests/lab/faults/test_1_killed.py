"""kill -9 of every service, and of every program that works for a while, at random points."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from estate import (
    AS_MASH,
    LIB,
    SALT,
    SIGN,
    Estate,
    Note,
    another_mash,
    compose_line,
    ended,
    mash_config,
    mash_line,
    start_on,
)
from goose.lab.host import Host
from koji_client import wait_for

# Role -> units that run all the time; every host has the first.
SERVICES = {
    "": ["salt-minion", "goose-exporter"],
    "salt.master": ["salt-master"],
    "koji.db": ["postgresql@15-main"],
    "koji.hub": ["apache2"],
    "koji.kojira": ["kojira"],
    "koji.builder": ["kojid"],
    "lookaside": ["apache2"],
    "scm": ["ssh"],
    "monitoring": ["prometheus"],
    "mash": ["apache2"],
}
KILLS = 3


def units(host: Host) -> list[str]:
    return [unit for role, names in SERVICES.items() if not role or role in host.roles for unit in names]


def main_pid(host: Host, unit: str) -> int:
    said = host.run(
        ["systemctl", "show", "--value", "--property=MainPID,ActiveState", unit], check=False
    ).stdout.split()
    return int(said[0]) if len(said) == 2 and said[1] == "active" else 0


def another(host: Host, unit: str, before: int) -> bool:
    """Whether it runs, and is not what ran before."""
    return main_pid(host, unit) not in (0, before)


def test_services(estate: Estate, note: Note, dice: random.Random) -> None:
    """Each with all its processes, on each host, in random order and while packages are built: each is back by itself."""
    tasks = [estate.scratch(f"lab-fault-kill{number}", "sleep 5") for number in range(8)]
    every = [(host, unit) for host in estate.lab.hosts for unit in units(host)]
    dice.shuffle(every)
    seconds: dict[str, float] = {}
    for host, unit in every:
        before = main_pid(host, unit)
        assert before, f"{unit} does not run on {host.name}"
        time.sleep(dice.random())
        start = time.monotonic()
        host.run(["systemctl", "kill", "--kill-who=all", "--signal=KILL", unit])
        wait_for(partial(another, host, unit, before), f"{unit} on {host.name} to be started again", 90)
        seconds[unit] = max(seconds.get(unit, 0), time.monotonic() - start)
    estate.back()
    # A call that the database did not survive is a fault to Koji's client, and ends its build: it says so.
    failed = [number for number in tasks if estate.hub.wait_for_task(number, 400) != "CLOSED"]
    admin = estate.lab.need_role("koji.content")
    for number in failed:
        said = admin.run(["koji", "-p", "goose", "resubmit", "--nowait", str(number)]).stdout
        assert estate.hub.wait_for_task(int(said.split()[-1]), 400) == "CLOSED"
    builds = (
        f"builds went on, {len(failed)} of {len(tasks)} had to be resubmitted" if failed else "builds went on"
    )
    for unit, most in sorted(seconds.items()):
        hosts = ", ".join(host.name for host, name in every if name == unit)
        note(
            f"kill -9 of {unit}",
            hosts,
            "what it was at stands still",
            f"systemd, after {max(1, round(most))} s; {builds}",
        )


@dataclass(frozen=True)
class Script:
    """A program that works for a while."""

    program: str
    role: str
    line: str
    """Shell, on a host with the role."""
    before: str | Callable[[Estate], object] = "true"
    """What gives it something to do, before each start: shell on its host, or of here."""
    good: str = "true"
    """Shell that finds what it has made whole, once it has ended by itself."""
    again: str = "run again it does what is left"


# A repository of the same tag, with other contents each time.
MASH_BEFORE = f"""
{another_mash("fault")}
cd {mash_config("fault")}
n=$(cat n 2>/dev/null || echo 0); echo $((n+1)) >n
test $((n%2)) = 1 || sed -i 's/^multilib = True/multilib = False/' fault.mash
"""
MASH_GOOD = """
/usr/bin/python3 - /srv/repos/fault/x86_64/os <<'END'
import createrepo_c, os, sys
metadata = createrepo_c.Metadata()
metadata.locate_and_load_xml(sys.argv[1])
names = [metadata.get(key).location_href for key in metadata.keys()]
assert names and all(os.path.isfile(os.path.join(sys.argv[1], name)) for name in names), names
END
"""
OLD_SCRATCH = """
cd /mnt/koji/scratch; mkdir -p fault; cd fault
for n in $(seq 300); do mkdir -p task_9$n/x; touch task_9$n/x/a; done
find . -exec touch -h -d '60 days ago' {} +
"""
# The site's configuration with one thing more, in a file of its own.
WITH = """
/usr/bin/python3 - {source} {copy} <<'END'
import json, sys
with open(sys.argv[1]) as stream:
    about = json.load(stream)
{change}
with open(sys.argv[2], "w") as stream:
    json.dump(about, stream)
END
chmod 0644 {copy}
"""
KEYS = "/var/tmp/fault-signing.json"
KEY_BEFORE = (
    WITH.format(
        source="/etc/goose/signing.json", copy=KEYS,
        change="""about["keys"]["fault"] = {**next(iter(about["keys"].values())), "name": "fault", "type": "ed25519",
                          "uid": "fault <fault@example.org>", "credential": "signing-fault"}""",
    )  # fmt: skip
    + f"""
{LIB}/signing_key.py retire fault --config {KEYS} --delete-secret >/dev/null 2>&1 || true
rm -f /etc/credstore.encrypted/signing-fault /srv/goose-keys/RPM-GPG-KEY-fault
"""
)
COMPOSE = "/etc/goose/compose.json"
TARGETS = "/var/tmp/fault-compose.json"
MIRROR = "/var/tmp/fault-mirror"
MIRROR_BEFORE = (
    WITH.format(
        source=COMPOSE, copy=TARGETS,
        change=f"""about["targets"] = {{"fault": {{"to": "{MIRROR}", "stages": ["testing"]}}}}""",
    )  # fmt: skip
    + f"rm -rf {MIRROR}; install -d -o goose-mash {MIRROR}"
)
SIGNED = "/srv/repos/fault.asc"
BUILDROOT = "/var/tmp/fault-buildroot"
RELEASE = "/var/tmp/fault-release"
SAMPLES = "/var/tmp/fault-samples"
# Without any, rpm says that it was given none.
WHOLE_RPMS = "find {} -name '*.rpm' -print0 | xargs -0 rpm --checksig --nosignature"
REBUILT = "lab-fault-rebuild"
SCRIPTS = [
    Script("mash_repo.py", "mash", shlex.join(mash_line("fault")), MASH_BEFORE, MASH_GOOD),
    Script(
        "compose_iso.py", "pungi", shlex.join(compose_line("fault")), "true",
        "find /srv/compose -path '*fault*' -name '*.iso' | grep -q .",
    ),
    Script(
        "sigulsign_unsigned.py", "sigul.client", SIGN, Estate.forget_signatures,
        f"{SIGN} --just-list --json | tr -d ' ' | grep -q '.unsigned.:\\[\\]'",
    ),
    Script("koji_backup.py run", "koji.db", f"{LIB}/koji_backup.py run", "true", f"{LIB}/koji_backup.py verify"),
    Script("koji_backup.py verify", "koji.db", f"{LIB}/koji_backup.py verify"),
    Script(
        "koji_restore.py", "koji.db", f"{LIB}/koji_restore.py --part volume --over $(cat /etc/hostname)", "true",
        "systemctl is-active apache2 kojira",
    ),
    Script(
        "koji_clean.py volume", "koji.gc", f"{LIB}/koji_clean.py volume --remove", OLD_SCRATCH,
        "! ls /mnt/koji/scratch/fault 2>/dev/null | grep -q task_9",
    ),
    Script(
        "lookaside_fsck.py", "lookaside", f"{LIB}/lookaside_fsck.py --from-start",
    ),
    Script(
        "srpm_import.py", "koji.content", f"{SALT}/srpm_import.py --branch fault$N /var/tmp/lab-srpms/*.src.rpm",
        good="git ls-remote https://$SCM/git/rpms/logrotate refs/heads/fault$N | grep -q .",
    ),
    Script(
        "koji_rebuild.py", "koji.content",
        f"{SALT}/koji_rebuild.py --profile goose goose-1 /var/tmp/lab-tests/{REBUILT}/*.src.rpm",
        lambda estate: estate.source_rpm(REBUILT),
        f"koji -p goose list-builds --package={REBUILT} --quiet | grep -q COMPLETE",
        "run again it waits for the same task",
    ),
    Script(
        "koji_export.py", "koji.content", f"{SALT}/koji_export.py --profile goose --output /var/tmp/fault.yaml",
        "rm -f /var/tmp/fault.yaml", "grep -q goose-1-build /var/tmp/fault.yaml",
    ),
    Script("koji_builder.py canary", "koji.content", f"{SALT}/koji_builder.py canary $BUILDER"),
    Script(
        "koji_builder.py drain", "koji.content", f"{SALT}/koji_builder.py drain $BUILDER",
        f"{SALT}/koji_builder.py enable $BUILDER || true", f"{SALT}/koji_builder.py enable $BUILDER",
    ),
    Script(
        "signing_key.py create", "sigul.client", f"{LIB}/signing_key.py create fault --config {KEYS}", KEY_BEFORE,
        f"{LIB}/signing_key.py list --config {KEYS} --json | tr -d ' ' | grep -q '.key.:.fault.'"
        f"; gpg --show-keys /srv/goose-keys/RPM-GPG-KEY-fault; {KEY_BEFORE}",
        "run again it makes what is missing, and no second key",
    ),
    Script(
        "sign_file.py", "mash",
        f"for n in $(seq 5); do {shlex.join(AS_MASH)} {LIB}/sign_file.py --clear goose-1 /etc/os-release {SIGNED}; done",
        f"rm -f {SIGNED}",
        "gpg --dearmor </srv/goose-keys/RPM-GPG-KEY-goose-1 >/var/tmp/fault.gpg"
        f"; gpgv --keyring /var/tmp/fault.gpg {SIGNED}",
    ),
    Script(
        "publish_compose.py", "pungi",
        f"{shlex.join(AS_MASH)} {LIB}/publish_compose.py --config {TARGETS} latest-goose-1-testing", MIRROR_BEFORE,
        f"iso=$(find {MIRROR} -name '*.iso'); checkisomd5 $(echo $iso | cut -d' ' -f1); rm -rf {MIRROR}",
    ),
    Script(
        "goose_release.py", "koji.content",
        f"{SALT}/goose_release.py --site /var/tmp/lab-site.yaml --out {RELEASE}",
        f"rm -rf {RELEASE}; mkdir {RELEASE}", WHOLE_RPMS.format(RELEASE),
    ),
    Script(
        "goose_samples.py", "koji.content", f"{SALT}/goose_samples.py --out {SAMPLES} --cache {SAMPLES}/cache",
        f"rm -rf {SAMPLES}; mkdir {SAMPLES}", WHOLE_RPMS.format(SAMPLES),
    ),
    Script(
        "koji_buildroot.py make", "koji.bootstrap", f"/usr/bin/python3 {LIB}/koji_buildroot.py --out {BUILDROOT} make",
        f"rm -rf {BUILDROOT}", WHOLE_RPMS.format(BUILDROOT),
    ),
    Script("pki_report.py", "pki.ca", f"{SALT}/pki_report.py"),
    Script(
        "salt-call state.apply", "koji.kojira", "salt-call --retcode-passthrough state.apply",
        "rm -f /etc/kojira/kojira.conf", "grep -q '^server' /etc/kojira/kojira.conf; systemctl is-active kojira",
        "applied again it does what is left",
    ),
]  # fmt: skip


def place(words: str, estate: Estate, turn: int) -> str:
    """A shell line, with what the lab's hosts are called."""
    builder = estate.lab.need_role("koji.builder").fqdn
    return f"export BUILDER={builder} SCM={estate.lab.need_role('scm').fqdn} N={turn}; {words}"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.program)
def test_programs(script: Script, estate: Estate, note: Note, dice: random.Random) -> None:
    """Killed with all that it has started, at three random points of its time; then it is run again, and all is whole."""
    host = estate.lab.need_role(script.role)
    turn = int(time.time())

    def prepare() -> None:
        if callable(script.before):
            script.before(estate)
        else:
            host.run(["bash", "-euo", "pipefail", "-c", place(script.before, estate, turn)])

    def start() -> Any:
        return start_on(host, "bash", "-euo", "pipefail", "-c", place(script.line, estate, turn))

    prepare()
    begun = time.monotonic()
    status, said = ended(start())
    assert status == 0, said
    seconds = time.monotonic() - begun
    published = {name: estate.manifest(name) for name in estate.repositories()}
    killed = []
    for _ in range(KILLS):
        turn += 1
        prepare()
        process = start()
        killed.append(dice.uniform(0.05, 0.95) * seconds)
        time.sleep(killed[-1])
        # Its group, and what it has put into others: all whose ancestor it is.
        for pid in [*descendants(process.pid), process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait(timeout=30)
        # What people see is one repository or the other, and never a part.
        for name in published:
            json.loads(estate.manifest(name))
    status, said = ended(start())
    assert status == 0, f"killed after {killed} of {seconds:.1f} s; then: {said}"
    host.run(["bash", "-euo", "pipefail", "-c", place(script.good, estate, turn)])
    points = ", ".join(f"{point / seconds:.0%}" for point in killed)
    note(f"kill -9 of {script.program}", host.name, f"it ends, at {points} of its time", script.again)


def descendants(pid: int) -> list[int]:
    """The processes below a process, the deepest first."""
    found: list[int] = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", encoding="utf-8") as stream:
                    parent = int(stream.read().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
            if parent == pid:
                found += [*descendants(int(entry)), int(entry)]
    return found
