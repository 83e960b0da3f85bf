"""Loops: what a step goes over, how many items run at once, how they end, and what is on record of each."""

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, opened, quiet, step, task, turns, until
from tests.fakes.kernel import fails, forever, works

from aura.actions import MAX_OUTPUT
from aura.context import Context
from aura.errors import EndRun
from aura.records.loops import ITEMS_SHOWN
from aura.runs.liverun import LiveRun
from aura.task import MAX_ITEMS


async def give(value: Any) -> Any:
    return value


def over(*items: Any, **rules: Any) -> dict[str, Any]:
    return {"for_each": list(items), **rules}


def item(value: str = "{{ loop.item }}") -> dict[str, str]:
    return {"value": value}


PAIRS = [{"key": "b", "value": 2}, {"key": "a", "value": 1}]
LARGE = "{{ ['x' * 200000] * 6 }}"


async def result_of(kit: Opened) -> Any:
    record = await kit.record("t")
    assert record.state == "succeeded", record.error
    return record.result


def rows_of(kit: Opened, run: LiveRun | int) -> list[Any]:
    """(index, state, attempt, starts) of all items on record."""
    seq = run if isinstance(run, int) else run.seq
    return kit.backend.execute(
        "SELECT idx, state, attempt, starts FROM item WHERE seq=? ORDER BY idx", (seq,)
    ).fetchall()


# -- what it goes over and what it gives


@pytest.mark.parametrize(
    ("loop", "value", "output"),
    [
        pytest.param(over("x", "y"), "{{ loop.item }}", ["x", "y"], id="list"),
        pytest.param({"for_each": {"b": 2, "a": 1}}, "{{ loop.item }}", PAIRS, id="mapping"),
        pytest.param({"times": 3}, "{{ [loop.item, loop.index] }}", [[0, 0], [1, 1], [2, 2]], id="times"),
        pytest.param({"times": "{{ 4 / 2 }}"}, "{{ loop.index }}", [0, 1], id="whole number that is a float"),
        pytest.param(over(), "{{ loop.item }}", [], id="nothing"),
        pytest.param({"times": 0}, "{{ loop.item }}", [], id="no times"),
        pytest.param(over(1, 2, 3), "{{ (loop.last or 0) + loop.item }}", [1, 3, 6], id="last"),
        pytest.param({"while_": "{{ loop.index < 2 }}"}, "{{ loop.item }}", [0, 1], id="while"),
        pytest.param({"while_": False}, "{{ loop.item }}", [], id="while that is false"),
        pytest.param({"until": "{{ loop.last == 1 }}"}, "{{ loop.index }}", [0, 1], id="until"),
        pytest.param({"until": True}, "{{ loop.index }}", [0], id="until that is true"),
        pytest.param({"until": "{{ loop.index == 1 }}", "max_iterations": 2}, "{{ loop.index }}", [0, 1], id="just"),
    ],
)  # fmt: skip
async def test_output_of_a_loop(tmp_path: Path, loop: Any, value: str, output: Any) -> None:
    made = step("a", give, params=item(value), loop=loop, outputs={"o": "{{ [loop.index, result] }}"})
    whole = "{{ [steps.a.output, steps.a.outputs.o, steps.a.each | map(attribute='output') | list, steps.a.failed] }}"
    async with opened(tmp_path, task("t", made, returns=whole)) as kit:
        assert await result_of(kit) == [output, [list(pair) for pair in enumerate(output)], output, []]


