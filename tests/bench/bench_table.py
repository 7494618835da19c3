"""The table that benchmarks fill and pytest prints."""

from __future__ import annotations

import os
import statistics
from dataclasses import dataclass, field
from typing import Any

Times = list[float]


@dataclass
class Table:
    """Collects the ratios; registered as a plugin, it prints them after the tests and before pytest's own summary."""

    rows: list[tuple[str, ...]] = field(default_factory=list)

    def add(self, what: str, times: Times, base: str, base_times: Times, aim: float | None = None) -> None:
        """Note one ratio of medians, and mark it where it is above its ``aim``."""
        assert times and base_times, f"nothing was measured: {what}"
        seconds, base_seconds = statistics.median(times), statistics.median(base_times)
        ratio = seconds / base_seconds
        mark = "" if aim is None else f"aim {aim:g}" + ("  ABOVE" if ratio > aim else "")
        self.rows.append((what, f"{seconds:.2f} s", base, f"{base_seconds:.2f} s", f"{ratio:.2f}",
                          str(len(times)), mark))  # fmt: skip

    def note(self, what: str, times: Times, aim: float) -> None:
        """Note a median that is against nothing but its ``aim``, both in seconds."""
        seconds = statistics.median(times)
        mark = f"aim {aim:g} s" + ("  ABOVE" if seconds > aim else "")
        self.rows.append((what, f"{seconds:.2f} s", "", "", "", str(len(times)), mark))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if not self.rows:
            return
        terminalreporter.section(f"bench (load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)")
        rows = [("measured", "", "against", "", "ratio", "runs", ""), *self.rows]
        widths = [max(len(row[column]) for row in rows) for column in range(7)]
        for row in rows:
            cells = [
                cell.rjust(width) if column in (1, 3, 4, 5) else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths))
            ]
            terminalreporter.write_line("  ".join(cells).rstrip())


def table_of(config: Any) -> Table:
    """The one table of a run of pytest."""
    found = config.pluginmanager.getplugin("goose-bench")
    if found is None:
        found = Table()
        config.pluginmanager.register(found, "goose-bench")
    assert isinstance(found, Table)
    return found
