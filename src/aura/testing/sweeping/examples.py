"""Values made up from schemas: the simplest one that fits, for tasks and actions that nobody has written a test for.

Made from JSON Schema as inputs (``loading.inputspec``) and results (msgspec) have it. It is not random: what is made
of a schema is always the same. A default beats an ``enum``, of which the first counts, and that beats what is made of
bounds, lengths and patterns; arrays and texts are as short as may be.
"""

import re
from collections.abc import Mapping
from math import ceil
from typing import Any

from aura.errors import RequestError
from aura.loading.inputs import check_inputs
from aura.patterns import compile_pattern
from aura.task import Task

Schema = Mapping[str, Any]
#: How long a text or an array is at most that is made.
MOST = 10_000
#: How deep a value nests at most that is made.
DEPTH = 32
_PARSER: Any = re._parser  # type: ignore[attr-defined]  # Python's own reader of patterns, which has no public door
#: By the format that msgspec says of a text.
_FORMATS = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "duration": "PT1S",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "decimal": "0",
}


class NoExample(Exception):
    """No value can be made of a schema; the message says of what and why."""


def example_inputs(task: Task) -> dict[str, Any]:
    """Make inputs that a task takes: those that it requires.

    Raises:
        NoExample: there is an input of which none can be made.
    """
    required = [given for given in task.inputs.values() if not given.has_default]
    made = {given.name: _named(given.name, given.schema) for given in required}
    try:
        check_inputs(task, made)
    except RequestError as error:
        raise NoExample(
            "; ".join(f"input {one.path.rpartition('/')[2]}: {one.message}" for one in error.errors)
        ) from None
    return made


def example(schema: Schema) -> Any:
    """Make a value that fits a schema.

    Raises:
        NoExample: none can be made.
    """
    return _make(schema, schema.get("$defs", {}), 0)


def _named(name: str, schema: Schema) -> Any:
    try:
        return example(schema)
    except NoExample as error:
        raise NoExample(f"input {name}: {error}") from None


def _make(schema: Schema, known: Schema, depth: int) -> Any:
    if depth > DEPTH:
        raise NoExample("it nests without end")
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name not in known:
            raise NoExample("it nests in itself")
        return _make(known[name], known, depth + 1)
    for key in ("default", "const"):
        if key in schema:
            return schema[key]
    if schema.get("enum"):
        return schema["enum"][0]
    if ways := schema.get("anyOf") or schema.get("oneOf"):
        return _first(ways, known, depth)
    return _of_kind(schema, known, depth)


def _first(ways: list[Schema], known: Schema, depth: int) -> Any:
    """Of several ways the first that can be gone; null if it is one, since that ends what nests."""
    if any(way.get("type") == "null" for way in ways):
        return None
    problems = []
    for way in ways:
        try:
            return _make(way, known, depth + 1)
        except NoExample as error:
            problems.append(str(error))
    raise NoExample("; ".join(problems))


def _of_kind(schema: Schema, known: Schema, depth: int) -> Any:
    kinds = schema.get("type", "null")
    match kinds if isinstance(kinds, str) else kinds[0]:
        case "string":
            return _text(schema)
        case "integer":
            return _number(schema, whole=True)
        case "number":
            return _number(schema, whole=False)
        case "boolean":
            return False
        case "array":
            return _array(schema, known, depth)
        case "object":
            return _object(schema, known, depth)
    return None


