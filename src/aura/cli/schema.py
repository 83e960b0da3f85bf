"""``aura schema``: the JSON Schema of plan files, for editors."""

from typing import Any

import click

from aura.cli.options import json_option
from aura.cli.output import print_json

KINDS = ("task", "plan", "schedule", "interrupts")


@click.command
@click.argument("kind", metavar=f"[{'|'.join(KINDS)}]", default="task", type=click.Choice(KINDS))
@json_option
def schema(kind: str, as_json: bool) -> None:  # noqa: ARG001 - it is JSON in any case
    """Print the JSON Schema of plan files, for editors."""
    print_json(schema_of(kind))


def schema_of(kind: str) -> dict[str, Any]:
    """The schema of one of ``KINDS``."""
    from aura.loading.fileschema import plan_schema, task_schema
    from aura.loading.triggerschema import interrupts_schema, schedule_schema

    made = {"task": task_schema, "plan": plan_schema, "schedule": schedule_schema, "interrupts": interrupts_schema}
    return made[kind]()
