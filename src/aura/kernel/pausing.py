"""A user's pause of a run, and its resume: stopped as an interrupt would, and kept ``preempted`` until resumed.

Theory of operation. That a run is kept is the column ``held``: ``run.held`` in memory, with the reason. Everything
follows from two rules: a run that is held stands in no lane, and a stop of the kinds interrupt and shutdown leaves one
that is held ``preempted`` (``lifecycle.end_of_stop``), with its finished steps and its position.

- A pause sets ``held`` in memory and on record in the turn in which it comes. One that runs is stopped with the kind
  interrupt: its row is written as ``running`` and held at once, and the seal writes ``preempted`` when it has cleaned
  up. One whose first start is not handed over yet, queued or just dispatched, is ``preempted`` at once.
  Steps that are to end by themselves (``preempt: at_step_end``) have ``cleanup_timeout`` to do so, and as much again
  for their clean-up; what says ``never`` is not paused while it runs.
- A resume takes ``held`` back. One that is still cleaning up goes on by itself once it has (``run.resumed``); any other
  enters its lane at its old position. Its start may be in one commit with the resume, as with an acceptance: its first
  step waits for that commit anyway.

The ties. A run that ends by itself before its pause is through keeps its outcome, and is held no more. A shutdown while
it cleans up outranks the interrupt and still leaves it held. A time-out or a cancel takes the pause back; so does being
stuck. A handler is not paused: the run has its ending then, and gets it.

A run that has begun goes on with the code that it began with. It holds its generation while the server lives. After a
restart it takes the plan's current one if that has the same hash, and else what was kept with it (``keptcode``). If
that cannot be loaded any more it stays held, and a resume says so.

What a crash does: ``preempted`` rows are left as they are. One that was ``running`` and held may be in the middle of a
step: it goes by ``recovery``, and one that is to start over, or to go on, does so when it is resumed.
"""

from collections.abc import Callable

from aura.errors import RequestError
from aura.kernel.admission import refusal
from aura.kernel.claims import Claims
from aura.kernel.dispatcher import Dispatcher
from aura.kernel.orphans import failure_on_record
from aura.lifecycle import FINAL, PLACED, RunState, Stop
from aura.records.boots import OpenRun
from aura.records.checkpoints import open_checkpoints
from aura.records.columns import encoded
from aura.run import clean
from aura.runs.keptcode import KeptCode, keeping_code
from aura.runs.liverun import LiveRun
from aura.runs.preempting import preempt_of
from aura.runs.restoring import restore, restore_handlers, restore_waits
from aura.runs.runtime import Runtime
from aura.runs.stops import UNCERTAIN, Stops
from aura.runs.waits import Waits
from aura.store import Ticket
from aura.task import Preempt

#: The reason of a pause that was given none.
PAUSED = "paused"
#: The reason of a run that is kept since it cannot go on with the code that it began with.
CHANGED = "paused: its plan has changed since it began"


