"""An item as the scheduler watches it: its times, what of them has come, and what of that starts.

It decides by the clock's time that it is given, and changes nothing.
"""

import math
from typing import NamedTuple, Self

from aura.clock import rfc3339
from aura.schedule import Item, Misfire, Timed, TimedKind, Trigger
from aura.scheduling.liveitem import LiveItem, says
from aura.scheduling.slots import Come, latest_slots, next_slot

#: How late a slot may be and still be on time, in seconds.
ON_TIME = 5.0
#: How many of the latest slots of a trigger may start at once.
MAX_AT_ONCE = 100


class Slot(NamedTuple):
    """One nominal time, in Unix seconds, of a trigger of an item."""

    due: float
    trigger: Trigger

    @property
    def timed(self) -> Timed:
        kind = self.trigger.kind
        assert isinstance(kind, TimedKind)
        return kind.timed


class Found(NamedTuple):
    """The slots of an item that have come, the oldest first; how many came before those, from ``first`` to ``last``.

    ``is_all``: no more than that were missed.
    """

    slots: list[Slot]
    more: int
    first: float
    last: float
    is_all: bool


class Watched(NamedTuple):
    """An item with its triggers that have times of their own, each with when it was first seen."""

    live: LiveItem
    item: Item
    timezone: str
    triggers: list[tuple[Trigger, float]]

    @classmethod
    def of(cls, live: LiveItem) -> Self:
        """An item as it stands now."""
        triggers = [(trigger, live.row.anchors[says(trigger)]) for trigger in live.timed()]
        return cls(live, live.item, live.plan.timezone, triggers)

    def next_due(self) -> float | None:
        """When the first slot comes after what was looked at."""
        looked_to, first = self.live.row.looked_to, None
        for trigger, anchor in self.triggers:
            due = next_slot(trigger, anchor, self.timezone, looked_to)
            if due is not None and (first is None or due < first):
                first = due
        return first

    def found(self, now: float) -> Found:
        """What has come after what was looked at, and is not settled."""
        slots = dict[float, Trigger]()
        more, first, last, is_all = 0, math.inf, -math.inf, True
        for trigger, anchor in self.triggers:
            come = self._come(trigger, anchor, now)
            if come.more:
                more, first, last = more + come.more, min(first, come.first), max(last, come.last)
            is_all = is_all and come.is_all
            for due in come.dues:
                slots.setdefault(due, trigger)
        return Found([Slot(due, slots[due]) for due in sorted(slots)], more, first, last, is_all)

    def _come(self, trigger: Trigger, anchor: float, now: float) -> Come:
        """What has come of one trigger, and is not settled."""
        first = self._first(trigger, anchor)
        if first is None or first > now:
            return Come([])
        second = next_slot(trigger, anchor, self.timezone, first)
        if second is None or second > now:  # so it is, but after a pause
            return Come([first])
        come = latest_slots(trigger, anchor, self.timezone, before(first), now, MAX_AT_ONCE)
        return come._replace(dues=[due for due in come.dues if not self.live.is_settled(due)])

    def _first(self, trigger: Trigger, anchor: float) -> float | None:
        """The first slot of a trigger after what was looked at that is not settled."""
        after = self.live.row.looked_to
        while (due := next_slot(trigger, anchor, self.timezone, after)) is not None and self.live.is_settled(due):
            after = self.live.settled_from(due)
        return due


def before(due: float) -> float:
    """The last time before a slot."""
    return math.nextafter(due, -math.inf)


def chosen(slots: list[Slot], now: float) -> tuple[list[Slot], list[Slot]]:
    """Those that start, and those that were missed."""
    if not slots or now - slots[0].due <= ON_TIME:  # none is late
        return slots, []
    on_time = [slot for slot in slots if now - slot.due <= ON_TIME]
    late = [slot for slot in slots if now - slot.due > ON_TIME and _may_start(slot, now)]
    chosen = [slot for slot in late if slot.timed.misfire is Misfire.RUN_ALL]
    if not on_time:
        chosen += [slot for slot in late if slot.timed.misfire is Misfire.RUN_ONCE][-1:]
    starting = sorted([*on_time, *chosen], key=lambda slot: slot.due)
    dues = {slot.due for slot in starting}
    return starting, [slot for slot in slots if slot.due not in dues]


def told(missed: list[Slot], found: Found) -> tuple[int, str, str, str]:
    """How many slots these are, with those before them that were not given one by one; that in words; their ends."""
    count = len(missed) + found.more
    dues = [slot.due for slot in missed]
    first, last = rfc3339(min([*dues, found.first])), rfc3339(max([*dues, found.last]))
    one = f"the slot {first} was missed" + ("" if found.is_all else ", and more before it")
    many = f"{count} slots were missed, {'' if found.is_all else 'and more before them, '}from {first} to {last}"
    return count, one if count == 1 else many, first, last


def _may_start(slot: Slot, now: float) -> bool:
    grace = slot.timed.misfire_grace
    return slot.timed.misfire is not Misfire.SKIP and (grace is None or now - slot.due <= grace)
