"""Processes that a run has left: whatever descends from this process, was not there before, and is alive.

It does not matter who started it: one that was started by the plan's own code carries no mark of Aura's. What Aura
waits for itself (``leftovers.awaited``), Python's own resource tracker, and what an open service has started are no
leaks. Who leaves its parent becomes a child of this process while a server adopts (``leftovers.adopting``).

``close`` kills those that were found.
"""

import os
import shlex
import signal

from aura.processes import leftovers
from aura.processes.leftovers import Seen, look_at, send
from aura.testing.detectors.detector import Leak
from aura.testing.detectors.makings import Makings, command_of

#: How many characters of a command line are shown.
SHOWN = 120
#: How many parents are asked for at most: nothing descends from itself, but numbers may be used again meanwhile.
_DEEPEST = 100
_TRACKER = "multiprocessing.resource_tracker"


class Processes:
    """Detects processes."""

    def __init__(self, makings: Makings) -> None:
        self._makings = makings
        self._known: set[int] = set()
        self._found: list[Seen] = []

    def begin(self) -> None:
        self._known = _numbers()

    def left(self) -> list[Leak]:
        new = [seen for pid in _numbers() - self._known if (seen := look_at(pid)) is not None and not seen.zombie]
        self._found = [seen for seen in new if self._is_left(seen)]
        found = {seen.pid for seen in self._found}
        return [self._leak(seen) for seen in self._found if seen.parent not in found]  # with all that is below them

    def close(self) -> None:
        for seen in self._found:
            send(seen, signal.SIGKILL)

    def _is_left(self, seen: Seen) -> bool:
        """Whether it is below this process, and below nothing that somebody still looks after."""
        ours, above = os.getpid(), seen
        for _ in range(_DEEPEST):
            if above.pid in leftovers.awaited or self._is_kept(above.pid):
                return False
            if above.parent == ours:
                return True
            parent = look_at(above.parent)
            if parent is None:
                return False
            above = parent
        return False

    def _is_kept(self, pid: int) -> bool:
        if pid in self._known:
            return False
        command = command_of(pid)
        made = self._makings.of_process(command)
        return (made is not None and made.by_service) or any(_TRACKER in word for word in command)

    def _leak(self, seen: Seen) -> Leak:
        command = command_of(seen.pid)
        made = self._makings.of_process(command)
        shown = shlex.join(command)[:SHOWN] or seen.name
        return Leak("process", f"{shown} (pid {seen.pid})", made.where if made else None)


def _numbers() -> set[int]:
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}
