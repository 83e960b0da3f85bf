"""The check of what was given as a task's inputs, for admission and for the start of a queued run.

It knows exactly the part of JSON Schema that a specification can say (see ``inputspec``). Nothing is coerced, but for a
number such as 7.0, which is the integer 7.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from aura.errors import FieldError, RequestError
from aura.patterns import compile_pattern
from aura.plan import Task
from aura.sandbox import near

#: The most bad fields that one answer names.
MAX_ERRORS = 100

Schema = Mapping[str, Any]


def check_inputs(task: Task, given: Mapping[str, Any]) -> dict[str, Any]:
    """Check what was given for a task, and give all its inputs, in their order, with the defaults filled in.

    Raises:
        RequestError: ``inputs_invalid``, with every bad field at once; paths begin with ``/inputs``.
    """
    check = Check()
    schema = task.inputs_schema()
    checked: dict[str, Any] = check.members("/inputs", schema, given)
    if check.errors:
        names = ", ".join(dict.fromkeys(error.path.removeprefix("/inputs/") for error in check.errors))
        raise RequestError(
            "inputs_invalid",
            f"the inputs of {task.plan_name}/{task.name} are not valid: {names}",
            errors=check.errors,
        )
    return checked


class Check:
    """One check of a value against a schema; ``errors`` are all that were found, 100 at most."""

    def __init__(self) -> None:
        self.errors: list[FieldError] = []

    def error(self, path: str, message: str) -> None:
        if len(self.errors) < MAX_ERRORS:
            self.errors.append(FieldError(path, message))

    def value(self, path: str, schema: Schema, value: Any) -> Any:
        kinds = schema.get("type", [])
        kind = kinds if isinstance(kinds, str) else kinds[0] if kinds else None
        if value is None and isinstance(kinds, list):
            return None
        if kind is None:
            return self._free(path, value)
        if isinstance(value, float) and kind == "integer" and value.is_integer():
            value = int(value)
        if not _IS[kind](value):
            self.error(path, f"{kind} is needed, not {_json_kind(value)}")
            return value
        checked = self._by_kind(path, schema, value)
        if "enum" in schema and checked not in schema["enum"]:
            self.error(path, f"must be one of {', '.join(map(_shown, schema['enum']))}")
        return checked

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
            self.error(path, str(error))

    def _array(self, path: str, schema: Schema, value: list[Any]) -> list[Any]:
        self._length(path, value, "elements", schema.get("minItems"), schema.get("maxItems"))
        items = schema.get("items", {})
        return [self.value(f"{path}/{index}", items, item) for index, item in enumerate(value)]

    def _length(self, path: str, value: str | list[Any], what: str, minimum: int | None, maximum: int | None) -> None:
        if minimum is not None and len(value) < minimum:
            self.error(path, f"must have at least {minimum} {what}, has {len(value)}")
        if maximum is not None and len(value) > maximum:
            self.error(path, f"must have at most {maximum} {what}, has {len(value)}")

    def _number(self, path: str, schema: Schema, value: int | float) -> int | float:
        minimum, maximum = schema.get("minimum"), schema.get("maximum")
        if not math.isfinite(value) or not -(2**63) <= value < 2**64:
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
        for name in given:
            if name not in properties:
                self.error(f"{path}/{_pointer(name)}", f"there is no such input{near(name, properties)}")
        for name, inner in properties.items():
            if name in given:
                checked[name] = self.value(f"{path}/{_pointer(name)}", inner, given[name])
            elif "default" in inner:
                checked[name] = inner["default"]
            else:
                self.error(f"{path}/{_pointer(name)}", "is required")
        return checked

    def _free(self, path: str, value: Any) -> Any:
        """Check a value about which the schema says nothing: it is plain data all the same."""
        match value:
            case dict():
                return {key: self._free(f"{path}/{_pointer(key)}", item) for key, item in value.items()}
            case list():
                return [self._free(f"{path}/{index}", item) for index, item in enumerate(value)]
            case str():
                return self._text(path, {}, value)
            case bool() | None:
                return value
        return self._number(path, {}, value)


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


def _pointer(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
