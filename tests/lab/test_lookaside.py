"""The lookaside cache of the lab: rpkg's own client over the network, and all that must be refused."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import ssl
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import rpkg_client
from estate import kill_uploads
from goose.lab import client as lab_client
from goose.lab import lab as labs
from goose.lab.host import Host

BOUNDARY = "----------------------------lookaside"
NAME = "rpms/lab-test"


def sha512(content: bytes) -> str:
    return hashlib.sha512(content).hexdigest()


@pytest.fixture(scope="module")
def cache(lab: labs.Lab) -> Host:
    return lab.need_role("lookaside")


@pytest.fixture(scope="module")
def path(cache: Host) -> Path:
    """The cache's directory, as this machine sees it."""
    config = json.loads((cache.root / "etc/goose/lookaside.json").read_text())
    return Path(cache.root / config["path"].lstrip("/"))


@pytest.fixture(scope="module", autouse=True)
def clean(path: Path) -> Iterator[None]:
    """What these tests upload goes again."""
    yield
    subprocess.run(["rm", "-rf", str(path / "archives" / NAME)], check=True)


@pytest.fixture(scope="module")
def alice(client: Path) -> Path:
    """A user who may upload: kojiadmin, by the permission in Koji."""
    return client / "client.pem"


@pytest.fixture(scope="module")
def mallory(lab: labs.Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person with a good certificate, and nothing else."""
    directory = tmp_path_factory.mktemp("mallory")
    key = subprocess.run(
        ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    request = subprocess.run(
        ["openssl", "req", "-new", "-key", "/dev/stdin", "-subj", "/CN=mallory"],
        check=True, capture_output=True, text=True, input=key,
    ).stdout  # fmt: skip
    pair = directory / "client.pem"
    pair.touch(mode=0o600)
    pair.write_text(lab_client.sign(lab, "mallory", request) + key)
    return pair


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of another CA, with a name that may upload."""
    directory = tmp_path_factory.mktemp("stranger")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/O=GoOSe/CN=kojiadmin",
         "-keyout", str(directory / "key"), "-out", str(directory / "crt")],
        check=True, capture_output=True,
    )  # fmt: skip
    pair = directory / "client.pem"
    pair.write_text((directory / "crt").read_text() + (directory / "key").read_text())
    return pair


@pytest.fixture(scope="module")
def rpkg(lab: labs.Lab) -> Callable[..., Any]:
    """Makes a client of the lab's cache with a certificate."""

    def make(cert: Path | None, hashtype: str = "sha512") -> Any:
        services = lab.services()
        return rpkg_client.client(services["lookaside"], services["lookaside-upload"], hashtype, cert, lab.ca_path())

    return make


def form(*fields: tuple[str, Any]) -> bytes:
    body = b""
    for name, value in fields:
        more, content = (f'; filename="{value[0]}"', value[1]) if isinstance(value, tuple) else ("", value.encode())
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
        body += head.encode() + content + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


Post = Callable[..., "tuple[int, str]"]


