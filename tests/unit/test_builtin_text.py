"""``text.*``: what they give, what they refuse, and that no pattern and no text takes long."""

from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from tests.fakes.context import Bench

from aura.actions import MAX_OUTPUT
from aura.builtin import shipped
from aura.builtin.text import SHORT
from aura.errors import ParamsInvalid


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, shipped())


LONG = "ab " * SHORT


@pytest.mark.parametrize(
    ("text", "pattern", "more", "found"),
    [
        ("a1b22", r"\d+", {}, "1"),
        ("a1b22", r"b(\d+)", {}, "22"),
        ("abc", r"x", {}, None),
        ("ABC", r"b", {"ignore_case": True}, "B"),
        ("ab", r"(x)?b", {}, None),
        ("", r"", {}, ""),
        ("{{7*7}}", r"\{\{.*", {}, "{{7*7}}"),
        (LONG + "7", r"\d", {}, "7"),
    ],
)
async def test_search(bench: Bench, text: str, pattern: str, more: dict[str, Any], found: str | None) -> None:
    assert await bench.call("text.search", text=text, pattern=pattern, **more) == found


@pytest.mark.parametrize(
    ("text", "pattern", "replacement", "more", "made"),
    [
        ("a1b22", r"\d+", "#", {}, "a#b#"),
        ("a-b", r"(\w)-(\w)", r"\2-\1", {}, "b-a"),
        ("aXbx", "x", "", {"ignore_case": True}, "ab"),
        ("a.b.c", ".", "-", {"literal": True}, "a-b-c"),
        ("a1", r"\d", r"\1", {"literal": True}, "a1"),
        ("a\\1", r"\1", "x", {"literal": True}, "ax"),
        ("", "a", "b", {}, ""),
        ("abc", "", "-", {}, "-a-b-c-"),
        (LONG, "ab ", "", {}, ""),
    ],
)
async def test_replace(
    bench: Bench, text: str, pattern: str, replacement: str, more: dict[str, Any], made: str
) -> None:
    given = {"text": text, "pattern": pattern, "replacement": replacement, **more}
    assert await bench.call("text.replace", **given) == made


@pytest.mark.parametrize(
    ("text", "more", "parts"),
    [
        ("  a\tb \n c ", {}, ["a", "b", "c"]),
        ("", {}, []),
        ("a,b,,c", {"separator": ","}, ["a", "b", "", "c"]),
        ("", {"separator": ","}, [""]),
        ("a.b", {"separator": "."}, ["a", "b"]),
        ("a1b22c", {"pattern": r"\d+"}, ["a", "b", "c"]),
        ("a1b2c", {"pattern": r"(\d)"}, ["a", "b", "c"]),
        ("abc", {"pattern": "x*"}, ["abc"]),
        ("1a1", {"pattern": "1"}, ["", "a", ""]),
        ("a,b,c", {"separator": ",", "max": 2}, ["a", "b,c"]),
        ("a1b2c", {"pattern": r"\d", "max": 2}, ["a", "b2c"]),
        ("a b c", {"max": 2}, ["a", "b c"]),
        ("a b c", {"max": 1}, ["a b c"]),
        ("a1b", {"pattern": r"\d", "max": 1}, ["a1b"]),
        (LONG, {}, ["ab"] * SHORT),
        ("é😀é", {"pattern": "😀"}, ["é", "é"]),
    ],
)
async def test_split(bench: Bench, text: str, more: dict[str, Any], parts: list[str]) -> None:
    assert await bench.call("text.split", text=text, **more) == parts


