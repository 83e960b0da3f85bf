"""A backup of a database: one file with all that it held at one moment, checked before it gets its name.

How. The pages are copied through one read transaction, so a server that writes meanwhile neither waits for it nor makes
it begin anew; until it is over the server's log only grows, by what is written in that time. Nothing is written to the
data folder: what reads can neither checkpoint nor change a byte of the database or its log. The copy is filled as
``NAME.partial`` (0600), which a lock on it marks as being written: one that a killed backup has left is replaced.

What is different in it. It has an id of its own, by which a server started on it never takes the processes of the
original for its own. And its header says that it has no write-ahead log. SQLite would replay one that was left beside
it over it, whichever database that log is of; by the header ``refuse_foreign_log`` knows that it is not the copy's.
"""

import errno
import fcntl
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import msgspec

from aura.errors import (
    StoreCannotCreate,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreInUse,
    StoreIOError,
    StoreNewer,
    StoreNotPermitted,
)
from aura.stores.folder import sync_folder
from aura.stores.inspection import OURS, damaged, has_log

#: How many pages are copied between two looks at a signal: some 8 MiB.
PAGES = 2048
#: How long a lock is waited for that another process holds, in seconds.
BUSY_TIMEOUT = 5.0
_MAGIC = b"SQLite format 3\0"
#: Where the header says whether there is a write-ahead log (two bytes, https://sqlite.org/fileformat2.html).
_VERSIONS_AT, _NO_LOG = 18, b"\x01\x01"

#: Told how many pages are copied, and of how many.
Progress = Callable[[int, int], None]


class Backup(msgspec.Struct, frozen=True):
    """A backup that was made. ``taken_at`` is when it is as of, in seconds; ``runs`` is how many are in it."""

    path: Path
    bytes: int
    runs: int
    taken_at: float


class _Origin(msgspec.Struct, frozen=True):
    """What is copied, by its own count, in the transaction in which it is copied."""

    version: int
    runs: int


def back_up(
    database: Path, target: Path, newest: int, replace: bool = False, spare: int = 0, progress: Progress | None = None
) -> Backup:
    """Copy a database that may be in use to ``target``, check the copy, and bring both it and its name to the disk.

    ``newest`` is the newest schema that is known; ``spare`` is the room in bytes that must be left beside the copy.

    Raises:
        StoreCannotCreate: there is a ``target`` and it is not to be replaced, or it cannot be made. StoreNotPermitted.
        StoreFull: there is no room. StoreIOError: a disk failed. StoreInUse: it is being written by another backup, or
        the database is locked. StoreCorrupt, StoreNewer: of the database. Then nothing is left of it.
    """
    refuse_target(target, replace)
    with _said(database, target):
        refuse_foreign_log(database)
    return back_up_open(database, target, newest, replace, spare, progress)


def back_up_open(
    database: Path, target: Path, newest: int, replace: bool = False, spare: int = 0, progress: Progress | None = None
) -> Backup:
    """The same of a database that this process may have open, once ``refuse_foreign_log`` has looked at it.

    Only SQLite opens it here: its locks are the process's, and all of them are lost when the process closes any
    descriptor of the file (fcntl(2)). Another program would then take itself for the only one, and remove the log.
    """
    refuse_target(target, replace)
    with _said(database, target), _partial(target) as (partial, descriptor):
        taken_at, origin = _copy(database, partial, newest, spare, progress)
        os.pwrite(descriptor, _NO_LOG, _VERSIONS_AT)
        _make_its_own(partial)
        _verify(partial, origin, database)
        os.fsync(descriptor)
        os.rename(partial, target)
        sync_folder(target.parent)
        return Backup(target, os.fstat(descriptor).st_size, origin.runs, taken_at)


