"""The executor: takes a run that has a place from its first step to its seal.

Theory of operation. A run is one child of the group ``runs``. It drives the graph of the task's steps, before it that
of ``on_resume`` if it was stopped to come back; then ``on_preempt`` if it is so again, or, if it is ending, the graphs
of the handlers that fit the ending. ``on_resume`` is work like any other: a stop cuts it, its failure is the run's. Of
``on_preempt`` only the start of something makes a need: a run that was stopped before anything of it began, or went on,
has nothing to put away. Driving goes in *hops*: what ended and what that makes ready is
one unit, and the starts in it are committed before the first of them begins, so that a start is on record before its
side effect. The outcome rides with the last finish.

While a step is the only one it runs in the run's own child; parallel ones get a child each. Whether a stop has come is
asked before each start and after each commit: what was to start is withheld and stays pending. So is, after a commit,
whether the action ``stop`` has ended the graph meanwhile: what was to start is cancelled then.

The run always seals: ``execute`` ends in a ``finally`` outside every scope, without an await (``leaving``: one of many
that are stopped together gives its place back there, and is sealed a few turns later).

What a crash does: a step's start is committed and its finish is not; the boot table takes it from there.
"""

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import anyio

from aura.errors import AuraError, RequestError, RunError
from aura.graph import Graph, Progress
from aura.kernel.children import Children, key_of
from aura.kernel.claims import Claims
from aura.kernel.starting import Starting
from aura.lifecycle import FINAL, PLACED, STARTABLE, Recovery, RunState, StepState, Stop, end_of_stop
from aura.loading.generation import Generation
from aura.loading.inputs import check_inputs
from aura.processes.leftovers import end_run_leftovers
from aura.run import Failure, failure_of
from aura.runs.attempt import Attempt, EdgeCause
from aura.runs.conclude import Conclusions
from aura.runs.keptcode import keeping_code
from aura.runs.leaving import Leaving
from aura.runs.liverun import LiveRun, Phase
from aura.runs.measures import Measures
from aura.runs.perform import perform
from aura.runs.restoring import restore
from aura.runs.runtime import Runtime
from aura.runs.seal import end_cut_off, give_back
from aura.runs.stops import HANDLER_GRACE, Stops, handler_grace, time_left, where_of, withheld
from aura.runs.waits import Waits
from aura.store import Ticket
from aura.task import Task

#: How long the search for what a stopped run has left in the background may take at least, in seconds.
MIN_SWEEP = 0.1
#: How much of what a grace leaves to ``on_preempt`` is for the clean-up of its own steps, at most ``HANDLER_GRACE``.
OWN_PART = 0.25
#: What a run is that was stopped to come back.
_COMES_BACK = frozenset({RunState.PREEMPTED, RunState.QUEUED})
#: Why a run cannot begin, or go on, that needs what is not there.
NO_RESOURCES = "no_resources"
#: Why a run that was accepted cannot begin, by the code of what its plan answers now.
_CANNOT_BEGIN = {"unknown_plan": "plan_removed", "unknown_task": "plan_removed", "plan_broken": "plan_removed"}


