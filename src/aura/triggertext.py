"""Triggers as people read them, and as data: one place for all kinds, of items of schedules and of interrupt rules.

Nothing is rendered here: of an expression its text is shown, so what it would say, a secret say, is not.
"""

from collections.abc import Mapping
from typing import Any, assert_never

from aura.clock import rfc3339
from aura.duration import format_duration
from aura.expressions import Condition, Template
from aura.schedule import At, Cron, Debounce, Every, Expect, Kind, OnEvent, OnFile, OnWebhook, Poll, Timed, Trigger

KINDS: Mapping[type[Kind], str] = {
    Cron: "cron",
    Every: "every",
    At: "at",
    OnEvent: "event",
    OnFile: "file",
    OnWebhook: "webhook",
    Poll: "poll",
    Expect: "expect",
}


def text_of(trigger: Trigger) -> str:
    """A trigger as people read it: ``cron 30 2 * * * (Europe/Berlin)``, ``event disk.* when {{ … }}``."""
    said = f"{kind_of(trigger)} {_said(trigger.kind)}"
    return said if trigger.when is None else f"{said} when {trigger.when.value}"


def kind_of(trigger: Trigger) -> str:
    """What kind of trigger it is, by the key that makes it one in its file."""
    return KINDS[type(trigger.kind)]


def spec_of(trigger: Trigger) -> dict[str, Any]:
    """All that a trigger says but its ``when``, as JSON; durations in seconds, times as RFC 3339."""
    kind = trigger.kind
    match kind:
        case Cron(fields, timezone, timed):
            return {"cron": fields, "timezone": timezone, **_timed(timed)}
        case Every(period, start, timed):
            return {"every_s": period, "from": None if start is None else rfc3339(start), **_timed(timed)}
        case At(time, timed):
            return {"at": rfc3339(time), **_timed(timed)}
        case OnEvent(pattern, debounce):
            return {"event": pattern, "debounce": debounce and _debounce(debounce)}
        case OnFile(path, pattern, changes, each):
            said = sorted(change.value for change in changes)
            return {"path": path.value, "pattern": pattern, "changes": said, "each": each}
        case OnWebhook(secret, scheme):
            return {"secret": secret, "scheme": scheme.value}
        case Poll(action, params, period):
            given = {name: param.value for name, param in params.items()}
            return {"action": action, "params": given, "every_s": period}
        case Expect(pattern, within):
            return {"expect": pattern, "within_s": within}
        case other:
            assert_never(other)


def when_of(trigger: Trigger) -> str | None:
    """The text of its condition, if it has one."""
    return None if trigger.when is None else _text(trigger.when)


def _said(kind: Kind) -> str:
    match kind:
        case Cron(fields, timezone):
            return fields if timezone is None else f"{fields} ({timezone})"
        case Every(period, start):
            return format_duration(period) + ("" if start is None else f" from {_moment(start)}")
        case At(time):
            return _moment(time)
        case OnEvent(pattern, debounce):
            return pattern if debounce is None else f"{pattern}, {_quiet(debounce)}"
        case OnFile(path, pattern, _, each):
            return f"{pattern} in {path.value}{', each' if each else ''}"
        case OnWebhook(_, scheme):
            return scheme.value
        case Poll(action, _, period):
            return f"{action} every {format_duration(period)}"
        case Expect(pattern, within):
            return f"{pattern} within {format_duration(within)}"
        case other:
            assert_never(other)


def _quiet(debounce: Debounce) -> str:
    by = "" if debounce.key is None else f" by {debounce.key.value}"
    return f"once none has come for {format_duration(debounce.quiet)}{by}"


def _debounce(debounce: Debounce) -> dict[str, Any]:
    return {"for_s": debounce.quiet, "key": None if debounce.key is None else debounce.key.value}


def _timed(timed: Timed) -> dict[str, Any]:
    return {"jitter_s": timed.jitter, "misfire": timed.misfire.value, "misfire_grace_s": timed.misfire_grace}


def _moment(time: float) -> str:
    """To the second, unless it has a part of one."""
    return rfc3339(time).replace(".000000Z", "Z")


def _text(written: Condition | Template) -> str:
    """What stands in the file; of what is no text, as people would write it."""
    return str(written.value)
