"""Events that start items: which items hear of which, and what becomes of an event that one of them hears.

Theory of operation. An item is a subscriber of the bus for each pattern that its triggers name, always under its own
name, so that a chain of events that comes back to it is found. What becomes of an event is decided once, by the first
of its triggers that fits and whose ``when`` holds, however many patterns it has come by: the item starts, or the event
is held back (``debounce``), or it is noted why not. If ``when`` of none holds that is one line of the why-ledger.

An item that events have come back to too often is *suspended*: it hears of none any more, until its plan is loaded
again or somebody switches it on.

What a crash does: an event is on record with the run that it starts, or it never was.
"""

from collections.abc import Collection

from aura.bus import Bus, Delivery
from aura.eventnames import matches
from aura.events import EventEntry
from aura.runs.runtime import Runtime
from aura.schedule import OnEvent
from aura.scheduling.debounce import Debounces
from aura.scheduling.liveitem import Key, LiveItem
from aura.scheduling.starts import Starts, Wish, event_of


class Heard:
    """The items that hear of events. A ``Source``."""

    def __init__(self, runtime: Runtime, starts: Starts, debounces: Debounces) -> None:
        self._bus: Bus = runtime.bus
        self._starts = starts
        self._debounces = debounces
        self._listeners: dict[Key, Listener] = {}

    def keep(self, live: LiveItem) -> None:
        if live.suspended is not None:  # it says what it said before: its plan has no new version
            return
        patterns = [trigger.kind.pattern for trigger in live.item.triggers if isinstance(trigger.kind, OnEvent)]
        if not patterns:
            self.drop(live)
            return
        listener = self._listeners.setdefault(live.key, Listener(live, self._bus, self._starts, self._debounces))
        listener.keep(patterns)

    def drop(self, live: LiveItem) -> None:
        listener = self._listeners.pop(live.key, None)
        if listener is not None:
            listener.keep(())

    def wake(self, live: LiveItem) -> None:
        """It is deaf no more, if it may hear again."""
        if live.suspended is None:
            self.keep(live)

    def start(self) -> None:
        """Events make runs at any time; those wait for the engine."""

    def request_stop(self, _grace: float = float("inf")) -> None:
        """Events go on making runs, which are queued."""

    def close(self) -> None:
        """It has no timers."""


class Listener:
    """One item that hears of events."""

    def __init__(self, live: LiveItem, bus: Bus, starts: Starts, debounces: Debounces) -> None:
        self._live = live
        self._bus = bus
        self._starts = starts
        self._debounces = debounces
        self._ears: dict[str, Ear] = {}
        #: The event that was decided about last.
        self._last: int | None = None

    def keep(self, patterns: Collection[str]) -> None:
        """Hear of events with these patterns, and of no others; also if it was suspended."""
        former = self._ears
        self._ears = {one: former.get(one) or Ear(self, self._live.name, one) for one in patterns}
        for pattern in former.keys() - self._ears.keys():
            self._bus.unsubscribe(former[pattern])
        for ear in self._ears.values():
            self._bus.subscribe(ear)

    def offer(self, event: EventEntry) -> Delivery | None:
        """Say what an event brings about."""
        if event.id == self._last:  # it came by another pattern
            return None
        self._last = event.id
        shown, refusal = event_of(event), None
        for trigger in self._live.item.triggers:
            if not isinstance(trigger.kind, OnEvent) or not matches(trigger.kind.pattern, event.name):
                continue
            wish = Wish(self._live, "event", trigger, event=shown)
            debounce = trigger.kind.debounce
            refusal = self._starts.refusal(wish) if debounce is None else self._starts.unfit(wish)
            if refusal is None and debounce is None:
                return self._starts.open_or_note(wish, event)
            if refusal is None and debounce is not None:
                return self._debounces.hold(wish, trigger, debounce, event)
            if refusal is not None and refusal.reason != "condition_false":
                break
        if refusal is not None:
            self._starts.note(self._live, *refusal)
        return None

    def suspend(self, reason: str) -> None:
        """Hear of no events any more."""
        for ear in self._ears.values():
            self._bus.unsubscribe(ear)
        suspend(self._live, self._starts, reason)


class Ear:
    """An item as the bus asks it: a ``Subscriber`` for one of its patterns."""

    def __init__(self, listener: Listener, name: str, pattern: str) -> None:
        self._listener = listener
        self.name = name
        self.pattern = pattern

    def offer(self, event: EventEntry) -> Delivery | None:
        """Say what an event brings about."""
        return self._listener.offer(event)

    def suspend(self, reason: str) -> None:
        """It is asked no more."""
        self._listener.suspend(reason)


def suspend(live: LiveItem, starts: Starts, reason: str) -> None:
    """Note, once, that an item hears of no events any more."""
    if live.suspended is None:
        live.suspended = reason
        starts.note(live, "loop_detected", reason)
