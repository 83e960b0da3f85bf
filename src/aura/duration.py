"""Durations as plan authors write them: ``500ms 90s 1h30m 2d PT1H``. Inside Aura a duration is seconds.

A bare number other than 0 is refused, since nobody can see its unit; so is ``1:30``, which may be minutes or hours.
"""

import math
import re
from datetime import timedelta
from typing import Any, Self

import msgspec
from pytimeparse.timeparse import timeparse as parse_words

_MILLISECONDS = re.compile(r"(\d+(?:\.\d+)?)\s*ms\b")
_ISO = re.compile(r"P[0-9.,WDTHMSwdthms]+")
_UNIT_LETTER = re.compile(r"[a-z]", re.IGNORECASE)
#: A century; beyond it a duration is a mistake, and adding it to a date may leave the calendar.
MAX_DURATION = 100 * 366 * 86400.0
EXAMPLES = "500ms, 90s, 1h30m, 2d or PT1H"


class Duration(float):
    """Seconds, never negative. As the annotation of an action's parameter it takes what a plan file may say."""

    __slots__ = ()

    @classmethod
    def of_seconds(cls, seconds: float) -> Self:
        """Make one from a number of seconds.

        Raises:
            ValueError: the number is negative, not finite, or longer than a century.
        """
        if not math.isfinite(seconds) or not 0 <= seconds <= MAX_DURATION:
            raise ValueError(f"{seconds:g} seconds is not a duration; it must be between 0 and a hundred years")
        return cls(seconds)


class CalendarDays(Duration):
    """Whole days of the calendar: added to a time they keep its hour, also over a daylight-saving change."""

    __slots__ = ()


def parse_duration(text: str | float) -> Duration:
    """Read a duration from a plan file.

    Raises:
        ValueError: it is none, or has no unit; the message says how to write it.
    """
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise ValueError(f"{text!r:.60} is not a duration; write {EXAMPLES}")
    if isinstance(text, int | float):
        return _parse_number(text)
    seconds = _parse_text(text.strip())
    if seconds is None:
        raise ValueError(f"{text[:60]!r} is not a duration; write {EXAMPLES}")
    return Duration.of_seconds(seconds)


_UNITS = (("d", 86_400), ("h", 3600), ("m", 60))


def format_duration(seconds: float) -> str:
    """Write a duration as plan authors do: ``5m``, ``1h30m``, ``2.5s``, ``100ms``."""
    if seconds < 1:
        return f"{seconds * 1000:g}ms" if seconds else "0s"
    said = ""
    for unit, size in _UNITS:
        count, seconds = divmod(seconds, size)
        said += f"{count:.0f}{unit}" if count else ""
    seconds = round(seconds, 6)
    return said + (f"{seconds:g}s" if seconds else "")


def _parse_number(number: float) -> Duration:
    if number != 0:
        raise ValueError(f"{number} has no unit; say {number}s if seconds are meant")
    return Duration(0.0)


def _parse_text(text: str) -> float | None:
    if len(text) > 100 or not text.isascii():
        return None
    if _ISO.fullmatch(text):
        return _parse_iso(text)
    if not _UNIT_LETTER.search(text):
        return _parse_unitless(text)
    if ":" in text or not text[0].isdigit():
        return None
    found = _MILLISECONDS.findall(text)
    rest = _MILLISECONDS.sub("", text).strip()
    if len(found) > 1 or (not rest and not found):
        return None
    words = parse_words(rest) if rest else 0
    return None if words is None else words + sum(float(number) for number in found) / 1000


def _parse_iso(text: str) -> float | None:
    try:
        return msgspec.convert(text, timedelta).total_seconds()
    except msgspec.ValidationError:
        return None


def _parse_unitless(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return _parse_number(int(number) if number.is_integer() else number)


def decode_hook(kind: type[Any], value: Any) -> Any:
    """Let msgspec make a ``Duration``: from text as in a plan file, from a number as seconds, as JSON carries them.

    Raises:
        ValueError: the value is no duration.
        NotImplementedError: another type is asked for.
    """
    if not issubclass(kind, Duration):
        raise NotImplementedError(f"{kind!r} cannot be made from JSON")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return kind.of_seconds(value)
    return kind(parse_duration(value))


def schema_hook(kind: type[Any]) -> dict[str, Any]:
    """Give the JSON Schema of ``Duration``.

    Raises:
        NotImplementedError: another type is asked for.
    """
    if isinstance(kind, type) and issubclass(kind, Duration):
        return {"type": ["string", "number"], "description": f"A duration, such as {EXAMPLES}; a number is seconds"}
    raise NotImplementedError(f"{kind!r} has no JSON Schema")
