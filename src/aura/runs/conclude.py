"""What an attempt that has ended means for its step: succeeded, failed, tried again, stopped.

The evidence is the attempt's: whether our edge was thrown in (``seen``), and why it was sent (``cause``).
"""

import asyncio
from asyncio import CancelledError
from typing import Any

import msgspec

from aura.clock import rfc3339
from aura.errors import EndRun, RunError, StrayCancellation, WaitFor
from aura.explain import of_condition, of_skip
from aura.expressions import Condition
from aura.graph import BAD, Graph, ItemProgress, LoopProgress, Progress, StepProgress
from aura.lifecycle import RunState, StepState
from aura.loading.approvals import secrets_of_answer
from aura.reasons import sentence
from aura.run import Failure, failure_of
from aura.runs.attempt import Attempt, EdgeCause
from aura.runs.liverun import LiveRun, Phase
from aura.runs.loops import cancel_items, collect, is_over
from aura.runs.perform import Produced, checked_output, produced
from aura.runs.retries import wait_before_next
from aura.runs.runtime import Runtime
from aura.runs.scope import scope_of
from aura.runs.stops import withheld
from aura.runs.waits import Waits, shown_wait, value_of
from aura.wait import SHORTEST, Came, OpenWait, Wait, WaitKind

P = StepState


