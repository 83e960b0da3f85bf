"""What may start now: steps that are ready, items of loops, next tries; each is asked what it is to be asked first.

It owns what stands between "ready" and "handed over as started", and its way back when a stop comes in between. The
executor decides when to look, begins what it is given, and alone waits.
"""

from collections.abc import Sequence

from aura.errors import RunError
from aura.graph import Graph, Progress, StepProgress
from aura.kernel.claims import Claims
from aura.lifecycle import StepState
from aura.reasons import WHEN_IS_FALSE
from aura.run import Failure, failure_of
from aura.runs.conclude import Conclusions
from aura.runs.liverun import LiveRun, Phase
from aura.runs.loops import begin_loop, take_items
from aura.runs.runtime import Runtime
from aura.runs.scope import scope_of
from aura.runs.stops import time_left, withheld
from aura.runs.waits import Waits
from aura.wait import WaitKind

P = StepState


class Starting:
    """Takes what may start."""

    def __init__(self, runtime: Runtime, conclusions: Conclusions, claims: Claims, waits: Waits) -> None:
        self._runtime = runtime
        self._conclusions = conclusions
        self._claims = claims
        self._waits = waits

    def take(self, run: LiveRun, graph: Graph) -> list[Progress]:
        """Take what may start now, marked as running; nothing while a stop withholds it."""
        stopped = withheld(run)
        self._claims.review(run, stopped)
        if stopped:
            self._conclusions.drop_retries(run)
            return []
        if run.backoffs:
            self._conclusions.end_hopeless(run, graph)
        found: list[Progress] = []
        if run.woken and run.phase is Phase.MAIN:
            self._take_woken(run, graph)
        if run.due:
            due, run.due = run.due, []
            found = [progress for progress in due if not progress.ended and self._has_time(run, graph, progress)]
        starts: list[Progress] = []
        while True:
            ready, skipped = graph.take_ready()
            if not (ready or skipped or found or graph.looping):
                return starts
            loops = len(graph.looping)
            for step in skipped:
                self._conclusions.note_skipped(run, graph, step)
            found += self._find(run, graph, ready)
            starts += [progress for progress in found if self._start(run, graph, progress)]
            if not (ready or skipped or found or len(graph.looping) != loops):
                return starts  # else something may have ended, and made others ready
            found = []

    def _take_woken(self, run: LiveRun, graph: Graph) -> None:
        """Let what has waited go on, or end."""
        woken, run.woken = run.woken, []
        for opened in woken:
            if run.open_waits.get(opened.key) is opened:  # else its step has ended meanwhile
                if opened.wait.kind is not WaitKind.TASK:  # that try goes on, and keeps what it took
                    self._claims.end_try(run, opened.key)
                due = self._conclusions.wake(run, graph, opened)
                if due is not None:
                    run.due.append(due)

    def _find(self, run: LiveRun, graph: Graph, ready: Sequence[StepProgress]) -> list[Progress]:
        """Take what is to be tried of the steps that are ready, and of the loops that are under way."""
        found: list[Progress] = []
        for step in ready:
            if self._claims.has_asked(run, step.key):
                continue  # one of what it depends on was enough; it waits already, or comes up as due
            if self._may_start(run, graph, step):
                if step.step.loop is None:
                    found.append(step)
                else:
                    self._begin_loop(run, graph, step)
        if graph.looping:
            for step in list(graph.looping.values()):
                found += self._items_of(run, graph, step)
        return found

    def take_back(self, run: LiveRun, graph: Graph, starts: list[Progress]) -> None:
        """A stop, or the end of the graph, came while the starts were written: none of them begins, none counts."""
        for progress in starts:
            run.uncount_start(progress)
            self._claims.end_try(run, progress.key)
            if graph.ended_early_by is not None:
                self._conclusions.end(run, graph, progress, P.CANCELLED)
            else:
                graph.give_back(progress)
                run.mark(progress)
        for step in list(graph.looping.values()):
            if step.loop is not None and not any(item.starts for item in step.loop.items):
                run.uncount_start(step)
                graph.give_back(step)
                run.mark(step)

    # -- asking

    def _may_start(self, run: LiveRun, graph: Graph, progress: StepProgress) -> bool:
        """Ask the step's ``when``, and whether a handler has time left. What may not start is ended here."""
        if not self._has_time(run, graph, progress):
            return False
        when = progress.step.when
        if when is None or progress.loop is not None:  # a loop that goes on has been asked
            return True
        try:
            if when.test(scope_of(run, self._runtime.clock)):
                return True
        except Exception as error:
            self._conclusions.explain("when", run, progress, when)
            self._conclusions.end(run, graph, progress, P.FAILED, failure_of(error, progress.name))
            return False
        self._conclusions.explain("when", run, progress, when)
        graph.skip(progress, WHEN_IS_FALSE)
        self._conclusions.note_skipped(run, graph, progress)
        return False

    def _has_time(self, run: LiveRun, graph: Graph, progress: Progress) -> bool:
        if time_left(run) > 0:
            return True
        late = Failure("cleanup_timeout", "there was no time left for this step", progress.name, progress.index)
        self._conclusions.end(run, graph, progress, P.FAILED, progress.error or late)
        return False

    # -- loops

    def _begin_loop(self, run: LiveRun, graph: Graph, step: StepProgress) -> None:
        """Let a step begin to loop, or go on behind the items that it has."""
        if step.loop is None:
            try:
                begin_loop(run, step, self._runtime.clock)
            except Exception as error:
                self._conclusions.fail(run, graph, step, error)
                return
            run.dirty_loops[step.name] = step
        else:  # its rest is over
            step.loop.rested, step.loop.unasked = not step.loop.open and step.key not in run.open_waits, True
        graph.begin_loop(step)
        self._mark_started(run, step)

    def _items_of(self, run: LiveRun, graph: Graph, step: StepProgress) -> Sequence[Progress]:
        assert step.loop is not None
        if step.loop.unasked:
            self._conclusions.settle_loop(run, graph, step)
        if step.ended or (time_left(run) <= 0 and self._has_begun(run, step)):
            return []
        return take_items(run, step, self._waits) if self._has_time(run, graph, step) else []

    def _has_begun(self, run: LiveRun, step: StepProgress) -> bool:
        """Whether an item of a step that loops runs now."""
        return any(attempt.step.name == step.name for attempt in run.live.values())

    # -- starting

    def _start(self, run: LiveRun, graph: Graph, progress: Progress) -> bool:
        """Mark as running what may begin at once: what waits for resources comes up again as ``run.due``."""
        if progress.ended:  # with its loop, a moment ago
            self._claims.end_try(run, progress.key)
            return False
        try:
            if not self._claims.take_try(run, progress):
                return False
        except RunError as error:
            self._conclusions.fail(run, graph, progress, error)
            return False
        self._mark_started(run, progress)
        return True

    def _mark_started(self, run: LiveRun, progress: Progress) -> None:
        progress.move(P.RUNNING)
        progress.since = self._runtime.journal.head
        run.count_start(progress)
        goes_on = isinstance(progress, StepProgress) and progress.loop is not None and progress.loop.items
        if progress.started_at is None or (progress.attempt == 1 and not goes_on):
            progress.started_at = self._runtime.clock.wall()
        progress.error = None
        if progress.index is not None:  # what is told of a loop is told of its step
            run.mark(progress)
            return
        run.mark(progress, "step.started", {"attempt": progress.attempt} if progress.attempt > 1 else None)
