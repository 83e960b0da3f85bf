"""``aura run``: start a task, follow it, print its result."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aura.cli.options import open_client, server_options
from aura.cli.output import print_json
from aura.cli.system import duration_of
from aura.errors import ExitCode

if TYPE_CHECKING:
    from aura.client import Client


def _pair(_: click.Context, parameter: click.Parameter, values: Sequence[str]) -> list[tuple[str, str]]:
    """``k=v``, once or more often."""
    pairs = [value.partition("=") for value in values]
    for name, equals, _value in pairs:
        if not name or not equals:
            raise click.BadParameter(f"{name!r} is not of the form key=value", param=parameter)
    return [(name, value) for name, _equals, value in pairs]


def _task_name(_: click.Context, parameter: click.Parameter, value: str) -> tuple[str, str]:
    plan_name, _slash, task_name = value.partition("/")
    if not plan_name or not task_name:
        raise click.BadParameter(f"{value!r} is not PLAN/TASK; `aura tasks` lists them", param=parameter)
    return plan_name, task_name


@click.command
@click.argument("task", metavar="PLAN/TASK", callback=_task_name)
@click.option("-i", "given", metavar="K=V", multiple=True, callback=_pair, help="An input, read by its type.")
@click.option("--inputs", "file", metavar="FILE|-", help="Inputs as a JSON object in a file, or on stdin.")
@click.option("--priority", type=click.IntRange(-1000, 1000), help="-1000 to 1000, higher first.  [the task's]")
@click.option("--lane", help="The lane to wait in.  [the task's]")
@click.option("--delay", metavar="DURATION", help="Start it after so long at the earliest, such as 5m.")
@click.option("--label", "labels", metavar="K=V", multiple=True, callback=_pair, help="A label; may be repeated.")
@click.option("--detach", is_flag=True, help="Print the run's id and do not follow it.")
@server_options
def run(
    task: tuple[str, str],
    given: list[tuple[str, str]],
    file: str | None,
    priority: int | None,
    lane: str | None,
    delay: str | None,
    labels: list[tuple[str, str]],
    detach: bool,
) -> int:
    """Run a task: its steps and log on stderr, its result as JSON on stdout.

    Ctrl-C cancels the run and waits for its clean-up; a second one leaves at once. Exit 1 if it does not succeed.
    """
    from aura.client import request_of

    delay_s = None if delay is None else duration_of("--delay", delay)
    with open_client() as client:
        inputs = _inputs(client, task, file, given)
        plan_name, task_name = task
        request = request_of(
            plan_name, task_name, inputs, priority=priority, lane=lane, delay_s=delay_s, labels=dict(labels)
        )
        accepted = client.run_task(request)
        if detach:
            click.echo(accepted["cid"])
            return ExitCode.OK
        return _follow(client, str(accepted["cid"]))


def _follow(client: "Client", cid: str) -> int:
    from aura.cli.follow import Follower, open_view, show_outcome

    with open_view() as view:
        follower = Follower(client, cid, view)
        view.print(f"run {cid}")
        final = follower.follow()
    if final["state"] != "succeeded":
        show_outcome(final)
    else:
        print_json(final.get("result"))
    if follower.interrupted:
        return ExitCode.INTERRUPTED
    return ExitCode.OK if final["state"] == "succeeded" else ExitCode.FAILED


def _inputs(client: "Client", task: tuple[str, str], file: str | None, given: list[tuple[str, str]]) -> dict[str, Any]:
    inputs = _read_file(file) if file else {}
    if given:
        schema = client.task(*task)["inputs"]
        for name, text in given:
            inputs[name] = read_input(name, text, schema.get("properties", {}).get(name, {}))
    return inputs


def _read_file(file: str) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        inputs = json.loads(text)
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"{file}: {error}", param_hint="--inputs") from None
    if not isinstance(inputs, dict):
        raise click.BadParameter(f"{file}: not a JSON object", param_hint="--inputs")
    return inputs


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}[text]


#: JSON Schema type → (how a text becomes one, what to say if it does not).
_READERS: Mapping[str, tuple[Callable[[str], Any], str]] = {
    "string": (str, "text"),
    "integer": (int, "a whole number"),
    "number": (float, "a number"),
    "boolean": (_boolean, "true or false"),
    "array": (json.loads, "a JSON array"),
    "object": (json.loads, "a JSON object"),
}


def read_input(name: str, text: str, schema: Mapping[str, Any]) -> Any:
    """Read the text of ``-i name=text`` by the input's schema; without a type it is JSON if it parses, else text.

    Raises:
        click.BadParameter: it is not of that type.
    """
    kind = schema.get("type")
    if not isinstance(kind, str) or kind not in _READERS:
        return _json_or_text(text)
    read, what = _READERS[kind]
    try:
        return read(text)
    except (ValueError, KeyError):
        raise click.BadParameter(f"{name}={text}: not {what}", param_hint="-i") from None


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
