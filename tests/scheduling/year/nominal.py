"""The nominal times of a trigger, found by walking from minute to minute. Slow, and written without a look at ``src``.

A time of a cron expression comes when the clock on the wall first shows it or has passed it; where its minute or hour
begins with a star, whenever that clock shows a time that fits. All times are Unix seconds.
"""

from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import msgspec

MINUTE, DAY = 60, 86_400
#: Zones change at whole quarters of an hour nowadays.
QUARTER = 900
_EPOCH = date(1970, 1, 1)
_NAMES = {"*": "0-59", "hour*": "0-23", "day*": "1-31", "month*": "1-12", "week*": "0-6"}


class Trigger(msgspec.Struct, frozen=True):
    """A trigger with times of its own, by one of ``cron``, ``every`` and ``at``; seconds, ``timing`` for all three."""

    cron: str | None = None
    zone: str = "UTC"
    every: float | None = None
    start: float | None = None
    at: float | None = None
    misfire: str = "run_once"
    grace: float | None = None
    jitter: float = 0.0

    @property
    def text(self) -> str:
        """As it stands in schedule.yaml."""
        keys = {"misfire": self.misfire}
        if self.cron is not None:
            keys |= {"cron": f"'{self.cron}'", "timezone": self.zone}
        elif self.every is not None:
            keys |= {"every": f"{self.every:g}s"} | ({"from": _written(self.start)} if self.start is not None else {})
        elif self.at is not None:
            keys |= {"at": _written(self.at)}
        keys |= {"misfire_grace": f"{self.grace:g}s"} if self.grace is not None else {}
        keys |= {"jitter": f"{self.jitter:g}s"} if self.jitter else {}
        return "{" + ", ".join(f"{key}: {value}" for key, value in keys.items()) + "}"


class Item(msgspec.Struct, frozen=True):
    """An item of a schedule; ``mode`` is that of its own runs."""

    name: str
    triggers: tuple[Trigger, ...]
    task: str = "work"
    mode: str = "single"
    enabled: bool = True

    @property
    def text(self) -> str:
        """Its keys as they stand in schedule.yaml."""
        triggers = ", ".join(trigger.text for trigger in self.triggers)
        return f"task: {self.task}, mode: {self.mode}, enabled: {str(self.enabled).lower()}, triggers: [{triggers}]"


def times(trigger: Trigger, anchor: float, after: float, until: float) -> list[float]:
    """Its nominal times after ``after`` and up to ``until``; those of an ``every`` without ``from`` by its anchor."""
    if trigger.at is not None:
        return [trigger.at] if after < trigger.at <= until else []
    if trigger.every is not None:
        return list(_grid(trigger.every, trigger.start, anchor, after, until))
    found = _cron_times(trigger.cron or "", trigger.zone, *_years(after, until))
    return found[bisect_right(found, after) : bisect_right(found, until)]


def _grid(period: float, start: float | None, anchor: float, after: float, until: float) -> Iterator[float]:
    due = anchor + period if start is None else start
    number = 1 if start is None else 0
    while due <= until:
        if due > after:
            yield due
        number += 1
        due = (anchor if start is None else start) + number * period


def _years(after: float, until: float) -> tuple[int, int]:
    return datetime.fromtimestamp(after, UTC).year, datetime.fromtimestamp(max(after, until), UTC).year


@cache
def _cron_times(fields: str, zone: str, first: int, last: int) -> list[float]:
    """All of these years."""
    minutes, hours, days, months, weekdays = fields.split()
    begin, end = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (first, last + 1))
    fit = _days_that_fit(days, months, weekdays, begin // DAY - 2, end // DAY + 2)
    of_day = [h * 60 + m for h in _values(hours, "hour*") for m in _values(minutes, "*")]
    wanted = [day * 1440 + minute for day in fit for minute in of_day]
    follows = minutes.startswith("*") or hours.startswith("*")
    walk = _shown(zone, begin, end)
    return list(_whenever_shown(walk, set(wanted)) if follows else _first_reached(walk, wanted))


def _whenever_shown(walk: Iterator[tuple[int, int]], wanted: set[int]) -> Iterator[float]:
    return (float(instant) for instant, shown in walk if shown in wanted)


def _first_reached(walk: Iterator[tuple[int, int]], wanted: list[int]) -> Iterator[float]:
    passed, number, last = None, 0, None
    for instant, shown in walk:
        if passed is None:
            number = bisect_right(wanted, shown - 1)
        passed = shown if passed is None else max(passed, shown)
        while number < len(wanted) and wanted[number] <= passed:
            if instant != last:
                yield float(instant)
            last = instant
            number += 1


def _shown(zone: str, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Each minute with what the clock on the wall shows then, in minutes of local time."""
    info = ZoneInfo(zone)
    for quarter in range(begin, end, QUARTER):
        offset = datetime.fromtimestamp(quarter, info).utcoffset()
        assert offset is not None
        for instant in range(quarter, quarter + QUARTER, MINUTE):
            yield instant, (instant + int(offset.total_seconds())) // MINUTE


def _days_that_fit(days: str, months: str, weekdays: str, first: int, last: int) -> list[int]:
    """Either of both if a day of the month and one of the week are named, as cron has it."""
    in_days, in_months, in_weekdays = _values(days, "day*"), _values(months, "month*"), _values(weekdays, "week*")
    either = not (days.startswith("*") or weekdays.startswith("*"))
    found = []
    for day in range(first, last):
        on = _EPOCH + timedelta(days=day)
        fits = on.day in in_days, on.isoweekday() % 7 in in_weekdays
        if on.month in in_months and (any(fits) if either else all(fits)):
            found.append(day)
    return found


def _values(field: str, star: str) -> list[int]:
    found: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        low, _, high = (_NAMES[star] if span == "*" else span).partition("-")
        found |= set(range(int(low), int(high or low) + 1, int(step or 1)))
    return sorted(found)


def _written(instant: float) -> str:
    return f'"{datetime.fromtimestamp(instant, UTC).isoformat().replace("+00:00", "Z")}"'
