"""The seal: the synchronous instant in which a run's outcome is decided and handed to the store.

Theory of operation. The outcome comes from the graph, never from a scope: a run has finished if every step ended by
itself and none was withheld because of a stop; otherwise it ends as its stop says. The stop's kind is read here, once,
and there is no await between deciding and handing over; afterwards a stop answers ``ended``.

Sealing cannot raise: from every state there is a move for every outcome that can be decided there
(``tests/unit/test_seal.py`` goes through all of them). A run that reaches the seal with neither an outcome nor a stop
is an engine fault and ``crashed``; it never stays without an end. So is one of which something cannot be written down:
that is left out (``tests/engine/test_unsealed.py``).

Nobody is told of an outcome before it is committed; the place does not wait for that. What a crash does: the outcome
rides in one unit with the last finish, so a boot finds both or neither.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial

from msgspec import to_builtins

from aura.errors import InternalError
from aura.graph import Progress, StepProgress
from aura.lifecycle import FINAL, RunState, StepState, Stop, end_of_stop
from aura.records.runs import together
from aura.records.waits import forget_waits
from aura.run import failure_of
from aura.runs.keptcode import keeping_code
from aura.runs.liverun import LiveRun, step_row
from aura.runs.loops import cancel_items
from aura.runs.runtime import Runtime
from aura.runs.victims import ending_of, note_gone, since_gone, starts_over
from aura.runs.waits import Waits
from aura.store import Unit

P = StepState
_CUT_OFF = frozenset({P.PENDING, P.RUNNING, P.RETRYING, P.WAITING, P.STOPPING})


class Seal:
    """Ends runs. ``release`` gives a run's place back, ``enter`` puts one that is to run again into its lane."""

    def __init__(
        self,
        runtime: Runtime,
        waits: Waits,
        release: Callable[[LiveRun], object],
        enter: Callable[[LiveRun], object],
    ) -> None:
        self._runtime = runtime
        self._waits = waits
        self._release = release
        self._enter = enter

    def seal(self, run: LiveRun) -> None:
        """Decide the outcome, hand it over, and give the place back. Does nothing to a run that is sealed already."""
        if run.sealed:  # stuck at the server's end, so that its record came first; or its acceptance was undone
            self.stop_timers(run)
            self._release(run)
            return
        try:
            outcome = run.state = decide(run)
            self.stop_timers(run)
            self._write(run, outcome)
        except BaseException as error:  # nothing may leave a run's child: it would end the server
            outcome = self._write_bare(run, error)
        if run.stopped_by is not None and run.stopped_by.ended:
            run.stopped_by = None
        run.gone_at = None
        self._release(run)
        if outcome is RunState.QUEUED or (outcome is RunState.PREEMPTED and run.resumed):
            if run.parent is None:  # else it goes on in the place of that one
                self._enter(run)
        elif outcome is RunState.WAITING and run.woken:
            self._waits.rouse(run)
        elif run.sealed and run.parent is not None:  # it may wait for this one on record
            self._waits.rouse_above(run, run.parent)

    def start_over(self, run: LiveRun) -> None:
        """Let a run that rests begin from its beginning when it goes on: what it has done is forgotten."""
        self._forget_begun(run)
        if run.held is None:
            run.state, run.resumed = RunState.QUEUED, False
            run.happened.append(("run.requeued", None, {"reason": run.reason}))
        self._runtime.hand_over(run, run.state)

    def _forget_begun(self, run: LiveRun) -> None:
        self._waits.end_all(run)
        for child in [child for children in run.children.values() for child in children if not child.sealed]:
            self._waits.cancel(child, "its parent starts over")  # nobody asks for it again
        _start_over(run)

    def _write(self, run: LiveRun, outcome: RunState) -> None:
        if outcome in FINAL:
            self._end(run, outcome)
        elif outcome is RunState.WAITING:
            self._rest(run)
        else:
            self._come_back(run, outcome)

    def _write_bare(self, run: LiveRun, error: BaseException) -> RunState:
        """The last resort: something of the run cannot be written down, so it ends without it. That is our fault."""
        self._runtime.fault(f"run {run.cid} could not be written down as it was", error)
        run.sealed = True
        run.held = None
        run.state = RunState.CRASHED
        run.reason, run.error, run.cleanup_error, run.result = "fault", failure_of(error), None, None
        run.finished_at = self._runtime.clock.wall()
        run.happened = [("run.crashed", None, None)]
        run.drop_checkpoints()
        for end in (self._waits.end_all, self.stop_timers):
            with suppress(BaseException):
                end(run)
        with suppress(BaseException):
            _end_steps_bare(run, run.finished_at)
        try:
            self._runtime.hand_over(run, RunState.CRASHED, partial(self._runtime.forget, run))
        except BaseException as worse:  # the next boot settles it
            self._runtime.fault(f"run {run.cid} could not be written down at all", worse)
            run.lost = True
            self._runtime.forget(run)
        return RunState.CRASHED

    def stop_timers(self, run: LiveRun) -> None:
        """End what acts on a run by itself, and the counting of its active time: nothing of it runs any more."""
        run.count_active(self._runtime.clock.monotonic())
        run.active_since = None
        for timer in (run.timer, *run.backoffs.values()):
            if timer:
                timer.cancel()
        run.timer = None
        run.backoffs.clear()

    def _end(self, run: LiveRun, outcome: RunState) -> None:
        run.sealed = True
        run.held = None
        now = self._runtime.clock.wall()
        run.finished_at = now
        if outcome is not RunState.SUCCEEDED:
            run.result = None
        if outcome is RunState.CRASHED and run.fault is None:
            self._runtime.fault(f"run {run.cid} was not sealed", InternalError("it ended without an outcome"))
        self._waits.end_all(run)
        run.drop_checkpoints()
        end_cut_off(self._runtime, run, now)
        if run.attempt > 1 or not run.graphs:
            run.end_former_steps(now)
        run.happened.append((f"run.{outcome}", None, _payload(run, outcome)))
        waits = partial(forget_waits, seq=run.seq) if run.has_waited else None  # those whose end was lost as well
        concerns_none = run.firing is run.stopped_by is run.ended_by is None
        also = waits if concerns_none else self._with_firings(run, outcome, waits)
        self._runtime.hand_over(run, outcome, partial(self._runtime.forget, run), also=also)

    def _with_firings(self, run: LiveRun, outcome: RunState, other: Unit | None) -> Unit | None:
        """What is written with the end, or the rest, of a handler or a victim."""
        now = self._runtime.clock.wall() - since_gone(run)
        ending = ending_of(run, outcome, now) if outcome in FINAL else None
        gone = note_gone(run, outcome, now)
        if gone is not None and run.preempted_by is not None:
            self._runtime.measures.cleanups.add(run.preempted_by.cleanup_s)
        units = [unit for unit in (other, gone, ending) if unit is not None]
        return together(units) if units else None

    def _rest(self, run: LiveRun) -> None:
        """Let a run wait of which nothing is left but waits. It keeps all that it took but its place."""
        run.resumed = False
        run.come_back()
        if run.row is RunState.WAITING:  # what it waited for came, and made it wait for more
            if run.dirty or run.dirty_items or run.dirty_waits:
                self._runtime.hand_over(run)
            return
        run.happened.append(("run.waiting", None, {"steps": sorted(run.open_waits)}))
        also = self._with_firings(run, RunState.WAITING, keeping_code(run))
        self._runtime.hand_over(run, RunState.WAITING, also=also)

    def _come_back(self, run: LiveRun, outcome: RunState) -> None:
        """Make ready for the next start: what had begun and not ended is pending again."""
        if _is_shut_down(run):
            run.crashes = 0  # the server ended in good order: crashes count in a row only
        if run.stop is Stop.SHUTDOWN or run.stopped_by is not None:
            run.resumed |= outcome is RunState.PREEMPTED and run.held is None  # it goes on by itself
        reason = run.held or run.reason
        if outcome is RunState.QUEUED or not run.begun:
            self._forget_begun(run)
        else:
            give_back(run)
        run.come_back()
        if outcome is not run.row:
            also = self._with_firings(run, outcome, keeping_code(run))
            name = "run.requeued" if outcome is RunState.QUEUED else "run.preempted"
            run.happened.append((name, None, {"reason": reason, **_by(run)}))
            run.hold_ticket = self._runtime.hand_over(run, outcome, also=also)
        elif run.dirty:
            self._runtime.hand_over(run)


