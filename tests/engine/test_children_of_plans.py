"""Sub-tasks over plans: a plan runs tasks of those that it uses, and an action those of its own plan."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.engine.kit import quiet, until

from aura.testing.world import World, open_world

NOTIFY = {
    "notify/tasks/tell.yaml": (
        "inputs: {who: string}\nsteps: {s: {action: say, params: {who: '{{ inputs.who }}'}}}\n"
        "returns: '{{ steps.s.output }}'\n"
    ),
    "notify/plan.yaml": "vars: {greeting: hello}\n",
    "notify/actions.py": (
        "from aura import Context, action\n\n\n"
        "@action\nasync def say(ctx: Context, who: str) -> str:\n    return f\"{ctx.vars['greeting']} {who}\"\n\n\n"
        "@action\nasync def tell_all(ctx: Context, whom: list[str]) -> list[str]:\n"
        "    return [await ctx.run('tell', {'who': who}) for who in whom]\n"
    ),
}
USES = {"lab/plan.yaml": "uses: [notify]\n"}


def written(folder: Path, files: Mapping[str, str]) -> Path:
    """Write plans, and give the folder of the first one."""
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder / "lab"


def runs(params: str, **more: str) -> dict[str, str]:
    text = f"steps: {{a: {{action: task.run, params: {params}}}}}\nreturns: '{{{{ steps.a.output }}}}'\n"
    return NOTIFY | {"lab/tasks/t.yaml": text} | more


async def test_task_of_a_used_plan_runs_with_that_plans_variables(tmp_path: Path) -> None:
    plans = written(tmp_path, runs("{plan: notify, task: tell, inputs: {who: Ann}}") | USES)
    async with open_world(plans) as world:
        run = await world.run("t")
        assert (run.state, run.record.result) == ("succeeded", "hello Ann")
        child = world.runs("tell")[0].record
        assert (child.plan_name, child.parent_cid) == ("notify", run.cid)


async def test_task_of_a_plan_that_is_not_used_is_refused(tmp_path: Path) -> None:
    plans = written(
        tmp_path, runs("{plan: '{{ vars.other }}', task: tell}") | {"lab/plan.yaml": "vars: {other: notify}"}
    )
    async with open_world(plans) as world:
        error = (await world.run("t")).record.error
        assert "plan lab does not use notify: add `uses: [notify]`" in error["message"]
        assert error["cause"]["type"] == "not_used"


async def test_action_runs_tasks_of_its_own_plan(tmp_path: Path) -> None:
    step = "steps: {a: {action: notify.tell_all, params: {whom: [Ann, Bob]}}}\nreturns: '{{ steps.a.output }}'\n"
    plans = written(tmp_path, NOTIFY | USES | {"lab/tasks/t.yaml": step})
    async with open_world(plans) as world:
        run = await world.run("t")
        assert run.record.result == ["hello Ann", "hello Bob"]
        assert {child.record.plan_name for child in world.runs("tell")} == {"notify"}


async def resting(world: World) -> Any:
    """A run whose sub-task of another plan rests with it."""
    run = await world.start("t")
    await until(lambda: any(child.state == "running" for child in world.runs("slow")))
    await quiet()
    await world.engine.pause(run.cid)
    await until(lambda: run.state == "preempted")
    return run


SLOW = {"notify/tasks/slow.yaml": "steps: {s: {action: sleep, params: {duration: 5s}}}\nreturns: before\n"}


async def test_sub_task_goes_on_with_the_code_that_it_began_with(tmp_path: Path) -> None:
    plans = written(tmp_path, runs("{plan: notify, task: slow}", **SLOW) | USES)
    async with open_world(plans) as world:
        run = await resting(world)
        written(tmp_path, {"notify/tasks/slow.yaml": SLOW["notify/tasks/slow.yaml"].replace("before", "after")})
        await world.engine.reload()
        await world.engine.resume(run.cid)
        await world.settle()
        assert (run.state, run.record.result) == ("succeeded", "before")
        assert (await world.run("t")).record.result == "after"
