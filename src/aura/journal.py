"""The journal: the newest log lines and events in one bounded ring, read by any number of readers at their own pace.

Theory of operation. Every record passes ``Journal._admit`` once and gets the next id. The ring holds the newest
``ring`` of them; a reader is a position in it and nothing else, so a reader that has stopped costs nothing and
publishing never waits for anyone. Who falls behind the ring's tail is told so by one gap, and goes on.

An event is *staged* when it is handed to the store, and shown to readers once its commit is known (``settle``): nobody
is told what may still be undone. To keep the order of ids, what stands behind a staged entry waits with it. If the ring
overflows in that time, the staged entry is evicted like any other and blocks nothing more; it stays hidden.

A reader of one run gets a ring of that run's own, made with its first reader and gone with its last, so that nobody
scans the big one. A reader's ``start`` divides the world: what is below that id is in the store (once the log writer
has been flushed), what is at or above it comes from the reader. So a stream subscribes first, reads the store up to
``start``, and goes on with the reader, with no record lost and none twice.

A crash loses what is here; the store keeps all events, and all logs but those of the last second.

Everything here is called on the event loop's thread only; ``logs`` brings lines of other threads over.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from aura.clock import Clock
from aura.eventnames import is_own
from aura.events import (
    BOOT_SHIFT,
    DROPPED,
    LEVELS,
    SHOWN,
    STAGED,
    Chain,
    Entry,
    EventEntry,
    LogEntry,
    clean_text,
    plain,
    size_of,
)
from aura.redaction import Redactor

Match = Callable[[Entry], bool]

#: Entries that the ring of a single run holds.
RUN_RING = 4096
RUN_RING_BYTES = 8 * 1024 * 1024
#: Readers that are woken in one turn of the loop. A write takes each 0.1 ms, and others have something to do as well.
WOKEN_AT_ONCE = 16
#: Most entries, and about the most bytes, of one batch: what one reader may keep in memory at a time.
BATCH = 1000
BATCH_BYTES = 1024 * 1024


class Gap(NamedTuple):
    """The ids of records that a reader missed: from the first one to the last one, both included."""

    first: int
    last: int


class Batch(NamedTuple):
    """What a reader takes at a time: first the gap, if there is one, then the entries that follow it."""

    gap: Gap | None
    entries: list[Entry]

    def frames(self) -> bytes:
        """All entries as one chunk of SSE frames."""
        return b"".join([entry.kept_frame or entry.frame for entry in self.entries])


class _Ring:
    """A bounded window over an endless sequence: position ``n`` lives in slot ``n % size``.

    Invariant: ``first <= visible <= next``; readers may see ``[first, visible)``, and the entry at ``visible`` is
    staged or not there yet.
    """

    __slots__ = (
        "_bytes", "_max_bytes", "_size", "_slots", "_waiting", "_woken", "evicted", "first", "next", "nudges",
        "readers", "visible",
    )  # fmt: skip

    def __init__(self, size: int, max_bytes: int, first: int = 0) -> None:
        self._slots: list[Entry | None] = [None] * size
        self._size = size
        self._max_bytes = max_bytes
        self._bytes = 0
        #: Readers that wait for something new, and those of them whose turn to look comes next.
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._woken: deque[asyncio.Future[None]] = deque()
        self.first = self.visible = self.next = first
        self.evicted = 0
        self.readers = 0
        #: How often its readers were to look at something that is no record.
        self.nudges = 0

    def append(self, entry: Entry) -> None:
        position = self.next
        if position - self.first == self._size:
            self._evict()
        self._slots[position % self._size] = entry
        self.next = position + 1
        self._bytes += entry.size
        while self._bytes > self._max_bytes and self.next - self.first > 1:
            self._evict()
        if entry.state != STAGED and self.visible == position:
            self.visible = self.next
            if self._waiting:
                self.wake()

    def advance(self) -> None:
        """Show what is no longer held back by a staged entry."""
        slots, size = self._slots, self._size  # for each event, so it has to be quick
        position, end = self.visible, self.next
        while position < end and (entry := slots[position % size]) is not None and entry.state != STAGED:
            position += 1
        if position > self.visible:
            self.visible = position
            if self._waiting:
                self.wake()

    def _evict(self) -> None:
        position, slots = self.first, self._slots
        slot = position % self._size
        oldest = slots[slot]
        assert oldest is not None
        slots[slot] = None
        self._bytes -= oldest.size
        self.evicted = oldest.id
        self.first = position + 1
        if self.visible <= position:
            self.visible = self.first
            self.advance()

    def position_of(self, id: int) -> int:
        """The position of the oldest entry whose id is at least ``id``, looked for from the newest backwards."""
        position = self.next
        while position > self.first and self.at(position - 1).id >= id:
            position -= 1
        return position

    def at(self, position: int) -> Entry:
        entry = self._slots[position % self._size]
        assert entry is not None
        return entry

    def slice(self, start: int, stop: int) -> list[Any]:
        """The entries of ``[start, stop)``, which must be inside the ring."""
        low, high = start % self._size, stop % self._size
        if start == stop:
            return []
        return self._slots[low:high] if low < high else self._slots[low:] + self._slots[:high]

    def wake(self) -> None:
        """Let every waiting reader look again, a few in each turn of the loop: who publishes waits for none of them."""
        if not self._woken:
            asyncio.get_running_loop().call_soon(self._wake_some)
        self._woken.extend(self._waiting)
        self._waiting.clear()

    def _wake_some(self) -> None:
        for _ in range(min(WOKEN_AT_ONCE, len(self._woken))):
            waiter = self._woken.popleft()
            if not waiter.done():  # else it was cancelled
                waiter.set_result(None)
        if self._woken:
            asyncio.get_running_loop().call_soon(self._wake_some)

    def new_waiter(self) -> asyncio.Future[None]:
        """What a reader that has seen everything awaits; ``forget`` it afterwards, however that went."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = None
        return waiter

    def forget(self, waiter: asyncio.Future[None]) -> None:
        self._waiting.pop(waiter, None)


