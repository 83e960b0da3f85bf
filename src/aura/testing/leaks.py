"""What a run leaves behind: processes, threads, temporary files, open files, children, locks, resources, places.

Theory of operation. ``watch_leaks`` takes down what is there, has an audit hook note where things are made, and puts a
private folder in place of the system's one for temporary files. When a run has ended, ``Leaks.found`` looks at what is
there that was not before. Each kind has a detector (``detectors``); what is Aura's own, or belongs to a service that is
still open, is none.

A world that begins only now opens files and starts threads of its own. So what was there before is taken down once more
when its first attempt is about to begin, if the world had not begun when the watch did.

A thing that ends by itself within a moment, such as a process that was killed, is no leak. So as long as there is one
that may still go, a process or a thread, it looks again, for at most ``patience`` real seconds; with nothing there it
does not wait. No virtual time passes. Of open files it looks again after a run of the collector: one that nobody holds
any more is closed by that.

At the end of the watch the processes that were found are killed, and the temporary files removed. Threads, children and
open files stay: nobody can end them from outside.

One watch at a time: the folder for temporary files is the process's. A watch costs 1 to 2 ms when nothing is left.
"""

import asyncio
import gc
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from aura.engine.engine import Engine
from aura.testing.detectors.detector import Detector
from aura.testing.detectors.detector import Leak as Leak
from aura.testing.detectors.files import OpenFiles, TemporaryFiles
from aura.testing.detectors.inside import Children, Holdings
from aura.testing.detectors.locks import Locks
from aura.testing.detectors.makings import Makings
from aura.testing.detectors.processes import Processes
from aura.testing.detectors.threads import Threads
from aura.testing.run import Run

if TYPE_CHECKING:
    from aura.testing.world import World

#: Real seconds for which what may end by itself is given time to.
PATIENCE = 0.5
#: Real seconds between two looks.
PAUSE = 0.005
#: Turns of the loop that children which are ending get.
TURNS = 30
#: What may go without the loop; the others are waited for no longer.
_GOES_BY_ITSELF = ("process", "thread")


class Leaks:
    """What a watch finds. Made by ``watch_leaks``."""

    def __init__(self, world: "World", patience: float) -> None:
        self._world = world
        self._patience = patience
        self._makings = Makings()
        #: Whether the world had begun when what is there was taken down.
        self._is_complete = world.begun
        self._detectors: list[Detector] = [
            Processes(self._makings),
            Threads(lambda: world.engine.runtime, self._makings),
            Children(world.loop, lambda: world.engine),
            Locks(self._engine),
            Holdings(lambda: world.engine),
            OpenFiles(self._makings, world.settings.data, self._has_services),
            TemporaryFiles(self._makings),
        ]

    async def found(self, run: Run | None = None) -> list[Leak]:
        """What is left now that a run has ended, in the order of the kinds above; an open run's own is none.

        Takes up to ``patience`` real seconds while something is there, and no virtual time.

        Raises:
            RuntimeError: the run has not ended, and is not stuck.
        """
        if run is not None and run.live is not None and not run.live.stuck:
            raise RuntimeError(f"the run is {run.state}: what it leaves can be told when it has ended")
        until = time.monotonic() + self._patience
        left = await self._look()
        if any(leak.kind == "open file" for leak in left):
            gc.collect()
            left = await self._look()
        while any(leak.kind in _GOES_BY_ITSELF for leak in left) and time.monotonic() < until:
            time.sleep(PAUSE)  # noqa: ASYNC251 - the loop waits too: no virtual time passes
            left = await self._look()
        return left

    async def _look(self) -> list[Leak]:
        """Look; if anything is there once more, when children that are ending have had their turns."""
        await asyncio.sleep(0)
        left = self._left()
        if left:
            for _ in range(TURNS):
                await asyncio.sleep(0)
            left = self._left()
        return left

    def _left(self) -> list[Leak]:
        return [leak for detector in self._detectors for leak in detector.left()]

    # -- the watch

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch inside."""
        interception = self._world.interception
        former = interception.marks, interception.on_begin
        with ExitStack() as stack:
            stack.callback(self._makings.close)
            self._makings.begin()
            for detector in self._detectors:
                stack.callback(detector.close)
            self._take_down()
            interception.marks, interception.on_begin = True, self._note_begin
            try:
                yield
            finally:
                interception.marks, interception.on_begin = former

    def _note_begin(self) -> None:
        if not self._is_complete:
            self._is_complete = True
            self._take_down()

    def _take_down(self) -> None:
        for detector in self._detectors:
            detector.begin()

    def _engine(self) -> Engine | None:
        return self._world.engine if self._world.begun else None

    def _has_services(self) -> bool:
        return any(True for _ in self._world.engine.runtime.services.opened())


@contextmanager
def watch_leaks(world: "World", patience: float = PATIENCE) -> Iterator[Leaks]:
    """Watch what runs of a world leave behind, from now on.

    Use it within the time of the world. ``patience`` is in real seconds.
    """
    leaks = Leaks(world, patience)
    with leaks.watching():
        yield leaks
