"""What starts items in a world: webhooks, files, polls, absences, debounced events; and switches and stops."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.testing.kit import write_plan

from aura.errors import RequestError
from aura.testing.world import World, plan_world

pytestmark = pytest.mark.anyio

FILES = {
    "plan.yaml": "vars: {inbox: inbox}\nsecrets: [hook]\n",
    "actions.py": """\
from pathlib import Path
from aura import action

@action
async def write(path: str) -> None:
    Path(path).write_text("x")

@action
async def level() -> int:
    return 0
""",
    "tasks/work.yaml": """\
inputs: {what: {type: string, default: ""}}
steps: {a: {action: log, params: {message: "{{ inputs.what }}"}}}
returns: "{{ event }}"
""",
    "tasks/safe.yaml": "steps: {a: {action: log, params: {message: safe}}}\n",
    "tasks/export.yaml": """\
inputs: {path: string}
steps: {a: {action: write, params: {path: "{{ inputs.path }}"}}}
""",
    "schedule.yaml": """\
items:
  deploy:
    task: work
    inputs: {what: "{{ event.payload.ref }}"}
    triggers: [{webhook: {secret: hook}, when: "{{ event.payload.ref != 'no' }}"}]
  arrived: {task: work, triggers: [{file: {path: "{{ vars.inbox }}", pattern: "*.csv"}}]}
  full: {task: work, triggers: [{poll: {action: level, every: 30s}, when: "{{ event.payload > 100 }}"}]}
  quiet: {task: work, triggers: [{expect: heartbeat, within: 1h}]}
  changed: {task: work, triggers: [{event: change, debounce: {for: 10s}}]}
  hourly: {task: work, triggers: [{every: 1h}]}
""",
    "interrupts.yaml": """\
rules:
  low: {triggers: [{event: battery.low}], task: safe}
