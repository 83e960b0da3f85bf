"""The event bus: who wants to hear of which events, and what an event brings about when it is stored.

Theory of operation. An event is *delivered* in the turn in which its unit is handed to the store: every subscriber
whose pattern fits is asked (``offer``), and what it answers, a ``Delivery``, joins that unit (``joined``). So an event
is on record together with what it starts or wakes, or not at all. When the commit is known each delivery is told so
(``settle``); only then does anything of it begin. Nobody who publishes ever waits for a subscriber.

- *A subscriber's failure is its own.* One that raises is logged and counted; so is one whose part of the unit cannot be
  written, which is rolled back alone. Neither touches the event, nor the others.
- *Circles.* A run knows by which events it does what it does (``events.Chain``), and so does what it emits. An event
  that more than ``MAX_DEPTH`` others have led to, or whose chain went through a subscriber more than ``MAX_VIA`` times,
  is not offered to that one: it is *suspended*, once, aloud. The event that says so begins a chain of its own, but it
  remembers what the former one went through, so that who starts a circle anew because of it is suspended in its turn.
- *The bound.* So many emitted events, and bytes of them, may be on their way to the store (``room``). Beyond that a
  client is refused and a run waits. Aura's own events are bounded by what they tell of. Emitting takes no more than
  ``SHARE`` seconds of a turn of the loop, so that a storm that many are asked about leaves others theirs (``pace``).

Delivering costs next to nothing while nobody wants to hear of such a name: one look into a dict for each event.

What a crash does: an event is on record with what it brought about, or it never was. Subscribers make themselves known
again at the boot; what came before that is not offered again.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import msgspec

from aura.actions import plain_json
from aura.context import Log
from aura.errors import BadOutput, FieldError, RequestError
from aura.eventnames import is_own, matches, read_name
from aura.events import Chain, Emitter, EventEntry, Fired
from aura.failpoints import Site
from aura.journal import Journal
from aura.records.columns import encode
from aura.records.events import insert_event
from aura.records.runs import together
from aura.room import Pace, Room
from aura.store import Execute, Owner, Store, Ticket, Unit, raise_if_lost

#: The largest payload of an event, in bytes of JSON.
MAX_PAYLOAD = 64 * 1024
#: How many emitted events, and bytes of their payloads, may be on their way to the store.
MAX_ON_THE_WAY = 10_000
MAX_BYTES_ON_THE_WAY = 32 * 1024 * 1024
#: Seconds of a turn of the loop that emitting may take, with all that is asked about what is emitted.
SHARE = 0.005
#: How many events may have led to one that is offered, and how often it may have gone through the same subscriber.
MAX_DEPTH = 16
MAX_VIA = 8
#: How many of the suspended subscribers the status names: the latest.
SUSPENDED_SHOWN = 20
#: For how many names it is kept which patterns with a star fit them.
KEPT_NAMES = 4096
LOOP_DETECTED = "aura.loop_detected"


class Delivery(NamedTuple):
    """What an event brings about at one subscriber: a unit that is stored with it, and what follows from its fate.

    ``started`` is the ``cid`` of the run that it starts, if it does; ``fired`` is the interrupt rule that it fires, of
    which that run is the handler. ``certain``: so is the unit (``Ticket.certain``).
    """

    unit: Unit | None
    committed: Callable[[], object]
    lost: Callable[[], object]
    started: str | None = None
    fired: Fired | None = None
    certain: bool = False


class Subscriber(Protocol):
    """Who wants to hear of events. ``name`` is what is shown of it; ``pattern`` is of events' names.

    The name is the same after a restart, and for all that a plan's author would call the same: circles are found by it.
    """

    @property
    def name(self) -> str: ...
    @property
    def pattern(self) -> str: ...

    def offer(self, event: EventEntry) -> Delivery | None:
        """Say what an event brings about, None for nothing. It must neither wait nor raise."""

    def suspend(self, reason: str) -> None:
        """It is asked no more, since events went round in a circle through it."""


class Suspended(msgspec.Struct, frozen=True):
    """A subscriber that is asked no more, why, and since when, in Unix seconds."""

    subscriber: str
    event: str
    reason: str
    at: float


class Emitted(NamedTuple):
    """An event that was handed over: it is stored, with what it brings about, when the ticket says so."""

    entry: EventEntry
    ticket: Ticket
    deliveries: Sequence["Offered"]

    @property
    def started(self) -> list[str]:
        """The runs that it has started; to be asked when it is stored."""
        stored = [one.delivery for one in self.deliveries if one.error is None]
        return [one.started for one in stored if one.started and one.fired is None]

    @property
    def fired(self) -> list[Fired]:
        """The interrupt rules that it has fired; to be asked when it is stored."""
        return [one.delivery.fired for one in self.deliveries if one.delivery.fired and one.error is None]


class Offered(msgspec.Struct, eq=False):
    """A delivery and whose it is; ``error`` is why its unit could not be written."""

    subscriber: Subscriber
    delivery: Delivery
    error: Exception | None = None


class Bus:
    """Knows the subscribers, asks them, and takes what is emitted."""

    def __init__(self, store: Store, journal: Journal, log: Log) -> None:
        self._store = store
        self._journal = journal
        self._log = log
        #: pattern → its subscribers, by identity: of those without a star, and of the others.
        self._exact: dict[str, dict[int, Subscriber]] = {}
        self._wild: dict[str, dict[int, Subscriber]] = {}
        #: name → the patterns with a star that fit it, as far as they have been looked for.
        self._fitting: dict[str, tuple[str, ...]] = {}
        self.room = Room(MAX_ON_THE_WAY, MAX_BYTES_ON_THE_WAY)
        self.pace = Pace(SHARE)
        #: How often a subscriber has failed.
        self.failures = 0
        self.suspended: deque[Suspended] = deque(maxlen=SUSPENDED_SHOWN)

    # -- subscribers

    def subscribe(self, subscriber: Subscriber) -> None:
        """Ask a subscriber about each event from now on whose name fits its pattern."""
        pattern = subscriber.pattern
        patterns = self._wild if "*" in pattern else self._exact
        if pattern not in patterns:
            patterns[pattern] = {}
            if patterns is self._wild:
                self._fitting.clear()
        patterns[pattern][id(subscriber)] = subscriber
        if self.suspended:
            kept = [one for one in self.suspended if one.subscriber != subscriber.name]
            self.suspended = deque(kept, SUSPENDED_SHOWN)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Ask it no more. Harmless if it was not asked."""
        pattern = subscriber.pattern
        patterns = self._wild if "*" in pattern else self._exact
        asked = patterns.get(pattern, {})
        if asked.pop(id(subscriber), None) is not None and not asked:
            del patterns[pattern]
            if patterns is self._wild:
                self._fitting.clear()

    @property
    def subscribers(self) -> int:
        """How many there are."""
        return sum(len(asked) for patterns in (self._exact, self._wild) for asked in patterns.values())

    def _asked(self, name: str) -> list[Subscriber]:
        """Those who are asked about such an event: in the order of subscribing, those of one pattern together."""
        fitting = self._fitting.get(name)
        if fitting is None:
            if len(self._fitting) >= KEPT_NAMES:
                self._fitting.clear()
            fitting = self._fitting[name] = tuple(one for one in self._wild if matches(one, name))
        found = list(self._exact[name].values()) if name in self._exact else []
        for pattern in fitting:
            found += self._wild[pattern].values()
        return found

    # -- delivering

    def deliver(self, events: Sequence[EventEntry]) -> Sequence[Offered]:
        """Ask the subscribers about events whose unit is about to be handed over."""
        if not (self._exact or self._wild):
            return ()
        found: list[Offered] = []
        for event in events:
            fitting = self._fitting.get(event.name)
            if fitting == () and event.name not in self._exact:
                continue
            for subscriber in self._asked(event.name):
                delivery = self.offer(subscriber, event)
                if delivery is not None:
                    found.append(Offered(subscriber, delivery))
        return found

    def offer(self, subscriber: Subscriber, event: EventEntry) -> Delivery | None:
        """Ask one subscriber about one event, unless that goes round in a circle. Its failure is its own."""
        reason = _circle(subscriber, event)
        if reason:
            self._suspend(subscriber, event, reason)
            return None
        try:
            return subscriber.offer(event)
        except Exception as error:
            self._note_failure(subscriber, "could not be asked about an event", error)
            return None

    def settle(self, deliveries: Sequence[Offered], committed: bool) -> None:
        """Tell deliveries what has become of their unit."""
        for one in deliveries:
            stored = committed and one.error is None
            if committed and one.error is not None:
                self._note_failure(one.subscriber, "could not write what an event brings about", one.error)
            try:
                (one.delivery.committed if stored else one.delivery.lost)()
            except Exception as error:
                self._note_failure(one.subscriber, "failed when an event was stored", error)

    def recent(self, pattern: str, since: int) -> Sequence[EventEntry]:
        """The events that fit and whose ids are at least ``since``, the oldest first, as far as they are in memory.

        Those whose commit is not known yet are among them.
        """
        return [event for event in self._journal.events_since(since) if matches(pattern, event.name)]

    def _note_failure(self, subscriber: Subscriber, what: str, error: Exception) -> None:
        self.failures += 1
        self._log.error(f"subscriber {subscriber.name} {what}", exc_info=error)

    # -- circles

    def _suspend(self, subscriber: Subscriber, event: EventEntry, reason: str) -> None:
        self.unsubscribe(subscriber)
        said = Suspended(subscriber.name, event.name, reason, event.time)
        is_told = said in self.suspended  # of another subscriber with this name, which was asked about it as well
        if not is_told:
            self.suspended.append(said)
            self._log.warning(f"{subscriber.name} is asked about events no more: {reason}")
        try:
            subscriber.suspend(reason)
        except Exception as error:
            self._note_failure(subscriber, "could not be suspended", error)
        if not is_told:
            self.tell_of_circle(subscriber.name, event, reason)

    def tell_of_circle(self, subscriber: str, event: EventEntry, reason: str) -> None:
        """Announce that an event has come back to a subscriber, and why that is one too many."""
        payload = {
            "subscriber": subscriber,
            "event": event.name,
            "event_id": str(event.id),
            "depth": event.hops,
            "reason": reason,
        }
        self._hand_over(self._stage(LOOP_DETECTED, payload, cause=str(event.id), via=event.via))

    # -- publishing

    def emit(self, name: str, payload: Any = None, *, origin: Emitter | None = None) -> Emitted:
        """Hand over an event that somebody emits: a client, or the step of a run (``origin``). Does not wait.

        It is on record, and shown, when the ticket says so.

        Raises:
            RequestError: ``reserved_event``; ``invalid``: the name or the payload; ``events_full``.
        """
        plain, size = check_event(name, payload)
        if not self.room.take_nowait():
            detail = f"{self.room.taken} events are on their way to the store; emit it again later"
            raise RequestError("events_full", detail)
        return self._emit(name, plain, size, origin)

    async def emit_when_room(self, name: str, payload: Any = None, *, origin: Emitter | None = None) -> Emitted:
        """The same as ``emit``, but it waits while too much is on its way to the store, and for its turn (``pace``)."""
        plain, size = check_event(name, payload)
        await self.room.take()
        try:
            await self.pace.turn()
        except BaseException:
            self.room.give_back()
            raise
        return self._emit(name, plain, size, origin)

    def _emit(self, name: str, payload: Any, size: int, origin: Emitter | None) -> Emitted:
        time = asyncio.get_running_loop().time
        begin = time()
        self.room.add(size)
        entry = self._stage(name, payload, origin)
        emitted = self._hand_over(entry, settled=partial(self.room.give_back, size), refusable=origin is None)
        self.pace.note(time() - begin)
        return emitted

    def announce(
        self,
        name: str,
        payload: Any = None,
        *,
        origin: Emitter | None = None,
        plan_name: str | None = None,
        also: Unit | None = None,
        after: Callable[[], object] | None = None,
        failed: Callable[[Exception], object] | None = None,
        owner: Owner | None = None,
    ) -> Ticket:
        """Hand over an event of Aura's own that tells of no run and no step, with ``also``, what it tells of.

        ``after`` runs when both are on record, ``failed`` if neither is. The payload is plain JSON. ``plan_name`` is of
        a plan that it tells of, where it comes from no run (``origin``).
        """
        entry = self._stage(name, payload, origin, plan_name=plan_name)
        return self._hand_over(entry, also=also, after=after, failed=failed, owner=owner).ticket

    def address(self, to: Subscriber, name: str, payload: Any = None, *, plan_name: str) -> Emitted:
        """Hand over an event of Aura's own that is meant for one subscriber; the others hear of it as of any other.

        It is stored with what it brings about there, or not at all. The payload is plain JSON. Does not wait. What the
        subscriber raises is raised, and nothing was handed over.
        """
        entry = self._stage(name, payload, plan_name=plan_name)
        try:
            delivery = to.offer(entry)
        except BaseException:
            self._journal.settle([entry], False)
            raise
        return self._hand_over(entry, meant=Offered(to, delivery) if delivery else None, refusable=True)

    def _stage(
        self,
        name: str,
        payload: Any,
        origin: Emitter | None = None,
        *,
        plan_name: str | None = None,
        cause: str | None = None,
        via: tuple[str, ...] = (),
    ) -> EventEntry:
        if origin is None or origin.chain is None:
            plan_name = origin.plan_name if origin else plan_name
            event_id = str(self._journal.head)
            chain = Chain(cause, event_id, 0, via) if via else None
            return self._journal.stage(
                name, plan_name=plan_name, payload=payload, root=event_id, cause=cause, chain=chain
            )
        chain = origin.chain
        return self._journal.stage(
            name,
            cid=origin.cid,
            plan_name=origin.plan_name,
            task_name=origin.task_name,
            step=origin.step,
            payload=payload,
            root=chain.root,
            depth=chain.depth + 1,
            cause=chain.cause,
            chain=chain if chain.via else None,
        )

    def _hand_over(
        self,
        entry: EventEntry,
        *,
        also: Unit | None = None,
        after: Callable[[], object] | None = None,
        failed: Callable[[Exception], object] | None = None,
        settled: Callable[[], object] | None = None,
        refusable: bool = False,
        owner: Owner | None = None,
        meant: Offered | None = None,
    ) -> Emitted:
        others = self.deliver([entry])
        deliveries = others if meant is None else [meant, *others]
        also = meant.delivery.unit if meant is not None else also
        units = [insert_event(entry), *([also] if also else []), *joined(others)]

        def commit() -> None:
            self._settle(entry, settled, True)
            try:
                if after:
                    after()
            finally:
                self.settle(deliveries, True)

        def lose(error: Exception) -> None:
            self._settle(entry, settled, False)
            try:
                if failed:
                    failed(error)
            finally:
                self.settle(deliveries, False)

        ticket = self._store.put(
            together(units) if len(units) > 1 else units[0],
            commit,
            lose,
            refusable=refusable,
            site=_site(deliveries),
            owner=owner,
            certain=meant is not None and meant.delivery.certain and not others,
        )
        return Emitted(entry, ticket, deliveries)

    def _settle(self, entry: EventEntry, settled: Callable[[], object] | None, committed: bool) -> None:
        if settled:
            settled()
        self._journal.settle([entry], committed)

    # -- looking

    def status(self) -> dict[str, Any]:
        """What the status says of events."""
        return {
            "subscribers": self.subscribers,
            "on_the_way": self.room.taken,
            "failures": self.failures,
            "suspended": [msgspec.structs.asdict(one) for one in self.suspended],
        }


