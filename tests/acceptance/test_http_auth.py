"""The route table against tokens: every route, with every method, streams and paths that nobody serves included."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.types import ASGIApp
from tests.fakes.web import TOKEN, Web, open_web
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from aura.web.app import ROUTES, App
from aura.web.auth import Access
from aura.web.call import ApiRoute
from aura.web.tokens import SCOPES

CID = "01a201e6-e7b6-7344-9aa6-a9d0ae8f2df5"
#: method and path → what it asks for. A new route has to be entered here, by somebody who has thought about it.
TABLE = {
    ("GET", "/livez"): "open",
    ("GET", "/readyz"): "open",
    ("GET", "/api/system/status"): "read",
    ("POST", "/api/system/start"): "manage",
    ("POST", "/api/system/stop"): "manage",
    ("POST", "/api/system/reload"): "admin",
    ("GET", "/api/plans"): "read",
    ("GET", "/api/plans/{plan}/tasks"): "read",
    ("GET", "/api/plans/{plan}/tasks/{task:path}"): "read",
    ("GET", "/api/actions"): "read",
    ("POST", "/api/tasks/run"): "run",
    ("POST", "/api/tasks/batch"): "run",
    ("POST", "/api/tasks/cancel"): "run",
    ("POST", "/api/tasks/{cid}/answer"): "run",
    ("POST", "/api/tasks/{cid}/cancel"): "run",
    ("POST", "/api/tasks/{cid}/pause"): "run",
    ("POST", "/api/tasks/{cid}/resume"): "run",
    ("POST", "/api/tasks/{cid}/rerun"): "run",
    ("PATCH", "/api/tasks/{cid}/priority"): "run",
    ("GET", "/api/runs"): "read",
    ("GET", "/api/runs/active"): "read",
    ("GET", "/api/runs/{cid}"): "read",
    ("GET", "/api/runs/{cid}/logs"): "logs",
    ("GET", "/api/runs/{cid}/events"): "logs",
    ("GET", "/api/runs/{cid}/files"): "read",
    ("GET", "/api/runs/{cid}/files/{path:path}"): "read",
    ("GET", "/api/queue/list"): "read",
    ("GET", "/api/queue/overview"): "read",
    ("GET", "/metrics"): "read",
    ("GET", "/api/logs/stream"): "logs",
    ("GET", "/ws/logs"): "logs",
    ("POST", "/api/events"): "run",
    ("GET", "/api/interrupts"): "read",
    ("GET", "/api/why"): "read",
    ("POST", "/api/interrupts/{plan}/{rule}/fire"): "run",
    ("POST", "/api/interrupts/{plan}/{rule}/enable"): "manage",
    ("POST", "/api/interrupts/{plan}/{rule}/disable"): "manage",
    ("GET", "/api/schedule"): "read",
    ("GET", "/api/schedule/{plan}/{item}"): "read",
    ("GET", "/api/schedule/{plan}/{item}/preview"): "read",
    ("POST", "/api/schedule/{plan}/{item}/run"): "run",
    ("POST", "/api/schedule/{plan}/{item}/enable"): "manage",
    ("POST", "/api/schedule/{plan}/{item}/disable"): "manage",
    ("GET", "/api/events/stream"): "logs",
    ("GET", "/api/tokens"): "admin",
    ("POST", "/api/tokens"): "admin",
    ("DELETE", "/api/tokens/{id}"): "admin",
    ("POST", "/api/login/codes"): "any",
    ("POST", "/api/login"): "open",
    ("POST", "/api/hooks/{plan}/{item}"): "open",  # it asks for a proof of its own: test_http_hooks.py
    ("POST", "/api/logout"): "any",
    ("GET", "/login"): "open",
    ("GET", "/openapi.json"): "read",
    ("GET", "/docs"): "open",
}
METHODS = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"]
HEADERS = {
    "no token": {},
    "wrong token": {"Authorization": "Bearer wrong"},
    "token with more behind it": {"Authorization": f"Bearer {TOKEN}x"},
    "other scheme": {"Authorization": f"Basic {TOKEN}"},
    "cookie": {"Cookie": f"token={TOKEN}"},
}


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with open_web(tmp_path) as opened:
        yield opened


def concrete(path: str) -> str:
    names = {"{plan}": "lab", "{task:path}": "a/b", "{path:path}": "out/a.txt", "{cid}": CID, "{id}": "0badcafe"}
    names |= {"{rule}": "low_battery", "{item}": "nightly"}
    for parameter, name in names.items():
        path = path.replace(parameter, name)
    return path


def is_stream(path: str) -> bool:
    return path.endswith(("/stream", "}/events"))


async def secret_of(web: Web, caller: str) -> str:
    """A secret that is no longer good, or the secret of a token that has one scope."""
    if caller == "wrong":
        return "x" * 43
    tokens = web.auth.tokens
    (local,) = [grant for grant in tokens._grants.values() if grant.id == "local"]
    scopes = SCOPES if caller in ("expired", "revoked") else {caller}
    record, secret = await tokens.make(local, scopes, "", 1e-9 if caller == "expired" else None)
    if caller == "revoked":
        await tokens.revoke(record.id)
    return secret


async def status_of_handshake(web: Web, path: str, headers: dict[str, str]) -> int:
    """The status with which a WebSocket's handshake is answered."""
    try:
        async with connect(f"ws://127.0.0.1:{web.port}{path}", additional_headers=headers, open_timeout=10):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


