"""Backups that were made and read, and the loss of the hub that they are for."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from estate import backup_key, flip
from goose.lab import lab as labs
from koji_client import Hub, wait_for

if TYPE_CHECKING:
    from conftest import Command

BACKUP = "/usr/local/lib/goose/koji_backup.py"
RESTORE = "/usr/local/lib/goose/koji_restore.py"


def told(command: Command, host: str, *words: str, check: bool = True) -> Any:
    return json.loads(command.on(host, *words, "--json", check=check))


def test_damage_is_found_and_healed(command: Command, lab: labs.Lab) -> None:
    """One bit of one RPM in the backup, its size and times as they were."""
    made = told(command, "hub", BACKUP, "run")
    assert (made["missing"], set(made["parts"])) == ([], {"database", "volume"})
    assert told(command, "hub", BACKUP, "verify")["good"]
    top = f"/srv/backup/{command.on('hub', 'hostname').strip()}/{made['generation']}"
    rpm = command.on("hub", "sh", "-c", f"cd {top} && find volume -name 'goose-release*.noarch.rpm' | head -n 1").strip()
    flip(lab.host("hub"), f"{top}/{rpm}")
    verdict = told(command, "hub", BACKUP, "verify", check=False)
    assert (verdict["good"], verdict["damaged"]) == (False, [rpm])
    told(command, "hub", BACKUP, "run", "--checksum")
    assert told(command, "hub", BACKUP, "verify")["good"]


def test_secrets_come_back_with_the_key_alone(command: Command, lab: labs.Lab) -> None:
    """The CA and the signing key, opened by the key that is on no host of the lab."""
    for name, part, path in (("salt", "ca", "/etc/pki/goose-ca"), ("compose", "signing", "/var/lib/goose-sign/gnupg")):
        told(command, name, BACKUP, "run")
        into, host = "/run/lab-restore", lab.host(name)
        words = [RESTORE, "--part", part, "--into", into]
        assert host.run([*words, "--json"], check=False).returncode == 3
        host.run(["rm", "-rf", into])
        try:
            with backup_key(lab, host) as home:
                assert told(command, name, *words, "--gnupg-home", home)["files"] > 0
            passing = [word for name in ("*.lock", "S.*", "random_seed", ".#*") for word in ("-x", name)]
            host.run(["diff", "-r", *passing, path, f"{into}/{part}{path}"])
            if part == "signing":
                assert host.run(["ls", f"{into}/{part}/credentials"]).stdout.split() == ["signing-goose-1"]
        finally:
            host.run(["rm", "-rf", into])


def test_drill(command: Command, lab: labs.Lab, hub: Hub) -> None:
    """The hub's host and the volume are lost: all is there again, in minutes, and Koji goes on working."""
    result = command.json("drill")
    assert result["after"] == result["before"] and result["before"]["builds"] > 0
    assert result["downloads"] > 0 and result["user"] == "kojiadmin"
    assert result["seconds"] < float(os.environ.get("GOOSE_DRILL_SECONDS", "300")), result["steps"]
    again = command.apply()
    assert {outcome["failed"] + outcome["changed"] for outcome in again.values()} == {0}, again
    # Repos are no part of a backup: they are made again by themselves.
    wait_for(lambda: hub("getRepo", "goose-1-build"), "a repo of the build tag", 300)
