"""What an approval asks for, once its expressions are known, and whether an answer fits it."""

from typing import Any

import pytest

from aura.errors import ParamsInvalid, RequestError
from aura.loading.approvals import MAX_INPUTS, MAX_MESSAGE, check_message, check_values, schema_of, secrets_of_answer


def test_specifications_become_one_schema() -> None:
    asked = {"ok": "boolean", "why": {"type": "string", "max_length": 5, "default": None}}
    assert schema_of(asked) == {
        "type": "object",
        "properties": {
            "ok": {"type": "boolean"},
            "why": {"type": ["string", "null"], "maxLength": 5, "default": None},
        },
        "required": ["ok"],
        "additionalProperties": False,
    }


def test_data_that_looks_like_an_expression_is_text() -> None:
    assert check_values(schema_of({"a": {"type": "string", "default": "{{ 1 }}"}}), {}) == {"a": "{{ 1 }}"}


WRONG: dict[str, tuple[Any, str]] = {
    "name": ({"A": "string"}, "inputs.A: 'A' cannot name an input"),
    "type": ({"a": "text"}, "inputs.a.type: an input needs a type"),
    "no type": ({"a": {}}, "inputs.a: an input needs a type"),
    "list": ({"a": ["string"]}, "inputs.a: an input is a mapping"),
    "number": ({"a": 3}, "inputs.a: an input is a mapping"),
    "key": ({"a": {"type": "string", "patern": "x"}}, "inputs.a.patern: an input has no key 'patern'"),
    "pattern": ({"a": {"type": "string", "pattern": "("}}, "inputs.a.pattern: "),
    "bounds": ({"a": {"type": "integer", "minimum": 3, "maximum": 2}}, "inputs.a.minimum: "),
    "default": ({"a": {"type": "integer", "default": "x"}}, "inputs.a.default: "),
    "default of a secret": ({"a": {"type": "string", "secret": True, "default": "x"}}, "inputs.a.default: "),
    "inner": ({"a": {"type": "array", "items": {"type": "x"}}}, "inputs.a.items.type: "),
    "too many": ({f"a{number}": "string" for number in range(MAX_INPUTS + 1)}, "at most 100"),
    "too large": ({"a": {"type": "string", "description": "x" * 70_000}}, "bytes, and may take 65536"),
}


@pytest.mark.parametrize("name", WRONG)
def test_specifications_that_are_none(name: str) -> None:
    asked, part = WRONG[name]
    with pytest.raises(ParamsInvalid) as caught:
        schema_of(asked)
    assert part in str(caught.value)
    assert str(caught.value).startswith("approval.wait: inputs")


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ParamsInvalid) as caught:
        schema_of({"a": "x", "b": "y"})
    assert [part.split(":")[1].strip() for part in str(caught.value).split("; ") if "inputs" in part][:1] == [
        "inputs.a.type"
    ]
    assert "inputs.b.type" in str(caught.value)


@pytest.mark.parametrize("message", ["", " \n", "x" * (MAX_MESSAGE + 1)], ids=["empty", "blank", "long"])
def test_message_that_is_none(message: str) -> None:
    with pytest.raises(ParamsInvalid, match=r"^approval[.]wait: message: "):
        check_message(message)


def test_message_of_the_longest_is_one() -> None:
    assert check_message("x" * MAX_MESSAGE) == "x" * MAX_MESSAGE


SCHEMA = schema_of(
    {
        "version": {"type": "string", "pattern": "^v"},
        "times": {"type": "integer", "minimum": 1, "default": 2},
        "pin": {"type": "string", "secret": True, "min_length": 4, "default": None},
    }
)


def test_values_come_in_their_order_with_defaults() -> None:
    values = check_values(SCHEMA, {"times": 3.0, "version": "v1"})
    assert list(values.items()) == [("version", "v1"), ("times", 3), ("pin", None)]


def test_nothing_is_asked_for() -> None:
    assert check_values(schema_of({}), {}) == check_values({}, {}) == {}


BAD_VALUES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "missing": ({}, ["/values/version"]),
    "unknown": ({"version": "v1", "x/y": 1}, ["/values/x~1y"]),
    "kind": ({"version": 1}, ["/values/version"]),
    "null": ({"version": None}, ["/values/version"]),
    "pattern": ({"version": "1"}, ["/values/version"]),
    "bound": ({"version": "v1", "times": 0}, ["/values/times"]),
    "true is no number": ({"version": "v1", "times": True}, ["/values/times"]),
    "short secret": ({"version": "v1", "pin": "123"}, ["/values/pin"]),
    "all at once": ({"times": 0, "pin": "1", "z": 1}, ["/values/pin", "/values/times", "/values/version", "/values/z"]),
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_values_that_do_not_fit(name: str) -> None:
    given, paths = BAD_VALUES[name]
    with pytest.raises(RequestError) as caught:
        check_values(SCHEMA, given)
    assert caught.value.code == "inputs_invalid"
    assert sorted(error.path for error in caught.value.errors) == paths


def test_message_of_a_bad_secret_says_nothing_of_it() -> None:
    with pytest.raises(RequestError) as caught:
        check_values(SCHEMA, {"version": "v1", "pin": "x9"})
    assert "x9" not in str(caught.value.errors) + caught.value.detail
    assert "has 2" not in str(caught.value.errors)


def test_secrets_are_known_by_their_pointers() -> None:
    inner = {"type": "object", "properties": {"k": {"type": "array", "items": {"type": "string", "secret": True}}}}
    assert secrets_of_answer(schema_of({"a": "string", "login": inner})) == ["/values/login/k/*"]
    assert secrets_of_answer(SCHEMA) == ["/values/pin"]
    assert secrets_of_answer(None) == []
