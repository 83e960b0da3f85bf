"""The ways into the journal for text: structlog loggers, the standard library's logging, and lines of other threads.

``Logs`` makes loggers that know which run they speak for; ``LogWriter`` brings lines to the store in batches;
``Console`` shows them on stderr. None of them makes a caller wait: each has a bound, and says how much it dropped.
"""

import asyncio
import logging
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, NamedTuple, TextIO, cast

import anyio
import anyio.to_thread
import msgspec
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor

from aura.clock import Clock, rfc3339
from aura.errors import StoreReadOnly
from aura.events import LEVEL_NAMES, LEVELS, LogEntry, clean_text, plain, printable, size_of
from aura.journal import Journal

#: What may wait at most on its way from other threads to the loop.
INBOX_LINES = 10_000
INBOX_BYTES = 16 * 1024 * 1024


class Origin(msgspec.Struct, frozen=True):
    """Whom a line comes from. All None for the server itself."""

    cid: str | None = None
    plan_name: str | None = None
    task_name: str | None = None
    step: str | None = None
    attempt: int | None = None


_SERVER = Origin()
_origin: ContextVar[Origin] = ContextVar("aura_log_origin", default=_SERVER)


@contextmanager
def speaking_for(origin: Origin) -> Iterator[None]:
    """Have lines of the standard library's logging, in this context and below it, carry this origin."""
    token = _origin.set(origin)
    try:
        yield
    finally:
        _origin.reset(token)


#: The logs of the server that the present context belongs to.
_inside: ContextVar["Logs | None"] = ContextVar("aura_logs", default=None)


class Logs:
    """Makes loggers whose lines go to one journal. To be made on the event loop's thread; usable from any."""

    def __init__(self, journal: Journal, clock: Clock, level: str = "info") -> None:
        self._journal = journal
        self._clock = clock
        self._level = LEVELS[level]
        self._bound_logger = structlog.make_filtering_bound_logger(self._level)
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._inbox = _Inbox()
        self.log = self.logger_for()

    def logger_for(
        self,
        cid: str | None = None,
        plan_name: str | None = None,
        task_name: str | None = None,
        step: str | None = None,
        attempt: int | None = None,
    ) -> FilteringBoundLogger:
        """Make a logger whose every line carries this origin; no field that a caller gives can change it."""
        port = _Port(self, Origin(cid, plan_name, task_name, step, attempt))
        lazy = structlog.wrap_logger(port, processors=_PROCESSORS, wrapper_class=self._bound_logger, context_class=dict)
        return cast(FilteringBoundLogger, lazy.bind())

    @contextmanager
    def capture_stdlib(self, own_only: bool = False) -> Iterator[None]:
        """Route the standard library's logging here: asyncio's, Hypercorn's, and what libraries of plans write.

        ``own_only``: the process is another program's. Only what comes from inside this call, and from the children and
        threads that are begun in it, is taken, and no level is changed: lines below the root logger's are not seen.
        """
        root, handler = logging.getLogger(), _StdlibHandler(self)
        former = root.level
        inside = _inside.set(self)
        root.addHandler(handler)
        if own_only:
            handler.addFilter(lambda _: _inside.get() is self)
        else:
            root.setLevel(max(self._level, logging.INFO))
        try:
            yield
        finally:
            root.removeHandler(handler)
            if not own_only:
                root.setLevel(former)
            _inside.reset(inside)

    def write(self, level: str, message: str, fields: Mapping[str, Any], origin: Origin) -> None:
        """Publish one line now, or, from another thread, as soon as the loop gets to it."""
        if threading.get_ident() == self._thread:
            self._publish(_Line(level, message, fields, origin, None))
            return
        line = _Line(level, clean_text(message), plain(fields), origin, self._clock.wall())
        if self._inbox.put(line):
            with suppress(RuntimeError):  # the loop has been closed: nobody is left who could read the line
                self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        lines, dropped = self._inbox.take()
        for line in lines:
            self._publish(line)
        if dropped:
            self._publish(_Line("warning", f"{dropped} log lines of threads were dropped: they came too fast"))

    def _publish(self, line: "_Line") -> None:
        origin = line.origin
        self._journal.log(
            line.level, line.message, cid=origin.cid, plan_name=origin.plan_name, task_name=origin.task_name,
            step=origin.step, attempt=origin.attempt, fields=line.fields, at=line.at,
        )  # fmt: skip


class _Line(NamedTuple):
    level: str
    message: str
    fields: Mapping[str, Any] = {}
    origin: Origin = _SERVER
    at: float | None = None


