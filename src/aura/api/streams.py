"""The records of streams: log lines, events, progress, and what a stream says of itself."""

from typing import Any, Literal

from aura.api.common import Shape, Time
from aura.api.runs import Progress

Level = Literal["debug", "info", "warning", "error", "critical"]


class LogRecord(Shape, frozen=True, kw_only=True, tag_field="kind", tag="log"):
    """One log line."""

    id: str
    time: Time
    level: Level
    message: str
    plan_name: str | None
    task_name: str | None
    cid: str | None
    step: str | None
    attempt: int | None
    fields: dict[str, Any]


class EventRecord(Shape, frozen=True, kw_only=True, tag_field="kind", tag="event"):
    """One event."""

    id: str
    name: str
    time: Time
    payload: Any
    plan_name: str | None
    task_name: str | None
    cid: str | None
    step: str | None
    cause: str | None
    root: str | None
    depth: int


class Gap(Shape, frozen=True, kw_only=True, rename={"first": "from", "last": "to"}):
    """Records that a stream has missed, by their ids; ``first`` is null where nobody knows it."""

    first: str | None
    last: str


class StepProgress(Progress, frozen=True, kw_only=True):
    """How far a step, or an item of one (``step[0]``), is now, told on the stream of its run."""

    step: str


class Shutdown(Shape, frozen=True, kw_only=True):
    """The server ends; the stream goes on when it is back."""
