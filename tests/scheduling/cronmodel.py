"""A naive model of what Debian's cron does, written from cron(8), to compare ``crontimes`` with; and that comparison.

The model wakes up each minute of the real time, as the daemon does, and keeps a *virtual* time, which is that up to
which jobs have run. From cron(8): "Local time changes of less than three hours, such as those caused by the start or
end of Daylight Saving Time, are handled specially. This only applies to jobs that run at a specific time and jobs that
are run with a granularity greater than one hour. Jobs that run more frequently are scheduled normally. If time has
moved forward, those jobs that would have run in the interval that has been skipped will be run immediately. Conversely,
if time has moved backward, care is taken to avoid running jobs twice. Time changes of more than 3 hours are considered
to be corrections to the clock or timezone, and the new time is used immediately." Jobs are "at a specific time" if
neither their minute nor their hour begins with a star.

``make cron N=YEARS`` compares at every change of all zones in so many years.
"""

import sys
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import takewhile
from typing import NamedTuple
from zoneinfo import ZoneInfo, available_timezones

from aura.scheduling.crontimes import cron_times

ZONES = (
    *("UTC", "Europe/Berlin", "Europe/London", "Europe/Dublin", "Europe/Istanbul", "Europe/Moscow"),
    *("America/New_York", "America/Sao_Paulo", "America/Havana", "America/St_Johns", "America/Caracas"),
    *("Asia/Tehran", "Asia/Pyongyang", "Asia/Gaza", "Africa/Casablanca", "Africa/Cairo"),
    *("Australia/Lord_Howe", "Pacific/Apia", "Antarctica/Casey", "Antarctica/Troll"),
)
EXPRESSIONS = (
    *("30 2 * * *", "0 0 * * *", "59 23 * * *", "15,45 0-3 * * *", "1 1,2,3 * * *", "0 2-4/2 * * SUN", "30 2 31 3 7"),
    *("* * * * *", "*/20 * * * *", "30 * * * *", "*/15 2 * * *", "7 */2 * * *", "0-59 1 * * 0"),
)
#: Of the property: a job at each of these times runs once each day.
DAILY = ("0 0 * * *", "30 2 * * *", "0 3 * * *", "45 23 * * *")
SINCE, YEARS = 2000, 40
_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_DAYS = {"SUN": 0}


class Job(NamedTuple):
    """A line of a crontab: what its fields mean."""

    minutes: set[int]
    hours: set[int]
    days: set[int]
    months: set[int]
    weekdays: set[int]
    either_day: bool
    at_a_time: bool

    def fits(self, moment: datetime) -> bool:
        if moment.minute not in self.minutes or moment.hour not in self.hours or moment.month not in self.months:
            return False
        day, weekday = moment.day in self.days, moment.isoweekday() % 7 in self.weekdays
        return day or weekday if self.either_day else day and weekday


def read(line: str) -> Job:
    """Read five fields of numbers, ranges, steps and lists."""
    fields = line.split()
    values = [_values(field, *limits) for field, limits in zip(fields, _RANGES, strict=True)]
    values[4] = {value % 7 for value in values[4]}
    stars = [field.startswith("*") for field in fields]
    minutes, hours, days, months, weekdays = values
    either_day, at_a_time = not (stars[2] or stars[4]), not (stars[0] or stars[1])
    return Job(minutes, hours, days, months, weekdays, either_day, at_a_time)


