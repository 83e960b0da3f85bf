"""What doors show of inputs of which some are secret."""

from typing import Any

import pytest

from aura.masking import masked


@pytest.mark.parametrize(
    ("inputs", "pointer", "shown"),
    [
        pytest.param({"a": "x", "b": 1}, "/a", {"a": "***", "b": 1}, id="text"),
        pytest.param({"a": {"b": "x", "c": 1}}, "/a", {"a": "***"}, id="whole-mapping"),
        pytest.param({"a": {"b": "x", "c": 1}}, "/a/b", {"a": {"b": "***", "c": 1}}, id="member"),
        pytest.param({"a": ["x", "y"]}, "/a/*", {"a": ["***", "***"]}, id="elements"),
        pytest.param({"a": []}, "/a/*", {"a": []}, id="no-element"),
        pytest.param({"a": [{"b": "x", "c": 1}]}, "/a/*/b", {"a": [{"b": "***", "c": 1}]}, id="member-of-elements"),
        pytest.param({"a": {"*": "x", "c": 1}}, "/a/*", {"a": {"*": "***", "c": 1}}, id="member-called-star"),
        pytest.param({"a/b~": "x"}, "/a~1b~0", {"a/b~": "***"}, id="escaped"),
        pytest.param({"a": None}, "/a", {"a": None}, id="null"),
        pytest.param({"a": 1}, "/b", {"a": 1}, id="not-given"),
        pytest.param({"a": 1}, "/a/b", {"a": 1}, id="of-another-shape"),
        pytest.param({"a": False}, "/a", {"a": "***"}, id="false"),
    ],
)
def test_secret_is_hidden_and_nothing_else(inputs: dict[str, Any], pointer: str, shown: dict[str, Any]) -> None:
    assert masked(inputs, [pointer]) == shown


def test_inputs_themselves_stay_as_they_are() -> None:
    inputs = {"a": {"b": ["x"]}}
    assert masked(inputs, ["/a/b/*"]) == {"a": {"b": ["***"]}}
    assert inputs == {"a": {"b": ["x"]}}
