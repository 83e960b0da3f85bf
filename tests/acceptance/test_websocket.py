"""``/ws/logs`` over a real port, with a real WebSocket client and with bare bytes."""

import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from tests.fakes.engine import BOOT, FakeEngine
from tests.fakes.web import BEARER, TOKEN, Answer, Web, connections, open_web, read_all
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin

from aura.events import BOOT_SHIFT, Entry
from aura.web import sse
from aura.web.upgrade import MAX_MESSAGE
from aura.web.websocket import text_frame

BASE = BOOT << BOOT_SHIFT
PATH = "/ws/logs"
KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", KEY)
#: Messages of 60 kB: 18 MB.
MORE_THAN_SOCKETS_HOLD = 300


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with open_web(tmp_path) as opened:
        yield opened


@asynccontextmanager
async def listening(
    web: Web, query: str = "", *, headers: dict[str, str] = BEARER, origin: str | None = None
) -> AsyncIterator[ClientConnection]:
    """A client that stands: the server has its reader."""
    readers = web.engine.journal.readers
    url = f"ws://127.0.0.1:{web.port}{PATH}{query}"
    given = None if origin is None else Origin(origin)
    async with connect(url, additional_headers=headers, origin=given, proxy=None, ping_interval=None) as client:
        await until(lambda: web.engine.journal.readers > readers)
        yield client


async def until(condition: Any) -> None:
    with anyio.fail_after(10):
        while not condition():
            await anyio.lowlevel.checkpoint()


async def take(client: ClientConnection, count: int = 1) -> list[dict[str, Any]]:
    with anyio.fail_after(10):
        return [json.loads(await client.recv()) for _ in range(count)]


async def messages(client: ClientConnection, count: int) -> list[str]:
    return [message["payload"]["message"] for message in await take(client, count)]


async def close_code(client: ClientConnection) -> int:
    """Read to the end; the code of the close that came."""
    with anyio.fail_after(10):
        while True:
            try:
                await client.recv()
            except ConnectionClosed as closed:
                return closed.rcvd.code if closed.rcvd else 0


def log(web: Web, *texts: str, **columns: Any) -> list[Entry]:
    return [web.engine.journal.log("info", text, **columns) for text in texts]


# -- what it says -----------------------------------------------------------------------------------------------------


async def test_line_arrives_as_one_text_message(web: Web) -> None:
    async with listening(web) as client:
        (entry,) = log(web, "hällo")
        assert await take(client) == [{"type": "log", "payload": entry.record()}]


async def test_lines_of_all_lengths_arrive(web: Web) -> None:
    async with listening(web) as client:
        texts = [str(size) + "x" * size for size in (0, 1, 125, 126, 127, 65_000)]
        log(web, *texts)
        assert await messages(client, len(texts)) == texts


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536, 70_000])
def test_frame_says_its_size(size: int) -> None:
    frame = text_frame(b"x" * size)
    head = {True: 2}.get(size < 126, 4 if size < 65_536 else 10)
    assert (frame[0], len(frame)) == (0x81, head + size)
    assert size == (frame[1] if head == 2 else struct.unpack("!H" if head == 4 else "!Q", frame[2:head])[0])


@pytest.mark.parametrize(
    ("query", "seen"),
    [
        ("?level=warning", ["b"]),
        ("?cid=c1", ["a"]),
        ("?plan_name=p&task_name=t", ["b"]),
        ("", ["a", "b"]),
    ],
)
async def test_filters(web: Web, query: str, seen: list[str]) -> None:
    journal = web.engine.journal
    async with listening(web, query) as client:
        journal.log("info", "a", cid="c1", plan_name="p")
        journal.log("error", "b", cid="c2", plan_name="p", task_name="t")
        journal.log("critical", "last", cid="c1", plan_name="p", task_name="t")
        assert await messages(client, len(seen) + 1) == [*seen, "last"]


async def test_resumes_from_the_store_without_loss_or_duplicate(tmp_path: Path) -> None:
    async with open_web(tmp_path, engine=FakeEngine(ring=50)) as web:
        entries = log(web, *(str(n) for n in range(2000)))
        async with listening(web, f"?last_id={entries[99].id}") as client:
            log(web, "live")
            assert await messages(client, 1901) == [*(str(n) for n in range(100, 2000)), "live"]


@pytest.mark.parametrize("last_id", ["garbage", "-5", "0", str(BASE + 10**6)])
async def test_last_id_that_was_never_given_out_gets_a_gap(web: Web, last_id: str) -> None:
    entries = log(web, "a", "b")
    async with listening(web, f"?last_id={last_id}") as client:
        assert await take(client) == [{"type": "gap", "payload": {"from": None, "to": str(entries[-1].id)}}]
        log(web, "live")
        assert await messages(client, 1) == ["live"]


