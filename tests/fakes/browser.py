"""Headless Chromium, driven by chromedriver in its own protocol (W3C WebDriver), with no network but loopback."""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
#: Why a test that needs a browser is skipped here; empty where it can run.
MISSING = ", ".join(name for name in ("chromium", "chromedriver") if shutil.which(name) is None)
WHAT_WOULD_RUN_IT = "apt-get install chromium chromium-driver"


class Browser:
    """One window."""

    def __init__(self, driver: httpx2.Client, session: str) -> None:
        self._driver = driver
        self._session = session

    def open(self, url: str) -> None:
        """Go to a page and wait until it is loaded."""
        self._say("url", url=url)

    @property
    def url(self) -> str:
        """Where the window is now."""
        return str(_value(self._driver.get(f"/session/{self._session}/url")))

    def run(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript in the page; what it returns."""
        return self._say("execute/sync", script=script, args=list(arguments))

    def said(self) -> list[str]:
        """What stands in the console since this was last asked: errors, and what a page's policy has forbidden."""
        return [f"{entry['source']}: {entry['message']}" for entry in self._say("se/log", type="browser")]

    def requested(self) -> list[str]:
        """The URLs of all that was asked for since this was last asked, forbidden ones and sub-resources included."""
        messages = [json.loads(entry["message"])["message"] for entry in self._say("se/log", type="performance")]
        asked = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
        return [params["request"]["url"] for params in asked]

    def _say(self, command: str, **body: Any) -> Any:
        return _value(self._driver.post(f"/session/{self._session}/{command}", json=body))


def _value(answer: httpx2.Response) -> Any:
    value = answer.json()["value"]
    assert answer.is_success, value
    return value


@contextmanager
def open_browser(profile: Path) -> Iterator[Browser]:
    """A new browser with an empty profile; all its processes are gone afterwards."""
    command = ["chromedriver", "--port=0"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(profile), "TMPDIR": str(profile)}
    with subprocess.Popen(command, stdout=-1, stderr=-3, text=True, env=environment, start_new_session=True) as process:
        try:
            with _driver(process) as driver:
                session = _value(driver.post("/session", json={"capabilities": {"alwaysMatch": _options(profile)}}))
                try:
                    yield Browser(driver, session["sessionId"])
                finally:
                    driver.delete(f"/session/{session['sessionId']}")
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _options(profile: Path) -> dict[str, Any]:
    arguments = [*FLAGS, f"--user-data-dir={profile / 'profile'}"]
    options = {"args": arguments, "binary": shutil.which("chromium")}
    return {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}


def _driver(process: "subprocess.Popen[str]") -> httpx2.Client:
    assert process.stdout
    for line in process.stdout:
        if found := re.search(r"started successfully on port (\d+)", line):
            transport = httpx2.HTTPTransport(verify=False)
            return httpx2.Client(base_url=f"http://127.0.0.1:{found[1]}", timeout=60, transport=transport)
    raise AssertionError("chromedriver did not start")
