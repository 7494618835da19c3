"""The upload endpoint: called as mod_wsgi calls it, and by rpkg's own client over a loopback connection."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import random
import re
import signal
import stat
import subprocess
import sys
import threading
import time
import tracemalloc
import wsgiref.simple_server
from collections.abc import Callable, Iterator
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any

import pytest

import rpkg_client
from goose import lookaside, lookaside_upload
from goose.lookaside import Archive, Config, ConfigError, Store
from goose.lookaside_upload import KojiPermissions, Refused, Upload

CONTENT = b"not really a tarball\r\n\r\n--" * 1000
BOUNDARY = b"------------------------d74496d66958873e"
ALICE = {"SSL_CLIENT_VERIFY": "SUCCESS", "SSL_CLIENT_S_DN_CN": "alice"}


def sha512(content: bytes) -> str:
    return hashlib.sha512(content).hexdigest()


def part(header: bytes, value: bytes) -> bytes:
    return b"--" + BOUNDARY + b"\r\nContent-Disposition: form-data; " + header + b"\r\n\r\n" + value + b"\r\n"


def form(*fields: tuple[str, Any], end: bytes = b"--" + BOUNDARY + b"--\r\n") -> bytes:
    """A form as curl writes it; a pair as value is a file: name and content."""
    body = b""
    for name, value in fields:
        if isinstance(value, tuple):
            body += part(f'name="{name}"; filename="{value[0]}"'.encode(), value[1])
        else:
            body += part(f'name="{name}"'.encode(), str(value).encode())
    return body + end


class Cache:
    """A cache with its application, and requests to it."""

    def __init__(self, path: Path, **settings: Any) -> None:
        for name in ("archives", "incoming"):
            (path / name).mkdir(parents=True, exist_ok=True)
        self.path = path
        self.store = Store(path)
        self.config = Config(**{"path": path, "uploaders": ("alice",), **settings})
        self.permissions: dict[str, frozenset[str]] = {}
        self.app = Upload(self.config, lambda user: self.permissions.get(user, frozenset()))
        self.log = io.StringIO()

    def request(self, body: bytes | Any, length: int | None = None, **environ: Any) -> tuple[int, str]:
        """Status and text of the answer."""
        told: list[str] = []
        stream = io.BytesIO(body) if isinstance(body, bytes) else body
        whole = {
            "REQUEST_METHOD": "POST",
            "CONTENT_TYPE": f"multipart/form-data; boundary={BOUNDARY.decode()}",
            "CONTENT_LENGTH": str(len(body) if length is None else length),
            "wsgi.input": stream,
            "wsgi.errors": self.log,
            **ALICE,
            **environ,
        }
        answer = b"".join(self.app(whole, lambda status, headers: told.append(status)))
        return int(told[0].split()[0]), answer.decode()

    def send(self, *fields: tuple[str, Any], **environ: Any) -> tuple[int, str]:
        return self.request(form(*fields), **environ)

    def files(self) -> dict[str, bytes]:
        return {str(p.relative_to(self.path)): p.read_bytes() for p in self.path.rglob("*") if p.is_file()}

    def paths(self) -> set[str]:
        """Everything below the cache, empty directories too."""
        return {str(p.relative_to(self.path)) for p in self.path.rglob("*")}


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "lookaside")


def good(content: bytes = CONTENT, name: str = "rpms/bash", filename: str = "bash-5.2.tar.gz") -> list[tuple[str, Any]]:
    return [("name", name), ("sha512sum", sha512(content)), ("file", (filename, content)), ("mtime", "1600000000")]


# What works


def test_send_and_ask(cache: Cache) -> None:
    """The layout is that of dist-git; what is there cannot be written, and is dated as at the packager's."""
    ask = ("name", "rpms/bash"), ("sha512sum", sha512(CONTENT)), ("filename", "bash-5.2.tar.gz")
    assert cache.send(*ask) == (200, "Missing")
    assert cache.send(*good()) == (200, "bash-5.2.tar.gz was stored.\n")
    path = f"archives/rpms/bash/bash-5.2.tar.gz/sha512/{sha512(CONTENT)}/bash-5.2.tar.gz"
    assert cache.files() == {path: CONTENT}
    about = (cache.path / path).stat()
    assert stat.S_IMODE(about.st_mode) == 0o444
    assert about.st_mtime == 1600000000
    assert about.st_nlink == 1
    assert cache.send(*ask) == (200, "Available")
    assert "alice stored rpms/bash/" in cache.log.getvalue()


