"""What the answers of a rule's polls mean to it: whether it listens, whether they hold, and the event that fires it.

The rule listens while it is on and, if it has ``while_running``, while one of those tasks runs. What is known of its
polls is kept while it has a firing open, or those tasks are stopped to go on: else it would stop them once more for the
same thing as soon as they do.

A turn is the event ``poll.fired``, whose payload is the answer. It is meant for the rule alone, and stored together
with what it brings about, or not at all.
"""

from collections.abc import Callable
from typing import Any

from aura.bus import Delivery
from aura.engine.holds import Holds
from aura.engine.polls import Interest, LivePoll, Polls
from aura.engine.rulechecks import RuleChecks
from aura.engine.rules import LiveRule, firings_of
from aura.events import EventEntry
from aura.expressions import Condition, condition
from aura.lifecycle import RunState
from aura.plan import Plan
from aura.runs.runtime import Runtime
from aura.schedule import Poll

#: The event of a poll that has turned from false to true.
FIRED = "poll.fired"
#: What counts if a poll says no ``when``: the answer itself.
ITSELF = condition("{{ event.payload }}", "a poll without when")
#: The states of runs that are to go on.
_RESTING = frozenset({RunState.PREEMPTED, RunState.WAITING})

#: What an event does to a rule by a trigger with this condition.
Offer = Callable[[LiveRule, Condition | None, EventEntry], Delivery | None]


class RulePolls:
    """The polls of rules. ``checks`` says what may be asked of a rule, ``holds`` which firings are open."""

    def __init__(self, runtime: Runtime, holds: Holds, checks: RuleChecks, polls: Polls, offer: Offer) -> None:
        self.runtime = runtime
        self.holds = holds
        self.checks = checks
        self.offer = offer
        self._polls = polls

    def keep(self, live: LiveRule) -> None:
        """Have the polls that a rule says, in the place of those of its former version."""
        triggers = [(one.kind, one.when) for one in live.rule.triggers if isinstance(one.kind, Poll)]
        wanted = [(poll, when.value if when else None, RulePoll(self, live, when)) for poll, when in triggers]
        self._polls.keep(live.name, wanted)

    def drop(self, live: LiveRule) -> None:
        """End the polls of a rule."""
        self._polls.keep(live.name, ())

    def wake(self, live: LiveRule) -> None:
        """Have its polls ask now: it listens again."""
        self._polls.wake(live.name)

    def of(self, live: LiveRule) -> list[LivePoll]:
        """Its polls, in their order."""
        return self._polls.of(live.name)


class RulePoll:
    """A poll of a rule (``polls.Listener``), and the subscriber that its event is meant for."""

    pattern = ""

    def __init__(self, polls: RulePolls, live: LiveRule, when: Condition | None) -> None:
        self._polls = polls
        self._runtime = polls.runtime
        self._live = live
        self._when = when or ITSELF
        self._lost: Callable[[], object] = bool
        self.name = live.name
        self.plan_name = live.plan_name

    # -- as the poll asks it

    @property
    def interest(self) -> Interest:
        """Whether the rule listens."""
        if not self._live.enabled:
            return Interest.FORGET
        if not self._live.rule.while_running or self._polls.checks.runs_any(self._live):
            return Interest.ASK
        return Interest.REST if self._is_open() or self._rests_any() else Interest.FORGET

    @property
    def counts_first(self) -> bool:
        """A first answer is a turn, unless the rule is being handled."""
        return not self._is_open()

    def scope(self, plan: Plan) -> dict[str, Any]:
        """What the expressions of the action's parameters may name."""
        return self._polls.checks.scope_of(plan)

    def holds(self, answer: Any) -> bool:
        """Ask the trigger's ``when``, with the event that a turn would be."""
        return self._when.test(self._polls.checks.scope_of(self._live.plan, self._event(answer)))

    def turn(self, answer: Any, lost: Callable[[], object]) -> None:
        """Hand over the event."""
        self._lost = lost
        self._runtime.bus.address(self, FIRED, answer, plan_name=self.plan_name)

    def _is_open(self) -> bool:
        return bool(firings_of(self._live, self._polls.holds.open))

    def _rests_any(self) -> bool:
        names = self._live.rule.while_running
        resting = (run for run in self._runtime.open.values() if run.state in _RESTING)
        return any(run.plan_name == self.plan_name and run.task_name in names for run in resting)

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
        """Say what the event fires; if that cannot be stored there has been no turn."""
        delivery = self._polls.offer(self._live, None, event)
        return delivery if delivery is None else delivery._replace(lost=_both(delivery.lost, self._lost))

    def suspend(self, reason: str) -> None:
        """Its events begin chains of their own: none goes round in a circle."""


def _both(first: Callable[[], object], second: Callable[[], object]) -> Callable[[], None]:
    def call() -> None:
        try:
            first()
        finally:
            second()

    return call
