"""The boot: what an older boot left is settled by the boot table before the server is ready, and only once."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, opened, quiet, step, task, until

from aura.lifecycle import Recovery, Stop
from aura.stores.memory import MemoryBackend


async def works() -> None:
    return


async def forever() -> None:
    await anyio.sleep(3600)


def copy_of(backend: MemoryBackend) -> MemoryBackend:
    """What a crash at this moment would leave: the committed rows, and nothing of the memory."""
    copy = MemoryBackend()
    backend.connection.backup(copy.connection)
    return copy


@asynccontextmanager
async def crashed(tmp_path: Path, *tasks: Any, **keys: Any) -> AsyncIterator[tuple[Opened, list[MemoryBackend]]]:
    """Open an engine; the test appends what a crash would leave to the list and then lets the engine end."""
    backend = MemoryBackend()
    left: list[MemoryBackend] = []
    async with opened(tmp_path, *tasks, backend=backend, **keys) as kit:
        yield kit, left
        await kit.engine.runtime.store.written()
        left.append(copy_of(backend))


@pytest.mark.parametrize(
    ("recovery", "stop", "state", "reason"),
    [
        (Recovery.FAIL, None, "crashed", "crash"),
        (Recovery.RESTART, None, "succeeded", None),
        (Recovery.FAIL, Stop.CANCEL, "cancelled", "cancel"),
        (Recovery.RESTART, Stop.TIMEOUT, "timed_out", "timeout"),
        (Recovery.FAIL, Stop.INTERRUPT, "crashed", "crash"),
        (Recovery.RESTART, Stop.SHUTDOWN, "succeeded", None),
    ],
    ids=["fail", "restart", "stopping by cancel", "stopping by time-out", "by interrupt", "by shutdown"],
)
async def test_orphan_is_settled_by_the_boot_table(
    tmp_path: Path, recovery: Recovery, stop: Stop | None, state: str, reason: str | None
) -> None:
    async def slow_to_stop() -> None:
        try:
            await anyio.sleep(3600)
        finally:
            await anyio.sleep(0.05)

    async with crashed(
        tmp_path, task("t", step("one", works), step("a", slow_to_stop, ("one",)), recovery=recovery)
    ) as (kit, left):
        run = await kit.begin_run("t")
        await until(lambda: "a" in run.live)
        await quiet()
        if stop:
            kit.stop(run, stop)
    async with opened(tmp_path, task("t", step("one", works), step("a", works, ("one",))), backend=left[0]) as kit:
        record = await kit.ended(run.cid)
        assert (record.state, record.reason) == (state, reason)
        if state == "crashed":
            assert record.error is not None
            assert (record.error["step"], "unknown" in record.error["message"]) == ("a", True)
            assert record.cleanup_error is not None
            assert (await kit.steps(run.cid))["a"].state == "failed"
        assert kit.engine.status()["lanes"]["main"]["running"] == 0


async def test_queued_runs_keep_their_order(tmp_path: Path) -> None:
    log: list[str] = []

    async def note(what: str) -> None:
        log.append(what)

    made = task("t", step("a", note, params={"what": "{{ run.labels.n }}"}))
    async with crashed(tmp_path, made) as (kit, left):
        await kit.engine.stop("cancel", 0.1)
        for n, priority in (("1", 0), ("2", 3), ("3", 0)):
            run = await kit.begin_run("t", labels={"n": n}, priority=priority)
    async with opened(tmp_path, made, backend=left[0], lanes={"main": 1}) as kit:
        await kit.ended(run.cid)
        assert log == ["2", "1", "3"]


async def test_outcome_is_computed_when_only_the_cleanup_was_caught(tmp_path: Path) -> None:
    made = task("t", step("a", works), finally_=[step("z", forever)], cleanup_timeout=0.3)
    async with crashed(tmp_path, made) as (kit, left):
        run = await kit.begin_run("t")
        await until(lambda: "z" in run.live)
    async with opened(tmp_path, made, backend=left[0]) as kit:
        record = await kit.ended(run.cid)
        assert record.cleanup_error is not None
        assert (record.state, record.cleanup_error["type"]) == ("succeeded", "cleanup_unknown")


async def test_third_crash_in_a_row_parks_the_run(tmp_path: Path) -> None:
    made = task("t", step("a", forever), recovery=Recovery.RESTART)
    backend = MemoryBackend()
    cid = ""
    for boot in range(1, 4):
        copy: list[MemoryBackend] = []
        async with opened(tmp_path, made, backend=backend, grace=0.05) as kit:
            cid = cid or (await kit.begin_run("t")).cid
            open_runs = kit.engine.runtime.open
            await until(lambda runs=open_runs, cid=cid: runs[cid].live)  # type: ignore[misc]
            await kit.engine.runtime.store.written()
            copy.append(copy_of(backend))
            assert kit.engine.boot == boot
        backend = copy[0]
    async with opened(tmp_path, made, backend=backend) as kit:
        record = await kit.ended(cid)
        assert (record.state, record.reason, record.attempt) == ("crashed", "parked", 3)


async def test_settled_runs_are_left_alone_by_the_next_boot(tmp_path: Path) -> None:
    async with crashed(tmp_path, task("t", step("a", forever)), grace=0.05) as (kit, left):
        run = await kit.begin_run("t")
        await until(lambda: run.live)
    for _ in range(2):
        async with opened(tmp_path, task("t", step("a", works)), backend=left[0]) as kit:
            await kit.ended(run.cid)
            assert (await kit.history(run.cid)).count("run.crashed") == 1
        left[0] = MemoryBackend(left[0].connection)


async def test_cids_and_sequences_go_on_after_a_boot(tmp_path: Path) -> None:
    made = task("t", step("a", works))
    async with crashed(tmp_path, made) as (kit, left):
        first = await kit.record("t")
    async with opened(tmp_path, made, backend=left[0]) as kit:
        second = await kit.record("t")
        assert second.seq == first.seq + 1
        assert second.cid > first.cid


@pytest.mark.parametrize("crash", [False, True], ids=["live", "settled by the boot"])
async def test_cancel_in_the_cleanup_after_a_timeout_is_what_was_told(tmp_path: Path, crash: bool) -> None:
    made = task("t", step("a", forever), timeout=1.0, finally_=[step("z", forever)], cleanup_timeout=5.0)
    backend = MemoryBackend()
    async with opened(tmp_path, made, backend=backend) as kit:
        run = await kit.begin_run("t")
        await until(lambda: "z" in run.live)
        assert await kit.engine.cancel(run.cid) == "stopping"
        backend = copy_of(backend) if crash else backend
    async with opened(tmp_path, made, backend=backend) as kit:
        record = await kit.ended(run.cid)
        assert (record.state, record.stop, record.error) == ("cancelled", "cancel", None)


async def test_run_that_goes_on_has_nothing_on_record_that_runs(tmp_path: Path) -> None:
    async def slow_to_stop(item: int) -> None:
        try:
            await anyio.sleep(3600 * item)
        finally:
            await anyio.sleep(5)

    loop = step("a", slow_to_stop, loop={"for_each": [0, 1]}, params={"item": "{{ loop.item }}"}, idempotent=True)
    made = task("t", loop, step("b", slow_to_stop, params={"item": 1}, idempotent=True), recovery=Recovery.RESUME)
    async with crashed(tmp_path, made) as (kit, left):
        run = await kit.begin_run("t")
        await until(lambda: "a[1]" in run.live)
        await kit.advance(10)
        await kit.engine.pause(run.cid)
    async with opened(tmp_path, made, backend=left[0]) as kit:
        execute = kit.backend.execute
        assert execute("SELECT state, held FROM run").fetchall() == [("preempted", 1)]
        steps = "SELECT name, state, attempt, starts FROM step ORDER BY name"
        assert execute(steps).fetchall() == [("a", "pending", 0, 1), ("b", "pending", 0, 1)]
        items = "SELECT idx, state, attempt, starts FROM item ORDER BY idx"
        assert execute(items).fetchall() == [(0, "succeeded", 1, 1), (1, "pending", 0, 1)]
