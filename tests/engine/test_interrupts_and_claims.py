"""Interrupts and what runs hold and wait for: no hold and no wait keep each other up; a sub-task is no new start."""

from pathlib import Path

import pytest
from tests.engine.interrupts_kit import ACTIONS, SAVE, Lab, open_lab, rule, rules

pytestmark = pytest.mark.anyio

PLAN = "resources: {arm: 1}\n"
ARM = "resources: {arm: 1}\n"
STEP_WITH_ARM = "steps: {save: {action: hold, resources: {arm: 1}}}\n"
QUEUED_SAVE = "mode: queued\n" + SAVE
SUB = "steps: {s: {action: hold, params: {seconds: 0.05}}}\n"
TWO = f"""{ACTIONS}

@action
async def two(ctx: Context) -> None:
    await ctx.run("sub")
    await ctx.run("sub")
"""


def waited(world: Lab) -> list[float]:
    """How long each handler of task save has waited for its start, in seconds."""
    sql = "SELECT started_at - accepted_at FROM run WHERE task_name='save' ORDER BY seq"
    return [seconds for (seconds,) in world.backend.execute(sql).fetchall()]


async def check_all_well(world: Lab) -> None:
    """In less than a minute every firing has ended well, and every run."""
    await world.advance(60)
    states = world.backend.execute("SELECT task_name, state FROM run ORDER BY seq").fetchall()
    assert {state for _, state in states} == {"succeeded"}, states
    assert {outcome for *_, outcome in world.firings()} == {"succeeded"}
    assert not world.engine.runtime.faults


# -- what the handler needs


@pytest.mark.parametrize("save", [ARM + SAVE, STEP_WITH_ARM], ids=["task", "step"])
async def test_handler_does_not_stand_in_line_behind_what_its_firing_keeps(tmp_path: Path, save: str) -> None:
    work = ARM + "steps: {long: {action: hold}}\n"
    async with open_lab(tmp_path, rules=rule(), plan=PLAN, work=work, save=save) as world:
        await world.begin_run()
        for priority in (0, 5):
            await world.start("work", priority=priority)
        await world.fire("low_battery")
        await check_all_well(world)
        assert waited(world) == [pytest.approx(0, abs=0.01)]


async def test_displaced_handler_ends_first_whose_slot_the_next_one_needs(tmp_path: Path) -> None:
    text = rules(a="priority: 0", b="priority: 10", c="priority: 5")
    async with open_lab(tmp_path, rules=text, save=QUEUED_SAVE) as world:
        await world.begin_run()
        for name in "acb":
            await world.tell(f"go.{name}")
            await world.advance(0.1)
        await check_all_well(world)


async def test_displaced_handler_that_is_to_end_first_may_wait_itself(tmp_path: Path) -> None:
    text = rules(a="priority: 0", b="priority: 10")
    save = "mode: queued\n" + ARM + SAVE
    other = f"lane: event\n{ARM}steps: {{o: {{action: hold, params: {{seconds: 5}}}}}}\n"
    async with open_lab(tmp_path, rules=text, plan=PLAN, save=save, other=other) as world:
        await world.begin_run()
        await world.tell("go.a")
        await world.advance(0.1)
        await world.start("other")  # it has the arm when the first handler gives it back
        await world.tell("go.b")
        await check_all_well(world)


@pytest.mark.parametrize("waiting", [0, 2])
async def test_victim_ends_first_whose_slot_the_handler_needs(tmp_path: Path, waiting: int) -> None:
    async with open_lab(tmp_path, rules=rule(), save=QUEUED_SAVE) as world:
        await world.begin_run("save", step="save")
        for _ in range(waiting):
            await world.start("save", priority=5)
        await world.fire("low_battery")
        await check_all_well(world)


async def test_victim_ends_first_whose_slot_a_sub_task_of_the_handler_needs(tmp_path: Path) -> None:
    work = "mode: queued\nsteps: {long: {action: hold}}\n"
    save = "steps: {save: {action: task.run, params: {task: work}}}\n"
    async with open_lab(tmp_path, rules=rule(), work=work, save=save) as world:
        await world.begin_run()
        await world.fire("low_battery")
        await check_all_well(world)


async def test_victim_that_goes_on_for_its_slot_is_stopped_by_the_next_rule(tmp_path: Path) -> None:
    text = rules(a="priority: 0", b="priority: 5, task: quick")
    async with open_lab(tmp_path, rules=text, save=QUEUED_SAVE, quick=SAVE) as world:
        run = await world.begin_run("save", step="save")
        await world.tell("go.a")
        await world.advance(0.1)
        await world.tell("go.b")
        await check_all_well(world)
        assert run.record.preemptions == 2


@pytest.mark.parametrize("save", [ARM + SAVE, STEP_WITH_ARM], ids=["task", "step"])
async def test_run_that_waits_goes_on_if_it_holds_what_the_handler_needs(tmp_path: Path, save: str) -> None:
    work = ARM + "steps: {long: {action: event.wait, params: {name: my.go}}}\n"
    async with open_lab(tmp_path, rules=rule(), plan=PLAN, work=work, save=save) as world:
        run = await world.start("work")
        await world.until(run, state="waiting")
        await world.fire("low_battery")
        await world.advance(1)
        await world.tell("my.go")
        await check_all_well(world)


