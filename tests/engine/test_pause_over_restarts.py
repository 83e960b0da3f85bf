"""Paused runs over shutdowns and crashes: they stay paused, are resumed with the code they began with, or say why not.

What a crash leaves is a copy of the database at that moment.
"""

from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from tests.engine.kit import PythonGeneration, PythonGenerations, opened, quiet, step, task, until
from tests.engine.test_pausing import paused, refused
from tests.fakes.invariants import check_history, events_of
from tests.fakes.kernel import begun, cleaning, copy_of, fails, first_time_forever, forever, noting, works

from aura.lifecycle import Recovery, RunState
from aura.records.reading import RunFilter
from aura.runs.liverun import LiveRun
from aura.stores.memory import MemoryBackend
from aura.testing.world import open_world


def two_steps(second: Any, log: list[str], **keys: Any) -> tuple[Any, Any]:
    """A task whose first step gives a value that its result shows."""

    async def one() -> dict[str, int]:
        log.append("one")
        return {"n": 7}

    first = step("one", one, outputs={"n": "{{ result.n }}"})
    return task("t", first, step("two", second, ("one",)), returns="{{ steps.one.outputs.n }}", **keys)


async def left_paused(tmp_path: Path, log: list[str], crash: bool = True, **keys: Any) -> tuple[str, MemoryBackend]:
    """What a crash, or an end in good order, leaves of a run that was paused in its second step."""
    backend = MemoryBackend()
    async with opened(tmp_path, two_steps(forever, log, **keys), backend=backend) as kit:
        run = await kit.begin_run("t")
        await until(lambda: "two" in run.live)
        await kit.advance(5)
        await paused(kit, run, "lunch")
        copy = copy_of(backend)
    return run.cid, copy if crash else MemoryBackend(backend.connection)


def other(*tasks: Any) -> PythonGenerations:
    """The same plan with other content."""
    generations = PythonGenerations(*tasks)
    generations.now = PythonGeneration({made.name: (made, functions) for made, functions in tasks}, hash="g2")
    return generations


@pytest.mark.parametrize("crash", [True, False], ids=["crash", "shutdown"])
@pytest.mark.parametrize("recovery", list(Recovery), ids=str)
async def test_paused_run_outlives_the_server_and_goes_on_behind_its_last_step(
    tmp_path: Path, recovery: Recovery, crash: bool
) -> None:
    log: list[str] = []
    cid, left = await left_paused(tmp_path, log, crash, recovery=recovery)
    async with opened(tmp_path, two_steps(noting(log, "two"), log, recovery=recovery), backend=left) as kit:
        run = kit.engine.runtime.open[cid]
        await kit.advance(3600)
        assert (run.state, run.held, run.waits) == ("preempted", "lunch", False)
        assert await kit.engine.pause(cid) == "preempted"
        assert await kit.engine.resume(cid) == "preempted"
        record = await kit.ended(cid)
        assert (record.state, record.result, record.attempt, log) == ("succeeded", 7, 1, ["one", "two"])
        assert round(record.active_s) == 5
        assert {n: (s.state, s.attempt) for n, s in (await kit.steps(cid)).items()} == {
            "one": ("succeeded", 1),
            "two": ("succeeded", 1),
        }
        check_history(left.execute, record.seq, "succeeded")


async def test_tries_that_were_made_are_kept(tmp_path: Path) -> None:
    backend = MemoryBackend()
    made = task("t", step("a", fails, retry={"attempts": 2, "delay": 0.9}))
    async with opened(tmp_path, made, backend=backend) as kit:
        run = await kit.begin_run("t")
        await until(lambda: run.backoffs)
        await paused(kit, run)
        left = copy_of(backend)
    async with opened(tmp_path, made, backend=left) as kit:
        await kit.engine.resume(run.cid)
        assert (await kit.ended(run.cid)).state == "failed"
        assert (await kit.history(run.cid)).count("step.started a") == 2


