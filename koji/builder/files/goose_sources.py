"""kojid's plugin: the archives that a checkout's `sources` names, fetched on the builder.

Koji's own way, a source_cmd in allowed_scms, runs inside the build root: it would need a package of
ours, the network and the site's CA there. Here the checkout is complete before the build root sees it.
"""

import configparser
import fnmatch
import subprocess
from typing import Any

import koji
from koji.plugin import callback

CONFIG = "/etc/kojid/plugins/goose_sources.conf"
PROGRAM = "/usr/local/bin/goose-fetch-sources"


def _is_ours(host: str, repository: str) -> bool:
    """Whether the repository is of the SCM that has the lookaside cache; patterns as in allowed_scms."""
    config = configparser.RawConfigParser()
    config.read(CONFIG, encoding="utf-8")
    for pattern in config.get("sources", "scms", fallback="").split():
        host_pattern, path_pattern = pattern.split(":")[:2]
        if fnmatch.fnmatch(host, host_pattern) and fnmatch.fnmatch(repository, path_pattern):
            return True
    return False


@callback("postSCMCheckout")
def fetch_sources(cbtype: str, *args: Any, **kws: Any) -> None:
    """Fetch them into ``srcdir``; raise koji.BuildError with a sentence where that fails."""
    scm = kws["scminfo"]
    if not _is_ours(scm["host"], scm["repository"]):
        return
    if scm["module"]:
        raise koji.BuildError(f"{scm['url']} names a directory in the repository: a package is at its top.")
    command = [PROGRAM, "--package", scm["repository"], kws["srcdir"]]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise koji.BuildError(done.stderr.strip() or f"{PROGRAM} ended with {done.returncode}.")
