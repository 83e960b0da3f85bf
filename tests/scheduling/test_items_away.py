"""Items that are in no file any more: what is kept of them, for how long, and what is not lost for their sake."""

from pathlib import Path

import pytest
from tests.scheduling.schedule_kit import clock_at, open_lab, schedule

pytestmark = pytest.mark.anyio


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
