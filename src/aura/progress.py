"""Tells those who follow a run that something new is to be said of its progress: four times a second at most.

Progress lives in the run alone, in memory (``LiveRun.progress``); here is only when followers look at it. What comes
while a run rests is told when the rest is over, so that the last of it is always told. A run that nobody follows costs
one look into a dictionary.
"""

import asyncio
import threading

from aura.journal import Journal

#: The least time between two tellings of one run, in seconds.
REST = 0.25


class ProgressBell:
    """Rings for the followers of runs. One for a server."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        #: The runs that rest, and whether there is something new of each.
        self._resting: dict[str, bool] = {}

    def ring(self, cid: str) -> None:
        """Have the followers of a run look at its progress soon. From any thread; does not wait."""
        if not self._journal.is_watched(cid):
            return
        with self._lock:
            is_first = cid not in self._resting
            self._resting[cid] = not is_first
        if is_first:
            try:
                self._loop.call_soon_threadsafe(self._tell, cid)
            except RuntimeError:  # the loop is closed: a thread that outlives it has nobody to tell
                return

    def _tell(self, cid: str) -> None:
        self._journal.nudge(cid)
        self._loop.call_later(REST, self._rested, cid)

    def _rested(self, cid: str) -> None:
        with self._lock:
            again = self._resting[cid]
            if again:
                self._resting[cid] = False
            else:
                del self._resting[cid]
        if again:
            self._tell(cid)