def test_table_holds_every_route() -> None:
    found = {
        (method, route.path): route.access.value
        for route in ROUTES
        for method in frozenset(route.methods or ()) - {"HEAD"}
    }
    assert found == TABLE


@pytest.mark.parametrize("caller", ["wrong", "expired", "revoked", *sorted(SCOPES)])
async def test_every_route_against_every_token(web: Web, caller: str) -> None:
    headers = {"Authorization": f"Bearer {await secret_of(web, caller)}"}
    for (method, path), access in TABLE.items():
        asked = "HEAD" if is_stream(path) else method
        answer = await web.stranger.request(asked, concrete(path), headers=headers)
        if access == "open" or access == caller or (access == "any" and caller in SCOPES):
            assert answer.status_code not in (401, 403, 405, 500), (method, path)
        else:
            assert answer.status_code == (403 if caller in SCOPES else 401), (method, path)


@pytest.mark.parametrize(
    ("caller", "status"), {"wrong": 401, "expired": 401, "revoked": 401, "read": 403, "logs": 101}.items()
)
async def test_handshake_of_a_websocket_against_tokens(web: Web, caller: str, status: int) -> None:
    headers = {"Authorization": f"Bearer {await secret_of(web, caller)}"}
    assert await status_of_handshake(web, "/ws/logs", headers) == status


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Origin": "https://evil.example"}, 403, "foreign_origin"),
        ({"Origin": "null"}, 403, "foreign_origin"),
        ({"Origin": "http://localhost.evil.example:{port}"}, 403, "foreign_origin"),
        ({"Origin": "http://127.0.0.1:9"}, 403, "foreign_origin"),
        ({"Sec-Fetch-Site": "cross-site"}, 403, "foreign_origin"),
        ({"Host": "evil.example:{port}"}, 421, "foreign_host"),
        ({"Content-Type": "text/plain"}, 415, "bad_content_type"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415, "bad_content_type"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415, "bad_content_type"),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)  # fmt: skip
async def test_every_change_is_refused_to_pages_of_others(
    web: Web, headers: dict[str, str], status: int, code: str
) -> None:
    """The first words of a table that says: a page of another site, with the good token, changes nothing."""
    given = {name: value.replace("{port}", str(web.port)) for name, value in headers.items()}
    for method, path in TABLE:
        if method != "GET":
            answer = await web.http.request(method, concrete(path), headers=given, content=b"{}")
            assert (answer.status_code, answer.json()["code"]) == (status, code), (method, path)
    assert not web.engine.asked
    assert not web.engine.calls


