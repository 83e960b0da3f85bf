"""What ``aura doctor`` looks at on the disk: the data folder, its lock and its database, the plans folder.

Nothing is changed and nothing is locked: whether a server holds the folder is read from ``/proc/locks``.
"""

import os
import shutil
import sqlite3
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from aura.cli.findings import Finding, fail, ok, warn
from aura.errors import AuraError, ConfigError
from aura.settings import Settings
from aura.stores.folder import DATABASE_NAME, LOCK_NAME, NETWORK, file_system
from aura.stores.sqlite import schema_steps

if TYPE_CHECKING:
    from aura.plan import Plan

LOCKS = Path("/proc/locks")
#: Seconds for the check of a database, and up to which size it is copied for it if its server ended badly.
CHECK_TIME = 10.0
COPIED = 256 * 1024 * 1024
_MAGIC = b"SQLite format 3\0"
_VERSION_AT = 60


def check_data(settings: Settings) -> Iterator[Finding]:
    """The data folder and what is in it."""
    folder = settings.data
    if not folder.exists():
        yield ok("data folder", f"{folder} is not there yet; the first `aura serve` makes it")
        return
    try:
        yield from _check_folder(folder)
        yield _check_room(folder, settings.store.min_free)
        yield from _check_database(folder)
    except OSError as error:
        yield fail("data folder", f"{folder}: {error.strerror}", "run this as the server's user")


def is_held(folder: Path) -> bool:
    """Whether a process holds the lock of a data folder; false where the system does not tell."""
    try:
        inode = str((folder / LOCK_NAME).stat().st_ino)
        lines = LOCKS.read_text().splitlines()
    except OSError:
        return False
    found = [line.split() for line in lines if " FLOCK " in line]
    return any(fields[5].rpartition(":")[2] == inode for fields in found if len(fields) > 5)


def _check_folder(folder: Path) -> Iterator[Finding]:
    status, kind = folder.stat(), file_system(folder)
    if not stat.S_ISDIR(status.st_mode):
        yield fail("data folder", f"{folder} is no folder", "name another with --data")
        return
    if kind in NETWORK:
        yield fail("data folder", f"{folder} is on a network file system ({kind})", "choose a folder on a local disk")
    if status.st_uid != os.geteuid():
        yield fail("data folder", f"{folder} belongs to uid {status.st_uid}", "run `aura` as that user, or move it")
    if status.st_mode & 0o077:
        yield warn("data folder", f"{folder} has mode {status.st_mode & 0o777:04o}", f"chmod 0700 {folder}")
    held = "a server holds it" if is_held(folder) else "no server holds it"
    yield ok("data folder", f"{folder} on {kind or 'a file system of an unknown kind'}, {held}")
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        if (mode := file.stat().st_mode) & 0o077:
            yield warn("data folder", f"{file} has mode {mode & 0o777:04o}", f"chmod 0600 {file}")


def _check_room(folder: Path, least: int) -> Finding:
    free = shutil.disk_usage(folder).free
    detail = f"{free // 2**20} MiB free, at least {least // 2**20} MiB wanted (store.min_free)"
    return ok("disk", detail) if free >= least else fail("disk", detail, "make room, or new work will be refused")


# -- the database -----------------------------------------------------------------------------------------------------


def _check_database(folder: Path) -> Iterator[Finding]:
    file = folder / DATABASE_NAME
    if not file.exists() or not file.stat().st_size:
        yield ok("database", "there is none yet; the first `aura serve` makes it")
        return
    with file.open("rb") as opened:
        header = opened.read(100)
    if not header.startswith(_MAGIC):
        yield fail("database", f"{file} is not one of SQLite", "put a backup there")
        return
    yield _check_version(int.from_bytes(header[_VERSION_AT : _VERSION_AT + 4]))
    yield _check_content(folder, file)
    if file.stat().st_mtime > time.time() + 60:
        yield warn("clock", f"{file} was written in what is the future by this clock", "set the clock right")


def _check_version(version: int) -> Finding:
    known = len(schema_steps())
    if version > known:
        advice = "install the newer Aura again, or use another data folder"
        return fail("database", f"schema {version}, written by a newer Aura; this one knows {known}", advice)
    later = "" if version == known else f"; the next start brings it to {known}"
    return ok("database", f"schema {version}{later}")


def _check_content(folder: Path, file: Path) -> Finding:
    if is_held(folder):
        return ok("database", "in use, so that only its header was read; the server checked it when it started")
    wal = file.with_name(f"{file.name}-wal")
    try:
        if not wal.exists() or not wal.stat().st_size:
            return _quick_check(file)
        if file.stat().st_size + wal.stat().st_size > COPIED:
            return ok("database", "its server did not end by itself; the next start checks it")
        with tempfile.TemporaryDirectory(prefix="aura-doctor-") as copies:
            copy = Path(shutil.copy(file, copies))
            shutil.copy(wal, copies)
            return _quick_check(copy, "mode=rw")  # of a copy: SQLite has to write beside a log that it reads
    except sqlite3.Error as error:
        return _damaged(str(error))


def _quick_check(file: Path, mode: str = "mode=ro&immutable=1") -> Finding:
    end = time.monotonic() + CHECK_TIME
    db = sqlite3.connect(f"{file.absolute().as_uri()}?{mode}", uri=True)
    try:
        db.set_progress_handler(lambda: time.monotonic() > end, 10_000)
        found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        return ok("database", f"too large to be checked within {CHECK_TIME:.0f} s; nothing was wrong till then")
    finally:
        db.close()
    return ok("database", "quick_check finds nothing wrong") if found == "ok" else _damaged(found)


def _damaged(what: str) -> Finding:
    return fail(
        "database", f"damaged: {what}", "put a backup there, or keep the file and let `sqlite3 … .recover` help"
    )


# -- the plans --------------------------------------------------------------------------------------------------------


def check_plans_folder(settings: Settings) -> Iterator[Finding]:
    """Who may write to the plans folder, and whether what is in it can be loaded."""
    from aura.builtin import shipped
    from aura.loading.loader import check_plans
    from aura.loading.snapshot import check_folder_safe

    try:
        check_folder_safe(settings.plans)
    except ConfigError as error:
        what, _, advice = str(error).partition("; ")
        yield fail("plans folder", what, advice)
        if not settings.plans.is_dir():
            return
    try:
        plans = check_plans(settings.plans, shipped(), settings.server.timezone, settings.resources)
    except (AuraError, OSError) as error:
        yield fail("plans folder", str(error), "see docs/reference/plan-files.md")
        return
    wrong = [plan.name for plan in plans if plan.problems]
    if wrong:
        yield warn(
            "plans", f"{len(wrong)} of {len(plans)} cannot be loaded: {', '.join(wrong)}", "`aura check` says why"
        )
    else:
        yield ok("plans", f"{len(plans)} in {settings.plans}, no problems")
    for checked in plans:
        yield from _check_secrets(checked.plan)


def _check_secrets(plan: "Plan | None") -> Iterator[Finding]:
    from aura.secrets import default_providers, secret_warnings

    if plan is not None:
        for warning in secret_warnings(default_providers(os.environ), plan):
            yield warn(f"plan {plan.name}", warning, "of the server's own environment `aura plans` knows more")