def test_asking_makes_an_archive_young(cache: Cache) -> None:
    """Whoever is told that it is there will name it soon: lookaside_fsck.py must not remove it before."""
    cache.send(*good())
    archive = Archive("rpms/bash", "bash-5.2.tar.gz", "sha512", sha512(CONTENT))
    before = cache.store.path(archive).stat()
    time.sleep(0.02)
    cache.send(("name", archive.name), ("sha512sum", archive.hash), ("filename", archive.filename))
    after = cache.store.path(archive).stat()
    assert after.st_ctime > before.st_ctime
    assert after.st_mtime == before.st_mtime


def test_never_overwrites(cache: Cache) -> None:
    """The same again is no error, and the truth; the file that is there stays the one that it was."""
    cache.send(*good())
    path = cache.path / next(iter(cache.files()))
    inode = path.stat().st_ino
    assert cache.send(*good()) == (200, "bash-5.2.tar.gz was there already, with the same content.\n")
    assert path.stat().st_ino == inode
    assert len(cache.files()) == 1


@pytest.mark.parametrize(
    "content", [b"", b"\r", b"\n", b"\r\n" * 3, b"\r\n--" + BOUNDARY[:-1], b"x\r", b"\n" + b"0" * 70000]
)
def test_contents_that_look_like_a_boundary(cache: Cache, content: bytes) -> None:
    assert cache.send(*good(content))[0] == 200
    assert list(cache.files().values()) == [content]


def test_chunks_may_end_anywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """werkzeug gave a file a carriage return more where a chunk ended within the boundary's line break."""
    contents = [b"\n" + b"x" * 100, b"\n\r\n--" + BOUNDARY[:7] + b"\r\n", bytes(random.Random(7).choices(b"\r\n-d", k=90))]
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # hundreds of files, and no disk is tried here
    for number, content in enumerate(contents):
        for size in range(1, 150):
            monkeypatch.setattr(lookaside_upload, "_CHUNK", size)
            monkeypatch.setattr(lookaside_upload, "_FORM_BUFFER", 1 << 20)
            cache = Cache(tmp_path / f"{number}-{size}")
            assert cache.send(*good(content))[0] == 200, (content, size)
            assert list(cache.files().values()) == [content]


class Zeros:
    """A body whose file has one line break at its begin, and then none for ``size`` bytes; nothing of it is kept."""

    def __init__(self, size: int) -> None:
        self._hash = hashlib.sha512(b"\n")
        for _ in range(size >> 20):
            self._hash.update(bytes(1 << 20))
        whole = form(*good(b"\n@"))
        self.head, _, self.tail = whole.replace(sha512(b"\n@").encode(), self._hash.hexdigest().encode()).partition(b"@")
        self.length = len(self.head) + size + len(self.tail)
        self._left = size

    def read(self, size: int) -> bytes:
        if self.head:
            found, self.head = self.head[:size], self.head[size:]
            return found
        if self._left:
            size = min(size, self._left)
            self._left -= size
            return bytes(size)
        found, self.tail = self.tail[:size], self.tail[size:]
        return found


def test_memory_stays_flat(cache: Cache) -> None:
    body = Zeros(64 << 20)
    tracemalloc.start()
    try:
        assert cache.request(body, body.length)[0] == 200
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20, f"{peak >> 20} MiB at once"


def test_md5_where_pillar_allows(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "lookaside", hashtypes=("sha512", "md5"))
    digest = hashlib.md5(CONTENT).hexdigest()
    assert cache.send(("name", "bash"), ("md5sum", digest), ("file", ("a.tgz", CONTENT)))[0] == 200
    assert set(cache.files()) == {f"archives/bash/a.tgz/md5/{digest}/a.tgz"}


# What is refused, and leaves nothing


