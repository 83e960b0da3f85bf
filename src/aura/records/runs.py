"""The units that make and move runs: their acceptance, their hops, their steps and the events that tell of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from aura.errors import Lost
from aura.events import Chain
from aura.records.columns import FINAL_STATES, Insert, encode
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
    """The columns of a run that change with its moves: those of every move, and then those that most have not."""

    state: str
    generation: str | None
    ending: str | None
    attempt: int
    crashes: int
    started_at: float | None
    finished_at: float | None
    active_s: float
    boot: int
    #: How often somebody has stopped it, and who did last, as JSON (``run.PreemptedBy``).
    preemptions: int = 0
    preempted_by: bytes | None = None
    stop: str | None = None
    reason: str | None = None
    stuck: bool = False
    held: bool = False
    result: bytes | None = None
    error: bytes | None = None
    cleanup_error: bytes | None = None


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
_insert_run = Insert(
    "run",
    "seq, cid, plan_name, task_name, generation, lane, priority, labels, state, recovery, due, accepted_at, cause, "
    "root_cid, depth, boot, inputs, not_before, parent_cid, mode_key, secret_inputs, call, chain, event",
)
_MOVE = """UPDATE run SET state=?, generation=?, ending=?, attempt=?, crashes=?, started_at=?, finished_at=?,
 active_s=?, boot=?, preemptions=?, {others} WHERE seq=? AND state=?"""
#: How many columns every move has; the others of most moves, and the statement that has them in it.
_OF_EVERY_MOVE = 10
_OF_MOST_MOVES = (None, None, None, False, False, None, None, None)
_MOVE_MOST = _MOVE.format(
    others="preempted_by=NULL, stop=NULL, reason=NULL, stuck=0, held=0, result=NULL, error=NULL, cleanup_error=NULL"
)
_MOVE_ANY = _MOVE.format(others="preempted_by=?, stop=?, reason=?, stuck=?, held=?, result=?, error=?, cleanup_error=?")
_put_step = Insert(
    "step",
    "seq, name, state, attempt, starts, started_at, finished_at, output, outputs, error, skipped_because, explained",
    """ON CONFLICT DO UPDATE SET state=excluded.state, attempt=excluded.attempt, starts=excluded.starts,
 started_at=excluded.started_at, finished_at=excluded.finished_at, output=excluded.output, outputs=excluded.outputs,
 error=excluded.error, skipped_because=excluded.skipped_because, explained=excluded.explained""",
)
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
        "queued",
        run.recovery,
        run.due,
        run.accepted_at,
        encode(run.cause).decode(),
        run.root_cid,
        run.depth,
        run.boot,
        run.inputs,
        run.not_before,
        run.parent_cid,
        run.mode_key,
        encode(run.secret_inputs).decode() if run.secret_inputs else None,
        run.call,
        encode(run.chain).decode() if run.chain else None,
        run.event,
    )

    labels = [(name, value, run.seq) for name, value in run.labels.items()] if run.labels else ()

    def unit(execute: Execute) -> None:
        _insert_run(execute, row)
        execute(_INSERT_HISTORY, history)
        for label in labels:
            execute(_INSERT_LABEL, label)

    return unit


def put_steps(rows: Sequence[StepRow]) -> Unit:
    """The unit that writes the steps with which a run begins."""

    def unit(execute: Execute) -> None:
        for row in rows:
            _put_step(execute, row)

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

    def unit(execute: Execute) -> None:
        if to is not None and _move(execute, seq, former, to) != 1:
            raise Lost(f"run {seq} was not {former} when it was to become {to.state}")
        for step in steps:
            _put_step(execute, step)
        for event in history:
            execute(_INSERT_HISTORY, event)

    return unit


def _move(execute: Execute, seq: int, former: str | None, to: RunColumns) -> int:
    """Move a run if it is in ``former``; say how many rows that has changed."""
    values = msgspec.structs.astuple(to)
    if values[_OF_EVERY_MOVE:] == _OF_MOST_MOVES:
        return execute(_MOVE_MOST, (*values[:_OF_EVERY_MOVE], seq, former)).rowcount
    return execute(_MOVE_ANY, (*values, seq, former)).rowcount


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
