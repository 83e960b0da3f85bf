"""Retries, back-offs and early ends against stops: what counts as a try, what a stop cuts short, what comes back."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import opened, step, task, until
from tests.fakes.kernel import begun, fails, forever, works

from aura.context import Context
from aura.errors import EndRun
from aura.lifecycle import Recovery, Stop


def flaky(tries: list[int]) -> Any:
    """Fails the first time only; notes which try the step takes it for."""

    async def act(ctx: Context) -> None:
        tries.append(ctx.attempt)
        if len(tries) == 1:
            raise OSError("later")

    return act


# -- a stop in a back-off


async def test_run_timeout_comes_beside_a_step_whose_next_try_would_not_fit(tmp_path: Path) -> None:
    steps = [step("a", fails, retry={"attempts": 5, "delay": 0.75}), step("b", forever)]
    async with opened(tmp_path, task("t", *steps, timeout=2)) as kit:
        run = await kit.begin_run("t")
        assert (await kit.ended(run)).state == "timed_out"
        assert (await kit.steps(run))["a"].state == "failed"  # its third try would not have fitted


async def test_interrupt_in_a_back_off_keeps_the_tries_that_were_made(tmp_path: Path) -> None:
    tries: list[int] = []
    async with opened(tmp_path, task("t", step("a", flaky(tries), retry={"attempts": 2, "delay": 0.9}))) as kit:
        run = await kit.begin_run("t")
        await until(lambda: run.backoffs)
        kit.stop(run, Stop.INTERRUPT)
        await until(lambda: run.state == "preempted")
        kit.engine.dispatcher.enter(run)
        record = await kit.ended(run)
        assert (record.state, record.attempt, tries) == ("succeeded", 1, [1, 2])


async def test_shutdown_in_a_back_off_starts_over(tmp_path: Path) -> None:
    tries: list[int] = []
    made = task("t", step("a", flaky(tries), retry={"attempts": 2, "delay": 0.9}), recovery=Recovery.RESTART)
    async with opened(tmp_path, made) as kit:
        run = await kit.begin_run("t")
        await until(lambda: run.backoffs)
        await kit.engine.stop("cancel", 0.2)
        assert run.state == "queued"
        await kit.engine.start()
        record = await kit.ended(run)
        assert (record.state, record.attempt, tries) == ("succeeded", 2, [1, 1])
        assert (await kit.steps(run))["a"].attempt == 1


async def test_start_that_an_interrupt_cut_off_uses_up_no_try(tmp_path: Path) -> None:
    tries: list[int] = []

    async def act(ctx: Context) -> None:
        tries.append(ctx.attempt)
        if len(tries) == 1:
            await anyio.sleep(3600)
        if len(tries) == 2:
            raise OSError("own")

    async with opened(tmp_path, task("t", step("a", act, retry={"attempts": 2, "delay": 0.001}))) as kit:
        run = await begun(kit)
        kit.stop(run, Stop.INTERRUPT)
        await until(lambda: run.state == "preempted")
        kit.engine.dispatcher.enter(run)
        assert ((await kit.ended(run)).state, tries) == ("succeeded", [1, 1, 2])


async def test_cancel_while_a_step_cleans_up_after_its_own_timeout_ends_its_retries(tmp_path: Path) -> None:
    gate = anyio.Event()

    async def act() -> None:
        try:
            await anyio.sleep(3600)
        finally:
            await gate.wait()

    made = task("t", step("a", act, timeout=0.02, retry={"attempts": 3}))
    async with opened(tmp_path, made) as kit:
        run = await kit.begin_run("t")
        await until(lambda: run.live and run.live["a"].cause)
        kit.stop(run, Stop.CANCEL)
        gate.set()
        assert (await kit.ended(run)).state == "cancelled"
        assert (await kit.steps(run))["a"].attempt == 1


# -- an end before the last step


async def ends() -> None:
    raise EndRun({"from": "the action"})


async def test_stop_action_ends_a_back_off_beside_it(tmp_path: Path) -> None:
    tries: list[int] = []

    async def ends_in_the_back_off() -> None:
        await until(lambda: kit.engine.runtime.open[cid].backoffs)
        raise EndRun(None)

    made = task("t", step("a", ends_in_the_back_off), step("b", flaky(tries), retry={"attempts": 9, "delay": 0.9}))
    async with opened(tmp_path, made) as kit:
        await kit.engine.stop("cancel", 0.1)
        cid = (await kit.begin_run("t")).cid
        await kit.engine.start()
        assert ((await kit.ended(cid)).state, tries) == ("succeeded", [1])
        assert (await kit.steps(cid))["b"].state == "cancelled"


async def test_step_that_fails_in_the_turn_of_a_stop_action_is_not_tried_again(tmp_path: Path) -> None:
    both, tries = anyio.Event(), [0]
    gate = anyio.Event()

    async def ends_now() -> None:
        await both.wait()
        gate.set()
        raise EndRun({"from": "the action"})

    async def other() -> None:
        tries[0] += 1
        both.set()
        await gate.wait()
        raise ValueError("own")

    made = task("t", step("a", ends_now), step("b", other, retry={"attempts": 5, "delay": 0.001}))
    async with opened(tmp_path, made) as kit:
        record = await kit.record("t")
        assert (record.state, record.result, tries) == ("succeeded", {"from": "the action"}, [1])


async def test_stop_action_in_finally_does_not_replace_the_result(tmp_path: Path) -> None:
    made = task("t", step("a", works), returns="{{ 'main' }}", finally_=[step("z", ends)])
    async with opened(tmp_path, made) as kit:
        record = await kit.record("t")
        assert (record.state, record.result, record.cleanup_error) == ("succeeded", "main", None)


@pytest.mark.parametrize("tidy", [False, True], ids=["no handlers", "with finally"])
async def test_run_whose_steps_are_all_skipped_succeeds(tmp_path: Path, tidy: bool) -> None:
    finally_ = [step("z", works)] if tidy else []
    async with opened(tmp_path, task("t", step("a", works, when="{{ false }}"), finally_=finally_)) as kit:
        record = await kit.record("t")
        assert (record.state, (await kit.steps(record.cid))["a"].state) == ("succeeded", "skipped")
