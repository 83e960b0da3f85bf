"""What every kind of trigger is to the items that have it: kept over reloads, on while the engine runs."""

from typing import Protocol

from aura.scheduling.liveitem import LiveItem


class Source(Protocol):
    """One kind of trigger, for all items. ``items`` holds them, and calls each for every item."""

    def keep(self, live: LiveItem) -> None:
        """Serve the triggers that an item has now, and no others of it. Called at each load of its plan.

        What says what it said before goes on as it was.
        """

    def drop(self, live: LiveItem) -> None:
        """Serve nothing of an item any more."""

    def wake(self, live: LiveItem) -> None:
        """It was switched on or off, or may hear of events again."""

    def start(self) -> None:
        """The engine starts runs from now on."""

    def request_stop(self, _grace: float = float("inf")) -> None:
        """The engine starts nothing more, until ``start``. The grace, in seconds, bounds what has to be cleaned up."""

    def close(self) -> None:
        """End what would act after the server's end, such as timers."""
