"""The steps that loop, as they are kept: what each goes over, and its items that have begun.

An item is known by the index of what it goes over, so its rows are of one beginning of its run: when the run starts
over they are forgotten, and when a loop begins it forgets what an earlier one may have left.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from aura.records.columns import decode, decoded
from aura.records.runs import ItemRow
from aura.run import ItemRecord
from aura.store import Execute

#: How many items of a step are shown.
ITEMS_SHOWN = 100
_OPEN = "state IN ('pending', 'running', 'retrying', 'waiting', 'stopping')"
_RUNS = "state IN ('running', 'stopping')"
_FAILED = "state IN ('failed', 'timed_out')"
_LOOPS = "SELECT step, items FROM loop WHERE seq=?"
_COUNTS = f"SELECT count(*), total({_OPEN}), total({_FAILED}) FROM item WHERE seq=? AND step=?"  # noqa: S608 - our words
#: Those that failed, then those that run, then the last of the others.
_SHOWN = f"""SELECT idx, state, attempt, started_at, finished_at, error FROM item WHERE seq=? AND step=?
 ORDER BY CASE WHEN {_FAILED} THEN 0 WHEN {_OPEN} THEN 1 ELSE 2 END, idx DESC LIMIT ?"""  # noqa: S608

_PUT_ITEM = """INSERT INTO item VALUES (?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO UPDATE SET state=excluded.state,
 attempt=excluded.attempt, starts=excluded.starts, started_at=excluded.started_at, finished_at=excluded.finished_at,
 output=excluded.output, outputs=excluded.outputs, error=excluded.error"""


class LoopRows(msgspec.Struct, frozen=True):
    """What is on record of a step that loops. ``over`` is JSON: its list, how many times, or null of rounds."""

    over: bytes
    items: list[ItemRow]


class ShownLoop(msgspec.Struct, frozen=True):
    """What doors show of a loop: the items that matter most, and how many there are, have ended and have failed."""

    items: list[ItemRecord]
    total: int
    ended: int
    failed: int


class LoopUnit(msgspec.Struct, frozen=True):
    """The unit of what has changed of a run's loops.

    ``former`` are the steps whose items are forgotten; ``begun`` those that begin to loop, with what they go over.
    """

    seq: int
    former: Sequence[str]
    begun: Mapping[str, bytes]
    items: Sequence[ItemRow]

    def __call__(self, execute: Execute) -> None:
        for step in (*self.former, *self.begun):
            execute("DELETE FROM item WHERE seq=? AND step=?", (self.seq, step))
            execute("DELETE FROM loop WHERE seq=? AND step=?", (self.seq, step))
        for step, over in self.begun.items():
            execute("INSERT INTO loop VALUES (?,?,?)", (self.seq, step, over))
        for item in self.items:
            execute(_PUT_ITEM, item)


def get_loops(execute: Execute, seq: int) -> dict[str, LoopRows]:
    """What is on record of a run's loops, by step."""
    found = {step: LoopRows(over, []) for step, over in execute(_LOOPS, (seq,))}
    for row in execute("SELECT * FROM item WHERE seq=? ORDER BY step, idx", (seq,)) if found else ():
        found[row[1]].items.append(tuple(row))
    return found


def shown_loops(execute: Execute, seq: int) -> dict[str, ShownLoop]:
    """The loops of a run as doors show them, by step."""
    return {step: _shown(execute, seq, step, decode(over)) for step, over in execute(_LOOPS, (seq,)).fetchall()}


def _shown(execute: Execute, seq: int, step: str, over: Any) -> ShownLoop:
    begun, open_, failed = execute(_COUNTS, (seq, step)).fetchone()
    rows = execute(_SHOWN, (seq, step, ITEMS_SHOWN)).fetchall()
    items = [
        ItemRecord(
            index, over[index] if isinstance(over, list) else index, state, attempt, began, ended, decoded(error)
        )
        for index, state, attempt, began, ended, error in sorted(rows)
    ]
    total = len(over) if isinstance(over, list) else begun if over is None else over
    return ShownLoop(items, total, begun - int(open_), int(failed))


def end_items(execute: Execute, seq: int, now: float, failed: bytes) -> None:
    """End what is open of the loops of a run that has ended without them; ``failed`` is the error of what ran."""
    execute(
        f"""UPDATE item SET error=iif({_RUNS}, ?, NULL), finished_at=?, state=iif({_RUNS}, 'failed', 'cancelled')
 WHERE seq=? AND {_OPEN}""",  # noqa: S608
        (failed, now, seq),
    )


def forget_items(execute: Execute, seq: int, but_of: Collection[str] = ()) -> None:
    """Forget the loops of a run that is to start over, but those of the steps that it keeps."""
    steps = [step for step, _ in execute(_LOOPS, (seq,)).fetchall()]
    LoopUnit(seq, [step for step in steps if step not in but_of], {}, ())(execute)
