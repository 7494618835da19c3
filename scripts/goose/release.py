"""The source RPM of the distribution's first package, goose-release, from pillar `site`."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional, TextIO

from goose.buildroot import BuildrootError as ToolError

EXIT_DONE, EXIT_USAGE, EXIT_TOOL = 0, 2, 5
TEMPLATES = Path(__file__).resolve().parents[2] / "koji" / "goose-release"


def values(site: Mapping[str, Any], keys: Optional[Mapping[str, str]] = None) -> dict[str, str]:
    """What the templates need of pillar `site`, and of the public keys (name -> text).

    ToolError (usage) naming the word of the pillar that is missing or wrong.
    """
    patterns = {
        "name": (r"[^\"'\\$`\n@]+", "a plain name, as users read it"),
        "id": (r"[a-z0-9][a-z0-9._-]*", "lower-case letters, digits and . _ -"),
        "version": (r"[0-9]+(\.[0-9]+)*", "numbers with dots between them"),
        "domain": (r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", "a domain's name"),
    }
    found: dict[str, str] = {}
    for key, (pattern, what) in patterns.items():
        value = str(site.get(key, "")).strip()
        if not re.fullmatch(pattern, value):
            raise ToolError(f"site:{key} in pillar is {value!r}: use {what}.", EXIT_USAGE)
        found[key.upper()] = value
    found["MAJOR"] = found["VERSION"].split(".")[0]
    found["RELEASE"] = str(site.get("release", "1"))
    if not re.fullmatch(r"[0-9][A-Za-z0-9.]*", found["RELEASE"]):
        raise ToolError(f"site:release in pillar is {found['RELEASE']!r}: begin with a number.", EXIT_USAGE)
    return {**found, **_key_words(found["ID"], keys or {})}


KEY_FILE = "RPM-GPG-KEY-"
_KEY_DIR = "/etc/pki/rpm-gpg"


def public_keys(paths: Sequence[Path]) -> dict[str, str]:
    """Public keys by name, of files RPM-GPG-KEY-NAME and of directories that hold such.

    A file of another name gives its key the name of the file, without its ending. ToolError (usage) where
    one is no public key.
    """
    files = []
    for path in paths:
        inside = sorted(path.glob(f"{KEY_FILE}*")) if path.is_dir() else [path]
        if not inside:
            raise ToolError(f"{path} holds no file {KEY_FILE}NAME: publish a key there, by signing_key.py.", EXIT_USAGE)
        files += inside
    found: dict[str, str] = {}
    for path in files:
        name = path.name[len(KEY_FILE):] if path.name.startswith(KEY_FILE) else path.stem
        try:
            text = path.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise ToolError(f"The public key {path} cannot be read: {error}.", EXIT_USAGE) from error
        if not text.startswith("-----BEGIN PGP PUBLIC KEY BLOCK-----") or "PRIVATE KEY" in text:
            raise ToolError(f"{path} is no public key, as gpg --armor --export gives it.", EXIT_USAGE)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ToolError(f"{path} gives the key the name {name!r}: use letters, digits and . _ - alone.", EXIT_USAGE)
        if found.setdefault(name, text) != text:
            raise ToolError(f"There are two public keys called {name}: {path} is the second.", EXIT_USAGE)
    return found


def _key_words(site_id: str, keys: Mapping[str, str]) -> dict[str, str]:
    """What the templates need of the public keys; without one, the file that a site puts in their place."""
    names = [f"{KEY_FILE}{name}" for name in sorted(keys)]
    first = 10  # beyond the other sources of the spec file
    install = (f"install -D -p -m 0644 %{{SOURCE{first + n}}} %{{buildroot}}%{{_sysconfdir}}/pki/rpm-gpg/{name}"
               for n, name in enumerate(names))
    return {
        "GPGKEY": " ".join(f"file://{_KEY_DIR}/{name}" for name in names or [f"{KEY_FILE}{site_id}"]),
        "KEY_SOURCES": "".join(f"Source{first + n}: {name}\n" for n, name in enumerate(names)),
        "KEY_INSTALL": "".join(f"{line}\n" for line in install),
        "KEY_FILES": "".join(f"%{{_sysconfdir}}/pki/rpm-gpg/{name}\n" for name in names),
        "KEY_NOTE": "" if names else
        f"# The keys' file is put here by the site once the packages are signed; see {_KEY_DIR}.\n",
    }


def fill(text: str, words: Mapping[str, str]) -> str:
    """Replace each @WORD@; ToolError where a template asks for a word that is not there."""
    def word(match: "re.Match[str]") -> str:
        if match[1] not in words:
            raise ToolError(f"A template of goose-release asks for @{match[1]}@, which release.py does not know.")
        return words[match[1]]

    return re.sub(r"@([A-Z_]+)@", word, text)


def make_release_srpm(
    site: Mapping[str, Any], outdir: Path, templates: Path = TEMPLATES, keys: Optional[Mapping[str, str]] = None
) -> Path:
    """Make ID-release-VERSION-RELEASE.src.rpm in `outdir`; gives its path.

    `site` is pillar `site`: name, id, version and domain, and if wanted `release`. `keys` are the public
    keys (name -> text) that packages are checked with. Raises ToolError, whose `status` is an exit status.
    """
    words = values(site, keys)
    outdir = Path(outdir)
    outdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="goose-release-") as work:
        top = Path(work)
        spec = top / f"{words['ID']}-release.spec"
        for template in sorted(templates.glob("*.in")):
            text = fill(template.read_text(), words)
            if template.name == "release.spec.in":
                spec.write_text(text)
            else:
                name = template.name[:-len(".in")].replace("release.repo", f"{words['ID']}.repo")
                (top / name).write_text(text)
        for key, text in (keys or {}).items():
            (top / f"{KEY_FILE}{key}").write_text(text)
        command = ["rpmbuild", "-bs", "--nodeps"]
        for define in (f"_topdir {top}", f"_sourcedir {top}", f"_srcrpmdir {top}/out", f"_dbpath {top}/db",
                       "dist %{nil}"):
            command += ["--define", define]
        command.append(str(spec))
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  encoding="utf-8", errors="replace", check=False)
        except FileNotFoundError as error:
            raise ToolError("Making a source RPM needs rpmbuild, which is not installed.", EXIT_TOOL) from error
        made = list((top / "out").glob("*.src.rpm"))
        if done.returncode or len(made) != 1:
            raise ToolError(f"rpmbuild made no source RPM of {spec.name}:\n{done.stdout}", EXIT_TOOL)
        new = outdir / f".{made[0].name}.{os.getpid()}"
        shutil.copy(made[0], new)
        os.rename(new, outdir / made[0].name)
        return outdir / made[0].name


def main(argv: Optional[Sequence[str]] = None, output: TextIO = sys.stdout) -> int:
    """The command line; gives the exit status."""
    parser = argparse.ArgumentParser(prog="goose_release.py", description="Make the source RPM of the release package.")
    parser.add_argument("--site", type=Path, required=True, metavar="FILE", help="pillar site, as YAML or JSON")
    parser.add_argument("--out", type=Path, default=Path.cwd(), metavar="DIR", help="where to put it (default: here)")
    parser.add_argument("--key", type=Path, action="append", default=[], metavar="FILE",
                        help="public key that packages are signed with, or a directory of them (may be repeated)")
    parser.add_argument("--json", action="store_true", help="print one object on standard output")
    parser.add_argument("--dry-run", action="store_true", help="check the data, make nothing")
    args = parser.parse_args(argv)
    try:
        import yaml

        data = yaml.safe_load(args.site.read_text()) or {}
        site: Mapping[str, Any] = data.get("site") or data
        keys = public_keys(args.key)
        if args.dry_run:
            made = f"{values(site)['ID']}-release"
        else:
            made = str(make_release_srpm(site, args.out, keys=keys))
    except ToolError as error:
        print(error, file=sys.stderr)
        return error.status
    except OSError as error:
        print(f"{error}.", file=sys.stderr)
        return EXIT_TOOL
    print(json.dumps({"srpm": made}) if args.json else made, file=output)
    return EXIT_DONE
