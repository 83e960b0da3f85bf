"""The last checkpoint of each step, or item of one, of runs that have not ended, as it is kept."""

from collections.abc import Sequence

import msgspec

from aura.store import Execute, Unit

_PUT = "INSERT INTO checkpoint VALUES (?,?,?,?) ON CONFLICT DO UPDATE SET value=excluded.value"
#: Of a step that does not loop.
NO_INDEX = -1

#: (step, index, value as JSON)
CheckpointRow = tuple[str, int, bytes]


class Checkpoint(msgspec.Struct, eq=False):
    """The last checkpoint of a step, or of an item of one. ``value`` is JSON; None until the first is on record."""

    step: str
    index: int | None
    value: bytes | None = None

    @property
    def key(self) -> str:
        """The key of the step or item (``graph.Progress.key``)."""
        return self.step if self.index is None else f"{self.step}[{self.index}]"

    @property
    def place(self) -> tuple[str, int]:
        """Step and index as they are kept."""
        return self.step, NO_INDEX if self.index is None else self.index


class CheckpointUnit(msgspec.Struct, frozen=True):
    """The unit that forgets checkpoints of a run."""

    seq: int
    former: Sequence[Checkpoint]

    def __call__(self, execute: Execute) -> None:
        for one in self.former:
            execute("DELETE FROM checkpoint WHERE seq=? AND step=? AND idx=?", (self.seq, *one.place))


def put_checkpoint(seq: int, checkpoint: Checkpoint, value: bytes) -> Unit:
    """The unit that keeps a checkpoint in place of the last one."""
    row = (seq, *checkpoint.place, value)

    def unit(execute: Execute) -> None:
        execute(_PUT, row)

    return unit


def get_checkpoints(execute: Execute) -> dict[int, list[CheckpointRow]]:
    """All that are on record, by the sequence of their run."""
    found: dict[int, list[CheckpointRow]] = {}
    for seq, *row in execute("SELECT seq, step, idx, value FROM checkpoint ORDER BY seq, step, idx"):
        found.setdefault(seq, []).append((row[0], row[1], row[2]))
    return found


def forget_checkpoints(execute: Execute, seq: int) -> None:
    """Forget the checkpoints of a run that has ended, or is to start over."""
    execute("DELETE FROM checkpoint WHERE seq=?", (seq,))


def open_checkpoints(rows: Sequence[CheckpointRow]) -> dict[str, Checkpoint]:
    """The checkpoints of a run by their keys."""
    found = [Checkpoint(step, None if index == NO_INDEX else index, value) for step, index, value in rows]
    return {one.key: one for one in found}
