"""Events that count as one: they are held back until none with their key has come for a while, then the last starts.

Theory of operation. An event that fits a trigger with ``debounce``, and whose ``when`` holds, starts nothing yet. With
it is stored that it waits; once that is on record it takes the place of the one before with its key, and the time of
quiet begins anew, measured from when it came. When it is over the item starts, once, with the last event; how many came
before it is a line of the why-ledger. Whether the item is on, and its cooldown, count at that time; a refused start is
not tried again, unless nothing can be stored.

- *Time* is monotonic. Over a restart it is that of the wall clock, and never longer than the whole time of quiet.
- *The bound.* A trigger holds back ``MAX_KEYS`` events, and ``MAX_BYTES`` of them. If there are more, the one that has
  been quiet for longest starts early, and the log says so once.
- *Changes of the plan.* What is held back starts its item also if the trigger is another by then. Of an item that is
  gone it stays for a while (``MAX_AWAY``), since that may come back.

What a crash does: each event that waits is a row, which goes in the unit that starts its item.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextvars import copy_context
from functools import partial
from hashlib import sha256

from aura.bus import Delivery
from aura.errors import RequestError
from aura.events import EventEntry
from aura.failpoints import Site
from aura.kernel.admission import Reserved
from aura.records.columns import encode
from aura.records.debounced import (
    DebouncedRow,
    DebounceKey,
    drop_debounced,
    drop_stray_debounced,
    event_json,
    put_debounced,
)
from aura.records.runs import together
from aura.runs.runtime import Runtime
from aura.schedule import Debounce, Trigger
from aura.scheduling.liveitem import Key, LiveItem, mark_of
from aura.scheduling.starts import LATER, Refusal, Starts, Wish, event_of, why_refused
from aura.store import Unit

#: How many keys of a trigger, and bytes of their events, may wait at a time.
MAX_KEYS = 1000
MAX_BYTES = 8 * 1024 * 1024
#: How many events of items wait that are not served.
MAX_AWAY = 1000
#: How soon it is tried again when nothing can be stored, in seconds.
AGAIN = 5.0


class Pending:
    """The last of ``count`` events with a key. It starts its item at ``end``, in monotonic seconds."""

    def __init__(self, key: DebounceKey, event: EventEntry, size: int, count: int, end: float) -> None:
        self.key = key
        self.event = event
        self.size = size
        self.count = count
        self.end = end
        self.timer: asyncio.TimerHandle | None = None

    @property
    def item(self) -> Key:
        return (self.key.plan_name, self.key.item)

    def cancel(self) -> None:
        """Let its time pass."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Group:
    """What waits of one trigger: by key, the one that has been quiet for longest first."""

    def __init__(self) -> None:
        self.waiting: dict[DebounceKey, Pending] = {}
        self.size = 0
        #: The log has said that it is full.
        self.told = False

    @property
    def full(self) -> bool:
        return len(self.waiting) > 1 and (len(self.waiting) > MAX_KEYS or self.size > MAX_BYTES)

    def add(self, pending: Pending) -> None:
        self.waiting[pending.key] = pending
        self.size += pending.size

    def take(self, key: DebounceKey) -> Pending | None:
        pending = self.waiting.pop(key, None)
        if pending is not None:
            self.size -= pending.size
        return pending


