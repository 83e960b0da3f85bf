"""``aura actions``: what steps can call, and the services that plans share."""

from collections.abc import Mapping
from typing import Any

import click

from aura import api
from aura.cli.options import json_option, open_client, server_options
from aura.cli.output import print_json, print_table


@click.command
@server_options
@json_option
def actions(as_json: bool) -> None:
    """List the actions that steps can call, and the services that those of plans share."""
    with open_client() as client:
        found = list(client.actions())
    if as_json:
        print_json({"items": found})
        return
    actions = [one for one in found if one.kind == "action"]
    rows = [(one.name, _params(one.params), one.plan_name or "aura", _first_line(one.description)) for one in actions]
    print_table(("ACTION", "PARAMETERS", "PLAN", "DESCRIPTION"), rows)
    services = [one for one in found if one.kind == "service"]
    if services:
        click.echo()
        print_table(("SERVICE", "NEEDS", "OPEN", "DESCRIPTION"), map(_service_row, services))


def _service_row(one: api.Action) -> tuple[str, str, str, str]:
    return one.name, " ".join(one.services), "yes" if one.open else "no", _first_line(one.description)


def _params(schema: Mapping[str, Any]) -> str:
    """The parameters by name; those in brackets may be left out."""
    given = _target(schema)
    required = given.get("required", [])
    return " ".join(name if name in required else f"[{name}]" for name in given.get("properties", {}))


def _target(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema itself, or what it refers to within itself."""
    target: Mapping[str, Any] = schema
    for part in schema.get("$ref", "").removeprefix("#").strip("/").split("/"):
        target = target[part] if part else target
    return target


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
