"""``json.parse`` and ``json.query``: what they give, what they refuse, and that no path takes long."""

import time
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.context import Bench

from aura.actions import plain_json
from aura.builtin import shipped
from aura.builtin.querying import MAX_PATH, evaluate
from aura.errors import BadOutput, ParamsInvalid


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, shipped())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("null", None),
        (' {"a": [1, 2.5, true, "é"]} ', {"a": [1, 2.5, True, "é"]}),
        ('"{{7*7}}"', "{{7*7}}"),
        ("12345678901234567890123", 12345678901234567890123),
        ('{"a": 1, "a": 2}', {"a": 2}),
        ("[" * 60 + "]" * 60, None),
    ],
    ids=["null", "a mapping", "data stays data", "a large number", "a key twice: the last", "deep"],
)
async def test_parse(bench: Bench, text: str, value: Any) -> None:
    found = await bench.call("json.parse", text=text)
    assert found == value or text.startswith("[[")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        pytest.param("", ValueError, "not JSON", id="empty"),
        pytest.param("{", ValueError, "not JSON", id="cut off"),
        pytest.param("{'a': 1}", ValueError, "not JSON", id="Python"),
        pytest.param("[1,]", ValueError, "not JSON", id="a comma too much"),
        pytest.param("NaN", ValueError, "not JSON", id="NaN"),
        pytest.param("1e999", ValueError, "not JSON", id="infinite"),
        pytest.param('"\\ud800"', ValueError, "not JSON", id="half a character, written"),
        pytest.param('"\ud800"', ValueError, "not JSON", id="half a character"),
        pytest.param("1" * 5000, ValueError, "not JSON", id="a very large number"),
        pytest.param("[" * 100_000, ValueError, "deeper than 64", id="far too deep"),
        pytest.param("[" * 100 + "]" * 100, BadOutput, "deeper than 64", id="too deep"),
        pytest.param("\ufeff1", ValueError, "not JSON", id="a byte order mark"),
        pytest.param(None, ParamsInvalid, "text", id="null"),
        pytest.param({"a": 1}, ParamsInvalid, "text", id="a mapping"),
    ],
)
async def test_parse_says_what_is_wrong(bench: Bench, text: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        await bench.call("json.parse", text=text)


DATA = {
    "hosts": [{"name": "a", "up": True, "load": 3}, {"name": "b", "up": False, "load": 1}, {"name": "c", "up": True}],
    "by name": {"x": {"n": 1}, "y": {"n": 2}},
    "text": "t",
    "none": None,
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("text", "t"),
        ("hosts[0].name", "a"),
        ("hosts[-1].name", "c"),
        ("hosts[*].name", ["a", "b", "c"]),
        ("hosts[?up].name", ["a", "c"]),
        ("hosts[?load > `1`].name | [0]", "a"),
        ('"by name".*.n', [1, 2]),
        ("{names: hosts[].name, one: text}", {"names": ["a", "b", "c"], "one": "t"}),
        ("length(hosts)", 3),
        ("sort_by(hosts[?load], &load)[0].name", "b"),
        ("join(', ', hosts[].name)", "a, b, c"),
        ("hosts[::-1].name", ["c", "b", "a"]),
        ("contains(hosts[].name, 'b')", True),
        ("nothing.at.all", None),
        ("hosts[9]", None),
        ("none.x", None),
        ("text.x", None),
        ("@.text", "t"),
    ],
)
async def test_query(bench: Bench, path: str, found: Any) -> None:
    assert await bench.call("json.query", data=DATA, path=path) == found