class Reader:
    """One reader's place in a ring. ``start`` is the id from which on it gives everything (see the module's text)."""

    __slots__ = ("_close", "_last", "_match", "_nudges", "_position", "_ring", "_waiter", "closed", "start")

    def __init__(
        self, ring: _Ring, position: int, start: int, match: Match | None, close: Callable[[], None] | None = None
    ) -> None:
        self._ring = ring
        self._position = position
        self._last = start - 1
        self._match = match
        self._close = close
        self._nudges = ring.nudges
        self._waiter: asyncio.Future[None] | None = None
        self.start = start
        self.closed = False
        ring.readers += 1

    async def wait(self) -> None:
        """Return once ``take`` has something to look at, or ``take_nudge``, or the reader is closed.

        **Cancellation**: loses nothing.
        """
        while not self.closed and self._position >= self._ring.visible and self._nudges == self._ring.nudges:
            self._waiter = waiter = self._ring.new_waiter()
            try:
                await waiter
            finally:
                self._ring.forget(waiter)

    def take_nudge(self) -> bool:
        """Say whether there was a ``Journal.nudge`` since the last call. Only readers of one run get any."""
        before, self._nudges = self._nudges, self._ring.nudges
        return self._nudges != before

    def take(self, limit: int = BATCH) -> Batch:
        """Take what has come, without waiting. The batch may be empty: what came did not match, or was dropped."""
        gap = self._skip_missed()
        found = self._ring.slice(self._position, min(self._ring.visible, self._position + limit))
        if sum([entry.size for entry in found]) > BATCH_BYTES:
            found = _first_bytes(found)
        if found:
            self._position += len(found)
            self._last = found[-1].id
        match = self._match
        if match is None:
            return Batch(gap, [entry for entry in found if entry.state == SHOWN])
        return Batch(gap, [entry for entry in found if entry.state == SHOWN and match(entry)])

    def _skip_missed(self) -> Gap | None:
        if self._position >= self._ring.first:
            return None
        gap = Gap(self._last + 1, self._ring.evicted)
        self._position, self._last = self._ring.first, gap.last
        return gap

    def close(self) -> None:
        """Give the place back and end a ``wait`` that is under way. Closing twice is harmless."""
        if self.closed:
            return
        self.closed = True
        self._ring.readers -= 1
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if self._close is not None:
            self._close()


