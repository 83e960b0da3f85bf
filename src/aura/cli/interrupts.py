"""``aura interrupts``: which rules there are and how they stand; to fire them, and to switch them on and off."""

from collections.abc import Iterable, Sequence
from typing import Any

import click

from aura import api
from aura.cli.completing import complete_rule
from aura.cli.emit import say_emitted
from aura.cli.inputs import pairs
from aura.cli.options import json_option, open_client, server_options
from aura.cli.output import local_time, one_line, print_json, print_table, say, seconds, short_cid
from aura.cli.values import values_of

_RULE = click.argument("rule", metavar="PLAN/RULE", shell_complete=complete_rule)
#: How a poll may have ended that fires nothing.
_TROUBLE = ("failed", "stuck")
#: How many runs of a kind a dry run names.
NAMED = 20


@click.group(invoke_without_command=True)
@server_options
@json_option
@click.pass_context
def interrupts(context: click.Context, as_json: bool) -> None:
    """List the interrupt rules; `list` says them too. The others fire a rule, or switch it on or off."""
    if context.invoked_subcommand is None:
        _print_rules(as_json)


@interrupts.command("list")
@server_options
@json_option
def list_rules(as_json: bool) -> None:
    """List the interrupt rules, when they fired last and what they stopped then."""
    _print_rules(as_json)


@interrupts.command
@_RULE
@click.option("-p", "given", metavar="K=V", multiple=True, callback=pairs, help="A member of its payload; repeatable.")
@click.option("--dry-run", is_flag=True, help="Only say what would be stopped.")
@server_options
@json_option
def fire(rule: str, given: list[tuple[str, str]], dry_run: bool, as_json: bool) -> None:
    """Fire a rule now, also one that is switched off. A value is JSON if it parses, else text."""
    plan_name, name = _names(rule)
    with open_client() as client:
        if dry_run:
            _say_dry_run(client.dry_run(plan_name, name), as_json)
            return
        told = client.fire(plan_name, name, values_of(given) if given else None)
    if as_json:
        print_json(told)
    else:
        say_emitted(told)


@interrupts.command
@_RULE
@server_options
@json_option
def enable(rule: str, as_json: bool) -> None:
    """Switch a rule on, until its file says something else."""
    with open_client() as client:
        _say_switched(client.enable_rule(*_names(rule)), as_json)


@interrupts.command
@_RULE
@server_options
@json_option
def disable(rule: str, as_json: bool) -> None:
    """Switch a rule off, until its file says something else: its triggers fire it no more."""
    with open_client() as client:
        _say_switched(client.disable_rule(*_names(rule)), as_json)


def _names(text: str) -> tuple[str, str]:
    """The plan and the rule that ``PLAN/RULE`` names.

    Raises:
        click.BadParameter: it is not such a name.
    """
    plan_name, slash, name = text.partition("/")
    if not (plan_name and slash and name):
        raise click.BadParameter(f"{text!r} is not PLAN/RULE; `aura interrupts` lists them", param_hint="PLAN/RULE")
    return plan_name, name


def _print_rules(as_json: bool) -> None:
    with open_client() as client:
        found = list(client.interrupts())
    if as_json:
        print_json({"items": found})
        return
    head = ("RULE", "STATE", "TASK", "PRIORITY", "STOPS", "LAST FIRED", "STOPPED", "COOLDOWN", "TRIGGERS")
    print_table(head, map(_row, found))


def _row(rule: api.Rule) -> Sequence[Any]:
    fired = (local_time(rule.last_fired_at), rule.last_victim_count if rule.last_fired_at else "", _cooldown(rule))
    what = (rule.task_name, rule.priority, _scope(rule))
    return (f"{rule.plan_name}/{rule.rule}", _state(rule), *what, *fired, "; ".join(rule.triggers))


def _state(rule: api.Rule) -> str:
    """``on``, ``off (by local)``, ``on (poll failed)``, ``open (2)``: so many of its firings have not ended."""
    if rule.open:
        return f"open ({len(rule.open)})"
    if rule.suspended:
        return "suspended"
    notes = [f"by {rule.switched_by}"] if rule.switched_by else []
    if rule.enabled:
        notes += sorted({f"poll {poll.last_state}" for poll in rule.polls if poll.last_state in _TROUBLE})
    more = f" ({', '.join(notes)})" if notes else ""
    return f"{'on' if rule.enabled else 'off'}{more}"


def _scope(rule: api.Rule) -> str:
    """What it may stop, in a few words: ``main of *``."""
    wanted = rule.preempts
    narrower = [*(f"{key}={value}" for key, value in wanted.labels.items())]
    narrower += [f"below {wanted.below_priority}"] if wanted.below_priority <= 1000 else []
    plans = wanted.plans if rule.preempts_others else [rule.plan_name]
    of = [f"{plan}/{task}" if task != "*" else plan for plan in plans for task in wanted.tasks]
    return " ".join([",".join(wanted.lanes), "of", ",".join(of), *narrower])


def _cooldown(rule: api.Rule) -> str:
    return seconds(rule.cooldown_left_s) if rule.cooldown_left_s else ""


def _say_switched(rule: api.Rule, as_json: bool) -> None:
    if as_json:
        print_json(rule)
    else:
        say(f"{one_line(f'{rule.plan_name}/{rule.rule}')} is {'on' if rule.enabled else 'off'}")


def _say_dry_run(found: api.DryRun, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    say(f"it would stop {_listed(found.victims)}")
    if found.spared:
        say(f"it would spare {_listed(found.spared)}")
    for hold in found.holds:
        say(f"until it ends nothing would start in lane {hold.lane} that it covers: {hold.queued} of that wait now")


def _listed(cids: Iterable[str]) -> str:
    cids = list(cids)
    more = f" and {len(cids) - NAMED} more" if len(cids) > NAMED else ""
    return (", ".join(map(short_cid, cids[:NAMED])) or "nothing") + more
