"""The runner's contract: whatever connections are open, it ends within the grace and half a second, with no child left.

Each case is tried with a stop and with a cancel from outside.
"""

import asyncio
import json
import os
import resource
import shutil
import socket
import ssl
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import httpx2
import pytest
from tests.fakes.engine import FakeEngine
from tests.fakes.web import BEARER, TOKEN, connections, free_port, make_settings, make_store, open_web
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedOK

from aura.api import EngineState
from aura.clock import SystemClock
from aura.errors import ConfigError, ExitCode
from aura.web import server
from aura.web.app import create_app
from aura.web.auth import Auth
from aura.web.server import Listener, open_sockets, serve_http
from aura.web.tokens import Tokens

GRACE = 0.3
HEAD = f"Host: 127.0.0.1:{{port}}\r\nAuthorization: Bearer {TOKEN}\r\n"


WEBSOCKET = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
]


class Served:
    """A running ``serve_http``; ``end`` stops or cancels it, and tells how long that took."""

    def __init__(self, engine: FakeEngine, port: int, end: Callable[[], None], ended: anyio.Event) -> None:
        self.engine = engine
        self.port = port
        self._end = end
        self._ended = ended

    async def end(self) -> float:
        began = anyio.current_time()
        self._end()
        await self._ended.wait()
        return anyio.current_time() - began

    def head(self, line: str, *extra: str) -> bytes:
        return (
            f"{line} HTTP/1.1\r\n" + HEAD.format(port=self.port) + "".join(e + "\r\n" for e in extra) + "\r\n"
        ).encode()


@asynccontextmanager
async def open_served(tmp: Path, how: str) -> AsyncIterator[Served]:
    settings, engine, stop, ended = make_settings(tmp), FakeEngine(), anyio.Event(), anyio.Event()
    listeners, base = open_sockets(settings)
    auth = Auth(Tokens(make_store(), engine.clock, TOKEN))
    app = create_app(engine, auth, settings, stop)
    async with anyio.create_task_group() as group:  # the server; the test ends it
        scope = anyio.CancelScope()

        async def serve(*, task_status: anyio.abc.TaskStatus[None]) -> None:
            with scope:
                await serve_http(app, listeners, stop=stop, grace=GRACE, task_status=task_status)
            ended.set()

        await group.start(serve)
        yield Served(engine, int(base.rpartition(":")[2]), stop.set if how == "stop" else scope.cancel, ended)
        scope.cancel()


@contextmanager
def open_client(port: int, data: bytes, *, window: int | None = None) -> Iterator[socket.socket]:
    """A blocking client, driven by the kernel alone: it reads only when the test does."""
    with socket.socket() as client:
        if window:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        client.connect(("127.0.0.1", port))
        client.sendall(data)
        client.settimeout(5)
        yield client


async def received(client: socket.socket, mark: bytes) -> bytes:
    """Read, in a thread, until ``mark`` has come or the server has closed."""

    def read() -> bytes:
        data = b""
        while mark not in data and (chunk := client.recv(65536)):
            data += chunk
        return data

    return await anyio.to_thread.run_sync(read)


# -- the cases: each opens something and leaves it open ---------------------------------------------------------------


async def idle(served: Served, stack: AsyncExitStack) -> None:
    client = stack.enter_context(open_client(served.port, served.head("GET /livez")))
    assert b"ok" in await received(client, b"\r\n\r\nok")


async def silent(served: Served, stack: AsyncExitStack) -> None:
    stack.enter_context(open_client(served.port, b""))


async def half_a_head(served: Served, stack: AsyncExitStack) -> None:
    stack.enter_context(open_client(served.port, b"GET /livez HT"))


async def half_a_body(served: Served, stack: AsyncExitStack) -> None:
    head = served.head("POST /api/tasks/run", "Content-Type: application/json", "Content-Length: 99")
    stack.enter_context(open_client(served.port, head + b"{"))


async def open_stream(served: Served, stack: AsyncExitStack) -> None:
    client = stack.enter_context(open_client(served.port, served.head("GET /api/logs/stream")))
    await received(client, b"\r\n\r\n")
    served.engine.journal.log("info", "hello")
    assert b"hello" in await received(client, b"hello")


async def stuck_stream(served: Served, stack: AsyncExitStack) -> None:
    stack.enter_context(open_client(served.port, served.head("GET /api/logs/stream"), window=4096))
    while not served.engine.journal.readers:
        await anyio.lowlevel.checkpoint()
    for _ in range(200):
        served.engine.journal.log("info", "x" * 60_000)
    await anyio.sleep(0.1)  # not waited for: time in which the server fills what the kernel takes, and hangs


