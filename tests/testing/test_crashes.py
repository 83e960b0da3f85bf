"""A crash in a world: nothing of the old life goes on, what was committed is there, and what becomes of runs."""

import asyncio
import gc
import os
import threading
import time
import warnings
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from tests.testing.kit import LAB_ACTIONS, gates, happened, one_step, write_plan

from aura.run import Cause, Request
from aura.testing.virtual_time import BEGINNING
from aura.testing.world import World, plan_world

MORE = """\


import contextlib
import threading
import asyncio
from tests.testing.kit import gates


@action
def blocks(ctx: Context) -> None:
    async def on_the_loop():
        happened.append("on the loop")
        try:
            await anyio.sleep(3600)
        finally:
            happened.append("on the loop: tidied up")
    try:
        ctx.from_thread(on_the_loop)
        happened.append("the thread goes on")
    finally:
        happened.append("the thread is tidied up")


@action
def at_a_gate() -> None:
    happened.append("the thread begins")
    gates[0].wait()
    happened.append("the thread has computed")
    gates[1].set()


@action
async def children() -> None:
    async def child(n):
        try:
            await anyio.sleep(50 + n)
            happened.append(f"child {n}")
        finally:
            happened.append(f"child {n} is tidied up")
    asyncio.get_running_loop().call_later(60, happened.append, "a timer")
    async with anyio.create_task_group() as group:
        for n in range(3):
            group.start_soon(child, n)


@action
async def with_camera(camera: str) -> None:
    await anyio.sleep(3600)


@action
async def puts_by(ctx: Context) -> int:
    done = ctx.checkpointed or 0
    while done < 5:
        await anyio.sleep(10)
        done += 1
        happened.append(f"part {done}")
        await ctx.checkpoint(done)
    return done
"""
HANDLERS = "".join(
    f"{handler}:\n  n{number}: {{action: note, params: {{what: {handler}}}}}\n"
    for number, handler in enumerate(("on_failure", "on_cancel", "on_preempt", "finally"))
)
WORK = "steps:\n  a: {action: work, params: {seconds: 3600}}\n"
TASKS = {
    "work": WORK + HANDLERS,
    "resumes": "recovery: resume\nsteps:\n"
    "  - {name: one, action: note, params: {what: one}}\n"
    "  - {name: two, action: work, params: {seconds: 3600}, idempotent: true}\n"
    "  - {name: three, action: note, params: {what: three}}\n",
    "unknown": "recovery: resume\n" + WORK,
    "restarts": "recovery: restart\nsteps:\n"
    "  - {name: one, action: note, params: {what: one}}\n"
    "  - {name: two, action: work, params: {seconds: 3600}}\n",
    "blocks": one_step("blocks"),
    "gate": one_step("at_a_gate"),
    "children": one_step("children"),
    "camera": one_step("with_camera"),
    "process": one_step("shell.run", '{argv: [sleep, "300"]}'),
    "waits": one_step("event.wait", "{name: door.opened}"),
    "parts": "recovery: resume\nsteps:\n  a: {action: puts_by, idempotent: true}\n",
    "urgent": one_step("work", "{seconds: 60}"),
    "tick": one_step("note", "{what: tick}"),
}
RULES = "rules:\n  alarm: {triggers: [{event: alarm.rang}], task: urgent, then: resume}\n"


@pytest.fixture
def plan(lab: Path) -> Path:
    files = {f"tasks/{name}.yaml": text for name, text in TASKS.items()}
    return write_plan(lab, {"actions.py": LAB_ACTIONS + MORE, "interrupts.yaml": RULES, **files})


@pytest.fixture
async def world(plan: Path) -> AsyncIterator[World]:
    async with plan_world(plan) as opened:
        yield opened


# -- what a crash leaves of a run


@pytest.mark.parametrize("task", ["work", "children", "camera", "blocks"])
async def test_nothing_of_the_old_life_goes_on(world: World, task: str) -> None:
    run = await world.start(task)
    await world.until(run, step="a", state="running")
    await world.advance(1)
    before = list(happened)
    await world.crash_and_restart(down="10m")
    await world.advance("2h")
    assert happened == before
    assert (run.state, run.steps["a"].state) == ("crashed", "failed")
    assert "a" in run.explain()


