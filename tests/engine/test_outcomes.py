"""What a run comes to, by its graph: order, failures, skips, values, retries, early ends."""

import asyncio
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from tests.engine.kit import opened, step, task

from aura.context import Context
from aura.errors import EndRun
from aura.lifecycle import StepState
from aura.task import Dependency


def says(log: list[str], name: str) -> Any:
    async def act() -> str:
        log.append(name)
        await anyio.lowlevel.checkpoint()
        return name

    return act


async def fails() -> None:
    raise ValueError("no")


async def test_graph_runs_in_order_and_leaves_a_history(tmp_path: Path) -> None:
    log: list[str] = []
    diamond = task(
        "t",
        step("a", says(log, "a")),
        step("b", says(log, "b"), ("a",)),
        step("c", says(log, "c"), ("a",)),
        step("d", says(log, "d"), ("b", "c")),
        returns="{{ steps.d.output ~ steps.a.output }}",
    )
    async with opened(tmp_path, diamond) as kit:
        record = await kit.record("t")
        assert (record.state, record.result, record.attempt) == ("succeeded", "da", 1)
        assert log[0] == "a"
        assert log[3] == "d"
        history = await kit.history(record.cid)
        assert history[:4] == ["run.accepted", "run.started", "step.started a", "step.succeeded a"]
        assert history[-1] == "run.succeeded"
        assert {s.state for s in (await kit.steps(record.cid)).values()} == {"succeeded"}


async def test_failure_skips_dependants_and_the_others_go_on(tmp_path: Path) -> None:
    log: list[str] = []
    failing = task(
        "t",
        step("a", fails),
        step("b", says(log, "b"), ("a",)),
        step("c", says(log, "c"), ("b",)),
        step("o", says(log, "o")),
    )
    async with opened(tmp_path, failing) as kit:
        record = await kit.record("t")
        assert record.state == "failed"
        assert record.error is not None
        assert (record.error["type"], record.error["message"], record.error["step"]) == ("ValueError", "no", "a")
        assert str(record.error["file"]).endswith("test_outcomes.py")
        steps = await kit.steps(record.cid)
        assert {n: s.state for n, s in steps.items()} == {
            "a": "failed",
            "b": "skipped",
            "c": "skipped",
            "o": "succeeded",
        }
        assert steps["b"].skipped_because == "wants a succeeded, but it failed (test.yaml:1)"
        assert log == ["o"]


@pytest.mark.parametrize(
    ("wanted", "any_of", "state"),
    [
        ({"a": "failed"}, False, "succeeded"),
        ({"a": "succeeded"}, False, "skipped"),
        ({"a": "succeeded", "ok": "succeeded"}, False, "skipped"),
        ({"a": "succeeded", "ok": "succeeded"}, True, "succeeded"),
        ({"a": "succeeded", "ok": "failed"}, True, "skipped"),
    ],
    ids=["failed wanted", "success wanted", "one of two missing", "any, one came", "any, none came"],
)
async def test_dependencies_by_state(tmp_path: Path, wanted: dict[str, str], any_of: bool, state: str) -> None:
    needs = tuple(Dependency(name, frozenset({StepState(s)})) for name, s in wanted.items())
    made = task(
        "t",
        step("a", fails, continue_on_failure=True),
        step("ok", says([], "ok")),
        step("last", says([], "last"), depends_on=needs, any_of=any_of),
    )
    async with opened(tmp_path, made) as kit:
        record = await kit.record("t")
        assert record.state == "succeeded"
        assert (await kit.steps(record.cid))["last"].state == state


async def test_params_outputs_and_when_are_rendered_from_earlier_steps(tmp_path: Path) -> None:
    async def double(value: int) -> dict[str, int]:
        return {"twice": 2 * value}

    made = task(
        "t",
        step("one", double, params={"value": 21}, outputs={"answer": "{{ result.twice }}"}),
        step("two", says([], "two"), ("one",), when="{{ steps.one.outputs.answer > 42 }}"),
        step("three", says([], "three"), ("one",), when="{{ steps.one.output.twice == 42 }}"),
        returns="{{ steps.one.outputs.answer }}",
    )
    async with opened(tmp_path, made) as kit:
        record = await kit.record("t")
        assert record.result == 42
        states = {n: s.state for n, s in (await kit.steps(record.cid)).items()}
        assert states == {"one": "succeeded", "two": "skipped", "three": "succeeded"}


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        ({"params": {"value": "{{ steps.one.error }}"}}, "params_invalid"),
        ({"params": {"value": "{{ nowhere }}"}}, "expression_error"),
        ({"params": {"valeu": 1}}, "params_invalid"),
        ({"params": {"value": "x"}}, "params_invalid"),
        ({"params": {"value": 1}, "when": "{{ nowhere }}"}, "expression_error"),
        ({"params": {"value": 1}, "outputs": {"o": "{{ nowhere }}"}}, "expression_error"),
    ],
    ids=["null for a number", "unknown name", "unknown parameter", "wrong type", "in when", "in outputs"],
)
async def test_what_cannot_be_rendered_or_bound_fails_the_step(tmp_path: Path, keys: dict[str, Any], kind: str) -> None:
    async def act(value: int) -> int:
        return value

    made = task("t", step("one", says([], "one")), step("two", act, ("one",), **keys))
    async with opened(tmp_path, made) as kit:
        record = await kit.record("t")
        assert record.state == "failed"
        assert record.error is not None
        assert (record.error["type"], record.error["step"]) == (kind, "two")


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param({1, 2}, id="set"),
        pytest.param(float("nan"), id="NaN"),
        pytest.param([{"a": float("inf")}], id="infinity inside"),
        pytest.param(object(), id="object"),
        pytest.param(iter([1]), id="iterator"),
        pytest.param({1: 2}, id="number as a key"),
        pytest.param("x" * 1_100_000, id="just over 1 MiB"),
        pytest.param("x" * 100_000_000, id="100 MB"),
        pytest.param(b"x", id="bytes"),
        pytest.param("\ud800", id="lone surrogate"),
        pytest.param(ENDLESS, id="list that contains itself"),
    ],
)
async def test_result_that_is_not_json_fails_the_step(tmp_path: Path, value: Any) -> None:
    async def act():  # type: ignore[no-untyped-def]
        return value

    async with opened(tmp_path, task("t", step("a", act))) as kit:
        record = await kit.record("t")
        assert record.error is not None
        assert (record.state, record.error["type"]) == ("failed", "bad_output")