""",
}


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    made = tmp_path / "inbox"
    made.mkdir()
    return made


@pytest.fixture
async def world(tmp_path: Path, inbox: Path) -> AsyncIterator[World]:
    async with plan_world(write_plan(tmp_path / "plans" / "lab", FILES)) as world:
        world.vars(inbox=str(inbox))
        yield world


def started(world: World, item: str) -> list[Any]:
    """What the runs of an item were told."""
    return [run.result and run.result.get("payload") for run in world.runs("work") if run.cause["item"] == item]


def names(world: World) -> list[list[str]]:
    return [[Path(one["path"]).name for one in told["files"]] for told in started(world, "arrived")]


# -- webhooks


async def test_call_of_a_webhook_starts_its_item_with_payload_and_headers(world: World) -> None:
    [run] = await world.call_webhook("deploy", {"ref": "main"}, headers={"X-GitHub-Event": "push", "Cookie": "x"})
    await world.settle()
    assert (run.state, run.inputs["what"], run.cause["kind"]) == ("succeeded", "main", "webhook")
    assert run.result["payload"] == {"ref": "main"}
    assert run.result["headers"] == {"x-github-event": "push"}


async def test_delivery_that_comes_again_starts_nothing_again(world: World) -> None:
    [first] = await world.call_webhook("deploy", {"ref": "main"}, delivery="7")
    [again] = await world.call_webhook("deploy", {"ref": "main"}, delivery="7")
    await world.call_webhook("deploy", {"ref": "main"}, delivery="8")
    assert (first.cid, len(world.runs("work"))) == (again.cid, 2)


async def test_call_that_the_item_does_not_want_gives_no_run_and_a_reason(world: World) -> None:
    assert await world.call_webhook("deploy", {"ref": "no"}) == []
    assert [line["reason"] for line in await world.why("deploy")] == ["condition_false"]


async def test_call_that_cannot_become_a_run_is_refused(world: World) -> None:
    with pytest.raises(RequestError, match="what"):
        await world.call_webhook("deploy", {"ref": 7})


@pytest.mark.parametrize(("item", "near"), [("deplyo", "'deploy'"), ("hourly", "there are: deploy")])
async def test_webhook_that_is_not_there_is_an_error_with_what_is_near(world: World, item: str, near: str) -> None:
    with pytest.raises(RequestError, match=near):
        await world.call_webhook(item)


# -- files


async def test_file_that_the_test_writes_starts_its_item(world: World, inbox: Path) -> None:
    (inbox / "old.csv").write_text("x")
    await world.advance()
    (inbox / "new.csv").write_text("x")
    (inbox / "new.txt").write_text("x")
    await world.settle()
    assert names(world) == [["new.csv"]]
    await world.advance("10m")
    assert names(world) == [["new.csv"]]


async def test_file_that_a_task_writes_starts_its_item_while_time_passes(world: World, inbox: Path) -> None:
    await world.start("export", inputs={"path": str(inbox / "made.csv")}, delay_s=60)
    await world.advance("62s")
    assert names(world) == [["made.csv"]]


async def test_settle_waits_for_what_a_file_that_a_run_writes_starts(world: World, inbox: Path) -> None:
    await world.start("export", inputs={"path": str(inbox / "made.csv")})
    await world.settle()
    assert names(world) == [["made.csv"]]


async def test_until_sees_what_a_file_starts(world: World, inbox: Path) -> None:
    await world.advance()
    (inbox / "a.csv").write_text("x")
    await world.until(lambda: started(world, "arrived"), within="2s")
    await world.settle()
    assert names(world) == [["a.csv"]]


async def test_folder_that_is_made_later_is_looked_at(world: World, inbox: Path) -> None:
    inbox.rmdir()
    await world.advance()
    inbox.mkdir()
    (inbox / "a.csv").write_text("x")
    await world.settle()
    assert names(world) == [["a.csv"]]


async def test_file_that_comes_while_the_server_is_down_is_told_by_the_next(world: World, inbox: Path) -> None:
    await world.advance()
    (inbox / "a.csv").write_text("x")
    await world.crash_and_restart(down="1h")
    await world.settle()
    assert names(world) == [["a.csv"]]


# -- others that take time


async def test_poll_starts_its_item_when_its_answer_turns(world: World) -> None:
    world.fake("level", sequence=[0, 50, 101, 150])
    await world.advance("45s")
    assert started(world, "full") == []
    await world.advance("45s")
    assert started(world, "full") == [101]


async def test_event_that_does_not_come_starts_who_expects_it(world: World) -> None:
    for _ in range(3):
        await world.advance("50m")
        await world.emit("heartbeat")
    assert started(world, "quiet") == []
    await world.advance("61m")
    assert [told["expect"] for told in started(world, "quiet")] == ["heartbeat"]


async def test_debounced_events_start_one_run_with_the_last(world: World) -> None:
    for number in range(3):
        await world.emit("change", {"n": number})
        await world.advance("5s")
    assert started(world, "changed") == []
    await world.advance("5s")
    assert started(world, "changed") == [{"n": 2}]


# -- switches and stops


async def test_item_that_is_switched_off_does_not_start_until_it_is_on(world: World) -> None:
    await world.switch("hourly", False)
    await world.advance("150m")
    assert [run for run in world.runs("work") if run.cause["item"] == "hourly"] == []
    await world.switch("hourly", True)
    await world.advance("1h")
    assert len([run for run in world.runs("work") if run.cause["item"] == "hourly"]) == 1


async def test_rule_that_is_switched_off_does_not_fire(world: World) -> None:
    await world.switch("low", False)
    await world.emit("battery.low")
    await world.settle()
    assert world.runs("safe") == []
    await world.switch("low", True)
    await world.emit("battery.low")
    await world.settle()
    assert len(world.runs("safe")) == 1


async def test_run_that_is_asked_for_while_the_engine_is_stopped_waits(world: World) -> None:
    await world.stop_engine()
    run = await world.start("work")
    await world.advance("10m")
    assert run.state == "queued"
    await world.start_engine()
    await world.settle()
    run.assert_succeeded()
