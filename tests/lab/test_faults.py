"""Killed programs and pulled plugs in the middle of a build: it ends complete, and every service is back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from goose.lab import lab as labs
from koji_client import Hub, make_srpm, wait_for

if TYPE_CHECKING:
    from conftest import Command


def start_build(command: Command, lab: labs.Lab, hub: Hub, name: str) -> tuple[int, str]:
    """A scratch build that takes some seconds: its task, and the builder that builds it by now."""
    admin = lab.need_role("koji.content")
    path = make_srpm(
        lambda *words, stdin=None: command.on(admin.name, *words, stdin=stdin), admin.root, name, ["sleep 10"]
    )
    inside = f"/{path.relative_to(admin.root)}"
    said = command.on(admin.name, "koji", "build", "--scratch", "--nowait", "--noprogress", "goose-1", inside)
    task = int(next(line for line in said.splitlines() if line.startswith("Created task:")).split()[-1])

    def builder() -> str | None:
        return next((each["host"] for each in hub.children(task, "buildArch") if each["state"] == "OPEN"), None)

    return task, wait_for(builder, "a builder to take the task", 180)


def healthy(command: Command) -> bool:
    return all(host["healthy"] for host in command.json("status", check=False)["hosts"].values())


def test_kojid_killed_in_a_build(command: Command, lab: labs.Lab, hub: Hub) -> None:
    """systemd brings kojid back, and kojid begins again what it was at."""
    task, builder = start_build(command, lab, hub, "lab-fault-kojid")
    before = command.on(builder, "systemctl", "show", "--value", "--property=MainPID", "kojid").strip()
    command.on(builder, "kill", "-9", before)
    assert hub.wait_for_task(task) == "CLOSED"
    after = command.on(builder, "systemctl", "show", "--value", "--property=MainPID", "kojid").strip()
    assert after not in ("0", before)


def test_builder_switched_off_in_a_build(command: Command, lab: labs.Lab, hub: Hub) -> None:
    """The plug is pulled; `up` boots the host again, and its build ends complete."""
    task, builder = start_build(command, lab, hub, "lab-fault-plug")
    lab.host(builder).kill()
    status = command.json("status", check=False)["hosts"]
    assert [name for name, host in status.items() if not host["healthy"]] == [lab.host(builder).name]
    lab.boot()
    assert hub.wait_for_task(task) == "CLOSED"
    wait_for(lambda: healthy(command), "every host to be healthy", 60)


def test_hub_rebooted_in_a_build(command: Command, lab: labs.Lab, hub: Hub) -> None:
    """Database, hub, pages and kojira come back by themselves, and the builders wait for them."""
    task, _ = start_build(command, lab, hub, "lab-fault-hub")
    host = lab.need_role("koji.hub")
    host.stop()
    assert not lab.answers(lab.services()["koji-web"])
    lab.boot()
    wait_for(lambda: lab.answers(lab.services()["koji-web"]), "kojiweb to answer", 60)
    assert hub.wait_for_task(task) == "CLOSED"
    for unit in ("kojira", "postgresql", "apache2"):
        assert command.on(host.name, "systemctl", "is-active", unit).strip() == "active"
    wait_for(lambda: healthy(command), "every host to be healthy", 60)


def test_nothing_has_changed(command: Command) -> None:
    """What the faults left is what the states want: an apply finds nothing to repair."""
    for name, outcome in command.apply().items():
        assert (outcome["changed"], outcome["failed"]) == (0, 0), (name, outcome)
