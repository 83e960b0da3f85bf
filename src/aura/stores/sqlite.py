"""The store on a disk: one SQLite file in WAL mode with ``synchronous=FULL``, one writing connection.

All commits run in a worker thread, one at a time (a limiter of one); queries run on connections of their own in other
threads, and none of their transactions spans an await. Only the writer checkpoints. SQLite does so behind a commit, and
begins its log anew once nobody reads in it: while somebody always does it would grow without end, so now and then the
writer waits a moment for who reads (``_fold_log``).

A file that was moved, replaced or removed while it is open still takes commits, which nobody would find again. So after
each commit, before anybody is told of it, its files are compared with those that were opened.
"""

import os
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from types import NoneType
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

from aura.errors import StoreCannotCreate, StoreError, StoreIOError, StoreNewer
from aura.failpoints import Moment, Site, passed
from aura.store import Execute, Ticket, commit_batch, raise_if_lost
from aura.stores.backup import back_up_open, refuse_foreign_log
from aura.stores.disk import as_refusal, refused_by
from aura.stores.folder import cannot_use, sync_folder
from aura.stores.inspection import columns, damaged, examine, has_journal, refuse_unsound

T = TypeVar("T")

#: How long a start waits for a lock that another process holds, in seconds.
BUSY_TIMEOUT = 5.0
#: How long one commit waits for it. Nothing can interrupt that wait, so it is short and the store tries again.
BUSY_SLICE = 0.1
READERS = 2
#: A log that is longer than this, in bytes, is folded into the file and cut, and again when it has grown by as much.
LOG_SIZE = 32 * 1024 * 1024
#: How long that waits for those who read, in seconds.
FOLD_WAIT = 0.5

if sys.version_info < (3, 12):
    # Python 3.11 asks each NULL, blob and bool whether it has something to be adapted by, and makes two errors of the
    # answer that nobody sees: a sixth of what a run's statements cost. What is registered is found at once.
    sqlite3.register_adapter(NoneType, {None: None}.__getitem__)
    sqlite3.register_adapter(bytes, bytes)
    sqlite3.register_adapter(bool, int)


class SqliteBackend:
    """Keeps units in a file. Opening it checks the file and brings its schema up to date."""

    def __init__(self, path: Path, connect: Callable[[Path], sqlite3.Connection] | None = None) -> None:
        """Open or create the database. ``connect`` opens what stands for the writing connection, if it is not SQLite's.

        Raises:
            StoreCorrupt: it is damaged. StoreNewer: a newer Aura wrote it. StoreCannotCreate: it cannot be made.
            StoreIOError: the disk failed.
        """
        self.path = path
        self._db = _open_writer(path, connect or _connect)
        self._busy_timeout = BUSY_TIMEOUT
        self._files = {file: _identity(file) for file in (path, path.with_name(f"{path.name}-wal"))}
        self._log = path.with_name(f"{path.name}-wal")
        #: The size of the log at which it is folded in.
        self._fold_at = LOG_SIZE
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
        except StoreIOError as error:
            if _may_pass(error) and (refused := refused_by(self.path.parent)):
                raise as_refusal(refused) from error
            raise
        finally:  # also when it failed: for a file that is gone nobody has to make room
            self._check_files()
        if self._log.stat().st_size > self._fold_at:
            self._fold_log()

    def _fold_log(self) -> None:
        """Fold the log into the file, and cut it, if those who read let it within a moment; nothing depends on it."""
        with suppress(sqlite3.Error):  # what is committed stays so, as when SQLite fails in it by itself
            self._wait_for_lock(FOLD_WAIT)
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = self._log.stat().st_size
        self._fold_at = LOG_SIZE + (size if size > LOG_SIZE else 0)

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
        with storage_errors():
            reader = self._readers.pop() if self._readers else _open_reader(self.path)
            return self._read_with(reader, query)

    def _read_with(self, reader: sqlite3.Connection, query: Callable[[Execute], T]) -> T:
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


