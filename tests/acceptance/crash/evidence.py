"""What a campaign leaves behind: records, journals, marks, files and processes, read once the server has ended."""

import fcntl
import os
import re
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from tests.acceptance.crash import mix
from tests.acceptance.crash.clients import LABEL
from tests.acceptance.crash.journal import Note, read_journals
from tests.fakes.children import running_in

from aura.processes.leftovers import look_at_all

_TIME = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+Z")


class Step(msgspec.Struct, frozen=True):
    """A step on record, or an item of one: its name is ``step[index]``."""

    name: str
    state: str
    starts: int
    started_at: float | None
    finished_at: float | None
    output: Any = None  # of a step that asked or waited for somebody
    finishes: int = 0  # how often it is on record that it succeeded


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
    paused: bool = False  # it was stopped to come back, not by a crash alone
    error: str = ""  # the message
    asked_by: tuple[str, str] | None = None  # the run and the step that asked for it to be started
    handles: str | None = None  # the rule whose firing it handles
    seq: int = 0
    preemptions: int = 0
    item: str | None = None  # what started it by itself, for which slot, event and file
    due: float = 0.0
    event_id: str | None = None
    file: str | None = None
    delivery: str | None = None  # with which a client called the webhook


class Missed(msgspec.Struct, frozen=True):
    """A line of the ledger about slots of an item: it stands for ``count`` of them, from ``first`` to ``last``."""

    item: str
    reason: str
    count: int
    first: float
    last: float


class Emitted(msgspec.Struct, frozen=True):
    """An event on record that a client or a step has emitted."""

    id: str
    name: str
    key: str  # of the client's
    cid: str | None  # of the step's
    step: str | None


class Fired(msgspec.Struct, frozen=True):
    """A firing on record, with what it was to stop, how its handler ended by it, and how often its end was told."""

    rule: str
    event_id: str
    cid: str
    ended: bool
    outcome: str | None
    victims: Sequence[tuple[int, str | None]]  # by their sequences, with what became of them
    told: int


class Evidence(msgspec.Struct, frozen=True):
    """Everything that the checks look at. ``killed_running``: boots that found runs which had been running."""

    runs: Mapping[str, Run]
    notes: Sequence[Note]
    marks: Sequence[mix.Mark]
    counts: Sequence[mix.Count] = ()
    tallies: Sequence[mix.Count] = ()
    tally: int = 0  # what the plan's state has come to
    events: Sequence[Emitted] = ()
    firings: Sequence[Fired] = ()
    missed: Sequence[Missed] = ()
    anchors: Mapping[str, float] = {}  # of each item with times of its own: when it was first seen
    inbox: Sequence[str] = ()
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
            counts=mix.read_counts(folder, "counts"),
            tallies=mix.read_counts(folder, "tallies"),
            tally=_tally(db),
            events=_emitted(db),
            firings=_firings(db),
            missed=_missed(db),
            anchors=_anchors(db),
            inbox=sorted(file.name for file in mix.inbox(folder).iterdir()),
            killed_running=_killed_running(db),
            database=[str(row[0]) for row in db.execute("PRAGMA integrity_check")]
            + [f"foreign key: {row}" for row in db.execute("PRAGMA foreign_key_check")],
            processes=_processes(db, folder),
            files=files,
            lock_is_free=lock_is_free,
        )


def _runs(db: sqlite3.Connection) -> dict[str, Run]:
    events: dict[int, list[str]] = {}
    paused = set()
    for seq, name, by_boot in db.execute(_EVENTS):
        events.setdefault(seq, []).append(name)
        if name == "run.preempted" and not by_boot:
            paused.add(seq)
    steps = _steps(db)
    found = {}
    for seq, cid, task, state, reason, recovery, unclean, labels, *part, error, cause, preemptions in db.execute(_RUNS):
        told, done = events.get(seq, []), steps.get(seq, [])
        run = Run(cid, task, state, reason, recovery, bool(unclean), _key(labels), told, done, *part)
        because = msgspec.json.decode(cause)
        asked = _asked_by(because) if part[0] is None else None
        rule = because.get("rule")
        rests = any(step.name == "rest" and step.starts for step in done)  # its steps were stopped before that began
        run = msgspec.structs.replace(
            run, paused=rests or seq in paused, error=error or "", asked_by=asked, handles=rule
        )
        found[cid] = msgspec.structs.replace(run, seq=seq, preemptions=preemptions, item=because.get("item"))
    for cid, due, event_id, file, delivery in db.execute(_TRIGGERED):
        name = file and Path(file).name
        found[cid] = msgspec.structs.replace(found[cid], due=due, event_id=event_id, file=name, delivery=delivery)
    return found


