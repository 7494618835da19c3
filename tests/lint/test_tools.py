"""The linters of others, over all that they understand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import sources

ROOT = Path(__file__).resolve().parents[2]


def run(root: Path, *command: str, **environment: str) -> None:
    """Run a linter in the tree; fail with what it says."""
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1", **environment}
    )
    if done.returncode:
        pytest.fail(f"{' '.join(command[:4])} …\n{done.stdout}{done.stderr}", pytrace=False)


def names(root: Path, paths: list[Path]) -> list[str]:
    if not paths:
        pytest.skip("nothing of this kind yet")
    return [sources.relative(root, path) for path in paths]


def test_ruff(root: Path) -> None:
    run(root, "ruff", "check", "--quiet", "--output-format=concise", *names(root, sources.python_files(root)))


def test_mypy_scripts_and_tests(root: Path) -> None:
    """What people run, and the tests of it."""
    paths = [path for path in sources.python_files(root) if path.is_relative_to(root / "scripts")]
    paths += [path for path in sources.python_files(root) if path.is_relative_to(root / "tests")]
    run(root, sys.executable, "-m", "mypy", "--scripts-are-modules", *names(root, paths))


@pytest.mark.parametrize("directory", sorted(path.name for path in ROOT.glob("_*") if any(path.glob("*.py"))))
def test_mypy_salt(root: Path, directory: str) -> None:
    """What Salt loads: one directory at a time, because a module and its state share a name."""
    paths = [path for path in sources.python_files(root) if path.is_relative_to(root / directory)]
    # The loader puts __salt__ and its like there; ruff still reports names that are really missing.
    # Code of the tree that such a module imports is checked above.
    run(
        root,
        sys.executable,
        "-m",
        "mypy",
        "--disable-error-code=name-defined",
        *names(root, paths),
        MYPYPATH=str(root / directory),
    )


def test_mypy_programs(root: Path) -> None:
    """Programs that states put on hosts as they are."""
    paths = [
        path
        for service in sources.services(root)
        for path in sources.python_files(root)
        if service in path.parents
    ]
    plain = [path for path in paths if "{{" not in (sources.text(path) or "")]
    run(root, sys.executable, "-m", "mypy", "--scripts-are-modules", *names(root, plain))


def plain_yaml(root: Path) -> list[Path]:
    """YAML that is no template."""
    found = [path for path in sources.files(root) if path.suffix in (".yaml", ".yml")]
    found += [root / ".yamllint", root / ".salt-lint"]
    return [path for path in found if "{%" not in (text := sources.text(path) or "") and "{{" not in text]


def test_yamllint(root: Path) -> None:
    run(root, "yamllint", "--strict", "--format=parsable", *names(root, plain_yaml(root)))


def test_salt_lint(root: Path) -> None:
    paths = [path for path in sources.files(root) if path.suffix == ".sls"]
    run(root, "salt-lint", "--nocolor", *names(root, paths))


def test_salt_lint_keeps_file_modes(root: Path) -> None:
    """A mode without quotes is a number, and one without a zero reads as another."""
    skipped = yaml.safe_load((root / ".salt-lint").read_text(encoding="utf-8"))["skip_list"]
    assert not {"207", "208"} & set(skipped)


def test_shellcheck(root: Path) -> None:
    run(root, "shellcheck", *names(root, sources.shell_scripts(root)))


def test_doc8(root: Path) -> None:
    run(
        root, "doc8", "--quiet", *names(root, [path for path in sources.files(root) if path.suffix == ".rst"])
    )
