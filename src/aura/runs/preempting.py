"""How a run may be stopped to come back: now, when the steps that run have ended, or not at all.

What a step says counts while a try of it runs, or, if it loops, one of its items; else its task's word does. Each of
several that run at once is stopped as it says; but while one of them says ``never`` none is. A step that waits for
sub-tasks is stopped as carefully as what runs of them: they come to rest first, and it after them. If it is to end by
itself, so are they, and they are not told.

It decides nothing of when: ``stops`` tells attempts, and ``children`` what they wait for.
"""

from aura.lifecycle import RunState
from aura.runs.attempt import Attempt
from aura.runs.liverun import LiveRun
from aura.task import Preempt

_CAREFUL = (Preempt.NOW, Preempt.AT_STEP_END, Preempt.NEVER)


def preempt_of(run: LiveRun) -> Preempt:
    """How a run may be stopped as it stands: as the most careful of what runs of it."""
    said = [preempt_of_attempt(run, attempt) for attempt in run.live.values()]
    if (graph := run.graphs.get(run.phase)) is not None and graph.looping:
        said += [Preempt.NEVER for loop in graph.looping.values() if loop.step.preempt is Preempt.NEVER]
    return max(said, key=_CAREFUL.index, default=_of_task(run))


def preempt_of_attempt(run: LiveRun, attempt: Attempt) -> Preempt:
    """How an attempt may be stopped, for what runs of the sub-tasks that it waits for as well."""
    if not run.children:  # of a thousand that are stopped at once this is asked twice each
        return said_of(run, attempt)
    below = [child for child in run.children.get(attempt.step.key, ()) if child.state is RunState.RUNNING]
    return max((said_of(run, attempt), *map(preempt_of, below)), key=_CAREFUL.index)


def said_of(run: LiveRun, attempt: Attempt) -> Preempt:
    """What the step of an attempt says, or else its task."""
    return attempt.step.step.preempt or _of_task(run)


def _of_task(run: LiveRun) -> Preempt:
    return run.task.preempt if run.task else Preempt.NOW
