"""Structs from outside data: every error at once, each with its pointer."""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
import pytest

from aura.errors import RequestError
from aura.web.validate import convert, convert_text, pointer


class Inner(msgspec.Struct):
    x: int


class Body(msgspec.Struct):
    name: str
    count: Annotated[int, msgspec.Meta(ge=0, le=10)] = 0
    ratio: float = 0.0
    labels: dict[str, str] = {}
    inner: list[Inner] = []
    mode: Literal["a", "b"] = "a"


class Query(msgspec.Struct):
    limit: Annotated[int, msgspec.Meta(ge=1)] = 5
    flag: bool = False
    label: list[str] = []
    name: str | None = None
    state: Literal["a"] | None = None
    since: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


def test_null_in_a_query_is_a_word() -> None:
    assert convert_text({"name": ["null"]}, Query).name == "null"


def errors(data: Any) -> dict[str, str]:
    with pytest.raises(RequestError) as caught:
        convert(data, Body)
    assert caught.value.code == "invalid"
    return {error.path: error.message for error in caught.value.errors}


def test_good_data_becomes_the_struct() -> None:
    assert convert({"name": "x", "count": 3, "inner": [{"x": 1}]}, Body) == Body("x", 3, inner=[Inner(1)])


def test_all_errors_come_at_once() -> None:
    found = errors(
        {"count": 11, "ratio": "1", "labels": {"a": 1}, "inner": [{"x": 1}, {"x": "y"}], "mode": "c", "nam": 1}
    )
    assert set(found) == {"/name", "/count", "/ratio", "/labels", "/inner/1/x", "/mode", "/nam"}
    assert found["/name"] == "is required"
    assert "did you mean name?" in found["/nam"]


@pytest.mark.parametrize(
    ("data", "name"), [([], "array"), (1, "number"), (True, "boolean"), (None, "null"), ("x", "text")]
)
def test_top_must_be_an_object(data: Any, name: str) -> None:
    assert name in errors(data)[""]


@pytest.mark.parametrize("value", ["1", True, 1.5, None, [], 1e300])
def test_integer_is_not_coerced(value: Any) -> None:
    assert "/count" in errors({"name": "x", "count": value})


def test_integer_may_be_written_with_a_point_but_keeps_its_bounds() -> None:
    assert convert({"name": "x", "count": 7.0}, Body).count == 7
    assert "/count" in errors({"name": "x", "count": 70.0})


def test_pointer_begins_where_it_is_told() -> None:
    with pytest.raises(RequestError) as caught:
        convert({"name": 1}, Body, "/tasks/3")
    assert caught.value.errors[0].path == "/tasks/3/name"


@pytest.mark.parametrize(("key", "wanted"), [("a", "/a"), ("a/b", "/a~1b"), ("~", "/~0"), ("", "/")])
def test_pointer_escapes(key: str, wanted: str) -> None:
    assert pointer("", key) == wanted


def test_query_text_becomes_numbers_and_lists() -> None:
    found = convert_text({"limit": ["7"], "flag": ["true"], "label": ["a", "b"], "name": ["5"]}, Query)
    assert found == Query(7, True, ["a", "b"], "5")


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"limit": ["x"]}, "/limit"),
        ({"limit": ["0"]}, "/limit"),
        ({"limit": ["1", "2"]}, "/limit"),
        ({"limt": ["1"]}, "/limt"),
        pytest.param({"state": ["null"]}, "/state", id="null-is-only-a-word"),
        pytest.param({"since": ["0.5"]}, "/since", id="a-time-is-no-number"),
        pytest.param({"since": ["2026-11-22T00:00:00"]}, "/since", id="a-time-has-a-zone"),
    ],
)
def test_bad_query_is_refused(given: dict[str, list[str]], path: str) -> None:
    with pytest.raises(RequestError) as caught:
        convert_text(given, Query)
    assert [error.path for error in caught.value.errors] == [path]
