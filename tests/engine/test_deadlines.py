"""The time-outs of a run, which phases count against them, and the one deadline that an action is told."""

import math
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, opened, step, task, until
from tests.engine.test_on_preempt import preempted
from tests.fakes.kernel import begun, fails, first_time_forever, forever, works

from aura.context import Context
from aura.runs.liverun import LiveRun

# -- what counts against which time-out


def lasting(seconds: float) -> Any:
    async def act() -> None:
        await anyio.sleep(seconds)

    return act


async def rests(kit: Opened, run: LiveRun, seconds: float) -> None:
    """Pause it, and resume it that much later."""
    await preempted(kit, run)
    await kit.advance(seconds)
    await kit.engine.resume(run.cid)


#: keys of a task, seconds of its one step, when it is paused and for how long → its end, and its active seconds.
PHASES: dict[str, tuple[dict[str, Any], float, tuple[float, float] | None, tuple[str, float]]] = {
    "its steps count": ({}, 11, None, ("timed_out", 10)),
    "what fits": ({}, 9, None, ("succeeded", 9)),
    "rest does not count": ({}, 8, (1, 60), ("succeeded", 9)),
    "what was done before it rested does": ({}, 9, (3, 60), ("timed_out", 10)),
    "on_preempt does not": ({"on_preempt": [step("p", lasting(9))]}, 8, (1, 60), ("succeeded", 9)),
    "on_resume does": ({"on_resume": [step("r", lasting(4))]}, 8, (1, 60), ("timed_out", 10)),
    "on_resume that fits": ({"on_resume": [step("r", lasting(1))]}, 8, (0.5, 60), ("succeeded", 9.5)),
    "finally is not cut by it": ({"finally_": [step("z", lasting(5))]}, 9, None, ("succeeded", 14)),
    "on_failure of a failure is": (
        {"on_failure": [step("f", lasting(20))], "finally_": [step("b", fails)]},
        -1,
        None,
        ("failed", 10),
    ),
}


@pytest.mark.parametrize("phase", PHASES)
async def test_timeout_counts_active_time(tmp_path: Path, phase: str) -> None:
    keys, seconds, pause, (state, active) = PHASES[phase]
    body = lasting(seconds) if seconds > 0 else fails
    async with opened(tmp_path, task("t", step("a", body), timeout=10.0, **keys)) as kit:
        run = await begun(kit) if pause else await kit.begin_run("t")
        if pause:
            await kit.advance(pause[0])
            await rests(kit, run, pause[1])
        record = await kit.ended(run)
        assert (record.state, round(record.active_s, 2)) == (state, active)


@pytest.mark.parametrize("handler", ["on_preempt", "on_cancel", "finally_"])
async def test_cleanup_timeout_is_that_of_each_handler_of_a_stop(tmp_path: Path, handler: str) -> None:
    async with opened(
        tmp_path, task("t", step("a", forever), cleanup_timeout=4.0, **{handler: [step("h", forever)]})
    ) as kit:
        run = await begun(kit)
        began = kit.now
        if handler == "on_preempt":
            await preempted(kit, run)
        else:
            await kit.engine.cancel(run.cid)
            await kit.ended(run)
        assert round(kit.now - began, 2) == 4
        assert (await kit.steps(run))["h"].state == "timed_out"


@pytest.mark.parametrize("first", ["on_preempt", "none"])
async def test_handlers_of_the_end_have_a_time_of_their_own_after_on_preempt(tmp_path: Path, first: str) -> None:
    keys = {"on_preempt": [step("p", lasting(3))]} if first == "on_preempt" else {}
    made = task("t", step("a", forever), cleanup_timeout=4.0, finally_=[step("z", forever)], **keys)
    async with opened(tmp_path, made) as kit:
        run = await begun(kit)
        kit.engine.pausing.request_pause(run)
        if first == "on_preempt":
            await until(lambda: "p" in run.live)
        began = kit.now
        await kit.engine.cancel(run.cid)
        await kit.ended(run)
        assert round(kit.now - began, 2) == (7 if first == "on_preempt" else 4)


async def test_queue_timeout_ends_with_the_first_start(tmp_path: Path) -> None:
    handlers = {"on_preempt": [step("p", works)], "on_resume": [step("r", lasting(5))]}
    made = task("t", step("a", first_time_forever([])), queue_timeout=2.0, **handlers)
    async with opened(tmp_path, made) as kit:
        run = await begun(kit)
        await kit.advance(10)
        await rests(kit, run, 60)
        assert (await kit.ended(run)).state == "succeeded"


# -- what an action is told


def asks(told: list[float], seconds: float = 0.0) -> Any:
    async def act(ctx: Context) -> None:
        await anyio.sleep(seconds)
        told.append(round(ctx.time_left(), 2))

    return act


@pytest.mark.parametrize(
    ("of_the_run", "of_the_step", "left"),
    [(None, None, math.inf), (20.0, None, 17.0), (None, 9.0, 6.0), (20.0, 9.0, 6.0), (5.0, 9.0, 2.0)],
)
async def test_time_left_is_that_until_the_nearest_timeout(
    tmp_path: Path, of_the_run: float | None, of_the_step: float | None, left: float
) -> None:
    told: list[float] = []
    async with opened(tmp_path, task("t", step("a", asks(told, 3), timeout=of_the_step), timeout=of_the_run)) as kit:
        assert (await kit.record("t")).state == "succeeded"
        assert told == [left]


async def test_time_left_counts_from_the_time_that_the_run_was_active(tmp_path: Path) -> None:
    told: list[float] = []
    two = step("a", first_time_forever([])), step("b", asks(told, 1), ("a",))
    async with opened(tmp_path, task("t", *two, timeout=20.0, on_resume=[step("r", asks(told, 2))])) as kit:
        run = await begun(kit)
        await kit.advance(7)
        await rests(kit, run, 600)
        await kit.ended(run)
        assert told == [11.0, 10.0]


@pytest.mark.parametrize("handler", ["on_preempt", "finally_"])
async def test_time_left_of_a_handler_is_that_of_its_clean_up(tmp_path: Path, handler: str) -> None:
    told: list[float] = []
    keys = {handler: [step("h", asks(told, 1))]}
    async with opened(tmp_path, task("t", step("a", forever), timeout=3600.0, cleanup_timeout=4.0, **keys)) as kit:
        run = await begun(kit)
        await preempted(kit, run)
        await kit.engine.cancel(run.cid)
        await kit.ended(run)
        assert told == [3.0]


async def test_time_left_of_what_is_being_stopped_is_its_grace(tmp_path: Path) -> None:
    told: list[float] = []

    async def act(ctx: Context) -> None:
        try:
            await anyio.sleep(3600)
        finally:
            await anyio.sleep(1)
            told.append(round(ctx.time_left(), 2))

    async with opened(tmp_path, task("t", step("a", act), timeout=10.0, cleanup_timeout=6.0)) as kit:
        assert ((await kit.record("t")).state, told) == ("timed_out", [5.0])


async def test_time_left_of_a_plain_function_may_be_asked_in_its_thread(tmp_path: Path) -> None:
    told: list[float] = []

    def act(ctx: Context) -> None:
        told.append(round(ctx.time_left()))

    async with opened(tmp_path, task("t", step("a", act), timeout=10.0)) as kit:
        assert ((await kit.record("t")).state, told) == ("succeeded", [10])
