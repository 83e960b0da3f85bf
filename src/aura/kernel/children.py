"""Sub-tasks: runs that a step of another run, their parent, asks for and waits for (``ctx.run``, ``task.run``).

Theory of operation. A sub-task is a run of its own on record. It has its parent's lane and priority and takes no place:
it is executed at once, in its parent's. The attempt that asked for it waits for its committed end and gets its result,
or its failure as ``TaskFailed``. A sub-task never starts alone, and never outlives the attempt that waits for it but
where both are to come back.

*Stops flow down* in the turn in which they come: each stop of an attempt, whatever its cause, is passed on
(``Attempt.on_told``). Where the parent will come back the sub-task is interrupted and rests: it is ``preempted`` and
``held``, so it stands in no lane. If what runs of it is to end by itself first (``preempting``), it is told before its
parent's attempt, which gets its edge when all of them rest, or its time is over. Else it is cancelled, with a reason.
It has to be gone, handlers included, a little before its parent's attempt has to. Whatever else ends the wait, a scope
of the action's own or its error, cancels it; whoever waits is let go when it has ended. A sub-task that hangs makes its
parent one that hangs. An interrupt may stop a sub-task alone: then nobody tells its parent, which goes on waiting.

*Calls.* A sub-task is known by the call of its parent that it answers: the start of that run from its beginning, the
step or item, the try, and the how-manieth call of ``ctx.run`` in it. A try that was stopped to come back makes its
calls again, and each of them finds the sub-task that answered it: one that has ended is not run again, one that rests
goes on. A handler's calls are always new. A sub-task that nobody asks for again is cancelled when its parent ends.

What a crash does: the boot settles a sub-task with its parent (``orphans``). It is kept if both rest, or can go on
where they were; else it has ended, and a parent that goes on asks for it anew. One that starts over makes new calls.
"""

import asyncio
from asyncio import CancelledError
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import anyio
from anyio import CancelScope

from aura.actions import plain_json
from aura.errors import BadOutput, ParamsInvalid, RequestError, TaskFailed, TaskRecursion, WaitFor
from aura.kernel.admission import Admission, Admitted, Origin, refusal
from aura.kernel.dispatcher import Dispatcher
from aura.kernel.orphans import CRASH, NOT_BEGUN, PARENT_RESTS
from aura.kernel.pausing import Pausing
from aura.lifecycle import FINAL, PLACED, RunState, Stop, end_of_stop
from aura.records.columns import decode
from aura.records.reading import get_child
from aura.run import Cause, Request, RunRecord
from aura.runs.attempt import Attempt, EdgeCause
from aura.runs.liverun import LiveRun, Phase
from aura.runs.preempting import said_of
from aura.runs.runtime import Runtime
from aura.runs.stops import HANDLER_GRACE, Stops
from aura.runs.victims import starts_over
from aura.runs.waits import UNAWAITED
from aura.task import Preempt
from aura.wait import Wait, WaitKind

#: How many seconds before its parent's attempt a sub-task has to be gone: time to be given up as stuck first.
STEP_DOWN = 0.1
#: Why a sub-task rests, or is cancelled: with its parent, with the server, or since nobody waits for it any more.
SHUTDOWN = "shutdown"
#: The reasons of sub-tasks that have ended without an answer: nobody waited any more, or the server ended under them.
_NO_ANSWER = frozenset({UNAWAITED, NOT_BEGUN, CRASH})


