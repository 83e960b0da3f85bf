"""Clients that others made, against a real ``aura serve``: curl, httpx2, websockets, EventSource in Chromium."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from tests.fakes.browser import MISSING, WHAT_WOULD_RUN_IT, Browser, open_browser
from tests.fakes.door import Door, wait_until
from tests.fakes.served import Served, open_served, write_plans
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus
from websockets.sync.client import connect

PLANS = {
    "lab/tasks/count.yaml": """
recovery: restart
inputs: {lines: {type: integer}}
steps:
  count: {action: count, params: {lines: "{{ inputs.lines }}"}}
""",
    "lab/actions.py": """
import anyio
from aura import Context, action

@action
async def count(ctx: Context, lines: int) -> None:
    for n in range(lines):
        ctx.log.info(f"line {n}\\n\\ndata: ü")
        await anyio.sleep(0.005)
""",
}
LINES = 150
#: How many of them have come when the server is stopped, at least.
BEFORE = 20

needs_curl = pytest.mark.skipif(not shutil.which("curl"), reason="curl is not here: apt-get install curl")
needs_browser = pytest.mark.skipif(bool(MISSING), reason=f"{MISSING} not here: {WHAT_WOULD_RUN_IT}")

Record = dict[str, Any]


class House:
    """A server that may move out and in again, at the same address."""

    def __init__(self, folder: Path, *argv: str) -> None:
        self.folder = folder
        self._argv = argv
        self.is_open = "--no-auth" in argv
        self._open: Any = None
        self.served: Served
        self.door: Door
        self.port = 0

    def move_in(self) -> None:
        self._open = open_served(self.folder, "--port", str(self.port), *self._argv)
        self.served = self._open.__enter__()
        self.port = urlsplit(self.served.address).port or 0
        self.door = Door(self.served)

    def move_out(self) -> None:
        if self._open is not None:
            self._open.__exit__(None, None, None)
            self._open = None

    @property
    def base(self) -> str:
        return self.served.address

    @property
    def token(self) -> str:
        return (self.folder / "data" / "token").read_text().strip()

    def count(self, lines: int = LINES) -> str:
        return self.door.run("count", inputs={"lines": lines})

    def wait_end(self, cid: str) -> None:
        wait_until(lambda: self.door.get(f"/api/runs/{cid}")["state"] == "succeeded", 30)

    def lines(self, cid: str) -> list[str]:
        """The ids of all log lines of a run."""
        return [item["id"] for item in self.door.get(f"/api/runs/{cid}/logs?limit=1000")["items"]]

    def everything(self, cid: str) -> list[str]:
        """The ids of all that a run's stream has, by a reader of its own."""
        headers = {} if self.is_open else {"Authorization": f"Bearer {self.token}"}
        with plain_http(self.base) as http:
            text = http.get(f"/api/runs/{cid}/events", headers=headers).text
        return [line[4:] for line in text.splitlines() if line.startswith("id: ")]


@contextmanager
def open_house(folder: Path, *argv: str) -> Iterator[House]:
    write_plans(folder, PLANS)
    house = House(folder, *argv)
    try:
        house.move_in()
        yield house
    finally:
        house.move_out()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(tmp_path) as opened:
        yield opened


def plain_http(base: str) -> httpx2.Client:
    return httpx2.Client(base_url=base, timeout=30, transport=httpx2.HTTPTransport(verify=False))


def events_of(lines: Iterator[str]) -> Iterator[Record]:
    """Server-sent events, as any client reads them."""
    found: Record = {}
    for line in lines:
        name, _, value = line.rstrip("\n").partition(": ")
        if name in ("id", "event", "data"):
            found[name] = value
        elif not name and found:
            yield found | {"data": json.loads(found.get("data", "{}"))}
            found = {}


# -- curl -------------------------------------------------------------------------------------------------------------


def curl(house: House, path: str, *options: str, **how: Any) -> "subprocess.Popen[str]":
    command = ["curl", "-sS", "--noproxy", "*", "-H", f"Authorization: Bearer {house.token}", *options]
    return subprocess.Popen([*command, house.base + path], stdout=-1, stderr=-2, text=True, encoding="utf-8", **how)


def curled(house: House, path: str, *options: str) -> str:
    with curl(house, path, *options) as process:
        return process.communicate(timeout=30)[0]


