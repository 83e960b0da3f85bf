"""Interpreters that have started already, so that a job need not wait for that: two at most, each for one job.

They are started in the background once a job has been given to one, and are let go when none has been given for
``IDLE_TIME``. A server keeps them by ``Warm.serve``; where nobody serves, such as in a world, there are none. They
carry the mark of their server's start from the beginning, and that of a run from the moment in which they get its job;
where the system cannot show that, there are none either.
"""

import anyio
import anyio.lowlevel

from aura.errors import ProcessDied
from aura.isolation.interpreter import Interpreter
from aura.isolation.messages import NOT_READY
from aura.processes import leftovers
from aura.processes.process import child_environment

#: How many are kept.
KEPT = 2
#: For how long after the last job they are, in seconds.
IDLE_TIME = 60.0
#: How long one may take until it is ready, in seconds.
READY_WITHIN = 30.0


class Warm:
    """What one server keeps. ``boot_tag`` is the mark of its start."""

    def __init__(self, boot_tag: str) -> None:
        self._boot_tag = boot_tag
        self._asked = anyio.Event()
        self.kept: list[Interpreter] = []

    def take(self) -> Interpreter | None:
        """Give one that waits for a job, if there is one; who takes it closes it. Another is started in its place."""
        self._asked.set()
        for interpreter in self.kept:
            if interpreter.child.returncode is None:
                self.kept.remove(interpreter)
                return interpreter
        return None

    async def serve(self) -> None:
        """Keep some whenever they were asked for lately. **Cancellation**: lets all go."""
        served = _served()
        served[self._boot_tag] = self
        try:
            while True:
                await self._asked.wait()
                self._asked = anyio.Event()
                await self._fill()
                with anyio.move_on_after(IDLE_TIME):  # this wait alone
                    await self._asked.wait()
                    continue
                await self._let_go()
        finally:
            del served[self._boot_tag]
            # The shield cannot hang: to let one go takes a bounded time.
            with anyio.CancelScope(shield=True):
                await self._let_go()

    async def _fill(self) -> None:
        """Start as many as are missing, one after the other, if the system gives them."""
        for ended in [one for one in self.kept if one.child.returncode is not None]:
            self.kept.remove(ended)
            await ended.let_go()
        while len(self.kept) < KEPT:
            try:
                started = await Interpreter.start(self._environment())
            except ProcessDied:  # the next job says so, if it fails to start one as well
                return
            if not await _is_ready(started):
                return
            self.kept.append(started)

    def _environment(self) -> dict[str, str]:
        return child_environment({leftovers.BOOT: self._boot_tag, leftovers.CID: NOT_READY}, {})

    async def _let_go(self) -> None:
        while self.kept:
            await self.kept.pop().let_go()


async def _is_ready(started: Interpreter) -> bool:
    """Wait until one is ready; let it go if it will not be, or cannot be marked later."""
    usable = False
    try:
        with anyio.move_on_after(READY_WITHIN):  # this wait alone
            await started.ready.wait()
            usable = started.may_be_marked
    finally:
        if not usable:
            await started.let_go()
    return usable


_by_boot: anyio.lowlevel.RunVar[dict[str, Warm]] = anyio.lowlevel.RunVar("aura.isolation.warm")


def _served() -> dict[str, Warm]:
    found = _by_boot.get(None)
    if found is None:
        found = {}
        _by_boot.set(found)
    return found


def take_warm(boot_tag: str) -> Interpreter | None:
    """Give an interpreter that the server of this start keeps, if it has one."""
    warm = _served().get(boot_tag)
    return warm.take() if warm is not None else None
