"""The archives that a checkout's `sources` names, fetched into it with their hashes checked.

Builders run this in the checkout of each build; anybody may, in a clone. What was written by the
packager is foreign here: a name or a link must not lead out of the checkout.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

from goose import lookaside_client
from goose.lookaside_client import Lookaside, LookasideError, Settings
from goose.sources import Source, SourcesError, parse

EXIT_DONE, EXIT_USAGE, EXIT_TOOL = 0, 2, 5

# Bytes of `sources`; a kernel's has a few lines.
_MOST_BYTES = 1 << 20


def package_of(url: str) -> str:
    """The package in the cache, by the address of its repository: the last two parts, as in rpms/bash.

    Raises `LookasideError` where the address has no two.
    """
    path = urllib.parse.urlsplit(url).path if "://" in url else url.partition(":")[2] or url
    parts = [part for part in path.split("/") if part][-2:]
    package = "/".join(parts)
    package = package[:-4] if package.endswith(".git") else package
    if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*/[A-Za-z0-9][\w.+-]*", package):
        raise LookasideError(f"{url} names no package: a repository's address ends in rpms/NAME.")
    return package


def origin(directory: Path) -> str:
    """The address that ``directory`` was cloned from. Raises `LookasideError`."""
    command = ["git", "-C", str(directory), "config", "--get", "remote.origin.url"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LookasideError(f"{directory} is no clone of a package's repository: give --package, as in rpms/bash.")
    return done.stdout.strip()


def _open_directory(directory: Path) -> int:
    try:
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise LookasideError(f"{directory} is no directory of a checkout: {error.strerror}.") from error


def _read(directory: int) -> str | None:
    """The text of `sources`, or None where there is no such file."""
    try:
        # Not blocking: a FIFO would wait for somebody to write.
        handle = os.open("sources", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LookasideError(f"`sources` is no plain file: {error.strerror}.") from error
    with os.fdopen(handle, "rb") as stream:
        data = stream.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise LookasideError(f"`sources` is larger than {_MOST_BYTES} bytes.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise LookasideError(f"`sources` is no UTF-8 text: {error}.") from error


def _is_there(directory: int, source: Source) -> bool:
    """Whether the checkout holds the archive. Raises `LookasideError` where it holds another file of its name."""
    try:
        handle = os.open(source.filename, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise LookasideError(f"{source.filename} stands in the checkout and is no plain file: {error.strerror}.") from error
    with os.fdopen(handle, "rb") as stream:
        try:
            intact = lookaside_client.hash_stream(stream, source.hashtype) == source.hash
        except OSError as error:
            raise LookasideError(f"{source.filename} stands in the checkout and is no plain file: {error}.") from error
    if not intact:
        raise LookasideError(
            f"{source.filename} stands in the checkout with another hash than `sources` says: remove the file, or"
            " its line in `sources`."
        )
    return True


def fetch_all(directory: Path, package: str, lookaside: Lookaside) -> list[str]:
    """Fetch what `sources` in ``directory`` names; the names of the files that were brought.

    A file appears whole or not at all, and none is overwritten. Raises `LookasideError`, `SourcesError`.
    """
    fetched = []
    handle = _open_directory(directory)
    try:
        text = _read(handle)
        for source in parse(text or ""):
            if source.filename in ("sources", ".git"):
                raise LookasideError(f"`sources` names {source.filename}, which is no archive.")
            if _is_there(handle, source):
                continue
            partial = f".fetch-{os.getpid()}"
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            try:
                with os.fdopen(os.open(partial, flags, 0o644, dir_fd=handle), "w+b") as stream:
                    lookaside.fetch(package, source, stream)
                # Unlike a rename, a link does not replace what somebody put there meanwhile.
                os.link(partial, source.filename, src_dir_fd=handle, dst_dir_fd=handle)
            except OSError as error:
                raise LookasideError(f"{source.filename} cannot be written to the checkout: {error}.") from error
            finally:
                try:
                    os.unlink(partial, dir_fd=handle)
                except FileNotFoundError:
                    pass
            fetched.append(source.filename)
    finally:
        os.close(handle)
    return fetched


def main(argv: Sequence[str] | None = None) -> int:
    """``goose-fetch-sources``; the exit status."""
    parser = argparse.ArgumentParser(
        prog="goose-fetch-sources", description="Fetch the archives that `sources` names into a checkout."
    )
    parser.add_argument("directory", nargs="?", type=Path, default=Path("."), help="the checkout (default: here)")
    parser.add_argument("--package", help="name in the cache, as in rpms/bash (default: by the clone's origin)")
    parser.add_argument("--url", help="the cache's files (default: as the states wrote it)")
    parser.add_argument("--config", type=Path, default=lookaside_client.CONFIG, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    try:
        settings = Settings(args.url.rstrip("/")) if args.url else lookaside_client.read_settings(args.config)
        package = package_of(args.package or origin(args.directory))
        fetched = fetch_all(args.directory, package, Lookaside(settings))
    except (LookasideError, SourcesError) as error:
        print(f"goose-fetch-sources: {error}", file=sys.stderr)
        return EXIT_TOOL
    for name in fetched:
        print(name)
    return EXIT_DONE
