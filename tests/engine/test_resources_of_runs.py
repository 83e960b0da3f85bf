"""Resources of runs and of their steps: taken before a place and before a start, given back, shown, never a circle."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from tests.engine.kit import Opened, PythonGeneration, PythonGenerations, opened, quiet, step, task, until
from tests.fakes.invariants import check_idle
from tests.fakes.kernel import FaultyBackend, begun, cleaning, copy_of, fails, forever, noting, swallowing, works

from aura.context import Context
from aura.errors import EndRun
from aura.lifecycle import RunState, StepState, Stop
from aura.plan import Rate, Semaphore
from aura.runs.liverun import LiveRun
from aura.task import Dependency, Mode, ModeKind

SCREEN = {"screen": Semaphore(1)}
BOTH = {"screen": Semaphore(1), "arm": Semaphore(1)}
ENDED = frozenset({StepState.SUCCEEDED, StepState.FAILED})


def lasts(seconds: float, log: list[str] | None = None) -> Callable[[Context], Any]:
    """An action that takes so long, and notes its step when it begins."""

    async def act(ctx: Context) -> None:
        if log is not None:
            log.append(ctx.step)
        await anyio.sleep(seconds)

    return act


def used(kit: Opened, name: str = "screen") -> tuple[int, int]:
    """How much of a resource is in use, and how many wait for it."""
    shown = kit.engine.status()["resources"][name]
    return shown["in_use"], shown["waiting"]


async def waiting_for(kit: Opened, run: LiveRun) -> Any:
    return (await kit.engine.history.get_run(run.cid)).record.waiting_for


# -- runs


async def test_run_waits_for_what_another_one_holds_and_takes_no_place(tmp_path: Path) -> None:
    made = [task(name, step(f"s{name}", lasts(10.0)), resources={"screen": 1}) for name in "ab"]
    async with opened(tmp_path, *made, lanes={"main": 2}, resources=SCREEN) as kit:
        first = await begun(kit, task_name="a")
        second = await kit.begin_run("b")
        await quiet()
        lane = kit.engine.dispatcher.lanes["main"]
        assert (second.state, lane.placed, lane.waiting, used(kit)) == (RunState.QUEUED, {first}, 1, (1, 1))
        expected = {"kind": "resource", "names": ["screen"], "holders": [first.cid]}
        assert await waiting_for(kit, second) == expected
        assert (await kit.ended(second)).state == "succeeded"
        assert used(kit) == (0, 0)
        check_idle(kit)


async def test_run_that_waits_holds_up_nobody_who_needs_something_else(tmp_path: Path) -> None:
    holds = task("a", step("x", forever), resources={"screen": 1})
    other = task("b", step("y", works), resources={"arm": 1})
    async with opened(tmp_path, holds, other, lanes={"main": 2}, resources=BOTH) as kit:
        await begun(kit, task_name="a")
        waits = [await kit.begin_run("a") for _ in range(3)]
        assert (await kit.record("b")).state == "succeeded"
        assert [one["cid"] for one in kit.engine.queue_list()] == [run.cid for run in waits]


async def test_those_that_wait_start_by_priority_and_then_in_order(tmp_path: Path) -> None:
    log: list[str] = []

    async def act(ctx: Context) -> None:
        log.append(ctx.cid)
        await anyio.sleep(1.0)

    made = task("t", step("a", act), resources={"screen": 1})
    async with opened(tmp_path, made, lanes={"main": 9}, resources=SCREEN) as kit:
        runs = [await kit.begin_run("t", priority=priority) for priority in (0, 0, 5, 0, 5)]
        await kit.settle()
        assert log == [runs[n].cid for n in (0, 2, 4, 1, 3)]


async def test_priority_lets_one_that_waits_behind_another_go_at_once(tmp_path: Path) -> None:
    holds = task("a", step("x", forever), resources={"arm": 1})
    needs_both = task("b", step("y", works), resources={"arm": 1, "screen": 1})
    needs_one = task("c", step("z", works), resources={"screen": 1})
    async with opened(tmp_path, holds, needs_both, needs_one, resources=BOTH) as kit:
        await begun(kit, task_name="a")
        first, second = await kit.begin_run("b"), await kit.begin_run("c")
        await quiet()
        assert (first.state, second.state) == ("queued", "queued")
        await kit.engine.set_priority(second.cid, 5)
        await quiet()
        assert (first.state, second.state) == ("queued", "succeeded")


async def test_resources_come_back_while_it_is_paused_and_are_taken_again(tmp_path: Path) -> None:
    made = [task(name, step(f"s{name}", lasts(10.0)), resources={"screen": 1}) for name in "ab"]
    async with opened(tmp_path, *made, resources=SCREEN) as kit:
        first = await begun(kit, task_name="a")
        await kit.engine.pause(first.cid)
        await quiet()
        assert used(kit) == (0, 0)
        second = await begun(kit, task_name="b")
        await kit.engine.resume(first.cid)
        await quiet()
        assert (first.state, used(kit)) == (RunState.PREEMPTED, (1, 1))
        assert (await kit.ended(first)).state == "succeeded"
        assert second.finished_at is not None
        check_idle(kit)


async def test_resources_are_held_until_the_clean_up_is_over(tmp_path: Path) -> None:
    log: list[str] = []
    gate = anyio.Event()
    first = task("a", step("x", cleaning(log, gate)), resources={"screen": 1}, cleanup_timeout=60)
    async with opened(tmp_path, first, task("b", step("y", works), resources={"screen": 1}), resources=SCREEN) as kit:
        run = await begun(kit, task_name="a")
        kit.stop(run, Stop.CANCEL)
        second = await kit.begin_run("b")
        await quiet()
        assert (second.state, used(kit)) == (RunState.QUEUED, (1, 1))
        gate.set()
        assert (await kit.ended(second)).state == "succeeded"


async def test_stuck_run_keeps_its_resources_until_its_body_ends(tmp_path: Path) -> None:
    stubborn, act = swallowing()
    made = task("a", step("x", act, resources={"arm": 1}), resources={"screen": 1}, cleanup_timeout=0.1)
    async with opened(tmp_path, made, task("b", step("y", works), resources={"screen": 1}), resources=BOTH) as kit:
        run = await begun(kit, task_name="a")
        kit.stop(run, Stop.CANCEL)
        await until(lambda: run.stuck)
        second = await kit.begin_run("b")
        await kit.advance(1)
        assert (second.state, used(kit), used(kit, "arm")) == (RunState.QUEUED, (1, 1), (1, 0))
        stubborn.free = True
        assert (await kit.ended(second)).state == "succeeded"
        check_idle(kit)


@pytest.mark.parametrize("how", ["cancel", "pause", "lost"])
async def test_one_that_waits_no_longer_is_forgotten(tmp_path: Path, how: str) -> None:
    backend = FaultyBackend()
    made = task("t", step("a", lasts(10.0)), resources={"screen": 1})
    async with opened(tmp_path, made, backend=backend, resources=SCREEN) as kit:
        await begun(kit)
        second = await kit.begin_run("t")
        await quiet()
        assert used(kit) == (1, 1)
        await (kit.engine.pause(second.cid) if how == "pause" else kit.engine.cancel(second.cid))
        assert used(kit) == (1, 0)


async def test_undeclared_resource_fails_the_run(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works), resources={"camera": 1})) as kit:
        record = await kit.record("t")
        assert (record.state, record.reason, record.error and record.error["type"]) == (
            "failed",
            "no_resources",
            "ResourceMissing",
        )
        assert "there is no resource 'camera'" in str(record.error)
        check_idle(kit)


async def test_more_than_there_is_fails_the_run(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works), resources={"screen": 2}), resources=SCREEN) as kit:
        record = await kit.record("t")
        assert "2 of screen are needed at once, and there is only 1 of it" in str(record.error)


async def test_run_that_goes_on_and_cannot_have_it_any_more_fails_with_its_handlers(tmp_path: Path) -> None:
    log: list[str] = []
    made = task("t", step("a", forever), resources={"screen": 1}, finally_=[step("z", noting(log, "z"))])
    backend = FaultyBackend()
    generations = PythonGenerations(made)
    async with opened(tmp_path, generations=generations, backend=backend, resources=SCREEN) as kit:
        run = await begun(kit)
        await kit.engine.pause(run.cid)
        await quiet()
        left = copy_of(backend)
    async with opened(tmp_path, generations=generations, backend=left) as kit:
        await kit.engine.resume(run.cid)
        record = await kit.ended(run.cid)
        assert (record.state, record.reason, log) == ("failed", "no_resources", ["z"])


async def test_plans_own_resource_goes_before_everyones(tmp_path: Path) -> None:
    generations = PythonGenerations(task("t", step("a", lasts(10.0)), resources={"screen": 1}))
    assert generations.now is not None
    generations.now.plan = msgspec.structs.replace(generations.now.plan, resources={"screen": Semaphore(2)})
    async with opened(tmp_path, generations=generations, resources=SCREEN) as kit:
        for _ in range(3):
            await kit.begin_run("t")
        await quiet()
        assert (used(kit, "p/screen"), used(kit)) == ((2, 1), (0, 0))


def version(hash: str, count: int) -> PythonGeneration:
    """A version of a plan whose task t needs two of a resource, and a step of u one."""
    one: Any = {"resources": {"screen": 1}}
    made = [task("t", step("a", works), resources={"screen": 2})]
    made.append(task("u", step("b", lasts(10.0), **one), step("c", works, ("b",), **one)))
    found = PythonGeneration({each.name: (each, functions) for each, functions in made}, hash)
    found.plan = msgspec.structs.replace(found.plan, resources={"screen": Semaphore(count)})
    return found


async def test_version_with_less_of_it_lets_nobody_wait_for_more_than_there_is(tmp_path: Path) -> None:
    generations = PythonGenerations()
    generations.now = version("g1", 2)
    async with opened(tmp_path, generations=generations) as kit:
        await begun(kit, task_name="u")
        waits = await kit.begin_run("t")
        await quiet()
        generations.now = version("g2", 1)
        last = await kit.begin_run("u")
        assert (await kit.ended(waits)).reason == "no_resources"
        assert (await kit.ended(last)).state == "succeeded"
        check_idle(kit)


async def test_version_with_more_of_it_lets_those_go_that_wait(tmp_path: Path) -> None:
    generations = PythonGenerations()
    generations.now = version("g1", 2)
    async with opened(tmp_path, generations=generations) as kit:
        first = await begun(kit, task_name="u")
        waits = await kit.begin_run("t")
        await quiet()
        generations.now = version("g2", 3)
        await kit.engine.reload()
        assert (await kit.ended(waits)).state == "succeeded"
        assert first.live


async def test_version_that_is_served_says_how_much_there_is_to_runs_of_an_older_one(tmp_path: Path) -> None:
    generations = PythonGenerations()
    generations.now = version("g1", 2)
    async with opened(tmp_path, generations=generations) as kit:
        old = await begun(kit, task_name="u")
        generations.now = version("g2", 1)
        await kit.ended(old)
        assert kit.engine.status()["resources"]["p/screen"]["capacity"] == 1


async def test_rate_lets_so_many_start_in_its_time(tmp_path: Path) -> None:
    times: list[float] = []

    async def act() -> None:
        times.append(round(anyio.current_time() - start))

    made = task("t", step("a", act), resources={"api": 1})
    async with opened(tmp_path, made, lanes={"main": 9}, resources={"api": Rate(2, 20.0)}) as kit:
        start = anyio.current_time()
        for _ in range(5):
            await kit.begin_run("t")
        await kit.settle()
        assert times == [0, 0, 10, 20, 30]
        check_idle(kit)


# -- steps


async def test_step_waits_while_others_of_its_run_go_on(tmp_path: Path) -> None:
    log: list[str] = []
    needs = {"screen": 1}
    steps = [step("a", lasts(5.0, log), resources=needs), step("b", lasts(5.0, log), resources=needs)]
    made = task("t", *steps, step("c", lasts(1.0, log)), step("d", lasts(1.0, log), ("c",)))
    async with opened(tmp_path, made, resources=SCREEN) as kit:
        run = await kit.begin_run("t")
        await kit.advance(1.5)
        assert (log, used(kit)) == (["a", "c", "d"], (1, 1))
        expected = {"kind": "resource", "names": ["screen"], "holders": [run.cid], "steps": ["b"]}
        assert await waiting_for(kit, run) == expected
        assert (await kit.steps(run)).get("b") is None, "it has not begun"
        assert (await kit.ended(run)).state == "succeeded"
        assert log == ["a", "c", "d", "b"]
        check_idle(kit)


async def test_step_that_is_met_while_another_start_is_written_does_not_wait_for_that_ones_end(tmp_path: Path) -> None:
    holds, first, backend = anyio.Event(), anyio.Event(), FaultyBackend()

    def until_set(event: anyio.Event) -> Callable[[], Any]:
        async def act() -> None:
            await event.wait()

        return act

    steps = [step("a", forever, resources={"screen": 1}), step("b", until_set(first)), step("c", forever, ("b",))]
    other = task("o", step("x", until_set(holds), resources={"screen": 1}))
    async with opened(tmp_path, task("t", *steps), other, backend=backend, resources=SCREEN) as kit:
        await begun(kit, task_name="o")
        run = await begun(kit)
        backend.gate = anyio.Event()
        first.set()
        await quiet()
        holds.set()
        await quiet()
        backend.gate.set()
        await quiet()
        assert sorted(run.live) == ["a", "c"]


async def test_run_whose_first_step_waits_runs_on_record(tmp_path: Path) -> None:
    holds = task("h", step("x", lasts(10.0), resources={"screen": 1}))
    made = task("t", step("a", works, resources={"screen": 1}))
    async with opened(tmp_path, holds, made, resources=SCREEN) as kit:
        await begun(kit, task_name="h")
        run = await kit.begin_run("t")
        await quiet()
        assert (await kit.engine.history.record(run.cid)).state == "running"
        assert (await kit.ended(run)).state == "succeeded"
        assert await kit.history(run.cid) == [
            *("run.accepted", "run.started", "step.started a", "step.succeeded a", "run.succeeded"),
        ]


async def test_each_try_takes_and_gives_back(tmp_path: Path) -> None:
    times: list[float] = []

    async def act() -> None:
        times.append(round(anyio.current_time() - start))
        raise OSError("again")

    made = task("t", step("a", act, resources={"api": 1, "screen": 1}, retry={"attempts": 3, "delay": 1.0}))
    async with opened(tmp_path, made, resources={"api": Rate(1, 10.0), **SCREEN}) as kit:
        start = anyio.current_time()
        assert (await kit.record("t")).state == "failed"
        assert times == [0, 10, 20]
        check_idle(kit)


async def test_back_off_holds_nothing(tmp_path: Path) -> None:
    made = task("t", step("a", fails, resources={"screen": 1}, retry={"attempts": 2, "delay": 60.0}))
    async with opened(tmp_path, made, resources=SCREEN) as kit:
        await kit.begin_run("t")
        await kit.advance(30)
        assert used(kit) == (0, 0)


async def test_items_share_what_there_is(tmp_path: Path) -> None:
    now: list[int] = []
    most = 0

    async def act() -> None:
        nonlocal most
        now.append(1)
        most = max(most, len(now))
        await anyio.sleep(1.0)
        now.pop()

    made = task("t", step("a", act, resources={"screen": 1}, loop={"times": 9, "parallelism": 9}))
    async with opened(tmp_path, made, resources={"screen": Semaphore(3)}) as kit:
        began = anyio.current_time()
        assert (await kit.record("t")).state == "succeeded"
        assert (most, round(anyio.current_time() - began)) == (3, 3)
        check_idle(kit)


async def test_rounds_spend_a_rate_each(tmp_path: Path) -> None:
    made = task("t", step("a", works, resources={"api": 1}, loop={"while_": "{{ loop.index < 4 }}"}))
    async with opened(tmp_path, made, resources={"api": Rate(1, 5.0)}) as kit:
        began = anyio.current_time()
        assert (await kit.record("t")).state == "succeeded"
        assert round(anyio.current_time() - began) == 15


@pytest.mark.parametrize("on_failure", [True, False], ids=["stop", "continue"])
async def test_items_that_ask_for_too_much_fail_one_by_one(tmp_path: Path, on_failure: bool) -> None:
    loop = {"times": 300, "parallelism": 7, "stop_on_failure": on_failure}
    made = task("t", step("a", works, resources={"screen": 2}, loop=loop))
    async with opened(tmp_path, made, resources=SCREEN) as kit:
        record = await kit.record("t")
        assert record.state == ("failed" if on_failure else "succeeded")
        check_idle(kit)


async def test_item_that_is_met_as_its_loop_fails_gives_back_what_it_took(tmp_path: Path) -> None:
    loop = {"times": 3, "parallelism": 2}
    last = step("b", works, resources={"screen": 1}, depends_on=(Dependency("a", ENDED),))
    made = task("t", step("a", fails, loop=loop, resources={"screen": 1}), last)
    async with opened(tmp_path, made, resources=SCREEN) as kit:
        run = await kit.run("t")
        assert (run.state, run.steps["b"].state) == ("failed", "succeeded")
        check_idle(kit)


async def test_undeclared_resource_fails_the_step_and_what_follows_goes_on(tmp_path: Path) -> None:
    log: list[str] = []
    after = (Dependency("a", ENDED),)
    made = task("t", step("a", works, resources={"camera": 1}), step("b", noting(log, "b"), depends_on=after))
    async with opened(tmp_path, made) as kit:
        record = await kit.record("t")
        assert (record.state, record.error and record.error["type"], log) == ("failed", "ResourceMissing", ["b"])


@pytest.mark.parametrize("kind", [Stop.CANCEL, Stop.TIMEOUT, Stop.SHUTDOWN, Stop.INTERRUPT])
async def test_stop_withdraws_the_waits_of_a_run(tmp_path: Path, kind: Stop) -> None:
    holds = task("h", step("x", forever, resources={"screen": 1}))
    made = task("t", step("a", works, resources={"screen": 1}), step("b", forever))
    async with opened(tmp_path, holds, made, resources=SCREEN) as kit:
        await begun(kit, task_name="h")
        run = await kit.begin_run("t")
        await until(lambda: run.live)
        assert used(kit) == (1, 1)
        kit.stop(run, kind)
        await quiet()
        assert used(kit) == (1, 0)


async def test_pause_of_a_run_whose_step_waits_and_its_resume(tmp_path: Path) -> None:
    holds = task("h", step("x", lasts(10.0), resources={"screen": 1}))
    made = task("t", step("a", works), step("b", works, ("a",), resources={"screen": 1}))
    async with opened(tmp_path, holds, made, resources=SCREEN) as kit:
        await begun(kit, task_name="h")
        run = await kit.begin_run("t")
        await quiet()
        assert await kit.engine.pause(run.cid) == "preempted"
        assert used(kit) == (1, 0)
        await kit.engine.resume(run.cid)
        assert (await kit.ended(run)).state == "succeeded"
        check_idle(kit)


async def test_action_stop_ends_what_waits(tmp_path: Path) -> None:
    async def ends() -> None:
        await anyio.sleep(1.0)
        raise EndRun(7)

    holds = task("h", step("x", forever, resources={"screen": 1}))
    made = task("t", step("a", works, resources={"screen": 1}), step("b", ends))
    async with opened(tmp_path, holds, made, resources=SCREEN) as kit:
        await begun(kit, task_name="h")
        run = await kit.run("t")
        assert (run.state, run.record.result, used(kit)) == ("succeeded", 7, (1, 0))
        assert run.steps["a"].state == "skipped"


async def test_step_that_is_met_as_the_action_stop_ends_its_run_gives_back_what_it_took(tmp_path: Path) -> None:
    async def ends() -> None:
        await anyio.sleep(1.0)
        raise EndRun(None)

    needs: Any = {"resources": {"screen": 1}}
    made = task("t", step("a", ends, **needs), step("b", works, **needs), finally_=[step("f", works, **needs)])
    async with opened(tmp_path, made, resources=SCREEN) as kit:
        run = await kit.run("t")
        assert (run.state, run.steps["b"].state, run.steps["f"].state) == ("succeeded", "skipped", "succeeded")


async def test_handler_does_not_wait_longer_than_its_time(tmp_path: Path) -> None:
    log: list[str] = []
    holds = task("h", step("x", forever, resources={"screen": 1}))
    tidy = [step("z", noting(log, "z"), resources={"screen": 1})]
    made = task("t", step("a", works), finally_=tidy, cleanup_timeout=5.0)
    async with opened(tmp_path, holds, made, resources=SCREEN) as kit:
        await begun(kit, task_name="h")
        began = anyio.current_time()
        record = await kit.record("t")
        assert (record.state, log, round(anyio.current_time() - began)) == ("succeeded", [], 5)
        assert record.cleanup_error is not None
        assert record.cleanup_error["type"] == "cleanup_timeout"
        assert used(kit) == (1, 0)


async def test_step_of_a_run_goes_before_runs_that_have_yet_to_start(tmp_path: Path) -> None:
    """Else the one that waits for a place could hold up the one whose place it waits for."""
    log: list[str] = []
    whole = task("w", step("x", noting(log, "w")), resources={"screen": 1})
    made = task("t", step("a", lasts(1.0)), step("b", noting(log, "b"), ("a",), resources={"screen": 1}))
    holds = task("h", step("y", lasts(5.0), resources={"screen": 1}))
    async with opened(tmp_path, whole, made, holds, lanes={"main": 2}, resources=SCREEN) as kit:
        await begun(kit, task_name="h")
        await kit.begin_run("w")
        await quiet()
        run = await kit.begin_run("t")
        await kit.settle()
        assert run.state is RunState.SUCCEEDED
        assert sorted(log) == ["b", "w"]


# -- circles


async def test_wait_that_would_close_a_circle_fails_its_step_and_says_so(tmp_path: Path) -> None:
    first = task("a", step("x", lasts(1.0)), step("y", works, ("x",), resources={"arm": 1}), resources={"screen": 1})
    other = task("b", step("z", lasts(2.0)), step("q", works, ("z",), resources={"screen": 1}), resources={"arm": 1})
    async with opened(tmp_path, first, other, resources=BOTH) as kit:
        a, b = await kit.begin_run("a"), await kit.begin_run("b")
        record = await kit.ended(b)
        assert record.error is not None
        said = f"run {b.cid} holds arm and waits for screen, run {a.cid} holds screen and waits for arm"
        assert (record.error["type"], record.error["step"]) == ("ResourceCircle", "q")
        assert said in record.error["message"]
        assert (await kit.ended(a)).state == "succeeded"
        check_idle(kit)


async def test_step_that_asks_for_more_than_its_run_leaves_is_a_circle(tmp_path: Path) -> None:
    made = task("t", step("a", works, resources={"screen": 1}), resources={"screen": 1})
    async with opened(tmp_path, made, resources=SCREEN) as kit:
        record = await kit.record("t")
        assert record.error is not None
        assert record.error["type"] == "ResourceCircle"


# -- sub-tasks


def asks(name: str) -> Any:
    async def act(ctx: Context) -> Any:
        return await ctx.run(name)

    return act


@pytest.mark.parametrize("where", ["task", "step"])
async def test_sub_task_has_what_its_parents_hold(tmp_path: Path, where: str) -> None:
    needs = {"screen": 1}
    child = task("c", step("x", works, resources=needs), resources=needs)
    top = task("t", step("a", asks("c"), resources=needs if where == "step" else {}))
    top = (msgspec.structs.replace(top[0], resources=needs if where == "task" else {}), top[1])
    async with opened(tmp_path, top, child, resources=SCREEN) as kit:
        assert (await kit.record("t")).state == "succeeded"
        check_idle(kit)


async def test_sub_task_waits_in_place_for_what_its_parents_lack(tmp_path: Path) -> None:
    holds = task("h", step("y", lasts(10.0)), resources={"arm": 1})
    child = task("c", step("x", works), resources={"screen": 1, "arm": 1})
    top = task("t", step("a", asks("c")), resources={"screen": 1})
    async with opened(tmp_path, holds, top, child, resources=BOTH) as kit:
        await begun(kit, task_name="h")
        run = await kit.begin_run("t")
        await quiet()
        assert (used(kit), used(kit, "arm")) == ((1, 0), (1, 1))
        assert (await kit.ended(run)).state == "succeeded"
        check_idle(kit)


@pytest.mark.parametrize("how", ["cancel", "pause"])
async def test_stop_of_a_parent_ends_the_wait_of_its_sub_task(tmp_path: Path, how: str) -> None:
    holds = task("h", step("y", lasts(10.0)), resources={"screen": 1})
    made = [task("t", step("a", asks("c"))), task("c", step("x", works), resources={"screen": 1})]
    async with opened(tmp_path, holds, *made, resources=SCREEN) as kit:
        await begun(kit, task_name="h")
        run = await kit.begin_run("t")
        await quiet()
        assert used(kit) == (1, 1)
        await (kit.engine.pause(run.cid) if how == "pause" else kit.engine.cancel(run.cid))
        await quiet()
        assert used(kit) == (1, 0)
        if how == "pause":
            await kit.engine.resume(run.cid)
        assert (await kit.ended(run)).state == ("succeeded" if how == "pause" else "cancelled")
        await kit.settle()
        check_idle(kit)


async def test_sub_task_that_would_wait_for_ever_fails_its_parents_step(tmp_path: Path) -> None:
    other = task("o", step("y", lasts(1.0)), step("z", works, ("y",), resources={"screen": 1}), resources={"arm": 1})
    top = task("t", step("b", lasts(2.0)), step("a", asks("c"), ("b",)), resources={"screen": 1})
    child = task("c", step("x", works), resources={"arm": 1})
    async with opened(tmp_path, other, top, child, resources=BOTH) as kit:
        run = await kit.begin_run("o")
        record = await kit.record("t")
        assert record.error is not None
        assert record.error["cause"]["type"] == "ResourceCircle"
        assert (await kit.ended(run)).state == "succeeded"
        check_idle(kit)


async def test_modes_and_resources_are_taken_together(tmp_path: Path) -> None:
    log: list[str] = []
    made = task("t", step("a", lasts(10.0, log)), mode=Mode(ModeKind.QUEUED, 10), resources={"screen": 1})
    other = task("o", step("b", lasts(1.0, log)), resources={"screen": 1})
    async with opened(tmp_path, made, other, resources={"screen": Semaphore(2)}) as kit:
        for _ in range(3):
            await kit.begin_run("t")
        assert (await kit.record("o")).state == "succeeded", "what waits for its mode does not wait for the screen"
        await kit.settle()
        assert log == ["a", "b", "a", "a"]
        check_idle(kit)


# -- restarts of the server


async def test_resources_are_free_after_a_restart(tmp_path: Path) -> None:
    backend = FaultyBackend()
    made = task("t", step("a", lasts(10.0)), resources={"screen": 1})
    async with opened(tmp_path, made, backend=backend, resources=SCREEN) as kit:
        run = await begun(kit)
        await kit.engine.pause(run.cid)
        await quiet()
        left = copy_of(backend)
    async with opened(tmp_path, made, backend=left, resources=SCREEN) as kit:
        assert used(kit) == (0, 0)
        assert (await kit.record("t")).state == "succeeded"


async def test_what_needs_nothing_has_no_claims(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", forever)), resources=SCREEN) as kit:
        run = await begun(kit)
        assert run.claims is None
        assert not kit.engine.claims.pool._holders


@pytest.mark.parametrize("lasting", [1.5, 2.0, 3.0], ids=["before", "in the same instant", "after"])
async def test_step_that_waits_is_not_asked_again_when_another_that_would_do_ends(
    tmp_path: Path, lasting: float
) -> None:
    """``any``: one is enough; the second ends before, while and after what the step waits for comes back."""
    log: list[str] = []
    keys = {"resources": {"screen": 1}, "any_of": True, "when": "{{ steps.b.state != 'succeeded' }}"}
    made = task(
        "t",
        step("holds", lasts(2.0), resources={"screen": 1}),
        step("a", lasts(1.0)),
        step("b", lasts(lasting)),
        step("c", lasts(0.5, log), needs=("a", "b"), **keys),
    )
    async with opened(tmp_path, made, resources=SCREEN) as kit:
        run = await kit.begin_run("t")
        assert (await kit.ended(run)).state == "succeeded"
        assert ((await kit.steps(run))["c"].state, log) == ("succeeded", ["c"])
        check_idle(kit)
