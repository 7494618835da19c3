"""Who needs whom in a repository: libsolv's pool over the records of its packages.

Requirements are followed by `whatprovides`, not by solving: an installation of everything at once would report
conflicts between packages that nobody installs together. A rich dependency that has no provider is solved, for
its condition may never hold.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from goose.mash_repodata import head

Package = TypeVar("Package")


@dataclass(frozen=True)
class Pulled(Generic[Package]):
    """Why a package came in."""

    by: Package
    requires: str


@dataclass(frozen=True)
class Broken(Generic[Package]):
    """A requirement that nothing in the repository provides."""

    package: Package
    requires: str


class Sack(Generic[Package]):
    """The packages that one repository has or may have, and those of its parents."""

    def __init__(
        self, holding: Callable[[Collection[Package], Collection[str]], dict[str, set[Package]]]
    ) -> None:
        """``holding`` says which packages have which paths, for those that stand in no primary.xml."""
        import solv

        self._solv = solv
        self._pool = solv.Pool()
        # Debian's libsolv otherwise compares versions in dpkg's way, and finds no rpm dependency.
        self._pool.setdisttype(self._pool.DISTTYPE_RPM)
        self._holding = holding
        self._packages: dict[int, Package] = {}
        self._ids: dict[Package, int] = {}
        self._parents: set[int] = set()
        self._parent_repos: list[tuple[Any, str]] = []
        self._providers: dict[int, tuple[int, ...]] = {}
        self._ready = False

    def _repo(self, name: str, count: int, texts: Iterable[bytes]) -> Any:
        repo = self._pool.add_repo(name)
        descriptor = os.memfd_create("primary.xml")
        with open(descriptor, "w+b") as stream:
            stream.write(head("primary", count))
            for text in texts:
                stream.write(text)
            stream.write(b"</metadata>\n")
            stream.flush()
            stream.seek(0)
            repo.add_rpmmd(self._solv.xfopen_fd("primary.xml", stream.fileno()), None)
        return repo

    def add(self, packages: Sequence[Package], texts: Iterable[bytes]) -> None:
        """Add packages with their primary.xml each."""
        repo = self._repo("own", len(packages), texts)
        solvables = list(repo.solvables)
        assert len(solvables) == len(packages), (
            f"libsolv has read {len(solvables)} of {len(packages)} packages"
        )
        for package, solvable in zip(packages, solvables):
            self._packages[solvable.id] = package
            self._ids[package] = solvable.id

    def add_parent(self, primary: str, filelists: str) -> None:
        """Add a repository that is there beside, by the paths of its metadata."""
        repo = self._pool.add_repo("parent")
        for path, flags in ((primary, 0), (filelists, self._solv.Repo.REPO_EXTEND_SOLVABLES)):
            stream = self._solv.xfopen(path)
            if stream is None or not repo.add_rpmmd(stream, None, flags):
                raise OSError(f"libsolv cannot read {path}")
        self._parents.update(solvable.id for solvable in repo.solvables)

    def _prepare(self) -> None:
        if not self._ready:
            self._pool.addfileprovides()
            self._pool.createwhatprovides()
            # Paths that packages require and no primary.xml tells of.
            paths: dict[str, int] = {}
            for number in self._packages:
                for dep in self._requires(number):
                    text = self._pool.dep2str(dep)
                    if text.startswith("/") and not self._who(dep):
                        paths[text] = dep
            if paths:
                for text, packages in self._holding(list(self._ids), list(paths)).items():
                    self._providers[paths[text]] = tuple(sorted(self._ids[package] for package in packages))
            self._ready = True

    def _requires(self, number: int) -> list[int]:
        found: list[int] = self._pool.id2solvable(number).lookup_idarray(self._solv.SOLVABLE_REQUIRES)
        return found

    def _who(self, dep: int) -> tuple[int, ...]:
        if dep not in self._providers:
            self._providers[dep] = tuple(found.id for found in self._pool.whatprovides(dep))
        return self._providers[dep]

    def provides(self, package: Package) -> set[str]:
        """The names that a package provides."""
        solvable = self._pool.id2solvable(self._ids[package])
        return {str(dep).partition(" ")[0] for dep in solvable.lookup_deparray(self._solv.SOLVABLE_PROVIDES)}

    def close(
        self, members: Iterable[Package], spare: Iterable[Package], rank: Callable[[Package, Package], Any]
    ) -> tuple[dict[Package, Pulled[Package]], list[Broken[Package]]]:
        """What of ``spare`` the ``members`` need, with what that needs; and what is left open.

        Args:
            rank: a sort key of (a provider, who requires it); the least of several providers comes in.
        """
        self._prepare()
        inside = {self._ids[package] for package in members} | self._parents
        outside = {self._ids[package] for package in spare} - inside
        pulled: dict[Package, Pulled[Package]] = {}
        open_: list[tuple[int, int]] = []
        todo = sorted(inside - self._parents, reverse=True)
        # What was seen to be provided stays so, for nothing leaves.
        good: set[int] = set()
        while todo:
            number = todo.pop()
            for dep in self._requires(number):
                if dep in good:
                    continue
                providers = self._who(dep)
                if not inside.isdisjoint(providers) or self._is_rpms_own(dep):
                    good.add(dep)
                elif choice := [self._packages[found] for found in providers if found in outside]:
                    needing = self._packages[number]
                    package = min(choice, key=lambda one: rank(one, needing))
                    pulled[package] = Pulled(needing, self._pool.dep2str(dep))
                    found = self._ids[package]
                    inside.add(found)
                    outside.remove(found)
                    todo.append(found)
                    good.add(dep)
                else:
                    open_.append((number, dep))
        return pulled, list(self._broken(open_, inside))

    def _is_rpms_own(self, dep: int) -> bool:
        return bool(self._pool.dep2str(dep).startswith("rpmlib("))

    def _broken(self, open_: Iterable[tuple[int, int]], inside: set[int]) -> Iterator[Broken[Package]]:
        conditional: dict[int, bool] = {}
        disabled: list[int] = []
        for number, dep in open_:
            text = self._pool.dep2str(dep)
            if text.startswith("("):
                if not disabled:
                    disabled = [solvable.id for solvable in self._pool.solvables if solvable.id not in inside]
                    self._pool.set_disabled_list(disabled)
                if number not in conditional:
                    job = self._pool.Job(
                        self._solv.Job.SOLVER_INSTALL | self._solv.Job.SOLVER_SOLVABLE, number
                    )
                    conditional[number] = not self._pool.Solver().solve([job])
                if conditional[number]:
                    continue
            yield Broken(self._packages[number], text)
