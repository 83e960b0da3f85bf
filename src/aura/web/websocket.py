"""The writing side of a WebSocket that shows log lines, and what a WebSocket's handshake has of a request.

A record is the text message ``{"type": "log", "payload": record}``; others are ``{"type": "gap", "payload": {from,
to}}`` and, before the close with 1001, ``{"type": "shutdown"}``. What comes in a batch is one write of many messages.
What a client says is dropped; pings are the connection's own (``upgrade``).
"""

import anyio
import msgspec
from starlette.types import Message, Receive, Scope, Send

from aura.events import Entry
from aura.journal import Batch, Gap, Reader
from aura.web.leases import Lease
from aura.web.sse import Feed, Stream, serve_feed
from aura.web.upgrade import CLOSE_TIME, FRAMES

#: RFC 6455, 7.4.1: the server is going.
GOING_AWAY = 1001
#: The same: the caller's token has ended.
POLICY_VIOLATION = 1008
HTTP_SCHEMES = {"ws": "http", "wss": "https"}


def as_request(scope: Scope) -> Scope:
    """The handshake's scope with what a request has besides, so that it passes whatever a request has to pass."""
    return {**scope, "method": "GET", "scheme": HTTP_SCHEMES[scope["scheme"]]}


class Socket(Stream):
    """See the module's text."""

    async def begin(self) -> None:
        await self._write({"type": "websocket.accept"})

    async def write(self, data: bytes) -> None:
        await self._write({"type": FRAMES, "data": data})

    async def show(self, batch: Batch) -> None:
        if batch.gap:
            await self.tell_gap(batch.gap, batch.gap.last)
        if batch.entries:
            await self.write(b"".join([text_frame(message_of(entry)) for entry in batch.entries]))

    async def tell_gap(self, gap: Gap | None, last: int) -> None:
        first = None if gap is None else str(gap.first)
        await self._tell({"type": "gap", "payload": {"from": first, "to": str(last)}})

    async def tell_shutdown(self) -> None:
        await self._tell({"type": "shutdown"})

    async def tell_forbidden(self) -> None:
        """The close says it."""

    async def wait_news(self, reader: Reader) -> None:
        await reader.wait()  # the connection pings, so nothing has to be written meanwhile

    async def finish(self) -> None:
        code = POLICY_VIOLATION if self.forbidden else GOING_AWAY
        await self._write({"type": "websocket.close", "code": code})

    async def _tell(self, message: Message) -> None:
        await self.write(text_frame(msgspec.json.encode(message)))


async def serve_socket(feed: Feed, receive: Receive, send: Send, stopping: anyio.Event, lease: Lease) -> None:
    """Run a feed on a WebSocket; see ``serve_feed``."""
    left = anyio.Event()

    async def noted() -> Message:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            left.set()
        return message

    await serve_feed(feed, Socket(send, stopping), noted, stopping, lease)
    with anyio.move_on_after(CLOSE_TIME):
        while not left.is_set():
            await noted()


def message_of(entry: Entry) -> bytes:
    """A record as a message, from its kept frame: each record is encoded once, for streams of both kinds."""
    frame = entry.kept_frame or entry.frame
    return b'{"type":"log","payload":%b}' % frame[frame.index(b"\ndata: ") + 7 : -2]


def text_frame(payload: bytes) -> bytes:
    """One whole text message as a server sends it (RFC 6455, 5.2): not masked, not compressed."""
    size = len(payload)
    if size < 126:
        return b"\x81%c%b" % (size, payload)
    if size < 1 << 16:
        return b"\x81\x7e%b%b" % (size.to_bytes(2, "big"), payload)
    return b"\x81\x7f%b%b" % (size.to_bytes(8, "big"), payload)