@pytest.mark.parametrize("save", [ARM + SAVE, STEP_WITH_ARM], ids=["task", "step"])
async def test_sub_task_goes_on_if_its_parent_holds_what_the_handler_needs(tmp_path: Path, save: str) -> None:
    text, work = rule("preempts: {tasks: [sub]}"), ARM + "steps: {long: {action: two}}\n"
    async with open_lab(tmp_path, rules=text, plan=PLAN, actions=TWO, work=work, sub=SUB, save=save) as world:
        await world.begin_run()
        await world.fire("low_battery")
        await check_all_well(world)


async def test_sub_task_goes_on_as_soon_as_a_later_step_of_the_handler_waits(tmp_path: Path) -> None:
    text, work = rule("preempts: {tasks: [sub]}"), ARM + "steps: {long: {action: two}}\n"
    save = "steps: {calm: {action: hold}, save: {action: hold, resources: {arm: 1}, depends_on: calm}}\n"
    async with open_lab(tmp_path, rules=text, plan=PLAN, actions=TWO, work=work, sub=SUB, save=save) as world:
        await world.begin_run()
        await world.fire("low_battery")
        await check_all_well(world)
        sql = "SELECT finished_at - started_at FROM run WHERE task_name='save'"
        assert world.backend.execute(sql).fetchone() == (pytest.approx(1.9, abs=0.1),)


async def test_sub_task_that_goes_on_for_the_handler_is_stopped_by_the_next_rule(tmp_path: Path) -> None:
    only = "preempts: {tasks: [sub]}"
    text, work = rules(a=only, b=f"{only}, priority: 5, task: quick"), ARM + "steps: {long: {action: two}}\n"
    sub, files = "steps: {s: {action: hold}}\n", {"save": ARM + SAVE, "quick": SAVE}
    async with open_lab(tmp_path, rules=text, plan=PLAN, actions=TWO, work=work, sub=sub, **files) as world:
        await world.begin_run()
        await world.tell("go.a")
        await world.advance(0.1)
        await world.tell("go.b")
        await check_all_well(world)
        assert world.backend.execute("SELECT preemptions FROM run WHERE task_name='sub'").fetchall() == [(2,), (0,)]


# -- sub-tasks under a hold


@pytest.mark.parametrize(("where", "then"), [("on_preempt", "resume"), ("finally", "cancel")])
async def test_sub_task_of_a_clean_up_ignores_the_hold(tmp_path: Path, where: str, then: str) -> None:
    work = f"steps: {{long: {{action: hold}}}}\n{where}: {{park: {{action: task.run, params: {{task: sub}}}}}}\n"
    async with open_lab(tmp_path, rules=rule(f"then: {then}"), work=work, sub=SUB) as world:
        run = await world.begin_run()
        await world.fire("low_battery")
        await world.settle()
        assert run.record.cleanup_error is None
        assert waited(world) == [pytest.approx(0.05, abs=0.02)]


@pytest.mark.parametrize("preempt", ["at_step_end", "never"])
async def test_step_that_may_end_runs_its_next_sub_task(tmp_path: Path, preempt: str) -> None:
    work = f"steps: {{long: {{action: two, preempt: {preempt}}}, last: {{action: hold, depends_on: long}}}}\n"
    sub = f"preempt: {preempt}\n{SUB}"
    async with open_lab(tmp_path, rules=rule(), actions=TWO, work=work, sub=sub) as world:
        await world.begin_run()
        await world.fire("low_battery")
        await check_all_well(world)
        assert world.backend.execute("SELECT count(*) FROM run WHERE task_name='sub'").fetchone() == (2,)
        assert world.backend.execute("SELECT starts FROM step WHERE name='long'").fetchone() == (1,)


async def test_sub_task_that_stands_in_line_is_kept_and_not_waited_for(tmp_path: Path) -> None:
    text, sub = rule("preempts: {tasks: [sub]}"), ARM + SUB
    other = f"lane: event\n{ARM}steps: {{o: {{action: hold, params: {{seconds: 0.2}}}}}}\n"
    work = "steps: {long: {action: two}}\n"
    async with open_lab(tmp_path, rules=text, plan=PLAN, actions=TWO, work=work, sub=sub, other=other) as world:
        await world.begin_run("other", step="o")
        await world.begin_run()
        await world.fire("low_battery")
        await world.advance(0.3)
        assert world.backend.execute("SELECT state FROM run WHERE task_name='sub'").fetchall() == [("queued",)]
        await check_all_well(world)
        assert waited(world) == [pytest.approx(0, abs=0.01)]


async def test_sub_task_that_is_stopped_already_is_not_waited_for(tmp_path: Path) -> None:
    only = "preempts: {tasks: [sub]}"
    text, work = rules(a=only, b=f"{only}, priority: 5"), "steps: {long: {action: two}}\n"
    async with open_lab(tmp_path, rules=text, actions=TWO, work=work, sub=SUB) as world:
        await world.begin_run()
        await world.tell("go.a")
        await world.advance(0.1)
        await world.tell("go.b")
        await check_all_well(world)
        assert waited(world)[1] == pytest.approx(0, abs=0.01)


# -- a pause that comes between


async def test_victim_that_is_paused_before_it_is_told_ends_if_the_rule_says_so(tmp_path: Path) -> None:
    async with open_lab(tmp_path, rules=rule("then: cancel")) as world:
        run = await world.begin_run()
        live = world.live(run)
        world.engine.triggers.fire(world.rule(), None)
        world.engine.pausing.request_pause(live)
        await world.settle()
        assert run.state == "cancelled", run.explain()
