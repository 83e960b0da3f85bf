"""What steps wait for, as it is kept, so that they are woken after a restart."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from aura.records.columns import decode, encode
from aura.store import Execute, Unit
from aura.wait import Came, OpenWait, Wait, WaitKind

_PUT = "INSERT OR REPLACE INTO wait VALUES (?,?,?,?,?,?,?,?,?,?)"
_GET = """SELECT step, idx, kind, began_at, until, times_out_at, detail, woken_at, value FROM wait WHERE seq=?
 ORDER BY step, idx"""
#: Of a step that does not loop.
NO_INDEX = -1

#: (step, idx, kind, began_at, until, times_out_at, detail, woken_at, value)
WaitRow = tuple[str, int, str, float, float | None, float | None, bytes | None, float | None, bytes | None]


class WaitUnit(msgspec.Struct, frozen=True):
    """The unit of what has changed of a run's waits: the rows of those that are new, the places of those over."""

    rows: Sequence[tuple[Any, ...]]
    over: Sequence[tuple[int, str, int]]

    @property
    def keys_over(self) -> list[str]:
        """The keys of those that are over."""
        return [_key(step, index) for _, step, index in self.over]

    def __call__(self, execute: Execute) -> None:
        for place in self.over:
            execute("DELETE FROM wait WHERE seq=? AND step=? AND idx=?", place)
        for row in self.rows:
            execute(_PUT, row)


def wait_unit(seq: int, changed: Mapping[str, OpenWait | None]) -> WaitUnit:
    """The unit of a run's waits by key, as they are now: one that is new, or None for one that is over."""
    rows = [_row(seq, wait) for wait in changed.values() if wait is not None]
    return WaitUnit(rows, [(seq, *_split(key)) for key, wait in changed.items() if wait is None])


def _row(seq: int, wait: OpenWait) -> tuple[Any, ...]:
    kind, ends = wait.wait.kind.value, (wait.began_at, wait.until, wait.times_out_at)
    # an event that came before it was waited for is on record with the wait; times that are over say so themselves
    came = (wait.began_at, encode(wait.kept)) if wait.came is not None and wait.came.value is not None else (None, None)
    return (seq, *_split(wait.key), kind, *ends, encode(_detail(wait.wait)), *came)


def _split(key: str) -> tuple[str, int]:
    name, _, index = key.partition("[")
    return name, int(index[:-1]) if index else NO_INDEX


def _key(step: str, index: int) -> str:
    return step if index == NO_INDEX else f"{step}[{index}]"


def _detail(wait: Wait) -> dict[str, Any]:
    shown = {"pattern": wait.pattern, "message": wait.message, "inputs": wait.inputs, "cid": wait.cid}
    return {name: value for name, value in shown.items() if value is not None}


def wake(seq: int, key: str, at: float, value: Any) -> Unit:
    """The unit that says what came; the wait stays on record until its run has gone on."""
    row = (at, encode(value), seq, *_split(key))

    def unit(execute: Execute) -> None:
        execute("UPDATE wait SET woken_at=?, value=? WHERE seq=? AND step=? AND idx=?", row)

    return unit


def get_waits(execute: Execute, seq: int) -> list[WaitRow]:
    """What is on record of a run's waits."""
    return [tuple(row) for row in execute(_GET, (seq,))]


def forget_waits(execute: Execute, seq: int) -> None:
    """Forget the waits of a run that has ended, or is to start over."""
    execute("DELETE FROM wait WHERE seq=?", (seq,))


def open_wait(row: WaitRow) -> OpenWait:
    """A wait as it is on record."""
    step, index, kind, began_at, until, times_out_at, detail, woken_at, value = row
    of_item = index != NO_INDEX
    came = None if woken_at is None else Came(None if value is None else decode(value))
    wait = Wait(WaitKind(kind), **(decode(detail) if detail else {}))
    return OpenWait(_key(step, index), step, index if of_item else None, wait, began_at, until, times_out_at, came)
