"""What code of a plan does with a cancellation: whether it swallows it, and whether the next one cuts off its clean-up.

*Swallowed.* A stop comes to an attempt as one cancellation. An attempt that returns a value after it has swallowed it;
so has a child that went on awaiting after it and then returned. A child that swallows every one is ended by who
follows it (``following.ENOUGH``).

*Lost clean-up.* To an attempt a stop comes once, so that what it awaits in a ``finally`` is not disturbed. The children
of a task group of its own are cancelled again at each further await. If such a further cancellation moves the plan's
code on, then what was awaited there has been cut off. It has not while the code stays on its line: an inner task group
swallows what comes while it waits for its own children.

*Too long.* When the grace is over the attempt is cancelled once more, which is seen as well.
"""

from asyncio import CancelledError
from collections.abc import Collection

import msgspec

from aura.runs.attempt import Attempt, EdgeCause
from aura.testing.sweeping.following import WAITS_FOR_CHILDREN, Followed, Stand


class Trouble(msgspec.Struct, frozen=True):
    """What is wrong, of which step and at which line: ``swallowed``, ``lost clean-up``, or a ``clean-up`` too long."""

    kind: str
    step: str
    line: str
    message: str


class _Told(msgspec.Struct):
    """A coroutine that was cancelled: where it stood before that, and whether it has gone on since."""

    line: str
    first: Stand
    before: Stand
    has_moved: bool = False
    awaits: bool = False
    #: The line that has caught a cancellation, the last one that is known.
    caught: str | None = None


class Aftermath:
    """Hears what becomes of cancellations from ``begin`` on. ``finishes``: steps that mean to end by themselves."""

    def __init__(self, finishes: Collection[str] = ()) -> None:
        self.found: dict[Trouble, None] = {}
        self._finishes = finishes
        self._listens = False
        self._told: dict[Followed, _Told] = {}
        self._thrown: Stand | None = None

    def begin(self) -> None:
        """Hear from now on."""
        self._listens = True

    def end(self) -> None:
        """Hear no more."""
        self._listens = False
        self._told.clear()

    def thrown(self, one: Followed, error: BaseException) -> None:
        self._thrown = None
        if self._listens and isinstance(error, CancelledError) and _is_told(one.attempt):
            stand = self._thrown = one.stand()
            told = self._told.setdefault(one, _Told(stand.line or _step_line(one), stand, stand))
            told.before = stand
            if one.attempt.pulsed:
                self._note_overrun(one, stand)
            elif one.is_child and one.is_deaf:
                self._note_swallowed(one, told, "and never ends")

    def suspended(self, one: Followed) -> None:
        told = self._told.get(one)
        if told is None:
            return
        told.awaits = True
        told.caught = one.catch.where or told.caught
        now = one.stand()
        if self._thrown is not None:
            self._compare(one, told, now)
        told.has_moved |= now.spots != told.before.spots

    def ended(self, one: Followed, error: BaseException | None) -> None:
        told = self._told.pop(one, None)
        if told is None:
            return
        told.caught = one.catch.where or told.caught
        if self._thrown is not None:
            self._compare(one, told, None)
        if error is not None or one.attempt.step.name in self._finishes:
            return
        if not one.is_child and one.attempt.edge.seen:
            self._note_swallowed(one, told, "and the step has returned a value")
        elif one.is_child and told.awaits:
            self._note_swallowed(one, told, "by a child, which has gone on awaiting")

    def _compare(self, one: Followed, told: _Told, now: Stand | None) -> None:
        """See what a cancellation has done that was thrown in just now."""
        before, self._thrown = told.before, None
        moved = now is None or now.spots != before.spots
        may_be_lost = told.has_moved and one.is_child and not one.attempt.pulsed
        if moved and may_be_lost and WAITS_FOR_CHILDREN not in before.below:
            line = before.line_since(told.first) or _step_line(one)
            message = (
                f"the clean-up that was awaited at {line} was cut off: the children of a task group are cancelled "
                "again at each await; put it in `with ctx.cleanup():`"
            )
            self._note("lost clean-up", one, line, message)
        told.has_moved |= moved

    def _note_overrun(self, one: Followed, stand: Stand) -> None:
        line = stand.line or _step_line(one)
        message = f"the clean-up that was awaited at {line} took longer than it may, and was cut off"
        self._note("clean-up", one, line, message)

    def _note_swallowed(self, one: Followed, told: _Told, how: str) -> None:
        at = f" at {told.caught}" if told.caught else ""
        message = (
            f"the cancellation that was thrown in at {told.line} was swallowed{at}, {how}: let it through (`raise`), "
            f'or say finishes=("{one.attempt.step.name}",) if the step means to end by itself'
        )
        self._note("swallowed", one, told.line, message)

    def _note(self, kind: str, one: Followed, line: str, message: str) -> None:
        self.found[Trouble(kind, one.attempt.step.name, line, message)] = None


def _is_told(attempt: Attempt) -> bool:
    """Whether the attempt is being stopped with its run."""
    return attempt.cause is EdgeCause.RUN


def _step_line(one: Followed) -> str:
    return str(one.attempt.step.step.source)