class Children:
    """Runs and starts tasks for attempts (``attempt.Calls``)."""

    def __init__(
        self, runtime: Runtime, admission: Admission, stops: Stops, dispatcher: Dispatcher, pausing: Pausing
    ) -> None:
        self._runtime = runtime
        self._admission = admission
        self._stops = stops
        self._dispatcher = dispatcher
        self._pausing = pausing

    # -- calls

    async def run(self, attempt: Attempt, task: str, inputs: Mapping[str, Any], plan: str | None) -> Any:
        """Run a task in the place of the attempt's run and give its result. Raises as ``Context.run`` does."""
        run = _run_of(attempt)
        request = _request(_plan_name(attempt, plan, task), task, inputs)
        _refuse_recursion(run, request)
        call = _next_call(run, attempt)
        kept = _kept(run, attempt, call)
        if kept is not None:
            await self._check_goes_on(run, attempt)
            self._go_on(kept)
            await self._wait(run, attempt, kept)
            _wait_along(attempt, kept)
            return _outcome(attempt, kept)
        record = await self._answered(run, attempt, call)
        if record is not None:
            return _result(record)
        await self._check_goes_on(run, attempt)  # nothing else awaits from here to the start
        admitted = self._accept(run, attempt, call, request)
        await self._wait(run, attempt, admitted.run)
        if admitted.ticket.error is not None:
            raise _refused(request, refusal(admitted.ticket.error))
        _wait_along(attempt, admitted.run)
        return _outcome(attempt, admitted.run)

    async def start(self, attempt: Attempt, task: str, inputs: Mapping[str, Any], plan: str | None) -> str:
        """Ask for a run as any client would; returns its cid once it is stored. Raises as ``Context.start`` does."""
        run = _run_of(attempt)
        request = _request(_plan_name(attempt, plan, task), task, inputs)
        admitted = self._ask(attempt, request, Origin(run))
        try:
            await admitted.ticket.wait()
        except Exception as error:
            raise _refused(request, refusal(error)) from error
        return admitted.run.cid

    def _ask(self, attempt: Attempt, request: Request, origin: Origin) -> Admitted:
        step = attempt.step
        cause = Cause("task", cid=_run_of(attempt).cid, step=step.name, index=step.index)
        try:
            return self._admission.request(request, cause, origin=origin)
        except RequestError as refused:
            raise _refused(request, refused) from refused

    def _accept(self, run: LiveRun, attempt: Attempt, call: str, request: Request) -> Admitted:
        """Make a new sub-task and start it: its first step waits for the commit of its acceptance anyway."""
        admitted = self._ask(attempt, request, Origin(run, call))
        child = admitted.run
        adopt(run, child)
        child.waited = True  # it waits for no place
        self._dispatcher.start_in_place(child)
        return admitted

    def _go_on(self, child: LiveRun) -> None:
        """Let a sub-task that rests go on; one that was cancelled while it rested is only waited for."""
        if not _rests(child):
            return
        if not self._pausing.find_code(child):
            began = (child.accepted.generation or "")[:12]
            message = f"it began with version {began} of plan {child.plan_name}, which is not served any more"
            raise _failed(child.plan_name, child.task_name, "cannot go on", child.cid, "plan_changed", message)
        if child.state is RunState.WAITING and not child.woken:
            return
        child.held = child.reason = None
        self._dispatcher.start_in_place(child)

    async def _answered(self, run: LiveRun, attempt: Attempt, call: str) -> RunRecord | None:
        """The record of the sub-task that has answered this call before this start of the step, if one did."""
        if run.phase is not Phase.MAIN or attempt.step.starts <= attempt.step.attempt:
            return None  # it was not stopped to come back
        record = await self._runtime.store.read(partial(get_child, parent_cid=run.cid, call=call))
        return None if record is None or record.reason in _NO_ANSWER else record

    # -- waiting

    async def _wait(self, run: LiveRun, attempt: Attempt, child: LiveRun) -> None:
        """Return once a sub-task has ended on record, or rests, whoever cancels meanwhile."""
        attempt.on_told = self._pass_on
        try:
            await _wait_over(child)
            if _rests_first(run, attempt):
                await self._let_go(run, attempt)
        except CancelledError:
            if attempt.cause is None:  # else it has been told
                self._stops.request_stop(child, Stop.CANCEL, UNAWAITED)
            # in it this wait alone. It ends with the sub-task; if that hangs, so does this attempt, and is left behind
            # as stuck like any other
            with CancelScope(shield=True):
                await _wait_over(child)
            raise
        finally:
            if child.sealed:
                _forget(run, attempt.step.key, child)

    async def _check_goes_on(self, run: LiveRun, attempt: Attempt) -> None:
        """Refuse to begin anything for an attempt that is told to stop: clean-up that runs tasks belongs in handlers.

        Does not await but for what rests before it.
        """
        if _rests_first(run, attempt):
            await self._let_go(run, attempt)
        if attempt.cause is not None:
            raise CancelledError("the attempt was told to stop")

    async def _let_go(self, run: LiveRun, attempt: Attempt) -> None:
        """Stop an attempt that was held back until its sub-tasks rest, or have ended: when they do."""
        for child in list(run.children.get(attempt.step.key, ())):
            await _wait_over(child)
        attempt.let_go()
        kind, reason = _stop_of(run, attempt)
        for child in run.children.get(attempt.step.key, ()):
            if kind is Stop.CANCEL and _rests(child):  # its parent does not go on where it was
                self._stop_by(child, kind, reason, attempt.deadline - STEP_DOWN)

    async def end_unawaited(self, run: LiveRun, attempt: Attempt) -> None:
        """Stop what an attempt that is over has left running, and wait for its end. What rests is let alone."""
        while left := [c for c in run.children.get(attempt.step.key, ()) if not _rests(c)]:
            await self._end(run, left, UNAWAITED)

    async def end_all(self, run: LiveRun) -> None:
        """Cancel all sub-tasks of a run that will not come back, and wait for their ends."""
        reason = _ENDINGS.get(run.ending, "its parent has ended")
        while left := [child for children in run.children.values() for child in children]:
            await self._end(run, left, reason)

    async def _end(self, run: LiveRun, left: list[LiveRun], reason: str) -> None:
        for child in left:
            child.cleanup_deadline = min(child.cleanup_deadline, run.shutdown_deadline)
            child.shutdown_deadline = min(child.shutdown_deadline, run.shutdown_deadline)
            self.cancel(child, reason)
        for child in left:
            await _wait_over(child)
            _forget(run, key_of(child), child)

    # -- stopping

    def cancel(self, child: LiveRun, reason: str) -> None:
        """Cancel a sub-task, wherever it is."""
        self._pausing.find_code(child)  # of one that rests: its clean-up needs it
        self._stops.request_stop(child, Stop.CANCEL, reason)

    def _pass_on(self, attempt: Attempt) -> None:
        """Stop the sub-tasks that an attempt waits for as it is being stopped itself, or before it."""
        run = _run_of(attempt)
        if attempt.held_back is not None and not _rests_first(run, attempt):
            return  # they have its time to end in
        kind, reason = (Stop.INTERRUPT, PARENT_RESTS) if attempt.held_back is not None else _stop_of(run, attempt)
        for child in list(run.children.get(attempt.step.key, ())):
            if child.sealed or _rests(child):
                continue
            if kind is Stop.INTERRUPT and child.state not in PLACED:  # it waits for what it needs
                self._dispatcher.rest_in_place(child)
                self._pausing.keep_idle(child, reason)
                continue
            if kind is Stop.INTERRUPT and _may_rest(child):
                child.held = reason
            if attempt.held_back is not None:
                self._stops.request_stop(child, kind, reason, attempt.held_back.grace)
            else:
                self._stop_by(child, kind, reason, attempt.deadline - STEP_DOWN)

    def _stop_by(self, child: LiveRun, kind: Stop, reason: str, end: float) -> None:
        """Stop a sub-task that has to be gone at a loop time, what its handlers do included."""
        now = asyncio.get_running_loop().time()
        handlers_end = end - HANDLER_GRACE
        child.cleanup_deadline = min(child.cleanup_deadline, handlers_end)
        child.shutdown_deadline = min(child.shutdown_deadline, handlers_end)
        self._stops.request_stop(child, kind, reason, max(0.0, min(child.cleanup_timeout, end - now)), at_once=True)
        if child.bounded:
            for attempt in list(child.live.values()):
                attempt.time_out_after(max(0.0, handlers_end - now))