class Conclusions:
    """Puts what came of attempts into the graph, and notes it for the next unit."""

    def __init__(self, runtime: Runtime, waits: Waits) -> None:
        self._runtime = runtime
        self._waits = waits

    def conclude(self, run: LiveRun, graph: Graph, attempt: Attempt) -> None:
        """Draw the conclusion of one attempt that is over."""
        progress, error = attempt.step, attempt.edge.error
        if attempt.cause is not None and not attempt.edge.seen and error is None and attempt.edge.value is None:
            self._never_began(run, graph, attempt)
        elif attempt.stuck:  # given up: what it gives back now changes nothing
            self._stopped(run, graph, attempt, error or CancelledError())
        elif error is None:
            self._produced(run, graph, progress, attempt.edge.value)
        elif isinstance(error, EndRun) and not attempt.edge.seen:
            self._end_run(run, graph, progress, error)
        elif isinstance(error, WaitFor) and not attempt.edge.seen:
            self._wait(run, graph, attempt, error.wait)
        elif attempt.edge.seen:
            self._stopped(run, graph, attempt, error)
        else:
            stray = StrayCancellation(
                "the action was cancelled, and not by Aura: it cancelled itself, or what it awaited"
            )
            failure = self._failure(run, progress, stray if isinstance(error, CancelledError) else error)
            self._retry_or_end(run, graph, progress, P.FAILED, failure)

    def _never_began(self, run: LiveRun, graph: Graph, attempt: Attempt) -> None:
        """Its edge came before its child, or its thread, began: the body never ran, and the start does not count."""
        progress = attempt.step
        run.uncount_start(progress)
        if attempt.cause is EdgeCause.ENDED:
            self.end(run, graph, progress, P.CANCELLED)
        elif attempt.cause is EdgeCause.TIMEOUT:
            self.end(run, graph, progress, P.TIMED_OUT, _timed_out(progress))
        else:
            graph.give_back(progress)
            run.mark(progress)

    def _stopped(self, run: LiveRun, graph: Graph, attempt: Attempt, error: BaseException) -> None:
        progress = attempt.step
        if not isinstance(error, CancelledError):  # it was stopped, and its clean-up failed
            run.cleanup_error = run.cleanup_error or self._failure(run, progress, error)
        match attempt.cause:
            case EdgeCause.TIMEOUT:
                self._retry_or_end(run, graph, progress, P.TIMED_OUT, _timed_out(progress))
            case EdgeCause.ENDED:
                self.end(run, graph, progress, P.CANCELLED)
            case _ if attempt.wants_thread and attempt.thread is None:  # no thread took it: nothing of it has run
                self._never_began(run, graph, attempt)
            case _:  # cut off by the run's stop: it stays as it is until the seal says whether it comes back
                run.mark(progress)

    def _wait(self, run: LiveRun, graph: Graph, attempt: Attempt, wait: Wait) -> None:
        """Let a step wait; if a stop has come meanwhile it is as if that had cut it off: nothing of it has begun."""
        progress = attempt.step
        if attempt.cause is EdgeCause.TIMEOUT:
            self._retry_or_end(run, graph, progress, P.TIMED_OUT, _timed_out(progress))
        elif not graph.goes_on(progress):
            self.end(run, graph, progress, P.CANCELLED)
        elif withheld(run):
            run.mark(progress)
        else:
            progress.move(P.WAITING)
            left = attempt.timeout_at - asyncio.get_running_loop().time()
            payload = _told(self._waits.begin(run, progress, wait, max(0.0, left)))
            run.mark(progress, "step.waiting", payload)
            if wait.kind is WaitKind.APPROVAL:
                run.happened.append(("approval.requested", progress.name, payload))

    def wake(self, run: LiveRun, graph: Graph, opened: OpenWait) -> Progress | None:
        """Conclude a wait that is over; gives what is to be tried now, if that is what it waited for."""
        assert opened.came is not None
        self._waits.end(run, opened.key)
        progress = graph.find(opened.key)
        match opened.wait.kind:
            case WaitKind.RETRY:
                return progress
            case WaitKind.ROUND:
                assert isinstance(progress, StepProgress)
                assert progress.loop is not None
                progress.loop.rested = progress.loop.unasked = True
            case WaitKind.TASK if not opened.came.timed_out:
                progress.attempt -= 1  # it is the same try that goes on: nothing is asked again
                progress.times_out_at = opened.times_out_at
                return progress
            case _:
                self._give(run, graph, progress, opened, opened.came)
        return None

    def _give(self, run: LiveRun, graph: Graph, progress: Progress, opened: OpenWait, came: Came) -> None:
        """Give a step that has waited what came, as if its action had."""
        if came.timed_out:
            self._retry_or_end(run, graph, progress, P.TIMED_OUT, _timed_out(progress))
            return
        try:
            secrets = secrets_of_answer(opened.wait.inputs)
            given = produced(self._runtime, run, progress, value_of(opened, came), secrets)
        except Exception as error:
            self._retry_or_end(run, graph, progress, P.FAILED, self._failure(run, progress, error))
        else:
            self._produced(run, graph, progress, given)

    def _produced(self, run: LiveRun, graph: Graph, progress: Progress, produced: Produced) -> None:
        if isinstance(produced.again, Exception):
            self.fail(run, graph, progress, produced.again)
        elif produced.again is not None:
            self._try_again(run, graph, progress, produced.again, None)
        else:
            progress.output, progress.output_json, progress.outputs, _ = produced
            self.end(run, graph, progress, P.SUCCEEDED)

    def _end_run(self, run: LiveRun, graph: Graph, progress: Progress, ending: EndRun) -> None:
        """The action ``stop``: the run ends here as succeeded. What has not begun is skipped, what runs is stopped."""
        try:
            progress.output, progress.output_json = run_result = checked_output(ending.result)
        except Exception as error:
            self._retry_or_end(run, graph, progress, P.FAILED, self._failure(run, progress, error))
            return
        if run.phase is Phase.MAIN:
            run.result = run_result[1]
        self.end(run, graph, progress, P.SUCCEEDED)
        for skipped in graph.end_early(progress.name):
            self.note_skipped(run, graph, skipped)
        self.drop_retries(run)
        for other in graph:
            if other.state in (P.RETRYING, P.WAITING):
                self.end(run, graph, other, P.CANCELLED)
        for loop in list(graph.looping.values()):
            self._cut_off_loop(run, graph, loop)
        for attempt in list(run.live.values()):
            attempt.request_stop(EdgeCause.ENDED, f"step {progress.name} ended the run")

    def fail(self, run: LiveRun, graph: Graph, progress: Progress, error: BaseException) -> None:
        """End as failed, whatever its retries, what could not be evaluated."""
        self.end(run, graph, progress, P.FAILED, self._failure(run, progress, error))

    def _failure(self, run: LiveRun, progress: Progress, error: BaseException) -> Failure:
        failure = failure_of(error, progress.name, run.code_prefixes, self._runtime.redactor.text)
        if progress.index is not None:
            failure = msgspec.structs.replace(failure, item=progress.index)
        log = run.logger(progress.name, progress.attempt)
        told = isinstance(error, RunError) or not failure.trace  # what Aura names explains itself
        fields = {} if told else {"exception": failure.trace}
        log.error(f"step {progress.key} failed: {failure.type}: {failure.message}", **fields)
        return failure

    # -- retries

    def _retry_or_end(self, run: LiveRun, graph: Graph, progress: Progress, state: StepState, failure: Failure) -> None:
        try:
            delay = wait_before_next(run, progress, self._runtime.clock, failure=failure)
        except Exception as error:
            self.fail(run, graph, progress, error)
            return
        if delay is None:
            self.end(run, graph, progress, state, failure)
        else:
            self._try_again(run, graph, progress, delay, failure)

    def _try_again(self, run: LiveRun, graph: Graph, progress: Progress, delay: float, failure: Failure | None) -> None:
        if not graph.goes_on(progress):
            self.end(run, graph, progress, P.FAILED if failure else P.CANCELLED, failure)
            return
        progress.move(P.RETRYING)
        progress.error = failure
        payload = {"attempt": progress.attempt, "delay_s": delay, "error": failure.shown() if failure else None}
        run.mark(progress, "step.retrying", payload if progress.index is None else {"item": progress.index, **payload})
        if delay >= SHORTEST and run.phase is Phase.MAIN:
            self._waits.begin(run, progress, Wait(WaitKind.RETRY, delay))
        elif not withheld(run):
            loop = asyncio.get_running_loop()
            run.backoffs[progress.key] = loop.call_later(delay, self._retry_due, run, progress)

    def _retry_due(self, run: LiveRun, progress: Progress) -> None:
        del run.backoffs[progress.key]
        run.due.append(progress)
        run.changed()

    def end_hopeless(self, run: LiveRun, graph: Graph) -> None:
        """End what of a handler would go on only after the handler's time: its next try, or its next round."""
        if not run.bounded:
            return
        for key, timer in list(run.backoffs.items()):
            if timer.when() >= run.cleanup_deadline and key in run.backoffs:
                run.backoffs.pop(key).cancel()
                progress = graph.find(key)
                text = "there was no time left for its next try or round"
                late = Failure("cleanup_timeout", text, progress.name, progress.index)
                self.end(run, graph, progress, P.FAILED, progress.error or late)

    def drop_retries(self, run: LiveRun) -> None:
        """Start no further try: the run is being stopped or ended."""
        for timer in run.backoffs.values():
            timer.cancel()
        run.backoffs.clear()
        run.due.clear()

    # -- loops

    def _end_item(self, run: LiveRun, graph: Graph, item: ItemProgress, state: StepState) -> None:
        """End an item, and the step with the last of them."""
        step, loop = graph.steps[item.name], graph.loop_of(item)
        assert step.step.loop is not None
        loop.end(item, state)
        run.mark(item)
        run.note_progress(item.name, loop.ended, loop.total, "")
        if state in BAD and step.step.loop.stop_on_failure and loop.failure is None:
            loop.failure = item.error
            self._end_waiting(run, graph, loop)
        if loop.open or step.ended:
            return
        if graph.ended_early_by is not None:
            self.end(run, graph, step, P.CANCELLED)
        elif step.state is not P.PENDING:  # else it was woken before its step has begun again, which settles it then
            self.settle_loop(run, graph, step)

    def _end_waiting(self, run: LiveRun, graph: Graph, loop: LoopProgress) -> None:
        """End the items that do not run: nothing more of this loop begins."""
        for item in loop.items:
            if item.state is P.RETRYING or (item.state is P.WAITING and graph.ended_early_by is not None):
                if timer := run.backoffs.pop(item.key, None):
                    timer.cancel()
                failed = item.error is not None and graph.ended_early_by is None
                self.end(run, graph, item, P.FAILED if failed else P.CANCELLED, item.error)
            elif item.state is P.PENDING:
                self.end(run, graph, item, P.CANCELLED)
        loop.left.clear()

    def _cut_off_loop(self, run: LiveRun, graph: Graph, step: StepProgress) -> None:
        """The graph was ended early: the step ends now, or with those of its items that run."""
        assert step.loop is not None
        self._end_waiting(run, graph, step.loop)
        if not step.loop.open and not step.ended:
            self.end(run, graph, step, P.CANCELLED)

    def settle_loop(self, run: LiveRun, graph: Graph, step: StepProgress) -> None:
        """End a step that loops if its loop is over."""
        assert step.loop is not None
        if step.loop.failure is not None:  # a stop may have cut off what was let end
            self._end_waiting(run, graph, step.loop)
            if step.ended:
                return
        try:
            if not is_over(run, step, self._runtime.clock):
                return
            if step.loop.failure is None:
                collect(step)
        except Exception as error:
            self.fail(run, graph, step, error)
            return
        failure = step.loop.failure
        self.end(run, graph, step, P.FAILED if failure else P.SUCCEEDED, failure)

    # -- ends

    def end(
        self, run: LiveRun, graph: Graph, progress: Progress, state: StepState, failure: Failure | None = None
    ) -> None:
        """Give a step, or an item of one, its final state and note it."""
        progress.error = failure
        progress.finished_at = self._runtime.clock.wall()
        run.progress.pop(progress.key, None)
        if run.open_waits:
            self._waits.end(run, progress.key)
        if run.checkpoints:
            run.drop_checkpoint(progress)
        if isinstance(progress, ItemProgress):
            self._end_item(run, graph, progress, state)
            return
        assert isinstance(progress, StepProgress)
        graph.end(progress, state)
        if progress.loop is not None:
            for item in progress.loop.items if progress.loop.open and run.open_waits else ():
                self._waits.end(run, item.key)
            cancel_items(run, progress.loop, progress.finished_at)
        self._runtime.note_step(progress)
        payload: dict[str, Any] | None = {"error": failure.shown()} if failure else None
        run.mark(progress, f"step.{state}", payload)

    def end_rest(self, run: LiveRun, graph: Graph) -> None:
        """End what a stop has left of a graph that ``stop`` had ended: there is nothing to come back for."""
        for step in graph:
            if step.state is P.PENDING:
                graph.skip(step, f"{graph.ended_early_by} ended the run")
                self.note_skipped(run, graph, step)
            elif not step.ended:
                self.end(run, graph, step, P.CANCELLED)

    def note_skipped(self, run: LiveRun, graph: Graph, step: StepProgress) -> None:
        """Note a step that the graph has skipped, and why."""
        step.finished_at = self._runtime.clock.wall()
        step.explained = step.explained or of_skip(graph, step)
        step.skipped_because = sentence(step.explained)
        run.logger(step.name).info(f"skipped: {step.skipped_because}")
        run.mark(step, "step.skipped", {"because": step.skipped_because, "explained": step.explained})

    def explain(self, because: str, run: LiveRun, step: StepProgress, condition: Condition) -> None:
        """Keep how a condition of a step comes out in its run's scope now; ``because`` is the condition's key."""
        scope = scope_of(run, self._runtime.clock)
        hide = self._runtime.redactor.plain
        step.explained = of_condition(because, condition, scope, run.accepted.secret_inputs, step.step, hide)

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


def _timed_out(progress: Progress) -> Failure:
    limit = progress.step.timeout
    message = f"the attempt took longer than {limit:g} s" if limit else "there was no time left for this step"
    bases = ("TimeoutError", "OSError", "Exception")
    return Failure("TimeoutError", message, progress.name, progress.index, bases=bases)


def _told(opened: OpenWait) -> dict[str, Any]:
    """What the event of a wait says of it, beside its step and its time."""
    shown = shown_wait(opened)
    del shown["step"], shown["since"]
    until = shown.pop("until")
    told = {"item": shown.pop("index"), **shown, "until": None if until is None else rfc3339(until)}
    return {name: value for name, value in told.items() if value is not None}
