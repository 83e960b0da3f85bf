"""Idempotency keys, each with the answer that was given under it."""

import msgspec

from aura.errors import KeyTaken
from aura.records.columns import FINAL_STATES
from aura.store import Execute, Unit

#: How long an answer is kept under its key at least, in seconds; longer while one of its runs is not final.
KEEP_KEYS = 24 * 3600.0
#: How many old keys are looked at with each new one.
OLD_KEYS = 10
_INSERT_KEY = """INSERT INTO idempotency (scope, key, body, answer, first_seq, last_seq, created_at, keep_until)
 VALUES (?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING"""
_OLD_KEYS = f"""SELECT rowid, EXISTS (SELECT 1 FROM run WHERE seq BETWEEN first_seq AND last_seq
 AND state NOT IN ({FINAL_STATES})) FROM idempotency WHERE keep_until <= ? ORDER BY keep_until LIMIT ?"""  # noqa: S608


class KeyRow(msgspec.Struct, frozen=True):
    """A request by its key: the SHA-256 of what it asked for, and how it was answered. The runs are those in between.

    ``scope`` says of what kind of request it is a key: the same key of two kinds is two keys.
    """

    scope: str
    key: str
    body: bytes
    answer: bytes
    first_seq: int | None
    last_seq: int | None
    at: float


def insert_key(row: KeyRow) -> Unit:
    """The unit that keeps a key, and lets go of some old ones. It is part of the unit of what the key answers.

    Raises (when it runs):
        KeyTaken: the key is on record already.
    """
    values = (*msgspec.structs.astuple(row), row.at + KEEP_KEYS)

    def unit(execute: Execute) -> None:
        if execute(_INSERT_KEY, values).rowcount != 1:
            raise KeyTaken(f"idempotency key {row.key!r} is on record already")
        drop_old_keys(execute, row.at, OLD_KEYS)

    return unit


def drop_old_keys(execute: Execute, now: float, limit: int) -> int:
    """Look at the oldest keys that need not be kept any more, and say how many were let go of.

    One whose run has not ended is kept for another while.
    """
    gone = 0
    for rowid, is_open in execute(_OLD_KEYS, (now, limit)).fetchall():
        if is_open:
            execute("UPDATE idempotency SET keep_until=? WHERE rowid=?", (now + KEEP_KEYS, rowid))
        else:
            gone += execute("DELETE FROM idempotency WHERE rowid=?", (rowid,)).rowcount
    return gone


def find_key(execute: Execute, scope: str, key: str) -> tuple[bytes, bytes] | None:
    """The body's SHA-256 and the answer that are on record under a key; None if there is none."""
    sql = "SELECT body, answer FROM idempotency WHERE scope=? AND key=?"
    found: tuple[bytes, bytes] | None = execute(sql, (scope, key)).fetchone()
    return found
