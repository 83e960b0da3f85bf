"""The route table against tokens: every route, with every method, streams and paths that nobody serves included."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.types import ASGIApp
from tests.fakes.web import TOKEN, Web, open_web

from aura.web.app import ROUTES, App
from aura.web.auth import Access
from aura.web.call import ApiRoute

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
    ("POST", "/api/tasks/{cid}/cancel"): "run",
    ("GET", "/api/runs"): "read",
    ("GET", "/api/runs/active"): "read",
    ("GET", "/api/runs/{cid}"): "read",
    ("GET", "/api/runs/{cid}/logs"): "logs",
    ("GET", "/api/runs/{cid}/events"): "logs",
    ("GET", "/api/queue/list"): "read",
    ("GET", "/api/logs/stream"): "logs",
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
    return path.replace("{plan}", "lab").replace("{task:path}", "a/b").replace("{cid}", CID)


def test_table_holds_every_route() -> None:
    found = {
        (method, route.path): route.access.value
        for route in ROUTES
        for method in frozenset(route.methods or ()) - {"HEAD"}
    }
    assert found == TABLE


@pytest.mark.parametrize("headers", HEADERS.values(), ids=HEADERS)
@pytest.mark.parametrize("method", METHODS)
async def test_no_route_answers_a_stranger(web: Web, method: str, headers: dict[str, str]) -> None:
    for (_, path), access in TABLE.items():
        answer = await web.stranger.request(method, concrete(path), headers=headers)
        if access != "open":
            assert answer.status_code == 401, path
        elif method not in ("GET", "HEAD"):
            assert answer.status_code == 405, path
    assert not web.engine.calls
    assert not web.engine.asked


@pytest.mark.parametrize(
    "path",
    ["/", "/api", "/api/", "/api/nope", "/livez/x", "/readyz2", "/api/runs/livez/readyz", "/static/x", "/docs",
     "/ws/logs", "/api//runs", "/api/plans/livez", "/openapi.json", "/metrics", "/favicon.ico", "/api/livez"],
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
        if path.endswith(("/stream", "/events")):
            method = "HEAD"
        answer = await web.http.request(method, concrete(path))
        assert answer.status_code not in (401, 403, 405, 500), (method, path, access)


async def test_every_change_needs_json_from_our_own_pages(web: Web) -> None:
    for method, path in TABLE:
        if method == "GET":
            continue
        foreign = await web.http.request(method, concrete(path), headers={"Origin": "https://evil.example"})
        assert foreign.status_code == 403, path
        host = await web.http.request(method, concrete(path), headers={"Host": f"evil.example:{web.port}"})
        assert host.status_code == 421, path


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