def refuse_target(target: Path, replace: bool) -> None:
    """Refuse what is in the place of a backup, unless it is a file that may be replaced.

    Raises:
        StoreCannotCreate: as it says.
    """
    if target.is_dir() or (target.exists() and not target.is_file()):
        raise StoreCannotCreate(f"{target} is no file; name one for the backup")
    if os.path.lexists(target) and not replace:
        raise StoreCannotCreate(f"{target} is there already; name another file, or say --force")


def refuse_foreign_log(database: Path) -> None:
    """Refuse a write-ahead log beside a database that has none, or without a database.

    Raises:
        StoreCorrupt: the log is of another database, and would be replayed over this one; or it is all that is left,
            and would be emptied.
    """
    log = database.with_name(f"{database.name}-wal")
    if not has_log(database) or database.is_dir():
        return
    if not database.exists():
        raise StoreCorrupt(
            f"{database} is gone, and {log} has what was written to it last; nothing was changed. Put {database.name} "
            f"back, or move {log.name} away too, to start anew without its history"
        )
    with database.open("rb") as file:
        header = file.read(_VERSIONS_AT + 2)
    if header.startswith(_MAGIC) and header.endswith(_NO_LOG):
        raise StoreCorrupt(
            f"{database} is a backup, and {log} beside it belongs to the database that was there before; nothing "
            f"was changed. Move {log.name} and {database.name}-shm away, and start again"
        )


# -- the file that it becomes -----------------------------------------------------------------------------------------


@contextmanager
def _partial(target: Path) -> Iterator[tuple[Path, int]]:
    """The file that is filled, open and locked while inside; gone at the end, unless it has got its name."""
    path = target.with_name(f"{target.name}.partial")
    try:
        descriptor = _create(path)
    except FileExistsError:
        _remove_remnant(path)
        descriptor = _create(path)
    try:
        yield path, descriptor
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise
    finally:
        os.close(descriptor)