def joined(deliveries: Sequence[Offered]) -> list[Unit]:
    """The units that join that of their event; each that fails is rolled back alone, its error kept."""
    if not deliveries:
        return []
    return [partial(_write_alone, one) for one in deliveries if one.delivery.unit is not None]


def _site(deliveries: Sequence[Offered]) -> Site:
    """What an event commits beside itself."""
    site = Site.EVENT
    for one in deliveries:
        if one.delivery.fired:
            return Site.FIRING
        if one.delivery.started:
            site = Site.SLOT
    return site


def _write_alone(one: Offered, execute: Execute) -> None:
    assert one.delivery.unit is not None
    one.error = None  # a unit may run twice
    execute("SAVEPOINT delivery")
    try:
        one.delivery.unit(execute)
    except Exception as error:
        raise_if_lost(error)
        execute("ROLLBACK TO delivery")
        one.error = error
    execute("RELEASE delivery")


def check_event(name: str, payload: Any) -> tuple[Any, int]:
    """Give the payload as plain JSON data, and its size.

    Raises:
        RequestError: ``reserved_event``, or ``invalid``, with all that is wrong.
    """
    errors = []
    try:
        if is_own(read_name(name)):
            first = name.partition(".")[0]
            detail = f"{name} is a name of Aura's own events; choose one that does not begin with {first!r}"
            raise RequestError("reserved_event", detail, errors=[FieldError("/name", "is reserved")])
    except ValueError as error:
        errors.append(FieldError("/name", str(error)))
    plain, size = None, 0
    try:
        plain = plain_json(payload)
        size = len(encode(plain)) if plain is not None else 0
    except (BadOutput, ValueError, OverflowError) as error:
        errors.append(FieldError("/payload", f"is not JSON: {error}"))
    if size > MAX_PAYLOAD:
        errors.append(FieldError("/payload", f"is {size} bytes of JSON, and at most {MAX_PAYLOAD} are taken"))
    if errors:
        raise RequestError("invalid", "the event is not valid", errors=errors)
    return plain, size


def _circle(subscriber: Subscriber, event: EventEntry) -> str | None:
    """Why an event may not be offered: it went round in a circle. None if it did not."""
    if event.hops > MAX_DEPTH:
        return f"event {event.name} has depth {event.hops}: {MAX_DEPTH} events at most may lead to one that is heard"
    if event.chain is not None and (times := event.chain.via.count(subscriber.name)) > MAX_VIA:
        return f"event {event.name} went through it {times} times already, and {MAX_VIA} are the most"
    return None
