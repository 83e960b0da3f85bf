"""The course of the one run that is swept: the points that it comes to, and the one at which it is held and stopped.

It follows all that is done in a world (``following``), has the points named (``points``), and lets ``aftermath`` hear
what becomes of the stop. Who made it asks for that stop, and lets go what is held (``sweptrun``).
"""

import asyncio
from collections.abc import Collection

from aura.testing.sweeping.aftermath import Aftermath
from aura.testing.sweeping.following import Followed
from aura.testing.sweeping.points import Point, Points

#: How many points of one run are noted at most.
MOST_POINTS = 100_000
#: What an attempt awaits while it changes what its plan remembers.
_CHANGES = {"State.set", "State.delete", "State.compare_and_set"}


class Course:
    """Follows one run, and holds it at a point if there is a ``target``."""

    def __init__(
        self,
        plan_name: str,
        task_name: str,
        finishes: Collection[str] = (),
        target: Point | None = None,
        *,
        is_crashed: bool = False,
    ) -> None:
        """``finishes``: as of ``Aftermath``. ``is_crashed``: the run is stopped there by a crash."""
        self.points = Points(plan_name, task_name, self._come)
        self.aftermath = Aftermath(finishes)
        self.come_to: list[Point] = []
        self.reached = False
        #: The lines at which the run has changed what the plan remembers, each once, in their order.
        self.changed_state: dict[str, None] = {}
        #: What ``setup`` waits for while the run is held and stopped; None while it may go on.
        self.gate: asyncio.Future[None] | None = None
        self._target = target
        self._is_crashed = is_crashed
        self._held: Followed | None = None
        self._open: dict[Followed, None] = {}

    def _come(self, point: Point, one: Followed | None) -> bool:
        if self._target is None:
            if len(self.come_to) < MOST_POINTS:
                self.come_to.append(point)
            return False
        if self.reached or point != self._target:
            return False
        self.reached, self._held = True, one
        self.gate = asyncio.get_running_loop().create_future()
        return one is not None

    @property
    def is_told(self) -> bool:
        """Whether the stop has come to the run, or nothing is held."""
        run = self.points.run
        return self._held is None or not self._held.is_held or run is None or run.stop is not None

    def let_go(self) -> None:
        """Let what is held go on; what a crash has frozen has come no further, and stays where it is."""
        if self._held is not None and not self._is_crashed:
            self._held.let_go()

    def let_setup_go(self) -> None:
        """Let ``setup`` go on; harmless if it does."""
        if self.gate is not None and not self.gate.done():
            self.gate.set_result(None)
        self.gate = None

    # -- as a follower

    def begins(self, one: Followed) -> bool:
        self._open[one] = None
        return not self.reached and self.points.begins(one)

    def suspended(self, one: Followed) -> bool:
        self.aftermath.suspended(one)
        stand = one.stand()
        if not _CHANGES.isdisjoint(stand.below):
            self.changed_state.setdefault(stand.line or str(one.attempt.step.step.source))
        return not self.reached and self.points.suspended(one)

    def thrown(self, one: Followed, error: BaseException) -> None:
        self.aftermath.thrown(one, error)

    def ended(self, one: Followed, error: BaseException | None) -> None:
        self._open.pop(one, None)
        self.aftermath.ended(one, error)

    # -- what cannot end

    def hangs_at(self) -> str:
        """The lines at which what has not ended is suspended; nothing if all has ended."""
        lines = {one.stand().line or str(one.attempt.step.step.source): None for one in self._open}
        return ", ".join(lines)

    def abandon(self) -> None:
        """End what has not ended, so that its world can."""
        for one in list(self._open):
            one.abandon()
