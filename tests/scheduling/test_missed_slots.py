"""What the year of ``test_year.py`` has found: lines of missed slots, and clocks that are set back and crash."""

from pathlib import Path

import pytest
from tests.fakes.kernel import FaultyBackend
from tests.scheduling.schedule_kit import at, clock_at, crashed, open_lab, schedule

from aura.errors import StoreReadOnly

pytestmark = pytest.mark.anyio


ALL = "6 slots were missed, from 2026-01-01T01:00:00.000000Z to 2026-01-01T06:00:00.000000Z"
#: Of a cron no more are counted than may start, and one before them.
SOME = "the slot 2026-01-01T06:00:00.000000Z was missed, and more before it"


@pytest.mark.parametrize(
    ("trigger", "count", "detail"),
    [pytest.param("every: 1h", 6, ALL, id="every"), pytest.param("cron: '0 * * * *'", 1, SOME, id="cron")],
)
async def test_line_of_what_run_all_does_not_start(tmp_path: Path, trigger: str, count: int, detail: str) -> None:
    items = schedule(hourly=f"mode: parallel, triggers: [{{{trigger}, misfire: run_all}}]")
    async with open_lab(tmp_path, items=items) as world:
        await world.advance()
        left = crashed(world)
    async with open_lab(tmp_path, write=False, backend=left, clock=clock_at("2026-01-05T10:30:00Z")) as world:
        await world.advance(seconds=1)
        assert (len(world.runs()), world.runs()[0].record.due) == (100, at("2026-01-01T07:00:00Z"))
        [line] = world.unstarted()
        assert (line.count, line.detail) == (count, detail)


async def test_trigger_that_was_first_seen_ahead_is_first_seen_once_when_the_clock_is_right(tmp_path: Path) -> None:
    left = None
    for time in ("12:00", "06:00"):
        clock, write = clock_at(time), left is None
        items = schedule(tick="triggers: [{every: 5m}]")
        async with open_lab(tmp_path, items=items, write=write, backend=left, clock=clock) as world:
            await world.advance(seconds=1)
            left = crashed(world)
    async with open_lab(tmp_path, write=False, backend=left, clock=clock_at("06:04")) as world:
        await world.advance(minutes=2)
        assert world.dues() == ["06:05:00"]


async def test_trigger_that_was_set_back_by_a_jump_stays_so_over_a_crash(tmp_path: Path) -> None:
    items = schedule(tick="triggers: [{every: 5m}]")
    async with open_lab(tmp_path, items=items, clock=clock_at("12:00", recheck=1.0)) as world:
        world.jump(-6 * 3600)
        await world.advance(seconds=1)
        left = crashed(world)
    async with open_lab(tmp_path, write=False, backend=left, clock=clock_at("06:04")) as world:
        await world.advance(minutes=2)
        assert world.dues() == ["06:05:00"]


async def test_items_that_come_last_of_very_many_are_on_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aura.scheduling.scheduler.AT_ONCE", 1)
    trigger = "triggers: [{cron: '0 * * * *', misfire: skip}]"
    items = schedule(first=trigger, second=trigger, third=trigger)
    async with open_lab(tmp_path, items=items, clock=clock_at("00:30")) as world:

        async def take_long() -> None:
            world.jump(6)

        monkeypatch.setattr("aura.scheduling.scheduler.checkpoint", take_long)
        await world.advance(minutes=31)
        assert world.dues() == ["01:00:00"] * 3


async def test_last_due_is_of_a_start_that_was_stored(tmp_path: Path) -> None:
    backend = FaultyBackend()
    items = schedule(tick="triggers: [{every: 5m}]")
    async with open_lab(tmp_path, items=items, backend=backend, clock=clock_at("00:00")) as world:
        await world.advance(minutes=9)
        backend.error, backend.failing = StoreReadOnly("the disk is full"), 10**6
        await world.advance(minutes=2)
        assert (world.dues(), world.item("tick").row.last_due) == (["00:05:00"], at("00:05"))
        backend.failing = 0


async def test_item_that_starts_many_times_at_once_lets_others_have_their_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[None] = []

    async def count() -> None:
        turns.append(None)

    monkeypatch.setattr("aura.scheduling.scheduler.checkpoint", count)
    catching_up = "mode: parallel, triggers: [{every: 1m, misfire: run_all}]"
    items = schedule(first=catching_up, second=catching_up)
    async with open_lab(tmp_path, items=items, clock=clock_at("00:00", recheck=5.0)) as world:
        world.jump(600)
        await world.advance(seconds=6)
        assert len(world.dues()) == 20
        assert turns


async def test_start_that_was_not_stored_is_not_settled_by_those_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aura.scheduling.liveitem.KEPT_SLOTS", 1)
    monkeypatch.setattr("aura.scheduling.liveitem.FOLDED_AT_ONCE", 1)
    backend = FaultyBackend()
    items = schedule(tick="triggers: [{every: 5m}]")
    async with open_lab(tmp_path, items=items, backend=backend, clock=clock_at("00:00")) as world:
        await world.advance(minutes=19, seconds=59)
        backend.error, backend.failing = StoreReadOnly("the disk is full"), 1
        await world.advance(seconds=30)
        assert world.dues() == ["00:05:00", "00:10:00", "00:15:00", "00:20:00"]
        [slots] = world.backend.execute("SELECT count(*) FROM slot").fetchone()
        assert slots == 1


async def test_what_has_started_is_not_missed_when_the_clock_goes_back_and_forth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aura.scheduling.liveitem.KEPT_SLOTS", 5)
    monkeypatch.setattr("aura.scheduling.liveitem.FOLDED_AT_ONCE", 1)
    monkeypatch.setattr("aura.scheduling.watched.MAX_AT_ONCE", 10)
    items = schedule(tick="mode: parallel, triggers: [{every: 10s}]")
    async with open_lab(tmp_path, items=items, clock=clock_at("00:00", recheck=1.0)) as world:
        await world.advance(minutes=5)
        for seconds in (-240, 240):
            world.jump(seconds)
            await world.advance(seconds=3)
        assert world.reasons() == []
        assert len(world.dues()) == len(set(world.dues())) == 30
