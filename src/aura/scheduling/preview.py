"""When an item is due in a span, for people: the times, by which clock, and what is unusual about them.

Some thousand rare times take half a second to find: it is done in a thread, on an item as it stood when it was asked.
"""

import heapq
import math
from collections.abc import Iterator
from datetime import datetime
from itertools import groupby, islice, takewhile
from operator import itemgetter
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from aura.errors import FieldError, RequestError
from aura.schedule import Cron, Trigger
from aura.scheduling.crontimes import LAST, cron_times, zone_of
from aura.scheduling.slots import slots_after
from aura.scheduling.watched import Watched

#: How many slots are shown at once.
MAX_SHOWN = 1000
Dst = Literal["gap", "fold"] | None


class Previewed(NamedTuple):
    """A slot: in Unix seconds, and as the clock of its trigger's zone shows it, RFC 3339 with the offset.

    ``dst`` says what is unusual about it where the clocks change: it stands right after a ``gap``, for a time in that,
    or in a ``fold``, so that the clock shows its time twice.
    """

    due: float
    local: str
    dst: Dst


class Preview(NamedTuple):
    """The slots in a span, in their order. ``cut``: there are more, after the last of these."""

    slots: list[Previewed]
    cut: bool


def preview(item: Watched, begin: float, end: float, limit: int = MAX_SHOWN) -> Preview:
    """The slots of an item from ``begin`` on, that included, to ``end``, that not, whatever its switch says.

    Those of a cron are there for the past too, back to 1970: clients are told no times before that. An ``every`` begins
    when it was first seen, or where its file says.

    Raises:
        RequestError: ``invalid``: the span is none, or a time zone is not known on this machine any more.
    """
    if not begin < end:
        raise RequestError("invalid", "the span has no time in it", errors=[FieldError("/to", "must be after `from`")])
    after, end = math.nextafter(max(begin, 0.0), -math.inf), min(end, LAST)
    try:
        merged = heapq.merge(*(_slots(item, *one, after, end) for one in item.triggers), key=itemgetter(0))
        once = (next(same) for _, same in groupby(merged, itemgetter(0)))
        found = [_previewed(due, trigger, _zone(item, trigger)) for due, trigger in islice(once, limit + 1)]
    except ZoneInfoNotFoundError as error:
        raise RequestError("invalid", f"the times of {item.live.name} cannot be said: {error.args[0]}") from error
    return Preview(found[:limit], len(found) > limit)


def _slots(item: Watched, trigger: Trigger, anchor: float, after: float, end: float) -> Iterator[tuple[float, Trigger]]:
    dues = slots_after(trigger, item.timezone, after, anchor)
    return ((due, trigger) for due in takewhile(lambda due: due < end, dues))


def _zone(item: Watched, trigger: Trigger) -> ZoneInfo:
    named = trigger.kind.timezone if isinstance(trigger.kind, Cron) else None
    return zone_of(named or item.timezone)


def _previewed(due: float, trigger: Trigger, zone: ZoneInfo) -> Previewed:
    local = datetime.fromtimestamp(due, zone)
    return Previewed(due, local.isoformat(), _dst(due, local, trigger, zone))


def _dst(due: float, local: datetime, trigger: Trigger, zone: ZoneInfo) -> Dst:
    if isinstance(trigger.kind, Cron) and cron_times(trigger.kind.fields).is_moved(zone, int(due)):
        return "gap"
    first, second = local.replace(fold=0).utcoffset(), local.replace(fold=1).utcoffset()
    return "fold" if first != second else None
