"""Hides secret inputs: every door that shows the inputs of a run shows ``***`` where a secret stands.

A pointer is a JSON pointer (RFC 6901) into the inputs, in which ``*`` stands for each element of a list: ``/password``,
``/login/password``, ``/keys/*``. Which ones a run has is decided when it is accepted (``inputs``) and kept on its
record. What an expression makes of a secret is for ``redaction``.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MASK = "***"


def masked(inputs: Mapping[str, Any], pointers: Iterable[str]) -> dict[str, Any]:
    """Give a copy of the inputs without what the pointers lead to. Null stays null: nothing was given there."""
    shown: Any = dict(inputs)
    for pointer in pointers:
        shown = _mask(shown, [_unescaped(part) for part in pointer.split("/")[1:]])
    return dict(shown)


def secret_values(inputs: Mapping[str, Any], pointers: Iterable[str]) -> list[Any]:
    """What the pointers lead to."""
    found: list[Any] = []
    for pointer in pointers:
        values: list[Any] = [inputs]
        for part in pointer.split("/")[1:]:
            values = [inner for value in values for inner in _inner(value, _unescaped(part))]
        found += values
    return found


def uncovered(shown: Any, inputs: Any, pointers: Iterable[str]) -> Any:
    """Give ``shown``, which was made of the inputs by hiding parts of them, with what the pointers lead to plain."""
    for pointer in pointers:
        shown = _uncover(shown, inputs, [_unescaped(part) for part in pointer.split("/")[1:]])
    return shown


def _uncover(shown: Any, value: Any, parts: Sequence[str]) -> Any:
    if not parts:
        return value
    first, rest = parts[0], parts[1:]
    match shown, value:
        case dict(), dict() if first in shown and first in value:
            return {**shown, first: _uncover(shown[first], value[first], rest)}
        case list(), list() if first == "*" and len(shown) == len(value):
            return [_uncover(one, other, rest) for one, other in zip(shown, value, strict=True)]
    return shown


def _inner(value: Any, part: str) -> list[Any]:
    match value:
        case dict() if part in value:
            return [value[part]]
        case list() if part == "*":
            return value
    return []


def _mask(value: Any, parts: Sequence[str]) -> Any:
    if not parts:
        return None if value is None else MASK
    first, rest = parts[0], parts[1:]
    match value:
        case dict() if first in value:
            return {**value, first: _mask(value[first], rest)}
        case list() if first == "*":
            return [_mask(item, rest) for item in value]
    return value


def _unescaped(part: str) -> str:
    return part.replace("~1", "/").replace("~0", "~")
