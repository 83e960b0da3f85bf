"""The check of what was given as a task's inputs, for admission and for the start of a queued run.

It knows exactly the part of JSON Schema that a specification can say (see ``inputspec``). Nothing is coerced, but for a
number such as 7.0, which is the integer 7. What is wrong with a secret is said by its path and the rule: never with the
value, its kind, its length or a key in it.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from aura.errors import FieldError, RequestError
from aura.patterns import compile_pattern
from aura.sandbox import near
from aura.task import Task

#: The most bad fields that one answer names.
MAX_ERRORS = 100
#: How deep a value about which the specification says nothing may nest.
MAX_DEPTH = 64

Schema = Mapping[str, Any]


def check_inputs(task: Task, given: Mapping[str, Any]) -> dict[str, Any]:
    """Check what was given for a task, and give all its inputs, in their order, with the defaults filled in.

    Raises:
        RequestError: ``inputs_invalid``, with every bad field at once; paths begin with ``/inputs``.
    """
    if not (task.inputs or given):
        return {}
    check = Check()
    schema = task.inputs_schema
    checked: dict[str, Any] = check.members("/inputs", schema, given)
    if check.errors:
        names = ", ".join(dict.fromkeys(error.path.removeprefix("/inputs/") for error in check.errors))
        raise RequestError(
            "inputs_invalid",
            f"the inputs of {task.plan_name}/{task.name} are not valid: {names}",
            errors=check.errors,
        )
    return checked


def secret_pointers(task: Task, inputs: Mapping[str, Any]) -> tuple[str, ...]:
    """The pointers to the secrets among the checked inputs of a task; see ``masking``."""
    if not task.has_secrets:
        return ()
    return tuple(
        pointer for given in task.inputs.values() if inputs[given.name] is not None for pointer in given.secrets
    )


class Check:
    """One check of a value against a schema; ``errors`` are all that were found, 100 at most."""

    def __init__(self) -> None:
        self.errors: list[FieldError] = []
        self._in_secret = False

    def error(self, path: str, message: str) -> None:
        if len(self.errors) < MAX_ERRORS:
            self.errors.append(FieldError(path, message))

    def value(self, path: str, schema: Schema, value: Any) -> Any:
        """Give the value as a run gets it: defaults filled in, 7.0 as the integer 7."""
        if self._in_secret or not schema.get("writeOnly"):
            return self._value(path, schema, value)
        self._in_secret = True
        checked = self._value(path, schema, value)
        self._in_secret = False
        return checked

    def _value(self, path: str, schema: Schema, value: Any) -> Any:
        kinds = schema.get("type", [])
        kind = kinds if isinstance(kinds, str) else kinds[0] if kinds else None
        if value is None and isinstance(kinds, list):
            return None
        if kind is None:
            return self._free(path, value)
        if isinstance(value, float) and kind == "integer" and value.is_integer():
            value = int(value)
        if not _IS[kind](value):
            self.error(path, f"{kind} is needed{self._unless_secret(f', not {_json_kind(value)}')}")
            return value
        checked = self._by_kind(path, schema, value)
        if "enum" in schema and not any(_same(checked, allowed) for allowed in schema["enum"]):
            self.error(path, f"must be one of {', '.join(map(_shown, schema['enum']))}")
        return checked

    def _unless_secret(self, detail: str) -> str:
        return "" if self._in_secret else detail

    def _by_kind(self, path: str, schema: Schema, value: Any) -> Any:
        match value:
            case str():
                return self._text(path, schema, value)
            case list():
                return self._array(path, schema, value)
            case dict() if "properties" in schema:
                return self.members(path, schema, value)
            case dict():
                return self._free(path, value)
            case bool():
                return value
        return self._number(path, schema, value)

    def _text(self, path: str, schema: Schema, value: str) -> str:
        self._length(path, value, "characters", schema.get("minLength"), schema.get("maxLength"))
        if "\0" in value:
            self.error(path, "must not have a NUL character in it")
        if "pattern" in schema:
            self._pattern(path, schema["pattern"], value)
        return value

    def _pattern(self, path: str, pattern: str, value: str) -> None:
        try:
            if not compile_pattern(pattern).search(value):
                self.error(path, f"must match the pattern {pattern}")
        except ValueError as error:
            self.error(path, f"is too long for the pattern {pattern}" if self._in_secret else str(error))

    def _array(self, path: str, schema: Schema, value: list[Any]) -> list[Any]:
        self._length(path, value, "elements", schema.get("minItems"), schema.get("maxItems"))
        items = schema.get("items", {})
        return [self.value(f"{path}/{index}", items, item) for index, item in enumerate(value)]

    def _length(self, path: str, value: str | list[Any], what: str, minimum: int | None, maximum: int | None) -> None:
        if minimum is not None and len(value) < minimum:
            self.error(path, f"must have at least {minimum} {what}{self._unless_secret(f', has {len(value)}')}")
        if maximum is not None and len(value) > maximum:
            self.error(path, f"must have at most {maximum} {what}{self._unless_secret(f', has {len(value)}')}")

    def _number(self, path: str, schema: Schema, value: int | float) -> int | float:
        minimum, maximum = schema.get("minimum"), schema.get("maximum")
        if not math.isfinite(value) if isinstance(value, float) else not -(2**63) <= value < 2**64:
            self.error(path, "the number is too large")
        if minimum is not None and value < minimum:
            self.error(path, f"must be at least {minimum}")
        if maximum is not None and value > maximum:
            self.error(path, f"must be at most {maximum}")
        return value

    def members(self, path: str, schema: Schema, given: Mapping[str, Any]) -> dict[str, Any]:
        """Check a mapping whose keys are known; give it in the schema's order, with defaults."""
        checked = {}
        properties = schema["properties"]
        self._unknown(path, properties, given)
        for name, inner in properties.items():
            if name in given:
                checked[name] = self.value(f"{path}/{_pointer(name)}", inner, given[name])
            elif "default" in inner:
                checked[name] = inner["default"]
            else:
                self.error(f"{path}/{_pointer(name)}", "is required")
        return checked

    def _unknown(self, path: str, properties: Schema, given: Mapping[str, Any]) -> None:
        unknown = [name for name in given if name not in properties]
        if unknown and self._in_secret:
            self.error(path, "has a member that is not known")
            return
        for name in unknown:
            self.error(f"{path}/{_pointer(name)}", f"there is no such input{near(str(name), properties)}")

    def _free(self, path: str, value: Any, depth: int = 1) -> Any:
        """Check a value about which the schema says nothing: it is plain data all the same."""
        match value:
            case dict() | list() if depth > MAX_DEPTH:
                self.error(path, f"nests deeper than {MAX_DEPTH} levels")
            case dict():
                return {key: self._free(self._below(path, key), item, depth + 1) for key, item in value.items()}
            case list():
                return [self._free(self._below(path, index), item, depth + 1) for index, item in enumerate(value)]
            case str():
                return self._text(path, {}, value)
            case None | bool():
                return value
            case int() | float():
                return self._number(path, {}, value)
            case _:
                self.error(path, "is no plain data")
        return value

    def _below(self, path: str, key: str | int) -> str:
        return path if self._in_secret else f"{path}/{_pointer(key)}"


_IS: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}


def _json_kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, float):
        return "number" if not value.is_integer() else f"number {value:g}"
    return next((kind for kind, matches in _IS.items() if matches(value)), type(value).__name__)


def _shown(value: Any) -> str:
    return {None: "null"}.get(value, repr(value)) if not isinstance(value, list | dict) else str(value)


def _same(one: Any, other: Any) -> bool:
    """Equality as JSON has it: true is not 1, and 1.0 is."""
    match one, other:
        case (bool(), _) | (_, bool()):
            return one is other
        case list(), list():
            return len(one) == len(other) and all(map(_same, one, other))
        case dict(), dict():
            return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return bool(one == other)


def _pointer(name: str | int) -> str:
    return str(name).replace("~", "~0").replace("/", "~1")
