"""A stop after a stop, and stops beside what ends: deadlines only come nearer, an edge comes once, timers go away."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import opened, step, task, turns, until
from tests.fakes.kernel import begun, cleaning, no_hang, swallowing, works

from aura.attempt import Attempt
from aura.lifecycle import Stop
from aura.liverun import LiveRun


async def test_second_stop_with_a_longer_grace_does_not_put_off_the_end(tmp_path: Path) -> None:
    stubborn, act = swallowing()
    async with opened(tmp_path, task("t", step("a", act))) as kit:
        run = await begun(kit)
        kit.stop(run, Stop.CANCEL, grace=0.05)
        kit.stop(run, Stop.CANCEL, grace=3600)
        await until(lambda: run.stuck)
        stubborn.free = True
        await kit.ended(run)


async def test_second_stop_with_a_shorter_grace_brings_the_end_nearer(tmp_path: Path) -> None:
    stubborn, act = swallowing()
    async with opened(tmp_path, task("t", step("a", act))) as kit:
        run = await begun(kit)
        kit.stop(run, Stop.CANCEL, grace=3600)
        kit.stop(run, Stop.SHUTDOWN, grace=0.02)
        await until(lambda: run.stuck)
        stubborn.free = True
        assert (await kit.ended(run)).stop == "cancel"


async def test_second_stop_after_the_pulse_gives_no_second_pulse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aura.attempt.PULSE", 0.2)
    stubborn, act = swallowing()
    async with opened(tmp_path, task("t", step("a", act))) as kit:
        run = await begun(kit)
        kit.stop(run, Stop.CANCEL, grace=0.02)
        await until(lambda: stubborn.hits == 2)
        kit.stop(run, Stop.CANCEL, grace=0.02)
        await until(lambda: run.stuck)
        stubborn.free = True
        await kit.ended(run)
        assert stubborn.hits == 2


async def test_second_cancel_of_the_engine_with_a_shorter_grace_counts(tmp_path: Path) -> None:
    stubborn, act = swallowing()
    async with opened(tmp_path, task("t", step("a", act))) as kit:
        run = await begun(kit)
        kit.engine.request_stop("cancel", 3600)
        await turns()
        kit.engine.request_stop("cancel", 0.05)
        await until(lambda: run.stuck)
        stubborn.free = True
        await kit.ended(run)


async def test_server_stop_while_the_engine_stops_waits_no_longer_than_the_work(tmp_path: Path) -> None:
    log: list[str] = []
    gate = anyio.Event()
    with no_hang():
        async with opened(tmp_path, task("t", step("a", cleaning(log, gate))), grace=60) as kit:
            await begun(kit)
            kit.engine.request_stop("cancel")
            await turns()
            gate.set()
    assert log == ["clean"]


# -- beside what ends


async def test_timers_of_an_attempt_that_has_ended_are_gone(tmp_path: Path) -> None:
    seen: list[Attempt] = []

    async def act() -> None:
        seen.append(found[0].live["a"])

    found: list[LiveRun] = []
    async with opened(tmp_path, task("t", step("a", act, timeout=60))) as kit:
        await kit.engine.stop("cancel", 0.1)
        await turns()
        found.append(await kit.begin("t"))
        await kit.engine.start()
        await kit.ended(found[0])
        timer = seen[0]._timeout_timer
        assert timer is not None
        assert timer.cancelled()


async def test_stop_of_two_parallel_attempts_keeps_the_first_cleanup_error(tmp_path: Path) -> None:
    first_is_over = anyio.Event()

    def raising(text: str, wait: Any) -> Any:
        async def act() -> None:
            try:
                await anyio.sleep(3600)
            finally:
                await wait()
                first_is_over.set()
                raise OSError(text)

        return act

    steps = [step("a", raising("second", first_is_over.wait)), step("b", raising("first", works))]
    async with opened(tmp_path, task("t", *steps)) as kit:
        run = await begun(kit, 2)
        kit.stop(run, Stop.CANCEL)
        record = await kit.ended(run)
        assert record.cleanup_error is not None
        assert (record.state, record.cleanup_error["message"]) == ("cancelled", "first")


@pytest.mark.parametrize(("max_stuck", "second"), [(1, "succeeded"), (0, "queued")], ids=["given back", "kept"])
async def test_place_of_a_stuck_run_comes_back_up_to_max_stuck(tmp_path: Path, max_stuck: int, second: str) -> None:
    stubborn, act = swallowing()
    made = [task("t", step("a", act)), task("u", step("b", works))]
    async with opened(tmp_path, *made, lanes={"main": 1}, max_stuck=max_stuck) as kit:
        run = await begun(kit)
        kit.stop(run, Stop.CANCEL, grace=0.02)
        await until(lambda: run.stuck)
        other = await kit.begin("u")
        await turns(50)
        assert other.state == second
        stubborn.free = True
        assert (await kit.ended(other)).state == "succeeded"


# -- a run that is broken off by a fault of our own


async def test_siblings_of_a_run_that_is_broken_off_are_stopped(tmp_path: Path) -> None:
    gate = anyio.Event()
    log: list[str] = []

    async def gated() -> None:
        await gate.wait()

    def broken(*_: Any, **__: Any) -> Any:
        kit.engine.runtime.hand_over = real  # type: ignore[method-assign]
        raise RuntimeError("injected")

    made = task("t", step("a", gated), step("b", cleaning(log)), step("c", works, ("a",)))
    async with opened(tmp_path, made, faults=1) as kit:
        run = await begun(kit, 2)
        real = kit.engine.runtime.hand_over
        kit.engine.runtime.hand_over = broken  # type: ignore[method-assign]
        gate.set()
        assert ((await kit.ended(run)).state, log) == ("crashed", ["clean"])
