"""Retries: whether an attempt that is over is followed by another, and after how long.

It owns that decision and nothing else: ``perform`` asks about a result, ``conclude`` about a failure, and ``conclude``
waits. Without ``when`` a failure is followed by another try if ``errors`` allows it; with ``when`` that alone decides,
about results too. When the tries are used up nothing is asked: the last failure stands, and the last result counts.

A try that would come when the time of the run, or of one that it is part of, is over is not begun: what would only be
cut off again ends now, as it is. Nobody asks for the time of a run that is being stopped: whether it comes back is the
seal's to say.
"""

import asyncio
import random
from typing import Any

from aura.clock import Clock
from aura.graph import Progress
from aura.run import MAX_DELAY, Failure
from aura.runs.deadline import awaited_deadline_of, deadline_of
from aura.runs.liverun import LiveRun
from aura.runs.scope import scope_for
from aura.runs.stops import withheld
from aura.task import Retry
from aura.wait import SHORTEST

#: How long a server may ask to be left alone (``Retry-After``) where no ``max_delay`` is given, in seconds.
MAX_RETRY_AFTER = 3600.0


def wait_before_next(
    run: LiveRun, progress: Progress, clock: Clock, *, result: Any = None, failure: Failure | None = None
) -> float | None:
    """Seconds until the next try, after one that gave ``result`` or ended as ``failure``; None if there is none.

    Raises:
        ExpressionError: ``when`` has no value.
    """
    retry = progress.step.retry
    if failure is None and retry.when is None:
        return None
    if progress.attempt >= retry.attempts or not run.graphs[run.phase].goes_on(progress):
        return None
    if not _is_wanted(run, progress, clock, result, failure):
        return None
    delay = delay_before(retry, progress.attempt + 1)
    if failure is not None and failure.retry_after is not None:
        delay = max(delay, min(failure.retry_after, MAX_RETRY_AFTER if retry.max_delay is None else retry.max_delay))
    waits = delay >= SHORTEST and run.may_wait
    left = (awaited_deadline_of(run) if waits else deadline_of(run)) - asyncio.get_running_loop().time()
    if delay < left or withheld(run):
        return delay
    time = f"the next try would begin in {delay:g} s, and there are {max(0.0, left):.3g} s left"
    run.logger(progress.name, progress.attempt).warning(f"step {progress.key} is not tried again: {time}")
    return None


def _is_wanted(run: LiveRun, progress: Progress, clock: Clock, result: Any, failure: Failure | None) -> bool:
    retry = progress.step.retry
    if retry.when is not None:
        error = failure.shown() if failure else None
        return retry.when.test({**scope_for(run, progress, clock), "result": result, "error": error})
    assert failure is not None
    return not retry.errors or not retry.errors.isdisjoint((failure.type, *failure.bases))


def delay_before(retry: Retry, attempt: int) -> float:
    """Seconds before try number ``attempt``, counted from 1; with jitter from half of that to all of it."""
    try:
        delay = retry.delay * retry.backoff ** (attempt - 2)
    except OverflowError:
        delay = MAX_DELAY
    delay = min(delay, MAX_DELAY if retry.max_delay is None else retry.max_delay)
    return delay * random.uniform(0.5, 1.0) if retry.jitter else delay  # noqa: S311 - it keeps tries apart, no secrets
