"""What a campaign leaves behind: records, journals, marks, files and processes, read once the server has ended."""

import fcntl
import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
from tests.acceptance.crash import mix
from tests.acceptance.crash.clients import LABEL, Note, read_journals
from tests.fakes.children import running_in

from aura.processes.leftovers import look_at_all


class Step(msgspec.Struct, frozen=True):
    """A step on record, or an item of one: its name is ``step[index]``."""

    name: str
    state: str
    starts: int
    started_at: float | None
    finished_at: float | None


class Run(msgspec.Struct, frozen=True):
    """A run on record, with the names of its own events in their order."""

    cid: str
    task: str
    state: str
    reason: str | None
    recovery: str
    unclean: bool  # its clean-up failed, or its end is unknown
    key: str
    events: Sequence[str]
    steps: Sequence[Step]
    parent: str | None = None  # the cid of the run that it is a part of, and which of its calls it answers
    call: str | None = None


class Evidence(msgspec.Struct, frozen=True):
    """Everything that the checks look at. ``killed_running``: boots that found runs which had been running."""

    runs: Mapping[str, Run]
    notes: Sequence[Note]
    marks: Sequence[mix.Mark]
    killed_running: int = 0
    database: Sequence[str] = ("ok",)
    processes: Sequence[str] = ()
    files: Sequence[str] = ()
    lock_is_free: bool = True


def collect(folder: Path) -> Evidence:
    """Read what is there. Nothing may be running on the folder any more."""
    files = sorted(str(path.relative_to(folder / "data")) for path in (folder / "data").iterdir())
    lock_is_free = _is_free(folder / "data" / "aura.lock")
    with closing(sqlite3.connect(f"file:{folder}/data/aura.db?mode=ro", uri=True)) as db:
        return Evidence(
            runs=_runs(db),
            notes=read_journals(folder),
            marks=mix.read_marks(folder),
            killed_running=_killed_running(db),
            database=[str(row[0]) for row in db.execute("PRAGMA integrity_check")]
            + [f"foreign key: {row}" for row in db.execute("PRAGMA foreign_key_check")],
            processes=_processes(db, folder),
            files=files,
            lock_is_free=lock_is_free,
        )


def _runs(db: sqlite3.Connection) -> dict[str, Run]:
    events: dict[int, list[str]] = {}
    for seq, name in db.execute("SELECT seq, name FROM history WHERE step IS NULL ORDER BY seq, id"):
        events.setdefault(seq, []).append(name)
    steps: dict[int, list[Step]] = {}
    for seq, *row in db.execute(_STEPS):
        steps.setdefault(seq, []).append(Step(*row))
    columns = "seq, cid, task_name, state, reason, recovery, cleanup_error IS NOT NULL, labels, parent_cid, call"
    found = {}
    for seq, cid, task, state, reason, recovery, unclean, labels, *part in db.execute(f"SELECT {columns} FROM run"):
        told, done = events.get(seq, []), steps.get(seq, [])
        found[cid] = Run(cid, task, state, reason, recovery, bool(unclean), _key(labels), told, done, *part)
    return found


_STEPS = """SELECT seq, name, state, starts, started_at, finished_at FROM step
 UNION ALL SELECT seq, step || '[' || idx || ']', state, starts, started_at, finished_at FROM item"""


def _key(labels: str) -> str:
    return str(msgspec.json.decode(labels).get(LABEL, ""))


def _killed_running(db: sqlite3.Connection) -> int:
    """In how many boots runs were moved because the one before had ended under them."""
    query = """SELECT count(DISTINCT json_extract(payload, '$.boot')) FROM history
        WHERE json_extract(payload, '$.boot') IS NOT NULL"""
    return int(db.execute(query).fetchone()[0])


def _processes(db: sqlite3.Connection, folder: Path) -> list[str]:
    """What is alive of any boot of this data folder, or works in it."""
    store = db.execute("SELECT value FROM meta WHERE key='store_id'").fetchone()[0]
    marked = [seen for seen in look_at_all() if seen.marks.get("AURA_BOOT", "").startswith(store) and not seen.zombie]
    return [f"{seen.pid} {seen.name}" for seen in marked] + [str(pid) for pid in running_in(folder)]


def _is_free(lock: Path) -> bool:
    with open(lock, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return os.fstat(file.fileno()).st_size == 0
