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


def values(site: Mapping[str, Any]) -> dict[str, str]:
    """What the templates need of pillar `site`; ToolError (usage) naming the key that is missing or wrong."""
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
    return found


def fill(text: str, words: Mapping[str, str]) -> str:
    """Replace each @WORD@; ToolError where a template asks for a word that is not there."""
    def word(match: "re.Match[str]") -> str:
        if match[1] not in words:
            raise ToolError(f"A template of goose-release asks for @{match[1]}@, which release.py does not know.")
        return words[match[1]]

    return re.sub(r"@([A-Z_]+)@", word, text)


def make_release_srpm(site: Mapping[str, Any], outdir: Path, templates: Path = TEMPLATES) -> Path:
    """Make ID-release-VERSION-RELEASE.src.rpm in `outdir`; gives its path.

    `site` is pillar `site`: name, id, version and domain, and if wanted `release`. Raises ToolError,
    whose `status` is an exit status.
    """
    words = values(site)
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
    parser.add_argument("--json", action="store_true", help="print one object on standard output")
    parser.add_argument("--dry-run", action="store_true", help="check the data, make nothing")
    args = parser.parse_args(argv)
    try:
        import yaml

        data = yaml.safe_load(args.site.read_text()) or {}
        site: Mapping[str, Any] = data.get("site") or data
        if args.dry_run:
            made = f"{values(site)['ID']}-release"
        else:
            made = str(make_release_srpm(site, args.out))
    except ToolError as error:
        print(error, file=sys.stderr)
        return error.status
    except OSError as error:
        print(f"{error}.", file=sys.stderr)
        return EXIT_TOOL
    print(json.dumps({"srpm": made}) if args.json else made, file=output)
    return EXIT_DONE
