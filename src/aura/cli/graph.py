"""``aura graph``: the steps of a task as a picture. ``graphs`` draws it."""

import sys
from pathlib import Path
from typing import Any

import click
from msgspec import to_builtins

from aura.cli.completing import complete_task
from aura.cli.graphs import draw, mermaid
from aura.cli.options import json_option, open_client, server_options, settings_of
from aura.cli.output import one_line, print_json
from aura.errors import PlanError, UnknownTask


@click.command
@click.argument("task", metavar="PLAN/TASK", shell_complete=complete_task)
@click.option("--mermaid", "as_mermaid", is_flag=True, help="Print it as text for Mermaid, in which pages show it.")
@click.option(
    "--plans", type=click.Path(path_type=Path), metavar="DIR", help="Read it from this plans folder; ask no server."
)
@server_options
@json_option
def graph(task: str, as_mermaid: bool, plans: Path | None, as_json: bool) -> None:
    """Show a task's steps as a picture.

    Lines lead down, from a step to those that wait for it. Handlers stand below.
    """
    plan_name, slash, task_name = task.partition("/")
    if not (plan_name and slash and task_name):
        raise click.BadParameter(f"{task!r} is not PLAN/TASK", param_hint="PLAN/TASK")
    found = _from_folder(plans, plan_name, task_name) if plans else _from_server(plan_name, task_name)
    if as_json:
        print_json(found)
    elif as_mermaid:
        click.echo(mermaid(found))
    else:
        _show(found)


def _show(task: dict[str, Any]) -> None:
    plain = not _can_show("○")
    for title, steps in (("", task["steps"]), *task["handlers"].items()):
        if title:
            click.echo(f"\n{title}")
        for line in draw(steps, plain):
            click.echo(one_line(line))


def _can_show(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _from_server(plan_name: str, task_name: str) -> dict[str, Any]:
    with open_client() as client:
        found: dict[str, Any] = to_builtins(client.task(plan_name, task_name))
        return found


def _from_folder(folder: Path, plan_name: str, task_name: str) -> dict[str, Any]:
    """The same shape from the files, none of whose code is run.

    Raises:
        PlanError: the plan has problems. UnknownTask: it is not there.
    """
    import msgspec

    from aura.builtin import shipped
    from aura.loader import check_plans
    from aura.web.shapes import task as shape

    plans = {checked.name: checked for checked in check_plans(folder, shipped(), settings_of().server.timezone)}
    if plan_name not in plans:
        raise UnknownTask(f"{folder} has no plan {plan_name!r}; it has {', '.join(sorted(plans)) or 'none'}")
    plan = plans[plan_name].plan
    if plan is None:
        raise PlanError(plans[plan_name].problems)
    if task_name not in plan.tasks:
        known = ", ".join(sorted(plan.tasks)) or "none"
        raise UnknownTask(f"the plan {plan_name} has no task {task_name!r}; it has {known}")
    found: dict[str, Any] = msgspec.to_builtins(shape(plan.tasks[task_name]))
    return found
