"""Stopping a run: the only way to do it, whoever asks.

Theory of operation. ``request_stop`` sets the kind in memory and delivers the edges in the same turn; nothing waits
for a commit. A ``stopping`` row is written for a time-out and a cancel only: the boot table treats the other two as
``running``. A second stop may raise the rank and bring the deadline nearer; it delivers no second edge. The kind is
read once, at the seal; after it a stop answers ``ended``.

``finally`` and the other handlers of a run that is stopped or ending are never cut by a stop; they have a time of their
own, and a shutdown only brings its end nearer (``time_left``). So does a second interrupt for ``on_preempt``.

A run that holds no place is ended at once by a time-out or a cancel. One that rests and has begun is started once more,
whatever its lane's limit, for the handlers of its ending; its row says ``stopping`` first.

What a crash does: a stop that was told to somebody is a ``stopping`` row, and the boot table ends the run as it says.
"""

import asyncio
import math
from collections.abc import Callable
from enum import Enum, auto

from aura.lifecycle import PLACED, STARTABLE, RunState, Stop, end_of_stop, outranks
from aura.run import Failure, clean
from aura.runs.attempt import Attempt, EdgeCause
from aura.runs.hang import Hang
from aura.runs.liverun import LiveRun, Phase
from aura.runs.preempting import preempt_of_attempt
from aura.runs.runtime import Runtime
from aura.runs.victims import given_up
from aura.store import Ticket
from aura.task import Preempt

#: What a failed unit means for what a run was told: it is done in memory, and not on record.
UNCERTAIN = "it may hold until the server ends: look at the run, and ask again"
#: How long an attempt of a handler may still clean up after its time is over, in seconds.
HANDLER_GRACE = 0.5


class Answer(Enum):
    """What a stop found."""

    #: The run has its outcome; nothing was changed.
    ENDED = auto()
    #: It holds no place and a stop of this kind means nothing to it; nothing was changed.
    IDLE = auto()
    #: It is being stopped.
    STOPPING = auto()
    #: It was not running and has its outcome now.
    STOPPED = auto()