async def test_second_restart_leaves_it_as_the_first(tmp_path: Path) -> None:
    log: list[str] = []
    cid, left = await left_paused(tmp_path, log)
    for _ in range(2):
        async with opened(tmp_path, two_steps(works, log), backend=left) as kit:
            assert kit.engine.runtime.open[cid].held == "lunch"
        left = MemoryBackend(left.connection)
    async with opened(tmp_path, two_steps(works, log), backend=left) as kit:
        await kit.engine.resume(cid)
        assert ((await kit.ended(cid)).state, log) == ("succeeded", ["one"])


async def test_paused_before_it_began_it_takes_the_plan_as_it_is_then(tmp_path: Path) -> None:
    log: list[str] = []
    backend = MemoryBackend()
    async with opened(tmp_path, task("t", step("a", forever)), backend=backend, lanes={"main": 1}) as kit:
        await begun(kit)
        run = await kit.begin_run("t")
        await kit.engine.pause(run.cid)
        left = copy_of(backend)
    async with opened(tmp_path, backend=left, generations=other(task("t", step("b", noting(log, "b"))))) as kit:
        assert kit.engine.runtime.open[run.cid].held == "paused"
        await kit.engine.resume(run.cid)
        record = await kit.ended(run.cid)
        assert (record.state, record.generation, log) == ("succeeded", "g2", ["b"])


async def test_resumed_run_that_waited_for_a_place_goes_on_by_itself(tmp_path: Path) -> None:
    log: list[str] = []
    cid, left = await left_paused(tmp_path, log)
    async with opened(tmp_path, two_steps(works, log), backend=left, lanes={"main": 0}) as kit:
        await kit.engine.resume(cid)
        left = copy_of(left)
    async with opened(tmp_path, two_steps(noting(log, "two"), log), backend=left) as kit:
        assert ((await kit.ended(cid)).state, log) == ("succeeded", ["one", "two"])


@pytest.mark.parametrize("begins", [False, True], ids=["before it began", "in its step"])
async def test_rerun_keeps_what_it_took_over(tmp_path: Path, begins: bool) -> None:
    log: list[str] = []
    backend = MemoryBackend()
    async with opened(tmp_path, two_steps(fails, log), backend=backend) as kit:
        old = (await kit.run("t")).cid
        await kit.engine.runtime.store.written()
    made = two_steps(first_time_forever([]), log)
    left = MemoryBackend(backend.connection)
    async with opened(tmp_path, made, backend=left, lanes={"main": int(begins)}) as kit:
        cid = (await kit.engine.rerun(old, "two")).cid
        run = kit.engine.runtime.open[cid]
        await until(lambda: "two" in run.live or not begins)
        await paused(kit, run)
        left = copy_of(left)
    async with opened(tmp_path, two_steps(noting(log, "two"), log), backend=left) as kit:
        assert await kit.engine.resume(cid) == "preempted"
        assert ((await kit.ended(cid)).result, log) == (7, ["one", "two"])
        assert {n: s.state for n, s in (await kit.steps(cid)).items()} == {"one": "succeeded", "two": "succeeded"}


# -- crashes while it cleans up for the pause


async def left_stopping(tmp_path: Path, recovery: Recovery) -> tuple[LiveRun, MemoryBackend]:
    backend, gate = MemoryBackend(), anyio.Event()
    made = task("t", step("one", works), step("a", cleaning([], gate), ("one",)), recovery=recovery)
    async with opened(tmp_path, made, backend=backend) as kit:
        run = await kit.begin_run("t")
        await until(lambda: "a" in run.live)
        await quiet()
        assert await kit.engine.pause(run.cid, "lunch") == "stopping"
        left = copy_of(backend)
        gate.set()
    return run, left