class Debounces:
    """Holds events back, for all items. A ``Source``."""

    def __init__(self, runtime: Runtime, starts: Starts) -> None:
        self._runtime = runtime
        self._starts = starts
        self._clock = runtime.clock
        #: In which timers run: not that of whoever has emitted an event.
        self._context = copy_context()
        self._live: dict[Key, LiveItem] = {}
        self._groups: dict[tuple[str, str, str], Group] = {}
        self._closed = False

    @property
    def holds_any(self) -> bool:
        """Whether an event waits that will start its item."""
        return any(group.waiting for group in self._groups.values())

    # -- which items there are

    def take_over(self, rows: Sequence[DebouncedRow]) -> None:
        """Take what an older boot has kept, before items are first loaded."""
        self._runtime.store.put(drop_stray_debounced(), refusable=True, site=Site.ITEM)
        now, wall = self._clock.monotonic(), self._clock.wall()
        for row in rows:
            left = min(max(0.0, row.due - wall), row.quiet)
            size = len(event_json(row.event))
            self._group(row.key).add(Pending(row.key, row.event, size, row.count, now + left))

    def keep(self, live: LiveItem) -> None:
        self._live[live.key] = live
        for pending in self._of(live.key):
            self._arm(pending)

    def drop(self, live: LiveItem) -> None:
        self._live.pop(live.key, None)
        for pending in self._of(live.key):
            pending.cancel()
        away = [one for group in self._groups.values() for one in group.waiting.values() if one.item not in self._live]
        for pending in away[:-MAX_AWAY]:
            self._forget(pending)

    def wake(self, live: LiveItem) -> None:
        """Whether the item is on counts when it is to start."""

    def start(self) -> None:
        """Events make runs at any time; those wait for the engine."""

    def request_stop(self, _grace: float = float("inf")) -> None:
        """Time goes on, and the runs that it makes are queued."""

    def close(self) -> None:
        self._closed = True
        for group in self._groups.values():
            for pending in group.waiting.values():
                pending.cancel()

    def waiting(self, live: LiveItem) -> int:
        """How many events are held back for an item."""
        return sum(1 for _ in self._of(live.key))

    def _of(self, item: Key) -> Iterator[Pending]:
        for group in [group for (*key, _), group in self._groups.items() if tuple(key) == item]:
            yield from list(group.waiting.values())

    def _group(self, key: DebounceKey) -> Group:
        return self._groups.setdefault(key[:3], Group())

    # -- holding back

    def hold(self, wish: Wish, trigger: Trigger, debounce: Debounce, event: EventEntry) -> Delivery | None:
        """Hold an event back. It counts once it is on record."""
        live = wish.live
        try:
            value = None if debounce.key is None else debounce.key.render(self._starts.scope_of(wish))
        except Exception as error:
            self._starts.note(live, "bad_inputs", f"the key of its debounce cannot be made: {error}")
            return None
        key = DebounceKey(*live.key, mark_of(trigger), sha256(encode(value)).hexdigest()[:32])
        kept, due = event_json(event), self._clock.wall() + debounce.quiet
        unit = put_debounced(key, event.id, kept, debounce.quiet, due)
        end = self._clock.monotonic() + debounce.quiet
        return Delivery(unit, partial(self._hold, Pending(key, event, len(kept), 1, end)), bool)

    def _hold(self, pending: Pending) -> None:
        """It is on record: it takes the place of the one before."""
        group = self._group(pending.key)
        former = group.take(pending.key)
        if former is not None:
            pending.count += former.count
            former.cancel()
        group.add(pending)
        self._arm(pending)
        if group.full:
            self._make_room(group, pending)

    def _make_room(self, group: Group, pending: Pending) -> None:
        if not group.told:
            group.told = True
            said = f"item {pending.key.plan_name}/{pending.key.item} holds back as many events as it may"
            self._runtime.log.warning(f"{said}; those that wait for longest start early", plan=pending.key.plan_name)
        while group.full:
            oldest = next(iter(group.waiting.values()))
            if oldest.item not in self._live:
                self._forget(oldest)
            elif not self._start(oldest):
                return

    def _arm(self, pending: Pending) -> None:
        pending.cancel()
        if not self._closed and pending.item in self._live:
            loop = asyncio.get_running_loop()
            left = max(0.0, pending.end - self._clock.monotonic())
            pending.timer = loop.call_later(left, self._start, pending, context=self._context)

    def _forget(self, pending: Pending) -> None:
        """Its item has been gone for too long."""
        self._take(pending)
        said = f"an event that was held back for item {pending.key.plan_name}/{pending.key.item}, which is gone"
        self._runtime.log.warning(f"{said}, was forgotten", plan=pending.key.plan_name)
        self._runtime.store.put(self._dropped(pending), refusable=True, site=Site.ITEM)

    def _take(self, pending: Pending) -> None:
        pending.cancel()
        group = self._group(pending.key)
        group.take(pending.key)
        if not group.waiting:
            del self._groups[pending.key[:3]]

    # -- starting

    def _start(self, pending: Pending) -> bool:
        """Start the item by the last event, if it may; False if that has to be tried again."""
        self._take(pending)
        live = self._live[pending.item]
        wish = Wish(live, "event", event=event_of(pending.event), also=partial(self._also, live, pending))
        try:
            refusal = self._starts.refusal(wish)
            if refusal is None:
                self._open(wish, pending)
        except RequestError as refused:
            if refused.code in LATER:
                self._come_back(pending)
                return False
            refusal = why_refused(refused)
        except Exception as error:
            self._runtime.fault(f"{live.name} could not be started by an event that was held back", error)
            refusal = Refusal("bad_inputs", f"it could not be started: {error}")
        if refusal is not None:
            line = self._starts.line(live, *refusal, pending.count)
            units = together([self._dropped(pending), self._runtime.ledger.unit(line)])
            self._runtime.store.put(units, refusable=True, site=Site.ITEM)
        return True

    def _open(self, wish: Wish, pending: Pending) -> None:
        delivery = self._starts.open(wish, pending.event)
        assert delivery.unit is not None

        def lose(_: Exception) -> None:
            delivery.lost()
            self._come_back(pending)

        self._runtime.store.put(delivery.unit, delivery.committed, lose, refusable=True, site=Site.SLOT)

    def _come_back(self, pending: Pending) -> None:
        """Its start could not be stored: it waits on, or counts with one that has come since."""
        group = self._group(pending.key)
        newer = group.waiting.get(pending.key)
        if newer is not None:
            newer.count += pending.count
            return
        group.add(pending)
        pending.end = self._clock.monotonic() + AGAIN
        self._arm(pending)

    def _also(self, live: LiveItem, pending: Pending, _: Reserved) -> Unit:
        """What is stored with its start: it waits no more, and those before it have started nothing."""
        units = [self._dropped(pending)]
        if pending.count > 1:
            others = pending.count - 1
            said = f"{others} event{'s' * (others > 1)} before {pending.event.name} {pending.event.id}, which starts it"
            units.append(self._runtime.ledger.unit(self._starts.line(live, "debounced", said, others)))
        return together(units)

    def _dropped(self, pending: Pending) -> Unit:
        return drop_debounced(pending.key, pending.event.id, pending.count)
