"""The inputs of ``aura run``: from ``-i k=v``, read by the types that the task declares, and from a file or stdin."""

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from aura.errors import BadInputs, FieldError, did_you_mean

if TYPE_CHECKING:
    from aura.client import Client

Pairs = Sequence[tuple[str, str]]


def pairs(_: click.Context, parameter: click.Parameter, values: Sequence[str]) -> list[tuple[str, str]]:
    """Split what was given as ``k=v``, once or more often; the callback of an option.

    Raises:
        click.BadParameter: it is of another form.
    """
    found = [value.partition("=") for value in values]
    for name, equals, _value in found:
        if not name or not equals:
            raise click.BadParameter(f"{name!r} is not of the form key=value", param=parameter)
    return [(name, value) for name, _equals, value in found]


def read_inputs(client: "Client", task: tuple[str, str], file: str | None, given: Pairs) -> dict[str, Any]:
    """The inputs of a run of ``task``; what was given by ``-i`` beats the file.

    Raises:
        BadInputs: with each one that was given by ``-i`` and does not fit, and what else the task would not take.
        click.BadParameter: the file cannot be read.
    """
    inputs = _read_file(file) if file else {}
    if not given:
        return inputs
    schema = client.task(*task).inputs
    problems = []
    for name, text in given:
        try:
            inputs[name] = read_input(text, _properties(schema).get(name, {}))
        except ValueError as error:
            inputs[name] = None
            problems.append(_problem(name, str(error)))
    if problems:
        raise BadInputs("the inputs do not fit", [*problems, *_misplaced(schema, inputs)])
    return inputs


def read_input(text: str, schema: Mapping[str, Any]) -> Any:
    """Read the text of ``-i name=text`` by the input's schema; without a type it is JSON if it parses, else text.

    Where null may be given it is the word ``null``, but for text, which may be that word.

    Raises:
        ValueError: it is not of that type. What should be secret is not in the message.
    """
    kinds = schema.get("type")
    kind = str(kinds[0] if isinstance(kinds, list) else kinds)
    if kind not in _READERS or (text == "null" and kinds != kind and kind != "string"):
        return _json_or_text(text)
    read, what = _READERS[kind]
    try:
        return read(text)
    except (ValueError, KeyError):
        raise ValueError(f"is not {what}" if schema.get("writeOnly") else f"{text!r} is not {what}") from None


def _misplaced(schema: Mapping[str, Any], inputs: Mapping[str, Any]) -> Iterator[FieldError]:
    """What the server would find beside values of the wrong type, said now so that it all is said at once."""
    known = _properties(schema)
    for name in inputs:
        if name not in known:
            yield _problem(name, f"is not an input of the task{did_you_mean(name, known)}")
    for name in schema.get("required", []):
        if name not in inputs:
            yield _problem(name, "is required")


def _problem(name: str, message: str) -> FieldError:
    return FieldError(f"/inputs/{name}", message)


def _properties(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = schema.get("properties", {})
    return found


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


def _json_of(*kinds: type) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        value = json.loads(text, parse_constant=_no_constant)
        if type(value) not in kinds or value in (math.inf, -math.inf):
            raise ValueError(text)
        return value

    return read


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


#: JSON Schema type → (how a text becomes one, what to say if it does not).
_READERS: Mapping[str, tuple[Callable[[str], Any], str]] = {
    "string": (str, "text"),
    "integer": (_json_of(int, float), "a whole number"),
    "number": (_json_of(int, float), "a number"),
    "boolean": (_boolean, "true or false"),
    "array": (_json_of(list), "a JSON array"),
    "object": (_json_of(dict), "a JSON object"),
}
