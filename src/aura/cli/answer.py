"""``aura answer``: a yes or a no to a step that waits for it."""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from aura import api
from aura.cli.cids import find_cid
from aura.cli.completing import complete_asked, complete_waiting
from aura.cli.inputs import pairs
from aura.cli.options import json_option, open_client, server_options
from aura.cli.output import one_line, print_json, say, step_text
from aura.cli.values import text_of, value_of

if TYPE_CHECKING:
    from aura.client import Client

_STEP = re.compile(r"(?P<step>[^\[\]]+)(\[(?P<index>\d+)\])?")


def _read_step(_: click.Context, parameter: click.Parameter, text: str) -> tuple[str, int | None]:
    found = _STEP.fullmatch(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is not STEP or STEP[INDEX]", param=parameter)
    return found["step"], None if found["index"] is None else int(found["index"])


@click.command
@click.argument("cid", shell_complete=complete_waiting)
@click.argument("step", metavar="STEP[[INDEX]]", callback=_read_step, shell_complete=complete_asked)
@click.option("-p", "given", metavar="K=V", multiple=True, callback=pairs, help="A value; may be repeated.")
@click.option("--index", type=click.IntRange(0), help="Of a step that loops: the item, counted from 0.")
@click.option("--no", is_flag=True, help="Say no; without it the answer is yes.")
@server_options
@json_option
def answer(
    cid: str, step: tuple[str, int | None], given: list[tuple[str, str]], index: int | None, no: bool, as_json: bool
) -> None:
    """Answer a step that waits for it: yes, with the values that it asks for, or no. CID may be shortened, or @last.

    A value is JSON if it parses, else text; where text is asked for it is always that. K=@FILE reads a file.
    """
    name, of_step = step
    if index is not None and of_step not in (None, index):
        raise click.UsageError(f"--index {index} is not {name}[{of_step}]; say one of them")
    if no and given:
        raise click.UsageError("-p goes with a yes; leave it or --no out")
    index = of_step if index is None else index
    with open_client() as client:
        found = find_cid(client, cid)
        values = _values(asked_of(client, found, name, index), given) if given else {}
        told = client.answer(found, name, not no, values, index=index)
    if as_json:
        print_json(told)
    else:
        say(f"{told.cid} has its {'no' if no else 'yes'} and is {one_line(told.state)}")


def asked_of(client: "Client", cid: str, step: str, index: int | None) -> Mapping[str, Any]:
    """What a step asks for, by name, each as a JSON Schema; nothing if it waits for no answer."""
    waiting = client.get_run(cid).waiting_for
    for wait in waiting.waits if waiting else ():
        if wait.kind == "approval" and (wait.step, wait.index) == (step, index):
            properties: Mapping[str, Any] = (wait.inputs or {}).get("properties", {})
            return properties
    return {}


def _values(asked: Mapping[str, Any], given: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The values as they were given: where text is asked for, and none is there, it is what was typed."""
    values = {}
    for name, text in given:
        value = value_of(text)
        kinds = asked.get(name, {}).get("type")
        if not isinstance(value, str | None) and "string" in (kinds if isinstance(kinds, list) else [kinds]):
            value = text_of(text)
        values[name] = value
    return values


def command_for(cid: str, wait: api.Wait) -> str:
    """The command that says yes to a step, with a place for each value that must be given."""
    needed = "".join(f" -p {name}=…" for name in (wait.inputs or {}).get("required", ()))
    return f"aura answer {cid} {step_word(wait)}{needed}"


def step_word(wait: api.Wait) -> str:
    """The step that waits as a word of a command line."""
    return shlex.quote(step_text(wait))
