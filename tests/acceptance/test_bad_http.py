"""Bad requests over a real port, a row each: the outcome, no traceback, nothing accepted, the server still there."""

import asyncio
import gzip
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from tests.fakes.web import TOKEN, Answer, Web, connections, open_web

from aura.web import body, connection, server

RUN = "/api/tasks/run"
GOOD = {"plan_name": "lab", "task_name": "report", "inputs": {"day": "x"}}
MIB = 1024 * 1024
UNKNOWN_CID = "01a201e6-e7b6-7344-9aa6-a9d0ae8f2df5"


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with open_web(tmp_path) as opened:
        yield opened


async def assert_unharmed(web: Web, accepted: int = 0) -> None:
    """The server answers within a second, and no request was accepted that should not have been."""
    with anyio.fail_after(1):
        assert (await web.stranger.get("/livez")).text == "ok"
    assert len(web.engine.asked) == accepted


def assert_problem(answer: httpx2.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]
    assert "Traceback" not in answer.text
    assert "/src/" not in answer.text


# -- bodies -----------------------------------------------------------------------------------------------------------

BODIES: list[Any] = [
    pytest.param(b"", 400, "body_required", "empty", id="empty body"),
    pytest.param(b'{"a": }', 400, "bad_json", "character 6", id="invalid JSON"),
    pytest.param(b"{", 400, "bad_json", "character 1", id="cut JSON"),
    pytest.param(b"[1]", 422, "invalid", "must be an object, not an array", id="array at the top"),
    pytest.param(b"7", 422, "invalid", "must be an object, not a number", id="number at the top"),
    pytest.param(
        b'{"plan_name": "a", "plan_name": "b"}', 400, "bad_json", "'plan_name' comes twice", id="duplicate key"
    ),
    pytest.param(b'{"inputs": {"a": 1, "a": 2}}', 400, "bad_json", "'a' comes twice", id="nested duplicate key"),
    pytest.param(b'{"a": NaN}', 400, "bad_json", "NaN", id="NaN"),
    pytest.param(b'{"a": -Infinity}', 400, "bad_json", "Infinity", id="Infinity"),
    pytest.param(b'{"a": 1e999}', 400, "bad_json", "too large", id="number that overflows"),
    pytest.param(b"[" * 100_000, 400, "bad_json", "nests deeper", id="depth of 100,000"),
    pytest.param(b"[" * 65 + b"]" * 65, 400, "bad_json", "nests deeper", id="depth of 65"),
    pytest.param(b'{"a": ' + b"1" * 5000 + b"}", 400, "bad_json", "beyond 2^53", id="integer of 5,000 digits"),
    pytest.param(b'{"a": 9007199254740993}', 400, "bad_json", "beyond 2^53", id="integer beyond 2^53"),
    pytest.param(b'{"a": "\\ud800"}', 400, "bad_json", "surrogate", id="lone surrogate"),
    pytest.param(b'{"\\udc00": 1}', 400, "bad_json", "surrogate", id="lone surrogate in a key"),
    pytest.param(b'{"a": "\xff"}', 400, "bad_json", "byte 7 is not UTF-8", id="invalid UTF-8"),
    pytest.param(b'{"inputs": {"day": "a\\u0000b"}}', 422, "invalid", "NUL", id="NUL in an input"),
    pytest.param(b"\xef\xbb\xbf{}", 400, "bad_json", "BOM", id="byte order mark"),
    pytest.param(b'{"plan_name": 7}', 422, "invalid", "/plan_name", id="wrong type"),
    pytest.param(
        b'{"plam_name": "lab", "task_name": "report"}', 422, "invalid", "did you mean plan_name?", id="unknown key"
    ),
]


@pytest.mark.parametrize(("raw", "status", "code", "says"), BODIES)
async def test_bad_body_is_refused(web: Web, raw: bytes, status: int, code: str, says: str) -> None:
    answer = await web.http.post(RUN, content=raw, headers={"Content-Type": "application/json"})
    assert_problem(answer, status, code)
    assert says in answer.text
    await assert_unharmed(web)


