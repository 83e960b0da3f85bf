"""Names of events and patterns of them: which are Aura's own, and what a pattern may be.

A name is dotted. In a pattern ``*`` stands for one part and ``**`` for any number of them; as the first part neither
means Aura's own events, so that nobody hears them unasked.
"""

import re
from collections.abc import Sequence

from aura.sandbox import near

#: First parts that are Aura's own; nobody else may emit such an event.
RESERVED = frozenset(
    {"run", "step", "plan", "schedule", "interrupt", "engine", "state", "approval", "file", "webhook", "poll", "aura"}
)
#: Every event of Aura's own.
OWN = frozenset(
    {f"run.{name}" for name in ("accepted", "started", "waiting", "preempted", "resumed", "succeeded", "failed")}
    | {f"run.{name}" for name in ("cancelled", "timed_out", "crashed")}
    | {f"step.{name}" for name in ("started", "succeeded", "failed", "timed_out", "cancelled", "skipped", "retrying")}
    | {"step.waiting", "approval.requested", "approval.answered", "plan.reloaded", "plan.broken"}
    | {"interrupt.fired", "interrupt.ended", "schedule.due", "schedule.missed", "state.changed", "file.changed"}
    | {"webhook.received", "poll.fired", "aura.loop_detected"}
    | {f"engine.{name}" for name in ("started", "stopping", "stopped", "degraded")}
)
#: The keys of an event, and of one that a webhook made.
KEYS = (
    *("id", "name", "time", "payload", "plan_name", "task_name", "cid", "step", "cause", "root", "depth"),
    "headers",
)
MAX_LENGTH = 200

_PART = r"([A-Za-z0-9_-]+|\*\*?)"
#: What a pattern looks like.
PATTERN = rf"^{_PART}(\.{_PART})*$"


def read_pattern(pattern: str) -> str:
    """Give a pattern of events as it is.

    Raises:
        ValueError: it is none, or it can only mean events of Aura's own, and there is none such.
    """
    parts = pattern.split(".")
    if len(pattern) > MAX_LENGTH or not re.search(PATTERN, pattern) or "\n" in pattern:
        rule = "its parts are letters, digits, - and _, or * for one part, or ** for any number"
        raise ValueError(f"{pattern[:60]!r} is no pattern of events; {rule}")
    if parts[0] in RESERVED and not any(_matches(parts, name.split(".")) for name in OWN):
        raise ValueError(f"Aura has no event {pattern!r}{near(pattern, OWN)}")
    return pattern


def _matches(pattern: Sequence[str], name: Sequence[str]) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "**":
        return any(_matches(pattern[1:], name[taken:]) for taken in range(len(name) + 1))
    return bool(name) and pattern[0] in ("*", name[0]) and _matches(pattern[1:], name[1:])
