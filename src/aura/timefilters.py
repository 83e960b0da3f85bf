"""Times and durations in expressions: reading, writing and shifting them."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from jinja2 import Undefined, pass_context
from jinja2.runtime import Context

from aura.duration import CalendarDays, Duration, parse_duration
from aura.plaindata import bounded_text, kind_of


def to_moment(value: Any, zone: Any = UTC) -> datetime:
    """Read a time: a time, RFC 3339 text, or a number of seconds since 1970. Text without an offset is in ``zone``.

    Raises:
        ValueError: it is no time.
    """
    match value:
        case datetime():
            return value
        case bool():
            pass
        case Duration():  # a float too: `now() - days(1) | date` takes the date of the days
            raise ValueError("a time is needed, not a duration; put brackets round what is calculated first")
        case str():
            moment = _parse_moment(value)
            return moment if moment.tzinfo else moment.replace(tzinfo=zone)
        case int() | float():
            try:
                return datetime.fromtimestamp(value, zone)
            except (OverflowError, OSError, ValueError):
                raise ValueError(f"{value} seconds since 1970 is not a time of the calendar") from None
    raise ValueError(f"a time is needed, not {kind_of(value)}")


def _parse_moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"{text[:60]!r} is not a time; RFC 3339 is needed, such as 2026-11-22T08:00:00Z") from None


def shift(moment: datetime, by: Duration, sign: int) -> datetime:
    """Move a time by a duration; ``days()`` keep its hour, everything else is time that passes."""
    delta = timedelta(seconds=sign * float(by))
    try:
        if isinstance(by, CalendarDays):
            return (moment + delta).astimezone(UTC).astimezone(moment.tzinfo)
        return (moment.astimezone(UTC) + delta).astimezone(moment.tzinfo)
    except OverflowError:
        raise ValueError("the time would leave the calendar") from None


def _format(moment: datetime, pattern: str) -> str:
    bounded_text(len(pattern) * 20)
    return moment.strftime(pattern)


@pass_context
def date_filter(context: Context, value: Any, format: str = "%Y-%m-%d") -> str:
    """The date of a time, in the zone that it has: ``2026-11-22``, or as ``format`` (strftime) says."""
    return _format(to_moment(value, _zone(context)), format)


@pass_context
def time_filter(context: Context, value: Any, format: str | None = None) -> datetime | str:
    """A time that can be compared and calculated with; with ``format`` (strftime), text."""
    moment = to_moment(value, _zone(context))
    return moment if format is None else _format(moment, format)


def _zone(context: Context) -> Any:
    now = context.resolve("now")
    return UTC if isinstance(now, Undefined) else now().tzinfo


def duration_filter(value: Any) -> Duration:
    """A duration from text (``1h30m``), or from a number of seconds, as durations are in JSON."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Duration.of_seconds(value)
    if not isinstance(value, str):
        raise ValueError(f"a duration is needed, not {kind_of(value)}")
    return parse_duration(value)


def unit(seconds: float, kind: type[Duration] = Duration) -> Callable[[float], Duration]:
    """Make the function that gives a duration of so many times ``seconds``."""

    def make(number: float = 1) -> Duration:
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ValueError(f"a number is needed, not {kind_of(number)}")
        return kind.of_seconds(number * seconds)

    return make
