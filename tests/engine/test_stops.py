"""Stopping: the evidence, a stop before the first step and after the outcome, time-outs, runs that only wait."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio import from_thread
from tests.engine.kit import Opened, opened, step, task, turns, until

from aura.lifecycle import Recovery, Stop
from aura.runs.liverun import LiveRun


async def forever() -> None:
    await anyio.sleep(3600)


def noted(log: list[str], name: str) -> Any:
    async def act() -> None:
        log.append(name)

    return act


async def running(kit: Opened, **keys: Any) -> LiveRun:
    """A run of task t whose first step has begun and sits at an await."""
    run = await kit.begin_run("t", **keys)
    await until(lambda: run.live and all(a.edge._task for a in run.live.values()))
    await turns(20)
    return run


# -- evidence


@pytest.mark.parametrize("last", [True, False], ids=["last step", "one more step"])
async def test_stop_in_the_turn_in_which_a_step_ends(tmp_path: Path, last: bool) -> None:
    log: list[str] = []
    gate = anyio.Event()

    async def act() -> None:
        await gate.wait()

    steps = [step("a", act)] + ([] if last else [step("b", noted(log, "b"), ("a",))])
    async with opened(tmp_path, task("t", *steps)) as kit:
        run = await running(kit)
        gate.set()
        kit.stop(run, Stop.CANCEL)
        record = await kit.ended(run)
        assert (record.state, log) == ("succeeded" if last else "cancelled", [])


async def test_value_returned_after_the_edge_is_a_finished_step(tmp_path: Path) -> None:
    async def act() -> str:
        try:
            await anyio.sleep(3600)
        except asyncio.CancelledError:
            await anyio.sleep(0.001)
        return "finished all the same"

    async with opened(tmp_path, task("t", step("a", act), returns="{{ steps.a.output }}")) as kit:
        run = await running(kit)
        kit.stop(run, Stop.CANCEL)
        record = await kit.ended(run)
        assert (record.state, record.result) == ("succeeded", "finished all the same")


# -- a stop before the first step, and after the outcome


@pytest.mark.parametrize("kind", list(Stop), ids=lambda k: k.label)
async def test_stop_between_dispatch_and_the_first_step(tmp_path: Path, kind: Stop) -> None:
    log: list[str] = []
    async with opened(tmp_path, task("t", step("a", noted(log, "a")))) as kit:
        execute = kit.engine.dispatcher.execute

        async def stopped_at_once(run: LiveRun) -> None:
            kit.engine.dispatcher.execute = execute
            kit.stop(run, kind)
            await execute(run)

        kit.engine.dispatcher.execute = stopped_at_once
        record = await kit.record("t")
        ends = {Stop.TIMEOUT: "timed_out", Stop.CANCEL: "cancelled"}
        assert record.state == ends.get(kind, "succeeded")  # an interrupt or shutdown puts it back at its old position
        assert log == (["a"] if record.state == "succeeded" else [])
        assert record.attempt == 1


@pytest.mark.parametrize("kind", list(Stop), ids=lambda k: k.label)
async def test_stop_while_the_start_is_committed(tmp_path: Path, kind: Stop) -> None:
    log: list[str] = []
    async with opened(tmp_path, task("t", step("a", noted(log, "a")), recovery=Recovery.RESTART)) as kit:
        run = await kit.begin_run("t")
        await until(lambda: run.row == "running")
        assert not log
        kit.stop(run, kind)
        record = await kit.ended(run)
        ends = {Stop.TIMEOUT: "timed_out", Stop.CANCEL: "cancelled"}
        assert record.state == ends.get(kind, "succeeded")
        assert log == (["a"] if record.state == "succeeded" else [])


async def test_stop_after_the_outcome_is_answered_ended(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", noted([], "a")))) as kit:
        run = await kit.begin_run("t")
        await until(lambda: run.sealed)
        assert kit.stop(run, Stop.CANCEL) == "ended"
        assert (await kit.ended(run)).state == "succeeded"


async def test_cancel_racing_the_finish_has_one_outcome_each(tmp_path: Path) -> None:
    async def act() -> None:
        await anyio.lowlevel.checkpoint()

    async with opened(tmp_path, task("t", step("a", act)), lanes={"main": 100}) as kit:
        told: dict[str, str] = {}
        for index in range(500):
            run = await kit.begin_run("t")
            await turns(index % 12)
            told[run.cid] = kit.stop(run, Stop.CANCEL)
        states = [(await kit.ended(cid)).state for cid in told]
        assert set(states) <= {"succeeded", "cancelled"}
        for (cid, answer), state in zip(told.items(), states, strict=True):
            assert answer != "ended" or state == "succeeded", cid
            assert answer != "stopped" or state == "cancelled", cid
        assert {"succeeded", "cancelled"} <= set(states)


async def test_interrupt_keeps_finished_steps_and_goes_on_where_it_was(tmp_path: Path) -> None:
    log: list[str] = []
    gate = anyio.Event()

    async def mid() -> None:
        log.append("mid")
        await gate.wait()

    made = task(
        "t", step("one", noted(log, "one")), step("mid", mid, ("one",)), step("end", noted(log, "end"), ("mid",))
    )
    async with opened(tmp_path, made) as kit:
        run = await kit.begin_run("t")
        await until(lambda: "mid" in log)
        kit.stop(run, Stop.INTERRUPT)
        await until(lambda: run.state == "preempted")
        assert not run.placed
        gate.set()
        kit.engine.dispatcher.enter(run)
        record = await kit.ended(run)
        assert (record.state, log, record.attempt) == ("succeeded", ["one", "mid", "mid", "end"], 1)
        assert "run.resumed" in await kit.history(run.cid)


# -- threads, time-outs, queues


async def test_thread_is_told_and_its_result_within_the_grace_counts(tmp_path: Path) -> None:
    told = threading.Event()

    def polite() -> str:
        while True:
            try:
                from_thread.check_cancelled()
            except asyncio.CancelledError:
                told.set()
                return "in time"
            time.sleep(0.001)

    async with opened(tmp_path, task("t", step("a", polite))) as kit:
        run = await running(kit)
        kit.stop(run, Stop.CANCEL)
        assert (await kit.ended(run)).state == "succeeded"
        assert told.is_set()


async def test_thread_that_lets_its_cancellation_out_is_stopped(tmp_path: Path) -> None:
    def polite() -> None:
        while True:
            from_thread.check_cancelled()
            time.sleep(0.001)

    async with opened(tmp_path, task("t", step("a", polite))) as kit:
        run = await running(kit)
        kit.stop(run, Stop.CANCEL)
        record = await kit.ended(run)
        assert (record.state, record.error, record.cleanup_error, run.stuck) == ("cancelled", None, None, False)


async def test_run_timeout_counts_active_time_and_says_so(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", forever), timeout=0.02)) as kit:
        record = await kit.record("t")
        assert (record.state, record.stop) == ("timed_out", "timeout")
        assert record.reason == "it ran longer than 0.02 s"
        assert record.error is not None
        assert record.error["type"] == "TimeoutError"
        assert 0.02 <= record.active_s < 5


async def test_queue_timeout_ends_a_run_that_found_no_place(tmp_path: Path) -> None:
    made = [task("t", step("a", forever)), task("q", step("b", noted([], "b")), queue_timeout=0.01)]
    async with opened(tmp_path, *made, lanes={"main": 1}) as kit:
        await running(kit)
        record = await kit.record("q")
        assert (record.state, record.started_at) == ("timed_out", None)


async def test_cancel_of_a_queued_run_is_final_at_once(tmp_path: Path) -> None:
    log: list[str] = []
    made = [task("t", step("a", forever)), task("q", step("b", noted(log, "b")), finally_=[step("f", noted(log, "f"))])]
    async with opened(tmp_path, *made, lanes={"main": 1}) as kit:
        await running(kit)
        queued = await kit.begin_run("q")
        assert await kit.engine.cancel(queued.cid, "not needed") == "cancelled"
        record = await kit.ended(queued)
        assert (record.state, record.reason, log) == ("cancelled", "not needed", [])
        assert kit.engine.queue_list() == []
