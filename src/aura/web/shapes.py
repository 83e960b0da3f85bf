"""From what the engine has to the public shapes of ``api``, one function each."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from aura import api
from aura.actions import Action
from aura.clock import utc
from aura.engine.overview import Overview
from aura.engine.priorities import Prioritized
from aura.errors import RequestError
from aura.events import EventReceipt
from aura.lifecycle import RunState, StepState
from aura.masking import masked
from aura.reasons import as_json
from aura.records.firings import Stopped, StoppedRuns
from aura.run import ItemRecord, Receipt, RunRecord, StepRecord
from aura.servicedef import Service
from aura.task import Dependency, Loop, Step, Steps, Task
from aura.web.facade import PlanStatus
from aura.why import Why

T = TypeVar("T")


def time(seconds: float | None) -> api.Time | None:
    """A time, or null."""
    return None if seconds is None else utc(seconds)


def document(error: RequestError) -> dict[str, Any]:
    """The problem document of a refused request (RFC 9457)."""
    return {
        **error.extra,
        "type": f"urn:aura:error:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "errors": error.errors,
    }


def page(items: Sequence[T], next_cursor: str | None) -> api.Page[T]:
    """A list, as every route gives it."""
    return api.Page(items=list(items), next_cursor=next_cursor)


# -- runs -------------------------------------------------------------------------------------------------------------


def run_short(run: RunRecord, progress: Mapping[str, Any] | None = None) -> api.RunShort:
    """A run in a list. What comes with later versions is null, 0 or empty.

    ``progress`` is by step, null when none has said anything.
    """
    return api.RunShort(**_short(run, progress))


def run_whole(
    run: RunRecord,
    steps: Sequence[StepRecord],
    children: Sequence[RunRecord],
    progress: Mapping[str, Any] | None,
    stopped: StoppedRuns,
) -> api.Run:
    """One run with everything; ``stopped`` is what an interrupt has stopped whose handler it is."""
    return api.Run(
        **_short(run, progress),
        inputs=masked(run.inputs or {}, run.secret_inputs or ()),
        result=run.result,
        steps=[step(s) for s in steps],
        sub_tasks=[sub_task(c) for c in children],
        victims=[victim(one) for one in stopped.first],
        victim_count=stopped.total,
    )


def sub_task(run: RunRecord) -> api.SubTask:
    """A sub-task, as its parent shows it."""
    return api.SubTask(
        cid=run.cid,
        plan_name=run.plan_name,
        task_name=run.task_name,
        state=RunState(run.state),
        step=run.cause["step"],
        index=run.cause["index"],
    )


def _short(run: RunRecord, progress: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "cid": run.cid,
        "plan_name": run.plan_name,
        "task_name": run.task_name,
        "generation": run.generation,
        "lane": run.lane,
        "priority": run.priority,
        "labels": dict(run.labels),
        "state": RunState(run.state),
        "reason": run.reason,
        "error": error(run.error),
        "cleanup_error": error(run.cleanup_error),
        "attempt": run.attempt,
        "due": time(run.due),
        "accepted_at": utc(run.accepted_at),
        "not_before": time(run.not_before),
        "started_at": time(run.started_at),
        "finished_at": time(run.finished_at),
        "progress": {name: api.Progress(**how_far) for name, how_far in (progress or {}).items()} or None,
        "waiting_for": waiting_for(run.waiting_for),
        "parent_cid": run.parent_cid,
        "stuck": run.stuck,
        "preempted_by": preempted_by(run.preempted_by),
        "preemptions": run.preemptions,
        "cause": msgspec.convert(run.cause, api.Cause),
    }


def preempted_by(given: Mapping[str, Any] | None) -> api.PreemptedBy | None:
    """Which interrupt has stopped a run last, or null."""
    return None if given is None else api.PreemptedBy(**{**given, "at": utc(given["at"])})


def victim(given: Stopped) -> api.Victim:
    """A run that an interrupt has stopped."""
    return api.Victim(cid=given.cid, outcome=given.outcome, gone_at=time(given.gone_at))


def waiting_for(given: Mapping[str, Any] | None) -> api.WaitingFor | None:
    """What a run waits for, or null."""
    if given is None:
        return None
    waits = [
        api.Wait(**{**wait, "since": utc(wait["since"]), "until": time(wait["until"])})
        for wait in given.get("waits", ())
    ]
    return msgspec.convert({**given, "waits": waits}, api.WaitingFor)


def error(given: Mapping[str, Any] | None) -> api.Error | None:
    """Why something failed, or null."""
    return None if given is None else msgspec.convert(given, api.Error)


def step(record: StepRecord) -> api.Step:
    """One step of a run."""
    duration = None
    if record.started_at is not None and record.finished_at is not None:
        duration = round(max(record.finished_at - record.started_at, 0.0), 6)
    return api.Step(
        name=record.name,
        state=StepState(record.state),
        attempt=record.attempt,
        started_at=time(record.started_at),
        finished_at=time(record.finished_at),
        duration_s=duration,
        output=record.output,
        error=error(record.error),
        skipped_because=record.skipped_because,
        explained=None if record.explained is None else msgspec.convert(record.explained, api.Explained),
        items=None if record.items is None else [_item(item) for item in record.items],
        items_total=record.items_total,
        items_ended=record.items_ended,
        items_failed=record.items_failed,
    )


def _item(record: ItemRecord) -> api.Item:
    return api.Item(
        index=record.index,
        item=record.item,
        state=StepState(record.state),
        attempt=record.attempt,
        started_at=time(record.started_at),
        finished_at=time(record.finished_at),
        error=error(record.error),
    )


def accepted(run: Receipt) -> api.Accepted:
    """The answer to a request that became a run."""
    return api.Accepted(cid=run.cid, state=RunState(run.state), plan_name=run.plan_name, task_name=run.task_name)


def batch_item(outcome: Receipt | RequestError) -> api.BatchItem:
    """One outcome of a batch."""
    if isinstance(outcome, RequestError):
        return api.BatchItem(error=document(outcome))
    return api.BatchItem(cid=outcome.cid, state=RunState(outcome.state))


def run_answer(cid: str, state: str) -> api.RunAnswer:
    """The state of a run after it was told something."""
    return api.RunAnswer(cid=cid, state=RunState(state))


def prioritized(given: Prioritized) -> api.Prioritized:
    """The priority of a run after it was changed."""
    return api.Prioritized(cid=given.cid, priority=given.priority, state=RunState(given.state))


def queued(entry: Mapping[str, Any]) -> api.QueuedRun:
    """One run of the queue."""
    read = {key: time(entry[key]) for key in ("accepted_at", "not_before")}
    read_too = {"state": RunState(entry["state"]), "waiting_for": waiting_for(entry["waiting_for"])}
    return api.QueuedRun(**({key: value for key, value in entry.items() if key != "place"} | read | read_too))


def queue_overview(given: Overview) -> api.QueueOverview:
    """The queue in figures."""
    return msgspec.convert(given, api.QueueOverview, from_attributes=True)


def status(given: Mapping[str, Any]) -> api.ServerStatus:
    """What the server is and how it fares."""
    events = given["events"]
    suspended = [{**one, "at": utc(one["at"])} for one in events["suspended"]]
    kept = {**given["retention"], "oldest_at": time(given["retention"]["oldest_at"])}
    changed = {"started_at": utc(given["started_at"]), "events": {**events, "suspended": suspended}, "retention": kept}
    firings = [{**one, "since": utc(one["since"])} for one in given["interrupts"]["open"]]
    changed["interrupts"] = {**given["interrupts"], "open": firings}
    hanging = [{**one, "since": utc(one["since"])} for one in given["stuck"]["runs"]]
    changed["stuck"] = {**given["stuck"], "runs": hanging}
    following = given["schedule"]["next"]
    following = following and {**following, "due": utc(following["due"])}
    changed["schedule"] = {**given["schedule"], "next": following}
    blocked = [{**one, "at": utc(one["at"])} for one in given["loop"]["blocked"]]
    changed["loop"] = {**given["loop"], "blocked": blocked}
    return msgspec.convert({**given, **changed}, api.ServerStatus)


def emitted(receipt: EventReceipt) -> api.EmittedEvent:
    """An event that is on record."""
    fired = [api.FiredInterrupt(plan_name=one.plan_name, rule=one.rule, cid=one.cid) for one in receipt.interrupts]
    return api.EmittedEvent(event_id=receipt.event_id, started=list(receipt.started), interrupts=fired)


# -- interrupts -------------------------------------------------------------------------------------------------------


def rule(given: Mapping[str, Any]) -> api.Rule:
    """A rule as it stands."""
    times = {key: time(given[key]) for key in ("last_fired_at", "switched_at")}
    firings = [{**one, "at": utc(one["at"])} for one in given["open"]]
    return msgspec.convert({**given, **times, **_triggered(given), "open": firings}, api.Rule)


def _triggered(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a rule and an item have in common that has times in it: their polls, and why they did not start."""
    polls = [{**one, "last_at": time(one["last_at"])} for one in given["polls"]]
    missed = given["last_missed"] and {**given["last_missed"], "at": utc(given["last_missed"]["at"])}
    return {"polls": polls, "last_missed": missed}


