"""``aura plans``, ``aura tasks``: what there is to run."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click
import msgspec

from aura import api
from aura.cli.options import json_option, open_client, server_options
from aura.cli.output import one_line, print_json, print_table, say, short_hash
from aura.cli.system import say_problems

if TYPE_CHECKING:
    from aura.client import Client


@click.command
@server_options
@json_option
def plans(as_json: bool) -> None:
    """List the plans and what is wrong with them. STOPS says whose rules may stop work of other plans."""
    with open_client() as client:
        found = list(client.plans())
    if as_json:
        print_json({"items": found})
    else:
        rows = [
            (
                one.name,
                one.status,
                one.task_count,
                short_hash(one.generation),
                _stops(one),
                " ".join(one.uses),
                one.title,
            )
            for one in found
        ]
        print_table(("PLAN", "STATUS", "TASKS", "GENERATION", "STOPS", "USES", "TITLE"), rows)
        for plan in found:
            say_problems(plan.errors)
            if plan.testing and plan.status != "broken":  # of a broken one its problem says so
                version = short_hash(plan.testing)
                say(one_line(f"{plan.name}: the tests of version {version} are running; it is served once they pass"))


def _stops(plan: api.Plan) -> str:
    """Whether its rules may stop work of other plans."""
    return "others" if plan.preempts_others else ""


@click.command
@click.argument("plan", required=False)
@server_options
@json_option
def tasks(plan: str | None, as_json: bool) -> None:
    """List the tasks, of one plan or of all, with their inputs."""
    with open_client() as client:
        found = list(_tasks(client, plan))
    if as_json:
        print_json({"items": [msgspec.to_builtins(task) | {"plan_name": name} for name, task in found]})
        return
    rows = [
        (f"{name}/{task.name}", task.lane, _inputs(task.inputs), _started_by(name, task), task.title)
        for name, task in found
    ]
    print_table(("TASK", "LANE", "INPUTS", "STARTED BY", "TITLE"), rows)


def _started_by(plan_name: str, task: api.Task) -> str:
    """The items that start a task, those of its own plan by their names alone."""
    return ", ".join(item.removeprefix(f"{plan_name}/") for item in task.started_by)


def _tasks(client: "Client", plan: str | None) -> Iterator[tuple[str, api.Task]]:
    """A broken plan has no tasks to show."""
    names = [plan] if plan else [plan.name for plan in client.plans() if plan.status != "broken"]
    for name in names:
        for task in client.tasks(name):
            yield name, task


def _inputs(schema: dict[str, Any]) -> str:
    """The inputs by name; those that may be left out in brackets, and secret ones with a star."""
    required, known = schema.get("required", []), schema.get("properties", {})
    shown = {name: f"{name}*" if inner.get("writeOnly") else name for name, inner in known.items()}
    return " ".join(shown[name] if name in required else f"[{shown[name]}]" for name in known)
