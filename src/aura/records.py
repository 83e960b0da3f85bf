"""The SQL of every unit and of every query, one function each. Nothing else in Aura speaks SQL, the schema apart.

What makes a unit returns a closure over plain values (see ``store``); what reads takes ``execute`` and gives records.
JSON columns are bytes as msgspec writes them; states are text as ``lifecycle`` names them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from aura.errors import Lost
from aura.events import Entry, EventEntry, LogEntry
from aura.lifecycle import FINAL, RunState
from aura.run import RunRecord, StepRecord
from aura.store import Execute, Unit

encode = msgspec.json.encode
decode = msgspec.json.decode


def encoded(value: Any) -> bytes | None:
    """JSON of a value; None stays NULL."""
    return None if value is None else encode(value)


def _decoded(data: bytes | str | None) -> Any:
    return None if data is None else decode(data)


# -- units ------------------------------------------------------------------------------------------------------------


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


class RunColumns(msgspec.Struct, frozen=True):
    """The columns of a run that change with its moves."""

    state: str
    stop: str | None
    reason: str | None
    generation: str | None
    ending: str | None
    stuck: bool
    attempt: int
    crashes: int
    started_at: float | None
    finished_at: float | None
    active_s: float
    boot: int
    result: bytes | None
    error: bytes | None
    cleanup_error: bytes | None


#: (seq, name, state, attempt, starts, started_at, finished_at, output, outputs, error, skipped_because)
StepRow = tuple[
    int, str, str, int, int, float | None, float | None, bytes | None, bytes | None, bytes | None, str | None
]
#: (id, seq, name, step, at, payload)
HistoryRow = tuple[int, int, str, str | None, float, bytes | None]
#: (id, cid, level, at, plan_name, task_name, step, attempt, message, fields)
LogRow = tuple[int, str | None, int, float, str | None, str | None, str | None, int | None, str, bytes | None]

_INSERT_RUN = """INSERT INTO run (seq, cid, plan_name, task_name, generation, lane, priority, labels, state, recovery,
 due, not_before, accepted_at, cause, parent_cid, root_cid, depth, boot, inputs)
 VALUES (?,?,?,?,?,?,?,?,'queued',?,?,?,?,?,?,?,?,?,?)"""
_MOVE_RUN = """UPDATE run SET state=?, stop=?, reason=?, generation=?, ending=?, stuck=?, attempt=?, crashes=?,
 started_at=?, finished_at=?, active_s=?, boot=?, result=?, error=?, cleanup_error=? WHERE seq=? AND state=?"""
_PUT_STEP = """INSERT INTO step VALUES (?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO UPDATE SET state=excluded.state,
 attempt=excluded.attempt, starts=excluded.starts, started_at=excluded.started_at, finished_at=excluded.finished_at,
 output=excluded.output, outputs=excluded.outputs, error=excluded.error, skipped_because=excluded.skipped_because"""
_INSERT_HISTORY = "INSERT INTO history VALUES (?,?,?,?,?,?)"
_INSERT_LOG = "INSERT INTO log VALUES (?,?,?,?,?,?,?,?,?,?)"


def accept_run(run: Accepted, history: HistoryRow) -> Unit:
    """The unit that makes a request a run."""
    row = (
        *(run.seq, run.cid, run.plan_name, run.task_name, run.generation, run.lane, run.priority),
        *(encode(run.labels).decode(), run.recovery, run.due, run.not_before, run.accepted_at),
        *(encode(run.cause).decode(), run.parent_cid, run.root_cid, run.depth, run.boot, run.inputs),
    )

    def unit(execute: Execute) -> None:
        execute(_INSERT_RUN, row)
        execute(_INSERT_HISTORY, history)

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


def insert_logs(rows: Sequence[LogRow]) -> Unit:
    """The unit that keeps a batch of log lines."""

    def unit(execute: Execute) -> None:
        for row in rows:
            execute(_INSERT_LOG, row)

    return unit


def log_row(line: LogEntry) -> LogRow:
    """A log line as the store keeps it."""
    fields = encoded(line.fields or None)
    names = (line.plan_name, line.task_name, line.step)
    return (line.id, line.cid, line.level, line.time, *names, line.attempt, line.message, fields)


def end_boot(number: int, at: float) -> Unit:
    """The unit that says that this boot ended in good order."""

    def unit(execute: Execute) -> None:
        execute("UPDATE boot SET ended_at=? WHERE number=?", (at, number))

    return unit


# -- the boot ---------------------------------------------------------------------------------------------------------


def begin_boot(execute: Execute, at: float, version: str, new_id: Callable[[], str]) -> tuple[str, int]:
    """Count this start; give the data folder's id (made once) and the boot's number."""
    execute("INSERT OR IGNORE INTO meta VALUES ('store_id', ?)", (new_id(),))
    store_id = execute("SELECT value FROM meta WHERE key='store_id'").fetchone()[0]
    number = execute("SELECT coalesce(max(number), 0) + 1 FROM boot").fetchone()[0]
    execute("INSERT INTO boot (number, started_at, version) VALUES (?,?,?)", (number, at, version))
    return store_id, number


class OpenRun(msgspec.Struct, frozen=True):
    """A run that is not final, as an older boot left it."""

    record: RunRecord
    ending: str | None
    crashes: int
    steps: list[StepRow]


def read_open_runs(execute: Execute) -> list[OpenRun]:
    """All runs that are not final, in the order of their acceptance, with their steps."""
    states = ", ".join(f"'{s.value}'" for s in RunState if s not in FINAL)
    rows = execute(f"SELECT {_RUN_COLUMNS}, ending, crashes FROM run WHERE state IN ({states}) ORDER BY seq").fetchall()  # noqa: S608
    return [
        OpenRun(
            _run_record(row),
            row[-2],
            row[-1],
            [tuple(s) for s in execute("SELECT * FROM step WHERE seq=? ORDER BY name", (row[0],))],
        )
        for row in rows
    ]


def last_accepted(execute: Execute) -> tuple[int, str | None]:
    """The highest accepted sequence, and its cid; 0 and None at first."""
    return execute("SELECT seq, cid FROM run ORDER BY seq DESC LIMIT 1").fetchone() or (0, None)


# -- queries ----------------------------------------------------------------------------------------------------------

_RUN_COLUMNS = """seq, cid, plan_name, task_name, generation, lane, priority, labels, state, stop, reason, stuck,
 recovery, attempt, due, not_before, accepted_at, started_at, finished_at, active_s, cause, parent_cid,
 root_cid, depth, boot, inputs, result, error, cleanup_error"""
_JSON_COLUMNS = frozenset({"labels", "cause", "inputs", "result", "error", "cleanup_error"})
_FIELDS = [name.strip() for name in _RUN_COLUMNS.split(",")]


def _run_record(row: Sequence[Any]) -> RunRecord:
    values = {n: _decoded(v) if n in _JSON_COLUMNS else v for n, v in zip(_FIELDS, row, strict=False)}
    values["stuck"] = bool(values["stuck"])
    return RunRecord(**values)


class RunFilter(msgspec.Struct, frozen=True):
    """Which runs a list shows; what is None or empty does not restrict. Times are Unix seconds of acceptance."""

    state: str | None = None
    plan_name: str | None = None
    task_name: str | None = None
    lane: str | None = None
    labels: Mapping[str, str] = {}
    cids: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None


def list_runs(execute: Execute, wanted: RunFilter, limit: int, before: int | None = None) -> list[RunRecord]:
    """The newest runs first, at most ``limit``, all accepted before the sequence ``before``."""
    conditions, values = _conditions(wanted)
    if before is not None:
        conditions.append("seq < ?")
        values.append(before)
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    sql = f"SELECT {_RUN_COLUMNS} FROM run {where} ORDER BY seq DESC LIMIT ?"  # noqa: S608 - built from our own words
    return [_run_record(row) for row in execute(sql, (*values, limit))]


def _conditions(wanted: RunFilter) -> tuple[list[str], list[Any]]:
    given: list[tuple[str, Any]] = [
        ("state = ?", wanted.state),
        ("plan_name = ?", wanted.plan_name),
        ("task_name = ?", wanted.task_name),
        ("lane = ?", wanted.lane),
        ("accepted_at >= ?", wanted.since),
        ("accepted_at < ?", wanted.until),
    ]
    conditions = [sql for sql, value in given if value is not None]
    values = [value for _, value in given if value is not None]
    for name, value in wanted.labels.items():
        conditions.append("EXISTS (SELECT 1 FROM json_each(run.labels) AS l WHERE l.key = ? AND l.value = ?)")
        values += [name, value]
    if wanted.cids:
        conditions.append(f"cid IN ({','.join('?' * len(wanted.cids))})")
        values += wanted.cids
    return conditions, values


def get_run(execute: Execute, cid: str) -> RunRecord | None:
    """One run, whole; None if there is none."""
    row = execute(f"SELECT {_RUN_COLUMNS} FROM run WHERE cid=?", (cid,)).fetchone()  # noqa: S608
    return _run_record(row) if row else None


def get_steps(execute: Execute, seq: int) -> list[StepRecord]:
    """The steps of a run that have begun or ended, in the order in which they did, whatever the clock did meanwhile."""
    rows = execute(
        "SELECT name, state, attempt, started_at, finished_at, output, error, skipped_because FROM step LEFT JOIN"
        " (SELECT step, min(id) AS first FROM history WHERE seq=? GROUP BY step) ON step = name WHERE seq=?"
        " ORDER BY first, coalesce(started_at, finished_at), name",
        (seq, seq),
    )
    return [StepRecord(n, s, a, b, f, _decoded(o), _decoded(e), w) for n, s, a, b, f, o, e, w in rows]


_LOGS = "SELECT id, 'log', cid, level, at, plan_name, task_name, step, attempt, message, fields, NULL, 0 FROM log"
_EVENTS = """SELECT h.id, 'event', r.cid, NULL, h.at, r.plan_name, r.task_name, h.step, NULL, h.name, h.payload,
 r.root_cid, r.depth FROM history AS h JOIN run AS r ON r.seq = h.seq"""


def _entry(row: Sequence[Any]) -> Entry:
    id, kind, cid, level, at, plan_name, task_name, step, attempt, text, data, root, depth = row
    if kind == LogEntry.kind:
        return LogEntry(id, at, cid, plan_name, task_name, step, level, text, attempt, _decoded(data) or {})
    return EventEntry(id, at, cid, plan_name, task_name, step, text, _decoded(data), None, root, depth)


def read_run_stream(execute: Execute, cid: str, after: int, limit: int) -> list[Entry]:
    """A run's log lines and events with ids above ``after``, by id."""
    sql = f"""SELECT * FROM (
        SELECT * FROM ({_LOGS} WHERE cid=? AND id>? ORDER BY id LIMIT ?)
        UNION ALL SELECT * FROM ({_EVENTS} WHERE r.cid=? AND h.id>? ORDER BY h.id LIMIT ?)
    ) ORDER BY 1 LIMIT ?"""  # noqa: S608
    one = (cid, after, limit)
    return [_entry(row) for row in execute(sql, (*one, *one, limit))]


def read_logs(
    execute: Execute,
    *,
    after: int,
    limit: int,
    until: int | None = None,
    level: int | None = None,
    plan_name: str | None = None,
    task_name: str | None = None,
    cid: str | None = None,
    newest: bool = False,
) -> list[Entry]:
    """Log lines with ids above ``after`` (and below ``until``), by id; with ``newest`` the last ones instead."""
    given: Iterable[tuple[str, Any]] = [
        ("id > ?", after),
        ("id < ?", until),
        ("level >= ?", level),
        ("plan_name = ?", plan_name),
        ("task_name = ?", task_name),
        ("cid = ?", cid),
    ]
    conditions = " AND ".join(sql for sql, value in given if value is not None)
    values = [value for _, value in given if value is not None]
    order = "DESC" if newest else "ASC"
    rows = execute(f"{_LOGS} WHERE {conditions} ORDER BY id {order} LIMIT ?", (*values, limit)).fetchall()
    return [_entry(row) for row in (rows[::-1] if newest else rows)]