async def test_all_bad_fields_are_listed_at_once(web: Web) -> None:
    bad = {"plan_name": 1, "inputs": [], "labels": {"a": 1}, "nonsense": 1}
    answer = await web.http.post(RUN, json=bad)
    assert_problem(answer, 422, "invalid")
    assert {e["path"] for e in answer.json()["errors"]} == {
        "/plan_name", "/task_name", "/inputs", "/labels", "/nonsense"
    }  # fmt: skip


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"Content-Type": "text/plain"}, id="plain text"),
        pytest.param({"Content-Type": "application/x-www-form-urlencoded"}, id="form"),
        pytest.param({"Content-Type": "multipart/form-data; boundary=x"}, id="multipart"),
        pytest.param({"Content-Type": "application/json; charset=latin-1"}, id="other charset"),
        pytest.param({}, id="none at all"),
    ],
)
async def test_body_that_does_not_say_json_is_refused(web: Web, headers: dict[str, str]) -> None:
    answer = await web.http.post(RUN, content=json.dumps(GOOD).encode(), headers=headers)
    assert_problem(answer, 415, "bad_content_type")
    assert "Content-Type" in answer.text
    await assert_unharmed(web)


@pytest.mark.parametrize("path", [RUN, "/api/tasks/cancel", f"/api/tasks/{UNKNOWN_CID}/cancel", "/api/system/stop"])
async def test_simple_request_of_a_foreign_page_is_refused_on_every_route_with_a_body(web: Web, path: str) -> None:
    answer = await web.http.post(path, content=b"{}", headers={"Content-Type": "text/plain"})
    assert_problem(answer, 415, "bad_content_type")


async def test_compressed_body_is_refused_unread(web: Web) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    bomb = gzip.compress(b" " * (5 * MIB))
    assert_problem(await web.http.post(RUN, content=bomb, headers=headers), 415, "bad_content_type")
    await assert_unharmed(web)


async def test_large_body_with_length_is_refused_before_it_is_read(web: Web) -> None:
    head = web.head("POST", RUN, "Content-Type: application/json", f"Content-Length: {50 * MIB}")
    answer = await web.raw(head + b"x")
    assert (answer.status, answer.code) == (413, "body_too_large")
    await assert_unharmed(web)


@pytest.mark.parametrize("announced", [True, False], ids=["with Content-Length", "chunked"])
async def test_large_body_gets_its_answer_while_it_is_sent(web: Web, announced: bool) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b"x" * MIB

    content: Any = b"x" * (50 * MIB) if announced else chunks()
    answer = await web.http.post(RUN, content=content, headers={"Content-Type": "application/json"})
    assert_problem(answer, 413, "body_too_large")
    await assert_unharmed(web)


async def test_body_at_the_limit_is_read(web: Web) -> None:
    raw = json.dumps(GOOD).encode()
    raw += b" " * (MIB - len(raw))
    answer = await web.http.post(RUN, content=raw, headers={"Content-Type": "application/json"})
    assert answer.status_code == 202
    await assert_unharmed(web, accepted=1)


async def test_body_shorter_than_announced_is_not_accepted(web: Web) -> None:
    raw = json.dumps(GOOD).encode()
    head = web.head("POST", RUN, "Content-Type: application/json", f"Content-Length: {len(raw) + 1}")
    answer = await web.raw(head + raw, close=True)
    assert answer.status in (0, 400)
    await assert_unharmed(web)


async def test_slow_body_times_out(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "BODY_TIMEOUT", 0.1)
    head = web.head("POST", RUN, "Content-Type: application/json", "Content-Length: 100")
    answer = await web.raw(head + b"{")
    assert (answer.status, answer.code) == (408, "body_timeout")
    await assert_unharmed(web)


async def test_optional_body_may_be_missing_without_a_content_type(web: Web) -> None:
    run = web.engine.add_run("running")
    assert (await web.http.post(f"/api/tasks/{run.cid}/cancel")).status_code == 202
    assert (await web.http.post("/api/system/stop")).status_code == 202


# -- heads ------------------------------------------------------------------------------------------------------------