def why(line: Why) -> api.Why:
    """A line of the why-ledger."""
    at = line.at or 0.0
    return api.Why(
        time=utc(at),
        reason=line.reason,
        plan_name=line.plan_name,
        item=line.item,
        rule=line.rule,
        task_name=line.task_name,
        detail=line.detail,
        count=line.count,
        first_time=utc(at if line.first_at is None else line.first_at),
    )


def dry_run(given: Mapping[str, Any]) -> api.DryRun:
    """What a firing would do."""
    return msgspec.convert(given, api.DryRun)


# -- schedules --------------------------------------------------------------------------------------------------------


def scheduled_item(given: Mapping[str, Any]) -> api.ScheduledItem:
    """An item of a schedule as it stands."""
    times = {key: time(given[key]) for key in ("switched_at", "next_due", "last_due", "last_started_at")}
    folders = [{**one, "looked_at": time(one["looked_at"])} for one in given["folders"]]
    return msgspec.convert({**given, **times, **_triggered(given), "folders": folders}, api.ScheduledItem)


def preview(given: Mapping[str, Any]) -> api.Preview:
    """The times at which an item is due."""
    items = [{**slot, "due": utc(slot["due"])} for slot in given["items"]]
    return msgspec.convert({**given, "items": items}, api.Preview)


