"""Runs that start over, after a stop of the engine or a crash: what they keep, what they forget, what is told twice.

What a crash leaves is a copy of the database at that moment.
"""

from pathlib import Path

import anyio
import pytest
from tests.engine.kit import opened, step, task, until
from tests.fakes.kernel import begun, copy_of, first_time_forever, forever, swallowing, works

from aura.lifecycle import Recovery, Stop
from aura.stores.memory import MemoryBackend

# -- put back by a stop of the engine


async def test_run_that_is_queued_again_has_no_start_and_no_time(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", forever), recovery=Recovery.RESTART)) as kit:
        run = await begun(kit)
        await kit.engine.stop("cancel", 0.2)
        await kit.engine.runtime.store.written()
        record = (await kit.engine.history.get_run(run.cid)).record
        assert (record.state, record.started_at, record.active_s) == ("queued", None, 0)


async def test_second_life_has_all_of_the_runs_timeout(tmp_path: Path) -> None:
    made = task("t", step("a", first_time_forever([])), timeout=3600, recovery=Recovery.RESTART)
    async with opened(tmp_path, made, lanes={"main": 1}) as kit:
        run = await begun(kit)
        assert run.active_since is not None
        run.active_since -= 3599.999  # as if the first life had used up nearly all of it
        await kit.engine.stop("cancel", 0.2)
        await kit.engine.start()
        record = await kit.ended(run)
        assert (record.state, record.active_s < 60) == ("succeeded", True)


async def test_cleanup_error_of_an_earlier_life_is_forgotten(tmp_path: Path) -> None:
    tries: list[int] = []

    async def act() -> None:
        tries.append(1)
        if len(tries) == 1:
            try:
                await anyio.sleep(3600)
            finally:
                raise OSError("clean-up")

    async with opened(tmp_path, task("t", step("a", act), recovery=Recovery.RESTART)) as kit:
        run = await begun(kit)
        await kit.engine.stop("cancel", 0.2)
        await kit.engine.start()
        record = await kit.ended(run)
        assert (record.state, record.cleanup_error, len(tries)) == ("succeeded", None, 2)


async def test_start_that_is_taken_back_in_a_later_life_counts_for_no_attempt(tmp_path: Path) -> None:
    tries: list[int] = []
    made = task("t", step("a", first_time_forever(tries)), recovery=Recovery.RESTART)
    async with opened(tmp_path, made) as kit:
        run = await begun(kit)
        await kit.engine.stop("cancel", 0.2)
        await kit.engine.start()
        await until(lambda: run.row == "running" and run.attempt == 2)
        assert len(tries) == 1  # the second start is handed over and has not begun
        kit.stop(run, Stop.SHUTDOWN)
        record = await kit.ended(run)
        assert (record.state, len(tries), record.attempt) == ("succeeded", 2, 2)


# -- left by a crash


async def crashed_in_the_second_step(tmp_path: Path) -> tuple[str, MemoryBackend]:
    """What a crash leaves of a run with ``recovery: restart`` whose first step has ended."""
    backend = MemoryBackend()
    made = task("t", step("one", works), step("two", forever, ("one",)), recovery=Recovery.RESTART)
    async with opened(tmp_path, made, backend=backend, grace=0.1) as kit:
        run = await kit.begin_run("t")
        await until(lambda: "two" in run.live)
        await kit.engine.runtime.store.written()
        left = copy_of(backend)
    return run.cid, left


NOW = task("t", step("one", works), step("two", works, ("one",)), recovery=Recovery.RESTART)


async def test_boot_takes_the_steps_of_a_restarted_run_back(tmp_path: Path) -> None:
    cid, left = await crashed_in_the_second_step(tmp_path)
    async with opened(tmp_path, NOW, backend=left, lanes={"main": 0}) as kit:
        assert (await kit.engine.history.get_run(cid)).record.state == "queued"
        assert {(s.state, s.attempt, s.started_at) for s in (await kit.steps(cid)).values()} == {("pending", 0, None)}


async def test_boot_that_settled_something_leaves_the_live_streams_open(tmp_path: Path) -> None:
    cid, left = await crashed_in_the_second_step(tmp_path)
    async with opened(tmp_path, NOW, backend=left) as kit:
        await kit.ended(cid)
        reader = kit.engine.journal.subscribe({"event"})
        await kit.run("t")
        assert len(reader.take().entries) >= 6
        reader.close()


async def test_boot_that_restarts_a_run_does_not_accept_it_again(tmp_path: Path) -> None:
    cid, left = await crashed_in_the_second_step(tmp_path)
    async with opened(tmp_path, NOW, backend=left) as kit:
        await kit.ended(cid)
        told = await kit.history(cid)
        assert (told.count("run.accepted"), told.count("run.requeued"), told.count("run.started")) == (1, 1, 2)


async def one_boot(tmp_path: Path, backend: MemoryBackend, cid: str, crash: bool) -> tuple[MemoryBackend, str]:
    """A boot in which the run begins and does not end; gives what it leaves."""
    made = task("t", step("a", forever), recovery=Recovery.RESTART)
    async with opened(tmp_path, made, backend=backend, grace=0.1) as kit:
        cid = cid or (await kit.begin_run("t")).cid
        await until(lambda: kit.engine.runtime.open[cid].live)
        await kit.engine.runtime.store.written()
        left = copy_of(backend)
    return (left if crash else MemoryBackend(backend.connection)), cid


@pytest.mark.parametrize(
    ("crashes", "state"),
    [((True, True, True), "crashed"), ((True, True, False, True), "succeeded")],
    ids=["three in a row", "one in good order among them"],
)
async def test_only_crashes_in_a_row_park_a_run(tmp_path: Path, crashes: tuple[bool, ...], state: str) -> None:
    backend, cid = MemoryBackend(), ""
    for crash in crashes:
        backend, cid = await one_boot(tmp_path, backend, cid, crash)
    async with opened(tmp_path, task("t", step("a", works), recovery=Recovery.RESTART), backend=backend) as kit:
        assert (await kit.ended(cid)).state == state


@pytest.mark.parametrize("kind", [Stop.SHUTDOWN, Stop.INTERRUPT], ids=lambda kind: kind.label)
async def test_run_that_hung_when_the_server_crashed_does_not_start_over(tmp_path: Path, kind: Stop) -> None:
    stubborn, act = swallowing()
    backend = MemoryBackend()
    async with opened(tmp_path, task("t", step("a", act), recovery=Recovery.RESTART), backend=backend) as kit:
        run = await begun(kit)
        kit.stop(run, kind, grace=0.02)
        await until(lambda: run.stuck)
        await kit.engine.runtime.store.written()
        left = copy_of(backend)
        stubborn.free = True
        await kit.ended(run)
    async with opened(tmp_path, task("t", step("a", works)), backend=left) as kit:
        record = await kit.ended(run.cid)
        assert (record.state, record.reason) == ("cancelled", "stuck")
