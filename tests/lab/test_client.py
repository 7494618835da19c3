"""The koji client as a user has it: from the package index, and newer than the hub."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from goose.lab import lab as labs
from koji_client import PACKAGES, Client, Hub


def version(words: str) -> tuple[int, ...]:
    return tuple(int(word) for word in words.split("."))


def test_client_is_newer_than_the_hub(koji: Client, hub: Hub) -> None:
    """Users bring what they have; the hub's calls must not depend on one version."""
    ours = PACKAGES[0].split("==")[1]
    assert version(ours) > version(hub("getKojiVersion"))
    assert ours in koji("version")


def test_log_in(koji: Client, lab: labs.Lab) -> None:
    said = koji("hello")
    assert "kojiadmin" in said
    assert lab.services()["koji-hub"] in said
    assert f"client certificate {koji.config.parent}/client.pem" in said


def test_private_key_is_private(koji: Client) -> None:
    """The certificate is an administrator's."""
    assert stat.S_IMODE((koji.config.parent / "client.pem").stat().st_mode) == 0o600


def test_list_hosts(koji: Client, lab: labs.Lab) -> None:
    rows = {line.split()[0]: line.split() for line in koji("list-hosts", "--quiet").splitlines()}
    builders = {host.fqdn for host in lab.hosts if "koji.builder" in host.roles}
    assert rows.keys() == builders
    assert all(row[1] == "Y" for row in rows.values()), "a builder is disabled"


def test_list_tags(koji: Client) -> None:
    tags = set(koji("list-tags").split())
    assert {"goose-1", "goose-1-build", "goose-1-candidate", "goose-1-testing", "goose-1-release"} <= tags


@pytest.fixture(scope="module")
def release(koji: Client) -> str:
    """The first package's newest build."""
    rows = koji("list-builds", "--package=goose-release", "--state=COMPLETE", "--quiet").splitlines()
    assert rows, "goose-release was never built"
    return rows[-1].split()[0]


def test_download_build(koji: Client, release: str, tmp_path: Path) -> None:
    """What comes is the RPM that the hub knows, whole."""
    koji("download-build", "--noprogress", release, cwd=tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert f"{release}.src.rpm" in names
    assert f"{release}.noarch.rpm" in names
    for path in tmp_path.iterdir():
        assert path.read_bytes()[:4] == b"\xed\xab\xee\xdb", f"{path.name} is no RPM"


def test_changing_a_tag_and_back(koji: Client, hub: Hub) -> None:
    """Logged in is more than reading: a call that writes, and needs the certificate's user."""
    koji("add-tag", "lab-test-client")
    try:
        assert hub("getTag", "lab-test-client")["name"] == "lab-test-client"
    finally:
        koji("remove-tag", "lab-test-client")
    assert hub("getTag", "lab-test-client") is None


def test_without_the_ca_nothing_is_sent(koji: Client, tmp_path: Path) -> None:
    """A client that is given another CA refuses the hub, so `serverca` is really what it checks by."""
    other = tmp_path / "ca.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=GoOSe CA",
         "-keyout", str(tmp_path / "ca.key"), "-out", str(other)],
        check=True, capture_output=True,
    )  # fmt: skip
    config = tmp_path / "config"
    text = (koji.config.parent / "config").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("serverca")]
    config.write_text("\n".join([*lines, f"serverca = {other}", "max_retries = 1", "retry_interval = 1", ""]))
    done = Client(koji.program, config).run("hello")
    assert done.returncode != 0
    assert "certificate" in (done.stdout + done.stderr).lower()
