"""What the tests of signing stand on: a Koji hub with a volume, and a program that behaves as Sigul's client.

The hub answers over TLS, as XML-RPC, to koji's own client; what it does with RPMs it does by koji's own library, as
Koji 1.30's hub does it. It keeps what is in its database in memory.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import http.server
import ipaddress
import json
import os
import shutil
import signal
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import koji
import koji.xmlrpcplus

from doubles import answering

_SPEC = """\
Name: {name}
Version: 1.0
Release: 1.el9
Summary: A package of the tests
License: MIT
BuildArch: noarch
%description
A package of the tests.
%files
"""


class Fault(Exception):
    """What the hub answers instead of a result; with koji's number for an error of its own."""

    def __init__(self, text: str, code: int = 1000) -> None:
        super().__init__(text)
        self.code = code


def build_package(top: Path, name: str) -> list[Path]:
    """A source RPM and a binary RPM, by rpmbuild."""
    spec = top / f"{name}.spec"
    top.mkdir(parents=True, exist_ok=True)
    spec.write_text(_SPEC.format(name=name))
    out = top / "out"
    command = ["rpmbuild", "-ba", "--quiet", "--nodeps"]
    for define in (f"_topdir {top}", f"_srcrpmdir {out}", f"_rpmdir {out}", f"_dbpath {top}/db"):
        command += ["--define", define]
    done = subprocess.run([*command, str(spec)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return sorted(out.glob(f"**/{name}-1.0-*.rpm"))


class SigningHub:
    """Builds, RPMs, tags and signatures, by the rules of Koji 1.30's hub (kojihub.py, at the named functions)."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.paths = koji.PathInfo(topdir=str(top))
        self.builds: dict[int, dict[str, Any]] = {}
        self.rpms: dict[int, dict[str, Any]] = {}
        self.sigs: dict[int, dict[str, str]] = {}
        self.tags: dict[str, list[int]] = {}
        self.parents: dict[str, list[str]] = {}
        self.perms = ["sign"]
        self.requests: list[str] = []
        """Methods, a multicall as `multiCall`."""
        self.methods: list[str] = []
        """Methods, those in multicalls too."""
        self.before: Callable[[str], None] = lambda method: None
        """Called with each request, before it is done; what it raises is the answer."""
        self.after: Callable[[str], None] = lambda method: None
        self.fault: Callable[[str, Sequence[Any]], None] = lambda method, args: None
        """Called with each method and its arguments; what it raises is the answer."""
        self.lock = threading.RLock()

    # Content

    def add(self, tag: str, *packages: Sequence[Path], state: int = 1) -> list[int]:
        """Import builds, of RPMs each, into a tag; the RPMs' ids (import_rpm)."""
        ids = []
        for files in packages:
            name, version, release = files[0].name[: -len(".rpm")].rsplit(".", 1)[0].rsplit("-", 2)
            number = 100 + len(self.builds)
            build = {"id": number, "build_id": number, "name": name, "package_name": name, "version": version,
                     "release": release, "epoch": None, "volume_name": "DEFAULT", "state": state,
                     "nvr": f"{name}-{version}-{release}"}  # fmt: skip
            self.builds[number] = build
            self.tags.setdefault(tag, []).append(number)
            for path in files:
                name, version, rest = path.name[: -len(".rpm")].rsplit("-", 2)
                release, arch = rest.rsplit(".", 1)
                header = koji.rip_rpm_sighdr(str(path))
                md5 = koji.hex_string(koji.RawHeader(header).get(koji.RPM_SIGTAG_MD5))
                rpm_id = 1000 + len(self.rpms)
                row = {"id": rpm_id, "name": name, "version": version, "release": release, "arch": arch, "epoch": None,
                       "payloadhash": md5, "size": path.stat().st_size, "buildtime": 1, "buildroot_id": None,
                       "build_id": number, "metadata_only": False}  # fmt: skip
                target = Path(self.paths.build(build)) / self.paths.rpm(row)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
                self.rpms[rpm_id] = row
                # The hub notes an unsigned RPM's header under the key ''.
                self.sigs[rpm_id] = {"": "x"}
                ids.append(rpm_id)
        return ids

    def path(self, rpm_id: int) -> Path:
        """The unsigned RPM."""
        row = self.rpms[rpm_id]
        return Path(self.paths.build(self.builds[row["build_id"]])) / self.paths.rpm(row)

    def signed_path(self, rpm_id: int, sigkey: str) -> Path:
        row = self.rpms[rpm_id]
        return Path(self.paths.build(self.builds[row["build_id"]])) / self.paths.signed(row, sigkey)

    def _sighdr_path(self, rpm_id: int, sigkey: str) -> Path:
        row = self.rpms[rpm_id]
        return Path(self.paths.build(self.builds[row["build_id"]])) / self.paths.sighdr(row, sigkey)

    def signed_by(self, sigkey: str) -> set[int]:
        return {rpm_id for rpm_id, keys in self.sigs.items() if sigkey in keys}

    def written_by(self, sigkey: str) -> set[int]:
        return {rpm_id for rpm_id in self.rpms if self.signed_path(rpm_id, sigkey).exists()}

    def nvra(self, rpm_id: int) -> str:
        return "{name}-{version}-{release}.{arch}".format(**self.rpms[rpm_id])

    # Methods

    def _rpm(self, what: Any) -> dict[str, Any]:
        if isinstance(what, int) and what in self.rpms:
            return self.rpms[what]
        for row in self.rpms.values():
            if what == "{name}-{version}-{release}.{arch}".format(**row):
                return row
        raise Fault(f"No such rpm: {what!r}")

    def do_getPerms(self) -> Any:
        return self.perms

    def do_listTaggedRPMS(self, tag: str, inherit: bool = False, latest: bool = False, arch: Any = None,
                          rpmsigs: bool = False, extra: bool = True) -> Any:  # fmt: skip
        """Give a row for each RPM and signature (readTaggedRPMS)."""
        if tag not in self.tags:
            raise Fault(f"No such tagInfo: {tag!r}")
        seen: dict[str, int] = {}
        for name in [tag, *(self.parents.get(tag, []) if inherit else [])]:
            own: dict[str, int] = {}
            for number in self.tags[name]:
                own[self.builds[number]["name"]] = number
            for package, number in own.items():
                seen.setdefault(package, number)
        numbers = set(seen.values())
        arches = [arch] if isinstance(arch, str) else arch
        rows = []
        for row in self.rpms.values():
            if row["build_id"] in numbers and (not arches or row["arch"] in arches):
                rows += [{**row, "sigkey": key} for key in self.sigs[row["id"]] or [None]] if rpmsigs else [row]
        return [rows, [build for number, build in self.builds.items() if number in numbers]]

    def do_getBuild(self, nvr: str) -> Any:
        return next((build for build in self.builds.values() if build["nvr"] == nvr), None)

    def do_listRPMs(self, buildID: int) -> Any:
        return [row for row in self.rpms.values() if row["build_id"] == buildID]

    def do_getRPM(self, nvra: str) -> Any:
        try:
            return self._rpm(nvra)
        except Fault:
            return None

    def do_queryRPMSigs(self, rpm_id: int, sigkey: str) -> Any:
        keys = self.sigs.get(rpm_id, {})
        return [{"rpm_id": rpm_id, "sigkey": sigkey, "sighash": keys[sigkey]}] if sigkey in keys else []

    def do_addRPMSig(self, rpm: Any, data: str) -> None:
        """Take a signature header (add_rpm_sig)."""
        if "sign" not in self.perms:
            raise Fault("sign permission required", koji.ActionNotAllowed.faultCode)
        row = self._rpm(rpm)
        header = base64.b64decode(data)
        if koji.hex_string(koji.RawHeader(header).get(koji.RPM_SIGTAG_MD5)) != row["payloadhash"]:
            raise Fault(f"wrong md5 for {self.nvra(row['id'])}")
        sigkey = koji.get_sighdr_key(header) or ""
        if sigkey in self.sigs[row["id"]]:
            raise Fault(f"Signature already exists for package {self.nvra(row['id'])}, key {sigkey}")
        path = self._sighdr_path(row["id"], sigkey)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(header)
        self.sigs[row["id"]][sigkey] = hashlib.md5(header).hexdigest()

    def do_writeSignedRPM(self, rpm: Any, sigkey: str, force: bool = False) -> None:
        """Write a signed copy (write_signed_rpm)."""
        row = self._rpm(rpm)
        if sigkey not in self.sigs[row["id"]]:
            raise Fault(f"No cached signature for package {self.nvra(row['id'])}, key {sigkey}")
        target = self.signed_path(row["id"], sigkey)
        if target.exists():
            return
        koji.splice_rpm_sighdr(self._sighdr_path(row["id"], sigkey).read_bytes(), str(self.path(row["id"])), str(target))

    # Answering

    def dispatch(self, method: str, params: Sequence[Any]) -> Any:
        self.methods.append(method)
        args, kwargs = koji.decode_args(*params)
        self.fault(method, args)
        return getattr(self, f"do_{method}")(*args, **kwargs)

    def answer(self, method: str, params: Sequence[Any]) -> Any:
        """The answer to one request."""
        with self.lock:
            self.requests.append(method)
            self.before(method)
            if method == "sslLogin":
                answer: Any = {"session-id": len(self.requests), "session-key": "1-key"}
            elif method == "logout":
                answer = None
            elif method == "multiCall":
                answer = []
                for call in params[0]:
                    try:
                        answer.append([self.dispatch(call["methodName"], call["params"])])
                    except Fault as fault:
                        answer.append({"faultCode": fault.code, "faultString": str(fault)})
            else:
                answer = self.dispatch(method, params)
            self.after(method)
            return answer


class HubServer(http.server.ThreadingHTTPServer):
    """A `SigningHub` that answers on this machine, and gives out its volume's files."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, hub: SigningHub, certificate: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        # In the connection's thread: a client that was killed while it shook hands must not hold up others.
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        """Clients of these tests are killed."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"
    # Head and body in one piece, or each answer waits for an acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        params, method = koji.xmlrpcplus.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            answer = self.server.hub.answer(method, params)
            text = koji.xmlrpcplus.dumps((answer,), methodresponse=1, allow_none=1)
        except Fault as fault:
            text = koji.xmlrpcplus.dumps(koji.xmlrpcplus.Fault(fault.code, str(fault)))
        except ConnectionError:
            # The hub is down: no answer at all.
            self.close_connection = True
            self.connection.close()
            return
        self._send(200, text.encode())

    def do_GET(self) -> None:
        path = self.server.hub.top / self.path.lstrip("/")
        self._send(200 if path.is_file() else 404, path.read_bytes() if path.is_file() else b"")

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def serving(hub: SigningHub, certificate: Path) -> Iterator[HubServer]:
    """The hub, answering for a while."""
    server = HubServer(hub, certificate)
    with answering(server):
        yield server


def make_certificate(path: Path) -> Path:
    """A certificate with its key for this machine, which is its own CA."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime(2024, 1, 1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=36500))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(pem)
    )
    return path


# The RPM that the client signs stands in Koji: the bridge downloads it, the server signs, the bridge stores.
_SIGUL = '''\
#!/usr/bin/python3
"""Sigul's client, as far as signing uses it: its command line, its standard input, its words, its faults."""
import json, os, signal, sys, time
import urllib.request

place = os.path.dirname(os.path.abspath(__file__))
state = json.load(open(os.path.join(place, "state.json")))
words = sys.argv[1:]
with open(os.path.join(place, "calls"), "a") as stream:
    print(json.dumps({{"argv": words, "cwd": os.listdir("."), "environ": dict(os.environ)}}), file=stream)

def password():
    text = ""
    while True:
        letter = sys.stdin.read(1)
        if letter == "\\0":
            return text
        if not letter:
            sys.exit("ERROR: I/O error: EOFError('Unexpected EOF when reading a batch mode password')")
        text += letter

def failed(text):
    print(text, file=sys.stderr)
    sys.exit(1)

if words[:2] != ["--batch", "-c"]:
    print("Usage: sigul [options] command", file=sys.stderr)
    sys.exit(2)
command, rest = words[3], [word for word in words[4:] if not word.startswith("-")]
given = [password()]
if command in ("new-key", "grant-key-access"):
    given.append(password())
if state["bridge"] == "down":
    failed("ERROR: Connection refused")
if state["bridge"] == "eof":
    state["bridge"] = "up"
    json.dump(state, open(os.path.join(place, "state.json"), "w"))
    failed("ERROR: I/O error: Unexpected EOF in NSPR")
if state["server"] == "down":
    time.sleep(3600)
secret = state["admin"] if command in ("list-keys", "new-key") else state["keys"].get(rest[0], {{}}).get("passphrase")
if given[0] != secret:
    failed("ERROR: Authentication failed")

def save():
    json.dump(state, open(os.path.join(place, "state.json"), "w"))

if command == "list-keys":
    print("\\n".join(sorted(state["keys"])))
elif command == "new-key":
    state["keys"][rest[0]] = {{"passphrase": given[1], "users": ["admin"]}}
    save()
    print(open(os.path.join(place, "public.asc")).read(), end="")
elif command == "get-public-key":
    print(open(os.path.join(place, "public.asc")).read(), end="")
elif command == "list-key-users":
    print("\\n".join(state["keys"][rest[0]]["users"]))
elif command == "grant-key-access":
    state["keys"][rest[0]]["users"].append(rest[1])
    save()
elif command == "sign-rpms":
    options = set(word for word in words[4:] if word.startswith("-"))
    if not {{"--store-in-koji", "--koji-only", "--koji-instance=goose"}} <= options:
        failed("ERROR: the options are not those of signing through Koji")
    request = urllib.request.Request("{url}", json.dumps(rest[1:]).encode())
    answer = json.load(urllib.request.urlopen(request))
    if answer["hang"]:
        time.sleep(3600)
    for line in answer["errors"]:
        print(line, file=sys.stderr)
    sys.exit(1 if answer["errors"] else 0)
else:
    sys.exit(2)
'''


class FakeSigul:
    """Sigul: a client program in ``place``, and behind it bridge and server, which sign with ``headers``.

    ``headers`` are signature headers that were made before, by NVRA: what is looked at here is not GnuPG.
    """

    def __init__(self, place: Path, hub: SigningHub, headers: Mapping[str, bytes], public_key: str) -> None:
        self.place, self.hub, self.headers = place, hub, headers
        self.state: dict[str, Any] = {"bridge": "up", "server": "up", "admin": "admin geheim",
                                      "keys": {"goose-1": {"passphrase": "sigul geheim", "users": ["admin"]}}}  # fmt: skip
        self.corrupt: set[str] = set()
        self.hangs_on: set[str] = set()
        self.each: Callable[[str], None] = lambda nvra: None
        place.mkdir(parents=True)
        (place / "public.asc").write_text(public_key)
        self.save()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()
        self.program = place / "sigul"
        self.program.write_text(_SIGUL.format(url=f"http://127.0.0.1:{self.server.server_address[1]}/"))
        self.program.chmod(0o755)

    def save(self, **state: Any) -> None:
        self.state = {**(json.loads((self.place / "state.json").read_text()) if (self.place / "state.json").exists()
                         else self.state), **state}  # fmt: skip
        (self.place / "state.json").write_text(json.dumps(self.state))

    @property
    def calls(self) -> list[dict[str, Any]]:
        path = self.place / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def batches(self) -> list[int]:
        """How many RPMs each `sign-rpms` was given."""
        return [len(call["argv"]) - 8 for call in self.calls if "sign-rpms" in call["argv"]]

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def sign(self, nvras: Sequence[str]) -> dict[str, Any]:
        """Sign a batch, with Sigul's habits: what follows an RPM that fails in the bridge or server gets no reply."""
        errors: list[str] = []
        unanswered = False
        for nvra in nvras:
            if nvra in self.hangs_on:
                return {"errors": [], "hang": True}
            if unanswered:
                errors.append(f"ERROR: Error signing {nvra}: No reply from server received")
                continue
            self.each(nvra)
            try:
                if nvra in self.corrupt:
                    raise Fault("corrupt")
                with self.hub.lock:
                    row = self.hub._rpm(nvra)
                    self.hub.do_addRPMSig(row["id"], base64.b64encode(self.headers[nvra]).decode())
            except Fault as fault:
                unanswered = True
                if fault.code == 1000 and "corrupt" not in str(fault):
                    errors.append(f"ERROR: Error signing {nvra}: No reply from server received")
                else:
                    return {"errors": ["ERROR: I/O error: corrupt RPM"], "hang": False}
        return {"errors": errors, "hang": False}

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        sigul = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answer = json.dumps(sigul.sign(body)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        return Handler


def kill_at(hub: SigningHub, pid: Callable[[], int], request: int, when: str) -> None:
    """Kill the client with -9 when its request of this number comes, or before it is answered."""
    seen = 0

    def count(method: str) -> None:
        nonlocal seen
        seen += 1
        if seen == request:
            os.kill(pid(), signal.SIGKILL)

    setattr(hub, when, count)
