"""A world over a real plan: runs, their steps, time that passes, what can never come."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from aura.errors import RequestError
from aura.testing.virtual_time import BEGINNING, Deadlock, NotReached, VirtualLoop
from aura.testing.world import World, open_world

PRESS = Path(__file__).parents[2] / "plans" / "press"
ACTIONS = """\
import anyio
from aura import action

@action
async def hang() -> None:
    await anyio.Event().wait()

@action
async def work(seconds: float) -> float:
    await anyio.sleep(seconds)
    return seconds

@action
async def break_down() -> None:
    raise OSError("no paper")
"""
TASKS = {
    "hang": "steps:\n  a: {action: hang}\n",
    "work": "steps:\n  - {name: a, action: work, params: {seconds: 60}}\n  - {name: b, action: work, "
    'params: {seconds: 3600}}\nreturns: "{{ steps.a.output + steps.b.output }}"\n',
    "breaks": "steps:\n  - {name: a, action: break_down}\n  - {name: b, action: hang}\n",
}


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {"loop_factory": VirtualLoop}


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    folder = tmp_path / "lab"
    (folder / "tasks").mkdir(parents=True)
    (folder / "actions.py").write_text(ACTIONS)
    for name, text in TASKS.items():
        (folder / "tasks" / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture
async def world(plan: Path) -> AsyncIterator[World]:
    async with open_world(plan) as opened:
        yield opened


async def test_run_ends_with_its_result_after_its_own_time(world: World) -> None:
    began = time.monotonic()
    run = await world.run("work")
    assert (run.state, run.result, run.error) == ("succeeded", 3660.0, None)
    assert world.now == pytest.approx(BEGINNING + 3660)
    assert time.monotonic() - began < 5


async def test_until_stops_where_a_step_runs_and_advance_goes_on_from_there(world: World) -> None:
    run = await world.start("work")
    await world.until(run, step="b", state="running")
    assert (run.state, run.steps["a"].output, world.now) == ("running", 60.0, BEGINNING + 60)
    await world.advance(minutes=59)
    assert run.state == "running"
    await world.advance(60)
    assert run.state == "succeeded"


async def test_settle_waits_for_all_that_was_accepted(world: World) -> None:
    first, second = await world.start("work"), await world.start("work", delay_s=86_400)
    await world.settle()
    assert [run.state for run in world.runs("work")] == ["succeeded", "succeeded"]
    assert [run.cid for run in world.runs()] == [first.cid, second.cid]
    assert world.now == pytest.approx(BEGINNING + 86_400 + 3660, abs=0.01)


async def test_failure_is_explained_with_its_line(world: World) -> None:
    run = await world.run("breaks")
    assert run.state == "failed"
    text = run.explain()
    assert "a: failed (OSError: no paper at " in text
    assert "actions.py:15)" in text
    assert "b: skipped" in text


async def test_refused_request_is_told(world: World) -> None:
    with pytest.raises(RequestError, match="no task"):
        await world.start("nothing")


async def test_step_that_never_comes_to_a_state_is_a_deadlock_or_not_reached(world: World) -> None:
    hanging = await world.start("hang")
    with pytest.raises(Deadlock, match=r"actions\.py:\d+ in hang"):
        await world.until(hanging, step="a", state="succeeded")
    working = await world.start("work")
    with pytest.raises(NotReached):
        await world.until(working, state="succeeded", within=100)


async def test_body_that_waits_for_what_never_comes_gets_the_deadlock(plan: Path) -> None:
    with pytest.raises(Deadlock, match=r"actions\.py:6 in hang"):
        async with open_world(plan) as world:
            await world.run("hang")


async def test_error_of_the_body_comes_out_as_it_is_and_the_world_is_stopped(plan: Path) -> None:
    runs = []

    async def body() -> None:
        async with open_world(plan) as world:
            runs.append(await world.start("work"))
            await world.until(runs[0], step="a", state="running")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await body()
    assert [run.state for run in runs] == ["cancelled"]


async def test_plan_that_cannot_be_served_is_said_with_its_place(plan: Path) -> None:
    (plan / "tasks" / "work.yaml").write_text("steps:\n  a: {action: unheard_of}\n")
    with pytest.raises(AssertionError, match=r"work\.yaml:2"):
        async with open_world(plan):
            pass


async def test_cancelled_press_parks_and_cools_in_its_own_time() -> None:
    async with open_world(PRESS) as world:
        run = await world.start("sheets", inputs={"sheets": 20, "pace": 2})
        await world.until(run, step="print", state="running")
        await world.advance(10)
        await world.engine.cancel(run.cid)
        await world.settle()
        assert run.state == "cancelled", run.explain()
        assert {name: step.state for name, step in run.steps.items()}.items() >= {
            "print": "cancelled", "park": "succeeded", "cool": "succeeded"
        }.items()  # fmt: skip


async def test_clock_of_a_world_begins_where_it_is_said(world: World) -> None:
    with anyio.move_on_after(5):
        await anyio.sleep_forever()
    assert world.now == pytest.approx(BEGINNING + 5, abs=0.01)
