"""The points of a run at which it can be stopped, and how they are named.

A point is where something of the run is suspended: a step that is about to begin, an await of a step or of a child that
its action has started, or a wait on record, in which nothing of the run is in memory but its record. It is named by the
step, its item and attempt, the line, and the how manieth visit of all these it is; never by a number in the run, since
that is another one as soon as anything else changes. The line is the innermost of the plan's own code, and that of the
step in its file where no code of the plan is awaiting: in shipped actions, fakes and waits.

``Points`` names them as they come (a ``following.Follower``); what is to be done at one is for who made it. It knows
the run by its task: it is the first that was asked for from outside. A run's sub-tasks are a part of it; what it has
started with ``ctx.start`` is not.
"""

from collections import Counter
from collections.abc import Callable
from enum import StrEnum

import msgspec

from aura.graph import ItemProgress, Progress
from aura.lifecycle import RunState
from aura.runs.attempt import Attempt
from aura.runs.liverun import LiveRun
from aura.testing.sweeping.following import Followed


class At(StrEnum):
    """What is suspended at a point."""

    #: A step whose start is on record, before its first line.
    BEGINNING = "beginning"
    #: Code, at an await.
    AWAIT = "await"
    #: The run, which is ``waiting``.
    WAIT = "wait"


class Point(msgspec.Struct, frozen=True):
    """One point. Two runs that do the same have the same points.

    ``step`` is the step's name, before it those that it is a sub-task of: ``parts > fetch``; ``item`` the index of a
    loop's. ``line`` is ``file:line``; ``visit`` counts from 1. ``in_clean_up``: in a handler with a time of its own.
    """

    step: str
    item: int | None
    attempt: int
    line: str
    visit: int
    at: At = At.AWAIT
    in_clean_up: bool = False

    def __str__(self) -> str:
        name = self.step if self.item is None else f"{self.step}[{self.item}]"
        what = {At.BEGINNING: ", its beginning", At.WAIT: ", waiting"}.get(self.at, "")
        tries = f", attempt {self.attempt}" if self.attempt > 1 else ""
        visits = f", {ordinal(self.visit)} visit" if self.at is not At.BEGINNING else ""
        return f"{self.line} (step {name}{tries}{what}{visits})"


def ordinal(number: int) -> str:
    """``1st``, ``2nd``, ``3rd``, ``11th``."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


class Points:
    """Names the points of one run as it comes to them.

    ``reached`` is asked at each whether what is suspended there is to be held; of a wait there is nothing to hold.
    """

    def __init__(self, plan_name: str, task_name: str, reached: Callable[[Point, Followed | None], bool]) -> None:
        self._wanted = plan_name, task_name
        self._reached = reached
        self._visits: Counter[tuple[str, int | None, int, str, At]] = Counter()
        self._waits = False
        #: The run, from its first step on.
        self.run: LiveRun | None = None

    # -- what a follower is told

    def begins(self, one: Followed) -> bool:
        return not one.is_child and self._is_part(one.attempt) and self._come(one, At.BEGINNING)

    def suspended(self, one: Followed) -> bool:
        return self._is_part(one.attempt) and self._come(one, At.AWAIT)

    def look(self) -> None:
        """Note the waits of a run that has begun to wait since the last look; to be asked after each turn."""
        run = self.run
        waits = run is not None and run.state is RunState.WAITING
        if waits and not self._waits and run is not None:
            for key in sorted(run.open_waits):
                progress = _find(run, key)
                if progress is not None:
                    self._reached(self._point(run, progress, At.WAIT, None), None)
        self._waits = waits

    # -- names

    def _is_part(self, attempt: Attempt) -> bool:
        """Whether an attempt is of the run, or of a sub-task of it."""
        if not isinstance(attempt.run, LiveRun):
            return False  # a poll's question is part of no run
        run = _root(attempt.run)
        if self.run is None and (run.plan_name, run.task_name) == self._wanted and run.accepted.cause.kind == "api":
            self.run = run
        return self.run is not None and run.cid == self.run.cid

    def _come(self, one: Followed, at: At) -> bool:
        run = one.attempt.run
        assert isinstance(run, LiveRun)
        line = one.stand().line if at is At.AWAIT else None
        return self._reached(self._point(run, one.attempt.step, at, line), one)

    def _point(self, run: LiveRun, progress: Progress, at: At, line: str | None) -> Point:
        item = progress.index if isinstance(progress, ItemProgress) else None
        known = (_path(run, progress.name), item, progress.attempt, line or str(progress.step.source), at)
        self._visits[known] += 1
        step, item, attempt, line, at = known
        return Point(step, item, attempt, line, self._visits[known], at, _root(run).bounded)


def _path(run: LiveRun, step: str) -> str:
    """A step's name, with those of the steps of the runs above it that wait for it."""
    names = [step]
    while run.parent is not None:
        key = next((key for key, children in run.parent.children.items() if run in children), run.task_name)
        names.append(key)
        run = run.parent
    return " > ".join(reversed(names))


def _root(run: LiveRun) -> LiveRun:
    while run.parent is not None:
        run = run.parent
    return run


def _find(run: LiveRun, key: str) -> Progress | None:
    try:
        return run.graphs[run.phase].find(key)
    except KeyError:
        return None
