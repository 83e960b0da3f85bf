"""Priorities that change: a queued run moves at once, any other keeps it for later, and only what is stored counts."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, opened, quiet, step, task, until
from tests.fakes.kernel import FaultyBackend, forever, works

from aura.engine import priorities
from aura.errors import Lost, RequestError
from aura.lifecycle import Recovery
from aura.records.reading import get_run
from aura.records.runs import change_priority
from aura.runs.liverun import LiveRun
from aura.store import Execute

T = task("t", step("a", works))
HANGS = task("hangs", step("b", forever))


def order(kit: Opened) -> list[str]:
    return [entry["cid"] for entry in kit.engine.queue_list()]


def begun(kit: Opened) -> list[str]:
    """The runs that have started, in the order in which they did."""
    sql = "SELECT cid FROM history AS h JOIN run USING (seq) WHERE h.name = 'run.started' ORDER BY h.id"
    return [cid for (cid,) in kit.backend.execute(sql)]


def stored(kit: Opened, run: LiveRun) -> int:
    record = get_run(kit.backend.execute, run.cid)
    assert record
    return record.priority


async def queued(kit: Opened, *priorities: int, **keys: Any) -> list[LiveRun]:
    """Runs that wait for the engine to start."""
    await kit.engine.stop("cancel", 0.1)
    return [await kit.begin_run("t", priority=priority, **keys) for priority in priorities]


async def refusal(kit: Opened, cid: str, priority: int) -> RequestError:
    with pytest.raises(RequestError) as refused:
        await kit.engine.set_priority(cid, priority)
    return refused.value


# -- where it is


async def test_queued_run_moves_at_once_and_starts_where_it_stands(tmp_path: Path) -> None:
    async with opened(tmp_path, T, lanes={"main": 1}) as kit:
        a, b, c = await queued(kit, 0, 0, 0)
        changed = await kit.engine.set_priority(c.cid, 5)
        assert tuple(changed) == (c.cid, 5, "queued")
        assert order(kit) == [c.cid, a.cid, b.cid]
        await kit.engine.set_priority(a.cid, -1)
        assert order(kit) == [c.cid, b.cid, a.cid]
        assert [stored(kit, run) for run in (a, b, c)] == [-1, 0, 5]
        await kit.engine.start()
        await kit.settle()
        assert begun(kit) == [c.cid, b.cid, a.cid]


async def test_order_is_new_before_anything_is_stored(tmp_path: Path) -> None:
    backend = FaultyBackend()
    async with opened(tmp_path, T, backend=backend) as kit, anyio.create_task_group() as group:
        a, b = await queued(kit, 0, 0)
        backend.gate = gate = anyio.Event()
        group.start_soon(kit.engine.set_priority, b.cid, 1)
        await quiet()
        assert (order(kit), stored(kit, b)) == ([b.cid, a.cid], 0)
        backend.gate = None
        gate.set()


async def test_run_that_came_and_went_a_hundred_times_stands_once(tmp_path: Path) -> None:
    async with opened(tmp_path, T, lanes={"main": 1}) as kit:
        a, b = await queued(kit, 0, 0)
        for number in range(100):
            await kit.engine.set_priority(b.cid, number % 3 - 1)
        assert order(kit) == [a.cid, b.cid]
        assert kit.engine.dispatcher.lanes["main"].waiting == 2
        await kit.engine.start()
        await kit.settle()
        assert [await kit.history(run.cid) for run in (a, b)] == [await kit.history(a.cid)] * 2


async def test_delayed_run_keeps_it_for_when_it_is_due(tmp_path: Path) -> None:
    async with opened(tmp_path, T, lanes={"main": 1}) as kit:
        (late,) = await queued(kit, 0, delay_s=60)
        await kit.engine.set_priority(late.cid, 9)
        await kit.engine.start()
        await kit.advance(30)
        assert stored(kit, late) == 9
        assert late.state == "queued"  # no sooner for it
        await kit.engine.stop("cancel", 0.1)
        (other,) = await queued(kit, 0)
        await kit.advance(60)
        await kit.engine.start()
        await kit.settle()
        assert begun(kit) == [late.cid, other.cid]


async def test_running_run_records_it_and_waits_by_it_when_it_starts_over(tmp_path: Path) -> None:
    made = task("hangs", step("b", forever), recovery=Recovery.RESTART)
    async with opened(tmp_path, T, made, lanes={"main": 1}) as kit:
        run = await kit.begin_run("hangs")
        await until(lambda: run.live)
        assert (await kit.engine.set_priority(run.cid, -5)).state == "running"
        (other,) = await queued(kit, 0)
        assert order(kit) == [other.cid, run.cid]
        await kit.engine.cancel(run.cid)


async def test_run_in_the_stream_is_put_where_it_belongs(tmp_path: Path) -> None:
    """It was accepted in this very turn, and the dispatcher has not seen it."""
    async with opened(tmp_path, T, HANGS, lanes={"main": 1}) as kit:
        hangs = await kit.begin_run("hangs")
        await until(lambda: hangs.live)
        a, b = [await kit.begin_run("t") for _ in "ab"]
        kit.engine.dispatcher.change_priority(b, 3)
        assert order(kit) == [b.cid, a.cid]
        await kit.engine.cancel(hangs.cid)


async def test_priority_survives_a_restart(tmp_path: Path) -> None:
    backend = FaultyBackend()
    async with opened(tmp_path / "one", T, backend=backend) as kit:
        a, b = await queued(kit, 0, 0)
        await kit.engine.set_priority(b.cid, 1)
    async with opened(tmp_path / "two", T, backend=backend, lanes={"main": 1}) as kit:
        await kit.settle()
        assert begun(kit) == [b.cid, a.cid]


# -- what is refused


@pytest.mark.parametrize("priority", [-1001, 1001])
async def test_priority_out_of_range_is_refused(tmp_path: Path, priority: int) -> None:
    async with opened(tmp_path, T) as kit:
        (run,) = await queued(kit, 0)
        refused = await refusal(kit, run.cid, priority)
        assert (refused.code, [error.path for error in refused.errors]) == ("invalid", ["/priority"])
        assert (run.priority, stored(kit, run)) == (0, 0)


async def test_ended_run_keeps_its_priority(tmp_path: Path) -> None:
    async with opened(tmp_path, T) as kit:
        record = await kit.record("t")
        refused = await refusal(kit, record.cid, 1)
        assert (refused.code, refused.status, refused.extra) == ("ended", 409, {"state": "succeeded"})
        assert (await refusal(kit, "nobody", 1)).code == "unknown_run"


async def test_nobody_is_told_of_an_end_that_is_not_on_record(tmp_path: Path) -> None:
    backend = FaultyBackend()
    async with opened(tmp_path, T, backend=backend) as kit, anyio.create_task_group() as group:
        (run,) = await queued(kit, 0)
        backend.gate = gate = anyio.Event()
        group.start_soon(kit.engine.cancel, run.cid)
        await quiet()
        told: list[RequestError] = []

        async def ask() -> None:
            told.append(await refusal(kit, run.cid, 1))

        group.start_soon(ask)
        await quiet()
        assert (run.sealed, told) == (True, [])
        backend.gate = None
        gate.set()
        await quiet()
        assert [error.extra for error in told] == [{"state": "cancelled"}]


# -- what cannot be stored


def failing(count: int, error: Exception) -> Any:
    """``change_priority`` whose first units fail by themselves."""
    left = [count]

    def make(seq: int, priority: int) -> Any:
        unit = change_priority(seq, priority)
        left[0] -= 1
        fails = left[0] >= 0

        def run(execute: Execute) -> None:
            unit(execute)
            if fails:
                raise error

        return run

    return make


@pytest.mark.parametrize(
    ("fail", "asked", "left"),
    [
        pytest.param(1, [5], 0, id="the only one fails"),
        pytest.param(1, [5, 7], 7, id="the first of two fails"),
        pytest.param(2, [5, 7], 0, id="both fail"),
        pytest.param(1, [7, 7], 7, id="the first of two that are alike fails"),
    ],
)
async def test_memory_goes_back_to_what_is_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail: int, asked: list[int], left: int
) -> None:
    monkeypatch.setattr(priorities, "change_priority", failing(fail, ValueError("no luck")))
    async with opened(tmp_path, T) as kit, anyio.create_task_group() as group:
        a, b = await queued(kit, 0, 0)
        codes: list[str] = []

        async def ask(priority: int) -> None:
            try:
                await kit.engine.set_priority(b.cid, priority)
            except RequestError as refused:
                codes.append(refused.code)

        for priority in asked:
            group.start_soon(ask, priority)
        await quiet()
        assert codes == ["internal"] * fail
        assert (b.priority, stored(kit, b)) == (left, left)
        assert order(kit) == ([b.cid, a.cid] if left else [a.cid, b.cid])
        assert kit.engine.priorities._changing == {}


async def test_run_whose_acceptance_fails_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(priorities, "change_priority", failing(1, Lost("gone")))
    async with opened(tmp_path, T) as kit:
        (run,) = await queued(kit, 0)
        kit.engine.runtime.open.pop(run.cid)
        kit.backend.execute("DELETE FROM run")
        assert (await refusal(kit, run.cid, 1)).code == "unknown_run"
        kit.engine.dispatcher.leave(run)
