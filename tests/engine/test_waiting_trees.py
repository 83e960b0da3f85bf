"""Sub-tasks that wait: their parents wait with them, without a place, over pauses, crashes and time-outs."""

from pathlib import Path

import pytest
from tests.engine.kit import quiet, until
from tests.fakes.kernel import copy_of

from aura.run import Cause, Request
from aura.runs.liverun import LiveRun
from aura.stores.memory import MemoryBackend
from aura.testing.world import World, open_world

PARENT = "steps: {a: {action: task.run, params: {task: child}}, b: {action: log, params: {message: hi}, depends_on: a}}"
SLEEPS = "steps: {c: {action: sleep, params: {duration: 60s}}}"


def plan(folder: Path, **tasks: str) -> Path:
    """A plan of these tasks."""
    made = folder / "plans" / "p" / "tasks"
    made.mkdir(parents=True)
    for name, text in tasks.items():
        (made / f"{name}.yaml").write_text(text)
    return made.parent


async def begin(world: World, task: str = "t") -> LiveRun:
    accepted = await world.engine.submit(Request("p", task), Cause("api"))
    return world.engine.runtime.open[accepted.cid]


async def waiting(world: World) -> tuple[LiveRun, LiveRun]:
    """A run that waits with its sub-task, and that one."""
    run = await begin(world)
    await until(lambda: run.state == "waiting")
    await quiet()
    return run, child_of(world, run)


def child_of(world: World, run: LiveRun) -> LiveRun:
    (child,) = [one for one in world.engine.runtime.open.values() if one.parent is run]
    return child


def states(world: World) -> list[str]:
    return [state for (state,) in world.backend.execute("SELECT state FROM run ORDER BY seq")]


async def test_parent_waits_with_its_sub_task(tmp_path: Path) -> None:
    async with open_world(plan(tmp_path, t=PARENT, child=SLEEPS)) as world:
        run, child = await waiting(world)
        assert (child.state, run.placed) == ("waiting", False)
        await world.settle()
        assert states(world) == ["succeeded", "succeeded"]
        assert world.backend.execute("SELECT * FROM wait").fetchall() == []
        assert world.backend.execute("SELECT attempt FROM step WHERE name='a'").fetchone() == (1,)


async def test_both_wait_on_after_a_crash(tmp_path: Path) -> None:
    backend, folder = MemoryBackend(), plan(tmp_path, t=PARENT, child=SLEEPS)
    async with open_world(folder, backend=backend) as world:
        run, _ = await waiting(world)
        left = copy_of(backend)
    async with open_world(folder, backend=left) as world:
        run = world.engine.runtime.open[run.cid]
        assert (run.state, child_of(world, run).state) == ("waiting", "waiting")
        await world.settle()
        assert states(world) == ["succeeded", "succeeded"]


async def test_what_wakes_the_sub_task_of_a_paused_parent_is_kept(tmp_path: Path) -> None:
    async with open_world(plan(tmp_path, t=PARENT, child=SLEEPS)) as world:
        run, child = await waiting(world)
        await world.engine.pause(run.cid)
        await world.advance(90)
        assert (run.state, child.state) == ("preempted", "waiting")
        await world.engine.resume(run.cid)
        await world.settle()
        assert states(world) == ["succeeded", "succeeded"]


@pytest.mark.parametrize(("whom", "ends"), [("parent", "cancelled"), ("child", "failed")])
async def test_cancel_of_either_ends_both(tmp_path: Path, whom: str, ends: str) -> None:
    async with open_world(plan(tmp_path, t=PARENT, child=SLEEPS)) as world:
        run, child = await waiting(world)
        await world.engine.cancel(run.cid if whom == "parent" else child.cid)
        await world.settle()
        assert states(world) == [ends, "cancelled"]


async def test_time_out_of_the_step_ends_the_sub_task_and_another_try_begins_a_new_one(tmp_path: Path) -> None:
    step = "{action: task.run, params: {task: child}, timeout: 10s, retry: {attempts: 2, delay: 5s}}"
    async with open_world(plan(tmp_path, t=f"steps: {{a: {step}}}", child=SLEEPS)) as world:
        await begin(world)
        await world.settle()
        assert states(world) == ["failed", "cancelled", "cancelled"]
        assert world.backend.execute("SELECT * FROM wait").fetchall() == []


DEEP = "steps: {x: {action: task.run, params: {task: below}}, y: {action: sleep, params: {duration: 10s}}}"
BELOW = """timeout: 5s
steps:
  g: {action: sleep, params: {duration: 60s}}
  h: {action: fail, params: {message: x}, retry: {attempts: 3, delay: 30s}, continue_on_failure: true}
"""


@pytest.mark.parametrize("after", [5, 35, 59], ids=lambda seconds: f"crash after {seconds} s")
async def test_whole_tree_waits(tmp_path: Path, after: int) -> None:
    backend, folder = MemoryBackend(), plan(tmp_path, t=PARENT, child=DEEP, below=BELOW)
    async with open_world(folder, backend=backend) as world:
        await waiting(world)
        await world.advance(after)
        left = copy_of(backend)
        await world.settle()
        assert states(world) == ["succeeded"] * 3
    async with open_world(folder, backend=left) as world:
        await world.settle()
        assert states(world) == ["succeeded"] * 3


RUNS = """from aura import Context, action


@action
async def runs(ctx: Context) -> None:
    await ctx.run("child")
"""


async def test_code_that_waits_for_a_sub_task_keeps_its_place(tmp_path: Path) -> None:
    folder = plan(tmp_path, t="steps: {a: {action: runs}}", child=SLEEPS)
    (folder / "actions.py").write_text(RUNS)
    async with open_world(folder) as world:
        run = await begin(world)
        await world.advance(30)
        child = child_of(world, run)
        assert (run.state, child.state, [*child.open_waits]) == ("running", "running", ["c"])
        await world.settle()
        assert states(world) == ["succeeded", "succeeded"]
