"""The lookaside cache's upload endpoint, a WSGI application: the protocol of rpkg's CGI client.

A POST with the form's fields ``name``, ``sha512sum`` and ``filename`` asks: the answer is ``Available`` or
``Missing``. One with ``name``, ``sha512sum`` and then the file ``file`` sends. ``mtime`` (seconds since the
epoch) may be given with the file. All else is answered with a sentence and a status of HTTP:

===  ==========================================================================================
200  stored, or there already with the content that was sent
400  a field is missing or bad, the hash is another, or the body is not whole
403  no certificate of the project's CA, or a user who may not upload
405  no POST
411  a body whose length is not said
413  larger than this cache takes
500  the disk or the program failed
503  the Koji hub did not say what the user may do
507  no room
===  ==========================================================================================

Apache has checked the certificate, and says whose it is in the environment (``SSLOptions +StdEnvVars``).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import ssl
import time
import xmlrpc.client
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Any, Callable

from werkzeug.exceptions import HTTPException
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import NEED_DATA, Data, Epilogue, Field, File, MultipartDecoder

from goose.lookaside import (
    CONFIG,
    Archive,
    BadName,
    Config,
    Partial,
    Store,
    check_filename,
    check_hash,
    check_name,
)

# Bytes that are taken from the body at once.
_CHUNK = 1 << 18
# Chunks that hashing may be behind.
_AHEAD = 16
# Bytes of a form that are in memory at once: the decoder refuses more.
_FORM_BUFFER = 1 << 21
# Bytes that a form may have beside its file: fields, headers and boundaries; and bytes of one field.
_FORM = 1 << 16
_FIELD = 4096
# Free space is looked at again after so many bytes.
_LOOK_AGAIN = 1 << 26

_NOTHING = "Nothing was stored."

StartResponse = Callable[[str, "list[tuple[str, str]]"], Any]
Permissions = Callable[[str], "frozenset[str]"]


class Refused(Exception):
    """The request is not fulfilled: the status, and why in a sentence."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def bad(sentence: str) -> Refused:
    """A `Refused` for a request that is wrong in itself."""
    return Refused(HTTPStatus.BAD_REQUEST, sentence)


class _Decoder(MultipartDecoder):
    """Werkzeug's decoder, which is told better how much of a file may already belong to a boundary.

    Its own answer keeps everything since the last line break, without bound, in 2.0.3 (EL9); and in all
    versions it takes a carriage return at a chunk's end for the file's when the boundary's begins with it.
    """

    def last_newline(self, data: bytes | None = None) -> int:
        """Where in ``data`` (the buffer, in versions before 2.3) the start of a boundary may lie; its end otherwise."""
        data = self.buffer if data is None else data
        boundary = b"--" + self.boundary
        # With the boundary in the buffer, the line that it is on is not at its end yet.
        most = len(boundary) + (8 if boundary in data else 1)
        start = max(0, len(data) - most)
        breaks = [at for at in (data.find(b"\r", start), data.find(b"\n", start)) if at >= 0]
        return min(breaks, default=len(data))


class KojiPermissions:
    """What users may do in Koji, as the hub tells anybody; remembered for ``seconds``."""

    def __init__(
        self, hub: Any, seconds: float = 60, clock: Callable[[], float] = time.monotonic, most: int = 1000
    ) -> None:
        self._hub, self._seconds, self._clock, self._most = hub, seconds, clock, most
        self._known: dict[str, tuple[float, frozenset[str]]] = {}

    def __call__(self, user: str) -> frozenset[str]:
        """The permissions of ``user``; none where Koji knows no such user, or has disabled it."""
        now = self._clock()
        when, found = self._known.get(user, (0.0, frozenset()))
        if user in self._known and now - when < self._seconds:
            return found
        try:
            about = self._hub.getUser(user)
            # The hub also finds a user by a Kerberos name. Status 0 is enabled; usertype 0 a person.
            good = about and about["name"] == user and about["status"] == 0 and about["usertype"] == 0
            found = frozenset(self._hub.getUserPerms(user) if good else ())
        except (OSError, xmlrpc.client.Error, KeyError, TypeError) as error:
            raise Refused(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"Koji's hub, which knows who may upload, gave no answer ({error}): try again.",
            ) from error
        if len(self._known) >= self._most:
            self._known.clear()
        self._known[user] = (now, found)
        return found


class _Transport(xmlrpc.client.SafeTransport):
    """HTTPS that gives up after some seconds."""

    def make_connection(self, host: Any) -> Any:
        connection = super().make_connection(host)
        connection.timeout = 20
        return connection


class _Hub:
    """A hub with a connection for each call: calls come from several threads."""

    def __init__(self, url: str, serverca: str) -> None:
        self._url, self._serverca = url, serverca

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            transport = _Transport(context=ssl.create_default_context(cafile=self._serverca))
            with xmlrpc.client.ServerProxy(self._url, transport=transport, allow_none=True) as hub:
                return getattr(hub, method)(*args)

        return call


