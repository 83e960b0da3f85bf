"""A firing in memory: one occurrence of an interrupt rule, as the runs know it that it concerns.

It holds state and says how it is written down; ``interrupts.interrupts`` opens and ends it. A handler knows its own
(``LiveRun.firing``), a victim the one that has stopped it while that is open (``LiveRun.stopped_by``).
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from aura.events import EventEntry
from aura.interrupt import HandlerStart, Terms
from aura.lifecycle import RunState
from aura.records.firings import FiringRow


class Concerned(Protocol):
    """What a firing asks of the runs that it concerns (``liverun.LiveRun``)."""

    cid: str


R = TypeVar("R", bound=Concerned)


class Firing(msgspec.Struct, Generic[R], eq=False):
    """One occurrence of a rule.

    Invariants: ``awaited`` are runs that its handler waits for, and is empty once the graces are over; ``ended`` is set
    once, in the turn in which its handler has sealed, or in which it turns out that it was never stored.
    """

    id: int
    plan_name: str
    rule: str
    #: What fired it, and how its handler sees that.
    event_id: str
    event: Any
    priority: int
    #: Unix seconds.
    at: float
    terms: Terms
    handler: R
    victims: list[R] = []
    spared: list[R] = []
    awaited: set[R] = set()
    #: The run, or what it is a part of, that emitted the event: it is stopped when that is on record. None afterwards.
    emitter: R | None = None
    #: Loop time at which the graces of all that were told are over, and what ends the waiting then.
    graces_end: float = 0.0
    timer: asyncio.TimerHandle | None = None
    ended: bool = False

    @property
    def cid(self) -> str:
        """Its handler's."""
        return self.handler.cid

    @property
    def name(self) -> str:
        """``plan/rule``."""
        return f"{self.plan_name}/{self.rule}"

    @property
    def ready(self) -> bool:
        """Whether its handler need not wait for anybody's clean-up any more."""
        return not self.awaited or self.terms.handler_starts is HandlerStart.AT_ONCE

    @property
    def row(self) -> FiringRow:
        """As the store keeps it."""
        return FiringRow(
            self.id,
            self.plan_name,
            self.rule,
            self.event_id,
            self.cid,
            self.priority,
            self.at,
            self.terms,
            self.event,
        )


def payload_of(event: EventEntry) -> dict[str, Any]:
    """An event as expressions see it."""
    shown = event.record()
    del shown["kind"]
    return shown


def ending_payload(row: FiringRow, state: str, now: float, victims: int) -> dict[str, Any]:
    """What the event tells that says that a firing has ended. ``state`` is its handler's, ``now`` in Unix seconds."""
    return {
        "plan": row.plan_name,
        "rule": row.rule,
        "cid": row.cid,
        "state": state,
        "duration_s": round(max(0.0, now - row.at), 6),
        "victim_count": victims,
    }


def ending_text(row: FiringRow, state: RunState | None, why: str) -> str:
    """What the log says of a handler that has not succeeded."""
    said = "is gone" if state is None else _SAID.get(state, "is stuck")
    return f"the handler {row.cid} of rule {row.plan_name}/{row.rule} {said}: {why}; what it stopped goes on"


_SAID: Mapping[RunState, str] = {
    RunState.FAILED: "failed",
    RunState.CANCELLED: "was cancelled",
    RunState.TIMED_OUT: "timed out",
    RunState.CRASHED: "crashed",
    RunState.SUCCEEDED: "had succeeded",
}
