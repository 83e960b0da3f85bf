"""Time in a world: what `run`, `settle`, `advance` and `until` wait for, and what they do not."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.testing.kit import happened, one_step, write_plan

from aura.testing.virtual_time import BEGINNING, Deadlock, NotReached
from aura.testing.world import World, plan_world

SCHEDULE = """\
items:
  minutely: {task: tick, triggers: [{cron: "* * * * *"}]}
  follows: {task: note, triggers: [{event: "run.succeeded", when: "{{ event.task_name == 'first' }}"}]}
  calm: {task: note, triggers: [{event: "door.*", debounce: {for: 5s}}]}
  off: {task: note, enabled: false, triggers: [{event: "never.mind"}]}
"""
TASKS = {
    "tick": one_step("note", "{what: tick}"),
    "note": one_step("work", "{seconds: 5}"),
    "first": one_step("work", "{seconds: 1}"),
    "starts": one_step("task.start", "{task: later}"),
    "later": one_step("work", "{seconds: 100}"),
    "waits": one_step("event.wait", "{name: door.opened}"),
    "asks": one_step("approval.wait", "{message: really}"),
    "hangs": one_step("hang"),
    "hour": one_step("work", "{seconds: 3600}"),
}


@pytest.fixture
async def world(lab: Path) -> AsyncIterator[World]:
    write_plan(lab, {"schedule.yaml": SCHEDULE, **{f"tasks/{name}.yaml": text for name, text in TASKS.items()}})
    async with plan_world(lab) as opened:
        yield opened


def passed(world: World) -> float:
    return round(world.now - BEGINNING, 2)


async def test_settle_ends_at_once_when_nothing_runs(world: World) -> None:
    await world.settle()
    assert (passed(world), world.runs()) == (0, [])


async def test_settle_waits_for_no_later_slot(world: World) -> None:
    await world.start("hour")
    await world.settle()
    assert passed(world) == 3600
    assert 59 <= len(world.runs("tick")) <= 60
    assert {run.state for run in world.runs()[:-1]} == {"succeeded"}


@pytest.mark.parametrize(
    ("task", "started", "after"),
    [
        pytest.param("starts", "later", 100, id="by-a-step"),
        pytest.param("first", "note", 6, id="by-an-event"),
    ],
)
async def test_settle_waits_for_what_runs_start(world: World, task: str, started: str, after: float) -> None:
    await world.start(task)
    await world.settle()
    assert [run.state for run in world.assert_started(started, 1)] == ["succeeded"]
    assert passed(world) == after


async def test_settle_waits_for_what_is_debounced(world: World) -> None:
    await world.emit("door.opened")
    await world.advance(3)
    await world.emit("door.closed")
    await world.settle()
    assert (len(world.assert_started("note", 1)), passed(world)) == (1, 13)


async def test_settle_waits_for_a_run_with_a_delay(world: World) -> None:
    run = await world.start("first", delay_s=7200)
    await world.settle()
    assert run.state == "succeeded"
    assert passed(world) == 7206  # the run that its end has started has ended as well


@pytest.mark.parametrize("task", ["waits", "asks", "hangs"])
async def test_settle_tells_of_a_run_that_nobody_wakes(world: World, task: str) -> None:
    await world.start(task)
    with pytest.raises((Deadlock, NotReached), match=rf"{task}[\s\S]* a\b"):
        await world.settle(within=3 * 86_400)


@pytest.mark.parametrize("task", ["waits", "asks", "hangs"])
async def test_run_tells_of_a_run_that_nobody_wakes(lab: Path, task: str) -> None:
    write_plan(lab, {f"tasks/{name}.yaml": text for name, text in TASKS.items()})
    async with plan_world(lab) as world:
        with pytest.raises(Deadlock, match=rf"run lab/{task} .*\n(.*\n)*.*a: (waiting|running)"):
            await world.run(task)


async def test_run_with_a_limit_is_not_reached(world: World) -> None:
    with pytest.raises(NotReached, match=r"the run has not ended within 1800 s [\s\S]*run lab/hour [\s\S]*a: running"):
        await world.run("hour", within="30m")
    assert passed(world) == pytest.approx(1800, abs=61)


async def test_slot_of_next_month_is_no_deadlock_beside_one_of_each_minute(lab: Path) -> None:
    items = {"rare": "0 0 1 * *", "often": "* * * * *"}
    text = "".join(f'  {name}: {{task: {name}, triggers: [{{cron: "{cron}"}}]}}\n' for name, cron in items.items())
    files = {f"tasks/{name}.yaml": one_step("note", f"{{what: {name}}}") for name in items}
    write_plan(lab, {"schedule.yaml": "items:\n" + text, **files})
    async with plan_world(lab) as world:
        world.begin("2026-01-31T18:00:00Z")
        await world.until(lambda: world.runs("rare"))
    assert happened.count("often") == pytest.approx(360, abs=1)


async def test_until_a_condition_holds(world: World) -> None:
    await world.start("hour")
    await world.until(lambda: len(world.runs("tick")) == 3)
    assert passed(world) == pytest.approx(180, abs=1)


@pytest.mark.parametrize(
    ("wanted", "error", "said"),
    [
        pytest.param({"step": "a", "state": "succeeded"}, NotReached, "step a was not succeeded within 60 s", id="a"),
        pytest.param({"state": "cancelled"}, NotReached, "the run was not cancelled within 60 s", id="run"),
        pytest.param({"step": "b", "state": "running"}, ValueError, "no step 'b'.*there are: a", id="unknown-step"),
        pytest.param({"step": "a", "state": "runing"}, ValueError, "no state 'runing'.*'running'", id="unknown-state"),
        pytest.param({"state": "retrying"}, ValueError, "no state 'retrying'", id="state-of-a-step"),
        pytest.param({"step": "a"}, ValueError, "say which state", id="no-state-of-a-step"),
        pytest.param({}, ValueError, "say which state", id="no-state"),
    ],
)
async def test_until_says_what_was_not_so(world: World, wanted: dict[str, Any], error: Any, said: str) -> None:
    run = await world.start("hour")
    with pytest.raises(error, match=said):
        await world.until(run, within=60, **wanted)


async def test_until_a_run_has_ended_otherwise_is_told_at_once(world: World) -> None:
    run = await world.start("first")
    with pytest.raises(NotReached, match="the run was not failed: the run has ended, it is succeeded"):
        await world.until(run, state="failed")
    assert passed(world) < 70


async def test_condition_that_fails_comes_out_as_it_is(world: World) -> None:
    with pytest.raises(ZeroDivisionError):
        await world.until(lambda: 1 / 0)
    with pytest.raises(NotReached, match="it was not so within 10 s"):
        await world.until(lambda: False, within=10)


@pytest.mark.parametrize(
    ("args", "keys", "seconds"),
    [
        pytest.param([90], {}, 90, id="seconds"),
        pytest.param(["1h30m"], {}, 5400, id="text"),
        pytest.param([], {"days": 1, "hours": 1}, 90_000, id="words"),
        pytest.param([0.5], {"seconds": 0.25}, 0.75, id="both"),
        pytest.param([], {}, 0, id="nothing"),
    ],
)
async def test_advance_passes_so_much_time(world: World, args: list[Any], keys: dict[str, Any], seconds: float) -> None:
    await world.advance(*args, **keys)
    assert passed(world) == seconds


@pytest.mark.parametrize(
    ("args", "keys", "error"),
    [
        pytest.param([-1], {}, ValueError, id="backwards"),
        pytest.param(["soon"], {}, ValueError, id="no-duration"),
        pytest.param([float("nan")], {}, ValueError, id="no-number"),
        pytest.param([float("inf")], {}, ValueError, id="for-ever"),
        pytest.param([], {"fortnights": 1}, TypeError, id="unknown-word"),
    ],
)
async def test_advance_refuses_what_is_no_time(
    world: World, args: list[Any], keys: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await world.advance(*args, **keys)


async def test_advance_ends_where_everything_that_is_due_has_happened(world: World) -> None:
    await world.advance(minutes=3)
    assert happened == ["tick"] * 3
    world.assert_all_succeeded()


async def test_year_of_a_minutely_item_is_not_needed_for_a_month(world: World) -> None:
    await world.advance(hours=12)
    assert len(world.runs("tick")) == 720
