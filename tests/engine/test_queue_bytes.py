"""A lane is bounded in bytes too: what the inputs of the runs that wait come to, counted, given back, restored."""

import sqlite3
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.engine.kit import Opened, opened, step, task
from tests.fakes.kernel import FaultyBackend, copy_of, works

from aura.errors import RequestError
from aura.kernel import admission
from aura.run import Cause, Request
from aura.runs.liverun import LiveRun
from aura.store import Execute
from aura.task import Input

CAUSE = Cause("api")
T = task("t", step("a", works), inputs={"x": Input("x", {"type": "string"}, default="")}, resources={"door": 1})
#: What the inputs come to beside the text that they hold.
FRAME = len('{"x":""}')
open_lane = partial(opened, lanes={"main": 1}, queue_bytes=300)


def sized(size: int, **keys: Any) -> Request:
    """A request whose inputs come to so many bytes."""
    return Request("p", "t", {"x": "é" * ((size - FRAME) // 2) + "x" * ((size - FRAME) % 2)}, **keys)


async def ask(kit: Opened, size: int, **keys: Any) -> LiveRun:
    receipt = await kit.engine.submit(sized(size, **keys), CAUSE)
    return kit.engine.runtime.open[receipt.cid]


def waiting(kit: Opened) -> tuple[int, int]:
    lane = kit.engine.dispatcher.lanes["main"]
    return lane.waiting, lane.waiting_bytes


async def fill(kit: Opened, sizes: list[int]) -> None:
    """Let runs of these sizes wait."""
    await kit.engine.stop("cancel", 0.1)
    for size in sizes:
        await ask(kit, size)


def stored(kit: Opened) -> int:
    found: int = kit.backend.execute("SELECT coalesce(sum(length(inputs)), 0) FROM run").fetchone()[0]
    return found


@pytest.mark.parametrize("sizes", [[100, 100, 100], [1000]], ids=["what just fits", "too large, but alone"])
async def test_bytes_that_fit_wait(tmp_path: Path, sizes: list[int]) -> None:
    async with open_lane(tmp_path, T) as kit:
        await fill(kit, sizes)
        assert waiting(kit) == (len(sizes), sum(sizes))
        assert stored(kit) == sum(sizes)


@pytest.mark.parametrize(
    ("sizes", "more"), [([100, 100], 101), ([1000], 8)], ids=["one byte too many", "behind one that is too large"]
)
async def test_bytes_that_do_not_fit_are_refused(tmp_path: Path, sizes: list[int], more: int) -> None:
    async with open_lane(tmp_path, T) as kit:
        await fill(kit, sizes)
        said = f"{sum(sizes)} bytes of inputs wait in lane main, these are {more}, and it takes 300; ask again later"
        with pytest.raises(RequestError, match=said) as refused:
            await ask(kit, more)
        assert (refused.value.code, refused.value.retry_after) == ("queue_full", 5.0)
        assert (waiting(kit)[1], stored(kit)) == (sum(sizes), sum(sizes))


async def test_one_that_is_refused_is_taken_once_another_has_started(tmp_path: Path) -> None:
    async with open_lane(tmp_path, T) as kit:
        await kit.engine.stop("cancel", 0.1)
        await ask(kit, 250)
        with pytest.raises(RequestError, match="wait in lane main"):
            await ask(kit, 250)
        await kit.engine.start()
        await kit.settle()
        assert waiting(kit) == (0, 0)
        await kit.engine.submit(sized(250), CAUSE)


async def test_atomic_batch_counts_all_of_it(tmp_path: Path) -> None:
    async with open_lane(tmp_path, T) as kit:
        await kit.engine.stop("cancel", 0.1)
        await ask(kit, 10)
        with pytest.raises(RequestError, match="10 bytes of inputs wait in lane main, these are 300"):
            await kit.engine.submit_batch([sized(100)] * 3, CAUSE, True)
        assert waiting(kit) == (1, 10)
        await kit.engine.submit_batch([sized(100), sized(90), sized(100)], CAUSE, True)
        assert waiting(kit) == (4, 300)


async def test_atomic_batch_that_never_fits_is_refused_as_a_whole(tmp_path: Path) -> None:
    async with open_lane(tmp_path, T) as kit:
        await kit.engine.stop("cancel", 0.1)
        with pytest.raises(RequestError, match="0 bytes of inputs wait in lane main, these are 400"):
            await kit.engine.submit_batch([sized(200)] * 2, CAUSE, True)
        assert (waiting(kit), stored(kit)) == ((0, 0), 0)


async def test_plain_batch_takes_what_fits_and_says_so_of_each(tmp_path: Path) -> None:
    async with open_lane(tmp_path, T) as kit:
        await kit.engine.stop("cancel", 0.1)
        answered = await kit.engine.submit_batch([sized(200), sized(101), sized(100)], CAUSE, False)
        codes = [item.code if isinstance(item, RequestError) else "ok" for item in answered.items]
        assert (codes, waiting(kit)) == (["ok", "queue_full", "ok"], (2, 300))


async def start_it(kit: Opened, run: LiveRun) -> None:
    await kit.engine.start()


async def cancel_it(kit: Opened, run: LiveRun) -> None:
    await kit.engine.cancel(run.cid)


async def move_and_cancel_it(kit: Opened, run: LiveRun) -> None:
    await kit.engine.set_priority(run.cid, 7)
    await kit.engine.cancel(run.cid)


async def pause_and_cancel_it(kit: Opened, run: LiveRun) -> None:
    await kit.engine.pause(run.cid)
    assert waiting(kit) == (0, 0)
    await kit.engine.resume(run.cid)
    assert waiting(kit) == (1, 100)
    await kit.engine.cancel(run.cid)


async def set_aside_and_start_it(kit: Opened, run: LiveRun) -> None:
    """It waits for what another holds, in its lane, and starts when that one has ended."""
    await ask(kit, 50, priority=1)
    await kit.engine.start()


@pytest.mark.parametrize(
    "leave", [start_it, cancel_it, move_and_cancel_it, pause_and_cancel_it, set_aside_and_start_it]
)
async def test_bytes_come_back(tmp_path: Path, leave: Callable[[Opened, LiveRun], Awaitable[None]]) -> None:
    async with opened(tmp_path, T, queue_bytes=300) as kit:
        await kit.engine.stop("cancel", 0.1)
        run = await ask(kit, 100)
        assert waiting(kit) == (1, 100)
        await leave(kit, run)
        await kit.settle()
        assert waiting(kit) == (0, 0)


async def test_delayed_one_counts_and_gives_its_bytes_back(tmp_path: Path) -> None:
    async with open_lane(tmp_path, T) as kit:
        run = await ask(kit, 100, delay_s=60)
        assert waiting(kit) == (1, 100)
        await kit.ended(run)
        assert waiting(kit) == (0, 0)


async def test_acceptance_that_fails_gives_its_bytes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_execute: Execute) -> None:
        raise sqlite3.IntegrityError("no such luck")

    async with open_lane(tmp_path, T) as kit:
        await kit.engine.stop("cancel", 0.1)
        monkeypatch.setattr(admission, "accept_run", lambda *_: fails)
        with pytest.raises(RequestError, match="could not be stored"):
            await ask(kit, 100)
        assert waiting(kit) == (0, 0)


async def test_bytes_are_counted_again_after_a_crash(tmp_path: Path) -> None:
    backend = FaultyBackend()
    async with open_lane(tmp_path / "one", T, backend=backend) as kit:
        for size in (100, 150):
            await ask(kit, size, delay_s=3600)
        left = copy_of(backend)
    async with open_lane(tmp_path / "two", T, backend=left) as kit:
        assert waiting(kit) == (2, 250)
        with pytest.raises(RequestError, match="bytes of inputs wait"):
            await ask(kit, 200)
