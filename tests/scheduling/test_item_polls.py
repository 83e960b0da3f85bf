"""Polls of items: a turn from false to true starts a run; switches, reloads, stops and lost units."""

from pathlib import Path
from typing import Any

import pytest
from tests.engine.interrupts_kit import ACTIONS
from tests.engine.polls_kit import SENSE, asked, sensor
from tests.fakes.kernel import FaultyBackend
from tests.scheduling.schedule_kit import open_lab, schedule

from aura.errors import StoreReadOnly

pytestmark = pytest.mark.anyio

POLLS = schedule(look="triggers: [{poll: {action: sense, every: 2s}, when: '{{ event.payload > 100 }}'}]")
FILES: dict[str, Any] = {"items": POLLS, "actions": ACTIONS + SENSE}


@pytest.fixture(autouse=True)
def fresh_sensor() -> None:
    """Have the sensor as it is before anybody asks."""
    sensor.__init__()  # type: ignore[misc]
    sensor.value = 0


@pytest.mark.parametrize(
    ("answers", "started"),
    [
        pytest.param([0, 200], [200], id="it-turns"),
        pytest.param([200], [200], id="the-first-one"),
        pytest.param([200, 300, 400], [200], id="it-stays"),
        pytest.param([200, 5, 300], [200, 300], id="it-comes-back"),
        pytest.param([0, OSError("no"), 0], [], id="a-failure-is-no-answer"),
    ],
)
async def test_turn_starts_a_run_with_the_answer(tmp_path: Path, answers: list[Any], started: list[int]) -> None:
    sensor.script, sensor.value = [*answers], answers[-1]
    async with open_lab(tmp_path, **FILES) as world:
        await asked(world, len(answers) + 1)  # type: ignore[arg-type]  # another kind of lab
        await world.settle()
        assert [run.result["event"]["payload"] for run in world.runs()] == started == world.payloads("poll.fired")
        assert {(run.record.cause["kind"], run.record.lane) for run in world.runs()} <= {("poll", "main")}


async def test_item_that_is_off_asks_nothing_and_looks_anew_when_it_is_on(tmp_path: Path) -> None:
    sensor.value = 200
    async with open_lab(tmp_path, **FILES) as world:
        await world.advance(5)
        items, live = world.engine.items, world.item("look")
        await items.switch(live, False, "me").wait()
        before = len(sensor.times)
        await world.advance(20)
        assert (len(sensor.times), len(world.runs())) == (before, 1)
        await items.switch(live, True, "me").wait()
        await world.advance(20)
        assert (len(world.runs()), world.reasons()) == (2, [])


async def test_poll_rests_while_the_engine_is_stopped(tmp_path: Path) -> None:
    async with open_lab(tmp_path, **FILES) as world:
        await world.advance(5)
        await world.engine.stop("cancel", 1.0)
        before = len(sensor.times)
        sensor.value = 200
        await world.advance(20)
        assert len(sensor.times) == before
        await world.engine.start()
        await world.advance(5)
        assert len(world.runs()) == 1


async def test_reload_leaves_a_poll_alone_and_a_removed_one_ends(tmp_path: Path) -> None:
    sensor.value = 200
    async with open_lab(tmp_path, **FILES) as world:
        await world.advance(5)
        await world.rewrite(tmp_path, items=POLLS.replace("triggers", "cooldown: 1s, triggers"))
        await world.advance(5)
        assert (len(world.runs()), set(sensor.gaps)) == (1, {2.0})
        await world.rewrite(tmp_path, items="items: {}")
        before = len(sensor.times)
        await world.advance(20)
        assert len(sensor.times) == before


async def test_turn_that_could_not_be_stored_comes_again(tmp_path: Path) -> None:
    sensor.script, sensor.value = [0, 200], 200
    async with open_lab(tmp_path, **FILES) as world:
        world.backend.execute("CREATE TRIGGER no BEFORE INSERT ON run BEGIN SELECT RAISE(ABORT, 'no'); END")
        await asked(world, 2)  # type: ignore[arg-type]  # another kind of lab
        assert (world.runs(), world.payloads("poll.fired")) == ([], [])
        world.backend.execute("DROP TRIGGER no")
        await world.advance(3)
        assert len(world.runs()) == len(world.payloads("poll.fired")) == 1


async def test_turn_while_nothing_can_be_stored_comes_again(tmp_path: Path) -> None:
    backend = FaultyBackend()
    backend.error = StoreReadOnly("the disk is read-only")
    async with open_lab(tmp_path, backend=backend, **FILES) as world:
        await world.advance(1)
        backend.failing = 10_000
        world.engine.runtime.log.info("something to be written")
        await world.advance(10)
        sensor.value = 200
        await world.advance(10)
        assert world.engine.runtime.store.unavailable is not None
        backend.failing = 0
        await world.advance(20)
        assert [run.result["event"]["payload"] for run in world.runs()] == [200]


async def test_turn_in_the_cooldown_is_a_line(tmp_path: Path) -> None:
    sensor.script = [200, 0, 200, 0, 0]
    items = POLLS.replace("triggers", "cooldown: 1m, triggers")
    async with open_lab(tmp_path, **(FILES | {"items": items})) as world:
        await world.advance(15)
        assert (len(world.runs()), world.reasons()) == (1, ["cooldown"])


async def test_rule_and_item_of_one_name_have_polls_of_their_own(tmp_path: Path) -> None:
    sensor.script, sensor.value = [0, 0, 200, 200], 200
    async with open_lab(tmp_path, **FILES) as world:
        triggers = POLLS.partition("triggers: ")[2].partition(", task")[0]
        rules = f"rules: {{look: {{triggers: {triggers}, task: slow}}}}"
        (tmp_path / "plans" / "lab" / "interrupts.yaml").write_text(rules)
        await world.engine.reload()
        await world.advance(20)
        assert sorted(run.record.cause["kind"] for run in world.runs()) == ["interrupt", "poll"]
