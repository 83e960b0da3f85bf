"""What all shapes have in common: their base, times, pages of lists, refusals."""

from datetime import datetime
from typing import Annotated, Generic, TypeVar

import msgspec

from aura.errors import FieldError

T = TypeVar("T")

Time = Annotated[datetime, msgspec.Meta(tz=True)]


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all that travels."""


class Page(Shape, Generic[T], frozen=True, kw_only=True):
    """Part of a list. ``next_cursor`` asks for the next part; null at the end."""

    items: list[T]
    next_cursor: str | None


class ProblemDocument(Shape, frozen=True, kw_only=True):
    """A refusal (RFC 9457). ``code`` is stable, ``errors`` has every bad field, further members depend on the code."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldError]
