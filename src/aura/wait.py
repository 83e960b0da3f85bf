"""What a step may wait for, and one that does: the nouns. Who waits, and what wakes it, is for ``waits``."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Protocol

import anyio
import msgspec

#: What lasts less than this, in seconds, is waited for in its place.
SHORTEST = 1.0


class WaitKind(StrEnum):
    """What a wait is for."""

    #: An event whose name fits a pattern. What comes is the event.
    EVENT = "event"
    #: An answer of somebody. What comes is the answer.
    APPROVAL = "approval"
    #: The end of a ``sleep``.
    SLEEP = "sleep"
    #: The time of the next try.
    RETRY = "retry"
    #: The time of the next round of a loop.
    ROUND = "round"
    #: A sub-task that waits itself. What comes is that it goes on.
    TASK = "task"


class Wait(msgspec.Struct, frozen=True):
    """What an action that waits wants to wait for (``errors.WaitFor``).

    ``seconds`` is how long: of a sleep all of it, of the others until it has taken too long; None for as long as it
    takes. ``pattern`` is of an event's name; ``message`` and ``inputs`` (a JSON Schema of an object) are what is asked
    of who answers; ``cid`` is the sub-task's.
    """

    kind: WaitKind
    seconds: float | None = None
    pattern: str | None = None
    message: str | None = None
    inputs: Mapping[str, Any] | None = None
    cid: str | None = None


class Promise(Protocol):
    """Of a unit that is on its way to the store (``store.Ticket``): ``error`` says that it was not stored."""

    @property
    def error(self) -> Exception | None: ...


class Came(msgspec.Struct, frozen=True):
    """How a wait has ended: something came, ``value``; or it is too late, or what events are asked has no value."""

    value: Any = None
    #: It has taken as long as it may (``Wait.seconds``).
    too_long: bool = False
    #: The step's own time-out was over first.
    timed_out: bool = False
    error: Exception | None = None


class OpenWait(msgspec.Struct, eq=False):
    """A step, or an item of one, that waits. Times are Unix seconds.

    ``key`` is its ``graph.Progress.key``; ``index`` is of an item. ``until`` is when it ends by itself,
    ``times_out_at`` when the step's own time-out strikes.

    Invariant: ``came`` is set once, when the wait is over; it is still known to its run until that has gone on.
    """

    key: str
    name: str
    index: int | None
    wait: Wait
    began_at: float
    until: float | None = None
    times_out_at: float | None = None
    came: Came | None = None
    #: What is on record of what came: no secret is in it.
    kept: Any = None
    #: Of the unit that says what came, while its fate is not known: nothing else may come.
    claim: Promise | None = None
    #: Of one that its attempt waits for itself, and that is on no record: set when it is over.
    here: anyio.Event | None = None

    @property
    def is_claimed(self) -> bool:
        """Whether something has come, or is just being stored."""
        return self.came is not None or (self.claim is not None and self.claim.error is None)

    @property
    def ends_at(self) -> float | None:
        """When it ends at the latest; None if nothing but what it waits for ends it."""
        return min((at for at in (self.until, self.times_out_at) if at is not None), default=None)
