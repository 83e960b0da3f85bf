"""The public JSON shapes, one function each, so that a shape is written once. Times are RFC 3339, durations ``_s``."""

from collections.abc import Mapping, Sequence
from typing import Any

from aura.actions import Action
from aura.clock import rfc3339
from aura.errors import RequestError
from aura.plan import Dependency, Step, Task
from aura.run import RunRecord, StepRecord
from aura.web.facade import Accepted, PlanStatus
from aura.web.problem import document

Json = dict[str, Any]


def time(seconds: float | None) -> str | None:
    """A time, or null."""
    return None if seconds is None else rfc3339(seconds)


def page(items: Sequence[Any], next_cursor: str | None) -> Json:
    """A list, as every route gives it."""
    return {"items": items, "next_cursor": next_cursor}


# -- runs -------------------------------------------------------------------------------------------------------------


def run_short(run: RunRecord, progress: Mapping[str, Any] | None = None) -> Json:
    """A run in a list: all but its steps, inputs and result. What comes with later versions is null, 0 or empty.

    ``progress`` is by step, null when none has said anything.
    """
    return {
        "cid": run.cid,
        "plan_name": run.plan_name,
        "task_name": run.task_name,
        "generation": run.generation,
        "lane": run.lane,
        "priority": run.priority,
        "labels": run.labels,
        "state": run.state,
        "reason": run.reason,
        "error": run.error,
        "cleanup_error": run.cleanup_error,
        "attempt": run.attempt,
        "due": time(run.due),
        "accepted_at": time(run.accepted_at),
        "not_before": time(run.not_before),
        "started_at": time(run.started_at),
        "finished_at": time(run.finished_at),
        "progress": progress or None,
        "waiting_for": None,
        "parent_cid": run.parent_cid,
        "stuck": run.stuck,
        "preempted_by": None,
        "preemptions": 0,
        "cause": cause(run.cause),
    }


def run_whole(run: RunRecord, steps: Sequence[StepRecord], progress: Mapping[str, Any] | None) -> Json:
    """One run with everything."""
    return {**run_short(run, progress), "inputs": run.inputs, "result": run.result, "steps": [step(s) for s in steps]}


def cause(given: Mapping[str, Any]) -> Json:
    """What asked for a run; members that do not apply are null."""
    return {key: given.get(key) for key in ("kind", "item", "rule", "event_id", "cid")}


def step(record: StepRecord) -> Json:
    """One step of a run."""
    duration = None
    if record.started_at is not None and record.finished_at is not None:
        duration = round(max(record.finished_at - record.started_at, 0.0), 6)
    return {
        "name": record.name,
        "state": record.state,
        "attempt": record.attempt,
        "started_at": time(record.started_at),
        "finished_at": time(record.finished_at),
        "duration_s": duration,
        "output": record.output,
        "error": record.error,
        "skipped_because": record.skipped_because,
        "items": None,
    }


def accepted(run: Accepted) -> Json:
    """The answer to a request that became a run."""
    return {"cid": run.cid, "state": run.state, "plan_name": run.plan_name, "task_name": run.task_name}


def batch_item(outcome: Accepted | RequestError) -> Json:
    """One outcome of a batch: the run, or the problem document of its refusal."""
    if isinstance(outcome, RequestError):
        return {"error": document(outcome)}
    return {"cid": outcome.cid, "state": outcome.state}


def queued(entry: Mapping[str, Any]) -> Json:
    """One run of the queue."""
    times = {key: time(entry[key]) for key in ("accepted_at", "not_before")}
    return {key: entry[key] for key in ("cid", "plan_name", "task_name", "lane", "priority")} | times


def status(given: Mapping[str, Any]) -> Json:
    """What the server is and how it fares."""
    return {**given, "started_at": time(given["started_at"])}


# -- plans ------------------------------------------------------------------------------------------------------------


def plan(status: PlanStatus) -> Json:
    """A plan in the list of plans."""
    return {
        "name": status.name,
        "title": status.title,
        "description": status.description,
        "status": status.status,
        "generation": status.generation,
        "task_count": status.task_count,
        "errors": status.errors,
        "preempts_others": False,
    }


def reloaded(status: PlanStatus) -> Json:
    """A plan in the answer to a reload."""
    return {
        "name": status.name,
        "status": status.status,
        "generation": status.generation,
        "errors": status.errors,
    }


def task(given: Task) -> Json:
    """A task with the JSON Schema of its inputs."""
    return {
        "name": given.name,
        "title": given.title,
        "description": given.description,
        "inputs": given.inputs_schema(),
        "lane": given.lane,
        "priority": given.priority,
        "mode": "parallel",
        "steps": [_plan_step(s) for s in given.steps.values()],
        "source": {"file": given.source.file, "line": given.source.line},
    }


def _plan_step(given: Step) -> Json:
    needs = {need.step: _states(need) for need in given.depends_on}
    return {"name": given.name, "action": given.action, "depends_on": {"any": needs} if given.any_of else needs}


def _states(need: Dependency) -> list[str]:
    return sorted(state.value for state in need.states)


def action(given: Action) -> Json:
    """An action with the JSON Schemas of its parameters and its result."""
    return {
        "name": given.name,
        "description": given.description,
        "params": given.params_schema(),
        "result": given.result_schema(),
        "plan_name": given.plan_name,
        "cancellable": given.is_async,
    }