class Journal:
    """Takes every log line and event of one boot, in order, and shows them to readers."""

    def __init__(
        self,
        boot: int,
        clock: Clock,
        ring: int = 10_000,
        ring_bytes: int = 32 * 1024 * 1024,
        redactor: Redactor | None = None,
    ) -> None:
        self._redactor = redactor or Redactor()
        self._base = boot << BOOT_SHIFT
        self._clock = clock
        self._ring = _Ring(ring, ring_bytes, first=1)
        self._runs: dict[str, _Ring] = {}
        self._sinks: list[Callable[[LogEntry], None]] = []
        #: How many log lines were never stored; counted by the log writer.
        self.unstored = 0

    @property
    def head(self) -> int:
        """The id that the next record will get: an id from here on has not been given out."""
        return self._base + self._ring.next

    @property
    def tail(self) -> int:
        """The id of the oldest record that is still in the ring (``head`` if there is none)."""
        return self._base + self._ring.first

    @property
    def readers(self) -> int:
        """How many readers are open."""
        return self._ring.readers + sum(ring.readers for ring in self._runs.values())

    def add_sink(self, sink: Callable[[LogEntry], None]) -> None:
        """Have ``sink`` called with every log line, in order, as it is published. It must not wait and not raise."""
        self._sinks.append(sink)

    # -- publishing ----------------------------------------------------------------------------------------------------

    def stage(
        self,
        name: str,
        *,
        cid: str | None = None,
        plan_name: str | None = None,
        task_name: str | None = None,
        step: str | None = None,
        payload: Any = None,
        root: str | None = None,
        depth: int = 0,
        cause: str | None = None,
        chain: Chain | None = None,
    ) -> EventEntry:
        """Give an event its id and place while it is on its way to the store. ``settle`` must follow.

        ``payload`` is plain JSON data that nobody changes any more.
        """
        entry = EventEntry(
            self._base + self._ring.next, self._clock.wall(), cid, plan_name, task_name, step, name, payload, cause,
            root, depth, chain, state=STAGED,
        )  # fmt: skip
        if payload is not None:
            entry.size += 2 * size_of(payload)
        self._admit(entry)
        return entry

    def settle(self, entries: Sequence[Entry], committed: bool) -> None:
        """Show staged entries whose unit was committed, or drop them for good if it failed."""
        state = SHOWN if committed else DROPPED
        for entry in entries:
            entry.state = state
        self._ring.advance()
        if self._runs:
            for cid in {entry.cid for entry in entries}:
                if cid in self._runs:
                    self._runs[cid].advance()

    def log(
        self,
        level: str,
        message: str,
        *,
        cid: str | None = None,
        plan_name: str | None = None,
        task_name: str | None = None,
        step: str | None = None,
        attempt: int | None = None,
        fields: Mapping[str, Any] | None = None,
        at: float | None = None,
    ) -> LogEntry:
        """Publish one log line. ``at`` is when it was written, in Unix seconds, if that is not now."""
        message = clean_text(message)
        data: dict[str, Any] = plain(fields) if fields else {}
        entry = LogEntry(
            self.head, self._clock.wall() if at is None else at, cid, plan_name, task_name, step,
            LEVELS.get(level, 20), message, attempt, data,
        )  # fmt: skip
        entry.size += 2 * len(message)
        if data:
            entry.size += 2 * size_of(data)
        self._admit(entry)
        for sink in self._sinks:
            sink(entry)
        return entry

    def _admit(self, entry: Entry) -> None:
        """The one place that every record passes before anybody can see it: what has to be hidden is hidden here."""
        if self._redactor.knows:
            self._hide(entry)
        self._ring.append(entry)
        if self._runs and entry.cid in self._runs:
            self._runs[entry.cid].append(entry)

    def _hide(self, entry: Entry) -> None:
        match entry:
            case LogEntry():
                entry.message = self._redactor.text(entry.message)
                entry.fields = self._redactor.plain(entry.fields)
            case EventEntry():
                entry.payload = self._redactor.plain(entry.payload)
                if not is_own(entry.name):
                    entry.name = self._redactor.text(entry.name)

    # -- reading -------------------------------------------------------------------------------------------------------

    def subscribe(self, kinds: Collection[str], match: Match | None = None, after: int | None = None) -> Reader:
        """Open a reader of records of these kinds (``log``, ``event``) for which ``match`` is true.

        It begins behind the id ``after`` if the ring still has what follows it, else at the ring's oldest record;
        without ``after`` at what comes next.
        """
        position = self._ring.visible
        if after is not None and after < self.head:
            position = max(after + 1 - self._base, self._ring.first)
        return Reader(self._ring, position, self._base + position, _matcher(frozenset(kinds), match))

    def events_since(self, since: int) -> list[EventEntry]:
        """The events with ids from ``since`` on that are still in the ring, staged ones too, but none that was lost."""
        first = max(since - self._base, self._ring.first)
        found = self._ring.slice(min(first, self._ring.next), self._ring.next)
        return [entry for entry in found if isinstance(entry, EventEntry) and entry.state != DROPPED]

    def watch_run(self, cid: str) -> Reader:
        """Open a reader of all records of one run, from now on."""
        boundary = self._ring.visible
        ring = self._runs.get(cid) or self._new_run_ring(cid, boundary)
        start = self._base + boundary
        return Reader(ring, ring.position_of(start), start, None, lambda: self._forget_run(cid, ring))

    def is_watched(self, cid: str) -> bool:
        """Whether somebody reads this run alone. From any thread."""
        return cid in self._runs

    def nudge(self, cid: str) -> None:
        """Have the readers of one run look at what is no record, such as its progress."""
        if ring := self._runs.get(cid):
            ring.nudges += 1
            ring.wake()

    def _new_run_ring(self, cid: str, boundary: int) -> _Ring:
        """Begin with what nobody can read from the store yet: the few entries that are still held back."""
        ring = self._runs[cid] = _Ring(RUN_RING, RUN_RING_BYTES)
        for entry in self._ring.slice(boundary, self._ring.next):
            if entry.cid == cid:
                ring.append(entry)
        return ring

    def _forget_run(self, cid: str, ring: _Ring) -> None:
        if not ring.readers and self._runs.get(cid) is ring:
            del self._runs[cid]


def _first_bytes(entries: list[Any]) -> list[Any]:
    """The first entries, up to the one with which they are more than ``BATCH_BYTES``."""
    size = 0
    for count, entry in enumerate(entries, 1):
        size += entry.size
        if size > BATCH_BYTES:
            return entries[:count]
    return entries


def _matcher(kinds: frozenset[str], match: Match | None) -> Match | None:
    if {LogEntry.kind, EventEntry.kind} <= kinds:
        return match
    if match is None:
        return lambda entry: entry.kind in kinds
    return lambda entry: entry.kind in kinds and match(entry)