@pytest.mark.parametrize(
    ("path", "message"),
    [
        pytest.param("", "[Ee]mpty", id="empty"),
        pytest.param("a.", "a\\.", id="cut off"),
        pytest.param("hosts[", "hosts", id="an open bracket"),
        pytest.param("$.hosts", "\\$", id="JSONPath"),
        pytest.param("hosts[?name = 'a']", "=", id="one equals sign"),
        pytest.param("nope(@)", "Unknown function", id="an unknown function"),
        pytest.param("length()", "length", id="no argument"),
        pytest.param("length(`1`)", "length", id="a number's length"),
        pytest.param("sum(hosts)", "sum", id="a sum of mappings"),
        pytest.param("sort(hosts[].[name, load][])", "sort", id="sorting what cannot be compared"),
        pytest.param("hosts[::0]", "zero", id="a step of nothing"),
        pytest.param("a" * (MAX_PATH + 1), f"at most {MAX_PATH}", id="far too long"),
        pytest.param("(" * 2000 + "a" + ")" * 2000, "nests too deeply", id="nested"),
        pytest.param("`1", "`", id="a literal without an end"),
    ],
)
async def test_query_says_what_is_wrong(bench: Bench, path: str, message: str) -> None:
    with anyio.fail_after(10), pytest.raises(ValueError, match=message) as caught:
        await bench.call("json.query", data=DATA, path=path)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("params", [{"data": 1}, {"path": "a"}, {"data": 1, "path": None}, {"data": 1, "path": ["a"]}])
async def test_query_needs_both(bench: Bench, params: dict[str, Any]) -> None:
    with pytest.raises(ParamsInvalid, match=r"json\.query"):
        await bench.call("json.query", **params)


def again(part: str, times: int) -> str:
    return " | ".join([part] * times)


LONG = {"n": list(range(20_000)), "t": "x" * 300_000}


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(again("[@, @]", 300), id="doubled, and shared"),
        pytest.param(again("[@, @][]", 60), id="doubled, and flat"),
        pytest.param(again("{a: @, b: @}", 60) + " | to_string(@)", id="doubled, then text"),
        pytest.param(again("[@, @]", 40) + " | [@, @] | [0] == [1]", id="doubled, then compared"),
        pytest.param(again("[to_string(@), to_string(@)]", 40), id="escaped again and again"),
        pytest.param(again("join('', [@, @])", 40).replace("@", "to_string(@)"), id="joined again and again"),
        pytest.param("join(t, n[].to_string(@))", id="a long separator"),
        pytest.param("[n, n] | " + again("[@, @] | [*][*]", 60), id="loops in loops"),
        pytest.param("n" + " | [*]" * 150, id="long"),
        pytest.param("[t, t, t, t]", id="too much to give"),
    ],
)
def test_query_that_is_too_much_ends_soon(path: str) -> None:
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"too much work|more than a step can"):
        evaluate(LONG, path)
    assert time.monotonic() - began < 20  # a second or two on a machine that has nothing else to do


def test_flat_list_is_counted_before_it_is_made() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="too much work"):
            evaluate(LONG, f"[{','.join(['n'] * 1000)}][]")
        assert tracemalloc.get_traced_memory()[1] < 20_000_000  # as it would be made: 160 MB
    finally:
        tracemalloc.stop()


def test_message_does_not_repeat_large_data() -> None:
    with pytest.raises(ValueError, match="abs") as caught:
        evaluate(LONG, "abs(t)")
    assert len(str(caught.value)) < 500


def test_large_data_in_one_look_is_not_too_much() -> None:
    data = [{"name": f"host-{n}", "tags": ["a", "b"], "load": n} for n in range(10_000)]
    path = "length([?load > `100` && contains(name, '7') && tags[0] == 'a'])"
    assert evaluate(data, path) == sum("7" in str(n) for n in range(101, 10_000))


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=3),
                    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.sampled_from("abc"), x, max_size=3),
                    max_leaves=8)  # fmt: skip
PIECES = ["a", "b", ".", "[0]", "[*]", "[]", "[?a]", "@", "|", "&", "`1`", "'x'", "(", ")", ",", "==", "<", "!", "*"]
PIECES += ["length(@)", "sort(", "sort_by(@, &a)", "max(", "[::0]", "[::2]", "{a: b}", "to_number(", "sum(@)"]


@given(data=JSON, pieces=st.lists(st.sampled_from(PIECES), max_size=8))
def test_any_path_gives_a_value_or_says_what_is_wrong(data: Any, pieces: list[str]) -> None:
    with suppress(ValueError, BadOutput):  # an expression such as `&a` is a value, and no JSON
        msgspec.json.encode(plain_json(evaluate(data, "".join(pieces))))
