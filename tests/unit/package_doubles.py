"""What the tests of imports stand on: source RPMs made in numbers, and a lookaside cache on this machine."""

from __future__ import annotations

import hashlib
import http.server
import re
import subprocess
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from doubles import answering

SPEC = """\
{epoch}Name: {name}
Version: {version}
Release: {release}
Summary: A package of the tests
License: MIT
BuildArch: noarch
{sources}
%description
A package of the tests.
%changelog
* Wed Jan 03 2024 Jane Doe <jane@example.org> - {version}-{release}
- first line
- second line
"""


@dataclass(frozen=True)
class Package:
    """A source RPM to make."""

    name: str
    version: str = "1.0"
    release: str = "1.el9"
    epoch: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    executable: Sequence[str] = ()


def make_srpms(top: Path, packages: Sequence[Package]) -> list[Path]:
    """Make source RPMs in ``top``, all by one rpmbuild: that takes milliseconds for each."""
    specs = []
    for package in packages:
        nvr = f"{package.name}-{package.version}-{package.release}"
        directory = top / "work" / nvr
        directory.mkdir(parents=True)
        for name, content in package.files.items():
            (directory / name).write_bytes(content)
            (directory / name).chmod(0o755 if name in package.executable else 0o644)
        spec = directory / f"{package.name}.spec"
        # Absolute, because all are made with one source directory.
        sources = "\n".join(f"Source{number}: {name}" for number, name in enumerate(package.files))
        epoch = f"Epoch: {package.epoch}\n" if package.epoch else ""
        text = SPEC.format(name=package.name, version=package.version, release=package.release, sources=sources, epoch=epoch)
        spec.write_text(f"%define _sourcedir {directory}\n{text}")
        specs.append(str(spec))
    out = top / "srpms"
    command = ["rpmbuild", "-bs", "--quiet", "--nodeps"]
    for define in (f"_srcrpmdir {out}", f"_topdir {top}", f"_dbpath {top}/db"):
        command += ["--define", define]
    done = subprocess.run([*command, *specs], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [out / f"{package.name}-{package.version}-{package.release}.src.rpm" for package in packages]


def git(directory: Path, *words: str) -> str:
    """What git prints in a repository of the tests, with a name of its own."""
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    done = subprocess.run(["git", "-C", str(directory), *identity, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


class LookasideServer(http.server.ThreadingHTTPServer):
    """A lookaside cache in memory, by the paths and the upload protocol of the real one."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.archives: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.answers: list[int] = []
        """Statuses with which the next requests are refused."""

    @property
    def url(self) -> str:
        """Where archives are."""
        return f"http://127.0.0.1:{self.server_address[1]}/lookaside"

    def add(self, package: str, name: str, content: bytes, hashtype: str = "sha512") -> str:
        """Put an archive there; its hash."""
        digest = hashlib.new(hashtype, content).hexdigest()
        self.archives[f"{package}/{name}/{hashtype}/{digest}/{name}"] = content
        return digest


class _Handler(http.server.BaseHTTPRequestHandler):
    server: LookasideServer
    protocol_version = "HTTP/1.1"

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refused(self) -> bool:
        self.server.requests.append(f"{self.command} {self.path}")
        if self.server.answers:
            self._answer(self.server.answers.pop(0), b"Not now.")
            return True
        return False

    def do_GET(self) -> None:
        if self._refused():
            return
        path = urllib.parse.unquote(self.path)[len("/lookaside/") :]
        found = self.server.archives.get(path)
        self._answer(404 if found is None else 200, found or b"")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._refused():
            return
        boundary = re.search("boundary=(.*)", self.headers["Content-Type"])
        assert boundary is not None
        fields: dict[str, bytes] = {}
        for part in body.split(b"--" + boundary[1].encode())[1:-1]:
            head, _, content = part[2:-2].partition(b"\r\n\r\n")
            key = re.search(rb'name="(\w+)"', head)
            assert key is not None
            fields[key[1].decode()] = content
            filename = re.search(rb'filename="([^"]+)"', head)
            if filename:
                fields["filename"] = filename[1]
        name, digest = fields["name"].decode(), fields["sha512sum"].decode()
        if "file" not in fields:
            file = fields["filename"].decode()
            there = f"{name}/{file}/sha512/{digest}/{file}" in self.server.archives
            self._answer(200, b"Available" if there else b"Missing")
            return
        if hashlib.sha512(fields["file"]).hexdigest() != digest:
            self._answer(400, b"The hash is another.")
            return
        self.server.add(name, fields["filename"].decode(), fields["file"])
        self._answer(200, b"File uploaded.")

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def serving() -> Iterator[LookasideServer]:
    """A cache that answers, for a while."""
    server = LookasideServer()
    with answering(server):
        yield server