class Pausing:
    """Pauses and resumes runs. ``enter`` puts one that may start into its lane."""

    def __init__(
        self,
        runtime: Runtime,
        stops: Stops,
        dispatcher: Dispatcher,
        claims: Claims,
        waits: Waits,
        enter: Callable[[LiveRun], object],
    ) -> None:
        self._runtime = runtime
        self._stops = stops
        self._dispatcher = dispatcher
        self._claims = claims
        self._waits = waits
        self._enter = enter
        self._code = KeptCode(runtime)

    async def pause(self, run: LiveRun, reason: str | None = None) -> str:
        """Pause a run; returns its state, ``stopping`` or ``preempted``, once the wish is on record.

        Raises:
            RequestError: ``conflict``: it is ending, stopping for another reason, or in a step that may not be stopped.
        """
        await _stored(run, self.request_pause(run, reason))
        if run.state is not RunState.PREEMPTED:
            return RunState.STOPPING.value
        await _stored(run, run.hold_ticket)  # it may be the seal's by now
        return RunState.PREEMPTED.value

    async def resume(self, run: LiveRun) -> str:
        """Let a paused run go on; returns its state, ``preempted`` or still ``stopping``, once that is on record.

        Raises:
            RequestError: ``conflict``: it is not paused, or its plan has changed since.
        """
        ticket = self.request_resume(run)
        state = run.state.value
        await _stored(run, ticket)
        return state

    # -- pausing

    def request_pause(self, run: LiveRun, reason: str | None = None) -> Ticket | None:
        """Ask a run to pause; does not wait. The ticket is that of the row that says so. Raises as ``pause`` does."""
        if run.stuck or run.ending in FINAL or (run.stop not in _PAUSING and run.held is None):
            raise _conflict(run, f"is {_doing(run)} and cannot be paused any more")
        if run.held is not None and (run.hold_ticket is None or run.hold_ticket.error is None):
            return run.hold_ticket  # else the row that should say so was lost: it is written now
        if run.state is RunState.RUNNING and preempt_of(run) is Preempt.NEVER:
            what = "is in a step that may not be stopped (preempt: never): wait until that has ended, or cancel the run"
            raise _conflict(run, what)
        run.held, run.resumed = clean(reason) if reason else PAUSED, False
        if run.state in PLACED and run.row in PLACED:
            self._stops.request_stop(run, Stop.INTERRUPT, run.held)
            run.hold_ticket = self._runtime.hand_over(run, RunState.RUNNING)
        else:
            self._hold_idle(run, run.held)
        return run.hold_ticket

    def keep_idle(self, run: LiveRun, reason: str) -> None:
        """Keep a sub-task that has not begun, or not gone on yet, and waits for what it needs."""
        run.held = reason
        self._hold_idle(run, reason)

    def _hold_idle(self, run: LiveRun, reason: str) -> None:
        """Keep a run whose start is not handed over: it waits, or its child has not begun and finds that it is told."""
        if run.state in PLACED:
            self._stops.request_stop(run, Stop.INTERRUPT, reason)
        else:
            self._dispatcher.leave(run)
            if run.state is RunState.WAITING:
                self._dispatcher.rest(run)
            self._stops.rest_queue_timeout(run)
            run.state, run.reason = RunState.PREEMPTED, reason
        also = None
        if run.row is not RunState.PREEMPTED:
            run.happened.append(("run.preempted", None, {"reason": reason}))
            also = keeping_code(run)  # it has begun if the unit that said that it rests was lost
        run.hold_ticket = self._runtime.hand_over(run, RunState.PREEMPTED, also=also)

    # -- resuming

    def request_resume(self, run: LiveRun) -> Ticket:
        """Let a run go on; does not wait. The ticket is that of the row that says so. Raises as ``resume`` does."""
        if run.held is None or run.stuck or run.ending in FINAL:
            raise _conflict(run, f"is {_doing(run)} and not paused")
        if run.stop is Stop.SHUTDOWN:
            raise _conflict(run, "is being stopped with the engine; resume it when that has stopped")
        self._check_code(run)
        run.held, run.resumed = None, True
        if run.taken_over:  # its code may have come back just now
            self._waits.look_at_sub_tasks([run])
        if run.state is RunState.PREEMPTED:
            run.reason = None
            self._enter(run)
        run.hold_ticket = self._runtime.hand_over(run, run.row)
        return run.hold_ticket

    def find_code(self, run: LiveRun) -> bool:
        """Say whether a run has the code that it goes on with; that of an older boot is looked for again."""
        return run.sealed or not run.begun or run.generation is not None or self._revive(run)

    def _check_code(self, run: LiveRun) -> None:
        for children in run.children.values():
            for child in children:
                self._check_code(child)
        if not self.find_code(run):
            began = (run.accepted.generation or "")[:12]
            detail = (
                f"began with version {began} of plan {run.plan_name}, which is not served and could not be loaded: "
                "put those files back, reload the plans and resume it, or cancel it"
            )
            raise _conflict(run, detail)

    # -- after a restart

    async def take_over(self, run: LiveRun, found: OpenRun) -> None:
        """Make a run as an older boot left it, ``preempted`` or ``waiting``; it enters its lane if it may go on."""
        record = found.record
        run.state = run.row = RunState(record.state)
        run.held = (record.reason or PAUSED) if found.held else None
        run.resumed = run.held is None and run.state is RunState.PREEMPTED
        run.reason = run.held
        run.taken_over = True
        if record.started_at is not None:
            run.started_at, run.active_s = record.started_at, record.active_s
            run.result = encoded(record.result)
            run.cleanup_error = failure_on_record(record.cleanup_error)
            run.begun_starts = max(1, sum(run.starts.values()))
            run.kept_rows, run.kept_loops, run.kept_waits = found.steps, found.loops, found.waits
            if found.checkpoints:
                run.checkpoints = open_checkpoints(found.checkpoints)
            loaded = await self._code.load(run)  # held until the run holds it
            if not self._revive(run) and run.held is None:
                self._hold_changed(run)
            del loaded
        if run.resumed:
            self._enter(run)
        elif run.state is RunState.WAITING:
            self._claims.keep(run)
            if run.woken:
                self._waits.rouse(run)

    def _hold_changed(self, run: LiveRun) -> None:
        run.held = run.reason = CHANGED
        run.resumed = False
        run.state = RunState.PREEMPTED
        run.hold_ticket = self._runtime.hand_over(run, RunState.PREEMPTED)
        self._runtime.log.warning(f"run {run.cid} cannot go on: its plan {run.plan_name} has changed since it began")

    def _revive(self, run: LiveRun) -> bool:
        """Give a run the code that it began with, and its steps as they are on record; False if it is not there."""
        found = self._code.find(run)
        if found is None:
            return False
        attempt, begun_starts = run.attempt, run.begun_starts
        run.take(*found)
        run.attempt, run.begun_starts = attempt, begun_starts
        restore(run, run.kept_rows, run.kept_loops)
        restore_handlers(run, run.kept_rows, run.kept_loops)
        restore_waits(run, run.kept_waits)
        self._waits.take_over(run, run.kept_waits)
        run.kept_rows, run.kept_loops, run.kept_waits = [], {}, ()
        return True


#: The stops of a run that can be paused: none, or one that a pause, or who else interrupted it, began.
_PAUSING = (None, Stop.INTERRUPT)


def _doing(run: LiveRun) -> str:
    """What a run that cannot be paused or resumed is doing."""
    if run.stuck:
        return "stuck"
    if run.ending in FINAL:
        return f"ending as {run.ending}"
    return run.state.value


def _conflict(run: LiveRun, what: str) -> RequestError:
    return RequestError("conflict", f"run {run.cid} {what}", extra={"state": run.state.value})


async def _stored(run: LiveRun, ticket: Ticket | None) -> None:
    try:
        if ticket is not None:  # else an older boot has stored it
            await ticket.wait()
    except Exception as error:
        if run.refused:
            text = f"run {run.cid} could not be stored; nothing of it was kept"
            raise RequestError("unknown_run", text) from error
        raise refusal(error, UNCERTAIN) from error
