"""Items of schedules and their slots, as they are kept."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import msgspec

from aura.records.columns import decode, encode
from aura.store import Execute, Unit

#: How many items are kept that are in no file any more, since they may come back.
MAX_AWAY = 10_000
#: Of how many items it is kept how their spans are written.
KEPT_SPANS = 2000
_PUT = "INSERT OR REPLACE INTO schedule_item VALUES (?,?,?,?,?,?,?,?,?)"
_COLUMNS = "plan_name, name, anchors, looked_to, settled, last_due, last_cid, last_at"


class ItemRow(msgspec.Struct, frozen=True):
    """What is known of an item, for ever. Times are Unix seconds.

    ``anchors`` says when each trigger with times of its own was first seen, by what it says. Slots up to ``looked_to``
    are settled, started or missed, unless the clock is set back; none in ``settled``, spans with both their ends, ever
    starts.
    """

    plan_name: str
    name: str
    anchors: Mapping[str, float] = {}
    looked_to: float = 0.0
    settled: tuple[tuple[float, float], ...] = ()
    last_due: float | None = None
    last_cid: str | None = None
    last_at: float | None = None


def put_item(row: ItemRow, now: float) -> Unit:
    """The unit that writes what is known of an item."""
    values = (
        *(row.plan_name, row.name, encode(row.anchors), row.looked_to, _encoded_spans(row.settled)),
        *(row.last_due, row.last_cid, row.last_at, now),
    )

    def unit(execute: Execute) -> None:
        execute(_PUT, values)

    return unit


@lru_cache(KEPT_SPANS)
def _encoded_spans(spans: tuple[tuple[float, float], ...]) -> bytes:
    """The same for many starts of an item: they change once in so many."""
    return encode(spans)


def put_slot(row: ItemRow, due: float, cid: str, spans: Sequence[tuple[float, float]] = ()) -> Unit:
    """The unit that notes that a slot of an item has started a run, and forgets those that lie in ``spans``.

    Raises (when it runs):
        sqlite3.IntegrityError: it has started one before; nothing of the unit is kept.
    """
    item = (row.plan_name, row.name)

    def unit(execute: Execute) -> None:
        execute("INSERT INTO slot VALUES (?,?,?,?)", (*item, due, cid))
        for span in spans:
            execute("DELETE FROM slot WHERE plan_name=? AND item=? AND due BETWEEN ? AND ?", (*item, *span))

    return unit


def drop_item(key: tuple[str, str]) -> Unit:
    """The unit that forgets an item, by its plan and its name."""

    def unit(execute: Execute) -> None:
        execute("DELETE FROM schedule_item WHERE plan_name=? AND name=?", key)
        execute("DELETE FROM slot WHERE plan_name=? AND item=?", key)

    return unit


#: The slots of an item that have started a run, in the order in which they were taken.
Started = dict[float, None]


def read_items(execute: Execute) -> dict[tuple[str, str], tuple[ItemRow, Started]]:
    """By plan and name all items, the oldest first, each with its started slots that are not in ``settled``."""
    found = {}
    sql = f"SELECT {_COLUMNS} FROM schedule_item ORDER BY seen_at"  # noqa: S608 - our own words
    for plan_name, name, anchors, looked_to, settled, *last in execute(sql).fetchall():
        spans = tuple((first, end) for first, end in decode(settled))
        found[plan_name, name] = (ItemRow(plan_name, name, decode(anchors), looked_to, spans, *last), Started())
    for plan_name, name, due in execute("SELECT plan_name, item, due FROM slot ORDER BY due").fetchall():
        if (plan_name, name) in found:
            found[plan_name, name][1][due] = None
    return found
