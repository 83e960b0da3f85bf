"""Events that are expected: an item starts once for each window in which none has come, whatever happens meanwhile."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.fakes.kernel import FaultyBackend
from tests.scheduling.schedule_kit import Lab, at, clock_at, crashed, open_lab, schedule

from aura.errors import RequestError

pytestmark = pytest.mark.anyio

EXPECTS = schedule(alarm="triggers: [{expect: backup.done, within: 10h}]")


def absent(world: Lab) -> list[Any]:
    """When the events came that say that none has come, as the runs see them: hours after the world's midnight."""
    started = [run for run in world.runs("work") if run.record.cause["kind"] == "event"]
    return [round((run.record.accepted_at - at("00:00")) / 3600, 2) for run in started]


async def test_each_window_without_one_starts_it_once(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=EXPECTS) as world:
        await world.advance(hours=31)
        assert absent(world) == [10, 20, 30]
        [run, *_] = world.runs()
        assert run.result["event"]["name"] == "schedule.absent"
        told = {"plan": "lab", "item": "alarm", "expect": "backup.done", "within_s": 36000.0, "last_seen": None}
        assert run.result["event"]["payload"] == told
        assert world.payloads("schedule.absent") == [told] * 3
        assert (run.record.lane, run.record.cause["item"]) == ("event", "alarm")


async def test_event_begins_a_new_window_and_is_told_of(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=EXPECTS) as world:
        for hours in (9, 9, 3):
            await world.advance(hours=hours)
            await world.emit("backup.done")
        await world.emit("backup.begun")
        await world.advance(hours=11)
        assert absent(world) == [31]
        assert world.payloads("schedule.absent")[0]["last_seen"].startswith("2026-01-01T21:00")


@pytest.mark.parametrize(
    ("trigger", "comes"),
    [
        pytest.param("{expect: 'backup.*', within: 10h}", True, id="pattern"),
        pytest.param("{expect: backup.done, within: 10h, when: '{{ event.payload.ok }}'}", True, id="when"),
        pytest.param("{expect: backup.done, within: 10h, when: '{{ not event.payload.ok }}'}", False, id="when-not"),
        pytest.param("{expect: backup.done, within: 10h, when: '{{ event.payload.x.y.z }}'}", False, id="when-fails"),
        pytest.param("{expect: run.succeeded, within: 10h}", False, id="of-auras-own"),
    ],
)
async def test_which_events_count(tmp_path: Path, trigger: str, comes: bool) -> None:
    async with open_lab(tmp_path, items=schedule(alarm=f"triggers: [{trigger}]")) as world:
        await world.advance(hours=5)
        await world.emit("backup.done", {"ok": True, "x": {}})
        await world.advance(hours=6)
        assert absent(world) == ([] if comes else [10])
        assert world.reasons() == (["bad_inputs"] if "x.y" in trigger else [])


async def test_run_of_a_task_can_be_expected(tmp_path: Path) -> None:
    when = "{{ event.task_name == 'slow' }}"
    items = schedule(alarm=f'triggers: [{{expect: run.succeeded, within: 10h, when: "{when}"}}]')
    async with open_lab(tmp_path, items=items) as world:
        await world.advance(hours=5)
        await world.run("slow")
        await world.advance(hours=9.9)
        assert absent(world) == []
        await world.run("work")
        await world.advance(hours=1)
        assert absent(world) == [15]


@pytest.mark.parametrize("seen", [False, True], ids=["none-yet", "one-came"])
@pytest.mark.parametrize(
    ("clock", "left"), [("09:00", 1.0), ("30:00", 0.0), ("2025-06-01T00:00:00Z", 10.0)], ids=["soon", "late", "back"]
)
async def test_windows_outlive_a_crash(tmp_path: Path, seen: bool, clock: str, left: float) -> None:
    async with open_lab(tmp_path, items=EXPECTS) as world:
        if seen:
            await world.advance(hours=4)
            await world.emit("backup.done")
        await world.advance()
        left_over = crashed(world)
    more = 4.0 if seen and left == 1.0 else 0.0
    clock = clock if clock != "30:00" else "2026-01-02T06:00:00Z"
    async with open_lab(tmp_path, write=False, backend=left_over, clock=clock_at(clock)) as world:
        await world.advance(hours=max(0.0, left + more - 0.1))
        assert len(world.runs()) == (left == 0.0)
        await world.advance(hours=0.2)
        assert len(world.runs()) == 1
        await world.advance(hours=9.7)
        assert len(world.runs()) == 1
        assert (world.payloads("schedule.absent")[0]["last_seen"] is not None) is seen


async def test_wall_clock_that_is_set_changes_nothing(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=EXPECTS, clock=clock_at("00:00", recheck=5.0)) as world:
        await world.advance(hours=5)
        world.jump(40 * 86_400)
        await world.advance(hours=4.9)
        assert len(world.runs()) == 0
        world.jump(-80 * 86_400)
        await world.advance(hours=0.2)
        assert len(world.runs()) == 1


async def test_event_that_came_while_the_plan_was_not_served_counts(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=EXPECTS) as world:
        await world.advance(hours=2)
        await world.rewrite(tmp_path, items="items: {}")
        await world.emit("backup.done")
        await world.emit("backup.others")
        await world.advance(hours=9)
        await world.rewrite(tmp_path, items=EXPECTS)
        await world.advance(minutes=1)
        assert absent(world) == []
        await world.advance(hours=1)
        assert absent(world) == [12]