# -- plans ------------------------------------------------------------------------------------------------------------


def plan(status: PlanStatus, preempts_others: bool) -> api.Plan:
    """A plan in the list of plans; ``preempts_others``: a rule of it may stop the work of other plans."""
    return api.Plan(
        name=status.name,
        title=status.title,
        description=status.description,
        status=status.status,
        generation=status.generation,
        task_count=status.task_count,
        errors=list(status.errors),
        testing=status.testing,
        uses=list(status.uses),
        preempts_others=preempts_others,
    )


def reloaded(status: PlanStatus) -> api.ReloadedPlan:
    """A plan in the answer to a reload."""
    return api.ReloadedPlan(
        name=status.name,
        status=status.status,
        generation=status.generation,
        errors=list(status.errors),
        testing=status.testing,
    )


def task(given: Task, started_by: Sequence[str] = ()) -> api.Task:
    """A task with the JSON Schema of its inputs, and the items that start it."""
    handlers = {
        "on_failure": given.on_failure,
        "on_cancel": given.on_cancel,
        "on_preempt": given.on_preempt,
        "on_resume": given.on_resume,
        "finally": given.finally_,
    }
    return api.Task(
        name=given.name,
        title=given.title,
        description=given.description,
        inputs=given.inputs_schema,
        lane=given.lane or "main",
        priority=given.priority,
        mode=given.mode.kind,
        steps=_plan_steps(given.steps),
        handlers={name: _plan_steps(steps) for name, steps in handlers.items() if steps},
        started_by=list(started_by),
        source=api.Place(file=given.source.file, line=given.source.line),
    )


def _plan_steps(given: Steps) -> list[api.TaskStep]:
    return [_plan_step(step) for step in given.values()]


def _plan_step(given: Step) -> api.TaskStep:
    needs = {need.step: _states(need) for need in given.depends_on}
    return api.TaskStep(
        name=given.name,
        action=given.action,
        depends_on={"any": needs} if given.any_of else needs,
        when=None if given.when is None else _text(given.when.value),
        loop=None if given.loop is None else _loop(given.loop),
        attempts=given.retry.attempts,
        task=_sub_task(given),
    )


def _loop(given: Loop) -> api.TaskLoop:
    keys = {"for_each": given.for_each, "times": given.times, "while": given.while_, "until": given.until}
    key, value = next((key, value) for key, value in keys.items() if value is not None)
    return api.TaskLoop(key=key, value=value.value, parallelism=given.parallelism)


def _sub_task(given: Step) -> str | None:
    """The task that a step of ``task.run`` or ``task.start`` names, as its plan file does."""
    if given.action not in ("task.run", "task.start") or "task" not in given.params:
        return None
    return _text(given.params["task"].value)


def _text(value: Any) -> str:
    """A value of a plan file in a line."""
    return value if isinstance(value, str) else as_json(value)


def _states(need: Dependency) -> list[str]:
    return sorted(state.value for state in need.states)


def action(given: Action) -> api.Action:
    """An action with the JSON Schemas of its parameters and its result."""
    return api.Action(
        name=given.name,
        description=given.description,
        params=given.params_schema(),
        result=given.result_schema(),
        plan_name=given.plan_name,
        cancellable=given.is_async or given.isolated,
        services=list(given.services),
    )


def service(given: Service, is_open: bool) -> api.Action:
    """A service, as it is listed among the actions."""
    return api.Action(
        name=given.full_name,
        description=given.description,
        params={},
        result={},
        plan_name=given.plan_name,
        cancellable=True,
        kind="service",
        services=list(given.needs),
        open=is_open,
    )