@pytest.mark.parametrize(
    ("fields", "status", "says"),
    [
        ([("sha512sum", sha512(CONTENT)), ("file", ("a", CONTENT))], 400, "The fields name and sha512sum"),
        ([("name", "bash"), ("file", ("a", CONTENT))], 400, "The fields name and sha512sum"),
        ([("file", ("a", CONTENT)), ("name", "bash"), ("sha512sum", sha512(CONTENT))], 400, "before the file"),
        ([("name", "bash"), ("sha512sum", sha512(CONTENT))], 400, "filename .* and file"),
        ([("name", "bash"), ("sha512sum", sha512(CONTENT)), ("file", "no file")], 400, "filename .* and file"),
        ([], 400, "filename .* and file"),
        ([("name", "bash"), ("md5sum", "0" * 32), ("file", ("a", CONTENT))], 400, "md5sum is not taken"),
        ([("name", "bash"), ("md5sum", "x"), ("sha512sum", "x"), ("file", ("a", CONTENT))], 400, "one of them"),
        ([*good()[:1], ("sha512sum", sha512(b"other")), *good()[2:]], 400, "was damaged, or the hash is of another file"),
        ([*good()[:1], ("sha512sum", "abc"), *good()[2:]], 400, "128 lower-case hexadecimal digits"),
        ([*good()[:1], ("sha512sum", "../" * 40 + "12345678"), *good()[2:]], 400, "128 lower-case"),
        ([*good(), ("name", "bash")], 400, "is there twice"),
        ([*good(), ("md5sum", "x")], 400, "one of them"),
        ([*good(), ("filename", "other")], 400, "differ"),
        ([*good(), ("file", ("b", b""))], 400, "a file beside"),
        ([("icon", ("b", b"")), *good()], 400, "a file beside"),
        ([*good()[:3], ("mtime", "yesterday")], 400, "mtime"),
        ([("name", "x" * 5000), *good()[1:]], 400, "longer than 4096"),
    ],
)  # fmt: skip
def test_refused(cache: Cache, fields: list[tuple[str, Any]], status: int, says: str) -> None:
    before = cache.paths()
    found, text = cache.send(*fields)
    assert (found, text[-1:]) == (status, "\n"), text
    assert re.search(says, text), text
    assert cache.paths() == before


NAMES = ["", ".", "..", "../x", "a/../b", "/etc", "a//b", "a/", "rpms/a/b", "other/a", "a\0b", "a b", "-a", ".a", "a..b",
         "a\nb", "a\x7fb", "ä", "a" * 256, "a" * 300, "rpms\\a", "%2e%2e"]  # fmt: skip
FILES = ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\x01b", "a\tb", "a\x1bb", "a\x7f", "a\u0085b", "a" * 256, "a" * 300,
         "ä" * 128, ".htaccess", "a\\b"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_refused(cache: Cache, name: str) -> None:
    before = cache.paths()
    assert cache.send(*good(name=name))[0] == 400
    assert cache.send(("name", name), *good()[1:2], ("filename", "a"))[0] == 400
    assert cache.paths() == before


@pytest.mark.parametrize("filename", [*FILES, 'a"b', "a\0b", "a\r\nb"])
def test_filenames_refused(cache: Cache, filename: str) -> None:
    before = cache.paths()
    asked, text = cache.send(*good()[:2], ("filename", filename))
    assert asked == 400, text
    if '"' not in filename and "\r" not in filename:
        sent, text = cache.send(*good(filename=filename))
        assert sent == 400, text
    assert cache.paths() == before


@pytest.mark.parametrize("filename", ["a", "a b.zip", "a(1).tgz", "ä" * 127, "a" * 255, "a..b", "a%2Fb", "-rf", "sha512"])
def test_filenames_taken(cache: Cache, filename: str) -> None:
    status, text = cache.send(*good(filename=filename))
    assert status == 200, text
    (path,) = (name.partition("/")[2] for name in cache.files())
    assert Archive.at(path) == Archive("rpms/bash", filename, "sha512", sha512(CONTENT))


