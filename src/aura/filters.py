"""The functions and filters of expressions: pure, bounded in time and size, from plain JSON data to plain JSON data.

Jinja's own filters stay where they are harmless; those that can be asked for any amount of memory or time are bounded
here, and those that make no sense for JSON (HTML, Python's own formatting) are left out.
``docs/reference/expressions.md`` lists them all.
"""

import base64
import hashlib
import inspect
import math
import posixpath
import shlex
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import jinja2.filters
import msgspec
from jinja2 import StrictUndefined, Undefined, pass_context
from jinja2.runtime import Context

from aura.duration import CalendarDays, Duration, parse_duration
from aura.patterns import compile_pattern

#: The longest text that an expression may make.
MAX_TEXT = 256 * 1024
#: The most elements of a list that an expression may make.
MAX_ITEMS = 100_000
MAX_INT_BITS = 4096


class TooLarge(ValueError):
    """An expression asked for more than it may have."""


def bounded_text(length: float) -> None:
    """Refuse a text of that many characters before it is made.

    Raises:
        TooLarge: it would be longer than ``MAX_TEXT``.
    """
    if length > MAX_TEXT:
        raise TooLarge(f"the text would be longer than {MAX_TEXT // 1024} KiB")


def bounded_items(count: float) -> None:
    """Refuse a list of that many elements before it is made.

    Raises:
        TooLarge: it would have more than ``MAX_ITEMS``.
    """
    if count > MAX_ITEMS:
        raise TooLarge(f"the list would have more than {MAX_ITEMS} elements")


# -- plain data -------------------------------------------------------------------------------------------------------


def to_plain(value: Any, depth: int = 0) -> Any:
    """Copy what an expression gave into plain JSON data: times as RFC 3339 text, durations as seconds.

    Raises:
        ValueError: it has no JSON form, or is too large or too deep.
        jinja2.UndefinedError: it is the value of an unknown name.
    """
    kind = type(value)
    if kind in (str, int, bool, type(None)):
        return value
    if depth > 64:
        raise TooLarge("the value nests deeper than 64 levels")
    if kind is dict:
        return {_text_key(key): to_plain(item, depth + 1) for key, item in value.items()}
    if kind in (list, tuple):
        return [to_plain(item, depth + 1) for item in value]
    return _to_plain_rare(value, depth)


def _to_plain_rare(value: Any, depth: int) -> Any:
    match value:
        case StrictUndefined():
            return str(value)  # raises, naming it
        case Undefined():
            return None  # of an `x if y` that has no else
        case float():
            if not math.isfinite(value):
                raise ValueError(f"the number {value} has no JSON form")
            return float(value)
        case datetime():
            return rfc3339(value)
        case str():
            return str(value)
        case dict():
            return {_text_key(key): to_plain(item, depth + 1) for key, item in value.items()}
        case list() | tuple():
            return [to_plain(item, depth + 1) for item in value]
        case range() | Iterator():
            items = list(islice(value, MAX_ITEMS + 1))
            bounded_items(len(items))
            return [to_plain(item, depth + 1) for item in items]
        case _ if callable(value):
            raise ValueError("it is a function; call it with ()")
    raise ValueError(f"{type(value).__name__} has no JSON form")


def _text_key(key: Any) -> str:
    if not isinstance(key, str):
        raise ValueError(f"the key {key!r:.80} is not text; JSON has no other keys")
    return key


