"""What ``aura doctor`` looks at in the database: what it is, whether it is sound, and what the last server left.

Nothing is changed. Of a database in use only a few records are read, beside its server; one whose server ended badly
is looked at as a copy, since SQLite has to write beside a log that it reads.
"""

import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from aura.cli.findings import Finding, fail, ok, warn
from aura.cli.folders import is_held
from aura.cli.output import local_time
from aura.errors import StoreError
from aura.stores.backup import refuse_foreign_log
from aura.stores.folder import DATABASE_NAME
from aura.stores.sqlite import schema_steps

#: Seconds for the check of a database, and up to which size it is copied for it if its server ended badly.
CHECK_TIME = 10.0
COPIED = 256 * 1024 * 1024
#: By how many seconds a record may be ahead of the clock before that is told.
AHEAD = 60.0
#: How many processes are named.
NAMED = 10
_MAGIC = b"SQLite format 3\0"
_VERSION_AT = 60


def check_database(folder: Path) -> Iterator[Finding]:
    """The database of a data folder, and what is left of those who wrote it."""
    file = folder / DATABASE_NAME
    try:
        refuse_foreign_log(file)
        if not file.exists() or not file.stat().st_size:
            yield ok("database", "there is none yet; the first `aura serve` makes it")
            return
        with file.open("rb") as opened:
            header = opened.read(100)
        if not header.startswith(_MAGIC):
            yield fail("database", f"{file} is not one of SQLite", "put a backup there")
            return
        yield _check_version(int.from_bytes(header[_VERSION_AT : _VERSION_AT + 4]))
        yield from _check_content(folder, file)
        if file.stat().st_mtime > time.time() + AHEAD:
            yield warn("clock", f"{file} was written in what is the future by this clock", "set the clock right")
    except OSError as error:
        yield fail("database", f"{file}: {error.strerror}", "run this as the server's user")
    except StoreError as error:
        yield fail("database", str(error), "docs/how-to/back-up-and-restore.md says how a backup is put back")
    except sqlite3.Error as error:
        yield _damaged(str(error))


def _check_version(version: int) -> Finding:
    known = len(schema_steps())
    if version > known:
        advice = "install the newer Aura again, or use another data folder"
        return fail("database", f"schema {version}, written by a newer Aura; this one knows {known}", advice)
    later = "" if version == known else f"; the next start brings it to {known}, and keeps a backup beside it"
    return ok("database", f"schema {version}{later}")


def _check_content(folder: Path, file: Path) -> Iterator[Finding]:
    log = file.with_name(f"{file.name}-wal")
    held, more = is_held(folder), log.stat().st_size if log.exists() else 0
    yield ok("database", f"{file.stat().st_size / 2**20:.1f} MiB, and {more / 2**20:.1f} MiB of its log")
    if held:
        yield ok("database", "in use, so that its pages were not checked; the server checked it when it started")
    elif file.stat().st_size + more > COPIED and more:
        yield ok("database", "its server did not end by itself; the next start checks it")
        return
    with _opened(file, "mode=ro" if held else "") as db:
        if not held:
            yield _quick_check(db)
        yield from _check_records(db, held)


@contextmanager
def _opened(file: Path, how: str) -> Iterator[sqlite3.Connection]:
    """The database, or a copy of it if it has a log that nobody writes; ``how`` it is opened, if that is said."""
    log = file.with_name(f"{file.name}-wal")
    with tempfile.TemporaryDirectory(prefix="aura-doctor-") as copies:
        if not how and log.exists() and log.stat().st_size:
            file = Path(shutil.copy(file, copies))
            shutil.copy(log, copies)
            how = "mode=rw"
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?{how or 'mode=ro&immutable=1'}", uri=True)) as db:
            yield db


def _quick_check(db: sqlite3.Connection) -> Finding:
    end = time.monotonic() + CHECK_TIME
    db.set_progress_handler(lambda: time.monotonic() > end, 10_000)
    try:
        found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        return ok("database", f"too large to be checked within {CHECK_TIME:.0f} s; nothing was wrong till then")
    finally:
        db.set_progress_handler(None, 0)
    return ok("database", "quick_check finds nothing wrong") if found == "ok" else _damaged(found)


def _damaged(what: str) -> Finding:
    return fail(
        "database", f"damaged: {what}", "put a backup there, or keep the file and let `sqlite3 … .recover` help"
    )


# -- what the last server left ----------------------------------------------------------------------------------------


class _Last(NamedTuple):
    """The last start of a server, and the newest time on record; times in seconds."""

    store_id: str
    boot: int
    ended_at: float | None
    newest: float


_LAST = """SELECT meta.value, number, ended_at,
    max(started_at, coalesce(ended_at, 0), coalesce((SELECT accepted_at FROM run ORDER BY seq DESC LIMIT 1), 0))
    FROM boot, meta WHERE key='store_id' ORDER BY number DESC LIMIT 1"""


def _check_records(db: sqlite3.Connection, held: bool) -> Iterator[Finding]:
    found = db.execute(_LAST).fetchone()
    if found is None:
        yield ok("boot", "no server has started on it yet")
        return
    last = _Last(*found)
    yield _check_end(last, held)
    if (ahead := last.newest - time.time()) > AHEAD:
        detail = f"the newest record is of {_said(last.newest)}, {ahead:.0f} s ahead of this clock: it was put back"
        yield warn("clock", detail, "set the clock right; what waits for a time waits until that has come")
    yield from _check_leftovers(last, held)


def _said(seconds: float) -> str:
    return local_time(datetime.fromtimestamp(seconds, UTC))


def _check_end(last: _Last, held: bool) -> Finding:
    if held:
        return ok("boot", f"{last.boot} is running")
    if last.ended_at is None:
        detail = f"{last.boot} did not end in good order: its server was killed, or crashed"
        return warn("boot", detail, "see its log; the next start settles what it left")
    return ok("boot", f"{last.boot} ended in good order, at {_said(last.ended_at)}")


def _check_leftovers(last: _Last, held: bool) -> Iterator[Finding]:
    """Processes that a server before the present one, or before the next, started and that outlived it."""
    from aura.processes.leftovers import BOOT, is_older, look_at_all

    before = last.boot if held else last.boot + 1
    left = [seen.pid for seen in look_at_all() if is_older(seen.marks.get(BOOT, ""), last.store_id, before)]
    if left:
        more = f" and {len(left) - NAMED} more" if len(left) > NAMED else ""
        detail = f"a server that is gone has left {', '.join(map(str, left[:NAMED]))}{more} running"
        yield warn("processes", detail, "end them, or start the server, which ends what is its own")
