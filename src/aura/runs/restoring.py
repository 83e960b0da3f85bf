"""Puts what is on record of a run's steps into a fresh graph, so that it goes on behind the last one that ended.

It owns how a step's row becomes progress again, and nothing else: who goes on, when and with which code is for whoever
calls it. Rows are as ``liverun.step_row`` writes them.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from aura.graph import BAD, ItemProgress, LoopProgress
from aura.lifecycle import STEP_FINAL, StepState
from aura.records.boots import OpenRun
from aura.records.columns import decode
from aura.records.loops import LoopRows
from aura.records.runs import ItemRow, StepRow
from aura.records.waits import WaitRow, open_wait
from aura.run import Failure, RunRecord
from aura.runs.liverun import LiveRun, Phase
from aura.runs.loops import thawed
from aura.task import Step
from aura.wait import WaitKind


def restore(run: LiveRun, rows: Iterable[StepRow], loops: Mapping[str, LoopRows], phase: Phase = Phase.MAIN) -> None:
    """Put steps that have ended, with their outputs, into a graph, the main one, of a run that has just taken its task.

    Of those that have not ended the tries are kept, and they are ready when what they depend on is; one that loops goes
    on over what was frozen, behind the items that have ended. Rows of steps that the task does not have are left out.
    How often each step began is not taken from here but from ``run.starts``.
    """
    graph = run.graphs[phase]
    for _, name, state, attempt, _, started_at, finished_at, output, outputs, error, because, explained in rows:
        progress = graph.steps.get(name)
        if progress is None or progress.ended:
            continue
        progress.attempt, progress.started_at = attempt, started_at
        progress.error = _error_of(state, error)
        if name in loops and progress.step.loop is not None:
            progress.loop = _loop_of(progress.step, loops[name], state in STEP_FINAL)
        if state in STEP_FINAL:
            progress.finished_at, progress.skipped_because = finished_at, because
            progress.output, progress.output_json = _decoded(output), output
            progress.outputs = _decoded(outputs)
            progress.explained = _decoded(explained)
            graph.put_ended(progress, StepState(state))


def _loop_of(step: Step, rows: LoopRows, ended: bool) -> LoopProgress:
    """A loop as it is on record; of one that goes on, what has not ended begins first."""
    loop = LoopProgress(thawed(_decoded(rows.over)), rows.over)
    for row in rows.items:
        while len(loop.items) <= row[2]:  # one that waited for resources may have been overtaken
            loop.add(step)
        _restore_item(loop, row)
    unended = [item for item in loop.items if not item.ended]
    loop.open = 0 if ended else len(unended)
    loop.left = [] if ended else unended
    failed = [item for item in loop.items if item.state in BAD]
    if failed and step.loop is not None and step.loop.stop_on_failure:
        loop.failure = min(failed, key=lambda item: item.finished_at or 0.0).error
    return loop


def _restore_item(loop: LoopProgress, row: ItemRow) -> None:
    _, _, index, state, attempt, starts, started_at, finished_at, output, outputs, error = row
    item = loop.items[index]
    item.attempt, item.starts, item.started_at = attempt, starts, started_at
    item.error = _error_of(state, error)
    if state in STEP_FINAL:
        item.state, item.finished_at = StepState(state), finished_at
        item.output, item.output_json = _decoded(output), output
        item.outputs = _decoded(outputs)


def _error_of(state: str, error: bytes | None) -> Failure | None:
    """The error with which a step, or an item, has ended, or is tried again."""
    counts = state in STEP_FINAL or state == StepState.RETRYING
    return Failure(**decode(error)) if error and counts else None


def restore_waits(run: LiveRun, rows: Iterable[WaitRow]) -> None:
    """Put what waits where it is on record: it is not ready, and no item of a loop that begins again.

    The rest of a loop before its next round is none of this: the step begins to loop again, and finds it.
    """
    graph = run.graphs[Phase.MAIN]
    for row in rows:
        opened = open_wait(row)
        if opened.wait.kind is WaitKind.ROUND:
            continue
        progress = graph.find(opened.key)
        progress.state = StepState.RETRYING if opened.wait.kind is WaitKind.RETRY else StepState.WAITING
        if isinstance(progress, ItemProgress):
            graph.loop_of(progress).left.remove(progress)


def restore_handlers(run: LiveRun, rows: Iterable[StepRow], loops: Mapping[str, LoopRows]) -> None:
    """Put the last rounds of ``on_preempt`` and ``on_resume`` beside the main graph of a run that goes on.

    What comes later may name their steps, and whatever of them has not ended ends with the run.
    """
    rows = list(rows)
    names = {row[1] for row in rows}
    for phase in (Phase.ON_PREEMPT, Phase.ON_RESUME):
        if names.isdisjoint(run.enter(phase).steps):
            del run.graphs[phase]
        else:
            restore(run, rows, loops, phase)
    run.phase = Phase.MAIN


def _decoded(data: bytes | None) -> Any:
    return None if data is None else decode(data)


def inherited_of(found: OpenRun) -> list[StepRow]:
    """The steps that a rerun took over from the run that it repeats: they have ended, and never began in this one.

    A step that this one has skipped looks alike, but it ended after the run was accepted. Where the clock was put back
    in between, its ``when`` is not asked again.
    """
    record = found.record
    if record.cause.get("kind") != "rerun":
        return []
    return [row for row in found.steps if row[2] in STEP_FINAL and not row[4] and _ended_before(row, record)]


def _ended_before(row: StepRow, record: RunRecord) -> bool:
    return row[2] == StepState.SUCCEEDED or (row[6] or 0.0) < record.accepted_at
