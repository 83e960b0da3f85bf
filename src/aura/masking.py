"""Hides secret inputs: every door that shows the inputs of a run shows ``***`` where a secret stands.

A pointer is a JSON pointer (RFC 6901) into the inputs, in which ``*`` stands for each element of a list: ``/password``,
``/login/password``, ``/keys/*``. Which ones a run has is decided when it is accepted (``inputs``) and kept on its
record. What an expression makes of a secret is plain: hiding that is not this module's matter.
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
