"""The boot and sub-tasks: none starts alone. It is kept where it and its parent rest, and else it has ended."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, PythonGeneration, PythonGenerations, opened, quiet, step, task, until
from tests.engine.test_children import child_of, runs
from tests.fakes.invariants import check_history, check_idle
from tests.fakes.kernel import begun, cleaning, copy_of, forever, works

from aura.context import Context
from aura.lifecycle import Recovery, RunState
from aura.plan import Semaphore
from aura.runs.liverun import LiveRun
from aura.stores.memory import MemoryBackend


async def crash(kit: Opened) -> MemoryBackend:
    """What a crash now would leave."""
    await kit.engine.runtime.store.written()
    assert isinstance(kit.backend, MemoryBackend)
    return copy_of(kit.backend)


async def rest(kit: Opened, run: LiveRun) -> None:
    await kit.engine.pause(run.cid)
    await until(lambda: run.state is RunState.PREEMPTED)
    await quiet()


def check_ends(kit: Opened, wanted: dict[str, list[tuple[str, str | None]]]) -> None:
    """The runs of each task have ended so, with such reasons, and their histories agree."""
    found = {name: [(r.state, r.record.reason) for r in kit.runs(name)] for name in wanted}
    assert found == wanted
    for run in kit.runs():
        check_history(kit.backend.execute, run.record.seq, run.state)
    check_idle(kit)


@pytest.mark.parametrize("recovery", list(Recovery), ids=str)
async def test_sub_task_that_ran_has_crashed_whatever_its_recovery(tmp_path: Path, recovery: Recovery) -> None:
    made = [task("t", step("a", runs("c"))), task("c", step("x", forever), recovery=recovery)]
    async with opened(tmp_path, *made) as kit:
        await child_of(kit, await kit.begin_run("t"))
        left = await crash(kit)
    async with opened(tmp_path, *made, backend=left) as kit:
        check_ends(kit, {"t": [("crashed", "crash")], "c": [("crashed", "crash")]})
        error = kit.runs("c")[0].record.error
        assert error is not None
        assert error["step"] == "x"


async def test_parent_that_starts_over_after_a_crash_makes_new_calls(tmp_path: Path) -> None:
    def made(body: Any) -> list[Any]:
        return [
            task("t", step("a", runs("c")), recovery=Recovery.RESTART, returns="{{ steps.a.output }}"),
            task("c", step("b", runs("d")), recovery=Recovery.RESTART, returns="{{ 4 }}"),
            task("d", step("x", body), recovery=Recovery.RESTART),
        ]

    async with opened(tmp_path, *made(forever)) as kit:
        run = await kit.begin_run("t")
        await until(lambda: len(kit.engine.dispatcher.in_place) == 2)
        await quiet()
        left = await crash(kit)
    async with opened(tmp_path, *made(works), backend=left) as kit:
        assert (await kit.ended(run.cid)).result == 4
        ends = [("crashed", "crash"), ("succeeded", None)]
        check_ends(kit, {"t": [("succeeded", None)], "c": ends, "d": ends})


async def test_sub_task_that_had_not_begun_is_cancelled(tmp_path: Path) -> None:
    """It waits for what another run holds; after the crash nobody would wait for it."""
    made = [
        task("t", step("a", runs("c"))),
        task("c", step("x", works), resources={"screen": 1}, recovery=Recovery.RESTART),
        task("o", step("y", forever), resources={"screen": 1}),
    ]
    async with opened(tmp_path, *made, resources={"screen": Semaphore(1)}) as kit:
        await kit.begin_run("o")
        run = await kit.begin_run("t")
        await until(lambda: run.children)
        await quiet()
        assert kit.runs("c")[0].state == "queued"
        left = await crash(kit)
    async with opened(tmp_path, *made, backend=left, resources={"screen": Semaphore(1)}) as kit:
        check_ends(kit, {"t": [("crashed", "crash")], "c": [("cancelled", "its parent has ended")]})


async def test_sub_task_that_rests_ends_when_its_parent_went_on_without_it(tmp_path: Path) -> None:
    starts: list[int] = []

    async def hangs_the_second_time(ctx: Context) -> None:
        starts.append(1)
        if len(starts) == 2:
            await anyio.sleep(3600)
        await ctx.run("c")

    made = [task("t", step("a", hangs_the_second_time)), task("c", step("x", forever), recovery=Recovery.RESTART)]
    async with opened(tmp_path, *made) as kit:
        run = await kit.begin_run("t")
        await child_of(kit, run)
        await rest(kit, run)
        await kit.engine.resume(run.cid)
        await until(lambda: len(starts) == 2)
        await quiet()
        left = await crash(kit)
    async with opened(tmp_path, *made, backend=left) as kit:
        check_ends(kit, {"t": [("crashed", "crash")], "c": [("cancelled", "its parent has ended")]})


async def test_sub_task_that_was_told_to_stop_ends_as_it_was_told(tmp_path: Path) -> None:
    made = [task("t", step("a", runs("c"))), task("c", step("x", cleaning([], anyio.Event())))]
    async with opened(tmp_path, *made, grace=5.0) as kit:
        below = await child_of(kit, await kit.begin_run("t"))
        assert await kit.engine.cancel(below.cid, "enough") == "stopping"
        left = await crash(kit)
    async with opened(tmp_path, *made, backend=left) as kit:
        check_ends(kit, {"t": [("crashed", "crash")], "c": [("cancelled", "enough")]})


async def test_tree_that_rests_is_kept_and_stands_in_no_lane(tmp_path: Path) -> None:
    def made(body: Any) -> list[Any]:
        return [
            task("t", step("a", runs("c")), returns="{{ steps.a.output }}"),
            task("c", step("b", runs("d")), returns="{{ steps.b.output }}", recovery=Recovery.RESTART),
            task("d", step("x", body), returns="{{ 6 }}", recovery=Recovery.RESTART),
        ]

    async with opened(tmp_path, *made(forever)) as kit:
        run = await kit.begin_run("t")
        await until(lambda: len(kit.engine.dispatcher.in_place) == 2)
        await quiet()
        await rest(kit, run)
        left = await crash(kit)
    async with opened(tmp_path, *made(works), backend=left) as kit:
        await quiet()
        assert {r.state for r in kit.runs()} == {"preempted"}
        assert kit.engine.dispatcher.queued() == []
        await kit.engine.resume(run.cid)
        assert (await kit.ended(run.cid)).result == 6
        check_ends(kit, {"c": [("succeeded", None)], "d": [("succeeded", None)]})


async def test_sub_task_that_was_being_cancelled_beside_a_parent_that_rests_fails_its_step(tmp_path: Path) -> None:
    """The crash comes into the clean-up of the sub-task; its parent, resumed, finds how it ended."""
    made = [task("t", step("a", runs("c"))), task("c", step("x", forever), finally_=[step("f", forever)])]
    async with opened(tmp_path, *made, grace=5.0) as kit:
        run = await kit.begin_run("t")
        below = await child_of(kit, run)
        await rest(kit, run)
        assert await kit.engine.cancel(below.cid, "not needed") == "stopping"
        await until(lambda: "f" in below.live)
        await quiet()
        left = await crash(kit)
    async with opened(tmp_path, *made, backend=left) as kit:
        assert kit.runs("c")[0].state == "cancelled"
        await kit.engine.resume(run.cid)
        error = (await kit.ended(run.cid)).error
        assert error is not None
        assert error["cause"] == {"cid": below.cid, "type": "cancelled", "message": "not needed"}
        check_ends(kit, {"t": [("failed", None)], "c": [("cancelled", "not needed")]})


def changed(*made: Any) -> PythonGenerations:
    """The same plan with other content: what began with the first version has no code any more."""
    generations = PythonGenerations(*made)
    generations.now = PythonGeneration({one.name: (one, functions) for one, functions in made}, hash="g2")
    return generations


async def test_sub_tasks_end_with_a_parent_whose_code_is_gone(tmp_path: Path) -> None:
    made = [task("t", step("a", runs("c"))), task("c", step("b", runs("d"))), task("d", step("x", forever))]
    async with opened(tmp_path, *made) as kit:
        run = await kit.begin_run("t")
        await until(lambda: len(kit.engine.dispatcher.in_place) == 2)
        await quiet()
        await rest(kit, run)
        left = await crash(kit)
    async with opened(tmp_path, backend=left, generations=changed(*made)) as kit:
        assert await kit.engine.cancel(run.cid, "enough") == "stopping"
        error = (await kit.ended(run.cid)).cleanup_error
        assert error is not None
        assert error["type"] == "not_run"
        ended: list[tuple[str, str | None]] = [("cancelled", "its parent was cancelled")]
        check_ends(kit, {"t": [("cancelled", "enough")], "c": ended, "d": ended})


async def test_items_of_a_run_whose_code_is_gone_end_with_it(tmp_path: Path) -> None:
    async def hangs_but_for_the_first(n: int) -> None:
        if n > 1:
            await anyio.sleep(3600)

    loop = {"for_each": "{{ [1, 2, 3, 4] }}", "parallelism": 2}
    made = task("t", step("a", hangs_but_for_the_first, loop=loop, params={"n": "{{ loop.item }}"}))
    async with opened(tmp_path, made) as kit:
        run = await begun(kit, 2)
        await rest(kit, run)
        left = await crash(kit)
    async with opened(tmp_path, backend=left, generations=changed(made)) as kit:
        await kit.engine.cancel(run.cid)
        shown = (await kit.steps(run))["a"].items or []
        assert [(item.index, item.state) for item in shown] == [(0, "succeeded"), (1, "cancelled"), (2, "cancelled")]
        check_ends(kit, {"t": [("cancelled", None)]})
