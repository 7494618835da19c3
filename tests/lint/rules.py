"""The project's own rules. Each takes the tree and gives sentences, one for each place that breaks it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import yaml

import sources

_PATCHES = {".patch", ".diff"}


def service_files(root: Path) -> Iterator[str]:
    """A service directory is complete: a README, one place for its settings, data for each platform."""
    wanted = ["README.rst", "map.jinja", "defaults.yaml"]
    wanted += [f"os/{platform}.yaml" for platform in sources.platforms(root)]
    for service in sources.services(root):
        for name in wanted:
            if not (service / name).is_file():
                yield f"{service.name}/{name} is missing: every service directory has one."
        for path in sorted(service.glob("os/*.yaml")):
            if path.stem not in sources.platforms(root):
                yield f"{service.name}/os/{path.name} is for no platform of common/platforms.yaml."


def roles_have_states(root: Path) -> Iterator[str]:
    """A role of common/roles.yaml is a state."""
    for role in sources.roles(root):
        path = role.replace(".", "/")
        if not ((root / f"{path}.sls").is_file() or (root / path / "init.sls").is_file()):
            yield f"common/roles.yaml names {role}, and there is neither {path}.sls nor {path}/init.sls."


def roles_have_tests(root: Path) -> Iterator[str]:
    """A role of common/roles.yaml has its testinfra file, and each such file a role."""
    directory = root / "tests/testinfra"
    wanted = {f"test_{role.replace('.', '_')}.py": role for role in sources.roles(root)}
    there = {path.name for path in directory.glob("test_*.py")}
    for name in sorted(set(wanted) - there):
        yield f"tests/testinfra/{name} is missing: common/roles.yaml names {wanted[name]}."
    for name in sorted(there - set(wanted)):
        yield f"tests/testinfra/{name} belongs to no role of common/roles.yaml."


def small_executables(root: Path) -> Iterator[str]:
    """Logic is importable: a program is a few lines around a package."""
    for path in sources.files(root):
        if path.parent != root / "scripts" or not (interpreter := sources.shebang(path)):
            continue
        lines = [line for line in (sources.text(path) or "").splitlines() if line.strip()]
        lines = [line for line in lines if not line.lstrip().startswith("#")]
        # scripts/test runs where there is nothing to import yet, and makes it.
        most = 15 if "python" in interpreter else 30
        if len(lines) > most and path.name != "test":
            yield f"scripts/{path.name} has {len(lines)} lines, more than {most}: move its logic to scripts/goose."
        if not os.access(path, os.X_OK):
            yield f"scripts/{path.name} has an interpreter line and cannot be executed: chmod +x."


def system_python(root: Path) -> Iterator[str]:
    """Programs run by the distribution's Python, which alone sees rpm, dnf and createrepo_c."""
    for path in sources.files(root):
        interpreter = sources.shebang(path)
        if (
            "python" in interpreter
            and "{" not in interpreter
            and not interpreter.startswith("/usr/bin/python3")
        ):
            yield f"{sources.relative(root, path)} is run by {interpreter}: use /usr/bin/python3."


def registry_hosts() -> set[str]:
    """Return the hosts of the package registries that this machine's own apt and pip use."""
    found = set()
    apt = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    for path in apt:
        if path.is_file() and path.suffix in (".list", ".sources"):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            found.update(
                re.findall(r"\w+://\S+", "\n".join(line for line in lines if not line.startswith("#")))
            )
    pip = subprocess.run(["pip", "config", "list"], capture_output=True, text=True, check=False)
    found.update(re.findall(r"\w+://[^\s'\"]+", pip.stdout))
    try:
        from pip._internal.models.index import PyPI, TestPyPI

        found.update([PyPI.url, TestPyPI.url, f"https://{PyPI.file_storage_domain}/"])
    except ImportError:
        pass
    # A file:// address and the machine itself are nobody's registry.
    hosts = {urlsplit(address).hostname or "" for address in found}
    return {host for host in hosts if "." in host and not host.startswith("127.")}


