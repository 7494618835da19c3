"""Source RPMs of real packages, made from source archives that carry their upstream's own spec.

The archives come from the machine's own package sources; what they are stands in
koji/samples/samples.yaml.
"""

import argparse
import bz2
import gzip
import hashlib
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional, TextIO

from goose.buildroot import BuildrootError as ToolError
from goose.buildroot import read_apt_sources

EXIT_DONE, EXIT_USAGE, EXIT_TOOL = 0, 2, 5
DATA = Path(__file__).resolve().parents[2] / "koji" / "samples"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "goose" / "samples"


@dataclass(frozen=True)
class Sample:
    """One archive and what makes a source RPM of it."""

    name: str
    source: str
    version: str
    archive: str
    sha256: str
    spec: str
    patch: str = ""
    reason: str = ""
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Samples:
    """samples.yaml: the suite, what is built by default, and every sample by its name."""

    suite: str
    default: tuple[str, ...]
    samples: Mapping[str, Sample]


def load(data: Path = DATA) -> Samples:
    """Read samples.yaml; ToolError (usage) where an entry is incomplete."""
    import yaml

    text = yaml.safe_load((data / "samples.yaml").read_text())
    samples: dict[str, Sample] = {}
    for name, fields in text["samples"].items():
        if fields.get("patch") and not fields.get("reason"):
            raise ToolError(f"{data}/samples.yaml: {name} has a patch and no reason: say why it is needed.", EXIT_USAGE)
        try:
            samples[name] = Sample(name=name, **{**fields, "needs": tuple(fields.get("needs", ()))})
        except TypeError as error:
            raise ToolError(f"{data}/samples.yaml: {name}: {error}.", EXIT_USAGE) from error
    return Samples(text["suite"], tuple(text["default"]), samples)


def in_order(samples: Samples, names: Sequence[str]) -> list[str]:
    """The names, each behind what it needs; ToolError (usage) for a name that is no sample."""
    ordered: list[str] = []

    def add(name: str, above: tuple[str, ...]) -> None:
        if name not in samples.samples:
            raise ToolError(f"{name} is no sample: choose from {', '.join(samples.samples)}.", EXIT_USAGE)
        if name in above:
            raise ToolError(f"The samples {', '.join(above)} need each other: mend samples.yaml.", EXIT_USAGE)
        for needed in samples.samples[name].needs:
            if needed in names:
                add(needed, (*above, name))
        if name not in ordered:
            ordered.append(name)

    for name in names:
        add(name, ())
    return ordered


def sha256(path: Path) -> str:
    """A file's SHA-256, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _run(command: Sequence[str], what: str, **options: Any) -> str:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8",
                              errors="replace", check=False, **options)
    except FileNotFoundError as error:
        raise ToolError(f"{what} needs {command[0]}, which is not installed.", EXIT_TOOL) from error
    if done.returncode:
        tail = "\n  ".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise ToolError(f"{what} failed ({command[0]}, status {done.returncode}):\n  {tail}", EXIT_TOOL)
    return done.stdout


def download(samples: Samples, wanted: Sequence[Sample], cache: Path, say: Callable[[str], None]) -> None:
    """Bring the archives into `cache`; asks no server for what is there with the right sum.

    apt is given the machine's own sources as deb-src lines, with directories of its own, so nothing
    of the machine's configuration is changed and root is not needed.
    """
    cache.mkdir(parents=True, exist_ok=True)
    missing = [sample for sample in wanted
               if not (cache / sample.archive).exists() or sha256(cache / sample.archive) != sample.sha256]
    if not missing:
        return
    lines = [re.sub(r"^deb ", "deb-src ", line) for _, line in read_apt_sources(samples.suite)]
    if not lines:
        raise ToolError(f"/etc/apt names no source for {samples.suite}: add one, or put {missing[0].archive} into "
                        f"{cache}.", EXIT_USAGE)
    with tempfile.TemporaryDirectory(prefix="goose-samples-") as name:
        work = Path(name)
        work.chmod(0o755)
        for directory in ("lists/partial", "cache/archives/partial", "down"):
            (work / directory).mkdir(parents=True)
        (work / "sources.list").write_text("\n".join(lines) + "\n")
        options = []
        for key, value in (
            ("Dir::Etc::SourceList", str(work / "sources.list")), ("Dir::Etc::SourceParts", "/dev/null"),
            ("Dir::State::Lists", str(work / "lists")), ("Dir::Cache", str(work / "cache")),
            ("Dir::Cache::pkgcache", ""), ("Dir::Cache::srcpkgcache", ""), ("APT::Sandbox::User", ""),
            ("Acquire::Languages", "none"), ("Acquire::Retries", "3"), ("Debug::NoLocking", "true"),
        ):
            options += ["-o", f"{key}={value}"]
        say(f"Downloading {', '.join(sample.archive for sample in missing)}.")
        _run(["apt-get", *options, "-q", "update"], "Reading the package sources")
        for sample in missing:
            _run(["apt-get", *options, "-q", "source", "--download-only", "--tar-only", sample.source],
                 f"Downloading {sample.source}", cwd=work / "down")
            got = work / "down" / sample.archive
            if not got.exists():
                found = ", ".join(sorted(path.name for path in (work / "down").iterdir())) or "nothing"
                raise ToolError(f"{samples.suite} has {found} and no {sample.archive}: bring koji/samples/samples.yaml "
                                "up to date.", EXIT_TOOL)
            if sha256(got) != sample.sha256:
                raise ToolError(f"{sample.archive} has another SHA-256 than koji/samples/samples.yaml names: "
                                f"{sha256(got)}.", EXIT_TOOL)
            new = cache / f".{sample.archive}.{os.getpid()}"
            shutil.copy(got, new)
            os.rename(new, cache / sample.archive)


_OPENERS: Mapping[str, Callable[..., Any]] = {
    "gz": gzip.open, "tgz": gzip.open, "bz2": bz2.open, "tbz2": bz2.open, "xz": lzma.open, "txz": lzma.open,
    "tar": open,
}


def repack(archive: Path, target: Path) -> None:
    """Copy an archive to the name by which a spec knows it, packed as that name says."""
    kinds = [path.name.rpartition(".")[2] for path in (archive, target)]
    for path, kind in zip((archive, target), kinds):
        if kind not in _OPENERS:
            raise ToolError(f"{path.name} is packed in a way that is not known here: {', '.join(_OPENERS)}.", EXIT_TOOL)
    if _OPENERS[kinds[0]] is _OPENERS[kinds[1]]:
        shutil.copyfile(archive, target)
        return
    with _OPENERS[kinds[0]](archive, "rb") as source:
        if kinds[1] in ("gz", "tgz"):
            # No time stamp: the same archive gives the same file.
            with target.open("wb") as raw, gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed:
                shutil.copyfileobj(source, packed)
        else:
            with _OPENERS[kinds[1]](target, "wb") as packed:
                shutil.copyfileobj(source, packed)


def spec_from_archive(archive: Path, place: str) -> str:
    """The text of a spec file in an archive, `place` being relative to the archive's top directory."""
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and member.name.split("/", 1)[-1] == place:
                handle = tar.extractfile(member)
                if handle:
                    return handle.read().decode("utf-8", "replace")
    raise ToolError(f"{archive.name} holds no {place}: bring koji/samples/samples.yaml up to date.", EXIT_TOOL)


