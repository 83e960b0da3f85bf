"""What is asked of who answers an ``approval.wait``, and whether an answer fits it.

Its ``inputs`` are written like a task's (``inputspec``). Those that are plain data are checked with the plan; the rest
when the step asks, once what stands in ``{{ … }}`` is known. Who may answer, and what an answer does, is for ``waits``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from aura.errors import ParamsInvalid, Problem, RequestError
from aura.expressions import Template
from aura.loading.fields import IDENTIFIER_RULE, Path, Reader, is_identifier
from aura.loading.inputs import Check, Schema
from aura.loading.inputspec import read_input, read_inputs, secrets_of
from aura.loading.yamlfile import Document
from aura.task import inputs_schema

#: The action that asks.
ACTION = "approval.wait"
#: The most that one may ask for, and how large it may be: the JSON of all the specifications, in bytes.
MAX_INPUTS = 100
MAX_SCHEMA = 64 * 1024
#: The longest message to who answers, in characters.
MAX_MESSAGE = 4000

_NOTHING = inputs_schema({})


class _Rendered(Reader):
    """Reads what expressions have given: it stands in no file, and what looks like an expression in it is text."""

    is_data = True

    def __init__(self, value: Any) -> None:
        super().__init__(Document(value, "", None, {}))

    def problem(self, path: Path, message: str) -> None:
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
        self.problems.append(Problem("", 0, 0, f"{ACTION}: inputs{where}: {message}"))

    def key_problem(self, path: Path, message: str) -> None:
        self.problem(path, message)


def check_message(message: str) -> str:
    """Give the message to who answers as it is.

    Raises:
        ParamsInvalid: it is empty, or too long.
    """
    if not message.strip():
        raise ParamsInvalid(f"{ACTION}: message: say what is to be approved")
    if len(message) > MAX_MESSAGE:
        raise ParamsInvalid(f"{ACTION}: message: it has {len(message)} characters, and may have {MAX_MESSAGE}")
    return message


def schema_of(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Make one JSON Schema of what is asked for; ``inputs`` are as rendered.

    Raises:
        ParamsInvalid: they are no specifications of inputs, or too many.
    """
    if len(inputs) > MAX_INPUTS:
        raise ParamsInvalid(f"{ACTION}: inputs: there are {len(inputs)}, and at most {MAX_INPUTS} can be asked for")
    reader = _Rendered(dict(inputs))
    schema = inputs_schema(read_inputs(reader, (), reader.document.value))
    if reader.problems:
        raise ParamsInvalid("; ".join(problem.message for problem in reader.problems))
    if (size := len(msgspec.json.encode(schema))) > MAX_SCHEMA:
        raise ParamsInvalid(f"{ACTION}: inputs: they take {size} bytes, and may take {MAX_SCHEMA}")
    return schema


def read_asked(reader: Reader, path: Path, inputs: Template) -> None:
    """Check the ``inputs`` in a plan file as far as they are plain data: each by itself."""
    if not isinstance(inputs.value, dict):  # one whole expression, or what ``usecheck`` refuses
        return
    for name, spec in inputs.value.items():
        at = (*path, name)
        if not is_identifier(name):
            reader.key_problem(at, f"{name!r} cannot name an input; {IDENTIFIER_RULE}")
        if Template(spec, inputs.at).constant:
            read_input(reader, at, name, spec)
    if len(inputs.value) > MAX_INPUTS:
        reader.problem(path, f"inputs: at most {MAX_INPUTS} can be asked for")


def check_values(schema: Schema, given: Mapping[str, Any]) -> dict[str, Any]:
    """Check what was answered, and give all that was asked for, in its order, with the defaults filled in.

    Raises:
        RequestError: ``inputs_invalid``, with every bad value at once; paths begin with ``/values``.
    """
    check = Check()
    values: dict[str, Any] = check.members("/values", schema or _NOTHING, given)
    if check.errors:
        names = ", ".join(dict.fromkeys(error.path.removeprefix("/values/") for error in check.errors))
        raise RequestError("inputs_invalid", f"the values of the answer are not valid: {names}", errors=check.errors)
    return values


def secrets_of_answer(schema: Schema | None) -> Sequence[str]:
    """The pointers (see ``masking``) to the secrets in an answer, ``{approved, by, at, values}``."""
    asked: Mapping[str, Schema] = (schema or {}).get("properties", {})
    return [pointer for name, one in asked.items() for pointer in secrets_of(one, f"/values/{name}")]
