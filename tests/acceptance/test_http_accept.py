"""What accepts connections, on real sockets: it fails alone, and who connected meanwhile is answered afterwards."""

import errno
import logging
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple

import anyio
import anyio.lowlevel
import pytest
from starlette.types import Receive, Scope, Send
from tests.fakes.web import connections

from aura.clock import SystemClock
from aura.engine.supervisor import Child, Supervisor
from aura.web.server import Listener, serve_http

SOON = 20.0


class Held(Supervisor):
    """Each pause lasts until ``heal`` is set."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.heal = anyio.Event()

    async def wait_pause(self, child: Child, told: anyio.Event) -> None:
        await self.heal.wait()


class Failing(socket.socket):
    """A listening socket whose next calls of ``accept`` raise these errors."""

    def __init__(self) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_STREAM)
        self.errors: list[int] = []
        self.bind(("127.0.0.1", 0))
        self.setblocking(False)

    def accept(self) -> tuple[socket.socket, tuple[str, int]]:
        if self.errors:
            number = self.errors.pop(0)
            raise OSError(number, errno.errorcode[number])
        return super().accept()


class Served(NamedTuple):
    supervisor: Held
    stop: anyio.Event
    ended: anyio.Event


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def served(*listeners: Listener, limit: int | None = None) -> AsyncIterator[Served]:
    made = Served(Held(), anyio.Event(), anyio.Event())

    async def serve(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        await serve_http(
            app, listeners, made.supervisor, stop=made.stop, grace=0.1, limit=limit, task_status=task_status
        )
        made.ended.set()

    async with anyio.create_task_group() as group:  # the door, which ends by its stop event
        await group.start(serve)
        try:
            yield made
        finally:
            made.stop.set()


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(SOON):
        while not condition():
            await anyio.lowlevel.checkpoint()


@contextmanager
def connected(listener: Listener) -> Iterator[socket.socket]:
    """A client that has sent a request; the kernel alone has connected it."""
    with socket.create_connection(listener.socket.getsockname()[:2]) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        client.settimeout(SOON)
        yield client


async def answer(client: socket.socket) -> bytes:
    """Read one answer, or all until the server closes."""

    def read() -> bytes:
        data = b""
        while not data.endswith(b"ok") and (chunk := client.recv(65536)):
            data += chunk
        return data

    return await anyio.to_thread.run_sync(read)


def failures(supervisor: Supervisor) -> dict[str, tuple[str, int]]:
    return {child.name: (child.state, child.failures) for child in supervisor.children.values()}


async def test_accept_that_fails_is_served_again_and_who_waited_is_answered() -> None:
    listener = Listener(Failing())
    listener.socket.errors = [errno.EMFILE]  # type: ignore[attr-defined]
    async with served(listener) as made:
        with connected(listener) as client:
            await until(lambda: failures(made.supervisor) == {"http": ("failed", 1)})
            assert "EMFILE" in made.supervisor.reasons[0]
            made.supervisor.heal.set()
            assert b" 200 " in await answer(client)
            assert failures(made.supervisor) == {"http": ("running", 1)}


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EINTR, errno.EAGAIN])
async def test_client_that_left_before_it_was_accepted_is_no_failure(number: int) -> None:
    listener = Listener(Failing())
    listener.socket.errors = [number]  # type: ignore[attr-defined]
    async with served(listener) as made:
        with connected(listener) as client:
            assert b" 200 " in await answer(client)
        assert failures(made.supervisor) == {"http": ("running", 0)}


async def test_one_listener_that_fails_leaves_the_other() -> None:
    first, second = Listener(Failing()), Listener(Failing())
    second.socket.errors = [errno.EMFILE]  # type: ignore[attr-defined]
    async with served(first, second) as made:
        with connected(second) as waiting, connected(first) as client:
            assert b" 200 " in await answer(client)
            await until(lambda: failures(made.supervisor) == {"http": ("running", 0), "http 2": ("failed", 1)})
            made.supervisor.heal.set()
            assert b" 200 " in await answer(waiting)


async def test_open_connection_is_served_while_nothing_accepts() -> None:
    listener = Listener(Failing())
    async with served(listener) as made:
        with connected(listener) as client:
            assert b" 200 " in await answer(client)
            listener.socket.errors = [errno.EMFILE]  # type: ignore[attr-defined]
            with connected(listener):
                await until(lambda: failures(made.supervisor) == {"http": ("failed", 1)})
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert b" 200 " in await answer(client)


async def test_stop_ends_a_pause() -> None:
    listener = Listener(Failing())
    listener.socket.errors = [errno.EMFILE]  # type: ignore[attr-defined]
    with anyio.fail_after(SOON):
        async with served(listener) as made:
            with connected(listener):
                await until(lambda: failures(made.supervisor) == {"http": ("failed", 1)})
    assert listener.socket.fileno() == -1
    assert connections() == set()


async def test_connections_that_come_at_once_keep_to_the_limit() -> None:
    listener = Listener(Failing())
    listener.socket.listen()
    with connected(listener) as first, connected(listener) as second, connected(listener) as third:
        async with served(listener, limit=2):
            answers = [await answer(client) for client in (first, second, third)]
    assert [b" 503 " in each for each in answers] == [False, False, True]


@pytest.fixture
def tls(tmp_path: Path) -> ssl.SSLContext:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate of this test")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -out {cert} -keyout {key}"
    subprocess.run(make.split(), check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    return context


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n\r\n"], ids=["says nothing", "speaks in the clear"])
async def test_handshake_that_does_not_come_ends_quietly(
    tls: ssl.SSLContext, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Listener(Failing(), tls)
    with caplog.at_level(logging.INFO), anyio.fail_after(SOON):
        async with served(listener) as made:
            with socket.create_connection(listener.socket.getsockname()) as client:
                client.sendall(sent)
                if sent:
                    await answer(client)  # none: the server closes
                else:
                    await until(connections)
                made.stop.set()
                await made.ended.wait()
    assert connections() == set()
    assert caplog.records == []
