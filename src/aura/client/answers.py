"""What a server's answer says: data of the type that was asked for, or a refusal. Nothing here asks anything."""

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from aura.errors import FieldError, Refused

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")

#: The members of a problem document that ``Refused`` has as its own.
_KNOWN = frozenset({"type", "title", "status", "detail", "code", "errors"})


def read(answer: "httpx2.Response", kind: type[T]) -> T:
    """The answer's JSON as ``kind``; members that it does not know are left out.

    Raises:
        Refused: with the code ``unknown``: it is something else.
    """
    try:
        return msgspec.json.decode(answer.content, type=kind)
    except msgspec.DecodeError as error:
        raise _not_auras(answer, f"which is not what this version expects ({error})") from error


def refusal(answer: "httpx2.Response") -> Refused:
    """The refusal that a problem document (RFC 9457) tells of; the code ``unknown`` if it is none."""
    try:
        document = msgspec.json.decode(answer.content, type=dict[str, Any])
        code, detail = str(document["code"]), str(document.get("detail") or document.get("title"))
        errors = msgspec.convert(document.get("errors") or [], list[FieldError])
    except (KeyError, msgspec.DecodeError):
        return _not_auras(answer, str(answer.status_code))
    extra = {key: value for key, value in document.items() if key not in _KNOWN}
    return Refused(answer.status_code, code, detail, errors, extra, _retry_after(answer))


def _retry_after(answer: "httpx2.Response") -> float | None:
    """Seconds; the other form that HTTP has, a date, is none that Aura sends."""
    text = answer.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() else None


def _not_auras(answer: "httpx2.Response", what: str) -> Refused:
    message = f"{answer.url} answered {what}; is this address an Aura server's?"
    return Refused(answer.status_code, "unknown", message)
