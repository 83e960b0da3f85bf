"""Events that are expected: an item starts when one has not come in time.

Theory of operation. A trigger with ``expect`` has a *window*, ``within`` long. Each event that it means begins a new
one; ``when`` says which of those with the name it means. When a window ends and none has come, the event
``schedule.absent`` says so and starts the item, and the next window begins there. The first one begins when the trigger
is first seen. What keeps the item from starting then, its switch, its cooldown, is a line of the why-ledger, and counts
as if it had.

- *Time* is monotonic while the server runs, so that a wall clock that is set changes nothing, and a machine that sleeps
  expects nothing of that time. Over a restart it is that of the wall clock, but never more than a whole window is left:
  the time in which the server was away counts.
- *An event counts* once it is on record. While one is on its way no window ends. Those that came while the trigger was
  not served, such as while its plan was broken, are looked for on record, when its first window would end; and so are
  those of each window while its item hears of no events, since they went round in a circle.
- While the engine is stopped windows end as ever; the runs are queued.

What a crash does: each window is a row, written with the event that began it or with the start that ended the former.
"""

import asyncio
from collections.abc import Iterator, Mapping
from contextvars import copy_context
from functools import partial
from typing import Any

import anyio

from aura.bus import Delivery
from aura.clock import rfc3339
from aura.errors import RequestError
from aura.eventloop import IN_BACKGROUND
from aura.events import EventEntry
from aura.failpoints import Site
from aura.records.events import read_named
from aura.records.expected import ExpectKey, Window, drop_expected, drop_stray_expected, put_expected
from aura.records.runs import together
from aura.runs.runtime import Runtime
from aura.schedule import Expect, Trigger
from aura.scheduling.heard import suspend
from aura.scheduling.liveitem import Key, LiveItem, mark_of
from aura.scheduling.starts import LATER, Starts, Wish, event_of, why_refused

#: The event that says that one has not come.
ABSENT = "schedule.absent"
#: Of how many items that are not served the windows are known; they may come back.
MAX_AWAY = 10_000
#: How soon it is tried again when nothing can be stored, in seconds.
AGAIN = 5.0
#: How many events are looked at in one read, and for how many seconds at most it is looked for one.
PAGE = 1000
LONGEST_LOOK = 30.0


