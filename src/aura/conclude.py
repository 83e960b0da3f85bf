"""What an attempt that has ended means for its step: succeeded, failed, tried again, stopped.

The evidence is the attempt's: whether our edge was thrown in (``seen``), and why it was sent (``cause``).
"""

import asyncio
from asyncio import CancelledError
from typing import Any

from aura.attempt import Attempt, EdgeCause
from aura.errors import EndRun, RunError, StrayCancellation
from aura.graph import Graph, StepProgress
from aura.lifecycle import RunState, StepState
from aura.liverun import LiveRun, Phase
from aura.perform import checked_output
from aura.run import Failure, failure_of
from aura.runtime import Runtime
from aura.scope import scope_of
from aura.stops import bounded, withheld

P = StepState


class Conclusions:
    """Puts what came of attempts into the graph, and notes it for the next unit."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def conclude(self, run: LiveRun, graph: Graph, attempt: Attempt) -> None:
        """Draw the conclusion of one attempt that is over."""
        step, error = attempt.step, attempt.edge.error
        if attempt.cause is not None and not attempt.edge.seen and error is None and attempt.edge.value is None:
            self._never_began(run, graph, attempt)
        elif attempt.stuck:  # given up: what it gives back now changes nothing
            self._stopped(run, graph, attempt, error or CancelledError())
        elif error is None:
            step.output, step.output_json, step.outputs = attempt.edge.value
            self.end(run, graph, step, P.SUCCEEDED)
        elif isinstance(error, EndRun) and not attempt.edge.seen:
            self._end_run(run, graph, step, error)
        elif attempt.edge.seen:
            self._stopped(run, graph, attempt, error)
        else:
            stray = StrayCancellation(
                "the action was cancelled, and not by Aura: it cancelled itself, or what it awaited"
            )
            self._fail(run, graph, step, P.FAILED, stray if isinstance(error, CancelledError) else error)

    def _never_began(self, run: LiveRun, graph: Graph, attempt: Attempt) -> None:
        """Its edge came before its child, or its thread, began: the body never ran, and the start does not count."""
        step = attempt.step
        run.uncount_start(step)
        if attempt.cause is EdgeCause.ENDED:
            self.end(run, graph, step, P.CANCELLED)
        elif attempt.cause is EdgeCause.TIMEOUT:
            self.end(run, graph, step, P.TIMED_OUT, _timed_out(step))
        else:
            graph.give_back(step)
            run.mark(step)

    def _stopped(self, run: LiveRun, graph: Graph, attempt: Attempt, error: BaseException) -> None:
        step = attempt.step
        if not isinstance(error, CancelledError):  # it was stopped, and its clean-up failed
            run.cleanup_error = run.cleanup_error or self._failure(run, step, error)
        match attempt.cause:
            case EdgeCause.TIMEOUT:
                self._retry_or_end(run, graph, step, P.TIMED_OUT, _timed_out(step))
            case EdgeCause.ENDED:
                self.end(run, graph, step, P.CANCELLED)
            case _ if _waited_for_a_thread(run, attempt):
                self._never_began(run, graph, attempt)
            case _:  # cut off by the run's stop: it stays as it is until the seal says whether it comes back
                run.mark(step)

    def _end_run(self, run: LiveRun, graph: Graph, step: StepProgress, ending: EndRun) -> None:
        """The action ``stop``: the run ends here as succeeded. What has not begun is skipped, what runs is stopped."""
        try:
            step.output, step.output_json = run_result = checked_output(ending.result)
        except Exception as error:
            self._fail(run, graph, step, P.FAILED, error)
            return
        if run.phase is Phase.MAIN:
            run.result = run_result[1]
        self.end(run, graph, step, P.SUCCEEDED)
        for skipped in graph.end_early(step.name):
            self.note_skipped(run, skipped)
        self.drop_retries(run)
        for other in graph:
            if other.state is P.RETRYING:
                self.end(run, graph, other, P.CANCELLED)
        for attempt in list(run.live.values()):
            attempt.request_stop(EdgeCause.ENDED, f"step {step.name} ended the run")

    def _fail(self, run: LiveRun, graph: Graph, step: StepProgress, state: StepState, error: BaseException) -> None:
        self._retry_or_end(run, graph, step, state, self._failure(run, step, error))

    def _failure(self, run: LiveRun, step: StepProgress, error: BaseException) -> Failure:
        failure = failure_of(error, step.name, run.code_prefix)
        log = run.logger(step.name, step.attempt)
        fields = {} if isinstance(error, RunError) else {"exception": failure.trace}  # what Aura names explains itself
        log.error(f"step {step.name} failed: {failure.type}: {failure.message}", **fields)
        return failure

    # -- retries

    def _retry_or_end(self, run: LiveRun, graph: Graph, step: StepProgress, state: StepState, failure: Failure) -> None:
        retry = step.step.retry
        if step.attempt >= retry.attempts or graph.ended_early_by is not None:
            self.end(run, graph, step, state, failure)
            return
        step.move(P.RETRYING)
        step.error = failure
        run.mark(step, "step.retrying", {"attempt": step.attempt, "delay_s": retry.delay, "error": failure.shown()})
        if not withheld(run):
            loop = asyncio.get_running_loop()
            run.backoffs[step.name] = loop.call_later(retry.delay, self._retry_due, run, step)

    def _retry_due(self, run: LiveRun, step: StepProgress) -> None:
        del run.backoffs[step.name]
        run.due_retries.append(step)
        run.changed()

    def end_hopeless(self, run: LiveRun, graph: Graph) -> None:
        """End the steps of a handler whose next try would come after the handler's time."""
        for name, timer in list(run.backoffs.items()):
            if timer.when() >= run.cleanup_deadline and bounded(run):
                timer.cancel()
                del run.backoffs[name]
                step = graph.steps[name]
                self.end(run, graph, step, P.FAILED, step.error)

    def drop_retries(self, run: LiveRun) -> None:
        """Start no further try: the run is being stopped or ended."""
        for timer in run.backoffs.values():
            timer.cancel()
        run.backoffs.clear()
        run.due_retries.clear()

    # -- ends

    def end(
        self, run: LiveRun, graph: Graph, step: StepProgress, state: StepState, failure: Failure | None = None
    ) -> None:
        """Give a step its final state and note it."""
        step.error = failure
        step.finished_at = self._runtime.clock.wall()
        graph.end(step, state)
        self._runtime.note_step(step)
        run.progress.pop(step.name, None)
        payload: dict[str, Any] | None = {"error": failure.shown()} if failure else None
        run.mark(step, f"step.{state.value}", payload)

    def end_rest(self, run: LiveRun, graph: Graph) -> None:
        """End what a stop has left of a graph that ``stop`` had ended: there is nothing to come back for."""
        for step in graph:
            if step.state is P.PENDING:
                graph.skip(step, f"{graph.ended_early_by} ended the run")
                self.note_skipped(run, step)
            elif not step.ended:
                self.end(run, graph, step, P.CANCELLED)

    def note_skipped(self, run: LiveRun, step: StepProgress) -> None:
        """Note a step that the graph has skipped, and why."""
        step.finished_at = self._runtime.clock.wall()
        run.mark(step, "step.skipped", {"because": step.skipped_because})

    def render_result(self, run: LiveRun, main: Graph) -> RunState:
        """Render ``returns`` of a run whose graph succeeded; it fails if that cannot be done."""
        assert run.task is not None
        returns = run.task.returns
        if main.ended_early_by or returns is None:
            return RunState.SUCCEEDED
        try:
            scope = scope_of(run, self._runtime.clock)
            if hasattr(returns, "render"):
                value = returns.render(scope)
            else:
                value = {name: template.render(scope) for name, template in returns.items()}
            run.result = checked_output(value)[1]
        except Exception as error:
            run.error = failure_of(error)
            return RunState.FAILED
        return RunState.SUCCEEDED


def _waited_for_a_thread(run: LiveRun, attempt: Attempt) -> bool:
    """Whether a ``def`` action was cut off before a thread took it: nothing of it has run."""
    assert run.generation is not None
    return attempt.thread is None and not run.generation.action(attempt.step.step.action).is_async


def _timed_out(step: StepProgress) -> Failure:
    limit = step.step.timeout
    message = f"the attempt took longer than {limit:g} s" if limit else "there was no time left for this step"
    return Failure("TimeoutError", message, step.name, bases=("TimeoutError", "OSError", "Exception"))
