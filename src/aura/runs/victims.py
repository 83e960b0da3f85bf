"""What a firing means for the runs that it has stopped, and for its handler: how they come back, and what is written.

A handler that a more urgent one displaces is a victim like any other, but it comes back whatever that one's rule says.
"""

import asyncio

from aura.interrupt import Then
from aura.lifecycle import FINAL, RunState
from aura.records.firings import end_firing, victim_gone
from aura.records.runs import together
from aura.run import PreemptedBy
from aura.runs.firing import Firing
from aura.runs.liverun import LiveRun
from aura.store import Unit

#: What becomes of a victim, or a handler, that does not end.
STUCK = "stuck"
#: What a run that was told to stop comes to without being stopped: it ended by itself, or nothing of it had begun.
_NOT_STOPPED = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.QUEUED})


def ends_for_good(firing: Firing[LiveRun], run: LiveRun) -> bool:
    """Whether a firing stops a run for good."""
    return firing.terms.then is Then.CANCEL and run.firing is None


def starts_over(firing: Firing[LiveRun], run: LiveRun) -> bool:
    """Whether a run that a firing has stopped starts over when it comes back."""
    return firing.terms.then is Then.RESTART and run.firing is None


def note_gone(run: LiveRun, outcome: RunState, now: float) -> Unit | None:
    """Note that a victim is gone, on the run, and give the unit that says so; None of one that no firing has stopped.

    ``now`` is in Unix seconds.
    """
    firings = [run.stopped_by] if run.stopped_by is not None else []
    if run.ended_by is not None and (run.stuck or outcome in FINAL):
        firings.append(run.ended_by)
    if not firings:
        return None
    if run.told_at is not None:  # else it came to this before it was told, or is gone already
        _note_stopped(run, firings[-1], outcome, now)
    said = STUCK if run.stuck else outcome.value
    return together([victim_gone(firing.id, run.seq, now, said) for firing in firings])


def _note_stopped(run: LiveRun, firing: Firing[LiveRun], outcome: RunState, now: float) -> None:
    assert run.told_at is not None
    cleanup_s = round(max(0.0, asyncio.get_running_loop().time() - since_gone(run) - run.told_at), 6)
    run.told_at = None
    if outcome not in _NOT_STOPPED or (outcome is RunState.QUEUED and firing.ended and starts_over(firing, run)):
        run.preempted_by = PreemptedBy(firing.plan_name, firing.rule, firing.cid, now - cleanup_s, cleanup_s)
        run.preemptions += 1


def since_gone(run: LiveRun) -> float:
    """Seconds since a run has given its place back, if it is sealed later than that."""
    return 0.0 if run.gone_at is None else asyncio.get_running_loop().time() - run.gone_at


def given_up(run: LiveRun, now: float) -> Unit | None:
    """The unit that says what it means for firings that a run is stuck; None if it means nothing.

    Of a victim that is its end, and so it is of a handler: whoever waits for either may wait for ever.
    """
    over = None if run.firing is None else end_firing(run.firing.id, now, STUCK)
    units = [unit for unit in (note_gone(run, run.state, now), over) if unit is not None]
    return together(units) if units else None


def ending_of(run: LiveRun, outcome: RunState, now: float) -> Unit | None:
    """The unit that ends the firing of a handler that ends; None of any other run."""
    return None if run.firing is None else end_firing(run.firing.id, now, outcome.value)
