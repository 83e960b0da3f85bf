"""What expressions of a run may name: plain data under the names of the task language, and ``now()``.

A scope is built at first need and kept on the run; ``LiveRun.mark`` keeps its ``steps`` up to date. Nothing in it is an
object of Aura's.
"""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from aura.clock import Clock, rfc3339
from aura.liverun import LiveRun


def scope_of(run: LiveRun, clock: Clock) -> dict[str, Any]:
    """The names that an expression of this run may use now. Whoever adds to it copies it first."""
    if run.scope is None:
        run.scope = _build(run, clock)
    return run.scope


def _build(run: LiveRun, clock: Clock) -> dict[str, Any]:
    assert run.generation is not None
    plan = run.generation.plan
    zone = ZoneInfo(plan.timezone)
    return {
        "inputs": run.inputs,
        "vars": plan.vars,
        "plan": {"name": plan.name, "dir": plan.directory},
        "run": _run(run),
        "steps": {p.name: p.value() for graph in run.graphs.values() for p in graph},
        "event": None,
        "error": run.error.shown() if run.error else None,
        "now": lambda: datetime.fromtimestamp(clock.wall(), zone),
    }


def _run(run: LiveRun) -> dict[str, Any]:
    return {
        "cid": run.cid,
        "plan_name": run.plan_name,
        "task_name": run.task_name,
        "attempt": run.attempt,
        "workdir": str(run.workdir_path),
        "due": rfc3339(run.accepted.due),
        "labels": dict(run.accepted.labels),
        "state": (run.ending or run.state).value,
        "reason": run.reason,
    }