async def open_socket(served: Served, stack: AsyncExitStack) -> None:
    client = stack.enter_context(open_client(served.port, served.head("GET /ws/logs", *WEBSOCKET)))
    await received(client, b"\r\n\r\n")
    served.engine.journal.log("info", "hello")
    assert b"hello" in await received(client, b"hello")


async def stuck_socket(served: Served, stack: AsyncExitStack) -> None:
    stack.enter_context(open_client(served.port, served.head("GET /ws/logs", *WEBSOCKET), window=4096))
    while not served.engine.journal.readers:
        await anyio.lowlevel.checkpoint()
    for _ in range(200):
        served.engine.journal.log("info", "x" * 60_000)
    await anyio.sleep(0.1)  # not waited for, as above


async def stuck_download(served: Served, stack: AsyncExitStack) -> None:
    for _ in range(1000):
        served.engine.add_run(reason="r" * 5000)
    stack.enter_context(open_client(served.port, served.head("GET /api/runs?limit=1000") * 3, window=4096))
    await anyio.sleep(0.1)  # not waited for, as above


async def endpoint_that_hangs(served: Served, stack: AsyncExitStack) -> None:
    reached = anyio.Event()

    async def hang() -> EngineState:
        reached.set()
        await anyio.sleep_forever()
        return "running"

    served.engine.start = hang  # type: ignore[method-assign]
    stack.enter_context(open_client(served.port, served.head("POST /api/system/start")))
    await reached.wait()


async def endpoint_that_swallows_its_cancel(served: Served, stack: AsyncExitStack) -> None:
    reached = anyio.Event()

    async def swallow() -> EngineState:
        reached.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "running"
        return "stopped"

    served.engine.start = swallow  # type: ignore[method-assign]
    stack.enter_context(open_client(served.port, served.head("POST /api/system/start")))
    await reached.wait()


CASES: list[Callable[[Served, AsyncExitStack], Awaitable[None]]] = [
    idle,
    silent,
    half_a_head,
    half_a_body,
    open_stream,
    stuck_stream,
    open_socket,
    stuck_socket,
    stuck_download,
    endpoint_that_hangs,
    endpoint_that_swallows_its_cancel,
]


