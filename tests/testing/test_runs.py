"""What a test can do to a run of a world, and what it reads of it; what did not start; what is loaded anew."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.testing.kit import happened, one_step, write_plan

from aura.errors import RequestError
from aura.testing.world import World, plan_world

TASKS = {
    "work": "steps:\n  a: {action: work, params: {seconds: 60}}\nfinally:\n  z: {action: note, params: {what: z}}\n",
    "asks": one_step("approval.wait", "{message: really, inputs: {n: {type: integer}}}"),
    "each": one_step("approval.wait", "{message: really}", ", loop: {for_each: [x, y], parallelism: 2}"),
    "fails": "steps:\n  - {name: a, action: fail, params: {message: no paper}}\n"
    "  - {name: b, action: note, params: {what: b}}\n",
    "single": "mode: single\nsteps:\n  a: {action: work, params: {seconds: 60}}\n",
    "parent": one_step("task.run", "{task: fails}"),
    "emits": one_step("event.emit", "{name: door.opened, payload: {by: me}}"),
    "handles": one_step("work", "{seconds: 1}"),
}
PLAN = {
    "schedule.yaml": 'items:\n  hourly: {task: single, triggers: [{cron: "0 * * * *"}]}\n  by_hand: {task: work}\n',
    "interrupts.yaml": "rules:\n  alarm: {triggers: [{event: alarm.rang}], task: handles}\n",
}


@pytest.fixture
def plan(lab: Path) -> Path:
    return write_plan(lab, {**PLAN, **{f"tasks/{name}.yaml": text for name, text in TASKS.items()}})


@pytest.fixture
async def world(plan: Path) -> AsyncIterator[World]:
    async with plan_world(plan) as opened:
        yield opened


async def test_cancelled_run_is_cleaned_up_and_can_be_cancelled_once(world: World) -> None:
    run = await world.start("work")
    await world.until(run, step="a", state="running")
    assert await run.cancel("enough") in ("stopping", "cancelled")
    await world.settle()
    assert (run.state, run.reason, happened[-1]) == ("cancelled", "enough", "z")
    with pytest.raises(RequestError):
        await run.cancel()


async def test_paused_run_rests_until_it_is_resumed(world: World) -> None:
    run = await world.start("work")
    await world.until(run, step="a", state="running")
    await run.pause()
    await world.advance("30m")
    assert (run.state, run.preemptions) == ("preempted", 0)
    await run.resume()
    await world.settle()
    run.assert_succeeded()
    assert happened.count("work begins") == 2


async def test_fired_rule_stops_work_which_goes_on_afterwards(world: World) -> None:
    run = await world.start("work")
    await world.until(run, step="a", state="running")
    handler = await world.fire("alarm", {"loud": True})
    await world.settle()
    assert [one.cid for one in world.runs("handles")] == [handler]
    assert (run.state, run.preemptions) == ("succeeded", 1)


@pytest.mark.parametrize("approved", [True, False])
async def test_approval_is_answered_with_values(world: World, approved: bool) -> None:
    run = await world.start("asks")
    await world.until(run, state="waiting")
    await run.answer("a", approved, **({"n": 3} if approved else {}))
    await world.settle()
    assert (run.result["approved"], run.result["values"]) == (approved, {"n": 3} if approved else {})
    with pytest.raises(RequestError):
        await run.answer("a")


async def test_items_of_a_loop_are_answered_by_their_index(world: World) -> None:
    run = await world.start("each")
    await world.until(run, state="waiting")
    await run.answer("a", True, 0)
    await run.answer("a", False, 1)
    await world.settle()
    assert [answer["approved"] for answer in run.steps["a"].output] == [True, False]


async def test_item_is_started_by_hand_and_an_unknown_one_is_refused(world: World) -> None:
    run = await world.start_item("by_hand")
    await world.settle()
    assert (run.state, run.cause["item"]) == ("succeeded", "by_hand")
    with pytest.raises(RequestError, match="by_hand"):
        await world.start_item("by_hnd")


async def test_what_did_not_start_is_said_with_its_reason(world: World) -> None:
    await world.advance(minutes=59, seconds=30)
    await world.start("single")
    await world.advance("1m")
    lines = await world.why("hourly")
    assert [(line["reason"], line["item"]) for line in lines] == [("mode", "hourly")]
    assert "did not start: hourly: mode" in world.explain()


async def test_trees_show_sub_tasks_errors_and_what_was_skipped(world: World) -> None:
    run = await world.run("parent")
    text = run.explain()
    assert [word for word in ("parent", "fails", "no paper", "b: skipped") if word not in text] == []
    with pytest.raises(AssertionError, match=r"the run is failed, not succeeded:\n.*parent"):
        run.assert_succeeded()
    with pytest.raises(AssertionError, match="a is failed, not succeeded"):
        run.assert_steps(a="succeeded")
    with pytest.raises(AssertionError, match="2 of 2 runs have not succeeded"):
        world.assert_all_succeeded()


async def test_events_and_logs_are_those_of_the_run(world: World) -> None:
    run = await world.run("emits")
    await world.run("fails")
    assert world.assert_emitted("door.opened", {"by": "me"})["cid"] == run.cid
    assert [event["name"] for event in run.events("run.*")] == ["run.accepted", "run.started", "run.succeeded"]
    assert {line["cid"] for line in run.logs()} <= {run.cid}
    with pytest.raises(AssertionError, match=r"door\.closed was not emitted, but:\ndoor\.opened"):
        world.assert_emitted("door.closed")


@pytest.mark.parametrize(("times", "said"), [(None, "was started 0 times"), (2, "started 0 times, not 2")])
async def test_task_that_was_not_started_is_said(world: World, times: Any, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        world.assert_started("work", times)


# -- loading anew


async def test_edited_plan_is_served_and_a_broken_edit_keeps_the_old_one(world: World, plan: Path) -> None:
    await world.advance()
    write_plan(plan, {"tasks/emits.yaml": one_step("anything", "{value: new}")})
    assert [status.status for status in await world.reload()] == ["ready"]
    assert (await world.run("emits")).result == "new"
    write_plan(plan, {"tasks/emits.yaml": "steps: {a: {action: nothing}}\n"})
    (status,) = await world.reload()
    assert (status.status, "emits.yaml" in str(status.errors[0])) == ("stale", True)
    assert (await world.run("emits")).result == "new"
