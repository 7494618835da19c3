"""The project's own rules, each a function of rules.py."""

from __future__ import annotations

from pathlib import Path

import pytest

import rules


@pytest.mark.parametrize("rule", rules.ALL, ids=lambda rule: rule.__name__)
def test_rule(rule, root: Path) -> None:
    problems = list(rule(root))
    if problems:
        pytest.fail(f"{rule.__doc__}\n" + "\n".join(problems), pytrace=False)
