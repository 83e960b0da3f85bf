"""The streams that there are: the log lines of everyone, all events, and all of one run from its start to its end.

They read what is past from the store and what is new from the journal, with no seam (``journal`` says why).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from aura.clock import rfc3339
from aura.events import RUN_ENDED, Entry, EventEntry, LogEntry
from aura.journal import Batch, Gap, Reader
from aura.lifecycle import RunState
from aura.records.events import EventFilter
from aura.records.removal import EVENTS_TO, LOGS_TO
from aura.run import RunRecord
from aura.web.facade import Engine
from aura.web.query import LogQuery
from aura.web.sse import MAX_ID, Stream, end_event, event, progress_event

#: Entries read from the store at a time.
PAGE = 500
#: The most steps and items of which progress is told at a time.
PROGRESS_TOLD = 100


class _FeedOfAll:
    """Records of one kind that fit a filter, from behind ``last_id`` (``Last-Event-ID``; None: from now on).

    What it is of is said by those who inherit: how to subscribe, and how to read the store.
    """

    reader: Reader
    #: What retention calls the stream.
    _stream: str

    def __init__(self, engine: Engine, last_id: int | None) -> None:
        """``last_id`` is -1 if it is none that we could have given."""
        self._engine = engine
        self._last_id = last_id
        self.reader = self._subscribe(None if self._is_unknown else last_id)

    @property
    def _is_unknown(self) -> bool:
        return self._last_id is not None and not 0 < self._last_id < self._engine.journal.head

    def _subscribe(self, after: int | None) -> Reader:
        """Open a reader of what is wanted."""
        raise NotImplementedError

    async def _first(self, after: int) -> Entry | None:
        """The first record of this kind, wanted or not, behind an id."""
        raise NotImplementedError

    async def _page(self, after: int, until: int) -> tuple[Sequence[Entry], int | None]:
        """What is wanted of the next records between two ids, and the id behind which to go on, None at the end."""
        raise NotImplementedError

    async def run(self, stream: Stream) -> None:
        if self._is_unknown:
            await stream.tell_gap(None, self.reader.start - 1)
        elif self._last_id is not None:
            await self._resume(stream, self._last_id)
        while not stream.stopping:
            batch = self.reader.take()
            await stream.show(batch)
            if not batch.entries:
                await stream.wait_news(self.reader)

    async def _resume(self, stream: Stream, last_id: int) -> None:
        """Write what the store has, again and again, until the reader stands right behind it."""
        if self.reader.start > last_id + 1:
            await self._tell_pruned(stream, last_id)
        while self.reader.start > last_id + 1 and not stream.stopping:
            await self._replay(stream, last_id, self.reader.start)
            last_id = self.reader.start - 1
            self.reader.close()
            self.reader = self._subscribe(last_id)

    async def _tell_pruned(self, stream: Stream, last_id: int) -> None:
        """Tell a gap if the history has let go of records behind ``last_id``; what it has kept of them follows.

        So it has if that record itself is gone, or one of a later run: runs go one by one, and not in the order of ids.
        """
        last = min(await self._engine.history.removed_to(self._stream), self.reader.start - 1)
        found = await self._first(last_id - 1)
        if found is None or found.id > last_id:
            last = max(last, min(found.id, self.reader.start) - 1 if found else self.reader.start - 1)
        elif last <= last_id:
            return
        await stream.tell_gap(Gap(last_id + 1, last), last)

    async def _replay(self, stream: Stream, after: int, until: int) -> None:
        following: int | None = after
        while following is not None and not stream.stopping:
            past, following = await self._page(following, until)
            await stream.show(Batch(None, list(past)))


class LogFeed(_FeedOfAll):
    """Log lines."""

    _stream = LOGS_TO

    def __init__(self, engine: Engine, wanted: LogQuery, last_id: int | None) -> None:
        self._wanted = wanted
        super().__init__(engine, last_id)

    def _subscribe(self, after: int | None) -> Reader:
        wants_all = all(condition is None for condition in self._wanted.conditions().values())
        return self._engine.journal.subscribe((LogEntry.kind,), None if wants_all else self._wanted.fits, after)

    async def _first(self, after: int) -> Entry | None:
        return next(iter(await self._engine.history.log_entries(after=after, limit=1)), None)

    async def _page(self, after: int, until: int) -> tuple[Sequence[Entry], int | None]:
        conditions = self._wanted.conditions()
        past = await self._engine.history.log_entries(after=after, limit=PAGE, until=until, **conditions)
        return past, past[-1].id if len(past) == PAGE else None


class EventFeed(_FeedOfAll):
    """Events, Aura's own too."""

    _stream = EVENTS_TO

    def __init__(self, engine: Engine, wanted: EventFilter, last_id: int | None) -> None:
        self._wanted = wanted
        super().__init__(engine, last_id)

    def _subscribe(self, after: int | None) -> Reader:
        match = None if self._wanted == EventFilter() else self._wanted.fits
        return self._engine.journal.subscribe((EventEntry.kind,), match, after)

    async def _first(self, after: int) -> Entry | None:
        found = await self._engine.history.event_entries(EventFilter(), after, MAX_ID - 1, 1)
        return next(iter(found.events), None)

    async def _page(self, after: int, until: int) -> tuple[Sequence[Entry], int | None]:
        return await self._engine.history.event_entries(self._wanted, after, until, PAGE)


