"""Values made up from schemas: each fits its schema, and where none can be made it is said."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aura.actions import Action
from aura.builtin import shipped
from aura.loading.inputs import Check
from aura.task import Input, Source, Task
from aura.testing.sweeping.examples import NoExample, example, example_inputs


def errors_of(schema: Mapping[str, Any], value: Any) -> list[Any]:
    check = Check()
    check.value("/inputs/x", schema, value)
    return check.errors


BOUNDS = st.integers(-50, 50)
SIZES = st.integers(0, 50)
PATTERNS = [r"^\d{4}-\d{2}-\d{2}$", "^[a-z][a-z0-9_]*$", "^(on|off)$", "a+b?c", "^$", r"^/[^/\s]+$", "^.{3}$", "x|y"]
LEAVES: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.builds(lambda low, size: {"type": "integer", "minimum": low, "maximum": low + size}, BOUNDS, SIZES),
    st.builds(lambda low, size: {"type": "number", "minimum": low / 4, "maximum": low / 4 + size}, BOUNDS, SIZES),
    st.builds(lambda high: {"type": "number", "maximum": high}, BOUNDS),
    st.builds(lambda low, size: {"type": "string", "minLength": low, "maxLength": low + size}, SIZES, SIZES),
    st.builds(lambda pattern: {"type": "string", "pattern": pattern}, st.sampled_from(PATTERNS)),
    st.just({"type": "boolean"}),
    st.just({}),
    st.just({"type": "integer", "enum": [7, 8]}),
    st.just({"type": "string", "default": "given"}),
)


def nested(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    few = st.integers(0, 3)
    array = st.builds(lambda items, least: {"type": "array", "items": items, "minItems": least}, inner, few)
    members = st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    mapping = st.builds(lambda members: {"type": "object", "properties": members, "required": list(members)}, members)
    return st.one_of(array, mapping)


@settings(max_examples=200)
@given(st.recursive(LEAVES, nested, max_leaves=6))
def test_what_is_made_fits_its_schema(schema: dict[str, Any]) -> None:
    assert errors_of(schema, example(schema)) == []


@pytest.mark.parametrize(
    ("schema", "made"),
    [
        pytest.param({"type": "string", "default": "d", "enum": ["e", "d"]}, "d", id="default-first"),
        pytest.param({"type": "string", "enum": ["e", "d"]}, "e", id="then-enum"),
        pytest.param({"type": "integer", "minimum": 3}, 3, id="minimum"),
        pytest.param({"type": "integer", "maximum": -3}, -3, id="maximum"),
        pytest.param({"type": "integer", "minimum": -3}, 0, id="nought"),
        pytest.param({"type": "integer", "exclusiveMinimum": 0}, 1, id="above"),
        pytest.param({"type": "string", "minLength": 2}, "xx", id="length"),
        pytest.param({"type": "string", "pattern": r"^\d{4}-\d{2}$"}, "0000-00", id="pattern"),
        pytest.param({"type": "string", "pattern": "^a*$", "minLength": 3}, "aaa", id="pattern-and-length"),
        pytest.param({"type": "string", "pattern": "^a", "minLength": 3}, "axx", id="pattern-that-is-open"),
        pytest.param({"type": "array", "items": {"type": "integer"}}, [], id="array"),
        pytest.param({"type": "array", "items": {"type": "integer"}, "minItems": 1}, [0], id="array-of-one"),
        pytest.param({"anyOf": [{"type": "string"}, {"type": "null"}]}, None, id="null-if-it-may-be"),
    ],
)
def test_simplest_value_is_made(schema: dict[str, Any], made: Any) -> None:
    assert example(schema) == made


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        pytest.param({"type": "string", "pattern": "(?i:a)", "maxLength": 0}, "matches the pattern (?i:a)", id="none"),
        pytest.param({"type": "string", "minLength": 20_000}, "20,000 characters at least", id="too-long"),
        pytest.param({"type": "array", "minItems": 2, "maxItems": 1}, "2 elements at least and 1 at", id="no-size"),
        pytest.param({"type": "integer", "minimum": 3, "maximum": 2}, "at least 3 and at most 2", id="no-number"),
        pytest.param({"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/A"}}, "it nests in itself", id="ref"),
    ],
)
def test_what_cannot_be_made_says_why(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(NoExample) as raised:
        example(schema)
    assert said in str(raised.value)


def task_of(**schemas: dict[str, Any]) -> Task:
    inputs = {name: Input(name, schema, "default" in schema, schema.get("default")) for name, schema in schemas.items()}
    return Task("t", "lab", Source("lab/tasks/t.yaml", 1, 1), {}, inputs=inputs)


def test_inputs_are_those_that_are_required() -> None:
    task = task_of(a={"type": "integer", "minimum": 2}, b={"type": "string", "default": "x"})
    assert example_inputs(task) == {"a": 2}


def test_input_of_which_none_can_be_made_is_named() -> None:
    with pytest.raises(NoExample, match=r"^input a: no text was found that matches the pattern a"):
        example_inputs(task_of(a={"type": "string", "pattern": "a{3}", "maxLength": 2}))


@pytest.mark.parametrize("action", shipped().values(), ids=shipped())
def test_result_of_a_shipped_action_can_be_made(action: Action) -> None:
    action.check_result(example(action.result_schema()))


class Leaf(msgspec.Struct):
    size: int
    inner: "Leaf | None" = None


@dataclass
class Found:
    leaf: Leaf
    when: Annotated[datetime, msgspec.Meta(tz=True)]
    kind: Literal["a", "b"]
    pair: tuple[int, str]
    more: dict[str, int]


def test_result_with_types_of_its_own_can_be_made() -> None:
    found = example(msgspec.json.schema(Found))
    assert msgspec.convert(found, Found).kind == "a"