@pytest.mark.parametrize("headers", HEADERS.values(), ids=HEADERS)
@pytest.mark.parametrize("method", METHODS)
async def test_no_route_answers_a_stranger(web: Web, method: str, headers: dict[str, str]) -> None:
    for (_, path), access in TABLE.items():
        answer = await web.stranger.request(method, concrete(path), headers=headers)
        if access != "open":
            assert answer.status_code == 401, path
        elif (method.replace("HEAD", "GET"), path) not in TABLE:
            assert answer.status_code == 405, path
    assert not web.engine.calls
    assert not web.engine.asked


@pytest.mark.parametrize(
    "path",
    ["/", "/api", "/api/", "/api/nope", "/livez/x", "/readyz2", "/api/runs/livez/readyz", "/static/x", "/docs/",
     "/ws/nope", "/api//runs", "/api/plans/livez", "/openapi.yaml", "/metric", "/favicon.ico", "/api/livez",
     "/login/x", "/login;x", "/%6cogin/", "/api\\login", "/docs%2f"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_stranger_cannot_tell_what_is_missing(web: Web, method: str, path: str) -> None:
    assert (await web.stranger.request(method, path)).status_code == 401
    assert (await web.http.request(method, path)).status_code == 404


async def test_plan_that_is_named_like_an_open_route_is_not_open(web: Web) -> None:
    for name in ("livez", "readyz", "health", "static"):
        assert (await web.stranger.get(f"/api/plans/{name}/tasks")).status_code == 401


async def test_every_route_answers_the_token(web: Web) -> None:
    for (method, path), access in TABLE.items():
        answer = await web.http.request("HEAD" if is_stream(path) else method, concrete(path))
        assert answer.status_code not in (401, 403, 405, 500), (method, path, access)


async def test_readyz_tells_a_stranger_only_whether(web: Web) -> None:
    web.engine.state = "stopped"
    assert (await web.stranger.get("/readyz")).text == "not ready"
    assert (await web.stranger.get("/readyz")).status_code == 503
    assert (await web.http.get("/readyz")).json() == {"ready": False, "reasons": ["the engine is stopped"]}


async def test_no_auth_lets_everyone_in_but_not_foreign_pages(tmp_path: Path) -> None:
    async with open_web(tmp_path, token=None) as web:
        assert (await web.stranger.get("/api/runs")).status_code == 200
        assert (await web.stranger.get("/api/nope")).status_code == 404
        assert (await web.stranger.get("/api/runs", headers={"Origin": "null"})).status_code == 403
        assert (await web.stranger.get("/api/runs", headers={"Host": f"evil.example:{web.port}"})).status_code == 421


async def test_token_is_never_given_back(web: Web) -> None:
    reader = web.engine.journal.subscribe(("log",))
    for path in ("/api/runs", "/api/nope", "/api/system/status", "/readyz"):
        answer = await web.http.get(path)
        assert TOKEN not in answer.text + str(answer.headers)
    assert TOKEN not in str([entry.record() for entry in reader.take().entries])


async def test_answers_bear_the_security_headers(web: Web) -> None:
    for path in ("/livez", "/api/runs", "/api/nope"):
        headers = (await web.http.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "server" not in headers
        assert not any(name.startswith("access-control") for name in headers)


def test_access_has_no_default() -> None:
    with pytest.raises(TypeError):
        ApiRoute("GET", "/x", lambda call: None)  # type: ignore[call-arg,arg-type,return-value]


def test_allow_is_of_all_routes_of_a_path() -> None:
    async def endpoint(_call: object) -> None: ...

    routes = [ApiRoute(method, "/x", endpoint, Access.READ, answers={}) for method in ("GET", "POST")]
    app: ASGIApp = App(None, None, routes)  # type: ignore[arg-type]
    assert app is not None
    assert {frozenset(route.allow) for route in routes} == {frozenset({"GET", "HEAD", "POST"})}
