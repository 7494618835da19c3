"""A DVD of 1.4 GB against the programs underneath alone, and what an unchanged compose costs. It needs no lab::

scripts/test tests/bench/test_bench_compose.py
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from typing import Any

import pytest

from compose_doubles import Site, Spec, env, make

ROUNDS = 3
PACKAGES, EACH = 56, 25_000_000


def timed(words: list[Any], **kwargs: Any) -> float:
    """Seconds that a command takes, the disk's part included."""
    os.sync()
    start = time.monotonic()
    subprocess.run(words, check=True, capture_output=True, **kwargs)
    os.sync()
    return time.monotonic() - start


def test_dvd(tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]) -> None:
    top = tmp_path_factory.mktemp("bench")
    specs = [Spec(f"big{number:02}", noarch=True, payload=EACH) for number in range(PACKAGES)]
    repository = make(top / "goose-1", specs)
    site = Site(top, repository)
    site.configure(variants={"All": {"everything": True}}, isos=[{"variants": ["All"], "source": False}],
                   repositories=[{"binary": f"{repository}/{{arch}}/os"}])  # fmt: skip
    whole, alone, unchanged = [], [], []
    try:
        for number in range(ROUNDS):
            whole.append(timed(site.words("1", "testing", str(number), "--force"), env=env()))
            unchanged.append(timed(site.words("1", "testing", str(number)), env=env()))
            iso = next((site.output / f"testing/1-{number}").rglob("*.iso"))
            size = iso.stat().st_size
            iso.unlink()
            by_hand = top / "by-hand.iso"
            alone.append(timed(["xorriso", "-as", "mkisofs", "-quiet", "-r", "-J", "-joliet-long", "-V", "X", "-o", by_hand,
                                f"{repository}/x86_64/os"]) + timed(["implantisomd5", by_hand]))  # fmt: skip
            by_hand.unlink()
    finally:
        shutil.rmtree(top, ignore_errors=True)
    ratio = statistics.median(whole) / statistics.median(alone)
    with capsys.disabled():
        print(f"\nDVD of {size / 1e9:.2f} GB: {statistics.median(whole):.2f} s against xorriso, implantisomd5"
              f" {statistics.median(alone):.2f} s: {ratio:.2f} (aim 1.2{', ABOVE' if ratio > 1.2 else ''});"
              f" unchanged: {statistics.median(unchanged):.2f} s")  # fmt: skip
