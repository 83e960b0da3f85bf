"""The store of a world: in memory, and what is certain is written later, many units at once.

A commit makes a promise, and in memory nothing can break it. So a unit that cannot fail (``Ticket.certain``) is only
kept, and its statements run when somebody looks into the database, when a unit comes that may fail, or when there are
``MOST_KEPT``. In a year that nobody looks at this is one transaction for some eight runs instead of two for each, while
SQLite's code and pages are still in the processor's caches ("Worlds" in docs/figures.md).

If a unit that was certain fails it is a fault of Aura's own, and somebody was told that it is on record: who looks
next, or the server that writes next, gets that as an error.
"""

import sqlite3
from collections.abc import Sequence
from typing import Any

from aura.errors import StoreIOError
from aura.store import Execute, Ticket, commit_batch
from aura.stores.memory import MemoryBackend

#: How many units may be kept unwritten. With many more Python's collector finds so much that lives that it comes often.
MOST_KEPT = 32


class WriteBehind(MemoryBackend):
    """Keeps units in memory, and writes those that are certain when it has to."""

    def __init__(self, db: sqlite3.Connection | None = None) -> None:
        super().__init__(db)
        #: What is committed and not written, and what is being committed now, in its order.
        self._kept: list[Ticket] = []

    @property
    def execute(self) -> Execute:
        return self._look

    @property
    def connection(self) -> sqlite3.Connection:
        self._write()  # up to now: who keeps it does not see what is committed later
        return super().connection

    def commit_now(self, batch: Sequence[Ticket]) -> None:
        self._kept += batch
        if len(self._kept) >= MOST_KEPT or not all(map(_is_certain, batch)):
            self._write()

    def _look(self, sql: str, *values: Any) -> sqlite3.Cursor:
        self._write()
        return super().execute(sql, *values)

    def _write(self) -> None:
        """Write what is kept.

        Raises:
            StoreIOError: what somebody was told to be on record could not be written. Another ``StoreError``: nothing
            can be written now; what was told is kept until it can.
        """
        if not self._kept:
            return
        kept, told = self._kept, [ticket for ticket in self._kept if ticket.done]
        for ticket in told:
            ticket.error = None  # of an earlier try, which came to nothing as a whole
        self._kept = told  # if this one does: the store hands over its batch again
        commit_batch(self._db.cursor().execute, kept)  # the connection would make a cursor each time
        self._kept = []
        for ticket in told:
            if ticket.error is not None:
                raise StoreIOError(f"a unit that was certain has failed: {ticket.error!r}") from ticket.error


def _is_certain(ticket: Ticket) -> bool:
    """Whether a unit cannot fail: one of a run whose acceptance was refused always does."""
    return ticket.certain and not (ticket.owner is not None and ticket.owner.refused)