HEADS: list[Any] = [
    pytest.param([f"X-Long: {'x' * 70_000}"], 431, "headers_too_large", id="header of 70 KB"),
    pytest.param([f"X-{n}: {'x' * 900}" for n in range(30)], 431, "headers_too_large", id="27 KB of headers"),
    pytest.param([f"X-{n}: 1" for n in range(1000)], 431, "headers_too_large", id="1,000 headers"),
    pytest.param(["Content-Length: 5", "Transfer-Encoding: chunked"], 400, "bad_header", id="length and chunked"),
    pytest.param(["Content-Length: -1"], 400, "bad_header", id="negative length"),
    pytest.param(["Content-Length: " + "9" * 30], 400, "bad_header", id="huge length"),
    pytest.param(["Content-Length: 1", "Content-Length: 2"], 400, "bad_header", id="two lengths"),
    pytest.param(["Host: 127.0.0.1"], 400, "bad_header", id="two hosts"),
    pytest.param(["Bad Header: 1"], 400, "bad_header", id="space in a header's name"),
    pytest.param(["X: a\x00b"], 400, "bad_header", id="NUL in a header"),
]


@pytest.mark.parametrize(("extra", "status", "code"), HEADS)
async def test_bad_head_is_refused(web: Web, extra: list[str], status: int, code: str) -> None:
    answer = await web.raw(web.head("POST", RUN, "Content-Type: application/json", *extra))
    assert answer.status == status
    if answer.status != 400 or answer.body:
        assert answer.code == code
    await assert_unharmed(web)


async def test_url_of_9_kb_is_refused(web: Web) -> None:
    assert_problem(await web.http.get("/api/runs", params={"plan_name": "x" * 9000}), 414, "uri_too_long")


async def test_slow_head_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert server.KEEP_ALIVE == 5.0
    monkeypatch.setattr(server, "KEEP_ALIVE", 0.1)
    async with open_web(tmp_path) as web:
        with anyio.fail_after(3):
            answer = await web.raw(b"GET /livez HTT")
        assert answer.status in (0, 400)
        await assert_unharmed(web)


