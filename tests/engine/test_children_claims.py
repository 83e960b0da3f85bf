"""Sub-tasks and what they need: in their parent's place they ask for what those above them lack, and wait there."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, opened, quiet, step, task, until
from tests.engine.test_children import child_of, runs
from tests.fakes.invariants import check_history, check_idle
from tests.fakes.kernel import FaultyBackend, forever, noting, works

from aura.context import Context
from aura.errors import StoreReadOnly, TaskFailed
from aura.lifecycle import RunState, Stop
from aura.plan import Semaphore
from aura.runs.liverun import LiveRun
from aura.task import Mode, ModeKind

SCREEN = {"screen": Semaphore(1)}


def made(go: anyio.Event | None = None) -> list[Any]:
    async def holds() -> None:
        await (go.wait() if go else anyio.sleep(3600))

    return [
        task("t", step("a", runs("c")), returns="{{ steps.a.output }}"),
        task("c", step("x", works), resources={"screen": 1}, returns="{{ 3 }}"),
        task("o", step("y", holds), resources={"screen": 1}),
    ]


async def lasts_a_second() -> None:
    await anyio.sleep(1)


@asynccontextmanager
async def waiting(tmp_path: Path, go: anyio.Event | None = None) -> AsyncIterator[tuple[Opened, LiveRun, LiveRun]]:
    """A parent whose sub-task waits for what another run holds."""
    async with opened(tmp_path, *made(go), resources=SCREEN) as kit:
        other = await kit.begin_run("o")
        await until(lambda: other.live)
        run = await kit.begin_run("t")
        await until(lambda: run.children)
        await quiet()
        [[below]] = run.children.values()
        assert (below.state, below.waits, below.live) == ("queued", False, {})
        yield kit, run, below


async def test_sub_task_has_what_its_parent_holds(tmp_path: Path) -> None:
    parent = task("t", step("a", runs("c")), resources={"screen": 1}, returns="{{ steps.a.output }}")
    async with opened(tmp_path, parent, made()[1], resources=SCREEN) as kit:
        assert (await kit.record("t")).result == 3
        check_idle(kit)


async def test_sub_task_waits_in_its_parents_place(tmp_path: Path) -> None:
    go = anyio.Event()
    async with waiting(tmp_path, go) as (kit, run, _):
        assert run.placed
        go.set()
        assert (await kit.ended(run)).result == 3


@pytest.mark.parametrize("kind", [Stop.CANCEL, Stop.TIMEOUT, Stop.SHUTDOWN], ids=lambda kind: kind.label)
async def test_stop_of_the_parent_ends_a_sub_task_that_waits(tmp_path: Path, kind: Stop) -> None:
    async with waiting(tmp_path) as (kit, run, below):
        kit.stop(run, kind)
        assert below.state == "cancelled"
        await kit.ended(run)
        assert kit.runs("c")[0].state == "cancelled"
        check_history(kit.backend.execute, below.seq, "cancelled")


async def test_pause_rests_a_sub_task_that_waits(tmp_path: Path) -> None:
    go = anyio.Event()
    async with waiting(tmp_path, go) as (kit, run, below):
        await kit.engine.pause(run.cid)
        await until(lambda: run.state is RunState.PREEMPTED)
        await quiet()
        assert (kit.runs("c")[0].state, kit.runs("c")[0].record.reason) == ("preempted", "its parent rests")
        go.set()
        await quiet()
        assert below.state == "preempted"
        await kit.engine.resume(run.cid)
        assert (await kit.ended(run)).result == 3
        check_history(kit.backend.execute, below.seq, "succeeded")
        check_idle(kit)


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "with its parent"])
@pytest.mark.parametrize("tidies", [True, False], ids=["with clean-up", "without"])
async def test_sub_task_that_waits_to_go_on_may_be_cancelled(tmp_path: Path, tidies: bool, alone: bool) -> None:
    """It has begun and rested; what it needs again is another's now."""
    log: list[str] = []
    handlers: dict[str, Any] = {"finally_": [step("f", noting(log, "tidied"))]} if tidies else {}
    parent, _, other = made()
    child = task("c", step("x", forever), resources={"screen": 1}, **handlers)
    async with opened(tmp_path, parent, child, other, resources=SCREEN) as kit:
        run = await kit.begin_run("t")
        below = await child_of(kit, run)
        await kit.engine.pause(run.cid)
        await until(lambda: run.state is RunState.PREEMPTED)
        holder = await kit.begin_run("o")
        await until(lambda: holder.live)
        await kit.engine.resume(run.cid)
        await until(lambda: run.live)
        await quiet()
        assert (below.state, below.live) == ("preempted", {})
        kit.stop(below if alone else run, Stop.CANCEL)
        assert (await kit.ended(run)).state == ("failed" if alone else "cancelled")
        assert (kit.runs("c")[0].state, log) == ("cancelled", ["tidied"] if tidies else [])
        check_history(kit.backend.execute, below.seq, "cancelled")


async def test_sub_task_may_be_cancelled_while_it_waits(tmp_path: Path) -> None:
    async with waiting(tmp_path) as (kit, run, below):
        assert await kit.engine.cancel(below.cid, "no") == "cancelled"
        error = (await kit.ended(run)).error
        assert error is not None
        assert error["cause"] == {"cid": below.cid, "type": "cancelled", "message": "no"}


