"""The scheduler: looks at the clock, and settles each slot that has come: it starts a run, or it was missed.

Theory of operation. One child sleeps until the next slot of all items is due, and never longer than the clock asks for
(``Clock.recheck``), since that may jump. Then it *looks* at each item whose time has come, and others have their turn
after ``AT_ONCE`` of them, or of their starts. The slots that have come since an item was last looked at are settled in
one turn, each once:

- Those that were not older than ``ON_TIME`` when it began to look are *on time*, and start.
- Older ones are *misfires*: the server, the engine or the machine was not there. Each trigger says what becomes of
  them. ``run_once``: all of the item's are one start, that of the latest slot, and none if a slot is on time; ``skip``:
  nothing; ``run_all``: each starts. ``misfire_grace`` bounds how late one may start.
- A slot that starts is stored with its run, and a second start of it cannot be stored. What does not start is in a line
  of the why-ledger, one for all that are refused alike within a minute (``refusedslots``), and is not tried again; only
  while the storage takes nothing is it looked at again.

When the wall clock is set back by more than ``STEP_BACK``, slots come again. Those that have started do not start
again, ever: they are known one by one, or by the spans in which they lie. Those that were only missed may start now,
and what the clock had leapt over comes as ever. What was first seen while the clock was ahead counts as first seen now,
or it would have no slots for as long.

It rests while the engine is stopped; what has come meanwhile are misfires at the start, as after a restart. An item of
which it cannot be said when it is due (its time zone is not known here any more) has no slots, and a line that says so.
What has come of a trigger that leaves its file before it is settled, since the engine rests or nothing can be stored,
is a line too.

What a crash does: ``looked_to`` is stored with each start and each miss, and never lies beyond a slot whose start is
not stored yet. So what was not committed is looked at again; at worst a miss has a second line.
"""

import asyncio
import heapq
import math
from collections.abc import Callable
from contextvars import copy_context
from random import Random

import msgspec
from anyio.lowlevel import checkpoint

from aura.bus import Bus, Delivery
from aura.clock import Clock, rfc3339
from aura.errors import RequestError, StoreReadOnly
from aura.eventloop import IN_BACKGROUND
from aura.events import EventEntry
from aura.failpoints import Site
from aura.records.items import ItemRow, put_item, put_slot
from aura.records.runs import together
from aura.runs.runtime import Runtime
from aura.schedule import Trigger
from aura.scheduling.liveitem import Key, LiveItem, says
from aura.scheduling.starts import LATER, Starts, Wish, why_refused
from aura.scheduling.watched import Found, Slot, Watched, before, chosen, told
from aura.store import Ticket, Unit

#: How far the wall clock must have gone back for slots to come again, in seconds.
STEP_BACK = 60.0
#: How soon it looks again when nothing can be stored, in seconds.
AGAIN = 5.0
#: How many items it looks at in one turn of the loop; one that starts several times counts as so many.
AT_ONCE = 8
#: For how many seconds what was on time when it began to look is on time, while it comes to the end of it.
LONGEST_LOOK = 60.0
#: How many entries of the heap may be of times at which nothing is due any more, beside as many as there are items.
MAX_STALE = 64
DUE, MISSED = "schedule.due", "schedule.missed"