@needs_curl
def test_curl_posts_and_follows_the_run_to_its_end(house: House) -> None:
    body = json.dumps({"plan_name": "lab", "task_name": "count", "inputs": {"lines": 30}})
    answer = curled(house, "/api/tasks/run", "-i", "-H", "Content-Type: application/json", "-d", body)
    head, _, accepted = answer.partition("\n\n")
    assert head.startswith("HTTP/1.1 202")
    cid = json.loads(accepted)["cid"]
    assert f"/api/runs/{cid}" in head
    events = list(events_of(iter(curled(house, f"/api/runs/{cid}/events", "-N").splitlines())))
    assert [event["id"] for event in events] == house.everything(cid)
    assert [event.get("event") for event in events] == [None] * (len(events) - 1) + ["end"]
    middle = events[len(events) // 2]["id"]
    rest = curled(house, f"/api/runs/{cid}/events", "-N", "-H", f"Last-Event-ID: {middle}")
    assert [event["id"] for event in events_of(iter(rest.splitlines()))] == [
        event["id"] for event in events[len(events) // 2 + 1 :]
    ]


@needs_curl
def test_curl_asks_for_heads(house: House) -> None:
    for path in ("/livez", "/api/runs", "/api/logs/stream"):
        answer = curled(house, path, "-I")
        assert answer.startswith("HTTP/1.1 200"), path
        assert answer.endswith("\n\n"), path
    assert "text/event-stream" in curled(house, "/api/logs/stream", "-I")


@needs_curl
def test_curl_fetches_a_part_of_a_file(house: House) -> None:
    cid = house.count(1)
    house.wait_end(cid)
    work = house.folder / "data" / "work" / cid
    work.mkdir(parents=True, exist_ok=True)
    (work / "big").write_bytes(b"0123456789" * 10_000)
    assert curled(house, f"/api/runs/{cid}/files/big", "-r", "5-14") == "5678901234"
    got = house.folder / "got"
    got.write_bytes(b"0123456789" * 10)
    curled(house, f"/api/runs/{cid}/files/big", "-C", "-", "-o", str(got))  # goes on with what is there
    assert got.read_bytes() == (work / "big").read_bytes()


# -- whoever follows a stream, over a restart of the server -----------------------------------------------------------


class Follower:
    """Follows the log lines of a run in a thread, and asks again from where it was when the server is back."""

    def __init__(self, house: House, cid: str, once: "Once") -> None:
        self.house = house
        self.cid = cid
        self.seen: list[Record] = []
        self.shutdowns = 0
        self._once = once
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    @property
    def ids(self) -> list[str]:
        return [record["id"] for record in self.seen]

    @property
    def last(self) -> str:
        return self.ids[-1] if self.seen else ""

    def is_over(self) -> bool:
        """Say whether the last line of an attempt that got to its end has come."""
        return bool(self.seen) and self.seen[-1]["message"].startswith(f"line {LINES - 1}\n")

    def wait(self, condition: Callable[[], object]) -> None:
        wait_until(condition, 30)

    def _follow(self) -> None:
        while not self.is_over():
            self._once(self)
            time.sleep(0.05)  # not waited for: the pause of a client that tries again

    def join(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()


Once = Callable[[Follower], None]


def by_curl(follower: Follower) -> None:
    path = f"/api/logs/stream?cid={follower.cid}"
    with curl(follower.house, path, "-N", "-H", f"Last-Event-ID: {follower.last or 1}", bufsize=1) as process:
        assert process.stdout
        take(follower, events_of(line for line in process.stdout if not line.startswith("curl:")))
        process.kill()


def by_httpx2(follower: Follower) -> None:
    headers = {"Authorization": f"Bearer {follower.house.token}", "Last-Event-ID": follower.last or "1"}
    path = f"/api/logs/stream?cid={follower.cid}"
    try:
        with plain_http(follower.house.base) as http, http.stream("GET", path, headers=headers) as answer:
            sse = httpx2.EventSource(answer)
            take(follower, ({"event": e.event, "id": e.id, "data": json.loads(e.data or "{}")} for e in sse))
    except httpx2.TransportError:
        return


def by_websocket(follower: Follower) -> None:
    url = f"ws://127.0.0.1:{follower.house.port}/ws/logs?cid={follower.cid}&last_id={follower.last or 1}"
    try:
        with connect(url, additional_headers={"Authorization": f"Bearer {follower.house.token}"}, proxy=None) as socket:
            for text in socket:
                message = json.loads(text)
                follower.shutdowns += message["type"] == "shutdown"
                if message["type"] == "log":
                    follower.seen.append(message["payload"])
                if follower.is_over():
                    return
    except (OSError, ConnectionClosed, InvalidMessage, InvalidStatus):
        return


def take(follower: Follower, events: Iterator[Record]) -> None:
    for event in events:
        follower.shutdowns += event.get("event") == "shutdown"
        if event["data"].get("kind") == "log":
            follower.seen.append(event["data"])
        if follower.is_over():
            return


@pytest.mark.parametrize(
    "once", [pytest.param(by_curl, marks=needs_curl), by_httpx2, by_websocket], ids=lambda once: once.__name__
)
def test_follower_misses_nothing_over_a_restart(house: House, once: Once) -> None:
    cid = house.count()
    follower = Follower(house, cid, once)
    follower.wait(lambda: len(follower.seen) >= BEFORE)
    house.move_out()
    house.move_in()
    follower.join()
    house.wait_end(cid)
    assert follower.ids == house.lines(cid)
    assert len(follower.ids) > LINES  # of the attempt before the restart and of the one after it
    assert follower.shutdowns == 1


def test_program_of_the_how_to_follows_a_run_over_a_restart(house: House) -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/follow-live.md").read_text(encoding="utf-8")
    program = page.split("```python follow.py\n")[1].split("```")[0]
    cid = house.count()
    command = [sys.executable, "-u", "-c", program, house.base, house.token, cid]
    environment = {"PATH": os.environ["PATH"], "NO_PROXY": "*"}
    with subprocess.Popen(command, stdout=-1, text=True, encoding="utf-8", env=environment) as process:
        assert process.stdout
        bound = threading.Timer(30, process.kill)
        bound.start()
        said = [process.stdout.readline() for _ in range(BEFORE)]
        house.move_out()
        house.move_in()
        said += process.stdout.readlines()
        bound.cancel()
    lines = [line for line in said if line.startswith("line ")]
    assert (len(lines), said[-1]) == (len(house.lines(cid)), "run.succeeded\n")


# -- EventSource ------------------------------------------------------------------------------------------------------

OPEN_STREAM = """
const [name, url] = arguments;
window.streams = window.streams || {};
const found = window.streams[name] = {ids: [], names: [], opened: 0, state: () => source.readyState};
const source = new EventSource(url);
source.onopen = () => { found.opened += 1; };
const note = event => {
  if (event.type !== "shutdown") found.ids.push(event.lastEventId);
  found.names.push(event.type);
  if (event.type === "end") source.close();
};
for (const type of ["message", "gap", "end", "shutdown"]) source.addEventListener(type, note);
"""


class Page:
    """A page of the server's in a browser, and the streams that it has open."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser

    def follow(self, name: str, url: str) -> None:
        self.browser.run(OPEN_STREAM, name, url)
        self.wait(name, lambda found: found["opened"])

    def look(self, name: str) -> Record:
        """What has come: ``{ids, names, opened, state}``."""
        found: Record = self.browser.run(
            "const {state, ...found} = window.streams[arguments[0]]; return {...found, state: state()};", name
        )
        return found

    def wait(self, name: str, condition: Callable[[Record], object]) -> Record:
        wait_until(lambda: condition(self.look(name)), 40)
        return self.look(name)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def log_in(house: House, browser: Browser) -> Page:
    """Use a one-time code; the page that it leads to."""
    code = house.door.ask("POST", "/api/login/codes").body
    browser.open(house.base + code["path"])
    wait_until(lambda: browser.url == house.base + "/docs")
    return Page(browser)


@needs_browser
def test_page_that_logged_in_by_a_code_sees_every_record(house: House, browser: Browser) -> None:
    page = log_in(house, browser)
    page.follow("logs", "/api/logs/stream?plan_name=lab")
    cid = house.count()
    page.follow("run", f"/api/runs/{cid}/events")
    run = page.wait("run", lambda found: "end" in found["names"])
    assert run["ids"] == house.everything(cid)
    assert (run["names"][-1], set(run["names"][:-1])) == ("end", {"message"})
    lines = house.lines(cid)
    assert page.wait("logs", lambda found: len(found["ids"]) >= len(lines))["ids"] == lines


#: Presses the button of one route of the page that describes the interface, as people do.
TRY_ROUTE = """
const route = [...document.querySelectorAll("details")].find((each) => each.dataset.text.startsWith(arguments[0]));
if (!route) return null;
route.open = true;
const shown = () => route.querySelector("form > pre:last-of-type").textContent;
route.addEventListener("toggle", () => { route.querySelector("form").requestSubmit(); window.shown = shown; });
return true;
"""


@needs_browser
@pytest.mark.parametrize(("route", "answer"), [("get /api/runs ", '"items"'), ("post /api/logout", "204")])
def test_page_of_the_interface_shows_answers_with_a_body_and_without(
    house: House, browser: Browser, route: str, answer: str
) -> None:
    browser.open(house.base + house.door.ask("POST", "/api/login/codes").body["path"])
    wait_until(lambda: browser.url == house.base + "/docs")
    wait_until(lambda: browser.run(TRY_ROUTE, route))
    wait_until(lambda: answer in (browser.run("return window.shown && window.shown();") or ""))
    assert "Error" not in browser.run("return window.shown();")


@needs_browser
def test_page_of_another_site_sees_nothing(house: House, browser: Browser, tmp_path: Path) -> None:
    other_folder = tmp_path / "other"
    other_folder.mkdir()
    with open_house(other_folder, "--no-auth") as other:
        browser.open(house.base + "/login")
        browser.run(OPEN_STREAM, "foreign", other.base + "/api/logs/stream")
        found = Page(browser).wait("foreign", lambda found: found["state"] == 2)
        assert (found["opened"], found["names"]) == (0, [])


@needs_browser
def test_page_goes_on_by_itself_over_a_restart(house: House, browser: Browser) -> None:
    """With the session that it had: a browser that is answered with 401 would not ask again."""
    page = log_in(house, browser)
    cid = house.count(2 * LINES)  # a browser takes its time to open a stream
    page.follow("logs", f"/api/logs/stream?cid={cid}")  # the first: it has only what comes from then on
    page.follow("run", f"/api/runs/{cid}/events")
    page.wait("run", lambda found: len(found["ids"]) >= BEFORE)
    first = page.wait("logs", lambda found: found["ids"])["ids"][0]
    house.move_out()
    house.move_in()
    run = page.wait("run", lambda found: "end" in found["names"])
    assert run["ids"] == house.everything(cid)
    assert (run["opened"], run["names"].count("shutdown")) == (2, 1)
    lines = [line for line in house.lines(cid) if int(line) >= int(first)]
    logs = page.wait("logs", lambda found: len(found["ids"]) >= len(lines))
    assert logs["ids"] == lines


# -- the page of the interface ----------------------------------------------------------------------------------------

LISTED = """
return [...document.querySelectorAll("summary")].map(
  summary => [summary.querySelector(".method").textContent, summary.querySelector("code").textContent]);
"""
OPEN_ROUTE = """
const [method, path] = arguments;
window.tried = [...document.querySelectorAll("details")].find(
  one => one.querySelector(".method").textContent === method && one.querySelector("code").textContent === path);
window.tried.querySelector("summary").click();
"""
SEND = "window.tried.querySelector('form button[type=submit]').click()"
IS_OPEN = "return window.tried.open && window.tried.querySelector('form') !== null"
SHOWN = "return window.tried.querySelector('form > pre:last-child').textContent"


@needs_browser
def test_docs_list_the_routes_and_try_one_after_the_login(house: House, browser: Browser) -> None:
    browser.open("about:blank")
    browser.said(), browser.requested()
    log_in(house, browser)
    paths = house.door.get("/openapi.json")["paths"]
    routes = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    wait_until(lambda: browser.run(LISTED), 20)
    assert {tuple(route) for route in browser.run(LISTED)} == routes
    browser.run(OPEN_ROUTE, "GET", "/api/system/status")
    wait_until(lambda: browser.run(IS_OPEN), 20)
    browser.run(SEND)
    wait_until(lambda: browser.run(SHOWN).endswith("}"), 20)
    head, _, body = browser.run(SHOWN).partition("\n\n")
    assert head.splitlines()[0] == "GET /api/system/status"
    assert head.splitlines()[1].split()[0] == "200"
    assert json.loads(body)["state"] == "running"
    assert browser.said() == []
    requested = browser.requested()
    assert house.base + "/api/system/status" in requested
    assert [url for url in requested if not url.startswith(house.base + "/")] == []


@needs_browser
def test_docs_without_a_login_say_how_to_get_in(house: House, browser: Browser) -> None:
    browser.open("about:blank")
    browser.said(), browser.requested()
    browser.open(house.base + "/docs")
    wait_until(lambda: browser.run("return document.querySelector('.problem') !== null"), 20)
    assert "aura open" in browser.run("return document.querySelector('.problem').textContent")
    assert browser.run(LISTED) == []
    assert [line for line in browser.said() if "status of 401" not in line] == []
    assert [url for url in browser.requested() if not url.startswith(house.base + "/")] == []
