"""Events that go round: what a rule's own firing has brought about does not fire it again, and is never silent."""

from pathlib import Path
from typing import Any

import pytest
from tests.engine.interrupts_kit import Lab, crashed, open_lab, rule, rules

from aura.bus import MAX_DEPTH
from aura.events import Chain, Emitter

pytestmark = pytest.mark.anyio

EMIT = "{action: event.emit, params: {name: NAME}}"
AGAIN = f"steps: {{again: {EMIT.replace('NAME', 'battery.low')}}}\n"


def emits(name: str) -> str:
    """A task that emits an event."""
    return f"steps: {{tell: {EMIT.replace('NAME', name)}}}\n"


def check_refused(world: Lab, name: str = "low_battery", times: int = 1) -> None:
    """The rule was to fire again by its own chain, so often, and everybody can see that."""
    live = world.rule(name)
    assert live.missed == {"loop_detected": times}
    assert live.suspended is None
    told = [one for one in world.payloads("aura.loop_detected") if one["subscriber"] == live.name]
    assert len(told) == times
    assert "a firing of its own" in told[0]["reason"]


AROUND = {
    "the handler itself": {"save": AGAIN},
    "a sub-task": {"save": "steps: {call: {action: task.run, params: {task: again}}}\n", "again": AGAIN},
    "a started run": {"save": "steps: {call: {action: task.start, params: {task: again}}}\n", "again": AGAIN},
}


@pytest.mark.parametrize("files", AROUND.values(), ids=AROUND)
async def test_event_that_a_firing_brings_about_does_not_fire_its_rule(tmp_path: Path, files: dict[str, str]) -> None:
    async with open_lab(tmp_path, rules=rule(), **files) as world:
        run = await world.begin_run()
        await world.tell()
        await world.settle()
        check_refused(world)
        assert (run.state, [outcome for *_, outcome in world.firings()]) == ("succeeded", ["succeeded"])
        assert len(world.payloads("battery.low")) == 2


async def test_refusal_is_in_the_log(tmp_path: Path) -> None:
    async with open_lab(tmp_path, rules=rule(), save=AGAIN) as world:
        await world.tell()
        await world.settle()
        lines = [line.record()["message"] for line in await world.engine.history.log_entries()]
        assert any("rule lab/low_battery did not fire (loop_detected)" in line for line in lines), lines


async def test_rules_that_fire_each_other_come_to_an_end(tmp_path: Path) -> None:
    text = rules(a="task: to_b", b="task: to_a")
    async with open_lab(tmp_path, rules=text, to_b=emits("go.b"), to_a=emits("go.a")) as world:
        await world.tell("go.a")
        await world.settle()
        assert [name for name, *_ in world.firings()] == ["a", "b"]
        check_refused(world, "a")
        assert world.rule("b").missed == {}


async def test_rule_fires_again_by_another_event_of_its_kind(tmp_path: Path) -> None:
    async with open_lab(tmp_path, rules=rule(), save=AGAIN) as world:
        for _ in range(3):
            assert len((await world.tell()).interrupts) == 1
            await world.settle()
        check_refused(world, times=3)


async def test_rule_that_hears_of_its_own_firing_does_not_fire(tmp_path: Path) -> None:
    on = '{event: "battery.low"}, {event: "interrupt.*"}, {event: "run.*"}, {event: "aura.*"}'
    async with open_lab(tmp_path, rules=rule(on=on)) as world:
        await world.tell()
        await world.settle()
        assert [outcome for *_, outcome in world.firings()] == ["succeeded"]
        assert 3 <= world.rule().missed["loop_detected"] < 30
        assert world.engine.status()["events"]["failures"] == 0
        assert world.rule().suspended is None


WAITS = """
steps:
  - {name: wait, action: event.wait, params: {name: go.on}}
  - {name: again, action: event.emit, params: {name: battery.low}}
"""