@pytest.mark.parametrize(
    ("request_line", "host", "status"),
    [
        pytest.param("GET /livez HTTP/1.1", None, 400, id="no host"),
        pytest.param("GET /livez HTTP/1.0", None, 400, id="HTTP/1.0 without a host"),
        pytest.param("GET /livez HTTP/1.0", "127.0.0.1:{port}", 400, id="HTTP/1.0"),
        pytest.param("GET /livez HTTP/1.1", "", 421, id="empty host"),
        pytest.param("GET /livez HTTP/1.1", "evil.example:{port}", 421, id="foreign host"),
        pytest.param("GET /livez HTTP/1.1", "127.0.0.1", 421, id="without the port"),
        pytest.param("GET /livez HTTP/1.1", "127.0.0.1:1", 421, id="other port"),
        pytest.param("GET /livez HTTP/1.1", "localhost.:{port}", 421, id="trailing dot"),
        pytest.param("GET /livez HTTP/1.1", "localhost.evil.example:{port}", 421, id="localhost as a prefix"),
        pytest.param("GET /livez HTTP/1.1", "127.0.0.1.nip.io:{port}", 421, id="address as a prefix"),
        pytest.param("GET /livez HTTP/1.1", "0:{port}", 421, id="zero"),
        pytest.param("GET /livez HTTP/1.1", "0.0.0.0:{port}", 421, id="any address"),
        pytest.param("GET /livez HTTP/1.1", "0x7f.1:{port}", 421, id="hexadecimal address"),
        pytest.param("GET /livez HTTP/1.1", "2130706433:{port}", 421, id="address as one number"),
        pytest.param("GET /livez HTTP/1.1", "127.1:{port}", 421, id="short address"),
        pytest.param("GET /livez HTTP/1.1", "127.0.0.1:{port}/x?", 421, id="path in the host"),
        pytest.param("GET /livez HTTP/1.1", "user@127.0.0.1:{port}", 421, id="user in the host"),
        pytest.param("GET /livez HTTP/1.1", "LocalHost:{port}", 200, id="upper case"),
        pytest.param("GET /livez HTTP/1.1", "[::1]:{port}", 200, id="IPv6 loopback"),
    ],
)
async def test_host_must_be_this_server_s(web: Web, request_line: str, host: str | None, status: int) -> None:
    lines = [request_line] + ([] if host is None else [f"Host: {host.format(port=web.port)}"])
    answer = await web.raw("\r\n".join([*lines, "Connection: close", "", ""]).encode())
    assert answer.status == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({"Origin": "null"}, 403, id="null"),
        pytest.param({"Origin": "https://evil.example"}, 403, id="foreign"),
        pytest.param({"Origin": "http://localhost:9999"}, 403, id="other port"),
        pytest.param({"Origin": "http://localhost.evil:{port}"}, 403, id="localhost as a prefix"),
        pytest.param({"Origin": "https://127.0.0.1:{port}"}, 403, id="other scheme"),
        pytest.param({"Origin": ""}, 403, id="empty"),
        pytest.param({"Sec-Fetch-Site": "cross-site"}, 403, id="fetched from another site"),
        pytest.param({"Sec-Fetch-Site": "same-site"}, 403, id="fetched from a sibling site"),
        pytest.param({"Origin": "http://127.0.0.1:{port}"}, None, id="own"),
        pytest.param({"Sec-Fetch-Site": "same-origin"}, None, id="fetched from our own page"),
        pytest.param({"Sec-Fetch-Site": "none"}, None, id="typed by the user"),
        pytest.param({}, None, id="no browser"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
async def test_origin_must_be_own(web: Web, method: str, headers: dict[str, str], status: int | None) -> None:
    given = {name: value.format(port=web.port) for name, value in headers.items()}
    answer = await web.http.request(method, "/api/tasks/cancel", headers=given)
    if status is None:
        assert answer.status_code == (400 if method == "POST" else 405)
    else:
        assert_problem(answer, status, "foreign_origin")


@pytest.mark.parametrize("path", ["/api/logs/stream", f"/api/runs/{UNKNOWN_CID}/events"])
async def test_stream_is_refused_to_a_foreign_page(web: Web, path: str) -> None:
    answer = await web.http.get(path, headers={"Origin": "https://evil.example"})
    assert_problem(answer, 403, "foreign_origin")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        pytest.param("TRACE", "/api/runs", "GET", id="TRACE"),
        pytest.param("CONNECT", "127.0.0.1:80", "GET", id="CONNECT"),
        pytest.param("BREW", "/api/runs", "GET", id="unknown verb"),
        pytest.param("DELETE", "/api/runs", "GET, HEAD", id="verb that the path does not know"),
        pytest.param("OPTIONS", "/api/tasks/run", "POST", id="OPTIONS"),
        pytest.param("GET", "/api/tasks/run", "POST", id="GET where a change is made"),
    ],
)
async def test_other_methods_are_refused_with_allow(web: Web, method: str, path: str, allow: str) -> None:
    answer = await web.raw(web.head(method, path, "Connection: close"))
    assert (answer.status, answer.code) == (405, "method_not_allowed")
    assert allow in answer.headers["allow"]


async def test_http2_by_prior_knowledge_is_refused(web: Web) -> None:
    answer = await web.raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
    assert answer.status in (400, 505)
    assert answer.headers["connection"] == "close"
    await assert_unharmed(web)


