"""What the engine counts of its own work since the process began: waits, ends, refusals, times of steps.

Theory of operation. The places where something happens call ``note_*``, which adds to plain integers and histograms and
does no more: all that is asked for rarely (rates, percentiles, text for Prometheus) is worked out by who asks
(``overview``, ``web.metrics``). Nothing here is stored, and a restart begins at zero.

What counts, and when, so that each is counted once.
- A *wait* lasts from the acceptance of a run, or from its ``not_before`` if that is later, to its start, by the wall
  clock and never below zero. It is noted once the run's first start is on record: of a run whose acceptance could not
  be stored nothing is counted, and one that comes back or is resumed has no second wait.
- An *end* is noted once the outcome is on record. Runs that a boot settles ended in no process and are not counted.
- A *refusal* is one request that admission did not take, or could not store; of an atomic batch it is the one at fault.
- A *step* is noted when it ends, with the time from its first start, tries and pauses included.

The window is the present slot of ``SLOT`` seconds and those before it, ``SLOTS`` in all: 14.5 to 15 minutes. For rates
the counters are remembered as they were at the beginning of each slot, so that a note costs one comparison. The time of
a note is that of the commit which it follows: to ask the clock would cost more than all the rest. Percentiles
are exact (nearest rank) over the waits that were noted in the window, of each lane the latest ``RECENT`` at most.

The bounds. The first ``MAX_PLANS`` plans, and ``MAX_RULES`` interrupt rules, are told apart; what others do is counted
as ``OTHER``'s, which is no name that a plan can have. Lanes and states are few.
"""

import math
from array import array
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import anyio

from aura.clock import Clock
from aura.histogram import BLOCKS, LONG, SHORT, Histogram

#: Over how long rates and percentiles are taken: so many slots of so many seconds.
SLOTS = 30
SLOT = 30.0
#: How many waits of each lane are kept.
RECENT = 4096
MAX_PLANS = 100
#: How many interrupt rules are told apart.
MAX_RULES = 100
#: How often the lateness of the event loop is measured, in seconds.
LAG_EVERY = 0.25
OTHER = "(other)"

#: (lane, plan), and (lane, plan, state)
Place = tuple[str, str]
End = tuple[str, str, str]
#: (monotonic time, seconds, plan)
Wait = tuple[float, float, str]
#: (place, how many started there, and ended, by state): of one cell, at one time
_Kept = tuple[Place, int, dict[str, int]]


class Counts(NamedTuple):
    """Runs that started, and that ended, since the process began."""

    started: Counter[Place]
    ended: Counter[End]


class _Ring:
    """The latest ``RECENT`` waits of a lane, in arrays that are there from the beginning: a note makes no objects."""

    __slots__ = ("next", "plans", "seconds", "times")

    def __init__(self) -> None:
        self.times = array("d", [-math.inf]) * RECENT
        self.seconds = array("d", [0.0]) * RECENT
        self.plans = [""] * RECENT
        self.next = 0

    def add(self, now: float, seconds: float, plan: str) -> None:
        place = self.next
        self.times[place] = now
        self.seconds[place] = seconds
        self.plans[place] = plan
        self.next = (place + 1) % RECENT

    def since(self, begin: float) -> list[Wait]:
        """The waits since a time, oldest first."""
        kept = list(zip(self.times, self.seconds, self.plans, strict=True))
        return [wait for wait in kept[self.next :] + kept[: self.next] if wait[0] >= begin]


class _Cell:
    """What is counted of one plan in one lane; ``recent`` and ``waits`` are the whole lane's."""

    __slots__ = ("ended", "plan", "recent", "started", "waits")

    def __init__(self, plan: str, recent: _Ring, waits: Histogram) -> None:
        self.plan = plan
        self.recent = recent
        self.waits = waits
        self.started = 0
        self.ended: dict[str, int] = {}


class Recent(NamedTuple):
    """The window as it is now: what was counted in its ``seconds``, and the waits of each lane, oldest first."""

    seconds: float
    started: Counter[Place]
    ended: Counter[Place]
    waits: dict[str, list[Wait]]


