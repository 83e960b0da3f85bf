"""Items that are in no file any more: what is kept of them, for how long, and what is not lost for their sake."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest
from tests.fakes.kernel import FaultyBackend
from tests.scheduling.schedule_kit import Lab, clock_at, open_lab, schedule, write_plan

from aura.errors import StoreLocked, StoreReadOnly

pytestmark = pytest.mark.anyio

TICK = schedule(tick="triggers: [{every: 5m}]")
OFF = schedule(tick="enabled: false, triggers: [{every: 5m}]")
NONE = schedule(other="enabled: true")
BY_EVENT = schedule(tick="triggers: [{event: go}]")
SLOWER = schedule(tick="triggers: [{every: 1h}]")
DUE = "2026-01-01T00:05:00.000000Z"


async def stopped(world: Lab, backend: FaultyBackend) -> None:
    await world.engine.stop("cancel", 1.0)


async def filled(world: Lab, backend: FaultyBackend) -> None:
    world.server.engine.runtime.store.unavailable = StoreReadOnly("the disk is full")


async def failing(world: Lab, backend: FaultyBackend) -> None:
    backend.error, backend.failing = StoreReadOnly("the disk is full"), 10**6


async def test_start_that_is_refused_after_its_item_has_left_and_come_back_gives_its_slot_back(tmp_path: Path) -> None:
    backend = FaultyBackend()
    async with open_lab(tmp_path, items=TICK, backend=backend, clock=clock_at("00:00", recheck=5.0)) as world:
        await world.advance(minutes=4)
        backend.error, backend.failing = StoreLocked("another process has it"), 10**6
        await world.advance(minutes=1, seconds=1)  # the slot is being stored
        await world.rewrite(tmp_path, items=NONE)
        await world.rewrite(tmp_path, items=TICK)
        await world.advance(seconds=20)  # it is refused
        backend.failing = 0
        await world.advance(seconds=10)
        world.jump(-300)  # the slot comes again, and nothing of it is on record
        await world.advance(minutes=6)
        assert world.dues() == ["00:05:00"]


@pytest.mark.parametrize(
    ("items", "then", "happens", "reason"),
    [
        pytest.param(TICK, NONE, failing, "storage_full", id="gone, its start was refused"),
        pytest.param(TICK, NONE, filled, "storage_full", id="gone, the storage takes none"),
        pytest.param(TICK, BY_EVENT, failing, "storage_full", id="no trigger with a time"),
        pytest.param(TICK, SLOWER, failing, "storage_full", id="another time"),
        pytest.param(TICK, NONE, stopped, "misfire", id="gone, the engine is stopped"),
        pytest.param(OFF, NONE, stopped, "disabled", id="gone, off"),
    ],
)
async def test_slot_that_waits_when_its_trigger_leaves_the_file_is_a_line(
    tmp_path: Path, items: str, then: str, happens: Callable[[Lab, FaultyBackend], Awaitable[None]], reason: str
) -> None:
    backend = FaultyBackend()
    async with open_lab(tmp_path, items=items, backend=backend, clock=clock_at("00:00")) as world:
        await world.advance(minutes=4)
        await happens(world, backend)
        await world.advance(minutes=2)
        await world.rewrite(tmp_path, items=then)
        await world.advance(seconds=1)
        backend.failing, world.server.engine.runtime.store.unavailable = 0, None
        await world.rewrite(tmp_path, items=items)
        await world.advance(minutes=1)
        [line] = world.unstarted()
        assert (line.reason, line.item, line.count, world.dues()) == (reason, "tick", 1, [])
        assert DUE in line.detail
        assert "left its file" in line.detail


@pytest.mark.parametrize("then", [NONE, BY_EVENT, SLOWER], ids=["gone", "no trigger with a time", "another time"])
async def test_start_that_is_lost_when_its_trigger_has_left_the_file_is_a_line(tmp_path: Path, then: str) -> None:
    backend = FaultyBackend()
    async with open_lab(tmp_path, items=TICK, backend=backend, clock=clock_at("00:00")) as world:
        await world.advance(minutes=4, seconds=59)
        backend.gate = anyio.Event()
        await world.advance(seconds=2)
        write_plan(tmp_path, items=then)
        await world.engine.reload()
        backend.error, backend.failing = StoreReadOnly("the disk is full"), 1
        backend.gate.set()
        await world.advance(seconds=70)
        [line] = world.unstarted()
        assert (line.reason, line.item, world.dues()) == ("storage_full", "tick", [])
        assert line.detail == f"its start was not stored, and it has left its file since; due {DUE}"


async def test_only_so_many_items_are_remembered_and_never_fewer_of_those_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aura.scheduling.items.MAX_AWAY", 2)
    yearly, often = "triggers: [{every: 365d}]", "triggers: [{every: 5s}]"
    async with open_lab(tmp_path, items=schedule(yearly=yearly), clock=clock_at("00:00")) as world:
        for number in range(5):
            await world.advance(seconds=10)
            await world.rewrite(tmp_path, items=schedule(yearly=yearly, **{f"item_{number}": often}))
        await world.advance(seconds=11)
        await world.rewrite(tmp_path, items=schedule(yearly=yearly))
        await world.advance(seconds=1)
        items = world.backend.execute("SELECT name FROM schedule_item ORDER BY name").fetchall()
        slots = world.backend.execute("SELECT DISTINCT item FROM slot ORDER BY item").fetchall()
        assert items == [("item_3",), ("item_4",), ("yearly",)]
        assert slots == [("item_3",), ("item_4",)]


async def test_window_of_a_trigger_that_is_gone_when_its_item_comes_back_is_forgotten(tmp_path: Path) -> None:
    def expecting(hours: int) -> str:
        return schedule(watch=f"triggers: [{{expect: 'a.b', within: {hours}h}}]")

    async with open_lab(tmp_path, items=expecting(1)) as world:
        for hours in (2, 3, 4):
            await world.rewrite(tmp_path, items=schedule(other="enabled: true"))
            await world.rewrite(tmp_path, items=expecting(hours))
        await world.advance(seconds=1)
        assert world.backend.execute("SELECT count(*) FROM expected").fetchone() == (1,)