class Executor:
    """Runs runs. ``give_place_back`` is told of a run that is stuck, so that its place may be used again."""

    def __init__(
        self,
        runtime: Runtime,
        stops: Stops,
        leaving: Leaving,
        children: Children,
        claims: Claims,
        waits: Waits,
        give_place_back: Callable[[LiveRun], object],
    ) -> None:
        self._runtime = runtime
        self._children = children
        self._stops = stops
        self._leaving = leaving
        self._give_place_back = give_place_back
        self._conclusions = Conclusions(runtime, waits)
        self._claims = claims
        self._waits = waits
        self._starting = Starting(runtime, self._conclusions, claims, waits)

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
            self._leaving.leave(run)

    async def _end_attempts(self, run: LiveRun) -> None:
        """Stop what a run that was broken off has left running beside it, and wait for it as for any stuck run."""
        with suppress(BaseException):
            for attempt in list(run.live.values()):
                attempt.request_stop(EdgeCause.RUN, "the run was broken off")
            while run.live:
                await run.wait_change()
            await self._children.end_all(run)

    async def _execute(self, run: LiveRun) -> None:
        goes_on = run.generation is not None and run.begun
        if run.begun and not goes_on:
            await self._end_without_code(run)
            return
        if run.generation is None and not self._begin(run):
            return
        run.hold_secrets()
        if isinstance(run.found, RunError):
            await self._end_refused(run, run.found)
            return
        self._stops.start_timeout(run)
        starts = run.begun_starts
        decisive = await self._work(run, goes_on)
        if run.stop is not None:
            await _end_background(run)
        run.ending = self._ending(run, decisive)
        if run.ending in _COMES_BACK and run.begun_starts > starts:
            await self._preempt(run)
        if run.children and run.ending in FINAL:
            await self._children.end_all(run)
        await self._handle_ending(run)

    async def _end_without_code(self, run: LiveRun) -> None:
        """End what is a part of a run that is told to end, rests, and has not the code any more that it began with."""
        run.ending = _end_of_stop(run)
        await self._children.end_all(run)

    async def _end_refused(self, run: LiveRun, refused: RunError) -> None:
        """End a run that was to go on and can never have again what it needs."""
        run.found = None
        run.reason, run.error, run.ending = NO_RESOURCES, failure_of(refused), RunState.FAILED
        await self._children.end_all(run)
        await self._handle_ending(run)

    async def _handle_ending(self, run: LiveRun) -> None:
        if run.ending in FINAL and run.begun:
            handlers = run.handlers(run.ending)
            if handlers and run.ending is not RunState.SUCCEEDED:  # they see what was cut off as it ends
                end_cut_off(self._runtime, run, self._runtime.clock.wall())
            for phase in handlers:
                await self._handle(run, phase)
                await _end_background(run)

    async def _work(self, run: LiveRun, goes_on: bool) -> Graph:
        """Drive ``on_resume`` of a run that goes on, then its steps. Gives the graph that says what came of it."""
        # by its row alone it was not if the unit was lost that said so
        was_stopped = goes_on and (run.row is RunState.PREEMPTED or run.taken_over or run.resumed)
        if was_stopped and run.stop is None and run.task is not None and run.task.on_resume:
            graph = run.enter(Phase.ON_RESUME)
            await self._drive(run, graph)
            if graph.outcome() is not RunState.SUCCEEDED:
                return graph
        run.taken_over = False
        run.phase = Phase.MAIN
        main = run.graphs[Phase.MAIN]
        await self._drive(run, main)
        return main

    # -- beginning and ending

    def _begin(self, run: LiveRun) -> bool:
        """Take the plan's current generation, and check again what was accepted under another one."""
        try:
            generation, task = self._found(run)
            if generation.hash != run.accepted.generation:
                run.inputs = check_inputs(task, run.inputs)
        except RequestError as refused:
            run.reason = _CANNOT_BEGIN.get(refused.code, refused.code)
            run.error = Failure(run.reason, _with_fields(refused))
            run.ending = RunState.FAILED
            return False
        except RunError as refused:
            run.reason, run.error, run.ending = NO_RESOURCES, failure_of(refused), RunState.FAILED
            return False
        run.take(generation, task)
        if run.inherited:
            restore(run, run.inherited, run.inherited_loops)
        return True

    def _found(self, run: LiveRun) -> tuple[Generation, Task]:
        """What the run took its resources for, if it did; else what its plan has now."""
        found, run.found = run.found, None
        if isinstance(found, AuraError):
            raise found
        return found or self._runtime.generations.task(run.plan_name, run.task_name)

    def _ending(self, run: LiveRun, graph: Graph) -> RunState:
        """What the run will end as, unless a stop of a higher rank comes: first by its graph, then by its stop."""
        outcome = None if run.stuck else graph.outcome()
        if outcome is not None and run.stop is Stop.INTERRUPT:
            run.reason = None  # it has ended by itself
        if outcome is RunState.SUCCEEDED:
            return self._conclusions.render_result(run, graph)
        if outcome is RunState.FAILED:
            failed = graph.first_failure()
            run.error = failed.error if failed else None
            return outcome
        if run.stop is None:  # if it is not to wait, the seal says why
            return RunState.WAITING if run.open_waits else RunState.CRASHED
        ending = _end_of_stop(run)
        if ending is RunState.PREEMPTED and graph.ended_early_by and run.phase is Phase.MAIN:
            self._conclusions.end_rest(run, graph)
            return RunState.SUCCEEDED
        return ending

    async def _preempt(self, run: LiveRun) -> None:
        """Drive ``on_preempt`` of a run that is to come back; then it may be about to end after all.

        Its time is none of the run's. Its failure is in the log and on record, and shows on the run only if that ends.
        """
        if run.task is None or not run.task.on_preempt:
            return
        give_back(run)  # what was cut off has stopped cleanly, and is on record so whatever becomes of the handler
        graph = run.enter(Phase.ON_PREEMPT)
        self._bound_cleanup(run, min(run.grace, run.cleanup_timeout, _left_of_graces(run)))
        run.count_active(self._runtime.clock.monotonic())
        await self._drive(run, graph)
        await _end_background(run)
        run.active_since = self._runtime.clock.monotonic()  # its time has not counted
        run.cleanup_deadline = run.shutdown_deadline  # the handlers of an ending have a time of their own
        run.ending = _end_of_stop(run)
        if run.ending in FINAL:
            _note_cleanup_error(run, graph)

    async def _handle(self, run: LiveRun, phase: Phase) -> None:
        """Drive one of the handlers. Its failure is the run's ``cleanup_error``, not its outcome."""
        graph = run.enter(phase)
        run.graces_end = math.inf  # it has a time of its own
        run.columns_changed = True  # ``ending`` is on record before the first clean-up begins
        if run.bounded:
            self._bound_cleanup(run, run.cleanup_timeout)
        await self._drive(run, graph)
        _note_cleanup_error(run, graph)

    def _bound_cleanup(self, run: LiveRun, seconds: float) -> None:
        if run.timer:
            run.timer.cancel()
        run.cleanup_deadline = min(run.cleanup_deadline, asyncio.get_running_loop().time() + seconds)

    # -- driving a graph

    async def _drive(self, run: LiveRun, graph: Graph) -> None:
        """Run a graph until all its steps have ended, or what is left is withheld and nothing of it runs."""
        while True:
            starts = self._starting.take(run, graph)
            # asked before the commit: what waits now may come up while that lasts, and must not wait for this one's end
            alone = len(starts) == 1 and not (run.live or run.backoffs or run.due or run.waits_for_resources)
            alone = alone and not run.open_waits
            if starts:
                await self._hand_over(run).wait()
                if withheld(run) or graph.ended_early_by is not None:
                    self._starting.take_back(run, graph, starts)
                    continue
                if run.resumed and not run.bounded:
                    run.resumed = False  # it goes on
            elif not (run.live or run.backoffs or run.due or run.waits_for_resources or self._stays(run)):
                if run.row in STARTABLE and graph.ended:  # there was nothing to start, and still it has run
                    self._hand_over(run)
                return
            elif run.dirty or run.dirty_items or run.row in STARTABLE:  # so is one whose first step waits in its place
                self._hand_over(run)  # what ended is on record soon; nobody waits for it
            attempts = [self._prepare(run, progress) for progress in starts]
            if alone:
                await self._attempt(run, graph, attempts[0])
                if run.fault is not None:
                    raise run.fault
                if graph.ended:  # and nothing else was there
                    return
            else:
                for attempt in attempts:
                    # in ``runs``, as the run itself; ends with its step, or is left behind with it as stuck
                    name = f"{run.cid} {attempt.step.key}"
                    self._runtime.runs.start_soon(self._attempt, run, graph, attempt, name=name)
                await run.wait_change()
                if run.fault is not None:
                    raise run.fault

    def _stays(self, run: LiveRun) -> bool:
        """Whether a run of which nothing is left but waits keeps its place until one of them is over."""
        if not run.open_waits or withheld(run) or run.phase is not Phase.MAIN:
            return False
        return bool(run.woken) or not run.may_wait

    def _hand_over(self, run: LiveRun) -> Ticket:
        """Hand over this hop; the first of a start moves the run to ``running``."""
        if run.row in STARTABLE:
            again = run.started_at is not None
            run.started_at = run.started_at or self._runtime.clock.wall()
            run.happened.insert(0, ("run.resumed" if again else "run.started", None, None))
            also = keeping_code(run) if run.recovery is Recovery.RESUME else None  # a crash may come at any time
            return self._runtime.hand_over(run, RunState.RUNNING, None if again else self._noting_wait(run), also)
        changed, run.columns_changed = run.columns_changed, False
        return self._runtime.hand_over(run, run.row if changed else None)

    def _noting_wait(self, run: LiveRun) -> Callable[[], None] | None:
        """What notes the wait of a run once its first start is on record; None if it has started before."""
        if run.waited or run.attempt > 1 or run.started_at is None:
            return None
        seconds = run.started_at - max(run.accepted.accepted_at, run.not_before or 0.0)
        return partial(_note_wait, self._runtime.measures, run, seconds)

    # -- one attempt

    def _prepare(self, run: LiveRun, progress: Progress) -> Attempt:
        """Make the attempt known before its child begins, so that a stop finds it."""
        grace = handler_grace(run) if run.bounded else run.cleanup_timeout
        attempt = Attempt(run, progress, grace, partial(self._on_stuck, run))
        run.live[progress.key] = attempt
        seconds = min(time_left(run), progress.step.timeout or math.inf)
        if progress.times_out_at is not None:
            seconds = min(seconds, max(0.0, progress.times_out_at - self._runtime.clock.wall()))
            progress.times_out_at = None
        if seconds != math.inf:
            attempt.time_out_after(seconds)
        return attempt

    async def _attempt(self, run: LiveRun, graph: Graph, attempt: Attempt) -> None:
        """Run one attempt to its end and put what came of it into the graph. Never raises: it may be a child."""
        try:
            if attempt.cause is None:  # else it was stopped before its child began
                work = perform(self._runtime, self._waits, run, attempt)
                await attempt.edge.attend(self._runtime.body_of(attempt, work))
            if attempt.step.key in run.children:
                await self._children.end_unawaited(run, attempt)
            attempt.finish()
            del run.live[attempt.step.key]
            self._conclusions.conclude(run, graph, attempt)
            if attempt.step.state is not StepState.WAITING:  # else it keeps what it took
                self._claims.end_try(run, attempt.step.key)
        except BaseException as error:  # ours, since the boundary lets nothing through: the run is broken off
            run.fault = error
            run.live.pop(attempt.step.key, None)
        attempt.edge.error = None  # its traceback names the edge: a circle, which the collector would have to find
        run.changed()

    def _on_stuck(self, run: LiveRun, attempt: Attempt) -> None:
        self._give_up(run, attempt.step.key, where_of(attempt))

    def _give_up(self, run: LiveRun, key: str, where: str) -> None:
        """Mark a run as stuck, and what it is a part of: that cannot end before it either."""
        if (attempt := run.live.get(key)) is not None:
            attempt.stuck = True
        self._stops.give_up(run, key, where)
        self._give_place_back(run)  # after it: whoever waits for that, or for what it holds, asks whether it is stuck
        if run.parent is not None and run.parent.state in PLACED and not run.parent.stuck:
            self._give_up(run.parent, key_of(run), where)