class Refusals:
    """Counts refusals by their code."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def note(self, code: str) -> None:
        """A request was refused."""
        self.counts[code] += 1


class Written(Protocol):
    """What is asked of a store. The last commit ended just now whenever something is noted that is on record."""

    @property
    def written_at(self) -> float: ...
    @property
    def commit_times(self) -> Histogram: ...
    @property
    def batch_sizes(self) -> Histogram: ...


class Measures:
    """Counts. One for a process's engine; used on the event loop only."""

    def __init__(self, now: Callable[[], float], lanes: Sequence[str], store: Written) -> None:
        """``now`` is monotonic time, that of ``store.written_at``."""
        self.store = store
        self._now = now
        self.began = now()
        self.refusals = Refusals()
        self.waits = {lane: Histogram(LONG) for lane in lanes}
        #: Times of steps, by how they ended.
        self.steps: dict[str, Histogram] = {}
        self.loop_lag = Histogram(SHORT)
        #: How often each interrupt rule has fired, by plan and rule; how long what they stopped took to clean up.
        self.fired: Counter[tuple[str, str]] = Counter()
        self.cleanups = Histogram(SHORT)
        #: How many runs items of schedules have started, by the name under which their plan is counted, and by cause.
        self.item_starts: Counter[tuple[str, str]] = Counter()
        #: How long the event loop was blocked, by the name under which the plan to blame is counted.
        self.blocked: dict[str, Histogram] = {}
        #: How often polls were asked, by the name under which their plan is counted, and by how that ended.
        self.polls: Counter[tuple[str, str]] = Counter()
        self._recent = {lane: _Ring() for lane in lanes}
        self._plans: set[str] = set()
        self._cells: dict[Place, _Cell] = {}
        #: (slot, what was counted as it began, cell by cell: to make ``Counts`` of it each time would cost more than to
        #: count); no slot between two that are here had anything to count before it ended.
        self._slots: deque[tuple[int, list[_Kept]]] = deque(maxlen=SLOTS)
        self._next_slot = -math.inf
        self._turn(self.began)

    # -- what happens

    def note_wait(self, lane: str, plan_name: str, seconds: float) -> None:
        """A run's first start is on record."""
        now = self.store.written_at
        if now >= self._next_slot:
            self._turn(now)
        cell = self._cells.get((lane, plan_name)) or self._cell(lane, plan_name)
        seconds = seconds if seconds > 0 else 0.0
        cell.started += 1
        cell.waits.add(seconds)
        cell.recent.add(now, seconds, cell.plan)

    def note_end(self, lane: str, plan_name: str, state: str) -> None:
        """A run's outcome is on record."""
        now = self.store.written_at
        if now >= self._next_slot:
            self._turn(now)
        ended = (self._cells.get((lane, plan_name)) or self._cell(lane, plan_name)).ended
        ended[state] = ended.get(state, 0) + 1

    def note_step(self, state: str, seconds: float) -> None:
        """A step that had begun has ended."""
        found = self.steps.get(state)
        if found is None:
            found = self.steps[state] = Histogram(LONG)
        found.add(seconds if seconds > 0 else 0.0)

    def note_poll(self, plan_name: str, *, failed: bool) -> None:
        """A poll of a plan has an answer, or has failed."""
        self.polls[self.label(plan_name), "failed" if failed else "ok"] += 1

    def note_item_start(self, plan_name: str, cause: str) -> None:
        """A start of an item of a plan's schedule is on record; ``cause`` is the kind of its trigger, or who asked."""
        self.item_starts[self.label(plan_name), cause] += 1

    def note_block(self, label: str, seconds: float) -> None:
        """The event loop was blocked; ``label`` is of a plan, or of none."""
        self.blocked.setdefault(label, Histogram(BLOCKS)).add(seconds)

    def note_fired(self, plan_name: str, rule: str) -> None:
        """A firing of an interrupt rule is on record."""
        key = (plan_name, rule)
        self.fired[key if key in self.fired or len(self.fired) < MAX_RULES else (OTHER, OTHER)] += 1

    def label(self, plan_name: str) -> str:
        """The name under which a plan is counted."""
        if plan_name not in self._plans:
            if len(self._plans) >= MAX_PLANS:
                return OTHER
            self._plans.add(plan_name)
        return plan_name

    def _cell(self, lane: str, plan_name: str) -> _Cell:
        plan = self.label(plan_name)
        found = self._cells.get((lane, plan))
        if found is None:
            found = self._cells[lane, plan] = _Cell(plan, self._recent[lane], self.waits[lane])
        return found

    @property
    def counts(self) -> Counts:
        """What was counted, as it is now."""
        return _counts_of(self._kept())

    def _kept(self) -> list[_Kept]:
        return [(place, cell.started, dict(cell.ended)) for place, cell in self._cells.items()]

    # -- the window

    def recent(self) -> Recent:
        """What happened in the window that ends now."""
        now = self._now()
        if now >= self._next_slot:
            self._turn(now)
        first = _slot(now) - SLOTS + 1
        begin = max(self.began, first * SLOT)
        former = _counts_of(next(kept for slot, kept in self._slots if slot >= first))
        ended: Counter[Place] = Counter()
        counts = self.counts
        for (lane, plan, _), count in (counts.ended - former.ended).items():
            ended[lane, plan] += count
        waits = {lane: ring.since(begin) for lane, ring in self._recent.items()}
        return Recent(now - begin, counts.started - former.started, ended, waits)

    def _turn(self, now: float) -> None:
        """Remember the counts as they are at the beginning of a slot."""
        slot = _slot(now)
        self._slots.append((slot, self._kept()))
        self._next_slot = (slot + 1) * SLOT


def _counts_of(kept: Sequence[_Kept]) -> Counts:
    started = Counter({place: count for place, count, _ in kept if count})
    ended: Counter[End] = Counter({(*place, state): n for place, _, states in kept for state, n in states.items()})
    return Counts(started, ended)


def _slot(now: float) -> int:
    return math.floor(now / SLOT)


def percentile(ordered: Sequence[float], part: float) -> float | None:
    """The smallest of the ascending values that at least ``part`` of them do not exceed; None if there are none."""
    if not ordered:
        return None
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


async def serve_loop_lag(measures: Measures, clock: Clock) -> None:
    """Measure, again and again until cancelled, how much later than asked for the event loop goes on.

    Whatever keeps the loop for longer than ``LAG_EVERY`` seconds is seen, less at most that time.
    """
    while True:
        due = clock.monotonic() + LAG_EVERY
        await anyio.sleep(LAG_EVERY)
        measures.loop_lag.add(max(0.0, clock.monotonic() - due))
