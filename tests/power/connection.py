"""apsw's connection with the face of sqlite3's, as far as Aura's store looks at it.

Readers would need shared memory, which a layer in Python cannot give: the connection owns its file alone, and queries
run on it between two commits.
"""

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import apsw
from anyio import Lock, to_thread
from tests.power.disk import Disk, RecordingVFS

from aura.store import Execute, Ticket
from aura.stores.sqlite import SqliteBackend, storage_errors

T = TypeVar("T")
#: After so many pages the log is folded into the file: often, so that the power fails in that as well.
CHECKPOINT_PAGES = 50
_CHANGES = ("INSERT", "UPDATE", "DELETE", "REPLACE", "WITH")


def as_sqlite(error: Any) -> sqlite3.Error:
    """The error that the sqlite3 module would have raised."""
    kinds: dict[int, type[sqlite3.Error]] = {
        apsw.SQLITE_CONSTRAINT: sqlite3.IntegrityError,
        apsw.SQLITE_CORRUPT: sqlite3.DatabaseError,
        apsw.SQLITE_NOTADB: sqlite3.DatabaseError,
        apsw.SQLITE_MISUSE: sqlite3.ProgrammingError,
    }
    made = kinds.get(error.result, sqlite3.OperationalError)(str(error))
    made.sqlite_errorcode = error.extendedresult
    return made


class Committed(NamedTuple):
    """SQLite has said that a transaction is committed; what the database holds since."""

    digest: str


def digest(execute: Callable[..., Any]) -> str:
    """All that a database holds, as a short text."""
    found = hashlib.sha256()
    names = "SELECT name FROM sqlite_schema WHERE type='table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
    for (name,) in execute(names).fetchall():
        found.update(repr((name, execute(f"SELECT * FROM {name}").fetchall())).encode())
    return found.hexdigest()


class Cursor:
    """The rows of one statement, all read at once."""

    def __init__(self, db: apsw.Connection, disk: Disk, committed: Callable[[], object]) -> None:
        self._db = db
        self._disk = disk
        self._committed = committed
        self._rows: list[Any] = []
        self.rowcount = -1

    def execute(self, sql: str, params: Sequence[Any] = ()) -> "Cursor":
        try:
            if sql == "BEGIN IMMEDIATE":  # a connection that owns its file asks for no lock then, an ordinary one does
                self._disk.pass_call("lock")
            self._rows = list(self._db.execute(sql, tuple(params)))
        except apsw.Error as error:
            raise as_sqlite(error) from error
        changes = sql.lstrip().upper().startswith(_CHANGES)
        self.rowcount = self._db.changes() if changes else -1
        if sql == "COMMIT":
            self._committed()
        return self

    def fetchone(self) -> Any:
        return self._rows.pop(0) if self._rows else None

    def fetchall(self) -> list[Any]:
        rows, self._rows = self._rows, []
        return rows

    def __iter__(self) -> Any:
        return iter(self.fetchall())


def _fold_in(db: apsw.Connection, name: str, pages: int) -> int:
    """What SQLite does behind a commit by itself, an error included: the commit stands, it is tried behind the next.

    apsw would raise from the commit what its layer raises in here.
    """
    if pages >= CHECKPOINT_PAGES:
        with suppress(apsw.Error):
            db.wal_checkpoint(name, apsw.SQLITE_CHECKPOINT_PASSIVE)
    return apsw.SQLITE_OK


class Connection:
    """One database on a disk that remembers; ``synchronous`` overrules what the store asks for."""

    def __init__(self, path: Path, disk: Disk, synchronous: str) -> None:
        self._vfs = RecordingVFS(disk)  # it is there as long as the connection
        self._disk = disk
        self._synchronous = synchronous
        try:
            self._db = apsw.Connection(str(path), vfs=self._vfs.name)
        except apsw.Error as error:
            raise as_sqlite(error) from error
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE").fetchall()
        self._db.set_wal_hook(_fold_in)

    def cursor(self) -> Cursor:
        return Cursor(self._db, self._disk, self._committed)

    def execute(self, sql: str, params: Sequence[Any] = ()) -> Cursor:
        if sql == "PRAGMA synchronous=FULL":
            sql = f"PRAGMA synchronous={self._synchronous}"
        return Cursor(self._db, self._disk, self._committed).execute(sql, params)

    def _committed(self) -> None:
        if self._disk.digests:
            self._disk.mark(Committed(digest(self.execute)))

    executescript = execute

    @property
    def in_transaction(self) -> bool:
        return self._db.in_transaction

    def close(self) -> None:
        with suppress(apsw.Error):  # of the layer below; as with SQLite's own, it is closed all the same
            self._db.close(True)


class PowerBackend:
    """The real backend on such a disk."""

    def __init__(self, path: Path, disk: Disk, synchronous: str = "FULL") -> None:
        self._alone = Lock()  # one connection: a query waits for a commit to end, and the other way round
        connect: Any = lambda path: Connection(path, disk, synchronous)  # noqa: E731
        self._inner = SqliteBackend(path, connect)

    @property
    def execute(self) -> Execute:
        return self._inner.execute

    async def commit(self, batch: Sequence[Ticket]) -> None:
        async with self._alone:
            await self._inner.commit(batch)

    async def read(self, query: Callable[[Execute], T]) -> T:
        async with self._alone:
            return await to_thread.run_sync(self._read, query)

    def _read(self, query: Callable[[Execute], T]) -> T:
        with storage_errors():
            return query(self.execute)

    def close(self) -> None:
        self._inner.close()
