"""What the expressions of triggers may name: of interrupt rules, of items of schedules, of what their polls ask."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from aura.plan import Plan
from aura.runs.runtime import Runtime


def scope_of(runtime: Runtime, plan: Plan) -> dict[str, Any]:
    """What all of them may name; ``now()`` is in the plan's zone."""
    zone, clock = ZoneInfo(plan.timezone), runtime.clock
    return {
        "vars": plan.vars,
        "secrets": runtime.secrets.scope_of(plan),
        "state": runtime.plan_states.of(plan.name).scope,
        "plan": {"name": plan.name, "dir": plan.directory},
        "now": lambda: datetime.fromtimestamp(clock.wall(), zone),
    }


def starting_scope(
    runtime: Runtime, plan: Plan, event: Mapping[str, Any] | None, due: float, timezone: str | None = None
) -> dict[str, Any]:
    """What they may name where something is started: the event, None for no event, and the time that is meant.

    ``due`` is in Unix seconds; it is a time of the trigger's zone, the plan's if that says none.
    """
    moment = datetime.fromtimestamp(due, ZoneInfo(timezone or plan.timezone))
    return {**scope_of(runtime, plan), "event": event, "due": moment}
