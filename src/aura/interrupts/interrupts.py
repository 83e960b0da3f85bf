"""Interrupts: firings, what they hold, and their victims, from the event that fires a rule to the handler's end.

Theory of operation. A *firing* is opened in the turn in which its event is handed to the store (``open``): it is
decided in memory that the rule fires, once for each event; the handler is accepted into its lane; what fits is looked
at, and from this turn on nothing that it covers starts (``holds``). Event, handler, firing and victims are one unit.

- *Stopping.* From the next turn on, a hundred in each, without waiting for the commit, each victim is told to stop by
  the kind interrupt, or by a cancel if the rule says ``then: cancel``. Only an emitter is told later: when its event is
  on record and it has been answered, so that it need not emit it again. A handler that starts at once may end before
  all are told: what is to end, or to start over, is told then, and what would go on as it was is spared.
- *Ending.* ``then: cancel`` also ends what another firing has stopped to come back, whether that still cleans up or
  rests, and whatever the priorities: those order handlers, and a firing before or after the other one would have ended
  it. Such a run is a victim of both (``LiveRun.ended_by``). The other handler goes on as if nothing had happened.
- *Waiting.* The handler waits for the *awaited*: all that fits and holds a place, also what was stopping already. A run
  leaves that set in the turn in which its seal has handed over what became of it, or in which it is given up as stuck.
  When the graces are over the set is emptied, whoever is left. So the handler's start stands behind the victims' rows
  in the store's queue, and is committed after them or with them.
- *Coming back.* A victim is ``preempted`` and stands in its lane at its old position at once; what keeps it there is
  the hold alone. However the handler ends, the firing ends with its seal, in the same unit, and with it the hold.

The ties. Handlers form one stack by priority, then by the order of firing. A firing that outranks the running handler
displaces it like any victim; others wait. A rule that a chain of events has gone through is not fired again by it.
If the unit fails, the firing ends at once and its victims go back. While the engine is stopped, or is being stopped, a
firing stops nobody: its handler is the first to start when the engine does.

What a crash does: firing, victims and handler are rows, all of them or none. The boot ends each open firing whose
handler has ended with it, or goes on with none; the others are open again before anything starts (``take_over``).
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from aura.bus import Delivery, Offered, joined
from aura.errors import StoreError
from aura.events import EventEntry, Fired, chain_after
from aura.interrupt import Terms, Then
from aura.interrupts.rules import LastFired, LiveRule
from aura.kernel.admission import Admission, Origin, Reserved
from aura.kernel.children import family
from aura.kernel.dispatcher import HANDLERS, Dispatcher
from aura.kernel.holds import active_below, fits, topmost
from aura.lifecycle import FINAL, PLACED, RunState, Stop
from aura.records.events import insert_event
from aura.records.firings import OpenFiring, open_firing
from aura.records.runs import together
from aura.run import Cause, Request
from aura.runs.attempt import PULSE
from aura.runs.firing import Firing, ending_payload, ending_text, payload_of
from aura.runs.liverun import LiveRun
from aura.runs.preempting import preempt_of
from aura.runs.runtime import Runtime
from aura.runs.seal import Seal
from aura.runs.stops import Stops
from aura.runs.victims import STUCK, ends_for_good, starts_over
from aura.task import Preempt

#: Seconds beyond the graces that a handler waits for what is being given up as stuck.
SLACK = 0.02
#: How many runs the event of a firing names.
NAMED = 100
#: How many victims are told to stop in one turn of the loop, so that others have theirs.
TOLD_AT_ONCE = 100
#: Turns of the loop after its commit in which an emitter is answered, before it is stopped.
ANSWERED = 3


class Sight(NamedTuple):
    """What a firing would do now: whom it would stop, wait for, and spare."""

    victims: list[LiveRun]
    awaited: list[LiveRun]
    spared: list[LiveRun]


class Interrupts:
    """Opens firings and ends them.

    ``find_code`` gives a run that rests the code that it began with. ``is_running``: whether the engine starts runs.
    """

    def __init__(
        self,
        runtime: Runtime,
        admission: Admission,
        dispatcher: Dispatcher,
        stops: Stops,
        seal: Seal,
        find_code: Callable[[LiveRun], object],
        is_running: Callable[[], bool],
    ) -> None:
        self._runtime = runtime
        self._admission = admission
        self._dispatcher = dispatcher
        self._stops = stops
        self._seal = seal
        self._find_code = find_code
        self._is_running = is_running
        self._holds = dispatcher.holds
        dispatcher.on_left = self._left

    # -- opening

    def open(self, live: LiveRule, event: EventEntry, inputs: Mapping[str, Any]) -> Delivery:
        """Open a firing of a rule by an event. Whoever calls this hands over the unit, in the same turn.

        Raises:
            RequestError: its handler is refused; nothing has changed.
        """
        reserved = self._admission.reserve(*self.wish(live, event, inputs))
        try:
            return self._open(live, event, reserved)
        except BaseException as error:
            self._admission.undo(reserved, StoreError(str(error)))
            raise

    def wish(self, live: LiveRule, event: EventEntry, inputs: Mapping[str, Any]) -> tuple[Request, Cause, Origin]:
        """What is asked of admission when a rule is fired."""
        rule = live.rule
        request = Request(live.plan_name, rule.task_name, dict(inputs), priority=rule.priority)
        cause = Cause("interrupt", rule=rule.name, event_id=str(event.id))
        return request, cause, Origin(chain=chain_after(event, live.name), is_handler=True)

    def _open(self, live: LiveRule, event: EventEntry, reserved: Reserved) -> Delivery:
        run, rule, terms = reserved.run, live.rule, self.terms_of(live)
        sight = self.look(terms, rule.priority) if self._is_running() else Sight([], [], [])
        payload = {
            "plan": live.plan_name,
            "rule": rule.name,
            "cid": run.cid,
            "event_id": str(event.id),
            "victims": [victim.cid for victim in sight.victims[:NAMED]],
            "victim_count": len(sight.victims),
            "spared": [spared.cid for spared in sight.spared[:NAMED]],
        }
        told = self._stage(run, "interrupt.fired", payload)
        run.event = payload_of(event)
        firing = Firing(
            id=told.id,
            plan_name=live.plan_name,
            rule=rule.name,
            event_id=str(event.id),
            event=run.event,
            priority=rule.priority,
            at=self._runtime.clock.wall(),
            terms=terms,
            handler=run,
            victims=sight.victims,
            spared=sight.spared,
            awaited=set(sight.awaited),
            emitter=self._emitter_of(event, sight.victims),
        )
        run.firing = firing
        for awaited in sight.awaited:
            awaited.awaited_by = (*awaited.awaited_by, firing)
        for victim in sight.victims:
            if victim.stopped_by is None:  # in this turn: another rule may fire before it is told
                victim.stopped_by = firing
            else:
                victim.ended_by = firing
        self._holds.add(firing)
        self._dispatcher.hold_begun()
        live.note_fired(self._last_fired(firing))
        # after this turn: whoever handed over the event is in the middle of something, and may be a victim
        asyncio.get_running_loop().call_soon(self._stop_all, firing)
        kept = open_firing(firing.row, [victim.seq for victim in firing.victims])
        heard = self._runtime.bus.deliver([told])
        return Delivery(
            together([reserved.unit, insert_event(told), kept, *joined(heard)]),
            lambda: self._committed(firing, reserved, told, heard, live),
            lambda: self._lost(firing, reserved, told, heard, live),
            run.cid,
            Fired(live.plan_name, rule.name, run.cid),
        )

    def _stage(self, run: LiveRun, name: str, payload: Any) -> EventEntry:
        chain = run.chain
        return self._runtime.journal.stage(
            name,
            plan_name=run.plan_name,
            task_name=run.task_name,
            payload=payload,
            root=chain.root if chain else run.cid,
            depth=run.accepted.depth,
            cause=chain.cause if chain else None,
            chain=chain,
        )

    def _last_fired(self, firing: Firing[LiveRun]) -> LastFired:
        named = [victim.cid for victim in firing.victims[:NAMED]]
        mono, count = self._runtime.clock.monotonic(), len(firing.victims)
        return LastFired(firing.at, mono, firing.event_id, firing.cid, named, count)

    def terms_of(self, live: LiveRule) -> Terms:
        """What a firing of a rule covers, now."""
        rule = live.rule
        own = None if self._runtime.settings.interrupts.cross_plan else live.plan_name
        return Terms(rule.preempts, rule.then, rule.handler_starts, rule.grace, own)

    # -- looking

    def look(self, terms: Terms, priority: int) -> Sight:
        """Say whom a firing of these terms and this priority would stop, wait for and spare."""
        sight = Sight([], [], [])
        for run in [*self._dispatcher.placed(), *self._dispatcher.gone]:
            if run.firing is not None:
                if run.firing.priority < priority:  # it is displaced, whatever the terms say
                    self._sort(run, sight, terms)
            elif run.lane != HANDLERS:
                for found in _topmost(terms, run):
                    self._sort(found, sight, terms)
        for run in dict.fromkeys(self._resting(terms)) if terms.then is Then.CANCEL else ():
            sight.awaited.append(run)
            sight.victims.append(run)
        return sight

    def _resting(self, terms: Terms) -> Iterator[LiveRun]:
        """What open firings have stopped, rests until it may go on, and fits: some of it may come more than once."""
        for victim in [run for firing in self._holds.open for run in firing.victims]:
            for run in _topmost(terms, victim):
                if run.state is RunState.PREEMPTED and topmost(terms, run) is run and _may_end(run):
                    yield run

    def _sort(self, run: LiveRun, sight: Sight, terms: Terms) -> None:
        if run.sealed or run.stuck or run.state not in PLACED:  # a sub-task may rest, or wait for what it needs
            return
        if preempt_of(run) is Preempt.NEVER and run.stop is None:
            sight.spared.append(run)
            return
        sight.awaited.append(run)
        untouched = run.state is RunState.RUNNING and (run.stop, run.stopped_by) == (None, None)
        stopped_to_come_back = run.stopped_by is not None and terms.then is Then.CANCEL and _may_end(run)
        if (untouched and run.ending not in FINAL) or stopped_to_come_back:
            sight.victims.append(run)

    def _emitter_of(self, event: EventEntry, victims: Sequence[LiveRun]) -> LiveRun | None:
        """The victim that is to be stopped later: it emitted the event, or what is below it did."""
        run = self._runtime.open.get(event.cid or "")
        return None if run is None else next((each for each in family(run) if each in victims), None)

    # -- stopping

    def _stop_all(self, firing: Firing[LiveRun], first: int = 0) -> None:
        """Tell the victims from the ``first`` on, so many in each turn: what they do then is another turn's work."""
        if firing.ended:
            return
        loop, after = asyncio.get_running_loop(), first + TOLD_AT_ONCE
        for victim in firing.victims[first:after]:
            if victim is not firing.emitter:
                self._stop(firing, victim)
        if after < len(firing.victims):
            loop.call_soon(self._stop_all, firing, after)
        elif firing.awaited and firing.emitter is None:  # else when that was told
            self._bound(firing)

    def _stop(self, firing: Firing[LiveRun], victim: LiveRun) -> None:
        kind = Stop.CANCEL if ends_for_good(firing, victim) else Stop.INTERRUPT
        if firing.ended or not _may_tell(victim, kind):
            return  # it has ended or rests, or ends, for another reason
        if victim.gone_at is not None:
            self._seal.seal(victim)  # as what has stopped it before wants it; it rests then
        if kind is Stop.CANCEL:
            self._find_code(victim)
        victim.told_at = told_at = asyncio.get_running_loop().time()
        self._stops.request_stop(victim, kind, f"interrupted by {firing.name}", firing.terms.grace)
        held_back = any(attempt.held_back is not None for attempt in victim.live.values())
        victim.graces_end = told_at + firing.terms.grace * (2 if held_back else 1)
        firing.graces_end = max(firing.graces_end, victim.graces_end)

    def _stop_rest(self, firing: Firing[LiveRun]) -> None:
        """Tell those that were not told yet and are to end, or to start over: the handler ends in this turn.

        Not in turns of their own: once its end is on record, a crash would forget what they were to come to.
        """
        for victim in firing.victims:
            if victim.told_at is None and (ends_for_good(firing, victim) or starts_over(firing, victim)):
                self._stop(firing, victim)

    def _bound(self, firing: Firing[LiveRun]) -> None:
        """Let the handler wait until the graces are over of all that were told, and no longer."""
        if firing.timer is not None:
            firing.timer.cancel()
        loop = asyncio.get_running_loop()
        end = max(firing.graces_end, loop.time() + firing.terms.grace)
        firing.timer = loop.call_at(end + PULSE + SLACK, self._overdue, firing)

    def _overdue(self, firing: Firing[LiveRun]) -> None:
        """The graces are over: the handler waits no longer, whoever is left."""
        for run in firing.awaited:
            run.awaited_by = tuple(other for other in run.awaited_by if other is not firing)
        firing.awaited.clear()
        self._dispatcher.look_again(firing.handler)

    # -- what becomes of it

    def _committed(
        self, firing: Firing[LiveRun], reserved: Reserved, told: EventEntry, heard: Sequence[Offered], live: LiveRule
    ) -> None:
        live.settle_fired(firing.cid, True)
        self._admission.commit([reserved])
        self._runtime.journal.settle([told], True)
        self._runtime.bus.settle(heard, True)
        self._runtime.measures.note_fired(firing.plan_name, firing.rule)
        if firing.emitter is not None:
            self._later(ANSWERED, firing, firing.emitter)

    def _later(self, turns: int, firing: Firing[LiveRun], emitter: LiveRun) -> None:
        """Stop the emitter when it has been answered."""
        if turns:
            asyncio.get_running_loop().call_soon(self._later, turns - 1, firing, emitter)
        elif not firing.ended:
            firing.emitter = None
            self._stop(firing, emitter)
            self._bound(firing)

    def _lost(
        self, firing: Firing[LiveRun], reserved: Reserved, told: EventEntry, heard: Sequence[Offered], live: LiveRule
    ) -> None:
        """It was not stored: it never was, and whoever it has stopped goes back."""
        live.settle_fired(firing.cid, False)
        self._runtime.journal.settle([told], False)
        self._runtime.bus.settle(heard, False)
        self._runtime.log.error(f"{live.name} has fired, and that could not be stored: its handler does not run")
        why = "the firing could not be stored"
        live.note_missed("storage_full", why, self._runtime.clock.wall())
        self._runtime.ledger.note(live.line("storage_full", why))
        self._end(firing)
        self._admission.undo(reserved, StoreError("the firing could not be stored"))

    def _left(self, run: LiveRun) -> None:
        """A run has given its place back: nobody waits for it any longer; a handler that did so has ended, or hangs."""
        for firing in run.awaited_by:
            firing.awaited.discard(run)
            if not firing.awaited:
                self._dispatcher.look_again(firing.handler)
        run.awaited_by = ()
        own = run.firing
        if own is not None and (run.sealed or run.stuck) and not own.ended:  # else it was lost, and never was
            self._tell_end(run, own)
            self._stop_rest(own)
            self._end(own)

    def _tell_end(self, run: LiveRun, firing: Firing[LiveRun]) -> None:
        row, state = firing.row, run.state.value if run.sealed else STUCK
        if state != RunState.SUCCEEDED:
            why = run.error.message if run.error else run.reason or "no reason is known"
            self._runtime.logs.logger_for(run.cid, run.plan_name, run.task_name).error(ending_text(row, run.state, why))
        payload = ending_payload(row, state, self._runtime.clock.wall(), len(firing.victims))
        self._runtime.bus.announce("interrupt.ended", payload, origin=run.emitter())

    def _end(self, firing: Firing[LiveRun]) -> None:
        """End a firing: what it has kept from starting may start, and its victims go back."""
        if firing.ended:
            return
        firing.ended = True
        if firing.timer is not None:
            firing.timer.cancel()
        self._holds.remove(firing)
        for victim in firing.victims:
            if victim.ended_by is firing and victim.stop is not Stop.CANCEL:  # it has not been told
                victim.ended_by = None
            if victim.stopped_by is firing and victim.told_at is None:  # else its seal sees that the firing has ended
                victim.stopped_by = None
                if victim.state is RunState.PREEMPTED and starts_over(firing, victim):
                    self._seal.start_over(victim)
        firing.victims, firing.spared = [], []  # it and its handler name each other: the collector would find all these
        self._dispatcher.hold_changed()

    # -- after a restart

    def take_over(self, found: Sequence[OpenFiring]) -> None:
        """Open again what an older boot left open; its handler and its victims are in memory."""
        by_seq = {run.seq: run for run in self._runtime.open.values()}
        for row, victims in ((one.row, one.victims) for one in found):
            handler = self._runtime.open.get(row.cid)
            if handler is None:
                continue
            stopped = [by_seq[victim.seq] for victim in victims if victim.seq in by_seq]
            firing = Firing(
                row.id,
                row.plan_name,
                row.rule,
                row.event_id,
                row.event,
                row.priority,
                row.at,
                row.terms,
                handler,
                stopped,
            )
            handler.firing, handler.event = firing, row.event
            for victim in stopped:
                if victim.state is RunState.PREEMPTED:
                    victim.stopped_by = firing
            self._holds.add(firing)
        self._dispatcher.hold_changed()

    def close(self) -> None:
        """Stop the timers, at the server's end."""
        for firing in self._holds.open:
            if firing.timer is not None:
                firing.timer.cancel()


def _may_tell(victim: LiveRun, kind: Stop) -> bool:
    """Whether a victim can be told to stop still; one that was paused meanwhile only to end for good."""
    if victim.sealed or victim.ending in FINAL:
        return False
    return victim.state is RunState.RUNNING or (kind is Stop.CANCEL and victim.stop in (None, Stop.INTERRUPT))


def _may_end(run: LiveRun) -> bool:
    """Whether a run that was stopped to come back can be told to end for good; a handler cannot."""
    ends = run.ended_by is not None or (run.stopped_by is not None and ends_for_good(run.stopped_by, run))
    return run.firing is None and not ends and run.stop in (None, Stop.INTERRUPT) and run.ending not in FINAL


def _topmost(terms: Terms, run: LiveRun) -> Iterable[LiveRun]:
    """The topmost runs that fit of one that holds a place and all that is below it."""
    if fits(terms, run):
        return [run]
    return [child for child in active_below(run) if topmost(terms, child) is child]
