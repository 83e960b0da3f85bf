"""Gives a data folder a past, while no server is on it: a database of an older schema, and runs that ended long ago."""

import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
from tests.acceptance.crash import mix
from tests.acceptance.crash.clients import LABEL
from tests.acceptance.crash.journal import Journal, Note

from aura.stores.sqlite import SqliteBackend, schema_steps

#: The schema of the older database: the first that had what a run is asked again by.
OLDER = 2
#: When all this was, in Unix seconds: longer ago than anything is kept.
LONG_AGO = 1_000_000_000.0
#: How many runs the past has, each time: more than one unit of retention takes.
MANY = 60

_RUN = """INSERT INTO run (seq, cid, plan_name, task_name, lane, priority, labels, state, recovery, due, accepted_at,
 started_at, finished_at, cause, root_cid, boot, inputs) VALUES (?,?,?,?,'main',0,?,?,'fail',?,?,?,?,?,?,0,?)"""
_EVENT = "INSERT INTO history (id, seq, name, at) VALUES (?,?,?,?)"


def make_older(folder: Path) -> None:
    """Make the database that an older Aura has left, with runs that it had accepted and acknowledged."""
    (folder / "data").mkdir(mode=0o700)
    with closing(_open(folder)) as db, closing(Journal(folder / "journal.past")) as journal:
        for step in schema_steps()[:OLDER]:
            db.executescript(step.read_text(encoding="utf-8"))
        db.execute(f"PRAGMA user_version={OLDER}")
        for seq in range(1, 4):
            key, cid = f"past-{seq}", _cid(seq)
            _add(db, seq, key, "queued", ("run.accepted",))
            journal.note(Note("sent", key, "nothing"))
            journal.note(Note("told", key, "nothing", 202, cid))
    (folder / "data" / "aura.db").chmod(0o600)


def add_ended_runs(folder: Path) -> None:
    """Put runs before all others that ended so long ago that they are not kept."""
    with closing(_open(folder)) as db, closing(Journal(folder / "journal.past")) as journal:
        taken = "SELECT min(seq) FROM (SELECT seq FROM run UNION ALL SELECT seq FROM removed UNION ALL SELECT 0)"
        first = db.execute(taken).fetchone()[0]  # no two runs ever have the same sequence
        db.execute("BEGIN")
        for seq in range(first - MANY, first):
            _add(db, seq, f"past{seq}", "succeeded", ("run.accepted", "run.started", "run.succeeded"))
            journal.note(Note("sent", f"past{seq}", "nothing"))
        db.execute("COMMIT")


def make_history(folder: Path, events: int) -> None:
    """Make a database of runs that ended just now, with so many events."""
    (folder / "data").mkdir(mode=0o700)
    SqliteBackend(folder / "data" / "aura.db").close()
    names = ("run.accepted", "run.started", "step.started", "step.succeeded", "run.succeeded")
    with closing(_open(folder)) as db:
        db.execute("BEGIN")
        for seq in range(1, events // len(names) + 1):
            _add(db, seq, f"past{seq}", "succeeded", names, time.time())
        db.execute("COMMIT")


def _open(folder: Path) -> sqlite3.Connection:
    return sqlite3.connect(folder / "data" / "aura.db", isolation_level=None)


def _add(db: sqlite3.Connection, seq: int, key: str, state: str, events: Sequence[str], at: float = LONG_AGO) -> None:
    ended = None if state == "queued" else at
    labels, cause = _json({LABEL: key}), _json({"kind": "api"})
    row: list[Any] = [seq, _cid(seq), mix.PLAN, "nothing", labels, state, at, at, ended, ended, cause]
    db.execute(_RUN, [*row, _cid(seq), b"{}"])
    db.executemany(_EVENT, [(seq * 10 + number, seq, name, at) for number, name in enumerate(events)])


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _cid(seq: int) -> str:
    """A UUIDv7 of long ago."""
    return f"00e8d4a5-1000-7000-8000-{seq + 10**6:012x}"
