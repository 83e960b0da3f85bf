"""What the polls of rules and of items have in common: whether an answer holds, and the event that a turn is.

A turn is the event ``poll.fired``, whose payload is the answer. It is meant for the one whose poll it is, and stored
together with what it brings about there, or not at all.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from aura.bus import Delivery
from aura.events import EventEntry
from aura.expressions import Condition, condition
from aura.plan import Plan
from aura.polling.triggerscope import scope_of, starting_scope
from aura.runs.firing import payload_of
from aura.runs.runtime import Runtime

#: The event of a poll that has turned from false to true.
FIRED = "poll.fired"
#: What counts if a poll says no ``when``: the answer itself.
ITSELF = condition("{{ event.payload }}", "a poll without when")


class Served(Protocol):
    """A rule or an item as it is served; its plan may be another after each load."""

    plan: Plan

    @property
    def name(self) -> str: ...
    @property
    def plan_name(self) -> str: ...
    @property
    def enabled(self) -> bool: ...


class Turning:
    """A part of a poll's listener (``polls.Listener``), and the subscriber that its event is meant for.

    Its heirs say when they listen, and what a turn brings about (``_turned``).
    """

    pattern = ""

    def __init__(self, runtime: Runtime, live: Served, when: Condition | None) -> None:
        self._runtime = runtime
        self._served = live
        self._when = when or ITSELF
        self._lost: Callable[[], object] = bool
        self.name = live.name
        self.plan_name = live.plan_name

    # -- as the poll asks it

    def scope(self, plan: Plan) -> Mapping[str, Any]:
        """What the expressions of the action's parameters may name."""
        return scope_of(self._runtime, plan)

    def holds(self, answer: Any) -> bool:
        """Ask the trigger's ``when``, with the event that a turn would be."""
        event = self._event(answer)
        return self._when.test(starting_scope(self._runtime, self._served.plan, payload_of(event), event.time))

    def turn(self, answer: Any, lost: Callable[[], object]) -> None:
        """Hand over the event."""
        self._lost = lost
        self._runtime.bus.address(self, FIRED, answer, plan_name=self.plan_name)

    def _event(self, answer: Any) -> EventEntry:
        """The event as it will be if it is handed over in this turn."""
        id = self._runtime.journal.head
        return EventEntry(
            id=id,
            time=self._runtime.clock.wall(),
            cid=None,
            plan_name=self.plan_name,
            task_name=None,
            step=None,
            name=FIRED,
            payload=answer,
            cause=None,
            root=str(id),
            depth=0,
        )

    # -- as the bus asks it

    def offer(self, event: EventEntry) -> Delivery | None:
        """Say what the event brings about; if that cannot be stored there has been no turn."""
        delivery = self._turned(event)
        return delivery if delivery is None else delivery._replace(lost=_both(delivery.lost, self._lost))

    def _turned(self, event: EventEntry) -> Delivery | None:
        raise NotImplementedError

    def suspend(self, reason: str) -> None:
        """Its events begin chains of their own: none goes round in a circle."""


def _both(first: Callable[[], object], second: Callable[[], object]) -> Callable[[], None]:
    def call() -> None:
        try:
            first()
        finally:
            second()

    return call