class Upload:
    """The application.

    Args:
        permissions: what a user may do in Koji; only asked where the configuration names a permission.
    """

    def __init__(self, config: Config, permissions: Permissions) -> None:
        self._config = config
        self._permissions = permissions
        self._store = Store(config.path)

    def __call__(self, environ: Mapping[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        try:
            status, text = HTTPStatus.OK, self._answer(environ)
        except Refused as error:
            status, text = error.status, f"{error}\n"
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                status, text = HTTPStatus.INSUFFICIENT_STORAGE, f"The cache's disk is full. {_NOTHING}\n"
            else:
                status, text = HTTPStatus.INTERNAL_SERVER_ERROR, f"The cache's disk failed ({error}). {_NOTHING}\n"
        if status is not HTTPStatus.OK:
            user = environ.get("SSL_CLIENT_S_DN_CN", "somebody without a certificate")
            print(f"lookaside: {int(status)} for {user}: {text.strip()}", file=environ["wsgi.errors"])
        body = text.encode()
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            headers.append(("Allow", "POST"))
        start_response(f"{int(status)} {status.phrase}", headers)
        return [body]

    def _answer(self, environ: Mapping[str, Any]) -> str:
        if environ["REQUEST_METHOD"] != "POST":
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "This is where archives are sent to, by POST.")
        user = self._user(environ)
        length = environ.get("CONTENT_LENGTH") or ""
        if not length.isdecimal():
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "The request does not say its length (Content-Length).")
        kind, options = parse_options_header(environ.get("CONTENT_TYPE", ""))
        boundary = str(options.get("boundary") or "")
        if kind != "multipart/form-data" or not re.fullmatch(r"[ -~]{1,200}", boundary):
            raise bad("The request is no form (multipart/form-data with a boundary).")
        events = _events(_Decoder(boundary.encode(), _FORM_BUFFER), _chunks(environ["wsgi.input"], int(length)))
        fields: dict[str, str] = {}
        with contextlib.ExitStack() as stack:
            received = None
            for event in events:
                if isinstance(event, File):
                    if event.name != "file" or received:
                        raise bad("The form has a file beside the one in the field file.")
                    archive = self._archive(fields, event.filename)
                    self._check_room(int(length))
                    received = archive, stack.enter_context(self._store.partial())
                    self._receive(events, *received)
                elif isinstance(event, Field):
                    if not event.name or event.name in fields:
                        raise bad(f"A field has no name, or is there twice: {event.name}.")
                    fields[event.name] = _text(event.name, events)
            if not received:
                return self._ask(fields)
            # Again, with the fields that came after the file.
            if self._archive(fields, fields.get("filename", archive.filename)) != archive:
                raise bad("The field filename and the file's own name differ.")
            stored = self._store.publish(received[1], archive, _mtime(fields))
        print(f"lookaside: {user} {'stored' if stored else 'sent again'} {archive.path}", file=environ["wsgi.errors"])
        if not stored:
            self._store.keep(archive)
            return f"{archive.filename} was there already, with the same content.\n"
        return f"{archive.filename} was stored.\n"

    def _ask(self, fields: Mapping[str, str]) -> str:
        if "filename" not in fields:
            raise bad("The fields filename (to ask) and file (to send) are missing: give one, a file as a file.")
        archive = self._archive(fields, fields["filename"])
        if not self._store.has(archive):
            return "Missing"
        self._store.keep(archive)
        return "Available"

    def _user(self, environ: Mapping[str, Any]) -> str:
        """The user whose certificate Apache has verified, if allowed."""
        user = str(environ.get("SSL_CLIENT_S_DN_CN", ""))
        if environ.get("SSL_CLIENT_VERIFY") != "SUCCESS" or not user:
            raise Refused(HTTPStatus.FORBIDDEN, "Uploads need a certificate that the project's CA has signed.")
        permission = self._config.koji_permission
        if user in self._config.uploaders:
            return user
        if permission and {permission, "admin"} & self._permissions(user):
            return user
        how = f", or the permission {permission} in Koji" if permission else ""
        raise Refused(
            HTTPStatus.FORBIDDEN, f"{user} may not upload: that takes an entry in pillar lookaside:uploaders{how}."
        )

    def _archive(self, fields: Mapping[str, str], filename: str | None) -> Archive:
        """The archive that a request is about."""
        sums = [field for field in fields if re.fullmatch(r"[a-z0-9]+sum", field)]
        wanted = " or ".join(f"{hashtype}sum" for hashtype in self._config.hashtypes)
        if "name" not in fields or len(sums) != 1:
            raise bad(f"The fields name and {wanted} (one of them) must be there, before the file where one is sent.")
        hashtype = sums[0][: -len("sum")]
        if hashtype not in self._config.hashtypes:
            raise bad(f"{sums[0]} is not taken here: send {wanted} (pillar lookaside:hashtypes).")
        try:
            check_name(fields["name"], self._config.namespaces)
            check_filename(filename or "")
            check_hash(hashtype, fields[sums[0]])
        except BadName as error:
            raise bad(f"{error} {_NOTHING}") from error
        return Archive(fields["name"], filename or "", hashtype, fields[sums[0]])

    def _check_room(self, length: int) -> None:
        if self._config.max_size and length > self._config.max_size + _FORM:
            raise self._too_large()
        self._check_free(length)

    def _too_large(self) -> Refused:
        size = f"{self._config.max_size / (1 << 20):g} MiB"
        return Refused(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"The archive is larger than {size}, which is the most that this cache takes (pillar lookaside:max_size).",
        )

    def _check_free(self, length: int) -> None:
        disk = os.statvfs(self._store.incoming)
        if disk.f_bavail * disk.f_frsize - length < self._config.min_free:
            kept = f"{self._config.min_free / (1 << 20):g} MiB"
            raise Refused(
                HTTPStatus.INSUFFICIENT_STORAGE,
                f"The cache's disk has no room for it: {kept} are kept free (pillar lookaside:min_free). {_NOTHING}",
            )

    def _receive(self, events: Iterator[Any], archive: Archive, partial: Partial) -> None:
        """Write the file of which `events` are next, and see that it is ``archive``."""
        found = hashlib.new(archive.hashtype)
        size = looked = 0
        # Hashing takes as long as all else together; hashlib lets other threads work meanwhile.
        with ThreadPoolExecutor(1) as hasher:
            hashing: deque[Future[None]] = deque()
            for data in _data(events):
                size += len(data)
                if self._config.max_size and size > self._config.max_size:
                    raise self._too_large()
                if size - looked >= _LOOK_AGAIN:
                    looked = size
                    self._check_free(0)
                hashing.append(hasher.submit(found.update, data))
                partial.stream.write(data)
                if len(hashing) > _AHEAD:
                    hashing.popleft().result()
        partial.stream.flush()
        if found.hexdigest() != archive.hash:
            raise bad(
                f"{archive.filename} came with the {archive.hashtype} {found.hexdigest()}, and {archive.hash} was"
                f" announced: it was damaged, or the hash is of another file. {_NOTHING}"
            )


