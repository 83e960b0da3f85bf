"""A connection that became a WebSocket: Hypercorn's, with what it lacks.

Hypercorn 0.18 offers compression (memory for each connection, and a small message that unpacks into a huge one), leaves
a connection open for ever after a broken handshake or a message that is too large, keeps a closed connection until its
next ping, and never looks whether a ping was answered. Here nothing is compressed, what is over is closed, and a client
that answers no ping is cut. ``websocket.frames`` is a message of our own: frames that are encoded already, so that many
records are one write.

This module overrides private methods, as ``connection`` does; ``tests/acceptance/test_websocket.py`` holds each case.
"""

import asyncio
from contextlib import suppress
from typing import Any, cast

import h11
from hypercorn.protocol.events import Body, Data, EndBody, Event, Request, Response, StreamClosed
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol, H11WSConnection
from hypercorn.protocol.ws_stream import ASGIWebsocketState, WSStream
from hypercorn.typing import WebsocketDisconnectEvent
from wsproto.connection import ConnectionState
from wsproto.events import CloseConnection, Ping
from wsproto.frame_protocol import CloseReason

from aura.web.problem import refusal

#: The type of the message that carries frames; its ``data`` is bytes.
FRAMES = "websocket.frames"
#: Seconds between two pings; by the next one the last one has to be answered.
PING_INTERVAL = 20.0
#: How long the last words of a connection may take, in seconds: our close, and a client's answer to it.
CLOSE_TIME = 0.5
#: The longest message that a client may send, in bytes. Nothing that it says is of interest.
MAX_MESSAGE = 4096

_GONE: WebsocketDisconnectEvent = {"type": "websocket.disconnect", "code": 1006}


def asks_for_websocket(request: h11.Request) -> bool:
    """Say whether a request wants its connection to become a WebSocket."""
    headers = {bytes(name): bytes(value).lower() for name, value in request.headers}
    tokens = [token.strip() for token in headers.get(b"connection", b"").split(b",")]
    return request.method == b"GET" and headers.get(b"upgrade") == b"websocket" and b"upgrade" in tokens


async def upgrade(protocol: H11Protocol, request: h11.Request) -> None:
    """Hand a connection over to a ``WebSocket``, which may still refuse the request."""
    protocol.stream = WebSocket(
        protocol.app,
        protocol.config,
        protocol.context,
        protocol.task_group,
        protocol.ssl,
        protocol.client,
        protocol.server,
        protocol.stream_send,
        STREAM_ID,
    )
    protocol.connection = H11WSConnection(cast(h11.Connection, protocol.connection))
    await protocol.stream.handle(
        Request(
            stream_id=STREAM_ID,
            headers=[(name, value) for name, value in request.headers if name != b"sec-websocket-extensions"],
            http_version=request.http_version.decode(),
            method="GET",
            raw_path=request.target,
            state=protocol.connection_state,
        )
    )


class WebSocket(WSStream):
    """One WebSocket, from its handshake on."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._over = asyncio.Event()
        self._heard = False

    async def handle(self, event: Event) -> None:
        """Take what the connection brings. Whatever ends the stream reaches the application as a disconnect."""
        was_closed = self.closed
        self._heard = True
        await super().handle(event)
        if self.closed and not was_closed:
            self._over.set()
            if self.app_put is not None:
                await self.app_put(_GONE)
            if not isinstance(event, StreamClosed):
                await self.send(StreamClosed(stream_id=self.stream_id))

    async def app_send(self, message: Any) -> None:
        if message is not None and message["type"] == FRAMES:
            if self._is_open():
                await self.send(Data(stream_id=self.stream_id, data=message["data"]))
            return
        if message is None and self._is_open():
            await self._say_that_it_broke()
        await super().app_send(message)

    def _is_open(self) -> bool:
        connected = self.state is ASGIWebsocketState.CONNECTED and not self.closed
        return connected and self.connection.state is ConnectionState.OPEN

    async def _say_that_it_broke(self) -> None:
        """The application ended without a close; a client that has stopped reading is not waited for."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIME):
                await self._send_wsproto_event(CloseConnection(code=CloseReason.INTERNAL_ERROR))
        self.state = ASGIWebsocketState.CLOSED

    async def _handle_events(self) -> None:
        await super()._handle_events()
        if self.state is ASGIWebsocketState.CONNECTED and self.connection.state is ConnectionState.LOCAL_CLOSING:
            await self.send(StreamClosed(stream_id=self.stream_id))  # the client was told that it said too much

    async def _send_pings(self) -> None:
        """Ping until the stream is over; a client that has sent nothing since the last one is gone."""
        while not self.closed:
            self._heard = False
            await self._send_wsproto_event(Ping())
            with suppress(TimeoutError):
                async with asyncio.timeout(self.config.websocket_ping_interval):
                    await self._over.wait()
            if not self._heard and not self.closed:
                await self.send(StreamClosed(stream_id=self.stream_id))

    async def _send_error_response(self, status_code: int) -> None:
        """Refuse the handshake with a problem document, as any other request; what the application says goes by."""
        headers, body = refusal(status_code)
        headers.append((b"connection", b"close"))
        await self.send(Response(stream_id=self.stream_id, status_code=status_code, headers=headers))
        await self.send(Body(stream_id=self.stream_id, data=body))
        await self.send(EndBody(stream_id=self.stream_id))