@pytest.mark.parametrize(
    "environ",
    [
        {"SSL_CLIENT_VERIFY": "NONE", "SSL_CLIENT_S_DN_CN": ""},
        {"SSL_CLIENT_VERIFY": "FAILED:expired"},
        {"SSL_CLIENT_VERIFY": "GENEROUS"},
        {"SSL_CLIENT_S_DN_CN": ""},
        {"SSL_CLIENT_S_DN_CN": "mallory"},
        {"SSL_CLIENT_S_DN_CN": "Alice"},
        {"HTTP_SSL_CLIENT_S_DN_CN": "alice", "SSL_CLIENT_S_DN_CN": "mallory"},
    ],
)
def test_who_may_not(cache: Cache, environ: dict[str, Any]) -> None:
    """Neither send nor ask."""
    before = cache.paths()
    for body in (form(*good()), form(*good()[:2], ("filename", "a"))):
        status, text = cache.request(body, **environ)
        assert status == 403
        assert text.count("\n") == 1
    assert cache.paths() == before


def test_get(cache: Cache) -> None:
    assert cache.request(b"", REQUEST_METHOD="GET")[0] == 405


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=x"]
)
def test_no_form(cache: Cache, kind: str) -> None:
    assert cache.request(form(*good()), CONTENT_TYPE=kind)[0] == 400
    assert not cache.files()


def test_length_unknown(cache: Cache) -> None:
    assert cache.request(form(*good()), CONTENT_LENGTH="")[0] == 411


def test_truncated(cache: Cache) -> None:
    """At every place: the connection ends, or the form does and the length agrees with it."""
    before = cache.paths()
    body = form(*good(b"0123456789"))
    for at in range(len(body) - len(b"--\r\n")):
        for length in (len(body), at):
            status, text = cache.request(body[:at], length)
            assert status == 400, (at, length, text)
            assert cache.paths() == before