def _values(field: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        if span == "*":
            first, last = str(low), str(high)
        found |= set(range(_number(first), _number(last or first) + 1, int(step or 1)))
    return found


def _number(text: str) -> int:
    return _DAYS.get(text) if text in _DAYS else int(text)  # type: ignore[return-value]


def ran(job: Job, zone: ZoneInfo, begin: int, end: int) -> list[int]:
    """The minutes at which cron runs a job, in Unix seconds: after ``begin``, up to ``end``."""
    found = []
    virtual = _wall(begin, zone)
    for now in range(begin + 60, end + 1, 60):
        wall = _wall(now, zone)
        ahead = round((wall - virtual).total_seconds() / 60)
        if 1 <= ahead <= 181 and job.at_a_time:  # the minute itself, and those that were skipped
            skipped = (virtual + timedelta(minutes=n) for n in range(1, ahead + 1))
            runs, virtual = any(job.fits(one) for one in skipped), wall
        elif -180 < ahead <= 0 and job.at_a_time:
            runs = False
        else:
            runs, virtual = job.fits(wall), wall
        if runs:
            found.append(now)
    return found


def _wall(instant: int, zone: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(instant, zone).replace(tzinfo=None, fold=0)


def changes(zone: ZoneInfo, since: int, until: int) -> list[int]:
    """The instants at which the clocks of a zone change in these years, the last not included, to the minute."""
    begin, end = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (since, until))
    found, hour = [], 6 * 3600
    for start in range(begin, end, hour):
        if _ahead(start, zone) != _ahead(start + hour, zone):
            minutes = range(start, start + hour, 60)
            found.append(next(one + 60 for one in minutes if _ahead(one + 60, zone) != _ahead(start, zone)))
    return found


def _ahead(instant: int, zone: ZoneInfo) -> timedelta | None:
    return datetime.fromtimestamp(instant, zone).utcoffset()


def meant(line: str, zone: ZoneInfo, begin: int, end: int) -> list[int]:
    """What ``crontimes`` says: after ``begin``, up to ``end``."""
    return list(takewhile(lambda due: due <= end, cron_times(line).instants(zone, begin + 1, 1)))


def meant_backwards(line: str, zone: ZoneInfo, begin: int, end: int) -> list[int]:
    """The same, asked from the end."""
    return list(takewhile(lambda due: due > begin, cron_times(line).instants(zone, end, -1)))[::-1]


def differences(name: str, lines: tuple[str, ...], moments: list[int]) -> Iterator[str]:
    """Where ``crontimes`` and the model differ within a day of these changes of a zone, in words."""
    zone = ZoneInfo(name)
    for moment in moments:
        begin, end = moment - 86_400, moment + 86_400
        for line in lines:
            expected = ran(read(line), zone, begin, end)
            if not expected == meant(line, zone, begin, end) == meant_backwards(line, zone, begin, end):
                yield f"{line!r} in {name} at {datetime.fromtimestamp(moment, UTC)}"


def not_once_a_day(name: str, line: str, moments: list[int]) -> Iterator[str]:
    """Near these changes of a zone, where a job at one time of the day does not run once each day that there is."""
    zone, job = ZoneInfo(name), read(line)
    (hour,), (minute,) = job.hours, job.minutes
    for moment in moments:
        middle = datetime.fromtimestamp(moment, zone).date()
        days = [day for n in range(-3, 4) if _exists(day := middle + timedelta(days=n), zone)]
        begin = int(datetime.combine(days[0], datetime.min.time(), zone).timestamp()) - 1
        for day, due in zip(days, cron_times(line).instants(zone, begin, 1), strict=False):
            wanted = datetime(day.year, day.month, day.day, hour, minute)
            if not _wall(due - 1, zone) < wanted <= _wall(due, zone):
                yield f"{line!r} in {name} on {day}: {datetime.fromtimestamp(due, zone)}"


def _exists(day: date, zone: ZoneInfo) -> bool:
    """Whether the clock on the wall has ever shown a time of a day."""
    hours = (datetime(day.year, day.month, day.day, hour, tzinfo=zone) for hour in range(24))
    return any(one.astimezone(UTC).astimezone(zone).replace(tzinfo=None) == one.replace(tzinfo=None) for one in hours)


def main(years: int) -> int:
    """Compare at all changes of so many years, and say how it went."""
    began, found, seen, counted = time.perf_counter(), list[str](), 0, 0
    for name in ZONES:
        moments = changes(ZoneInfo(name), SINCE, SINCE + years)
        found += differences(name, EXPRESSIONS, moments)
        seen += len(moments)
    counts = f"{years} years, {seen} changes, {len(EXPRESSIONS)} expressions"
    print(f"{len(ZONES)} zones, {counts}: {len(found)} differences")
    zones = sorted(available_timezones())
    for name in zones:
        moments = changes(ZoneInfo(name), SINCE - 10, SINCE + years)
        counted += len(moments)
        for line in DAILY:
            found += not_once_a_day(name, line, moments)
    print(f"{len(zones)} zones, {counted} changes, {len(DAILY)} daily times: {len(found)} faults in all")
    print(*found[:20], f"{time.perf_counter() - began:.0f} s", sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else YEARS))