BAD: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("text.search", {"pattern": "a"}, ParamsInvalid, "text"),
    ("text.search", {"text": None, "pattern": "a"}, ParamsInvalid, "text"),
    ("text.search", {"text": ["a"], "pattern": "a"}, ParamsInvalid, "text"),
    ("text.search", {"text": "a", "pattern": 1}, ParamsInvalid, "pattern"),
    ("text.search", {"text": "a", "pattern": "("}, ValueError, "RE2"),
    ("text.search", {"text": "a", "pattern": r"(?=a)"}, ValueError, "RE2"),
    ("text.search", {"text": "a", "pattern": r"(a)\1"}, ValueError, "RE2"),
    ("text.search", {"text": "a", "pattern": "a" * 1001}, ValueError, "at most 1000"),
    ("text.search", {"text": "a" * (MAX_OUTPUT + 1), "pattern": "b"}, ValueError, "at most"),
    ("text.search", {"text": "a", "pattern": "((a{100}){100}){100}"}, ValueError, "RE2"),
    ("text.search", {"text": "a", "pattern": "a", "flags": "i"}, ParamsInvalid, "flags"),
    ("text.replace", {"text": "a", "pattern": "a"}, ParamsInvalid, "replacement"),
    ("text.replace", {"text": 1, "pattern": "a", "replacement": ""}, ParamsInvalid, "text"),
    ("text.replace", {"text": "a", "pattern": "[", "replacement": ""}, ValueError, "RE2"),
    ("text.replace", {"text": "a", "pattern": "a", "replacement": r"\1"}, ValueError, "names a group"),
    ("text.replace", {"text": "a" * 5000, "pattern": "a", "replacement": "x" * 9999}, ValueError, "longer than"),
    ("text.replace", {"text": "a" * 9, "pattern": "", "replacement": "x" * MAX_OUTPUT}, ValueError, "longer than"),
    ("text.replace", {"text": "a", "pattern": "", "replacement": "b", "literal": True}, ParamsInvalid, "empty"),
    ("text.replace", {"text": "a", "pattern": "a", "replacement": None}, ParamsInvalid, "replacement"),
    (
        "text.replace",
        {"text": "a", "pattern": "a", "replacement": "b", "literal": True, "ignore_case": True},
        ParamsInvalid,
        "ignore_case",
    ),
    (
        "text.replace",
        {"text": "a" * 5000, "pattern": "a", "replacement": "x" * 9999, "literal": True},
        ValueError,
        "longer than",
    ),
    ("text.split", {}, ParamsInvalid, "text"),
    ("text.split", {"text": 1}, ParamsInvalid, "text"),
    ("text.split", {"text": "a", "separator": ""}, ParamsInvalid, "empty"),
    ("text.split", {"text": "a", "separator": ",", "pattern": ","}, ParamsInvalid, "not both"),
    ("text.split", {"text": "a", "separator": 1}, ParamsInvalid, "separator"),
    ("text.split", {"text": "a", "pattern": "("}, ValueError, "RE2"),
    ("text.split", {"text": "a", "max": 0}, ParamsInvalid, "max"),
    ("text.split", {"text": "a", "max": "2"}, ParamsInvalid, "max"),
    ("text.split", {"text": "a" * (MAX_OUTPUT + 1), "pattern": "b"}, ValueError, "at most"),
]


@pytest.mark.parametrize(("name", "params", "error", "message"), BAD)
async def test_bad_input_says_what_is_wrong(
    bench: Bench, name: str, params: dict[str, Any], error: type[Exception], message: str
) -> None:
    with anyio.fail_after(10), pytest.raises(error, match=message):
        await bench.call(name, **params)


@pytest.mark.parametrize("name", ["text.search", "text.replace", "text.split"])
async def test_no_pattern_takes_long_and_the_loop_goes_on(bench: Bench, name: str) -> None:
    more = {"replacement": ""} if name == "text.replace" else {}
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    with anyio.fail_after(20):
        # a child that counts the turns of the loop; cancelled below
        async with anyio.create_task_group() as group:
            group.start_soon(turn)
            await bench.call(name, text="a" * 500_000 + "!", pattern=r"(a+)+$", **more)
            group.cancel_scope.cancel()
    assert turns > 1
