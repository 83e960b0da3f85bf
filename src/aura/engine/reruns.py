"""Reruns: a new run of what an ended one did, with the same inputs, from its beginning or from one of its steps.

Theory of operation. A rerun is an ordinary request with the old run's inputs, lane, priority and labels, on the plan's
current generation; it sees the event that had started the old one. From a step: that step and all that come after it
in the graph run again; what else has succeeded, or was skipped by its ``when``, is taken over with its outputs. Those
rows are part of the unit of the acceptance, and whenever the run begins from its beginning they are put into its graph
(``restoring``); a run that starts over, or that an older boot left, keeps them. Steps in other branches that did not
succeed run again: nothing is taken over of them.

What a crash does: the run is on record with what it takes over, or was never accepted.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from aura.engine.history import History
from aura.errors import FieldError, RequestError, did_you_mean
from aura.kernel.admission import Admission, Admitted, Origin
from aura.lifecycle import FINAL, StepState
from aura.reasons import WHEN_IS_FALSE
from aura.records.columns import decode
from aura.records.loops import LoopRows, LoopUnit, get_loops
from aura.records.reading import get_event, get_step_rows
from aura.records.runs import StepRow, put_steps, together
from aura.run import OPEN_LANES, Cause, Request, RunRecord
from aura.runs.liverun import LiveRun
from aura.runs.runtime import Runtime
from aura.store import Unit
from aura.task import Steps, Task


class Reruns:
    """Asks for reruns."""

    def __init__(self, runtime: Runtime, admission: Admission, history: History) -> None:
        self._runtime = runtime
        self._admission = admission
        self._history = history

    async def request(
        self, cid: str, from_step: str | None = None, also: Callable[[LiveRun], Unit] | None = None
    ) -> Admitted:
        """Accept a new run of what an ended one did. ``also`` is as of ``Admission.request``.

        Raises:
            RequestError: ``unknown_run``; ``conflict``: it has not ended, or a step before ``from_step`` has not
                succeeded; or as any request is refused.
        """
        old = await self._history.record(cid)
        if old.state not in FINAL:
            detail = f"run {cid} has not ended, it is {old.state}: wait for it, or cancel it, and ask again"
            raise RequestError("conflict", detail, extra={"state": old.state})
        cause = Cause("rerun", cid=cid)
        origin = Origin(event=await self._runtime.store.read(lambda execute: get_event(execute, old.seq)))
        if from_step is None:
            return self._admission.request(_request(old, self._task_of(old)), cause, also, origin)
        found, loops = await self._runtime.store.read(lambda x: (get_step_rows(x, old.seq), get_loops(x, old.seq)))
        task = self._task_of(old)
        kept = taken_over(task.steps, {row[1]: row for row in found}, from_step)

        def inherit(run: LiveRun) -> Unit:
            run.inherited = [(run.seq, row[1], row[2], row[3], 0, *row[5:]) for row in kept]
            run.inherited_loops = {row[1]: _of_run(run, loops[row[1]]) for row in kept if row[1] in loops}
            inheriting = [put_steps(run.inherited), *_loop_units(run)]
            return together(inheriting if also is None else [*inheriting, also(run)])

        return self._admission.request(_request(old, task), cause, inherit, origin)

    def _task_of(self, old: RunRecord) -> Task:
        try:
            return self._runtime.generations.task(old.plan_name, old.task_name)[1]
        except RequestError as refused:
            self._admission.refusals.note(refused, old.plan_name, old.task_name, Cause("rerun", cid=old.cid))
            raise


def _of_run(run: LiveRun, loop: LoopRows) -> LoopRows:
    """A loop that a run takes over: its items never began in this one."""
    return LoopRows(loop.over, [(run.seq, *row[1:5], 0, *row[6:]) for row in loop.items])


def _loop_units(run: LiveRun) -> list[Unit]:
    loops = run.inherited_loops
    items = [item for loop in loops.values() for item in loop.items]
    return [LoopUnit(run.seq, (), {name: loop.over for name, loop in loops.items()}, items)] if loops else []


def _request(old: RunRecord, task: Task) -> Request:
    handled = old.lane not in OPEN_LANES  # nobody may ask for the lane, or the priority, of an interrupt's handler
    return Request(
        plan_name=old.plan_name,
        task_name=old.task_name,
        inputs=dict(old.inputs or {}),
        priority=None if handled else old.priority,
        lane=None if handled else old.lane,
        # the task's own come by themselves, and do not count among those that may be asked for
        labels={name: value for name, value in old.labels.items() if task.labels.get(name) != value},
    )


def taken_over(steps: Steps, rows: Mapping[str, StepRow], from_step: str) -> list[StepRow]:
    """The rows that a rerun from a step takes over.

    Raises:
        RequestError: ``invalid``: there is no such step. ``conflict``: one before it has not succeeded.
    """
    if from_step not in steps:
        message = f"the task has no step {from_step[:64]!r}{did_you_mean(from_step, steps)}"
        raise RequestError("invalid", "the request is not valid", errors=[FieldError("/from_step", message)])
    for name in _before(steps, from_step):
        if name not in rows or not _is_kept(rows[name]):
            state = rows[name][2] if name in rows else StepState.PENDING.value
            detail = f"step {name}, which comes before {from_step}, has not succeeded: it is {state}; run again from it"
            raise RequestError("conflict", detail, extra={"step": name})
    again = {from_step, *_after(steps, from_step)}
    return [row for name, row in rows.items() if name in steps and name not in again and _is_kept(row)]


def _is_kept(row: StepRow) -> bool:
    return row[2] == StepState.SUCCEEDED or (row[2] == StepState.SKIPPED and _is_by_when(row))


def _is_by_when(row: StepRow) -> bool:
    """Whether a skipped step was so by its own ``when``; the record of an older Aura says it in words alone."""
    explained = row[11]
    return bool(decode(explained)["because"] == "when") if explained else row[10] == WHEN_IS_FALSE


def _before(steps: Steps, name: str) -> Iterator[str]:
    """The steps that must have ended for a step to start, the nearest first, each once."""
    return _reached(name, lambda step: [dependency.step for dependency in steps[step].depends_on])


def _after(steps: Steps, name: str) -> Iterator[str]:
    """The steps that cannot start before a step has ended, the nearest first, each once."""
    followers: dict[str, list[str]] = {step: [] for step in steps}
    for step in steps.values():
        for dependency in step.depends_on:
            followers[dependency.step].append(step.name)
    return _reached(name, followers.__getitem__)


def _reached(name: str, next_of: Callable[[str], Sequence[str]]) -> Iterator[str]:
    seen = {name}
    waiting = [name]
    for step in waiting:
        for next_one in next_of(step):
            if next_one not in seen:
                seen.add(next_one)
                waiting.append(next_one)
                yield next_one
