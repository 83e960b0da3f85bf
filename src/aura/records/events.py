"""Events that tell of no run and no step: how they are kept, and how all events are read back in their order.

What tells of runs and steps is in ``history``, which is written with them (``records.runs``).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from aura.errors import StoreError
from aura.eventnames import matches
from aura.events import Chain, Entry, EventEntry
from aura.records.columns import Insert, decode, decoded, encode, encoded
from aura.store import Execute, Unit

#: Most have come by themselves: from no run, and by no other event.
_insert = Insert("event", "id, name, at, payload, plan_name, root, depth, task_name, cid, step, cause, via")


def insert_event(event: EventEntry) -> Unit:
    """The unit that keeps an event."""
    row = (
        event.id,
        event.name,
        event.time,
        encoded(event.payload),
        event.plan_name,
        event.root,
        event.depth,
        event.task_name,
        event.cid,
        event.step,
        event.cause,
        encode(event.via).decode() if event.via else None,
    )

    def unit(execute: Execute) -> None:
        _insert(execute, row)

    return unit


def require_event(event_id: int) -> Unit:
    """The unit that changes nothing, and fails if an event that was handed over before it was not stored."""

    def unit(execute: Execute) -> None:
        kept = "SELECT 1 FROM event WHERE id=? UNION ALL SELECT 1 FROM history WHERE id=?"
        if execute(kept, (event_id, event_id)).fetchone() is None:
            raise StoreError(f"event {event_id} was not stored")

    return unit


class EventFilter(msgspec.Struct, frozen=True):
    """Which events are wanted; what is None does not restrict. ``name`` is a name, or a pattern of names."""

    name: str | None = None
    plan_name: str | None = None
    task_name: str | None = None
    cid: str | None = None

    def fits(self, event: Entry) -> bool:
        """Say whether an event is wanted."""
        return (
            isinstance(event, EventEntry)
            and (self.cid is None or event.cid == self.cid)
            and (self.plan_name is None or event.plan_name == self.plan_name)
            and (self.task_name is None or event.task_name == self.task_name)
            and (self.name is None or matches(self.name, event.name))
        )


class EventPage(NamedTuple):
    """Events in their order. ``next`` is the id above which to go on; None if there are no more."""

    events: Sequence[Entry]
    next: int | None


_OWN = """SELECT h.id, h.name, h.at, h.payload, r.plan_name, r.task_name, r.cid, h.step,
 json_extract(r.cause, '$.event_id'), r.root_cid, r.depth, NULL FROM history AS h JOIN run AS r ON r.seq = h.seq"""
_OTHER = "SELECT id, name, at, payload, plan_name, task_name, cid, step, cause, root, depth, via FROM event"


def read_events(execute: Execute, wanted: EventFilter, after: int, until: int, limit: int) -> EventPage:
    """Look at the next ``limit`` events with ids above ``after`` and below ``until``, and give those that fit, by id.

    They are looked at in the order of ids, each kind by its own index, so a page costs the same however many there are.
    """
    who: tuple[str, ...] = ()
    if wanted.cid is None:
        own = f"{_OWN} WHERE h.id > ? AND h.id < ? ORDER BY h.id LIMIT ?"
        other = f"{_OTHER} WHERE id > ? AND id < ? ORDER BY id LIMIT ?"
    else:
        own, who = f"{_OWN} WHERE r.cid = ? AND h.id > ? AND h.id < ? ORDER BY h.id LIMIT ?", (wanted.cid,)
        other = f"{_OTHER} WHERE cid = ? AND id > ? AND id < ? ORDER BY id LIMIT ?"
    sql = f"SELECT * FROM (SELECT * FROM ({own}) UNION ALL SELECT * FROM ({other})) ORDER BY 1 LIMIT ?"  # noqa: S608
    one = (*who, after, until, limit)
    rows = execute(sql, (*one, *one, limit)).fetchall()
    found = [event for event in map(event_entry, rows) if wanted.fits(event)]
    return EventPage(found, rows[-1][0] if len(rows) == limit else None)


def read_named(execute: Execute, pattern: str, since: int, before: int, limit: int) -> EventPage:
    """The newest events whose names fit a pattern, with ids from ``since`` on and below ``before``; the newest first.

    ``limit`` of those are looked at whose names begin as the pattern does. ``next`` is the id below which to go on.
    """
    like = pattern if "*" not in pattern else f"{pattern.partition('*')[0]}*"
    own = f"{_OWN} WHERE h.id >= ? AND h.id < ? AND h.name GLOB ? ORDER BY h.id DESC LIMIT ?"
    other = f"{_OTHER} WHERE id >= ? AND id < ? AND name GLOB ? ORDER BY id DESC LIMIT ?"
    sql = f"SELECT * FROM ({own}) UNION ALL SELECT * FROM ({other}) ORDER BY 1 DESC LIMIT ?"  # noqa: S608 - our own words
    one = (since, before, like, limit)
    rows = execute(sql, (*one, *one, limit)).fetchall()
    found = [event for event in map(event_entry, rows) if matches(pattern, event.name)]
    return EventPage(found, rows[-1][0] if len(rows) == limit else None)


def event_entry(row: Sequence[Any]) -> EventEntry:
    """An event as it is on record."""
    id, name, at, payload, plan_name, task_name, cid, step, cause, root, depth, via = row
    chain = None if via is None else Chain(cause, root, max(0, depth - 1), tuple(decode(via)))
    return EventEntry(id, at, cid, plan_name, task_name, step, name, decoded(payload), cause, root, depth, chain)
