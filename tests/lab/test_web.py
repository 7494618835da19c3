"""Kojiweb in a browser, as people see it: with no certificate, and logged in by one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import browser as browsers
from goose.lab import lab as labs
from goose.lab import machine
from koji_client import Client, Hub, make_srpm, wait_for

if TYPE_CHECKING:
    from conftest import Command

PACKAGE = "lab-test-web"


@pytest.fixture(scope="module")
def web(lab: labs.Lab) -> str:
    return lab.services()["koji-web"]


@pytest.fixture(scope="module", autouse=True)
def _tools(lab: labs.Lab) -> None:
    machine.install_tools(browsers.TOOLS, lab.progress)


@pytest.fixture(scope="module")
def visitor(lab: labs.Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[browsers.Browser]:
    """A browser that trusts the lab's CA and has no certificate of its own."""
    home = tmp_path_factory.mktemp("visitor")
    browsers.trust(home, lab.ca_path())
    browser = browsers.Browser(home)
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def admin(lab: labs.Lab, web: str, koji: Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[browsers.Browser]:
    """A browser with the certificate of kojiadmin."""
    home = tmp_path_factory.mktemp("admin")
    store = browsers.trust(home, lab.ca_path())
    browsers.give_certificate(store, koji.config.parent / "client.pem", home)
    browsers.answer_by_certificate(web.removesuffix("/koji"))
    try:
        browser = browsers.Browser(home)
        yield browser
        browser.quit()
    finally:
        browsers.ask_again()


@pytest.fixture(scope="module")
def release(hub: Hub) -> dict[str, Any]:
    """The first package's build."""
    found: dict[str, Any] = hub("listBuilds", packageID=hub("getPackageID", "goose-release"), state=1)[0]
    return found


def test_index(visitor: browsers.Browser, web: str) -> None:
    """A visitor sees what was built, and may log in."""
    visitor.open(web)
    assert "goose" in visitor.title.lower()
    assert "Recent Builds" in visitor.text
    assert "login" in visitor.text


def test_styles_are_served(visitor: browsers.Browser, web: str) -> None:
    """Without /koji-static the pages are there and nobody can use them."""
    visitor.open(web.removesuffix("/koji") + "/koji-static/koji.css")
    assert "body" in visitor.text


def test_task_list(visitor: browsers.Browser, web: str, release: dict[str, Any]) -> None:
    visitor.open(f"{web}/tasks?state=all&view=tree&order=id&method=build")
    assert f"{release['task_id']}" in visitor.text
    assert "goose-release" in visitor.text
    assert "kojiadmin" in visitor.text


def test_task(visitor: browsers.Browser, web: str, release: dict[str, Any]) -> None:
    """From the task to the build, by a click."""
    visitor.open(f"{web}/taskinfo?taskID={release['task_id']}")
    assert "Information for task build" in visitor.text
    assert re.search(r"State\s+closed", visitor.text)
    visitor.click(release["nvr"])
    assert f"buildID={release['build_id']}" in visitor.url


def test_build(visitor: browsers.Browser, web: str, release: dict[str, Any]) -> None:
    visitor.open(f"{web}/buildinfo?buildID={release['build_id']}")
    assert f"Information for build {release['nvr']}" in visitor.text
    assert re.search(r"State\s+complete", visitor.text)
    assert f"{release['nvr']}.noarch.rpm" in visitor.text
    assert "goose-1" in visitor.text


def test_hosts(visitor: browsers.Browser, web: str, lab: labs.Lab) -> None:
    visitor.open(f"{web}/hosts")
    for host in lab.hosts:
        assert (host.fqdn in visitor.text) == ("koji.builder" in host.roles)


def test_hub_errors_are_pages(visitor: browsers.Browser, web: str) -> None:
    visitor.open(f"{web}/buildinfo?buildID=999999")
    assert "error" in visitor.text.lower()
    assert "Traceback" not in visitor.text


def test_login_needs_a_certificate(visitor: browsers.Browser, web: str) -> None:
    visitor.open(f"{web}/login")
    assert "Logging in needs a certificate of this site" in visitor.text
    visitor.open(web)
    assert "logout" not in visitor.text


@pytest.fixture(scope="module")
def failed(command: Command, lab: labs.Lab, koji: Client, hub: Hub) -> Iterator[int]:
    """A task that failed because its package was in no list, which is put right since."""
    source = lab.need_role("koji.bootstrap")

    def on(*words: str, stdin: str | None = None) -> str:
        return command.on(source.name, *words, stdin=stdin)

    if any(row["package_name"] == PACKAGE for row in hub("listPackages", tagID="goose-1")):
        koji("remove-pkg", "--force", "goose-1", PACKAGE)
    srpm = make_srpm(on, source.root, PACKAGE, ["true"])
    said = koji("build", "--nowait", "--noprogress", "goose-1", str(srpm))
    task = int(re.search(r"Created task: (\d+)", said).group(1))  # type: ignore[union-attr]
    assert hub.wait_for_task(task) == "FAILED"
    koji("add-pkg", "--owner=kojiadmin", "goose-1", PACKAGE)
    yield task


def test_resubmit(admin: browsers.Browser, visitor: browsers.Browser, web: str, hub: Hub, failed: int) -> None:
    """What an engineer does once the reason is mended: log in, and one click."""
    visitor.open(f"{web}/taskinfo?taskID={failed}")
    assert "not in list for tag" in visitor.text
    assert "resubmit" not in visitor.text

    admin.open(web)
    admin.click("login")
    assert "logout" in admin.text
    assert "kojiadmin" in admin.text
    admin.open(f"{web}/taskinfo?taskID={failed}")
    admin.click("resubmit")

    def again() -> int | None:
        found = re.search(r"taskID=(\d+)", admin.url)
        return int(found.group(1)) if found and int(found.group(1)) != failed else None

    task = wait_for(again, "the page of the new task", 30)
    assert hub.task(task)["owner"] == hub.task(failed)["owner"]
    assert hub.wait_for_task(task) == "CLOSED"
    admin.open(f"{web}/taskinfo?taskID={task}")
    assert re.search(r"State\s+closed", admin.text)
    assert PACKAGE in admin.text


def test_picture(visitor: browsers.Browser, web: str, tmp_path: Path) -> None:
    """What the README shows is what the browser shows now."""
    visitor.open(f"{web}/tasks?state=all&view=tree&order=-id&method=all")
    picture = tmp_path / "kojiweb.png"
    visitor.screenshot(picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 10_000, "the page is empty"
