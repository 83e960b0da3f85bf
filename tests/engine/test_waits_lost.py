"""Waits of which a unit is lost, and what runs, steps and sub-tasks that wait have taken, over pauses and crashes."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from tests.engine.kit import Opened, opened, quiet, step, task, turns, until
from tests.engine.test_waiting import answer, asks, naps, waiting, waits_on_record
from tests.engine.test_waiting_events import heard, hears
from tests.engine.test_waiting_trees import begin, plan, states
from tests.engine.test_waiting_trees import waiting as waiting_tree
from tests.fakes.invariants import check_idle
from tests.fakes.kernel import copy_of, noting

from aura.bus import Emitted
from aura.errors import WaitFor
from aura.plan import Semaphore
from aura.run import Cause, Request
from aura.runs.liverun import LiveRun
from aura.store import Execute
from aura.stores.memory import MemoryBackend
from aura.testing.world import open_world
from aura.wait import Wait, WaitKind


async def asks_for_ten() -> None:
    raise WaitFor(Wait(WaitKind.APPROVAL, 10.0, message="?"))


def no_luck(execute: Execute) -> None:
    raise sqlite3.IntegrityError("no luck")


async def lose_a_unit(kit: Opened, run: LiveRun) -> None:
    """A unit of a run, with all that has changed of it, is rolled back."""
    kit.engine.runtime.hand_over(run, also=no_luck)
    await quiet()


async def test_wait_whose_end_was_lost_does_not_come_back_with_a_crash(tmp_path: Path) -> None:
    backend = MemoryBackend()
    made = task("t", step("a", naps), step("x", asks), step("y", asks))
    async with opened(tmp_path, made, backend=backend) as kit:
        run = await waiting(kit)
        kit.backend.execute("CREATE TRIGGER no BEFORE DELETE ON wait BEGIN SELECT RAISE(ABORT, 'no'); END")
        await kit.advance(61)
        assert kit.engine.runtime.faults
        kit.engine.runtime.faults.clear()
        kit.backend.execute("DROP TRIGGER no")
        await answer(kit, run, "x")
        await quiet()
        assert waits_on_record(kit) == [("y", -1, "approval")]
        left = copy_of(backend)
    async with opened(tmp_path, made, backend=left) as kit:
        await answer(kit, kit.engine.runtime.open[run.cid], "y")
        assert (await kit.ended(run.cid)).state == "succeeded"


async def test_lost_unit_writes_no_wait_of_a_handler(tmp_path: Path) -> None:
    backend = MemoryBackend()
    made = task("t", step("a", asks), finally_=[step("z", naps)], cleanup_timeout=100.0)
    async with opened(tmp_path, made, backend=backend) as kit:
        run = await waiting(kit)
        await kit.engine.cancel(run.cid)
        await until(lambda: "z" in run.open_waits)
        await lose_a_unit(kit, run)
        await kit.advance(1)
        kit.engine.runtime.hand_over(run)
        await quiet()
        assert "z" not in {name for name, _, _ in waits_on_record(kit)}
        kit.engine.runtime.faults.clear()
        await kit.ended(run)


async def test_answer_outlives_a_unit_that_was_lost_behind_it(tmp_path: Path) -> None:
    backend = MemoryBackend()
    made = task("t", step("a", asks), returns="{{ steps.a.output.by }}")
    async with opened(tmp_path, made, backend=backend) as kit:
        run = await waiting(kit)
        await kit.engine.pause(run.cid)
        await answer(kit, run)
        await lose_a_unit(kit, run)
        kit.engine.runtime.hand_over(run)
        await quiet()
        kit.engine.runtime.faults.clear()
        left = copy_of(backend)
    async with opened(tmp_path, made, backend=left) as kit:
        await kit.engine.resume(run.cid)
        assert (await kit.ended(run.cid)).result == "somebody"


@pytest.mark.parametrize("what", ["event", "answer"])
async def test_wait_ends_in_time_though_something_came_just_then_and_was_lost(tmp_path: Path, what: str) -> None:
    asked = step("a", hears("go", 10.0)) if what == "event" else step("a", asks_for_ten)
    async with opened(tmp_path, task("t", asked)) as kit:
        run = await waiting(kit)
        table = "event" if what == "event" else "history"
        kit.backend.execute(f"CREATE TRIGGER no BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'no'); END")
        waits, bus = kit.engine.waits, kit.engine.runtime.bus
        one = bus.emit("go", 1).ticket if what == "event" else waits.answer(run.cid, "a", None, True, {}, "x")[1]
        run.open_waits["a"].until = kit.engine.runtime.clock.wall()
        waits._times[0] = (0.0, *waits._times[0][1:])
        waits._look_at_times()
        with pytest.raises(Exception, match="no"):
            await one.wait()
        kit.backend.execute("DROP TRIGGER no")
        kit.engine.runtime.faults.clear()
        assert (await kit.ended(run)).state == "failed"


NAPS = (
    "steps: {c: {action: sleep, params: {duration: 60s}}, d: {action: sleep, params: {duration: 60s}, depends_on: c}}"
)


async def test_time_out_of_a_step_goes_on_while_its_sub_task_wakes_and_waits_again(tmp_path: Path) -> None:
    parent = "steps: {a: {action: task.run, params: {task: child}, timeout: 100s}}"
    async with open_world(plan(tmp_path, t=parent, child=NAPS)) as world:
        run, _ = await waiting_tree(world)
        began = run.accepted.accepted_at
        await world.settle()
        assert states(world) == ["failed", "cancelled"]
        assert run.finished_at is not None
        assert run.finished_at - began < 101


HELD = "resources: {screen: 1}\nsteps: {c: {action: sleep, params: {duration: 60s}}}"
SHARED = "resources: {screen: 1}\nsteps: {a: {action: task.run, params: {task: child}}}"
IN_STEP = "steps: {a: {action: task.run, params: {task: child}, resources: {screen: 1}}}"
OTHER = "resources: {screen: 1}\nsteps: {o: {action: log, params: {message: hi}}}"


@pytest.mark.parametrize("parent", [SHARED, IN_STEP], ids=["task", "step"])
@pytest.mark.parametrize("crash", [False, True])
async def test_what_a_sub_task_that_waits_has_of_its_parent_is_counted_once(
    tmp_path: Path, parent: str, crash: bool
) -> None:
    backend, folder = MemoryBackend(), plan(tmp_path, t=parent, child=HELD, other=OTHER)
    (folder / "plan.yaml").write_text("resources: {screen: 1}\n")
    async with open_world(folder, backend=backend) as world:
        await waiting_tree(world)
        left = copy_of(backend)
        assert world.engine.claims.status()["p/screen"]["in_use"] == 1
        if not crash:
            await world.settle()
            assert world.engine.claims.status()["p/screen"]["in_use"] == 0
            return
    async with open_world(folder, backend=left) as world:
        await quiet()
        assert world.engine.claims.status()["p/screen"]["in_use"] == 1
        await world.settle()
        assert states(world) == ["succeeded", "succeeded"]
        assert world.engine.claims.status()["p/screen"]["in_use"] == 0


WORKS_ON = """resources: {screen: 1}
steps:
  c: {action: sleep, params: {duration: 60s}}
  d: {action: log, params: {message: d}, depends_on: c}