class Scheduler:
    """Settles the slots of all items. A ``Source``."""

    def __init__(self, runtime: Runtime, starts: Starts) -> None:
        self._runtime = runtime
        self._starts = starts
        self._clock: Clock = runtime.clock
        self._bus: Bus = runtime.bus
        self._on = False
        self._items: dict[Key, Watched] = {}
        #: (when, key): looked at then, if that is still the item's ``next_due``, or when it is to be looked at again.
        self._heap: list[tuple[float, Key]] = []
        #: What its child awaits until something is due or changes; None before it does.
        self._idle: asyncio.Future[None] | None = None
        #: The latest that the wall clock has shown since it was last set back.
        self._last_wall = -math.inf
        #: Monotonic time of the last look.
        self._last_look = 0.0
        #: Wall time at which it began to look at what is due, if it has not come to the end of that.
        self._began = -math.inf
        #: For its timer, which is no sign that anybody can go on.
        self._background = copy_context()
        self._background.run(IN_BACKGROUND.set, True)

    # -- which items there are

    def keep(self, live: LiveItem) -> None:
        known = self._items.get(live.key)
        if known and known.live is live and known.item is live.item and known.timezone == live.plan.timezone:
            return
        if timed := live.timed():
            self._watch(live, timed)
        else:
            self.drop(live)

    def _watch(self, live: LiveItem, timed: list[Trigger]) -> None:
        self._set_back(live, self._clock.wall())
        if (former := self._items.get(live.key)) is not None:
            said = {says(trigger) for trigger in timed}
            self._leave(former._replace(triggers=[one for one in former.triggers if says(one[0]) not in said]))
        self._items[live.key] = Watched.of(live)
        self._arm(self._items[live.key])

    def drop(self, live: LiveItem) -> None:
        watched = self._items.pop(live.key, None)
        if watched is not None:
            self._leave(watched)
            live.row = msgspec.structs.replace(live.row, looked_to=max(live.row.looked_to, self._clock.wall()))
        live.next_due = None

    def _leave(self, watched: Watched) -> None:
        """Say which slots of triggers that are in no file any more have come and were not settled: they never are."""
        live, now = watched.live, self._clock.wall()
        if live.next_due is None or live.next_due > now:
            return
        try:
            found = watched.found(now)
        except Exception as error:
            self._runtime.fault(f"the last slots of {live.name} could not be told", error)
            return
        if found.slots or found.more:
            reason = "storage_full" if live.enabled and not self._starts.takes_any() else _why_missed(live)
            count, detail, _, _ = told(found.slots, found)
            self._starts.note(live, reason, f"{detail}: it left its file before it could start", count)

    def wake(self, live: LiveItem) -> None:
        """Being switched changes nothing of its times."""

    def _arm(self, watched: Watched) -> None:
        """Look at an item when its next slot is due."""
        live = watched.live
        try:
            due = watched.next_due()
        except Exception as error:
            due = None
            self._starts.note(live, "bad_inputs", f"it cannot be said when it is due: {error}")
        if due != live.next_due:
            live.next_due = due
            if due is not None:
                self._push(due, live.key)

    def _push(self, when: float, key: Key) -> None:
        heapq.heappush(self._heap, (when, key))
        if len(self._heap) > 2 * len(self._items) + MAX_STALE:
            self._refill()
        self._wake()

    def _refill(self) -> None:
        """Forget what items are not due any more."""
        dues = ((watched.live.next_due, key) for key, watched in self._items.items())
        self._heap = [(due, key) for due, key in dues if due is not None]
        heapq.heapify(self._heap)

    # -- being on

    def start(self) -> None:
        self._on, self._began = True, -math.inf
        self._wake()

    def request_stop(self, _grace: float = float("inf")) -> None:
        self._on = False
        self._wake()

    def close(self) -> None:
        """It has no timers but its child's own."""

    async def serve(self) -> None:
        """Look at what is due until ``request_stop``. Ends in the turn after that."""
        while self._on:
            if self._look():
                await self._wait()
            else:
                await checkpoint()

    async def _wait(self) -> None:
        """Wait for a change, at most until something is due or the clock is to be looked at."""
        loop = asyncio.get_running_loop()
        self._idle = loop.create_future()
        if not self._heap:
            await self._idle
            return
        timer = loop.call_later(self._pause(), self._wake, context=self._background)
        try:
            await self._idle
        finally:
            timer.cancel()

    def _wake(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _pause(self) -> float:
        return min(max(0.0, self._heap[0][0] - self._clock.wall()), self._clock.recheck)

    # -- looking

    def _look(self) -> bool:
        """Look at some of what is due; say whether that was all of it."""
        now = self._clock.wall()
        if not self._began <= now <= self._began + LONGEST_LOOK:
            self._began = now
        if now < self._last_wall - STEP_BACK:
            self._go_back(now - min(self._clock.monotonic() - self._last_look, STEP_BACK))
        self._last_wall, self._last_look = now, self._clock.monotonic()
        left = AT_ONCE
        while left > 0:
            if not self._heap or self._heap[0][0] > now:
                self._began = -math.inf
                return True
            when, key = heapq.heappop(self._heap)
            watched = self._items.get(key)
            if watched is not None and watched.live.next_due is not None and watched.live.next_due <= when:
                left -= max(1, self._settle(watched, now))
        return False

    def _go_back(self, now: float) -> None:
        """The clock was set back, to ``now`` at the earliest: slots come again."""
        self._runtime.log.warning("the clock was set back; slots that have started do not start again")
        for key, watched in self._items.items():
            if self._set_back(watched.live, now):
                triggers = [(trigger, min(anchor, now)) for trigger, anchor in watched.triggers]
                self._items[key] = watched._replace(triggers=triggers)
                self._arm(self._items[key])
        self._refill()  # without what was to be looked at again at a time that is far ahead now

    def _set_back(self, live: LiveItem, now: float) -> bool:
        """Bring what is known of an item back to now if it lies ahead; on record too, or a crash would undo it."""
        row = _not_ahead(live.row, now)
        if row is live.row:
            return False
        live.row = row
        self._runtime.store.put(put_item(row, now), refusable=True, site=Site.ITEM)
        return True

    def _settle(self, watched: Watched, now: float) -> int:
        """Settle what has come of an item: start it, or note that it was missed. Say how many slots were to start."""
        live, starting = watched.live, list[Slot]()
        if not self._starts.takes_any():
            self._push(now + AGAIN, live.key)
            return 0
        try:
            found = watched.found(now)
            starting, missed = chosen(found.slots, self._began)
            if missed or found.more or not starting:  # else its start says so
                live.row = msgspec.structs.replace(live.row, looked_to=_until(starting, now))
            if missed or found.more:
                self._miss(live, missed, found)
            for number, slot in enumerate(starting, 1):
                live.row = msgspec.structs.replace(live.row, looked_to=_until(starting[number:], now))
                if not self._start(live, slot, now):
                    self._look_again(live, slot.due)
                    break
            else:
                self._arm(watched)
        except Exception as error:
            live.row = msgspec.structs.replace(live.row, looked_to=now)
            self._runtime.fault(f"the slots of {live.name} could not be settled", error)
            self._arm(watched)
        return len(starting)

    def _look_again(self, live: LiveItem, due: float) -> None:
        """A slot is not settled after all."""
        live.row = msgspec.structs.replace(live.row, looked_to=min(live.row.looked_to, before(due)))
        live.next_due = due
        self._push(self._clock.wall() + AGAIN, live.key)

    # -- starting

    def _start(self, live: LiveItem, slot: Slot, now: float) -> bool:
        """Start a run for a slot; False if it is to be looked at again."""
        wish = Wish(
            live,
            "schedule",
            slot.trigger,
            due=slot.due,
            delay=self._delay(live, slot, now),
            also=lambda reserved: put_slot(live.row, slot.due, reserved.run.cid, live.take_uncleared()),
        )
        refusal = self._starts.refusal(wish)
        if refusal is None:
            payload = {"plan": live.plan_name, "item": live.item.name, "due": rfc3339(slot.due)}
            meant = _Slot(wish, self._starts, self._lost)
            try:
                meant.ticket = self._bus.address(meant, DUE, payload, plan_name=live.plan_name).ticket
                return True
            except RequestError as refused:
                if refused.code in LATER:
                    return False
                refusal = why_refused(refused)
        self._store(live, self._starts.refused(live, refusal, slot.due))
        return True

    def _lost(self, wish: Wish, error: Exception | None) -> None:
        """The start of a slot was not stored. If the storage took nothing it is tried again."""
        assert wish.due is not None
        if isinstance(error, StoreReadOnly) and self._watches(wish):
            self._look_again(wish.live, wish.due)
        elif isinstance(error, StoreReadOnly):
            detail = f"its start was not stored, and it has left its file since; due {rfc3339(wish.due)}"
            self._starts.note(wish.live, "storage_full", detail)
        else:
            self._starts.note(wish.live, "duplicate", f"its start was not stored: {error}; due {rfc3339(wish.due)}")

    def _watches(self, wish: Wish) -> bool:
        """Whether the trigger of a start is in its file still: else its slots are not found again."""
        watched = self._items.get(wish.live.key)
        if watched is None or watched.live is not wish.live or wish.trigger is None:
            return False
        return says(wish.trigger) in {says(trigger) for trigger, _ in watched.triggers}

    def _delay(self, live: LiveItem, slot: Slot, now: float) -> float:
        """Seconds by which a slot begins later than it is due: the same for each slot, whenever it is asked."""
        if not slot.timed.jitter:
            return 0.0
        seed = f"{self._runtime.store_id}/{live.plan_name}/{live.item.name}/{slot.due}"
        return max(0.0, slot.due + Random(seed).random() * slot.timed.jitter - now)  # noqa: S311 - no secret

    def _miss(self, live: LiveItem, missed: list[Slot], found: Found) -> None:
        count, detail, first, last = told(missed, found)
        line = self._starts.line(live, _why_missed(live), detail, count)
        payload = {"plan": live.plan_name, "item": live.item.name, "count": count, "first": first, "last": last}
        units = together([put_item(live.row, self._clock.wall()), self._runtime.ledger.unit(line)])
        self._bus.announce(MISSED, payload, plan_name=live.plan_name, also=units)

    def _store(self, live: LiveItem, line: Unit) -> None:
        units = together([put_item(live.row, self._clock.wall()), line])
        self._runtime.store.put(units, refusable=True, site=Site.ITEM)


class _Slot:
    """The event of a slot is meant for its item. ``ticket`` is the event's, once that was handed over."""

    def __init__(self, wish: Wish, starts: Starts, lost: Callable[[Wish, Exception | None], object]) -> None:
        self.pattern = ""
        self.ticket: Ticket | None = None
        self._wish = wish
        self._starts = starts
        self._lost = lost

    @property
    def name(self) -> str:
        return self._wish.live.name

    def offer(self, event: EventEntry) -> Delivery | None:
        delivery = self._starts.open(self._wish, event)

        def lose() -> None:
            delivery.lost()
            self._lost(self._wish, self.ticket.error if self.ticket else None)

        return delivery._replace(lost=lose)

    def suspend(self, reason: str) -> None:
        """It is asked once."""


def _why_missed(live: LiveItem) -> str:
    return "misfire" if live.enabled else "disabled"


def _until(starting: list[Slot], now: float) -> float:
    """Up to when all is settled, while these are still to start."""
    return before(starting[0].due) if starting else now


def _not_ahead(row: ItemRow, now: float) -> ItemRow:
    """What is known of an item, if the clock was set back by more than ``STEP_BACK``: nothing lies ahead of it."""
    if max([row.looked_to, *row.anchors.values()]) <= now + STEP_BACK:
        return row
    anchors = {said: min(anchor, now) for said, anchor in row.anchors.items()}
    return msgspec.structs.replace(row, looked_to=min(row.looked_to, now), anchors=anchors)
