"""One HTTP/1.1 connection: Hypercorn's, with what it lacks.

Hypercorn 0.18 switches to HTTP/2 on the plain port, waits for ever on a client that does not read, and blocks for ever
on a body that its application does not want. Here HTTP/2 is refused, every wait on the client has an end, and what an
application does not read is thrown away. Errors in the protocol itself are answered with a problem document, as all
others. This module overrides private methods: ``hypercorn==0.18.*`` is pinned, and
``tests/acceptance/test_http_server.py`` holds each case.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import h11
from hypercorn.asyncio.task_group import TaskGroup, _handle
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.h11 import H2ProtocolAssumedError, H11Protocol
from hypercorn.typing import AppWrapper, ASGIReceiveEvent, ASGISendEvent, ConnectionState, Scope
from hypercorn.utils import parse_socket_addr

from aura.web.problem import refusal
from aura.web.upgrade import asks_for_websocket, upgrade

#: Seconds within which a client has to take what is written to it.
WRITE_TIMEOUT = 20.0
#: Seconds within which a connection that is closed has to be gone; after that it is cut.
CLOSE_TIMEOUT = 2.0


class Connection(TCPServer):
    """One connection, until it ends. Await it."""

    async def run(self) -> None:
        socket = self.writer.get_extra_info("socket")
        main = asyncio.current_task()
        assert main is not None
        self._main = main
        try:
            # In the group: the idle timer and the application's child of each request. They end with the connection.
            async with AppGroup(self.loop) as group:
                self._task_group = group
                self.protocol = Http1(  # type: ignore[assignment]  # the same interface as their wrapper's
                    self.app,
                    self.config,
                    self.context,
                    group,
                    ConnectionState(self.state),
                    self.writer.get_extra_info("ssl_object") is not None,
                    parse_socket_addr(socket.family, socket.getpeername()),
                    parse_socket_addr(socket.family, socket.getsockname()),
                    self.protocol_send,
                )
                await self.protocol.initiate()
                await self.idle_task.restart(group, self._idle_timeout)
                await self._read_data()
        except OSError:
            return  # the client has gone; nobody is left to tell
        finally:
            await self._close()

    async def protocol_send(self, event: Event) -> None:
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        async with self.send_lock:
            try:
                async with asyncio.timeout(WRITE_TIMEOUT):
                    if self.writer.is_closing():
                        raise ConnectionResetError
                    self.writer.write(event.data)
                    await self.writer.drain()
            except (OSError, RuntimeError):  # TimeoutError is an OSError
                self._cut()

    def _cut(self) -> None:
        """End the connection at once. Its children are cancelled too: one may wait for what can no longer come."""
        self.writer.transport.abort()
        self._main.cancel()

    async def _close(self) -> None:
        with suppress(OSError):  # TimeoutError is one; theirs swallows the cancellation behind it now and then
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await super()._close()
        if self.writer.transport.get_write_buffer_size():
            self.writer.transport.abort()


class Http1(H11Protocol):
    """HTTP/1.1 and nothing else on a connection."""

    async def handle(self, event: Event) -> None:
        try:
            await super().handle(event)
        except H2ProtocolAssumedError:
            await self._send_error_response(505)
            await self.send(Closed())

    async def _create_stream(self, request: h11.Request) -> None:
        if asks_for_websocket(request):
            await upgrade(self, request)
        else:
            await super()._create_stream(request)

    async def _check_protocol(self, event: h11.Request) -> None:
        """Refuse HTTP/2 by prior knowledge; ignore the offer to upgrade to it, as RFC 9110 allows."""
        if event.method == b"PRI":
            raise H2ProtocolAssumedError(b"")

    async def _send_error_response(self, status_code: int) -> None:
        headers, body = refusal(status_code)
        headers += [(b"connection", b"close"), *self.config.response_headers("h11")]
        await self._send_h11_event(h11.Response(status_code=status_code, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


class AppGroup(TaskGroup):
    """Starts the application for a request, with an inbox that never blocks what follows its end."""

    async def spawn_app(
        self,
        app: AppWrapper,
        config: Config,
        scope: Scope,
        send: Callable[[ASGISendEvent | None], Awaitable[None]],
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        inbox = Inbox(config.max_app_queue_size)

        async def run() -> None:
            try:
                await _handle(app, config, scope, inbox.get, send, _no_threads, _no_threads)
            finally:
                inbox.close()

        self._task_group.create_task(run(), name=f"http {scope['type']}")
        return inbox.put


class Inbox:
    """What has come for one application. Parts of the body wait for room; a disconnect never does, and is the last.

    Once closed, what comes is thrown away.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._messages: deque[ASGIReceiveEvent] = deque()
        self._last: ASGIReceiveEvent | None = None
        self._changed = asyncio.Event()
        self._closed = False

    async def put(self, message: ASGIReceiveEvent) -> None:
        if message["type"] not in ("http.request", "websocket.connect", "websocket.receive"):
            self._last = message
            self._closed = True
        while len(self._messages) >= self._size and not self._closed:
            await self._wait()
        if not self._closed:
            self._messages.append(message)
        self._tell()

    async def get(self) -> ASGIReceiveEvent:
        while not self._messages:
            if self._last is not None:
                return self._last
            await self._wait()
        message = self._messages.popleft()
        self._tell()
        return message

    def close(self) -> None:
        self._closed = True
        self._tell()

    def _tell(self) -> None:
        """Let both sides look again; the event is replaced, so that none of them misses it."""
        told, self._changed = self._changed, asyncio.Event()
        told.set()

    async def _wait(self) -> None:
        await self._changed.wait()


def _no_threads(*_args: Any) -> Any:
    raise NotImplementedError("Aura's application is ASGI: it asks the server for no threads")