_TRIGGERED = """SELECT cid, due, json_extract(cause, '$.event_id'), json_extract(event, '$.payload.path'),
  json_extract(event, '$.payload.key') FROM run
 WHERE json_extract(cause, '$.item') IS NOT NULL"""


def _missed(db: sqlite3.Connection) -> list[Missed]:
    """The lines that name slots: the first time and the last in a line are those of its slots."""
    found = []
    for item, reason, count, detail in db.execute("SELECT item, reason, count, detail FROM why WHERE item IS NOT NULL"):
        if dues := [datetime.fromisoformat(text).timestamp() for text in _TIME.findall(detail)]:
            found.append(Missed(item, reason, count, dues[0], dues[-1]))
    return found


def _anchors(db: sqlite3.Connection) -> dict[str, float]:
    rows = db.execute("SELECT name, anchors FROM schedule_item")
    kept = {name: msgspec.json.decode(anchors) for name, anchors in rows}
    return {name: min(anchors.values()) for name, anchors in kept.items() if anchors}


def _steps(db: sqlite3.Connection) -> dict[int, list[Step]]:
    finishes = {(seq, name): count for seq, name, count in db.execute(_FINISHES)}
    steps: dict[int, list[Step]] = {}
    for seq, name, state, starts, started_at, finished_at, output in db.execute(_STEPS):
        told = msgspec.json.decode(output) if output else None
        step = Step(name, state, starts, started_at, finished_at, told, finishes.get((seq, name), 0))
        steps.setdefault(seq, []).append(step)
    return steps


def _asked_by(cause: dict[str, Any]) -> tuple[str, str] | None:
    return (cause["cid"], cause["step"]) if cause.get("kind") == "task" else None


_RUNS = """SELECT seq, cid, task_name, state, reason, recovery, cleanup_error IS NOT NULL, labels, parent_cid, call,
 json_extract(error, '$.message'), cause, preemptions FROM run"""
_EVENTS = """SELECT seq, name, json_extract(payload, '$.boot') FROM history WHERE step IS NULL ORDER BY seq, id"""
_STEPS = f"""SELECT seq, name, state, starts, started_at, finished_at,
  CASE WHEN name IN ('b', '{mix.ASKED}') THEN output END FROM step
 UNION ALL SELECT seq, step || '[' || idx || ']', state, starts, started_at, finished_at, NULL FROM item"""
_FINISHES = """SELECT seq, step || coalesce('[' || json_extract(payload, '$.item') || ']', '') AS key, count(*)
 FROM history WHERE name='step.succeeded' GROUP BY seq, key"""


def _tally(db: sqlite3.Connection) -> int:
    row = db.execute("SELECT value FROM state WHERE plan_name=? AND key=?", (mix.PLAN, mix.TALLY)).fetchone()
    return int(msgspec.json.decode(row[0])) if row else 0


def _emitted(db: sqlite3.Connection) -> list[Emitted]:
    query = "SELECT id, name, json_extract(payload, '$.key'), cid, step FROM event WHERE name=? OR name LIKE ?"
    rows = db.execute(query, (mix.TOLD, f"{mix.CALL}.%"))
    return [Emitted(str(id), name, key or "", cid, step) for id, name, key, cid, step in rows]


def _firings(db: sqlite3.Connection) -> list[Fired]:
    victims: dict[int, list[tuple[int, str | None]]] = {}
    for id, seq, outcome in db.execute("SELECT firing, seq, outcome FROM victim"):
        victims.setdefault(id, []).append((seq, outcome))
    told = dict(db.execute(_TOLD_ENDS))
    rows = db.execute("SELECT id, rule, event_id, cid, ended_at IS NOT NULL, outcome FROM firing ORDER BY id")
    return [
        Fired(rule, event, cid, bool(ended), outcome, victims.get(id, []), told.get(cid, 0))
        for id, rule, event, cid, ended, outcome in rows
    ]


_TOLD_ENDS = """SELECT json_extract(payload, '$.cid') AS handler, count(*) FROM event WHERE name='interrupt.ended'
 GROUP BY handler"""


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
