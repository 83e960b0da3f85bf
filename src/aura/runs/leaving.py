"""How victims leave: when many are stopped at once each gives its place back first, and is sealed when all have.

Theory of operation. To decide and write down what a victim has come to is half of what it costs to stop it. The place
and the resources of the others need not wait for that. So one of many of which nothing runs any more gives back what it
has, at once; it is *gone* (``LiveRun.gone_at``). It is sealed when a turn of the loop has passed in which no other one
has gone, so many in each turn, in the order in which they went.

Until then it is ``stopping``, as if its clean-up took that long: its firing awaits it, so its handler's start stands
behind its row as ever, and the end of the engine waits for it too. It cannot start, since it stands in no lane. A stop
that ends it seals it first (``stops``): only one that rests can be started for the handlers of its ending.

It is not put off for ever: each turn in which others go there are fewer of them, and none comes back before its seal.
One that is alone, that has sub-tasks, or that does not come back is sealed at once.

What a crash does: its row says ``running``, as with any victim whose clean-up has not ended.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import copy_context

from aura.lifecycle import RunState
from aura.runs.liverun import LiveRun
from aura.runs.seal import Seal

#: How many of those that are gone are sealed in one turn of the loop, so that others have theirs.
SEALED_AT_ONCE = 100


class Leaving:
    """Ends the runs whose bodies have ended. ``vacate`` gives back what a run has that is sealed later."""

    def __init__(self, seal: Seal, vacate: Callable[[LiveRun], object]) -> None:
        self._seal = seal
        self._vacate = vacate
        self._gone: deque[LiveRun] = deque()
        #: How many have ever gone ahead of their seal.
        self._count = 0
        #: In which they are sealed: not that of the first of them.
        self._context = copy_context()

    def leave(self, run: LiveRun) -> None:
        """Seal a run of which nothing runs any more; one of many victims only gives back what it has, for now."""
        if not _is_one_of_many(run):
            self._seal.seal(run)
            return
        self._seal.stop_timers(run)
        loop = asyncio.get_running_loop()
        run.gone_at = loop.time()
        self._gone.append(run)
        self._count += 1
        if len(self._gone) == 1:
            loop.call_soon(self._look, self._count, context=self._context)
        self._vacate(run)  # last: it is sealed whatever becomes of this

    def _look(self, before: int) -> None:
        """Seal those that are gone, unless more of them have gone since the last look."""
        try:
            if self._count == before:
                self.seal_gone(SEALED_AT_ONCE)
        finally:
            if self._gone:
                asyncio.get_running_loop().call_soon(self._look, self._count, context=self._context)

    def seal_gone(self, at_most: int | None = None) -> None:
        """Seal the first of those that are gone, or all."""
        for _ in range(min(at_most or len(self._gone), len(self._gone))):
            run = self._gone.popleft()
            if run.gone_at is not None:  # else a stop has sealed it already
                self._seal.seal(run)


def _is_one_of_many(run: LiveRun) -> bool:
    """Whether a run is to come back that a firing has stopped, and is not the only one that this waits for."""
    if run.stopped_by is None or len(run.stopped_by.awaited) < 2 or run.ending is not RunState.PREEMPTED:
        return False
    return run.parent is None and not (run.children or run.sealed or run.stuck or run.fault)
