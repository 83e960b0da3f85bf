"""What is known of a run that is stuck: where it hangs, since when, and who has taken over what it holds.

``stops`` makes it when a run is given up, ``interrupts.takeovers`` notes what is taken, ``engine.stuckview`` shows it.
What a crash does: nothing here is stored; what hangs ends with the process.
"""

from collections.abc import Sequence

import msgspec

#: How many takings of one run are remembered, the latest.
REMEMBERED = 20


class Taken(msgspec.Struct, frozen=True):
    """The handler ``cid`` of a rule has taken over resources."""

    plan_name: str
    rule: str
    cid: str
    names: Sequence[str]


class Hang(msgspec.Struct, eq=False):
    """A step, ``file:line`` or what else is known of the place, and since when, in Unix seconds."""

    step: str
    where: str
    since: float
    taken: list[Taken] = []

    def note(self, taken: Taken) -> None:
        """Remember who has taken what."""
        self.taken = [*self.taken, taken][-REMEMBERED:]
