"""compose_iso.py: what variants hold, what comes out, and what is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gzip
import hashlib
import http.server
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import productmd.compose
import pytest

from compose_doubles import BUILT, COMPS, SPECS, Site, Spec, createrepo, env, make, settings
from goose import compose_boot, compose_config, compose_pungi, compose_tree
from goose.compose_config import ConfigError, Release, parse
from goose.compose_tree import About


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("mash") / "goose-1")


@pytest.fixture
def site(tmp_path: Path, repository: Path) -> Site:
    return Site(tmp_path, repository)


@contextlib.contextmanager
def serving(directory: Path, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A directory over HTTP, or HTTPS; the port."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(directory))
    )
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("*.rpm"))


def refused(site: Site, status: int, *words: str) -> str:
    """What a run that must be refused says; nothing is published by it."""
    before = tree(site.output)
    done = site.run(*words)
    assert done.returncode == status, done.stderr
    assert tree(site.output) == before
    assert "Traceback" not in done.stderr
    return done.stderr


def tree(output: Path) -> dict[str, str]:
    """All that is published: path -> content's hash or target."""
    found = {}
    for path in sorted(output.rglob("*")) if output.is_dir() else ():
        name = path.relative_to(output).as_posix()
        if not name.startswith(".compose") and not path.is_dir():
            found[name] = (
                os.readlink(path) if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
            )
    return found


# What comes out


def test_variants(site: Site) -> None:
    """Groups, then lists, then what these need; what a required variant has is not taken again; multilib comes along."""
    told = site.told()
    top = Path(told["path"]) / "compose"
    assert names(top / "BaseOS/x86_64/os") == ["bash-1.0-1.x86_64.rpm", "setup-1.0-1.noarch.rpm"]
    assert names(top / "Apps/x86_64/os") == [
        "app-1.0-1.x86_64.rpm", "data-1.0-1.noarch.rpm", "libfoo-1.0-1.i686.rpm", "libfoo-1.0-1.x86_64.rpm",
    ]  # fmt: skip
    assert names(top / "Apps/source/tree") == [
        "app-1.0-1.src.rpm",
        "data-1.0-1.src.rpm",
        "libfoo-1.0-1.src.rpm",
    ]
    assert names(top / "Apps/x86_64/debug/tree") == ["app-debuginfo-1.0-1.x86_64.rpm"]
    assert told["warnings"][0] == "BaseOS: the group core names what no repository has: nowhere."
    assert "i686" in str(told["variants"]["Apps"]) or told["variants"]["Apps"]["x86_64"] == {
        "packages": 4,
        "sources": 3,
        "debug": 1,
    }


def test_choices_of_a_variant(site: Site) -> None:
    site.configure(variants={"All": {"everything": True, "exclude": ["spare", "libfoo.i686"]}}, isos=[])
    top = Path(site.told()["path"]) / "compose/All/x86_64/os"
    assert "old-1.0-1.noarch.rpm" in names(top) and "spare-1.0-1.noarch.rpm" not in names(top)
    assert "libfoo-1.0-1.i686.rpm" not in names(top)
    site.configure(
        variants={"One": {"packages": ["a*p", "ol?", "libfoo.i686"], "multilib": False, "recommends": True}},
        isos=[],
    )
    found = names(Path(site.told()["path"]) / "compose/One/x86_64/os")
    assert {"tips-1.0-1.noarch.rpm", "old-2.0-1.noarch.rpm", "libfoo-1.0-1.i686.rpm"} <= set(found)
    assert "old-1.0-1.noarch.rpm" not in found
    site.configure(variants={"Opt": {"groups": ["core"], "optional": True}}, isos=[])
    assert "tips-1.0-1.noarch.rpm" in names(Path(site.told()["path"]) / "compose/Opt/x86_64/os")


def test_packages_are_hard_links(site: Site, repository: Path) -> None:
    top = Path(site.told()["path"]) / "compose"
    mine = top / "BaseOS/x86_64/os/Packages/b/bash-1.0-1.x86_64.rpm"
    assert os.path.samefile(mine, repository / "x86_64/os/Packages/bash-1.0-1.x86_64.rpm")


def test_several_repositories_have_a_package(site: Site, tmp_path: Path) -> None:
    """The first one's is taken, and no file of either is written: all that links to it would change as well."""
    specs = [
        dataclasses.replace(spec, files=[*spec.files, "/usr/share/another"])
        for spec in SPECS
        if spec.name in ("libfoo", "app", "data")
    ]
    other = make(tmp_path / "another", specs)
    before = tree(site.repository), tree(other)
    site.configure(
        repositories=[settings(site.top, one)["repositories"][0] for one in (other, site.repository)],
        variants={"All": {"everything": True}},
        isos=[{"variants": ["All"]}],
    )
    top = Path(site.told()["path"]) / "compose/All"
    assert (tree(site.repository), tree(other)) == before
    for name in ("x86_64/os/Packages", "x86_64/debug", "source/SRPMS"):
        for path in (other / name).glob("*.rpm"):
            (mine,) = top.rglob(path.name)
            assert os.path.samefile(mine, path), path.name


def test_extra_files_of_one_name(site: Site) -> None:
    files = [site.top / name / "LICENSE" for name in ("one", "two")]
    for path in files:
        path.parent.mkdir()
        path.write_text(f"{path}\n")
    site.configure(extra_files=[str(path) for path in files])
    assert f"extra_files names {files[1]}, and LICENSE is in the tree already." in refused(site, 1)
    assert [path.read_text() for path in files] == [f"{path}\n" for path in files]


def test_productmd_reads_all(site: Site) -> None:
    """productmd's own parser, on every kind of its files."""
    told = site.told()
    compose = productmd.compose.Compose(told["path"])
    info = compose.info
    assert (info.compose.id, info.compose.label, info.release.short) == (told["compose"], "Beta-1.4", "goose")
    assert sorted(info.variants.variants) == ["Apps", "BaseOS"]
    assert info.variants["Apps"].paths.debug_repository["x86_64"] == "Apps/x86_64/debug/tree"
    rpms = compose.rpms.rpms["Apps"]["x86_64"]
    assert set(rpms["app-0:1.0-1.src"]) == {
        "app-0:1.0-1.src",
        "app-0:1.0-1.x86_64",
        "app-debuginfo-0:1.0-1.x86_64",
    }
    (image,) = compose.images.images["BaseOS"]["x86_64"] - {
        i for i in compose.images.images["BaseOS"]["x86_64"] if i.arch == "src"
    }
    assert image.unified and image.additional_variants == ["Apps"] and image.size == told["iso"]["bytes"]
    compose_tree.validate(Path(told["path"]) / "compose")


