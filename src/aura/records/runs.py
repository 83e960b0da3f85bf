"""The units that make and move runs: their acceptance, their hops, their steps and the events that tell of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from aura.errors import Lost
from aura.events import Chain
from aura.records.columns import FINAL_STATES, encode
from aura.store import Execute, Unit


class Accepted(msgspec.Struct, frozen=True):
    """The columns of a run that never change after its acceptance, but for lane and priority."""

    seq: int
    cid: str
    plan_name: str
    task_name: str
    generation: str
    lane: str
    priority: int
    labels: Mapping[str, str]
    recovery: str
    due: float
    not_before: float | None
    accepted_at: float
    cause: Any
    parent_cid: str | None
    root_cid: str
    depth: int
    boot: int
    inputs: bytes
    #: Runs of the task count for each other, by its mode, if this is the same.
    mode_key: str | None = None
    #: JSON pointers to the inputs that no door shows.
    secret_inputs: tuple[str, ...] = ()
    #: Of a sub-task: which call of its parent it answers (``children.call_of``).
    call: str | None = None
    #: By which events it does what it does, if an event has started it, or what has started it.
    chain: Chain | None = None
    #: The event that has started it, as its expressions see it: JSON.
    event: bytes | None = None


class RunColumns(msgspec.Struct, frozen=True):
    """The columns of a run that change with its moves."""

    state: str
    stop: str | None
    reason: str | None
    generation: str | None
    ending: str | None
    stuck: bool
    held: bool
    attempt: int
    crashes: int
    started_at: float | None
    finished_at: float | None
    active_s: float
    boot: int
    result: bytes | None
    error: bytes | None
    cleanup_error: bytes | None
    #: Who stopped it last, as JSON (``run.PreemptedBy``), and how often somebody did.
    preempted_by: bytes | None = None
    preemptions: int = 0


#: (seq, name, state, attempt, starts, started_at, finished_at, output, outputs, error, skipped_because, explained)
StepRow = tuple[
    *tuple[int, str, str, int, int, float | None, float | None],
    *tuple[bytes | None, bytes | None, bytes | None, str | None, bytes | None],
]
#: (seq, step, index, state, attempt, starts, started_at, finished_at, output, outputs, error)
ItemRow = tuple[
    *tuple[int, str, int, str, int, int, float | None, float | None], *tuple[bytes | None, bytes | None, bytes | None]
]
#: (id, seq, name, step, at, payload)
HistoryRow = tuple[int, int, str, str | None, float, bytes | None]
_INSERT_RUN = """INSERT INTO run (seq, cid, plan_name, task_name, generation, lane, priority, labels, state, recovery,
 due, not_before, accepted_at, cause, parent_cid, root_cid, depth, boot, inputs, mode_key, secret_inputs, call,
 chain, event) VALUES (?,?,?,?,?,?,?,?,'queued',?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"""
_MOVE_RUN = """UPDATE run SET state=?, stop=?, reason=?, generation=?, ending=?, stuck=?, held=?, attempt=?, crashes=?,
 started_at=?, finished_at=?, active_s=?, boot=?, result=?, error=?, cleanup_error=?,
 preempted_by=?, preemptions=? WHERE seq=? AND state=?"""
_PUT_STEP = """INSERT INTO step VALUES (?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO UPDATE SET state=excluded.state,
 attempt=excluded.attempt, starts=excluded.starts, started_at=excluded.started_at, finished_at=excluded.finished_at,
 output=excluded.output, outputs=excluded.outputs, error=excluded.error, skipped_because=excluded.skipped_because,
 explained=excluded.explained"""
_INSERT_LABEL = "INSERT INTO label VALUES (?,?,?)"
_INSERT_HISTORY = "INSERT INTO history VALUES (?,?,?,?,?,?)"


def accept_run(run: Accepted, history: HistoryRow) -> Unit:
    """The unit that makes a request a run."""
    row = (
        run.seq,
        run.cid,
        run.plan_name,
        run.task_name,
        run.generation,
        run.lane,
        run.priority,
        encode(run.labels).decode() if run.labels else "{}",
        run.recovery,
        run.due,
        run.not_before,
        run.accepted_at,
        encode(run.cause).decode(),
        run.parent_cid,
        run.root_cid,
        run.depth,
        run.boot,
        run.inputs,
        run.mode_key,
        encode(run.secret_inputs).decode() if run.secret_inputs else None,
        run.call,
        encode(run.chain).decode() if run.chain else None,
        run.event,
    )

    labels = [(name, value, run.seq) for name, value in run.labels.items()] if run.labels else ()

    def unit(execute: Execute) -> None:
        execute(_INSERT_RUN, row)
        execute(_INSERT_HISTORY, history)
        for label in labels:
            execute(_INSERT_LABEL, label)

    return unit


def put_steps(rows: Sequence[StepRow]) -> Unit:
    """The unit that writes the steps with which a run begins."""

    def unit(execute: Execute) -> None:
        for row in rows:
            execute(_PUT_STEP, row)

    return unit


def together(units: Sequence[Unit]) -> Unit:
    """One unit of several: all of them, or none."""
    if len(units) == 1:
        return units[0]

    def unit(execute: Execute) -> None:
        for one in units:
            one(execute)

    return unit


def change_run(
    seq: int,
    steps: Sequence[StepRow],
    history: Sequence[HistoryRow],
    former: str | None = None,
    to: RunColumns | None = None,
) -> Unit:
    """The unit of a hop: what changed of the steps, and at most one move, with the history of both.

    The move is a compare-and-set on ``former``; ``to`` may have the same state (a flag or a reason changed).

    Raises (when it runs):
        Lost: the run is not in ``former``; nothing of the unit is kept.
    """
    move = None if to is None else (*msgspec.structs.astuple(to), seq, former)

    def unit(execute: Execute) -> None:
        if move is not None and execute(_MOVE_RUN, move).rowcount != 1:
            raise Lost(f"run {seq} was not {former} when it was to become {move[0]}")
        for step in steps:
            execute(_PUT_STEP, step)
        for event in history:
            execute(_INSERT_HISTORY, event)

    return unit


def change_priority(seq: int, priority: int) -> Unit:
    """The unit that gives a run another priority.

    Raises (when it runs):
        Lost: the run has ended, or is not on record.
    """
    sql = f"UPDATE run SET priority=? WHERE seq=? AND state NOT IN ({FINAL_STATES})"  # noqa: S608 - our own words

    def unit(execute: Execute) -> None:
        if execute(sql, (priority, seq)).rowcount != 1:
            raise Lost(f"run {seq} had ended when it was to have priority {priority}")

    return unit
