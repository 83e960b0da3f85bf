"""The executor: takes a run that has a place from its first step to its seal.

Theory of operation. A run is one child of the group ``runs``. It drives the graph of the task's steps, then, if it is
ending, the graphs of the handlers that fit the ending. Driving goes in *hops*: what ended and what that makes ready is
one unit, and the starts in it are committed before the first of them begins, so that a start is on record before its
side effect. The outcome rides with the last finish.

While a step is the only one it runs in the run's own child; parallel ones get a child each. Whether a stop has come is
asked before each start and after each commit: what was to start is withheld and stays pending. So is, after a commit,
whether the action ``stop`` has ended the graph meanwhile: what was to start is cancelled then.

The run always seals: ``execute`` ends in a ``finally`` outside every scope, without an await.

What a crash does: a step's start is committed and its finish is not; the boot table takes it from there.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import anyio

from aura.attempt import Attempt, EdgeCause
from aura.conclude import Conclusions
from aura.errors import RequestError
from aura.graph import Graph, StepProgress
from aura.inputs import check_inputs
from aura.leftovers import end_run_leftovers
from aura.lifecycle import FINAL, STARTABLE, RunState, StepState, end_of_stop
from aura.liverun import LiveRun, Phase
from aura.measures import Measures
from aura.perform import perform
from aura.restoring import restore
from aura.run import Failure, failure_of
from aura.runtime import Runtime
from aura.scope import scope_of
from aura.seal import Seal
from aura.stops import HANDLER_GRACE, Stops, bounded, time_left, withheld
from aura.store import Ticket

P = StepState
#: How long the search for what a stopped run has left in the background may take at least, in seconds.
MIN_SWEEP = 0.1
#: Why a run that was accepted cannot begin, by the code of what its plan answers now.
_CANNOT_BEGIN = {"unknown_plan": "plan_removed", "unknown_task": "plan_removed", "plan_broken": "plan_removed"}


class Executor:
    """Runs runs. ``give_place_back`` is told of a run that is stuck, so that its place may be used again."""

    def __init__(
        self, runtime: Runtime, stops: Stops, seal: Seal, give_place_back: Callable[[LiveRun], object]
    ) -> None:
        self._runtime = runtime
        self._stops = stops
        self._seal = seal
        self._give_place_back = give_place_back
        self._conclusions = Conclusions(runtime)

    async def execute(self, run: LiveRun) -> None:
        """Take a run to its seal. Never raises."""
        try:
            await self._execute(run)
        except BaseException as error:  # nothing may leave a run's child: it would end the server
            if not run.sealed:
                run.fault = run.fault or error
                self._runtime.fault(f"run {run.cid} was broken off", error)
                await self._end_attempts(run)
        finally:
            self._seal.seal(run)

    async def _end_attempts(self, run: LiveRun) -> None:
        """Stop what a run that was broken off has left running beside it, and wait for it as for any stuck run."""
        with suppress(BaseException):
            for attempt in list(run.live.values()):
                attempt.request_stop(EdgeCause.RUN, "the run was broken off")
            while run.live:
                await run.wait_change()

    async def _execute(self, run: LiveRun) -> None:
        if run.generation is None and not self._begin(run):
            return
        self._stops.start_timeout(run)
        main = run.graphs[Phase.MAIN]
        run.phase = Phase.MAIN
        await self._drive(run, main)
        await _end_background(run)
        run.ending = self._ending(run, main)
        if run.ending in FINAL and run.begun:
            for phase in run.handlers(run.ending):
                await self._handle(run, phase)
                await _end_background(run)

    # -- beginning and ending

    def _begin(self, run: LiveRun) -> bool:
        """Take the plan's current generation, and check again what was accepted under another one."""
        try:
            generation, task = self._runtime.generations.task(run.plan_name, run.task_name)
            if generation.hash != run.accepted.generation:
                run.inputs = check_inputs(task, run.inputs)
        except RequestError as refused:
            run.reason = _CANNOT_BEGIN.get(refused.code, refused.code)
            run.error = Failure(run.reason, _with_fields(refused))
            run.ending = RunState.FAILED
            return False
        run.take(generation, task)
        if run.inherited:
            restore(run, run.inherited)
        return True

    def _ending(self, run: LiveRun, main: Graph) -> RunState:
        """What the run will end as, unless a stop of a higher rank comes: first by its graph, then by its stop."""
        outcome = None if run.stuck else main.outcome()
        if outcome is RunState.SUCCEEDED:
            return self._conclusions.render_result(run, main)
        if outcome is RunState.FAILED:
            failed = main.first_failure()
            run.error = failed.error if failed else None
            return outcome
        if run.stop is None:
            return RunState.CRASHED  # the seal says why
        ending = end_of_stop(run.stop, run.recovery, stuck=run.stuck, begun=run.begun, kept=run.kept)
        if ending is RunState.PREEMPTED and main.ended_early_by:
            self._conclusions.end_rest(run, main)
            return RunState.SUCCEEDED
        if ending is RunState.TIMED_OUT:
            run.error = Failure("TimeoutError", run.reason or "the run took too long")
        return ending

    async def _handle(self, run: LiveRun, phase: Phase) -> None:
        """Drive one of the handlers. Its failure is the run's ``cleanup_error``, not its outcome."""
        graph = run.enter(phase)
        run.columns_changed = True  # ``ending`` is on record before the first clean-up begins
        if bounded(run):
            self._bound_cleanup(run)
        await self._drive(run, graph)
        failed = graph.first_failure()
        if failed is not None and run.cleanup_error is None:
            run.cleanup_error = failed.error

    def _bound_cleanup(self, run: LiveRun) -> None:
        if run.timer:
            run.timer.cancel()
        now = asyncio.get_running_loop().time()
        run.cleanup_deadline = min(run.cleanup_deadline, now + run.cleanup_timeout)

    # -- driving a graph

    async def _drive(self, run: LiveRun, graph: Graph) -> None:
        """Run a graph until all its steps have ended, or what is left is withheld and nothing of it runs."""
        while True:
            starts = self._take_starts(run, graph)
            if starts:
                await self._hand_over(run).wait()
                if withheld(run) or graph.ended_early_by is not None:
                    self._take_back(run, graph, starts)
                    continue
                run.resumed = False  # it goes on
            elif not (run.live or run.backoffs or run.due_retries):
                if run.row in STARTABLE and graph.ended:  # there was nothing to start, and still it has run
                    self._hand_over(run)
                return
            elif run.dirty:
                self._hand_over(run)  # what ended is on record soon; nobody waits for it
            alone = len(starts) == 1 and not run.live and not run.backoffs
            attempts = [self._prepare(run, progress) for progress in starts]
            if alone:
                await self._attempt(run, graph, attempts[0])
                if run.fault is not None:
                    raise run.fault
            else:
                for attempt in attempts:
                    # in ``runs``, as the run itself; ends with its step, or is left behind with it as stuck
                    name = f"{run.cid} {attempt.step.name}"
                    self._runtime.runs.start_soon(self._attempt, run, graph, attempt, name=name)
                await run.wait_change()
                if run.fault is not None:
                    raise run.fault

    def _take_starts(self, run: LiveRun, graph: Graph) -> list[StepProgress]:
        """Take what may start now, marked as running; nothing while a stop withholds it."""
        if withheld(run):
            self._conclusions.drop_retries(run)
            return []
        self._conclusions.end_hopeless(run, graph)
        starts, run.due_retries = run.due_retries, []
        while True:
            ready, skipped = graph.take_ready()
            for progress in skipped:
                self._conclusions.note_skipped(run, progress)
            if not ready:
                break
            starts += [p for p in ready if self._may_start(run, graph, p)]
        for progress in starts:
            self._mark_started(run, progress)
        return starts

    def _may_start(self, run: LiveRun, graph: Graph, progress: StepProgress) -> bool:
        """Ask the step's ``when``, and whether a handler has time left. What may not start is ended here."""
        if time_left(run) <= 0:
            failure = Failure("cleanup_timeout", "there was no time left for this step", progress.name)
            self._conclusions.end(run, graph, progress, P.FAILED, failure)
            return False
        when = progress.step.when
        if when is None:
            return True
        try:
            if when.test(scope_of(run, self._runtime.clock)):
                return True
        except Exception as error:
            self._conclusions.end(run, graph, progress, P.FAILED, failure_of(error, progress.name))
            return False
        graph.skip(progress, "when is false")
        self._conclusions.note_skipped(run, progress)
        return False

    def _mark_started(self, run: LiveRun, progress: StepProgress) -> None:
        progress.move(P.RUNNING)
        run.count_start(progress)
        if progress.started_at is None or progress.attempt == 1:
            progress.started_at = self._runtime.clock.wall()
        progress.error = None
        run.mark(progress, "step.started", {"attempt": progress.attempt} if progress.attempt > 1 else None)

    def _take_back(self, run: LiveRun, graph: Graph, starts: list[StepProgress]) -> None:
        """A stop, or the end of the graph, came while the starts were written: none of them begins, none counts."""
        for progress in starts:
            run.uncount_start(progress)
            if graph.ended_early_by is not None:
                self._conclusions.end(run, graph, progress, P.CANCELLED)
            else:
                graph.give_back(progress)
                run.mark(progress)

    def _hand_over(self, run: LiveRun) -> Ticket:
        """Hand over this hop; the first of a start moves the run to ``running``."""
        if run.row in STARTABLE:
            again = run.started_at is not None
            run.started_at = run.started_at or self._runtime.clock.wall()
            run.happened.insert(0, ("run.resumed" if again else "run.started", None, None))
            return self._runtime.hand_over(run, RunState.RUNNING, None if again else self._noting_wait(run))
        changed, run.columns_changed = run.columns_changed, False
        return self._runtime.hand_over(run, run.row if changed else None)

    def _noting_wait(self, run: LiveRun) -> Callable[[], None] | None:
        """What notes the wait of a run once its first start is on record; None if it has started before."""
        if run.waited or run.attempt > 1 or run.started_at is None:
            return None
        seconds = run.started_at - max(run.accepted.accepted_at, run.not_before or 0.0)
        return partial(_note_wait, self._runtime.measures, run, seconds)

    # -- one attempt

    def _prepare(self, run: LiveRun, progress: StepProgress) -> Attempt:
        """Make the attempt known before its child begins, so that a stop finds it."""
        grace = HANDLER_GRACE if bounded(run) else run.cleanup_timeout
        attempt = Attempt(run, progress, grace, partial(self._on_stuck, run))
        run.live[progress.name] = attempt
        seconds = min(time_left(run), progress.step.timeout or float("inf"))
        if seconds != float("inf"):
            attempt.time_out_after(seconds)
        return attempt

    async def _attempt(self, run: LiveRun, graph: Graph, attempt: Attempt) -> None:
        """Run one attempt to its end and put what came of it into the graph. Never raises: it may be a child."""
        try:
            if attempt.cause is None:  # else it was stopped before its child began
                await attempt.edge.attend(perform(self._runtime, run, attempt))
            attempt.finish()
            del run.live[attempt.step.name]
            self._conclusions.conclude(run, graph, attempt)
        except BaseException as error:  # ours, since the boundary lets nothing through: the run is broken off
            run.fault = error
            run.live.pop(attempt.step.name, None)
        run.changed()

    def _on_stuck(self, run: LiveRun, attempt: Attempt) -> None:
        self._give_place_back(run)
        self._stops.give_up(run, attempt)


def _note_wait(measures: Measures, run: LiveRun, seconds: float) -> None:
    run.waited = True
    measures.note_wait(run.lane, run.plan_name, seconds)


async def _end_background(run: LiveRun) -> None:
    """End what the steps of a stopped run have left in the background."""
    if run.used_processes and run.stop is not None:
        run.used_processes = False
        # the scope: this call alone. The ending lives within what it leaves, but for what hangs in the kernel: that has
        # a bound of its own, so a stop of the server may find this run here, gives it its record and leaves
        with anyio.move_on_after(max(MIN_SWEEP, run.cleanup_deadline - asyncio.get_running_loop().time())):
            await end_run_leftovers(run.boot_tag, run.cid)


def _with_fields(refused: RequestError) -> str:
    return "; ".join([refused.detail, *(f"{e.path}: {e.message}" for e in refused.errors)])
