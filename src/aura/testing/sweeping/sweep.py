"""Runs a task once for each of its points, and stops it there: by a cancel, or by whatever else may come.

A sweep first does the task as it is and notes its points (``points``). Then it does it again for each of them, in a
world of its own, stops it exactly there (``sweptrun``, ``ways``), and looks at what came of it (``report``).
The modules of the plan are imported anew for each: what they remember is theirs.

A task may have thousands of points. ``max_points`` bounds how many are tried: first the first visit of each line in
each step, then others at random, by ``seed``, so that the same sweep tries the same ones.
"""

import asyncio
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from aura.testing.sweeping.points import Point
from aura.testing.sweeping.report import RESULT, Finding, judge, of_leak, told
from aura.testing.sweeping.sweptrun import Setting, Setup, Undisturbed, in_world, run_stopped, run_undisturbed
from aura.testing.sweeping.ways import Way, way_of

#: How many points are tried unless a sweep says otherwise.
MAX_POINTS = 1_000
#: Of how many points it is no matter that the run does not come to them again: one in so many.
ONE_IN = 10
#: Real seconds between two lines that say how far a sweep is.
TELL_EVERY = 5.0


class Sweep:
    """What came of a sweep. ``points`` are all of the task, ``tried`` those at which it was stopped."""

    def __init__(self, setting: Setting, way: Way, seed: int, undisturbed: Undisturbed) -> None:
        self._setting = setting
        self._way = way
        self._seed = seed
        self._undisturbed = undisturbed
        self.points = [point for point in undisturbed.points if way.fits(point)]
        self.tried: list[Point] = []
        #: Those of them that the run did not come to again: it does not do the same each time.
        self.unreached: list[Point] = []
        self.findings = [of_leak(None, leak) for leak in undisturbed.seen.leaks]

    def __repr__(self) -> str:
        return f"<Sweep {self._head()}>"

    def report(self) -> str:
        """What was tried, and all that was found, as text."""
        return "\n".join([self._head(), *told(self._way, self.findings), *self._unreached()])

    def assert_clean(self) -> None:
        """Fail with the await points unless every run that was stopped has cleaned up and ended as it must.

        That is: each `finally` step has run, nothing is left, no clean-up failed or was cut off, no cancellation was
        swallowed, and the run has ended in a state that it may have then.
        """
        __tracebackhide__ = True
        self._assert([finding for finding in self.findings if finding.kind != RESULT])

    def assert_same_result(self) -> None:
        """Fail with the await points unless every run has also come to what it comes to when nobody stops it.

        That is its state, its result, and what the plan remembers.

        Raises:
            ValueError: what is stopped so does not come back.
        """
        __tracebackhide__ = True
        recovery = self._undisturbed.task.recovery
        if not self._way.brings_back(recovery, self._undisturbed.then):
            why = f" with recovery: {recovery}" if self._way.word in ("shutdown", "crash") else ""
            raise ValueError(f"a run that was {self._way.said}{why} does not go on: ask for assert_clean")
        self._assert(self.findings)

    def _assert(self, findings: Sequence[Finding]) -> None:
        __tracebackhide__ = True
        lines = told(self._way, findings)
        if len(self.unreached) * ONE_IN > len(self.tried):
            lines += self._unreached()
        if lines:
            raise AssertionError("\n".join([self._head(), *lines]))

    def _head(self) -> str:
        name = f"{self._setting.plan.name}/{self._setting.task}"
        tried, known = f"{len(self.tried):,}", f"{len(self.points):,}"
        how_many = f"{known} points" if tried == known else f"{tried} of {known} points, seed {self._seed}"
        return f"{name} was {self._way.said} at {how_many}; findings: {len(self.findings)}"

    def _unreached(self) -> list[str]:
        if not self.unreached:
            return []
        few = ", ".join(map(str, self.unreached[:3]))
        return [
            f"{len(self.unreached)} of {len(self.tried)} points were not reached again, such as {few}: "
            "the task does not do the same each time"
        ]


