"""Puts what is on record of a run's steps into a fresh graph, so that it goes on behind the last one that ended.

It owns how a step's row becomes progress again, and nothing else: who goes on, when and with which code is for whoever
calls it. Rows are as ``liverun.step_row`` writes them.
"""

from collections.abc import Iterable
from typing import Any

from aura.lifecycle import STEP_FINAL, StepState
from aura.liverun import LiveRun, Phase
from aura.records.boots import OpenRun
from aura.records.columns import decode
from aura.records.runs import StepRow
from aura.run import Failure, RunRecord


def restore(run: LiveRun, rows: Iterable[StepRow]) -> None:
    """Put steps that have ended, with their outputs, into the main graph of a run that has just taken its task.

    Of those that have not ended the tries are kept, and they are ready when what they depend on is. Rows of steps that
    the task does not have are left out. How often each step began is not taken from here but from ``run.starts``.
    """
    graph = run.graphs[Phase.MAIN]
    for _, name, state, attempt, _, started_at, finished_at, output, outputs, error, because in rows:
        progress = graph.steps.get(name)
        if progress is None or progress.ended:
            continue
        progress.attempt, progress.started_at = attempt, started_at
        if state in STEP_FINAL:
            progress.finished_at, progress.skipped_because = finished_at, because
            progress.output, progress.output_json = _decoded(output), output
            progress.outputs = _decoded(outputs)
            progress.error = Failure(**decode(error)) if error else None
            graph.put_ended(progress, StepState(state))


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