async def test_answer_of_a_thread_of_the_old_life_reaches_nobody(world: World, plan: Path) -> None:
    gates[:] = [threading.Event(), threading.Event()]
    run = await world.start("gate")
    await world.until(lambda: happened)
    await world.crash_and_restart()
    gates[0].set()
    await anyio.to_thread.run_sync(gates[1].wait, 30)
    await world.advance("1h")
    assert (happened[1:], run.state) == (
        ["the thread has computed"],
        "crashed",
    )  # a machine would have ended the thread


async def test_process_of_the_old_life_is_ended_by_the_next_start(world: World) -> None:
    world.allow("shell.run")
    run = await world.start("process")
    await world.until(run, step="a", state="running")
    await world.until(lambda: children_of_this_process("sleep 300"))
    await world.crash_and_restart()
    assert (children_of_this_process("sleep 300"), run.state) == ([], "crashed")
    began = time.monotonic()
    await world.advance(20)
    assert time.monotonic() - began < 10  # it holds no time of the next life


def children_of_this_process(command: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"\nPPid:\t{os.getpid()}\n" in (entry / "status").read_text():
                said = (entry / "cmdline").read_text().replace("\0", " ").strip()
                found += [int(entry.name)] if said == command else []
        except OSError:  # it has ended meanwhile
            continue
    return found


@pytest.mark.parametrize(
    ("task", "step", "state", "done"),
    [
        pytest.param("work", "a", "crashed", ["work begins"], id="fail"),
        pytest.param("unknown", "a", "crashed", ["work begins"], id="resume-in-the-middle"),
        pytest.param(
            "resumes",
            "two",
            "succeeded",
            ["one", "work begins", "work begins", "work is done", "work is tidied up", "three"],
            id="resume-idempotent",
        ),
        pytest.param(
            "restarts",
            "two",
            "succeeded",
            ["one", "work begins", "one", "work begins", "work is done", "work is tidied up"],
            id="restart",
        ),
    ],
)
async def test_run_goes_on_after_a_crash_as_its_recovery_says(
    world: World, task: str, step: str, state: str, done: list[str]
) -> None:
    run = await world.start(task)
    await world.until(run, step=step, state="running")
    await world.crash_and_restart()
    await world.settle()
    assert (run.state, happened) == (state, done), run.explain()


@pytest.mark.parametrize(("times", "state"), [(1, "succeeded"), (2, "succeeded"), (3, "crashed")])
async def test_crashes_in_a_row_lose_nothing_and_the_third_parks(world: World, times: int, state: str) -> None:
    run = await world.start("parts")
    for _ in range(times):
        done = len(happened)
        await world.until(lambda: len(happened) > done)  # noqa: B023 - asked within this round
        await world.advance()
        await world.crash_and_restart(down=5)
    await world.settle()
    assert (run.state, run.reason) == (state, "parked" if times == 3 else None)
    assert happened == [f"part {n}" for n in range(1, 6 if times < 3 else 4)]


async def test_wait_lasts_over_a_crash_and_is_over_by_an_event_of_the_next_life(world: World) -> None:
    run = await world.start("waits")
    await world.until(run, state="waiting")
    await world.crash_and_restart(down="3d")
    assert run.state == "waiting"
    await world.emit("door.opened", {"by": "me"})
    await world.settle()
    assert run.result["payload"] == {"by": "me"}


@pytest.mark.parametrize("after", [0, 30], ids=["as-it-fires", "while-it-is-handled"])
async def test_crash_in_the_middle_of_an_interrupt_loses_none_of_it(world: World, after: float) -> None:
    run = await world.start("resumes")
    await world.until(run, step="two", state="running")
    await world.emit("alarm.rang")
    await world.advance(after)
    await world.crash_and_restart()
    await world.settle()
    run.assert_succeeded()
    assert run.preemptions == 1
    assert [one.state for one in world.runs("urgent")] == ["crashed"]


@pytest.mark.parametrize(("misfire", "runs"), [("run_once", 1), ("skip", 0), ("run_all", 2)])
async def test_slots_missed_while_it_was_down_are_misfires(plan: Path, misfire: str, runs: int) -> None:
    trigger = f'{{cron: "30 * * * *", misfire: {misfire}, misfire_grace: 1d}}'
    write_plan(plan, {"schedule.yaml": f"items:\n  hourly: {{task: tick, mode: parallel, triggers: [{trigger}]}}\n"})
    async with plan_world(plan) as world:
        await world.advance("10m")
        await world.crash_and_restart(down="2h")
        await world.settle()
        await world.advance("1m")
        assert len(world.runs("tick")) == runs, world.explain()


# -- what a test may do around it


async def test_what_was_set_before_lasts_over_a_crash(world: World) -> None:
    fake = world.fake("work", returns=1.0, takes="10s")
    run = await world.start("restarts")
    await world.until(run, step="two", state="running")
    await world.crash_and_restart()
    await world.settle()
    run.assert_succeeded()
    assert (len(fake.calls), happened) == (2, ["one", "one"])


async def test_clock_goes_on_over_a_crash(world: World) -> None:
    await world.advance("1h")
    await world.crash_and_restart(down="30m")
    assert world.now == pytest.approx(BEGINNING + 5400, abs=1)


async def test_logs_and_events_of_both_lives_are_there(world: World) -> None:
    run = await world.start("work")
    await world.until(run, step="a", state="running")
    await world.crash_and_restart()
    assert [event["name"] for event in run.events("run.*")] == ["run.accepted", "run.started", "run.crashed"]


async def test_crash_before_anything_has_begun_is_a_start(world: World) -> None:
    await world.crash_and_restart()
    assert (await world.run("tick")).state == "succeeded"


async def test_whoever_waits_for_the_old_life_is_told(world: World) -> None:
    async with anyio.create_task_group() as group:
        outcome: list[str] = []

        async def waits() -> None:
            run = await world.run("work")
            outcome.append(run.state)

        group.start_soon(waits)
        await world.until(lambda: happened == ["work begins"])
        await world.crash_and_restart()
        await world.settle()
        await world.advance(1)
        assert outcome == ["crashed"]


# -- in order


async def test_restart_in_order_recovers_as_a_shutdown_does(world: World) -> None:
    failing, resuming = await world.start("work"), await world.start("resumes")
    await world.until(failing, step="a", state="running")
    await world.until(resuming, step="two", state="running")
    await world.restart(down="1h")
    assert (failing.state, failing.reason) == ("cancelled", "shutdown")
    assert [what for what in happened if what.startswith(("on_", "fin"))] == ["on_cancel", "finally"]
    await world.settle()
    resuming.assert_succeeded()
    assert happened.count("one") == 1


async def test_crashes_and_restarts_may_be_mixed(world: World) -> None:
    run = await world.start("resumes")
    await world.until(run, step="two", state="running")
    await world.crash_and_restart()
    await world.until(run, step="two", state="running")
    await world.restart()
    await world.until(run, step="two", state="running")
    await world.crash_and_restart()
    await world.settle()
    run.assert_succeeded()


# -- at every turn of the loop


async def test_crash_at_every_turn_of_a_small_run_comes_to_the_same(plan: Path) -> None:
    write_plan(plan, {"tasks/resumes.yaml": TASKS["resumes"].replace("3600", "0")})
    ends = set()
    for turn in range(1, 200):
        happened.clear()
        async with plan_world(plan) as world:
            run = await world.start("resumes")
            for _ in range(turn):
                await anyio.lowlevel.checkpoint()
            over = run.state == "succeeded"
            await world.crash_and_restart()
            before = list(happened)
            await world.settle()
            assert happened[: len(before)] == before
            ends.add(run.state)
            assert happened.count("one") <= 1 and happened.count("three") <= 1  # noqa: PT018 - no step runs twice
            assert run.state == "crashed" or happened.count("three") == 1, run.explain()
        if over:
            break
    assert over
    assert ends == {"succeeded", "crashed"}


# -- the end of a world


@pytest.mark.parametrize("task", ["work", "children", "camera", "blocks", "waits", "resumes"])
async def test_world_with_a_frozen_life_ends_clean(plan: Path, task: str) -> None:
    tasks = asyncio_tasks()
    threads, files = busy_threads(), open_files()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with plan_world(plan) as world:
            await world.start(task)
            await world.advance(1)
            await world.crash_and_restart()
            await world.advance(1)
        gc.collect()
    assert (asyncio_tasks(), open_files()) == (tasks, files)
    assert busy_threads() <= threads


def asyncio_tasks() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks()}


def busy_threads() -> set[str]:
    """The threads that are not those of a pool, which stay idle for the next one."""
    return {thread.name for thread in threading.enumerate() if not thread.name.startswith("AnyIO worker")}


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_frozen_life_that_goes_on_writes_nothing_into_the_next_ones_record(plan: Path) -> None:
    async with plan_world(plan) as world:
        await world.open()
        former = world.engine
        await world.crash_and_restart()
        world.loop.thaw(world.loop.frozen[0])  # as at the end of the world
        await former.submit(Request("lab", "work", {}), Cause("api"))
        assert [run.task_name for run in world.runs()] == []