async def test_handler_that_an_event_wakes_does_not_fire_its_own_rule(tmp_path: Path) -> None:
    async with open_lab(tmp_path, rules=rule(), save=WAITS) as world:
        await world.tell()
        await world.until(world.runs("save")[0], state="waiting")
        await world.tell("go.on")
        await world.settle()
        check_refused(world)
        assert len(world.firings()) == 1


LATE = """
recovery: restart
steps:
  - {name: wait, action: sleep, params: {duration: 500ms}}
  - {name: again, action: event.emit, params: {name: battery.low}}
"""
OVER_A_RESTART = {
    "the handler itself": {"save": LATE},
    "a started run": {
        "save": "steps: {call: {action: task.start, params: {task: late}}}\n",
        "late": LATE,
    },
}


@pytest.mark.parametrize("files", OVER_A_RESTART.values(), ids=OVER_A_RESTART)
async def test_chain_survives_a_crash(tmp_path: Path, files: dict[str, str]) -> None:
    task = "late" if "late" in files else "save"
    async with open_lab(tmp_path, rules=rule(), **files) as world:
        await world.tell()
        await world.until(lambda: any(run.steps.get("wait") for run in world.runs(task)))
        kept = crashed(world)
    async with open_lab(tmp_path, backend=kept, write=False) as world:
        await world.settle()
        check_refused(world)
        assert (len(world.firings()), len(world.payloads("battery.low"))) == (1, 2)


def deep(world: Lab, depth: int) -> Any:
    """Emit the rule's event as a run does to which so many events have led."""
    emitter = Emitter("lab", "work", "some-cid", None, Chain("1", "1", depth - 1, ()))
    return world.engine.runtime.bus.emit("battery.low", {"percent": 5}, origin=emitter)


@pytest.mark.parametrize("heal", ["reload", "enable", "changed file"])
async def test_rule_that_too_long_a_chain_suspends_shows_it_and_is_healed(tmp_path: Path, heal: str) -> None:
    async with open_lab(tmp_path, rules=rule()) as world:
        assert len(deep(world, MAX_DEPTH).fired) == 1
        await world.settle()
        assert deep(world, MAX_DEPTH + 1).fired == []
        shown = world.engine.rule("lab", "low_battery")
        assert "depth 17" in shown["suspended"]
        assert shown["missed"] == {"loop_detected": 1}
        assert (await world.tell()).interrupts == []
        assert [one["subscriber"] for one in world.payloads("aura.loop_detected")] == ["rule lab/low_battery"]
        if heal == "enable":
            await world.switch_rule(True)
        else:
            await world.rewrite(tmp_path, rules=rule("" if heal == "reload" else "priority: 7"))
        assert (world.rule().suspended, world.engine.status()["events"]["suspended"]) == (None, [])
        assert len((await world.tell()).interrupts) == 1
        await world.settle()


async def test_fire_by_hand_heals_nothing_and_is_not_kept_back(tmp_path: Path) -> None:
    async with open_lab(tmp_path, rules=rule()) as world:
        deep(world, MAX_DEPTH + 1)
        await world.fire("low_battery")
        await world.settle()
        assert world.rule().suspended is not None
        assert [outcome for *_, outcome in world.firings()] == ["succeeded"]


@pytest.mark.parametrize(
    ("name", "then", "fired"),
    [
        pytest.param("run.preempted", "resume", 1, id="stopped"),
        pytest.param("run.resumed", "resume", 1, id="goes on"),
        pytest.param("run.requeued", "restart", 1, id="is to start over"),
        pytest.param("run.started", "restart", 2, id="starts over"),
    ],
)
async def test_rule_does_not_stop_a_run_again_by_the_event_of_its_return(
    tmp_path: Path, name: str, then: str, fired: int
) -> None:
    on = f'{{event: "{name}", when: "{{{{ event.task_name == \'work\' }}}}"}}, {{event: "battery.low"}}'
    async with open_lab(tmp_path, rules=rule(f"then: {then}", on=on)) as world:
        run = await world.begin_run()
        await world.tell()
        await world.settle()
        assert (run.state, run.record.preemptions) == ("succeeded", fired)
        assert world.rule().missed["loop_detected"] >= 1
