"""What retention takes off the record: which runs may go, and the units by which they go, a few rows at a time.

A run goes in two moves. The first takes its own row and notes it in ``removed``: from then on nobody is shown anything
of it. The second takes all other rows of those noted there, as many at a time as it is told, and then the note; a crash
in between leaves the note, so the next look goes on where this one was.

- A run goes with its sub-tasks, once all of them are final; a sub-task alone only if its parent is gone.
- The newest run stays, however old it is, and its family with it: the next one takes its sequence from it.
- Runs that have not ended are never looked at: the candidates are found by their final states.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from aura.records.columns import FINAL_STATES, encode
from aura.records.reading import MAX_SEQ
from aura.store import Execute, Unit

#: Before every sequence.
NO_SEQ = -MAX_SEQ

_EACH_FINAL = [f"SELECT seq FROM run WHERE state={state}" for state in FINAL_STATES.split(", ")]  # noqa: S608
_NEWEST = f"{' UNION ALL '.join(_EACH_FINAL)} ORDER BY seq DESC LIMIT 1 OFFSET ?"
_OLDEST = (
    " UNION ALL ".join(f"SELECT * FROM ({sql} AND seq>? AND seq<=? ORDER BY seq LIMIT ?)" for sql in _EACH_FINAL)  # noqa: S608
    + " ORDER BY 1 LIMIT ?"
)
_LAST = "SELECT max(seq) FROM run"
_LAST_BEFORE = "SELECT seq FROM run WHERE accepted_at<? ORDER BY accepted_at DESC LIMIT 1"
#: What is to be gone through is given as one JSON list: a statement for many runs leaves the interpreter to others.
_GIVEN = "(SELECT value FROM json_each(?))"
#: Whether a run has a parent that is still there, and whether it has sub-tasks.
_LOOK = f"""SELECT r.seq, r.cid, r.finished_at,
 r.parent_cid IS NOT NULL AND EXISTS (SELECT 1 FROM run AS p WHERE p.cid = r.parent_cid),
 EXISTS (SELECT 1 FROM run AS c WHERE c.parent_cid = r.cid) FROM run AS r WHERE seq IN {_GIVEN} ORDER BY seq"""  # noqa: S608
_FAMILY = f"""WITH RECURSIVE family (seq, cid) AS (SELECT seq, cid FROM run WHERE seq=? UNION
 SELECT c.seq, c.cid FROM run AS c JOIN family ON c.parent_cid = family.cid)
 SELECT run.seq, run.cid, finished_at, state IN ({FINAL_STATES}) FROM family JOIN run ON run.seq = family.seq
 ORDER BY run.seq DESC"""  # noqa: S608 - our own words
#: What is theirs, by table: the columns by which its rows are found.
_OF_RUN = {"history": "id", "step": "name", "loop": "step", "item": "step, idx", "wait": "step, idx"} | {
    "checkpoint": "step, idx",
    "victim": "firing",
}
_CLEAR_BY_SEQ = [
    f"DELETE FROM {table} WHERE (seq, {key}) IN (SELECT seq, {key} FROM {table} WHERE seq IN {_GIVEN} LIMIT ?)"  # noqa: S608
    for table, key in _OF_RUN.items()
]
_CLEAR_BY_CID = [
    f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE cid IN {_GIVEN} LIMIT ?)"  # noqa: S608
    for table in ("log", "event", "firing")
]
_REMOVE = [
    f"""DELETE FROM label WHERE (name, value, seq) IN
 (SELECT l.key, l.value, run.seq FROM run, json_each(run.labels) AS l WHERE run.seq IN {_GIVEN})""",  # noqa: S608 - our own words
    f"INSERT INTO removed SELECT seq, cid FROM run WHERE seq IN {_GIVEN}",  # noqa: S608
    f"DELETE FROM run WHERE seq IN {_GIVEN}",  # noqa: S608
]
_LAST_OF_HISTORY = "SELECT max((SELECT max(id) FROM history WHERE seq = value)) FROM json_each(?)"
_LAST_OF_TABLE = "SELECT max((SELECT max(id) FROM {} WHERE cid = value)) FROM json_each(?)"
_MARK = """INSERT INTO meta VALUES (?,?) ON CONFLICT DO UPDATE SET value=excluded.value
 WHERE CAST(value AS INTEGER) < CAST(excluded.value AS INTEGER)"""
#: The streams, by the key under which ``meta`` has the highest id that was taken off each.
EVENTS_TO, LOGS_TO = "events_removed_to", "logs_removed_to"


class Bounds(msgspec.Struct, frozen=True):
    """What is kept, in Unix seconds: nothing that ended at ``fresh`` or later goes; of the rest what ended before
    ``cutoff``, and what is not among the newest ``runs`` that have ended.
    """

    cutoff: float
    fresh: float
    runs: int


class Gone(NamedTuple):
    """A run that goes, or has gone."""

    seq: int
    cid: str


class Found(NamedTuple):
    """Runs that may go, sub-tasks before their parents; behind which sequence to look on, None at the end."""

    runs: list[Gone]
    next: int | None


class Window(NamedTuple):
    """Up to which sequence runs may have to go: by their number, whatever their age, and at all.

    ``newest`` is the newest run on record, which stays.
    """

    by_count: int
    last: int
    newest: int


def find_window(execute: Execute, bounds: Bounds) -> Window:
    """Where to look for runs that may go."""
    newest = _one(execute, _LAST)
    by_count = min(newest - 1, _one(execute, _NEWEST, bounds.runs))
    return Window(by_count, max(by_count, min(newest - 1, _one(execute, _LAST_BEFORE, bounds.cutoff))), newest)


def _one(execute: Execute, sql: str, *values: float) -> int:
    row: tuple[int | None] | None = execute(sql, values).fetchone()
    return NO_SEQ if row is None or row[0] is None else row[0]


def find_runs(execute: Execute, bounds: Bounds, window: Window, after: int, limit: int) -> Found:
    """Look at the next ``limit`` ended runs of the window and give those that may go, with their sub-tasks."""
    seqs = [seq for (seq,) in execute(_OLDEST, (*(after, window.last, limit) * len(_EACH_FINAL), limit))]
    found: list[Gone] = []
    for seq, cid, ended_at, has_parent, has_children in execute(_LOOK, (_json(seqs),)).fetchall():
        if has_parent:
            continue  # it goes with that one
        limit_at = bounds.fresh if seq <= window.by_count else min(bounds.fresh, bounds.cutoff)
        if ended_at < limit_at:
            found += family_of(execute, seq, limit_at, window.newest) if has_children else [Gone(seq, cid)]
    return Found(found, seqs[-1] if len(seqs) == limit else None)


def family_of(execute: Execute, seq: int, limit_at: float, newest: int) -> list[Gone]:
    """A run and all below it, the newest first; nothing if one of them has to stay."""
    rows = execute(_FAMILY, (seq,)).fetchall()
    goes = all(final and ended_at < limit_at and seq != newest for seq, _, ended_at, final in rows)
    return [Gone(seq, cid) for seq, cid, _, _ in rows] if goes else []


def remove_runs(runs: Sequence[Gone]) -> Unit:
    """The unit that takes runs off the record, and notes that other rows of them are still there."""

    seqs, cids = _json([run.seq for run in runs]), _json([run.cid for run in runs])

    def unit(execute: Execute) -> None:
        highest = [execute(sql, (given,)).fetchone()[0] for sql, given in _last_ids(seqs, cids)]
        mark_removed(execute, EVENTS_TO, (id for id in highest[:2] if id is not None))
        mark_removed(execute, LOGS_TO, (id for id in highest[2:] if id is not None))
        for sql in _REMOVE:
            execute(sql, (seqs,))

    return unit


def _last_ids(seqs: str, cids: str) -> list[tuple[str, str]]:
    """The statements that give the highest ids of their history, their events and their log lines."""
    return [(_LAST_OF_HISTORY, seqs), *((_LAST_OF_TABLE.format(table), cids) for table in ("event", "log"))]


def mark_removed(execute: Execute, key: str, ids: Iterable[int]) -> None:
    """Note the highest of the ids that have been taken off a stream."""
    highest = max(ids, default=0)
    if highest:
        execute(_MARK, (key, str(highest)))


def removed_to(execute: Execute, key: str) -> int:
    """The highest id of a stream that retention has taken: below it records may be missing. 0 if none was."""
    row = execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
    return int(row[0]) if row else 0


def list_removed(execute: Execute, after: int, limit: int) -> list[Gone]:
    """The next runs of which something is left, behind the sequence ``after``."""
    sql = "SELECT seq, cid FROM removed WHERE seq>? ORDER BY seq LIMIT ?"
    return [Gone(*row) for row in execute(sql, (after, limit))]


class Clearing:
    """The unit that takes up to ``limit`` rows of runs that have been removed; ``rows``: how many it took."""

    def __init__(self, runs: Sequence[Gone], limit: int) -> None:
        self._seqs, self._cids = _json([run.seq for run in runs]), _json([run.cid for run in runs])
        self._limit = limit
        self.rows = 0

    def __call__(self, execute: Execute) -> None:
        self.rows = 0  # a unit may run twice
        for given, statements in ((self._seqs, _CLEAR_BY_SEQ), (self._cids, _CLEAR_BY_CID)):
            for sql in statements:
                if self.rows < self._limit:
                    self.rows += execute(sql, (given, self._limit - self.rows)).rowcount


def forget_removed(runs: Sequence[Gone]) -> Unit:
    """The unit that says that nothing of these runs is left."""
    seqs = _json([run.seq for run in runs])

    def unit(execute: Execute) -> None:
        execute(f"DELETE FROM removed WHERE seq IN {_GIVEN}", (seqs,))  # noqa: S608 - our own words

    return unit


def find_known(execute: Execute, cids: Sequence[str]) -> set[str]:
    """Which of these runs are on record, or noted as removed."""
    found = [f"SELECT cid FROM {table} WHERE cid IN {_GIVEN}" for table in ("run", "removed")]  # noqa: S608 - our own words
    return {cid for (cid,) in execute(" UNION ALL ".join(found), (_json(cids),) * len(found))}


def _json(values: Sequence[int] | Sequence[str]) -> str:
    return encode(values).decode()
