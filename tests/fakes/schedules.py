"""The schedules of the small engine: plan ``lab`` with the item ``nightly``, which starts the task ``report``."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aura.errors import RequestError
from aura.kernel.keys import Key
from aura.run import Cause, Receipt, Request

if TYPE_CHECKING:
    from tests.fakes.engine import FakeEngine


def nightly() -> dict[str, Any]:
    """The item as the engine shows one that has started once."""
    cron = {"cron": "30 2 * * *", "timezone": "Europe/Berlin", "jitter_s": 0.0, "misfire": "run_once"}
    trigger = {"kind": "cron", "text": "cron 30 2 * * * (Europe/Berlin)", "when": None}
    return {
        "plan_name": "lab",
        "item": "nightly",
        "task_plan": "lab",
        "task_name": "report",
        "source": {"file": "lab/schedule.yaml", "line": 2},
        "enabled": True,
        "switched_by": None,
        "switched_at": None,
        "mode": "single",
        "cooldown_s": 0.0,
        "cooldown_left_s": 0.0,
        "triggers": [trigger | {"spec": cron | {"misfire_grace_s": None}}],
        "polls": [],
        "folders": [{"path": "/in", "pattern": "*", "files": 2, "looked_at": 1.0, "trouble": None}],
        "next_due": 90_000.0,
        "last_due": 3600.0,
        "last_started_at": 3600.5,
        "last_cid": "started",
        "missed": {"misfire": 2},
        "last_missed": {"reason": "misfire", "detail": "2 slots were missed", "at": 3000.0},
        "suspended": None,
        "reason": None,
    }


class FakeSchedules:
    """See the module's text. What is asked of it stands in the engine's ``calls``."""

    def __init__(self, engine: "FakeEngine") -> None:
        self._engine = engine
        self.items = {("lab", "nightly"): nightly()}

    def names(self) -> list[tuple[str, str]]:
        return sorted(self.items)

    def starting(self, plan_name: str) -> dict[str, list[str]]:
        return {"report": ["lab/nightly"]} if plan_name == "lab" else {}

    def shown(self, plan_name: str, item_name: str) -> dict[str, Any]:
        self._engine.generations.current(plan_name)
        if (plan_name, item_name) not in self.items:
            raise RequestError("unknown_item", f"plan {plan_name} has no item {item_name!r}; it has nightly")
        return self.items[plan_name, item_name]

    async def preview(self, plan_name: str, item_name: str, begin: float | None, end: float | None) -> dict[str, Any]:
        self.shown(plan_name, item_name)
        self._engine.calls.append(("preview", plan_name, item_name, begin, end))
        slot = {"due": 90_000.0, "local": "1970-01-02T02:00:00+01:00", "dst": "gap"}
        return {"items": [slot], "cut": False}

    async def run(
        self, plan_name: str, item_name: str, inputs: Mapping[str, Any], cause: Cause, key: Key | None = None
    ) -> Receipt:
        item = self.shown(plan_name, item_name)
        self._engine.calls.append(("run_item", plan_name, item_name, dict(inputs)))
        cause = Cause(cause.kind, item=item_name, plan_name=plan_name)
        return await self._engine.submit(Request("lab", item["task_name"], dict(inputs)), cause, key)

    async def switch(self, plan_name: str, item_name: str, enabled: bool, by: str) -> None:
        changes = {"enabled": enabled, "switched_by": by, "switched_at": 3.0}
        self.items[plan_name, item_name] = self.shown(plan_name, item_name) | changes
        self._engine.calls.append(("switch_item", plan_name, item_name, enabled))