async def test_upgrade_to_http2_is_ignored(web: Web) -> None:
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
    answer = await web.raw(web.head("GET", "/livez", *upgrade))
    assert (answer.status, answer.body) == (200, b"ok")


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        pytest.param("/api/runs", {}, 404, id="where there is none"),
        pytest.param("/ws/nope", {}, 404, id="nowhere"),
        pytest.param("/ws/../ws/logs", {}, 404, id="another spelling"),
        pytest.param("/ws/logs", {"Sec-WebSocket-Version": "12"}, 400, id="old version"),
        pytest.param("/ws/logs", {"Upgrade": "h2c"}, 426, id="another protocol"),
        pytest.param("/ws/logs", {"Origin": "https://evil.example"}, 403, id="page of others"),
    ],
)
async def test_bad_websocket_is_refused(web: Web, path: str, headers: dict[str, str], status: int) -> None:
    good = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    upgrade = good | {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="} | headers
    answer = await web.raw(web.head("GET", path, *(f"{name}: {value}" for name, value in upgrade.items())))
    assert answer.status == status
    await assert_unharmed(web)


@pytest.mark.parametrize(
    "junk", [b"\x16\x03\x01\x02\x00\x01\x00", b"\r\n\r\n\r\n", b"GET\r\n\r\n", b"\x00" * 500, b"@" * 90_000]
)
async def test_bytes_that_are_no_http_are_refused(web: Web, junk: bytes) -> None:
    assert (await web.raw(junk, close=True)).status in (0, 400, 431)
    await assert_unharmed(web)


# -- paths, ids, queries ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/api/tasks/..%2f..%2fetc", "/api/runs/%2e%2e/runs", "/api//runs", "/api/./runs", "/api/x/../runs",
        "/api/runs/", "/api/runs;x", "/api\\runs", "/api/runs%00", "//evil.example/api/runs",
        "/api/plans/lab/tasks/a%2Fb",
        "/api/plans/lab/tasks/../tasks/report", "http://127.0.0.1/api/runs", "@evil.example", "/livez/", "/livez%20",
        "/API/RUNS", "/api/plans/lab/tasks/", "*",
    ],
)  # fmt: skip
async def test_odd_path_is_not_found(web: Web, path: str) -> None:
    answer = await web.raw(web.head("GET", path, "Connection: close"))
    assert answer.status in (400, 404)
    assert answer.code in ("not_found", "bad_header", "unknown_task")


@pytest.mark.parametrize(
    "cid", ["x", "%2e%2e", "0" * 36, UNKNOWN_CID.upper(), UNKNOWN_CID + "0", "١" * 8, "a b", "'; DROP TABLE run"]
)
@pytest.mark.parametrize("route", ["/api/runs/{}", "/api/runs/{}/logs", "/api/runs/{}/events"])
async def test_id_of_a_wrong_form_is_not_looked_up(web: Web, route: str, cid: str) -> None:
    answer = await web.http.get(route.format(cid))
    assert answer.status_code == 404
    assert answer.json()["code"] in ("unknown_run", "not_found")
    assert not web.engine.calls


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"/api/runs/{UNKNOWN_CID}"),
        ("GET", f"/api/runs/{UNKNOWN_CID}/logs"),
        ("GET", f"/api/runs/{UNKNOWN_CID}/events"),
        ("POST", f"/api/tasks/{UNKNOWN_CID}/cancel"),
    ],
)
async def test_unknown_id_is_404(web: Web, method: str, path: str) -> None:
    assert_problem(await web.http.request(method, path), 404, "unknown_run")


async def test_unknown_plan_is_404_with_near_names_and_nothing_stored(web: Web) -> None:
    answer = await web.http.post(RUN, json=GOOD | {"plan_name": "lob"})
    assert_problem(answer, 404, "unknown_plan")
    assert "did you mean lab?" in answer.text
    await assert_unharmed(web)


@pytest.mark.parametrize(
    "query",
    [
        "limit=-1", "limit=0", "limit=1000000000", "limit=abc", "limit=1.5", "limit=", "limit=1&limit=2", "state=nope",
        "since=yesterday", "since=2026-11-22", "label=ops", "label=:x", "nonsense=1", "plan_name=%00", "limit=%ff",
        "&".join(["a=1"] * 200), "cid=" + ",".join(["x"] * 501),
    ],
)  # fmt: skip
async def test_bad_query_is_422(web: Web, query: str) -> None:
    assert_problem(await web.http.get(f"/api/runs?{query}"), 422, "invalid")


@pytest.mark.parametrize("path", ["/api/runs", "/api/runs/active", "/api/queue/list", "/api/plans", "/api/actions"])
@pytest.mark.parametrize("cursor", ["", "x", "AAAA", "%00", "é", "eyJzZXEiOjF9", "A" * 5000, "1", "-1", "../../etc"])
async def test_forged_cursor_is_400(web: Web, path: str, cursor: str) -> None:
    answer = await web.http.get(path, params={"cursor": cursor})
    assert answer.status_code in (400, 422)
    assert answer.json()["code"] in ("bad_cursor", "invalid")