@pytest.fixture(scope="module")
def post(lab: labs.Lab) -> Post:
    """Sends a body to the upload endpoint, all of it or a part; status and text, 0 where the connection ended."""
    url = urllib.parse.urlsplit(lab.services()["lookaside-upload"])

    def send(cert: Path | None, body: bytes, length: int | None = None) -> tuple[int, str]:
        context = ssl.create_default_context(cafile=str(lab.ca_path()))
        if cert is not None:
            context.load_cert_chain(cert)
        connection = http.client.HTTPSConnection(url.hostname or "", context=context, timeout=60)
        headers = {
            "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
            "Content-Length": str(len(body) if length is None else length),
        }
        try:
            connection.request("POST", url.path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            return 0, str(error)
        finally:
            connection.close()

    return send


def get(lab: labs.Lab, archive: str, digest: str) -> Any:
    """A GET of an archive by anybody."""
    url = f"{lab.services()['lookaside']}/{NAME}/{archive}/sha512/{digest}/{archive}"
    return urllib.request.urlopen(url, timeout=60, context=ssl.create_default_context(cafile=str(lab.ca_path())))


def tree(path: Path) -> set[str]:
    """Everything in the cache."""
    return {str(found.relative_to(path)) for found in path.rglob("*")}


def test_upload_and_download(
    lab: labs.Lab, rpkg: Callable[..., Any], alice: Path, path: Path, tmp_path: Path
) -> None:
    """More than Apache takes into memory, over TLS with a client's certificate, by rpkg as packagers have it."""
    archive = tmp_path / "big.tar.xz"
    archive.write_bytes(os.urandom(120 << 20))
    client = rpkg(alice)
    digest = client.hash_file(str(archive))
    client.upload(NAME, str(archive), digest)
    assert client.remote_file_exists(NAME, archive.name, digest)
    with pytest.raises(rpkg_client.errors().AlreadyUploadedError):
        client.upload(NAME, str(archive), digest)
    with get(lab, archive.name, digest) as answer:
        assert "immutable" in answer.headers["Cache-Control"]
        assert hashlib.sha512(answer.read()).hexdigest() == digest
    assert not list((path / "incoming").iterdir())
    stored = path / "archives" / NAME / archive.name / "sha512" / digest / archive.name
    assert stored.stat().st_mode & 0o777 == 0o444


def test_refused_by_who_it_is(
    post: Post, rpkg: Callable[..., Any], alice: Path, mallory: Path, stranger: Path, path: Path, tmp_path: Path
) -> None:
    """No certificate, one of another CA, one of a person who may not; each with what the right one is given for."""
    content = b"who"
    body = form(("name", NAME), ("sha512sum", sha512(content)), ("file", ("who.tgz", content)))
    before = tree(path)
    status, text = post(None, body)
    assert status == 403 and "certificate" in text
    assert post(stranger, body)[0] in (0, 403)
    status, text = post(mallory, body)
    assert status == 403 and text.startswith("mallory may not upload")
    archive = tmp_path / "who.tgz"
    archive.write_bytes(content)
    for cert in (None, mallory):
        with pytest.raises(rpkg_client.errors().UploadError, match="403"):
            rpkg(cert).upload(NAME, str(archive), sha512(content))
    assert tree(path) == before
    assert post(alice, body)[0] == 200


REFUSED: list[tuple[str, list[tuple[str, Any]]]] = [
    ("wrong hash", [("name", NAME), ("sha512sum", sha512(b"other")), ("file", ("a.tgz", b"content"))]),
    ("hash type", [("name", NAME), ("md5sum", "0" * 32), ("file", ("a.tgz", b"content"))]),
    ("no name", [("sha512sum", sha512(b"content")), ("file", ("a.tgz", b"content"))]),
    ("no hash", [("name", NAME), ("file", ("a.tgz", b"content"))]),
    ("no file", [("name", NAME), ("sha512sum", sha512(b"content"))]),
    *[
        (f"name {name!r:.20}", [("name", name), ("sha512sum", sha512(b"content")), ("file", ("a.tgz", b"content"))])
        for name in ("..", "../x", "rpms/../x", "/etc", "a\0b", "a\x01b", "a" * 300)
    ],
    *[
        (f"file {name!r:.20}", [("name", NAME), ("sha512sum", sha512(b"content")), ("file", (name, b"content"))])
        for name in ("..", "../x", "a/b", "a\0b", "a\x01b", "a" * 300)
    ],
]


@pytest.mark.parametrize(("what", "fields"), REFUSED, ids=[what for what, _ in REFUSED])
def test_refused(post: Post, alice: Path, path: Path, what: str, fields: list[tuple[str, Any]]) -> None:
    before = tree(path)
    status, text = post(alice, form(*fields))
    assert status == 400, text
    assert text.count("\n") == 1 and len(text) < 1000, "one sentence"
    assert tree(path) == before


def test_truncated(post: Post, alice: Path, path: Path) -> None:
    """The form ends early, and its length agrees."""
    before = tree(path)
    body = form(("name", NAME), ("sha512sum", sha512(b"content")), ("file", ("a.tgz", b"content")))
    assert post(alice, body[:-40])[0] == 400
    assert tree(path) == before


def test_client_goes_away(lab: labs.Lab, alice: Path, path: Path) -> None:
    """The connection ends in the middle of an archive: nothing of it stays."""
    before = tree(path)
    url = urllib.parse.urlsplit(lab.services()["lookaside-upload"])
    context = ssl.create_default_context(cafile=str(lab.ca_path()))
    context.load_cert_chain(alice)
    connection = http.client.HTTPSConnection(url.hostname or "", context=context, timeout=60)
    connection.putrequest("POST", url.path)
    connection.putheader("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")
    connection.putheader("Content-Length", str(1 << 30))
    connection.endheaders()
    connection.send(form(("name", NAME), ("sha512sum", "0" * 128), ("file", ("gone.tgz", bytes(8 << 20))))[:-60])
    connection.close()
    for _ in range(100):
        if tree(path) == before:
            break
        threading.Event().wait(0.2)
    assert tree(path) == before


def test_too_large(
    rpkg: Callable[..., Any], post: Post, alice: Path, cache: Host, path: Path, tmp_path: Path
) -> None:
    """What is announced is enough: nobody sends gigabytes to be told so."""
    most = json.loads((cache.root / "etc/goose/lookaside.json").read_text())["max_size"]
    archive = tmp_path / "huge.tgz"
    with archive.open("wb") as stream:
        stream.truncate(most + (1 << 20))
    before = tree(path)
    received = interface_bytes(cache)
    with pytest.raises(rpkg_client.errors().UploadError, match="413"):
        rpkg(alice).upload(NAME, str(archive), sha512(b""))
    assert interface_bytes(cache) - received < 64 << 20
    body = form(("name", NAME), ("sha512sum", sha512(b"")), ("file", ("huge.tgz", bytes(1 << 20))))
    status, text = post(alice, body, most + (2 << 20))
    assert (status, "lookaside:max_size" in text) in ((413, True), (0, False)), text
    assert tree(path) == before


def interface_bytes(host: Host) -> int:
    """What a host has received."""
    return int(host.run(["cat", "/sys/class/net/host0/statistics/rx_bytes"]).stdout)


def test_two_at_once(lab: labs.Lab, post: Post, alice: Path, path: Path) -> None:
    content = os.urandom(4 << 20)
    body = form(("name", NAME), ("sha512sum", sha512(content)), ("file", ("two.tgz", content)))
    answers: list[tuple[int, str]] = []
    threads = [threading.Thread(target=lambda: answers.append(post(alice, body))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = sorted(text.partition(" was ")[2].strip() for _, text in answers)
    assert told == ["stored.", *["there already, with the same content."] * 3], answers
    with get(lab, "two.tgz", sha512(content)) as answer:
        assert answer.read() == content
    assert len(list((path / "archives" / NAME / "two.tgz" / "sha512").iterdir())) == 1


def test_killed(lab: labs.Lab, cache: Host, post: Post, alice: Path, path: Path) -> None:
    """kill -9 of the program with an upload under way: no half archive is visible, and the next one succeeds."""
    content = os.urandom(32 << 20)
    body = form(("name", NAME), ("sha512sum", sha512(content)), ("file", ("killed.tgz", content)))
    for _ in range(3):
        sender = threading.Thread(target=post, args=(alice, body))
        sender.start()
        threading.Event().wait(0.15)
        kill_uploads(cache)
        sender.join()
        try:
            with get(lab, "killed.tgz", sha512(content)) as answer:
                assert answer.read() == content
        except urllib.error.HTTPError as error:
            assert error.code == 404
    for _ in range(50):
        if post(alice, body)[0] == 200:
            break
        threading.Event().wait(0.5)
    with get(lab, "killed.tgz", sha512(content)) as answer:
        assert answer.read() == content
    for left in (path / "incoming").iterdir():
        left.unlink()


def test_fsck_finds_a_flipped_bit_and_repairs_it(cache: Host, post: Post, alice: Path, path: Path) -> None:
    """The run-book `a corrupt archive`, with a directory as the mirror."""
    content = os.urandom(1 << 20)
    digest = sha512(content)
    assert post(alice, form(("name", NAME), ("sha512sum", digest), ("file", ("bit.tgz", content))))[0] == 200
    relative = f"{NAME}/bit.tgz/sha512/{digest}/bit.tgz"
    mirror = cache.root / "var/tmp/lookaside-mirror"
    (mirror / relative).parent.mkdir(parents=True)
    (mirror / relative).write_bytes(content)
    stored = path / "archives" / relative
    stored.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    fsck = ["/usr/local/lib/goose/lookaside_fsck.py", "--json", "--from-start"]
    try:
        found = json.loads(cache.run(fsck, check=False).stdout)
        assert found["corrupt"] == [relative]
        mended = json.loads(cache.run([*fsck, "--repair-from", "file:///var/tmp/lookaside-mirror"], check=False).stdout)
        assert (mended["corrupt"], mended["repaired"]) == ([], [relative])
    finally:
        subprocess.run(["rm", "-rf", str(mirror)], check=True)
    assert stored.read_bytes() == content
    owner = cache.run(["stat", "-c", "%U", f"/{stored.relative_to(cache.root)}"]).stdout.strip()
    assert owner == "lookaside"
