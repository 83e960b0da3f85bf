"""Handlers and time: what bounds a ``finally``, what brings its end nearer, and that a stop neither cuts nor hangs it.

Times that ought not to be waited for are an hour long; a test that waits for one of them fails by the bound of
``Opened.ended`` or of ``no_hang``.
"""

from pathlib import Path

import anyio
from tests.engine.kit import opened, quiet, step, task, until
from tests.fakes.kernel import begun, fails, first_time_forever, forever, no_hang, noting, swallowing, works

from aura.lifecycle import Recovery, Stop
from aura.runs.liverun import LiveRun
from aura.stores.memory import MemoryBackend
from aura.testing.virtual_time import ThreadGate


async def test_handlers_of_a_run_that_never_began_do_not_run(tmp_path: Path) -> None:
    log: list[str] = []
    made = task("t", step("a", works), finally_=[step("z", noting(log, "z"))], on_cancel=[step("c", noting(log, "c"))])
    async with opened(tmp_path, made) as kit:
        execute = kit.engine.dispatcher.execute

        async def stopped_at_once(run: LiveRun) -> None:
            kit.stop(run, Stop.CANCEL)
            await execute(run)

        kit.engine.dispatcher.execute = stopped_at_once
        assert ((await kit.run("t")).state, log) == ("cancelled", [])


async def test_timeout_of_a_run_does_not_cut_its_finally(tmp_path: Path) -> None:
    log: list[str] = []

    async def slow() -> None:
        await anyio.sleep(0.15)
        log.append("tidy")

    async with opened(tmp_path, task("t", step("a", works), finally_=[step("z", slow)], timeout=0.1)) as kit:
        record = await kit.record("t")
        assert (record.state, record.stop, log) == ("succeeded", None, ["tidy"])


# -- what bounds them


async def test_back_off_beyond_the_cleanup_timeout_is_not_waited_for(tmp_path: Path) -> None:
    again = step("z", fails, retry={"attempts": 2, "delay": 3600})
    async with opened(tmp_path, task("t", step("a", works), finally_=[again], cleanup_timeout=0.1)) as kit:
        record = await kit.record("t")
        assert record.cleanup_error is not None
        assert (record.state, record.cleanup_error["step"]) == ("succeeded", "z")


async def test_stop_of_the_server_ends_a_back_off_in_finally(tmp_path: Path) -> None:
    again = step("z", fails, retry={"attempts": 2, "delay": 30})
    made = task("t", step("a", works), finally_=[again], cleanup_timeout=60)
    with no_hang():
        async with opened(tmp_path, made, grace=0.2) as kit:
            run = await kit.begin_run("t")
            await until(lambda: run.backoffs)
    assert (run.sealed, run.state, kit.left) == (True, "succeeded", [])


async def test_finally_after_a_shutdown_gets_what_is_left_of_its_grace(tmp_path: Path) -> None:
    made = task("t", step("a", forever), finally_=[step("z", forever)])
    async with opened(tmp_path, made) as kit:
        run = await begun(kit)
        kit.stop(run, Stop.SHUTDOWN, grace=0.7)
        record = await kit.ended(run)
        assert record.cleanup_error is not None
        assert (record.state, record.cleanup_error["type"]) == ("cancelled", "TimeoutError")


async def test_shutdown_does_not_lengthen_a_handlers_own_timeout(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works), finally_=[step("z", forever, timeout=0.3)])) as kit:
        run = await kit.begin_run("t")
        await until(lambda: "z" in run.live)
        kit.stop(run, Stop.SHUTDOWN, grace=3600)
        record = await kit.ended(run)
        assert record.cleanup_error is not None
        assert (record.state, record.cleanup_error["type"]) == ("succeeded", "TimeoutError")


async def test_second_signal_in_the_turn_of_the_first_hurries_a_handler(tmp_path: Path) -> None:
    made = task("t", step("a", works), finally_=[step("z", forever)], cleanup_timeout=60)
    with no_hang():
        async with opened(tmp_path, made, grace=60) as kit:
            run = await kit.begin_run("t")
            await until(lambda: "z" in run.live)
            kit.server.request_stop()
            kit.server.request_stop()
    assert (run.state, kit.left) == ("succeeded", [])


# -- what hangs


async def test_finally_waits_for_the_body_of_a_stuck_run(tmp_path: Path) -> None:
    stubborn, act = swallowing()
    log: list[str] = []
    async with opened(tmp_path, task("t", step("a", act), finally_=[step("z", noting(log, "z"))])) as kit:
        run = await begun(kit)
        kit.stop(run, Stop.CANCEL, grace=0.02)
        await until(lambda: run.stuck)
        await quiet()
        assert log == []
        stubborn.free = True
        record = await kit.ended(run)
        assert (record.state, record.reason, log) == ("cancelled", "stuck", ["z"])


async def test_stuck_finally_of_a_success_is_a_cleanup_error_and_no_stop(tmp_path: Path) -> None:
    stubborn, act = swallowing()
    made = task("t", step("a", works), finally_=[step("z", act)], cleanup_timeout=0.05)
    async with opened(tmp_path, made) as kit:
        run = await kit.begin_run("t")
        await until(lambda: run.stuck)
        stubborn.free = True
        record = await kit.ended(run)
        assert record.cleanup_error is not None
        assert (record.state, record.stop, record.reason) == ("succeeded", None, None)
        assert (record.cleanup_error["type"], record.cleanup_error["step"]) == ("stuck", "z")


async def test_finally_of_a_run_that_outlives_the_server_is_on_record_as_not_run(tmp_path: Path) -> None:
    gate = ThreadGate()
    backend = MemoryBackend()

    def blocked() -> None:
        gate.wait()

    made = task("t", step("a", blocked), finally_=[step("z", works)])
    async with opened(tmp_path, made, backend=backend, grace=0.05) as kit:
        kit.server._leave = lambda code: gate.open()
        await kit.begin_run("t")
        await until(lambda: gate.waiting)
    state, reason, error = backend.execute("SELECT state, reason, cleanup_error FROM run").fetchone()
    assert (state, reason) == ("cancelled", "stuck")
    assert b"not_run" in error


# -- a second life


async def test_run_that_came_back_has_all_of_its_time_for_clean_up_again(tmp_path: Path) -> None:
    async def tidy() -> None:
        await anyio.sleep(0.3)

    act = first_time_forever([])
    made = task("t", step("a", act), finally_=[step("z", tidy)], recovery=Recovery.RESTART)
    async with opened(tmp_path, made) as kit:
        run = await begun(kit)
        await kit.engine.stop("cancel", 0.1)
        await kit.engine.start()
        record = await kit.ended(run)
        assert (record.state, record.cleanup_error, record.attempt) == ("succeeded", None, 2)
