"""Plain JSON data in and out of expressions: copies, texts, and how much of either an expression may make."""

import math
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import Any

import msgspec
from jinja2 import StrictUndefined, Undefined

from aura.duration import Duration

#: The longest text that an expression may make.
MAX_TEXT = 256 * 1024
#: The most elements of a list that an expression may make.
MAX_ITEMS = 100_000
MAX_INT_BITS = 4096


class TooLarge(ValueError):
    """An expression asked for more than it may have."""


class OpenMapping(dict[str, Any]):
    """A mapping whose keys nobody can know when a plan is written: of one that is not there the value is null."""

    __slots__ = ()


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
            return time_text(value)
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
        return msgspec.json.decode(needs_text(text, "from_json"))
    except msgspec.DecodeError as error:
        raise ValueError(f"the text is not JSON: {error}") from None


def needs_text(value: Any, wanted_by: str) -> str:
    """Give a text as it is.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, str):
        raise ValueError(f"{wanted_by} needs text, not {kind_of(value)}")
    return value


def kind_of(value: Any) -> str:
    """Name the kind of a value as a message says it; of an unknown name, raise what names it."""
    match value:
        case Undefined():
            return str(value)
        case None:
            return "null"
        case str():
            return "text"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case datetime():
            return "a time"
    return f"a {type(value).__name__}"


def time_text(moment: datetime) -> str:
    """Write a time in RFC 3339 with its own offset; UTC as ``Z``."""
    text = moment.isoformat()
    return text.removesuffix("+00:00") + "Z" if text.endswith("+00:00") else text