async def test_cursor_of_another_list_is_400(web: Web) -> None:
    for _ in range(3):
        web.engine.add_run("running")
    cursor = (await web.http.get("/api/runs", params={"limit": 1})).json()["next_cursor"]
    assert_problem(await web.http.get("/api/runs/active", params={"cursor": cursor}), 400, "bad_cursor")


async def test_range_header_of_ten_thousand_ranges_is_refused_as_too_large(web: Web) -> None:
    ranges = ",".join(f"{n}-{n}" for n in range(10_000))
    assert (await web.raw(web.head("GET", "/livez", f"Range: bytes={ranges}"))).status == 431


async def test_range_is_ignored(web: Web) -> None:
    assert (await web.http.get("/livez", headers={"Range": "bytes=0-0,1-1"})).text == "ok"


# -- batches, cancelling, storms --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1001])
async def test_batch_of_a_wrong_size_is_refused_whole(web: Web, count: int) -> None:
    assert_problem(await web.http.post("/api/tasks/batch", json={"tasks": [GOOD] * count}), 422, "invalid")
    await assert_unharmed(web)


async def test_atomic_batch_with_bad_requests_names_each_and_stores_none(web: Web) -> None:
    tasks: list[Any] = [GOOD, GOOD | {"priority": "high"}, GOOD, 7]
    answer = await web.http.post("/api/tasks/batch", json={"tasks": tasks, "atomic": True})
    assert_problem(answer, 422, "invalid")
    assert [e["path"] for e in answer.json()["errors"]] == ["/tasks/1/priority", "/tasks/3"]
    await assert_unharmed(web)


async def test_batch_that_is_not_atomic_says_each_outcome(web: Web) -> None:
    tasks = [GOOD, GOOD | {"plan_name": "lob"}, GOOD | {"priority": "high"}]
    answer = (await web.http.post("/api/tasks/batch", json={"tasks": tasks})).json()
    assert (answer["accepted"], answer["refused"]) == (1, 2)
    assert [item.get("error", {}).get("code") for item in answer["items"]] == [None, "unknown_plan", "invalid"]


async def test_cancel_of_an_ended_run_is_409_with_its_state(web: Web) -> None:
    run = web.engine.add_run("running")
    assert (await web.http.post(f"/api/tasks/{run.cid}/cancel")).json() == {"cid": run.cid, "state": "cancelled"}
    again = await web.http.post(f"/api/tasks/{run.cid}/cancel")
    assert_problem(again, 409, "ended")
    assert again.json()["state"] == "cancelled"


async def test_cancel_where_without_a_condition_is_refused(web: Web) -> None:
    assert_problem(await web.http.post("/api/tasks/cancel", json={}), 422, "invalid")
    assert not web.engine.calls


@pytest.mark.parametrize("path", [RUN, "/api/tasks/batch"])
@pytest.mark.parametrize(
    "keys",
    [
        pytest.param([""], id="empty"),
        pytest.param(["x" * 256], id="too long"),
        pytest.param(["k\xe4"], id="not ASCII"),
        pytest.param(["a\tb"], id="not printable"),
        pytest.param(["one", "two"], id="two"),
    ],
)
async def test_idempotency_key_that_is_none_is_refused(web: Web, path: str, keys: list[str]) -> None:
    body = json.dumps({"tasks": [GOOD]} if "batch" in path else GOOD).encode()
    lines = [f"Content-Length: {len(body)}", "Content-Type: application/json"]
    head = web.head("POST", path, *lines, *(f"Idempotency-Key: {key}" for key in keys))
    answer = await web.raw(head + body)
    assert (answer.status, answer.code) == (400, "bad_header")
    assert not web.engine.records


async def test_full_queue_is_429_with_retry_after(web: Web) -> None:
    web.engine.queue_limit = 0
    answer = await web.http.post(RUN, json=GOOD)
    assert_problem(answer, 429, "queue_full")
    assert answer.headers["retry-after"] == "5"


