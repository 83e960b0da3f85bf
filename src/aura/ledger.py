"""The why-ledger: takes the lines that say why something did not start, and brings them to the store.

Theory of operation. Whoever does not start something notes a line and goes on; nobody waits for one to be on record.
Lines that say the same of the same thing within ``SPAN`` seconds are one *open* line in memory, with how many they are,
the first time and the last, and what was said last. What has changed of the open lines is written every ``WRITE_EVERY``
seconds, in one unit: so a storm costs a few additions each, and a row for each thing in a minute. A row is written
again while its line is open, whole, under the id that the line was given when it began.

- At most ``MAX_OPEN`` lines are told apart at a time; what comes beyond them counts as one line of its reason, without
  names. No count is ever lost by that.
- While the storage takes nothing, lines stay open in memory, however long that is, and are counted on.
- What belongs to something else that is stored, such as a slot, has a row of its own, in that one's unit (``unit``).
  Whoever has more of the same writes that row again (``row``).
- Details are cut and have no secrets in them when they leave the memory.

What a crash does: a line that has a unit is there or not, as its unit. Of the others the last second may be lost. The
server's end writes what is open (``close``).
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextvars import copy_context
from functools import partial

import msgspec

from aura.clock import Clock
from aura.eventloop import IN_BACKGROUND
from aura.events import clean_text
from aura.failpoints import Site
from aura.records.why import WhyFilter, fits, list_why, put_why
from aura.redaction import Redactor
from aura.store import Store, Unit
from aura.why import Why

#: For how long what says the same is one line, in seconds, and how often what has changed is written.
SPAN = 60.0
WRITE_EVERY = 1.0
#: How soon it is tried again when nothing could be written, in seconds.
AGAIN = 5.0
#: How many lines are told apart at a time.
MAX_OPEN = 1000
#: The most characters of a detail that are kept, and the most bytes of it that are looked at.
MAX_DETAIL = 500
_LOOKED_AT = 4096

#: reason, plan, item, rule, task
_Key = tuple[str, str | None, str | None, str | None, str | None]
#: The reason and the plan; what stands behind ``aura_not_started_total``.
Counted = tuple[str, str | None]


class _OpenLine:
    """A line that is counted on. ``stored``: how much of ``count`` is on record."""

    __slots__ = ("at", "began", "count", "detail", "first_at", "id", "key", "stored")

    def __init__(self, id: int, key: _Key, at: float, began: float) -> None:
        self.id = id
        self.key = key
        self.first_at = self.at = at
        #: Monotonic.
        self.began = began
        self.count = self.stored = 0
        self.detail = ""

    def is_over(self, mono: float) -> bool:
        """Whether what says the same begins a line of its own. Not before it is on record: its row is this line's."""
        return self.stored == self.count and mono - self.began >= SPAN


