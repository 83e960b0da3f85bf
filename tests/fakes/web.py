"""The HTTP door on a real loopback port, over a small engine, with clients that speak HTTP or bare bytes."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import msgspec
from anyio.abc import SocketStream
from tests.fakes.engine import FakeEngine

from aura.config import Settings, load_settings
from aura.store import Store
from aura.stores.memory import MemoryBackend
from aura.web.app import MAX_STREAMS, create_app
from aura.web.auth import Auth
from aura.web.failures import Failures
from aura.web.server import open_sockets, serve_http
from aura.web.tokens import Tokens

TOKEN = "t0ken-of-the-tests-which-is-long-enough"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


class Web(msgspec.Struct, dict=True):
    """A served door. ``http`` sends the token, ``stranger`` does not."""

    engine: FakeEngine
    settings: Settings
    auth: Auth
    base: str
    stop: anyio.Event
    http: httpx2.AsyncClient
    stranger: httpx2.AsyncClient

    @property
    def port(self) -> int:
        return int(self.base.rpartition(":")[2])

    async def raw(self, data: bytes, *, close: bool = False) -> "Answer":
        """Send bytes as they are and read until the server closes or has sent one whole answer."""
        async with await anyio.connect_tcp("127.0.0.1", self.port) as stream:
            with anyio.move_on_after(20):
                try:
                    await stream.send(data)
                    if close:
                        await stream.send_eof()
                except (anyio.BrokenResourceError, anyio.EndOfStream):
                    pass
                return Answer.of(await read_all(stream))
        raise AssertionError("no answer within 20 s")

    def head(self, method: str = "GET", path: str = "/api/runs", *extra: str) -> bytes:
        """A request's head with a good host and token."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", f"Authorization: Bearer {TOKEN}", *extra]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


def connections() -> set["asyncio.Task[object]"]:
    """The children of this loop that serve a connection."""
    return {task for task in asyncio.all_tasks() if "_connected" in getattr(task.get_coro(), "__qualname__", "")}


class Answer(msgspec.Struct):
    """The first answer in what a server sent."""

    status: int
    headers: dict[str, str]
    body: bytes

    @classmethod
    def of(cls, raw: bytes) -> "Answer":
        head, _, body = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return cls(int(first.split()[1]) if first else 0, headers, body)

    @property
    def code(self) -> str:
        return str(msgspec.json.decode(self.body)["code"])


async def read_all(stream: SocketStream) -> bytes:
    """Read until one answer is whole, or the end."""
    received = b""
    while not _is_whole(received):
        try:
            received += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            break
    return received


def _is_whole(received: bytes) -> bool:
    head, end, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: *(\d+)", head)
    return bool(end and length and len(body) >= int(length[1]))


class Events:
    """The events of one stream, parsed as a browser does."""

    def __init__(self, answer: httpx2.Response) -> None:
        self.answer = answer
        self._lines = answer.aiter_lines()
        self.comments = 0

    async def next(self) -> dict[str, Any]:
        """The next event: ``{event, id, data}``, within five seconds."""
        found: dict[str, Any] = {}
        with anyio.fail_after(5):
            async for line in self._lines:
                if line.startswith(":"):
                    self.comments += 1
                elif line:
                    name, _, value = line.partition(": ")
                    found[name] = value
                elif found:
                    return found | {"data": json.loads(found["data"])}
        raise EOFError

    async def messages(self, count: int) -> list[str]:
        return [event["data"]["message"] for event in [await self.next() for _ in range(count)]]

    async def rest(self) -> list[dict[str, Any]]:
        """All events until the server ends the stream."""
        events = []
        while True:
            try:
                events.append(await self.next())
            except EOFError:
                return events


def make_settings(tmp: Path, **server: Any) -> Settings:
    """Settings with a free port, everything below ``tmp``."""
    settings = load_settings({"port": 0, "plans": tmp / "plans", "data": tmp / "data"}, {"HOME": str(tmp)}, cwd=tmp)
    return msgspec.structs.replace(settings, server=msgspec.structs.replace(settings.server, **server))


@asynccontextmanager
async def open_web(
    tmp: Path,
    *,
    engine: FakeEngine | None = None,
    token: str | None = TOKEN,
    grace: float = 0.5,
    max_streams: int = MAX_STREAMS,
    limit: int | None = None,
    failures: int = 10**9,
    **server: Any,
) -> AsyncIterator[Web]:
    """Serve on a free port while inside; afterwards nothing is left, or ``serve_http`` is wrong.

    So many ``failures`` of strangers are answered with 401.
    """
    settings = make_settings(tmp, **server)
    engine = engine or FakeEngine()
    async with open_store() as store:
        tokens = await Tokens.open(store, engine.clock, token)
        auth = Auth(tokens, Failures(engine.clock.monotonic, failures), required=token is not None)
        async with _serving(engine, auth, settings, max_streams, grace, limit) as web:
            yield web


@asynccontextmanager
async def open_store(backend: MemoryBackend | None = None) -> AsyncIterator[Store]:
    """A store in memory, for the tokens."""
    store = make_store(backend)
    async with anyio.create_task_group() as group:  # the flusher, which ends when the intake is closed
        group.start_soon(store.serve)
        try:
            yield store
        finally:
            store.close()


def make_store(backend: MemoryBackend | None = None) -> Store:
    """The same, of which nobody wants that anything is written."""
    return Store(backend or MemoryBackend(), on_fault=_raise, on_fatal=_raise)


def _raise(error: Exception) -> None:
    raise error


@asynccontextmanager
async def _serving(
    engine: FakeEngine, auth: Auth, settings: Settings, max_streams: int, grace: float, limit: int | None
) -> AsyncIterator[Web]:
    stop = anyio.Event()
    app = create_app(engine, auth, settings, stop, max_streams=max_streams)
    listeners, base = open_sockets(settings)

    async def serve(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        await serve_http(app, listeners, stop=stop, grace=grace, limit=limit, task_status=task_status)

    uds = settings.server.uds
    path = str(uds) if uds else None
    url = "http://localhost" if uds else base
    async with anyio.create_task_group() as group:  # the server, which ends by its stop event
        await group.start(serve)
        async with _client(url, path, BEARER) as http, _client(url, path, {}) as stranger:
            yield Web(engine, settings, auth, base, stop, http, stranger)
            stop.set()


def _client(url: str, uds: str | None, headers: dict[str, str]) -> httpx2.AsyncClient:
    transport = httpx2.AsyncHTTPTransport(uds=uds, verify=False)
    return httpx2.AsyncClient(base_url=url, headers=headers, timeout=20, transport=transport)


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
