"""A life: one start of a server within a world, which can be frozen as a crash leaves it.

Theory of operation. Everything that a server does on the loop carries its life in its context: each child that it
starts inherits that, and so does every callback and every timer. A *frozen* life does nothing any more: what the loop
is asked to call for it is parked instead, and what was ready, timed or read for it is taken off the loop. Its clean-up
does not run, its answers reach nobody, its timers never strike: as after ``kill -9``, and unlike after a cancellation.
Only its threads compute on, to no effect on the loop, and its child processes, until the next start ends them; no time
waits for either. What it wrote to disks stays.

Nothing of it can be thrown away either: a coroutine that is collected runs its ``finally``. So at the end of the world
a frozen life is *thawed*: what was parked is called in its order, and the old server stops as any server does. A test
has seen its last of it then.

The children of a life are known from the moment in which they are made, so that whoever names what everyone waits for
does not name those of a frozen one.
"""

import asyncio
import heapq
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from aura.processes import leftovers

if TYPE_CHECKING:
    from aura.testing.virtual_time import VirtualLoop


class Life:
    """One start of a server. Everything made within ``context`` is part of it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.frozen = False
        self.context: Context = copy_context()
        self.context.run(LIFE.set, self)
        self.children: WeakSet[asyncio.Task[Any]] = WeakSet()
        self._parked: list[asyncio.Handle] = []
        self._timers: list[asyncio.TimerHandle] = []
        self._files: list[tuple[Any, int, Any]] = []
        #: The child processes that Aura waits for, as it was frozen: nobody does now.
        self.processes: frozenset[int] = frozenset()

    def __repr__(self) -> str:
        return f"<life {self.number}>"

    def park(self, handle: asyncio.Handle) -> None:
        """Keep what the loop would have called."""
        if isinstance(handle, asyncio.TimerHandle):
            self._timers.append(handle)
        else:
            self._parked.append(handle)

    def freeze(self, loop: "VirtualLoop") -> None:
        """Take all that is its own off the loop; nothing of it goes on."""
        self.frozen = True
        self.processes = frozenset(leftovers.awaited)  # of it, and of lives that are frozen already
        ready, timers = loop.ready_handles, loop.timer_handles
        nothing = asyncio.Handle(bool, (), loop, Context())
        nothing.cancel()
        for place, handle in enumerate(list(ready)):  # a copy: threads may add to it meanwhile
            if life_of(handle) is self:
                self._parked.append(handle)
                ready[place] = nothing  # the loop, which is within a turn, has counted how many it will call
        self._timers += [timer for timer in timers if life_of(timer) is self]
        for timer in self._timers:
            timer._scheduled = False  # type: ignore[attr-defined]  # asyncio's own: it is not in the heap
        timers[:] = [timer for timer in timers if life_of(timer) is not self]
        heapq.heapify(timers)
        self._files = loop.take_files(lambda handle: life_of(handle) is self)

    def thaw(self, loop: "VirtualLoop") -> None:
        """Let it go on from where it was."""
        self.frozen = False
        self.processes = frozenset()
        for timer in self._timers:
            if not timer.cancelled():
                timer._scheduled = True  # type: ignore[attr-defined]  # it is again
                heapq.heappush(loop.timer_handles, timer)
        loop.give_files(self._files)
        loop.ready_handles.extend(handle for handle in self._parked if not handle.cancelled())
        self._parked, self._timers, self._files = [], [], []


#: The life that whoever asks is part of; None outside of all.
LIFE: ContextVar[Life | None] = ContextVar("aura_life", default=None)


def life_of(handle: asyncio.Handle) -> Life | None:
    """The life that a callback or a timer is part of."""
    context: Context = handle._context  # type: ignore[attr-defined]  # asyncio's own
    return context.get(LIFE)
