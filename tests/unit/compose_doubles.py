"""What the tests of composes stand on: a small multilib repository of real RPMs, and its groups."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TREE = Path(__file__).resolve().parents[2]
BUILT = 1_767_225_600  # 2026-01-01

_HEAD = """\
Name: {name}
Version: {version}
Release: 1
Summary: A package of the tests
License: MIT
{lines}
%description
A package of the tests.
%install
mkdir -p %{{buildroot}}
{install}
{parts}
%files
{files}
"""


@dataclass(frozen=True)
class Spec:
    """A package to build."""

    name: str
    lines: str = ""
    files: Sequence[str] = ()
    version: str = "1.0"
    parts: str = ""
    noarch: bool = False
    multilib: bool = False
    """Whether it is built for i686 as well."""
    payload: int = 0
    """Bytes of random content in a file of its own."""


SPECS = (
    Spec("setup", noarch=True, files=["/etc/setup"]),
    Spec("bash", "Requires: setup", ["/bin/sh", "/usr/bin/bash"]),
    Spec("libfoo", "Provides: libfoo.so.1", ["/usr/lib/libfoo.so.1"], multilib=True),
    Spec(
        "app",
        "Requires: libfoo.so.1\nRequires: /usr/bin/bash\nRequires: /usr/share/data/table\nRecommends: tips\n"
        "Requires: (plugin if desktop)",
        ["/usr/bin/app"],
        parts="%package debuginfo\nSummary: x\n%description debuginfo\nx\n%files debuginfo\n/usr/lib/debug/app\n",
    ),
    Spec("data", noarch=True, files=["/usr/share/data/table"]),
    Spec("tips", noarch=True, files=["/usr/share/tips"]),
    Spec("spare", "Requires: app", ["/usr/bin/spare"], noarch=True),
    Spec("old", version="1.0", noarch=True, files=["/usr/share/old"]),
    Spec("old", version="2.0", noarch=True, files=["/usr/share/old"]),
)

COMPS = """\
<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE comps PUBLIC "-//Red Hat, Inc.//DTD Comps info//EN" "comps.dtd">
<comps>
  <group><id>core</id><name>Core</name><description>The least.</description><default>true</default>
    <uservisible>false</uservisible><packagelist>
      <packagereq type="mandatory">bash</packagereq><packagereq type="default">nowhere</packagereq>
      <packagereq type="optional">tips</packagereq></packagelist></group>
  <group><id>apps</id><name>Applications</name><description>Programs.</description><default>false</default>
    <uservisible>true</uservisible><packagelist><packagereq type="default">app</packagereq></packagelist></group>
  <environment><id>server</id><name>Server</name><description>A server.</description><display_order>1</display_order>
    <grouplist><groupid>core</groupid></grouplist>
    <optionlist><groupid>apps</groupid></optionlist></environment>