def decide(run: LiveRun) -> RunState:
    """The outcome of a run that does nothing any more. Sets ``reason`` and ``error`` where the outcome brings them."""
    if run.fault is not None:
        run.reason, run.error = "fault", failure_of(run.fault)
        return RunState.CRASHED
    if run.ending is RunState.WAITING and run.stop is None:
        return RunState.WAITING
    if run.ending in (RunState.SUCCEEDED, RunState.FAILED):  # its graph ended; a stop that came later changes nothing
        return run.ending
    if run.stop is not None:
        if run.stuck:
            run.reason = "stuck"
        if run.ending is RunState.TIMED_OUT and run.stop is Stop.CANCEL:  # it was cancelled in its clean-up
            run.error = None
        begun = run.begun and run.row is not RunState.QUEUED
        woken = run.row is RunState.WAITING
        end = end_of_stop(run.stop, run.recovery, stuck=run.stuck, begun=begun, kept=run.kept, woken=woken)
        return RunState.QUEUED if end is RunState.PREEMPTED and _starts_over_now(run) else end
    run.reason = "fault"
    run.error = failure_of(InternalError("the run ended without an outcome"))
    return RunState.CRASHED


def _starts_over_now(run: LiveRun) -> bool:
    """Whether the firing that has stopped a run is over already, and wants it to begin anew."""
    firing = run.stopped_by
    return firing is not None and firing.ended and starts_over(firing, run) and run.held is None


