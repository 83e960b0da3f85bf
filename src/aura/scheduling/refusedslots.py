"""Slots of one item that were refused for the same reason: they are one line of the why-ledger a minute.

It is data, with times in Unix seconds; ``starts`` makes the lines. A crash loses none of them: the
line is stored with what its last slot changes.
"""

from typing import NamedTuple

from aura.clock import rfc3339
from aura.why import Why

#: How far the slots of one line may lie apart, in seconds.
SPAN = 60.0


class RefusedSlots(NamedTuple):
    """The slots that a line stands for: how many, the first and the last. ``line``: as it was stored."""

    number: int
    first: float
    last: float
    line: Why | None = None

    def takes(self, due: float) -> bool:
        """Whether a slot may be of this line. One that comes again, after a clock was set back, has its own."""
        return self.last < due < self.first + SPAN

    def text(self, detail: str) -> str:
        """What the line says, where each of them was refused as ``detail`` says."""
        if self.number == 1:
            return f"{detail}; due {rfc3339(self.first)}"
        return f"{detail}; {self.number} slots, due from {rfc3339(self.first)} to {rfc3339(self.last)}"


def with_slot(slots: RefusedSlots | None, due: float) -> RefusedSlots:
    """These and one more, or that one alone."""
    if slots is None or not slots.takes(due):
        return RefusedSlots(1, due, due)
    return slots._replace(number=slots.number + 1, last=due)
