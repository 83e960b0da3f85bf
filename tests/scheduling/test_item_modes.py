"""Modes of items: what becomes of a start while runs of the item are open, beside the mode of the task."""

from pathlib import Path

import pytest
from tests.scheduling.schedule_kit import Lab, at, clock_at, crashed, open_lab, schedule

from aura.errors import RequestError

pytestmark = pytest.mark.anyio

#: A task that takes five minutes, of which any number may run.
LONG = "steps: {only: {action: sleep, params: {duration: 500ms}, loop: {times: 600}}}\n"
KEYED = "inputs: {who: string}\n" + LONG


def every(mode: str = "", period: str = "1m", task: str = "long") -> str:
    said = f"mode: {mode}, " if mode else ""
    return schedule(tick=f"{said}task: {task}, triggers: [{{every: {period}}}]")


def standing(world: Lab, task: str = "long") -> list[str]:
    """The minute of each run's slot, with its state."""
    return [f"{round((run.record.due - at('00:00')) / 60)} {run.state}" for run in world.runs(task)]


@pytest.mark.parametrize(
    ("mode", "after_four_minutes", "refused"),
    [
        pytest.param("", ["1 running"], 3, id="timed-is-single"),
        pytest.param("single", ["1 running"], 3, id="single"),
        pytest.param("restart", ["1 cancelled", "2 cancelled", "3 cancelled", "4 running"], 0, id="restart"),
        pytest.param("{kind: queued, max: 1}", ["1 running", "2 queued"], 2, id="queued"),
        pytest.param("parallel", ["1 running", "2 running", "3 running", "4 running"], 0, id="parallel"),
        pytest.param("{kind: parallel, max: 2}", ["1 running", "2 running", "3 queued", "4 queued"], 0, id="two"),
    ],
)
async def test_mode_counts_the_items_own_runs(
    tmp_path: Path, mode: str, after_four_minutes: list[str], refused: int
) -> None:
    async with open_lab(tmp_path, items=every(mode), long=LONG) as world:
        by_client = await world.start("work")
        await world.advance(minutes=4, seconds=2)
        assert standing(world) == after_four_minutes
        assert sum(line.count for line in world.unstarted("mode")) == refused
        assert by_client.state == "succeeded"


async def test_runs_that_others_ask_for_do_not_count(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=every("single"), long=LONG) as world:
        other = await world.start("long")
        await world.advance(minutes=1, seconds=2)
        assert [run.state for run in world.runs("long")] == ["running", "running"]
        assert other.record.cause["item"] is None


async def test_mode_of_the_task_counts_as_well(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=every("parallel"), long=f"mode: single\n{LONG}") as world:
        await world.advance(minutes=2, seconds=2)
        assert standing(world) == ["1 running"]
        [line] = world.unstarted("mode")
        assert "lab/long runs already" in line.detail


async def test_runs_with_another_key_do_not_count(tmp_path: Path) -> None:
    inputs = """inputs: {who: "{{ (due | date('%M') | int) % 2 }}"}"""
    mode = 'mode: {kind: single, key: "{{ inputs.who }}"}'
    items = schedule(tick=f"{mode}, {inputs}, task: long, triggers: [{{every: 1m}}]")
    async with open_lab(tmp_path, items=items, long=KEYED.replace("who: string", "who: integer")) as world:
        await world.advance(minutes=3, seconds=2)
        assert standing(world) == ["1 running", "2 running"]


async def test_start_by_hand_counts_and_is_counted(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=every("single"), long=LONG) as world:
        live = world.item("tick")
        await world.engine.items.run(live, {}, "api").ticket.wait()
        with pytest.raises(RequestError, match="item lab/tick runs already") as refused:
            world.engine.items.run(live, {}, "api")
        assert refused.value.code == "refused_by_mode"
        assert refused.value.extra == {"running": [world.runs("long")[0].cid]}
        await world.advance(minutes=1, seconds=2)
        assert len(world.runs("long")) == 1


@pytest.mark.parametrize("mode", ["single", "restart", "queued"])
async def test_mode_holds_over_a_crash(tmp_path: Path, mode: str) -> None:
    long = f"recovery: restart\n{LONG}"
    async with open_lab(tmp_path, items=every(mode), long=long) as world:
        await world.advance(minutes=1, seconds=2)
        left = crashed(world)
    async with open_lab(tmp_path, write=False, backend=left, clock=clock_at("00:01:30")) as world:
        await world.advance(minutes=1)
        expected = {
            "single": ["1 running"],
            "restart": ["1 cancelled", "2 running"],
            "queued": ["1 running", "2 queued"],
        }
        assert standing(world) == expected[mode]


async def test_what_ended_counts_no_more(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=every("single", "10m"), long=LONG) as world:
        await world.advance(minutes=21)
        assert standing(world) == ["10 succeeded", "20 running"]
        assert len(world.engine.item_modes._open) == 1
        await world.settle()
        assert not world.engine.item_modes._open  # nobody holds what has ended


@pytest.mark.parametrize(
    ("mode", "states"),
    [
        pytest.param("queued", ["running", "queued"], id="queued"),
        pytest.param("{kind: parallel, max: 1}", ["running", "queued"], id="one"),
        pytest.param("{kind: parallel, max: 2}", ["running", "running"], id="two"),
    ],
)
async def test_runs_that_have_begun_count_when_a_mode_comes_with_a_reload(
    tmp_path: Path, mode: str, states: list[str]
) -> None:
    async with open_lab(tmp_path, items=schedule(tick="task: long"), long=LONG) as world:
        live = world.item("tick")
        await world.engine.items.run(live, {}, "api").ticket.wait()
        await world.advance(seconds=2)
        await world.rewrite(tmp_path, items=schedule(tick=f"mode: {mode}, task: long"), long=LONG)
        await world.engine.items.run(live, {}, "api").ticket.wait()
        await world.advance(seconds=2)
        assert [run.state for run in world.runs("long")] == states
