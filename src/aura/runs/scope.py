"""What expressions of a run may name: plain data under the names of the task language, and ``now()``.

A scope is built at first need and kept on the run; ``LiveRun.mark`` keeps its ``steps`` up to date. Nothing in it is an
object of Aura's.
"""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from aura.clock import Clock, rfc3339
from aura.graph import ItemProgress, Progress, StepProgress
from aura.runs.liverun import LiveRun


def scope_of(run: LiveRun, clock: Clock) -> dict[str, Any]:
    """The names that an expression of this run may use now. Whoever adds to it copies it first."""
    if run.scope is None:
        run.scope = _build(run, clock)
    return run.scope


def scope_for(run: LiveRun, progress: Progress, clock: Clock) -> dict[str, Any]:
    """The names that an expression of this step, or of this item of one, may use now."""
    if not isinstance(progress, ItemProgress):
        return scope_of(run, clock)
    last = run.graphs[run.phase].loop_of(progress).last_before(progress.index)
    return scope_of_loop(run, clock, progress.index, progress.item, last)


def scope_of_loop(run: LiveRun, clock: Clock, index: int, item: Any, last: Any) -> dict[str, Any]:
    """As ``scope_of``, with ``loop``: at this index, over this item, with this output before it."""
    return {**scope_of(run, clock), "loop": {"item": item, "index": index, "last": last}}


def _build(run: LiveRun, clock: Clock) -> dict[str, Any]:
    assert run.generation is not None
    plan = run.generation.plan
    zone = ZoneInfo(plan.timezone)
    return {
        "inputs": run.inputs,
        "vars": plan.vars,
        "secrets": run.secrets.scope_of(plan) if run.secrets else {},
        "state": run.plan_state,
        "plan": {"name": plan.name, "dir": plan.directory},
        "run": _run(run),
        "steps": _steps(run),
        "event": run.event,
        "error": run.error.shown() if run.error else None,
        "now": lambda: datetime.fromtimestamp(clock.wall(), zone),
    }


def _steps(run: LiveRun) -> dict[str, Any]:
    """The steps of the task, those of handlers that have not run included: handlers may name them all."""
    assert run.task is not None
    known = {p.name: p for graph in run.graphs.values() for p in graph}
    return {step.name: (known.get(step.name) or StepProgress(step)).value() for step in run.task.all_steps()}


def _run(run: LiveRun) -> dict[str, Any]:
    return {
        "cid": run.cid,
        "plan_name": run.plan_name,
        "task_name": run.task_name,
        "attempt": run.attempt,
        "workdir": f"{run.workdirs}/{run.cid}",
        "due": rfc3339(run.accepted.due),
        "labels": dict(run.accepted.labels),
        "state": (run.ending or run.state).value,
        "reason": run.reason,
    }
