"""What the answers of a rule's polls mean to it: whether it listens, whether they hold, and the event that fires it.

The rule listens while it is on and, if it has ``while_running``, while one of those tasks runs. What is known of its
polls is kept while it has a firing open, or those tasks are stopped to go on: else it would stop them once more for the
same thing as soon as they do.

What is the same for the polls of items is in ``pollturns``.
"""

from collections.abc import Callable

from aura.bus import Delivery
from aura.events import EventEntry
from aura.expressions import Condition
from aura.interrupts.rulechecks import RuleChecks
from aura.interrupts.rules import LiveRule, firings_of
from aura.kernel.holds import Holds
from aura.lifecycle import RunState
from aura.polling.polls import Interest, LivePoll, Polls
from aura.polling.pollturns import Turning
from aura.runs.runtime import Runtime
from aura.schedule import Poll

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


class RulePoll(Turning):
    """A poll of a rule (``polls.Listener``)."""

    def __init__(self, polls: RulePolls, live: LiveRule, when: Condition | None) -> None:
        super().__init__(polls.runtime, live, when)
        self._polls = polls
        self._live = live

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

    def _is_open(self) -> bool:
        return bool(firings_of(self._live, self._polls.holds.open))

    def _rests_any(self) -> bool:
        names = self._live.rule.while_running
        resting = (run for run in self._runtime.open.values() if run.state in _RESTING)
        return any(run.plan_name == self.plan_name and run.task_name in names for run in resting)

    def _turned(self, event: EventEntry) -> Delivery | None:
        return self._polls.offer(self._live, None, event)