class _Inbox:
    """Lines of other threads on their way to the loop. The lock is held for a few instructions only, by both sides."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: list[_Line] = []
        self._bytes = 0
        self._dropped = 0

    def put(self, line: _Line) -> bool:
        """Add a line, or count it as dropped; say whether the loop has to be told."""
        size = len(line.message) + size_of(line.fields)
        with self._lock:
            if len(self._lines) >= INBOX_LINES or self._bytes + size > INBOX_BYTES:
                self._dropped += 1
                return False
            self._lines.append(line)
            self._bytes += size
            return len(self._lines) == 1

    def take(self) -> tuple[list[_Line], int]:
        with self._lock:
            lines, dropped = self._lines, self._dropped
            self._lines, self._bytes, self._dropped = [], 0, 0
        return lines, dropped


class _Port:
    """What structlog takes for the wrapped logger: its methods get the finished event dictionary."""

    def __init__(self, logs: Logs, origin: Origin) -> None:
        self._logs = logs
        self._origin = origin

    def _write(self, event: dict[str, Any]) -> None:
        level = event.pop("level")
        message = event.pop("event", "")
        self._logs.write(level, message if isinstance(message, str) else repr(message), event, self._origin)

    debug = info = warning = error = critical = _write


def _as_argument(_logger: Any, _method: str, event: EventDict) -> tuple[tuple[Any], dict[str, Any]]:
    return (event,), {}


_PROCESSORS: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.format_exc_info,
    _as_argument,
]


class _StdlibHandler(logging.Handler):
    """Turns records of the standard library's logging into our lines."""

    def __init__(self, logs: Logs) -> None:
        super().__init__()
        self._logs = logs

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {"logger": record.name}
        if record.exc_info:
            fields["exception"] = logging.Formatter().formatException(record.exc_info)
        try:
            message = record.getMessage()
        except Exception as error:
            message = f"{record.msg!r:.1000} (its arguments do not fit: {error!r:.200})"
        level = max((n for n in LEVEL_NAMES if n <= max(record.levelno, 10)), default=10)
        self._logs.write(LEVEL_NAMES[level], message, fields, _origin.get())


class LogWriter:
    """Brings log lines to the store, a second after they were written at the latest.

    ``write`` stores one batch and returns once it is committed. What waits is bounded: when there is too much, the
    oldest lines are dropped, and one line says how many. Readers see dropped lines live, but not in the history.
    Lines are dropped as well while the storage cannot be written or its disk is short of room; that is said once it is
    over, or what says so would be the next to be dropped.
    While nobody serves, lines gather up to the same bound. A batch whose ``write`` fails is kept for the next
    ``serve``; if that fails with it too it is dropped, so that no line can keep all others from being stored.
    """

    def __init__(
        self,
        journal: Journal,
        write: Callable[[Sequence[LogEntry]], Awaitable[None]],
        *,
        limit: int = 20_000,
        limit_bytes: int = 32 * 1024 * 1024,
        interval: float = 0.25,
    ) -> None:
        self._journal = journal
        self._write = write
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._interval = interval
        self._waiting: deque[LogEntry] = deque()
        self._bytes = 0
        self._dropped = 0
        self._taken = 0  # how many lines were ever put
        self._done = 0  # how many of them have been stored or dropped
        self._some = asyncio.Event()  # set: there is a line to store, or no more will come
        self._hurry = asyncio.Event()  # set: do not wait for more lines
        self._progress = asyncio.Event()
        #: Set by ``close``: ``serve`` is to store what is left and end.
        self.closing = anyio.Event()
        self._serving = False
        self._failed = False  # the latest batch could not be written and was put back
        self._away = False  # the latest batch was dropped, since the storage could not be written
        self._ended = False  # ``serve`` has returned: nothing more will be stored

    def put(self, entry: LogEntry) -> None:
        """Take a line; never waits. To be given to ``Journal.add_sink``."""
        self._waiting.append(entry)
        self._taken += 1
        self._bytes += entry.size
        self._some.set()
        self._trim()

    def _trim(self) -> None:
        """Drop the oldest lines while there are too many."""
        while len(self._waiting) > self._limit or self._bytes > self._limit_bytes:
            self._bytes -= self._waiting.popleft().size
            self._drop(1)
            self._done += 1

    def _drop(self, count: int) -> None:
        self._dropped += count
        self._journal.unstored += count

    async def serve(self) -> None:
        """Store lines until ``close``, then the rest of them, and return.

        Raises:
            Exception: what ``write`` raised, and ``serve`` may be called again. A full disk is no such case: its lines
                are dropped and counted.
        """
        self._serving = True
        try:
            while not (self._is_closed and not self._waiting):
                await self._some.wait()
                # what ends the pause if nobody waits for a flush; a scope would cost a turn more
                timer = asyncio.get_running_loop().call_later(self._interval, self._hurry.set)
                try:
                    await self._hurry.wait()
                finally:
                    timer.cancel()
                await self._store_waiting()
            self._ended = True
        finally:
            self._serving = False
            self._tell_progress()

    async def _store_waiting(self) -> None:
        self._tell_dropped()
        batch, self._waiting, self._bytes = self._waiting, deque(), 0
        if not self._is_closed:
            self._some, self._hurry = asyncio.Event(), asyncio.Event()
        if not batch:
            return
        kept = False
        try:
            await self._write(batch)
        except StoreReadOnly:
            self._away = True
            self._drop(len(batch))
        except Exception:
            kept = self._put_back(batch)
            raise
        else:
            if self._away:
                self._away = False
                self._tell_dropped("the storage could not be written")
        finally:  # when it is cancelled, too: the storage has the batch
            self._failed = kept
            self._done += 0 if kept else len(batch)
            self._tell_progress()

    def _put_back(self, batch: deque[LogEntry]) -> bool:
        """Keep what could not be written before all that has come since; or drop it, if that was done with the last."""
        if self._failed or self._is_closed:
            self._drop(len(batch))
            return False
        self._waiting.extendleft(reversed(batch))
        self._bytes += sum(entry.size for entry in batch)
        self._some.set()
        self._trim()
        return True

    def _tell_progress(self) -> None:
        self._progress.set()
        self._progress = asyncio.Event()

    @property
    def _is_closed(self) -> bool:
        return self.closing.is_set()

    def _tell_dropped(self, why: str = "the storage could not keep up") -> None:
        if self._dropped and not self._away and not self._is_closed:
            count, self._dropped = self._dropped, 0
            self._journal.log("warning", f"{count} log lines were not stored: {why}")

    async def flush(self, timeout: float = 5.0) -> None:
        """Return once every line put so far is stored or dropped, after ``timeout`` seconds, or if nobody serves.

        Between ``close`` and the end of ``serve`` somebody is going to serve what is left, and is waited for.
        """
        goal = self._taken
        with anyio.move_on_after(timeout):
            while self._done < goal and (self._serving or (self._is_closed and not self._ended)):
                progress = self._progress
                self._hurry.set()
                await progress.wait()

    def close(self) -> None:
        """Let ``serve``, or the next one, store what is left and end."""
        self.closing.set()
        self._some.set()
        self._hurry.set()