async def test_storm_of_refusals_is_cheap_and_harms_nobody(web: Web) -> None:
    web.engine.queue_limit = 0
    began = anyio.current_time()
    async with anyio.create_task_group() as group:  # ten clients, which end by themselves
        for _ in range(10):
            group.start_soon(refuse_often, web, 20)
    assert (anyio.current_time() - began) / 200 < 0.02
    assert (await web.http.get("/api/runs")).status_code == 200


async def refuse_often(web: Web, count: int) -> None:
    for _ in range(count):
        assert (await web.http.post(RUN, json=GOOD)).status_code == 429


# -- tokens -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        b"", b"Bearer", b"Bearer wrong", b"Bearer " + "tökén".encode(), b"Bearer " + b"x" * 10_000,
        b"Basic " + TOKEN.encode(), TOKEN.encode(), b"Bearer " + TOKEN.encode() + b"x",
        b"Bearer " + TOKEN[:-1].encode(), b"Bearer \xff\xfe",
    ],
)  # fmt: skip
async def test_bad_token_is_401(web: Web, value: bytes) -> None:
    answer = await web.stranger.get("/api/runs", headers=[(b"Authorization", value)])
    assert_problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_two_tokens_are_401(web: Web) -> None:
    head = web.head("GET", "/api/runs", f"Authorization: Bearer {TOKEN}", "Connection: close")
    assert (await web.raw(head)).status == 401


@pytest.mark.parametrize("query", [f"token={TOKEN}", f"access_token={TOKEN}", f"authorization=Bearer%20{TOKEN}"])
async def test_token_in_the_url_is_no_token(web: Web, query: str) -> None:
    assert_problem(await web.stranger.get(f"/api/runs?{query}"), 401, "unauthorized")


async def test_forwarded_address_grants_nothing(web: Web) -> None:
    headers = {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1", "X-Original-URL": "/livez"}
    assert_problem(await web.stranger.get("/api/runs", headers=headers), 401, "unauthorized")


# -- clients that go --------------------------------------------------------------------------------------------------


async def test_client_that_goes_during_its_post_harms_nobody(web: Web) -> None:
    raw = json.dumps(GOOD).encode()
    head = web.head("POST", RUN, "Content-Type: application/json", f"Content-Length: {len(raw)}")
    for cut in (len(head) // 2, len(head), len(head) + 10, len(head) + len(raw)):
        async with await anyio.connect_tcp("127.0.0.1", web.port) as stream:
            await stream.send((head + raw)[:cut])
    with anyio.fail_after(5):
        while not web.engine.asked:
            await anyio.lowlevel.checkpoint()
    await assert_unharmed(web, accepted=1)


@pytest.mark.parametrize("requests", [1, 20], ids=["one request", "twenty at once"])
async def test_client_that_reads_no_answer_is_cut(web: Web, requests: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "WRITE_TIMEOUT", 0.2)
    for _ in range(1000):
        web.engine.add_run(reason="r" * 6000)  # together more than the kernel takes for a client
    with unread_socket(web.port) as client:
        client.sendall(web.head("GET", "/api/runs?limit=1000") * requests)
        await until_served_and_gone()
    await assert_unharmed(web)


async def until_served_and_gone() -> None:
    """Return once a connection has been taken and has ended by itself."""
    with anyio.fail_after(10):
        while not connections():
            await anyio.lowlevel.checkpoint()
    _, left = await asyncio.wait(connections(), timeout=3)
    assert not left


@contextmanager
def unread_socket(port: int) -> Iterator[socket.socket]:
    """A client that takes next to nothing: it never reads, and its kernel keeps little."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        yield client


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit, KeyboardInterrupt])
async def test_unexpected_error_tells_the_client_an_id_and_the_log_the_rest(
    web: Web, error: type[BaseException]
) -> None:
    reader = web.engine.journal.subscribe(("log",))
    web.engine.fail = error("secret of the house")
    answer = await web.http.get("/api/runs")
    assert_problem(answer, 500, "internal")
    assert "secret of the house" not in answer.text
    record = reader.take().entries[0].record()
    assert record["fields"]["error_id"] in answer.json()["detail"]
    assert "secret of the house" in record["fields"]["exception"]


def test_answer_of_nothing_has_status_0() -> None:
    assert Answer.of(b"").status == 0