async def test_sub_task_that_waits_and_could_not_be_stored_waits_no_longer(tmp_path: Path) -> None:
    backend, told = FaultyBackend(), list[str]()

    async def act(ctx: Context) -> None:
        backend.error, backend.failing = StoreReadOnly("full"), 1
        try:
            await ctx.run("c")
        except TaskFailed as error:
            told.append(str(error))
        await forever()

    parts = [task("t", step("a", act)), *made()[1:]]
    async with opened(tmp_path, *parts, backend=backend, resources=SCREEN) as kit:
        await kit.begin_run("o")
        run = await kit.begin_run("t")
        await until(lambda: told)
        assert kit.engine.status()["resources"]["screen"] == {"capacity": 1, "in_use": 1, "waiting": 0}
        assert run.claims is not None
        assert not run.claims.holder.below


@pytest.mark.parametrize("first", ["the one that rests", "the sub-task"])
async def test_run_that_goes_on_does_not_wait_behind_one_that_waits_for_its_slot(tmp_path: Path, first: str) -> None:
    child = task("c", step("x", lasts_a_second), mode=Mode(ModeKind.PARALLEL, 1), resources={"screen": 1})
    parts = [task("t", step("a", runs("c"))), child, made()[2]]
    async with opened(tmp_path, *parts, resources=SCREEN) as kit:
        rests = await kit.begin_run("c")
        await until(lambda: rests.live)
        await kit.engine.pause(rests.cid)
        await until(lambda: rests.state is RunState.PREEMPTED)
        other = await kit.begin_run("o")
        await until(lambda: other.live)
        if first == "the one that rests":
            await kit.engine.resume(rests.cid)
        run = await kit.begin_run("t", priority=9)
        await until(lambda: run.children)
        await quiet()
        if first != "the one that rests":
            await kit.engine.resume(rests.cid)
        await kit.engine.cancel(other.cid)
        assert [(await kit.ended(one)).state for one in (rests, run)] == ["succeeded", "succeeded"]
        check_idle(kit)


async def test_wait_that_would_never_end_fails_the_step(tmp_path: Path) -> None:
    """Two parents hold what the other one's sub-task needs."""

    def later(name: str) -> Any:
        async def act(ctx: Context) -> Any:
            await anyio.sleep(1)
            return await ctx.run(name)

        return act

    parent = task("t", step("a", later("c")), resources={"arm": 1})
    child = task("c", step("x", works), resources={"screen": 1})
    other = task("o", step("y", later("d")), resources={"screen": 1})
    last = task("d", step("z", works), resources={"arm": 1})
    both = {"screen": Semaphore(1), "arm": Semaphore(1)}
    async with opened(tmp_path, parent, child, other, last, resources=both) as kit:
        found = [await kit.begin_run("t"), await kit.begin_run("o")]
        ended = [await kit.ended(run) for run in found]
        assert sorted(record.state for record in ended) == ["failed", "succeeded"]
        [error] = [record.error for record in ended if record.error]
        assert error["cause"]["type"] == "ResourceCircle"
        check_idle(kit)


async def test_mode_that_refuses_fails_the_step(tmp_path: Path) -> None:
    single = task("c", step("x", forever), mode=Mode(ModeKind.SINGLE, 1))
    async with opened(tmp_path, task("t", step("a", runs("c"))), single) as kit:
        await kit.begin_run("c")
        error = (await kit.record("t")).error
        assert error is not None
        assert error["cause"]["type"] == "refused_by_mode"


async def test_sub_task_that_rests_keeps_its_slot_whatever_its_step_gives_back(tmp_path: Path) -> None:
    child = task("c", step("x", forever), mode=Mode(ModeKind.PARALLEL, 1))
    parent = task("t", step("a", runs("c"), resources={"screen": 1}))
    async with opened(tmp_path, parent, child, resources=SCREEN) as kit:
        run = await kit.begin_run("t")
        await child_of(kit, run)
        await kit.engine.pause(run.cid)
        await until(lambda: run.state is RunState.PREEMPTED)
        other = await kit.begin_run("c")
        await quiet()
        assert (other.state, kit.engine.status()["resources"]["screen"]["in_use"]) == ("queued", 0)
        await kit.engine.cancel(run.cid)
        await until(lambda: other.live)


async def test_sub_tasks_that_have_ended_leave_nothing_behind_in_their_parent(tmp_path: Path) -> None:
    go = anyio.Event()

    async def waits() -> None:
        await go.wait()

    parent = task("t", step("a", runs("c"), loop={"times": 9}), step("b", waits))
    async with opened(tmp_path, parent, made()[1], resources=SCREEN) as kit:
        run = await kit.begin_run("t")
        await until(lambda: len(kit.runs("c")) == 9)
        await quiet()
        assert run.claims is not None
        assert not run.claims.holder.below
        go.set()
        assert (await kit.ended(run)).state == "succeeded"


@pytest.mark.parametrize("paused_first", [True, False], ids=["slot kept before", "slot kept meanwhile"])
async def test_run_whose_slot_a_sub_task_waits_for_goes_on_beyond_the_limit(tmp_path: Path, paused_first: bool) -> None:
    """The lane's only place is the parent's, which waits for its sub-task, which waits for the paused run's slot."""
    single = Mode(ModeKind.QUEUED, 10)
    parent = task("t", step("b", lasts_a_second), step("a", runs("c"), needs=("b",)), returns="{{ steps.a.output }}")
    child = task("c", step("x", lasts_a_second), mode=single, returns="{{ 3 }}")
    async with opened(tmp_path, parent, child, lanes={"main": 1}) as kit:
        keeper = await kit.begin_run("c")
        await until(lambda: keeper.live)
        await kit.engine.pause(keeper.cid)
        await until(lambda: keeper.state is RunState.PREEMPTED)
        run = await kit.begin_run("t")
        await until(lambda: run.live)
        if paused_first:
            await until(lambda: run.children)
            await quiet()
        await kit.engine.resume(keeper.cid)
        assert (await kit.ended(run)).result == 3
        assert (await kit.ended(keeper)).state == "succeeded"
        check_idle(kit)
