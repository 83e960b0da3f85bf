"""Cron expressions: five fields, six with seconds first, or a nickname such as ``@daily``.

What they mean, also where the clocks change, is Debian cron's rule; ``cronsim`` knows it. When the next time comes is
not this module's matter.
"""

from collections.abc import Mapping
from datetime import UTC, datetime

from cronsim import CronSim, CronSimError

from aura.sandbox import near

#: Nickname → its five fields.
NICKNAMES: Mapping[str, str] = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
MAX_LENGTH = 200
_FIELDS = ("second", "minute", "hour", "day-of-month", "month", "day-of-week")
#: Any time will do to ask whether there is a next one.
_SOME_TIME = datetime(2026, 1, 1, tzinfo=UTC)


def read_cron(text: str) -> str:
    """Give the fields of a cron expression, those of a nickname for it, with one space between two.

    Raises:
        ValueError: it is none, or there is no time that it means; the message says which field is wrong.
    """
    if text.startswith("@"):
        return _of_nickname(text)
    if len(text) > MAX_LENGTH:
        raise ValueError(f"a cron expression has at most {MAX_LENGTH} characters")
    fields = text.split()
    if len(fields) not in (5, 6):
        raise ValueError(f"a cron expression has 5 fields, or 6 with seconds first, not {len(fields)}")
    try:
        next(CronSim(text, _SOME_TIME))
    except CronSimError as error:
        raise ValueError(_explain(str(error), fields)) from None
    except StopIteration:
        raise ValueError(f"there is no time that {text!r} means") from None
    return " ".join(fields)


def _of_nickname(text: str) -> str:
    if text in NICKNAMES:
        return NICKNAMES[text]
    if text == "@reboot":
        raise ValueError("@reboot is no time; subscribe to the event engine.started")
    raise ValueError(f"there is no nickname {text[:40]!r}{near(text, NICKNAMES)}")


def _explain(message: str, fields: list[str]) -> str:
    """Say which field is wrong, from cronsim's ``Bad hour``."""
    name = message.removeprefix("Bad ")
    if name not in _FIELDS:
        return message
    return f"{name}: {fields[_FIELDS.index(name) - 6 + len(fields)]!r} is none, or one that never comes"