def sweeper(plan: Path, others: Sequence[Path] = ()) -> Callable[..., Sweep]:
    """Give what sweeps tasks of a plan."""

    def sweep(
        task: str,
        *,
        inputs: Mapping[str, Any] | None = None,
        fakes: Mapping[str, Mapping[str, Any]] | None = None,
        services: Mapping[str, Any] | None = None,
        vars: Mapping[str, Any] | None = None,
        secrets: Mapping[str, str | None] | None = None,
        state: Mapping[str, Any] | None = None,
        allow: Sequence[str] = (),
        by: str = "cancel",
        max_points: int | None = None,
        seed: int = 0,
        begin: str | datetime | None = None,
        setup: Setup | None = None,
        expect: str = "succeeded",
        finishes: Sequence[str] = (),
    ) -> Sweep:
        """Run a task once for each of its points, stop it there, and see what comes of it.

        ``by``: ``cancel``, ``timeout``, ``pause``, ``interrupt:RULE``, ``shutdown`` or ``crash``. ``fakes`` are the
        keys of ``world.fake`` by name; ``services``, ``vars``, ``secrets``, ``state`` and ``allow`` as for a world, and
        ``begin`` the time at which each begins. ``setup``: an async function of ``(world, run)`` that goes on beside.
        ``expect``: as what the run ends that nobody stops. ``finishes``: steps that mean to end though they are
        cancelled. ``max_points`` are tried at most, 1,000 if it is not said.

        Raises:
            ValueError: ``by`` or ``max_points`` means nothing. RequestError: there is no such task, input or rule.
            AssertionError: the run that nobody stops does not end as expected. Deadlock: it does not end.
            RuntimeError: the test is async.
        """
        __tracebackhide__ = True
        way = way_of(by)
        _check(max_points)
        setting = Setting(
            plan=plan,
            others=others,
            task=task,
            inputs=inputs or {},
            fakes=fakes or {},
            services=services or {},
            vars=vars or {},
            secrets=secrets or {},
            state=state or {},
            allow=allow,
            begin=begin,
            setup=setup,
            finishes=finishes,
        )
        made = Sweep(setting, way, seed, in_world(run_undisturbed, setting, way, expect))
        _try_all(made, setting, way, sample(made.points, MAX_POINTS if max_points is None else max_points, seed))
        return made

    return sweep


def _check(max_points: int | None) -> None:
    if max_points is not None and max_points < 1:
        raise ValueError(f"max_points is {max_points}: a sweep tries at least one point")
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError("a sweep opens worlds of its own: make its test a plain `def`, not `async def`")


def sample(points: Sequence[Point], most: int, seed: int) -> list[Point]:
    """So many of the points, in their order: the first visit of each line in each step, then others at random."""
    if len(points) <= most:
        return list(points)
    first: dict[tuple[str, str, str], int] = {}
    for number, point in enumerate(points):
        first.setdefault((point.step, point.line, point.at), number)
    chance = random.Random(seed)  # noqa: S311 - no secret
    chosen = list(first.values())
    if len(chosen) > most:
        chosen = chance.sample(chosen, most)
    rest = sorted(set(range(len(points))) - set(chosen))
    chosen += chance.sample(rest, most - len(chosen))
    return [points[number] for number in sorted(chosen)]


def _try_all(made: Sweep, setting: Setting, way: Way, points: Sequence[Point]) -> None:
    teller = _Teller(len(points))
    for point in points:
        seen = run_stopped(setting, way, point, made._undisturbed.lasted)
        made.tried.append(point)
        if seen is None:
            made.unreached.append(point)
        else:
            made.findings += judge(way, point, made._undisturbed, seen)
        teller.tell(len(made.tried), len(made.findings))


class _Teller:
    """Says on the terminal, if there is one, how far a long sweep is."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._next = time.monotonic() + TELL_EVERY
        terminal = sys.__stderr__
        self._terminal = terminal if terminal is not None and terminal.isatty() else None

    def tell(self, done: int, found: int) -> None:
        if self._terminal is not None and time.monotonic() >= self._next:
            self._next = time.monotonic() + TELL_EVERY
            print(f"\nsweep: {done:,} of {self._total:,} points, {found} findings", file=self._terminal, flush=True)