@contextmanager
def storage_errors() -> Iterator[None]:
    """While inside, an error of SQLite that is one of the storage is said as one.

    Raises:
        StoreError: full, locked, failing or damaged.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise_if_lost(error)
        raise


def _may_pass(error: StoreIOError) -> bool:
    """Whether SQLite may call something an error of the disk that is none. What fsync says is never taken back."""
    return getattr(error.__cause__, "sqlite_errorcode", 0) in (sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE)


def _identity(file: Path) -> tuple[int, int] | None:
    """Device and inode of a file, by which it is the same one; None if it is not there."""
    try:
        status = os.stat(file)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _connect(path: Path | str) -> sqlite3.Connection:
    """Open a path, or a URI of SQLite (a text)."""
    uri = isinstance(path, str)
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=BUSY_TIMEOUT, uri=uri)
    db.execute("PRAGMA trusted_schema=OFF")
    return db


def _open_reader(path: Path) -> sqlite3.Connection:
    db = _connect(path)
    db.execute("PRAGMA query_only=ON")
    return db


def _open_writer(path: Path, connect: Callable[[Path], sqlite3.Connection]) -> sqlite3.Connection:
    _refuse_unsound(path)
    try:
        _create_private(path)
        db = connect(path)
    except OSError as error:
        raise cannot_use(f"the database {path} cannot be opened", error, "choose another folder with --data") from error
    except sqlite3.Error as error:
        raise _as_store_error(error, path) from error
    try:
        if has_journal(path):
            examine(db, path, len(schema_steps()), _columns_of)
        _back_up_before_migration(db, path)
        migrate(db)
        _begin_wal(db, path)
        db.execute("PRAGMA synchronous=FULL")
        db.execute(f"PRAGMA journal_size_limit={LOG_SIZE}")
        db.execute("PRAGMA schema_version").fetchone()  # reads: only now the log's file is there
    except (StoreError, sqlite3.Error, UnicodeDecodeError) as error:  # the last: SQLite quotes what is damaged
        db.close()
        raise _as_store_error(error, path) from error
    return db


def _refuse_unsound(path: Path) -> None:
    try:
        refuse_foreign_log(path)
        refuse_unsound(path, len(schema_steps()), _columns_of, _connect)
    except UnicodeDecodeError as error:  # SQLite quotes what is damaged
        raise damaged(path, str(error)) from error
    except OSError as error:
        raise cannot_use(f"the database {path} cannot be read", error, "choose another folder with --data") from error
    except sqlite3.Error as error:
        raise _as_store_error(error, path) from error


def _columns_of(version: int) -> frozenset[str]:
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(";\n".join(step.read_text() for step in schema_steps()[:version]))
        return columns(db)


def _begin_wal(db: sqlite3.Connection, path: Path) -> None:
    if db.execute("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":
        message = f"the database {path} cannot have a write-ahead log: its file system has no shared memory"
        raise StoreCannotCreate(f"{message}; choose a folder on a local disk with --data")


def _create_private(path: Path) -> None:
    """Make the file readable by its owner alone, before SQLite would make it by the umask."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    os.fchmod(descriptor, 0o600)
    os.close(descriptor)
    sync_folder(path.parent)


#: What SQLite says where the system would say more.
_WHY_UNKNOWN = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR)


def _as_store_error(error: Exception, path: Path) -> StoreError:
    if isinstance(error, StoreError):
        return error
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _WHY_UNKNOWN and (refused := refused_by(path.parent)):
        return cannot_use(f"the database {path} cannot be written", refused, "start again")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreCannotCreate(f"the database {path} is locked by another process: {error}; end it and start again")
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return StoreCannotCreate(f"the database {path} cannot be written: {error}")
    if code == sqlite3.SQLITE_IOERR:
        return StoreIOError(
            f"the disk failed under the database {path}: {error}; nothing says that its data is damaged"
        )
    return damaged(path, str(error))


def schema_steps() -> list[Traversable]:
    """The numbered files of the schema, in order; there are as many as the number of the newest schema."""
    return sorted(resources.files("aura.stores").joinpath("schema").iterdir(), key=lambda file: file.name)


def _back_up_before_migration(db: sqlite3.Connection, path: Path) -> None:
    """Keep what an older Aura has written as ``aura.db.before-<schema>``, in the place of an earlier such backup."""
    version, newest = _version(db), len(schema_steps())
    if 0 < version < newest:
        back_up_open(path, path.with_name(f"{path.name}.before-{version}"), newest, replace=True)


def migrate(db: sqlite3.Connection) -> None:
    """Bring the schema up to date: the numbered files that are missing, all of them in one transaction.

    Raises:
        StoreNewer: the database's number is higher than that of the newest file.
    """
    steps = schema_steps()
    version = _version(db)
    if version > len(steps):
        raise StoreNewer(
            f"the data is of schema {version}, this Aura knows {len(steps)}; install the newer Aura again, "
            "or use another data folder. Nothing was changed"
        )
    if version == len(steps):
        return
    missing = ";\n".join(step.read_text() for step in steps[version:])
    passed(Site.SCHEMA, Moment.BEFORE)
    db.executescript(f"BEGIN IMMEDIATE; {missing}; PRAGMA user_version={len(steps)};")
    passed(Site.SCHEMA, Moment.INSIDE)
    db.execute("COMMIT")
    passed(Site.SCHEMA, Moment.AFTER)


def _version(db: sqlite3.Connection) -> int:
    """The number of the schema that a database has; 0 of a new one."""
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    return version