class RunFeed:
    """All of one run behind ``last_id`` (0: from its start), until its ``end``.

    ``open`` makes one; it has read the first page of the store then.
    """

    def __init__(self, engine: Engine, record: RunRecord, reader: Reader, last_id: int) -> None:
        self._engine = engine
        self._record = record
        self._last_id = last_id
        self._first: Sequence[Entry] = ()
        self._progress: Mapping[str, Any] = {}
        self.reader = reader

    @classmethod
    async def open(cls, engine: Engine, cid: str, last_id: int) -> "RunFeed | None":
        """Make a feed; None if the client has seen the end of that run.

        Raises:
            RequestError: ``unknown_run``.
        """
        reader = engine.journal.watch_run(cid)  # before the run is looked at, so that no end is missed
        try:
            feed = cls(engine, (await engine.history.get_run(cid)).record, reader, last_id)
            feed._first = await feed._read()
        except BaseException:
            reader.close()
            raise
        if feed._ended and last_id and not feed._first:
            reader.close()
            return None
        return feed

    @property
    def _ended(self) -> bool:
        return self._record.state in RUN_ENDED

    async def _read(self) -> list[Entry]:
        return list(await self._engine.history.run_entries(self._record.cid, self._last_id, PAGE))

    async def run(self, stream: Stream) -> None:
        # A run that had ended when it was looked at is in the store whole, also what came after the reader was opened.
        until = MAX_ID if self._ended else self.reader.start
        if await self._replay(stream, self._first, until):
            return
        if self._ended and not stream.stopping:
            await stream.write(self._end_without_event())
            return
        await self._tell_progress(stream)
        while not stream.stopping:
            nudged = self.reader.take_nudge()
            batch = self.reader.take()
            if batch.gap and await self._replay(stream, await self._read(), batch.gap.last + 1):
                return
            if await self._write(stream, batch.entries):
                return
            if nudged:
                await self._tell_progress(stream)
            elif not batch.entries:
                await stream.wait_news(self.reader)

    async def _tell_progress(self, stream: Stream) -> None:
        """Write what is new of the progress of the run's steps. It is no record: it has no id, and is not repeated."""
        now = self._engine.history.progress_of(self._record.cid)
        new = [(step, how_far) for step, how_far in now.items() if self._progress.get(step) != how_far]
        self._progress = now
        if new:
            await stream.write(b"".join(progress_event(step, how_far) for step, how_far in new[:PROGRESS_TOLD]))

    async def _replay(self, stream: Stream, page: Sequence[Entry], until: int) -> bool:
        """Write what the store has below ``until``, beginning with ``page``; say whether that was the end."""
        while not stream.stopping:
            past = [entry for entry in page if entry.id < until]
            if await self._write(stream, past):
                return True
            if len(past) < PAGE:
                return False
            page = await self._read()
        return False

    async def _write(self, stream: Stream, entries: Sequence[Entry]) -> bool:
        """Write entries up to the run's end, and say whether it was among them."""
        new = [entry for entry in entries if entry.id > self._last_id]
        end = next((entry for entry in new if isinstance(entry, EventEntry) and entry.ends_run), None)
        shown = [entry for entry in new if end is None or entry.id < end.id]
        data = frames(shown) + (end_event(end) if end else b"")
        if data:
            await stream.write(data)
            self._last_id = new[-1].id
        return end is not None

    def _end_without_event(self) -> bytes:
        """The end of a run whose events are no longer in the history."""
        run = self._record
        record = {
            "kind": "event",
            "id": str(self._last_id),
            "name": RUN_ENDED[RunState(run.state)],
            "time": rfc3339(run.finished_at or run.accepted_at),
            "payload": None,
            "plan_name": run.plan_name,
            "task_name": run.task_name,
            "cid": run.cid,
            "step": None,
            "cause": None,
            "root": run.root_cid,
            "depth": run.depth,
        }
        return event("end", self._last_id, record)


def frames(entries: Sequence[Entry]) -> bytes:
    """Join the frames of entries into one chunk."""
    return b"".join([entry.frame for entry in entries])