def _create(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    os.fchmod(descriptor, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def _remove_remnant(path: Path) -> None:
    """Remove what a killed backup has left: nobody holds its lock."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    except BlockingIOError:
        raise StoreInUse(f"{path} is being written by another backup; wait for its end, or name another file") from None
    finally:
        os.close(descriptor)


# -- copying ----------------------------------------------------------------------------------------------------------


def _copy(database: Path, partial: Path, newest: int, spare: int, progress: Progress | None) -> tuple[float, _Origin]:
    """Copy all pages, as they are at one moment; give that moment, and what is to be in the copy."""
    while True:
        at_rest = _at_rest(database)
        with closing(_open(database, "immutable=1" if at_rest else "mode=ro")) as source:
            source.execute("BEGIN")
            origin = _look_at(source, database, newest)
            taken_at = time.time()
            _check_room(source, partial.parent, spare)
            with closing(_open_copy(partial)) as copy:
                source.backup(copy, pages=PAGES, progress=_teller(progress), sleep=0)
        if at_rest is None or at_rest == _at_rest(database):
            return taken_at, origin
        os.truncate(partial, 0)  # a server has started on it meanwhile, which nothing kept from writing


def _at_rest(database: Path) -> tuple[int, int, int] | None:
    """By what a database that nobody uses is the same as before; None of one that has a log, and may be in use.

    Beside a database without a log SQLite would make one, even to read.
    """
    if any(database.with_name(f"{database.name}{end}").exists() for end in ("-wal", "-journal")):
        return None
    status = database.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _open(file: Path, how: str) -> sqlite3.Connection:
    db = sqlite3.connect(f"{file.absolute().as_uri()}?{how}", uri=True, isolation_level=None, timeout=BUSY_TIMEOUT)
    db.execute("PRAGMA trusted_schema=OFF")
    return db


def _open_copy(partial: Path) -> sqlite3.Connection:
    """The copy, which nobody else opens: without locks, without a journal, synced as a whole at the end."""
    db = _open(partial, "mode=rw&vfs=unix-none")
    db.execute("PRAGMA journal_mode=OFF")
    db.execute("PRAGMA synchronous=OFF")
    return db


def _look_at(source: sqlite3.Connection, database: Path, newest: int) -> _Origin:
    version = source.execute("PRAGMA user_version").fetchone()[0]
    if version > newest:
        message = f"{database} is of schema {version}, this Aura knows {newest}; use the newer Aura's own `aura backup`"
        raise StoreNewer(message)
    tables = {name for (name,) in source.execute("SELECT name FROM sqlite_schema WHERE type='table'").fetchall()}
    if version == 0 or not tables >= OURS:
        raise damaged(database, "it is no database of Aura")
    return _Origin(version, _count_runs(source))


def _count_runs(db: sqlite3.Connection) -> int:
    count: int = db.execute("SELECT count(*) FROM run").fetchone()[0]
    return count


def _check_room(source: sqlite3.Connection, folder: Path, spare: int) -> None:
    (pages,), (size,) = (source.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size"))
    free = shutil.disk_usage(folder).free
    if free < pages * size + spare:
        needed = f"{_mebibytes(pages * size)} and {_mebibytes(spare)} to spare" if spare else _mebibytes(pages * size)
        raise StoreFull(f"{folder} has {_mebibytes(free)} free, and the backup needs {needed}; make room")


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def _teller(progress: Progress | None) -> Callable[[int, int, int], object]:
    def tell(_: int, remaining: int, pages: int) -> None:
        if progress:
            progress(pages - remaining, pages)

    return tell  # always one, since Python looks for Ctrl-C when it is called


# -- the copy ---------------------------------------------------------------------------------------------------------


def _make_its_own(partial: Path) -> None:
    with closing(_open_copy(partial)) as db:
        db.execute("UPDATE meta SET value=? WHERE key='store_id'", (uuid4().hex,))


def _verify(partial: Path, origin: _Origin, database: Path) -> None:
    """Check every page and record of the copy: what is found there is wrong in the database too."""
    with closing(_open(partial, "immutable=1")) as db:
        found = [row[0] for row in db.execute("PRAGMA integrity_check(1)").fetchall()]
        found += [
            f"a row of {row[0]} belongs to nothing" for row in db.execute("PRAGMA foreign_key_check").fetchmany(1)
        ]
        if found != ["ok"]:
            raise damaged(database, found[-1])
        copied = _Origin(db.execute("PRAGMA user_version").fetchone()[0], _count_runs(db))
    if copied != origin:
        raise StoreIOError(f"the copy of {database} has {copied.runs} runs, not {origin.runs}; nothing is kept of it")


# -- errors -----------------------------------------------------------------------------------------------------------


@contextmanager
def _said(database: Path, target: Path) -> Iterator[None]:
    """Say what went wrong inside as an error of the storage."""
    try:
        yield
    except sqlite3.Error as error:
        raise _of_sqlite(error, database, target) from error
    except OSError as error:
        raise _of_system(error, target) from error


def _of_sqlite(error: sqlite3.Error, database: Path, target: Path) -> StoreError:
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_FULL:
            return StoreFull(f"there is no room for {target}: {error}; make room")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StoreInUse(f"the database {database} is locked by another process; ask again when that has ended")
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH if not os.access(database, os.R_OK):
            return StoreNotPermitted(f"the database {database} is not yours to read; run this as the server's user")
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY:
            advice = "if its server was killed, start it once, or run this as its user"
            return StoreCannotCreate(f"the database {database} cannot be read: {error}; {advice}")
        case sqlite3.SQLITE_IOERR:
            return StoreIOError(f"a disk failed while {database} was copied to {target}: {error}")
    return damaged(database, str(error))


def _of_system(error: OSError, target: Path) -> StoreError:
    said = f"the backup cannot be made: {error.filename or target}: {error.strerror}"
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return StoreFull(f"{said}; make room")
        case errno.EACCES | errno.EPERM:
            return StoreNotPermitted(f"{said}; run this as the server's user, and name a folder that is yours")
        case errno.EIO:
            return StoreIOError(said)
    return StoreCannotCreate(f"{said}; name another file")
