"""The store on a disk: one SQLite file in WAL mode with ``synchronous=FULL``, one writing connection.

All commits run in a worker thread, one at a time (a limiter of one); queries run on connections of their own in other
threads, and none of their transactions spans an await. Only the writer checkpoints.

A file that was moved, replaced or removed while it is open still takes commits, which nobody would find again. So after
each commit, before anybody is told of it, its files are compared with those that were opened.
"""

import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

from aura.errors import StoreCannotCreate, StoreCorrupt, StoreError, StoreIOError, StoreNewer
from aura.failpoints import Moment, Site, passed
from aura.store import Execute, Ticket, commit_batch

T = TypeVar("T")

#: How long a start waits for a lock that another process holds, in seconds.
BUSY_TIMEOUT = 5.0
#: How long one commit waits for it. Nothing can interrupt that wait, so it is short and the store tries again.
BUSY_SLICE = 0.1
#: Up to this size the whole database is checked at every start; above it only after an unclean end.
CHECK_ALWAYS_BELOW = 64 * 1024 * 1024
READERS = 2


class SqliteBackend:
    """Keeps units in a file. Opening it checks the file and brings its schema up to date."""

    def __init__(self, path: Path) -> None:
        """Open or create the database.

        Raises:
            StoreCorrupt: it is damaged. StoreNewer: a newer Aura wrote it. StoreCannotCreate: it cannot be made.
            StoreIOError: the disk failed.
        """
        self.path = path
        self._db = _open_writer(path)
        self._busy_timeout = BUSY_TIMEOUT
        self._files = {file: _identity(file) for file in (path, path.with_name(f"{path.name}-wal"))}
        self._limiter = CapacityLimiter(1)
        self._readers: list[sqlite3.Connection] = []
        self._reader_limiter = CapacityLimiter(READERS)
        self._closed = False

    @property
    def execute(self) -> Execute:
        """The writing connection, for what happens before the flusher runs (the boot): it waits longer for a lock."""
        self._wait_for_lock(BUSY_TIMEOUT)
        return self._db.execute

    async def commit(self, batch: Sequence[Ticket]) -> None:
        await to_thread.run_sync(self._commit, batch, limiter=self._limiter)

    def _wait_for_lock(self, seconds: float) -> None:
        if self._busy_timeout != seconds:
            self._db.execute(f"PRAGMA busy_timeout={seconds * 1000:.0f}")
            self._busy_timeout = seconds

    def _commit(self, batch: Sequence[Ticket]) -> None:
        self._wait_for_lock(BUSY_SLICE)
        try:
            commit_batch(self._db.cursor().execute, batch)  # the connection would make a cursor each time
        finally:  # also when it failed: for a file that is gone nobody has to make room
            self._check_files()

    def _check_files(self) -> None:
        for file, opened in self._files.items():
            if _identity(file) != opened:
                raise StoreIOError(
                    f"{file} was moved, replaced or removed while it was in use; what was written last may be lost. "
                    "Put the files back, or a backup, and start again"
                )

    async def read(self, query: Callable[[Execute], T]) -> T:
        return await to_thread.run_sync(self._read, query, limiter=self._reader_limiter)

    def _read(self, query: Callable[[Execute], T]) -> T:
        reader = self._readers.pop() if self._readers else _open_reader(self.path)
        try:
            return query(reader.execute)
        finally:
            if reader.in_transaction:
                reader.rollback()
            if self._closed:
                reader.close()
            else:
                self._readers.append(reader)

    def close(self) -> None:
        """Fold the write-ahead log into the file and close every connection."""
        self._closed = True
        while self._readers:
            self._readers.pop().close()
        with suppress(sqlite3.Error):  # the log stays and is replayed at the next start: nothing is lost by it
            self._wait_for_lock(BUSY_SLICE)  # who only reads keeps a checkpoint waiting as well
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.close()


def _identity(file: Path) -> tuple[int, int] | None:
    """Device and inode of a file, by which it is the same one; None if it is not there."""
    try:
        status = os.stat(file)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=BUSY_TIMEOUT)
    db.execute("PRAGMA trusted_schema=OFF")
    return db


def _open_reader(path: Path) -> sqlite3.Connection:
    db = _connect(path)
    db.execute("PRAGMA query_only=ON")
    return db


def _open_writer(path: Path) -> sqlite3.Connection:
    try:
        _create_private(path)
        db = _connect(path)
    except (OSError, sqlite3.Error) as error:
        raise StoreCannotCreate(f"the database {path} cannot be opened: {error}") from error
    try:
        migrate(db)  # looks at the version first: what a newer Aura wrote is left untouched
        _begin_wal(db, path)
        db.execute("PRAGMA synchronous=FULL")
        _check(db, path)
    except (StoreError, sqlite3.Error) as error:
        db.close()
        raise _as_store_error(error, path) from error
    return db


def _begin_wal(db: sqlite3.Connection, path: Path) -> None:
    if db.execute("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":
        message = f"the database {path} cannot have a write-ahead log: its file system has no shared memory"
        raise StoreCannotCreate(f"{message}; choose a folder on a local disk with --data")


def _create_private(path: Path) -> None:
    """Make the file readable by its owner alone, before SQLite would make it by the umask."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    os.fchmod(descriptor, 0o600)
    os.close(descriptor)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(folder)
    os.close(folder)


def _as_store_error(error: Exception, path: Path) -> StoreError:
    if isinstance(error, StoreError):
        return error
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreCannotCreate(f"the database {path} is locked by another process: {error}; end it and start again")
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return StoreCannotCreate(f"the database {path} cannot be written: {error}")
    if code == sqlite3.SQLITE_IOERR:
        return StoreIOError(
            f"the disk failed under the database {path}: {error}; nothing says that its data is damaged"
        )
    return StoreCorrupt(_damaged(path, str(error)))


def _damaged(path: Path, what: str) -> str:
    return (
        f"the database {path} is damaged ({what}); nothing was changed. Put a backup there, or keep the file and let "
        f"`sqlite3 {path} .recover` save what it can"
    )


def _check(db: sqlite3.Connection, path: Path) -> None:
    unclean = db.execute("SELECT ended_at IS NULL FROM boot ORDER BY number DESC LIMIT 1").fetchone()
    if path.stat().st_size < CHECK_ALWAYS_BELOW or (unclean and unclean[0]):
        found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise StoreCorrupt(_damaged(path, found))


def schema_steps() -> list[Traversable]:
    """The numbered files of the schema, in order; there are as many as the number of the newest schema."""
    return sorted(resources.files("aura.stores").joinpath("schema").iterdir(), key=lambda file: file.name)


def migrate(db: sqlite3.Connection) -> None:
    """Bring the schema up to date: numbered files, each in one transaction with its number.

    Raises:
        StoreNewer: the database's number is higher than that of the newest file.
    """
    steps = schema_steps()
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > len(steps):
        raise StoreNewer(
            f"the data is of schema {version}, this Aura knows {len(steps)}; install the newer Aura again, "
            "or use another data folder. Nothing was changed"
        )
    for number, step in enumerate(steps[version:], version + 1):
        passed(Site.SCHEMA, Moment.BEFORE)
        db.executescript(f"BEGIN IMMEDIATE; {step.read_text()}; PRAGMA user_version={number};")
        passed(Site.SCHEMA, Moment.INSIDE)
        db.execute("COMMIT")
        passed(Site.SCHEMA, Moment.AFTER)
