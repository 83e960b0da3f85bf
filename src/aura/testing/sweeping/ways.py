"""The ways in which a sweep stops a run at a point, and as what it may end then.

``by`` names one: ``cancel``, ``timeout``, ``pause``, ``interrupt:RULE``, ``shutdown``, ``crash``. Each is done as
whoever runs plans does it: a pause is resumed, an interrupt is a rule fired by hand, a shutdown and a crash are
followed by the next start.

``EXPECTED`` is the table of how a run may end. ``SAME`` stands for how it ends when nobody stops it. Beside what the
table says a run may always end so if every step of it has ended as then: a stop that comes later changes nothing.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from aura.errors import RequestError
from aura.interrupt import Then
from aura.lifecycle import Recovery, RunState, Stop
from aura.sandbox import near
from aura.testing.run import Run
from aura.testing.sweeping.points import At, Point

if TYPE_CHECKING:
    from aura.testing.world import World

#: Stands for the state in which the run ends when nobody stops it.
SAME: Final = "same"
_S = RunState
#: way → what of the task, or the rule, it depends on → as what a run ends that is stopped so.
EXPECTED: Final[Mapping[str, Mapping[str, frozenset[str]]]] = {
    "cancel": {"": frozenset({_S.CANCELLED})},
    "timeout": {"": frozenset({_S.TIMED_OUT})},
    "pause": {"": frozenset({SAME})},
    "interrupt": {
        Then.RESUME: frozenset({SAME}),
        Then.RESTART: frozenset({SAME}),
        Then.CANCEL: frozenset({_S.CANCELLED}),
    },
    "shutdown": {
        Recovery.FAIL: frozenset({_S.CANCELLED}),
        Recovery.RESUME: frozenset({SAME}),
        Recovery.RESTART: frozenset({SAME}),
    },
    "crash": {
        Recovery.FAIL: frozenset({_S.CRASHED}),
        Recovery.RESUME: frozenset({SAME, _S.CRASHED}),  # crashed: in a step that does not say that it is idempotent
        Recovery.RESTART: frozenset({SAME}),
    },
}
#: way → what a message says of it.
SAID: Final = {
    "cancel": "cancelled",
    "timeout": "timed out",
    "pause": "paused",
    "interrupt": "interrupted",
    "shutdown": "shut down",
    "crash": "crashed",
}


class Way(msgspec.Struct, frozen=True):
    """A way to stop a run; ``rule`` is that of an interrupt."""

    word: str
    rule: str = ""

    @property
    def said(self) -> str:
        """As what a message says that the run was: ``cancelled``."""
        return SAID[self.word] + (f" by {self.rule}" if self.rule else "")

    def fits(self, point: Point) -> bool:
        """Whether it can come at a point: a run's time-out rests while it waits, and in what cleans up after it."""
        return self.word != "timeout" or not (point.at is At.WAIT or point.in_clean_up)

    def depends_on(self, recovery: Recovery, then: Then | None) -> str:
        """What it depends on as what a run ends."""
        return {"interrupt": then or "", "shutdown": recovery, "crash": recovery}.get(self.word, "")

    def expected(self, recovery: Recovery, then: Then | None) -> frozenset[str]:
        """As what a run may end, ``SAME`` included."""
        return EXPECTED[self.word][self.depends_on(recovery, then)]

    def brings_back(self, recovery: Recovery, then: Then | None) -> bool:
        """Whether a run goes on after it, so that it can come to what it would have come to."""
        return SAME in self.expected(recovery, then)


def way_of(by: str) -> Way:
    """The way that ``by`` names.

    Raises:
        ValueError: there is none; with what is near.
    """
    word, _, rule = by.partition(":")
    if word not in EXPECTED:
        known = ", ".join("interrupt:RULE" if one == "interrupt" else one for one in EXPECTED)
        raise ValueError(f"a sweep cannot stop a run by {by!r}{near(word, EXPECTED)}; there are: {known}")
    if (word == "interrupt") != bool(rule):
        raise ValueError(f"by={by!r}: say interrupt:RULE, with the name of a rule, and no other word has one")
    return Way(word, rule)


# -- doing it


async def stop(way: Way, world: "World", run: Run) -> None:
    """Stop a run now, and return once that is told; of a restart or a crash once the next server is ready.

    Raises:
        RequestError: it cannot be stopped so any more.
    """
    await _DOING[way.word](way, world, run)


async def bring_back(way: Way, world: "World", run: Run) -> None:
    """Let a run that was paused go on once it rests."""
    if way.word != "pause":
        return
    await world.until(lambda: run.live is None or run.live.stuck or run.state == RunState.PREEMPTED)
    if run.state == RunState.PREEMPTED:
        await run.resume()


async def _cancel(_way: Way, _world: "World", run: Run) -> None:
    await run.cancel()


async def _pause(_way: Way, _world: "World", run: Run) -> None:
    await run.pause()


async def _fire(way: Way, world: "World", _run: Run) -> None:
    await world.fire(way.rule)


async def _time_out(_way: Way, world: "World", run: Run) -> None:
    async def strike() -> None:
        live = run.live
        if live is None or live.sealed:
            raise RequestError("ended", f"run {run.cid} has ended")
        world.engine.stops.request_stop(live, Stop.TIMEOUT, "its time-out was struck by the sweep")

    await world.call(strike)


async def _restart(_way: Way, world: "World", _run: Run) -> None:
    await world.restart()


async def _crash(_way: Way, world: "World", _run: Run) -> None:
    await world.crash_and_restart()


_DOING: Final[Mapping[str, Callable[[Way, "World", Run], Awaitable[None]]]] = {
    "cancel": _cancel,
    "timeout": _time_out,
    "pause": _pause,
    "interrupt": _fire,
    "shutdown": _restart,
    "crash": _crash,
}
