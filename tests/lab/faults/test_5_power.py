"""The plug of each host is pulled, one after the other, while something is built."""

from __future__ import annotations

from estate import Estate, Note


def test_each_in_turn(estate: Estate, note: Note) -> None:
    for host in estate.lab.hosts:
        number = estate.scratch(f"lab-fault-plug-{host.name}", "sleep 8")
        host.kill()
        assert estate.command("status", "--json", check=False).returncode == 1
        estate.back(up=True)
        assert estate.hub.wait_for_task(number, 400) == "CLOSED", host.name
        what = ", ".join(
            role for role in host.roles if role not in ("koji.backup", "koji.client", "scm.client")
        )
        note(
            "power off",
            f"{host.name}: {what}",
            "what it was at stands still",
            "power: all services are back, and builds go on",
        )
