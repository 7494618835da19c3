"""The release package, with the keys that packages are signed with and without."""

from __future__ import annotations

import configparser
import io
import json
import subprocess
from pathlib import Path

import pytest

from goose import release

KEY = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n{}\n-----END PGP PUBLIC KEY BLOCK-----\n"
SITE = "site:\n  name: GoOSe\n  id: goose\n  version: '1'\n  domain: goose.example\n"


def make(top: Path, *words: str) -> tuple[int, str]:
    (top / "site.yaml").write_text(SITE)
    output = io.StringIO()
    status = release.main(["--site", str(top / "site.yaml"), "--out", str(top / "out"), "--json", *words], output)
    return status, json.loads(output.getvalue())["srpm"] if status == 0 else ""


def built(top: Path, srpm: str) -> dict[str, str]:
    """The files of its packages, as rpmbuild makes them on EL: path -> content."""
    command = ["rpmbuild", "--rebuild", "--quiet", "--nodeps"]
    for define in (f"_topdir {top}/build", f"_dbpath {top}/db", "_presetdir /usr/lib/systemd/system-preset",
                   "_rpmmacrodir /usr/lib/rpm/macros.d"):  # fmt: skip
        command += ["--define", define]
    subprocess.run([*command, srpm], check=True, capture_output=True)
    found = {}
    for rpm in (top / "build" / "RPMS").glob("**/*.rpm"):
        root = top / "root" / rpm.stem
        root.mkdir(parents=True)
        subprocess.run(f"rpm2cpio {rpm} | cpio -id --quiet", shell=True, cwd=root, check=True)
        for path in root.glob("**/*"):
            if path.is_file() and not path.is_symlink():
                found[f"/{path.relative_to(root)}"] = path.read_text()
    return found


def repos(files: dict[str, str]) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(files["/etc/yum.repos.d/goose.repo"])
    return {name: dict(parser[name]) for name in parser.sections()}


def test_without_keys(tmp_path: Path) -> None:
    """As long as nothing is signed: checked all the same, with a key that the site puts there."""
    files = built(tmp_path, make(tmp_path)[1])
    assert not [path for path in files if "/rpm-gpg/" in path]
    assert "put here by the site" in files["/etc/yum.repos.d/goose.repo"]
    for repo in repos(files).values():
        assert (repo["gpgcheck"], repo["gpgkey"]) == ("1", "file:///etc/pki/rpm-gpg/RPM-GPG-KEY-goose")


def test_with_keys(tmp_path: Path) -> None:
    """Every key is installed, and every repository takes all of them: while one follows the other, both sign."""
    keys = tmp_path / "keys"
    keys.mkdir()
    for name in ("goose-1", "goose-2"):
        (keys / f"RPM-GPG-KEY-{name}").write_text(KEY.format(name))
    (tmp_path / "site.asc").write_text(KEY.format("own"))
    files = built(tmp_path, make(tmp_path, "--key", str(keys), "--key", str(tmp_path / "site.asc"))[1])
    place = "/etc/pki/rpm-gpg/RPM-GPG-KEY-"
    assert files[f"{place}goose-1"] == KEY.format("goose-1") and files[f"{place}site"] == KEY.format("own")
    assert len(repos(files)) == 3
    for repo in repos(files).values():
        assert repo["gpgcheck"] == "1"
        assert repo["gpgkey"].split() == [f"file://{place}{name}" for name in ("goose-1", "goose-2", "site")]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("RPM-GPG-KEY-a", "nothing", "is no public key"),
        ("RPM-GPG-KEY-a", KEY.replace("PUBLIC", "PRIVATE"), "is no public key"),
        ("RPM-GPG-KEY-a b", KEY, "use letters, digits"),
        ("other", "", "holds no file RPM-GPG-KEY-NAME"),
    ],
)
def test_bad_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, sentence: str) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / name).write_text(text)
    assert make(tmp_path, "--key", str(keys))[0] == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
