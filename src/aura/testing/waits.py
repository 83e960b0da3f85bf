"""What a test waits for in a world: the part of ``World`` that lets time go on until something is so.

Each of these raises where it is plain that it will not become so: ``Deadlock`` when nobody can do anything any more,
``NotReached`` when so much virtual time has gone by, or when the run has ended otherwise. Both show the runs as trees.
"""

import math
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING

import anyio

from aura.duration import parse_duration
from aura.errors import RequestError
from aura.lifecycle import FINAL, RunState, StepState
from aura.runs.liverun import LiveRun
from aura.sandbox import near
from aura.testing.record import SHOWN
from aura.testing.run import Run
from aura.testing.virtual_time import LIMIT, Deadlock, NotReached, VirtualLoop

if TYPE_CHECKING:
    from aura.testing.world import World

#: How long ``run`` and ``settle`` let time pass at most unless they are told, in virtual seconds.
ENDED_WITHIN = 31 * 86_400.0


class Waits:
    """The part of a world that waits."""

    loop: VirtualLoop

    def _world(self) -> "World":
        raise NotImplementedError  # a world is one

    async def until(
        self,
        what: Run | Callable[[], object],
        *,
        step: str | None = None,
        state: str | None = None,
        within: float | str = LIMIT,
    ) -> None:
        """Let time go on until a run, or a step of it, is in a state, or until a condition holds.

        ``within``: virtual time, in seconds or as text; a day.

        Raises:
            NotReached: it did not come to that. Deadlock: it never will. ValueError: there is no such step or state.
        """
        __tracebackhide__ = True
        await self._world().open()
        if not isinstance(what, Run):
            await self._wait(what, seconds_of(within), lambda: "it was not so")
            return
        self._check_named(what, step, state)
        wanted = f"{f'step {step}' if step else 'the run'} was not {state}"
        await self._wait(_in_state(what, step, state), seconds_of(within), lambda: wanted, lambda: what.explain())

    async def advance(self, duration: float | str = 0.0, /, **parts: float) -> None:
        """Let time pass, and everything that is due by then happen.

        In seconds, as text (``"1h30m"``), or by the words of ``timedelta``: ``days=3``.

        Raises:
            ValueError: that is no time that can pass.
        """
        __tracebackhide__ = True
        seconds = seconds_of(duration) + seconds_of(timedelta(**parts).total_seconds())
        await self._world().open()
        await anyio.sleep(seconds)
        await self.loop.wait_quiet()

    async def settle(self, within: float | str = ENDED_WITHIN) -> None:
        """Let time go on until every run accepted so far, and what those start, has ended; it waits for no later slot.

        What was emitted and waits for its ``debounce``, and files that have changed and start something, are waited for
        as well. ``within``: virtual time, in seconds or as text; 31 days.

        Raises:
            NotReached: some have not. Deadlock: some never will.
        """
        __tracebackhide__ = True
        await self._world().open()
        world = self._world()  # its engine may be another one by then: of the next life
        asked = _marks_of(world.engine.runtime.open.values())
        held = world.engine.debounces.holds_any
        is_told = world.files_are_settled

        def left() -> list[LiveRun]:
            return [run for run in world.engine.runtime.open.values() if not asked.isdisjoint(_marks_of([run]))]

        def settled() -> bool:
            nonlocal held, is_told
            was_held, held = held, held and world.engine.debounces.holds_any
            was_told, is_told = is_told, world.files_are_settled
            if (was_held and not held) or (is_told and not was_told):
                asked.update(_marks_of(world.engine.runtime.open.values()))
            return is_told and not held and not left()

        await self._wait(
            settled, seconds_of(within), lambda: "these have not ended", lambda: self._trees(run.cid for run in left())
        )

    async def wait_for_end(self, run: Run, within: float | str = ENDED_WITHIN) -> None:
        """Let time go on until the end of a run is on record. Raises as ``settle`` does."""
        __tracebackhide__ = True
        await self._wait(
            lambda: run.live is None and run.state in FINAL,
            seconds_of(within),
            lambda: "the run has not ended",
            run.explain,
        )

    def explain_open(self) -> str:
        """The runs that have not ended, as trees."""
        opened = self._world().engine.runtime.open.values() if self._world().begun else ()
        trees = self._trees(run.cid for run in opened)
        return f"runs that have not ended:\n{trees}" if trees else ""

    def _trees(self, cids: Iterable[str]) -> str:
        return "\n".join(Run(self._world(), cid).explain() for cid in list(cids)[-SHOWN:])

    async def _wait(
        self,
        condition: Callable[[], object],
        seconds: float,
        what: Callable[[], str],
        trees: Callable[[], str] = str,
    ) -> None:
        """Wait for a condition; what is raised has the trees in it and none of the lines of what waits here."""
        __tracebackhide__ = True
        try:
            await self.loop.wait_until(condition, seconds)
        except Deadlock as deadlock:
            more = trees() or self.explain_open()
            raise Deadlock(f"{deadlock}\n{more}") from None
        except _EndedOtherwise as ended:
            raise NotReached(f"{what()}: {ended}:\n{trees()}") from None
        except NotReached:
            more = trees()
            late = f"{what()} within {seconds:g} s of virtual time (for more, say within=…)"
            raise NotReached(f"{late}:\n{more}" if more else late) from None

    def _check_named(self, run: Run, step: str | None, state: str | None) -> None:
        """Raise ``ValueError`` for a step or a state that there is none of: that is the test's own mistake."""
        known = [one.value for one in (RunState if step is None else StepState)]
        if state is None:
            raise ValueError(f"say which state to wait for: state={known[1]!r}; there are: {', '.join(known)}")
        if state not in known:
            whose = "a run" if step is None else "a step"
            raise ValueError(f"{whose} has no state {state!r}{near(state, known)}; there are: {', '.join(known)}")
        steps = self._steps_of(run)
        if step is not None and steps and step not in steps:
            raise ValueError(f"{run.task_name} has no step {step!r}{near(step, steps)}; there are: {', '.join(steps)}")

    def _steps_of(self, run: Run) -> list[str]:
        """The names of a run's steps, those of its handlers included; none if its plan is not served any more."""
        record = run.record
        try:
            tasks = self._world().plan_of(record.plan_name).tasks
        except RequestError:
            return []
        return [step.name for step in tasks[record.task_name].all_steps()] if record.task_name in tasks else []