async def test_crash_while_it_cleans_up_is_a_crash_in_the_middle_of_a_step(tmp_path: Path) -> None:
    run, left = await left_stopping(tmp_path, Recovery.FAIL)
    async with opened(tmp_path, task("t", step("a", works)), backend=left) as kit:
        record = await kit.ended(run.cid)
        assert (record.state, record.error and record.error["step"]) == ("crashed", "a")
        assert left.execute("SELECT held FROM run").fetchone() == (0,)


async def test_run_that_is_to_start_over_after_such_a_crash_stays_paused_until_it_is_resumed(tmp_path: Path) -> None:
    log: list[str] = []
    run, left = await left_stopping(tmp_path, Recovery.RESTART)
    made = task("t", step("one", noting(log, "one")), step("a", noting(log, "a"), ("one",)), recovery=Recovery.RESTART)
    async with opened(tmp_path, made, backend=left) as kit:
        await kit.advance(60)
        assert (kit.engine.runtime.open[run.cid].held, log) == ("lunch", [])
        assert events_of(left.execute, run.seq)[-1] == "run.preempted"
        await kit.engine.resume(run.cid)
        record = await kit.ended(run.cid)
        assert (record.state, record.attempt, log) == ("succeeded", 2, ["one", "a"])
        check_history(left.execute, run.seq, "succeeded")


# -- the plan has changed meanwhile

TASK = "steps:\n  one: {action: note}\n  two: {action: slow, depends_on: [one]}\nreturns: '{{ steps.two.output }}'\n"
CODE = """
import asyncio
from aura import action

@action
async def note() -> int:
    return 1

@action
async def slow() -> str:
    await asyncio.sleep(10)
    return "%s"
"""


def write_plan(folder: Path, version: str, task_text: str = TASK) -> Path:
    plan = folder / "lab"
    (plan / "tasks").mkdir(parents=True, exist_ok=True)
    (plan / "tasks" / "t.yaml").write_text(task_text)
    (plan / "actions.py").write_text(CODE % version)
    return plan


async def paused_in_the_first_version(folder: Path) -> tuple[str, MemoryBackend]:
    backend = MemoryBackend()
    async with open_world(write_plan(folder, "first"), backend=backend) as world:
        run = await world.start("t")
        await world.until(run, step="two", state="running")
        await world.engine.pause(run.cid)
        await world.until(run, state="preempted")
        return run.cid, copy_of(backend)


@pytest.mark.parametrize("change", ["its code", "its task", "gone"])
async def test_run_goes_on_with_the_code_that_it_began_with(tmp_path: Path, change: str) -> None:
    cid, left = await paused_in_the_first_version(tmp_path)
    served = write_plan(tmp_path, "second", "steps: {other: {action: slow}}" if change == "its task" else TASK)
    if change == "gone":
        served = served.rename(tmp_path / "other")
    for _ in range(2):  # and over one more restart
        async with open_world(served, backend=left) as world:
            assert world.engine.runtime.open[cid].held == "paused"
        left = MemoryBackend(left.connection)
    async with open_world(served, backend=left) as world:
        await world.engine.resume(cid)
        record = await world.engine.history.wait_run(cid)
        assert (record.state, record.result) == ("succeeded", "first")
        assert len(left.execute("SELECT hash FROM generation").fetchall()) == 1
    async with open_world(served, backend=MemoryBackend(left.connection)) as world:
        assert left.execute("SELECT hash FROM generation").fetchall() == []  # nobody needs it any more


@pytest.mark.parametrize(
    "kept",
    [msgspec.msgpack.encode([(b"tasks/t.yaml", b"steps: {one: {action: no_such}}")]), b"junk", None],
    ids=["with a fault", "damaged", "not kept"],
)
async def test_code_that_cannot_be_loaded_any_more_keeps_the_run_paused(tmp_path: Path, kept: bytes | None) -> None:
    cid, left = await paused_in_the_first_version(tmp_path)
    served = write_plan(tmp_path, "second")
    left.execute("UPDATE generation SET files=?" if kept else "DELETE FROM generation WHERE ? IS NULL", (kept,))
    async with open_world(served, backend=left) as world:
        assert await refused(world.engine.resume(cid)) == ("conflict", "preempted")
        write_plan(tmp_path, "first")
        await world.engine.reload()
        await world.engine.resume(cid)
        assert (await world.engine.history.wait_run(cid)).result == "first"


