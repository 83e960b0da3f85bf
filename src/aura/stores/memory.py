"""The store in memory, for tests and for runs that nobody needs to find again.

It is the same SQL on SQLite's ``:memory:``, so that both stores answer alike, CHECKs and trigger included. There is no
thread and no disk: where a commit would wait, it lets one turn of the loop pass, if anybody else has one. The schema is
made once in a process and copied: tests open thousands of them.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import cache
from typing import Self, TypeVar

from anyio.lowlevel import checkpoint

from aura.eventloop import is_alone
from aura.store import Execute, Ticket, commit_batch
from aura.stores.sqlite import migrate

T = TypeVar("T")


class _Database(sqlite3.Connection):
    """A database in memory. It ends with the last who has it, who need not say so: Python is not to warn of it."""

    def __del__(self) -> None:
        self.close()


def _connect() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None, factory=_Database)


@cache
def _schema() -> bytes:
    """A database of the newest schema with nothing in it."""
    with closing(_connect()) as db:
        migrate(db)
        return db.serialize()


def _open_new() -> sqlite3.Connection:
    db = _connect()
    with closing(_connect()) as made:
        made.deserialize(_schema())
        made.backup(db)
    return db


class MemoryBackend:
    """Keeps units in memory. ``execute`` outlives ``close``, so that a test may start a second server on it."""

    def __init__(self, db: sqlite3.Connection | None = None) -> None:
        self._db = db or _open_new()
        migrate(self._db)

    @property
    def execute(self) -> Execute:
        return self._db.execute

    @property
    def connection(self) -> sqlite3.Connection:
        """The database itself, to open it again after a stop or a simulated crash."""
        return self._db

    async def commit(self, batch: Sequence[Ticket]) -> None:
        if not is_alone(asyncio.get_running_loop()):  # else nobody would do anything in that turn
            await asyncio.sleep(0)  # anyio's looks for its backend first
        self.commit_now(batch)

    def commit_now(self, batch: Sequence[Ticket]) -> None:
        """Commit a batch without a turn."""
        commit_batch(self._db.execute, batch)

    async def read(self, query: Callable[[Execute], T]) -> T:
        await checkpoint()
        return query(self.execute)

    def copied(self) -> Self:
        """What a crash at this moment would leave: a store with what is committed."""
        copy = type(self)()
        self.connection.backup(copy.connection)
        return copy

    def close(self) -> None:
        """Leave the database as it is: whoever made it may open it again."""
