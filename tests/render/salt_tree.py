"""Render this tree with Salt itself, as any host on any platform, in this process.

Salt takes the grains that its options hold, so nothing of the machine goes in, and a
host's whole highstate takes about half a second.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import salt.config
import salt.exceptions
import salt.state
import salt.states
import salt.utils.templates

Chunk = dict[str, Any]

# Salt compiles a template anew at each import of it, a hundred times a host, which takes half of
# the time. What comes out depends on the text and on these settings alone.
_compile = jinja2.Environment.compile
_compiled: dict[tuple[Any, ...], Any] = {}


def _compile_once(
    self: jinja2.Environment, source: Any, name: Any = None, filename: Any = None, *more: Any
) -> Any:
    key = (source, name, filename, more, self.trim_blocks, self.lstrip_blocks, tuple(self.extensions))
    if not isinstance(source, str):
        return _compile(self, source, name, filename, *more)
    if key not in _compiled:
        _compiled[key] = _compile(self, source, name, filename, *more)
    return _compiled[key]


jinja2.Environment.compile = _compile_once  # type: ignore[method-assign,assignment]

_SYSTEMS: dict[str, dict[str, Any]] = {
    "RedHat-9": {
        "os": "Rocky",
        "osfullname": "Rocky Linux",
        "osrelease": "9.6",
        "osfinger": "Rocky Linux-9",
        "systemd": {"version": "252"},
        "pythonversion": [3, 10, 18, "final", 0],
    },
    "RedHat-10": {
        "os": "AlmaLinux",
        "osfullname": "AlmaLinux",
        "osrelease": "10.1",
        "osfinger": "AlmaLinux-10",
        "systemd": {"version": "257"},
        "pythonversion": [3, 10, 18, "final", 0],
    },
    "Debian-12": {
        "os": "Debian",
        "osfullname": "Debian GNU/Linux",
        "osrelease": "12",
        "oscodename": "bookworm",
        "osfinger": "Debian-12",
        "systemd": {"version": "252"},
        "pythonversion": [3, 11, 2, "final", 0],
    },
    # Two that the project does not serve.
    "Debian-11": {"os": "Debian", "osrelease": "11", "oscodename": "bullseye", "osfinger": "Debian-11"},
    "RedHat-40": {"os": "Fedora", "osrelease": "40", "osfinger": "Fedora Linux-40"},
}


def grains(platform: str, host: str) -> dict[str, Any]:
    """Return the grains of a host on a platform (os_family-osmajorrelease)."""
    family, _, major = platform.partition("-")
    short, _, domain = host.partition(".")
    return {
        **_SYSTEMS[platform],
        "id": host,
        "os_family": family,
        "osmajorrelease": int(major),
        "kernel": "Linux",
        "init": "systemd",
        "nodename": host,
        "fqdn": host,
        "host": short,
        "domain": domain,
        "localhost": host,
        "cpuarch": "x86_64",
        "osarch": "amd64" if family == "Debian" else "x86_64",
        "num_cpus": 4,
        "mem_total": 7900,
        "virtual": "kvm",
        "saltversion": "3008.3",
        "saltversioninfo": [3008, 3],
        "selinux": {
            "enabled": family == "RedHat",
            "enforced": "Enforcing" if family == "RedHat" else "Disabled",
        },
        "ipv4": ["127.0.0.1", "192.0.2.1"],
        "ip_interfaces": {"lo": ["127.0.0.1"], "eth0": ["192.0.2.1"]},
        "ip4_interfaces": {"lo": ["127.0.0.1"], "eth0": ["192.0.2.1"]},
    }


class RenderError(Exception):
    """Salt refused to render; the text is what it says, each thing once, without its own frames."""

    def __init__(self, *said: object) -> None:
        super().__init__("\n".join(dict.fromkeys(_brief(str(text)) for text in said)))


def _brief(said: str) -> str:
    """Return the first line of an error of Jinja, and the place."""
    if "Jinja" not in said:
        return said
    place = re.search(r"/files/base/(\S+)\((\d+)\):$", said, re.MULTILINE)
    line = re.search(r"; line (\d+)$", said, re.MULTILINE)
    first = said.split("\n", 1)[0]
    if place:
        return f"{first} ({place.group(1)}:{place.group(2)})"
    return f"{first} (line {line.group(1)})" if line else first


@dataclass(frozen=True)
class File:
    """A file as a state would write it: its path, its text, and the state's low data."""

    path: str
    text: str
    chunk: Chunk = field(repr=False)


