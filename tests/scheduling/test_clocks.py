"""Wall clocks that jump, stand still, or change for the summer: each slot is settled once, and none is lost."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.scheduling.schedule_kit import Lab, at, clock_at, crashed, open_lab, schedule

from aura.scheduling.preview import preview
from aura.scheduling.watched import Watched

pytestmark = pytest.mark.anyio

HOURLY = schedule(hourly="triggers: [{cron: '0 * * * *'}]")
BERLIN = "timezone: Europe/Berlin"


def with_misfire(said: str) -> str:
    return schedule(hourly=f"triggers: [{{cron: '0 * * * *', {said}}}]")


@pytest.mark.parametrize(
    ("said", "dues", "missed"),
    [
        pytest.param("misfire: run_once", ["05:00:00", "06:00:00"], 4, id="run_once"),
        pytest.param("misfire: skip", ["06:00:00"], 5, id="skip"),
        pytest.param("misfire: run_all", [f"0{n}:00:00" for n in range(1, 7)], 0, id="run_all"),
        pytest.param("misfire: run_once, misfire_grace: 1h", ["05:00:00", "06:00:00"], 4, id="within its grace"),
        pytest.param("misfire: run_once, misfire_grace: 10m", ["06:00:00"], 5, id="too late"),
        pytest.param("misfire: run_all, misfire_grace: 3h", [f"0{n}:00:00" for n in range(3, 7)], 2, id="3h"),
    ],
)
async def test_jump_forwards_or_a_suspend_makes_misfires(
    tmp_path: Path, said: str, dues: list[str], missed: int
) -> None:
    items = with_misfire(said).replace("triggers", "mode: parallel, triggers")
    async with open_lab(tmp_path, items=items, clock=clock_at("00:30", recheck=5.0)) as world:
        world.jump(5 * 3600)
        await world.advance(minutes=31)
        assert world.dues() == dues
        assert sum(line.count for line in world.unstarted("misfire")) == missed
        assert sum(one["count"] for one in world.payloads("schedule.missed")) == missed


async def test_jump_is_seen_within_seconds(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=HOURLY, clock=clock_at("00:30", recheck=5.0)) as world:
        world.jump(1801)
        await world.advance(seconds=6)
        assert world.dues() == ["01:00:00"]


async def test_slot_on_time_takes_the_place_of_those_that_were_missed(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=HOURLY, clock=clock_at("00:30", recheck=5.0)) as world:
        world.jump(4.5 * 3600)
        await world.advance(minutes=1)
        assert world.dues() == ["05:00:00"]
        [line] = world.unstarted("misfire")
        assert line.count == 4


async def test_several_triggers_collapse_to_one_start(tmp_path: Path) -> None:
    items = schedule(both="triggers: [{cron: '0 * * * *'}, {every: 45m}, {at: '2026-01-01T02:15:00Z', misfire: skip}]")
    async with open_lab(tmp_path, items=items, clock=clock_at("00:00", recheck=5.0)) as world:
        world.jump(3 * 3600 + 600)
        await world.advance(minutes=1)
        assert world.dues() == ["03:00:00"]  # of 00:45 01:00 01:30 02:00 02:15 and, of both, 03:00
        assert sum(line.count for line in world.unstarted("misfire")) == 5


async def test_clock_that_was_ahead_when_an_item_was_first_seen(tmp_path: Path) -> None:
    items = schedule(tick="triggers: [{every: 5m}]", hourly="triggers: [{cron: '0 * * * *'}]")
    async with open_lab(tmp_path, items=items, clock=clock_at("2030-01-01T00:02:00Z", recheck=5.0)) as world:
        world.jump(at("00:58") - at("2030-01-01T00:02:00Z"))
        await world.advance(minutes=6)
        first, second = sorted(world.dues())  # five minutes after it was seen that the clock had been ahead
        assert first == "01:00:00"
        assert "01:03:00" <= second <= "01:03:06"


async def test_clock_that_was_set_back_while_the_server_was_down(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=HOURLY, clock=clock_at("2030-01-01T00:30:00Z")) as world:
        await world.advance(hours=2)
        left = crashed(world)
    async with open_lab(tmp_path, write=False, backend=left, clock=clock_at("00:30")) as world:
        await world.advance(hours=2)
        assert world.dues()[2:] == ["01:00:00", "02:00:00"]


async def test_clock_that_was_set_back_while_the_engine_was_stopped(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=HOURLY, clock=clock_at("10:30", recheck=5.0)) as world:
        await world.advance(hours=1)
        await world.engine.stop("cancel", 1.0)
        world.jump(-5 * 3600)
        await world.engine.start()
        await world.advance(hours=6)
        assert world.dues() == ["11:00:00", "07:00:00", "08:00:00", "09:00:00", "10:00:00", "12:00:00"]


async def test_every_step_of_a_restless_clock_starts_no_slot_twice(tmp_path: Path) -> None:
    items = schedule(tick="mode: parallel, triggers: [{every: 1m, misfire: run_all}]")
    async with open_lab(tmp_path, items=items, clock=clock_at("00:00", recheck=5.0)) as world:
        for step in (600, -300, 90, -61, 45, -45, 3600, -3600, 7, -400, 30):
            world.jump(step)
            await world.advance(seconds=100)
        dues = world.dues()
        assert len(dues) == len(set(dues))
        assert {f"00:{minute:02}:00" for minute in range(1, 20)} <= set(dues)


async def test_slots_that_the_clock_had_leapt_over_come_when_it_is_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aura.scheduling.liveitem.KEPT_SLOTS", 5)
    monkeypatch.setattr("aura.scheduling.liveitem.FOLDED_AT_ONCE", 1)
    items = schedule(tick="mode: parallel, triggers: [{every: 1m}]")
    years = 10 * 365 * 86_400.0
    async with open_lab(tmp_path, items=items, clock=clock_at("00:00", recheck=5.0)) as world:
        world.jump(years)
        await world.advance(minutes=30)
        world.jump(-years - 600)
        left = crashed(world)
    async with open_lab(tmp_path, write=False, backend=left, clock=clock_at("00:20")) as world:
        await world.advance(minutes=30)
        ahead, since = world.dues()[:31], world.dues()[31:]
        assert since == [f"00:{minute}:00" for minute in range(21, 51)]
        world.jump(years - 3000)  # back to the first minute of those that have started
        await world.advance(minutes=40)
        again = world.dues()[61:]
        assert len(ahead) == 31
        assert not set(again) & set(ahead[1:])


async def test_slot_that_comes_before_it_is_seen_that_the_clock_was_set_back(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=HOURLY, clock=clock_at("10:30", recheck=5.0)) as world:
        await world.advance(seconds=6)
        world.jump(at("08:59:59") - at("10:30:06"))
        await world.advance(seconds=5)
        assert world.dues() == ["09:00:00"]


@pytest.mark.parametrize(
    ("begin", "days", "expected"),
    [
        ("2026-03-28T00:00:00Z", 3, ["03-28 01:30", "03-29 01:00", "03-30 00:30"]),
        ("2026-10-24T00:00:00Z", 3, ["10-24 00:30", "10-25 00:30", "10-26 01:30"]),
        ("2028-02-28T00:00:00Z", 2, ["02-28 01:30", "02-29 01:30"]),
    ],
    ids=["gap", "fold", "leap day"],
)
async def test_fixed_time_runs_once_each_day(tmp_path: Path, begin: str, days: int, expected: list[str]) -> None:
    items = schedule(nightly="inputs: {day: '{{ due | date }}'}, triggers: [{cron: '30 2 * * *'}]")
    async with open_lab(tmp_path, items=items, plan=BERLIN, clock=clock_at(begin)) as world:
        await world.advance(days=days)
        assert [_utc(run.record.due) for run in world.runs()] == expected


def _utc(due: float) -> str:
    return datetime.fromtimestamp(due, UTC).strftime("%m-%d %H:%M")


async def test_slots_below_a_second(tmp_path: Path) -> None:
    items = schedule(quick="mode: parallel, triggers: [{every: 250ms}]")
    async with open_lab(tmp_path, items=items, clock=clock_at("00:00")) as world:
        await world.advance(seconds=2.1)
        assert [round(run.record.due - at("00:00"), 3) for run in world.runs()] == [n / 4 for n in range(1, 9)]


@pytest.mark.parametrize("begin", ["1970-01-01T00:00:10Z", "2038-01-19T03:14:00Z", "9999-12-29T23:59:00Z"])
async def test_schedule_at_the_ends_of_the_calendar(tmp_path: Path, begin: str) -> None:
    async with open_lab(tmp_path, items=HOURLY, clock=clock_at(begin)) as world:
        await world.advance(hours=2)
        assert len(world.dues()) <= 2
        assert not world.server.engine.runtime.faults


# -- preview


def shown(world: Lab, name: str, begin: str, end: str, limit: int = 1000) -> list[tuple[str, str | None]]:
    found = preview(Watched.of(world.item(name)), at(begin), at(end), limit)
    return [(slot.local, slot.dst) for slot in found.slots]


async def test_preview_marks_what_daylight_saving_does(tmp_path: Path) -> None:
    items = schedule(nightly="enabled: false, triggers: [{cron: '30 2 * * *'}, {cron: '0 3 * * *'}]")
    async with open_lab(tmp_path, items=items, plan=BERLIN) as world:
        assert shown(world, "nightly", "2026-03-28T23:00:00Z", "2026-03-30T01:00:00Z") == [
            ("2026-03-29T03:00:00+02:00", "gap"),
            ("2026-03-30T02:30:00+02:00", None),
        ]
        assert shown(world, "nightly", "2026-10-24T22:00:00Z", "2026-10-25T03:00:00Z") == [
            ("2026-10-25T02:30:00+02:00", "fold"),
            ("2026-10-25T03:00:00+01:00", None),
        ]


async def test_preview_is_merged_once_each_and_cut(tmp_path: Path) -> None:
    zone = "{cron: '30 0 * * *', timezone: 'Asia/Kolkata'}"
    items = schedule(many=f"triggers: [{{cron: '0 * * * *'}}, {{every: 30m}}, {zone}]", none="enabled: true")
    async with open_lab(tmp_path, items=items, clock=clock_at("00:00")) as world:
        found = preview(Watched.of(world.item("many")), at("00:00"), at("2027-01-01T00:00:00Z"), 4)
        assert found.cut
        assert [slot.due - at("00:00") for slot in found.slots] == [0, 1800, 3600, 5400]
        assert shown(world, "many", "19:00", "19:01") == [("2026-01-01T19:00:00+00:00", None)]
        assert preview(Watched.of(world.item("none")), at("00:00"), at("05:00")) == ([], False)