@pytest.mark.parametrize("how", ["stop", "cancel"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
async def test_server_ends_in_time_and_leaves_nothing(
    tmp_path: Path, case: Callable[[Served, AsyncExitStack], Awaitable[None]], how: str
) -> None:
    before = asyncio.all_tasks()
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(open_served(tmp_path, how))
        await case(served, stack)
        assert await served.end() < GRACE + 0.5 + 0.3  # the last is for a slow machine
        assert not connections()
    assert asyncio.all_tasks() - before <= {asyncio.current_task()}
    assert served.engine.journal.readers == 0


async def test_all_cases_at_once(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(open_served(tmp_path, "stop"))
        for case in (idle, silent, half_a_head, half_a_body, open_stream, stuck_stream, open_socket, stuck_socket):
            await case(served, stack)
        assert await served.end() < GRACE + 0.8
        assert not connections()


async def test_stream_says_shutdown_and_ends_at_once(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(open_served(tmp_path, "stop"))
        client = stack.enter_context(open_client(served.port, served.head("GET /api/logs/stream")))
        await received(client, b"\r\n\r\n")
        assert await served.end() < GRACE
        assert b"event: shutdown\ndata: {}\n\n" in (await received(client, b"nothing more")).replace(b"\r\n", b"\n")


async def test_socket_says_shutdown_and_ends_once_its_client_has_answered_the_close(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(open_served(tmp_path, "stop"))
        url = f"ws://127.0.0.1:{served.port}/ws/logs"
        client = await stack.enter_async_context(connect(url, additional_headers=BEARER, proxy=None))
        assert await served.end() < GRACE
        assert json.loads(await client.recv()) == {"type": "shutdown"}
        with pytest.raises(ConnectionClosedOK):
            await client.recv()
        assert client.close_code == 1001


async def test_requests_under_way_are_answered_while_it_stops(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(open_served(tmp_path, "stop"))
        await half_a_body(served, stack)
        with anyio.move_on_after(0.05):
            await served.end()
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", served.port), timeout=1)


# -- sockets ----------------------------------------------------------------------------------------------------------


async def test_answer_does_not_wait_for_an_acknowledgement(tmp_path: Path) -> None:
    """Without TCP_NODELAY each of these would take 40 ms. A busy machine makes some of them slow, but not all."""
    took = []
    async with open_web(tmp_path) as web:
        with open_client(web.port, b"") as client:
            for _ in range(20):
                began = SystemClock().monotonic()
                client.sendall(web.head("GET", "/api/system/status"))
                await received(client, b"reasons")
                took.append(SystemClock().monotonic() - began)
    assert sorted(took)[len(took) // 4] < 0.03


async def test_port_in_use_is_a_clear_error(tmp_path: Path) -> None:
    port = free_port()
    settings = make_settings(tmp_path, port=port)
    message = f"cannot listen on 127.0.0.1:{port}.*--port 0"
    with socket.create_server(("127.0.0.1", port)), pytest.raises(ConfigError, match=message) as caught:
        open_sockets(settings)
    assert caught.value.exit_code == ExitCode.CANNOT_CREATE


def test_localhost_binds_every_address_at_one_port(tmp_path: Path) -> None:
    listeners, base = open_sockets(make_settings(tmp_path, host="localhost"))
    ports = {listener.socket.getsockname()[1] for listener in listeners}
    for listener in listeners:
        listener.socket.close()
    assert ports == {int(base.rpartition(":")[2])}
    assert base.startswith("http://localhost:")


async def test_unix_socket_is_private_and_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "aura.sock"
    former = os.umask(0)
    try:
        async with open_web(tmp_path, uds=path) as web:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert (await web.http.get("/api/runs")).status_code == 200
            assert (await web.stranger.get("/api/runs")).status_code == 401
            assert (await web.http.get("/livez", headers={"Origin": "https://evil.example"})).status_code == 403
    finally:
        os.umask(former)
    assert not path.exists()


def test_stale_unix_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, uds=tmp_path / "aura.sock")
    first, _ = open_sockets(settings)
    first[0].socket.listen()
    with pytest.raises(ConfigError, match="cannot listen"):
        open_sockets(settings)
    first[0].socket.close()
    second, base = open_sockets(settings)
    second[0].socket.close()
    assert base == f"unix:{tmp_path / 'aura.sock'}"


def test_file_in_the_place_of_the_unix_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(ConfigError):
        open_sockets(make_settings(tmp_path, uds=path))
    assert path.read_text() == "data"


async def test_too_many_connections_are_turned_away(tmp_path: Path) -> None:
    async with open_web(tmp_path, limit=2) as web:
        with open_client(web.port, b""), open_client(web.port, b""), open_client(web.port, b"") as third:
            answer = await received(third, b"\r\n\r\n")
        assert b" 503 " in answer
        assert b"retry-after" in answer


def test_connection_limit_leaves_files_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    assert server.connection_limit() == 1024 - server.RESERVED_FILES
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 100))
    assert server.connection_limit() >= 16


async def test_requests_follow_each_other_on_one_connection(tmp_path: Path) -> None:
    async with open_web(tmp_path) as web:
        with open_client(web.port, web.head("GET", "/livez") * 3) as client:
            data = b""
            while data.count(b"\r\n\r\nok") < 3:
                data += await received(client, b"ok")
        assert data.count(b" 200 ") == 3


async def test_refused_body_closes_the_connection_and_says_so(tmp_path: Path) -> None:
    async with open_web(tmp_path) as web:
        body = json.dumps({"x": 1}).encode()
        answer = await web.raw(web.head("POST", "/api/tasks/run", f"Content-Length: {len(body)}") + body)
        assert (answer.status, answer.headers["connection"]) == (415, "close")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate of this test")
async def test_tls_is_served_with_a_certificate(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -out {cert} -keyout {key}"
    await anyio.run_process([*make.split(), "-addext", "subjectAltName=IP:127.0.0.1"])
    async with open_web(tmp_path, tls_cert=cert, tls_key=key) as web:
        transport = httpx2.AsyncHTTPTransport(verify=ssl.create_default_context(cafile=str(cert)))
        async with httpx2.AsyncClient(base_url=web.base, headers=BEARER, transport=transport) as http:
            answer = await http.get("/api/runs", headers={"Origin": web.base})
        assert (web.base[:8], answer.status_code, answer.http_version) == ("https://", 200, "HTTP/1.1")


def test_certificate_that_cannot_be_read_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cert\.pem"):
        open_sockets(make_settings(tmp_path, tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem"))


def test_listener_without_tls_speaks_in_the_clear(tmp_path: Path) -> None:
    listeners, base = open_sockets(make_settings(tmp_path))
    assert base.startswith("http://127.0.0.1:")
    assert [listener.tls for listener in listeners] == [None]
    Listener(listeners[0].socket).socket.close()
