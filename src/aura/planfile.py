"""``plan.yaml``: what a plan says about itself as a whole."""

import zoneinfo
from functools import lru_cache
from typing import Any

import msgspec

from aura.fields import Fields, Reader

#: The keys of plan.yaml, and those that are part of the language but come later.
KEYS = ("title", "description", "timezone", "vars")
LATER = ("uses", "resources", "defaults", "reload", "secrets")


class PlanHead(msgspec.Struct, frozen=True):
    """What ``plan.yaml`` says; all of it has a default. ``timezone`` is None where the file does not say one."""

    title: str = ""
    description: str = ""
    timezone: str | None = None
    vars: dict[str, Any] = {}


def read_plan_head(reader: Reader) -> PlanHead:
    """Read ``plan.yaml``; problems go to the reader."""
    fields = Fields(reader, (), reader.document.value, "plan.yaml", KEYS, LATER)
    return PlanHead(
        title=fields.text("title"),
        description=fields.text("description"),
        timezone=_read_timezone(fields),
        vars=_read_vars(fields),
    )


def _read_timezone(fields: Fields) -> str | None:
    if "timezone" not in fields:
        return None
    name = fields.text("timezone", "UTC")
    if is_timezone(name):
        return name
    fields.wrong("timezone", f"there is no time zone {name!r}; an IANA name is needed, such as Europe/Berlin")
    return None


@lru_cache(maxsize=256)
def is_timezone(name: str) -> bool:
    """Say whether this is the name of a time zone that this machine knows."""
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def _read_vars(fields: Fields) -> dict[str, Any]:
    path = fields.at("vars")
    given = fields.reader.mapping(path, fields.get("vars"), "vars") if "vars" in fields else {}
    for at, name, value in fields.reader.identifiers(path, given, "a variable"):
        if isinstance(value, str) and "{{" in value:
            fields.reader.problem(at, f"{name}: a variable is plain data; no {{{{ … }}}} is evaluated in it")
    return given