def test_truncated_where_mod_wsgi_raises(cache: Cache) -> None:
    class Gone(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if found := super().read(size):
                return found
            raise OSError("Apache/mod_wsgi request data read error: Partial results are valid but processing is incomplete.")

    status, text = cache.request(Gone(form(*good())[:5000]), 50000)
    assert (status, "ended after 5000 of its 50000 bytes" in text) == (400, True)
    assert not cache.files()


def test_endless_header(cache: Cache) -> None:
    """Memory has a limit, in what is no file too."""
    body = b"--" + BOUNDARY + b"\r\nX: " + b"x" * (8 << 20)
    assert cache.request(body)[0] == 400


def test_too_large(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "lookaside", max_size=len(CONTENT) - 1)
    before = cache.paths()
    status, text = cache.send(*good())
    assert (status, "lookaside:max_size" in text) == (413, True)
    assert cache.request(form(*good()), 10**9)[0] == 413
    assert cache.paths() == before
    assert cache.send(*good(CONTENT[:-1]))[0] == 200


def test_room_is_kept_free(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "lookaside", min_free=1 << 60)
    before = cache.paths()
    status, text = cache.send(*good())
    assert (status, "lookaside:min_free" in text) == (507, True)
    assert cache.send(*good()[:2], ("filename", "a")) == (200, "Missing"), "asking needs no room"
    assert cache.paths() == before


@pytest.mark.parametrize("call", ["fsync", "link", "mkdir"])
def test_disk_fails_at_the_end(cache: Cache, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every byte has come, and yet there is no room for a directory's entry; what was made for it goes again."""
    real = getattr(os, call)
    calls = iter(range(100))

    def fail(*args: Any, **kwargs: Any) -> Any:
        if call == "mkdir" and next(calls) < 2:
            return real(*args, **kwargs)
        raise OSError(errno.ENOSPC, "No space left on device")

    before = cache.paths()
    monkeypatch.setattr(os, call, fail)
    assert cache.send(*good())[0] == 507
    monkeypatch.undo()
    assert cache.paths() == before
    assert cache.send(*good())[0] == 200


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", path], check=False).returncode:
        pytest.skip("only root can mount a small disk, and not everywhere")
    yield path
    subprocess.run(["umount", path], check=True)


def test_disk_full(small_disk: Path) -> None:
    cache = Cache(small_disk)
    before = cache.paths()
    body = form(*good(os.urandom(4 << 20)))
    # As when another upload takes the room meanwhile: at the start there was enough.
    cache.app._check_free = lambda length: None  # type: ignore[method-assign]
    status, text = cache.request(body)
    assert (status, "disk is full" in text) == (507, True)
    assert cache.paths() == before
    assert cache.send(*good())[0] == 200


def test_two_at_once(cache: Cache) -> None:
    """One archive, whole, and both are told so; again and again, for the moment that matters is short."""
    for number in range(30):
        content = f"archive {number}".encode() * 1000
        start = threading.Barrier(4)
        answers: list[tuple[int, str]] = []

        def send(content: bytes = content, start: threading.Barrier = start, into: list[Any] = answers) -> None:
            start.wait()
            into.append(cache.send(*good(content)))

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        told = [text.partition(" was ")[2] for status, text in answers if status == 200]
        assert sorted(told) == ["stored.\n"] + ["there already, with the same content.\n"] * 3
        archive = Archive("rpms/bash", "bash-5.2.tar.gz", "sha512", sha512(content))
        assert cache.store.path(archive).read_bytes() == content
    assert len(cache.files()) == 30


def test_killed(cache: Cache) -> None:
    """kill -9 at twenty moments of an upload: an archive is there whole or not at all, and comes the next time."""
    content = os.urandom(3 << 20)
    config = cache.path / "config.json"
    config.write_text(json.dumps({"path": str(cache.path), "uploaders": ["alice"]}))
    program = (
        "import sys,pathlib; sys.path.insert(0,sys.argv[1]); from goose import lookaside_upload as u\n"
        "u._CHUNK=65536\n"
        "app=u.make(pathlib.Path(sys.argv[2])); print('ready',flush=True)\n"
        "e={'REQUEST_METHOD':'POST','CONTENT_TYPE':sys.argv[3],'CONTENT_LENGTH':sys.argv[4],'wsgi.input':sys.stdin.buffer,"
        "'wsgi.errors':sys.stderr,'SSL_CLIENT_VERIFY':'SUCCESS','SSL_CLIENT_S_DN_CN':'alice'}\n"
        "print(b''.join(app(e,lambda s,h:print(s))))"
    )
    archive = Archive("rpms/bash", "bash-5.2.tar.gz", "sha512", sha512(content))
    body = form(*good(content))
    kind = f"multipart/form-data; boundary={BOUNDARY.decode()}"
    scripts = str(Path(lookaside.__file__).parents[1])
    command = [sys.executable, "-c", program, scripts, str(config), kind, str(len(body))]
    rng = random.Random(3)
    for _ in range(20):
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
            assert child.stdin and child.stdout and child.stdout.readline() == b"ready\n"
            child.stdin.write(body[: rng.randrange(len(body))])
            child.stdin.flush()
            time.sleep(rng.random() * 0.02)
            child.send_signal(signal.SIGKILL)
        path = cache.store.path(archive)
        assert not path.exists() or path.read_bytes() == content
        assert all(Archive.at(found) for found in cache.store.walk())
    # Left where nobody sees it, and where systemd-tmpfiles removes it.
    assert list((cache.path / "incoming").iterdir())
    assert cache.request(body)[0] == 200
    assert cache.store.path(archive).read_bytes() == content


# Koji's permissions


class Hub:
    """As much of a hub as is asked."""

    def __init__(self) -> None:
        self.users = {
            "bob": {"name": "bob", "status": 0, "usertype": 0},
            "gone": {"name": "gone", "status": 1, "usertype": 0},
            "builder1": {"name": "builder1", "status": 0, "usertype": 1},
            "bob@EXAMPLE": {"name": "bob", "status": 0, "usertype": 0},
        }
        self.calls = 0
        self.down = False

    def getUser(self, name: str) -> Any:
        self.calls += 1
        if self.down:
            raise OSError("Connection refused")
        return self.users.get(name)

    def getUserPerms(self, name: str) -> list[str]:
        return ["build", "tag"]


def test_koji_permission(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "lookaside", koji_permission="build")
    cache.permissions = {"bob": frozenset({"build"}), "root": frozenset({"admin"}), "tom": frozenset({"tag"})}
    assert cache.send(*good(), SSL_CLIENT_S_DN_CN="bob")[0] == 200
    assert cache.send(*good(), SSL_CLIENT_S_DN_CN="root")[0] == 200
    status, text = cache.send(*good(), SSL_CLIENT_S_DN_CN="tom")
    assert (status, "the permission build in Koji" in text) == (403, True)
    assert cache.send(*good())[0] == 200, "pillar's own are not asked about"


def test_koji_is_not_asked_by_default(cache: Cache) -> None:
    cache.permissions = {"bob": frozenset({"build", "admin"})}
    assert cache.send(*good(), SSL_CLIENT_S_DN_CN="bob")[0] == 403


def test_hub_is_asked_and_remembered() -> None:
    now = [0.0]
    hub = Hub()
    permissions = KojiPermissions(hub, 60, lambda: now[0])
    assert permissions("bob") == permissions("bob") == {"build", "tag"}
    assert hub.calls == 1
    for name in ("gone", "builder1", "nobody", "bob@EXAMPLE"):
        assert permissions(name) == frozenset(), name
    hub.down = True
    assert permissions("bob")
    now[0] = 61
    with pytest.raises(Refused, match="Koji's hub, which knows who may upload, gave no answer") as raised:
        permissions("bob")
    assert raised.value.status == 503


# The configuration


def test_config(tmp_path: Path) -> None:
    path = tmp_path / "lookaside.json"
    path.write_text('{"path": "/srv", "hashtypes": ["sha512"], "repositories": ["/git"]}')
    assert Config.read(path) == Config(path=Path("/srv"), repositories=(Path("/git"),))
    for text in ("", "[]", "{}", '{"path": "/srv", "colour": 1}'):
        path.write_text(text)
        with pytest.raises(ConfigError, match="apply the state lookaside"):
            Config.read(path)


# rpkg's own client, over the network


class Server(ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True


class Handler(wsgiref.simple_server.WSGIRequestHandler):
    """Says who the client is, as mod_ssl does."""

    user = "alice"

    def get_environ(self) -> dict[str, Any]:
        return {**super().get_environ(), "SSL_CLIENT_VERIFY": "SUCCESS", "SSL_CLIENT_S_DN_CN": self.user}

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name
        pass


Client = Callable[..., Any]


@pytest.fixture
def rpkg(cache: Cache) -> Iterator[Client]:
    """Makes a client of the cache, for a user."""
    servers = []

    def make(user: str = "alice", hashtype: str = "sha512") -> Any:
        handler = type("Handler", (Handler,), {"user": user})
        server = wsgiref.simple_server.make_server("127.0.0.1", 0, cache.app, Server, handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        return rpkg_client.client(f"{url}/lookaside", f"{url}/lookaside-upload", hashtype)

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


def test_rpkg(cache: Cache, rpkg: Client, tmp_path: Path) -> None:
    archive = tmp_path / "bash-5.2.tar.gz"
    archive.write_bytes(os.urandom(3 << 20))
    os.utime(archive, (1500000000, 1500000000))
    client = rpkg()
    digest = client.hash_file(str(archive))
    assert client.remote_file_exists("rpms/bash", archive.name, digest) is False
    client.upload("rpms/bash", str(archive), digest)
    assert client.remote_file_exists("rpms/bash", archive.name, digest) is True
    path = cache.path / "archives" / (client.download_path % {
        "name": "rpms/bash", "filename": archive.name, "hashtype": "sha512", "hash": digest,
    })  # fmt: skip
    assert path.read_bytes() == archive.read_bytes()
    assert path.stat().st_mtime == 1500000000
    with pytest.raises(rpkg_client.errors().AlreadyUploadedError):
        client.upload("rpms/bash", str(archive), digest)


def test_rpkg_is_refused(cache: Cache, rpkg: Client, tmp_path: Path) -> None:
    archive = tmp_path / "bash-5.2.tar.gz"
    archive.write_bytes(CONTENT)
    upload_error = rpkg_client.errors().UploadError
    with pytest.raises(upload_error, match="403"):
        rpkg("mallory").upload("rpms/bash", str(archive), sha512(CONTENT))
    with pytest.raises(upload_error, match="400"):
        rpkg().upload("rpms/bash", str(archive), sha512(b"other"))
    with pytest.raises(upload_error, match="400"):
        rpkg(hashtype="md5").upload("rpms/bash", str(archive), hashlib.md5(CONTENT).hexdigest())
    assert not cache.files()
