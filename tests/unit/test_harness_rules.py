"""Each rule of tests/lint passes a sound tree, and finds the fault that it is for."""

from __future__ import annotations

from pathlib import Path

import pytest

import rules
import sources

SOUND = {
    "common/roles.yaml": "- common\n- web.server\n",
    "common/platforms.yaml": "- Debian-12\n",
    "common/init.sls": "a:\n  file.managed:\n    - mode: '0644'\n",
    "common/files/a.conf": "# as pillar package_repos has it\nname = {{ name }}\n",
    "common/README.rst": "Common\n",
    "common/map.jinja": "{%- set a = pillar.get('a') %}\n",
    "common/defaults.yaml": "a: 1\n",
    "common/os/Debian-12.yaml": "a: 1\n",
    "web/server/init.sls": "include: [common]\n",
    "web/README.rst": "Web\n",
    "web/map.jinja": "\n",
    "web/defaults.yaml": "password: ''\n",
    "web/os/Debian-12.yaml": "a: 1\n",
    "tests/testinfra/test_common.py": "\n",
    "tests/testinfra/test_web_server.py": "\n",
    "tests/case.yaml": "secret: canary-one\n",
    "scripts/tool.py": "#!/usr/bin/python3\n# why\nfrom goose import tool\n",
    "fix.patch": "-\ta\n+\tb\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree that keeps all rules."""
    for name, text in SOUND.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (tmp_path / "scripts/tool.py").chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("rule", rules.ALL, ids=lambda rule: rule.__name__)
def test_sound_tree(tree: Path, rule) -> None:
    assert not list(rule(tree))


KEY = "-----BEGIN EC PRIVATE" + " KEY-----"


@pytest.mark.parametrize(
    ("rule", "name", "text", "words"),
    [
        (rules.service_files, "web/README.rst", None, "web/README.rst is missing"),
        (rules.service_files, "web/os/Debian-12.yaml", None, "web/os/Debian-12.yaml is missing"),
        (rules.service_files, "web/os/Debian-11.yaml", "a: 1\n", "is for no platform"),
        (rules.roles_have_states, "web/server/init.sls", None, "names web.server"),
        (rules.roles_have_tests, "tests/testinfra/test_web_server.py", None, "test_web_server.py is missing"),
        (rules.roles_have_tests, "tests/testinfra/test_other.py", "\n", "belongs to no role"),
        (rules.small_executables, "scripts/tool.py", "#!/usr/bin/python3\n" + "pass\n" * 16, "more than 15"),
        (rules.small_executables, "scripts/new", "#!/bin/sh\ntrue\n", "cannot be executed"),
        (rules.system_python, "scripts/tool.py", "#!/usr/bin/env python3\npass\n", "use /usr/bin/python3"),
        (rules.plain_text, "common/init.sls", "a:\n\tb: 1\n", "holds a tab"),
        (rules.plain_text, "common/init.sls", "a: 1\r\n", "carriage return"),
        (rules.plain_text, "common/init.sls", "a: 1", "newline"),
        (rules.no_order, "common/init.sls", "a:\n  cmd.run:\n    - order: 1\n", "uses `order:`"),
        (rules.templates_take_context, "common/files/a.conf", "{{ pillar['a'] }}\n", "reads pillar"),
        (
            rules.templates_take_context,
            "web/server/files/a",
            "{{ salt['pillar.get']('a') }}\n",
            "reads pillar",
        ),
        (rules.no_secrets, "web/a.key", KEY + "\n", "holds a private key"),
        (rules.no_secrets, "web/defaults.yaml", "db: {password: hunter22}\n", "gives password a value"),
        (
            rules.no_secrets,
            "web/server/init.sls",
            "a:\n  x.y:\n    - db_password: hunter22\n",
            "gives a secret",
        ),
        (rules.no_secrets, "web/files/a.conf", "Secret = hunter22\n", "gives a secret"),
    ],
)
def test_fault(tree: Path, rule, name: str, text: str | None, words: str) -> None:
    path = tree / name
    if text is None:
        path.unlink()
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    problems = list(rule(tree))
    assert len(problems) == 1, problems
    assert words in problems[0]


def test_no_registry(tree: Path) -> None:
    (tree / "web/README.rst").write_text("See https://mirror.example.net/a.\n", encoding="utf-8")
    assert list(rules.no_registry(tree, {"mirror.example.net"})) == [
        "web/README.rst:1 names the package registry mirror.example.net."
    ]
    assert not list(rules.no_registry(tree, {"example.net"}))


def test_registry_hosts_of_this_machine() -> None:
    """pip has a registry by itself, so there is one to look for on any machine."""
    assert rules.registry_hosts()


def test_files_leave_out_what_tools_make(tree: Path) -> None:
    (tree / "common/__pycache__").mkdir()
    (tree / "common/__pycache__/a.pyc").write_bytes(b"\0")
    assert {str(path.relative_to(tree)) for path in sources.files(tree)} == set(SOUND)
