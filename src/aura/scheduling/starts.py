"""Starts items: decides in one turn whether one may start, and makes the run with all that is stored with it.

Theory of operation. Whatever triggers an item hands over an event, and in that same turn asks ``offer`` or ``open``
here. What comes back is a ``Delivery``: the run, what is known of the item from then on, and what the trigger wants to
be stored with it, as a part of the event's unit. So a start is on record together with its event, its slot, its files
or its delivery, or it never was. What does not start is a line of the why-ledger.

What a crash does: all of it is on record, or nothing.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import msgspec

from aura.bus import Delivery
from aura.errors import RequestError, StoreError
from aura.events import EventEntry, chain_after
from aura.failpoints import Site
from aura.kernel.admission import Admission, Admitted, Origin, Reserved, refusal
from aura.kernel.refusals import detail_of
from aura.polling.triggerscope import starting_scope
from aura.records.items import put_item
from aura.records.runs import together
from aura.records.why import put_why
from aura.run import Cause, CauseKind, Request
from aura.runs.firing import payload_of
from aura.runs.liverun import LiveRun
from aura.runs.runtime import Runtime
from aura.schedule import Cron, Trigger
from aura.scheduling.itemmodes import ItemModes
from aura.scheduling.liveitem import LiveItem
from aura.scheduling.refusedslots import with_slot
from aura.store import Unit
from aura.why import Why, reason_of

#: What is not worth a line in the log each time.
QUIET = frozenset({"condition_false", "disabled", "cooldown", "debounced", "duplicate", "mode"})

#: Refusals that settle nothing: it may be asked again.
LATER = frozenset({"storage_unavailable", "shutting_down"})


class Refusal(NamedTuple):
    """Why an item does not start: a reason of the why-ledger, and what to say."""

    reason: str
    detail: str


class Wish(NamedTuple):
    """A start that a trigger wants. ``trigger`` is None if somebody asks by hand.

    ``event`` is what the run sees of its event, None for no event; ``due`` is the slot, in Unix seconds, None for one
    that is not of a time; ``delay`` are the seconds after which it may begin; ``also`` is stored with it.
    """

    live: LiveItem
    kind: CauseKind
    trigger: Trigger | None = None
    event: Mapping[str, Any] | None = None
    due: float | None = None
    delay: float = 0.0
    inputs: Mapping[str, Any] = {}
    also: Callable[[Reserved], Unit] | None = None


class Last(NamedTuple):
    """What is known of the last start of an item: the run, when, in Unix seconds, by the monotonic clock, its slot."""

    cid: str | None
    at: float | None
    mono: float | None
    due: float | None

    @classmethod
    def of(cls, live: LiveItem) -> "Last":
        return cls(live.row.last_cid, live.row.last_at, live.last_mono, live.row.last_due)

    def give_back(self, live: LiveItem, cid: str) -> None:
        """The start of the run ``cid`` was not stored: unless another one followed, this one is the last again."""
        if live.row.last_cid == cid:
            live.row = msgspec.structs.replace(live.row, last_cid=self.cid, last_at=self.at, last_due=self.due)
            live.last_mono = self.mono


class _Begun(NamedTuple):
    """A start that is being stored: its unit, and what follows from its fate."""

    wish: Wish
    reserved: Reserved
    former: Last
    unit: Unit
    runtime: Runtime
    admission: Admission

    def stored(self) -> None:
        """It is on record."""
        self.runtime.measures.note_item_start(self.wish.live.plan_name, self.wish.kind)
        self.admission.commit([self.reserved])

    def lost(self, error: Exception) -> None:
        """It was not stored: it never was."""
        if self.wish.due is not None:
            self.wish.live.give_back(self.wish.due)
        self.former.give_back(self.wish.live, self.reserved.run.cid)
        self.admission.undo(self.reserved, error)


class Starts:
    """Starts items. ``modes`` counts the runs of each."""

    def __init__(self, runtime: Runtime, admission: Admission, modes: ItemModes) -> None:
        self._runtime = runtime
        self._admission = admission
        self._modes = modes

    # -- deciding

    def takes_any(self) -> bool:
        """Whether a start could be stored now; if not, it may be asked again."""
        try:
            self._admission.check_open()
            self._admission.check_space()
        except RequestError:
            return False
        return True

    def refusal(self, wish: Wish) -> Refusal | None:
        """Why its trigger does not start an item now; None if it may, as far as that can be said before it is asked."""
        unfit = self.unfit(wish)
        if unfit is not None or not wish.live.item.cooldown:
            return unfit
        left = wish.live.cooldown_left(self._runtime.clock.monotonic())
        return Refusal("cooldown", f"its cooldown ends in {left:.3g} s") if left > 0 else None

    def unfit(self, wish: Wish) -> Refusal | None:
        """Why a trigger does not mean that an item starts, whenever that would be: it is off, or ``when`` is false."""
        if not wish.live.enabled:
            return Refusal("disabled", "it is switched off")
        if wish.trigger is not None and wish.trigger.when is not None:
            try:
                if not wish.trigger.when.test(self.scope_of(wish)):
                    return Refusal("condition_false", "its when does not hold")
            except Exception as error:
                return Refusal("bad_inputs", f"its when cannot be asked: {error}")
        return None

    def scope_of(self, wish: Wish) -> dict[str, Any]:
        """What the expressions of its trigger and its inputs may name."""
        kind = wish.trigger.kind if wish.trigger else None
        zone = kind.timezone if isinstance(kind, Cron) else None
        due = self._runtime.clock.wall() if wish.due is None else wish.due
        return starting_scope(self._runtime, wish.live.plan, wish.event, due, zone)

    def inputs_of(self, wish: Wish) -> dict[str, Any]:
        """The inputs of its run: those of the item, and over them those of the wish.

        Raises:
            RequestError: ``inputs_invalid``: one of them has no value.
        """
        if not wish.live.item.inputs:
            return dict(wish.inputs)
        scope = self.scope_of(wish)
        try:
            made = {key: one.render(scope) for key, one in wish.live.item.inputs.items() if key not in wish.inputs}
        except Exception as error:
            raise RequestError("inputs_invalid", f"its inputs cannot be made: {error}") from error
        return {**made, **wish.inputs}

    # -- starting

    def offer(self, wish: Wish, event: EventEntry) -> Delivery | None:
        """Start an item by an event if it may; else it is noted why not. What it wants to be stored is lost then."""
        refusal = self.refusal(wish)
        if refusal is None:
            return self.open_or_note(wish, event)
        self.note(wish.live, *refusal)
        return None

    def open_or_note(self, wish: Wish, event: EventEntry) -> Delivery | None:
        """Start an item that may start, by an event; if the run is refused it is noted why."""
        try:
            return self.open(wish, event)
        except RequestError as refused:
            self.note(wish.live, *why_refused(refused))
            return None

    def open(self, wish: Wish, event: EventEntry) -> Delivery:
        """Start an item by an event. Whoever calls this hands over the unit, in the same turn.

        Raises:
            RequestError: the run is refused; nothing has changed.
        """
        begun = self._begin(wish, event)
        lose = partial(self._lost_by_trigger, begun)
        # that a slot has not started yet is known: the store does not find it out
        certain = wish.due is not None and not begun.reserved.deliveries
        return Delivery(begun.unit, begun.stored, lose, begun.reserved.run.cid, certain=certain)

    def by_hand(self, wish: Wish, also: Callable[[LiveRun], Unit] | None = None) -> Admitted:
        """Start an item because somebody asks for it, whatever its switch and its cooldown say. Does not wait.

        ``also`` gives, for the new run, what is written with it or not at all.

        Raises:
            RequestError: the run is refused; nothing was stored.
        """
        try:
            begun = self._begin(wish, None)
        except RequestError as refused:
            self.note(wish.live, *why_refused(refused))
            raise
        run = begun.reserved.run
        unit = begun.unit if also is None else together([begun.unit, also(run)])
        ticket = self._runtime.store.put(unit, begun.stored, begun.lost, refusable=True, site=Site.SLOT)
        if ticket.error is not None:  # the store's intake is closed: what was reserved is undone
            raise refusal(ticket.error)
        return Admitted(run, ticket)

    def _begin(self, wish: Wish, event: EventEntry | None) -> "_Begun":
        """Reserve the run and note the start.

        Raises:
            RequestError: the run is refused; nothing has changed.
        """
        live, clock = wish.live, self._runtime.clock
        reserved = self._admission.reserve(*self._asked(wish, event))
        former, cid, now, mono = Last.of(live), reserved.run.cid, clock.wall(), clock.monotonic()
        try:
            if wish.due is None:
                live.note_start(cid, now, mono)
            else:
                live.take_slot(wish.due, cid, now, mono)
            units = [reserved.unit, put_item(live.row, now)]
            if wish.also is not None:
                units.append(wish.also(reserved))
        except BaseException as error:
            self._admission.undo(reserved, StoreError(str(error)))
            raise
        return _Begun(wish, reserved, former, together(units), self._runtime, self._admission)

    def _lost_by_trigger(self, begun: "_Begun") -> None:
        begun.lost(StoreError("the start could not be stored"))
        if begun.wish.also is None:  # who has something stored with a start sees to it when that is lost
            self.note(begun.wish.live, "storage_full", "the start could not be stored")

    def _asked(self, wish: Wish, event: EventEntry | None) -> tuple[Request, Cause, Origin]:
        item = wish.live.item
        inputs = self.inputs_of(wish)
        key = self._modes.key(wish.live, partial(self.scope_of, wish), inputs)
        self._modes.check(wish.live, key)
        request = Request(item.plan_name, item.task_name, inputs, delay_s=wish.delay)
        event_id = str(event.id) if event else None
        cause = Cause(wish.kind, item=item.name, event_id=event_id, plan_name=wish.live.plan_name, key=key)
        origin = Origin(
            chain=chain_after(event, wish.live.name) if event and wish.event is not None else None,
            event=wish.event,
            due=wish.due,
            lane="event" if wish.kind in ("event", "webhook", "file") else "main",
        )
        return request, cause, origin

    # -- not starting

    def note(self, live: LiveItem, reason: str, detail: str, count: int = 1) -> None:
        """Note that an item did not start, with a line in the ledger; the log has a word of the first for a while."""
        line = self._missed(live, reason, detail, count)
        if self._runtime.ledger.note(line):
            self._say(live, line)

    def line(self, live: LiveItem, reason: str, detail: str, count: int = 1) -> Why:
        """Note that an item did not start; the line is the caller's to store."""
        line = self._missed(live, reason, detail, count)
        self._say(live, line)
        return line

    def refused(self, live: LiveItem, refusal: Refusal, due: float) -> Unit:
        """Note that a slot does not start: the unit of the line of all that were refused alike within a minute."""
        former = live.refused.get(refusal.reason)
        slots = with_slot(former, due)
        line = self._missed(live, refusal.reason, slots.text(refusal.detail), 1)
        if slots.line is None:
            self._say(live, line)
        row = self._runtime.ledger.row(line, slots.line)
        live.refused[refusal.reason] = slots._replace(line=row)
        return put_why([row])

    def _missed(self, live: LiveItem, reason: str, detail: str, count: int) -> Why:
        now, shown = self._runtime.clock.wall(), self._runtime.ledger.shown(detail)
        live.note_missed(reason, shown, now, count)
        return Why(reason, shown, live.plan_name, live.item.name, None, live.item.task_name, count, now)

    def _say(self, live: LiveItem, line: Why) -> None:
        if line.reason not in QUIET:
            said = f"{live.name} did not start ({line.reason}): {line.detail}"
            self._runtime.log.warning(said, plan=live.plan_name)


def why_refused(refused: RequestError) -> Refusal:
    """A refused run as a reason why its item did not start."""
    return Refusal(reason_of(refused.code), detail_of(refused))


def event_of(event: EventEntry) -> Mapping[str, Any]:
    """An event as the run sees it that it starts."""
    return payload_of(event)
