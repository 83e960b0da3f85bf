"""Names of events and patterns of them: which are Aura's own, and what a pattern may be.

A name is dotted. In a pattern ``*`` stands for one part and ``**`` for any number of them; as the first part neither
means Aura's own events, so that nobody hears them unasked.
"""

import re

from aura.sandbox import near

#: First parts that are Aura's own; nobody else may emit such an event.
RESERVED = frozenset(
    {"run", "step", "plan", "schedule", "interrupt", "engine", "state", "approval", "file", "webhook", "poll", "aura"}
)
#: Every event of Aura's own.
OWN = frozenset(
    {f"run.{name}" for name in ("accepted", "started", "waiting", "preempted", "resumed", "succeeded", "failed")}
    | {f"run.{name}" for name in ("requeued", "cancelled", "timed_out", "crashed")}
    | {f"step.{name}" for name in ("started", "succeeded", "failed", "timed_out", "cancelled", "skipped", "retrying")}
    | {"step.waiting", "approval.requested", "approval.answered", "plan.reloaded", "plan.broken"}
    | {"interrupt.fired", "interrupt.ended", "interrupt.taken_over", "state.changed", "file.changed"}
    | {"schedule.due", "schedule.missed", "schedule.absent", "webhook.received", "poll.fired", "aura.loop_detected"}
    | {f"engine.{name}" for name in ("started", "stopping", "stopped", "degraded")}
)
#: The keys of an event, and of one that a webhook made.
KEYS = (
    *("id", "name", "time", "payload", "plan_name", "task_name", "cid", "step", "cause", "root", "depth"),
    "headers",
)
MAX_LENGTH = 200

#: What a name looks like.
NAME = r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$"
_PART = r"([A-Za-z0-9_-]+|\*\*?)"
#: What a pattern looks like.
PATTERN = rf"^{_PART}(\.{_PART})*$"


def read_pattern(pattern: str) -> str:
    """Give a pattern of events as it is.

    Raises:
        ValueError: it is none, or it can only mean events of Aura's own, and there is none such.
    """
    if len(pattern) > MAX_LENGTH or not re.search(PATTERN, pattern) or "\n" in pattern:
        rule = "its parts are letters, digits, - and _, or * for one part, or ** for any number"
        raise ValueError(f"{pattern[:60]!r} is no pattern of events; {rule}")
    if is_own(pattern) and not any(matches(pattern, name) for name in OWN):
        raise ValueError(f"Aura has no event {pattern!r}{near(pattern, OWN)}")
    return pattern


def read_name(name: str) -> str:
    """Give the name of an event as it is; it may be one of Aura's own (``is_own``).

    Raises:
        ValueError: it is none.
    """
    if len(name) > MAX_LENGTH or not re.search(NAME, name) or "\n" in name:
        rule = f"it is dotted parts of letters, digits, - and _, of {MAX_LENGTH} characters at most"
        raise ValueError(f"{name[:60]!r} is no name of an event; {rule}")
    return name


def is_own(name: str) -> bool:
    """Whether a name, or a pattern, is of events that Aura alone emits."""
    return name.partition(".")[0] in RESERVED


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern fits a name. As its first part neither ``*`` nor ``**`` fits Aura's own events.

    Each ``**`` first takes nothing; when what follows does not fit, the last one takes a part more. So the time is at
    most the product of the lengths, whatever the pattern.
    """
    wanted, parts = pattern.split("."), name.split(".")
    if wanted[0] in ("*", "**") and parts[0] in RESERVED:
        return False
    at = taken = 0
    star = begin = -1  # the last ``**``, and up to which part it has taken
    while taken < len(parts):
        if at < len(wanted) and wanted[at] == "**":
            star, begin = at, taken
            at += 1
        elif at < len(wanted) and wanted[at] in ("*", parts[taken]):
            at += 1
            taken += 1
        elif star >= 0:
            begin += 1
            at, taken = star + 1, begin
        else:
            return False
    return all(part == "**" for part in wanted[at:])
