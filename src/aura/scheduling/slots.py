"""The times that triggers mean: which slots lie in a span, and which comes next.

Pure: it knows no clock. All times are Unix seconds. A slot is a nominal time of a trigger; what becomes of one that is
due is for ``scheduler``. What a cron expression means is in ``crontimes``.
"""

import math
from collections.abc import Iterator
from itertools import islice, takewhile
from typing import NamedTuple

from aura.schedule import At, Cron, Every, Trigger
from aura.scheduling.crontimes import LAST, Step, cron_times, zone_of

#: How many slots of a cron are counted, the latest ones; with them one before, so that it is known that there are more.
MAX_COUNTED = 100


def next_slot(trigger: Trigger, anchor: float, timezone: str, after: float) -> float | None:
    """The first slot after a time; None if there is none any more.

    ``anchor`` is when the trigger was first seen: it has no slots up to then. ``timezone`` is for a cron that names
    none.

    Raises:
        ZoneInfoNotFoundError: there is no such zone on this machine any more.
    """
    after, kind = max(after, anchor), trigger.kind
    if isinstance(kind, Cron):  # to ask again for what lies before the last answer costs nothing
        first = cron_times(kind.fields).first_from(zone_of(kind.timezone or timezone), math.floor(after) + 1)
        return None if first is None else float(first)
    return next(slots_after(trigger, timezone, after, anchor), None)


def slots_after(trigger: Trigger, timezone: str, after: float, anchor: float) -> Iterator[float]:
    """All slots after a time, in their order. See ``next_slot``."""
    match trigger.kind:
        case Cron(fields, zone):
            return _cron(fields, zone or timezone, math.floor(after) + 1, 1)
        case Every() as every:
            return _grid(every, anchor, after)
        case At(time):
            return iter([time] if time > after else [])
        case _:
            return iter([])


class Come(NamedTuple):
    """The latest slots that have come, the oldest first; how many ``more`` came before, from ``first`` to ``last``.

    ``is_all``: those were all; else some of a cron came before ``first`` that were not counted.
    """

    dues: list[float]
    more: int = 0
    first: float = math.inf
    last: float = -math.inf
    is_all: bool = True


def latest_slots(trigger: Trigger, anchor: float, timezone: str, after: float, until: float, limit: int) -> Come:
    """The slots after ``after`` and up to ``until``: the latest ``limit`` of them. See ``next_slot``."""
    after = max(after, anchor)
    match trigger.kind:
        case Cron(fields, zone):
            latest = _cron(fields, zone or timezone, math.floor(until), -1)
            found = list(islice(takewhile(lambda due: due > after, latest), MAX_COUNTED + 1))
            dues, more = found[:limit][::-1], found[limit:]
            return Come(dues, len(more), *_ends(more[::-1]), len(found) <= MAX_COUNTED)
        case Every() as every:
            first, last = _first_after(every, anchor, after), _first_after(every, anchor, until)
            begin = max(first, last - limit)
            dues = [_slot(every, anchor, number) for number in range(begin, last)]
            ends = [_slot(every, anchor, number) for number in (first, begin - 1)] if begin > first else []
            return Come(dues, begin - first, *_ends(ends))
        case At(time) if after < time <= until:
            return Come([time])
        case _:
            return Come([])


def _ends(dues: list[float]) -> tuple[float, float]:
    return (dues[0], dues[-1]) if dues else (math.inf, -math.inf)


def _cron(fields: str, timezone: str, start: int, step: Step) -> Iterator[float]:
    return map(float, cron_times(fields).instants(zone_of(timezone), start, step))


# -- every: its slots are numbered, and each is worked out from its number, so that no error grows


def _grid(every: Every, anchor: float, after: float) -> Iterator[float]:
    number = _first_after(every, anchor, after)
    while (due := _slot(every, anchor, number)) <= LAST:
        yield due
        number += 1


def _slot(every: Every, anchor: float, number: int) -> float:
    return (anchor if every.start is None else every.start) + number * every.period


def _first_after(every: Every, anchor: float, after: float) -> int:
    """The number of the first slot after a time, which is not before the trigger was first seen."""
    number = max(0, math.floor((after - _slot(every, anchor, 0)) / every.period) - 1)
    while _slot(every, anchor, number) <= after:  # at most three times: a division is off by less than one
        number += 1
    return number