def adopt(parent: LiveRun, child: LiveRun) -> None:
    """Make a run a part of another one."""
    child.parent = parent
    child.over = anyio.Event()
    child.over.set()
    parent.children.setdefault(key_of(child), []).append(child)


def is_unattended(child: LiveRun) -> bool:
    """Whether no attempt of its parent waits for a sub-task: it was told to end while that one rested, or ended."""
    return child.parent is None or key_of(child) not in child.parent.live


def family(run: LiveRun) -> Iterator[LiveRun]:
    """A run and the runs that it is a part of, the nearest first."""
    found: LiveRun | None = run
    while found is not None:
        yield found
        found = found.parent


# -- calls


def _run_of(attempt: Attempt) -> LiveRun:
    assert isinstance(attempt.run, LiveRun)
    return attempt.run


def _plan_name(attempt: Attempt, plan: str | None, task: str) -> str:
    """The plan of a task that is asked for: the action's own, or one that this uses."""
    home = attempt.home
    assert home is not None
    if plan is None or plan == home.name or plan in home.uses:
        return plan or home.name
    message = f"plan {home.name} does not use {plan}: add `uses: [{plan}]` to its plan.yaml"
    raise _failed(plan, task, "was refused", None, "not_used", message)


def _request(plan_name: str, task: str, inputs: Mapping[str, Any]) -> Request:
    try:
        return Request(plan_name, task, plain_json(dict(inputs)))
    except BadOutput as error:
        raise ParamsInvalid(f"the inputs of task {plan_name}/{task} cannot be given: {error}") from None


