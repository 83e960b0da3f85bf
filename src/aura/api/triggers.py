"""What rules and items of schedules have in common: their triggers, and why they did not start."""

from typing import Any, Literal

from aura.api.common import Shape, Time
from aura.api.runs import Error


class Missed(Shape, frozen=True, kw_only=True):
    """Why a rule, or an item, did not start though one of its triggers came, the last time: a code and a sentence."""

    reason: str
    detail: str
    at: Time


class Why(Shape, frozen=True, kw_only=True):
    """A start that did not become a run or, with ``paused`` and ``held``, does not begin yet: ``count`` of them.

    ``item`` and ``rule`` are of the plan. ``time`` is that of the last, ``first_time`` that of the first; of what does
    not begin yet they are now and since when it waits.
    """

    time: Time
    reason: str
    plan_name: str | None
    item: str | None
    rule: str | None
    task_name: str | None
    detail: str
    count: int
    first_time: Time


class Poll(Shape, frozen=True, kw_only=True):
    """A poll of a rule, or an item, as it stands. ``last_state`` and ``last_at`` are None before its first answer.

    ``stuck``: it does not end though it was told to. ``error`` is why the last question failed, ``failures`` how many
    have in a row; ``next_in_s`` is None while it is being asked, or the engine is stopped.
    """

    action: str
    every_s: float
    last_at: Time | None
    last_state: Literal["ok", "failed", "stuck"] | None
    error: Error | None
    failures: int
    next_in_s: float | None


TriggerKind = Literal["cron", "every", "at", "event", "file", "webhook", "poll", "expect"]


class Trigger(Shape, frozen=True, kw_only=True):
    """A trigger of an item: ``text`` in words, ``spec`` all that it says, durations in seconds, but its ``when``.

    Expressions are shown as they are written. A webhook's ``spec`` has the ``path`` to which its calls go.
    """

    kind: TriggerKind
    text: str
    spec: dict[str, Any]
    when: str | None


class WatchedFolder(Shape, frozen=True, kw_only=True):
    """A folder of a file trigger: how many of its files are known, null before the first look, and when that was.

    ``trouble``: why not all changes in it are told.
    """

    path: str
    pattern: str
    files: int | None
    looked_at: Time | None
    trouble: str | None
