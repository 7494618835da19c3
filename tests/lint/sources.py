"""What there is in the tree: its files by kind, its services, its roles."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import yaml

_GENERATED = {".git", "__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
# What every host has beside its roles.
EVERY_HOST = ("common", "pki")


def files(root: Path) -> list[Path]:
    """Return the files of the tree, sorted: those that git would keep, or all where git cannot tell."""
    try:
        listed = subprocess.run(
            ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split("\0")
        if (root / ".git").exists():
            return sorted({root / name for name in listed if name and (root / name).is_file()})
    except (OSError, subprocess.CalledProcessError):
        pass
    return sorted(_walk(root))


def _walk(root: Path) -> Iterator[Path]:
    for directory, names, entries in os.walk(root):
        names[:] = [name for name in names if name not in _GENERATED]
        for entry in entries:
            if (path := Path(directory, entry)).is_file():
                yield path


def text(path: Path) -> str | None:
    """Return the text of a file, or None where it holds none (a picture, an archive)."""
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return None


def shebang(path: Path) -> str:
    """Return the interpreter of a script as its first line says it, or an empty string."""
    with path.open("rb") as stream:
        first = stream.readline(200)
    return first[2:].decode("utf-8", "replace").strip() if first.startswith(b"#!") else ""


def shell_scripts(root: Path) -> list[Path]:
    """Return the scripts that a shell runs."""
    return [path for path in files(root) if re.search(r"\b(sh|bash|dash)\b", shebang(path))]


def python_files(root: Path) -> list[Path]:
    """Return Python files, those without the suffix too."""
    return [path for path in files(root) if path.suffix in (".py", ".pyi") or "python" in shebang(path)]


def services(root: Path) -> list[Path]:
    """Return the service directories: those at the top that hold states."""
    others = {"pillar", "scripts", "tests"}
    found = (path for path in sorted(root.iterdir()) if path.is_dir() and path.name not in others)
    return [path for path in found if any(path.rglob("*.sls"))]


def platforms(root: Path) -> list[str]:
    """Return the platforms that the tree serves, as common/platforms.yaml lists them."""
    return yaml.safe_load((root / "common/platforms.yaml").read_text(encoding="utf-8"))


def roles(root: Path) -> list[str]:
    """Return the states of common/roles.yaml, in its order: every role, and what every host has."""
    return yaml.safe_load((root / "common/roles.yaml").read_text(encoding="utf-8"))


def relative(root: Path, path: Path) -> str:
    """Return a path as messages name it."""
    return str(path.relative_to(root))
