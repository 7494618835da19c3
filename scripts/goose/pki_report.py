"""What certificates there are, on which host, for what, and for how long.

Each host looks at its own files, by the function ``goose_pki.certificates`` of this tree. Where a Salt master
is, all hosts are asked at once by ``salt``; elsewhere this host alone, by ``salt-call``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable

EXIT_DONE, EXIT_PARTLY, EXIT_USAGE, EXIT_TOOL = 0, 1, 2, 5

FUNCTION = "goose_pki.certificates"

# What a program prints, by its command; its exit status tells nothing that this does not.
Run = Callable[[Sequence[str]], str]


class ReportError(Exception):
    """Nobody could be asked, in a sentence."""


@dataclass
class Report:
    """Certificates and revocation lists by host, and what is wrong."""

    hosts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Host -> rows, as ``goose_pki.certificates`` returns them."""
    problems: list[str] = field(default_factory=list)
    """Sentences."""


def run(command: Sequence[str]) -> str:
    """Standard output of a command."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout or done.stderr


def ask_all(hosts: Sequence[str], call: Run = run) -> dict[str, Any]:
    """What each host answers its master; ``hosts`` empty for all that the master knows.

    Without ``--static``, with which Salt leaves out hosts that are down.
    """
    target = ["-L", ",".join(hosts)] if hosts else ["*"]
    said = call(["salt", "--out=json", "--out-indent=-1", *target, FUNCTION])
    answers: dict[str, Any] = {}
    for line in said.splitlines():
        try:
            answers.update(json.loads(line))
        except (ValueError, TypeError):
            # A line for people, as when no host is known.
            continue
    if not answers:
        raise ReportError(f"salt had no answer from any host: {said.strip() or 'it said nothing'}.")
    return answers


def ask_here(call: Run = run) -> dict[str, Any]:
    """What this host says."""
    said = call(["salt-call", "--out=json", "--out-indent=-1", FUNCTION])
    name = call(["hostname", "--fqdn"]).strip() or "localhost"
    try:
        return {name: json.loads(said)["local"]}
    except (ValueError, KeyError, TypeError) as error:
        last = said.strip().splitlines()[-1:] or ["it said nothing"]
        raise ReportError(f"salt-call does not list this host's certificates: {last[0]}") from error


def judge(answers: dict[str, Any], days: float) -> Report:
    """What is wrong: that no host shall have within ``days``, is revoked, or hangs on no CA."""
    report = Report()
    for host, rows in sorted(answers.items()):
        if not isinstance(rows, list):
            report.problems.append(f"{host} did not list its certificates: {rows or 'it does not answer'}.")
            continue
        report.hosts[host] = rows
        report.problems += [f"{host}: {line}" for row in rows for line in _sentences(row, days)]
    return report


def _sentences(row: dict[str, Any], days: float) -> Iterator[str]:
    what = row["path"] + (f" ({row['subject']})" if row["subject"] else "")
    used = f", used by {', '.join(row['used_by'])}" if row["used_by"] else ""
    for problem in row["problems"]:
        yield f"{what}{used}: {problem}."
    if row["days"] is not None and 0 < row["days"] < days:
        yield f"{what}{used}: it ends in {spell(row['days'])}, on {row['not_after']} UTC: run goose_pki.renew there."


def spell(days: float) -> str:
    """A time for people."""
    if abs(days) >= 2:
        return f"{days:.0f} days"
    return f"{days * 24:.1f} hours" if abs(days) >= 0.125 else f"{days * 1440:.0f} minutes"


def table(report: Report) -> Iterator[str]:
    """Lines for people, a host after the other."""
    for host, rows in report.hosts.items():
        yield host
        width = max((len(row["path"]) for row in rows), default=0)
        for row in rows:
            left = spell(row["days"]) if row["days"] is not None else "-"
            who = row["subject"] or "revocation list"
            yield (
                f"  {row['path']:{width}}  {left:>11}  {who}; of {row['issuer'] or 'nobody'}"
                + (f"; {row['serial_number']}" if row["serial_number"] else "")
                + (f"; {', '.join(row['used_by'])}" if row["used_by"] else "")
            )


def main(argv: Sequence[str] | None = None, call: Run = run) -> int:
    """``scripts/pki_report.py``; the exit status."""
    parser = argparse.ArgumentParser(
        prog="pki_report.py",
        description="List every certificate and revocation list of every host: path, days left, subject, issuer, serial"
        " number, who uses it. On the Salt master all hosts are asked, elsewhere this one.",
        epilog="Exit status: 0 all is well, 1 something ends soon, is revoked, hangs on no CA or could not be seen,"
        " 2 usage, 5 Salt does not answer.",
    )
    parser.add_argument("hosts", nargs="*", metavar="HOST", help="only these (default: all that the master knows)")
    parser.add_argument("--days", type=float, default=7, help="what ends sooner is a problem (default: %(default)s)")
    parser.add_argument("--local", action="store_true", help="this host alone, also on a master")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    args = parser.parse_args(argv)
    if args.days < 0:
        parser.error("--days is not negative.")
    master = not args.local and shutil.which("salt") is not None
    if args.hosts and not master:
        parser.error("Hosts can be named on the Salt master alone: here, leave them out.")
    try:
        report = judge(ask_all(args.hosts, call) if master else ask_here(call), args.days)
    except (ReportError, OSError) as error:
        print(f"pki_report.py: {error}", file=sys.stderr)
        return EXIT_TOOL
    for host in args.hosts:
        if not any(host == known for known in (*report.hosts, *(line.split()[0] for line in report.problems))):
            report.problems.append(f"{host} did not list its certificates: the master knows no such host.")
    if args.json:
        print(json.dumps(dataclasses.asdict(report)))
    else:
        print("\n".join(table(report)))
    for line in report.problems:
        print(line, file=sys.stderr)
    return EXIT_PARTLY if report.problems else EXIT_DONE
