"""``aura ps runs show``: runs, as the server has them on record."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import click
from msgspec import to_builtins

from aura import api
from aura.cli.answer import command_for
from aura.cli.cids import find_cid
from aura.cli.completing import complete_cid
from aura.cli.inputs import pairs
from aura.cli.options import RUN_STATES, json_option, open_client, plan_and_task, server_options, time_of
from aura.cli.output import (
    failure_text,
    local_time,
    one_line,
    preempted_text,
    print_facts,
    print_json,
    print_table,
    progress_text,
    say,
    seconds,
    short_cid,
    short_hash,
    took,
    wait_text,
    waiting_text,
)
from aura.lifecycle import RunState
from aura.reasons import branches, details, head

if TYPE_CHECKING:
    from aura.client import Client

#: How many runs are asked for at a time, at the most.
PAGE = 1000
#: How many of the items of a loop that failed ``aura show`` names.
FAILED_SHOWN = 5
#: The states of which ``aura ps`` lists runs though they hold no place, and how many of each.
RESTING = (RunState.WAITING, RunState.PREEMPTED)
RESTING_SHOWN = 100
#: How many of the runs that an interrupt has stopped ``aura show`` names.
VICTIMS_SHOWN = 10


@click.command
@server_options
@json_option
def ps(as_json: bool) -> None:
    """List the runs that are running now, and the newest that wait for something or were stopped to go on later."""
    with open_client() as client:
        found = {run.cid: run for run in client.active_runs()}  # one may have begun to rest in between
        more = [state for state in RESTING if _add_resting(client, state, found)]
        stuck = client.status().stuck if any(run.stuck for run in found.values()) else api.StuckStatus()
    if as_json:
        print_json({"items": list(found.values())})
        return
    print_table(("CID", "TASK", "STATE", "STARTED", "PROGRESS"), _active_rows(list(found.values())))
    for run in stuck.runs:
        say(_hang_text(run))
    for state in more:
        say(f"… and more: aura runs --state {state} --all")


def _add_resting(client: "Client", state: RunState, found: dict[str, api.RunShort]) -> bool:
    """Add the newest runs in a state in which they hold no place; say whether there are more."""
    resting = list(islice(client.runs(state=state, page_size=RESTING_SHOWN + 1), RESTING_SHOWN + 1))
    for run in resting[:RESTING_SHOWN]:
        found.setdefault(run.cid, run)
    return len(resting) > RESTING_SHOWN


@click.command
@click.option("--state", type=RUN_STATES, metavar="STATE", help="Only runs in this state.")
@click.option("--task", metavar="PLAN[/TASK]", help="Only runs of this plan, or of this task.")
@click.option("--lane", help="Only runs of this lane.")
@click.option("--label", "labels", metavar="K=V", multiple=True, callback=pairs, help="Only runs with this label.")
@click.option("--since", metavar="TIME", callback=time_of, help="Accepted then or later: 2026-11-22T05:00, or 2h ago.")
@click.option("--until", metavar="TIME", callback=time_of, help="Accepted before then.")
@click.option("-n", "--limit", type=click.IntRange(1), default=20, show_default=True, help="At most so many.")
@click.option("--all", "everything", is_flag=True, help="All of them, however many.")
@server_options
@json_option
def runs(
    state: str | None,
    task: str | None,
    lane: str | None,
    labels: list[tuple[str, str]],
    since: datetime | None,
    until: datetime | None,
    limit: int,
    everything: bool,
    as_json: bool,
) -> None:
    """List runs, the newest first."""
    plan_name, task_name = plan_and_task(task)
    size = PAGE if everything else min(limit, PAGE)
    with open_client() as client:
        found = client.runs(
            state=state,
            plan_name=plan_name,
            task_name=task_name,
            lane=lane,
            labels=dict(labels),
            since=since,
            until=until,
            page_size=size,
        )
        listed = list(islice(found, None if everything else limit))
    if as_json:
        print_json({"items": listed})
    else:
        print_table(("CID", "TASK", "STATE", "ACCEPTED", "TOOK", "REASON"), map(_row, listed))


@click.command
@click.argument("cid", shell_complete=complete_cid)
@server_options
@json_option
def show(cid: str, as_json: bool) -> None:
    """Show one run whole: its steps, its result, what went wrong. CID may be shortened, or @last."""
    with open_client() as client:
        run = client.get_run(find_cid(client, cid))
    if as_json:
        print_json(run)
        return
    print_facts(_facts(run))
    if run.steps:
        click.echo()
        below = [_below(run, step) for step in run.steps]
        print_table(("STEP", "STATE", "TRY", "TOOK", "WHAT"), map(_step_row, run.steps), below)


def _task(run: api.RunShort) -> str:
    return f"{run.plan_name}/{run.task_name}"


def _state(run: api.RunShort) -> str:
    return f"{run.state} (stuck)" if run.stuck else run.state


def _hang_text(run: api.StuckRun) -> str:
    """Where a run hangs, and who has taken over what it holds."""
    text = f"{short_cid(run.cid)} is stuck: step {run.step} hangs at {run.hangs_at} since {local_time(run.since)}"
    if run.interrupt:
        text += f", when {run.interrupt} had stopped it"
    taken = [f"{short_cid(t.cid)} of {t.plan_name}/{t.rule} took {', '.join(t.names)}" for t in run.taken_over]
    return "; ".join([text, *taken])


def _active_rows(runs: Sequence[api.RunShort]) -> Iterable[tuple[str, ...]]:
    """Each run, and below it those that are a part of it."""
    cids = {run.cid for run in runs}
    tops = [run for run in runs if run.parent_cid not in cids]
    waiting = [(run, 0) for run in reversed(tops)]
    while waiting:
        run, depth = waiting.pop()
        yield _active_row(run, depth)
        waiting += [(below, depth + 1) for below in runs if below.parent_cid == run.cid]


def _active_row(run: api.RunShort, depth: int) -> tuple[str, ...]:
    task = f"{'  ' * (depth - 1)}└─ {_task(run)}" if depth else _task(run)
    return (short_cid(run.cid), task, _state(run), local_time(run.started_at), _progress(run))


def _row(run: api.RunShort) -> tuple[str, ...]:
    why = run.reason or failure_text(run.error) or waiting_text(run.waiting_for)
    return (short_cid(run.cid), _task(run), _state(run), local_time(run.accepted_at), _took(run), why)


def _took(run: api.RunShort) -> str:
    return took(run.started_at, run.finished_at)


def _progress(run: api.RunShort) -> str:
    how_far = [progress_text(step, how_far) for step, how_far in (run.progress or {}).items()]
    waits = waiting_text(run.waiting_for)
    stopped = [one_line(run.reason)] if run.state == RunState.PREEMPTED and run.reason else []
    return "; ".join([*how_far, *stopped, *([f"waits for {waits}"] if waits else [])])


def _facts(run: api.Run) -> Iterable[tuple[str, Any]]:
    cause = run.cause
    yield "cid", run.cid
    yield "task", _task(run)
    yield "generation", short_hash(run.generation)
    yield "state", run.state
    yield "reason", run.reason
    yield "stuck", "it does not stop" if run.stuck else None
    yield "lane", f"{run.lane}, priority {run.priority}"
    yield "labels", " ".join(f"{key}={value}" for key, value in run.labels.items())
    yield "cause", " ".join(filter(None, (cause.kind, cause.item, cause.rule, cause.event_id, cause.cid, cause.step)))
    yield "pre-empted", _preempted(run)
    yield "stopped", _victims(run)
    yield "accepted", local_time(run.accepted_at)
    yield "not before", local_time(run.not_before)
    yield "started", local_time(run.started_at)
    yield "finished", local_time(run.finished_at)
    yield "took", _took(run)
    yield "progress", "; ".join(progress_text(step, how_far) for step, how_far in (run.progress or {}).items())
    yield "waits for", waiting_text(run.waiting_for)
    for wait in run.waiting_for.waits if run.waiting_for else ():
        if wait.kind == "approval":
            yield "to answer", command_for(run.cid, wait)
    yield "inputs", run.inputs
    yield "error", failure_text(run.error)
    yield "clean-up", failure_text(run.cleanup_error)
    yield "result", run.result


def _preempted(run: api.Run) -> str | None:
    """Which interrupt has stopped a run last, and how often one has."""
    by = run.preempted_by
    if by is None:
        return None
    often = f", {run.preemptions} times in all" if run.preemptions > 1 else ""
    return f"{preempted_text(by)} at {local_time(by.at)}{often}"


def _victims(run: api.Run) -> str:
    """What an interrupt has stopped whose handler a run is, the first of it."""
    named = [f"{short_cid(one.cid)} ({one.outcome or 'cleaning up'})" for one in run.victims[:VICTIMS_SHOWN]]
    more = run.victim_count - len(named)
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")


def _below(run: api.Run, step: api.Step) -> list[str]:
    """The branches below a step: why it was skipped, which of its items failed, its sub-tasks, what it waits for."""
    why = details(to_builtins(step.explained)) if step.explained else []
    sub_tasks = [_sub_task_line(sub_task) for sub_task in run.sub_tasks if sub_task.step == step.name]
    return branches([line] for line in (*why, *_failed_items(step), *sub_tasks, *_waits(run, step)))


def _waits(run: api.Run, step: api.Step) -> list[str]:
    """What a step waits for, or the items of it do, the first few of them."""
    waits = run.waiting_for.waits if run.waiting_for else []
    of_step = [wait for wait in waits if wait.step == step.name]
    lines = [f"{'' if wait.index is None else f'[{wait.index}] '}waits for {wait_text(wait)}" for wait in of_step]
    more = len(lines) - FAILED_SHOWN
    return lines if more <= 0 else [*lines[:FAILED_SHOWN], f"… and {more} more that wait"]


def _failed_items(step: api.Step) -> list[str]:
    """The items that failed, the first few of them; of one that failed its step the error stands there already."""
    failed = [item for item in step.items or () if item.error and not (step.error and item.index == step.error.item)]
    lines = [f"[{i.index}] {one_line(i.item)}: {failure_text(i.error, of_step=True)}" for i in failed]
    more = (step.items_failed or 0) - FAILED_SHOWN
    return lines if more <= 0 else [*lines[:FAILED_SHOWN], f"… and {more} more that failed"]


def _sub_task_line(run: api.SubTask) -> str:
    item = "" if run.index is None else f"[{run.index}] "
    return f"{item}{run.plan_name}/{run.task_name} {short_cid(run.cid)} {run.state}"


def _loop_text(step: api.Step) -> str:
    """How far a step that loops is: "8/10, 1 failed"; of rounds nobody knows how many are to come."""
    if step.items_total is None:
        return ""
    failed = f", {step.items_failed} failed" if step.items_failed else ""
    goes_on = step.finished_at is None and step.items_ended == step.items_total
    return f"{step.items_ended}{' so far' if goes_on else f'/{step.items_total}'}{failed}"


def _step_row(step: api.Step) -> tuple[Any, ...]:
    skipped = head(to_builtins(step.explained)) if step.explained else step.skipped_because
    what = "; ".join(filter(None, (_loop_text(step), failure_text(step.error, of_step=True) or skipped)))
    duration = "" if step.duration_s is None else seconds(step.duration_s)
    return (step.name, step.state, step.attempt or "", duration, what)
