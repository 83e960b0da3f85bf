"""Streams that go on where they broke: over a lost connection, a server that restarts, a proxy that hangs up.

The records have ids; a stream that broke is asked for again behind the last one that came (``Last-Event-ID``), so that
none is missed and none comes twice. Where the server itself has lost some, it says so with a ``Gap``.
"""

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from aura.api import EventRecord, Gap, LogRecord, Shutdown, StepProgress
from aura.client.connection import Connection, Waiting, is_passing
from aura.client.source import Source
from aura.errors import ClientError, Refused, Unreachable

if TYPE_CHECKING:
    import httpx2

Record = LogRecord | EventRecord | Gap | StepProgress | Shutdown

#: Seconds without a byte after which a stream counts as lost; the server sends a comment every 15 s.
STREAM_SILENCE = 45.0
#: The largest record that is taken, in bytes.
MAX_RECORD = 16 * 1024 * 1024
#: What a stream that broke before its first record is asked for behind: all of a run; of other streams the server says
#: with a gap that it cannot know what was missed.
NOTHING_YET = "0"

_RECORDS: msgspec.json.Decoder[LogRecord | EventRecord] = msgspec.json.Decoder(LogRecord | EventRecord)


class _Kind(msgspec.Struct):
    kind: str


class Stream(Source[Record]):
    """Records as they come. It ends where the server says so: a run's with the run."""

    def __init__(self, connection: Connection, path: str, params: Mapping[str, Any] | None, after: str | None) -> None:
        """``after``: the id of the last record that is known already."""
        self._connection = connection
        self._path = path
        self._params = params
        self._last_id = after
        self._waiting = Waiting()
        self._was_open = False
        self._is_over = False
        self._answer: httpx2.Response | None = None
        self._events: AsyncIterator[httpx2.ServerSentEvent] | None = None

    async def next(self) -> Record | None:
        """The next record, None at the end.

        Raises:
            Unreachable: nobody answers at first, or nobody has for ``PATIENCE`` seconds after it broke.
            Refused: the server does not give it.

        **Cancellation**: breaks the connection and loses nothing; the next call makes another.
        """
        while not self._is_over:
            try:
                event = await self._next_event()
            except ClientError as error:
                if not self._may_pass(error):
                    raise
                await self._waiting.pause(error)
                continue
            record = self._take(event)
            if record is not None:
                return record
        await self.aclose()
        return None

    async def aclose(self) -> None:
        """Hang up."""
        self._is_over = True
        await self._hang_up()

    async def _next_event(self) -> "httpx2.ServerSentEvent | None":
        """One event; None when there will be no other.

        Raises:
            ClientError: it broke, or could not be opened; it is hung up then.
        """
        try:
            if self._events is None:
                self._events = await self._open()
            if self._events is None:
                return None
            with self._connection.speaking():
                return await anext(self._events)
        except StopAsyncIteration as end:
            await self._hang_up()
            raise Unreachable(f"the stream of {self._connection.target} was cut off") from end
        except BaseException:
            await self._hang_up()
            raise

    async def _open(self) -> "AsyncIterator[httpx2.ServerSentEvent] | None":
        """Ask for the stream; None if the server says that it is over (204)."""
        import httpx2

        last_id = self._last_id or (NOTHING_YET if self._was_open else None)
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
        self._answer = await self._connection.open(
            self._path, params=self._params, headers=headers, silence=STREAM_SILENCE
        )
        if self._answer.status_code == 204:
            return None
        self._was_open = True
        self._waiting.over()
        return aiter(httpx2.EventSource(self._answer, max_event_size=MAX_RECORD))

    async def _hang_up(self) -> None:
        answer, self._answer, self._events = self._answer, None, None
        if answer is not None:
            await self._connection.hang_up(answer)

    def _may_pass(self, error: ClientError) -> bool:
        if isinstance(error, Refused):
            return is_passing(error) and self._was_open
        return isinstance(error, Unreachable) and (self._was_open or self._connection.is_lost(error))

    def _take(self, event: "httpx2.ServerSentEvent | None") -> Record | None:
        """The record that an event has; None for what this version does not know."""
        if event is None or event.event == "end":
            self._is_over = True
        if event is None:
            return None
        self._last_id = event.id or self._last_id
        self._waiting.calm()
        match event.event:
            case "message" | "end":
                return _read_record(event.data)
            case "gap":
                return msgspec.json.decode(event.data, type=Gap)
            case "progress":
                return msgspec.json.decode(event.data, type=StepProgress)
            case "shutdown":
                return Shutdown()
        return None


def _read_record(data: str) -> Record | None:
    """A log line or an event; None for a kind of record that later versions have.

    Raises:
        Refused: it cannot be read.
    """
    try:
        return _RECORDS.decode(data)
    except msgspec.DecodeError as error:
        if isinstance(error, msgspec.ValidationError) and _is_of_other_kind(data):
            return None
        raise Refused(200, "unknown", f"a record of the stream cannot be read: {error}") from error


def _is_of_other_kind(data: str) -> bool:
    try:
        return msgspec.json.decode(data, type=_Kind).kind not in ("log", "event")
    except msgspec.ValidationError:
        return False