class Console:
    """Shows log lines on a text stream such as stderr. A stream that does not take them loses lines, nothing else."""

    def __init__(self, stream: TextIO | None = None, *, limit: int = 1000, limit_bytes: int = 2 * 1024 * 1024) -> None:
        self._stream = stream or sys.stderr
        self._lines: deque[LogEntry] = deque()
        self._bytes = 0
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._dropped = 0
        self._wake = anyio.Event()
        self._limiter = anyio.CapacityLimiter(1)

    def put(self, entry: LogEntry) -> None:
        """Take a line; never waits. To be given to ``Journal.add_sink``."""
        self._lines.append(entry)
        self._bytes += entry.size
        while len(self._lines) > self._limit or self._bytes > self._limit_bytes:
            self._bytes -= self._lines.popleft().size
            self._dropped += 1
        self._wake.set()

    async def serve(self) -> None:
        """Write lines until cancelled. Writing happens in a thread: a terminal that was stopped must not stop us."""
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            text = self._take_text()
            await anyio.to_thread.run_sync(self._write, text, abandon_on_cancel=True, limiter=self._limiter)

    def _take_text(self) -> str:
        taken, self._lines = self._lines, deque()  # first: a line that cannot be shown must not come again and again
        self._bytes = 0
        dropped, self._dropped = self._dropped, 0
        lines = [render(entry) for entry in taken]
        if dropped:
            lines.insert(0, f"… {dropped} log lines not shown")
        return "".join(f"{line}\n" for line in lines)

    def _write(self, text: str) -> None:
        with suppress(OSError, ValueError):  # nobody reads stderr any more, or it is closed
            self._stream.write(text)
            self._stream.flush()

    def flush(self) -> None:
        """Write what is left at once: for the very end, when there is no loop to wait on."""
        if self._lines:
            self._write(self._take_text())


def render(entry: LogEntry) -> str:
    """Write a line for people: time, level, whom it comes from, text, fields. Nothing in it can steer a terminal."""
    where = "/".join(part for part in (entry.plan_name, entry.task_name) if part)
    parts = [rfc3339(entry.time)[:23] + "Z", f"{LEVEL_NAMES.get(entry.level, 'info'):<8}"]
    parts += [part for part in (where, entry.step, entry.cid) if part]
    trace = entry.fields.get("exception")
    parts.append(printable(entry.message))
    parts += [f"{printable(key)}={printable(str(value))}" for key, value in entry.fields.items() if key != "exception"]
    line = " ".join(parts)
    return f"{line}\n{printable(str(trace))}" if trace else line
