"""Schedules: their items as they stand, and the times at which they are due."""

from typing import Literal

from aura.api.common import Shape, Time
from aura.api.plans import Place
from aura.api.triggers import Missed, Poll, Trigger, WatchedFolder


class ScheduledItem(Shape, frozen=True, kw_only=True):
    """An item of a schedule as it stands. ``task_plan`` is the plan of its task, mostly its own.

    ``next_due`` and ``last_due`` are of triggers with times of their own; ``last_cid`` is the run that it started last,
    at ``last_started_at``. ``missed`` counts by code how often it did not start since the server's start. ``reason``:
    why it would not start as things are or, if it would, why it did not the last time; null if it did.
    """

    plan_name: str
    item: str
    task_plan: str
    task_name: str
    source: Place
    enabled: bool
    switched_by: str | None
    switched_at: Time | None
    mode: str | None
    cooldown_s: float
    cooldown_left_s: float
    triggers: list[Trigger]
    polls: list[Poll]
    folders: list[WatchedFolder]
    next_due: Time | None
    last_due: Time | None
    last_started_at: Time | None
    last_cid: str | None
    missed: dict[str, int]
    last_missed: Missed | None
    suspended: str | None
    reason: str | None


class PreviewedSlot(Shape, frozen=True, kw_only=True):
    """A time at which an item is due; ``local`` is the same in the zone of its trigger, as RFC 3339 with its offset.

    ``dst`` says what is unusual about it where the clocks change. ``gap``: they skip its time, so it comes right after
    that; ``fold``: they show its time twice that day.
    """

    due: Time
    local: str
    dst: Literal["gap", "fold"] | None


class Preview(Shape, frozen=True, kw_only=True):
    """The times at which an item is due in a span, in their order. ``cut``: there are more, after the last of these."""

    items: list[PreviewedSlot]
    cut: bool
