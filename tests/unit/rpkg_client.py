"""rpkg's own client of the lookaside cache, unmodified: what fedpkg and centpkg upload and download with."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any


def module() -> Any:
    """The module pyrpkg.lookaside; the package around it wants Koji, GitPython, rpm and more at its import."""
    if "pyrpkg" not in sys.modules:
        spec = importlib.util.find_spec("pyrpkg")
        assert spec is not None and spec.submodule_search_locations, "rpkg is not installed: use scripts/test"
        package = types.ModuleType("pyrpkg")
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["pyrpkg"] = package
    return importlib.import_module("pyrpkg.lookaside")


def client(
    download: str, upload: str, hashtype: str = "sha512", cert: Path | None = None, ca: Path | None = None
) -> Any:
    """A client as fedpkg makes it."""
    paths = {"client_cert": cert and str(cert), "ca_cert": ca and str(ca)}
    return module().CGILookasideCache(hashtype, download, upload, **paths)


def errors() -> Any:
    """The module pyrpkg.errors."""
    module()
    return importlib.import_module("pyrpkg.errors")