async def test_window_of_a_plan_that_was_away_ends_if_none_came(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=EXPECTS) as world:
        await world.rewrite(tmp_path, items="items: {}")
        await world.emit("backup.others")
        await world.advance(hours=12)
        await world.rewrite(tmp_path, items=EXPECTS)
        await world.rewrite(tmp_path, items=EXPECTS)
        await world.advance(hours=1)
        assert absent(world) == [12]


async def test_reload_touches_no_window_that_says_the_same(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=EXPECTS) as world:
        await world.advance(hours=6)
        await world.rewrite(tmp_path, items=EXPECTS.replace("triggers: [", "triggers: [{event: x}, "))
        await world.advance(hours=5)
        assert absent(world) == [10]
        await world.rewrite(tmp_path, items=EXPECTS.replace("10h", "1h"))
        await world.advance(hours=1.5)
        assert absent(world) == [10, 12]
        kept = world.backend.execute("SELECT count(*) FROM expected").fetchone()
        assert kept == (1,)


async def test_item_that_is_off_says_so_for_each_window(tmp_path: Path) -> None:
    items = schedule(alarm="enabled: false, triggers: [{expect: backup.done, within: 10h}]")
    async with open_lab(tmp_path, items=items) as world:
        await world.advance(hours=21)
        assert (world.runs(), world.payloads("schedule.absent")) == ([], [])
        assert world.reasons() == ["disabled", "disabled"]


async def test_stopped_engine_queues_its_runs(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=EXPECTS) as world:
        await world.engine.stop("cancel", 1.0)
        await world.advance(hours=11)
        assert [run.state for run in world.runs()] == ["queued"]
        await world.engine.start()
        await world.settle()
        assert absent(world) == [10]


async def test_start_that_cannot_be_stored_is_tried_again(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=EXPECTS) as world:
        await world.advance(hours=9.99)
        world.backend.execute("CREATE TRIGGER no BEFORE INSERT ON run BEGIN SELECT RAISE(ABORT, 'no'); END")
        await world.advance(minutes=2)
        assert (world.runs(), world.payloads("schedule.absent")) == ([], [])
        world.backend.execute("DROP TRIGGER no")
        await world.advance(hours=9.9)
        assert len(absent(world)) == 1


async def test_restart_after_an_absence_goes_on_with_the_next_window(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=EXPECTS) as world:
        await world.advance(hours=10.5)
        left = crashed(world)
    async with open_lab(tmp_path, write=False, backend=left, clock=clock_at("15:00")) as world:
        await world.advance(hours=4.9)
        assert absent(world) == [10]
        await world.advance(hours=0.2)
        assert absent(world) == [10, 20]


async def test_event_on_its_way_when_the_window_ends_has_come_in_time(tmp_path: Path) -> None:
    backend = FaultyBackend()
    async with open_lab(tmp_path, items=EXPECTS, backend=backend) as world:
        await world.advance(hours=10, seconds=-20)
        backend.gate = anyio.Event()
        emitted = world.engine.runtime.bus.emit("backup.done")
        await world.advance(40)
        assert not emitted.ticket.done
        backend.gate.set()
        await emitted.ticket.wait()
        await world.advance(hours=9.9)
        assert absent(world) == []
        await world.advance(hours=0.2)
        assert absent(world) == [19.99]


async def test_event_that_could_not_be_stored_did_not_come(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=EXPECTS) as world:
        await world.advance(hours=5)
        world.backend.execute("CREATE TRIGGER no BEFORE INSERT ON event BEGIN SELECT RAISE(ABORT, 'no'); END")
        with pytest.raises(RequestError, match="could not be stored"):
            await world.emit("backup.done")
        world.backend.execute("DROP TRIGGER no")
        await world.advance(hours=5.1)
        assert absent(world) == [10]
        assert world.payloads("schedule.absent")[0]["last_seen"] is None


async def test_absence_starts_others_that_listen_to_it(tmp_path: Path) -> None:
    items = EXPECTS + schedule(other="triggers: [{event: schedule.absent}]").removeprefix("items:\n")
    async with open_lab(tmp_path, items=items) as world:
        await world.advance(hours=11)
        assert sorted(run.record.cause["item"] for run in world.runs()) == ["alarm", "other"]


async def test_event_that_an_item_does_not_hear_since_it_is_suspended_has_come(tmp_path: Path) -> None:
    items = schedule(loop="task: go, triggers: [{event: x.ping}, {expect: x.pong, within: 10m}]")
    actions = """
from aura import Context, action

@action
async def both(ctx: Context) -> None:
    await ctx.emit("x.ping")
    await ctx.emit("x.pong")
"""
    async with open_lab(tmp_path, items=items, go="steps: {only: {action: both}}", actions=actions) as world:
        await world.emit("x.ping")
        await world.advance(minutes=5)
        assert world.item("loop").suspended
        for _ in range(5):
            await world.emit("x.pong")
            await world.advance(minutes=6)
        assert world.payloads("schedule.absent") == []
        await world.engine.reload()
        await world.advance(minutes=3)
        assert world.payloads("schedule.absent") == []
        await world.advance(minutes=2)
        assert len(world.payloads("schedule.absent")) == 1