class _Complaints(logging.Handler):
    """Keeps what Salt only logs: a top file that did not render, a file that is not there."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []
        self._others: list[logging.Handler] = []

    def emit(self, record: logging.LogRecord) -> None:
        # The loader complains of modules that nobody asked for.
        if not record.name.startswith("salt.loader"):
            self.found.append(record.getMessage())

    def __enter__(self) -> list[str]:
        # Salt's frames belong into no report: the errors come as RenderError.
        self._others, logging.root.handlers = logging.root.handlers, [self]
        logging.disable(logging.WARNING)
        return self.found

    def __exit__(self, *_: object) -> None:
        logging.root.handlers = self._others
        logging.disable(logging.NOTSET)


@functools.cache
def _unnamed_states(root: Path) -> list[str]:
    """Return Salt's state modules that no file of the tree names.

    Whether a state has mod_watch makes Salt load every module that there is, and some look for
    every execution module: seconds, for nothing.
    """
    texts = (path.read_text(encoding="utf-8") for kind in ("*.sls", "*.jinja") for path in root.rglob(kind))
    named = {
        name
        for text in texts
        for name in re.findall(r"^[^#\n]*?(?<![\w-])([a-z]\w*)(?:\.[a-z_]+:|:$)", text, re.MULTILINE)
    }
    found = []
    for path in Path(salt.states.__file__).parent.glob("*.py"):
        virtual = re.search(
            r"^__virtualname__ = [\"'](\w+)[\"']", path.read_text(encoding="utf-8"), re.MULTILINE
        )
        if not named & {path.stem, virtual.group(1) if virtual else path.stem}:
            found.append(path.stem)
    return found


class Host:
    """One host: its pillar, its states in the order in which Salt would run them, its files."""

    def __init__(
        self,
        name: str,
        platform: str,
        root: Path,
        cache: Path,
        pillar_roots: Iterable[Path],
        pillar: Mapping[str, Any] | None = None,
    ) -> None:
        """Build the host; raise RenderError where its pillar does not render.

        `pillar` takes the place of what the roots give.
        """
        self.name, self.platform, self.root, self.cache = name, platform, root, cache
        options = salt.config.apply_minion_config(
            {
                "id": name,
                "file_client": "local",
                "root_dir": str(cache),
                "cachedir": str(cache / "minion"),
                "extension_modules": str(cache / "extmods"),
                "file_roots": {"base": [str(root)]},
                "pillar_roots": {"base": [str(path) for path in pillar_roots]},
                "module_dirs": [str(root / "_modules")],
                "states_dirs": [str(root / "_states")],
                "utils_dirs": [str(root / "_utils")],
                "saltenv": "base",
                "fileserver_backend": ["roots"],
                "disable_states": _unnamed_states(root),
                "log_file": "/dev/null",
            }
        )
        options["grains"] = grains(platform, name)
        with _Complaints():
            self._state = salt.state.HighState(
                options, initial_pillar=dict(pillar) if pillar is not None else None
            )
        self.pillar: dict[str, Any] = self._state.opts["pillar"]
        if errors := self.pillar.get("_errors"):
            raise RenderError(*errors)
        self.functions = self._state.state.states

    def highstate(self) -> list[Chunk]:
        """Return the low data of top.sls; raise RenderError with all that Salt finds wrong."""
        return self._low({"base": self.top()})

    def states(self, *names: str) -> list[Chunk]:
        """Return the low data of these states and what they include; raise RenderError."""
        return self._low({"base": list(names)})

    def top(self) -> list[str]:
        """Return the states that top.sls gives the host; raise RenderError."""
        with _Complaints() as said:
            top = self._state.get_top()
            errors = said or self._state.verify_tops(top)
            if not errors:
                return self._state.top_matches(top).get("base", [])
        raise RenderError(*errors)

    def _low(self, matches: dict[str, list[str]]) -> list[Chunk]:
        state = self._state.state
        # Salt would add to what it rendered before.
        self._state.building_highstate.clear()
        with _Complaints() as said:
            high, errors = self._state.render_highstate(matches)
            if not errors:
                high, found = state.reconcile_extend(high)
                errors += found + state.verify_high(high)
            if not errors:
                high, found = state.requisite_in(high)
                errors += found
            if not errors:
                # This step, and no earlier one, finds requisites that nothing meets.
                chunks, found = state.compile_high_data(state.apply_exclude(high))
                errors += found
        if errors or said:
            raise RenderError(*(errors or said))
        return chunks

    def source(self, url: str) -> Path | None:
        """Return what a salt:// address means, a file or a directory of the tree, or None where nothing is."""
        path = self.root / url.removeprefix("salt://").split("?")[0]
        return path if path.exists() else None

    def files(self, chunks: Iterable[Chunk]) -> Iterator[File]:
        """Yield the files that the states write, templates rendered; raise RenderError."""
        for chunk in chunks:
            if chunk["state"] != "file":
                continue
            if chunk["fun"] == "managed":
                text = self._managed(chunk)
                if text is not None:
                    yield File(chunk["name"], text, chunk)
            elif chunk["fun"] == "recurse" and (directory := self.source(chunk["source"])):
                for path in sorted(path for path in directory.rglob("*") if path.is_file()):
                    target = f"{chunk['name']}/{path.relative_to(directory)}"
                    yield File(target, self._text(path, chunk), chunk)

    def _managed(self, chunk: Chunk) -> str | None:
        contents = chunk.get("contents")
        if contents is None and (key := chunk.get("contents_pillar")):
            contents = self.pillar
            for part in key.split(":"):
                contents = contents[part]
        if contents is not None:
            return "\n".join(map(str, contents)) if isinstance(contents, list) else str(contents)
        sources = chunk.get("source")
        for url in [sources] if isinstance(sources, str) else sources or []:
            if isinstance(url, str) and url.startswith("salt://") and (path := self.source(url)):
                return self._text(path, chunk)
        return None

    def _text(self, path: Path, chunk: Chunk) -> str:
        if chunk.get("template") != "jinja":
            return path.read_bytes().decode("utf-8", "replace")
        reason = ""
        with _Complaints():
            try:
                done = self._jinja(path, chunk)
            except salt.exceptions.SaltRenderError as error:
                reason = _brief(str(error))
        if not reason and not done["result"]:
            # The last line says it; what stands before are Salt's own frames.
            reason = str(done["data"]).strip().splitlines()[-1]
        if reason:
            raise RenderError(
                f"{path.relative_to(self.root)} for {chunk['__id__']} ({chunk['name']}): {reason}"
            )
        return done["data"]

    def _jinja(self, path: Path, chunk: Chunk) -> dict[str, Any]:
        return salt.utils.templates.JINJA(
            str(path),
            to_str=True,
            name=chunk["name"],
            source=chunk.get("source"),
            user=chunk.get("user"),
            group=chunk.get("group"),
            mode=chunk.get("mode"),
            saltenv="base",
            context={**chunk.get("defaults", {}), **chunk.get("context", {})},
            salt=self._state.state.functions,
            # A template that reads pillar would not show in its state what goes into it.
            pillar={},
            grains=self._state.opts["grains"],
            opts=self._state.opts,
            fileclient=self._state.client,
        )


def requested(cache: Path) -> set[str]:
    """Return the files of the tree that renders with this cache asked for."""
    base = cache / "minion/files/base"
    return {str(path.relative_to(base)) for path in base.rglob("*") if path.is_file()}
