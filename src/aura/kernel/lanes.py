"""A lane: an ordered intake with a limit. It orders what waits, counts places, and knows nothing of how runs run.

Theory of operation. What waits stands in a heap by ``(rank, accepted sequence)``: a higher priority first, first come
first served within one; waiting makes up for priority (``LiveRun.rank``), so that nothing starves. A heap cannot take
an item back, so deletion is lazy: an entry counts only while its run still points to it (``run.entry is entry``); a
changed priority or a cancel points elsewhere, and the stale entry is dropped when it comes up. A run that waits for
what others hold is set aside, with its entry, and does not hold up those behind it; it comes back to its position when
it may have it.

Invariants: ``waiting`` counts the entries that count, plus those that are still on their way to the heap, and
``waiting_bytes`` is what the inputs of these, and the events that started them, come to; a run is in ``placed`` while
it holds a place. A stuck run gives its place back, but only ``max_stuck`` of them at a time: beyond that the lane
shrinks, so that hanging work cannot pile up without a bound.
"""

import heapq
from collections.abc import Iterator

from aura.config import LaneSettings
from aura.runs.liverun import LiveRun

Entry = tuple[float, int, LiveRun]
#: How many stale entries a heap may hold beside as many as count before it is cleared of them.
STALE_AT_LEAST = 1000


class Lane:
    """One lane. Only the dispatcher changes it."""

    def __init__(self, name: str, settings: LaneSettings) -> None:
        self.name = name
        self.limit = settings.limit
        self.queue_limit = settings.queue
        self.bytes_limit = settings.queue_bytes
        self.max_stuck = settings.max_stuck
        self.waiting = 0
        self.waiting_bytes = 0
        self.placed: set[LiveRun] = set()
        self.stuck: set[LiveRun] = set()
        #: What was first in the lane and waits for what others hold.
        self.aside: set[LiveRun] = set()
        self._heap: list[Entry] = []
        #: Of these entries, those that may start though a firing closes the lane.
        self._exempt: list[Entry] = []

    @property
    def has_place(self) -> bool:
        if self.stuck:
            return len(self.placed) < self.limit - max(0, len(self.stuck) - self.max_stuck)
        return len(self.placed) < self.limit

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits here or is on its way, and no stale entry is left either."""
        return not (self.waiting or self._heap or self._exempt)

    def full(self, runs: int, size: int) -> str | None:
        """Say why so many more runs, whose inputs come to ``size`` bytes, may not wait; None if they may.

        One alone is taken whatever its size while nothing waits: it could never be, otherwise.
        """
        if self.waiting + runs > self.queue_limit:
            return f"{self.waiting} runs wait in lane {self.name}, and it takes {self.queue_limit}"
        if (self.waiting or runs > 1) and self.waiting_bytes + size > self.bytes_limit:
            held = f"{self.waiting_bytes} bytes of inputs wait in lane {self.name}"
            return f"{held}, these are {size}, and it takes {self.bytes_limit}"
        return None

    def count(self, run: LiveRun) -> None:
        """Count a run that waits from now on."""
        self.waiting += 1
        self.waiting_bytes += len(run.accepted.inputs) + len(run.accepted.event or b"")

    def discount(self, run: LiveRun) -> None:
        """Count it no more."""
        self.waiting -= 1
        self.waiting_bytes -= len(run.accepted.inputs) + len(run.accepted.event or b"")

    def push(self, run: LiveRun) -> None:
        """Put a run at its position: by priority and waiting, then by order of acceptance."""
        run.entry = (self._rank(run), run.seq, run)
        self.aside.discard(run)
        heapq.heappush(self._heap, run.entry)
        if len(self._heap) > 2 * self.waiting + STALE_AT_LEAST:
            self._heap = [entry for entry in self._heap if entry[2].entry is entry]
            heapq.heapify(self._heap)

    def exempt(self, run: LiveRun) -> None:
        """Let a run that was just pushed be found by ``pop_exempt``."""
        assert run.entry is not None
        heapq.heappush(self._exempt, run.entry)

    def forget_exempt(self) -> None:
        """Let nothing be found by ``pop_exempt``."""
        self._exempt.clear()

    def take_back_aside(self) -> None:
        """Put all that was set aside back where it stands: many at once, as after a hold."""
        self._heap += [run.entry for run in self.aside if run.entry is not None]
        heapq.heapify(self._heap)
        self.aside.clear()

    def set_aside(self, run: LiveRun) -> None:
        """Keep a run that was taken out at its position, and take it out no more until it is pushed again."""
        run.entry = (self._rank(run), run.seq, run)
        self.aside.add(run)

    def _rank(self, run: LiveRun) -> int:
        """Lower comes first. Handlers do not age: they stand as their firings do, however long one has waited."""
        if self.name == "interrupt":
            return -(run.priority if run.firing is None else run.firing.priority)
        return run.rank

    def pop(self) -> LiveRun | None:
        """Take the first one that still counts; None if there is none."""
        return _pop(self._heap)

    def pop_exempt(self) -> LiveRun | None:
        """The same, of those that a hold of the whole lane does not keep from starting."""
        return _pop(self._exempt)

    def take_out(self, run: LiveRun) -> None:
        """Take out a run that waits here, wherever it stands."""
        run.entry = None
        self.aside.discard(run)

    def in_order(self) -> list[LiveRun]:
        """What waits here, in the order in which it would start."""
        return [entry[2] for entry in sorted(self._entries(), key=lambda e: e[:2])]

    def in_no_order(self) -> Iterator[LiveRun]:
        """The same, for whoever looks at each."""
        return (entry[2] for entry in self._entries())

    def _entries(self) -> Iterator[Entry]:
        """What counts of the heap, and what was set aside."""
        yield from (entry for entry in self._heap if entry[2].entry is entry)
        yield from (run.entry for run in self.aside if run.entry)

    def place(self, run: LiveRun) -> None:
        """Give a run a place."""
        self.placed.add(run)
        run.placed = True

    def release(self, run: LiveRun) -> None:
        """Take the place back; harmless for a run that has none."""
        self.placed.discard(run)
        self.stuck.discard(run)
        run.placed = False

    def release_stuck(self, run: LiveRun) -> None:
        """Take the place of a run that hangs, and remember that it hangs."""
        self.placed.discard(run)
        run.placed = False
        self.stuck.add(run)


def _pop(heap: list[Entry]) -> LiveRun | None:
    while heap:
        entry = heapq.heappop(heap)
        run = entry[2]
        if run.entry is entry:
            run.entry = None
            return run
    return None