def _end_of_stop(run: LiveRun) -> RunState:
    assert run.stop is not None
    woken = run.row is RunState.WAITING
    ending = end_of_stop(run.stop, run.recovery, stuck=run.stuck, begun=run.begun, kept=run.kept, woken=woken)
    if ending is RunState.TIMED_OUT:
        run.error = Failure("TimeoutError", run.reason or "the run took too long")
    return ending


def _left_of_graces(run: LiveRun) -> float:
    """Seconds that the grace of an interrupt leaves to ``on_preempt``: its steps have the last of it for themselves."""
    left = max(0.0, run.graces_end - asyncio.get_running_loop().time())
    return left if left == math.inf else left - min(HANDLER_GRACE, left * OWN_PART)


def _note_cleanup_error(run: LiveRun, graph: Graph) -> None:
    failed = graph.first_failure()
    if failed is not None and run.cleanup_error is None:
        run.cleanup_error = failed.error


def _note_wait(measures: Measures, run: LiveRun, seconds: float) -> None:
    run.waited = True
    measures.note_wait(run.lane, run.plan_name, seconds)


async def _end_background(run: LiveRun) -> None:
    """End what the steps of a stopped run have left in the background."""
    if run.used_processes and run.stop is not None:
        run.used_processes = False
        # the scope: this call alone. The ending lives within what it leaves, but for what hangs in the kernel: that has
        # a bound of its own, so a stop of the server may find this run here, gives it its record and leaves
        end = min(run.cleanup_deadline, run.graces_end)
        with anyio.move_on_after(max(MIN_SWEEP, end - asyncio.get_running_loop().time())):
            await end_run_leftovers(run.boot_tag, run.cid)


def _with_fields(refused: RequestError) -> str:
    return "; ".join([refused.detail, *(f"{e.path}: {e.message}" for e in refused.errors)])
