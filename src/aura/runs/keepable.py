"""The small values that steps have Aura keep for them: plain JSON, of bounded size, without secrets."""

from typing import Any

from aura.actions import plain_json
from aura.errors import BadOutput, RunError
from aura.records.columns import encode
from aura.redaction import Redactor

#: The largest, in bytes of JSON.
MAX_VALUE = 64 * 1024


def kept_json(value: Any, redactor: Redactor, refused: type[RunError]) -> bytes:
    """A small value as JSON, as it is kept.

    Raises:
        RunError: of the type ``refused``: it is no JSON, too large, or has a secret in it.
    """
    try:
        data = encode(plain_or(value, refused))
    except (TypeError, ValueError, UnicodeError) as error:
        raise refused(f"the value has no JSON text: {error}") from None
    if len(data) > MAX_VALUE:
        raise refused(f"the value is {len(data)} bytes of JSON, and may be {MAX_VALUE}: write it to a file")
    if redactor.encoded(data) != data:
        raise refused("the value has a secret in it, and would be kept as plain text: read the secret where it is used")
    return data


def plain_or(value: Any, refused: type[RunError]) -> Any:
    """A value as plain JSON data.

    Raises:
        RunError: of the type ``refused``: it is none.
    """
    try:
        return plain_json(value)
    except BadOutput as error:
        raise refused(f"the value cannot be kept: {error}") from None


def is_same(one: Any, other: Any) -> bool:
    """Say whether two values are the same JSON: 1 is 1.0, and true is neither."""
    match one, other:
        case (bool(), _) | (_, bool()):
            return one is other
        case list(), list():
            return len(one) == len(other) and all(map(is_same, one, other))
        case dict(), dict():
            return one.keys() == other.keys() and all(is_same(one[key], other[key]) for key in one)
    return bool(one == other)
