"""The other engine: Koji's own distRepo task makes the repository on Koji's volume."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

from goose.mash_config import Mash, Site
from goose.mash_multilib import BIARCH, Lists
from goose.mash_tag import KojiError, ask

# mash's names of architectures -> Koji's.
_ARCHES = {"i386": "i686", "armhfp": "armv7hl"}
_PAUSE = 5.0


def limits(mash: Mash) -> Iterator[str]:
    """What the .mash file asks for and a distRepo task does not do, in sentences."""
    if mash.multilib and mash.multilib_method != "devel":
        yield f"multilib_method is {mash.multilib_method}, and dist-repo has only devel."
    for key in ("parent_repos", "distro_tags", "content_tags", "updateinfo", "repomd_sign"):
        if getattr(mash, key):
            yield f"{key} has no counterpart in dist-repo."


def remarks(mash: Mash) -> Iterator[str]:
    """What comes out otherwise than with the own engine."""
    yield "dist-repo: packages are links into Koji's volume, below ARCH/Packages/LETTER, and not below rpm_path."
    if mash.keep:
        yield "dist-repo: kojira removes old ones (dist_repo_lifetime), and keep says nothing."


def _multilib_conf(lists: Lists) -> str:
    def text(names: frozenset[str]) -> str:
        return "\n    ".join(sorted(names))

    return (
        f"[runtime]\nwhite = {text(lists.runtime_white)}\nblack = {text(lists.runtime_black)}\n"
        f"[devel]\nwhite = {text(lists.devel_white)}\nblack = {text(lists.devel_black)}\n"
        "[multilib]\npackages =\n"
    )


def make(
    site: Site,
    mash: Mash,
    session: Any,
    event: int,
    lists: Lists,
    allow_unsigned: bool,
    say: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Have the hub make it, and wait: task, repo, path and URL.

    Raises:
        KojiError: where the hub refuses, or the task fails.
    """
    import koji

    arches = [_ARCHES.get(arch, arch) for arch in mash.arches]
    if mash.multilib:
        # The hub wants the other half to be made as well.
        arches += [_ARCHES.get(other, other) for other in (BIARCH.get(arch) for arch in mash.arches) if other]
    if mash.source:
        arches.append("src")
    stuff = f"cli-dist-repo/{time.time():.6f}.{os.getpid()}"
    options: dict[str, Any] = {
        "arch": list(dict.fromkeys(arches)), "comps": None, "delta": [], "event": event, "volume": None,
        "inherit": mash.inherit, "latest": mash.latest, "multilib": None, "split_debuginfo": mash.debuginfo,
        "skip_missing_signatures": False, "allow_missing_signatures": allow_unsigned, "zck": False,
        "zck_dict_dir": None, "write_signed_rpms": False,
    }  # fmt: skip
    if mash.compsfile:
        ask(lambda: session.uploadWrapper(str(mash.compsfile), stuff), "Sending comps")
        options["comps"] = f"{stuff}/{mash.compsfile.name}"
    if mash.multilib:
        with tempfile.TemporaryDirectory() as directory:
            conf = Path(directory) / "multilib.conf"
            conf.write_text(_multilib_conf(lists), encoding="utf-8")
            ask(lambda: session.uploadWrapper(str(conf), stuff), "Sending the multilib lists")
        options["multilib"] = f"{stuff}/multilib.conf"
    keys = [found for ids in mash.keys for found in ids]
    task = ask(lambda: session.distRepo(mash.tag, keys, **options), "Starting the distRepo task")
    repo = ask(lambda: session.getTaskRequest(task), f"Task {task}")[1]
    say(
        f"{mash.name}: waiting for task {task}, which makes dist repo {repo}"
        + (f": {site.weburl}/taskinfo?taskID={task}" if site.weburl else "")
    )
    while not ask(lambda: session.taskFinished(task), f"Task {task}"):
        sleep(_PAUSE)
    # Raises what the task failed by.
    ask(lambda: session.getTaskResult(task), f"Task {task}")
    paths = koji.PathInfo(str(site.topdir))
    path = paths.distrepo(repo, mash.tag)
    if site.topdir.is_dir() and not os.path.isdir(path):
        raise KojiError(f"Task {task} is done, and {path} is not there: is {site.topdir} the hub's volume?")
    return {"task": task, "repo": repo, "path": path}
