"""Windows in which an event is expected, as they are kept."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from aura.store import Execute, Unit

_PUT = "INSERT OR REPLACE INTO expected VALUES (?,?,?,?,?,?)"
_DROP = "DELETE FROM expected WHERE plan_name=? AND item=? AND trigger=?"
_DROP_STRAYS = """DELETE FROM expected WHERE NOT EXISTS
 (SELECT 1 FROM schedule_item AS i WHERE i.plan_name = expected.plan_name AND i.name = expected.item)"""


class ExpectKey(NamedTuple):
    """A trigger of an item; ``trigger`` is a hash of what it says."""

    plan_name: str
    item: str
    trigger: str


class Window(msgspec.Struct, frozen=True):
    """The time in which an event is expected: from ``since``, in Unix seconds. Those before ``since_id`` do not count.

    ``last_seen`` is when one came for the last time, None if none has.
    """

    since: float
    since_id: int
    last_seen: float | None = None


def put_expected(key: ExpectKey, window: Window) -> Unit:
    """The unit that keeps a window in the place of the one before."""
    values = (*key, window.since, window.since_id, window.last_seen)

    def unit(execute: Execute) -> None:
        execute(_PUT, values)

    return unit


def drop_expected(key: ExpectKey) -> Unit:
    """The unit that forgets a trigger."""

    def unit(execute: Execute) -> None:
        execute(_DROP, key)

    return unit


def drop_stray_expected() -> Unit:
    """The unit that forgets those of items of which nothing is kept any more."""

    def unit(execute: Execute) -> None:
        execute(_DROP_STRAYS)

    return unit


def read_expected(execute: Execute) -> Mapping[ExpectKey, Window]:
    """All windows."""
    rows = execute("SELECT plan_name, item, trigger, since, since_id, last_seen FROM expected").fetchall()
    return {ExpectKey(*row[:3]): Window(*row[3:]) for row in rows}
