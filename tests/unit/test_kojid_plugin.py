"""kojid's plugin that fetches sources: what it takes for its own, and how it fails."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).resolve().parents[2] / "koji/builder/files/goose_sources.py"


class BuildError(Exception):
    """As koji's."""


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The plugin, with as much of koji as it uses, and a program in place of the real one."""
    koji: Any = types.ModuleType("koji")
    koji.BuildError = BuildError
    koji.plugin = types.ModuleType("koji.plugin")

    def callback(*_: str) -> Callable[[Any], Any]:
        return lambda function: function

    koji.plugin.callback = callback
    monkeypatch.setitem(sys.modules, "koji", koji)
    monkeypatch.setitem(sys.modules, "koji.plugin", koji.plugin)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    spec = importlib.util.spec_from_file_location("goose_sources", FILE)
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config, program = tmp_path / "plugin.conf", tmp_path / "program"
    config.write_text("[sources]\nscms = scm.example:/git/rpms/*:no:\n")
    program.write_text(
        f'#!/bin/sh\necho "$@" >{tmp_path}/called\n[ ! -e {tmp_path}/fails ] || {{ echo why >&2; exit 5; }}\n'
    )
    program.chmod(0o755)
    module.CONFIG, module.PROGRAM = str(config), str(program)
    return module


def checkout(plugin: Any, host: str, repository: str, module: str = "") -> None:
    scm = {"host": host, "repository": repository, "module": module, "url": f"git+https://{host}{repository}?{module}#x"}
    plugin.fetch_sources("postSCMCheckout", scminfo=scm, srcdir="/checkout")


def test_fetches_into_the_checkout(plugin: Any, tmp_path: Path) -> None:
    checkout(plugin, "scm.example", "/git/rpms/bash")
    assert (tmp_path / "called").read_text() == "--package /git/rpms/bash /checkout\n"


@pytest.mark.parametrize(("host", "path"), [("other.example", "/git/rpms/bash"), ("scm.example", "/git/docs/x")])
def test_other_scms_are_left_alone(plugin: Any, tmp_path: Path, host: str, path: str) -> None:
    checkout(plugin, host, path)
    assert not (tmp_path / "called").exists()


def test_the_task_says_why(plugin: Any, tmp_path: Path) -> None:
    (tmp_path / "fails").touch()
    with pytest.raises(BuildError, match="^why$"):
        checkout(plugin, "scm.example", "/git/rpms/bash")


def test_a_directory_in_the_repository_is_refused(plugin: Any, tmp_path: Path) -> None:
    """It may be a link to anywhere on the builder, and kojid is root."""
    with pytest.raises(BuildError, match="at its top"):
        checkout(plugin, "scm.example", "/git/rpms/bash", "evil")
    assert not (tmp_path / "called").exists()
