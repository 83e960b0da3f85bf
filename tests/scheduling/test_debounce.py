"""Debounced events: many count as one, which starts after a while of quiet, over stops, crashes and lost units."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.kernel import FaultyBackend
from tests.scheduling.schedule_kit import Lab, clock_at, crashed, open_lab, schedule

from aura.errors import StoreReadOnly
from aura.scheduling import debounce

pytestmark = pytest.mark.anyio

DEBOUNCED = schedule(hear="triggers: [{event: a, debounce: {for: 10s}}]")
DISK = "debounce: {for: 10s, key: '{{ event.payload.disk }}'}"
BY_DISK = schedule(hear=f"triggers: [{{event: a, when: '{{{{ event.payload.n > 0 }}}}', {DISK}}}]")


def seen(world: Lab) -> list[Any]:
    """The payloads of the events that have started runs."""
    return [run.result["event"]["payload"] for run in world.runs()]


def rows(world: Lab) -> list[Any]:
    """The counts of the events that are held back."""
    return [count for (count,) in world.backend.execute("SELECT count FROM debounced ORDER BY event_id").fetchall()]


@pytest.mark.parametrize(
    ("gaps", "payloads", "coalesced"),
    [
        pytest.param([], [0], [], id="one"),
        pytest.param([1, 1, 1], [3], [3], id="many"),
        pytest.param([9, 9, 9], [3], [3], id="as-long-as-they-come"),
        pytest.param([11, 1], [0, 2], [1], id="two-bursts"),
        pytest.param([10], [0, 1], [], id="quiet-for-just-so-long"),
    ],
)
async def test_last_event_starts_once_it_is_quiet(
    tmp_path: Path, gaps: Sequence[float], payloads: list[int], coalesced: list[int]
) -> None:
    async with open_lab(tmp_path, items=DEBOUNCED) as world:
        await world.emit("a", 0)
        for n, gap in enumerate(gaps, 1):
            await world.advance(gap)
            await world.emit("a", n)
        await world.advance(9.9)
        assert len(world.runs()) == len(payloads) - 1
        await world.advance(0.2)
        assert (seen(world), [line.count for line in world.unstarted("debounced")]) == (payloads, coalesced)
        assert rows(world) == []
        assert {(run.record.lane, run.record.cause["kind"]) for run in world.runs()} == {("event", "event")}


async def test_keys_are_quiet_by_themselves_and_when_is_asked_of_each_event(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=BY_DISK) as world:
        for disk, n in [("x", 1), ("y", 2), ("x", 3), ("y", -1), ("z", 0)]:
            await world.emit("a", {"disk": disk, "n": n})
            await world.advance(3)
        await world.advance(12)
        assert [(event["disk"], event["n"]) for event in seen(world)] == [("y", 2), ("x", 3)]
        assert {line.reason: line.count for line in world.unstarted()} == {"condition_false": 2, "debounced": 1}


@pytest.mark.parametrize("way", ["stop", "crash"])
@pytest.mark.parametrize(
    ("clock", "left"), [("00:00:08", 6.0), ("00:05", 0.0), ("2025-12-31T00:00:00Z", 10.0)], ids=["soon", "late", "back"]
)
async def test_what_waits_outlives_a_restart(tmp_path: Path, way: str, clock: str, left: float) -> None:
    async with open_lab(tmp_path, items=DEBOUNCED) as world:
        await world.emit("a", 1)
        await world.advance(4)
        await world.emit("a", 2)
        await world.advance()
        backend = crashed(world)
    if way == "stop":
        backend = crashed(world)
    async with open_lab(tmp_path, write=False, backend=backend, clock=clock_at(clock)) as world:
        await world.advance(max(0.0, left - 0.1))
        assert bool(world.runs()) is (left == 0.0)
        await world.advance(0.2)
        assert (seen(world), [line.count for line in world.unstarted("debounced")]) == ([2], [1])
        left_over = crashed(world)
    async with open_lab(tmp_path, write=False, backend=left_over, clock=clock_at("00:10")) as world:
        await world.advance(minutes=1)
        assert len(world.runs()) == 1


async def test_stopped_engine_goes_on_counting(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=DEBOUNCED) as world:
        await world.emit("a", 1)
        await world.engine.stop("cancel", 1.0)
        await world.emit("a", 2)
        await world.advance(20)
        assert [run.state for run in world.runs()] == ["queued"]
        await world.engine.start()
        await world.settle()
        assert seen(world) == [2]


@pytest.mark.parametrize(
    ("change", "runs"),
    [
        pytest.param(schedule(hear="triggers: [{event: a, debounce: {for: 10s}}, {every: 7d}]"), 1, id="beside-it"),
        pytest.param(schedule(hear="triggers: [{event: b}]"), 1, id="the-trigger-is-another"),
        pytest.param(schedule(hear="enabled: false, triggers: [{event: a, debounce: {for: 10s}}]"), 0, id="it-is-off"),
        pytest.param("items: {}", 0, id="it-is-gone"),
    ],
)
async def test_plan_that_changes_meanwhile(tmp_path: Path, change: str, runs: int) -> None:
    async with open_lab(tmp_path, items=DEBOUNCED) as world:
        await world.emit("a", 1)
        await world.advance(5)
        await world.rewrite(tmp_path, items=change)
        await world.advance(4.9)
        assert not world.runs()
        await world.advance(2)
        assert len(world.runs()) == runs
        await world.rewrite(tmp_path, items=DEBOUNCED)
        await world.advance(1)
        assert len(world.runs()) == (0 if world.reasons() == ["disabled"] else 1)


async def test_cooldown_counts_when_it_would_start(tmp_path: Path) -> None:
    items = schedule(hear="cooldown: 15s, triggers: [{event: a, debounce: {for: 10s}}]")
    async with open_lab(tmp_path, items=items) as world:
        for n in range(3):
            await world.emit("a", n)
            await world.advance(11 if n < 2 else 30)
        assert seen(world) == [0, 2]
        assert [(line.reason, line.count) for line in world.unstarted()] == [("cooldown", 1)]


@pytest.mark.parametrize("bound", ["MAX_KEYS", "MAX_BYTES"])
async def test_full_trigger_starts_the_quietest_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(debounce, bound, 3 if bound == "MAX_KEYS" else 600)
    async with open_lab(tmp_path, items=BY_DISK) as world:
        for disk in "abcaaaade":
            await world.emit("a", {"disk": disk, "n": 1, "pad": "x" * 50})
        await world.loop.wait_quiet()
        assert [event["disk"] for event in seen(world)] == ["b", "c"]
        await world.advance(11)
        assert sorted(event["disk"] for event in seen(world)) == ["a", "b", "c", "d", "e"]
        assert rows(world) == []


async def test_start_that_is_lost_is_tried_again(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=DEBOUNCED) as world:
        await world.emit("a", 1)
        await world.emit("a", 2)
        world.backend.execute("CREATE TRIGGER no BEFORE INSERT ON run BEGIN SELECT RAISE(ABORT, 'no'); END")
        await world.advance(12)
        assert (world.runs(), rows(world)) == ([], [2])
        world.backend.execute("DROP TRIGGER no")
        await world.advance(12)
        assert (seen(world), rows(world)) == ([2], [])


async def test_storage_that_takes_nothing_delays_it(tmp_path: Path) -> None:
    backend = FaultyBackend()
    backend.error = StoreReadOnly("the disk is read-only")
    async with open_lab(tmp_path, items=DEBOUNCED, backend=backend) as world:
        await world.emit("a", 1)
        backend.failing = 10_000
        world.engine.runtime.log.info("something to be written")
        await world.advance(20)
        assert world.engine.runtime.store.unavailable is not None
        backend.failing = 0
        await world.advance(20)
        assert (seen(world), rows(world)) == ([1], [])


async def test_event_that_comes_while_the_start_is_on_its_way_waits_by_itself(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=DEBOUNCED) as world:
        await world.emit("a", 1)
        await world.advance(9.99)
        emitted = world.engine.runtime.bus.emit("a", 2)  # handed over now, on record when the first one's time is over
        for pending in world.engine.debounces._of(("lab", "hear")):
            world.engine.debounces._start(pending)
        await emitted.ticket.wait()
        assert rows(world) == [1]
        left = crashed(world)
        await world.advance(12)
        assert (seen(world), rows(world), world.unstarted("debounced")) == ([1, 2], [], [])
    async with open_lab(tmp_path, write=False, backend=left, clock=clock_at("00:00:30")) as world:
        await world.settle()
        first, second = world.runs()
        assert (first.record.cause["kind"], second.result["event"]["payload"]) == ("event", 2)


async def test_key_that_cannot_be_made_is_a_line(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=BY_DISK.replace("payload.disk", "payload.disk.x.y")) as world:
        await world.emit("a", {"n": 1, "disk": {}})
        await world.advance(12)
        assert (world.runs(), world.reasons(), rows(world)) == ([], ["bad_inputs"], [])