def to_text(value: Any) -> str:
    """Give the text of a value inside other text; true, false, null, lists and mappings appear as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, Duration) and float(value).is_integer():
        return str(int(value))
    plain = to_plain(value)
    if isinstance(plain, str):
        return plain
    return to_json(plain)


def to_json(value: Any, indent: int | None = None) -> str:
    """Write a value as JSON text; ``indent`` spaces for each level make it several lines."""
    data = msgspec.json.encode(to_plain(value))
    if indent is not None:
        if not 0 <= indent <= 16:
            raise ValueError(f"an indent of {indent} is not between 0 and 16")
        data = msgspec.json.format(data, indent=indent)
    bounded_text(len(data))
    return data.decode()


def from_json(text: str) -> Any:
    """Read JSON text."""
    try:
        return msgspec.json.decode(_text(text, "from_json"))
    except msgspec.DecodeError as error:
        raise ValueError(f"the text is not JSON: {error}") from None


def _text(value: Any, wanted_by: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{wanted_by} needs text, not {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    match value:
        case Undefined():
            return str(value)
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
    return f"a {type(value).__name__}"


# -- times and durations ----------------------------------------------------------------------------------------------


def rfc3339(moment: datetime) -> str:
    """Write a time with its own offset; UTC as ``Z``."""
    text = moment.isoformat()
    return text.removesuffix("+00:00") + "Z" if text.endswith("+00:00") else text


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
        case str():
            moment = _parse_moment(value)
            return moment if moment.tzinfo else moment.replace(tzinfo=zone)
        case int() | float():
            try:
                return datetime.fromtimestamp(value, zone)
            except (OverflowError, OSError, ValueError):
                raise ValueError(f"{value} seconds since 1970 is not a time of the calendar") from None
    raise ValueError(f"a time is needed, not {_kind(value)}")


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
    return parse_duration(value)


def _unit(seconds: float, kind: type[Duration] = Duration) -> Callable[[float], Duration]:
    def make(number: float = 1) -> Duration:
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ValueError(f"a number is needed, not {_kind(number)}")
        return kind.of_seconds(number * seconds)

    return make


# -- text -------------------------------------------------------------------------------------------------------------


def regex_search(text: str, pattern: str, ignore_case: bool = False) -> str | None:
    """The first match of a pattern, or its first group if it has one; null if there is no match."""
    found = compile_pattern(pattern, ignore_case).search(_text(text, "regex_search"))
    if found is None:
        return None
    return found.group(1) if found.re.groups else found.group()


def regex_replace(text: str, pattern: str, replacement: str = "", ignore_case: bool = False) -> str:
    r"""The text with each match of a pattern replaced; ``\1`` in the replacement is the first group."""
    made = 0

    def expand(found: Any) -> str:
        nonlocal made
        part = str(found.expand(replacement))
        made += len(part)
        bounded_text(made)
        return part

    return compile_pattern(pattern, ignore_case).sub(expand, _text(text, "regex_replace"))


def shell_quote(value: Any) -> str:
    """Quote for a POSIX shell; a list becomes quoted words with blanks between them."""
    words = [to_text(word) for word in value] if isinstance(value, list | tuple) else [to_text(value)]
    if any("\0" in word for word in words):
        raise ValueError("the text has a NUL character, which no command can be given")
    return shlex.join(words)


def sha256(value: Any) -> str:
    """The SHA-256 of a text in UTF-8, in hex."""
    return hashlib.sha256(to_text(value).encode()).hexdigest()


def b64encode(value: Any) -> str:
    """A text in UTF-8 as Base64."""
    return base64.b64encode(to_text(value).encode()).decode()


def b64decode(value: str) -> str:
    """The text that Base64 stands for; it must be UTF-8."""
    try:
        return base64.b64decode(_text(value, "b64decode"), validate=True).decode()
    except ValueError as error:
        raise ValueError(f"the text is not the Base64 of UTF-8 text: {error}") from None


def join(value: Iterable[Any], separator: str = "", attribute: str | None = None) -> str:
    """The elements as text, with a separator between them."""
    parts = []
    length = 0
    for item in value:
        parts.append(to_text(item[attribute] if attribute is not None else item))
        length += len(parts[-1]) + len(separator)
        bounded_text(length)
    return separator.join(parts)


def replace(text: Any, old: str, new: str, count: int = -1) -> str:
    """The text with ``old`` replaced by ``new``, ``count`` times at most."""
    whole, old, new = to_text(text), _text(old, "replace"), to_text(new)
    times = whole.count(old) if count < 0 else min(whole.count(old), count)
    bounded_text(len(whole) + times * (len(new) - len(old)))
    return whole.replace(old, new, count)


def total(value: Iterable[Any], start: float = 0, attribute: str | None = None) -> Any:
    """The sum of numbers or durations."""
    result: Any = start
    for item in value:
        part = item[attribute] if attribute is not None else item
        if isinstance(part, bool) or not isinstance(part, int | float):
            raise ValueError(f"sum needs numbers, not {_kind(part)}")
        result = Duration(result + part) if isinstance(part, Duration) else result + part
    return result


def group_by(value: Iterable[Any], attribute: str) -> list[dict[str, Any]]:
    """The elements by the value of one key: ``[{grouper, list}]``, in the order in which each value first comes."""
    groups: dict[Any, list[Any]] = {}
    for item in value:
        groups.setdefault(item[attribute], []).append(item)
    return [{"grouper": key, "list": items} for key, items in groups.items()]


def make_range(*bounds: int) -> list[int]:
    """The whole numbers from start to stop."""
    numbers = range(*bounds)
    bounded_items(len(numbers))
    return list(numbers)


# -- Jinja's own, bounded ---------------------------------------------------------------------------------------------


def _limited(name: str, argument: str, limit: int) -> Callable[..., Any]:
    """Wrap a filter of Jinja's so that one of its arguments, a number, stays within ``±limit``."""
    function: Callable[..., Any] = jinja2.filters.FILTERS[name]
    signature = inspect.signature(function)

    def filtered(*args: Any, **kwargs: Any) -> Any:
        number = signature.bind(*args, **kwargs).arguments.get(argument)
        if isinstance(number, str | int | float) and not isinstance(number, bool):
            size = len(number) if isinstance(number, str) else abs(number)
            if size > limit:
                raise TooLarge(f"{name}: {argument} must not be more than {limit}")
        return function(*args, **kwargs)

    # Jinja looks for its own marks (pass_environment) on the function
    filtered.__dict__.update(function.__dict__)
    return filtered


_KEPT = frozenset(
    {"abs", "capitalize", "count", "d", "default", "dictsort", "filesizeformat", "first", "float", "int", "items"}
    | {"last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse", "select"}
    | {"selectattr", "sort", "title", "trim", "truncate", "unique", "upper", "urlencode", "wordcount"}
)

FILTERS: dict[str, Callable[..., Any]] = {
    **{name: jinja2.filters.FILTERS[name] for name in _KEPT},
    "batch": _limited("batch", "linecount", MAX_ITEMS),
    "slice": _limited("slice", "slices", MAX_ITEMS),
    "center": _limited("center", "width", MAX_TEXT),
    "indent": _limited("indent", "width", 100),
    "round": _limited("round", "precision", 100),
    "b64decode": b64decode,
    "b64encode": b64encode,
    "basename": lambda path: posixpath.basename(_text(path, "basename")),
    "date": date_filter,
    "dirname": lambda path: posixpath.dirname(_text(path, "dirname")),
    "duration": duration_filter,
    "from_json": from_json,
    "groupby": group_by,
    "join": join,
    "json": to_json,
    "regex_replace": regex_replace,
    "regex_search": regex_search,
    "replace": replace,
    "sh": shell_quote,
    "sha256": sha256,
    "string": to_text,
    "sum": total,
    "time": time_filter,
    "tojson": to_json,
}

GLOBALS: dict[str, Any] = {
    "days": _unit(86400.0, CalendarDays),
    "hours": _unit(3600.0),
    "minutes": _unit(60.0),
    "seconds": _unit(1.0),
    "range": make_range,
    "null": None,
}