def end_cut_off(runtime: Runtime, run: LiveRun, now: float) -> None:
    """End the steps of a run that is ending, and their items, which a stop has cut off or kept back."""
    for graph in run.graphs.values():
        for progress in graph:
            if progress.state in _CUT_OFF:
                _cancel_step(run, progress, now)
                runtime.note_step(progress)
            if progress.loop is not None:
                cancel_items(run, progress.loop, now)


def _cancel_step(run: LiveRun, progress: StepProgress, now: float) -> None:
    begun = progress.state is not P.PENDING
    progress.finished_at = now
    progress.state = P.CANCELLED  # not by the table: whatever it was, its run has ended
    run.mark(progress, "step.cancelled" if begun else None)


def _end_steps_bare(run: LiveRun, now: float) -> None:
    """End what was cut off, without an event, and drop of each step what cannot be written down."""
    run.dirty.clear()
    for graph in run.graphs.values():
        for progress in graph:
            if progress.state in _CUT_OFF:
                progress.state, progress.finished_at = P.CANCELLED, now
            try:
                step_row(run.seq, progress)
            except Exception:
                progress.output_json = progress.outputs = progress.error = None
            run.dirty[progress.name] = progress
    run.end_former_steps(now)


def give_back(run: LiveRun) -> None:
    """Make what was cut off pending again. A start that a stop cut off uses up no attempt."""
    run.progress.clear()  # of what runs, and nothing does
    for graph in run.graphs.values():
        for progress in graph:
            if progress.state in _CUT_OFF and not _waits_on(run, progress):
                if progress.state is P.RUNNING:
                    progress.attempt -= 1
                graph.give_back(progress)
                _give_back_items(run, progress)
                run.mark(progress)


def _waits_on(run: LiveRun, progress: Progress) -> bool:
    """Whether a step, or an item, that does not run goes on waiting while its run rests."""
    return progress.state in (P.WAITING, P.RETRYING) and progress.key in run.open_waits


def _give_back_items(run: LiveRun, progress: StepProgress) -> None:
    if progress.loop is None:
        return
    for item in progress.loop.items if progress.loop.open else ():
        if not (item.ended or _waits_on(run, item)):
            if item.state is P.RUNNING:
                item.attempt -= 1
            progress.loop.give_back(item)
            run.mark(item)
    progress.loop.left.sort(key=lambda item: item.index)


def _by(run: LiveRun) -> dict[str, object]:
    """Who has stopped a run that a firing has stopped."""
    return {} if run.stopped_by is None or run.preempted_by is None else {"by": to_builtins(run.preempted_by)}


def _is_shut_down(run: LiveRun) -> bool:
    """Whether a shutdown stops it, or what it is a part of: it is interrupted then."""
    return run.stop is Stop.SHUTDOWN or (run.parent is not None and _is_shut_down(run.parent))


def _start_over(run: LiveRun) -> None:
    """A run that is to start over keeps how often each step began, and nothing else."""
    if run.row is RunState.QUEUED or not run.begun:  # nothing began: this start does not count
        run.attempt = max(0, run.attempt - 1)
    inherited = {row[1] for row in run.inherited}
    for graph in run.graphs.values():
        for progress in graph:
            if progress.starts or (progress.state is not P.PENDING and progress.name not in inherited):
                fresh = StepProgress(progress.step)
                fresh.starts = run.starts[progress.name] = progress.starts
                run.mark(fresh)
    run.start_over()


def _payload(run: LiveRun, outcome: RunState) -> dict[str, object] | None:
    if outcome is RunState.SUCCEEDED:
        return None
    return {"reason": run.reason, "error": run.error.shown() if run.error else None}
