"""``aura schedule``: which items there are and when they are due; to start one, and to switch them on and off."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import click

from aura import api
from aura.cli.completing import complete_item
from aura.cli.inputs import pairs, read_inputs
from aura.cli.options import duration_of, json_option, open_client, server_options
from aura.cli.output import local_time, one_line, print_json, print_table, say, short_cid, soon
from aura.errors import ExitCode

_ITEM = click.argument("item", metavar="PLAN/ITEM", shell_complete=complete_item)
#: What is said of a time at which the clocks change.
_CHANGES = {"gap": "clocks go forward", "fold": "clocks go back"}


@click.group(invoke_without_command=True)
@server_options
@json_option
@click.pass_context
def schedule(context: click.Context, as_json: bool) -> None:
    """List the items of schedules; `list` says them too. The others preview, start or switch one."""
    if context.invoked_subcommand is None:
        _print_items(as_json)


@schedule.command("list")
@server_options
@json_option
def list_items(as_json: bool) -> None:
    """List the items, when each is due next, what it started last, and why it did not."""
    _print_items(as_json)


def _after(_: click.Context, parameter: click.Parameter, text: str | None) -> datetime | None:
    """Read a time, in this machine's zone if it names none, or a duration as so long from now.

    Raises:
        click.BadParameter: it is neither.
    """
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        pass
    try:
        return datetime.now().astimezone() + timedelta(seconds=duration_of("", text))
    except (click.BadParameter, OverflowError):
        message = f"{text!r} is neither a time, such as 2027-03-27, nor a duration, such as 30d"
        raise click.BadParameter(message, param=parameter) from None


@schedule.command
@_ITEM
@click.option("--from", "begin", metavar="TIME", callback=_after, help="The first time, such as 2027-03-27.  [now]")
@click.option("--to", "end", metavar="TIME", callback=_after, help="Before this, or so long from now.  [a week later]")
@server_options
@json_option
def preview(item: str, begin: datetime | None, end: datetime | None, as_json: bool) -> None:
    """List the times at which an item is due, in the zones of its triggers. Nothing is started."""
    with open_client() as client:
        found = client.preview(*_names(item), begin, end)
    if as_json:
        print_json(found)
        return
    print_table(("DUE", "UTC", "CLOCKS"), map(_slot_row, found.items))
    if found.cut:
        say(f"… and more after these {len(found.items)}: say a later --from")


@schedule.command
@_ITEM
@click.option("-i", "given", metavar="K=V", multiple=True, callback=pairs, help="An input, instead of the item's.")
@click.option("--inputs", "file", metavar="FILE|-", help="Inputs as a JSON object in a file, or on stdin.")
@click.option("--idempotency-key", "key", metavar="KEY", help="Asked again with the same key, it is the same run.")
@click.option("-d", "--detach", is_flag=True, help="Print the run's id and do not follow it.")
@server_options
def run(item: str, given: list[tuple[str, str]], file: str | None, key: str | None, detach: bool) -> int:
    """Start an item now, also one that is off or cools down, and follow it as `aura run` does.

    Exit 1 if it does not succeed.
    """
    plan_name, name = _names(item)
    with open_client() as client:
        inputs: dict[str, Any] = {}
        if given or file:
            found = client.item(plan_name, name)
            inputs = read_inputs(client, (found.task_plan, found.task_name), file, given)
        accepted = client.run_item(plan_name, name, inputs, idempotency_key=key)
        if not detach:
            from aura.cli.follow import follow_to_end

            return follow_to_end(client, accepted.cid)
    click.echo(accepted.cid)
    return ExitCode.OK


@schedule.command
@_ITEM
@server_options
@json_option
def enable(item: str, as_json: bool) -> None:
    """Switch an item on, until its file says something else."""
    with open_client() as client:
        _say_switched(client.enable_item(*_names(item)), as_json)


@schedule.command
@_ITEM
@server_options
@json_option
def disable(item: str, as_json: bool) -> None:
    """Switch an item off, until its file says something else: its triggers start nothing any more."""
    with open_client() as client:
        _say_switched(client.disable_item(*_names(item)), as_json)


def _names(text: str) -> tuple[str, str]:
    """The plan and the item that ``PLAN/ITEM`` names.

    Raises:
        click.BadParameter: it is not such a name.
    """
    plan_name, slash, name = text.partition("/")
    if not (plan_name and slash and name):
        raise click.BadParameter(f"{text!r} is not PLAN/ITEM; `aura schedule` lists them", param_hint="PLAN/ITEM")
    return plan_name, name


# -- tables


def _print_items(as_json: bool) -> None:
    with open_client() as client:
        found = list(client.schedule())
    if as_json:
        print_json({"items": found})
        return
    head = ("ITEM", "STATE", "TASK", "NEXT DUE", "LAST STARTED", "LAST RUN", "TRIGGERS")
    below = [[item.reason] if item.reason else [] for item in found]
    print_table(head, map(_row, found), below)


def _row(item: api.ScheduledItem) -> Sequence[Any]:
    task = item.task_name if item.task_plan == item.plan_name else f"{item.task_plan}/{item.task_name}"
    last = (local_time(item.last_started_at), short_cid(item.last_cid) if item.last_cid else "")
    triggers = "; ".join(trigger.text for trigger in item.triggers) or "by hand"
    return (f"{item.plan_name}/{item.item}", _state(item), task, soon(item.next_due), *last, triggers)


def _state(item: api.ScheduledItem) -> str:
    """``on``, ``off``, ``off (by local)``, ``suspended``."""
    if item.enabled and item.suspended:
        return "suspended"
    return ("on" if item.enabled else "off") + (f" (by {item.switched_by})" if item.switched_by else "")


def _slot_row(slot: api.PreviewedSlot) -> Sequence[Any]:
    utc = slot.due.isoformat().replace("+00:00", "Z")
    return (slot.local, utc, _CHANGES.get(slot.dst or "", ""))


def _say_switched(item: api.ScheduledItem, as_json: bool) -> None:
    if as_json:
        print_json(item)
        return
    due = f"; due {soon(item.next_due)}" if item.enabled and item.next_due else ""
    say(f"{one_line(f'{item.plan_name}/{item.item}')} is {'on' if item.enabled else 'off'}{due}")
