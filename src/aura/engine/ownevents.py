"""What Aura tells of itself as events: that a plan was loaded anew or is broken, and how the engine stands.

What happens to runs and steps is told with them (``runtime``). An event is announced when the thing has happened, and
waited for by nobody. That the storage cannot be written is told by no event: it could not be stored.
"""

from collections.abc import Callable, Sequence
from typing import Any

from aura.bus import Bus
from aura.engine.planlines import is_news
from aura.loading.generations import PlanStatus


class OwnEvents:
    """Announces what happens to plans and to the engine. ``reasons`` says why that is degraded."""

    def __init__(self, bus: Bus, boot: int, reasons: Callable[[], Sequence[str]]) -> None:
        self._bus = bus
        self._boot = boot
        self._reasons = reasons

    def tell_plans(self, before: Sequence[PlanStatus], now: Sequence[PlanStatus], *, first: bool) -> None:
        """Tell of each plan that has another version than before, and of each that cannot be served as it stands.

        ``first``: it is the load at the server's start, which reloads nothing.
        """
        known = {plan.name: plan for plan in before}
        for plan in now:
            former = known.get(plan.name)
            if plan.status != "ready" and is_news(former, plan):
                self._tell_plan("plan.broken", plan)
            elif not first and plan.generation is not None and (former is None or former.generation != plan.generation):
                self._tell_plan("plan.reloaded", plan)

    def _tell_plan(self, name: str, plan: PlanStatus) -> None:
        payload = {"plan": plan.name, "generation": plan.generation, "problems": len(plan.errors)}
        self._bus.announce(name, payload, plan_name=plan.name)

    def tell_engine(self, name: str, **more: Any) -> None:
        """Tell that the engine has been started, is being stopped, or has stopped."""
        self._bus.announce(f"engine.{name}", {"boot": self._boot, **more})

    def look(self) -> None:
        """Something has just gone wrong: tell of it if it is the one reason for which the engine is degraded."""
        reasons = self._reasons()
        if len(reasons) == 1:
            self._bus.announce("engine.degraded", {"boot": self._boot, "reason": reasons[0]})
