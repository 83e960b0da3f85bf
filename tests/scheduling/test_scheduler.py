"""Slots: each is settled once, whatever the server, the clock and the plan do meanwhile."""

from pathlib import Path

import pytest
from tests.scheduling.schedule_kit import at, clock_at, crashed, open_lab, schedule, write_plan

pytestmark = pytest.mark.anyio

EVERY = schedule(tick="triggers: [{every: 5m}]")
HOURLY = schedule(hourly="triggers: [{cron: '0 * * * *'}]")


async def test_every_begins_one_period_after_it_was_first_seen(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=EVERY) as world:
        await world.advance(minutes=16)
        assert world.dues() == ["00:05:00", "00:10:00", "00:15:00"]
        assert {run.record.cause["kind"] for run in world.runs()} == {"schedule"}
        assert {run.state for run in world.runs()} == {"succeeded"}


async def test_its_grid_survives_restarts_and_nothing_fires_twice(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=EVERY) as world:
        await world.advance(minutes=6)
        left = crashed(world)
    async with open_lab(tmp_path, write=False, backend=left, clock=clock_at("00:06")) as world:
        await world.advance(minutes=5)
        assert world.dues() == ["00:05:00", "00:10:00"]


async def test_missed_slots_are_one_run_and_one_line(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=HOURLY) as world:
        await world.advance()
        left = crashed(world)
    async with open_lab(tmp_path, write=False, backend=left, clock=clock_at("05:30")) as world:
        await world.advance(seconds=1)
        assert world.dues() == ["05:00:00"]
        [line] = world.unstarted()
        assert (line.reason, line.item, line.count) == ("misfire", "hourly", 4)
        assert line.detail.startswith("4 slots were missed, from 2026-01-01T01:00")


async def test_stopped_engine_misses_slots(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=HOURLY) as world:
        await world.engine.stop("cancel", 1.0)
        await world.advance(hours=3, minutes=1)
        assert world.dues() == []
        await world.engine.start()
        await world.advance(minutes=59)
        assert world.dues() == ["03:00:00", "04:00:00"]


async def test_clock_that_is_set_back_starts_no_slot_twice(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=EVERY, clock=clock_at("00:00", recheck=5.0)) as world:
        await world.advance(minutes=11)
        world.jump(-600)
        await world.advance(minutes=15)
        assert world.dues() == ["00:05:00", "00:10:00", "00:15:00"]


async def test_clock_that_was_far_ahead_loses_nothing_when_it_is_set_right(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=HOURLY, clock=clock_at("00:30", recheck=5.0)) as world:
        world.jump(365 * 86_400)
        await world.advance(minutes=1)
        assert len(world.runs("work")) == 1
        world.jump(-365 * 86_400)
        await world.advance(hours=2)
        assert world.dues()[1:] == ["01:00:00", "02:00:00"]


async def test_disabled_item_writes_a_line_for_a_slot(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=schedule(tick="enabled: false, triggers: [{every: 5m}]")) as world:
        await world.advance(minutes=6)
        assert (world.dues(), world.reasons()) == ([], ["disabled"])
        await world.rewrite(tmp_path, items=EVERY)
        await world.advance(minutes=5)
        assert world.dues() == ["00:10:00"]


async def test_timers_of_what_did_not_change_are_not_touched(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=EVERY) as world:
        await world.advance(minutes=3)
        await world.rewrite(tmp_path, items=schedule(tick="triggers: [{every: 5m}, {every: 7m}]"))
        await world.advance(minutes=8)
        assert world.dues() == ["00:05:00", "00:10:00", "00:10:00"][:2]


async def test_run_by_hand_takes_other_inputs(tmp_path: Path) -> None:
    items = schedule(by_hand="enabled: false, inputs: {day: '{{ due | date }}'}")
    async with open_lab(tmp_path, items=items, clock=clock_at("2026-05-01T08:00:00Z")) as world:
        live = world.item("by_hand")
        first = world.engine.items.run(live, {}, "api")
        await first.ticket.wait()
        second = world.engine.items.run(live, {"day": "never"}, "api")
        await second.ticket.wait()
        await world.settle()
        assert [run.result["day"] for run in world.runs()] == ["2026-05-01", "never"]


async def test_inputs_are_made_at_the_slots_time(tmp_path: Path) -> None:
    items = schedule(nightly="inputs: {day: '{{ (due - days(1)) | date }}'}, triggers: [{cron: '30 2 * * *'}]")
    async with open_lab(tmp_path, items=items, plan="timezone: Europe/Berlin") as world:
        await world.advance(days=1, hours=2)
        assert [run.result["day"] for run in world.runs()] == ["2025-12-31", "2026-01-01"]
        assert [run.record.due for run in world.runs()] == [at("01:30"), at("2026-01-02T01:30:00Z")]


async def test_item_that_comes_back_is_the_same(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=EVERY) as world:
        await world.advance(minutes=6)
        await world.rewrite(tmp_path, items="items: {}")
        await world.advance(minutes=10)
        await world.rewrite(tmp_path, items=EVERY)
        await world.advance(minutes=5)
        assert world.dues() == ["00:05:00", "00:15:00", "00:20:00"]


async def test_second_plan_with_the_same_item_is_another(tmp_path: Path) -> None:
    write_plan(tmp_path, "other", items=EVERY)
    async with open_lab(tmp_path, items=EVERY) as world:
        await world.advance(minutes=5)
        assert len(world.runs("work")) == 2
