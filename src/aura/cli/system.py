"""``aura status start stop reload``: a running server and the engine in it."""

import time
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import click

from aura import api
from aura.cli.options import duration_of, json_option, open_client, server_options
from aura.cli.output import (
    local_time,
    one_line,
    print_facts,
    print_json,
    print_table,
    say,
    seconds,
    short_cid,
    short_hash,
    soon,
)
from aura.errors import ExitCode, Problem

#: Seconds between two looks whether tests still run.
LOOK_EVERY = 0.5


@click.command
@server_options
@json_option
def status(as_json: bool) -> None:
    """Show how the server fares: its engine, its lanes, its plans."""
    with open_client() as client:
        found = client.status()
    if as_json:
        print_json(found)
        return
    print_facts(_facts(found))
    rows = [(name, lane.running, lane.limit, lane.queued) for name, lane in found.lanes.items()]
    print_table(("LANE", "RUNNING", "LIMIT", "QUEUED"), rows)
    if found.resources:
        used = [(name, r.in_use, r.capacity, r.waiting) for name, r in found.resources.items()]
        print_table(("RESOURCE", "IN USE", "THERE IS", "WAITING"), used)


def _facts(status: api.ServerStatus) -> Iterator[tuple[str, Any]]:
    plans = [("ready", status.plans.ready), ("stale", status.plans.stale), ("broken", status.plans.broken)]
    yield "state", status.state
    yield "version", status.version
    yield "started", local_time(status.started_at)
    yield "up for", seconds(status.uptime_s)
    yield "plans", ", ".join(f"{count} {word}" for word, count in plans if count) or "none"
    if status.retention and status.retention.bytes is not None:
        yield "history", _said_of_history(status.retention)
    yield "schedule", _said_of_schedule(status.schedule)
    yield from (("interrupt", _said_of_interrupt(one)) for one in status.interrupts.open)
    yield from (("reason", reason) for reason in status.reasons)
    yield from (("service", _said_of(name, child)) for name, child in status.services.items() if child.failures)


def _said_of_schedule(found: api.ScheduleStatus) -> str:
    """The items of schedules: ``3 items, 1 off; next lab/nightly today 14:30``; empty if there is none."""
    if not found.items:
        return ""
    counts = [(found.items - found.enabled, "off"), (found.suspended, "suspended")]
    marks = "".join(f", {count} {word}" for count, word in counts if count)
    following = f"; next {found.next.plan_name}/{found.next.item} {soon(found.next.due)}" if found.next else ""
    return f"{found.items} item{'' if found.items == 1 else 's'}{marks}{following}"


def _said_of_interrupt(one: api.OpenInterrupt) -> str:
    """A firing that is open: ``lab/low_battery since 12:00:05: running, has stopped 3, handled by 4kqz``."""
    waits = f", waits for {', '.join(map(short_cid, one.awaited))}" if one.awaited else ""
    since = local_time(one.since, "%H:%M:%S")
    told = f"{one.state}, has stopped {one.victim_count}{waits}, handled by {short_cid(one.cid)}"
    return f"{one.plan_name}/{one.rule} since {since}: {told}"


@click.command
@server_options
@json_option
def start(as_json: bool) -> None:
    """Start the engine of a running server."""
    with open_client() as client:
        answer = client.start()
    _say_state(answer, as_json, "queued runs start now")


@click.command
@click.option("--drain", "mode", flag_value="drain", default="drain", help="Let what runs end until the grace is over.")
@click.option("--cancel", "mode", flag_value="cancel", help="Stop what runs at once.")
@click.option("--grace", metavar="DURATION", help="How long it may take, such as 30s.  [the server's]")
@server_options
@json_option
def stop(mode: Literal["drain", "cancel"], grace: str | None, as_json: bool) -> None:
    """Stop the engine; the server still answers and accepts runs, which wait until `aura start`."""
    grace_s = None if grace is None else duration_of("--grace", grace)
    with open_client() as client:
        answer = client.stop(mode, grace_s)
    _say_state(answer, as_json, "the server still answers and accepts runs; they wait until `aura start`")


@click.command
@server_options
@json_option
def reload(as_json: bool) -> int:
    """Load the plans again, and wait until tests have run that are a gate; exit 1 if a plan is broken or stale."""
    with open_client() as client:
        plans = client.reload()
        while any(plan.testing for plan in plans):
            time.sleep(LOOK_EVERY)
            plans = [_reloaded(plan) for plan in client.plans()]
    if as_json:
        print_json({"plans": plans})
    else:
        rows = [(plan.name, plan.status, short_hash(plan.generation)) for plan in plans]
        print_table(("PLAN", "STATUS", "GENERATION"), rows)
        for plan in plans:
            say_problems(plan.errors)
    return ExitCode.OK if all(plan.status == "ready" for plan in plans) else ExitCode.FAILED


def _reloaded(plan: api.Plan) -> api.ReloadedPlan:
    """A plan in the list, as the answer to a reload has it."""
    return api.ReloadedPlan(
        name=plan.name, status=plan.status, generation=plan.generation, errors=plan.errors, testing=plan.testing
    )


def say_problems(problems: Iterable[Problem]) -> None:
    """Each problem of a plan as file:line:column: message."""
    for problem in problems:
        say(one_line(str(problem)))


def _said_of(name: str, child: api.ServiceStatus) -> str:
    times = "once" if child.failures == 1 else f"{child.failures} times"
    return f"{name} is {child.state}, has failed {times}, the last time with {child.last_error}"


def _said_of_history(kept: api.RetentionStatus) -> str:
    since = f", runs since {local_time(kept.oldest_at)}" if kept.oldest_at else ""
    gone = f", {kept.removed_runs} removed" if kept.removed_runs else ""
    return f"{(kept.bytes or 0) / 2**20:.1f} MiB{since}{gone}"


def _say_state(answer: api.EngineAnswer, as_json: bool, then: str) -> None:
    if as_json:
        print_json(answer)
    else:
        click.echo(one_line(answer.state))
        say(then)