"""
LONG = "resources: {screen: 1}\nsteps: {o: {action: hangs}}"
HANGS = """import anyio
from aura import action


@action
async def hangs() -> None:
    await anyio.sleep(300)
"""


async def test_sub_task_of_a_paused_parent_takes_again_what_was_given_back(tmp_path: Path) -> None:
    folder = plan(tmp_path, t="steps: {a: {action: task.run, params: {task: child}}}", child=WORKS_ON, long=LONG)
    (folder / "plan.yaml").write_text("resources: {screen: 1}\n")
    (folder / "actions.py").write_text(HANGS)
    async with open_world(folder) as world:
        run, child = await waiting_tree(world)
        await world.engine.pause(run.cid)
        await world.advance(70)
        long = await begin(world, "long")
        await until(lambda: long.state == "running")
        await world.engine.resume(run.cid)
        await world.advance(10)
        assert (long.state, child.sealed) == ("running", False)
        await world.settle()
        assert states(world) == ["succeeded"] * 3
        assert world.engine.claims.status()["p/screen"]["in_use"] == 0


async def test_step_keeps_what_it_took_while_its_sub_task_goes_on(tmp_path: Path) -> None:
    folder = plan(tmp_path, t=IN_STEP, child=WORKS_ON, other=OTHER)
    (folder / "plan.yaml").write_text("resources: {screen: 1}\n")
    async with open_world(folder) as world:
        run, _ = await waiting_tree(world)
        accepted = await world.engine.submit(Request("p", "other", priority=5), Cause("api"))
        other = world.engine.runtime.open[accepted.cid]
        await world.settle()
        assert states(world) == ["succeeded"] * 3
        assert run.finished_at is not None
        assert other.started_at is not None
        assert run.finished_at <= other.started_at


@pytest.mark.parametrize("crash", [False, True])
async def test_step_that_waits_keeps_what_it_took(tmp_path: Path, crash: bool) -> None:
    backend, log = MemoryBackend(), list[str]()
    made = task("t", step("a", naps, resources={"screen": 1}))
    other = task("u", step("u", noting(log, "u")), resources={"screen": 1})
    async with opened(tmp_path, made, other, backend=backend, resources={"screen": Semaphore(1)}) as kit:
        await waiting(kit)
        left = copy_of(backend)
        if not crash:
            later = await kit.begin_run("u")
            await kit.advance(30)
            assert (later.state, log) == ("queued", [])
            await kit.ended(later)
            check_idle(kit)
            return
    async with opened(tmp_path, made, other, backend=left, resources={"screen": Semaphore(1)}) as kit:
        later = await kit.begin_run("u")
        await kit.advance(30)
        assert (later.state, log) == ("queued", [])
        await kit.ended(later)
        check_idle(kit)


async def test_event_that_comes_before_its_wait_is_on_record_outlives_a_crash(tmp_path: Path) -> None:
    for turn in range(12):
        backend = MemoryBackend()
        made = task("t", heard("a", "go"), step("x", asks), returns="{{ steps.a.output.payload }}")
        async with opened(tmp_path, made, backend=backend) as kit:
            run = await kit.begin_run("t")
            await turns(turn)
            listening = bool(run.open_waits)
            await kit.engine.runtime.bus.emit("go", 7).ticket.wait()
            left = copy_of(backend)
        if not listening or left.execute("SELECT state FROM run").fetchone() != ("waiting",):
            continue
        async with opened(tmp_path, made, backend=left) as kit:
            await answer(kit, kit.engine.runtime.open[run.cid], "x")
            assert (await kit.ended(run.cid)).result == 7, turn


@pytest.mark.parametrize("turn", range(12))
async def test_wait_is_on_record_though_the_event_with_which_it_was_written_was_lost(tmp_path: Path, turn: int) -> None:
    made = task("t", heard("a", "go"), step("x", asks), returns="{{ steps.a.output.payload }}")
    async with opened(tmp_path, made) as kit:
        run = await kit.begin_run("t")
        await turns(turn)
        if not run.open_waits:
            return
        kit.backend.execute("CREATE TRIGGER no BEFORE INSERT ON event BEGIN SELECT RAISE(ABORT, 'no'); END")
        with pytest.raises(Exception, match="no"):
            await kit.engine.runtime.bus.emit("go", 7).ticket.wait()
        kit.backend.execute("DROP TRIGGER no")
        await quiet()
        assert [name for name, _, _ in waits_on_record(kit)] == ["a", "x"]
        await answer(kit, run, "x")
        await kit.engine.runtime.bus.emit("go", 8).ticket.wait()
        assert (await kit.ended(run)).result == 8


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("mode", ["single", "queued", "restart"])
async def test_modes(tmp_path: Path, mode: str, crash: bool) -> None:
    backend, folder = (
        MemoryBackend(),
        plan(tmp_path, t=f"mode: {mode}\nsteps: {{c: {{action: sleep, params: {{duration: 60s}}}}}}"),
    )
    async with open_world(folder, backend=backend) as world:
        run = await begin(world)
        await until(lambda: run.state == "waiting")
        await quiet()
        left = copy_of(backend)
        if not crash:
            await ask(world, mode)
    if crash:
        async with open_world(folder, backend=left) as world:
            await ask(world, mode)


async def ask(world: Any, mode: str) -> None:
    if mode == "single":
        with pytest.raises(Exception, match="its mode is single"):
            await begin(world)
        await world.settle()
        assert states(world) == ["succeeded"]
        return
    await begin(world)
    await world.advance(30)
    assert states(world) == (["waiting", "queued"] if mode == "queued" else ["cancelled", "waiting"])
    await world.settle()
    assert states(world) == (["succeeded"] * 2 if mode == "queued" else ["cancelled", "succeeded"])


async def test_when_is_not_asked_again_of_a_step_whose_sub_task_goes_on(tmp_path: Path) -> None:
    step = "{action: task.run, params: {task: child}, when: '{{ state.done is none }}'}"
    late = "steps: {c: {action: sleep, params: {duration: 60s}}, d: {action: state.set, params: {key: done, value: 1}}}"
    async with open_world(plan(tmp_path, t=f"steps: {{a: {step}}}", child=late)) as world:
        await begin(world)
        await world.settle()
        assert states(world) == ["succeeded"] * 2
        assert world.backend.execute("SELECT state FROM step WHERE name='a'").fetchone() == ("succeeded",)


@pytest.mark.parametrize("after", [None, 10, 70, 130])
@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize("pause", [False, True])
async def test_items_that_run_sub_tasks_wait_with_them(
    tmp_path: Path, after: int | None, at_once: int, pause: bool
) -> None:
    step = f"{{action: task.run, params: {{task: child}}, loop: {{times: 3, parallelism: {at_once}}}}}"
    backend, folder = MemoryBackend(), plan(tmp_path, t=f"steps: {{a: {step}}}", child=NAPS)
    async with open_world(folder, backend=backend) as world:
        run = await begin(world)
        if after is not None:
            await world.advance(after)
            assert run.state == "waiting"
            if pause:
                await world.engine.pause(run.cid)
            await quiet()
        left = copy_of(backend)
        if after is None or not pause:
            await world.settle()
            assert states(world) == ["succeeded"] * 4
        else:
            await world.advance(100)
            await world.engine.resume(run.cid)
            await world.settle()
            assert states(world) == ["succeeded"] * 4
    if after is not None:
        async with open_world(folder, backend=left) as world:
            if pause:
                await world.advance(100)
                await world.engine.resume(run.cid)
            await world.settle()
            assert states(world) == ["succeeded"] * 4
            assert world.backend.execute("SELECT * FROM wait").fetchall() == []


@pytest.mark.parametrize("handler", [False, True], ids=["a step", "a handler, which waits in its place"])
@pytest.mark.parametrize("lost", [True, False], ids=["lost", "stored"])
async def test_event_that_is_on_its_way_is_waited_for_no_more_only_when_it_is_stored(
    tmp_path: Path, lost: bool, handler: bool
) -> None:
    emitted: list[Emitted] = []

    async def emits_and_waits() -> None:
        refused = "WHEN new.payload = CAST('1' AS BLOB)" if lost else "WHEN 0"
        backend.execute(f"CREATE TRIGGER no BEFORE INSERT ON event {refused} BEGIN SELECT RAISE(ABORT, 'no'); END")
        emitted.append(kit.engine.runtime.bus.emit("go", 1))
        raise WaitFor(Wait(WaitKind.EVENT, pattern="go"))

    backend = MemoryBackend()
    waits = step("w", emits_and_waits)
    made = task("t", step("a", asks), finally_=[waits]) if handler else task("t", waits)
    async with opened(tmp_path, made, backend=backend) as kit:
        run = await kit.begin_run("t")
        if handler:
            await until(lambda: "a" in run.open_waits)
            await kit.engine.answer(run.cid, "a", None, True, {}, "somebody")
        await until(lambda: emitted and emitted[0].ticket.done)
        await quiet()
        assert run.sealed is not lost
        if lost:
            await kit.engine.emit("go", 2)
        await kit.ended(run)
        heard = (await kit.steps(run))["w"].output
        assert (heard["payload"], run.state) == (2 if lost else 1, "succeeded")
        kit.engine.runtime.faults.clear()
