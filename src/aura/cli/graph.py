"""``aura graph``: the steps of a task as a picture. ``graphs``, ``mermaid`` and ``svg`` draw it."""

import sys
from pathlib import Path
from typing import Any

import click
from msgspec import to_builtins

from aura.cli.cids import find_cid
from aura.cli.completing import complete_cid, complete_task
from aura.cli.graphs import draw
from aura.cli.mermaid import mermaid
from aura.cli.options import json_option, open_client, server_options, settings_of
from aura.cli.output import one_line, print_json
from aura.cli.svg import svg
from aura.errors import CannotCreate, PlanError, UnknownTask


@click.command
@click.argument("task", metavar="PLAN/TASK", required=False, shell_complete=complete_task)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "mermaid", "svg"]),
    default="text",
    show_default=True,
    help="What to draw it as.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write it there.")
@click.option(
    "--run",
    "cid",
    metavar="CID",
    shell_complete=complete_cid,
    help="The task of this run, with the states of its steps.",
)
@click.option(
    "--plans", type=click.Path(path_type=Path), metavar="DIR", help="Read it from this plans folder; ask no server."
)
@server_options
@json_option
def graph(task: str | None, form: str, output: Path | None, cid: str | None, plans: Path | None, as_json: bool) -> None:
    """Show a task's steps as a picture.

    Lines lead down, from a step to those that wait for it. Handlers stand below.
    """
    if (task is None) == (cid is None):
        raise click.UsageError("it takes PLAN/TASK, or --run CID")
    if cid is not None and plans is not None:
        raise click.UsageError("--run asks the server, and --plans asks none")
    name, found, states = _of_run(cid) if cid is not None else _of_task(task or "", plans)
    if as_json:
        print_json(found)
        return
    text = _drawn(form, name, found, states, plain=output is None and not _can_show("○"))
    if output is None:
        click.echo(text)
    else:
        _write(output, text)


#: (the task's whole name, the task as ``api.Task`` has it, the states of a run's steps)
_Found = tuple[str, dict[str, Any], dict[str, str]]


def _of_task(task: str, plans: Path | None) -> _Found:
    plan_name, slash, task_name = task.partition("/")
    if not (plan_name and slash and task_name):
        raise click.BadParameter(f"{task!r} is not PLAN/TASK", param_hint="PLAN/TASK")
    return task, _from_folder(plans, plan_name, task_name) if plans else _from_server(plan_name, task_name), {}


def _of_run(cid: str) -> _Found:
    """The task as it is now: of what a run of an older version has done, the steps that are still there are shown."""
    with open_client() as client:
        run = client.get_run(find_cid(client, cid))
    states = {step.name: step.state.value for step in run.steps}
    return f"{run.plan_name}/{run.task_name}", _from_server(run.plan_name, run.task_name), states


def _drawn(form: str, name: str, task: dict[str, Any], states: dict[str, str], plain: bool) -> str:
    if form == "mermaid":
        return mermaid(task, states)
    if form == "svg":
        return svg(name, task, states)
    lines = [one_line(line) for line in draw(task["steps"], plain, states)]
    for title, steps in task["handlers"].items():
        lines += ["", title, *(one_line(line) for line in draw(steps, plain, states))]
    return "\n".join(lines)


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise CannotCreate(f"{file} cannot be written: {error.strerror}") from error


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
    from aura.loading.loader import check_plans
    from aura.web.shapes import task as shape

    settings = settings_of()
    checked = check_plans(folder, shipped(), settings.server.timezone, settings.resources)
    plans = {one.name: one for one in checked}
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
