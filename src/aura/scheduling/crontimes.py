"""The instants that a cron expression means in a time zone, forwards and backwards. Pure: it knows no clock.

Theory of operation. ``cronsim`` reads the fields and says which days fit; everything else is here, since an expression
with seconds, a fold, and a change of less or more than an hour need more than that library promises. Local time is a
number: the seconds from 1970-01-01T00:00 to what the clock on the wall shows. The rules are Debian cron's:

- An expression whose minute or hour begins with a star follows the real time: it means each instant at which the clock
  on the wall shows a time that fits. In a fold that may be two, in a gap there is none.
- Any other one means *fixed* times. Each comes once, at the first instant at which the clock on the wall shows it or
  has passed it: all that lie in a gap right after it, together, and what lies in a fold the first time.
- Where a gap takes a whole day out of the calendar, as west of the date line in 2011, the times of that day have never
  been. (cron itself takes any change of three hours or more for a correction of the clock; no fixed time is lost or
  repeated here.)

Invariant: within ``HORIZON`` a zone changes at most once; its offsets lie less than that apart.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Literal
from zoneinfo import ZoneInfo

from cronsim import CronSim

HORIZON = 2 * 86_400
#: After so many days without one that fits there is none.
MAX_DAYS = 50 * 366
#: Between these instants every zone has local times that can be written, the years 1 to 9999.
FIRST, LAST = -62_135_596_800 + HORIZON, 253_402_300_799 - HORIZON
_DAY = 86_400
_EPOCH = datetime(1970, 1, 1)
_EPOCH_DAY = _EPOCH.toordinal()
#: How many expressions are kept as they were read, and of how many days it is kept which offset a zone has.
_KEPT = 10_000
Step = Literal[1, -1]


class CronTimes:
    """One expression, of five fields or six, as ``read_cron`` gives it."""

    def __init__(self, fields: str) -> None:
        self._sim = CronSim(fields, datetime(2026, 1, 1, tzinfo=UTC))
        self._hours = tuple(sorted(self._sim.hours))
        #: In seconds since the full hour; 3600 at most.
        self._within_hour = _compact(sorted({60 * m + s for m in self._sim.minutes for s in self._sim.seconds}))
        minute, hour = self._sim.parts[1:3]
        self.is_fixed = not (minute.startswith("*") or hour.startswith("*"))
        #: By zone the last answer of ``first_from``: it holds for each start between the two.
        self._known: dict[ZoneInfo, tuple[int, int]] = {}

    def first_from(self, zone: ZoneInfo, start: int) -> int | None:
        """The first instant from ``start`` on, that included; None if there is none any more."""
        asked, known = self._known.get(zone, (0, -1))
        if asked <= start <= known:
            return known
        found = next(self.instants(zone, start, 1), None)
        if found is not None:
            self._known[zone] = start, found
        return found

    def instants(self, zone: ZoneInfo, start: int, step: Step) -> Iterator[int]:
        """All instants from ``start`` on, that included, in Unix seconds: later ones (1), or earlier ones (-1)."""
        return self._fixed(zone, start, step) if self.is_fixed else self._real(zone, start, step)

    def is_moved(self, zone: ZoneInfo, instant: int) -> bool:
        """Whether an instant that it means stands for a time in a gap."""
        local = instant + offset_at(zone, instant)
        return self.is_fixed and self.nearest(local, 1) != local

    # -- on the wall

    def nearest(self, local: int, step: Step) -> int | None:
        """The first local time that fits, from one on and that included; None if none comes for 50 years."""
        day, second = divmod(local, _DAY)
        if self._fits(day):
            found = self._nearest_second(second, step)
            if found is not None:
                return day * _DAY + found
        other = self._nearest_day(day + step, step)
        if other is None:
            return None
        return other * _DAY + _first(self._hours, step) * 3600 + _first(self._within_hour, step)

    def _nearest_second(self, bound: int, step: Step) -> int | None:
        """The first second of a day that fits, from one on; None if all lie before it."""
        begun, rest = divmod(bound, 3600)
        hour = _next(self._hours, begun, step)
        if hour == begun:
            within = _next(self._within_hour, rest, step)
            if within is not None:
                return hour * 3600 + within
            hour = _next(self._hours, begun + step, step)
        return None if hour is None else hour * 3600 + _first(self._within_hour, step)

    def _fits(self, day: int) -> bool:
        on = date.fromordinal(day + _EPOCH_DAY)
        return on.month in self._sim.months and self._sim.match_day(on)

    def _nearest_day(self, day: int, step: Step) -> int | None:
        lowest = max(day - MAX_DAYS, 1 - _EPOCH_DAY)
        highest = min(day + MAX_DAYS, date.max.toordinal() - _EPOCH_DAY)
        while lowest <= day <= highest:
            on = date.fromordinal(day + _EPOCH_DAY)
            if on.month not in self._sim.months:
                day += _days_left(on, step)
            elif self._sim.match_day(on):
                return day
            else:
                day += step
        return None

    # -- in a zone

    def _real(self, zone: ZoneInfo, start: int, step: Step) -> Iterator[int]:
        found = self._next_real(zone, start, step)
        while found is not None:
            yield found
            found = self._next_real(zone, found + step, step)

    def _next_real(self, zone: ZoneInfo, start: int, step: Step) -> int | None:
        """Go on where the zone changes, or as far as it is known that it does not."""
        while FIRST <= start <= LAST:
            offset = offset_at(zone, start)
            local = self.nearest(start + offset, step)
            if local is None:
                return None
            found = local - offset
            bound = found if abs(found - start) <= HORIZON else start + step * HORIZON
            if offset_at(zone, bound) != offset:
                start = _change(zone, start, bound)
            elif bound == found:
                return found
            else:
                start = step * max(step * bound, step * found - HORIZON)
        return None

    def _fixed(self, zone: ZoneInfo, start: int, step: Step) -> Iterator[int]:
        local: int | None = _first_local(zone, start, step) if FIRST <= start <= LAST else None
        last = None
        while local is not None:
            local = self.nearest(local, step)
            if local is None or not FIRST <= local <= LAST:
                return
            found = _first_reached(zone, local)
            if found is not None and found != last and step * (found - start) >= 0:
                yield found
                last = found
            local += step


@lru_cache(_KEPT)
def cron_times(fields: str) -> CronTimes:
    """An expression, read once."""
    return CronTimes(fields)


@lru_cache(None)
def zone_of(name: str) -> ZoneInfo:
    """A time zone, read once: those that are kept by ``zoneinfo`` itself are few.

    Raises:
        ZoneInfoNotFoundError: this machine knows of none with this name.
    """
    return ZoneInfo(name)


def offset_at(zone: ZoneInfo, instant: int) -> int:
    """How many seconds local time is ahead of UTC."""
    steady = _offset_of_day(zone, instant // _DAY)
    return _offset_at(zone, instant) if steady is None else steady


@lru_cache(_KEPT)
def _offset_of_day(zone: ZoneInfo, day: int) -> int | None:
    """The offset of a whole day of UTC; None if it changes in it. A slot is often asked for on the day of the last."""
    first, last = _offset_at(zone, day * _DAY), _offset_at(zone, (day + 1) * _DAY)
    return first if first == last else None


def _offset_at(zone: ZoneInfo, instant: int) -> int:
    offset = datetime.fromtimestamp(instant, zone).utcoffset()
    assert offset is not None  # a ZoneInfo always has one
    return offset.days * _DAY + offset.seconds


def _first_local(zone: ZoneInfo, start: int, step: Step) -> int:
    """The local time from which on those lie that are reached at ``start`` or beyond. In a fold a few more do."""
    if step == 1:
        return start + offset_at(zone, start - 1)
    in_fold = datetime.fromtimestamp(start, zone).fold
    return start + offset_at(zone, start) + in_fold * _DAY


def _first_reached(zone: ZoneInfo, local: int) -> int | None:
    """The first instant at which the clock on the wall shows a time or has passed it; None if there is no such day."""
    before = (_EPOCH + timedelta(seconds=local)).replace(tzinfo=zone).utcoffset()
    assert before is not None
    found = local - (before.days * _DAY + before.seconds)
    gap = found + offset_at(zone, found) - local
    if gap == 0:
        return found
    change = _change(zone, found - gap, found)
    resumes, midnight = change + offset_at(zone, change), local - local % _DAY
    return None if resumes - gap <= midnight and midnight + _DAY <= resumes else change


def _change(zone: ZoneInfo, start: int, beyond: int) -> int:
    """The instant next to ``start`` at which the offset is another than there; at ``beyond`` it is."""
    offset = offset_at(zone, start)
    while abs(beyond - start) > 1:
        middle = (start + beyond) // 2
        if offset_at(zone, middle) == offset:
            start = middle
        else:
            beyond = middle
    return beyond


# -- hours, days


def _compact(values: Sequence[int]) -> Sequence[int]:
    """The same numbers, as a range if they lie evenly: each second of an hour would be 3600."""
    spread = values[1] - values[0] if len(values) > 1 else 1
    even = range(values[0], values[-1] + 1, spread)
    return even if len(even) == len(values) and list(even) == list(values) else tuple(values)


def _next(values: Sequence[int], bound: int, step: Step) -> int | None:
    """The first of these values from ``bound`` on."""
    if step == 1:
        index = bisect_left(values, bound)
        return values[index] if index < len(values) else None
    index = bisect_right(values, bound)
    return values[index - 1] if index else None


def _first(values: Sequence[int], step: Step) -> int:
    return values[0] if step == 1 else values[-1]


def _days_left(on: date, step: Step) -> int:
    """How far it is to the first day of the next month, or to the last of the one before."""
    if step == -1:
        return -on.day
    following = date(on.year + on.month // 12, on.month % 12 + 1, 1) if (on.year, on.month) < (9999, 12) else None
    return (following - on).days if following else 31