class Watch:
    """One trigger of an item that expects an event: a ``Subscriber``. Made by ``Expects``."""

    def __init__(self, expects: "Expects", live: LiveItem, key: ExpectKey, window: Window, elapsed: float) -> None:
        self._expects = expects
        self._runtime = expects.runtime
        self._starts = expects.starts
        self.live = live
        self.key = key
        self.name = live.name
        self.pattern = ""
        self.trigger: Trigger
        #: What is on record, or on its way there; and when it began, in monotonic seconds.
        self.window = window
        self._began = self._runtime.clock.monotonic() - elapsed
        #: Events may have come that it was not asked about.
        self.is_unsure = False
        self._on_the_way = 0
        self._timer: asyncio.TimerHandle | None = None
        #: Bounds the look at what is on record; cancelled when it is not served any more.
        self._look: anyio.CancelScope | None = None

    def keep(self, trigger: Trigger) -> None:
        """Serve it, as its plan says it now; it says what it said before."""
        assert isinstance(trigger.kind, Expect)
        self.trigger, self.pattern = trigger, trigger.kind.pattern
        if self.live.suspended is None:
            self._runtime.bus.subscribe(self)
        self._arm_if_idle()

    def end(self) -> None:
        """Serve it no more."""
        self._runtime.bus.unsubscribe(self)
        self.cancel()

    def cancel(self) -> None:
        """Let its time pass."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._look is not None:
            self._look.cancel("it is not served any more")
            self._look = None

    @property
    def within(self) -> float:
        assert isinstance(self.trigger.kind, Expect)
        return self.trigger.kind.within

    @property
    def left(self) -> float:
        """Seconds until its window ends."""
        return self._began + self.within - self._runtime.clock.monotonic()

    def _arm(self, again: float = 0.0) -> None:
        self.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(0.0, self.left, again), self._due, context=self._expects.context)

    def _arm_if_idle(self) -> None:
        if self._timer is None and self._look is None:
            self._arm()

    # -- an event comes

    def offer(self, event: EventEntry) -> Delivery | None:
        """Say what an event brings about: a new window, if it is one that is expected."""
        if not self._means(event):
            return None
        window = Window(event.time, event.id + 1, event.time)
        self._on_the_way += 1
        came = partial(self._settle, window, self._runtime.clock.monotonic())
        return Delivery(put_expected(self.key, window), came, self._settle)

    def _means(self, event: EventEntry) -> bool:
        if self.trigger.when is None:
            return True
        wish = Wish(self.live, "event", self.trigger, event=event_of(event))
        try:
            return self.trigger.when.test(self._starts.scope_of(wish))
        except Exception as error:
            self._starts.note(self.live, "bad_inputs", f"whether it expects {event.name} cannot be asked: {error}")
            return False

    def _settle(self, window: Window | None = None, began: float = 0.0) -> None:
        """An event is on record, and has begun this window; or it is not."""
        self._on_the_way -= 1
        if window is not None:
            self.window, self._began, self.is_unsure = window, began, self.live.suspended is not None
        if self._expects.serves(self):
            self._arm_if_idle()

    def suspend(self, reason: str) -> None:
        """Events went round in a circle through its item."""
        self.is_unsure = True
        suspend(self.live, self._starts, reason)

    # -- none has come

    def _due(self, looked: bool = False) -> None:
        """Its window may have ended. ``looked``: it was looked for an event on record, and none is there."""
        self._timer = None
        try:
            if self._on_the_way:  # when that is settled it goes on
                return
            if self.left > 0:
                self._arm()
            elif self.is_unsure and not looked:
                self._look = anyio.CancelScope()
                # in ``runs``: ends within ``LONGEST_LOOK``, or when it is not served any more
                self._runtime.runs.start_soon(self._look_back, self._look, name=f"look for {self.pattern}")
            else:
                self._end_window()
        except Exception as error:
            self._runtime.fault(f"that {self.pattern} has not come for {self.name} could not be told", error)
            self._begin(self._next())
            self._arm()

    async def _look_back(self, scope: anyio.CancelScope) -> None:
        """Look for an event that came while nobody asked."""
        found: EventEntry | None = None
        try:
            with scope:  # its only child: this look
                with anyio.move_on_after(LONGEST_LOOK):
                    found = await self._find()
        except Exception as error:
            self._runtime.fault(f"it could not be looked for {self.pattern} on record", error)
        if scope.cancel_called:
            return
        self._look = None
        if found is not None and found.id >= self.window.since_id:  # none has come meanwhile
            clock = self._runtime.clock
            window = Window(found.time, found.id + 1, found.time)
            self._runtime.store.put(put_expected(self.key, window), refusable=True, site=Site.ITEM)
            self.window, self._began = window, clock.monotonic() - max(0.0, clock.wall() - found.time)
        self.is_unsure = self.live.suspended is not None
        self._due(looked=True)

    async def _find(self) -> EventEntry | None:
        before: int | None = self._runtime.journal.head
        while before is not None:
            page = await self._runtime.store.read(
                partial(read_named, pattern=self.pattern, since=self.window.since_id, before=before, limit=PAGE)
            )
            for event in page.events:
                if isinstance(event, EventEntry) and self._means(event):
                    return event
            before = page.next
        return None

    def _end_window(self) -> None:
        """Tell that none has come, and start the item if it may."""
        refusal = self._starts.refusal(Wish(self.live, "event"))
        if refusal is None:
            try:
                self._runtime.bus.address(Absence(self), ABSENT, self._payload(), plan_name=self.live.plan_name)
                return
            except RequestError as refused:
                if refused.code in LATER:
                    self._arm(AGAIN)
                    return
                refusal = why_refused(refused)
        window = self._next()
        line = self._starts.line(self.live, refusal.reason, f"{self.pattern} has not come; {refusal.detail}")
        units = together([put_expected(self.key, window), self._runtime.ledger.unit(line)])
        self._runtime.store.put(units, refusable=True, site=Site.ITEM)
        self._begin(window)
        self._arm()

    def _payload(self) -> dict[str, Any]:
        seen = self.window.last_seen
        return {
            "plan": self.live.plan_name,
            "item": self.live.item.name,
            "expect": self.pattern,
            "within_s": self.within,
            "last_seen": None if seen is None else rfc3339(seen),
        }

    def _next(self) -> Window:
        """The window that begins now."""
        return Window(self._runtime.clock.wall(), self._runtime.journal.head, self.window.last_seen)

    def _begin(self, window: Window) -> None:
        self.window, self._began = window, self._runtime.clock.monotonic()

    def start(self, event: EventEntry) -> Delivery:
        """Start its item by the event that says that none has come, and begin the next window.

        Raises:
            RequestError: the run is refused; nothing has changed.
        """
        window, former, began = self._next(), self.window, self._began
        wish = Wish(self.live, "event", event=event_of(event), also=lambda _: put_expected(self.key, window))
        delivery = self._starts.open(wish, event)
        self._begin(window)
        self._arm()

        def lost() -> None:
            delivery.lost()
            if self.window is window and self._expects.serves(self):
                self.window, self._began = former, began
                self._arm(AGAIN)

        return delivery._replace(lost=lost)


class Absence:
    """The subscriber that the event of an absence is meant for."""

    pattern = ""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.name = watch.name

    def offer(self, event: EventEntry) -> Delivery | None:
        """Say what the event starts."""
        return self._watch.start(event)

    def suspend(self, reason: str) -> None:
        """It is asked once."""


class Expects:
    """The events that are expected, for all items. A ``Source``."""

    def __init__(self, runtime: Runtime, starts: Starts) -> None:
        self.runtime = runtime
        self.starts = starts
        #: In which timers run: they go on as long as the server does.
        self.context = copy_context()
        self.context.run(IN_BACKGROUND.set, True)
        self._watches: dict[Key, dict[str, Watch]] = {}
        #: The windows of items that are not served, by what their triggers say.
        self._away: dict[Key, dict[str, Window]] = {}

    def take_over(self, windows: Mapping[ExpectKey, Window]) -> None:
        """Take what an older boot has kept, before items are first loaded."""
        self.runtime.store.put(drop_stray_expected(), refusable=True, site=Site.ITEM)
        for key, window in windows.items():
            self._away.setdefault((key.plan_name, key.item), {})[key.trigger] = window

    def keep(self, live: LiveItem) -> None:
        wanted = {mark_of(one): one for one in live.item.triggers if isinstance(one.kind, Expect)}
        watches, away = self._watches.pop(live.key, {}), self._away.pop(live.key, {})
        for mark in (watches.keys() | away.keys()) - wanted.keys():
            if mark in watches:
                watches.pop(mark).end()
            self.runtime.store.put(drop_expected(ExpectKey(*live.key, mark)), refusable=True, site=Site.ITEM)
        if wanted:
            self._watches[live.key] = watches
        for mark, trigger in wanted.items():
            if mark not in watches:
                watches[mark] = self._watch(live, ExpectKey(*live.key, mark), away.get(mark))
            watches[mark].keep(trigger)

    def _watch(self, live: LiveItem, key: ExpectKey, former: Window | None) -> Watch:
        """A trigger that was not served; its window may have begun before."""
        now = self.runtime.clock.wall()
        if former is None:
            window = Window(now, self.runtime.journal.head)
            self.runtime.store.put(put_expected(key, window), refusable=True, site=Site.ITEM)
            return Watch(self, live, key, window, 0.0)
        watch = Watch(self, live, key, former, max(0.0, now - former.since))
        watch.is_unsure = True
        return watch

    def drop(self, live: LiveItem) -> None:
        watches = self._watches.pop(live.key, {})
        for watch in watches.values():
            watch.end()
        if watches:
            self._away[live.key] = {mark: watch.window for mark, watch in watches.items()}
        while len(self._away) > MAX_AWAY:  # the one that has been away longest
            del self._away[next(iter(self._away))]

    def serves(self, watch: Watch) -> bool:
        """Whether it is still served."""
        return self._watches.get(watch.live.key, {}).get(watch.key.trigger) is watch

    def wake(self, live: LiveItem) -> None:
        """It is deaf no more, if it may hear again."""
        if live.suspended is None:
            for watch in self._watches.get(live.key, {}).values():
                self.runtime.bus.subscribe(watch)

    def start(self) -> None:
        """Windows end at any time; the runs wait for the engine."""

    def request_stop(self, _grace: float = float("inf")) -> None:
        """Windows go on ending, and the runs are queued."""

    def close(self) -> None:
        for watch in self.watches():
            watch.end()
        self._watches.clear()

    def watches(self) -> Iterator[Watch]:
        """All that are served."""
        for watches in self._watches.values():
            yield from watches.values()