@pytest.mark.parametrize(
    ("loop", "kind", "message"),
    [
        pytest.param({"for_each": "{{ 'abc' }}"}, "loop_invalid", 'for_each gave "abc", and needs a list', id="text"),
        pytest.param({"for_each": "{{ none }}"}, "loop_invalid", "for_each gave null", id="null"),
        pytest.param({"times": "{{ -1 }}"}, "loop_invalid", "times gave -1, and needs a whole number", id="negative"),
        pytest.param({"times": "{{ 1.5 }}"}, "loop_invalid", "times gave 1.5", id="no whole number"),
        pytest.param({"times": "{{ true }}"}, "loop_invalid", "times gave true", id="truth"),
        pytest.param({"times": MAX_ITEMS + 1}, "loop_invalid", "at most: share them", id="too many times"),
        pytest.param({"for_each": LARGE}, "bad_output", "what for_each gave is too large", id="too large"),
        pytest.param({"for_each": "{{ nothing }}"}, "expression_error", "unknown name 'nothing'", id="unknown name"),
        pytest.param({"while_": "{{ nothing }}"}, "expression_error", "unknown name 'nothing'", id="while"),
        pytest.param({"until": "{{ nothing }}"}, "expression_error", "unknown name 'nothing'", id="until"),
        pytest.param({"until": False, "max_iterations": 3}, "LoopLimit", "after 3 rounds", id="too many rounds"),
        pytest.param({"while_": True, "max_iterations": 3}, "LoopLimit", "after 3 rounds", id="while for ever"),
    ],
)  # fmt: skip
async def test_loop_that_cannot_be_done_fails_its_step(tmp_path: Path, loop: Any, kind: str, message: str) -> None:
    made = step("a", works, loop=loop, retry={"attempts": 5})
    async with opened(tmp_path, task("t", made)) as kit:
        record = await kit.record("t")
        assert record.error is not None
        assert (record.state, record.error["type"], record.error["step"]) == ("failed", kind, "a")
        assert message in record.error["message"]


async def test_results_that_are_too_large_together_fail_the_step(tmp_path: Path) -> None:
    made = step("a", give, params=item("{{ 'x' * 250000 }}"), loop={"times": 5})
    async with opened(tmp_path, task("t", made)) as kit:
        record = await kit.record("t")
        assert record.error is not None
        assert f"at most {MAX_OUTPUT} are kept" in record.error["message"]
        assert [state for _, state, *_ in rows_of(kit, record.seq)] == ["succeeded"] * 5


async def test_loop_goes_over_what_was_there_when_it_began(tmp_path: Path) -> None:
    """The list is asked for once, though a step beside it changes while it runs."""

    async def slow() -> None:
        await anyio.sleep(1)

    a = step("a", slow, loop={"for_each": "{{ [steps.b.state, steps.b.state] }}"})
    async with opened(
        tmp_path, task("t", a, step("b", slow), returns="{{ steps.a.each | map(attribute='item') | list }}")
    ) as kit:
        assert await result_of(kit) == ["pending", "pending"]


async def test_when_is_asked_once_before_the_loop(tmp_path: Path) -> None:
    made = step("a", give, params=item(), when="{{ steps.b.output is none }}", loop=over(1, 2))
    async with opened(tmp_path, task("t", made, step("b", works), returns="{{ steps.a.output }}")) as kit:
        assert await result_of(kit) == [1, 2]


# -- how many at once, and in which order


