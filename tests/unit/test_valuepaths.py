"""Which paths an expression names, and what they are."""

from datetime import UTC, datetime
from typing import Any

import pytest

from aura.valuepaths import path_text, values_of

SCOPE: dict[str, Any] = {
    "inputs": {"n": 2, "x": [5, 6], "odd-key": "o", "i": 1, "none": None},
    "steps": {"a": {"output": {"n": 2, "rows": [{"id": 7}]}, "state": "succeeded"}},
    "now": lambda: datetime(2026, 11, 22, 5, tzinfo=UTC),
}


@pytest.mark.parametrize(
    ("source", "values"),
    [
        pytest.param("inputs.n > 3", {"inputs.n": 2}, id="one"),
        pytest.param("steps.a.output.n", {"steps.a.output.n": 2}, id="the-longest"),
        pytest.param("inputs.x[0] + inputs['n']", {"inputs.x[0]": 5, "inputs.n": 2}, id="brackets"),
        pytest.param("inputs['odd-key'] == 'o'", {'inputs["odd-key"]': "o"}, id="key-that-is-no-word"),
        pytest.param("steps.a.output.rows[0].id", {"steps.a.output.rows[0].id": 7}, id="key-behind-an-index"),
        pytest.param("inputs.x[inputs.i]", {"inputs.x": [5, 6], "inputs.i": 1}, id="key-that-varies"),
        pytest.param("inputs.x | length > 3", {"inputs.x": [5, 6]}, id="filter"),
        pytest.param("inputs.n if inputs.i else inputs.x", {"inputs.i": 1, "inputs.n": 2, "inputs.x": [5, 6]}, id="if"),
        pytest.param("inputs.n > 3 and inputs.n < 5", {"inputs.n": 2}, id="once"),
        pytest.param("inputs.none", {"inputs.none": None}, id="null"),
        pytest.param("inputs.nope | default(1)", {}, id="unknown"),
        pytest.param("now() | iso", {"now()": "2026-11-22T05:00:00Z"}, id="call"),
        pytest.param("[1, range(3)]", {}, id="nothing"),
        pytest.param("now", {}, id="no-data"),
    ],
)
def test_values_of_what_an_expression_names(source: str, values: dict[str, Any]) -> None:
    assert {path_text(path): value for path, value in values_of(source, SCOPE).items()} == values


def test_paths_come_in_the_order_in_which_they_are_written() -> None:
    scope = dict.fromkeys("abcd", 1)
    assert [path[0] for path in values_of("b > a or (d and c)", scope)] == ["b", "a", "d", "c"]
