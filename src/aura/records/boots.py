"""The starts of a server on this data folder, and the runs that an older one left open."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from aura.records.checkpoints import CheckpointRow, get_checkpoints
from aura.records.columns import OPEN_STATES, decoded
from aura.records.loops import LoopRows, get_loops
from aura.records.reading import RUN_COLUMNS, get_step_rows, run_record
from aura.records.runs import StepRow
from aura.records.waits import WaitRow, get_waits
from aura.run import RunRecord
from aura.store import Execute, Unit


def end_boot(number: int, at: float) -> Unit:
    """The unit that says that this boot ended in good order."""

    def unit(execute: Execute) -> None:
        execute("UPDATE boot SET ended_at=? WHERE number=?", (at, number))

    return unit


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
    held: bool
    crashes: int
    steps: list[StepRow]
    #: What is on record of its loops, by step.
    loops: Mapping[str, LoopRows] = {}
    waits: Sequence[WaitRow] = ()
    checkpoints: Sequence[CheckpointRow] = ()
    #: What has started it, as its expressions see it.
    event: Mapping[str, Any] | None = None


def read_open_runs(execute: Execute) -> list[OpenRun]:
    """All runs that are not final, in the order of their acceptance, with their steps."""
    sql = f"SELECT {RUN_COLUMNS}, ending, held, crashes, event FROM run WHERE state IN ({OPEN_STATES}) ORDER BY seq"  # noqa: S608
    found = []
    checkpoints = get_checkpoints(execute)
    for row in execute(sql).fetchall():
        steps = get_step_rows(execute, row[0])
        loops = get_loops(execute, row[0]) if steps else {}
        waits = get_waits(execute, row[0]) if steps else []
        left = checkpoints.get(row[0], ())
        ending, held, crashes, event = row[-4:]
        record = run_record(row)
        found.append(OpenRun(record, ending, bool(held), crashes, steps, loops, waits, left, decoded(event)))
    return found


def last_accepted(execute: Execute) -> tuple[int, str | None]:
    """The highest accepted sequence, and its cid; 0 and None at first."""
    return execute("SELECT seq, cid FROM run ORDER BY seq DESC LIMIT 1").fetchone() or (0, None)