async def test_resume_is_refused_while_its_code_is_not_there_and_works_when_it_is_back(tmp_path: Path) -> None:
    log: list[str] = []
    cid, left = await left_paused(tmp_path, log)
    changed = other(two_steps(works, log))
    async with opened(tmp_path, backend=left, generations=changed) as kit:
        for now in (changed.now, None):  # another content, and no plan at all
            changed.now = now
            assert await refused(kit.engine.resume(cid)) == ("conflict", "preempted")
            assert kit.engine.runtime.open[cid].held == "lunch"
        changed.now = PythonGenerations(two_steps(noting(log, "two"), log)).now
        assert await kit.engine.resume(cid) == "preempted"
        assert ((await kit.ended(cid)).result, log) == (7, ["one", "two"])


async def test_cancel_of_a_run_whose_code_is_gone_says_that_its_clean_up_did_not_run(tmp_path: Path) -> None:
    log: list[str] = []
    handler = [step("z", noting(log, "z"))]
    cid, left = await left_paused(tmp_path, log, finally_=handler)
    async with opened(tmp_path, backend=left, generations=other(two_steps(works, log, finally_=handler))) as kit:
        assert await kit.engine.cancel(cid) == "cancelled"
        record = await kit.ended(cid)
        assert record.cleanup_error is not None
        assert (record.cleanup_error["type"], log) == ("not_run", ["one"])
        assert {n: s.state for n, s in (await kit.steps(cid)).items()} == {"one": "succeeded", "two": "cancelled"}


@pytest.mark.parametrize("many", [False, True], ids=["by its id", "by a filter"])
async def test_cancel_runs_the_clean_up_if_the_code_is_back(tmp_path: Path, many: bool) -> None:
    log: list[str] = []
    handler = [step("z", noting(log, "z"))]
    cid, left = await left_paused(tmp_path, log, finally_=handler)
    changed = other(two_steps(works, log, finally_=handler))
    async with opened(tmp_path, backend=left, generations=changed) as kit:
        changed.now = PythonGenerations(two_steps(works, log, finally_=handler)).now
        await (kit.engine.cancel_where(plan_name="p") if many else kit.engine.cancel(cid))
        record = await kit.ended(cid)
        assert (record.state, record.cleanup_error, log) == ("cancelled", None, ["one", "z"])


async def test_cancel_after_a_restart_runs_the_clean_up(tmp_path: Path) -> None:
    log: list[str] = []
    handler = [step("z", noting(log, "z"), params={})]
    cid, left = await left_paused(tmp_path, log, finally_=handler)
    async with opened(tmp_path, two_steps(works, log, finally_=handler), backend=left) as kit:
        assert await kit.engine.cancel(cid) == "stopping"
        assert ((await kit.ended(cid)).state, log) == ("cancelled", ["one", "z"])


async def test_resumed_run_whose_plan_changed_before_it_had_its_place_is_kept_and_says_so(tmp_path: Path) -> None:
    log: list[str] = []
    cid, left = await left_paused(tmp_path, log)
    async with opened(tmp_path, two_steps(works, log), backend=left, lanes={"main": 0}) as kit:
        await kit.engine.resume(cid)
        left = copy_of(left)
    async with opened(tmp_path, backend=left, generations=other(two_steps(works, log))) as kit:
        await quiet()
        (listed,) = await kit.engine.history.list_runs(RunFilter(), 10)
        assert (listed.state, "changed" in (listed.reason or "")) == (RunState.PREEMPTED, True)
        assert await refused(kit.engine.resume(cid)) == ("conflict", "preempted")
        await kit.engine.cancel(cid)
