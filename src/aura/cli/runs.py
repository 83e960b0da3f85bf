"""``aura ps runs show cancel``: runs, as the server has them on record."""

from collections.abc import Iterable
from itertools import islice
from typing import Any

import click

from aura.cli.cids import find_cid
from aura.cli.options import json_option, open_client, server_options
from aura.cli.output import (
    failure_text,
    local_time,
    one_line,
    print_facts,
    print_json,
    print_table,
    say,
    seconds,
    short_cid,
    short_hash,
    took,
)

Run = dict[str, Any]


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
        rows = [(short_cid(r["cid"]), _task(r), _state(r), local_time(r["started_at"]), _progress(r)) for r in found]
        print_table(("CID", "TASK", "STATE", "STARTED", "PROGRESS"), rows)


@click.command
@click.option("--state", help="Only runs in this state.")
@click.option("--task", metavar="PLAN[/TASK]", help="Only runs of this plan, or of this task.")
@click.option("--label", metavar="K=V", help="Only runs with this label.")
@click.option("-n", "--limit", type=click.IntRange(1), default=20, show_default=True, help="At most so many.")
@server_options
@json_option
def runs(state: str | None, task: str | None, label: str | None, limit: int, as_json: bool) -> None:
    """List runs, the newest first."""
    plan_name, _, task_name = (task or "").partition("/")
    filters = {"state": state, "plan_name": plan_name or None, "task_name": task_name or None}
    filters |= {"label": label.replace("=", ":", 1) if label else None, "limit": str(min(limit, 1000))}
    with open_client() as client:
        found = list(islice(client.runs(**filters), limit))
    if as_json:
        print_json({"items": found})
    else:
        print_table(("CID", "TASK", "STATE", "ACCEPTED", "TOOK", "REASON"), map(_row, found))


@click.command
@click.argument("cid")
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
    if run["steps"]:
        click.echo()
        print_table(("STEP", "STATE", "TRY", "TOOK", "WHAT"), map(_step_row, run["steps"]))


@click.command
@click.argument("cid")
@click.option("--reason", help="Why; it is kept with the run.")
@server_options
@json_option
def cancel(cid: str, reason: str | None, as_json: bool) -> None:
    """Cancel a run that has not ended. CID may be shortened, or @last."""
    with open_client() as client:
        answer = client.cancel(find_cid(client, cid), reason)
    if as_json:
        print_json(answer)
    else:
        say(f"{answer['cid']} is {one_line(answer['state'])}")


def _task(run: Run) -> str:
    return f"{run['plan_name']}/{run['task_name']}"


def _state(run: Run) -> str:
    return f"{run['state']} (stuck)" if run.get("stuck") else str(run["state"])


def _row(run: Run) -> tuple[str, ...]:
    why = run.get("reason") or failure_text(run.get("error"))
    times = (local_time(run["accepted_at"]), took(run.get("started_at"), run.get("finished_at")))
    return (short_cid(run["cid"]), _task(run), _state(run), *times, why)


def _progress(run: Run) -> str:
    return "; ".join(progress_text(step, how_far) for step, how_far in (run.get("progress") or {}).items())


def progress_text(step: str, how_far: dict[str, Any]) -> str:
    """How far a step is: ``archive 4000/10000 (40 %) copying``."""
    done, total = how_far["done"], how_far.get("total")
    number = f"{done:g}/{total:g} ({done / total:.0%})" if total else f"{done:g}"
    return f"{step} {number} {how_far.get('message') or ''}".rstrip()


def _facts(run: Run) -> Iterable[tuple[str, Any]]:
    cause = run.get("cause") or {}
    labels = run.get("labels") or {}
    yield "cid", run["cid"]
    yield "task", _task(run)
    yield "generation", short_hash(run.get("generation"))
    yield "state", run["state"]
    yield "reason", run.get("reason")
    yield "stuck", "it does not stop" if run.get("stuck") else None
    yield "lane", f"{run['lane']}, priority {run['priority']}"
    yield "labels", " ".join(f"{key}={value}" for key, value in labels.items())
    yield "cause", " ".join(str(value) for value in cause.values() if value)
    yield "accepted", local_time(run["accepted_at"])
    yield "not before", local_time(run.get("not_before"))
    yield "started", local_time(run.get("started_at"))
    yield "finished", local_time(run.get("finished_at"))
    yield "took", took(run.get("started_at"), run.get("finished_at"))
    yield "progress", _progress(run)
    yield "inputs", run.get("inputs")
    yield "error", failure_text(run.get("error"))
    yield "clean-up", failure_text(run.get("cleanup_error"))
    yield "result", run.get("result")


def _step_row(step: dict[str, Any]) -> tuple[Any, ...]:
    what = failure_text(step.get("error"), of_step=True) or step.get("skipped_because") or ""
    duration = step.get("duration_s")
    return (step["name"], step["state"], step["attempt"] or "", "" if duration is None else seconds(duration), what)
