"""Polls that start items: an item starts when an answer holds after one that did not.

A poll asks while its item is on, and rests while it is not; then the first answer that holds is a turn again, as it is
after a start of the server. A turn that the item does not start by, since it is in its cooldown or the run is refused,
is over; only if nothing can be stored the next answer that holds is one once more.
"""

from aura.bus import Delivery
from aura.errors import RequestError
from aura.events import EventEntry
from aura.expressions import Condition
from aura.polling.polls import Interest, LivePoll, Polls
from aura.polling.pollturns import Turning
from aura.runs.runtime import Runtime
from aura.schedule import Poll
from aura.scheduling.liveitem import LiveItem
from aura.scheduling.starts import LATER, Starts, Wish, event_of, why_refused


class ItemPolls:
    """The polls of items. A ``Source``; when the engine lets ``polls`` ask is its own matter."""

    def __init__(self, runtime: Runtime, starts: Starts, polls: Polls) -> None:
        self._runtime = runtime
        self._starts = starts
        self._polls = polls

    def keep(self, live: LiveItem) -> None:
        triggers = [(one.kind, one.when) for one in live.item.triggers if isinstance(one.kind, Poll)]
        made = [
            (poll, when.value if when else None, ItemPoll(self._runtime, live, when, self._starts))
            for poll, when in triggers
        ]
        self._polls.keep(live.name, made)

    def drop(self, live: LiveItem) -> None:
        self._polls.keep(live.name, ())

    def wake(self, live: LiveItem) -> None:
        """Have its polls look at once whether they are to ask."""
        self._polls.wake(live.name)

    def of(self, live: LiveItem) -> list[LivePoll]:
        """Its polls, in their order."""
        return self._polls.of(live.name)

    def start(self) -> None:
        """``polls`` begins to ask with the engine."""

    def request_stop(self, _grace: float = float("inf")) -> None:
        """``polls`` rests with the engine."""

    def close(self) -> None:
        """``polls`` ends its timers."""


class ItemPoll(Turning):
    """A poll of an item (``polls.Listener``)."""

    counts_first = True

    def __init__(self, runtime: Runtime, live: LiveItem, when: Condition | None, starts: Starts) -> None:
        super().__init__(runtime, live, when)
        self._live = live
        self._starts = starts

    @property
    def interest(self) -> Interest:
        """Whether the item is on."""
        return Interest.ASK if self._live.enabled else Interest.FORGET

    def _turned(self, event: EventEntry) -> Delivery | None:
        wish = Wish(self._live, "poll", event=event_of(event))
        refusal = self._starts.refusal(wish)
        if refusal is None:
            try:
                return self._starts.open(wish, event)
            except RequestError as refused:
                refusal = why_refused(refused)
                if refused.code in LATER:
                    self._lost()
        self._starts.note(self._live, *refusal)
        return None
