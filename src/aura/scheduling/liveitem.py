"""An item of a schedule as it is served: on or off, what it has started, why it did not, which slots are settled.

It is the same object in all versions of its plan, so that nothing of it begins anew when its plan is loaded again.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import sha256
from itertools import pairwise
from math import inf

import msgspec

from aura.plan import Plan
from aura.records.items import ItemRow, Started
from aura.records.switches import Switch
from aura.schedule import Item, TimedKind, Trigger
from aura.scheduling.refusedslots import RefusedSlots
from aura.task import Source

#: How many started slots are remembered one by one, the last that were taken, and how many more there are before the
#: older ones become spans in which all are settled. There are so many of those at most: then the two that lie nearest
#: become one.
KEPT_SLOTS = 100
FOLDED_AT_ONCE = 20
MAX_SPANS = 8
Key = tuple[str, str]


class LiveItem:
    """One item. ``row`` is what the store knows of it, or will know once what was handed over is committed."""

    def __init__(self, plan: Plan, item: Item, row: ItemRow, started: Started) -> None:
        self.plan = plan
        self.item = item
        self.plan_name = plan.name
        self.key: Key = (plan.name, item.name)
        #: As circles of events and people name it.
        self.name = f"item {plan.name}/{item.name}"
        self.row = row
        #: The slots not in ``row.settled`` that have started a run, or are being stored with one, as they were taken.
        self.started = started
        #: The spans of ``row.settled`` in which no slot is on record, or will be when the starts so far are stored.
        self._cleared: Sequence[tuple[float, float]] = ()
        self.switch: Switch | None = None
        #: By reason: how often it did not start. And the last time: the reason, the detail, when.
        self.missed: Counter[str] = Counter()
        self.last_missed: tuple[str, str, float] | None = None
        #: By reason: the last line of slots that were refused.
        self.refused: dict[str, RefusedSlots] = {}
        #: Why it hears of no events any more.
        self.suspended: str | None = None
        #: Monotonic time of its last start.
        self.last_mono: float | None = None
        #: When its next slot is due, if it has triggers with times of their own.
        self.next_due: float | None = None

    @property
    def enabled(self) -> bool:
        """Whether its triggers start it: as somebody has switched it, else as its file says."""
        return self.item.enabled if self.switch is None else self.switch.enabled

    def timed(self) -> list[Trigger]:
        """Its triggers with times of their own."""
        return [one for one in self.item.triggers if isinstance(one.kind, TimedKind)]

    # -- slots

    def is_settled(self, due: float) -> bool:
        """Whether a slot has started a run, or can never start one any more."""
        return due in self.started or _span_at(self.row.settled, due) is not None

    def settled_from(self, time: float) -> float:
        """Up to when all slots are settled for ever, from a time on; that time if they are not."""
        span = _span_at(self.row.settled, time)
        return time if span is None else span[1]

    def take_slot(self, due: float, cid: str, now: float, mono: float) -> None:
        """Note that a slot starts a run; whether that is stored is said by ``give_back``."""
        self.started[due] = None
        settled = self.row.settled
        if len(self.started) >= KEPT_SLOTS + FOLDED_AT_ONCE:
            older = list(self.started)[:-KEPT_SLOTS]
            for one in older:
                del self.started[one]
            settled = with_slots(settled, older)
        self.row = msgspec.structs.replace(self.row, settled=settled, last_due=due, last_cid=cid, last_at=now)
        self.last_mono = mono

    def take_uncleared(self) -> list[tuple[float, float]]:
        """The settled spans that a start is to clear of slots on record: those that have changed since the last one."""
        settled, cleared = self.row.settled, self._cleared
        if settled is cleared:
            return []
        self._cleared = settled
        return [span for span in settled if span not in cleared]

    def give_back(self, due: float) -> None:
        """The start of a slot was not stored: it has started nothing, and has cleared nothing."""
        self._cleared = ()
        self.started.pop(due, None)

    def note_start(self, cid: str, now: float, mono: float) -> None:
        """Note that it has started a run, at ``now`` in Unix seconds and ``mono``, monotonic."""
        self.row = msgspec.structs.replace(self.row, last_cid=cid, last_at=now)
        self.last_mono = mono

    def cooldown_left(self, mono: float) -> float:
        """Seconds for which its triggers do not start it yet."""
        return 0.0 if self.last_mono is None else max(0.0, self.last_mono + self.item.cooldown - mono)

    def note_missed(self, reason: str, detail: str, at: float, count: int = 1) -> None:
        """Note that it did not start."""
        self.missed[reason] += count
        self.last_missed = (reason, detail, at)


def _span_at(spans: Sequence[tuple[float, float]], time: float) -> tuple[float, float] | None:
    """The span in which a time lies; None if it is in none. They stand in their order, and none meets another."""
    index = bisect_right(spans, (time, inf)) - 1
    return spans[index] if index >= 0 and time <= spans[index][1] else None


def with_slots(spans: Sequence[tuple[float, float]], dues: Iterable[float]) -> tuple[tuple[float, float], ...]:
    """Spans with more slots in them. What the clock has leapt over is the last that they join over."""
    found = sorted([*spans, *((due, due) for due in set(dues) if _span_at(spans, due) is None)])
    gaps = sorted((found[later][0] - found[later - 1][1], later) for later in range(1, len(found)))
    kept = sorted(later for _, later in gaps[-(MAX_SPANS - 1) :])
    return tuple((found[first][0], found[end - 1][1]) for first, end in pairwise([0, *kept, len(found)]))


def says(trigger: Trigger) -> str:
    """What makes a trigger the one that it is, whatever else of its plan changes."""
    return repr(msgspec.to_builtins(trigger, enc_hook=_value_of))


def mark_of(trigger: Trigger) -> str:
    """The same as a short text."""
    return sha256(says(trigger).encode("utf-8", "replace")).hexdigest()[:32]


def shape_of(item: Item) -> str:
    """All that an item says, without the places in its file."""
    return repr(msgspec.to_builtins(msgspec.structs.replace(item, source=Source("", 0)), enc_hook=_value_of))


def _value_of(written: object) -> object:
    """What a template or a condition is made from; of a set, its order does not matter."""
    return sorted(written) if isinstance(written, frozenset) else getattr(written, "value", repr(written))