def source_rpm(sample: Sample, archive: Path, outdir: Path, data: Path = DATA) -> Path:
    """Make the source RPM of one archive, by upstream's spec; gives its path in `outdir`."""
    with tempfile.TemporaryDirectory(prefix="goose-srpm-") as name:
        top = Path(name)
        sources = top / "SOURCES"
        sources.mkdir()
        spec = top / os.path.basename(sample.spec)
        spec.write_text(spec_from_archive(archive, sample.spec))
        if sample.patch:
            _run(["patch", "--silent", "--no-backup-if-mismatch", str(spec), str(data / sample.patch)],
                 f"Patching {spec.name}")
        defines = ["--define", f"_topdir {top}", "--define", f"_sourcedir {sources}", "--define", f"_dbpath {top}/db"]
        listed = _run(["rpmspec", *defines, "-P", str(spec)], f"Reading {spec.name}")
        named = re.findall(r"^Source0?\s*:\s*(\S+)", listed, re.M | re.I)
        if len(named) != 1:
            raise ToolError(f"{spec.name} of {sample.name} names {len(named)} first sources: it must name one.",
                            EXIT_TOOL)
        repack(archive, sources / named[0].rpartition("/")[2])
        _run(["rpmbuild", *defines, "--define", f"_srcrpmdir {top}/out", "-bs", "--nodeps", str(spec)],
             f"Making the source RPM of {sample.name}")
        made = list((top / "out").glob("*.src.rpm"))
        if len(made) != 1:
            raise ToolError(f"rpmbuild made {len(made)} source RPMs of {sample.name}.", EXIT_TOOL)
        outdir.mkdir(parents=True, exist_ok=True)
        new = outdir / f".{made[0].name}.{os.getpid()}"
        shutil.copy(made[0], new)
        os.rename(new, outdir / made[0].name)
        return outdir / made[0].name


def fetch(names: Sequence[str], outdir: Path, cache: Path = CACHE, data: Path = DATA,
          say: Callable[[str], None] = lambda text: print(text, file=sys.stderr)) -> list[Path]:
    """Source RPMs of these samples (of the default ones where none is named), in the order in which they build.

    Raises ToolError, whose `status` is an exit status, where a name, a download or a tool fails.
    """
    samples = load(data)
    wanted = [samples.samples[name] for name in in_order(samples, names or samples.default)]
    download(samples, wanted, cache, say)
    return [source_rpm(sample, cache / sample.archive, Path(outdir), data) for sample in wanted]


def main(argv: Optional[Sequence[str]] = None, output: TextIO = sys.stdout) -> int:
    """The command line; gives the exit status."""
    parser = argparse.ArgumentParser(prog="goose_samples.py", description="Make source RPMs of the sample packages.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="samples (default: those that samples.yaml names)")
    parser.add_argument("--out", type=Path, default=Path.cwd(), metavar="DIR", help="where to put them (default: here)")
    parser.add_argument("--cache", type=Path, default=CACHE, metavar="DIR",
                        help="where downloaded archives stay (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one object on standard output")
    parser.add_argument("--dry-run", action="store_true", help="say what would be made, in order")
    args = parser.parse_args(argv)
    try:
        samples = load()
        if args.dry_run:
            made = in_order(samples, args.names or samples.default)
        else:
            made = [str(path) for path in fetch(args.names, args.out, args.cache)]
    except ToolError as error:
        print(error, file=sys.stderr)
        return error.status
    except OSError as error:
        print(f"{error}.", file=sys.stderr)
        return EXIT_TOOL
    print(json.dumps({"samples" if args.dry_run else "srpms": made}) if args.json else "\n".join(made), file=output)
    return EXIT_DONE
