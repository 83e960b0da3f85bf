"""The queries about runs, their steps, their events and their log lines. Lists go through an index, page by page."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from aura.events import Entry, EventEntry, LogEntry
from aura.records.columns import decoded
from aura.records.loops import ShownLoop, shown_loops
from aura.records.runs import StepRow
from aura.run import RunRecord, StepRecord
from aura.store import Execute

RUN_COLUMNS = """seq, cid, plan_name, task_name, generation, lane, priority, labels, state, stop, reason, stuck,
 recovery, attempt, due, not_before, accepted_at, started_at, finished_at, active_s, cause, parent_cid,
 root_cid, depth, boot, inputs, result, error, cleanup_error, mode_key, secret_inputs, call,
 preempted_by, preemptions, chain"""
_JSON_COLUMNS = frozenset(
    {"labels", "cause", "inputs", "result", "error", "cleanup_error", "secret_inputs", "preempted_by", "chain"}
)
_FIELDS = [name.strip() for name in RUN_COLUMNS.split(",")]


def run_record(row: Sequence[Any]) -> RunRecord:
    values = {n: decoded(v) if n in _JSON_COLUMNS else v for n, v in zip(_FIELDS, row, strict=False)}
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


#: How many runs of a window of time are looked for by its index.
FEW_RUNS = 10_000
MAX_SEQ = 2**63 - 1


def list_runs(execute: Execute, wanted: RunFilter, limit: int, before: int | None = None) -> list[RunRecord]:
    """The newest runs first, at most ``limit``, all accepted before the sequence ``before``.

    It goes through an index backwards, as far as the page: that of the labels if there are any, else what SQLite takes.
    """
    source, order = "run", "seq"
    if wanted.labels:
        source, order = "(SELECT seq AS labelled, name, value FROM label) CROSS JOIN run ON seq = labelled", "labelled"
    given = [*_conditions(wanted), *_window(wanted, order, before)]
    where = f"WHERE {' AND '.join(sql for sql, _ in given)}" if given else ""
    values = [value for _, values in given for value in values]
    sql = f"SELECT {RUN_COLUMNS} FROM {source} {where} ORDER BY {order} DESC LIMIT ?"  # noqa: S608 - our own words
    return [run_record(row) for row in execute(sql, (*values, limit))]


#: A condition, and its values.
_Condition = tuple[str, Sequence[Any]]


def _conditions(wanted: RunFilter) -> list[_Condition]:
    columns = {"state": wanted.state, "plan_name": wanted.plan_name, "task_name": wanted.task_name, "lane": wanted.lane}
    found: list[_Condition] = [(f"{name} = ?", (value,)) for name, value in columns.items() if value is not None]
    first, *others = wanted.labels.items() or [None]
    if first is not None:
        found.append(("name = ? AND value = ?", first))
    has = "EXISTS (SELECT 1 FROM label AS l WHERE l.name = ? AND l.value = ? AND l.seq = labelled)"
    found += [(has, label) for label in others if label is not None]
    if wanted.cids:
        found.append((f"cid IN ({','.join('?' * len(wanted.cids))})", wanted.cids))
    return found


def _window(wanted: RunFilter, order: str, before: int | None) -> list[_Condition]:
    """Where the page begins, and the window of time, which is sought by its index if it holds few runs.

    The pages are in the order of the sequence. That is the order of time but where the clock jumped, so the bounds that
    are found in the index only make the search short: each run's time is looked at as well.
    """
    times = {"accepted_at >= ?": wanted.since, "accepted_at < ?": wanted.until}
    given = {sql: value for sql, value in times.items() if value is not None}
    end = MAX_SEQ if before is None else before
    if not given:
        return [(f"{order} < ?", (end,))] if before is not None else []
    values = tuple(given.values())
    inside = f"SELECT seq FROM run INDEXED BY run_by_time WHERE {' AND '.join(given)} LIMIT {FEW_RUNS + 1}"  # noqa: S608
    bound = f"(SELECT CASE WHEN count(*) <= {FEW_RUNS} THEN %s ELSE %s END FROM ({inside}))"  # noqa: S608
    return [
        (f"{order} >= {bound % ('min(seq)', 0)}", values),
        (f"{order} < min(?, {bound % ('max(seq) + 1', MAX_SEQ)})", (end, *values)),
        *((f"+{sql}", (value,)) for sql, value in given.items()),  # the plus: not by the index, which would sort
    ]


def get_run(execute: Execute, cid: str) -> RunRecord | None:
    """One run, whole; None if there is none."""
    row = execute(f"SELECT {RUN_COLUMNS} FROM run WHERE cid=?", (cid,)).fetchone()  # noqa: S608
    return run_record(row) if row else None


def get_child(execute: Execute, parent_cid: str, call: str) -> RunRecord | None:
    """The last sub-task of a run that answers a call of its; None if there is none."""
    sql = f"SELECT {RUN_COLUMNS} FROM run WHERE parent_cid=? AND call=? ORDER BY seq DESC LIMIT 1"  # noqa: S608
    row = execute(sql, (parent_cid, call)).fetchone()
    return run_record(row) if row else None


def list_children(execute: Execute, parent_cid: str, limit: int) -> list[RunRecord]:
    """The newest sub-tasks of a run, in the order of their acceptance."""
    sql = f"SELECT {RUN_COLUMNS} FROM run WHERE parent_cid=? ORDER BY seq DESC LIMIT ?"  # noqa: S608
    return [run_record(row) for row in execute(sql, (parent_cid, limit))][::-1]


def get_steps(execute: Execute, seq: int) -> list[StepRecord]:
    """The steps of a run in the order in which they began or ended, whatever the clock did.

    Before them come those that a rerun has taken over, after them those that have not begun.
    """
    rows = execute(_STEPS, (seq, seq)).fetchall()
    loops = shown_loops(execute, seq)
    return [_step_record(row, loops.get(row[0])) for row in rows]


_STEPS = """SELECT name, state, attempt, started_at, finished_at, output, error, skipped_because, explained FROM step
 LEFT JOIN (SELECT step, min(id) AS first FROM history WHERE seq=? GROUP BY step) ON step = name WHERE seq=?
 ORDER BY CASE WHEN first IS NOT NULL THEN 1 WHEN state = 'succeeded' OR state = 'skipped' THEN 0 ELSE 2 END, first,
 coalesce(started_at, finished_at), name"""


def _step_record(row: Sequence[Any], loop: ShownLoop | None) -> StepRecord:
    name, state, attempt, began, ended, output, error, because, explained = row
    shown = (loop.items, loop.total, loop.ended, loop.failed) if loop else ()
    values = (attempt, began, ended, decoded(output), decoded(error), because, decoded(explained))
    return StepRecord(name, state, *values, *shown)


def get_event(execute: Execute, seq: int) -> Any:
    """The event that has started a run, as its expressions see it; None for no event."""
    found = execute("SELECT event FROM run WHERE seq=?", (seq,)).fetchone()
    return decoded(found[0]) if found else None


def get_step_rows(execute: Execute, seq: int) -> list[StepRow]:
    """The steps of a run as they are kept."""
    return [tuple(row) for row in execute("SELECT * FROM step WHERE seq=? ORDER BY name", (seq,))]


_LOGS = "SELECT id, 'log', cid, level, at, plan_name, task_name, step, attempt, message, fields, NULL, 0, NULL FROM log"
_EVENTS = """SELECT h.id, 'event', r.cid, NULL, h.at, r.plan_name, r.task_name, h.step, NULL, h.name, h.payload,
 r.root_cid, r.depth, json_extract(r.cause, '$.event_id') FROM history AS h JOIN run AS r ON r.seq = h.seq"""
_EMITTED = """SELECT id, 'event', cid, NULL, at, plan_name, task_name, step, NULL, name, payload, root, depth, cause
 FROM event"""


def _entry(row: Sequence[Any]) -> Entry:
    id, kind, cid, level, at, plan_name, task_name, step, attempt, text, data, root, depth, cause = row
    if kind == LogEntry.kind:
        return LogEntry(id, at, cid, plan_name, task_name, step, level, text, attempt, decoded(data) or {})
    return EventEntry(id, at, cid, plan_name, task_name, step, text, decoded(data), cause, root, depth)


def read_run_stream(execute: Execute, cid: str, after: int, limit: int) -> list[Entry]:
    """A run's log lines and events with ids above ``after``, by id."""
    sql = f"""SELECT * FROM (
        SELECT * FROM ({_LOGS} WHERE cid=? AND id>? ORDER BY id LIMIT ?)
        UNION ALL SELECT * FROM ({_EVENTS} WHERE r.cid=? AND h.id>? ORDER BY h.id LIMIT ?)
        UNION ALL SELECT * FROM ({_EMITTED} WHERE cid=? AND id>? ORDER BY id LIMIT ?)
    ) ORDER BY 1 LIMIT ?"""  # noqa: S608
    one = (cid, after, limit)
    return [_entry(row) for row in execute(sql, (*one, *one, *one, limit))]


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
