#!/usr/bin/python3
"""A cold `scripts/lab up --profile single` against the same outcome by hand (hand_run.sh).

    /usr/bin/python3 tests/bench/cold.py [--first lab|hand] [--rounds N] [--only lab|hand]

As root, on a machine with nothing else to do: a round takes ten minutes and more. Both start from
nothing: the lab in a GOOSE_LAB_DIR of its own, so that its base is made too, and by hand in an
empty directory. With more than one round they take turns in going first, because the registries'
own caches favour the second. All that was made is taken away again; the table comes last.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TREE = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TREE / "scripts"))

from goose.lab import lab as labs  # noqa: E402
from goose.lab import machine  # noqa: E402
from goose.lab.run import LabError, Progress  # noqa: E402

NAME = "bench"


class Failed(Exception):
    """One of the two did not get to its end, in a sentence."""


def call(command: Sequence[str], **options: Any) -> int:
    """Run a command that cleans up after itself: an interrupt reaches it too, and is heeded once it has ended."""
    with subprocess.Popen(command, **options) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise Failed(f"interrupted in {command[0]}") from None


def run_lab(directory: Path, first: Path) -> float:
    """Seconds of a cold `lab up`; the lab is destroyed afterwards, whatever became of it."""
    environment = {**os.environ, "GOOSE_LAB_DIR": str(directory)}
    lab = [str(TREE / "scripts/lab"), "--name", NAME]
    try:
        start = time.monotonic()
        with first.open("w") as output:
            status = call([*lab, "up", "--profile", "single"], env=environment, stdout=output)
        seconds = time.monotonic() - start
    finally:
        call([*lab, "destroy"], env=environment)
    if status != 0:
        raise Failed(f"scripts/lab up ended with {status}: see above.")
    return seconds


def run_hand(directory: Path, registry: Path) -> tuple[float, list[tuple[str, float]]]:
    """Seconds by hand, from the script's own clock without its cleaning up; and those of each step."""
    directory.mkdir(parents=True)
    status = call([str(TREE / "tests/bench/hand_run.sh"), str(directory), str(registry)])
    if status != 0:
        raise Failed(f"hand_run.sh ended with {status}: see above.")
    rows = [line.split(" ", 1) for line in (directory / "times").read_text().splitlines()]
    steps = [(name, float(seconds)) for seconds, name in rows]
    return sum(seconds for _, seconds in steps), steps


def write_registry(directory: Path) -> None:
    """What a host needs of this machine's registry settings: the lab takes over the same."""
    (directory / "ca").mkdir(parents=True)
    suite = labs.settings()["base"]["suite"]
    (directory / "debian.sources").write_text(machine.apt_sources(suite))
    (directory / "apt.conf").write_text('Acquire::Retries "3";\n' + machine.apt_settings())
    (directory / "pip.conf").write_text(machine.pip_settings())
    (directory / "resolv.conf").write_text(machine.resolvers())
    shipped = Path("/usr/share/ca-certificates/mozilla")
    known = {path.read_text().strip() for path in shipped.glob("*.crt")}
    for number, text in enumerate(text for text in machine.certificates() if text.strip() not in known):
        (directory / f"ca/machine-{number}.crt").write_text(text)


def table(taken: dict[str, list[float]], steps: Sequence[tuple[str, float]]) -> str:
    """The result for people."""
    lines = [f"  {seconds:7.1f} s  by hand: {name}" for name, seconds in steps]
    names = {"lab": "scripts/lab up --profile single, cold", "hand": "by hand"}
    for key, seconds in taken.items():
        runs = f"  (median of {', '.join(f'{each:.0f}' for each in seconds)})" if len(seconds) > 1 else ""
        lines.append(f"{statistics.median(seconds):9.1f} s  {names[key]}{runs}")
    if len(taken) == 2:
        ratio = statistics.median(taken["lab"]) / statistics.median(taken["hand"])
        lines.append(f"{ratio:9.2f}    lab / by hand")
    return "\n".join(lines)


def main() -> int:
    """Run the command line; 0 where all was measured, 5 where a tool failed, 2 for wrong usage."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--first", choices=("lab", "hand"), default="hand", help="which begins (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="how often (default: %(default)s)")
    parser.add_argument("--only", choices=("lab", "hand"), help="measure one of them alone")
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), metavar="DIR",
                        help="on a disk with 12 GiB free, not in memory (default: %(default)s)")  # fmt: skip
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be 1 or more.")
    order = [arguments.only] if arguments.only else ["lab", "hand"] if arguments.first == "lab" else ["hand", "lab"]
    if f"# lab {NAME}: begin" in Path("/etc/hosts").read_text():
        print(f"cold.py: a lab called {NAME} is up: scripts/lab --name {NAME} destroy", file=sys.stderr)
        return 2
    load = os.getloadavg()[0]
    if load > 1:
        print(f"cold.py: this machine is busy (load {load:.1f}): the figures will be too high.", file=sys.stderr)
    work = Path(tempfile.mkdtemp(prefix="goose-cold-", dir=arguments.directory))
    work.chmod(0o755)
    taken: dict[str, list[float]] = {key: [] for key in sorted(order, reverse=True)}
    steps: list[tuple[str, float]] = []
    status = 0
    try:
        # Programs of this machine are nobody's time.
        labs.prepare(Progress())
        write_registry(work / "registry")
        for number in range(arguments.rounds):
            for key in order if number % 2 == 0 else reversed(order):
                print(f"cold.py: round {number + 1}: {key}", file=sys.stderr)
                if key == "lab":
                    taken[key].append(run_lab(work / "lab", work / f"up-{number}"))
                else:
                    seconds, steps = run_hand(work / f"hand-{number}", work / "registry")
                    taken[key].append(seconds)
    except (Failed, LabError) as error:
        print(f"cold.py: {error}", file=sys.stderr)
        status = 5
    finally:
        # What is still mounted belongs to a host that still runs: it is not deleted under it.
        if any(line.split()[1].startswith(f"{work}/") for line in Path("/proc/mounts").read_text().splitlines()):
            print(f"cold.py: not everything was taken away: see {work} and /proc/mounts.", file=sys.stderr)
        else:
            shutil.rmtree(work)
    print(table({key: seconds for key, seconds in taken.items() if seconds}, steps))
    return status


if __name__ == "__main__":
    sys.exit(main())
