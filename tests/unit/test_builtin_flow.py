"""The shipped actions log, sleep, fail, stop and assert."""

from pathlib import Path
from typing import Any

import pytest
from tests.fakes.context import Bench

from aura.builtin import shipped
from aura.errors import ActionFailed, AssertionFailed, EndRun, ParamsInvalid


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, shipped())


@pytest.mark.parametrize(
    ("params", "line"),
    [
        pytest.param({"message": "hello"}, ("info", "hello"), id="text"),
        pytest.param({"message": "oh", "level": "error"}, ("error", "oh"), id="with a level"),
        pytest.param({"message": {"a": [1, None]}}, ("info", '{"a":[1,null]}'), id="a mapping, as JSON"),
        pytest.param({"message": 7}, ("info", "7"), id="a number"),
    ],
)
async def test_log_writes_a_line(bench: Bench, params: dict[str, Any], line: tuple[str, str]) -> None:
    assert await bench.call("log", **params) is None
    assert bench.log.lines == [line]


@pytest.mark.parametrize("duration", ["0ms", "1ms", 0], ids=str)
async def test_sleep_takes_a_duration(bench: Bench, duration: Any) -> None:
    assert await bench.call("sleep", duration=duration) is None


async def test_fail_fails_with_its_message(bench: Bench) -> None:
    with pytest.raises(ActionFailed, match="no paper"):
        await bench.call("fail", message="no paper")


@pytest.mark.parametrize("params", [{}, {"result": {"a": 1}}], ids=["null", "a result"])
async def test_stop_ends_the_run_with_its_result(bench: Bench, params: dict[str, Any]) -> None:
    with pytest.raises(EndRun) as raised:
        await bench.call("stop", **params)
    assert raised.value.result == params.get("result")


async def test_assert_passes_when_it_holds_and_fails_when_not(bench: Bench) -> None:
    assert await bench.call("assert", **{"that": True, "message": "x"}) is None
    with pytest.raises(AssertionFailed, match="too few"):
        await bench.call("assert", **{"that": False, "message": "too few"})


@pytest.mark.parametrize(
    ("name", "params"),
    [
        pytest.param("log", {}, id="log without a message"),
        pytest.param("log", {"message": "x", "level": "loud"}, id="unknown level"),
        pytest.param("sleep", {"duration": "soon"}, id="no duration"),
        pytest.param("sleep", {"duration": "-1s"}, id="negative duration"),
        pytest.param("assert", {"that": "false", "message": "x"}, id="text is neither true nor false"),
        pytest.param("assert", {"that": True}, id="assert without a message"),
        pytest.param("stop", {"results": 1}, id="unknown parameter"),
    ],
)
async def test_bad_parameters_are_refused(bench: Bench, name: str, params: dict[str, Any]) -> None:
    with pytest.raises(ParamsInvalid, match=name):
        await bench.call(name, **params)
