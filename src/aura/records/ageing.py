"""What belongs to no run and gets old: log lines and events of nobody, the why-ledger, keys, starts of the server.

Each unit takes a few rows, the oldest first, by an index; ``rows`` says how many it took.
"""

from collections.abc import Callable
from typing import NamedTuple

from aura.records.keys import drop_old_keys
from aura.records.removal import EVENTS_TO, LOGS_TO, mark_removed
from aura.store import Execute

#: The most log lines, and the most events, that belong to no run and are kept.
MOST_LINES = MOST_EVENTS = 1_000_000
#: The most lines of the why-ledger that are kept.
MOST_WHY = 100_000
#: Starts of the server that are kept, however old they are.
LEAST_BOOTS = 100

_NEWEST = "SELECT at FROM {table} WHERE cid IS NULL ORDER BY at DESC LIMIT 1 OFFSET ?"
_OLD = "SELECT id FROM {table} WHERE cid IS NULL AND at < ? ORDER BY at LIMIT ?"
_NEWEST_WHY = "SELECT at FROM why ORDER BY at DESC LIMIT 1 OFFSET ?"
_WHY = "DELETE FROM why WHERE id IN (SELECT id FROM why WHERE at < ? ORDER BY at LIMIT ?)"
_BOOTS = """DELETE FROM boot WHERE number IN (SELECT number FROM boot WHERE started_at < ?
 AND number <= (SELECT max(number) FROM boot) - ? ORDER BY number LIMIT ?)"""


class Nobody(NamedTuple):
    """A table with rows that belong to no run: how many of them are kept, and the mark of their stream."""

    table: str
    most: int
    mark: str


NOBODYS = (Nobody("log", MOST_LINES, LOGS_TO), Nobody("event", MOST_EVENTS, EVENTS_TO))


def find_cutoff(execute: Execute, kind: Nobody, cutoff: float) -> float:
    """The time, in Unix seconds, before which rows of nobody go: by age, or because there are too many."""
    row = execute(_NEWEST.format(table=kind.table), (kind.most,)).fetchone()
    return cutoff if row is None else max(cutoff, float(row[0]))


class Ageing:
    """A unit that takes up to ``limit`` rows by ``take``; ``rows``: how many it took."""

    def __init__(self, take: Callable[[Execute, int], int], limit: int) -> None:
        self._take = take
        self._limit = limit
        self.rows = 0

    def __call__(self, execute: Execute) -> None:
        self.rows = self._take(execute, self._limit)


def take_of_nobody(kind: Nobody, before: float) -> Callable[[Execute, int], int]:
    """Take rows of nobody that are older than ``before``, in Unix seconds."""

    def take(execute: Execute, limit: int) -> int:
        ids = execute(_OLD.format(table=kind.table), (before, limit)).fetchall()
        for one in ids:
            execute(f"DELETE FROM {kind.table} WHERE id=?", one)  # noqa: S608 - our own words
        mark_removed(execute, kind.mark, (id for (id,) in ids))
        return len(ids)

    return take


def find_why_cutoff(execute: Execute, cutoff: float) -> float:
    """The time, in Unix seconds, before which lines of the why-ledger go: by age, or because there are too many."""
    row = execute(_NEWEST_WHY, (MOST_WHY,)).fetchone()
    return cutoff if row is None else max(cutoff, float(row[0]))


def take_why(before: float) -> Callable[[Execute, int], int]:
    """Take lines of the why-ledger that are older than ``before``, in Unix seconds."""
    return lambda execute, limit: execute(_WHY, (before, limit)).rowcount


def take_boots(before: float) -> Callable[[Execute, int], int]:
    """Take starts of the server before a time, in Unix seconds; the last ones stay."""
    return lambda execute, limit: execute(_BOOTS, (before, LEAST_BOOTS, limit)).rowcount


def take_keys(now: float) -> Callable[[Execute, int], int]:
    """Take idempotency keys that have been kept for long enough."""
    return lambda execute, limit: drop_old_keys(execute, now, limit)