def _refuse_recursion(run: LiveRun, request: Request) -> None:
    chain = [f"{each.plan_name}/{each.task_name}" for each in family(run)][::-1]
    wanted = f"{request.plan_name}/{request.task_name}"
    if wanted in chain:
        names = " -> ".join([*chain, wanted])
        raise TaskRecursion(f"a task cannot run inside a run of its own: {names}")


def _next_call(run: LiveRun, attempt: Attempt) -> str:
    """Which call of its run the next one of an attempt is, as text."""
    step, number = attempt.step, attempt.calls_made
    attempt.calls_made += 1
    return f"{run.attempt}/{step.key}/{step.attempt}/{number}"


def key_of(child: LiveRun) -> str:
    """The key of the attempt that a sub-task answers."""
    assert child.accepted.call is not None
    return child.accepted.call.split("/")[1]


def _kept(run: LiveRun, attempt: Attempt, call: str) -> LiveRun | None:
    """The sub-task in memory that answers this call."""
    children = run.children.get(attempt.step.key, ())
    return next((c for c in children if c.accepted.call == call and c.reason != UNAWAITED), None)


def _forget(run: LiveRun, key: str, child: LiveRun) -> None:
    left = [other for other in run.children.get(key, ()) if other is not child]
    if left:
        run.children[key] = left
    else:
        run.children.pop(key, None)


async def _wait_over(child: LiveRun) -> None:
    assert child.over is not None
    await child.over.wait()
    if child.sealed:
        await child.wait_end()


# -- stops


def _rests_first(run: LiveRun, attempt: Attempt) -> bool:
    """Whether an attempt is held back for the sake of its sub-tasks alone: they are to rest, and it after them."""
    return attempt.held_back is not None and said_of(run, attempt) is Preempt.NOW


def _stop_of(run: LiveRun, attempt: Attempt) -> tuple[Stop, str]:
    """How a sub-task is stopped whose parent's attempt is."""
    if attempt.cause is EdgeCause.TIMEOUT:
        return Stop.CANCEL, "its parent's step took too long"
    if attempt.cause is EdgeCause.ENDED or run.stop is None:
        return Stop.CANCEL, "its parent has ended"
    if run.stopped_by is not None and starts_over(run.stopped_by, run):
        return Stop.CANCEL, _STOPS[Stop.INTERRUPT]
    if run.stop is Stop.CANCEL and run.reason == SHUTDOWN:  # it is a sub-task itself
        return Stop.CANCEL, SHUTDOWN
    ending = end_of_stop(run.stop, run.recovery, stuck=run.stuck, begun=run.begun, kept=run.kept)
    if ending is RunState.PREEMPTED and run.phase is Phase.MAIN:
        return Stop.INTERRUPT, PARENT_RESTS
    return Stop.CANCEL, _STOPS[run.stop]