</comps>
"""


def make(top: Path, specs: Sequence[Spec] = SPECS, comps: str = COMPS) -> Path:
    """Build the packages and lay them out as mash does: x86_64/os, x86_64/debug, source/SRPMS; the directory."""
    work = top.parent / f"{top.name}-work"
    native, both = [], []
    for spec in specs:
        install = "".join(
            f"mkdir -p %{{buildroot}}$(dirname {path}); echo {spec.name} {spec.version} > %{{buildroot}}{path}\n"
            for path in [*spec.files, *(["/usr/lib/debug/app"] if spec.parts else [])]
        )
        files = list(spec.files)
        if spec.payload:
            data = work / f"{spec.name}.data"
            data.parent.mkdir(parents=True, exist_ok=True)
            data.write_bytes(os.urandom(spec.payload))
            install += (
                f"mkdir -p %{{buildroot}}/usr/share; cp {data} %{{buildroot}}/usr/share/{spec.name}.data\n"
            )
            files.append(f"/usr/share/{spec.name}.data")
        lines = spec.lines + ("\nBuildArch: noarch" if spec.noarch else "")
        text = _HEAD.format(
            name=spec.name,
            version=spec.version,
            lines=lines,
            install=install,
            parts=spec.parts,
            files="\n".join(files),
        )
        path = work / "specs" / f"{spec.name}-{spec.version}.spec"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        native.append(str(path))
        if spec.multilib:
            both.append(str(path))
    defines = {
        "_topdir": str(work),
        "_dbpath": str(work / "db"),
        "_binary_payload": "w1.gzdio",
        "debug_package": "%{nil}",
        "__os_install_post": "%{nil}",
        "_build_id_links": "none",
        "__spec_install_pre": "%{nil}",
        "AutoReqProv": "no",
    }
    words = [word for key, value in defines.items() for word in ("--define", f"{key} {value}")]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(BUILT)}
    defines_time = ["--define", "use_source_date_epoch_as_buildtime 1"]
    for kind, target, paths in (("-ba", "x86_64", native), ("-bb", "i686", both)):
        if paths:
            done = subprocess.run(
                [
                    "rpmbuild",
                    kind,
                    "--quiet",
                    "--nodeps",
                    f"--target={target}",
                    *words,
                    *defines_time,
                    *paths,
                ],
                capture_output=True,
                text=True,
                check=False,
                env=environment,
            )
            assert done.returncode == 0, done.stderr
    for path in sorted((work / "RPMS").rglob("*.rpm")):
        place = "x86_64/debug" if "-debuginfo-" in path.name else "x86_64/os/Packages"
        (top / place).mkdir(parents=True, exist_ok=True)
        path.rename(top / place / path.name)
    (top / "source/SRPMS").mkdir(parents=True)
    for path in (work / "SRPMS").glob("*.rpm"):
        path.rename(top / "source/SRPMS" / path.name)
    (work / "comps.xml").write_text(comps)
    createrepo(top / "x86_64/os", "--groupfile", str(work / "comps.xml"))
    for name in ("x86_64/debug", "source/SRPMS"):
        (top / name).mkdir(parents=True, exist_ok=True)
        createrepo(top / name)
    return top


def createrepo(directory: Path, *words: str) -> None:
    """Make repodata."""
    done = subprocess.run(
        ["createrepo_c", "--quiet", *words, str(directory)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def settings(top: Path, repository: Path, **changes: Any) -> dict[str, Any]:
    """A configuration of two variants and a DVD, without boot media."""
    return {
        "name": "GoOSe",
        "short": "goose",
        "output": str(top / "compose"),
        "cache": str(top / "cache"),
        "url": "https://compose.example/compose",
        "repositories": [
            {
                "binary": f"{repository}/{{arch}}/os",
                "source": f"{repository}/source/SRPMS",
                "debug": f"{repository}/{{arch}}/debug",
            }
        ],
        "variants": {
            "BaseOS": {"groups": ["core"]},
            "Apps": {"environments": ["server"], "packages": ["app"], "requires": ["BaseOS"]},
        },
        "isos": [{"variants": ["BaseOS", "Apps"]}],
        "boot": {"kind": "none"},
        "engine": "embedded",
        **changes,
    }


@dataclass
class Site:
    """A configuration file, and the program with it."""

    top: Path
    repository: Path

    @property
    def output(self) -> Path:
        return self.top / "compose"

    def configure(self, **changes: Any) -> Path:
        path = self.top / "compose.json"
        path.write_text(json.dumps(settings(self.top, self.repository, **changes)))
        return path

    def words(self, *words: str) -> list[str]:
        path = self.top / "compose.json"
        if not path.exists():
            self.configure()
        return ["/usr/bin/python3", "-B", str(TREE / "scripts/compose_iso.py"), "--config", str(path), *words]

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.words(*(words or ("1", "Beta", "RC4"))),
            capture_output=True,
            text=True,
            check=False,
            env=env(**environment),
        )

    def told(self, *words: str, **environment: str) -> dict[str, Any]:
        """The JSON of a run that must succeed."""
        done = self.run(*(words or ("1", "Beta", "RC4")), "--json", **environment)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


def env(**more: str) -> dict[str, str]:
    """The environment of the program: where the tests' own modules are found, productmd among them."""
    there = {key: value for key, value in os.environ.items() if key != "SOURCE_DATE_EPOCH"}
    there["PYTHONPATH"] = os.pathsep.join(
        path for path in sys.path if path.endswith("site-packages") and "dist" not in path
    )
    return {**there, **more}