class Ledger:
    """Takes lines, and gives them. Used from the loop's thread only."""

    def __init__(self, store: Store, clock: Clock, redactor: Redactor) -> None:
        self._store = store
        self._clock = clock
        self._redactor = redactor
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()
        self._context.run(IN_BACKGROUND.set, True)
        self._open: dict[_Key, _OpenLine] = {}
        self._timer: asyncio.TimerHandle | None = None
        #: Whether what was handed over last is still on its way: one unit at a time, so that a slow store gathers none.
        self._on_way = False
        self._closed = False
        self._last_id = 0
        #: How often something did not start, since the process began.
        self.counts: Counter[Counted] = Counter()

    def take_over(self, last_id: int) -> None:
        """Give lines ids after the last one of an older boot."""
        self._last_id = max(self._last_id, last_id)

    # -- taking

    def note(self, line: Why) -> bool:
        """Add a line; say whether it is the first of its kind for a while, so worth a word elsewhere too.

        Does not wait, and never fails.
        """
        self.counts[line.reason, line.plan_name] += line.count
        key = (line.reason, line.plan_name, line.item, line.rule, line.task_name)
        at = self._clock.wall() if line.at is None else line.at
        found = self._open.get(key)
        if found is None or found.is_over(self._clock.monotonic()):
            found = self._begin(key, at)
        is_first = found.count == 0
        found.count += line.count
        found.at = at
        detail = line.detail if found.key == key else f"too many to tell apart; the last: {_last_of(line)}"
        found.detail = clean_text(detail, _LOOKED_AT)
        if self._timer is None:
            self._arm(WRITE_EVERY)
        return is_first

    def unit(self, line: Why) -> Unit:
        """The unit that adds a line as a row of its own, for one that belongs to something else that is stored."""
        return put_why([self.row(line)])

    def row(self, line: Why, before: Why | None = None) -> Why:
        """A line as it is to be written by ``put_why``, counted.

        With ``before``, which says the same and was a row already, it is that row, for both of them.
        """
        self.counts[line.reason, line.plan_name] += line.count
        at, detail = self._clock.wall() if line.at is None else line.at, self.shown(line.detail)
        if before is not None:
            return msgspec.structs.replace(before, detail=detail, count=before.count + line.count, at=at)
        first_at = at if line.first_at is None else line.first_at
        return msgspec.structs.replace(line, detail=detail, at=at, first_at=first_at, id=self._next_id())

    def _begin(self, key: _Key, at: float) -> _OpenLine:
        if key not in self._open and len(self._open) >= MAX_OPEN:
            key = (key[0], None, None, None, None)
            if (found := self._open.get(key)) is not None:
                return found
        line = self._open[key] = _OpenLine(self._next_id(), key, at, self._clock.monotonic())
        return line

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    # -- writing

    def _arm(self, seconds: float) -> None:
        if not self._closed:
            self._timer = self._loop.call_later(seconds, self._write, context=self._context)

    def _write(self) -> None:
        """Hand over what has changed."""
        self._timer = None
        changed = self._changed()
        if not changed or (self._on_way and not self._closed):  # ``_written`` sees to the rest
            return
        if self._store.unavailable is not None and not self._closed:
            self._arm(AGAIN)
            return
        self._on_way = True
        counts = [(line, line.count) for line in changed]
        unit = put_why([self._taken(line) for line in changed])
        self._store.put(unit, partial(self._written, counts), self._failed, refusable=True, site=Site.WHY)

    def _changed(self) -> list[_OpenLine]:
        return [line for line in self._open.values() if line.stored != line.count]

    def _written(self, counts: Sequence[tuple[_OpenLine, int]]) -> None:
        self._on_way = False
        for line, count in counts:
            line.stored = count
        mono = self._clock.monotonic()
        self._open = {key: line for key, line in self._open.items() if not line.is_over(mono)}
        if self._timer is None and self._changed():
            self._arm(WRITE_EVERY)

    def _failed(self, _error: Exception) -> None:
        """It could not be written for now: it is still open."""
        self._on_way = False
        if self._timer is None:
            self._arm(AGAIN)

    def close(self) -> None:
        """Hand over what is open, for the last time: before the store's intake is closed. Harmless the second time."""
        self._closed = True
        if self._timer:
            self._timer.cancel()
        self._write()

    # -- reading

    async def read(self, wanted: WhyFilter, limit: int, before: tuple[float, int] | None = None) -> list[Why]:
        """The newest lines first, at most ``limit``, all older than the one with this time and id.

        What is on record, with what is still in the memory: a line that changes meanwhile may move to the front.
        """
        found = {line.id: line for line in self.waiting()}
        stored = await self._store.read(lambda x: list_why(x, wanted, limit + len(found), before))
        for line in stored:
            if line.id not in found or found[line.id].count < line.count:
                found[line.id] = line
        place = [(line.at or 0.0, line.id, line) for line in found.values() if fits(line, wanted)]
        place = [one for one in place if before is None or one[:2] < before]
        return [line for _, _, line in sorted(place, key=lambda one: one[:2], reverse=True)[:limit]]

    def waiting(self) -> list[Why]:
        """The lines that are not on record as they are, the oldest first."""
        return [self._taken(line) for line in self._changed()]

    def _taken(self, line: _OpenLine) -> Why:
        return _made(line.id, line.key, self.shown(line.detail), line.count, line.at, line.first_at)

    def shown(self, detail: str) -> str:
        """A detail as it may be shown: short, and without secrets. What is cut off half hides its half."""
        text = self._redactor.text(clean_text(detail, _LOOKED_AT))
        return text if len(text) <= MAX_DETAIL else f"{text[: MAX_DETAIL - 1]}…"


def _made(id: int, key: _Key, detail: str, count: int, at: float, first_at: float) -> Why:
    reason, plan_name, item, rule, task_name = key
    return Why(reason, detail, plan_name, item, rule, task_name, count, at, first_at, id)


def _last_of(line: Why) -> str:
    name = "/".join(part for part in (line.plan_name, line.item or line.rule or line.task_name) if part)
    return f"{name}: {line.detail}"
