"""The lookaside cache as its users see it: is an archive there, fetch it, bring it.

Archives lie at ``URL/<package>/<file>/<hash type>/<hash>/<file>``; uploads follow the CGI protocol
of the library pyrpkg.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import secrets
import ssl
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from goose.sources import Source

# Where the states write the addresses that programs on this host use.
CONFIG = Path("/etc/goose/sources.json")

_BLOCK = 1 << 20
# Seconds without a byte, after which a transfer is given up.
_SILENCE = 60
_TRIES = 3


class LookasideError(Exception):
    """What is wrong and what to do, as a sentence."""


@dataclass(frozen=True)
class Settings:
    """Where the cache is."""

    files: str
    """URL below which archives lie, without a slash at its end."""
    upload: str = ""
    """URL of the upload program; empty where nothing is uploaded."""
    ca: str = ""
    """The CA's certificate; empty for the system's own."""
    cert: str = ""
    """Client certificate and key, in one PEM file."""


def read_settings(path: Path = CONFIG) -> Settings:
    """What the states wrote on this host. Raises `LookasideError`."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Settings(data["files"].rstrip("/"), data.get("upload", ""), data.get("ca", ""))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LookasideError(
            f"{path} does not say where the lookaside cache is ({error}): apply this host's states again."
        ) from error


def location(package: str, source: Source) -> str:
    """The path of an archive below the cache's root; ``package`` carries its namespace, as in rpms/bash."""
    return f"{package}/{source.filename}/{source.hashtype}/{source.hash}/{source.filename}"


def hash_stream(stream: IO[bytes], hashtype: str) -> str:
    """The hash of what is left in ``stream``."""
    digest = hashlib.new(hashtype)
    while block := stream.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


class Lookaside:
    """The cache over HTTPS. An object serves one thread: it keeps its connection."""

    def __init__(self, settings: Settings, sleep: Callable[[float], None] = time.sleep) -> None:
        self._settings = settings
        self._sleep = sleep
        self._connections: dict[tuple[str, str], http.client.HTTPConnection] = {}

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._settings.ca or None)
        if self._settings.cert:
            try:
                context.load_cert_chain(self._settings.cert)
            except (OSError, ssl.SSLError) as error:
                raise LookasideError(
                    f"The client certificate {self._settings.cert} cannot be used ({error}): give a PEM file that"
                    " holds certificate and key."
                ) from error
        return context

    def _connection(self, url: urllib.parse.SplitResult) -> http.client.HTTPConnection:
        key = (url.scheme, url.netloc)
        if key not in self._connections:
            if url.scheme == "https":
                self._connections[key] = http.client.HTTPSConnection(
                    url.netloc, timeout=_SILENCE, context=self._context()
                )
            else:
                self._connections[key] = http.client.HTTPConnection(url.netloc, timeout=_SILENCE)
        return self._connections[key]

    def _ask(
        self,
        method: str,
        address: str,
        body: Callable[[], Iterator[bytes]] | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, http.client.HTTPResponse, http.client.HTTPConnection]:
        """One request; tried again where the network failed or the server was out of order."""
        url = urllib.parse.urlsplit(address)
        target = url.path + (f"?{url.query}" if url.query else "")
        for remaining in reversed(range(_TRIES)):
            connection = self._connection(url)
            try:
                # The program's own header tells the server's log who asks.
                connection.request(
                    method, target, body=body() if body else None,
                    headers={"User-Agent": "goose-sources", **(headers or {})},
                )  # fmt: skip
                response = connection.getresponse()
                if response.status < 500 or not remaining:
                    return response.status, response, connection
                response.read()
                reason = f"it answered {response.status}"
            except (OSError, http.client.HTTPException) as error:
                reason = str(error) or type(error).__name__
                if isinstance(error, ssl.SSLCertVerificationError) or not remaining:
                    self.close()
                    raise LookasideError(f"The lookaside cache at {address} does not answer: {reason}.") from error
            self.close()
            self._sleep(2 ** (_TRIES - 1 - remaining))
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def url(self, package: str, source: Source) -> str:
        """Where an archive is."""
        return f"{self._settings.files}/{urllib.parse.quote(location(package, source))}"

    def has(self, package: str, source: Source) -> bool:
        """Whether the cache holds an archive. Raises `LookasideError` where it does not say."""
        address = self.url(package, source)
        status, response, _ = self._ask("HEAD", address)
        response.read()
        if status not in (200, 404, 410):
            raise LookasideError(f"The lookaside cache answers {status} for {address}: look at its server's log.")
        return status == 200

    def fetch(self, package: str, source: Source, into: IO[bytes]) -> None:
        """Write an archive to ``into``, an empty file. Raises `LookasideError`, also where the hash is wrong."""
        address = self.url(package, source)
        for remaining in reversed(range(_TRIES)):
            into.seek(0)
            into.truncate()
            status, response, _ = self._ask("GET", address)
            if status == 404:
                response.read()
                raise LookasideError(
                    f"The lookaside cache does not hold {source.filename} with this hash ({address}): bring it with"
                    f" `goosepkg new-sources {source.filename}`, and commit `sources`."
                )
            if status != 200:
                response.read()
                raise LookasideError(f"The lookaside cache answers {status} for {address}: look at its server's log.")
            digest = hashlib.new(source.hashtype)
            try:
                while block := response.read(_BLOCK):
                    digest.update(block)
                    into.write(block)
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise LookasideError(f"There is no room for {source.filename}: {error.strerror}.") from error
                if not remaining:
                    raise LookasideError(f"{address} broke off: {error}.") from error
                self._sleep(2 ** (_TRIES - 1 - remaining))
                continue
            into.flush()
            if digest.hexdigest() != source.hash:
                self.close()
                raise LookasideError(
                    f"{address} is not what `sources` says: its {source.hashtype} hash is {digest.hexdigest()}. The"
                    " archive in the cache is damaged: tell the administrators."
                )
            return
        raise AssertionError("unreachable")

    def put(self, package: str, source: Source, path: Path) -> bool:
        """Bring an archive; False where it was there. Raises `LookasideError` where the cache refuses it."""
        if self.has(package, source):
            return False
        boundary = secrets.token_hex(16)
        fields = {"name": package, f"{source.hashtype}sum": source.hash, "mtime": str(int(path.stat().st_mtime))}
        head = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in fields.items()
        )
        quoted = source.filename.replace('"', "%22")
        head += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{quoted}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        begin, end = head.encode(), f"\r\n--{boundary}--\r\n".encode()
        length = len(begin) + path.stat().st_size + len(end)

        def body() -> Iterator[bytes]:
            yield begin
            with path.open("rb") as stream:
                while block := stream.read(_BLOCK):
                    yield block
            yield end

        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}", "Content-Length": str(length)}
        status, response, _ = self._ask("POST", self._settings.upload, body, headers)
        text = response.read().decode("utf-8", "replace").strip()
        if status != 200:
            text = text[:300] or "it gives no reason."
            raise LookasideError(f"The lookaside cache refuses {source.filename} of {package} ({status}): {text}")
        return True
