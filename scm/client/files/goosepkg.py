#!/usr/bin/python3 -B
"""The packager's command: pyrpkg, the library under fedpkg, with this site's addresses and branches.

Everything that a site decides stands in /etc/rpkg/goosepkg.conf, which Salt writes of pillar `scm`.
"""

import argparse
import configparser
import os
import shutil
import sys
from typing import Any

import pycurl  # type: ignore[import-untyped]
import pyrpkg
import pyrpkg.utils
from pyrpkg.cli import cliClient
from pyrpkg.errors import UploadError

NAME = "goosepkg"
CONFIG = f"/etc/rpkg/{NAME}.conf"

# What of pyrpkg this site has servers for. The rest is of containers, modules and other services.
COMMANDS = (
    "build", "chainbuild", "clean", "clog", "clone", "commit", "compile", "diff", "gimmespec", "giturl", "import_srpm",
    "install", "local", "new", "new_sources", "patch", "prep", "pull", "push", "scratch_build", "sources", "srpm",
    "switch_branch", "tag", "unused_patches", "upload", "verify_files", "verrel",
)  # fmt: skip
MOCK_COMMANDS = ("mockbuild", "mock_config")


class Commands(pyrpkg.Commands):
    """pyrpkg's commands, where a branch, a certificate and a `sources` file mean what the site says."""

    def __init__(self, *args: Any, **kws: Any) -> None:
        super().__init__(*args, **kws)
        self.source_entry_type = "bsd"
        self.site_config = configparser.ConfigParser(interpolation=None)

    def _site(self, part: str, key: str) -> str:
        """A value of the configuration; the sentence of an rpkgError where the branch has none."""
        section = f"{NAME}.{part}"
        if not self.site_config.has_option(section, key):
            known = ", ".join(self.site_config.options(section)) if self.site_config.has_section(section) else ""
            raise pyrpkg.rpkgError(
                f"The branch {key!r} stands for no Koji target; these do: {known or 'none'}. Give --release BRANCH, or"
                " have it added to pillar scm:branches."
            )
        return self.site_config.get(section, key)

    def _file(self, key: str) -> Any:
        path = os.path.expanduser(self.site_config.get(NAME, key, fallback=""))
        return path if path and os.path.exists(path) else None

    @property
    def cert_file(self) -> Any:
        """The certificate for uploads."""
        return self._file("client_cert")

    @property
    def ca_cert(self) -> Any:
        """The CA that the lookaside cache's certificate is of."""
        return self._file("ca_cert")

    @property
    def lookasidecache(self) -> Any:
        """pyrpkg's client of the lookaside cache, which says why an archive is refused.

        An upload that its server did not bring to an end, as where Apache reloads, is sent again like one that
        the network lost. A disk that is full (507) stays so.
        """
        cache = super().lookasidecache
        send = cache.retry_upload

        def told(curl: Any) -> Any:
            status, answer = send(curl)
            if status >= 500 and status != 507:
                raise pycurl.error(status, f"the lookaside cache answers {status}")
            if status != 200 and answer:
                raise UploadError(answer.decode("utf-8", "replace")[:300], http_status=status)
            return status, answer

        cache.retry_upload = told
        return cache

    def login_koji_session(self, koji_config: Any, session: Any) -> None:
        """Log in to Koji with the same certificate, unless Koji's own configuration names one that is there."""
        own = os.path.expanduser(koji_config["cert"] or "")
        if self.cert_file and not os.path.isfile(own):
            koji_config = {**koji_config, "cert": self.cert_file}
        super().login_koji_session(koji_config, session)

    def load_rpmdefines(self) -> None:
        """What rpm must know to read the spec of this branch as Koji will."""
        dist = self._site("dists", self.branch_merge)
        if self.layout is None:
            raise pyrpkg.rpkgError(f"{self.path} holds no package: change to a clone's directory.")
        self._disttag, self._distvar, self._distval = dist.lstrip("."), "", ""
        self._rpmdefines = ["--define", f"dist {dist or '%{nil}'}"]
        for name in ("sourcedir", "specdir", "builddir", "srcrpmdir", "rpmdir", "rpmfilename"):
            self._rpmdefines += ["--define", f"_{name} {getattr(self.layout, name)}"]

    def construct_build_url(self, *args: Any, **kws: Any) -> str:
        """What Koji is told: the address to clone, with Koji's name of the SCM's kind before it."""
        url: str = super().construct_build_url(*args, **kws)
        return url if url.startswith("git") else f"git+{url}"

    def build_target(self, release: str) -> str:
        """Koji's target of a branch."""
        return self._site("targets", release)


class Client(cliClient):
    """pyrpkg's command line, without what the site has no servers for."""

    def setup_subparsers(self) -> None:
        """Register the commands; mock's where there is mock."""
        self.register_help()
        self.register_build_common()
        self.register_rpm_common()
        for command in [*COMMANDS, *(MOCK_COMMANDS if shutil.which("mock") else ())]:
            getattr(self, f"register_{command}")()

    def load_cmd(self) -> None:
        """The commands, with the site's configuration."""
        super().load_cmd()
        self._cmd.site_config = self.config


def main() -> int:
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("-C", "--config", default=CONFIG)
    options, _ = first.parse_known_args()
    # pyrpkg's addresses hold %(repo)s, which is not for configparser.
    config = configparser.ConfigParser(interpolation=None)
    # Names of branches are keys, and are not all lower case.
    config.optionxform = str  # type: ignore[assignment,method-assign]
    if not config.read(options.config, encoding="utf-8") or not config.has_section(NAME):
        print(f"{NAME}: {options.config} is missing: apply the state scm.client on this host.", file=sys.stderr)
        return 2
    client = Client(config, name=NAME)
    client.site = sys.modules[__name__]
    client.parse_cmdline()
    client.args.path = client.args.path or pyrpkg.utils.getcwd()
    log = pyrpkg.log
    client.setupLogging(log)
    log.setLevel("DEBUG" if client.args.debug or client.args.v else "WARNING" if client.args.q else "INFO")
    try:
        return int(client.args.command() or 0)
    except KeyboardInterrupt:
        return 1
    except Exception as error:
        if client.args.debug:
            raise
        print(f"{NAME}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
