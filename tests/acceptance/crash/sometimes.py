"""The interesting moments: which of them a kill has met, and how often. A campaign that never met one proves little.

What the database says is read from a copy that is made before the next start, so that nothing is disturbed by it.
"""

import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

_OPEN = "run.state IN ('queued', 'running', 'waiting', 'stopping', 'preempted')"
#: What was on record as open when the server died: the moment, and a query that gives a row if it was met.
_ON_RECORD: Mapping[str, str] = {
    "a run was queued": "SELECT 1 FROM run WHERE state='queued'",
    "a run was running": "SELECT 1 FROM run WHERE state='running'",
    "a sub-task was running": "SELECT 1 FROM run WHERE state='running' AND parent_cid IS NOT NULL",
    "a run was waiting": "SELECT 1 FROM run WHERE state='waiting'",
    "a run was woken and not started": "SELECT 1 FROM wait JOIN run USING (seq) WHERE woken_at IS NOT NULL"
    " AND run.state='waiting'",
    "a run was being cancelled": "SELECT 1 FROM run WHERE state='stopping'",
    "a run was paused": "SELECT 1 FROM run WHERE state='preempted' AND held=1",
    "a run was about to go on": "SELECT 1 FROM run WHERE state='preempted' AND held=0",
    "a run was in its clean-up": "SELECT 1 FROM run WHERE state IN ('running', 'stopping') AND ending IS NOT NULL",
    "a step was in a back-off": "SELECT 1 FROM step JOIN run USING (seq) WHERE step.state='retrying' AND " + _OPEN,
    "a step was in on_preempt": "SELECT 1 FROM step JOIN run USING (seq) WHERE step.state='running'"
    " AND step.name='rest' AND " + _OPEN,
    "a step was in on_resume": "SELECT 1 FROM step JOIN run USING (seq) WHERE step.state='running'"
    " AND step.name='wake' AND " + _OPEN,
    "a step had a checkpoint": "SELECT 1 FROM checkpoint JOIN run USING (seq) WHERE run.state='running'",
    "what a firing stops was cleaning up": "SELECT 1 FROM victim JOIN firing ON firing.id=victim.firing"
    " WHERE ended_at IS NULL AND gone_at IS NULL",
    "what a firing had stopped was kept": "SELECT 1 FROM victim JOIN firing ON firing.id=victim.firing"
    " JOIN run ON run.seq=victim.seq WHERE ended_at IS NULL AND run.state='preempted'",
    "a handler was running": "SELECT 1 FROM firing JOIN run USING (cid) WHERE state='running'",
    "a handler was queued": "SELECT 1 FROM firing JOIN run USING (cid) WHERE state='queued'",
    "an item of a loop was running": "SELECT 1 FROM item JOIN run USING (seq) WHERE item.state='running'"
    " AND run.state='running'",
}
#: What a client was asking when the server died.
_IN_FLIGHT: Mapping[str, str] = {
    "accept": "runs were asked for",
    "cancel": "a cancel was asked for",
    "pause": "a pause was asked for",
    "resume": "a run was resumed by a client",
    "emit": "an event was emitted by a client",
    "answer": "a question was answered",
    "fire": "an interrupt rule was to be fired",
    "call": "a webhook was called",
    "switch": "an interrupt rule was switched",
    "credentials": "a token or a session was changed",
}
#: What the server was about by its own account: beginnings of failpoints' names.
_AT: Mapping[str, tuple[str, ...]] = {
    "between commit and reply": ("accept.after", "accept.told"),
    "in a migration": ("schema.",),
    "counting its start": ("boot_count.",),
    "settling what was left": ("boot_settle.",),
    "removing what is no longer kept": ("prune.",),
    "at a checkpoint of the write-ahead log": ("checkpoint.",),
    "ending in good order": ("boot_end.", "checkpoint.before"),
}
_IN_BOOT = "before it was ready"
#: What a start did about what it found: the moment, and how often its log or the record says so.
_PARKED, _ENDED, _WENT_ON = "a run was parked", "a process of a dead server was ended", "a run went on after a crash"
_GONE_ON = "SELECT count(*) FROM history WHERE name='run.preempted' AND json_extract(payload, '$.boot') IS NOT NULL"
MOMENTS = (_IN_BOOT, *_AT, *_IN_FLIGHT.values(), *_ON_RECORD, _PARKED, _ENDED, _WENT_ON)


class Sometimes:
    """Counts the kills that met each moment."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def killed(self, folder: Path, in_flight: Iterable[str], hits: Iterable[str], was_ready: bool) -> None:
        """Note one kill. ``hits`` are the failpoints that it has been passing."""
        found = {_IN_FLIGHT[what] for what in in_flight}
        found |= {moment for moment, names in _AT.items() if any(hit.startswith(names) for hit in hits)}
        found |= set() if was_ready else {_IN_BOOT}
        self.counts.update(found | _on_record(folder / "data" / "aura.db"))

    def ended(self, folder: Path) -> None:
        """Note what the starts did about what they found; nothing runs on the folder any more."""
        log = (folder / "server.log").read_text(encoding="utf-8")
        self.counts[_ENDED] += log.count("of an older start was still there")
        with _copy(folder / "data" / "aura.db") as db:
            (self.counts[_PARKED],) = db.execute("SELECT count(*) FROM run WHERE reason='parked'").fetchone()
            (self.counts[_WENT_ON],) = db.execute(_GONE_ON).fetchone()

    def never(self) -> list[str]:
        """The moments that no kill has met."""
        return [moment for moment in MOMENTS if not self.counts[moment]]

    def __str__(self) -> str:
        return "\n".join(f"{self.counts[moment]:7} {moment}" for moment in MOMENTS)


def _on_record(database: Path) -> set[str]:
    """The moments that a dead server's database tells of; none if it is not there or not finished yet."""
    if not database.exists():
        return set()
    with _copy(database) as db:
        return {moment for moment, query in _ON_RECORD.items() if _has_row(db, query)}


@contextmanager
def _copy(database: Path) -> Iterator[sqlite3.Connection]:
    """The database as a dead server has left it, with its log: the original is not touched."""
    with tempfile.TemporaryDirectory() as folder:
        for file in (database, database.with_name(f"{database.name}-wal")):
            if file.exists():
                shutil.copy(file, folder)
        with closing(sqlite3.connect(Path(folder, database.name))) as db:
            yield db


def _has_row(db: sqlite3.Connection, query: str) -> bool:
    try:
        return db.execute(f"{query} LIMIT 1").fetchone() is not None
    except sqlite3.OperationalError:  # the schema is older than what it asks for
        return False
