"""The functions and filters of expressions: pure, bounded in time and size, from plain JSON data to plain JSON data.

Jinja's own filters stay where they are harmless; those that can be asked for any amount of memory or time are bounded
here, and those that make no sense for JSON (HTML, Python's own formatting) are left out.
``docs/reference/expressions.md`` lists them all.
"""

import base64
import functools
import hashlib
import inspect
import posixpath
import shlex
from collections.abc import Callable, Iterable
from typing import Any

import jinja2.filters
import jinja2.tests
from jinja2 import Undefined

from aura.duration import CalendarDays, Duration
from aura.patterns import compile_pattern
from aura.plaindata import (
    MAX_ITEMS,
    MAX_TEXT,
    TooLarge,
    bounded_items,
    bounded_text,
    from_json,
    kind_of,
    needs_text,
    to_json,
    to_text,
)
from aura.timefilters import date_filter, duration_filter, time_filter, unit

# -- text -------------------------------------------------------------------------------------------------------------


def regex_search(text: str, pattern: str, ignore_case: bool = False) -> str | None:
    """The first match of a pattern, or its first group if it has one; null if there is no match."""
    compiled = compile_pattern(pattern, ignore_case)
    found = compiled.search(needs_text(text, "regex_search"))
    if found is None:
        return None
    match: str | None = found.group(1) if compiled.groups else found.group()
    return match


def regex_replace(text: str, pattern: str, replacement: str = "", ignore_case: bool = False) -> str:
    r"""The text with each match of a pattern replaced; ``\1`` in the replacement is the first group."""
    compiled = compile_pattern(pattern, ignore_case)
    return compiled.replace(replacement, needs_text(text, "regex_replace"), bounded_text)


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
        return base64.b64decode(needs_text(value, "b64decode"), validate=True).decode()
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
    whole, old, new = to_text(text), needs_text(old, "replace"), to_text(new)
    times = whole.count(old) if count < 0 else min(whole.count(old), count)
    bounded_text(len(whole) + times * (len(new) - len(old)))
    return whole.replace(old, new, count)


def url_encode(value: Any) -> str:
    """A text quoted for a URL; a mapping, or a list of pairs, as a query."""
    if not isinstance(value, dict | list | tuple):
        return jinja2.filters.do_urlencode(to_text(value))
    pairs = value.items() if isinstance(value, dict) else value
    return jinja2.filters.do_urlencode([(to_text(name), to_text(part)) for name, part in pairs])


def total(value: Iterable[Any], start: float = 0, attribute: str | None = None) -> Any:
    """The sum of numbers or durations."""
    result: Any = start
    for item in value:
        part = item[attribute] if attribute is not None else item
        if isinstance(part, bool) or not isinstance(part, int | float):
            raise ValueError(f"sum needs numbers, not {kind_of(part)}")
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


def _of_text(name: str) -> Callable[..., Any]:
    """Wrap a filter of Jinja's for text so that it takes what is none as it appears in text: as JSON."""
    function: Callable[..., Any] = jinja2.filters.FILTERS[name]
    own = int(hasattr(function, "jinja_pass_arg"))  # what Jinja gives such a filter before the value

    @functools.wraps(function)  # Jinja's own marks are among what it keeps
    def filtered(*args: Any, **kwargs: Any) -> Any:
        return function(*args[:own], to_text(args[own]), *args[own + 1 :], **kwargs)

    return filtered


def _of_known(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a filter, or a test, that would take an unknown name for a value, so that it raises what names it."""

    @functools.wraps(function)
    def filtered(value: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(value, Undefined):
            str(value)  # raises, naming it
        return function(value, *args, **kwargs)

    return filtered


def _limited(name: str, argument: str, limit: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a filter so that one of its arguments, a number, stays within ``±limit``."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def filtered(*args: Any, **kwargs: Any) -> Any:
        number = signature.bind(*args, **kwargs).arguments.get(argument)
        if isinstance(number, str | int | float) and not isinstance(number, bool):
            size = len(number) if isinstance(number, str) else abs(number)
            if size > limit:
                raise TooLarge(f"{name}: {argument} must not be more than {limit}")
        return function(*args, **kwargs)

    return filtered


_KEPT = frozenset(
    {"count", "d", "default", "dictsort", "filesizeformat", "first", "float", "int", "last", "length", "list", "map"}
    | {"max", "min", "reject", "rejectattr", "reverse", "select", "selectattr", "sort", "unique"}
)
_OF_TEXT = ("capitalize", "lower", "title", "trim", "truncate", "upper", "wordcount")
_OF_KNOWN = ("abs", "items")

FILTERS: dict[str, Callable[..., Any]] = {
    **{name: jinja2.filters.FILTERS[name] for name in _KEPT},
    **{name: _of_text(name) for name in _OF_TEXT},
    **{name: _of_known(jinja2.filters.FILTERS[name]) for name in _OF_KNOWN},
    "batch": _limited("batch", "linecount", MAX_ITEMS, jinja2.filters.FILTERS["batch"]),
    # the plain one: what Jinja keeps is a wrapper, whose arguments are not those of its signature
    "slice": _limited("slice", "slices", MAX_ITEMS, jinja2.filters.sync_do_slice),
    "center": _limited("center", "width", MAX_TEXT, _of_text("center")),
    "indent": _limited("indent", "width", 100, _of_text("indent")),
    "round": _of_known(_limited("round", "precision", 100, jinja2.filters.FILTERS["round"])),
    "b64decode": b64decode,
    "b64encode": b64encode,
    "basename": lambda path: posixpath.basename(needs_text(path, "basename")),
    "date": date_filter,
    "dirname": lambda path: posixpath.dirname(needs_text(path, "dirname")),
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
    "urlencode": url_encode,
}

_TESTS: dict[str, Any] = {
    name: jinja2.tests.TESTS[name] for name in jinja2.tests.TESTS.keys() - {"callable", "escaped"}
}
#: Those that take a name as it is: two ask whether it is known, two are asked for the name of a filter or a test.
_AS_IT_IS = ("defined", "undefined", "filter", "test")

TESTS: dict[str, Callable[..., Any]] = {
    name: test if name in _AS_IT_IS else _of_known(test) for name, test in {**_TESTS, "null": _TESTS["none"]}.items()
}

GLOBALS: dict[str, Any] = {
    "days": unit(86400.0, CalendarDays),
    "hours": unit(3600.0),
    "minutes": unit(60.0),
    "seconds": unit(1.0),
    "range": make_range,
    "null": None,
}