async def test_reader_that_fell_behind_gets_one_gap(tmp_path: Path) -> None:
    async with open_web(tmp_path, engine=FakeEngine(ring=10)) as web, listening(web) as client:
        entries = log(web, *(str(n) for n in range(25)))
        (gap,) = await take(client)
        assert gap == {"type": "gap", "payload": {"from": str(entries[0].id), "to": str(entries[14].id)}}
        assert await messages(client, 10) == [str(n) for n in range(15, 25)]


async def test_server_that_stops_says_so_and_closes_with_1001(web: Web) -> None:
    async with listening(web) as client:
        log(web, "last words")
        assert await messages(client, 1) == ["last words"]
        web.stop.set()
        assert await take(client) == [{"type": "shutdown"}]
        assert await close_code(client) == 1001


async def test_connection_stays_until_the_client_has_answered_the_close(tmp_path: Path) -> None:
    async with open_web(tmp_path, grace=5) as web, await anyio.connect_tcp("127.0.0.1", web.port) as client:
        await client.send(web.head("GET", PATH, *UPGRADE))
        await until(lambda: web.engine.journal.readers)
        web.stop.set()
        received = b""
        while not received.endswith(b"\x88\x02\x03\xe9"):  # a close with 1001
            received += await client.receive()
        with anyio.move_on_after(0.1) as early:
            await client.receive()
        assert early.cancelled_caught
        await client.send(b"\x88\x82" + bytes(4) + b"\x03\xe9")
        with pytest.raises(anyio.EndOfStream), anyio.fail_after(5):
            await client.receive()


async def test_quiet_socket_is_sent_nothing_but_pings(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT", 0.02)
    async with listening(web) as client:
        await anyio.sleep(0.2)  # not waited for: time in which a stream would be sent ten comments
        log(web, "the first")
        assert await messages(client, 1) == ["the first"]


async def test_socket_and_stream_show_the_same(web: Web) -> None:
    async with listening(web) as client, web.http.stream("GET", "/api/logs/stream") as answer:
        await until(lambda: web.engine.journal.readers == 2)
        log(web, "x", cid="c", fields={"n": [1, "\n"]})
        lines = answer.aiter_lines()
        data = [await anext(lines), await anext(lines)][1].removeprefix("data: ")
        assert (await take(client))[0]["payload"] == json.loads(data)


# -- who may ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "origin", "status"),
    [
        pytest.param({}, None, 401, id="no token"),
        pytest.param({"Authorization": "Bearer wrong"}, None, 401, id="wrong token"),
        pytest.param(BEARER, "https://evil.example", 403, id="foreign origin"),
        pytest.param(BEARER, "null", 403, id="null origin"),
        pytest.param(BEARER | {"Sec-Fetch-Site": "cross-site"}, None, 403, id="other site"),
        pytest.param(BEARER | {"Sec-Fetch-Site": "same-site"}, None, 403, id="same site"),
    ],
)
async def test_handshake_is_refused_as_an_answer(
    web: Web, headers: dict[str, str], origin: str | None, status: int
) -> None:
    with pytest.raises(InvalidStatus) as caught:
        async with listening(web, headers=headers, origin=origin):
            pass
    answer = caught.value.response
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert json.loads(answer.body)["status"] == status
    assert web.engine.journal.readers == 0


async def test_page_of_our_own_may(web: Web) -> None:
    async with listening(web, origin=web.base, headers=BEARER | {"Sec-Fetch-Site": "same-origin"}) as client:
        log(web, "hello")
        assert await messages(client, 1) == ["hello"]


@pytest.mark.parametrize(
    ("path", "status"),
    [("/ws/logs?level=loud", 422), ("/ws/logs?nope=1", 422), ("/ws/nope", 404), ("/api/runs", 404), ("/livez", 404)],
)
async def test_handshake_elsewhere_is_refused(web: Web, path: str, status: int) -> None:
    assert (await web.raw(web.head("GET", path, *UPGRADE))).status == status


async def test_foreign_host_is_refused(web: Web) -> None:
    lines = ["GET /ws/logs HTTP/1.1", f"Host: evil.example:{web.port}", f"Authorization: Bearer {TOKEN}", *UPGRADE]
    assert (await web.raw("\r\n".join([*lines, "", ""]).encode())).status == 421


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_request_that_asks_for_no_websocket_is_told_so(web: Web, method: str) -> None:
    answer = await web.http.request(method, PATH)
    assert (answer.status_code, answer.headers["upgrade"]) == (426, "websocket")
    assert (await web.http.post(PATH)).status_code == 405
    assert (await web.stranger.request(method, PATH)).status_code == 401


async def test_too_many_are_refused(tmp_path: Path) -> None:
    async with open_web(tmp_path, max_streams=1) as web:
        async with listening(web):
            answer = await web.raw(web.head("GET", PATH, *UPGRADE))
            assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "too_many_streams", "5")
        await until(lambda: not web.engine.journal.readers)
        async with listening(web) as client:
            log(web, "room again")
            assert await messages(client, 1) == ["room again"]


# -- clients that go, hang or misbehave -------------------------------------------------------------------------------


