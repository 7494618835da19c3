"""Where packages' git repositories are, and how imports get into them: on this host, or over ssh.

Both give the importer a bare repository to read and to run `git fast-import` in.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

# What a server says of a repository that is not there: gitolite, git over https, git over ssh.
_ABSENT = re.compile(r"autocreate denied|DENIED by fallthru|not found|does not appear to be a git repository", re.I)


# What a hook says. That one declined is git's own word, and no reason.
_FINAL = re.compile(rb"^remote: (?!error: hook declined)\s*\S", re.M)

_TRIES = 3


class GitError(Exception):
    """What git, or its server, said; as a sentence."""

    def __init__(self, sentence: str, final: bool = False) -> None:
        super().__init__(sentence)
        self.final = final
        """Whether asking again cannot help: the server gave its reason."""


def git(directory: Path | None, *words: str, given: bytes = b"", environment: dict[str, str] | None = None) -> str:
    """What git prints. Raises `GitError`."""
    command = ["git", *([f"--git-dir={directory}"] if directory else []), *words]
    try:
        done = subprocess.run(command, input=given, capture_output=True, check=False, env=environment)
    except FileNotFoundError as error:
        raise GitError("git is not installed.") from error
    if done.returncode:
        reason = told(done.stderr)
        raise GitError(f"git {words[0]} failed: {reason}", bool(_FINAL.search(done.stderr) or _ABSENT.search(reason)))
    return done.stdout.decode("utf-8", "surrogateescape")


def told(stderr: bytes) -> str:
    """The telling lines of git's standard error."""
    lines = [line.strip() for line in stderr.decode("utf-8", "replace").splitlines()]
    # What a hook said stands behind `remote:`; git's own words around it only say that it said so.
    remote = [line[7:].strip() for line in lines if line.startswith("remote:") and line[7:].strip()]
    found = remote or [line for line in lines if line and not line.startswith("hint:")]
    return " ".join(found[-6:]) or "it said nothing."


class Repositories(Protocol):
    """A place for repositories, each named as in rpms/bash."""

    def take(self, package: str) -> Path | None:
        """A bare repository with what there is, or None."""

    def make(self, package: str) -> Path:
        """A new one."""

    def give(self, package: str, directory: Path, refs: Sequence[str]) -> None:
        """Publish ``refs`` of ``directory``, all or none."""

    def leave(self, directory: Path) -> None:
        """Done with ``directory``."""


class LocalRepositories:
    """Repositories on this host. Run it as the user that owns them."""

    def __init__(self, root: Path, branch: str, creator: str = "") -> None:
        self._root = root
        self._branch = branch
        self._creator = creator

    def _path(self, package: str) -> Path:
        return self._root / f"{package}.git"

    def take(self, package: str) -> Path | None:
        """The repository itself."""
        path = self._path(package)
        return path if (path / "HEAD").is_file() else None

    def make(self, package: str) -> Path:
        """Make it whole, then give it its name. The user's init.templateDir brings the hooks."""
        path = self._path(package)
        path.parent.mkdir(exist_ok=True)
        # A name that no server shows: it begins with a dot.
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        partial.chmod(0o755)
        git(None, "init", "--quiet", "--bare", f"--initial-branch={self._branch}", str(partial))
        if self._creator:
            (partial / "gl-creator").write_text(self._creator)
        partial.rename(path)
        return path

    def give(self, package: str, directory: Path, refs: Sequence[str]) -> None:
        """They are there already."""

    def leave(self, directory: Path) -> None:
        """Nothing to do."""

    def sweep(self) -> None:
        """Remove what a killed run has left."""
        for partial in self._root.glob("*/.*.git.*"):
            shutil.rmtree(partial)


class RemoteRepositories:
    """Repositories behind ssh or https; gitolite makes those that are missing at the first push.

    They are read at an address of its own, where there is one: gitolite asks its rules for each
    connection, a web server answers at once.
    """

    def __init__(
        self, url: str, scratch: Path, read_url: str = "", sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._sleep = sleep
        self._url = url
        self._read_url = read_url or url
        self._scratch = scratch
        # One ssh connection for all: a login costs more than a push. The path of a socket is short.
        self._sockets = Path(tempfile.mkdtemp(prefix="import-"))
        options = f"-o BatchMode=yes -o ControlMaster=auto -o ControlPersist=30 -o ControlPath={self._sockets}/%C"
        ssh = os.environ.get("GIT_SSH_COMMAND", "ssh")
        self._environment = {**os.environ, "GIT_SSH_COMMAND": f"{ssh} {options}", "LC_ALL": "C"}

    def _ask(self, directory: Path, *words: str) -> None:
        """Run git against the server, again where it failed without a reason.

        A network does that; and so does gitolite, which writes its hook anew for each repository that
        is made, and for a moment has one there that cannot be executed.
        """
        for remaining in reversed(range(_TRIES)):
            try:
                git(directory, *words, environment=self._environment)
                return
            except GitError as error:
                if error.final or not remaining:
                    raise
                self._sleep(2 ** (_TRIES - 1 - remaining))

    def close(self) -> None:
        """Let the connection go."""
        shutil.rmtree(self._sockets, ignore_errors=True)

    def take(self, package: str) -> Path | None:
        """A copy with its branches and imports."""
        directory = self.make(package)
        refs = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]
        try:
            self._ask(directory, "fetch", "--quiet", "--no-tags", self._read_url % {"repo": package}, *refs)
        except GitError as error:
            self.leave(directory)
            if _ABSENT.search(str(error)):
                return None
            raise
        return directory

    def make(self, package: str) -> Path:
        """An empty one here; it comes to be there by the push."""
        directory = Path(tempfile.mkdtemp(prefix="repository-", dir=self._scratch))
        git(None, "init", "--quiet", "--bare", "--template=", str(directory))
        return directory

    def give(self, package: str, directory: Path, refs: Sequence[str]) -> None:
        """Push them, all or none."""
        pushed = [f"{ref}:{ref}" for ref in refs]
        self._ask(directory, "push", "--quiet", "--atomic", self._url % {"repo": package}, *pushed)

    def leave(self, directory: Path) -> None:
        """Remove the copy."""
        shutil.rmtree(directory, ignore_errors=True)
