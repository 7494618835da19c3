"""Real RPMs on a volume laid out as Koji's, real signatures, and a hub that lists them as Koji 1.30 does."""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import subprocess
import xmlrpc.client
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import koji

from doubles import answering

_HEAD = """\
%define debug_package %{{nil}}
%define __os_install_post %{{nil}}
%define _build_id_links none
%ifarch x86_64
%define lib lib64
%define bits ()(64bit)
%define isa (x86-64)
%else
%define lib lib
%define bits %{{nil}}
%define isa (x86-32)
%endif
Name: {name}
Version: {version}
Release: {release}
{lines}
Summary: A package of the tests
License: MIT
AutoReqProv: no
%description
A package of the tests.
"""
_SUB = """\
%package -n {name}
Summary: A package of the tests
AutoReqProv: no
{lines}
%description -n {name}
A package of the tests.
%files -n {name}
{files}
"""


@dataclass(frozen=True)
class Sub:
    """A binary package; %{lib}, %{bits} and %{isa} stand for what differs between 64 and 32 bits."""

    name: str
    files: Sequence[str] = ()
    requires: Sequence[str] = ()
    provides: Sequence[str] = ()
    noarch: bool = False


@dataclass(frozen=True)
class Build:
    """A build of some binary packages, and its source RPM."""

    name: str
    subs: Sequence[Sub]
    version: str = "1.0"
    release: str = "1.el9"
    epoch: int = 0
    arches: str = ""
    """ExcludeArch or ExclusiveArch."""
    targets: Sequence[str] = ("x86_64", "i686")

    @property
    def nvr(self) -> str:
        return f"{self.name}-{self.version}-{self.release}"

    def spec(self) -> str:
        directories = sorted({os.path.dirname(path) for sub in self.subs for path in sub.files})
        # One process for all of them: there may be thousands.
        install = ["%install", " ".join(["mkdir -p %{buildroot}", *(f"%{{buildroot}}{path}" for path in directories)])]
        parts: list[str] = []
        main = [f"Epoch: {self.epoch}"] if self.epoch else []
        main += [self.arches] if self.arches else []
        for sub in self.subs:
            lines = ["BuildArch: noarch"] if sub.noarch else []
            lines += [f"Requires: {text}" for text in sub.requires]
            lines += [f"Provides: {text}" for text in sub.provides]
            files = "\n".join(sub.files)
            if sub.name == self.name:
                main += lines
                parts.append(f"%files\n{files}\n")
            else:
                parts.append(_SUB.format(name=sub.name, lines="\n".join(lines), files=files))
            for path in sub.files:
                install.append(f"echo {sub.name} >%{{buildroot}}{path}")
        head = _HEAD.format(name=self.name, version=self.version, release=self.release, lines="\n".join(main))
        return head + "".join(parts) + "\n".join(install) + "\n"


