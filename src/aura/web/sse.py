"""Server-sent events: one stream, written by a plain loop with its own ``send``, each write bounded in time.

A record is a frame with ``id:`` and ``data:`` and no ``event:``. Named events are only ``gap`` (records were missed;
its id is the last missed one), ``end`` (the run's final record), ``progress`` (how far a step is; no record, and so
without an id) and ``shutdown``. A comment every 15 s keeps
connections alive and finds dead ones. A stream ends when its client goes, when a write takes too long, when the server
stops, the caller's token ends (a comment says so), or, of a run, with its ``end``.

No record is lost and none comes twice: a reader of the journal is opened first, then the store is read up to the id
from which on that reader has everything, then the reader is followed.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

import anyio
import msgspec
from starlette.responses import Response
from starlette.types import Message, Receive, Send

from aura.events import EventEntry
from aura.journal import Batch, Gap, Reader
from aura.web.leases import Lease

WRITE_TIMEOUT = 15.0
HEARTBEAT = 15.0
#: How long a stream whose lease has ended may take to say so, in seconds.
LAST_WORDS = 0.8
MAX_ID = 2**63
#: The second one keeps a proxy from holding back what it gets.
HEADERS = {"content-type": "text/event-stream; charset=utf-8", "x-accel-buffering": "no"}


class Gone(Exception):
    """The client went away, or does not read: there is nobody to tell anything."""


class Stream:
    """The writing side of one stream. ``stopping`` is the server's stop event. ``websocket.Socket`` is another one."""

    def __init__(self, send: Send, stopping: anyio.Event) -> None:
        self._send = send
        self._stopping = stopping
        self._last_write = anyio.current_time()
        #: The caller's token or session has ended.
        self.forbidden = False

    @property
    def stopping(self) -> bool:
        return self.forbidden or self._stopping.is_set()

    async def begin(self) -> None:
        """Send the head of the answer; nothing may be refused any more after it."""
        headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
        await self._write({"type": "http.response.start", "status": 200, "headers": headers})

    async def write(self, data: bytes) -> None:
        """Write frames.

        Raises:
            Gone: the client did not take them in ``WRITE_TIMEOUT`` seconds.
        """
        await self._write({"type": "http.response.body", "body": data, "more_body": True})

    async def show(self, batch: Batch) -> None:
        """Write what a reader took; nothing is written of an empty batch.

        Raises:
            Gone: as of ``write``.
        """
        if batch.gap:
            await self.tell_gap(batch.gap, batch.gap.last)
        if batch.entries:
            await self.write(batch.frames())

    async def tell_gap(self, gap: Gap | None, last: int) -> None:
        """Write that records up to ``last`` were missed. Of an unknown gap (None) only its end is known."""
        await self.write(gap_event(gap, last))

    async def tell_shutdown(self) -> None:
        """Write that the server is going."""
        await self.write(event("shutdown", None, {}))

    async def tell_forbidden(self) -> None:
        """Write, for people who look, why the stream ends; asking again is refused."""
        await self.write(b": the token has ended\n\n")

    async def finish(self) -> None:
        """End the answer."""
        await self._write({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, message: Message) -> None:
        try:
            with anyio.fail_after(WRITE_TIMEOUT):
                await self._send(message)
        except (TimeoutError, OSError) as error:
            raise Gone from error
        self._last_write = anyio.current_time()

    async def wait_news(self, reader: Reader) -> None:
        """Wait until the reader has something, or it is time for a heartbeat, which is then written."""
        with anyio.move_on_at(self._last_write + HEARTBEAT):
            await reader.wait()
            return
        await self.write(b":\n\n")


def event(name: str, entry_id: int | None, data: object) -> bytes:
    """Encode a named event; names come from this module alone."""
    head = b"" if entry_id is None else b"id: %d\n" % entry_id
    return b"%bevent: %b\ndata: %b\n\n" % (head, name.encode(), msgspec.json.encode(data))


def gap_event(gap: Gap | None, last: int) -> bytes:
    """Encode a gap. Of an unknown one (the client's last id was none of ours) only its end is known."""
    first = None if gap is None else str(gap.first)
    return event("gap", last, {"from": first, "to": str(last)})


def end_event(entry: EventEntry) -> bytes:
    """Encode the record that ends a run's stream."""
    return b"event: end\n" + entry.frame


def progress_event(step: str, how_far: Mapping[str, Any]) -> bytes:
    """Encode how far a step, or an item of one, is."""
    return event("progress", None, {"step": step, **how_far})


def stream_head() -> Response:
    """The answer to HEAD on a stream."""
    return Response(headers=HEADERS)


class Feed(Protocol):
    """What a stream shows. ``reader`` may be replaced while it runs; who replaces one closes it."""

    reader: Reader

    async def run(self, stream: "Stream") -> None:
        """Write everything, until the stream is over or ``stream.stopping``."""
        ...


async def serve_stream(feed: Feed, receive: Receive, send: Send, stopping: anyio.Event, lease: Lease) -> None:
    """Run a feed as server-sent events; see ``serve_feed``."""
    await serve_feed(feed, Stream(send, stopping), receive, stopping, lease)


async def serve_feed(feed: Feed, stream: Stream, receive: Receive, stopping: anyio.Event, lease: Lease) -> None:
    """Run a feed until it is over, its client has gone, its lease or the server has ended.

    **Cancellation**: ends it at once.
    """

    async def watch_client() -> None:
        while not (await receive())["type"].endswith(".disconnect"):
            pass
        group.cancel_scope.cancel("the client has gone")

    async def watch_server() -> None:
        await stopping.wait()
        feed.reader.close()

    async def watch_lease() -> None:
        await lease.wait_ended()
        stream.forbidden = True
        feed.reader.close()
        await anyio.sleep(LAST_WORDS)
        group.cancel_scope.cancel("the lease has ended and the client does not read")

    # In the group: the watchers, and the feed in its body, at whose end, whatever it is, they are cancelled.
    async with anyio.create_task_group() as group:
        group.start_soon(watch_client, name="sse client watcher")
        group.start_soon(watch_server, name="sse stop watcher")
        group.start_soon(watch_lease, name="sse lease watcher")
        with suppress(Gone):
            await stream.begin()
            await feed.run(stream)
            if stream.forbidden:
                await stream.tell_forbidden()
            elif stream.stopping:
                await stream.tell_shutdown()
            await stream.finish()
        group.cancel_scope.cancel("the stream is over")


def parse_last_id(text: str | None) -> int | None:
    """Read ``Last-Event-ID``: None if there is none, -1 if it is none that we could have given."""
    if text is None or text == "":
        return None
    if text.isascii() and text.isdigit() and len(text) <= 19 and int(text) < MAX_ID:
        return int(text)
    return -1
