"""A headless browser, driven by WebDriver's own protocol: a dozen requests need no library."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from koji_client import wait_for

# Package -> a program of it.
TOOLS = {"chromium": "chromium", "chromium-driver": "chromedriver", "libnss3-tools": "certutil"}

POLICY = Path("/etc/chromium/policies/managed/goose-lab-test.json")

_ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--no-proxy-server",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--window-size=1200,800",
)  # fmt: skip

# WebDriver's name for the key that holds an element's id.
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """One browser with a profile of its own in ``home``; `quit` ends it."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._url = f"http://127.0.0.1:{port}"
        self._driver = subprocess.Popen(
            ["chromedriver", f"--port={port}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "HOME": str(home)},
        )  # fmt: skip
        try:
            wait_for(self._ready, "chromedriver to answer", 30)
            arguments = [*_ARGUMENTS, f"--user-data-dir={home}/profile"]
            options = {"alwaysMatch": {"goog:chromeOptions": {"binary": "/usr/bin/chromium", "args": arguments}}}
            session = self._call("POST", "/session", {"capabilities": options})
            self._url += f"/session/{session['sessionId']}"
        except BaseException:
            self._driver.kill()
            raise

    def _ready(self) -> bool:
        try:
            return bool(self._call("GET", "/status")["ready"])
        except OSError:
            return False

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = json.dumps(body or {}).encode() if method == "POST" else None
        request = urllib.request.Request(self._url + path, data, {"Content-Type": "application/json"}, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"The browser: {json.load(error)['value']['message']}") from error

    def open(self, url: str) -> None:
        """Go to a page and wait until it is loaded; fails where it cannot be loaded, as with a wrong certificate."""
        self._call("POST", "/url", {"url": url})

    @property
    def url(self) -> str:
        """Where it is now."""
        return str(self._call("GET", "/url"))

    @property
    def title(self) -> str:
        return str(self._call("GET", "/title"))

    @property
    def text(self) -> str:
        """The page as a reader sees it."""
        return str(self._call("POST", "/execute/sync", {"script": "return document.body.innerText", "args": []}))

    def click(self, link: str) -> None:
        """Follow the link of this text, whole or in part, and wait for the page behind it."""
        found = self._call("POST", "/element", {"using": "partial link text", "value": link})
        self._call("POST", f"/element/{found[_ELEMENT]}/click")

    def screenshot(self, path: Path) -> None:
        """Write what is seen as a PNG."""
        path.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))

    def quit(self) -> None:
        """End the browser and its driver."""
        try:
            self._call("DELETE", "")
        finally:
            self._driver.terminate()
            self._driver.wait(timeout=20)


def trust(home: Path, ca: Path) -> Path:
    """Make the certificate store of a browser with this home, and let it trust ``ca``."""
    store = home / ".pki/nssdb"
    store.mkdir(parents=True)
    for words in (["-N", "--empty-password"], ["-A", "-n", "lab", "-t", "C,,", "-i", str(ca)]):
        subprocess.run(["certutil", "-d", f"sql:{store}", *words], check=True, capture_output=True)
    return store


def give_certificate(store: Path, pem: Path, scratch: Path) -> None:
    """Put a user's certificate and key into a browser's store, as users do: by a PKCS #12 file."""
    bundle = scratch / "client.p12"
    command = ["openssl", "pkcs12", "-export", "-in", str(pem), "-name", "user", "-passout", "pass:", "-out", str(bundle)]
    subprocess.run(command, check=True, capture_output=True)
    command = ["pk12util", "-d", f"sql:{store}", "-i", str(bundle), "-W", ""]
    subprocess.run(command, check=True, capture_output=True)


def answer_by_certificate(url: str) -> None:
    """Have the browser show its certificate where it would ask its user, who is not there. Undone by `ask_again`."""
    POLICY.parent.mkdir(parents=True, exist_ok=True)
    rule = json.dumps({"pattern": url, "filter": {}})
    POLICY.write_text(json.dumps({"AutoSelectCertificateForUrls": [rule]}))


def ask_again() -> None:
    """Take `answer_by_certificate` back."""
    POLICY.unlink(missing_ok=True)
