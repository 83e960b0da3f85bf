"""Starts and stops of the engine that meet each other, a run that is just starting, or a child that has just failed."""

import asyncio
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, opened, quiet, step, task, turns, until
from tests.fakes.kernel import begun, cleaning, forever, no_hang, noting, swallowing, works

from aura.engine.supervisor import FIRST_PAUSE
from aura.errors import RequestError
from aura.lifecycle import Recovery, Stop
from aura.logs import LogWriter

# -- starts and stops in one turn


async def test_stop_in_the_turn_of_a_start_leaves_the_engine_stopped(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works))) as kit:
        await kit.engine.stop("cancel", 0.1)
        await quiet()
        await kit.engine.start()
        await kit.engine.stop("cancel", 0.1)
        await quiet()
        run = await kit.begin_run("t")
        await turns(50)
        assert (kit.engine.state, run.state) == ("stopped", "queued")


async def test_start_in_the_turn_of_a_stop_makes_no_second_dispatcher(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works)), lanes={"main": 1}) as kit:
        for _ in range(5):
            await kit.engine.stop("cancel", 0.1)
            await kit.engine.start()
        await quiet()
        assert [t.get_name() for t in asyncio.all_tasks()].count("dispatcher") == 1
        assert (await kit.run("t")).state == "succeeded"


async def test_cancel_in_the_turn_of_a_drain_ends_the_draining(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", forever))) as kit:
        run = await begun(kit)
        kit.engine.request_stop("drain", 3600)
        kit.engine.request_stop("cancel")
        assert (await kit.ended(run)).state == "cancelled"


async def test_server_stop_in_the_turn_of_a_drain_ends_the_draining(tmp_path: Path) -> None:
    with no_hang():
        async with opened(tmp_path, task("t", step("a", forever)), grace=0.2) as kit:
            run = await begun(kit)
            kit.engine.request_stop("drain", 3600)
    assert (run.state, kit.left) == ("cancelled", [])


async def test_all_who_wait_until_nothing_runs_are_woken(tmp_path: Path) -> None:
    gate = anyio.Event()
    with no_hang():
        async with opened(tmp_path, task("t", step("a", cleaning([], gate)))) as kit:
            await begun(kit)
            async with anyio.create_task_group() as stops:  # two; each ends when nothing runs any more
                for _ in range(2):
                    stops.start_soon(kit.engine.stop, "cancel", 60)
                    await quiet()
                gate.set()
            assert kit.engine.state == "stopped"


# -- a start that may not be


async def test_start_while_the_server_stops_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = LogWriter.flush
    answers: list[str] = []
    kit: Opened

    async def flush(writer: LogWriter, timeout: float = 5.0) -> None:
        if kit.engine.admission.closed:  # the engine has stopped, and the server is about to end
            try:
                answers.append(await kit.engine.start())
            except RequestError as refused:
                answers.append(refused.code)
        await real(writer, timeout)

    async with opened(tmp_path, task("t", step("a", works))) as kit:
        monkeypatch.setattr(LogWriter, "flush", flush)
    assert answers == ["conflict"]


async def test_stop_of_the_server_cuts_the_pause_of_a_failed_dispatcher_short(tmp_path: Path) -> None:
    def broken() -> None:
        raise RuntimeError("injected")

    async with opened(tmp_path, task("t", step("a", works))) as kit:
        kit.engine.dispatcher._fill = broken  # type: ignore[method-assign]
        kit.engine.dispatcher.kick()
        await until(lambda: kit.engine.state == "degraded")
        began = kit.engine.clock.monotonic()
    assert kit.engine.clock.monotonic() - began < FIRST_PAUSE
    assert kit.left == []


async def test_run_stuck_in_a_stop_does_not_come_back_with_the_engine(tmp_path: Path) -> None:
    stubborn, act = swallowing()
    async with opened(tmp_path, task("t", step("a", act), recovery=Recovery.RESTART)) as kit:
        run = await begun(kit)
        await kit.engine.stop("cancel", 0.02)
        await kit.engine.start()
        stubborn.free = True
        record = await kit.ended(run)
        assert (record.state, record.reason, record.attempt, stubborn.begun) == ("cancelled", "stuck", 1, 1)


# -- a stop between the commit of a start and the beginning of its body


class Between:
    """Stands before the group of runs and acts when an attempt's child has been made and has not begun."""

    def __init__(self, kit: Opened, ending: str, act: Any) -> None:
        self._runtime, self._real = kit.engine.runtime, kit.engine.runtime.runs
        self._ending, self._act = ending, act
        self.hit = False
        self._runtime.runs = self  # type: ignore[assignment]

    def start_soon(self, function: Any, *args: Any, name: str) -> None:
        self._real.start_soon(function, *args, name=name)
        if name.endswith(self._ending):
            self._runtime.runs = self._real
            self.hit = True
            self._act()


@pytest.mark.parametrize("kind", [Stop.INTERRUPT, Stop.SHUTDOWN], ids=lambda kind: kind.label)
async def test_stop_before_parallel_children_begin_runs_each_body_once(tmp_path: Path, kind: Stop) -> None:
    log: list[str] = []
    steps = [step("a", noting(log, "a")), step("b", noting(log, "b"))]
    async with opened(tmp_path, task("t", *steps, finally_=[step("z", noting(log, "z"))])) as kit:
        await kit.engine.stop("cancel", 0.1)
        run = await kit.begin_run("t")
        between = Between(kit, " b", lambda: kit.stop(run, kind))
        await kit.engine.start()
        record = await kit.ended(run)
        assert (record.state, between.hit, sorted(log), log[-1]) == ("succeeded", True, ["a", "b", "z"], "z")
        assert {s.attempt for s in (await kit.steps(run)).values()} == {1}