def no_registry(root: Path, hosts: set[str] | None = None) -> Iterator[str]:
    """Which registry is used stands in the machine's own configuration, never in the tree."""
    hosts = registry_hosts() if hosts is None else hosts
    if not hosts:
        return
    named = re.compile("|".join(rf"(?<![\w.-]){re.escape(host)}(?![\w-])" for host in sorted(hosts)))
    for path in sources.files(root):
        for number, line in enumerate((sources.text(path) or "").splitlines(), 1):
            if found := named.search(line):
                yield f"{sources.relative(root, path)}:{number} names the package registry {found.group()}."


def plain_text(root: Path) -> Iterator[str]:
    """No tabs and no carriage returns; patches hold what they must."""
    for path in sources.files(root):
        content = sources.text(path)
        if content is None or path.suffix in _PATCHES:
            continue
        for number, line in enumerate(content.split("\n"), 1):
            if "\t" in line:
                yield f"{sources.relative(root, path)}:{number} holds a tab: use spaces."
            if "\r" in line:
                yield f"{sources.relative(root, path)}:{number} holds a carriage return."
        if content and not content.endswith("\n"):
            yield f"{sources.relative(root, path)} does not end with a newline."


def no_order(root: Path) -> Iterator[str]:
    """States are ordered by `require` and `watch`, which say why."""
    for path in sources.files(root):
        if path.suffix != ".sls":
            continue
        for number, line in enumerate((sources.text(path) or "").splitlines(), 1):
            if re.match(r"\s*-?\s*order:", line):
                yield f"{sources.relative(root, path)}:{number} uses `order:`: say what it must follow, with `require`."


def templates_take_context(root: Path) -> Iterator[str]:
    """A template gets its context and never reads pillar: the state shows all that goes into it."""
    reads = re.compile(
        r"\bpillar\s*\[|\bpillar\.(get|items)\b|[\"']pillar\.get[\"']|__pillar__|config\.get\("
    )
    for service in sources.services(root):
        for path in sorted(service.rglob("*")):
            if not path.is_file() or not {"files", "templates"} & set(path.relative_to(service).parts[:-1]):
                continue
            for number, line in enumerate((sources.text(path) or "").splitlines(), 1):
                if reads.search(line) and path.suffix != ".py":
                    yield f"{sources.relative(root, path)}:{number} reads pillar: pass the value in `context`."


_KEY_HEADER = re.compile("-----BEGIN [A-Z ]*PRIVATE" + " KEY-----")
_SECRET_KEY = re.compile(r"(?i)(password|passwd|passphrase|dbpass|secret|token|api_?key)$")
_ASSIGNED = re.compile(
    r"(?i)^\s*-?\s*[\w.:-]*(?:password|passwd|passphrase|dbpass|secret|token|api_?key)\s*[:=]\s*"
    r"(['\"]?)([^\s'\"{}\[\]%<$#]{4,})\1\s*$"
)
# Values in the render suite's pillar: it looks for them where no secret may stand.
_CANARY = "canary-"


def no_secrets(root: Path) -> Iterator[str]:
    """No private key and no password stands in the tree."""
    for path in sources.files(root):
        content = sources.text(path)
        if content is None:
            continue
        name = sources.relative(root, path)
        if _KEY_HEADER.search(content):
            yield f"{name} holds a private key: make it where it is needed."
        if path.suffix in (".yaml", ".yml") and "{%" not in content:
            for key, value in _strings(yaml.safe_load(content)):
                if _SECRET_KEY.search(key) and len(value) > 3 and not value.startswith(_CANARY):
                    yield f"{name} gives {key} a value: secrets come from a second pillar root."
        elif path.suffix in (".sls", ".jinja", ".conf", ".cfg", ".ini", ".json", ".toml", ".rst"):
            for number, line in enumerate(content.splitlines(), 1):
                found = _ASSIGNED.match(line)
                if found and not found.group(2).startswith((_CANARY, "/", "…", "true", "false")):
                    yield f"{name}:{number} gives a secret a value: secrets come from a second pillar root."


def _strings(data: object, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(data, dict):
        for name, value in data.items():
            yield from _strings(value, str(name))
    elif isinstance(data, list):
        for value in data:
            yield from _strings(value, key)
    elif isinstance(data, str):
        yield key, data


ALL = [
    service_files,
    roles_have_states,
    roles_have_tests,
    small_executables,
    system_python,
    no_registry,
    plain_text,
    no_order,
    templates_take_context,
    no_secrets,
]
