"""``aura emit``: an event, from a command line."""

import click

from aura import api
from aura.cli.inputs import pairs
from aura.cli.options import json_option, open_client, server_options
from aura.cli.output import one_line, print_json, say
from aura.cli.values import values_of


@click.command
@click.argument("event")
@click.option("-p", "given", metavar="K=V", multiple=True, callback=pairs, help="A member of its payload; repeatable.")
@server_options
@json_option
def emit(event: str, given: list[tuple[str, str]], as_json: bool) -> None:
    """Emit an event, and say which runs it has started and which rules it has fired. Without -p its payload is null.

    A value is JSON if it parses, else text. K=@FILE reads a file.
    """
    with open_client() as client:
        told = client.emit(event, values_of(given) if given else None)
    if as_json:
        print_json(told)
    else:
        say_emitted(told)


def say_emitted(told: api.EmittedEvent) -> None:
    """Say what an event has brought about."""
    say(f"event {told.event_id} is on record")
    for cid in told.started:
        say(f"it has started run {cid}")
    for fired in told.interrupts:
        say(f"it has fired {one_line(f'{fired.plan_name}/{fired.rule}')}, handled by run {fired.cid}")