def test_iso(site: Site) -> None:
    """The medium is whole by checkisomd5, its CHECKSUM holds, and it has both variants."""
    told = site.told()
    iso = Path(told["iso"]["path"])
    subprocess.run(["checkisomd5", str(iso)], check=True, capture_output=True)
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", *iso.parent.glob("*CHECKSUM")],
        cwd=iso.parent,
        capture_output=True,
    )
    assert checked.returncode == 0, checked.stderr
    out = site.top / "extracted"
    subprocess.run(
        ["xorriso", "-osirrox", "on", "-indev", str(iso), "-extract", "/", str(out)],
        check=True,
        capture_output=True,
    )
    assert names(out / "Apps")[0] == "app-1.0-1.x86_64.rpm"
    text = (out / ".treeinfo").read_text()
    assert "repository = Apps" in text and "repository = BaseOS" in text
    assert told["iso"]["url"].startswith("https://compose.example/compose/goose-1-")


def test_dnf_installs_from_the_medium(site: Site) -> None:
    """What a person does with it: dnf, both repositories of the medium, an empty root."""
    iso = site.told()["iso"]["path"]
    out, root = site.top / "extracted", site.top / "root"
    subprocess.run(
        ["xorriso", "-osirrox", "on", "-indev", iso, "-extract", "/", str(out)],
        check=True,
        capture_output=True,
    )
    done = subprocess.run(
        ["dnf", "--assumeyes", f"--installroot={root}", "--releasever=1", "--forcearch=x86_64", "--setopt=reposdir=/nowhere",
         "--setopt=cachedir=/var/cache/dnf", "--setopt=tsflags=noscripts", "--nogpgcheck",
         f"--repofrompath=b,file://{out}/BaseOS", f"--repofrompath=a,file://{out}/Apps", "install", "app", "libfoo.i686"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (root / "usr/bin/app").read_text() == "app 1.0\n"
    assert (root / "etc/setup").exists()


def test_same_bytes(site: Site, tmp_path: Path) -> None:
    """The same input gives the same media, whatever the day, the order in which files came, and their times."""
    first = site.told()
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in sorted(site.repository.rglob("*"), reverse=True):
        if path.is_file():
            target = copy / path.relative_to(site.repository)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    other = Site(tmp_path / "other", copy)
    other.top.mkdir()
    second = other.told("1", "Beta", "RC4")
    assert [one["sha256"] for one in first["isos"]] == [one["sha256"] for one in second["isos"]]
    third = other.told("1", "Beta", "RC4", SOURCE_DATE_EPOCH=str(BUILT + 86400))
    assert third["result"] == "published" and third["iso"]["sha256"] != first["iso"]["sha256"]
    assert third["compose"] == "goose-1-20260102.0"


def test_stages(site: Site) -> None:
    """GoOSe's layout: testing, Alpha, Beta, Final; the latest one of each, and the final one of all."""
    site.configure(isos=[])
    for words, place, latest in (
        (("1", "testing", "3"), "testing/1-3", "latest-goose-1-testing"),
        (("1", "Beta", "RC4"), "1/Beta-RC4", "latest-goose-1-Beta"),
        (("1", "Final", "RC1"), "1/Final-RC1", "latest-goose-1-Final"),
        (("1", "Final", "Final"), "1/Final", "latest-goose-1"),
    ):
        told = site.told(*words, "--date", "20260301")
        assert (site.output / place).resolve() == Path(told["path"]) / "compose"
        assert (site.output / latest).resolve() == Path(told["path"])
        assert told["place"] == place
    assert [
        Release("1", *words).full_label for words in (("testing", "3"), ("Beta", "RC4"), ("Final", "Final"))
    ] == ["", "Beta-1.4", "RC-1.0"]
    assert sorted(path.name for path in site.output.glob("goose-*")) == [
        "goose-1-20260301.0", "goose-1-20260301.1", "goose-1-20260301.2", "goose-1-20260301.t.0",
    ]  # fmt: skip


def test_applied_twice(site: Site) -> None:
    """The same input makes no second compose, and a compose that is damaged is made anew."""
    first = site.told()
    before = tree(site.output)
    second = site.told()
    assert (second["result"], second["compose"], second["iso"]) == (
        "unchanged",
        first["compose"],
        first["iso"],
    )
    assert tree(site.output) == before
    (site.output / "latest-goose-1-Beta").unlink()
    assert site.told()["result"] == "unchanged"
    assert (site.output / "latest-goose-1-Beta").resolve() == Path(first["path"])
    os.truncate(first["iso"]["path"], 4096)
    third = site.told()
    assert third["result"] == "published" and third["iso"]["sha256"] == first["iso"]["sha256"]


def test_dry_run(site: Site) -> None:
    told = site.told("1", "Beta", "RC4", "--dry-run")
    assert told["result"] == "would-publish" and told["variants"]["Apps"]["x86_64"]["packages"] == 4
    assert tree(site.output) == {}


def test_keep(site: Site) -> None:
    """Test composes that no link leads to go; milestones stay."""
    site.configure(isos=[], keep=1)
    first = site.told("1", "Beta", "RC1", "--date", "20260101")["compose"]
    for day in range(2, 6):
        told = site.told("1", "testing", "1", "--date", f"2026010{day}")
    assert told["removed"] == ["goose-1-20260103.t.0"]
    assert sorted(path.name for path in site.output.glob("goose-*")) == [
        first,
        "goose-1-20260104.t.0",
        "goose-1-20260105.t.0",
    ]


def test_several_architectures_share_sources(tmp_path: Path, repository: Path) -> None:
    """A repository that has no package of an architecture is no variant of it."""
    site = Site(tmp_path, repository)
    site.configure(arches=["x86_64", "aarch64"])
    shutil.copytree(repository, tmp_path / "both")
    site.repository = tmp_path / "both"
    (site.repository / "aarch64/os").mkdir(parents=True)
    (site.repository / "aarch64/debug").mkdir()
    for path in (site.repository / "x86_64/os/Packages").glob("*.noarch.rpm"):
        shutil.copy(path, site.repository / "aarch64/os")
    for name in ("os", "debug"):
        createrepo(site.repository / "aarch64" / name)
    site.configure(
        arches=["x86_64", "aarch64"],
        variants={"Base": {"packages": ["setup", "data"]}},
        isos=[{"variants": ["Base"]}],
    )
    told = site.told()
    assert {Path(one["path"]).name for one in told["isos"]} == {
        "GoOSe-1-Beta-RC4-x86_64-dvd.iso", "GoOSe-1-Beta-RC4-aarch64-dvd.iso", "GoOSe-1-Beta-RC4-src-dvd.iso",
    }  # fmt: skip
    productmd.compose.Compose(told["path"]).images.validate()


# Media


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    specs = [Spec(f"big{number}", noarch=True, payload=1_000_000) for number in range(12)]
    return make(tmp_path_factory.mktemp("large") / "goose-1", specs)


def test_too_large_is_refused(tmp_path: Path, large: Path) -> None:
    site = Site(tmp_path, large)
    site.configure(
        variants={"All": {"everything": True}}, isos=[{"variants": ["All"]}], medium={"size": 8_000_000}
    )
    said = refused(site, 5)
    assert re.search(
        r"The medium GoOSe-1-Beta-RC4-x86_64 would have 1[0-9]{7} bytes, and medium.size is 8000000", said
    )


def test_split(tmp_path: Path, large: Path) -> None:
    """Discs, none larger than the limit, that together hold each package once, and a repository each."""
    site = Site(tmp_path, large)
    site.configure(variants={"All": {"everything": True}}, isos=[{"variants": ["All"], "source": False}],
                   medium={"size": 8_000_000, "split": True})  # fmt: skip
    told = site.told()
    assert len(told["isos"]) == 3 and all(one["bytes"] <= 8_000_000 for one in told["isos"])
    assert [one["label"] for one in told["isos"]] == [
        f"GoOSe-1-Beta-RC4-x86_64-{number}" for number in (1, 2, 3)
    ]
    found: list[str] = []
    for number, one in enumerate(told["isos"], 1):
        out = tmp_path / f"disc{number}"
        subprocess.run(
            ["xorriso", "-osirrox", "on", "-indev", one["path"], "-extract", "/", str(out)],
            check=True,
            capture_output=True,
        )
        found += names(out)
        assert (out / ".discinfo").read_text().splitlines()[3] == str(number)
        assert f"discnum = {number}" in (out / ".treeinfo").read_text()
        done = subprocess.run(
            [
                "dnf",
                "-q",
                f"--repofrompath=d,file://{out}",
                "--repoid=d",
                "--setopt=reposdir=/nowhere",
                f"--setopt=cachedir={tmp_path}/dnf{number}",
                "repoquery",
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        assert len(done.stdout.split()) == len(names(out))
    assert sorted(found) == sorted(path.name for path in (large / "x86_64/os").rglob("*.rpm"))


@pytest.mark.parametrize("version, stage, release, arch, expected", [
    ("1", "Final", "Final", "x86_64", "GoOSe-1-x86_64"),
    ("6.0", "Beta", "RC4", "x86_64", "GoOSe-6.0-Beta-RC4-x86_64"),
    ("10.10", "testing", "20260101.12", "x86_64", "GoOSe-10.10-t20260101.12-x86_64"),
    ("10.10", "testing", "20260101.1234", "aarch64", "GoOSe-10.10-t20260101.1234-a64"),
])  # fmt: skip
def test_labels(version: str, stage: str, release: str, arch: str, expected: str) -> None:
    """32 characters are what ISO 9660 has for a label."""
    about = About(parse(settings(Path("/x"), Path("/y"))), Release(version, stage, release), 0)
    assert about.label("BaseOS", arch) == expected


def test_label_that_cannot_be(site: Site) -> None:
    said = refused(site, 5, "1", "testing", "a" * 30)
    assert "no volume label of 32 characters" in said


def test_signed_checksum(site: Site) -> None:
    """The CHECKSUM is clear-signed by the command that the configuration has; one that signs nothing is refused."""
    home = site.top / "gnupg"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch"]
    subprocess.run(
        [
            *gpg,
            "--pinentry-mode",
            "loopback",
            "--passphrase",
            "",
            "--quick-generate-key",
            "test@example.org",
            "ed25519",
            "sign",
        ],
        check=True,
        capture_output=True,
    )
    site.configure(sign=[*gpg, "--clearsign", "--output", "{signed}", "{file}"])
    iso = Path(site.told()["iso"]["path"])
    (checksum,) = iso.parent.glob("*CHECKSUM")
    subprocess.run([*gpg, "--verify", str(checksum)], check=True, capture_output=True)
    assert f"SHA256 ({iso.name}) = " in checksum.read_text()
    site.configure(sign=["cp", "{file}", "{signed}"])
    assert "is no clear-signed copy" in refused(site, 5)
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)


def test_signatures_of_packages(site: Site) -> None:
    """Where keys are named, an unsigned package refuses the compose, by its name."""
    site.configure(sigkeys=["0123abcd"])
    said = refused(site, 1)
    assert "bash-1.0-1.x86_64 is not signed, and sigkeys wants 0123abcd." in said


# Boot media


def install_tree(top: Path, arch: str = "x86_64") -> Path:
    """What lorax makes, in its files' names."""
    for name, text in (
        ("images/pxeboot/vmlinuz", "kernel"), ("images/pxeboot/initrd.img", "initrd"), ("images/install.img", "anaconda"),
        ("images/boot.iso", "another medium"), ("isolinux/isolinux.bin", "x" * 4096), ("isolinux/vmlinuz", "kernel"),
        ("isolinux/isolinux.cfg", "append initrd=initrd.img inst.stage2=hd:LABEL=Old\\x20Label quiet\n"),
        ("EFI/BOOT/grub.cfg", "search --set=root -l 'Old Label'\nlinux inst.stage2=hd:LABEL=Old\\x20Label rd.live.check\n"),
    ):  # fmt: skip
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    image = top / "images/efiboot.img"
    with image.open("wb") as stream:
        stream.truncate(2880 * 1024)
    subprocess.run(["mformat", "-i", str(image), "::"], check=True)
    subprocess.run(["mmd", "-i", str(image), "::/EFI", "::/EFI/BOOT"], check=True)
    subprocess.run(
        ["mcopy", "-i", str(image), str(top / "EFI/BOOT/grub.cfg"), "::/EFI/BOOT/grub.cfg"], check=True
    )
    (top / ".treeinfo").write_text(
        f"[general]\narch = {arch}\nfamily = GoOSe\nname = GoOSe 1\ntimestamp = 1\nversion ="
        " 1\n\n[header]\nversion = 1.2\ntype = productmd.treeinfo\n\n"
        f"[release]\nname = GoOSe\nshort = goose\nversion = 1\n\n[tree]\narch = {arch}\nbuild_timestamp ="
        f" 1\nplatforms = {arch}\nvariants = BaseOS\n\n"
        "[variant-BaseOS]\nid = BaseOS\nname = BaseOS\ntype = variant\nuid = BaseOS\npackages = Packages\nrepository = .\n\n"
        f"[images-{arch}]\nkernel = images/pxeboot/vmlinuz\ninitrd = images/pxeboot/initrd.img\nboot.iso ="
        " images/boot.iso\n\n"
        "[stage2]\nmainimage = images/install.img\n"
    )
    return top


def boots(iso: str) -> str:
    done = subprocess.run(
        ["xorriso", "-indev", iso, "-report_el_torito", "plain"], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_boot_media_of_an_install_tree(site: Site) -> None:
    """An installer's medium: it looks for its own label, in all places, and the tree that was given stays as it is."""
    given = install_tree(site.top / "tree")
    before = {path: path.read_bytes() for path in given.rglob("*") if path.is_file()}
    site.configure(boot={"kind": "tree", "tree": f"{site.top}/tree"})
    told = site.told()
    assert told["installs"] is True
    out = site.top / "extracted"
    subprocess.run(
        ["xorriso", "-osirrox", "on", "-indev", told["iso"]["path"], "-extract", "/", str(out)],
        check=True,
        capture_output=True,
    )
    label = "GoOSe-1-Beta-RC4-x86_64"
    assert f"inst.stage2=hd:LABEL={label} quiet" in (out / "isolinux/isolinux.cfg").read_text()
    assert f"-l '{label}'\n" in (out / "EFI/BOOT/grub.cfg").read_text()
    inside = subprocess.run(
        ["mtype", "-i", str(out / "images/efiboot.img"), "::/EFI/BOOT/grub.cfg"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"hd:LABEL={label} rd.live.check" in inside.stdout
    assert not (out / "images/boot.iso").exists()
    assert "BIOS" in boots(told["iso"]["path"]) and "UEFI" in boots(told["iso"]["path"])
    assert "mainimage = images/install.img" in (out / ".treeinfo").read_text()
    assert {path: path.read_bytes() for path in given.rglob("*") if path.is_file()} == before


def test_boot_media_of_lorax(site: Site) -> None:
    """lorax is run as the configuration says; one that fails refuses the compose with its last words."""
    install_tree(site.top / "made")
    fake = site.top / "lorax"
    fake.write_text('#!/bin/sh\necho "$@" >"$(dirname "$0")/said"\ncp -r "$(dirname "$0")/made" "$1"\n')
    fake.chmod(0o755)
    site.configure(
        boot={
            "kind": "lorax",
            "command": [str(fake), "{out}", "--volid={label}", "--source={repo}", "--version={version}"],
        }
    )
    told = site.told()
    assert told["installs"] is True
    said = (site.top / "said").read_text()
    assert f"--volid=GoOSe-1-Beta-RC4-x86_64 --source={site.repository}/x86_64/os --version=1" in said
    fake.write_text("#!/bin/sh\necho no anaconda here >&2\nexit 3\n")
    assert "lorax ended with status 3: no anaconda here" in refused(site, 5, "1", "Beta", "RC5")
    shutil.rmtree(site.top / "made/isolinux")
    (site.top / "made/images/efiboot.img").unlink()
    site.configure(boot={"kind": "tree", "tree": f"{site.top}/made"})
    assert "has neither isolinux" in refused(site, 5)


@pytest.mark.parametrize("text, expected", [
    ("inst.stage2=hd:LABEL=A\\x20B:/x quiet", "inst.stage2=hd:LABEL=New\\x20One:/x quiet"),
    ("root=live:CDLABEL=Old rd.live.image", "root=live:CDLABEL=New\\x20One rd.live.image"),
    ("search --no-floppy --set=root -l 'Old one'", "search --no-floppy --set=root -l 'New One'"),
    ("search --set=root --label Old", "search --set=root --label 'New One'"),
    ("set default=1", "set default=1"),
])  # fmt: skip
def test_relabelled(text: str, expected: str) -> None:
    assert compose_boot.relabelled(text, "New One") == expected


# What is refused


@pytest.mark.parametrize("changes, told", [
    ({"variants": {}}, "variants is empty"),
    ({"variants": {"A": {"groups": ["core"], "exlude": ["x"]}}}, "variants.A.exlude is no setting: choose from"),
    ({"variants": {"A": {}}}, "variants.A holds nothing"),
    ({"variants": {"A-B": {"groups": ["core"]}}}, "variants.A-B is no name of a variant"),
    ({"variants": {"A": {"groups": "core"}}}, "variants.A.groups is \"core\": give a list of strings"),
    ({"variants": {"A": {"groups": ["c"], "requires": ["B"]}}}, "names the variant 'B', which there is not"),
    ({"variants": {"A": {"groups": ["c"], "requires": ["B"]}, "B": {"groups": ["c"], "requires": ["A"]}}},
     "in a circle: A -> B -> A"),
    ({"isos": [{"variants": ["Nope"]}]}, "names the variant 'Nope', which there is not: choose from BaseOS, Apps"),
    ({"isos": [{"variants": ["Apps"]}, {"variants": ["Apps", "BaseOS"]}]}, "two media with the same first variant"),
    ({"medium": {"size": "floppy"}}, "medium.size is 'floppy': give bytes, or one of cd, dvd"),
    ({"boot": {"kind": "usb"}}, "boot.kind is 'usb': choose from lab, lorax, tree, none"),
    ({"boot": {"kind": "tree"}}, "boot.tree is missing"),
    ({"boot": {"kind": "lorax", "command": ["lorax"]}}, "boot.command lacks {out}"),
    ({"boot": {"kind": "lab"}}, "boot.kernel is missing"),
    ({"repositories": [{"binary": "mash/os"}]}, "repositories[0].binary is 'mash/os': give an absolute path or a URL"),
    ({"repositories": []}, "repositories is empty"),
    ({"sign": ["gpg", "{file}"]}, "sign must have {file}"),
    ({"sigkeys": ["xyz"]}, "sigkeys names 'xyz'"),
    ({"output": "compose"}, "output is \"compose\": give an absolute path"),
    ({"short": "go ose"}, "short is 'go ose'"),
    ({"keep": -1}, "keep is -1: give a whole number"),
    ({"targets": {"x": {"to": "mirror"}}}, "targets.x.to is 'mirror'"),
    ({"targets": {"x": {"to": "--rsh=sh:x"}}}, "targets.x.to is '--rsh=sh:x'"),
])  # fmt: skip
def test_bad_settings(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        parse(settings(Path("/x"), Path("/y"), **changes))


@pytest.mark.parametrize("words, told", [
    (("1a", "Beta", "RC1"), "The version '1a' is none"),
    (("1", "Gold", "RC1"), "The stage 'Gold' is none: choose from testing, Alpha, Beta, Final"),
    (("1", "Beta", "../x"), "The release '../x' is none"),
    (("1", "Beta", "RC1", "--label", "Gold-1.0"), "The label 'Gold-1.0' is none"),
    (("1", "testing", "1", "--label", "RC-1.0"), "belongs to no stage testing"),
    (("1", "Beta", "RC1", "--engine", "pungi"), "pungi-koji is not installed"),
    (("1", "Beta", "RC1", "--date", "2026-01-01"), "is no date"),
])  # fmt: skip
def test_bad_words(site: Site, words: tuple[str, ...], told: str) -> None:
    assert told in refused(site, 2, *words)


def test_unknown_group(site: Site) -> None:
    site.configure(variants={"A": {"groups": ["cor"]}}, isos=[])
    assert (
        "The variant A wants the group 'cor', which comps does not have: choose from apps, core."
        in refused(site, 1)
    )
    site.configure(variants={"A": {"environments": ["desk"]}}, isos=[])
    assert "wants the environment 'desk'" in refused(site, 1)


def test_unknown_package(site: Site) -> None:
    site.configure(variants={"A": {"packages": ["app", "gone", "libfoo.s390x"]}}, isos=[])
    assert "The variant A wants what no repository has for x86_64: gone, libfoo.s390x." in refused(site, 1)


def test_missing_dependency(site: Site) -> None:
    """The message names the package and what it requires; --allow-broken takes it all the same."""
    site.configure(variants={"A": {"packages": ["app"], "exclude": ["data"]}}, isos=[])
    said = refused(site, 1)
    assert (
        "A: app-1.0-1.x86_64 requires /usr/share/data/table, which data-1.0-1.noarch would provide, and"
        " `exclude` leaves out." in said
    )
    assert "plugin if desktop" not in said, "the condition does not hold"
    assert site.told("1", "Beta", "RC4", "--allow-broken")["warnings"]


def test_parents(site: Site, tmp_path: Path) -> None:
    """What stands on another repository: its packages count as there, and are in no variant."""
    specs = [
        Spec("top", "Requires: /usr/share/data/table\nRequires: (plugin if setup)", ["/usr/bin/top"]),
        Spec("alone", files=["/usr/bin/alone"]),
    ]
    parent, site.repository = site.repository, make(tmp_path / "goose-1", specs)
    places = {"variants": {"A": {"packages": ["top"]}}, "isos": []}
    site.configure(**places)
    assert "top-1.0-1.x86_64 requires /usr/share/data/table, which nothing provides." in refused(site, 1)
    site.configure(**places, parents=[f"{parent}/{{arch}}/os"])
    assert site.told()["variants"] == {"A": {"x86_64": {"packages": 1, "sources": 1, "debug": 0}}}
    site.configure(**places, parents=[f"{parent}/nosuch"])
    assert "nosuch/repodata/repomd.xml cannot be read" in refused(site, 1)
    site.configure(**places, parents=["data"])
    assert "parents[0] is 'data': give an absolute path or a URL." in refused(site, 2)


def damaged(site: Site, tmp_path: Path) -> Path:
    """A copy of the repository, for damage."""
    copy = tmp_path / "damaged"
    shutil.copytree(site.repository, copy)
    site.repository = copy
    site.configure()
    return copy


def test_corrupt_rpm(site: Site, tmp_path: Path) -> None:
    path = damaged(site, tmp_path) / "x86_64/os/Packages/app-1.0-1.x86_64.rpm"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + b"x")
    assert "app-1.0-1.x86_64 is damaged:" in refused(site, 1)
    path.unlink()
    assert "app-1.0-1.x86_64 cannot be read:" in refused(site, 1)
    path.write_bytes(good)
    assert site.told()["result"] == "published"


def test_missing_source(site: Site, tmp_path: Path) -> None:
    copy = damaged(site, tmp_path)
    (copy / "source/SRPMS/bash-1.0-1.src.rpm").unlink()
    createrepo(copy / "source/SRPMS")
    assert (
        "The source package bash-1.0-1.src.rpm of bash-1.0-1.x86_64 is in no source repository."
        in refused(site, 1)
    )


def test_damaged_metadata(site: Site, tmp_path: Path) -> None:
    copy = damaged(site, tmp_path)
    (primary,) = (copy / "x86_64/os/repodata").glob("*primary.xml.*")
    primary.write_bytes(b"x" + primary.read_bytes()[1:])
    assert f"The metadata of {copy}/x86_64/os is damaged" in refused(site, 1)
    (copy / "x86_64/os/repodata/repomd.xml").write_text("<html>no such page</html")
    assert "repomd.xml cannot be parsed" in refused(site, 1)
    shutil.rmtree(copy / "x86_64/os/repodata")
    assert "repomd.xml cannot be read: No such file" in refused(site, 1)


def test_damaged_comps(site: Site, tmp_path: Path) -> None:
    (tmp_path / "comps.xml").write_text(COMPS.replace("</group>", "</grp>", 1))
    site.configure(comps=str(tmp_path / "comps.xml"))
    assert "The groups of the repositories cannot be parsed" in refused(site, 1)


def test_something_else_stands_in_the_links_place(site: Site) -> None:
    (site.output / "1/Beta-RC4").mkdir(parents=True)
    assert f"{site.output}/1/Beta-RC4 is no link of this program's" in refused(site, 5)


def test_one_at_a_time(site: Site) -> None:
    site.configure(isos=[])
    (site.output / ".compose").mkdir(parents=True)
    holder = subprocess.Popen(["flock", str(site.output / ".compose/lock"), "sleep", "30"])
    try:
        deadline = time.monotonic() + 10
        while (
            subprocess.run(
                ["flock", "-n", str(site.output / ".compose/lock"), "true"], check=False
            ).returncode
            == 0
        ):
            assert time.monotonic() < deadline
        assert "Another run composes into" in refused(site, 75)
    finally:
        holder.kill()
        holder.wait()


# Killed, and a full disk


KILLER = """
import atexit, os, signal, sys
seen = 0
def hook(event, args):
    global seen
    if event.startswith("os.") or event in ("open", "subprocess.Popen", "shutil.rmtree"):
        seen += 1
        if seen == int(os.environ["KILL_AT"]):
            os.killpg(0, signal.SIGKILL)
sys.addaudithook(hook)
if os.environ["KILL_AT"] == "0":
    atexit.register(lambda: print(seen, file=open(os.environ["KILL_COUNT"], "w")))
"""


def test_killed_at_twenty_points(site: Site) -> None:
    """What is published stays, whenever the program dies; the next run completes, and leaves nothing.

    The points are spread over all that it opens, links, renames and starts: none depends on the machine's speed.
    """
    first = site.told()
    hook = site.top / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(KILLER)
    count = site.top / "count"

    def run(at: int, *words: str) -> int:
        environment = env(KILL_AT=str(at), KILL_COUNT=str(count))
        environment["PYTHONPATH"] = f"{hook}:{environment['PYTHONPATH']}"
        done = subprocess.run(
            site.words(*words), capture_output=True, check=False, env=environment, start_new_session=True
        )
        return done.returncode

    assert run(0, "1", "Alpha", "RC1") == 0
    events = int(count.read_text())
    before = tree(site.output)
    points = [events * number // 21 for number in range(1, 21)]
    # … and the last moments, when it is published and its links are moved.
    points[-4:] = [events - back for back in (2, 6, 9, 12)]
    for point in points:
        assert run(point, "1", "Beta", f"RC{point}", "--date", "20260301") == -signal.SIGKILL, point
        now = tree(site.output)
        lost = {name for name, told in before.items() if now.get(name) != told} - {"latest-goose-1-Beta"}
        assert not lost, (point, lost)
        for path in site.output.glob("goose-*"):
            compose_tree.validate(path / "compose")
        assert (site.output / "latest-goose-1-Beta").resolve().name.startswith("goose-1-")
    told = site.told("1", "Beta", "RC99")
    assert (site.output / "1/Beta-RC99").resolve() == Path(told["path"]) / "compose"
    assert (site.output / "latest-goose-1-Beta").resolve() == Path(told["path"])
    assert sorted(os.listdir(site.output / ".compose")) == ["lock"]
    assert Path(first["path"]).is_dir()


def repack(top: Path) -> None:
    """Metadata by zstd: createrepo_c of Debian 12 does not make it."""
    for repomd in top.rglob("repomd.xml"):
        text = repomd.read_text()
        for path in repomd.parent.glob("*.xml.gz"):
            new = path.with_suffix(".zst")
            subprocess.run(
                ["zstd", "--quiet", "-o", str(new)], input=gzip.decompress(path.read_bytes()), check=True
            )
            sums = [hashlib.sha256(one.read_bytes()).hexdigest() for one in (path, new)]
            text = text.replace(path.name, new.name).replace(f">{sums[0]}<", f">{sums[1]}<")
            path.unlink()
        repomd.write_text(text)


@pytest.mark.parametrize(("size", "packed"), [("16k", "gz"), ("16k", "zst"), ("600k", "gz"), ("600k", "zst")])
def test_disk_full(site: Site, tmp_path: Path, size: str, packed: str) -> None:
    """A file system of its own, too small, for the metadata or the packages: a sentence, and nothing of it left."""
    if packed == "zst":
        repack(damaged(site, tmp_path))
    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(mount)], check=False, capture_output=True
    ).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        site.configure(output=str(mount / "compose"))
        done = site.run()
        assert done.returncode == 5, done.stderr
        assert "Traceback" not in done.stderr and re.search(
            r"No space left|disk is full|xorriso ended", done.stderr
        ), done.stderr
        assert [path.name for path in (mount / "compose").iterdir()] == [".compose"]
        assert sorted(os.listdir(mount / "compose/.compose")) == ["lock"]
        subprocess.run(["mount", "-o", "remount,size=60m", str(mount)], check=True)
        assert site.told()["result"] == "published"
    finally:
        subprocess.run(["umount", str(mount)], check=True)


# pungi-koji in the engine's place


def pungi_settings(site: Site, **changes: Any) -> dict[str, Any]:
    """pungi.conf, as pungi's own reader (kobo's) has it: it is Python."""
    config = compose_config.read(site.configure(**changes))
    directory = site.top / "pungi"
    compose_pungi.render(directory, config, Release("1", "Beta", "RC4"), COMPS, {"x86_64": ["onlyarm"]})
    told: dict[str, Any] = {}
    exec((directory / "pungi.conf").read_text(), {}, told)
    return told


def test_pungi_configuration(site: Site) -> None:
    key = site.top / "RPM-GPG-KEY"
    told = pungi_settings(
        site,
        variants={
            "BaseOS": {"groups": ["core"]},
            "Apps": {"packages": ["app", "libfoo.i686", "data.noarch"], "exclude": ["x*"], "requires": ["BaseOS"]},
            "Top": {"environments": ["server"], "optional": True, "requires": ["Apps"]},
            "All": {"everything": True},
        },
        isos=[{"variants": ["BaseOS", "Apps"], "source": False}, {"variants": ["Top"], "source": False}],
        parents=["/srv/{short}-{version}/{arch}"],
        sigkeys=["aeb8f89e064b97fd"],
        extra_files=[str(key)],
    )
    assert told["pkgset_repos"]["x86_64"] == [
        f"{site.repository}/x86_64/os",
        f"{site.repository}/source/SRPMS",
        f"{site.repository}/x86_64/debug",
    ]
    assert told["variant_as_lookaside"] == [("Apps", "BaseOS"), ("Top", "Apps"), ("Top", "BaseOS")]
    assert told["filter_packages"] == [("^Apps$", {"*": ["x*"]}), ("^.*$", {"x86_64": ["onlyarm"]})]
    assert told["additional_packages"] == [("^Apps$", {"*": ["app", "libfoo.+", "data"]}), ("^All$", {"*": ["*"]})]
    assert told["gather_lookaside_repos"] == [("^.*$", {"x86_64": ["/srv/goose-1/x86_64"]})]
    assert told["sigkeys"] == ["064b97fd"]
    extra = [{"scm": "file", "repo": "", "file": [str(key)], "target": ""}]
    assert told["extra_files"] == [("^.*$", {"*": extra})]
    # A medium of several variants, one of a single variant, and none of source packages.
    assert told["extra_isos"] == {
        "^BaseOS$": [{"include_variants": ["Apps"], "skip_src": True, "extra_files": extra}]
    }
    assert dict(told["createiso_skip"]) == {
        "^BaseOS$": {"*": True, "src": True},
        "^Apps$": {"*": True, "src": True},
        "^Top$": {"*": False, "src": True},
        "^All$": {"*": True, "src": True},
    }
    assert told["image_name_format"] == "GoOSe-1-Beta-RC4-{variant}-{arch}-{disc_type}{disc_num}{suffix}"
    assert told["image_volid_formats"][0] == "GoOSe-1-Beta-RC4-{variant}-{arch}"


def test_pungi_groups(site: Site) -> None:
    """A variant takes the groups that it names and those of its environments, and no optional packages unasked."""
    pungi_settings(
        site,
        variants={
            "One": {"packages": ["app"]},
            "Two": {"environments": ["server"]},
            "Three": {"groups": ["core", "apps"], "optional": True},
            "All": {"everything": True},
        },
        isos=[],
    )
    variants = ElementTree.parse(site.top / "pungi/variants.xml").getroot()
    assert {one.get("id"): [group.text for group in one.iter("group")] for one in variants} == {
        "One": [], "Two": ["core"], "Three": ["core", "apps"], "All": [],
    }  # fmt: skip
    comps = ElementTree.parse(site.top / "pungi/comps.xml").getroot()
    assert {one.findtext("id"): one.get("variant") for one in comps.iter("group")} == {
        "core": "All,Two,Three",
        "apps": "All,Three",
    }
    assert {one.text: one.get("variant") for one in comps.iter("packagereq") if "variant" in one.attrib} == {
        "tips": "All,Three"
    }


def test_pungi_without_source_packages(site: Site) -> None:
    """Where no repository has them they become no media, empty ones."""
    told = pungi_settings(
        site,
        repositories=[{"binary": f"{site.repository}/{{arch}}/os"}],
        isos=[{"variants": ["BaseOS", "Apps"]}, {"variants": ["Apps"]}],
    )
    assert told["extra_isos"]["^BaseOS$"][0]["skip_src"] is True
    assert dict(told["createiso_skip"])["^Apps$"] == {"*": False, "src": True}


def test_pungi_foreign_packages(site: Site, tmp_path: Path) -> None:
    """A noarch package that mash has left out of an architecture is left out of its variants, too."""
    made = make(tmp_path / "goose-1", [Spec("setup", noarch=True), Spec("arm", noarch=True), Spec("tool")])
    shutil.copytree(made / "x86_64", made / "aarch64")
    (made / "x86_64/os/Packages/arm-1.0-1.noarch.rpm").unlink()
    for arch in ("x86_64", "aarch64"):
        createrepo(made / arch / "os")
    site.repository = made
    site.configure(arches=["x86_64", "aarch64"], variants={"All": {"everything": True}}, isos=[])
    assert site.run("1", "Beta", "RC4", "--pungi-config", str(site.top / "pungi")).returncode == 0
    told: dict[str, Any] = {}
    exec((site.top / "pungi/pungi.conf").read_text(), {}, told)
    assert told["filter_packages"] == [("^.*$", {"x86_64": ["arm"]})]


def test_pungi_configuration_written(site: Site) -> None:
    """--pungi-config: with the groups that the repositories have, where the configuration names no others."""
    done = site.run("1", "Beta", "RC4", "--pungi-config", str(site.top / "pungi"))
    assert (done.returncode, done.stdout) == (0, f"{site.top}/pungi/pungi.conf\n"), done.stderr
    assert "<id>core</id>" in (site.top / "pungi/comps.xml").read_text()
    assert not site.output.exists()


FAKE = """\
#!/bin/sh
for word; do case $word in --target-dir=*) target=${word#*=} ;; --config=*) config=${word#*=} ;; esac; done
[ -s "$config" ] || exit 9
echo "$@" >"$(dirname "$0")/said"
respin=0; while [ -e "$target/goose-1-20260101.$respin" ]; do respin=$((respin + 1)); done
id=goose-1-20260101.$respin
cp -r "$(dirname "$0")/made" "$target/$id"
sed -i "s/goose-1-20260101.0/$id/" "$target/$id"/compose/metadata/*.json
exit $(cat "$(dirname "$0")/status" 2>/dev/null || echo 0)
"""


def test_pungi(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program that is installed composes; what it made is checked, and published in the same way."""
    made = site.told("1", "Beta", "RC4", "--date", "20260101")
    programs = site.top / "bin"
    programs.mkdir()
    shutil.copytree(made["path"], programs / "made")
    shutil.rmtree(site.output)
    (programs / "pungi-koji").write_text(FAKE)
    (programs / "pungi-koji").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    site.configure(engine="auto")
    told = site.told("1", "Beta", "RC4")
    assert (told["engine"], told["result"], told["compose"]) == ("pungi", "published", "goose-1-20260101.0")
    assert "--production --label=Beta-1.4" in (programs / "said").read_text()
    assert told["iso"]["sha256"] == made["iso"]["sha256"] and told["variants"] == made["variants"]
    assert site.told("1", "Beta", "RC4")["result"] == "unchanged"
    assert site.told("1", "Beta", "RC4", "--force")["compose"] == "goose-1-20260101.1"
    (programs / "status").write_text("1")
    assert "ended with status 1" in refused(site, 5, "1", "Beta", "RC5")
    (programs / "status").unlink()
    (programs / "made/STATUS").write_text("DOOMED\n")
    assert "the compose DOOMED" in refused(site, 5, "1", "Beta", "RC5")
    (programs / "made/STATUS").write_text("FINISHED\n")
    for iso in (programs / "made").rglob("*.iso"):
        with iso.open("r+b") as stream:
            stream.seek(200_000)
            stream.write(b"damage")
    assert "checkisomd5 ended with status 1" in refused(site, 5, "1", "Beta", "RC5")
    site.configure(engine="auto", boot={"kind": "lab", "kernel": {"package": "x"}})
    assert "pungi-koji takes boot media from lorax alone" in refused(site, 2)
    site.configure(engine="auto", variants={"A": {"packages": ["app"], "recommends": True}}, isos=[])
    assert "recommends is true for A, and" in refused(site, 2)
    site.configure(engine="auto", arches=["x86_64", "i386"])
    assert "arches names i386, and pungi-koji follows no requirements" in refused(site, 2)
    site.configure(engine="auto")
    assert "leave --date out" in refused(site, 2, "1", "Beta", "RC5", "--date", "20260101")


def test_pungi_packages(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pungi has taken is looked at as the embedded engine's own: checksums, signatures, requirements."""
    made = site.told("1", "Beta", "RC4", "--date", "20260101")
    programs = site.top / "bin"
    programs.mkdir()
    shutil.copytree(made["path"], programs / "made")
    (programs / "pungi-koji").write_text(FAKE)
    (programs / "pungi-koji").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    site.configure(engine="pungi", sigkeys=["0123abcd"])
    assert "bash-1.0-1.x86_64 is not signed, and sigkeys wants 0123abcd." in refused(site, 1)
    site.configure(engine="pungi")
    told = programs / "made/compose/metadata/rpms.json"
    whole = told.read_text()
    metadata = json.loads(whole)
    del metadata["payload"]["rpms"]["Apps"]["x86_64"]["data-0:1.0-1.src"]
    told.write_text(json.dumps(metadata))
    assert "Apps: data-1.0-1.noarch is not there, and is required." in refused(site, 1)
    told.write_text(whole.replace("data-0:1.0-1.noarch", "data-0:9.0-1.noarch"))
    assert "data-0:9.0-1.noarch is in no repository" in refused(site, 1)
    # It names keys by eight digits, and what it says of them is not believed.
    told.write_text(whole.replace('"sigkey": null', '"sigkey": "0123abcd"'))
    site.configure(engine="pungi", sigkeys=["0123abcd"])
    assert "bash-1.0-1.x86_64 is not signed, and sigkeys wants 0123abcd." in refused(site, 1)
    site.configure(engine="pungi")
    # What another architecture's repository has is none of this one's.
    metadata = json.loads(whole)
    metadata["payload"]["rpms"]["Apps"]["s390x"] = metadata["payload"]["rpms"]["Apps"].pop("x86_64")
    told.write_text(json.dumps(metadata))
    assert "app-0:1.0-1.x86_64 is in no repository of s390x" in refused(site, 1)
    told.write_text(whole)
    package = programs / "made/compose/Apps/x86_64/os/Packages/d/data-1.0-1.noarch.rpm"
    package.write_bytes(package.read_bytes()[:-1] + b"x")
    assert "data-1.0-1.noarch is damaged:" in refused(site, 1)
    (programs / "pungi-koji").write_text(
        f"#!/bin/sh\necho no such tool >{tmp_path}/more\necho '[ERROR   ] Compose run failed'\n"
        f"echo 'For more details see {tmp_path}/more'\nexit 1\n"
    )
    assert "no such tool" in refused(site, 5), "the log that pungi points to goes away"


def test_pungi_does_not_name_what_is_damaged(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it fails, the packages that are damaged are named as by the embedded engine, and so is the status."""
    package = damaged(site, tmp_path) / "x86_64/os/Packages/app-1.0-1.x86_64.rpm"
    programs = site.top / "bin"
    programs.mkdir()
    (programs / "pungi-koji").write_text("#!/bin/sh\necho '[ERROR   ] Some packages have incorrect checksum'\nexit 1\n")
    (programs / "pungi-koji").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    site.configure(engine="pungi")
    assert "have incorrect checksum" in refused(site, 5)
    package.write_bytes(package.read_bytes()[:-1] + b"x")
    said = refused(site, 1)
    assert "app-1.0-1.x86_64 is damaged:" in said and "incorrect checksum" not in said


def test_pungi_ends_with_the_program(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed, it leaves no pungi-koji that goes on composing into the next run's directories."""
    made = site.told("1", "Beta", "RC4", "--date", "20260101")
    programs = site.top / "bin"
    programs.mkdir()
    shutil.copytree(made["path"], programs / "made")
    number = programs / "number"
    (programs / "pungi-koji").write_text(
        f"#!/bin/sh\necho $$ $TMPDIR >{number}.new\nmv {number}.new {number}\nexec sleep 60\n"
    )
    (programs / "pungi-koji").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    site.configure(engine="pungi")
    running = subprocess.Popen(site.words("1", "Beta", "RC5"), stderr=subprocess.DEVNULL, env=env())
    deadline = time.monotonic() + 30
    while not number.exists():
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.05)
    running.kill()
    running.wait()
    pid, temporary = number.read_text().split()
    assert temporary.startswith(f"{site.output}/.compose/staging/"), "what it leaves there goes away with the rest"
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (programs / "pungi-koji").write_text(FAKE)
    assert site.told("1", "Beta", "RC5")["result"] == "published"
    assert os.listdir(site.output / ".compose") == ["lock"]


def test_pungi_knows_the_systems_authorities_alone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that only `ca` vouches for is one that pungi's dnf fails at, and does not say why."""
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    words += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    pair = [str(site.top / name) for name in ("ca.crt", "ca.key")]
    subprocess.run([*words, "-out", pair[0], "-keyout", pair[1]], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    programs = site.top / "bin"
    programs.mkdir()
    (programs / "pungi-koji").write_text("#!/bin/sh\nexit 3\n")
    (programs / "pungi-koji").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    with serving(site.repository, context) as port:
        base = f"https://localhost:{port}"
        site.configure(
            engine="pungi",
            ca=pair[0],
            repositories=[{"binary": f"{base}/{{arch}}/os", "source": f"{base}/source/SRPMS"}],
        )
        said = refused(site, 5)
        assert f"{base}/x86_64/os/repodata/repomd.xml cannot be read: " in said
        assert "pungi-koji knows the system's CAs alone: add the server's to them, or set engine to embedded." in said
        monkeypatch.setenv("SSL_CERT_FILE", pair[0])
        assert "ended with status 3" in refused(site, 5), "one that the system knows"


# Repositories by URL


@pytest.fixture
def served(repository: Path) -> Iterator[str]:
    """The repository over HTTP."""
    with serving(repository) as port:
        yield f"http://127.0.0.1:{port}"


def test_by_url(site: Site, served: str) -> None:
    """The same bytes as by path; and again with nothing but the metadata asked of the server."""
    local = site.told()
    other = Site(site.top / "url", site.repository)
    other.top.mkdir()
    urls = {
        "binary": f"{served}/{{arch}}/os",
        "source": f"{served}/source/SRPMS",
        "debug": f"{served}/{{arch}}/debug",
    }
    other.configure(repositories=[urls])
    told = other.told()
    assert told["iso"]["sha256"] == local["iso"]["sha256"]
    # A damaged file of the cache is fetched anew.
    (cached,) = (other.top / "cache/files").rglob("*-app-1.0-1.x86_64.rpm")
    cached.unlink()
    cached.write_bytes(b"x")
    assert other.told("1", "Beta", "RC4", "--force")["iso"]["sha256"] == local["iso"]["sha256"]
    other.configure(repositories=[{**urls, "binary": f"{served}/nowhere/os"}])
    assert "repomd.xml cannot be read: the server says 404" in refused(other, 1)


def test_no_field_is_forgotten() -> None:
    """Each setting has its place in the documented configuration."""
    fields = {one.name for one in dataclasses.fields(compose_config.Config)} - {"text"}
    text = (Path(__file__).parents[2] / "pungi/README.rst").read_text()
    map_ = (Path(__file__).parents[2] / "pungi/map.jinja").read_text()
    assert not [name for name in fields if f"'{name}'" not in map_]
    assert "compose_iso.py" in text
    assert json.dumps(sorted(fields))