def _chunks(stream: Any, length: int) -> Iterator[bytes]:
    """The body, which has ``length`` bytes."""
    left = length
    while left:
        try:
            data = stream.read(min(_CHUNK, left))
        except OSError as error:  # mod_wsgi's word for a client that went away
            raise _truncated(length - left, length) from error
        if not data:
            raise _truncated(length - left, length)
        left -= len(data)
        yield data


def _truncated(got: int, length: int) -> Refused:
    return bad(f"The request ended after {got} of its {length} bytes. {_NOTHING}")


def _events(decoder: MultipartDecoder, chunks: Iterator[bytes]) -> Iterator[Any]:
    """What ``decoder`` makes of the body: fields, files and their data."""
    try:
        for chunk in chunks:
            decoder.receive_data(chunk)
            yield from iter(decoder.next_event, NEED_DATA)
        decoder.receive_data(None)
        while not isinstance(event := decoder.next_event(), Epilogue):
            yield event
    except (ValueError, HTTPException) as error:
        raise bad(f"The form is not whole, or is none: its last boundary or a header is missing. {_NOTHING}") from error


def _data(events: Iterator[Any]) -> Iterator[bytes]:
    """The data of one part."""
    for event in events:
        if not isinstance(event, Data):
            break
        yield event.data
        if not event.more_data:
            return
    raise bad(f"The form ends within a part. {_NOTHING}")


def _text(name: str, events: Iterator[Any]) -> str:
    """The value of the field ``name``."""
    value = b""
    for data in _data(events):
        value += data
        if len(value) > _FIELD:
            raise bad(f"The field {name} is longer than {_FIELD} bytes.")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise bad(f"The field {name} is no UTF-8.") from error


def _mtime(fields: Mapping[str, str]) -> float | None:
    value = fields.get("mtime")
    if value is not None and not re.fullmatch(r"[0-9]{1,11}", value):
        raise bad(f"The field mtime is {value!r}: it must be seconds since 1970.")
    return float(value) if value else None


def make(config_path: Path = CONFIG) -> Upload:
    """The application as the configuration says; `goose.lookaside.ConfigError` where that cannot be used."""
    config = Config.read(config_path)
    return Upload(config, KojiPermissions(_Hub(config.koji_hub, config.serverca)))
