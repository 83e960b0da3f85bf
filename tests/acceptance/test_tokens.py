"""Tokens, sessions and the limits of callers over a real port: what ends with a token, what a browser gets."""

import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
import httpx2
import pytest
from tests.fakes.served import open_served, write_plans
from tests.fakes.web import TOKEN, Events, Web, open_web
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from aura.api import EngineState
from aura.web import sessions
from aura.web.grants import MAX_IN_FLIGHT

LOGS = "/api/logs/stream"
#: Seconds within which what a token had open has ended, on the most loaded of machines; on others it is at once.
ENDS_WITHIN = 8.0


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with open_web(tmp_path) as opened:
        yield opened


async def make(web: Web, *scopes: str, **more: Any) -> dict[str, Any]:
    answer = await web.http.post("/api/tokens", json={"scopes": scopes, **more})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def bearer(made: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {made['token']}"}


async def log_in(web: Web, headers: dict[str, str] | None = None) -> dict[str, str]:
    """The headers of a browser that has used a code: its cookie, and where its requests come from."""
    made = (await web.http.post("/api/login/codes", headers=headers)).json()
    assert made["path"] == f"/login#code={made['code']}"
    answer = await web.stranger.post("/api/login", json={"code": made["code"]})
    assert answer.status_code == 200, answer.text
    web.stranger.cookies.clear()
    return {"Cookie": answer.headers["set-cookie"].partition(";")[0], "Origin": web.base}


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.lowlevel.checkpoint()


# -- tokens -----------------------------------------------------------------------------------------------------------


async def test_token_is_shown_once_listed_and_revoked(web: Web) -> None:
    made = await make(web, "run", "read", name="robot", expires_s=60)
    assert set(made) == {"id", "name", "scopes", "made_by", "created_at", "expires_at", "token"}
    assert (await web.stranger.get("/api/runs", headers=bearer(made))).status_code == 200
    listed = (await web.http.get("/api/tokens")).json()["items"]
    assert listed == [{name: value for name, value in made.items() if name != "token"}]
    assert (await web.http.delete(f"/api/tokens/{made['id']}")).status_code == 204
    assert (await web.stranger.get("/api/runs", headers=bearer(made))).status_code == 401
    again = await web.http.delete(f"/api/tokens/{made['id']}")
    assert (again.status_code, again.json()["code"]) == (404, "unknown_token")


async def test_tokens_are_listed_page_by_page_newest_first(web: Web) -> None:
    ids = [(await make(web, "read"))["id"] for _ in range(5)]
    seen: list[str] = []
    cursor = None
    while cursor or not seen:
        page = (await web.http.get("/api/tokens", params={"limit": 2} | ({"cursor": cursor} if cursor else {}))).json()
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert seen == ids[::-1]


@pytest.mark.parametrize(
    ("body", "paths"),
    [
        ({}, ["/scopes"]),
        ({"scopes": []}, ["/scopes"]),
        ({"scopes": ["root"]}, ["/scopes/0"]),
        ({"scopes": ["open"]}, ["/scopes/0"]),
        ({"scopes": ["any"]}, ["/scopes/0"]),
        ({"scopes": ["run"], "expires_s": 0}, ["/expires_s"]),
        ({"scopes": ["run"], "expires_s": 1e12}, ["/expires_s"]),
        ({"scopes": ["run"], "name": "x" * 101}, ["/name"]),
        ({"scopes": ["run"], "token": "mine"}, ["/token"]),
    ],
    ids=str,
)
async def test_token_that_cannot_be_meant_is_refused(web: Web, body: dict[str, Any], paths: list[str]) -> None:
    answer = await web.http.post("/api/tokens", json=body)
    assert (answer.status_code, [error["path"] for error in answer.json()["errors"]]) == (422, paths)


async def test_token_of_an_admin_who_may_not_run_cannot_give_run(web: Web) -> None:
    admin = await make(web, "admin")
    refused = await web.stranger.post("/api/tokens", json={"scopes": ["admin", "run"]}, headers=bearer(admin))
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    child = await web.stranger.post("/api/tokens", json={"scopes": ["admin"]}, headers=bearer(admin))
    assert child.json()["made_by"] == admin["id"]


@pytest.mark.parametrize("path", ["/api/tokens", "/api/tasks/run"])
async def test_request_whose_token_is_revoked_while_its_body_comes_is_refused(web: Web, path: str) -> None:
    made = await make(web, "admin", "run")
    body = b'{"scopes": ["admin"]}' if path == "/api/tokens" else b'{"plan_name": "lab", "task_name": "report"}'
    more = ("Content-Type: application/json", f"Content-Length: {len(body)}")
    head = web.head("POST", path, *more).replace(TOKEN.encode(), made["token"].encode())
    grant = web.auth.tokens.find(made["token"].encode())
    assert grant
    async with await anyio.connect_tcp("127.0.0.1", web.port) as client:
        await client.send(head + body[:5])
        await until(lambda: grant.in_flight)
        await web.http.delete(f"/api/tokens/{made['id']}")
        await client.send(body[5:])
        with anyio.fail_after(10):
            assert (await client.receive()).startswith(b"HTTP/1.1 401")
    assert (web.auth.tokens.newest_first(), web.engine.records, grant.in_flight) == ([], {}, 0)


# -- what ends with a token -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["revoked", "expired"])
@pytest.mark.parametrize("kind", ["logs", "run"])
async def test_open_stream_ends_with_its_token(web: Web, kind: str, how: str) -> None:
    run = web.engine.add_run("running")
    path = LOGS if kind == "logs" else f"/api/runs/{run.cid}/events"
    made = await make(web, "logs", expires_s=3 if how == "expired" else 600)
    async with web.stranger.stream("GET", path, headers=bearer(made)) as answer:
        assert answer.status_code == 200
        if how == "revoked":
            await web.http.delete(f"/api/tokens/{made['id']}")
        with anyio.fail_after(3 + ENDS_WITHIN):
            text = b"".join([part async for part in answer.aiter_bytes()])
    assert text == b": the token has ended\n\n"
    assert (await web.stranger.get(path, headers=bearer(made))).status_code == 401
    await until(lambda: not web.engine.journal.readers)


async def test_stream_of_another_token_goes_on(web: Web) -> None:
    made = await make(web, "logs")
    async with web.http.stream("GET", LOGS) as answer:
        await web.http.delete(f"/api/tokens/{made['id']}")
        web.engine.journal.log("info", "on")
        assert await Events(answer).messages(2) == [f"token {made['id']} was revoked by local", "on"]


async def test_stream_that_nobody_reads_ends_with_its_token(web: Web) -> None:
    made = await make(web, "logs")
    head = web.head("GET", LOGS).replace(TOKEN.encode(), made["token"].encode())
    async with await anyio.connect_tcp("127.0.0.1", web.port) as client:
        await client.send(head)
        await until(lambda: web.engine.journal.readers)
        for _ in range(300):
            web.engine.journal.log("info", "x" * 60_000)
        grant = web.auth.tokens.find(made["token"].encode())
        assert grant
        assert grant.streams == 1
        await web.http.delete(f"/api/tokens/{made['id']}")
        await until(lambda: not grant.streams, ENDS_WITHIN)


async def test_websocket_closes_with_its_token(web: Web) -> None:
    made = await make(web, "logs")
    url = f"ws://127.0.0.1:{web.port}/ws/logs"
    async with connect(url, additional_headers=bearer(made), proxy=None, ping_interval=None) as client:
        await web.http.delete(f"/api/tokens/{made['id']}")
        with anyio.fail_after(ENDS_WITHIN), pytest.raises(ConnectionClosed) as closed:
            await client.recv()
    assert closed.value.rcvd
    assert closed.value.rcvd.code == 1008


async def test_session_ends_with_its_token_and_by_logout(web: Web) -> None:
    made = await make(web, "read", "logs")
    first, second = [await log_in(web, bearer(made)) for _ in range(2)]
    async with web.stranger.stream("GET", LOGS, headers=first) as answer:
        assert (await web.stranger.post("/api/logout", headers=first)).status_code == 204
        with anyio.fail_after(ENDS_WITHIN):
            assert await answer.aread() == b": the token has ended\n\n"
    assert [(await web.stranger.get("/api/runs", headers=one)).status_code for one in (first, second)] == [401, 200]
    async with web.stranger.stream("GET", LOGS, headers=second) as answer:
        await web.http.delete(f"/api/tokens/{made['id']}")
        with anyio.fail_after(ENDS_WITHIN):
            await answer.aread()
    assert (await web.stranger.get("/api/runs", headers=second)).status_code == 401


# -- browsers ---------------------------------------------------------------------------------------------------------


async def test_cookie_has_the_scopes_of_the_token_that_made_its_code(web: Web) -> None:
    browser = await log_in(web, bearer(await make(web, "run")))
    assert (await web.stranger.get("/api/runs", headers=browser)).status_code == 403
    body = {"plan_name": "lab", "task_name": "report"}
    assert (await web.stranger.post("/api/tasks/run", json=body, headers=browser)).status_code == 202


async def test_cookie_is_for_scripts_of_nobody_and_for_this_port(web: Web) -> None:
    made = (await web.http.post("/api/login/codes")).json()
    answer = await web.stranger.post("/api/login", json={"code": made["code"]})
    name, *rest = answer.headers["set-cookie"].split("; ")
    assert name.startswith(f"aura_session_{web.port}=")
    assert rest == ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"]
    assert sorted(answer.json()["scopes"]) == ["admin", "logs", "manage", "read", "run"]


async def test_code_is_used_up_by_its_first_use(web: Web) -> None:
    code = {"code": (await web.http.post("/api/login/codes")).json()["code"]}
    first, second = [await web.stranger.post("/api/login", json=code) for _ in range(2)]
    assert (first.status_code, second.status_code) == (200, 401)
    assert "set-cookie" not in second.headers


async def test_change_by_cookie_alone_is_refused(web: Web) -> None:
    browser = await log_in(web)
    del browser["Origin"]
    refused = await web.stranger.post("/api/system/start", headers=browser)
    assert (refused.status_code, refused.json()["code"]) == (403, "foreign_origin")
    assert (await web.stranger.get("/api/runs", headers=browser)).status_code == 200
    fetched = browser | {"Sec-Fetch-Site": "same-origin"}
    assert (await web.stranger.post("/api/system/start", headers=fetched)).status_code == 200


async def test_session_makes_no_codes(web: Web) -> None:
    refused = await web.stranger.post("/api/login/codes", headers=await log_in(web))
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")


async def test_page_of_the_login_loads_and_runs_nothing_but_its_own(web: Web) -> None:
    answer = await web.stranger.get("/login")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert policy.count("'sha256-") == 2
    assert "unsafe" not in policy
    assert not any(word in answer.text for word in ("http://", "https://", " src=", " href=", "innerHTML", "eval("))


@pytest.mark.skipif(shutil.which("chromium") is None, reason="apt-get install chromium: this test is of a browser")
async def test_browser_logs_in_by_the_link_and_lands_on_the_docs(web: Web, tmp_path: Path) -> None:
    made = (await web.http.post("/api/login/codes")).json()
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
               "--virtual-time-budget=8000", "--dump-dom", web.base + made["path"]]  # fmt: skip
    with anyio.fail_after(60):
        done = await anyio.run_process(command, check=False, stderr=subprocess.DEVNULL)
    page = done.stdout.decode()
    assert "Aura: the HTTP interface" in page
    assert "/api/tasks/run" in page  # which the page could only ask for with its cookie
    assert made["code"] not in page


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate of this test")
async def test_cookie_is_secure_under_tls(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make_it = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -out {cert} -keyout {key}"
    await anyio.run_process(make_it.split(), check=True)
    async with open_web(tmp_path, tls_cert=cert, tls_key=key) as web:
        trust = ssl.create_default_context(cafile=str(cert))
        base = web.base.replace("127.0.0.1", "localhost")
        transport = httpx2.AsyncHTTPTransport(verify=trust)
        async with httpx2.AsyncClient(base_url=base, transport=transport, timeout=20) as http:
            code = web.auth.sessions.make_code(web.auth.tokens._grants[next(iter(web.auth.tokens._grants))])
            answer = await http.post("/api/login", json={"code": code})
            assert answer.headers["set-cookie"].endswith("; Secure")
            assert (await http.get("/api/runs")).status_code == 200  # by the cookie that the client keeps


# -- limits -----------------------------------------------------------------------------------------------------------


async def test_requests_of_a_token_under_way_are_bounded_and_streams_are_not_among_them(web: Web) -> None:
    reached, go_on = anyio.Semaphore(0), anyio.Event()

    async def wait() -> EngineState:
        reached.release()
        await go_on.wait()
        return "running"

    web.engine.start = wait  # type: ignore[method-assign]
    made = await make(web, "manage", "logs", "read")
    statuses: list[int] = []

    async def ask() -> None:
        statuses.append((await web.stranger.post("/api/system/start", headers=bearer(made))).status_code)

    async with web.stranger.stream("GET", LOGS, headers=bearer(made)), anyio.create_task_group() as group:
        for _ in range(MAX_IN_FLIGHT):
            group.start_soon(ask)
        with anyio.fail_after(20):
            for _ in range(MAX_IN_FLIGHT):
                await reached.acquire()
        refused = await web.stranger.get("/api/runs", headers=bearer(made))
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
        assert refused.headers["retry-after"] == "1"
        assert (await web.http.get("/api/runs")).status_code == 200
        assert (await web.stranger.get("/readyz", headers=bearer(made))).status_code == 200
        async with web.stranger.stream("GET", LOGS, headers=bearer(made)) as another:
            assert another.status_code == 200
        go_on.set()
    assert statuses == [200] * MAX_IN_FLIGHT
    assert (await web.stranger.get("/api/runs", headers=bearer(made))).status_code == 200


async def test_guessing_is_slowed_and_a_good_token_is_not(tmp_path: Path) -> None:
    async with open_web(tmp_path, failures=10) as web:
        wrong = {"Authorization": "Bearer wrong", "X-Forwarded-For": "10.1.2.3"}
        answers = [await web.stranger.get("/api/runs", headers=wrong | {"X-Real-IP": f"10.0.0.{n}"}) for n in range(10)]
        login = await web.stranger.post("/api/login", json={"code": "guessed"})
        assert [answer.status_code for answer in answers] == [401] * 10
        assert (login.status_code, login.json()["code"]) == (429, "too_many_requests")
        assert 1 <= int(login.headers["retry-after"]) <= 60
        assert (await web.http.get("/api/runs")).status_code == 200
        assert (await web.stranger.get("/livez")).status_code == 200
        assert (await web.stranger.post("/api/login", json={"code": await a_code(web)})).status_code == 200


async def a_code(web: Web) -> str:
    return str((await web.http.post("/api/login/codes")).json()["code"])


async def test_codes_that_wait_are_bounded(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_CODES", 2)
    answers = [await web.http.post("/api/login/codes") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201, 201, 429]
    assert answers[-1].headers["retry-after"] == "60"


# -- nothing of them is left anywhere ---------------------------------------------------------------------------------


def test_secrets_are_in_no_log_and_no_file_and_tokens_and_sessions_outlive_a_kill(tmp_path: Path) -> None:
    write_plans(tmp_path, {"lab/tasks/a.yaml": "steps: {a: {action: log, params: {message: hello}}}\n"})
    with open_served(tmp_path) as served:
        made = served.aura("token", "new", "--scope", "read", "--name", "robot").out.strip()
        link = served.aura("open", "--print").out.strip()
        with httpx2.Client(base_url=served.address, timeout=20) as http:
            answer = http.post("/api/login", json={"code": link.partition("=")[2]})
            cookie = answer.headers["set-cookie"].partition(";")[0].partition("=")[2]
            for secret in (made, cookie, made + "x"):
                http.get(f"/api/nope/{secret[:3]}", headers={"Authorization": f"Bearer {secret}"})
        served.process.kill()
        served.process.wait(20)
    port = str(urlsplit(served.address).port)  # a cookie is for its port
    with open_served(tmp_path, "--port", port) as served, httpx2.Client(base_url=served.address, timeout=20) as http:
        assert http.get("/api/runs", headers={"Authorization": f"Bearer {made}"}).status_code == 200
        assert http.get("/api/runs", headers={"Cookie": answer.headers["set-cookie"]}).status_code == 200
    local = (tmp_path / "data" / "token").read_text().strip()
    files = [file for file in tmp_path.rglob("*") if file.is_file() and file.name != "token"]
    held = b"".join(file.read_bytes() for file in files)
    assert b"a browser logged in with token local" in held
    assert [secret for secret in (made, cookie, local, link.partition("=")[2]) if secret.encode() in held] == []
