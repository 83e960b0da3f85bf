"""Holds: which runs may not start, since a firing of an interrupt rule is open.

Theory of operation. A hold *is* the open firing: there is no counter to get wrong, and no list of what is held. Whoever
would start a run asks (``admits``) each time, and asks again when a firing has ended.

- A firing covers a run that fits all of its rule's ``preempts``, or that it has stopped itself. Of a tree of sub-tasks
  the topmost run that fits counts, and what is below goes with it.
- Runs whose root cause is the firing are exempt: its handler may start some, and wait for them. So is what was spared.
- A sub-task starts in the place of the run that is covered while that has it: the last of a step that may end, or of
  its clean-up. Whether it still may start any is that run's own affair (``children``).
- Who holds what the first handler waits for goes on, so that not both wait for ever (``dispatcher``).
- Handlers form one stack: only that of the first open firing may start, in the order of priority, then of firing.

While nothing is open, asking costs one look at a list. What a crash does: open firings are rows; ``interrupts`` opens
them again.
"""

from bisect import insort
from collections.abc import Iterator
from fnmatch import fnmatchcase

from aura.interrupt import Preempts, Terms
from aura.lifecycle import PLACED
from aura.runs.firing import Firing
from aura.runs.liverun import LiveRun


class Holds:
    """The open firings, the most urgent first."""

    def __init__(self) -> None:
        self.open: list[Firing[LiveRun]] = []

    def add(self, firing: Firing[LiveRun]) -> None:
        """Hold what a firing covers, from now on."""
        insort(self.open, firing, key=_urgency)

    def remove(self, firing: Firing[LiveRun]) -> None:
        """Hold it no more. Harmless if it is not held."""
        if firing in self.open:
            self.open.remove(firing)

    def admits(self, run: LiveRun) -> bool:
        """Say whether a run may start, or go on, now."""
        if not self.open:
            return True
        if run.firing is not None:
            return self.open[0] is run.firing and run.firing.ready
        return not any(keeps(firing, run) for firing in self.open)

    def closes(self, lane: str) -> bool:
        """Say whether nothing of a lane may start but what is exempt: it need not be looked through."""
        return any(lane in one.terms.preempts.lanes and _covers_all(one.terms) for one in self.open)

    def over(self, run: LiveRun) -> list[Firing[LiveRun]]:
        """The firings that keep a run from starting; what is shown of it."""
        if run.firing is not None:
            return [] if self.admits(run) else self.open[:1]
        return [firing for firing in self.open if keeps(firing, run)]


def keeps(firing: Firing[LiveRun], run: LiveRun) -> bool:
    """Say whether a firing keeps a run from starting."""
    if run.stopped_by is firing:
        return True
    top = _covered(firing, run)
    return top is run or (top is not None and top.state not in PLACED)


def covers(firing: Firing[LiveRun], run: LiveRun) -> bool:
    """Say whether a firing covers a run, by itself or as a part of another one."""
    return run.stopped_by is firing or _covered(firing, run) is not None


def _covered(firing: Firing[LiveRun], run: LiveRun) -> LiveRun | None:
    """The topmost run that a firing covers, of a run and those that it is a part of."""
    if run.accepted.root_cid == firing.cid:
        return None
    top = topmost(firing.terms, run)
    return None if top in firing.spared else top


def topmost(terms: Terms, run: LiveRun) -> LiveRun | None:
    """The topmost run that fits, of a run and those that it is a part of; None if none does."""
    found = None
    each: LiveRun | None = run
    while each is not None:
        if fits(terms, each):
            found = each
        each = each.parent
    return found


def fits(terms: Terms, run: LiveRun) -> bool:
    """Say whether a run fits everything in ``preempts``. A handler never does: its lane cannot be named."""
    wanted: Preempts = terms.preempts
    return (
        run.lane in wanted.lanes
        and run.priority < wanted.below_priority
        and terms.plan_name in (None, run.plan_name)
        and _named(wanted.plans, run.plan_name)
        and _named(wanted.tasks, run.task_name)
        and (not wanted.labels or wanted.labels.items() <= run.accepted.labels.items())
    )


def active_below(run: LiveRun) -> Iterator[LiveRun]:
    """The sub-tasks of a run that have not ended, those of sub-tasks included, each before what is below it."""
    for children in run.children.values():
        for child in children:
            yield child
            yield from active_below(child)


def _named(patterns: tuple[str, ...], name: str) -> bool:
    return "*" in patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


def _covers_all(terms: Terms) -> bool:
    wanted = terms.preempts
    everything = "*" in wanted.plans and "*" in wanted.tasks and not wanted.labels
    return everything and wanted.below_priority > 1000 and terms.plan_name is None


def _urgency(firing: Firing[LiveRun]) -> tuple[int, int]:
    return (-firing.priority, firing.id)
