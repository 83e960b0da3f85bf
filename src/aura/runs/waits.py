"""Waiting: steps that wait for an event, an answer or a time, without a coroutine and, if nothing else runs, a place.

Theory of operation. An action that waits does not wait: it says for what (``errors.WaitFor``), and its attempt is over.
The step is ``waiting`` from then on; the *wait* is on record, in the unit that says so, and known here. So is the rest
before a next try, or a next round, that takes a second or more. When nothing of a run is left but waits it is sealed as
``waiting``: it gives its place back and keeps what it took beside it, its resources and its slot.

What comes is *claimed* in the turn in which it is decided that it is what was waited for: nothing else can come then.
It is stored, an event together with itself (``bus``) and an answer with its history, and when that is known the wait is
over: it stands in ``run.woken``, and its run goes on, at its old position in its lane. The executor then concludes the
step as if its action had given what came (``starting``).

- *Between the look and the wait* nothing is missed: a wait for an event asks the bus for all that came since the start
  of its step was written down, in the turn in which it begins to listen.
- *Times* are on record as those of the wall clock, so that they mean the same after a restart. While the server lives
  they are counted by the event loop's: a clock that jumps makes no wait longer or shorter. One timer is set for the
  earliest.
- *Sub-tasks.* A ``task.run`` whose sub-task waits waits as well, for that one to go on: then it makes its call again,
  which finds it. Where code of a plan waits for a sub-task (``ctx.run``) that one keeps running, and so do handlers:
  theirs is a time that is bounded, so a wait in one is of memory only (``wait_here``).
- *Stops.* A pause, an interrupt or a shutdown leaves waits as they are; what comes meanwhile is kept. Whatever ends the
  run ends them.

The ties. Of an event and a time-out the one counts that was decided first. An event whose unit is lost never came: the
claim is given up, and what came since is asked for once more.

What a crash does: waits are rows. The boot leaves a run that is ``waiting`` as it is, whatever its ``recovery``; it is
woken by what was stored before the crash, by what comes after it, and by times that are over.
"""

import asyncio
import heapq
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import anyio
import msgspec

from aura.bus import Delivery
from aura.clock import rfc3339
from aura.errors import LoopDetected, RequestError, StoreError
from aura.events import SHOWN, EventEntry, chain_after
from aura.failpoints import Site
from aura.graph import Progress
from aura.lifecycle import PLACED, RunState, StepState
from aura.loading.approvals import ACTION, check_values, secrets_of_answer
from aura.masking import secret_values, uncovered
from aura.records.events import require_event
from aura.records.runs import together
from aura.records.waits import WaitRow, open_wait, wake
from aura.runs.attempt import Attempt
from aura.runs.hiding import secrets_in
from aura.runs.liverun import LiveRun, Phase
from aura.runs.runtime import Runtime
from aura.runs.scope import scope_for
from aura.store import Ticket, Unit
from aura.wait import SHORTEST, Came, OpenWait, Wait, WaitKind

#: How much earlier than its time a timer of the event loop may strike, in seconds.
RESOLUTION = 0.001
#: How many times of waits that are over may lie in the heap at least.
STALE_AT_LEAST = 64
#: Why a sub-task that waits is cancelled.
UNAWAITED = "its parent's step does not wait for it any more"