def rpmbuild(directory: Path, builds: Sequence[Build], specs_of: Mapping[str, str] | None = None) -> dict[str, list[Path]]:
    """Build; NVR -> RPMs. ``specs_of`` has other spec files, by NVR."""
    (directory / "specs").mkdir(parents=True)
    found: dict[str, list[Path]] = {}
    for target in ("x86_64", "i686"):
        specs = []
        for build in builds:
            if target in build.targets:
                path = directory / "specs" / f"{build.nvr}.spec"
                path.write_text((specs_of or {}).get(build.nvr) or build.spec())
                specs.append(str(path))
        for kind in ("-ba",) if target == "x86_64" else ("-bb",):
            command = ["rpmbuild", kind, "--quiet", "--nodeps", "--target", target]
            for define in (f"_topdir {directory}", f"_srcrpmdir {directory}/out", f"_rpmdir {directory}/out",
                           f"_dbpath {directory}/db", "_binary_payload w1.gzdio",
                           "_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm"):  # fmt: skip
                command += ["--define", define]
            done = subprocess.run([*command, *specs], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
    for build in builds:
        names = [sub.name for sub in build.subs] + [build.name]
        arches = ("x86_64", "i686", "noarch", "src")
        nvras = {f"{name}-{build.version}-{build.release}.{arch}.rpm" for name in names for arch in arches}
        found[build.nvr] = [path for path in sorted((directory / "out").iterdir()) if path.name in nvras]
    return found


class Keys:
    """GnuPG with some keys."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(mode=0o700)
        self.ids: dict[str, str] = {}

    def gpg(self, *words: str) -> str:
        command = ["gpg", "--batch", "--quiet", "--homedir", str(self.home), "--pinentry-mode", "loopback",
                   "--passphrase", ""]  # fmt: skip
        done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def make(self, name: str) -> str:
        """A new key; its id as Koji has it."""
        self.gpg("--quick-generate-key", f"{name} <{name}@example.org>", "rsa2048", "sign", "never")
        listed = self.gpg("--with-colons", "--list-keys", f"{name}@example.org")
        row = next(line for line in listed.splitlines() if line.startswith("pub"))
        self.ids[name] = row.split(":")[4][-8:].lower()
        return self.ids[name]

    def export(self, name: str, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        (directory / f"RPM-GPG-KEY-{name}").write_text(self.gpg("--armor", "--export", f"{name}@example.org"))

    def sign(self, name: str, paths: Sequence[Path]) -> None:
        """Sign RPMs in place."""
        command = ["rpmsign", "--define", f"_gpg_name {name}@example.org", "--define", "__gpg /usr/bin/gpg",
                   "--define", f"_gpg_path {self.home}", "--resign", *map(str, paths)]  # fmt: skip
        environment = {**os.environ, "GNUPGHOME": str(self.home)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr

    def end(self) -> None:
        subprocess.run(["gpgconf", "--homedir", str(self.home), "--kill", "all"], capture_output=True, check=False)


class Hub:
    """A Koji hub in memory: tags with a history, builds, RPMs and their signatures; its files on a volume."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.paths = koji.PathInfo(str(top))
        self.event = 1000
        self.history: list[tuple[int, str, int, bool]] = []
        """event, tag, build, tagged or untagged."""
        self.parents: dict[str, list[str]] = {}
        self.tags: dict[str, int] = {}
        self.builds: dict[int, dict[str, Any]] = {}
        self.rpms: dict[int, list[dict[str, Any]]] = {}
        self.signatures: dict[int, list[str]] = {}
        """By the RPM's id."""
        self.calls: list[str] = []
        self.uploads: dict[str, bytes] = {}
        self.tasks: dict[int, dict[str, Any]] = {}
        self.fails = ""
        """How the next distRepo task fails."""

    def tag(self, name: str, *parents: str) -> None:
        self.tags[name] = len(self.tags) + 1
        self.parents[name] = list(parents)

    def add(self, build: Build, rpms: Sequence[Path], link: bool = False) -> int:
        """Import a build, as the hub does; ``link``: without a copy of the files."""
        number = len(self.builds) + 1
        self.builds[number] = {"id": number, "build_id": number, "name": build.name, "package_name": build.name,
                               "version": build.version, "release": build.release, "epoch": build.epoch or None,
                               "nvr": build.nvr, "volume_id": 0, "volume_name": "DEFAULT", "state": 1}  # fmt: skip
        self.rpms[number] = []
        for path in rpms:
            header = koji.get_rpm_header(str(path))
            rpm_id = len(self.signatures) + 1
            arch = "src" if header["sourcepackage"] else header["arch"]
            row = {"id": rpm_id, "name": header["name"], "version": header["version"], "release": header["release"],
                   "epoch": header["epoch"], "arch": arch, "payloadhash": koji.hex_string(header["sigmd5"]),
                   "size": path.stat().st_size, "buildtime": header["buildtime"], "buildroot_id": 1, "build_id": number,
                   "metadata_only": False}  # fmt: skip
            target = Path(self.paths.build(self.builds[number])) / self.paths.rpm(row)
            target.parent.mkdir(parents=True, exist_ok=True)
            (os.link if link else shutil.copy2)(path, target)
            self.rpms[number].append(row)
            # What the hub notes at the import of an RPM without a signature.
            self.signatures[rpm_id] = [""]
        return number

    def change(self, tag: str, build: int, tagged: bool = True) -> None:
        self.event += 1
        self.history.append((self.event, tag, build, tagged))

    def path(self, row: Mapping[str, Any], sigkey: str = "") -> Path:
        below = self.paths.signed(row, sigkey) if sigkey else self.paths.rpm(row)
        return Path(self.paths.build(self.builds[row["build_id"]])) / below

    def row(self, nvra: str) -> dict[str, Any]:
        for rows in self.rpms.values():
            for row in rows:
                if nvra == "{name}-{version}-{release}.{arch}".format(**row):
                    return row
        raise KeyError(nvra)

    def sign(self, keys: Keys, name: str, builds: Sequence[int], write: bool = True) -> None:
        """Sign builds, import the signatures, write the signed copies."""
        sigkey, copies = keys.ids[name], []
        for build in builds:
            for row in self.rpms[build]:
                self.signatures[row["id"]] = [*filter(None, self.signatures[row["id"]]), sigkey]
                target = self.path(row, sigkey)
                if write and not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(self.path(row), target)
                    copies.append(target)
        if copies:
            keys.sign(name, copies)

    def session(self) -> Session:
        return Session(self)

    # What clients call

    def do_getAPIVersion(self) -> int:
        return 1

    def do_getLastEvent(self, before: Any = None) -> dict[str, Any]:
        return {"id": self.event, "ts": 1700000000.0 + self.event}

    def do_getTag(self, tagInfo: str, strict: bool = False, event: int | None = None) -> Any:
        tagInfo = next((name for name, number in self.tags.items() if number == tagInfo), tagInfo)
        if tagInfo not in self.tags:
            if strict:
                raise koji.GenericError(f"Invalid tagInfo: {tagInfo!r}")
            return None
        return {"id": self.tags[tagInfo], "name": tagInfo, "arches": "x86_64 i686"}

    def do_getFullInheritance(self, tag: Any, event: int | None = None, reverse: bool = False) -> Any:
        name = self.do_getTag(tag, strict=True)["name"]
        found = []
        for parent in self.parents[name]:
            found.append({"parent_id": self.tags[parent], "name": parent})
            found += self.do_getFullInheritance(parent)
        return found

    def do_tagChangedSinceEvent(self, event: int, taglist: Sequence[int]) -> bool:
        return any(when > event and self.tags[name] in taglist for when, name, _, _ in self.history)

    def _tagged(self, tag: str, event: int) -> list[int]:
        """Builds of a tag alone, the latest tagging first."""
        found: list[int] = []
        for when, name, build, tagged in self.history:
            if name == tag and when <= event:
                if build in found:
                    found.remove(build)
                if tagged:
                    found.insert(0, build)
        return found

    def _all(self, tag: str, event: int, inherit: bool, latest: Any) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        seen: dict[str, int] = {}
        order, todo = [], [tag]
        while todo:
            name = todo.pop(0)
            order.append(name)
            todo = [*(self.parents[name] if inherit else []), *todo]
        for name in order:
            packages: dict[str, int] = {}
            for build in self._tagged(name, event):
                package = self.builds[build]["name"]
                if latest and (seen.get(package) or packages.get(package, 0) >= int(latest)):
                    continue
                packages[package] = packages.get(package, 0) + 1
                found.append((build, name))
            seen.update(packages)
        return found

    def do_listTaggedRPMS(self, tag: str, event: int | None = None, inherit: bool = False, latest: Any = False,
                          package: str | None = None, arch: Any = None, rpmsigs: bool = False, owner: Any = None,
                          type: Any = None, strict: bool = True, extra: bool = True) -> Any:  # fmt: skip # noqa: A002
        self.do_getTag(tag, strict=strict)
        builds = self._all(tag, self.event if event is None else event, inherit, latest)
        rows = []
        for build, _ in builds:
            for row in self.rpms[build]:
                if not rpmsigs:
                    rows.append(row)
                # A left join: without any signature once, with None.
                keys: list[str | None] = [*self.signatures[row["id"]]]
                rows += [{**row, "sigkey": key} for key in keys or [None]] if rpmsigs else []
        named = [{**self.builds[build], "tag_name": name, "tag_id": self.tags[name]} for build, name in builds]
        return [rows, named]

    def do_distRepo(self, tag: str, keys: Sequence[str], **task_opts: Any) -> int:
        task = 500 + len(self.tasks)
        repo = 70 + len(self.tasks)
        self.tasks[task] = {"request": [tag, repo, list(keys), task_opts], "asked": 0, "fails": self.fails}
        return task

    def do_getTaskRequest(self, taskId: int) -> Any:
        return self.tasks[taskId]["request"]

    def do_taskFinished(self, taskId: int) -> bool:
        task = self.tasks[taskId]
        task["asked"] += 1
        if task["asked"] < 3:
            return False
        tag, repo = task["request"][:2]
        if not task["fails"]:
            Path(self.paths.distrepo(repo, tag)).mkdir(parents=True, exist_ok=True)
        return True

    def do_getTaskResult(self, taskId: int, raise_fault: bool = True) -> Any:
        if self.tasks[taskId]["fails"]:
            raise koji.GenericError(self.tasks[taskId]["fails"])
        return f"Dist repository #{self.tasks[taskId]['request'][1]} successfully generated"


class Session:
    """What `koji.ClientSession` is to its users."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._hub.calls.append(name)
            words, options = json.loads(json.dumps([args, kwargs]))
            return json.loads(json.dumps(getattr(self._hub, f"do_{name}")(*words, **options)))

        return call

    def uploadWrapper(self, localfile: str, path: str, **_: Any) -> None:
        self._hub.uploads[f"{path}/{os.path.basename(localfile)}"] = Path(localfile).read_bytes()


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """The hub over the network; its URL. What was asked before at the same event is answered at once."""
    session = hub.session()
    answers: dict[tuple[int, bytes], bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Else the headers go out alone, and the body waits for the client's acknowledgement of them: 40 ms a call.
        wbufsize = -1

        def do_POST(self) -> None:
            asked = self.rfile.read(int(self.headers["Content-Length"]))
            body = answers.get((hub.event, asked)) or self.answer(asked)
            answers[hub.event, asked] = body
            self.send_response(200)
            self.send_header("Content-Type", "text/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def answer(self, asked: bytes) -> bytes:
            words, method = xmlrpc.client.loads(asked)
            args, kwargs = koji.decode_args(*words)
            try:
                result = getattr(session, str(method))(*args, **kwargs)
                text = xmlrpc.client.dumps((result,), methodresponse=True, allow_none=True)
            except koji.GenericError as error:
                text = xmlrpc.client.dumps(xmlrpc.client.Fault(error.faultCode, str(error)))
            return text.encode()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with answering(server):
        yield f"http://127.0.0.1:{server.server_port}/kojihub"


LIBFOO = Build(
    "libfoo",
    [
        Sub("libfoo", ["/usr/%{lib}/libfoo.so.1"], ["helper%{isa}", "/usr/share/helper/data"],
            ["libfoo.so.1%{bits}", "libfoo%{isa} = 1.0-1.el9"]),
        Sub("libfoo-devel", ["/usr/%{lib}/libfoo.so"], ["libfoo%{isa} = 1.0-1.el9"]),
        Sub("libfoo-doc", ["/usr/share/doc/libfoo/README"], noarch=True),
        Sub("libfoo-debuginfo", ["/usr/lib/debug/usr/%{lib}/libfoo.so.1.debug"]),
    ],
)  # fmt: skip
HELPER = Build(
    "helper",
    [
        Sub("helper", ["/usr/bin/helper"], provides=["helper%{isa}"]),
        Sub("helper-data", ["/usr/share/helper/data"], noarch=True),
        Sub("helper-tools", ["/usr/bin/helper-tool"], ["helper%{isa}", "(libfoo-devel if gcc)", "(nobody if nowhere)"]),
    ],
)
ONLY = Build("only", [Sub("only", ["/usr/share/only"], noarch=True)], arches="ExcludeArch: i686", targets=["x86_64"])
SITE = (LIBFOO, HELPER, ONLY)


@dataclass
class Place:
    """A hub, its volume, configuration and output."""

    top: Path
    hub: Hub
    keys: Keys
    builds: dict[str, int] = field(default_factory=dict)
    url: str = "http://127.0.0.1:1/kojihub"

    @property
    def output(self) -> Path:
        return self.top / "repos"

    @property
    def link(self) -> Path:
        return self.output / "goose-1"

    def configure(self, name: str = "goose-1", defaults: Mapping[str, Any] | None = None, **keys: Any) -> None:
        """Write `mash.conf` and `NAME.mash`; None leaves a key out."""
        directory = self.top / "mash"
        directory.mkdir(exist_ok=True)
        shared = {"buildhost": self.url, "repodir": self.hub.top, "outputdir": self.output, "cachedir": self.top / "cache",
                  "keysdir": self.top / "keys", **(defaults or {})}  # fmt: skip
        own = {"tag": "goose-1", "inherit": True, "arches": "i386 x86_64", "keys": "goose", "multilib": True, **keys}
        files = ((directory / "mash.conf", "defaults", shared), (directory / f"{name}.mash", name, own))
        for path, section, values in files:
            lines = [f"{key} = {value}" for key, value in values.items() if value is not None]
            path.write_text(f"[{section}]\n" + "\n".join(lines) + "\n")

    def nevras(self, tree: str = "x86_64") -> list[str]:
        found = json.loads((self.link / "mash.json").read_text())
        return sorted(re.sub(r"-1\.0-1\.el9", "", nevra) for nevra in found["trees"][tree]["rpms"])
