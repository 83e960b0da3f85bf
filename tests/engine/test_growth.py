"""Nothing grows with what has been: cancelled runs leave their queues, ended ones the memory, timers go with both."""

import asyncio
import gc
from pathlib import Path

import pytest
from tests.engine.kit import Opened, opened, quiet, step, task, turns, until
from tests.fakes.kernel import begun, fails, forever, works

from aura.kernel.lanes import STALE_AT_LEAST
from aura.lifecycle import Stop
from aura.run import Cause, Request
from aura.runs.attempt import Attempt
from aura.runs.liverun import LiveRun

MANY = STALE_AT_LEAST + 500


async def cancelled(kit: Opened, count: int, delay_s: float = 0.0) -> None:
    """Submit that many runs and cancel each at once."""
    for _ in range(count):
        await kit.engine.cancel((await kit.begin_run("t", delay_s=delay_s)).cid)


# -- queues


async def test_cancelled_delayed_runs_are_forgotten(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works))) as kit:
        await kit.begin_run("t", delay_s=1000)  # stands before all the others
        await cancelled(kit, MANY, delay_s=2000)
        assert len(kit.engine.dispatcher._delayed) < STALE_AT_LEAST + 100


async def test_cancelled_runs_of_a_stopped_engine_are_forgotten(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works))) as kit:
        await kit.engine.stop("cancel", 0.1)
        await cancelled(kit, MANY)
        assert kit.engine.dispatcher._send.statistics().current_buffer_used < 100
        assert len(kit.engine.dispatcher.lanes["main"]._heap) < STALE_AT_LEAST + 100


async def test_run_cancelled_while_the_engine_is_stopped_is_not_counted_later(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works))) as kit:
        await kit.engine.stop("cancel", 0.1)
        await quiet()
        await cancelled(kit, 1)
        await kit.engine.start()
        await quiet()
        assert kit.engine.status()["lanes"]["main"] == {"limit": 4, "running": 0, "queued": 0, "stuck": 0}


async def test_delayed_run_that_was_cancelled_is_not_counted_at_its_time(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works))) as kit:
        gone = await kit.begin_run("t", delay_s=0.05)
        later = await kit.begin_run("t", delay_s=0.1)
        await kit.engine.cancel(gone.cid)
        await kit.ended(later)
        assert kit.engine.status()["lanes"]["main"]["queued"] == 0


# -- timers of the queue


async def test_queue_timeout_of_a_delayed_run_counts_from_its_time(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works), queue_timeout=0.2)) as kit:
        assert (await kit.run("t", delay_s=0.4)).state == "succeeded"


@pytest.mark.parametrize("delay_s", [0.0, 1000.0], ids=["waiting", "delayed"])
async def test_queue_timers_are_gone_when_the_server_has_ended(tmp_path: Path, delay_s: float) -> None:
    async with opened(tmp_path, task("t", step("a", works), queue_timeout=3600)) as kit:
        await kit.engine.stop("cancel", 0.1)
        run = await kit.begin_run("t", delay_s=delay_s)
        assert run.timer is not None
    assert run.timer is None or run.timer.cancelled()


# -- ended runs


async def one_of_each(kit: Opened) -> None:
    """A success with handlers, a failure after retries, a cancel of a running run and of one that has not begun."""
    await kit.run("t")
    await kit.run("u")
    run = await begun(kit, task_name="v")
    kit.stop(run, Stop.CANCEL)
    await kit.ended(run)
    queued = kit.engine.admission.request(Request("p", "t"), Cause("api")).run
    kit.stop(queued, Stop.CANCEL)
    await kit.ended(queued)


async def test_nothing_of_ended_runs_stays_in_memory(tmp_path: Path) -> None:
    made = [
        task("t", step("a", works), step("b", works), finally_=[step("z", works)], timeout=3600, queue_timeout=3600),
        task("u", step("c", fails, timeout=3600, retry={"attempts": 2}), timeout=3600),
        task("v", step("d", forever, timeout=3600), timeout=3600),
    ]
    async with opened(tmp_path, *made, lanes={"main": 20}) as kit:
        for _ in range(50):
            await one_of_each(kit)
        await turns(50)
        await until(lambda: not kit.engine.runtime.open)
        gc.collect()
        ours = kit.engine.runtime.boot_tag  # what other tests in this process have left hanging is not ours
        runs = [thing for thing in gc.get_objects() if isinstance(thing, (LiveRun, Attempt))]
        held = [thing for thing in runs if (thing.run if isinstance(thing, Attempt) else thing).boot_tag == ours]
        assert len(held) < 10
        timers = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
        assert len([timer for timer in timers if not timer.cancelled()]) < 10