def _number(schema: Schema, *, whole: bool) -> int | float:
    step: int | float = 1 if whole else 0.5
    low, high = schema.get("minimum"), schema.get("maximum")
    if (above := schema.get("exclusiveMinimum")) is not None:
        low = above + step
    if (below := schema.get("exclusiveMaximum")) is not None:
        high = below - step
    made: int | float = 0
    if low is not None and low > 0:
        made = ceil(low) if whole else low
    elif high is not None and high < 0:
        made = int(high // 1) if whole else high
    if (low is not None and made < low) or (high is not None and made > high):
        raise NoExample(f"no {'integer' if whole else 'number'} is at least {low} and at most {high}")
    return made


def _array(schema: Schema, known: Schema, depth: int) -> list[Any]:
    least = _length(schema, "minItems", "maxItems", "elements")
    begin = [_make(one, known, depth + 1) for one in schema.get("prefixItems", [])]
    items = schema.get("items") or {}
    return begin + [_make(items, known, depth + 1) for _ in range(least - len(begin))]


def _object(schema: Schema, known: Schema, depth: int) -> dict[str, Any]:
    """All members that it knows, but for those that would nest it in itself for ever."""
    made = {}
    required = schema.get("required", [])
    for name, inner in schema.get("properties", {}).items():
        try:
            made[name] = _make(inner, known, depth + 1)
        except NoExample as error:
            if name in required:
                raise NoExample(f"{name}: {error}") from None
    return made


def _length(schema: Schema, least: str, most: str, what: str) -> int:
    low, high = schema.get(least, 0), schema.get(most)
    if low > MOST:
        raise NoExample(f"it has {low:,} {what} at least, and more than {MOST:,} are not made")
    if high is not None and low > high:
        raise NoExample(f"it has {low} {what} at least and {high} at most")
    return int(low)


# -- texts


def _text(schema: Schema) -> str:
    least = _length(schema, "minLength", "maxLength", "characters")
    if "pattern" in schema:
        return _matching(schema["pattern"], least, schema.get("maxLength"))
    return _FORMATS.get(schema.get("format", ""), "x" * least)


def _matching(pattern: str, least: int, most: int | None) -> str:
    """The simplest text that matches: as read by Python's parser, each repetition as short as may be, then longer."""
    known = compile_pattern(pattern)
    for more in (0, 1, least):
        try:
            made = _written(_PARSER.parse(pattern), more)
        except (re.error, NoExample):
            break
        for text in (made, made.ljust(least, "x")):
            if known.search(text) and len(text) >= least and (most is None or len(text) <= most):
                return text
    raise NoExample(f"no text was found that matches the pattern {pattern}; give it a default, or write a test")


def _written(parts: Any, more: int) -> str:
    return "".join(_part(str(kind), value, more) for kind, value in parts)


def _part(kind: str, value: Any, more: int) -> str:
    match kind, value:
        case "LITERAL", int():
            return chr(value)
        case "IN", [*choices]:
            return _chosen(choices)
        case "ANY", _:
            return "x"
        case (("MAX_REPEAT" | "MIN_REPEAT"), (low, high, inner)):
            return _written(inner, more) * int(min(max(low, more), high))
        case "SUBPATTERN", (*_, inner):
            return _written(inner, more)
        case "BRANCH", (_, branches):
            return _written(branches[0], more)
        case "AT", _:
            return ""
        case "NOT_LITERAL", int():
            return "x" if value != ord("x") else "y"
    raise NoExample(f"{kind.lower()} in a pattern")


#: One character of each class of characters, tried in their order.
_CHARACTERS = "a0A_ -./xX~"


def _chosen(choices: list[Any]) -> str:
    """A character of a set: the first that it names, or for one that says what is not in it, the first that fits."""
    kind, value = choices[0]
    match str(kind), value:
        case "LITERAL", int():
            return chr(value)
        case "RANGE", (low, _):
            return chr(low)
        case "CATEGORY", category:
            return {"CATEGORY_DIGIT": "0", "CATEGORY_SPACE": " "}.get(str(category), "a")
        case "NEGATE", _:
            return next((one for one in _CHARACTERS if not any(_is_in(one, choice) for choice in choices[1:])), "a")
    raise NoExample(f"{str(kind).lower()} in a pattern")


def _is_in(character: str, choice: Any) -> bool:
    kind, value = str(choice[0]), choice[1]
    code = ord(character)
    if kind == "LITERAL":
        return bool(code == value)
    if kind == "RANGE":
        return bool(value[0] <= code <= value[1])
    tests = {"CATEGORY_DIGIT": str.isdigit, "CATEGORY_SPACE": str.isspace, "CATEGORY_WORD": str.isalnum}
    return tests[str(value)](character) if str(value) in tests else True
