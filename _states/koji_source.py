"""Koji, and pyrpkg, out of their archives, on platforms that have no package of them.

What goes where, with which mode and which patches, is data: ``koji/os/*.yaml`` and
``scm/os/*.yaml``. An archive comes from the package index that the system's pip is
configured for, and is taken only with the hash that the data names.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import posixpath
import shutil
import stat
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from typing import Any

Result = dict[str, Any]
PYTHON = "/usr/bin/python3"
FETCH_TRIES = 3


class SourceError(Exception):
    """What is wrong with an archive or with the data about it, as a sentence."""


def __virtual__() -> str:
    return "koji_source"


def _archive_path(source: dict[str, Any], archive: str) -> str:
    wanted = source["archives"][archive]
    project, version = wanted["requirement"].split("==")
    return os.path.join(source["cache"], wanted.get("file", f"{project}-{version}.tar.gz"))


def _is_intact(path: str, sha256: str) -> bool:
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as stream:
        return hashlib.sha256(stream.read()).hexdigest() == sha256


def _fetch(source: dict[str, Any], archive: str) -> None:
    """Bring the archive into the cache, whole or not at all."""
    wanted = source["archives"][archive]
    path = _archive_path(source, archive)
    os.makedirs(source["cache"], mode=0o755, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=source["cache"]) as scratch:
        requirements = os.path.join(scratch, "requirements.txt")
        with open(requirements, "w", encoding="ascii") as stream:
            stream.write(f"{wanted['requirement']} --hash=sha256:{wanted['sha256']}\n")
        command = [PYTHON, "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check", "download"]
        # A wheel is taken as it is: making one of pyrpkg's sources would need its build system.
        command += ["--only-binary" if path.endswith(".whl") else "--no-binary", ":all:"]
        command += ["--no-deps", "--no-build-isolation", "--require-hashes"]
        command += ["--requirement", requirements, "--dest", scratch]
        for remaining in reversed(range(FETCH_TRIES)):
            answer = __salt__["cmd.run_all"](command, python_shell=False, ignore_retcode=True, cwd=scratch)
            if answer["retcode"] == 0 or not remaining:
                break
            time.sleep(5)
        fetched = os.path.join(scratch, os.path.basename(path))
        if answer["retcode"] != 0 or not _is_intact(fetched, wanted["sha256"]):
            raise SourceError(
                f"The system's pip did not bring {wanted['requirement']} with the hash that os/ names:"
                f" {answer['stderr'].strip() or 'no such file came'}. Look at this host's pip configuration"
                " (pip config list) and its way to the package index."
            )
        os.chmod(fetched, 0o644)
        os.replace(fetched, path)


def _patched(path: str, data: bytes, patches: list[dict[str, str]]) -> bytes:
    for patch in patches:
        if patch["file"] != path:
            continue
        find = patch["find"].encode()
        if data.count(find) != 1:
            raise SourceError(
                f"A patch in koji/os/ ({patch['why']}) no longer fits: '{patch['find']}' stands"
                f" {data.count(find)} times in {path}, and must stand there once."
            )
        data = data.replace(find, patch["replace"].encode())
    return data


def _members(source: dict[str, Any], archive: str) -> dict[str, bytes]:
    """Content of the archive's regular files, patches applied.

    By path below its top directory; a wheel has none, and its paths are whole.
    """
    path = _archive_path(source, archive)
    status = os.stat(path)
    key = f"koji_source {path} {status.st_mtime_ns} {status.st_size}"
    if key not in __context__:
        members = {}
        if path.endswith(".whl"):
            with zipfile.ZipFile(path) as wheel:
                members = {name: wheel.read(name) for name in wheel.namelist() if not name.endswith("/")}
        else:
            with tarfile.open(path) as tar:
                for member in tar:
                    content = tar.extractfile(member) if member.isfile() else None
                    if content is not None:
                        members[posixpath.normpath(member.name).partition("/")[2]] = content.read()
        patches = source.get("patches", []) if archive == "koji" else []
        for name in {patch["file"] for patch in patches}:
            if name not in members:
                raise SourceError(
                    f"koji/os/ has a patch for {name}, which {os.path.basename(path)} does not hold."
                )
            members[name] = _patched(name, members[name], patches)
        __context__[key] = members
    return __context__[key]


def _matches(name: str, pattern: str) -> str | None:
    """The path of ``name`` below what the pattern fixes, or None where it does not match."""
    if pattern.endswith("/**"):
        prefix = pattern[:-2]
        return name[len(prefix) :] if name.startswith(prefix) else None
    if posixpath.dirname(name) == posixpath.dirname(pattern) and fnmatch.fnmatchcase(name, pattern):
        return posixpath.basename(name)
    return None


def _wanted(source: dict[str, Any], part: str) -> Iterator[tuple[str, bytes, int]]:
    """Destination, content and mode of each file of a part."""
    if part not in source["parts"]:
        raise SourceError(f"os/ names no part '{part}' under source:parts.")
    for entry in source["parts"][part]:
        found = False
        for name, data in sorted(_members(source, entry.get("archive", "koji")).items()):
            below = _matches(name, entry["from"])
            if below is None or posixpath.basename(name) in source.get("exclude", []):
                continue
            found = True
            target = entry["to"] + below if entry["to"].endswith("/") else entry["to"]
            yield target, data, int(entry.get("mode", "0644"), 8)
        if not found:
            raise SourceError(
                f"Nothing in the archive matches '{entry['from']}' of the part '{part}' in os/."
            )


def _difference(path: str, data: bytes, mode: int) -> str | None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return "missing"
    if not stat.S_ISREG(status.st_mode):
        return "no regular file"
    with open(path, "rb") as stream:
        if stream.read() != data:
            return "other content"
    if stat.S_IMODE(status.st_mode) != mode:
        return f"mode {stat.S_IMODE(status.st_mode):04o}"
    if (status.st_uid, status.st_gid) != (0, 0):
        return "other owner"
    return None


def _write(path: str, data: bytes, mode: int) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".koji-source-")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            os.fchmod(stream.fileno(), mode)
            os.fchown(stream.fileno(), 0, 0)
        os.replace(scratch, path)
    except BaseException:
        os.unlink(scratch)
        raise


def _summary(different: dict[str, str]) -> dict[str, str]:
    """A line a file, or a line a directory where they are many."""
    if len(different) <= 20:
        return different
    counts: dict[str, int] = {}
    for path in different:
        counts[os.path.dirname(path)] = counts.get(os.path.dirname(path), 0) + 1
    return {directory: f"{count} files" for directory, count in sorted(counts.items())}


def installed(name: str, parts: list[str], source: dict[str, Any]) -> Result:
    """Make every file of ``parts`` what the (patched) archive holds, with its mode, owned by root.

    name
        The role, for messages.
    parts
        Names under ``source:parts``.
    source
        Archives, parts, patches and cache directory, as ``os/*.yaml`` gives them.
    """
    ret: Result = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        archives = {entry.get("archive", "koji") for part in parts for entry in source["parts"].get(part, [])}
        missing = [
            archive
            for archive in sorted(archives)
            if not _is_intact(_archive_path(source, archive), source["archives"][archive]["sha256"])
        ]
        if missing and __opts__["test"]:
            ret["result"] = None
            ret["changes"] = {_archive_path(source, archive): "would be fetched" for archive in missing}
            ret["comment"] = (
                f"Without its archive, {name} cannot be compared: it would be fetched and compared."
            )
            return ret
        for archive in missing:
            _fetch(source, archive)
            ret["changes"][_archive_path(source, archive)] = "fetched"

        wanted = {path: (data, mode) for part in parts for path, data, mode in _wanted(source, part)}
        different = {}
        for path, (data, mode) in wanted.items():
            reason = _difference(path, data, mode)
            if reason:
                different[path] = reason
        if not different:
            ret["comment"] = f"All {len(wanted)} files of {name} are what the archive holds."
            return ret
        ret["changes"].update(_summary(different))
        if __opts__["test"]:
            ret["result"] = None
            ret["comment"] = f"{len(different)} of {len(wanted)} files of {name} would be written."
            return ret
        for path in different:
            _write(path, *wanted[path])
    except SourceError as error:
        ret["result"] = False
        ret["comment"] = str(error)
        return ret

    # The web server's user may not write byte code, and would compile at every start.
    modules = [path for path in different if path.endswith(".py")]
    if modules:
        __salt__["cmd.run_all"](
            [PYTHON, "-m", "compileall", "-q", *modules], python_shell=False, ignore_retcode=True
        )
    ret["comment"] = f"{len(different)} of {len(wanted)} files of {name} were written."
    return ret
