"""Unit tests of ``task.run`` and ``task.start``: what they hand to ``ctx``, and how their parameters are checked."""

from pathlib import Path

import pytest
from tests.fakes.context import Bench

from aura.builtin import shipped
from aura.errors import ParamsInvalid


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, shipped())


async def test_run_gives_the_result(bench: Bench) -> None:
    assert await bench.call("task.run", task="render", inputs={"day": "x"}) == {"ran": "render"}
    assert bench.host.asked == [("run", None, "render", {"day": "x"})]


async def test_start_gives_the_cid(bench: Bench) -> None:
    assert await bench.call("task.start", task="render", plan="press") == {"cid": "cid-2"}
    assert bench.host.asked == [("start", "press", "render", {})]


@pytest.mark.parametrize(
    "params",
    [
        pytest.param({}, id="no-task"),
        pytest.param({"task": 3}, id="no-text"),
        pytest.param({"task": "x", "inputs": [1]}, id="inputs-no-mapping"),
        pytest.param({"task": "x", "input": {}}, id="unknown"),
    ],
)
@pytest.mark.parametrize("name", ["task.run", "task.start"])
async def test_parameters_are_checked(bench: Bench, name: str, params: dict[str, object]) -> None:
    with pytest.raises(ParamsInvalid):
        await bench.call(name, **params)
    assert not bench.host.asked
