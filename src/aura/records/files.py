"""The files that triggers know of, as they are kept."""

import hashlib
import os
from collections.abc import Mapping
from typing import NamedTuple

from aura.store import Execute, Unit

#: How many folders are kept in mind, the ones of items and plans that are gone among them: they may come back.
MAX_WATCHES = 1000
_PUT = "INSERT OR REPLACE INTO watched_file VALUES (?,?,?,?)"
_DROP = "DELETE FROM watched_file WHERE watch=? AND path=?"
_OLDEST = "SELECT id FROM file_watch ORDER BY seen_at DESC LIMIT -1 OFFSET ?"


class WatchKey(NamedTuple):
    """What makes a watched folder the one that it is. ``number`` tells triggers of one item apart that say the same."""

    plan_name: str
    item: str
    root: str
    pattern: str
    number: int

    @property
    def id(self) -> int:
        """A number made from it, for the store."""
        text = "\0".join([*self[:-1], str(self.number)])
        digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") >> 1


def begin_watch(key: WatchKey) -> Unit:
    """The unit that forgets a folder, before what is in it is put on record."""
    id = key.id

    def unit(execute: Execute) -> None:
        execute("DELETE FROM file_watch WHERE id=?", (id,))
        execute("DELETE FROM watched_file WHERE watch=?", (id,))

    return unit


def put_watch(key: WatchKey, now: float) -> Unit:
    """The unit that notes that all that is known of a folder is on record, and forgets the oldest beyond the bound."""
    values = (key.id, key.plan_name, key.item, now)

    def unit(execute: Execute) -> None:
        execute("INSERT OR REPLACE INTO file_watch VALUES (?,?,?,?)", values)
        for (old,) in execute(_OLDEST, (MAX_WATCHES,)).fetchall():
            execute("DELETE FROM watched_file WHERE watch=?", (old,))
            execute("DELETE FROM file_watch WHERE id=?", (old,))

    return unit


def note_seen(key: WatchKey, now: float) -> Unit:
    """The unit that notes that a folder is served again, if it is known."""
    values = (now, key.id)

    def unit(execute: Execute) -> None:
        execute("UPDATE file_watch SET seen_at=? WHERE id=?", values)

    return unit


def put_files(key: WatchKey, files: Mapping[str, tuple[int, int] | None]) -> Unit:
    """The unit that notes files: by path their modification time in ns and size, None for one that is gone."""
    id = key.id
    there = [(id, os.fsencode(path), *sign) for path, sign in files.items() if sign is not None]
    gone = [(id, os.fsencode(path)) for path, sign in files.items() if sign is None]

    def unit(execute: Execute) -> None:
        for row in there:
            execute(_PUT, row)
        for named in gone:
            execute(_DROP, named)

    return unit


def read_files(execute: Execute, key: WatchKey) -> dict[str, tuple[int, int]] | None:
    """The files that are known of a folder; None if it was never looked at to the end."""
    id = key.id
    if not execute("SELECT 1 FROM file_watch WHERE id=?", (id,)).fetchall():
        return None
    rows = execute("SELECT path, mtime_ns, size FROM watched_file WHERE watch=?", (id,)).fetchall()
    return {os.fsdecode(path): (mtime_ns, size) for path, mtime_ns, size in rows}
