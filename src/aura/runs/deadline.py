"""The one deadline: when the nearest time-out of a run, or of a run that it is part of, strikes.

It owns how that is found, and no timer: a run's own time-out is set by ``stops``, an attempt's by the attempt. A
sub-task is active only while the run above it is, so it has no more time than any run above it has, nor than the steps
that wait for it. Times are those of the event loop; infinite if nothing times out.

Who asks: a retry that would come too late is not begun, and an action may ask how long it has (``Context.time_left``).
"""

import asyncio
from typing import Protocol


class Timed(Protocol):
    """What is asked of a run (``liverun.LiveRun``)."""

    #: Of its own time-out, while that counts.
    timer: asyncio.TimerHandle | None
    cleanup_deadline: float

    @property
    def bounded(self) -> bool:
        """Whether its present graph counts against ``cleanup_deadline``, and not against the run's time-out."""

    @property
    def parent(self) -> "Timed | None":
        """The run that it is a part of."""

    @property
    def awaited_until(self) -> float:
        """When the attempt that waits for it, a step's of ``parent``, times out by itself."""


def deadline_of(run: Timed) -> float:
    """The loop time at which the nearest time-out of a run strikes, or one that stops it from above."""
    nearest = _own_deadline(run)
    while run.parent is not None:
        nearest = min(nearest, run.awaited_until, _own_deadline(run.parent))
        run = run.parent
    return nearest


def awaited_deadline_of(run: Timed) -> float:
    """The same of a run that waits on record, whose own time-out, and those of the runs above it, rest meanwhile."""
    nearest = float("inf")
    while run.parent is not None:
        nearest = min(nearest, run.awaited_until)
        run = run.parent
    return nearest


def _own_deadline(run: Timed) -> float:
    if run.bounded:
        return run.cleanup_deadline
    if run.timer is None or run.timer.cancelled():
        return float("inf")
    return run.timer.when()