class Waits:
    """All waits. ``enter`` puts a run that holds no place into its lane."""

    def __init__(self, runtime: Runtime, enter: Callable[[LiveRun], object]) -> None:
        self._runtime = runtime
        self._enter = enter
        #: Cancels a sub-task for which nobody waits any more; set by the engine.
        self.cancel: Callable[[LiveRun, str], object]
        self._listeners: dict[int, Listener] = {}
        #: By time. An entry counts while its wait is open.
        self._times: list[tuple[float, int, LiveRun, OpenWait]] = []
        self._clear_at = STALE_AT_LEAST
        self._numbers = count()
        self._timer: asyncio.TimerHandle | None = None

    # -- beginning and ending

    def begin(
        self,
        run: LiveRun,
        progress: Progress,
        wait: Wait,
        times_out_in: float = float("inf"),
        here: anyio.Event | None = None,
    ) -> OpenWait:
        """Let a step, or an item of one, wait. ``times_out_in`` is what is left of the step's own time-out.

        ``here``: its attempt waits for it itself, so that nothing of it comes on record.
        """
        now = self._runtime.clock.wall()
        opened = OpenWait(
            progress.key,
            progress.name,
            progress.index,
            wait,
            began_at=now,
            until=None if wait.seconds is None else now + wait.seconds,
            times_out_at=None if times_out_in == float("inf") else now + times_out_in,
            here=here,
        )
        run.open_waits[progress.key] = opened
        self._watch(run, opened, progress.since)
        if here is None:
            run.dirty_waits[progress.key] = opened  # with what has come already
        self._look_on_the_way(opened, progress.since)
        return opened

    def end(self, run: LiveRun, key: str) -> None:
        """Forget a wait, whatever became of it; harmless if there is none."""
        opened = run.open_waits.pop(key, None)
        if opened is None:
            return
        run.dirty_waits[key] = None
        self._unwatch(opened)
        if opened.wait.kind is WaitKind.TASK and (opened.came is None or opened.came.timed_out):
            child = self._runtime.open.get(opened.wait.cid or "")
            if child is not None and not child.sealed:
                self.cancel(child, UNAWAITED)

    def end_all(self, run: LiveRun) -> None:
        """Forget all waits of a run that has ended, or starts over."""
        for key in list(run.open_waits):
            self.end(run, key)
        run.woken.clear()

    def take_over(self, run: LiveRun, rows: Iterable[WaitRow]) -> None:
        """Take the waits of a run that an older boot left, once its steps are in their graph."""
        for opened in map(open_wait, rows):
            run.has_waited = True
            run.open_waits[opened.key] = opened
            if opened.came is not None:
                if opened.wait.kind is WaitKind.APPROVAL:
                    self._hold_secrets(run, opened, opened.came.value)
                run.woken.append(opened)
            elif opened.wait.kind is not WaitKind.TASK:  # its sub-task is taken over later
                self._watch(run, opened, self._runtime.journal.head)

    def look_at_sub_tasks(self, runs: Iterable[LiveRun]) -> None:
        """Once all that an older boot left is here: wake what waits for a sub-task that goes on, or is not there."""
        for run in runs:
            for opened in list(run.open_waits.values()):
                if opened.wait.kind is WaitKind.TASK and opened.came is None:
                    self._watch(run, opened, 0)

    async def wait_here(self, run: LiveRun, attempt: Attempt, wait: Wait) -> Any:
        """Wait inside an attempt, and give what came; nothing of it is on record.

        Raises:
            TimeoutError: it has taken too long. Exception: what is asked of events has no value.

        Cancellation: the wait is forgotten.
        """
        progress = attempt.step
        over = anyio.Event()
        opened = self.begin(run, progress, wait, here=over)
        try:
            await over.wait()
        finally:
            run.open_waits.pop(progress.key, None)
            self._unwatch(opened)
        assert opened.came is not None
        return value_of(opened, opened.came)

    def close(self) -> None:
        """Stop the timer, when the server ends."""
        if self._timer:
            self._timer.cancel()

    # -- watching

    def _watch(self, run: LiveRun, opened: OpenWait, since: int) -> None:
        if opened.ends_at is not None:
            # never longer than it was meant to be, whatever the clock says after a restart
            left = min(opened.ends_at - self._runtime.clock.wall(), opened.ends_at - opened.began_at)
            self._look_after(max(0.0, left), run, opened)
            self._forget_over()
        if opened.wait.kind is WaitKind.EVENT:
            listener = self._listeners[id(opened)] = Listener(self._runtime, self, run, opened)
            self._runtime.bus.subscribe(listener)
            found = listener.look_back(since, stored=True)
            if found is not None:  # it is on record with the wait itself
                found.delivery.committed()
        elif opened.wait.kind is WaitKind.TASK:
            child = self._runtime.open.get(opened.wait.cid or "")
            if child is None or child.sealed or child.woken or child.state is not RunState.WAITING:
                self._over(run, opened, Came())

    def _look_on_the_way(self, opened: OpenWait, since: int) -> None:
        """Take the first event since then that fits of those on their way to the store; it counts when it is there.

        What it is taken with stands behind it in the store's queue, and fails if it was not stored.
        """
        listener = self._listeners.get(id(opened))
        found = listener.look_back(since, stored=False) if listener is not None else None
        if found is not None:
            unit = require_event(found.event.id)
            self._put(found.delivery, unit if found.delivery.unit is None else together([unit, found.delivery.unit]))

    def _put(self, delivery: Delivery, unit: Unit) -> None:
        self._runtime.store.put(unit, delivery.committed, lambda _: delivery.lost(), site=Site.EVENT)

    def _unwatch(self, opened: OpenWait) -> None:
        listener = self._listeners.pop(id(opened), None)
        if listener is not None:
            self._runtime.bus.unsubscribe(listener)

    def _look_after(self, seconds: float, run: LiveRun, opened: OpenWait) -> None:
        at = asyncio.get_running_loop().time() + seconds
        heapq.heappush(self._times, (at, next(self._numbers), run, opened))
        self._arm()

    def _arm(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(self._times[0][0], self._look_at_times)

    def _forget_over(self) -> None:
        """Clear the times of those that are over, once they may be the most of them: each holds its run."""
        if len(self._times) > self._clear_at:
            self._times = [entry for entry in self._times if _is_open(entry[2], entry[3])]
            heapq.heapify(self._times)
            self._clear_at = 2 * len(self._times) + STALE_AT_LEAST

    def _look_at_times(self) -> None:
        now = asyncio.get_running_loop().time() + RESOLUTION
        while self._times and ((first := self._times[0])[0] <= now or not _is_open(first[2], first[3])):
            _, _, run, opened = heapq.heappop(self._times)
            if _is_open(run, opened) and opened.is_claimed:  # if that is lost it is looked at again
                self._look_after(SHORTEST, run, opened)
            elif _is_open(run, opened):
                self._over(run, opened, _time_is_over(opened))
        if self._times:
            self._arm()

    def _over(self, run: LiveRun, opened: OpenWait, came: Came) -> None:
        """End a wait: its run goes on as soon as it may."""
        if opened.came is not None or not _is_open(run, opened):
            return
        opened.came = came
        self._unwatch(opened)
        if opened.here is not None:
            opened.here.set()
            return
        run.woken.append(opened)
        self.rouse(run)

    def rouse(self, run: LiveRun) -> None:
        """Let a run go on of which a wait is over; one that is kept goes on when it is resumed."""
        if run.sealed:
            return
        if run.state in PLACED:
            run.changed()
        elif run.state is not RunState.WAITING:
            return
        elif run.parent is not None:
            self.rouse_above(run, run.parent)
        elif not run.waits:
            self._enter(run)

    def rouse_above(self, child: LiveRun, parent: LiveRun) -> None:
        """Wake the step that waits for a sub-task, if that waits on record: it makes its call again, and finds it."""
        for opened in list(parent.open_waits.values()):
            if opened.wait.cid == child.cid:
                self._over(parent, opened, Came())

    # -- what came

    def claim_event(self, run: LiveRun, opened: OpenWait, event: EventEntry, value: Any) -> Delivery:
        """Take an event as what a wait was for, if it is stored."""
        opened.claim = claim = _Claim()
        opened.kept, at = self._runtime.redactor.plain(value), self._runtime.clock.wall()
        bare = opened.here is None and run.dirty_waits.get(opened.key) is opened  # no unit has the wait itself yet
        unit = None if opened.here is not None else wake(run.seq, opened.key, at, opened.kept)
        if unit is not None and bare:
            new = run.take_wait(opened.key)
            unit = together([new, unit])
        commit = partial(self._event_came, run, opened, event, Came(value))
        return Delivery(unit, commit, partial(self._event_lost, run, opened, claim, event.id, bare))

    def _event_came(self, run: LiveRun, opened: OpenWait, event: EventEntry, came: Came) -> None:
        listener = self._listeners.get(id(opened))
        if listener is not None:
            run.chain = chain_after(event, listener.name, run.accepted.chain)
        self._over(run, opened, came)

    def _event_lost(self, run: LiveRun, opened: OpenWait, claim: "_Claim", former: int, bare: bool) -> None:
        """The event never came: what came since may be what is waited for. ``bare``: the wait was in its unit."""
        claim.error = StoreError("the event was not stored")
        if bare and _is_open(run, opened):
            run.dirty_waits[opened.key] = opened
            self._runtime.hand_over(run)
        listener = self._listeners.get(id(opened))
        found = listener.look_back(former + 1, stored=True) if listener is not None else None
        if found is None:
            self._look_on_the_way(opened, former + 1)
        elif found.delivery.unit is not None:
            self._put(found.delivery, found.delivery.unit)
        else:
            found.delivery.committed()

    def fail(self, run: LiveRun, opened: OpenWait, error: Exception) -> None:
        """End a wait that can never be over as it should: its step fails."""
        self._over(run, opened, Came(error=error))

    def answer(
        self, cid: str, step: str, index: int | None, approved: bool, values: Mapping[str, Any], by: str
    ) -> tuple[LiveRun, Ticket]:
        """Answer a step that waits for it; does not wait. ``by`` is whoever answers, as it is shown.

        Raises:
            RequestError: ``unknown_run``; ``not_waiting``, ``answered``; ``inputs_invalid``: values that do not fit.
        """
        run = self._runtime.open.get(cid)
        if run is None:
            raise RequestError("unknown_run", f"there is no open run {cid}", extra={"cid": cid})
        opened = _approval(run, step, index)
        values = check_values(opened.wait.inputs or {}, values) if approved else {}
        at = self._runtime.clock.wall()
        value = {"approved": approved, "by": by, "at": rfc3339(at), "values": values}
        self._hold_secrets(run, opened, value)
        kept = uncovered(self._runtime.redactor.plain(value), value, secrets_of_answer(opened.wait.inputs))
        payload = {"approved": approved, "by": by} | ({} if index is None else {"item": index})
        run.happened.append(("approval.answered", opened.name, payload))
        opened.kept = kept
        opened.claim = ticket = self._runtime.hand_over(
            run,
            after=partial(self._over, run, opened, Came(value)),
            also=None if opened.here is not None else wake(run.seq, opened.key, at, kept),
        )
        return run, ticket

    def _hold_secrets(self, run: LiveRun, opened: OpenWait, answer: Mapping[str, Any]) -> None:
        """Have what is secret of an answer hidden everywhere. Its wait keeps it plain until the run has gone on."""
        secrets = secrets_of_answer(opened.wait.inputs)
        if secrets:
            self._runtime.redactor.hold(run.cid, secrets_in(secret_values(answer, secrets)))

    # -- what is shown

    def shown(self, run: LiveRun) -> list[dict[str, Any]]:
        """What a run waits for, by key; times are Unix seconds."""
        shown = [shown_wait(opened) for _, opened in sorted(run.open_waits.items()) if opened.came is None]
        return list(self._runtime.redactor.plain(shown))


class Listener:
    """A wait for an event, as the bus asks it."""

    def __init__(self, runtime: Runtime, waits: Waits, run: LiveRun, opened: OpenWait) -> None:
        assert opened.wait.pattern is not None
        self._runtime = runtime
        self._waits = waits
        self._run = run
        self._opened = opened
        self.name = f"{run.plan_name}/{run.task_name}/{opened.name}"
        self.pattern = opened.wait.pattern

    def offer(self, event: EventEntry) -> Delivery | None:
        """Say whether the event is what is waited for."""
        if self._opened.is_claimed:
            return None
        value = event.record()
        try:
            if not self._fits(value):
                return None
        except Exception as error:  # whatever the condition meets: it is the step's failure
            self._waits.fail(self._run, self._opened, error)
            return None
        return self._waits.claim_event(self._run, self._opened, event, value)

    def look_back(self, since: int, *, stored: bool) -> "_Found | None":
        """The first of the events since then that fits: of those that are stored, or of those on their way there."""
        bus = self._runtime.bus
        for event in bus.recent(self.pattern, since):
            if (event.state == SHOWN) is stored and (delivery := bus.offer(self, event)) is not None:
                return _Found(event, delivery)
        return None

    def suspend(self, reason: str) -> None:
        """Events went round in a circle through it: its step fails."""
        self._waits.fail(self._run, self._opened, LoopDetected(reason))

    def _fits(self, value: Mapping[str, Any]) -> bool:
        run = self._run
        progress = run.graphs[Phase.MAIN if self._opened.here is None else run.phase].find(self._opened.key)
        when = progress.step.event_when
        return when is None or when.test({**scope_for(run, progress, self._runtime.clock), "event": value})


class _Found(NamedTuple):
    """An event that came before it was waited for, and what it brings about."""

    event: EventEntry
    delivery: Delivery


class _Claim(msgspec.Struct, eq=False):
    """That an event is on its way to the store; ``error`` once it was lost."""

    error: Exception | None = None


def value_of(opened: OpenWait, came: Came) -> Any:
    """What a wait has given, as the result of its action.

    Raises:
        TimeoutError: it has taken too long. Exception: what is asked of events has no value.
    """
    if came.error is not None:
        raise came.error
    if came.too_long and opened.wait.kind is not WaitKind.SLEEP:
        assert opened.until is not None
        what = "no answer came" if opened.wait.kind is WaitKind.APPROVAL else f"no event {opened.wait.pattern} came"
        raise TimeoutError(f"{what} within {opened.until - opened.began_at:g} s")
    return came.value


def _time_is_over(opened: OpenWait) -> Came:
    """Which of a wait's two times was over first."""
    until, times_out_at = opened.until, opened.times_out_at
    timed_out = times_out_at is not None and (until is None or times_out_at < until)
    return Came(timed_out=True) if timed_out else Came(too_long=True)


def _is_open(run: LiveRun, opened: OpenWait) -> bool:
    return run.open_waits.get(opened.key) is opened and opened.came is None


def _approval(run: LiveRun, step: str, index: int | None) -> OpenWait:
    """The wait for an answer at a step, or at an item of it.

    Raises:
        RequestError: ``not_waiting``: there is none; ``answered``: there is an answer already.
    """
    key = step if index is None else f"{step}[{index}]"
    opened = run.open_waits.get(key)
    if opened is None or opened.wait.kind is not WaitKind.APPROVAL:
        _check_unanswered(run, step, index)
        waiting = [one.key for one in run.open_waits.values() if one.wait.kind is WaitKind.APPROVAL and not one.came]
        hint = f"; what waits for one: {', '.join(sorted(waiting))}" if waiting else ""
        detail = f"step {key} of run {run.cid} waits for no answer{hint}"
        raise RequestError("not_waiting", detail, extra={"state": run.state.value})
    if opened.is_claimed:
        raise _answered(run, key)
    return opened


def _check_unanswered(run: LiveRun, step: str, index: int | None) -> None:
    """Refuse an answer to what has had one, and has ended by it.

    Raises:
        RequestError: ``answered``.
    """
    for graph in run.graphs.values():
        progress: Progress | None = graph.steps.get(step)
        if progress is not None and index is not None:
            loop = graph.steps[step].loop
            items = loop.items if loop is not None else []
            progress = items[index] if index < len(items) else None
        if progress is not None and progress.state is StepState.SUCCEEDED and progress.step.action == ACTION:
            raise _answered(run, progress.key)


def _answered(run: LiveRun, key: str) -> RequestError:
    detail = f"step {key} of run {run.cid} has been answered"
    return RequestError("answered", detail, extra={"state": run.state.value})


def shown_wait(opened: OpenWait) -> dict[str, Any]:
    """What doors show of a wait; times are Unix seconds."""
    wait = opened.wait
    return {
        "step": opened.name,
        "index": opened.index,
        "kind": wait.kind.value,
        "pattern": wait.pattern,
        "message": wait.message,
        "inputs": wait.inputs,
        "cid": wait.cid,
        "since": opened.began_at,
        "until": opened.ends_at,
    }
