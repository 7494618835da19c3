"""Running programs, waiting for conditions, and telling how it goes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path


class LabError(Exception):
    """What is wrong, where, and what to do, as a sentence. ``status`` is the exit status."""

    def __init__(self, message: str, status: int = 5) -> None:
        super().__init__(message)
        self.status = status


class Progress:
    """Lines on standard error, each with the seconds since the start."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start = clock()

    def __call__(self, message: str) -> None:
        """Print ``message``."""
        print(f"[{self._clock() - self._start:6.1f}s] {message}", file=sys.stderr, flush=True)


def run(
    command: Sequence[str],
    *,
    what: str,
    stdin: str | None = None,
    log: Path | None = None,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run ``command`` and return what it printed.

    ``what`` completes the sentence "… failed" of the error; with ``log`` the output goes to that
    file and the error names it. Raises `LabError` where the program is missing or, with
    ``check``, where its exit status is not 0.
    """
    try:
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("a") as stream:
                done = subprocess.run(
                    command, input=stdin, stdout=stream, stderr=subprocess.STDOUT, text=True, check=False
                )
        else:
            done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise LabError(f"{what} failed: the program {error.filename} is not installed.") from error
    if check and done.returncode != 0:
        if log is not None:
            detail = f"{_tail(log.read_text(errors='replace'))}\n(all of it: {log})"
        else:
            detail = _tail(f"{done.stdout}\n{done.stderr}")
        raise LabError(f"{what} failed (exit status {done.returncode}):\n{detail}")
    return done


def _tail(text: str, lines: int = 25) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])


def wait_for(condition: Callable[[], bool], *, what: str, seconds: float, pause: float = 0.1) -> None:
    """Return once ``condition()`` is true; raise `LabError` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"Waited {seconds:.0f} s in vain for {what}.")
        time.sleep(pause)
