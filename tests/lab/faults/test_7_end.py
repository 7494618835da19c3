"""After all of it."""

from __future__ import annotations

from estate import Estate


def test_highstate_is_unchanged(estate: Estate) -> None:
    """One apply may find something to mend that a fault has left; then nothing is left to do on any host."""
    first = estate.command.apply()
    assert not any(outcome["failed"] for outcome in first.values()), first
    again = estate.command.apply()
    assert {(outcome["changed"], outcome["failed"]) for outcome in again.values()} == {(0, 0)}, again


def test_no_unit_has_failed(estate: Estate) -> None:
    status = estate.command.json("status")
    assert all(host["healthy"] for host in status["hosts"].values()), status