async def test_retry_tries_again_and_keeps_count(tmp_path: Path) -> None:
    seen: list[int] = []

    async def flaky(ctx: Context) -> int:
        seen.append(ctx.attempt)
        if len(seen) < 3:
            raise ConnectionError("later")
        return len(seen)

    made = task("t", step("a", flaky, retry={"attempts": 3, "delay": 0.001}), step("b", says([], "b"), ("a",)))
    async with opened(tmp_path, made) as kit:
        record = await kit.record("t")
        assert (record.state, seen) == ("succeeded", [1, 2, 3])
        assert (await kit.steps(record.cid))["a"].attempt == 3
        assert (await kit.history(record.cid)).count("step.retrying a") == 2


async def test_retry_beside_a_parallel_step(tmp_path: Path) -> None:
    count = 0

    async def flaky() -> None:
        nonlocal count
        count += 1
        if count == 1:
            raise ConnectionError("later")

    async def slow() -> None:
        await anyio.sleep(0.02)

    made = task("t", step("a", flaky, retry={"attempts": 2}), step("b", slow), step("c", says([], "c"), ("a", "b")))
    async with opened(tmp_path, made) as kit:
        record = await kit.record("t")
        assert (record.state, count) == ("succeeded", 2)


async def test_step_timeout_makes_the_run_failed(tmp_path: Path) -> None:
    cleaned: list[str] = []

    async def slow() -> None:
        try:
            await anyio.sleep(3600)
        finally:
            await anyio.lowlevel.checkpoint()
            cleaned.append("yes")

    async with opened(tmp_path, task("t", step("a", slow, timeout=0.01))) as kit:
        record = await kit.record("t")
        assert record.error is not None
        assert (record.state, record.error["type"], cleaned) == ("failed", "TimeoutError", ["yes"])
        assert (await kit.steps(record.cid))["a"].state == "timed_out"


async def test_timeout_is_for_each_attempt(tmp_path: Path) -> None:
    count = 0

    async def slow_once() -> int:
        nonlocal count
        count += 1
        if count == 1:
            await anyio.sleep(3600)
        return count

    async with opened(tmp_path, task("t", step("a", slow_once, timeout=0.01, retry={"attempts": 2}))) as kit:
        record = await kit.record("t")
        assert (record.state, count) == ("succeeded", 2)


async def test_stop_action_ends_the_run_as_succeeded(tmp_path: Path) -> None:
    async def ends() -> None:
        raise EndRun({"enough": True})

    async def forever() -> None:
        await anyio.sleep(3600)

    made = task("t", step("a", ends), step("b", forever), step("c", says([], "c"), ("a",)))
    async with opened(tmp_path, made) as kit:
        record = await kit.record("t")
        assert (record.state, record.result) == ("succeeded", {"enough": True})
        states = {n: s.state for n, s in (await kit.steps(record.cid)).items()}
        assert states == {"a": "succeeded", "b": "cancelled", "c": "skipped"}


async def test_plain_function_runs_in_a_thread_and_may_call_back(tmp_path: Path) -> None:
    async def on_the_loop(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    def plain(ctx: Context, x: int) -> int:
        return ctx.from_thread(on_the_loop, x)

    async with opened(tmp_path, task("t", step("a", plain, params={"x": 1}), returns="{{ steps.a.output }}")) as kit:
        assert (await kit.run("t")).result == 2


async def test_thousand_runs_each_end_once(tmp_path: Path) -> None:
    log: list[str] = []
    async with opened(tmp_path, task("t", step("a", says(log, "a"))), lanes={"main": 50}) as kit:
        runs = [await kit.begin_run("t") for _ in range(1000)]
        for run in runs:
            assert (await kit.ended(run)).state == "succeeded"
        assert len(log) == 1000
        assert not kit.engine.runtime.open
        ends = await kit.engine.runtime.store.read(
            lambda x: x("SELECT count(*), count(DISTINCT seq) FROM history WHERE name='run.succeeded'").fetchone()
        )
        assert ends == (1000, 1000)