class _EndedOtherwise(Exception):
    """The run has ended and was not in that state when it was looked at."""


def _in_state(run: Run, step: str | None, state: str | None) -> Callable[[], bool]:
    def reached() -> bool:
        now = run.state
        if step is None:
            found = now
        else:
            known = run.steps.get(step)
            found = known.state if known is not None else StepState.PENDING
        if found == state:
            return True
        if now in FINAL:
            hint = "" if state in FINAL else "; what is too quick to be seen has to last: takes=…"
            raise _EndedOtherwise(f"the run has ended, {f'step {step}' if step else 'it'} is {found}{hint}")
        return False

    return reached


def seconds_of(said: float | str) -> float:
    """Virtual seconds.

    Raises:
        ValueError: that is no time that can pass.
    """
    seconds = said if isinstance(said, int | float) else float(parse_duration(said))
    if not 0 <= seconds < math.inf:  # also what is no number
        raise ValueError(f"{said!r} is no time that can pass")
    return seconds


def _marks_of(runs: Iterable[LiveRun]) -> set[str]:
    """The runs, and what stands at the beginning of all that led to them: a ``cid``, or an event's id.

    An event that wakes a run gives it another beginning.
    """
    ours = {mark for run in runs for mark in (run.cid, run.accepted.root_cid, run.chain and run.chain.root)}
    return {mark for mark in ours if mark}