_STOPS = {
    Stop.INTERRUPT: "its parent was interrupted",
    Stop.SHUTDOWN: SHUTDOWN,
    Stop.TIMEOUT: "its parent timed out",
    Stop.CANCEL: "its parent was cancelled",
}
_ENDINGS: Mapping[RunState | None, str] = {
    RunState.TIMED_OUT: "its parent timed out",
    RunState.CANCELLED: "its parent was cancelled",
}


def _rests(child: LiveRun) -> bool:
    """Whether a sub-task is kept, or waits, and nothing of it runs, or waits to."""
    assert child.over is not None
    return child.state in (RunState.WAITING, RunState.PREEMPTED) and child.over.is_set()


def _wait_along(attempt: Attempt, child: LiveRun) -> None:
    """Wait for a sub-task that waits itself, if the step may.

    Raises:
        WaitFor: it does.
    """
    if child.state is RunState.WAITING and not child.sealed and attempt.cause is None:  # it may: see ``may_wait``
        raise WaitFor(Wait(WaitKind.TASK, cid=child.cid))


def _may_rest(child: LiveRun) -> bool:
    """Whether an interrupt leaves it preempted: it is not ending, nor told to end."""
    return not child.stuck and child.ending not in FINAL and child.stop in (None, Stop.INTERRUPT)


# -- what came of it


def _outcome(attempt: Attempt, child: LiveRun) -> Any:
    """What a sub-task has come to that an attempt has waited for. Raises as ``Context.run`` does."""
    if child.state is RunState.SUCCEEDED and not child.lost:
        return None if child.result is None else decode(child.result)
    if attempt.cause is not None:  # in a thread, or in the turn of its end: the edge does not come by itself
        raise CancelledError("the attempt was told to stop")
    if child.lost:
        message = "its end could not be stored"
        raise _failed(child.plan_name, child.task_name, "came to an unknown end", child.cid, "internal", message)
    shown = child.error.shown() if child.error else None
    raise _not_succeeded(child.plan_name, child.task_name, child.cid, child.state, child.reason, shown)


def _result(record: RunRecord) -> Any:
    """What a sub-task that ended earlier has come to. Raises as ``Context.run`` does."""
    state = RunState(record.state)
    if state is RunState.SUCCEEDED:
        return record.result
    if state not in FINAL:
        message = f"it is {state} on record, but a change of it was lost; restart the server to settle it"
        raise _failed(record.plan_name, record.task_name, "came to an unknown end", record.cid, "internal", message)
    raise _not_succeeded(record.plan_name, record.task_name, record.cid, state, record.reason, record.error)


def _not_succeeded(
    plan: str, task: str, cid: str, state: RunState, reason: str | None, error: Mapping[str, Any] | None
) -> TaskFailed:
    said = _SAID.get(state, f"is {state}")
    if error is None:
        return _failed(plan, task, said, cid, state.value, reason or f"it {said}")
    if state is RunState.FAILED:
        said += f": {error['type']}"
    return _failed(plan, task, said, cid, error["type"], error["message"])


_SAID = {
    RunState.FAILED: "failed",
    RunState.CANCELLED: "was cancelled",
    RunState.TIMED_OUT: "timed out",
    RunState.CRASHED: "crashed",
}


def _refused(request: Request, refused: RequestError) -> TaskFailed:
    fields = "; ".join([refused.detail, *(f"{error.path}: {error.message}" for error in refused.errors)])
    return _failed(request.plan_name, request.task_name, "was refused", None, refused.code, fields)


def _failed(plan: str, task: str, said: str, cid: str | None, kind: str, message: str) -> TaskFailed:
    cause = {"cid": cid, "type": kind, "message": message}
    return TaskFailed(f"task {plan}/{task} {said}: {message}", cause)
