"""What stands in a database's place, looked at before anything is written to it.

It says whether a file is sound, ours and not of a newer Aura, through a connection that only reads and leaves every
byte of the file and of its log as it is. What may be done about a file that is not is said in one place, ``damaged``.

Limits. SQLite keeps checksums of its log (``logcheck``) and not of its pages: of a page it is known that it holds
together, not that its texts are those that were written. What cannot be read as a record is found when the boot reads
it (``sound_records``). And a log that is lost leaves the state that was committed before it.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from aura.errors import StoreCorrupt, StoreNewer
from aura.store import raise_if_lost
from aura.stores.logcheck import damage_of

#: Up to this size the whole database is checked at every start; above it only after an unclean end.
CHECK_ALWAYS_BELOW = 64 * 1024 * 1024
#: What a data folder has only after a server was ready on it: where that is, an empty database is a lost one.
TRACES = ("token", "work")
#: The tables that every database of Aura has had since its first schema.
OURS = frozenset({"meta", "boot", "run"})


def damaged(path: Path, what: str) -> StoreCorrupt:
    """The error that refuses a database, with the three ways out of it."""
    what = " ".join(what.split())  # SQLite says some of it in several lines
    return StoreCorrupt(
        f"the database {path} is damaged ({what}); nothing was changed. Put a backup in its place, or keep the file "
        f"and let `sqlite3 {path} .recover` save what it can, or move it away to start anew, without its history"
    )


def refuse_unsound(
    path: Path,
    newest: int,
    expected: Callable[[int], frozenset[str]],
    connect: Callable[[str], sqlite3.Connection],
) -> None:
    """Look at the file, if there is one, without changing it. ``connect`` opens a URI of SQLite.

    A transaction that was not finished in a rollback journal has to be undone first, which writes: then nothing is
    looked at, and ``examine`` has to follow on the connection that writes.

    Raises:
        StoreCorrupt: it is damaged, no database of Aura, or empty where one has been. StoreNewer: as it says.
        sqlite3.Error: it cannot be read now.
    """
    if path.is_dir():
        raise damaged(path, "a folder is in its place")
    if not path.exists() or has_journal(path):
        return
    if path.stat().st_size == 0:
        _refuse_lost(path)
        return
    logged = has_log(path)
    how = "mode=ro" if logged else "immutable=1"  # else SQLite makes a log beside it
    with closing(connect(f"{path.absolute().as_uri()}?{how}")) as db:
        examine(db, path, newest, expected)  # makes the log's index
    log, index = (path.with_name(f"{path.name}-{end}") for end in ("wal", "shm"))
    if logged and index.exists() and (found := damage_of(log, index)):
        raise damaged(path, found)


def columns(db: sqlite3.Connection) -> frozenset[str]:
    """Every column of every table of a database, and its triggers.

    An index holds nothing of its own: who lacks one reads slower, and loses nothing.
    """
    sql = (
        "SELECT t.name || '.' || c.name FROM sqlite_schema t, pragma_table_info(t.name) c WHERE t.type = 'table' "
        "UNION ALL SELECT name FROM sqlite_schema WHERE type = 'trigger'"
    )
    return frozenset(name for (name,) in db.execute(sql).fetchall())


def examine(db: sqlite3.Connection, path: Path, newest: int, expected: Callable[[int], frozenset[str]]) -> None:
    """Look at an open database, new ones too; ``expected`` gives the ``columns`` of a schema. Raises as above."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type='table'").fetchall()}
    if tables and (version == 0 or not tables >= OURS):
        raise damaged(path, "it is no database of Aura")
    if tables and version <= newest and (gone := expected(version) - columns(db)):
        raise damaged(path, f"of its tables {', '.join(sorted(gone))[:200]} is missing")
    if not tables and version:
        raise damaged(path, "its tables are gone")
    if version > newest:
        raise StoreNewer(
            f"the data is of schema {version}, this Aura knows {newest}; install the newer Aura again, "
            "or use another data folder. Nothing was changed"
        )
    if tables and (path.stat().st_size < CHECK_ALWAYS_BELOW or _ended_unclean(db)):
        found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise damaged(path, found)


@contextmanager
def sound_records(path: Path) -> Iterator[None]:
    """While inside, records that cannot be read are a damage of the database, and said as one.

    Raises:
        StoreCorrupt: a row does not hold what Aura writes. StoreIOError: the disk failed.
    """
    try:
        yield
    except StoreCorrupt as error:  # found by a write
        raise damaged(path, str(error.__cause__ or error)) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise damaged(path, f"a record cannot be read: {error}") from error
    except sqlite3.DatabaseError as error:
        if (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _DAMAGES:
            raise damaged(path, str(error)) from error
        raise_if_lost(error)
        raise


#: What SQLite says of a file that is damaged, and Python's module, without a code, of a text that is no UTF-8.
_DAMAGES = (0, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def has_journal(path: Path) -> bool:
    """Whether a transaction of an end without order waits to be undone."""
    return _size(path.with_name(f"{path.name}-journal")) > 0


def has_log(path: Path) -> bool:
    """Whether there is a write-ahead log with something in it."""
    return _size(path.with_name(f"{path.name}-wal")) > 0


def _refuse_lost(path: Path) -> None:
    for name in TRACES:
        if path.with_name(name).exists():
            raise damaged(path, f"it is empty, though there is a {name} beside it")
    if has_log(path):
        raise damaged(path, "it is empty, though it has a log")


def _ended_unclean(db: sqlite3.Connection) -> bool:
    last = db.execute("SELECT ended_at IS NULL FROM boot ORDER BY number DESC LIMIT 1").fetchone()
    return bool(last and last[0])


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
