"""What the log says after a load of the plans: a line for each that changed, and what is wrong with which."""

from collections.abc import Sequence
from typing import Any

from aura.loading.gating import SHOWN_HASH
from aura.loading.generations import PlanStatus


def say_load(log: Any, before: Sequence[PlanStatus], now: Sequence[PlanStatus], *, asked: bool, first: bool) -> None:
    """Say what a load has changed.

    ``asked``: somebody wanted it, and is told all that is wrong; else only what was not said before. ``first``: it is
    the load at the server's start, where what is served is no news.
    """
    known = {plan.name: plan for plan in before}
    for plan in now:
        former = known.get(plan.name)
        if not first:
            _say_version(log, former, plan)
        if plan.testing and (former is None or former.testing != plan.testing):
            what = f"the tests of plan {plan.name}, version {plan.testing[:SHOWN_HASH]}"
            log.info(f"{what}, are running; it is served once they pass", plan=plan.name)
        if asked or is_news(former, plan) or (former is not None and former.warnings != plan.warnings):
            _say_wrong(log, plan)
    for name in known.keys() - {plan.name for plan in now}:
        log.info(f"plan {name} is gone: its folder is", plan=name)


def is_news(former: PlanStatus | None, plan: PlanStatus) -> bool:
    """Whether what is wrong with a plan was not said before; that its tests run is not wrong, only that they failed."""
    if plan.testing is not None:
        return False
    if former is None:
        return True
    return former.errors != plan.errors or (former.testing is not None and bool(plan.errors))


def _say_version(log: Any, former: PlanStatus | None, plan: PlanStatus) -> None:
    version = (plan.generation or "")[:SHOWN_HASH]
    if plan.generation and (former is None or former.generation is None):
        log.info(f"plan {plan.name} is served, version {version}", plan=plan.name)
    elif plan.generation and former is not None and former.generation != plan.generation:
        log.info(f"plan {plan.name} was loaded again, version {version}", plan=plan.name)
    elif former is not None and former.errors and not plan.errors:
        log.info(f"plan {plan.name} is in order again, version {version}", plan=plan.name)


def _say_wrong(log: Any, plan: PlanStatus) -> None:
    said = "is broken" if plan.status == "broken" else "keeps its last good version"
    for problem in () if plan.testing else plan.errors:
        log.error(f"plan {plan.name} {said}: {problem}", plan=plan.name)
    for warning in plan.warnings:
        log.warning(f"plan {plan.name}: {warning}", plan=plan.name)