async def test_client_that_leaves_is_forgotten(web: Web) -> None:
    async with listening(web):
        pass
    await until(lambda: not web.engine.journal.readers and not connections())


async def test_client_that_vanishes_is_forgotten(web: Web) -> None:
    async with listening(web) as client:
        client.transport.abort()
        await until(lambda: not web.engine.journal.readers and not connections())


async def test_what_a_client_says_is_ignored(web: Web) -> None:
    async with listening(web) as client:
        for text in ("x" * MAX_MESSAGE, "{}", b"\0" * 10, ""):
            for _ in range(20):
                await client.send(text)
        await (await client.ping())
        log(web, "still here")
        assert await messages(client, 1) == ["still here"]


async def test_message_that_is_too_large_ends_the_connection(web: Web) -> None:
    async with listening(web) as client:
        await client.send("x" * (MAX_MESSAGE + 1))
        assert await close_code(client) == 1009
        await until(lambda: not web.engine.journal.readers and not connections())


async def test_client_that_says_too_much_and_answers_no_close_is_cut(web: Web) -> None:
    async with await anyio.connect_tcp("127.0.0.1", web.port) as client:
        await client.send(web.head("GET", PATH, *UPGRADE))
        await until(lambda: web.engine.journal.readers)
        await client.send(b"\x81\xfe" + (MAX_MESSAGE + 1).to_bytes(2, "big") + bytes(4) + b"x" * (MAX_MESSAGE + 1))
        await until(lambda: not web.engine.journal.readers and not connections())


async def test_nothing_is_compressed(web: Web) -> None:
    async with listening(web) as client:
        assert client.protocol.extensions == []
        assert "permessage-deflate" in client.request.headers["sec-websocket-extensions"]  # type: ignore[union-attr]


def refused(web: Web) -> dict[str, bytes]:
    """Handshakes that are none, and what comes too early or makes no sense."""
    good = web.head("GET", PATH, *UPGRADE)
    return {
        "no key": web.head("GET", PATH, *UPGRADE[:3]),
        "old version": web.head("GET", PATH, *UPGRADE[:2], "Sec-WebSocket-Version: 8", KEY),
        "a frame before the answer": good + b"\x81\x80abcd",
        "a body": web.head("GET", PATH, *UPGRADE, "Content-Length: 2") + b"{}",
    }


@pytest.mark.parametrize("name", ["no key", "old version", "a frame before the answer", "a body"])
async def test_broken_handshake_is_refused_and_closed(web: Web, name: str) -> None:
    async with await anyio.connect_tcp("127.0.0.1", web.port) as client:
        await client.send(refused(web)[name])
        answer = Answer.of(await read_all(client))
        assert (answer.status, answer.code, answer.headers["connection"]) == (400, "bad_header", "close")
        await until(lambda: not connections())
    assert web.engine.journal.readers == 0


@pytest.mark.parametrize("frame", [b"\x83\x80abcd", b"\x81\x05hello", b"\xff\xff\xff"], ids=["op", "unmasked", "junk"])
async def test_bytes_that_are_no_frames_end_the_connection(web: Web, frame: bytes) -> None:
    async with await anyio.connect_tcp("127.0.0.1", web.port) as client:
        await client.send(web.head("GET", PATH, *UPGRADE))
        await client.receive()
        await client.send(frame)
        await until(lambda: not connections())
    assert web.engine.journal.readers == 0


async def test_client_that_answers_no_ping_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aura.web.server.PING_INTERVAL", 0.1)
    async with open_web(tmp_path) as web, await anyio.connect_tcp("127.0.0.1", web.port) as client:
        await client.send(web.head("GET", PATH, *UPGRADE))
        await until(lambda: web.engine.journal.readers)
        await until(lambda: not connections())
        assert web.engine.journal.readers == 0


async def test_client_that_answers_pings_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aura.web.server.PING_INTERVAL", 0.1)
    async with open_web(tmp_path) as web, listening(web) as client:
        await anyio.sleep(0.5)  # not waited for: time for five pings
        log(web, "still here")
        assert await messages(client, 1) == ["still here"]


async def test_reader_that_has_stopped_reading_is_cut(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "WRITE_TIMEOUT", 0.1)
    async with await anyio.connect_tcp("127.0.0.1", web.port) as client:
        await client.send(web.head("GET", PATH, *UPGRADE))
        await until(lambda: web.engine.journal.readers)
        with anyio.fail_after(20):
            for _ in range(MORE_THAN_SOCKETS_HOLD):
                log(web, "x" * 60_000)
                await anyio.lowlevel.checkpoint()
            while web.engine.journal.readers or connections():
                await anyio.lowlevel.checkpoint()


async def test_error_in_the_endpoint_is_a_close_with_1011(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    async with listening(web) as client:
        web.engine.journal.log("info", "x").kept_frame = b"no frame at all"
        assert await close_code(client) == 1011
    assert [record.name for record in caplog.records if record.name.startswith("hypercorn")] == []
    assert web.engine.journal.readers == 0