class Width:
    """An action that notes how many of it run at once."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.order: list[Any] = []

    async def __call__(self, value: Any, seconds: float = 1.0) -> Any:
        self.order.append(value)
        self.now += 1
        self.most = max(self.most, self.now)
        await anyio.sleep(seconds)
        self.now -= 1
        return value


@pytest.mark.parametrize(("parallelism", "seconds"), [(1, 6), (2, 3), (4, 2), (6, 1), (50, 1)])
async def test_parallelism_bounds_how_many_run_at_once(tmp_path: Path, parallelism: int, seconds: float) -> None:
    width = Width()

    async def act(value: Any) -> Any:
        return await width(value)

    made = step("a", act, params=item(), loop={"times": 6, "parallelism": parallelism})
    async with opened(tmp_path, task("t", made, returns="{{ steps.a.output }}")) as kit:
        began = anyio.current_time()
        assert await result_of(kit) == width.order == list(range(6))
        assert width.most == min(parallelism, 6)
        assert anyio.current_time() - began == pytest.approx(seconds)


async def test_outputs_are_in_the_order_of_the_items_whatever_the_order_of_their_ends(tmp_path: Path) -> None:
    async def act(value: float) -> float:
        await anyio.sleep(value)
        return value

    made = step("a", act, params=item(), loop=over(3, 1, 2, parallelism=3))
    async with opened(tmp_path, task("t", made, returns="{{ steps.a.output }}")) as kit:
        assert await result_of(kit) == [3, 1, 2]


async def test_start_of_each_item_is_on_record_before_it_begins(tmp_path: Path) -> None:
    seen: list[Any] = []

    async def act(value: int) -> None:
        seen.append(rows_of(kit, 1)[value])
        await turns(value)

    made = step("a", act, params=item(), loop={"times": 5, "parallelism": 2})
    async with opened(tmp_path, task("t", made)) as kit:
        await kit.record("t")
        assert seen == [(n, "running", 1, 1) for n in range(5)]
        assert rows_of(kit, 1) == [(n, "succeeded", 1, 1) for n in range(5)]


async def test_two_loops_and_a_step_go_on_beside_each_other(tmp_path: Path) -> None:
    async def act() -> None:
        await anyio.sleep(1)

    steps = [step("a", act, loop={"times": 3}), step("b", act, loop={"times": 2, "parallelism": 2}), step("c", act)]
    async with opened(tmp_path, task("t", *steps)) as kit:
        began = anyio.current_time()
        assert (await kit.record("t")).state == "succeeded"
        assert anyio.current_time() - began == pytest.approx(3)


async def test_loop_leaves_no_events_of_its_items(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works, loop={"times": 30, "parallelism": 3}))) as kit:
        record = await kit.record("t")
        assert await kit.history(record.cid) == [
            *("run.accepted", "run.started", "step.started a", "step.succeeded a", "run.succeeded")
        ]


async def test_items_of_a_loop_share_their_commits(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works, loop={"times": 1000, "parallelism": 100}))) as kit:
        before = kit.engine.runtime.store.commits
        await kit.record("t")
        assert kit.engine.runtime.store.commits - before <= 1000 / 100 * 2 + 2


async def test_value_of_a_step_is_not_built_for_each_of_its_items(tmp_path: Path) -> None:
    """With the scope in use: what is built grows with the items, not with their square."""
    async with opened(
        tmp_path, task("t", step("a", give, params=item(), loop={"times": 3000, "parallelism": 500}))
    ) as kit:
        run = await kit.begin_run("t")
        await until(lambda: run.scope is not None)
        steps = Counter[str]()

        class Counted(dict[str, Any]):
            def __setitem__(self, name: str, value: Any) -> None:
                steps[name] += 1

        assert run.scope is not None
        run.scope["steps"] = Counted(run.scope["steps"])
        assert (await kit.ended(run)).state == "succeeded"
        assert steps["a"] <= 2


# -- failures


@pytest.mark.parametrize(
    ("rules", "state", "states", "output"),
    [
        ({}, "failed", ["succeeded", "failed", "pending"], None),
        ({"stop_on_failure": False}, "succeeded", ["succeeded", "failed", "succeeded"], [1, None, 3]),
    ],
    ids=["stop", "continue"],
)
async def test_item_that_fails(tmp_path: Path, rules: Any, state: str, states: list[str], output: Any) -> None:
    async def act(value: int) -> int:
        if value == 2:
            raise OSError("two")
        return value

    made = step(
        "a", act, params=item(), loop=over(1, 2, 3, **rules), continue_on_failure=True, outputs={"o": "{{ result }}"}
    )
    whole = "{{ [steps.a.state, steps.a.each, steps.a.failed, steps.a.output, steps.a.outputs.o] }}"
    async with opened(tmp_path, task("t", made, returns=whole)) as kit:
        was, each, failed, *outputs = await result_of(kit)
        assert (was, [one["state"] for one in each], outputs) == (state, states, [output, output])
        assert failed == [each[1]]
        assert (each[1]["item"], each[1]["error"]["message"], each[1]["error"]["item"]) == (2, "two", 1)


async def test_first_failure_is_the_steps_and_what_runs_is_let_end(tmp_path: Path) -> None:
    async def act(value: float) -> float:
        await anyio.sleep(value)
        if value in (1, 2):
            raise OSError(f"after {value}")
        return value

    made = step("a", act, params=item(), loop=over(2, 1, 5, 1, parallelism=3))
    async with opened(tmp_path, task("t", made)) as kit:
        record = await kit.record("t")
        assert record.error is not None
        assert (record.error["message"], record.error["step"], record.error["item"]) == ("after 1.0", "a", 1)
        assert [state for _, state, *_ in rows_of(kit, record.seq)] == ["failed", "failed", "succeeded"]
        assert record.finished_at is not None
        assert record.finished_at - (record.started_at or 0) == pytest.approx(5)


async def test_items_in_back_off_end_with_the_first_failure(tmp_path: Path) -> None:
    async def act(ctx: Context, value: int) -> None:
        if value == 2:
            await anyio.sleep(1)
            raise ValueError("for good")
        raise OSError("for now")

    retry = {"attempts": 2, "delay": 3600, "errors": frozenset({"OSError"})}
    made = step("a", act, params=item(), loop=over(1, 2, 3, parallelism=2), retry=retry)
    async with opened(tmp_path, task("t", made)) as kit:
        run = await kit.begin_run("t")
        record = await kit.ended(run)
        assert record.error is not None
        assert (record.error["message"], record.error["item"]) == ("for good", 1)
        assert rows_of(kit, run) == [(0, "failed", 1, 1), (1, "failed", 1, 1)]
        assert record.finished_at is not None
        assert record.finished_at - (record.started_at or 0) == pytest.approx(1)


async def test_item_that_fails_after_the_first_failure_is_not_tried_again(tmp_path: Path) -> None:
    async def act(value: float) -> None:
        await anyio.sleep(value)
        raise (ValueError if value == 1 else OSError)(f"after {value}")

    retry = {"attempts": 3, "errors": frozenset({"OSError"})}
    made = step("a", act, params=item(), loop=over(1, 2, parallelism=2), retry=retry)
    async with opened(tmp_path, task("t", made)) as kit:
        record = await kit.record("t")
        assert (record.error or {})["item"] == 0
        assert rows_of(kit, record.seq) == [(0, "failed", 1, 1), (1, "failed", 1, 1)]


async def test_timeout_is_of_each_item_and_its_tries(tmp_path: Path) -> None:
    async def act(value: float) -> float:
        await anyio.sleep(value)
        return value

    loop = over(1, 9, 1, stop_on_failure=False)
    made = step("a", act, params=item(), loop=loop, timeout=2.0, retry={"attempts": 2})
    async with opened(tmp_path, task("t", made, returns="{{ steps.a.each | map(attribute='state') | list }}")) as kit:
        began = anyio.current_time()
        assert await result_of(kit) == ["succeeded", "timed_out", "succeeded"]
        assert anyio.current_time() - began == pytest.approx(1 + 2 * 2 + 1)
        assert [attempt for _, _, attempt, _ in rows_of(kit, 1)] == [1, 2, 1]


async def test_each_item_has_its_own_tries(tmp_path: Path) -> None:
    async def act(ctx: Context, value: int) -> int:
        if ctx.attempt <= value:
            raise OSError("not yet")
        return ctx.attempt

    made = step("a", act, params=item(), loop=over(0, 2, 1), retry={"attempts": 3, "delay": 1.0})
    async with opened(tmp_path, task("t", made, returns="{{ steps.a.output }}")) as kit:
        run = await kit.begin_run("t")
        assert (await kit.ended(run)).result == [1, 3, 2]
        assert (await kit.history(run.cid)).count("step.retrying a") == 3
        entries = await kit.engine.history.run_entries(run.cid, 0, 100)
        payloads = [e.record()["payload"] for e in entries if e.kind == "event" and "retrying" in e.record()["name"]]
        assert [(p["item"], p["attempt"], p["delay_s"]) for p in payloads] == [(1, 1, 1.0), (1, 2, 1.0), (2, 1, 1.0)]


async def test_step_that_needs_a_failed_loop_to_succeed_is_skipped(tmp_path: Path) -> None:
    steps = [step("a", fails, loop={"times": 2}), step("b", works, ("a",))]
    async with opened(tmp_path, task("t", *steps)) as kit:
        run = await kit.begin_run("t")
        assert (await kit.ended(run)).state == "failed"
        assert {name: one.state for name, one in (await kit.steps(run)).items()} == {"a": "failed", "b": "skipped"}


async def test_loop_in_a_handler_ends_with_the_handlers_time(tmp_path: Path) -> None:
    tidy = step("z", forever, loop={"times": 50, "stop_on_failure": False})
    async with opened(tmp_path, task("t", step("a", works), finally_=[tidy], cleanup_timeout=3.0)) as kit:
        run = await kit.begin_run("t")
        record = await kit.ended(run)
        assert record.state == "succeeded"
        assert record.cleanup_error is not None
        assert (await kit.steps(run))["z"].state == "failed"
        assert record.finished_at is not None
        assert record.finished_at - (record.started_at or 0) == pytest.approx(3, abs=0.6)


async def test_rest_between_rounds_of_a_handler_ends_with_its_time(tmp_path: Path) -> None:
    tidy = step("z", works, loop={"until": False, "delay": 2.0})
    async with opened(tmp_path, task("t", step("a", works), finally_=[tidy], cleanup_timeout=3.0)) as kit:
        run = await kit.begin_run("t")
        assert (await kit.ended(run)).cleanup_error is not None
        error = (await kit.steps(run))["z"].error
        assert error is not None
        assert error["type"] == "cleanup_timeout"


# -- rounds


@pytest.mark.parametrize("rule", ["while_", "until"])
async def test_rounds_are_a_delay_apart_and_one_after_the_other(tmp_path: Path, rule: str) -> None:
    at: list[float] = []

    async def act() -> int:
        at.append(anyio.current_time())
        await anyio.sleep(1)
        return len(at)

    asked = "{{ (loop.last or 0) < 3 }}" if rule == "while_" else "{{ loop.last == 3 }}"
    async with opened(tmp_path, task("t", step("a", act, loop={rule: asked, "delay": 5.0}))) as kit:
        began = anyio.current_time()
        assert (await kit.record("t")).state == "succeeded"
        assert [round(b - a) for a, b in itertools.pairwise(at)] == [6, 6]
        assert anyio.current_time() - began == pytest.approx(13)  # no rest behind the last one


async def test_while_is_asked_again_after_the_rest(tmp_path: Path) -> None:
    async def slow() -> None:
        await anyio.sleep(2)

    a = step("a", works, loop={"while_": "{{ steps.b.state != 'succeeded' }}", "delay": 5.0})
    async with opened(tmp_path, task("t", a, step("b", slow), returns="{{ steps.a.output | length }}")) as kit:
        assert await result_of(kit) == 1


async def test_round_that_fails_ends_the_loop_unless_it_goes_on(tmp_path: Path) -> None:
    async def act(value: int) -> int:
        if value < 2:
            raise OSError("no")
        return value

    loop = {"until": "{{ loop.last == 2 }}", "stop_on_failure": False}
    steps = [step("a", act, params=item("{{ loop.index }}"), loop=loop)]
    steps += [step("b", act, params=item("{{ loop.index }}"), loop={"until": False}, continue_on_failure=True)]
    async with opened(tmp_path, task("t", *steps, returns="{{ [steps.a.output, steps.b.failed | length] }}")) as kit:
        assert await result_of(kit) == [[None, None, 2], 1]


# -- the action stop


@pytest.mark.parametrize(
    ("loop", "state", "items"),
    [
        ({"times": 3}, "cancelled", ["succeeded"]),
        ({"times": 1}, "succeeded", ["succeeded"]),
        ({"times": 5, "parallelism": 3}, "cancelled", ["succeeded", "cancelled", "cancelled"]),
        ({"until": False, "delay": 3600.0}, "cancelled", ["succeeded"]),
    ],
    ids=["more to come", "the last", "beside others", "rounds"],
)
async def test_stop_in_a_loop_ends_the_run(tmp_path: Path, loop: Any, state: str, items: list[str]) -> None:
    async def act(value: int) -> None:
        if value:
            await anyio.sleep(3600)
        await quiet()
        raise EndRun({"index": value})

    made = step("a", act, params=item("{{ loop.index }}"), loop=loop)
    async with opened(tmp_path, task("t", made, step("b", works, ("a",)))) as kit:
        run = await kit.begin_run("t")
        record = await kit.ended(run)
        assert (record.state, record.result) == ("succeeded", {"index": 0})
        assert (await kit.steps(run))["a"].state == state
        assert [was for _, was, *_ in rows_of(kit, run)] == items


async def test_stop_of_a_step_beside_ends_a_loop_in_its_rest_and_its_back_offs(tmp_path: Path) -> None:
    async def ends() -> None:
        await anyio.sleep(1)
        raise EndRun(None)

    steps = [step("a", works, loop={"until": False, "delay": 3600.0}), step("b", ends)]
    steps += [step("c", fails, loop={"times": 2}, retry={"attempts": 2, "delay": 3600})]
    async with opened(tmp_path, task("t", *steps)) as kit:
        run = await kit.begin_run("t")
        record = await kit.ended(run)
        assert record.state == "succeeded"
        assert {name: one.state for name, one in (await kit.steps(run)).items()} == {
            **{"a": "cancelled", "b": "succeeded", "c": "cancelled"}
        }


# -- what is shown


async def test_progress_of_a_loop_is_shown_by_itself(tmp_path: Path) -> None:
    gate = anyio.Event()

    async def act(ctx: Context, value: int) -> None:
        ctx.progress(value, 10)
        if value == 3:
            await gate.wait()

    async with opened(tmp_path, task("t", step("a", act, params=item(), loop={"times": 5}))) as kit:
        run = await kit.begin_run("t")
        await until(lambda: "a[3]" in run.progress)
        assert run.progress == {
            "a": {"done": 3, "total": 5, "message": ""},
            "a[3]": {"done": 3, "total": 10, "message": ""},
        }
        gate.set()
        await kit.ended(run)
        assert run.progress == {}


async def test_items_of_a_step_record(tmp_path: Path) -> None:
    async def act(value: int) -> None:
        if value in (0, 7):
            raise OSError("no")
        if value == 1:
            await anyio.sleep_forever()

    loop = {"times": 300, "parallelism": 2, "stop_on_failure": False}
    async with opened(tmp_path, task("t", step("a", act, params=item(), loop=loop), step("b", works))) as kit:
        run = await kit.begin_run("t")
        await kit.until(lambda: len(rows_of(kit, run)) == 300)
        await quiet()
        steps = await kit.steps(run)
        shown = steps["a"].items
        assert shown is not None
        assert [one.index for one in shown] == [0, 1, 7, *range(203, 300)]
        assert len(shown) == ITEMS_SHOWN == 100
        assert (steps["a"].items_total, steps["a"].items_ended, steps["a"].items_failed) == (300, 299, 2)
        assert [(one.index, one.state, one.attempt, one.item) for one in shown[:2]] == [
            (0, "failed", 1, 0),
            (1, "running", 1, 1),
        ]
        assert (steps["b"].items, steps["b"].items_total) == (None, None)
        await kit.engine.cancel(run.cid)
        await kit.ended(run)
