"""``aura schema``: the JSON Schema of plan files, for editors."""

import click

from aura.cli.options import json_option
from aura.cli.output import print_json


@click.command
@click.argument("kind", metavar="[task|plan]", default="task", type=click.Choice(["task", "plan"]))
@json_option
def schema(kind: str, as_json: bool) -> None:  # noqa: ARG001 - it is JSON in any case
    """Print the JSON Schema of plan files, for editors."""
    from aura.fileschema import plan_schema, task_schema

    print_json(task_schema() if kind == "task" else plan_schema())
