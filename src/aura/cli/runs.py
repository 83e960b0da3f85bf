"""``aura ps runs show``: runs, as the server has them on record."""

from collections.abc import Iterable
from datetime import datetime
from itertools import islice
from typing import Any

import click

from aura import api
from aura.cli.cids import find_cid
from aura.cli.completing import complete_cid
from aura.cli.inputs import pairs
from aura.cli.options import json_option, open_client, plan_and_task, server_options, time_of
from aura.cli.output import (
    failure_text,
    local_time,
    print_facts,
    print_json,
    print_table,
    progress_text,
    seconds,
    short_cid,
    short_hash,
    took,
)

#: How many runs are asked for at a time, at the most.
PAGE = 1000


@click.command
@server_options
@json_option
def ps(as_json: bool) -> None:
    """List the runs that are running now."""
    with open_client() as client:
        found = list(client.active_runs())
    if as_json:
        print_json({"items": found})
    else:
        print_table(("CID", "TASK", "STATE", "STARTED", "PROGRESS"), map(_active_row, found))


@click.command
@click.option("--state", help="Only runs in this state.")
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
        print_table(("STEP", "STATE", "TRY", "TOOK", "WHAT"), map(_step_row, run.steps))


def _task(run: api.RunShort) -> str:
    return f"{run.plan_name}/{run.task_name}"


def _state(run: api.RunShort) -> str:
    return f"{run.state} (stuck)" if run.stuck else run.state


def _active_row(run: api.RunShort) -> tuple[str, ...]:
    return (short_cid(run.cid), _task(run), _state(run), local_time(run.started_at), _progress(run))


def _row(run: api.RunShort) -> tuple[str, ...]:
    why = run.reason or failure_text(run.error)
    return (short_cid(run.cid), _task(run), _state(run), local_time(run.accepted_at), _took(run), why)


def _took(run: api.RunShort) -> str:
    return took(run.started_at, run.finished_at)


def _progress(run: api.RunShort) -> str:
    return "; ".join(progress_text(step, how_far) for step, how_far in (run.progress or {}).items())


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
    yield "cause", " ".join(filter(None, (cause.kind, cause.item, cause.rule, cause.event_id, cause.cid)))
    yield "accepted", local_time(run.accepted_at)
    yield "not before", local_time(run.not_before)
    yield "started", local_time(run.started_at)
    yield "finished", local_time(run.finished_at)
    yield "took", _took(run)
    yield "progress", _progress(run)
    yield "inputs", run.inputs
    yield "error", failure_text(run.error)
    yield "clean-up", failure_text(run.cleanup_error)
    yield "result", run.result


def _step_row(step: api.Step) -> tuple[Any, ...]:
    what = failure_text(step.error, of_step=True) or step.skipped_because or ""
    duration = "" if step.duration_s is None else seconds(step.duration_s)
    return (step.name, step.state, step.attempt or "", duration, what)
