"""Events that wait until none with their key has come for a while, as they are kept."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from aura.events import EventEntry
from aura.records.columns import decode, encode, encoded
from aura.records.events import event_entry
from aura.store import Execute, Unit

_PUT = """INSERT INTO debounced (plan_name, item, trigger, key, event_id, event, count, quiet, due)
 VALUES (?,?,?,?,?,?,1,?,?) ON CONFLICT DO UPDATE SET
 event_id=excluded.event_id, event=excluded.event, count=count+1, quiet=excluded.quiet, due=excluded.due"""
_WHERE = "WHERE plan_name=? AND item=? AND trigger=? AND key=?"
_DROP_STRAYS = """DELETE FROM debounced WHERE NOT EXISTS
 (SELECT 1 FROM schedule_item AS i WHERE i.plan_name = debounced.plan_name AND i.name = debounced.item)"""


class DebounceKey(NamedTuple):
    """Which events count as one: those of a trigger of an item with the same key, both as hashes."""

    plan_name: str
    item: str
    trigger: str
    key: str


class DebouncedRow(msgspec.Struct, frozen=True):
    """The last of ``count`` events with a key. None may come for ``quiet`` seconds, until ``due`` in Unix seconds."""

    key: DebounceKey
    event: EventEntry
    count: int
    quiet: float
    due: float


def event_json(event: EventEntry) -> bytes:
    """All that has to be known of an event to start something by it later: JSON."""
    names = (event.plan_name, event.task_name, event.cid, event.step)
    chain = (event.cause, event.root, event.depth, event.via)
    return encode((event.id, event.name, event.time, event.payload, *names, *chain))


def put_debounced(key: DebounceKey, event_id: int, event: bytes, quiet: float, due: float) -> Unit:
    """The unit that keeps an event (``event_json``) as the last one with a key."""
    values = (*key, event_id, event, quiet, due)

    def unit(execute: Execute) -> None:
        execute(_PUT, values)

    return unit


def drop_debounced(key: DebounceKey, event_id: int, count: int) -> Unit:
    """The unit that forgets the ``count`` events with a key up to this one; one that has come since is kept."""

    def unit(execute: Execute) -> None:
        if not execute(f"DELETE FROM debounced {_WHERE} AND event_id <= ?", (*key, event_id)).rowcount:  # noqa: S608
            execute(f"UPDATE debounced SET count = max(1, count - ?) {_WHERE}", (count, *key))  # noqa: S608

    return unit


def drop_stray_debounced() -> Unit:
    """The unit that forgets those of items of which nothing is kept any more."""

    def unit(execute: Execute) -> None:
        execute(_DROP_STRAYS)

    return unit


def read_debounced(execute: Execute) -> list[DebouncedRow]:
    """All that wait, in the order of their events."""
    sql = "SELECT plan_name, item, trigger, key, event, count, quiet, due FROM debounced ORDER BY event_id"
    return [DebouncedRow(DebounceKey(*row[:4]), _event(decode(row[4])), *row[5:]) for row in execute(sql).fetchall()]


def _event(kept: Sequence[Any]) -> EventEntry:
    id, name, time, payload, *names, via = kept
    return event_entry((id, name, time, encoded(payload), *names, encode(via) if via else None))
