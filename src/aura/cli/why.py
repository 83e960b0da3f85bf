"""``aura why``: what did not start, what does not begin yet, why, and what to do about it."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from typing import Any

import click

from aura import api
from aura.cli.completing import complete_item
from aura.cli.options import json_option, open_client, plan_and_task, server_options, time_of
from aura.cli.output import local_time, print_json, print_table, say
from aura.why import REASONS, Reason

#: How many lines are asked for at a time, at the most.
PAGE = 1000
#: What to do, by reason.
ADVICE: dict[Reason, str] = {
    "condition_false": "its `when`, or `while_running`, was false: look at the event (aura logs -f shows what comes)",
    "mode": "it ran already: see `mode` of the task or the item, and aura ps",
    "misfire": "the server or the engine was not there: see `misfire` and `misfire_grace` of its trigger",
    "paused": "start the engine: aura start",
    "disabled": "switch it on: aura schedule enable PLAN/ITEM, or aura interrupts enable PLAN/RULE",
    "held": "it begins when the interrupt has ended: aura interrupts",
    "gate": "it begins when the tests of its plan have passed: aura plans",
    "queue_full": "see what waits: aura queue; a lane's `queue` and `limit` are settings",
    "cooldown": "it started a moment ago; see its `cooldown`",
    "debounced": "nothing is lost: the last event of its kind starts it, see `debounce`",
    "duplicate": "the same was there before and has started what it had to",
    "loop_detected": "events go round in a circle through it: break it, then aura reload",
    "bad_inputs": "its plan cannot be loaded, or what it was given does not fit its task: aura plans, aura check",
    "storage_full": "the storage took nothing: aura status, aura doctor",
}


@click.command
@click.argument("item", metavar="[PLAN[/ITEM]]", required=False, shell_complete=complete_item)
@click.option("--since", metavar="TIME", callback=time_of, help="Then or later: 2026-11-22T05:00, yesterday, 2h.")
@click.option("--until", metavar="TIME", callback=time_of, help="Before then.")
@click.option("--task", "task_name", metavar="TASK", help="Only starts of this task.")
@click.option("--rule", metavar="RULE", help="Only this interrupt rule of the plan.")
@click.option("--reason", type=click.Choice(REASONS), metavar="REASON", help="Only for this reason.")
@click.option("-n", "--limit", type=click.IntRange(1), default=20, show_default=True, help="At most so many lines.")
@click.option("--all", "everything", is_flag=True, help="All of them, however many.")
@server_options
@json_option
def why(
    item: str | None,
    since: datetime | None,
    until: datetime | None,
    task_name: str | None,
    rule: str | None,
    reason: str | None,
    limit: int,
    everything: bool,
    as_json: bool,
) -> None:
    """Say what did not start, or does not begin yet, and why: the newest first."""
    plan_name, item_name = plan_and_task(item)
    with open_client() as client:
        found = client.why(
            plan_name=plan_name,
            item=item_name,
            rule=rule,
            task_name=task_name,
            reason=reason,
            since=since,
            until=until,
            page_size=PAGE if everything else min(limit, PAGE),
        )
        listed = list(islice(found, None if everything else limit))
    if as_json:
        print_json({"items": listed})
        return
    if not listed:
        say("nothing is on record that did not start")
        return
    print_table(("TIME", "WHAT", "REASON", "TIMES", "WHY"), map(_row, listed))
    for line in _advice(listed):
        say(line)


def _row(line: api.Why) -> tuple[Any, ...]:
    return (local_time(line.time), _what(line), line.reason, line.count, line.detail)


def _what(line: api.Why) -> str:
    """``lab/nightly`` of an item or a rule, else the task that was asked for."""
    return "/".join(part for part in (line.plan_name, line.item or line.rule or line.task_name) if part)


def _advice(lines: Iterable[api.Why]) -> Iterator[str]:
    """What to do about each reason that is there, in the order in which they come."""
    for reason in dict.fromkeys(line.reason for line in lines):
        known = [text for name, text in ADVICE.items() if name == reason]  # a newer server may have others
        yield from (f"{reason}: {text}" for text in known)