class Stops:
    """Stops runs. ``seal`` ends a run that is not running, ``start`` starts one for its clean-up; both at once."""

    def __init__(self, runtime: Runtime, seal: Callable[[LiveRun], object], start: Callable[[LiveRun], object]) -> None:
        self._runtime = runtime
        self._seal = seal
        self._start = start

    def request_stop(
        self,
        run: LiveRun,
        kind: Stop,
        reason: str | None = None,
        grace: float | None = None,
        *,
        at_once: bool = False,
    ) -> tuple[Answer, Ticket | None]:
        """Ask a run to stop; does not wait. ``grace`` is in seconds (default: its task's ``cleanup_timeout``).

        An interrupt lets steps end by themselves that say so (``preempting``), unless it is to come ``at_once``.
        The ticket is that of the ``stopping`` row, if one was handed over: whoever tells a client waits for it.
        """
        reason = clean(reason) if reason else reason
        if run.sealed:
            return Answer.ENDED, None
        if run.gone_at is not None and kind >= Stop.TIMEOUT:
            self._seal(run)  # nothing of it runs: it comes to rest first
        if run.state not in PLACED:
            return self._stop_idle(run, kind, reason)
        if outranks(kind, run.stop):
            run.stop, run.reason = kind, reason
            if kind >= Stop.TIMEOUT:
                run.held = None  # it ends now, whoever wanted it kept
            if kind >= Stop.TIMEOUT and run.row in PLACED:
                run.stop_ticket = self._runtime.hand_over(run, RunState.STOPPING)
        run.state = RunState.STOPPING
        run.grace = min(run.grace, run.cleanup_timeout if grace is None else grace)
        patient = kind is Stop.INTERRUPT and not at_once
        self._deliver(run, kind, reason or kind.label, run.cleanup_timeout if grace is None else grace, patient)
        run.changed()
        return Answer.STOPPING, run.stop_ticket

    def _stop_idle(self, run: LiveRun, kind: Stop, reason: str | None) -> tuple[Answer, Ticket | None]:
        if kind < Stop.TIMEOUT:
            return Answer.IDLE, None
        run.stop, run.reason, run.held = kind, reason, None
        if run.begun and run.task is None:
            message = "the code that it began with is not there any more: its clean-up steps did not run"
            run.cleanup_error = run.cleanup_error or Failure("not_run", message)
        if run.begun and (run.children or run.handlers(_ending_of(run, kind))):
            run.stop_ticket = self._runtime.hand_over(run, RunState.STOPPING)
            run.state = RunState.STOPPING
            self._start(run)
            return Answer.STOPPING, run.stop_ticket
        run.entry = None
        self._seal(run)
        return Answer.STOPPED, None

    def _deliver(self, run: LiveRun, kind: Stop, reason: str, grace: float, patient: bool) -> None:
        """Give every live attempt its edge, or, in a handler that no stop cuts, a nearer end.

        ``patient``: one that says how it may be stopped is stopped so.
        """
        left = _left_to_handlers(run, kind, grace)
        end = asyncio.get_running_loop().time() + left
        run.cleanup_deadline = min(run.cleanup_deadline, end)
        if kind is Stop.SHUTDOWN:
            run.shutdown_deadline = min(run.shutdown_deadline, end)
        cuts = withheld(run)
        for attempt in list(run.live.values()):
            if cuts:
                preempt = preempt_of_attempt(run, attempt) if patient else Preempt.NOW
                if preempt is Preempt.NOW:
                    attempt.request_stop(EdgeCause.RUN, reason, grace)
                else:
                    attempt.hold_back(reason, grace, ends=preempt is Preempt.AT_STEP_END)
            elif left != math.inf:
                attempt.time_out_after(max(0.0, left))

    def start_timeout(self, run: LiveRun) -> None:
        """Begin to count active time against the run's own time-out; the timer is cancelled by the seal."""
        run.active_since = self._runtime.clock.monotonic()
        if run.timer:
            run.timer.cancel()
        if run.task and run.task.timeout is not None:
            left = max(0.0, run.task.timeout - run.active_s)
            reason = f"it ran longer than {run.task.timeout:g} s"
            run.timer = asyncio.get_running_loop().call_later(left, self.request_stop, run, Stop.TIMEOUT, reason)

    def start_queue_timeout(self, run: LiveRun, seconds: float) -> None:
        """End a run that has not started ``seconds`` after it may. The start or the seal cancels the timer."""
        reason = f"it waited longer than {seconds:g} s for a place"
        delay = max(0.0, (run.not_before or 0.0) - self._runtime.clock.wall())
        left = seconds if run.queue_left is None else min(seconds, run.queue_left)
        run.timer = asyncio.get_running_loop().call_later(delay + left, self._queue_timeout, run, reason)

    def rest_queue_timeout(self, run: LiveRun) -> None:
        """Let the time-out of a run that waits for a place rest, until it is started again with what is left of it."""
        if run.timer:
            run.timer.cancel()
            run.queue_left = max(0.0, run.timer.when() - asyncio.get_running_loop().time())
            run.timer = None

    def _queue_timeout(self, run: LiveRun, reason: str) -> None:
        if run.state in STARTABLE:
            run.error = Failure("TimeoutError", reason)
            self.request_stop(run, Stop.TIMEOUT, reason)

    def give_up(self, run: LiveRun, step: str, where: str) -> None:
        """Mark a run as stuck: the grace of an attempt of a step is over and its body is still there, at ``where``."""
        now = self._runtime.clock.wall()
        run.stuck, run.held = True, None  # nobody can wait for it to come back
        run.hang = Hang(step, where, now)
        self._runtime.log.error(
            f"run {run.cid} is stuck: step {step} did not end when told to; it hangs at {where}", hangs_at=where
        )
        if run.bounded:
            failure = Failure("stuck", f"it did not end when its time was over; it hung at {where}", step)
            run.cleanup_error = run.cleanup_error or failure
        elif run.stop is None:  # a step's own time-out: nothing of a run that hangs may go on
            self.request_stop(run, Stop.CANCEL, "stuck")
        if run.row in PLACED:
            # before what it holds back goes on: the start of that stands behind this
            self._runtime.hand_over(run, run.row, also=given_up(run, now))

    def abandon(self, run: LiveRun) -> None:
        """Mark a run whose body outlives the server: it gets its record now, and what it does later changes nothing."""
        run.stuck = True
        if run.stop is None:
            run.stop = Stop.SHUTDOWN
        if run.begun and run.task and (run.task.finally_ or run.task.on_cancel):
            message = "the server ended before the run had: not all of its clean-up steps have run"
            run.cleanup_error = run.cleanup_error or Failure("not_run", message)


def where_of(attempt: Attempt) -> str:
    """Where an attempt hangs, in words."""
    try:
        return attempt.hangs_at() or "an unknown place"
    except Exception as error:  # foreign awaitables may show anything
        return f"a place that cannot be named ({error!r})"


def _ending_of(run: LiveRun, kind: Stop) -> RunState:
    """What a run that rests ends as by a stop."""
    return end_of_stop(kind, run.recovery, stuck=False, begun=True, kept=True)


def _left_to_handlers(run: LiveRun, kind: Stop, grace: float) -> float:
    """Seconds that a stop leaves to handlers that it does not cut; infinite if it changes nothing for them."""
    if kind is Stop.SHUTDOWN:
        return grace - HANDLER_GRACE
    return grace if kind is Stop.INTERRUPT and run.phase is Phase.ON_PREEMPT else math.inf


def time_left(run: LiveRun) -> float:
    """Seconds that the present graph may still take; infinite for the main one, whose time-out is a stop."""
    if not run.bounded:
        return math.inf
    return run.cleanup_deadline - asyncio.get_running_loop().time()


def handler_grace(run: LiveRun) -> float:
    """Seconds that an attempt of a handler gets for its clean-up; of a victim what the interrupt's grace leaves."""
    if run.phase is not Phase.ON_PREEMPT:
        return HANDLER_GRACE
    return max(0.0, min(HANDLER_GRACE, run.graces_end - run.cleanup_deadline))


def withheld(run: LiveRun) -> bool:
    """Whether nothing more of the run's present graph may start, and what runs of it is to stop."""
    if run.sealed:
        return True
    return run.stop is not None and not run.bounded
